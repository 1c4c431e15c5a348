//! The journal: every fact worth surviving a crash, durable before anything follows from it.
//!
//! [`entry`] has the facts and the seal that keeps effects back until their facts are durable.

pub mod entry;

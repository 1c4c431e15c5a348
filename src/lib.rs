//! Crash-safe host agent for Zeek clusters.
//!
//! Data flows one way: transport → lifecycle → journal → effects → supervisor or transport. See
//! `docs/ARCHITECTURE.md` for the map and the arrows between modules.

pub mod api;
pub mod broker;
pub mod dialect;
pub mod journal;

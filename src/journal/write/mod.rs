//! Writing to an open database: commits, and compaction into a new one.

pub(in crate::journal) mod committer;
pub(in crate::journal) mod compact;
pub(in crate::journal) mod error;
pub(in crate::journal) mod progress;
pub(in crate::journal) mod queue;
pub(in crate::journal) mod writer;

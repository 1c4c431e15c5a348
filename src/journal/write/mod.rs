//! Writing to a database that is open: commits, and compaction into a new one.

pub(in crate::journal) mod compact;
pub(in crate::journal) mod writer;

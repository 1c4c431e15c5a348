//! Reading an open database, concurrently with its writer or offline.

pub(in crate::journal) mod page;
pub(in crate::journal) mod reader;
pub(in crate::journal) mod stats;

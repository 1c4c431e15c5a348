//! Reading an open database, concurrently with its writer or offline.

mod nodes;
pub(in crate::journal) mod page;
pub(in crate::journal) mod reader;
pub(in crate::journal) mod stats;

//! Operations on a sorted table of keys and values, on a disk or in memory: writing a batch, recovering the state,
//! looking up history, retention, verification, export.

pub(in crate::journal) mod batch;
pub mod export;
pub(in crate::journal) mod recover;
pub mod retention;
pub(in crate::journal) mod rows;
pub(in crate::journal) mod storage_error;
pub(in crate::journal) mod table;
pub(in crate::journal) mod verify;

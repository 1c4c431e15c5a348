//! Reading a database that is open, beside its writer or offline.

pub(in crate::journal) mod page;
pub(in crate::journal) mod reader;
pub(in crate::journal) mod stats;

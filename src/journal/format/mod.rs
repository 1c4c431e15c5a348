//! What is stored, as bytes: entries and records, their keys, and every version of their encoding. Pure.

pub(in crate::journal) mod codec;
pub mod entry;
pub(in crate::journal) mod keys;
pub(in crate::journal) mod subject;
pub(in crate::journal) mod versions;

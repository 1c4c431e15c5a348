//! From a state directory to an open journal: probing, migration, salvage, and everything else that opens a journal.

mod attempt;
mod clock;
pub(in crate::journal) mod compact;
pub(in crate::journal) mod condition;
mod copy;
mod database_format;
pub(in crate::journal) mod error;
pub mod import;
pub mod inspect;
mod migrate;
pub(in crate::journal) mod opening;
pub(in crate::journal) mod options;
mod probe;
pub mod prune;
mod rebuild;
mod salvage;
mod sources;

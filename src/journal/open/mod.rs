//! From a state directory to an open journal: probing, migration, salvage, and whatever else needs a journal opened.

pub mod import;
pub mod inspect;
mod migrate;
pub(in crate::journal) mod opening;
mod probe;
pub mod prune;
mod salvage;

//! The journal: every fact worth surviving a crash, durable before anything follows from it.
//!
//! [`entry`] has the facts and the seal that keeps effects back until their facts are durable. [`Journal`] is the open
//! journal, with one writer; [`Reader`] reads it beside the writer or offline ([`inspect`]). [`identity`] and [`lock`]
//! say whose the directory is, and who is in it.
//!
//! ```text
//! entries, records ──► batch ──► codec, keys ──► store (sled)         write: writer
//! recovered, rows, problems ◄── recover, rows, verify ◄── table ◄──┘  read: open, reader, inspect
//! ```
//!
//! Not its business: what entries mean, when to commit, what to do about a condition that it reports.

mod batch;
#[cfg(test)]
mod beside;
mod codec;
mod compact;
mod disk;
pub mod entry;
pub mod export;
pub mod identity;
pub mod import;
pub mod inspect;
mod keys;
pub mod lock;
mod mark;
pub mod memory;
mod migrate;
pub mod open;
mod place;
mod probe;
pub mod prune;
pub mod reader;
mod recover;
pub mod retention;
mod rows;
mod salvage;
#[cfg(test)]
mod samples;
mod space;
mod stats;
mod store;
mod table;
mod verify;
mod versions;
mod writer;

pub use codec::{DecodeError, EncodeError, Hash, try_decode};
pub use compact::{CompactError, Compactor, offline as compact_offline};
pub use disk::{Disk, Waiting};
pub use open::{Condition, OpenError, Opened, Options};
pub use place::is_there;
pub use reader::Reader;
pub use rows::check_event;
pub use space::{Floors, Space};
pub use store::StorageError;
pub use table::ReadError;
pub use writer::{CommitError, Journal, Stats, Step};

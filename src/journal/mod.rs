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

mod format;
mod open;
mod read;
mod store;
mod tests;
mod tree;
mod write;

pub use format::codec::{DecodeError, EncodeError, Hash, try_decode};
pub use format::entry;
pub use open::opening::{Condition, OpenError, Opened, Options};
pub use open::{import, inspect, prune};
pub use read::reader::Reader;
pub use store::database::StorageError;
pub use store::location::is_there;
pub use store::space::{Floors, Space};
pub use store::{identity, lock};
pub use tests::memory;
pub use tree::rows::check_event;
pub use tree::table::ReadError;
pub use tree::{export, retention};
pub use write::compact::{CompactError, Compactor, offline as compact_offline};
pub use write::writer::{CommitError, Journal, Stats, Step, Watched};

//! The journal: every fact worth surviving a crash, durable before anything follows from it.
//!
//! [`entry`] has the facts and the seal that holds effects back until their facts are durable. [`Journal`] is the open
//! journal, with one writer; [`Reader`] reads it concurrently with the writer or offline ([`inspect`]). [`identity`]
//! and [`lock`] say which agent the directory belongs to, and which process uses it.
//!
//! Its folders are layers, and each uses only those below it:
//!
//! ```text
//! open     a state directory to an open journal: probing, migration, salvage, import, inspection
//! write    commits, compaction          read     pages, statistics
//! store    the database (sled), the files next to it, lock, identity, space
//! tree     batches, recovery, rows, retention, verification, export, of any table
//! format   entries, records, keys, and their bytes
//! ```
//!
//! Left to others: what entries mean, when to commit, what to do about a condition that it reports.

mod format;
mod open;
mod read;
mod store;
mod tests;
mod tree;
mod write;

pub use format::codec::{DecodeError, EncodeError, Hash, try_decode};
pub use format::entry;
pub(crate) use open::compact::offline as compact_offline;
pub use open::condition::Condition;
pub use open::error::OpenError;
pub use open::opening::Opened;
pub use open::options::Options;
pub(crate) use open::prune;
pub use open::{import, inspect};
pub use read::reader::Reader;
pub(crate) use store::location::is_there;
pub(crate) use store::space::Space;
pub use store::{identity, lock};
pub use tests::memory;
pub(crate) use tree::rows::check_event;
pub use tree::storage_error::StorageError;
pub use tree::table::ReadError;
pub use tree::{export, retention};
pub use write::committer::Watched;
pub use write::compact::{CompactError, Compactor};
pub use write::error::CommitError;
pub use write::writer::{Journal, Stats, WriterOutcome};

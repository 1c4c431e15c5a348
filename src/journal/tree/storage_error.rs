//! What can go wrong below a table, whatever stores it.

use std::io;
use std::time::Duration;

/// What went wrong below the journal, classified by consequence.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What is on disk is not what was written.
    #[error("its files are damaged: {0}")]
    Damaged(String),
    /// The store gave up on what it found; on an open or a read that means damage as well.
    #[error("its files made the store fail: {0}")]
    Panicked(String),
    /// A write or sync failed for lack of space. It may succeed later.
    #[error("no space is left on its file system")]
    NoSpace(#[source] io::Error),
    /// A write or sync failed because the file system is read-only. It may succeed later.
    #[error("its file system is read-only")]
    ReadOnly(#[source] io::Error),
    /// The store has a lock of its own, in addition to the state directory's.
    #[error("another process has it open")]
    Locked,
    /// Holds how long it was waited for.
    #[error("it did not open within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// By us, to be opened again.
    #[error("it is closed until its file system can be written again: free some space, or remount it writable")]
    Closed,
    /// By us, permanently: of two journals with the same content, the next start uses one.
    #[error(
        "it is closed, since the disk failed as a copy took its place: restart the agent, which opens whichever is in place"
    )]
    Undecided,
    /// The kernel reported an error that is none of those above.
    #[error("its file system reports an error")]
    Io(#[source] io::Error),
    /// It reported a bug of its own. Holds its message.
    #[error("the store failed: {0}")]
    Store(String),
}

/// What follows from a [`StorageError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum StorageClass {
    /// The bytes on disk are wrong.
    Damage,
    NoSpace,
    ReadOnly,
    Locked,
    Timeout,
    /// By us, to be opened again.
    Closed,
    /// Neither damage nor temporary.
    Other,
}

impl StorageError {
    pub(in crate::journal) fn class(&self) -> StorageClass {
        match self {
            Self::Damaged(_) | Self::Panicked(_) => StorageClass::Damage,
            Self::NoSpace(_) => StorageClass::NoSpace,
            Self::ReadOnly(_) => StorageClass::ReadOnly,
            Self::Locked => StorageClass::Locked,
            Self::Timeout(_) => StorageClass::Timeout,
            Self::Closed => StorageClass::Closed,
            Self::Undecided | Self::Io(_) | Self::Store(_) => StorageClass::Other,
        }
    }

    /// Whether the bytes on disk are wrong, so that a salvage is needed.
    pub fn is_damage(&self) -> bool {
        self.class() == StorageClass::Damage
    }

    /// The file system accepts no writes at the moment, and may again: once it does, reopening is all that is needed.
    pub fn is_passing(&self) -> bool {
        match self.class() {
            StorageClass::NoSpace | StorageClass::ReadOnly | StorageClass::Closed => true,
            StorageClass::Damage | StorageClass::Locked | StorageClass::Timeout | StorageClass::Other => false,
        }
    }
}

impl From<io::Error> for StorageError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(error),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(error),
            _ => Self::Io(error),
        }
    }
}

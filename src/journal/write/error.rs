//! Why a commit failed.

use crate::api::ids::Seq;
use crate::journal::format::codec::EncodeError;
use crate::journal::tree::storage_error::{StorageClass, StorageError};
use crate::journal::tree::table::ReadError;

/// Why a commit failed. If that is temporary ([`CommitError::is_passing`]), the journal keeps the batch, to be written
/// once there is space; otherwise the journal has failed permanently and releases no more effects: the next start
/// determines what of the batch is durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// May be temporary: see [`CommitError::is_passing`].
    #[error("the journal cannot write: no space is left on its file system; nodes are not affected, free some space")]
    NoSpace(#[source] StorageError),
    /// May be temporary: see [`CommitError::is_passing`].
    #[error("the journal cannot write: its file system is read-only; nodes are not affected, remount it writable")]
    ReadOnly(#[source] StorageError),
    /// May be temporary: a reader keeps the old store open.
    #[error("the journal cannot be opened again while somebody reads it; the agent tries again")]
    BeingRead(#[source] StorageError),
    /// The write or the sync failed: it is unknown what of the batch is durable.
    #[error("the journal cannot write; nodes are not affected, and a restart finds out what was stored")]
    Storage(#[source] StorageError),
    /// A row that a commit rewrites is unreadable.
    #[error("the journal cannot read what a commit builds on")]
    Read(#[source] ReadError),
    /// An entry or record exceeds the limit, which no accepted input can.
    #[error("the journal cannot store what was decided")]
    Encode(#[source] EncodeError),
    /// A bug in the core: it skipped a number, or assigned one twice.
    #[error("entry {found} was decided after entry {last}: the numbers of entries have to be gapless")]
    Sequence {
        /// The newest entry staged before.
        last: Seq,
        /// The number that was staged next.
        found: Seq,
    },
    /// A commit before this one failed permanently.
    #[error("the journal failed earlier and stores nothing more: the agent's log says why; restart the agent")]
    Failed,
}

impl CommitError {
    /// The file system takes nothing in at the moment. Nothing is lost:
    /// [`Journal::reopen`](super::writer::Journal::reopen) tries again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoSpace(_) | Self::ReadOnly(_) | Self::BeingRead(_) => true,
            Self::Storage(_) | Self::Read(_) | Self::Encode(_) | Self::Sequence { .. } | Self::Failed => false,
        }
    }

    pub(super) fn write(error: StorageError) -> Self {
        match error.class() {
            StorageClass::NoSpace => Self::NoSpace(error),
            StorageClass::ReadOnly => Self::ReadOnly(error),
            StorageClass::Damage
            | StorageClass::Locked
            | StorageClass::Timeout
            | StorageClass::Closed
            | StorageClass::Other => Self::Storage(error),
        }
    }

    pub(super) fn reopen(error: StorageError) -> Self {
        match error {
            StorageError::Locked => Self::BeingRead(error),
            error => Self::write(error),
        }
    }

    /// The data on disk is wrong, as opposed to a disk that accepts no writes.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_damage(),
            Self::Read(error) => error.is_damage(),
            Self::NoSpace(_)
            | Self::ReadOnly(_)
            | Self::BeingRead(_)
            | Self::Encode(_)
            | Self::Sequence { .. }
            | Self::Failed => false,
        }
    }
}

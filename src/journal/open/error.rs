//! Why the journal did not open.

use std::io;
use std::path::Path;

use crate::journal::format::versions;
use crate::journal::store::files::FileError;
use crate::journal::store::location::LocationError;
use crate::journal::tree::storage_error::{StorageClass, StorageError};
use crate::journal::tree::table::ReadError;

/// Why the journal did not open, classified by what the agent does then. Nothing was moved aside.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Exit 78.
    #[error(
        "the journal in {dir} has format {found}, and this release knows formats up to {known}: run the newer release \
         again; nothing was touched"
    )]
    NewerFormat {
        /// The journal's directory.
        dir: String,
        /// The journal's format.
        found: u32,
        /// The newest format of this release.
        known: u32,
    },
    /// Exit 78.
    #[error("the journal in {dir} holds a record of a newer release: run that release again; nothing was touched")]
    NewerRecord {
        /// The journal's directory.
        dir: String,
        /// Which record, and that it is a newer one.
        source: ReadError,
    },
    /// Exit 1; nodes keep running.
    #[error("the journal in {dir} cannot be opened: no space is left on its file system; free some space")]
    NoSpace {
        /// The directory or file that was being written.
        dir: String,
        /// The message of the store or the kernel.
        source: StorageError,
    },
    /// Exit 1; nodes keep running.
    #[error("the journal in {dir} cannot be opened: its file system is read-only; remount it writable")]
    ReadOnly {
        /// The directory or file that was to be written.
        dir: String,
        /// The message of the store or the kernel.
        source: StorageError,
    },
    /// Exit 1: the store has a lock of its own, in addition to the state directory's.
    #[error("the journal in {dir} is open in another process: end that first")]
    Locked {
        /// The journal's directory.
        dir: String,
    },
    /// Exit 1. A slow disk is not damage.
    #[error(
        "the journal in {dir} did not open in time and was left as it is; give it longer with journal_open_timeout"
    )]
    Timeout {
        /// The journal's directory.
        dir: String,
        /// How long it was waited for.
        source: StorageError,
    },
    /// Exit 1: the store failed for a reason other than damage.
    #[error(
        "the journal in {dir} cannot be opened and was left as it is; the log of the system may say more of the disk"
    )]
    Storage {
        /// The journal's directory.
        dir: String,
        /// What the store says.
        source: StorageError,
    },
    /// Exit 1: it opens, but something that a start needs is unreadable.
    #[error("the journal in {dir} cannot be read and was left as it is; `journal verify` says what is wrong")]
    Read {
        /// The journal's directory.
        dir: String,
        /// What is unreadable, and why.
        source: ReadError,
    },
    /// Exit 1: the pointer to it is missing, cannot be read, or names a directory that does not exist.
    #[error(transparent)]
    Location(LocationError),
    /// Exit 1. It would have to be renamed to be moved aside.
    #[error(
        "the journal in {dir} is damaged and cannot be set aside: that is a mount point or a symbolic link; move the \
         whole state directory there, with `{name}` as a plain directory in it, and start the agent again"
    )]
    Apart {
        /// The journal's directory.
        dir: String,
        /// Its name in the state directory.
        name: String,
    },
    /// Exit 1: a file other than the store's cannot be read or written.
    #[error("{what} {path} failed")]
    Io {
        /// What was being done, as the beginning of a sentence.
        what: &'static str,
        /// To which file or directory.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl OpenError {
    pub(in crate::journal) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let failed = FileError::at(what, path);
        move |source| failed(source).into()
    }

    pub(in crate::journal) fn storage(dir: &Path, source: StorageError) -> Self {
        let dir = dir.display().to_string();
        match source.class() {
            StorageClass::NoSpace => Self::NoSpace { dir, source },
            StorageClass::ReadOnly => Self::ReadOnly { dir, source },
            StorageClass::Locked => Self::Locked { dir },
            StorageClass::Timeout => Self::Timeout { dir, source },
            StorageClass::Damage | StorageClass::Closed | StorageClass::Other => Self::Storage { dir, source },
        }
    }

    pub(in crate::journal) fn read(dir: &Path, source: ReadError) -> Self {
        if source.is_newer() {
            return Self::NewerRecord { dir: dir.display().to_string(), source };
        }
        match source {
            ReadError::Storage { what, source } if !source.is_damage() => match source {
                StorageError::Io(_) | StorageError::Store(_) => {
                    Self::Read { dir: dir.display().to_string(), source: ReadError::Storage { what, source } }
                }
                source => Self::storage(dir, source),
            },
            source => Self::Read { dir: dir.display().to_string(), source },
        }
    }

    /// The format of a newer release, which this one does not touch.
    pub(in crate::journal) fn newer_format(dir: &Path, found: u32) -> Self {
        Self::NewerFormat { dir: dir.display().to_string(), found, known: versions::CURRENT_FORMAT }
    }

    /// The file system is full: releasing the ballast may help.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

impl From<FileError> for OpenError {
    fn from(FileError { what, path, source }: FileError) -> Self {
        match StorageError::from(source) {
            StorageError::Io(source) => Self::Io { what, path: path.display().to_string(), source },
            source => Self::storage(&path, source),
        }
    }
}

impl From<LocationError> for OpenError {
    fn from(error: LocationError) -> Self {
        match error {
            LocationError::File(error) => error.into(),
            error @ (LocationError::PointsAtNothing { .. }
            | LocationError::PointerUnreadable { .. }
            | LocationError::PointerMissing { .. }) => Self::Location(error),
        }
    }
}

//! Copies of a journal's directory: opening writes, so anything that must not change is opened as a copy.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::OpenError;
use super::options::Options;
use crate::api::report::chain;
use crate::journal::store::database::Database;
use crate::journal::store::database_files::remove_unfinished_snapshots;
use crate::journal::store::files::{self, FileError};
use crate::journal::tree::storage_error::StorageError;

/// The prefix of copies in the state directory; leftovers of an interrupted start are removed.
pub(super) const COPY: &str = "journal.copy-";

/// Why a copy could not be made and opened.
pub(super) enum CopyFailure {
    /// The store reports what is wrong with it.
    Storage(StorageError),
    Other(OpenError),
}

impl CopyFailure {
    pub(super) fn into_error(self, dir: &Path) -> OpenError {
        match self {
            Self::Storage(source) => OpenError::storage(dir, source),
            Self::Other(error) => error,
        }
    }
}

impl From<FileError> for CopyFailure {
    fn from(error: FileError) -> Self {
        Self::Other(error.into())
    }
}

/// Copies the `wanted` files of `from` and opens the database in the copy; also returns how long opening took.
pub(super) fn open_copy(
    from: &Path,
    to: &Path,
    options: &Options,
    wanted: &impl Fn(&Path) -> bool,
) -> Result<(Database, Duration), CopyFailure> {
    copy_dir(from, to, wanted)?;
    remove_unfinished_snapshots(to)?;
    let started = Instant::now();
    let database = Database::open(to, options.store()).map_err(CopyFailure::Storage)?;
    Ok((database, started.elapsed()))
}

/// Copies a journal's directory; leaves nothing behind on failure. `with` selects the files.
pub(super) fn copy_dir(from: &Path, to: &Path, with: &impl Fn(&Path) -> bool) -> Result<(), FileError> {
    copy_files(from, to, with).inspect_err(|_| {
        if let Err(error) = files::remove_dir(to) {
            tracing::warn!(error = %chain(&error), "an unfinished copy of the journal is removed by the next start");
        }
    })
}

fn copy_files(from: &Path, to: &Path, with: &impl Fn(&Path) -> bool) -> Result<(), FileError> {
    files::create_dir(to)?;
    for entry in fs::read_dir(from).map_err(FileError::at("listing", from))? {
        let entry = entry.map_err(FileError::at("listing", from))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(FileError::at("looking at", &path))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_files(&path, &target, with)?;
        } else if with(&path) {
            fs::copy(&path, &target).map_err(FileError::at("copying", &path))?;
        }
    }
    Ok(())
}

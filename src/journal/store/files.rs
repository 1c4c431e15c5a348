//! The state directory: paths in it, and operations on them whose errors have context.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::journal::tree::storage_error::StorageError;
use crate::regular_file;

/// Its presence makes the next start read the whole journal.
const SUSPECT: &str = "journal.suspect";

/// What failed, to which file or directory.
#[derive(Debug, thiserror::Error)]
#[error("{what} {} failed", .path.display())]
pub struct FileError {
    pub what: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    pub(in crate::journal) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

impl From<FileError> for StorageError {
    fn from(error: FileError) -> Self {
        error.source.into()
    }
}

/// A state directory. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::journal) struct StateDir(PathBuf);

impl StateDir {
    pub(in crate::journal) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(in crate::journal) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of this name in it.
    pub(in crate::journal) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Names and paths of all that is in it.
    pub(in crate::journal) fn list(&self) -> Result<Vec<(String, PathBuf)>, FileError> {
        let failed = || FileError::at("listing", &self.0);
        let entries = fs::read_dir(&self.0).map_err(failed())?;
        let named = entries.map(|entry| {
            let entry = entry.map_err(failed())?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        });
        named.collect()
    }

    /// Makes what was created, renamed or removed in it durable.
    pub(in crate::journal) fn sync(&self) -> Result<(), FileError> {
        sync_dir(&self.0).map_err(FileError::at("syncing", &self.0))
    }

    /// Renames within it, durably. `what`: of the error.
    pub(in crate::journal) fn rename(&self, what: &'static str, from: &Path, to: &Path) -> Result<(), FileError> {
        fs::rename(from, to).map_err(FileError::at(what, from))?;
        self.sync()
    }

    /// Makes the next start read the whole journal, because a read found damage.
    pub(in crate::journal) fn mark_suspect(&self) {
        let marked = regular_file::rewrite(&self.join(SUSPECT), 0o600).and_then(|_| sync_dir(&self.0));
        if let Err(error) = marked {
            tracing::warn!(%error, "the next start cannot be told that the journal is damaged");
        }
    }

    pub(in crate::journal) fn is_suspect(&self) -> bool {
        self.join(SUSPECT).exists()
    }

    /// The whole journal was read.
    pub(in crate::journal) fn clear_suspect(&self) -> Result<(), FileError> {
        let path = self.join(SUSPECT);
        fs::remove_file(&path).map_err(FileError::at("removing", &path))
    }
}

/// Makes what was created, renamed or removed in `dir` durable.
pub(in crate::journal) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory that only the agent's user can access; it must not exist.
pub(in crate::journal) fn create_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new().mode(0o700).create(dir).map_err(FileError::at("creating", dir))
}

/// Like [`create_dir`], including missing parents.
pub(in crate::journal) fn ensure_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(FileError::at("creating", dir))
}

/// Removes a directory with all in it, if it exists.
pub(in crate::journal) fn remove_dir(dir: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at("removing", dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

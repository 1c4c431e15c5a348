//! One attempt at opening the database in a directory and reading what a start needs.

use std::path::Path;

use super::database_format;
use super::error::OpenError;
use super::migrate::{self, MigrateError};
use super::options::Options;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::journal::format::entry::Recovered;
use crate::journal::format::versions;
use crate::journal::store::database::Database;
use crate::journal::store::database_files::remove_unfinished_snapshots;
use crate::journal::store::files::{self, FileError};
use crate::journal::tree::batch::State;
use crate::journal::tree::recover;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::ReadError;

/// How much of a journal is read before it counts as open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadDepth {
    /// What a start loads.
    Startup,
    /// All of it: a read has found damage.
    Everything,
}

/// A journal that was opened and read.
pub(super) struct Usable {
    pub(super) database: Database,
    pub(super) recovered: Recovered,
    pub(super) state: State,
}

/// Why an attempt at opening ended.
pub(super) enum Failure {
    Damage(ReadError),
    Other(OpenError),
}

impl Failure {
    pub(super) fn into_error(self, dir: &Path) -> OpenError {
        match self {
            Self::Damage(source) => OpenError::read(dir, source),
            Self::Other(error) => error,
        }
    }

    pub(super) fn storage(dir: &Path, source: StorageError) -> Self {
        if source.is_damage() {
            Self::Damage(ReadError::Storage { what: "the database".to_owned(), source })
        } else {
            Self::Other(OpenError::storage(dir, source))
        }
    }

    fn read(dir: &Path, source: ReadError) -> Self {
        if source.is_damage() { Self::Damage(source) } else { Self::Other(OpenError::read(dir, source)) }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Other(error.into())
    }
}

/// Opens the database in `dir` and reads what a start needs, or everything.
pub(super) fn attempt(dir: &Path, options: &Options, sent: Seq, depth: ReadDepth) -> Result<Usable, Failure> {
    files::ensure_dir(dir)?;
    remove_unfinished_snapshots(dir)?;
    let database = Database::open(dir, options.store()).map_err(|error| Failure::storage(dir, error))?;
    match read(&database, sent, depth) {
        Ok((recovered, state)) => Ok(Usable { database, recovered, state }),
        Err(Unread::Newer { found }) => Err(Failure::Other(OpenError::newer_format(dir, found))),
        Err(Unread::Storage(error)) => {
            database.abandon();
            Err(Failure::storage(dir, error))
        }
        Err(Unread::Read(error)) => {
            database.abandon();
            Err(Failure::read(dir, error))
        }
    }
}

enum Unread {
    Newer { found: u32 },
    Storage(StorageError),
    Read(ReadError),
}

impl From<MigrateError> for Unread {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Read(error) => Self::Read(error),
            MigrateError::Storage(error) => Self::Storage(error),
            MigrateError::Encode(error) => Self::Storage(StorageError::Store(chain(&error))),
        }
    }
}

impl From<ReadError> for Unread {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

fn read(database: &Database, sent: Seq, depth: ReadDepth) -> Result<(Recovered, State), Unread> {
    match recover::format(database)? {
        None => database_format::write(database).map_err(Unread::Storage)?,
        Some(found) if found > versions::CURRENT_FORMAT => return Err(Unread::Newer { found }),
        Some(found) => migrate::migrate(database, found)?,
    }
    if depth == ReadDepth::Everything {
        recover::read_everything(database)?;
    }
    Ok(recover::recover(database, sent)?)
}

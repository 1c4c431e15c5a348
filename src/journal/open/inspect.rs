//! Reading a journal that no agent has open: under the agent's lock in its state directory, or in a copy somewhere.
//!
//! sled writes when it opens, so only a temporary copy is read, made while nothing writes to the original and removed
//! afterwards. The inspected journal is not changed, damage included.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::clock;
use super::copy::{CopyFailure, open_copy};
use super::error::OpenError;
use super::migrate;
use super::options::Options;
use crate::api::audit::{Filter, Page};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::head::Anchor;
use crate::api::ids::Seq;
use crate::api::report::{VerifyReport, chain};
use crate::api::stats::JournalStats;
use crate::journal::format::codec::Hash;
use crate::journal::format::versions;
use crate::journal::read::reader::Reader;
use crate::journal::store::database_files::{self, main_file};
use crate::journal::store::files::StateDir;
use crate::journal::store::location::{self, Location};
use crate::journal::store::lock::{LockError, StateLock};
use crate::journal::store::shared::SharedDatabase;
use crate::journal::store::space;
use crate::journal::store::watermark;
use crate::journal::tree::export::ExportError;
use crate::journal::tree::recover;
use crate::journal::tree::retention::{ClockTrust, Policy, RemovalStep};
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::ReadError;

/// Why a journal that no agent has open cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nothing there looks like a journal. Holds the path.
    #[error("there is no journal in {0}; name an agent's state directory, or a copy of one")]
    NoJournal(String),
    /// An agent runs and did not answer, or this is not its control socket.
    #[error("the journal is in use: ask the agent through its control socket, or inspect a copy with --dir")]
    InUse(#[source] LockError),
    /// The lock's file cannot be used.
    #[error("the state directory cannot be locked")]
    Lock(#[source] LockError),
    /// The copy failed: for lack of space, for example, or because the format is newer.
    #[error("the journal could not be copied for reading, or its copy not be opened")]
    Open(#[from] OpenError),
    /// Nothing of it can be read in place.
    #[error(
        "the journal in {dir} does not open, not even without its snapshots; `journal import --salvage` takes over what can be read"
    )]
    Damaged {
        /// The journal's directory.
        dir: String,
        /// The store's message at the last attempt.
        source: StorageError,
    },
}

/// A copy of a journal, open for reading.
#[derive(Debug)]
pub struct Inspection {
    reader: Option<Reader>,
    noted: Option<(Seq, Option<Hash>)>,
    dir: PathBuf,
    /// What was copied.
    original: PathBuf,
    open_time: Duration,
    how: Opening,
    _lock: Option<StateLock>,
}

/// How the copy could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It opened with all its files.
    Whole,
    /// Damaged: it only opens without its snapshots.
    WithoutSnapshots,
}

/// Opens the journal of a state directory. Its agent must not run.
pub fn state_dir(state_dir: &Path, options: &Options) -> Result<Inspection, InspectError> {
    let in_dir = StateDir::new(state_dir);
    let journal = location::found(&in_dir).map_err(OpenError::from)?.dir(&in_dir);
    if !main_file(&journal).exists() {
        return Err(InspectError::NoJournal(state_dir.display().to_string()));
    }
    let lock = StateLock::acquire(state_dir, Duration::ZERO).map_err(|error| match error {
        LockError::Held { .. } => InspectError::InUse(error),
        LockError::Io { .. } => InspectError::Lock(error),
    })?;
    inspect(&journal, &in_dir, Some(lock), options)
}

/// Opens a copy of a state directory, or of the journal's directory alone, which nobody may be writing to.
pub fn copied_dir(dir: &Path, options: &Options) -> Result<Inspection, InspectError> {
    let (journal, state_dir) = places(dir)?.ok_or_else(|| InspectError::NoJournal(dir.display().to_string()))?;
    inspect(&journal, &StateDir::new(&state_dir), None, options)
}

/// Where the journal's files are in a state directory or a journal's directory, and where its side file would be.
pub(super) fn places(dir: &Path) -> Result<Option<(PathBuf, PathBuf)>, OpenError> {
    let in_dir = StateDir::new(dir);
    let inner = location::found(&in_dir)?.dir(&in_dir);
    if main_file(&inner).exists() {
        return Ok(Some((inner, dir.to_owned())));
    }
    // The side file is next to the journal's directory; one that was moved aside no longer has it.
    let beside = location::state_dir_of(dir).unwrap_or(dir).to_owned();
    Ok(main_file(dir).exists().then(|| (dir.to_owned(), beside)))
}

fn inspect(
    journal: &Path,
    state_dir: &StateDir,
    lock: Option<StateLock>,
    options: &Options,
) -> Result<Inspection, InspectError> {
    let known = watermark::read(state_dir).map_err(OpenError::from)?;
    if let Some(mark) = known
        && mark.format > versions::CURRENT_FORMAT
    {
        return Err(OpenError::newer_format(journal, mark.format).into());
    }
    let noted = known.map(|mark| (mark.high, mark.head));
    let inspection = |copy: Copied, how| Inspection {
        reader: Some(copy.reader),
        noted,
        dir: copy.dir,
        original: journal.to_owned(),
        open_time: copy.open_time,
        how,
        _lock: lock,
    };
    match open_for_reading(journal, options, &|_| true) {
        Ok(copy) => Ok(inspection(copy, Opening::Whole)),
        Err(CopyFailure::Storage(first)) if first.is_damage() => {
            let snapshots = database_files::snapshots(journal).map_err(OpenError::from)?;
            let wanted = |path: &Path| !snapshots.iter().any(|snapshot| snapshot == path);
            match open_for_reading(journal, options, &wanted) {
                Ok(copy) => Ok(inspection(copy, Opening::WithoutSnapshots)),
                Err(CopyFailure::Storage(source)) if source.is_damage() => {
                    Err(InspectError::Damaged { dir: journal.display().to_string(), source })
                }
                Err(error) => Err(error.into_error(journal).into()),
            }
        }
        Err(error) => Err(error.into_error(journal).into()),
    }
}

/// A copy that opened.
struct Copied {
    reader: Reader,
    dir: PathBuf,
    /// Without the copying.
    open_time: Duration,
}

/// Opens a copy in the directory for temporary files.
fn open_for_reading(journal: &Path, options: &Options, wanted: &impl Fn(&Path) -> bool) -> Result<Copied, CopyFailure> {
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let number = COPIES.fetch_add(1, Ordering::Relaxed);
    let parent = std::env::temp_dir();
    let dir = parent.join(format!("zeek-cluster-agent-journal-{}-{number}", std::process::id()));
    let opened = open_copy(journal, &dir, options, wanted).and_then(|(database, open_time)| {
        match recover::format(&database) {
            Ok(Some(found)) if found > versions::CURRENT_FORMAT => {
                return Err(CopyFailure::Other(OpenError::newer_format(journal, found)));
            }
            // Entries of an older format can be read like new ones; the rest of this copy is migrated.
            Ok(Some(found)) => {
                if let Err(error) = migrate::migrate_copy(&database, found) {
                    tracing::warn!(error = %chain(&error), "the copy could not be brought to this release's format");
                }
            }
            // What is wrong with a damaged one is found by further reading.
            Ok(None) | Err(_) => {}
        }
        let database = SharedDatabase::new(database, Location::new(&dir), options.store());
        Ok((Reader::new(Arc::new(database)), open_time))
    });
    match opened {
        Ok((reader, open_time)) => Ok(Copied { reader, dir, open_time }),
        Err(error) => {
            discard(&dir);
            Err(error)
        }
    }
}

fn discard(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %dir.display(), "a copy of the journal was left behind");
    }
}

impl Inspection {
    fn reader(&self) -> &Reader {
        self.reader.as_ref().expect("only drop takes the reader")
    }

    /// See [`Reader::page`].
    pub fn page(&self, filter: &Filter, cursor: Option<Seq>) -> Result<Page, ReadError> {
        self.reader().page(filter, cursor)
    }

    /// Checks everything, against the side file too, and whether the journal continues `anchor`.
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<VerifyReport, ReadError> {
        self.reader().verify_to(self.noted, anchor)
    }

    /// See [`Reader::export`].
    pub fn export(&self, cursor: Option<&ExportCursor>) -> Result<ExportChunk, ExportError> {
        self.reader().export(cursor, clock::now())
    }

    /// Statistics of the journal. Its size is that of the copied files.
    pub fn stats(&self) -> Result<JournalStats, ReadError> {
        let mut stats = self.reader().stats()?;
        stats.bytes_on_disk = space::used(&self.original).unwrap_or(0);
        stats.open_ms = self.open_time.as_secs_f64() * 1000.0;
        Ok(stats)
    }

    /// The sum of all steps of retention towards `policy`, and whether the clock is trusted.
    pub fn preview_removal(&self, policy: &Policy) -> Result<(RemovalStep, ClockTrust), ReadError> {
        let now = clock::now();
        Ok((self.reader().preview_removal(policy, now)?, self.reader().clock_trust(now)?))
    }

    /// The number of the newest entry; 0 in an empty journal.
    pub fn last(&self) -> Result<Seq, ReadError> {
        self.reader().last()
    }

    /// How its copy could be opened.
    pub fn opening(&self) -> Opening {
        self.how
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.abandon();
        }
        discard(&self.dir);
    }
}

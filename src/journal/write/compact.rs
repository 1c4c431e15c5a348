//! A journal whose files have outgrown what it holds, copied into fresh ones while it is used.
//!
//! sled's files never shrink: what retention removes leaves holes that are at best reused. The copy replaces the
//! original atomically (see [`location`]):
//!
//! ```text
//! the pointer records that there may be an unfinished copy
//! every row is copied, then those that were written meanwhile, until they are few; all of it made durable and compared
//! commits wait: the last rows are copied and made durable, the pointer names the copy, the copy is used from here on
//! the original is removed, and so is its mention in the pointer
//! ```
//!
//! Entries and hashes are copied unchanged, so the chain and its head stay the same. Whatever a crash leaves, the
//! pointer names a complete journal, and the next start removes the other. A compaction that fails leaves everything as
//! it is and says why.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::progress::{Progress, ReportEvery};
use crate::api::report::{CompactReport, chain};
use crate::crash_point;
use crate::journal::format::keys;
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::store::database::Database;
use crate::journal::store::files::{self, FileError, StateDir};
use crate::journal::store::location::{self, Generation, LocationError};
use crate::journal::store::shared::{self, SharedDatabase, WriteTurn};
use crate::journal::store::space;
use crate::journal::tree::batch::Write;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{ReadError, Row, Table};

/// Files below this are left alone: there is nothing to gain, …
const LEAST: u64 = 16 << 20;
/// … and so are those that are less than this many times as large as what they hold. sled settles at 3 to 5 times, and
/// more than 8 must never be seen, whatever is written during the measurement.
const TIMES: u64 = 6;
/// The copy takes at most this many times what it holds; with less free space it is not begun. The space left over only
/// has to suffice for facts: on a disk that this journal has filled, the copy is what allows requests again.
const COPY_TIMES: u64 = 4;

/// A batch of the copy ends after this many rows, or …
const ROWS: usize = 256;
/// … this many bytes.
const BYTES: u64 = 256 << 10;

/// This many rows are copied in a few milliseconds: commits may wait for them.
const FEW: usize = 512;
/// Rounds of catching up with what is written. Each has less to do than the one before, if the disk is fast enough.
const ROUNDS: usize = 16;

const REPORT_EVERY: ReportEvery = ReportEvery { log: Duration::from_secs(5), terminal: Duration::from_millis(500) };

/// Why a journal was not compacted. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// A row is unreadable.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store of the original or of the copy failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The pointer to it cannot be read or written.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// Not begun: the copy would not fit.
    #[error(
        "the copy needs {needed} MiB free on its file system ({COPY_TIMES} times what the journal holds, plus \
         space_floor_facts), and {free} MiB are: free some space and try again"
    )]
    Space {
        /// What has to be free, in MiB.
        needed: u64,
        /// What is free, in MiB.
        free: u64,
    },
    /// A rename could not put the copy into its place.
    #[error(
        "{dir} is a mount point or a symbolic link, so the copy would lie on the other side of it: stop the agent, move \
         the whole state directory there, with `{name}` as a plain directory in it, and start the agent again"
    )]
    Apart {
        /// The journal's directory.
        dir: String,
        /// Its name in the state directory.
        name: String,
    },
    /// The copy was removed. Holds the first row that differs.
    #[error("the copy does not read back as it was written ({0}); the disk or the memory of this host may be faulty")]
    Different(String),
    /// The copy was removed: it would never have caught up.
    #[error("entries are written faster than they can be copied: try again at a quieter time")]
    Busy,
    /// A write to the original failed while the copy was made, so it is unknown what to copy.
    #[error("writing to it failed during the compaction, and the agent's log says why: mend that, then try again")]
    Failing,
    /// It is unknown which of the two the pointer names.
    #[error(
        "the disk failed as the copy took its place, and the journal is closed: restart the agent, which finds it whole"
    )]
    Unknown(#[source] std::io::Error),
    /// Another caller is compacting.
    #[error("it is being compacted already: wait for that to end")]
    UnderWay,
}

impl From<FileError> for CompactError {
    fn from(error: FileError) -> Self {
        Self::Storage(error.into())
    }
}

impl CompactError {
    fn io(error: std::io::Error) -> Self {
        Self::Storage(error.into())
    }
}

fn length((key, value): &(Vec<u8>, Vec<u8>)) -> u64 {
    (key.len() + value.len()) as u64
}

/// Compacts one journal while it is in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Compactor {
    pub(in crate::journal) database: Arc<SharedDatabase>,
    pub(in crate::journal) state_dir: StateDir,
    /// What has to stay free.
    pub(in crate::journal) floor: u64,
}

impl Compactor {
    /// Compacts the journal if it has outgrown what it holds; otherwise, or if it cannot, leaves it as it is: large
    /// files are only a nuisance.
    pub fn if_outgrown(&self) {
        match self.compact(false) {
            Ok(_) | Err(CompactError::UnderWay) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the journal was not compacted, and goes on as it is");
            }
        }
    }

    /// Compacts the journal if it has outgrown what it holds, or if `force`. Blocks for as long as the copy takes.
    pub fn compact(&self, force: bool) -> Result<CompactReport, CompactError> {
        let begun = Instant::now();
        let dir = self.database.location().dir();
        let size = space::used(&dir).map_err(CompactError::io)?;
        let (live, outgrown) = self.measure(size, force)?;
        let report =
            CompactReport { compacted: false, bytes_before: size, bytes_after: size, bytes_live: live, ms: 0.0 };
        if !outgrown && !force {
            return Ok(report);
        }
        if !self.database.turn().begin_copy() {
            return Err(CompactError::UnderWay);
        }
        let copied = self.copy_and_exchange(&dir, size, live);
        self.database.turn().end_copy();
        // Of two equal journals, this run cannot decide which to remove.
        if !matches!(copied, Err(CompactError::Unknown(_)))
            && let Err(error) = location::clear_up(&self.state_dir)
        {
            tracing::warn!(error = %chain(&error), "what the compaction has left is removed by the next start");
        }
        let dir = copied?;
        let after = space::used(&dir).map_err(CompactError::io)?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        tracing::info!(
            "the journal takes {} KiB now, as {}; that took {:.1} s",
            after >> 10,
            dir.display(),
            ms / 1000.0
        );
        Ok(CompactReport { compacted: true, bytes_after: after, ms, ..report })
    }

    /// How much the journal holds, and whether its files are much larger. Stops reading as soon as they are known not
    /// to be, unless it is `wanted` anyway.
    fn measure(&self, size: u64, wanted: bool) -> Result<(u64, bool), CompactError> {
        let database = self.database.get()?;
        let mut live = database.record::<HistoryRecord>(keys::HISTORY)?.map_or(0, |history| history.bytes);
        let is_outgrown = |live: u64| size >= LEAST && size > live.saturating_mul(TIMES);
        if !is_outgrown(live) && !wanted {
            return Ok((live, false));
        }
        live = 0;
        for row in database.range(keys::everything()) {
            live += length(&row?);
            if !is_outgrown(live) && !wanted {
                return Ok((live, false));
            }
        }
        Ok((live, is_outgrown(live)))
    }

    /// Returns the journal's new directory.
    fn copy_and_exchange(&self, dir: &Path, size: u64, live: u64) -> Result<PathBuf, CompactError> {
        let old = location::current(&self.state_dir)?;
        if location::is_apart(&self.state_dir, dir).map_err(CompactError::io)? {
            return Err(CompactError::Apart { dir: dir.display().to_string(), name: old.name() });
        }
        let needed = live.saturating_mul(COPY_TIMES).saturating_add(self.floor);
        let free = space::free(self.state_dir.path()).map_err(CompactError::io)?;
        if free < needed {
            return Err(CompactError::Space { needed: needed.div_ceil(1 << 20), free: free >> 20 });
        }
        tracing::info!(
            "the journal takes {} KiB and holds {} KiB: it is copied into fresh files",
            size >> 10,
            live >> 10
        );
        location::begin(&self.state_dir, old).map_err(CompactError::io)?;
        let target = old.next().dir(&self.state_dir);
        files::create_dir(&target)?;
        let copy = Database::open(&target, self.database.options())?;
        match self.fill(&copy, live).and_then(|()| self.take_over(&copy, old)) {
            Ok(mut turn) => {
                let old = self.database.exchange(&mut turn, copy, &target);
                drop(turn);
                shared::close(old);
                Ok(target)
            }
            Err(error) => {
                copy.abandon();
                Err(error)
            }
        }
    }

    /// Copies every row, then what is written meanwhile until that is little, makes it durable, and compares.
    fn fill(&self, copy: &Database, live: u64) -> Result<(), CompactError> {
        let mut progress = Progress::new(REPORT_EVERY);
        let mut copied = 0;
        let mut batch = Vec::<Write>::new();
        let mut bytes = 0;
        let source = self.database.get()?;
        for row in source.range(keys::everything()) {
            let row = row?;
            bytes += length(&row);
            batch.push((row.0, Some(row.1)));
            if batch.len() == ROWS || bytes >= BYTES {
                copy.apply(std::mem::take(&mut batch))?;
                copied += bytes;
                bytes = 0;
                if progress.is_due() {
                    tracing::info!("copying the journal: {} of {} MiB", copied >> 20, live >> 20);
                }
            }
        }
        copy.apply(batch)?;
        crash_point!("during_compaction");
        self.catch_up(source.as_ref(), copy)?;
        self.compare(source.as_ref(), copy)?;
        self.catch_up(source.as_ref(), copy)
    }

    /// Copies what was written meanwhile, repeatedly, until that is little, and makes the copy durable.
    fn catch_up(&self, source: &Database, copy: &Database) -> Result<(), CompactError> {
        for _ in 0..ROUNDS {
            let changed = self.database.turn().take_changed().ok_or(CompactError::Failing)?;
            let few = changed.len() <= FEW;
            copy_keys(source, copy, changed)?;
            copy.sync()?;
            if few {
                return Ok(());
            }
        }
        Err(CompactError::Busy)
    }

    /// Whether both hold the same, except for what is being written.
    fn compare(&self, source: &Database, copy: &Database) -> Result<(), CompactError> {
        let mut written = copy.range(keys::everything());
        let mut next = written.next().transpose()?;
        let differs = |key: &[u8]| match self.database.turn().has_changed(key) {
            true => Ok(()),
            false => Err(CompactError::Different(keys::describe(key))),
        };
        for row in source.range(keys::everything()) {
            let row = row?;
            while let Some(other) = next.take_if(|other| other.0 < row.0) {
                differs(&other.0)?;
                next = written.next().transpose()?;
            }
            if next.as_ref() != Some(&row) {
                differs(&row.0)?;
            }
            if next.take_if(|other| other.0 == row.0).is_some() {
                next = written.next().transpose()?;
            }
        }
        next.map(Ok).into_iter().chain(written).try_for_each(|row: Row| differs(&row?.0))
    }

    /// Copies the last rows and makes the pointer name the copy. Commits wait until the returned guard is dropped.
    fn take_over(&self, copy: &Database, old: Generation) -> Result<MutexGuard<'_, WriteTurn>, CompactError> {
        let mut turn = self.database.turn();
        let changed = turn.take_changed().ok_or(CompactError::Failing)?;
        copy_keys(self.database.get()?.as_ref(), copy, changed)?;
        copy.sync()?;
        files::sync_dir(&old.next().dir(&self.state_dir)).map_err(CompactError::io)?;
        crash_point!("before_compaction_swap");
        if let Err(error) = location::replace(&self.state_dir, old) {
            // If it names the copy nevertheless, a power cut may undo that: nothing must be written to either any more.
            return match location::current(&self.state_dir) {
                Ok(current) if current == old => Err(CompactError::io(error)),
                Ok(_) | Err(_) => {
                    self.database.end(&mut turn);
                    Err(CompactError::Unknown(error))
                }
            };
        }
        crash_point!("after_compaction_swap");
        Ok(turn)
    }
}

/// Brings these keys of the copy up to date.
fn copy_keys(
    source: &Database,
    copy: &Database,
    changed: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), CompactError> {
    let mut batch = Vec::<Write>::new();
    for key in changed {
        let value = source.get(&key)?;
        batch.push((key, value));
        if batch.len() == ROWS {
            copy.apply(std::mem::take(&mut batch))?;
        }
    }
    Ok(copy.apply(batch)?)
}

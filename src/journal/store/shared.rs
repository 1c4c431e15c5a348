//! The open database as its writer, its readers and a compaction share it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use super::database::{Database, OpenOptions, panicked};
use super::database_files::{main_file, remove_unfinished_snapshots};
use super::location::Location;
use super::watermark::Extent;
use crate::journal::tree::batch::Write;
use crate::journal::tree::storage_error::StorageError;

/// The open database as all share it that use it. It can be closed and opened again under them: what the store met once, a
/// full disk for one, it reports until then. And another can take its place.
#[derive(Debug)]
pub(in crate::journal) struct SharedDatabase {
    database: RwLock<Slot>,
    location: Location,
    options: OpenOptions,
    turn: Mutex<WriteTurn>,
}

#[derive(Debug)]
enum Slot {
    Open(Arc<Database>),
    /// Until it is opened again.
    Closed,
    /// For good: see [`StorageError::Undecided`].
    Undecided,
}

impl Slot {
    fn get(&self) -> Result<&Arc<Database>, StorageError> {
        match self {
            Self::Open(database) => Ok(database),
            Self::Closed => Err(StorageError::Closed),
            Self::Undecided => Err(StorageError::Undecided),
        }
    }

    /// Puts another in its place; what was open is returned, to be closed.
    fn replace(&mut self, by: Self) -> Option<Arc<Database>> {
        match std::mem::replace(self, by) {
            Self::Open(database) => Some(database),
            Self::Closed | Self::Undecided => None,
        }
    }
}

/// Whose it is to write, or to exchange what is written to: whoever holds it.
#[derive(Debug, Default)]
pub(in crate::journal) struct WriteTurn {
    /// Whether a copy is being made.
    is_copying: bool,
    /// The keys that are written meanwhile; `None` from a write that fails on.
    changed: Option<BTreeSet<Vec<u8>>>,
}

impl SharedDatabase {
    pub(in crate::journal) fn new(database: Database, location: Location, options: OpenOptions) -> Self {
        let database = RwLock::new(Slot::Open(Arc::new(database)));
        Self { database, location, options, turn: Mutex::new(WriteTurn::default()) }
    }

    pub(in crate::journal) fn location(&self) -> &Location {
        &self.location
    }

    pub(in crate::journal) fn options(&self) -> OpenOptions {
        self.options
    }

    /// As [`Database::write`]. Waits its turn.
    pub(in crate::journal) fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        let mut turn = self.turn();
        if let Some(changed) = &mut turn.changed {
            changed.extend(writes.iter().map(|(key, _)| key.clone()));
        }
        let written = self.get().and_then(|database| database.write(writes));
        if written.is_err() {
            turn.changed = None;
        }
        written
    }

    /// Keeps everybody from writing while it is held.
    pub(in crate::journal) fn turn(&self) -> MutexGuard<'_, WriteTurn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another database in the place of the open one, which it is a copy of. Returned is the one before, to be closed.
    pub(in crate::journal) fn exchange(
        &self,
        _turn: &mut WriteTurn,
        database: Database,
        dir: &Path,
    ) -> Option<Arc<Database>> {
        self.location.moved(dir);
        self.slot().replace(Slot::Open(Arc::new(database)))
    }

    /// Nobody writes or reads any more: [`StorageError::Undecided`].
    pub(in crate::journal) fn end(&self, _turn: &mut WriteTurn) {
        let old = self.slot().replace(Slot::Undecided);
        close(old);
    }

    fn slot(&self) -> RwLockWriteGuard<'_, Slot> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one use: whoever keeps it keeps it from being opened again.
    pub(in crate::journal) fn get(&self) -> Result<Arc<Database>, StorageError> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).get().cloned()
    }

    /// As [`Database::extent`], of whichever is open.
    pub(in crate::journal) fn extent(&self) -> io::Result<Option<Extent>> {
        self.get().map_or(Ok(None), |database| database.extent())
    }

    /// Closes it, if it is open, opens it, and puts it back once `check` has accepted it. Whoever still reads keeps its
    /// lock; then it is [`StorageError::Locked`], and closed until the next call.
    pub(in crate::journal) fn reopen(
        &self,
        check: impl FnOnce(&Database) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut turn = self.turn();
        turn.changed = None;
        let dir = self.location.dir();
        let old = {
            let mut slot = self.slot();
            if matches!(*slot, Slot::Undecided) {
                return Err(StorageError::Undecided);
            }
            slot.replace(Slot::Closed)
        };
        // Not behind the guard: closing it may take its time.
        close(old);
        forget_cached(&main_file(&dir))?;
        remove_unfinished_snapshots(&dir)?;
        let database = Database::open(&dir, self.options)?;
        check(&database)?;
        *self.slot() = Slot::Open(Arc::new(database));
        Ok(())
    }

    /// Lets go without waiting for a damaged database to close.
    pub(in crate::journal) fn abandon(self) {
        let database = self.slot().replace(Slot::Closed);
        if let Some(database) = database.and_then(Arc::into_inner) {
            database.abandon();
        }
    }
}

/// Whoever still reads keeps it open until then.
pub(in crate::journal) fn close(database: Option<Arc<Database>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(database))) {
        tracing::warn!(error = %panicked(payload.as_ref()), "closing the journal's store failed");
    }
}

impl WriteTurn {
    /// Notes from here on what is written; `false`: a copy is being made already.
    pub(in crate::journal) fn begin_copy(&mut self) -> bool {
        let begins = !self.is_copying;
        if begins {
            *self = Self { is_copying: true, changed: Some(BTreeSet::new()) };
        }
        begins
    }

    pub(in crate::journal) fn end_copy(&mut self) {
        *self = Self::default();
    }

    /// What was written since this was asked last; `None`: a write has failed, and what there is to copy is not known.
    pub(in crate::journal) fn take_changed(&mut self) -> Option<BTreeSet<Vec<u8>>> {
        self.changed.as_mut().map(std::mem::take)
    }

    pub(in crate::journal) fn has_changed(&self, key: &[u8]) -> bool {
        self.changed.as_ref().is_some_and(|changed| changed.contains(key))
    }
}

/// Has the next reader read from the disk: what a failed write-back left in the page cache may be on no disk, and would be
/// taken for what is stored.
fn forget_cached(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

//! The open database, shared by its writer, its readers and a compaction.

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

/// The open database, shared by all its users. It can be closed and reopened while they use it, since the store keeps
/// reporting an error (a full disk, for example) until then. It can also be replaced by another.
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
    /// Until it is reopened.
    Closed,
    /// Permanently: see [`StorageError::Undecided`].
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

    /// Replaces it with another; returns the old one, to be closed.
    fn replace(&mut self, by: Self) -> Option<Arc<Database>> {
        match std::mem::replace(self, by) {
            Self::Open(database) => Some(database),
            Self::Closed | Self::Undecided => None,
        }
    }
}

/// Whoever holds it may write, or replace the database that is written to.
#[derive(Debug, Default)]
pub(in crate::journal) struct WriteTurn {
    /// Whether a copy is being made.
    is_copying: bool,
    /// The keys that are written meanwhile; `None` after a failed write.
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

    /// Like [`Database::write`]. Waits its turn.
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

    /// Blocks all writes while it is held.
    pub(in crate::journal) fn turn(&self) -> MutexGuard<'_, WriteTurn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the open database with a copy of it. Returns the old one, to be closed.
    pub(in crate::journal) fn exchange(
        &self,
        _turn: &mut WriteTurn,
        database: Database,
        dir: &Path,
    ) -> Option<Arc<Database>> {
        self.location.moved(dir);
        self.slot().replace(Slot::Open(Arc::new(database)))
    }

    /// No writes or reads from here on: [`StorageError::Undecided`].
    pub(in crate::journal) fn end(&self, _turn: &mut WriteTurn) {
        let old = self.slot().replace(Slot::Undecided);
        close(old);
    }

    fn slot(&self) -> RwLockWriteGuard<'_, Slot> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one use only: while it is held, the database cannot be reopened.
    pub(in crate::journal) fn get(&self) -> Result<Arc<Database>, StorageError> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).get().cloned()
    }

    /// Like [`Database::extent`], for the open database.
    pub(in crate::journal) fn extent(&self) -> io::Result<Option<Extent>> {
        self.get().map_or(Ok(None), |database| database.extent())
    }

    /// Closes it, if it is open, reopens it, and puts it back once `check` has accepted it. A remaining reader keeps
    /// its lock; the result is then [`StorageError::Locked`], and the database is closed until the next call.
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
        // Outside of the guard: closing it may take a while.
        close(old);
        forget_cached(&main_file(&dir))?;
        remove_unfinished_snapshots(&dir)?;
        let database = Database::open(&dir, self.options)?;
        check(&database)?;
        *self.slot() = Slot::Open(Arc::new(database));
        Ok(())
    }

    /// Releases the database without waiting for a damaged one to close.
    pub(in crate::journal) fn abandon(self) {
        let database = self.slot().replace(Slot::Closed);
        if let Some(database) = database.and_then(Arc::into_inner) {
            database.abandon();
        }
    }
}

/// A remaining reader keeps it open until it is done.
pub(in crate::journal) fn close(database: Option<Arc<Database>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(database))) {
        tracing::warn!(error = %panicked(payload.as_ref()), "closing the journal's store failed");
    }
}

impl WriteTurn {
    /// Starts recording what is written; `false`: a copy is already being made.
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

    /// What was written since the last call; `None`: a write has failed, so it is unknown what to copy.
    pub(in crate::journal) fn take_changed(&mut self) -> Option<BTreeSet<Vec<u8>>> {
        self.changed.as_mut().map(std::mem::take)
    }

    pub(in crate::journal) fn has_changed(&self, key: &[u8]) -> bool {
        self.changed.as_ref().is_some_and(|changed| changed.contains(key))
    }
}

/// Makes the next reader read from the disk: what a failed write-back left in the page cache may not be on the disk,
/// but would look as if it were stored.
fn forget_cached(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

//! sled, and the only file that names it.
//!
//! What this file knows of sled 0.34: a flush ends in `sync_file_range`, so durability needs a sync of the file through a
//! descriptor of our own; an open or a read of a damaged file may panic; a killed open may leave a half-written snapshot
//! that fails every later one; an I/O error sticks until the next open; several callers of `flush_async` deadlock.
//! Nothing but bytes under keys is known here: what they mean is the business of the files beside it.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::location::{Generation, Place};
use super::watermark::Extent;
use crate::journal::format::keys;
use crate::journal::tree::batch::Write;
use crate::journal::tree::table::{ReadError, Row, Table};

/// What went wrong below the journal, by what follows from it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What is on disk is not what was written.
    #[error("its files are damaged: {0}")]
    Damaged(String),
    /// The store gave up on what it found; on an open or a read that means damage as well.
    #[error("its files made the store fail: {0}")]
    Panicked(String),
    #[error("no space is left on its file system")]
    NoSpace(#[source] io::Error),
    #[error("its file system is read-only")]
    ReadOnly(#[source] io::Error),
    #[error("another process has it open")]
    Locked,
    #[error("it did not open within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// By us, to be opened again.
    #[error("it is closed until its file system can be written again: free some space, or remount it writable")]
    Closed,
    /// By us, for good: of two journals that hold the same the next start takes one.
    #[error(
        "it is closed, since the disk failed as a copy took its place: restart the agent, which opens whichever is in place"
    )]
    Undecided,
    #[error("its file system reports an error")]
    Io(#[source] io::Error),
    #[error("the store failed: {0}")]
    Store(String),
}

impl StorageError {
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Panicked(_) => true,
            Self::NoSpace(_)
            | Self::ReadOnly(_)
            | Self::Locked
            | Self::Timeout(_)
            | Self::Closed
            | Self::Undecided
            | Self::Io(_)
            | Self::Store(_) => false,
        }
    }

    /// The file system takes nothing in at the moment, and may again: once it does, opening again is all that is needed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoSpace(_) | Self::ReadOnly(_) | Self::Closed => true,
            Self::Damaged(_)
            | Self::Panicked(_)
            | Self::Locked
            | Self::Timeout(_)
            | Self::Undecided
            | Self::Io(_)
            | Self::Store(_) => false,
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

impl From<sled::Error> for StorageError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("a file ends before its data does".to_owned())
            }
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => Self::Locked,
            sled::Error::Io(error) => error.into(),
            sled::Error::Corruption { at, .. } => Self::Damaged(match at {
                Some(at) => format!("a checksum does not match at {at:?}"),
                None => "a checksum does not match".to_owned(),
            }),
            // At open alone: sled's own settings file says something else than this build's. A newer store would come
            // with a newer format of ours, which is told before sled is asked.
            sled::Error::Unsupported(what) => Self::Damaged(what),
            sled::Error::CollectionNotFound(_) | sled::Error::ReportableBug(_) => Self::Store(error.to_string()),
        }
    }
}

fn panicked(payload: &(dyn Any + Send)) -> StorageError {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    StorageError::Panicked(text)
}

/// Lets sled panic without taking anybody along.
fn guarded<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(StorageError::from),
        Err(payload) => Err(panicked(payload.as_ref())),
    }
}

/// How a database is opened.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct OpenOptions {
    pub(in crate::journal) cache_capacity: u64,
    pub(in crate::journal) timeout: Duration,
    /// A just closed database keeps its lock until sled's threads have let go of it.
    pub(in crate::journal) lock_wait: Duration,
}

/// An open database.
#[derive(Debug)]
pub(in crate::journal) struct Database {
    db: sled::Db,
    /// Our own descriptor of sled's file, to sync it.
    file: File,
    directory: Option<Generation>,
}

impl Database {
    /// Opens or creates. Runs on a thread of its own: a damaged file may panic, or keep it busy for ever; such a thread
    /// is left behind, and its result dropped.
    pub(in crate::journal) fn open(dir: &Path, options: OpenOptions) -> Result<Self, StorageError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let path = dir.to_owned();
        thread::Builder::new()
            .name("journal-open".to_owned())
            .spawn(move || {
                // Nobody listens any more if the open took too long.
                let _ = sender.send(open_with_lock_wait(&path, options));
            })
            .map_err(StorageError::Io)?;
        receiver.recv_timeout(options.timeout).map_err(|_| StorageError::Timeout(options.timeout))?
    }

    /// Writes one batch, and returns when it is durable (P1): all of it survives a power cut from here on, or none. The
    /// same batch may be written again.
    pub(in crate::journal) fn write(&self, writes: impl AsRef<[Write]>) -> Result<(), StorageError> {
        self.apply(writes)?;
        self.sync()
    }

    /// Takes in one batch, of which nothing is durable before [`Database::sync`].
    pub(in crate::journal) fn apply(&self, writes: impl AsRef<[Write]>) -> Result<(), StorageError> {
        guarded(|| {
            let mut batch = sled::Batch::default();
            for (key, value) in writes.as_ref() {
                match value {
                    Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                    None => batch.remove(key.as_slice()),
                }
            }
            self.db.apply_batch(batch)
        })
    }

    /// Makes all that was taken in durable.
    pub(in crate::journal) fn sync(&self) -> Result<(), StorageError> {
        guarded(|| self.db.flush())?;
        // A test makes sure that it would notice if the next step were missing.
        if crate::crash_points::skips_sync() {
            return Ok(());
        }
        // On Linux, sled 0.34 ends a flush in sync_file_range, which leaves the drive's own cache and the file's length
        // alone. Syncing sled's file too is what lets "committed" outlive a power cut, not only a crash of ours.
        self.file.sync_data().map_err(StorageError::from)
    }

    /// How long its file is, if it is in a journal's directory.
    pub(in crate::journal) fn extent(&self) -> io::Result<Option<Extent>> {
        let Some(directory) = self.directory else { return Ok(None) };
        Ok(Some(Extent { directory, length: self.file.metadata()?.len() }))
    }

    /// Lets go without waiting: closing a damaged database may take for ever.
    pub(in crate::journal) fn abandon(self) {
        let closing = thread::Builder::new()
            .name("journal-close".to_owned())
            .spawn(move || drop(catch_unwind(AssertUnwindSafe(|| drop(self)))));
        if let Err(error) = closing {
            tracing::debug!(%error, "no thread to close a copy of the journal on; it was closed at once");
        }
    }
}

fn open_with_lock_wait(dir: &Path, options: OpenOptions) -> Result<Database, StorageError> {
    let deadline = Instant::now() + options.lock_wait;
    loop {
        match open(dir, options.cache_capacity) {
            Err(StorageError::Locked) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

fn open(dir: &Path, cache_capacity: u64) -> Result<Database, StorageError> {
    let db = guarded(|| {
        sled::Config::new()
            .path(dir)
            .cache_capacity(cache_capacity)
            // Every commit is flushed by its writer. A flusher beside it would gain nothing, wake an idle agent twice a
            // second, and keep a damaged database from ever being closed should it panic.
            .flush_every_ms(None)
            .open()
    })?;
    let file = File::open(dir.join("db"))?;
    // What sled leaves unsynced after creating or recovering its files.
    file.sync_all()?;
    File::open(dir.join("conf"))?.sync_all()?;
    sync_dir(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    if fs::read_dir(dir.join("blobs")).is_ok_and(|mut blobs| blobs.next().is_some()) {
        tracing::warn!(
            dir = %dir.display(),
            "the journal holds data in files of its own, which do not survive a power cut; no version of the agent \
             writes such; run `journal verify`"
        );
    }
    Ok(Database { db, file, directory: Generation::of(dir) })
}

/// The open database as all share it that use it. It can be closed and opened again under them: what the store met once, a
/// full disk for one, it reports until then. And another can take its place.
#[derive(Debug)]
pub(in crate::journal) struct Shared {
    database: RwLock<Slot>,
    place: Place,
    options: OpenOptions,
    turn: Mutex<Turn>,
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
pub(in crate::journal) struct Turn {
    /// Whether a copy is being made.
    is_copying: bool,
    /// The keys that are written meanwhile; `None` from a write that fails on.
    changed: Option<BTreeSet<Vec<u8>>>,
}

impl Shared {
    pub(in crate::journal) fn new(database: Database, place: Place, options: OpenOptions) -> Self {
        let database = RwLock::new(Slot::Open(Arc::new(database)));
        Self { database, place, options, turn: Mutex::new(Turn::default()) }
    }

    pub(in crate::journal) fn place(&self) -> &Place {
        &self.place
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
    pub(in crate::journal) fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another database in the place of the open one, which it is a copy of. Returned is the one before, to be closed.
    pub(in crate::journal) fn exchange(
        &self,
        _turn: &mut Turn,
        database: Database,
        dir: &Path,
    ) -> Option<Arc<Database>> {
        self.place.moved(dir);
        self.slot().replace(Slot::Open(Arc::new(database)))
    }

    /// Nobody writes or reads any more: [`StorageError::Undecided`].
    pub(in crate::journal) fn end(&self, _turn: &mut Turn) {
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
        let dir = self.place.dir();
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

impl Turn {
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
/// believed.
fn forget_cached(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Removes half-written snapshots: a kill or a full disk during an open leaves them, and sled takes every later open for
/// damage. Finished snapshots are never touched.
pub(in crate::journal) fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for file in snapshots(dir)? {
        if file.extension().is_some_and(|extension| extension == "generating") {
            tracing::info!(file = %file.display(), "removing a snapshot that an interrupted start left unfinished");
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// sled's snapshots in `dir`. A copy without them is opened from its log alone.
pub(in crate::journal) fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// sled's settings file in `dir`. A copy without it is opened with the settings of this build.
pub(in crate::journal) fn settings_file(dir: &Path) -> PathBuf {
    dir.join("conf")
}

/// The file without which there is no database in `dir`.
pub(in crate::journal) fn main_file(dir: &Path) -> PathBuf {
    dir.join("db")
}

/// Makes what was created, renamed or removed in `dir` durable.
pub(in crate::journal) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Table for Database {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        guarded(|| self.db.get(key))
            .map(|value| value.map(|value| value.to_vec()))
            .map_err(|source| ReadError::Storage { what: keys::describe(key), source })
    }

    fn range(&self, range: Range<Vec<u8>>) -> Box<dyn DoubleEndedIterator<Item = Row> + '_> {
        Box::new(Rows { rows: Some(self.db.range(range.clone())), range })
    }
}

/// Ends after the first error: sled would return it for ever.
struct Rows {
    rows: Option<sled::Iter>,
    range: Range<Vec<u8>>,
}

impl Rows {
    fn step(
        &mut self,
        next: impl FnOnce(&mut sled::Iter) -> Option<Result<(sled::IVec, sled::IVec), sled::Error>>,
    ) -> Option<Row> {
        let rows = self.rows.as_mut()?;
        match guarded(|| next(rows).transpose()) {
            Ok(row) => row.map(|(key, value)| Ok((key.to_vec(), value.to_vec()))),
            Err(source) => {
                self.rows = None;
                let what = format!(
                    "a row between {} and {}",
                    keys::describe(&self.range.start),
                    keys::describe(&self.range.end)
                );
                Some(Err(ReadError::Storage { what, source }))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Row> {
        self.step(DoubleEndedIterator::next_back)
    }
}

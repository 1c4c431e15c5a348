//! sled; the only file that uses it.
//!
//! What this file knows of sled 0.34: a flush ends in `sync_file_range`, so durability needs a sync of the file through
//! a descriptor of our own; an open or a read of a damaged file may panic; a killed open may leave a half-written
//! snapshot that fails every later one; an I/O error sticks until the next open; several callers of `flush_async`
//! deadlock. This file only knows bytes under keys; other files know what they mean.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::files::sync_dir;
use super::location::Generation;
use super::watermark::Extent;
use crate::journal::format::keys;
use crate::journal::tree::batch::Write;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{ReadError, Row, Table};

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
            // Only on open: sled's own settings file differs from this build's. A newer store would come with a newer
            // format of ours, which is detected before sled is opened.
            sled::Error::Unsupported(what) => Self::Damaged(what),
            sled::Error::CollectionNotFound(_) | sled::Error::ReportableBug(_) => Self::Store(error.to_string()),
        }
    }
}

pub(super) fn panicked(payload: &(dyn Any + Send)) -> StorageError {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    StorageError::Panicked(text)
}

/// Catches a panic of sled.
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
    /// A just closed database keeps its lock until sled's threads have closed it.
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
    /// Opens or creates. Runs on a thread of its own: a damaged file may make sled panic or loop forever; such a thread
    /// is abandoned, and its result dropped.
    pub(in crate::journal) fn open(dir: &Path, options: OpenOptions) -> Result<Self, StorageError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let path = dir.to_owned();
        thread::Builder::new()
            .name("journal-open".to_owned())
            .spawn(move || {
                // The receiver is gone if the open took too long.
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

    /// Applies one batch, of which nothing is durable before [`Database::sync`].
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

    /// Makes all applied batches durable.
    pub(in crate::journal) fn sync(&self) -> Result<(), StorageError> {
        guarded(|| self.db.flush())?;
        // A test checks that it would notice if the next step were missing.
        if crate::crash_points::skips_sync() {
            return Ok(());
        }
        // On Linux, sled 0.34 ends a flush in sync_file_range, which leaves the drive's own cache and the file's length
        // alone. Syncing sled's file too is what lets "committed" outlive a power cut, not only a crash of ours.
        self.file.sync_data().map_err(StorageError::from)
    }

    /// The length of its file, if it is in a journal's directory.
    pub(in crate::journal) fn extent(&self) -> io::Result<Option<Extent>> {
        let Some(directory) = self.directory else { return Ok(None) };
        Ok(Some(Extent { directory, length: self.file.metadata()?.len() }))
    }

    /// Releases it without waiting: closing a damaged database may take forever.
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
            // Every commit is flushed by its writer. An additional flusher would gain nothing, wake an idle agent twice
            // a second, and, should it panic, keep a damaged database from ever being closed.
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

/// Ends after the first error: sled would return it forever.
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

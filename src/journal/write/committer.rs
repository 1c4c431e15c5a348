//! The thread that commits: it writes batches to the database, one after the other, and reopens it after a failed
//! write.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::error::CommitError;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::crash_point;
use crate::journal::format::codec::Hash;
use crate::journal::format::entry::{Numbered, Record};
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::store::database::Database;
use crate::journal::store::files::StateDir;
use crate::journal::store::shared::SharedDatabase;
use crate::journal::store::watermark::WatermarkFile;
use crate::journal::tree::batch::{self, BatchError, State, Write};
use crate::journal::tree::recover;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::ReadError;
use crate::tasks::progress::Progress;

/// What a commit is doing, for its watchdog.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Writing and syncing.
    pub disk: Progress,
    /// All else.
    pub thread: Progress,
}

/// What one commit makes durable, and what writes it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) committer: Box<Committer>,
    pub(super) content: Content,
    /// The newest of the entries, or the one before them.
    pub(super) upto: Seq,
}

#[derive(Debug)]
pub(super) enum Content {
    Decided {
        entries: Vec<Numbered>,
        records: Vec<Record>,
    },
    /// The rows, if writing them failed.
    Built(Vec<Write>),
}

/// A batch whose write failed. Whether some or all of it is on disk makes no difference: the same rows are written
/// again.
#[derive(Debug)]
pub(super) struct Stalled {
    pub(super) committer: Box<Committer>,
    pub(super) writes: Vec<Write>,
    pub(super) upto: Seq,
    pub(super) reopened: bool,
}

#[derive(Debug)]
pub(super) enum Job {
    Write { batch: Batch, done: oneshot::Sender<Done> },
    Reopen { stalled: Box<Stalled>, done: oneshot::Sender<Done> },
}

#[derive(Debug)]
pub(super) enum Done {
    Written(Written),
    Reopened { stalled: Box<Stalled>, outcome: Result<(), CommitError> },
}

#[derive(Debug)]
pub(super) struct Written {
    pub(super) committer: Box<Committer>,
    pub(super) took: Duration,
    pub(super) outcome: Result<(), Unwritten>,
}

/// Why a batch was not written, and its rows if they may be written again.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) error: CommitError,
    pub(super) writes: Option<Vec<Write>>,
}

impl From<CommitError> for Unwritten {
    fn from(error: CommitError) -> Self {
        Self { error, writes: None }
    }
}

/// Starts the thread that commits. It ends with the journal.
pub(super) fn start_writer() -> Result<mpsc::SyncSender<Job>, CommitError> {
    let (jobs, queued) = mpsc::sync_channel::<Job>(1);
    thread::Builder::new()
        .name("zca-journal".to_owned())
        .spawn(move || {
            while let Ok(job) = queued.recv() {
                // Nothing waits for it any more if the process is ending.
                let _ = match job {
                    Job::Write { batch, done } => done.send(Done::Written(batch.write())),
                    Job::Reopen { mut stalled, done } => {
                        let outcome = stalled.reopen();
                        done.send(Done::Reopened { stalled, outcome })
                    }
                };
            }
        })
        .map_err(|error| CommitError::Storage(StorageError::Io(error)))?;
    Ok(jobs)
}

/// Writes batches, one after the other, on any thread.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) database: Arc<SharedDatabase>,
    pub(super) progress: Watched,
    pub(super) state_dir: StateDir,
    pub(super) mark: WatermarkFile,
    pub(super) mark_failed: bool,
    /// Where history ended before the batch that was built last.
    pub(super) before: (Seq, Hash),
    pub(super) state: State,
}

impl Batch {
    pub(super) fn write(self) -> Written {
        let Self { mut committer, content, upto } = self;
        let started = Instant::now();
        let outcome = committer.write(content);
        match &outcome {
            Ok(()) => {
                let progress = committer.progress.thread.clone();
                progress.during(|| {
                    let (hash, extent) = (committer.state.history.hash, committer.database.extent());
                    committer.mark(|mark| mark.set_high(upto, hash, extent?));
                });
            }
            Err(Unwritten { error, .. }) if error.is_damage() => committer.state_dir.mark_suspect(),
            Err(_) => {}
        }
        Written { committer, took: started.elapsed(), outcome }
    }
}

impl Stalled {
    pub(super) fn reopen(&mut self) -> Result<(), CommitError> {
        let Committer { database, before, state, .. } = self.committer.as_ref();
        let after = (state.history.last, state.history.hash);
        let ends_as_known = |opened: &Database| match recover::history(opened) {
            // Atomic: with all of the batch, or without it.
            Ok(HistoryRecord { last, hash, .. }) if (last, hash) == *before || (last, hash) == after => Ok(()),
            Ok(HistoryRecord { last, .. }) => {
                Err(StorageError::Damaged(format!("it ends at {last}, and had come to {}", before.0)))
            }
            Err(ReadError::Storage { source, .. }) => Err(source),
            Err(error) => Err(StorageError::Damaged(chain(&error))),
        };
        let opened = database.reopen(ends_as_known).map_err(CommitError::reopen);
        match &opened {
            Ok(()) => self.reopened = true,
            Err(error) if error.is_damage() => self.committer.state_dir.mark_suspect(),
            Err(_) => {}
        }
        opened
    }
}

impl Committer {
    fn write(&mut self, content: Content) -> Result<(), Unwritten> {
        let database = self.database.get().map_err(CommitError::write)?;
        let writes = match content {
            Content::Built(writes) => writes,
            Content::Decided { entries, records } => {
                self.before = (self.state.history.last, self.state.history.hash);
                let built = self.progress.thread.during(|| {
                    crash_point!("during_build");
                    batch::build(database.as_ref(), &mut self.state, &entries, &records)
                });
                built.map_err(|error| match error {
                    BatchError::Encode(error) => CommitError::Encode(error),
                    BatchError::Read(error) => CommitError::Read(error),
                })?
            }
        };
        drop(database);
        let written = self.progress.disk.during(|| {
            crash_point!("during_commit");
            self.database.write(&writes)
        });
        written.map_err(|error| {
            let writes = error.is_passing().then_some(writes);
            Unwritten { error: CommitError::write(error), writes }
        })
    }

    /// The side file guards against rare damage, and no promise depends on it: failing to write it is logged once.
    pub(super) fn mark(&mut self, write: impl FnOnce(&mut WatermarkFile) -> std::io::Result<()>) {
        match write(&mut self.mark) {
            Ok(()) => self.mark_failed = false,
            Err(error) if !self.mark_failed => {
                self.mark_failed = true;
                tracing::warn!(%error, "the journal's side file cannot be written; a lost tail may go unnoticed");
            }
            Err(_) => {}
        }
    }
}

//! The open journal: one owner stages what the core decided, commits it, and gets the effects that are free to go.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{self, BatchError, Pieces};
use super::codec::EncodeError;
use super::entry::{Known, Numbered, Record, Sealed};
use super::mark::MarkFile;
use super::reader::Reader;
use super::recover;
use super::space::{self, Space};
use super::store::{Database, StorageError};
use super::table::ReadError;
use crate::api::ids::{ReqId, Seq};

/// Commits over which the 99th percentile is taken.
const MEASURED: usize = 1024;

/// Why a commit failed. Whichever it was, the journal is failed for good and lets nothing out any more: what of the
/// batch is durable is found out by the next start.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("the journal cannot write: no space is left on its file system; nodes are not affected, free some space")]
    NoSpace(#[source] StorageError),
    #[error("the journal cannot write; nodes are not affected, and a restart finds out what was stored")]
    Storage(#[source] StorageError),
    #[error("the journal cannot read what a commit builds on")]
    Read(#[source] ReadError),
    #[error("the journal cannot store what was decided")]
    Encode(#[source] EncodeError),
    #[error("entry {found} was decided after entry {last}: the numbers of entries have to be gapless")]
    Sequence { last: Seq, found: Seq },
    #[error("the journal failed earlier and stores nothing any more")]
    Failed,
}

/// Figures for `status`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// The newest durable entry.
    pub last: Seq,
    pub commits: u64,
    /// Over the last 1024 commits; 0 before the first.
    pub commit_ms_p99: f64,
    pub open_ms: f64,
    pub bytes_on_disk: u64,
}

/// The journal, open for writing. Calls go stage, stage, …, commit, and round again; [`Journal::lookup`] sees what is
/// committed. One thread owns it: it blocks while it writes.
#[derive(Debug)]
pub struct Journal<E> {
    database: Arc<Database>,
    dir: PathBuf,
    state_dir: PathBuf,
    floors: (u64, u64),
    mark: MarkFile,
    pieces: Pieces,
    queue: Queue<E>,
    commits: u64,
    durations: VecDeque<Duration>,
    open_time: Duration,
    mark_failed: bool,
}

/// What [`super::open`] knows of the journal that it opened.
pub(super) struct Parts {
    pub(super) database: Database,
    pub(super) dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) request_floor: u64,
    pub(super) fact_floor: u64,
    pub(super) mark: MarkFile,
    pub(super) pieces: Pieces,
    pub(super) last: Seq,
    pub(super) open_time: Duration,
}

impl<E> Journal<E> {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            database: Arc::new(parts.database),
            dir: parts.dir,
            state_dir: parts.state_dir,
            floors: (parts.request_floor, parts.fact_floor),
            mark: parts.mark,
            pieces: parts.pieces,
            queue: Queue::new(parts.last),
            commits: 0,
            durations: VecDeque::with_capacity(MEASURED),
            open_time: parts.open_time,
            mark_failed: false,
        }
    }

    /// Takes in a decision. Returned are effects that may go at once, because all they rest on is durable already; the
    /// others come out of the commit that makes their entries so.
    pub fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        self.queue.stage(sealed)
    }

    /// Makes everything staged and `records` durable in one batch, and returns the effects that waited for it, in the
    /// order of their staging. Does nothing, and touches no file, if there is neither.
    pub fn commit(&mut self, records: Vec<Record>) -> Result<Vec<E>, CommitError> {
        self.queue.check()?;
        if self.queue.entries.is_empty() && records.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        if let Err(error) = self.write(&records) {
            self.queue.fail();
            return Err(error);
        }
        let effects = self.queue.release();
        self.commits += 1;
        if self.durations.len() == MEASURED {
            self.durations.pop_front();
        }
        self.durations.push_back(started.elapsed());
        let outcome = self.mark.set_high(self.queue.durable);
        self.note_mark(outcome);
        Ok(effects)
    }

    fn write(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let writes =
            batch::build(self.database.as_ref(), &mut self.pieces, &self.queue.entries, records).map_err(|error| {
                match error {
                    BatchError::Encode(error) => CommitError::Encode(error),
                    BatchError::Read(error) => CommitError::Read(error),
                }
            })?;
        self.database.write(writes).map_err(|error| match error {
            StorageError::NoSpace(_) => CommitError::NoSpace(error),
            StorageError::Damaged(_)
            | StorageError::Panicked(_)
            | StorageError::ReadOnly(_)
            | StorageError::Locked
            | StorageError::Timeout(_)
            | StorageError::Io(_)
            | StorageError::Store(_) => CommitError::Storage(error),
        })
    }

    /// The newest durable entry.
    pub fn durable(&self) -> Seq {
        self.queue.durable
    }

    /// The newest entry taken in, durable or not: the next has the number after it.
    pub fn staged(&self) -> Seq {
        self.queue.staged
    }

    /// What is durable about a reqid; an empty one is never known. An error that is damage makes the next start read
    /// the whole journal and salvage what it can.
    pub fn lookup(&self, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
        let known = recover::lookup(self.database.as_ref(), reqid);
        if let Err(error) = &known
            && error.is_damage()
            && let Err(failed) = super::open::suspect(&self.state_dir)
        {
            tracing::warn!(error = %failed, "the next start cannot be told that the journal is damaged");
        }
        known
    }

    /// The responses of all completions up to this entry have left: a start need not send them again. Kept in the side
    /// file, which is not synced: after a power cut some may be sent again.
    pub fn mark_sent(&mut self, upto: Seq) {
        let outcome = self.mark.set_sent(upto.min(self.queue.durable));
        self.note_mark(outcome);
    }

    /// The side file guards against damage that is rare and does not carry promises: failing to write it is told once.
    fn note_mark(&mut self, outcome: std::io::Result<()>) {
        match outcome {
            Ok(()) => self.mark_failed = false,
            Err(error) if !self.mark_failed => {
                self.mark_failed = true;
                tracing::warn!(%error, "the journal's side file cannot be written; a lost tail may go unnoticed");
            }
            Err(_) => {}
        }
    }

    /// Free space, and the floors it is measured by.
    pub fn space(&self) -> std::io::Result<Space> {
        let (request_floor, fact_floor) = self.floors;
        Ok(Space { free: space::free(&self.dir)?, request_floor, fact_floor })
    }

    pub fn stats(&self) -> Stats {
        Stats {
            last: self.durable(),
            commits: self.commits,
            commit_ms_p99: percentile_99(&self.durations).as_secs_f64() * 1000.0,
            open_ms: self.open_time.as_secs_f64() * 1000.0,
            bytes_on_disk: space::used(&self.dir).unwrap_or(0),
        }
    }

    /// A handle for readers on other threads; cheap, and it sees commits as they happen.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.database))
    }

    /// The state directory that the journal belongs to.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

fn percentile_99(durations: &VecDeque<Duration>) -> Duration {
    let mut sorted: Vec<Duration> = durations.iter().copied().collect();
    sorted.sort_unstable();
    let rank = (sorted.len() * 99).div_ceil(100);
    rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or_default()
}

/// What is staged and not durable, and the effects behind it. Shared with the journal for tests.
#[derive(Debug)]
pub(super) struct Queue<E> {
    pub(super) durable: Seq,
    pub(super) staged: Seq,
    pub(super) entries: Vec<Numbered>,
    waiting: VecDeque<(Seq, Vec<E>)>,
    wrong: Option<(Seq, Seq)>,
    failed: bool,
}

impl<E> Queue<E> {
    pub(super) fn new(last: Seq) -> Self {
        Self { durable: last, staged: last, entries: Vec::new(), waiting: VecDeque::new(), wrong: None, failed: false }
    }

    pub(super) fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        if self.failed {
            return Vec::new();
        }
        let (entries, effects, behind) = sealed.open();
        let immediate = entries.is_empty() && behind <= self.durable;
        for numbered in entries {
            if numbered.seq != self.staged.next() && self.wrong.is_none() {
                self.wrong = Some((self.staged, numbered.seq));
            }
            self.staged = numbered.seq;
            self.entries.push(numbered);
        }
        if immediate {
            return effects;
        }
        if !effects.is_empty() {
            self.waiting.push_back((behind, effects));
        }
        Vec::new()
    }

    /// Whether what is staged may be written.
    pub(super) fn check(&mut self) -> Result<(), CommitError> {
        if self.failed {
            return Err(CommitError::Failed);
        }
        if let Some((last, found)) = self.wrong {
            self.fail();
            return Err(CommitError::Sequence { last, found });
        }
        Ok(())
    }

    /// Everything staged is durable.
    pub(super) fn release(&mut self) -> Vec<E> {
        self.durable = self.staged;
        self.entries.clear();
        let mut free = Vec::new();
        let mut kept = VecDeque::new();
        for (behind, effects) in self.waiting.drain(..) {
            if behind <= self.durable {
                free.extend(effects);
            } else {
                kept.push_back((behind, effects));
            }
        }
        self.waiting = kept;
        free
    }

    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.waiting.clear();
    }
}

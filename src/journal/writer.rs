//! The open journal: one owner stages what the core decided, commits it, and gets the effects that are free to go.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batch::{self, BatchError, State};
use super::codec::{EncodeError, Hash};
use super::entry::{Known, Numbered, Record, Sealed};
use super::mark::MarkFile;
use super::reader::Reader;
use super::recover;
use super::space::{self, Space};
use super::store::{Database, StorageError};
use super::table::ReadError;
use super::versions::records::HistoryRecord;
use crate::api::ids::{ReqId, Seq};
use crate::crash_point;

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

impl CommitError {
    /// What is on disk is wrong, as opposed to a disk that takes nothing in.
    fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_damage(),
            Self::Read(error) => error.is_damage(),
            Self::NoSpace(_) | Self::Encode(_) | Self::Sequence { .. } | Self::Failed => false,
        }
    }
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

/// The journal, open for writing. One owner stages what is decided and has it committed: at once, blocking
/// ([`Journal::commit`]), or beside further staging ([`Journal::submit`], then [`Journal::committed`]). One commit is under
/// way at a time; what is staged meanwhile shares the next. [`Journal::lookup`] sees what is committed, and may see what is
/// about to be.
#[derive(Debug)]
pub struct Journal<E> {
    database: Arc<Database>,
    dir: PathBuf,
    state_dir: PathBuf,
    floors: (u64, u64),
    /// The hash of the newest durable entry.
    hash: Hash,
    queue: Queue<E>,
    /// Away while a commit is under way beside us.
    committer: Option<Box<Committer>>,
    under_way: Option<UnderWay>,
    /// Started by the first commit that is to run beside us. Room for the one that may be under way.
    writer: Option<mpsc::SyncSender<Job>>,
    sent: Seq,
    commits: u64,
    durations: VecDeque<Duration>,
    open_time: Duration,
}

/// A commit that the writer's thread makes.
#[derive(Debug)]
struct UnderWay {
    upto: Seq,
    done: oneshot::Receiver<Done>,
}

/// What one commit makes durable, and who writes it.
#[derive(Debug)]
struct Batch {
    committer: Box<Committer>,
    entries: Vec<Numbered>,
    records: Vec<Record>,
    /// The newest of the entries, or the one before them.
    upto: Seq,
}

#[derive(Debug)]
struct Job {
    batch: Batch,
    done: oneshot::Sender<Done>,
}

#[derive(Debug)]
struct Done {
    committer: Box<Committer>,
    took: Duration,
    outcome: Result<(), CommitError>,
}

/// What [`super::open`] knows of the journal that it opened.
pub(super) struct Parts {
    pub(super) database: Database,
    pub(super) dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) request_floor: u64,
    pub(super) fact_floor: u64,
    pub(super) mark: MarkFile,
    pub(super) state: State,
    pub(super) open_time: Duration,
}

impl<E> Journal<E> {
    pub(super) fn new(parts: Parts) -> Self {
        let database = Arc::new(parts.database);
        let HistoryRecord { last, hash, .. } = parts.state.history;
        let committer = Committer {
            database: Arc::clone(&database),
            state_dir: parts.state_dir.clone(),
            mark: parts.mark,
            mark_failed: false,
            state: parts.state,
        };
        Self {
            database,
            dir: parts.dir,
            state_dir: parts.state_dir,
            floors: (parts.request_floor, parts.fact_floor),
            queue: Queue::new(last),
            hash,
            committer: Some(Box::new(committer)),
            under_way: None,
            writer: None,
            sent: Seq(0),
            commits: 0,
            durations: VecDeque::with_capacity(MEASURED),
            open_time: parts.open_time,
        }
    }

    /// Takes in a decision. Returned are effects that may go at once, because all they rest on is durable already; the
    /// others come out of the commit that makes their entries so.
    pub fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        self.queue.stage(sealed)
    }

    /// Makes everything staged and `records` durable in one batch, and returns the effects that waited for it, in the
    /// order of their staging. Does nothing, and touches no file, if there is neither. Blocks; no other commit may be
    /// under way.
    pub fn commit(&mut self, records: Vec<Record>) -> Result<Vec<E>, CommitError> {
        let Some(batch) = self.batch(records)? else { return Ok(Vec::new()) };
        let upto = batch.upto;
        self.take_back(batch.write(), upto)
    }

    /// Begins to make everything staged and `records` durable in one batch, on a thread of its own; nothing if there is
    /// neither. [`Journal::committed`] gives the outcome. No other commit may be under way.
    pub fn submit(&mut self, records: Vec<Record>) -> Result<(), CommitError> {
        let Some(batch) = self.batch(records)? else { return Ok(()) };
        let upto = batch.upto;
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => start_writer().inspect_err(|_| self.queue.fail())?,
        };
        let (done, receiver) = oneshot::channel();
        // The thread ends by a panic alone; then there is nobody who could give an outcome.
        let _ = writer.send(Job { batch, done });
        self.writer = Some(writer);
        self.under_way = Some(UnderWay { upto, done: receiver });
        Ok(())
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for the commit that is under way, and returns the effects that waited for it, in the order of their staging.
    /// Without one it waits for ever. May be dropped and called again.
    pub async fn committed(&mut self) -> Result<Vec<E>, CommitError> {
        let Some(UnderWay { upto, done }) = &mut self.under_way else { return std::future::pending().await };
        let (upto, done) = (*upto, done.await);
        self.under_way = None;
        match done {
            Ok(done) => self.take_back(done, upto),
            Err(_) => {
                self.queue.fail();
                Err(CommitError::Failed)
            }
        }
    }

    /// What the next commit has to write; `None` if that is nothing.
    fn batch(&mut self, records: Vec<Record>) -> Result<Option<Batch>, CommitError> {
        self.queue.check()?;
        assert!(self.under_way.is_none(), "one commit at a time");
        if self.queue.entries.is_empty() && records.is_empty() {
            return Ok(None);
        }
        let committer = self.committer.take().ok_or(CommitError::Failed)?;
        let (entries, upto) = self.queue.take();
        Ok(Some(Batch { committer, entries, records, upto }))
    }

    fn take_back(&mut self, done: Done, upto: Seq) -> Result<Vec<E>, CommitError> {
        let Done { committer, took, outcome } = done;
        let hash = committer.state.history.hash;
        self.committer = Some(committer);
        if let Err(error) = outcome {
            self.queue.fail();
            return Err(error);
        }
        self.hash = hash;
        self.commits += 1;
        if self.durations.len() == MEASURED {
            self.durations.pop_front();
        }
        self.durations.push_back(took);
        Ok(self.queue.release(upto))
    }

    /// The newest durable entry.
    pub fn durable(&self) -> Seq {
        self.queue.durable
    }

    /// The newest durable entry and its hash: who notes them elsewhere can prove later that this journal was not
    /// rewritten.
    pub fn head(&self) -> (Seq, Hash) {
        (self.queue.durable, self.hash)
    }

    /// The newest entry taken in, durable or not: the next has the number after it.
    pub fn staged(&self) -> Seq {
        self.queue.staged
    }

    /// What is durable about a reqid; an empty one is never known. An error that is damage makes the next start read
    /// the whole journal and salvage what it can.
    pub fn lookup(&self, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
        let known = recover::lookup(self.database.as_ref(), reqid);
        if known.as_ref().is_err_and(ReadError::is_damage) {
            suspect(&self.state_dir);
        }
        known
    }

    /// The responses of all completions up to this entry have left: a start need not send them again. Kept in the side
    /// file, which is not synced: after a power cut some may be sent again. While a commit is under way it is only
    /// remembered, for the next call.
    pub fn mark_sent(&mut self, upto: Seq) {
        self.sent = self.sent.max(upto.min(self.queue.durable));
        if let Some(committer) = &mut self.committer {
            committer.mark(|mark| mark.set_sent(self.sent));
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

/// Has the next start read everything: what a start reads by itself may be whole.
fn suspect(state_dir: &Path) {
    if let Err(error) = super::open::suspect(state_dir) {
        tracing::warn!(%error, "the next start cannot be told that the journal is damaged");
    }
}

/// Starts the thread that commits. It ends with the journal.
fn start_writer() -> Result<mpsc::SyncSender<Job>, CommitError> {
    let (jobs, queued) = mpsc::sync_channel::<Job>(1);
    thread::Builder::new()
        .name("zca-journal".to_owned())
        .spawn(move || {
            while let Ok(Job { batch, done }) = queued.recv() {
                // Nobody waits for it any more when the process is ending anyway.
                let _ = done.send(batch.write());
            }
        })
        .map_err(|error| CommitError::Storage(StorageError::Io(error)))?;
    Ok(jobs)
}

/// Writes batches, one after the other, on whatever thread it is.
#[derive(Debug)]
struct Committer {
    database: Arc<Database>,
    state_dir: PathBuf,
    mark: MarkFile,
    mark_failed: bool,
    state: State,
}

impl Batch {
    fn write(self) -> Done {
        let Self { mut committer, entries, records, upto } = self;
        let started = Instant::now();
        crash_point!("during_commit");
        let outcome = committer.write(&entries, &records);
        match &outcome {
            Ok(()) => {
                let hash = committer.state.history.hash;
                committer.mark(|mark| mark.set_high(upto, hash));
            }
            Err(error) if error.is_damage() => suspect(&committer.state_dir),
            Err(_) => {}
        }
        Done { committer, took: started.elapsed(), outcome }
    }
}

impl Committer {
    fn write(&mut self, entries: &[Numbered], records: &[Record]) -> Result<(), CommitError> {
        let writes =
            batch::build(self.database.as_ref(), &mut self.state, entries, records).map_err(|error| match error {
                BatchError::Encode(error) => CommitError::Encode(error),
                BatchError::Read(error) => CommitError::Read(error),
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

    /// The side file guards against damage that is rare and does not carry promises: failing to write it is told once.
    fn mark(&mut self, write: impl FnOnce(&mut MarkFile) -> std::io::Result<()>) {
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

    /// What is staged, for a commit: its entries, and the newest of all.
    pub(super) fn take(&mut self) -> (Vec<Numbered>, Seq) {
        (std::mem::take(&mut self.entries), self.staged)
    }

    /// Everything up to there is durable.
    pub(super) fn release(&mut self, upto: Seq) -> Vec<E> {
        self.durable = upto;
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

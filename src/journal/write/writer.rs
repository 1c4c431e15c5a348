//! The open journal: one owner stages what the core decided, commits it, and gets the effects that are free to go.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::compact::Compactor;
use crate::api::ids::{ReqId, Seq};
use crate::api::report::chain;
use crate::crash_point;
use crate::journal::format::codec::{EncodeError, Hash};
use crate::journal::format::entry::{Entry, Known, Numbered, Record, Sealed};
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::read::reader::Reader;
use crate::journal::store::database::{Database, Shared, StorageError};
use crate::journal::store::space::{self, Gauge, Space};
use crate::journal::store::watermark::MarkFile;
use crate::journal::tree::batch::{self, BatchError, State, Write};
use crate::journal::tree::recover;
use crate::journal::tree::table::ReadError;
use crate::tasks::progress::Progress;

/// Commits over which the 99th percentile is taken.
const MEASURED: usize = 1024;

/// Why a commit failed. If that passes ([`CommitError::is_passing`]), the journal keeps the batch, to be written once
/// there is space; else it is failed for good and lets nothing out any more: what of the batch is durable is found out by
/// the next start.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("the journal cannot write: no space is left on its file system; nodes are not affected, free some space")]
    NoSpace(#[source] StorageError),
    #[error("the journal cannot write: its file system is read-only; nodes are not affected, remount it writable")]
    ReadOnly(#[source] StorageError),
    #[error("the journal cannot be opened again while somebody reads it; the agent tries again")]
    BeingRead(#[source] StorageError),
    #[error("the journal cannot write; nodes are not affected, and a restart finds out what was stored")]
    Storage(#[source] StorageError),
    #[error("the journal cannot read what a commit builds on")]
    Read(#[source] ReadError),
    #[error("the journal cannot store what was decided")]
    Encode(#[source] EncodeError),
    #[error("entry {found} was decided after entry {last}: the numbers of entries have to be gapless")]
    Sequence { last: Seq, found: Seq },
    #[error("the journal failed earlier and stores nothing more: the agent's log says why; restart the agent")]
    Failed,
}

impl CommitError {
    /// The file system takes nothing in at the moment. Nothing is lost: [`Journal::reopen`] tries again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoSpace(_) | Self::ReadOnly(_) | Self::BeingRead(_) => true,
            Self::Storage(_) | Self::Read(_) | Self::Encode(_) | Self::Sequence { .. } | Self::Failed => false,
        }
    }

    fn write(error: StorageError) -> Self {
        match error {
            StorageError::NoSpace(_) => Self::NoSpace(error),
            StorageError::ReadOnly(_) => Self::ReadOnly(error),
            StorageError::Damaged(_)
            | StorageError::Panicked(_)
            | StorageError::Locked
            | StorageError::Timeout(_)
            | StorageError::Closed
            | StorageError::Undecided
            | StorageError::Io(_)
            | StorageError::Store(_) => Self::Storage(error),
        }
    }

    fn reopen(error: StorageError) -> Self {
        match error {
            StorageError::Locked => Self::BeingRead(error),
            error => Self::write(error),
        }
    }

    /// What is on disk is wrong, as opposed to a disk that takes nothing in.
    fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_damage(),
            Self::Read(error) => error.is_damage(),
            Self::NoSpace(_)
            | Self::ReadOnly(_)
            | Self::BeingRead(_)
            | Self::Encode(_)
            | Self::Sequence { .. }
            | Self::Failed => false,
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

/// What a commit is doing, for a watch over it.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Writing and syncing.
    pub disk: Progress,
    /// All else.
    pub thread: Progress,
}

/// The journal, open for writing. One owner stages what is decided and has it committed: at once, blocking
/// ([`Journal::commit`]), or beside further staging ([`Journal::submit`], then [`Journal::committed`]). One commit is under
/// way at a time; what is staged meanwhile shares the next. [`Journal::lookup`] sees what is committed, and may see what is
/// about to be.
///
/// After a commit that failed for a reason that passes, the journal is stalled: [`Journal::reopen`], whose outcome
/// [`Journal::committed`] gives too, opens the store again, since the old one reports what it met for ever, and then
/// [`Journal::resubmit`] writes the batch that was kept.
#[derive(Debug)]
pub struct Journal<E> {
    database: Arc<Shared>,
    progress: Watched,
    state_dir: PathBuf,
    gauge: Gauge,
    /// The hash of the newest durable entry.
    hash: Hash,
    queue: Queue<E>,
    /// Away while a commit is under way beside us.
    committer: Option<Box<Committer>>,
    under_way: Option<UnderWay>,
    stalled: Option<Stalled>,
    /// Started by the first commit that is to run beside us. Room for the one that may be under way.
    writer: Option<mpsc::SyncSender<Job>>,
    sent: Seq,
    commits: u64,
    durations: VecDeque<Duration>,
    open_time: Duration,
}

/// What the writer's thread does for us.
#[derive(Debug)]
struct UnderWay {
    /// The newest entry that a commit makes durable; `None`: the store is opened again.
    upto: Option<Seq>,
    done: oneshot::Receiver<Done>,
}

/// What became of what was under way.
#[derive(Debug)]
pub enum Step<E> {
    /// These effects waited for the commit.
    Committed(Vec<E>),
    /// The store is open again, and [`Journal::resubmit`] is next.
    Reopened,
}

/// What one commit makes durable, and who writes it.
#[derive(Debug)]
struct Batch {
    committer: Box<Committer>,
    content: Content,
    /// The newest of the entries, or the one before them.
    upto: Seq,
}

#[derive(Debug)]
enum Content {
    Decided {
        entries: Vec<Numbered>,
        records: Vec<Record>,
    },
    /// What they came to, when it was written in vain.
    Built(Vec<Write>),
}

/// A batch that was written in vain. Whether some or all of it is on disk makes no difference: the same rows are written
/// again.
#[derive(Debug)]
struct Stalled {
    committer: Box<Committer>,
    writes: Vec<Write>,
    upto: Seq,
    reopened: bool,
}

#[derive(Debug)]
enum Job {
    Write { batch: Batch, done: oneshot::Sender<Done> },
    Reopen { stalled: Box<Stalled>, done: oneshot::Sender<Done> },
}

#[derive(Debug)]
enum Done {
    Written(Written),
    Reopened { stalled: Box<Stalled>, outcome: Result<(), CommitError> },
}

#[derive(Debug)]
struct Written {
    committer: Box<Committer>,
    took: Duration,
    outcome: Result<(), Unwritten>,
}

/// Why a batch was not written, and its rows if they may be written again.
#[derive(Debug)]
struct Unwritten {
    error: CommitError,
    writes: Option<Vec<Write>>,
}

impl From<CommitError> for Unwritten {
    fn from(error: CommitError) -> Self {
        Self { error, writes: None }
    }
}

/// What [`crate::journal::open::opening`] knows of the journal that it opened.
pub(in crate::journal) struct Parts {
    pub(in crate::journal) database: Shared,
    pub(in crate::journal) gauge: Gauge,
    pub(in crate::journal) state_dir: PathBuf,
    pub(in crate::journal) mark: MarkFile,
    pub(in crate::journal) state: State,
    pub(in crate::journal) open_time: Duration,
}

impl<E> Journal<E> {
    pub(in crate::journal) fn new(parts: Parts) -> Self {
        let database = Arc::new(parts.database);
        let HistoryRecord { last, hash, .. } = parts.state.history;
        let progress = Watched::default();
        let committer = Committer {
            database: Arc::clone(&database),
            progress: progress.clone(),
            state_dir: parts.state_dir.clone(),
            mark: parts.mark,
            mark_failed: false,
            before: (last, hash),
            state: parts.state,
        };
        Self {
            database,
            progress,
            state_dir: parts.state_dir,
            gauge: parts.gauge,
            queue: Queue::new(last),
            hash,
            committer: Some(Box::new(committer)),
            under_way: None,
            stalled: None,
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

    /// Opens the store again after a commit that failed for a reason that passes, and makes its batch durable. Blocks.
    pub fn commit_again(&mut self) -> Result<Vec<E>, CommitError> {
        let Some(mut stalled) = self.stalled.take() else { return Ok(Vec::new()) };
        let reopened = stalled.reopen();
        self.stalled = Some(stalled);
        reopened.inspect_err(|error| self.fail_unless_passing(error))?;
        let Some(batch) = self.kept_batch() else { return Ok(Vec::new()) };
        let upto = batch.upto;
        self.take_back(batch.write(), upto)
    }

    /// Begins to make everything staged and `records` durable in one batch, on a thread of its own; nothing if there is
    /// neither. [`Journal::committed`] gives the outcome. No other commit may be under way.
    pub fn submit(&mut self, records: Vec<Record>) -> Result<(), CommitError> {
        match self.batch(records)? {
            Some(batch) => self.begin(batch),
            None => Ok(()),
        }
    }

    /// Whether a batch is kept that was written in vain. Until it is written nothing else is.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Begins to open the store again, on a thread of its own; nothing if the journal is not stalled or already is so far.
    pub fn reopen(&mut self) -> Result<(), CommitError> {
        match self.stalled.take() {
            Some(stalled) if !stalled.reopened && self.under_way.is_none() => {
                let (done, receiver) = oneshot::channel();
                self.hand_over(Job::Reopen { stalled: Box::new(stalled), done })?;
                self.under_way = Some(UnderWay { upto: None, done: receiver });
            }
            kept => self.stalled = kept,
        }
        Ok(())
    }

    /// Begins to write the batch that was kept, once the store is open again; whether there is one.
    pub fn resubmit(&mut self) -> Result<bool, CommitError> {
        match self.kept_batch() {
            Some(batch) => self.begin(batch).map(|()| true),
            None => Ok(false),
        }
    }

    fn kept_batch(&mut self) -> Option<Batch> {
        let Stalled { committer, writes, upto, .. } = self.stalled.take_if(|stalled| stalled.reopened)?;
        Some(Batch { committer, content: Content::Built(writes), upto })
    }

    fn begin(&mut self, batch: Batch) -> Result<(), CommitError> {
        let upto = batch.upto;
        let (done, receiver) = oneshot::channel();
        self.hand_over(Job::Write { batch, done })?;
        self.under_way = Some(UnderWay { upto: Some(upto), done: receiver });
        Ok(())
    }

    fn hand_over(&mut self, job: Job) -> Result<(), CommitError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => start_writer().inspect_err(|_| self.queue.fail())?,
        };
        // The thread ends by a panic alone; then there is nobody who could give an outcome.
        let _ = writer.send(job);
        self.writer = Some(writer);
        Ok(())
    }

    /// Whether a commit, or opening again, is under way.
    pub fn is_committing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for what is under way, and returns the effects that waited for it, in the order of their staging.
    /// Without anything it waits for ever. May be dropped and called again.
    pub async fn committed(&mut self) -> Result<Step<E>, CommitError> {
        let Some(UnderWay { upto, done }) = &mut self.under_way else { return std::future::pending().await };
        let (upto, done) = (*upto, done.await);
        self.under_way = None;
        match (done, upto) {
            (Ok(Done::Written(written)), Some(upto)) => self.take_back(written, upto).map(Step::Committed),
            (Ok(Done::Reopened { stalled, outcome }), _) => {
                self.stalled = Some(*stalled);
                outcome.inspect_err(|error| self.fail_unless_passing(error))?;
                Ok(Step::Reopened)
            }
            (Ok(Done::Written(_)), None) | (Err(_), _) => {
                self.queue.fail();
                Err(CommitError::Failed)
            }
        }
    }

    fn fail_unless_passing(&mut self, error: &CommitError) {
        if !error.is_passing() {
            self.queue.fail();
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
        Ok(Some(Batch { committer, content: Content::Decided { entries, records }, upto }))
    }

    fn take_back(&mut self, written: Written, upto: Seq) -> Result<Vec<E>, CommitError> {
        let Written { committer, took, outcome } = written;
        let hash = committer.state.history.hash;
        match outcome {
            Ok(()) => self.committer = Some(committer),
            Err(Unwritten { error, writes: Some(writes) }) => {
                self.stalled = Some(Stalled { committer, writes, upto, reopened: false });
                return Err(error);
            }
            Err(Unwritten { error, writes: None }) => {
                self.committer = Some(committer);
                self.queue.fail();
                return Err(error);
            }
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
        let database =
            self.database.get().map_err(|source| ReadError::Storage { what: "a reqid".to_owned(), source })?;
        let known = recover::lookup(database.as_ref(), reqid);
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

    /// Free space, and what it is measured by.
    pub fn space(&self) -> std::io::Result<Space> {
        self.gauge.measure()
    }

    /// As [`Journal::space`]; gives the ballast file back or makes it anew, as the space asks for it.
    pub fn tend_space(&mut self) -> std::io::Result<Space> {
        self.gauge.tend()
    }

    /// Gives the ballast back whatever was measured: a write has failed. Whether there was any.
    pub fn give_back_ballast(&mut self) -> std::io::Result<bool> {
        self.gauge.give_back()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            last: self.durable(),
            commits: self.commits,
            commit_ms_p99: percentile_99(&self.durations).as_secs_f64() * 1000.0,
            open_ms: self.open_time.as_secs_f64() * 1000.0,
            bytes_on_disk: space::used(&self.database.place().dir()).unwrap_or(0),
        }
    }

    /// A handle for readers on other threads; cheap, and it sees commits as they happen.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.database))
    }

    /// What a watch over commits looks at.
    pub fn progress(&self) -> Watched {
        self.progress.clone()
    }

    /// A handle for making its files small, on another thread.
    pub fn compactor(&self) -> Compactor {
        let floor = self.gauge.fact_floor();
        Compactor { database: Arc::clone(&self.database), state_dir: self.state_dir.clone(), floor }
    }

    /// Whether somebody waits for what is not durable yet: it is more than rows that tell of duplicates.
    pub fn is_urgent(&self) -> bool {
        self.queue.is_urgent()
    }

    /// The state directory that the journal belongs to.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

/// Has the next start read everything: what a start reads by itself may be whole.
fn suspect(state_dir: &Path) {
    if let Err(error) = crate::journal::open::opening::suspect(state_dir) {
        tracing::warn!(%error, "the next start cannot be told that the journal is damaged");
    }
}

/// Starts the thread that commits. It ends with the journal.
fn start_writer() -> Result<mpsc::SyncSender<Job>, CommitError> {
    let (jobs, queued) = mpsc::sync_channel::<Job>(1);
    thread::Builder::new()
        .name("zca-journal".to_owned())
        .spawn(move || {
            while let Ok(job) = queued.recv() {
                // Nobody waits for it any more when the process is ending anyway.
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

/// Writes batches, one after the other, on whatever thread it is.
#[derive(Debug)]
struct Committer {
    database: Arc<Shared>,
    progress: Watched,
    state_dir: PathBuf,
    mark: MarkFile,
    mark_failed: bool,
    /// Where history ended before the batch that was built last.
    before: (Seq, Hash),
    state: State,
}

impl Batch {
    fn write(self) -> Written {
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
            Err(Unwritten { error, .. }) if error.is_damage() => suspect(&committer.state_dir),
            Err(_) => {}
        }
        Written { committer, took: started.elapsed(), outcome }
    }
}

impl Stalled {
    fn reopen(&mut self) -> Result<(), CommitError> {
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
            Err(error) if error.is_damage() => suspect(&self.committer.state_dir),
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
pub(in crate::journal) struct Queue<E> {
    pub(in crate::journal) durable: Seq,
    pub(in crate::journal) staged: Seq,
    pub(in crate::journal) entries: Vec<Numbered>,
    waiting: VecDeque<(Seq, Vec<E>)>,
    wrong: Option<(Seq, Seq)>,
    failed: bool,
}

impl<E> Queue<E> {
    pub(in crate::journal) fn new(last: Seq) -> Self {
        Self { durable: last, staged: last, entries: Vec::new(), waiting: VecDeque::new(), wrong: None, failed: false }
    }

    pub(in crate::journal) fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
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

    /// Whether somebody waits for what is not durable yet: it is more than rows that tell of duplicates.
    pub(in crate::journal) fn is_urgent(&self) -> bool {
        !self.waiting.is_empty() || !self.entries.iter().all(|one| matches!(one.entry, Entry::DuplicateSeen { .. }))
    }

    /// Whether what is staged may be written.
    pub(in crate::journal) fn check(&mut self) -> Result<(), CommitError> {
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
    pub(in crate::journal) fn take(&mut self) -> (Vec<Numbered>, Seq) {
        (std::mem::take(&mut self.entries), self.staged)
    }

    /// Everything up to there is durable.
    pub(in crate::journal) fn release(&mut self, upto: Seq) -> Vec<E> {
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

    pub(in crate::journal) fn fail(&mut self) {
        self.failed = true;
        self.waiting.clear();
    }
}

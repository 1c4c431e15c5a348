//! The open journal: one owner stages what the core decided, commits it, and gets the effects that are released.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::committer::{Batch, Committer, Content, Done, Job, Stalled, Unwritten, Watched, Written, start_writer};
use super::compact::Compactor;
use super::error::CommitError;
use super::queue::Queue;
use crate::api::ids::{ReqId, Seq};
use crate::journal::format::codec::Hash;
use crate::journal::format::entry::{Known, Record, Sealed};
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::read::reader::Reader;
use crate::journal::store::files::StateDir;
use crate::journal::store::shared::SharedDatabase;
use crate::journal::store::space::{self, Gauge, Space};
use crate::journal::store::watermark::WatermarkFile;
use crate::journal::tree::batch::State;
use crate::journal::tree::recover;
use crate::journal::tree::table::ReadError;

/// The number of commits over which the 99th percentile is taken.
const MEASURED: usize = 1024;
/// An hour. Longer commits count as this long.
const LONGEST_US: u64 = 3_600_000_000;

/// Statistics for `status`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// The newest durable entry.
    pub last: Seq,
    /// Since it was opened, counting those that wrote something.
    pub commits: u64,
    /// Over the last 1024 commits; 0 before the first.
    pub commit_ms_p99: f64,
    /// How long opening it took, in milliseconds.
    pub open_ms: f64,
    /// The size of its directory; 0 if that cannot be determined.
    pub bytes_on_disk: u64,
}

/// The journal, open for writing. One owner stages what is decided and has it committed: at once, blocking
/// ([`Journal::commit`]), or in parallel with further staging ([`Journal::submit`], then [`Journal::committed`]). There
/// is one commit at a time; what is staged meanwhile shares the next. [`Journal::lookup`] sees what is committed, and
/// may see what is about to be.
///
/// After a commit that failed for a temporary reason, the journal is stalled: [`Journal::reopen`], whose outcome
/// [`Journal::committed`] also returns, reopens the store, since the old one keeps reporting the same error, and then
/// [`Journal::resubmit`] writes the batch that was kept.
#[derive(Debug)]
pub struct Journal<E> {
    database: Arc<SharedDatabase>,
    progress: Watched,
    state_dir: StateDir,
    gauge: Gauge,
    /// The hash of the newest durable entry.
    hash: Hash,
    queue: Queue<E>,
    /// `None` while a commit runs on the other thread.
    committer: Option<Box<Committer>>,
    under_way: Option<UnderWay>,
    stalled: Option<Stalled>,
    /// Started by the first commit that runs on another thread. Capacity for the one that may be running.
    writer: Option<mpsc::SyncSender<Job>>,
    sent: Seq,
    commits: u64,
    durations: VecDeque<Duration>,
    open_time: Duration,
}

/// What the writer's thread does for us.
#[derive(Debug)]
struct UnderWay {
    /// The newest entry that a commit makes durable; `None`: the store is being reopened.
    upto: Option<Seq>,
    done: oneshot::Receiver<Done>,
}

/// The outcome of the commit or reopening.
#[derive(Debug)]
pub enum WriterOutcome<E> {
    /// These effects waited for the commit.
    Committed(Vec<E>),
    /// The store is reopened, and [`Journal::resubmit`] is next.
    Reopened,
}

/// What the code that opened the journal knows about it.
pub(in crate::journal) struct Parts {
    pub(in crate::journal) database: SharedDatabase,
    pub(in crate::journal) gauge: Gauge,
    pub(in crate::journal) state_dir: StateDir,
    pub(in crate::journal) mark: WatermarkFile,
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

    /// Stages a decision. Returns effects that are released at once, because everything they depend on is already
    /// durable; the others are returned by the commit that makes their entries durable.
    pub fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        self.queue.stage(sealed)
    }

    /// Makes everything staged and `records` durable in one batch, and returns the effects that waited for it, in the
    /// order of their staging. Does nothing, and touches no file, if there is neither. Blocks; no other commit may be
    /// running.
    pub fn commit(&mut self, records: Vec<Record>) -> Result<Vec<E>, CommitError> {
        let Some(batch) = self.batch(records)? else { return Ok(Vec::new()) };
        let upto = batch.upto;
        self.take_back(batch.write(), upto)
    }

    /// Reopens the store after a commit that failed for a temporary reason, and makes its batch durable. Blocks.
    pub fn commit_again(&mut self) -> Result<Vec<E>, CommitError> {
        let Some(mut stalled) = self.stalled.take() else { return Ok(Vec::new()) };
        let reopened = stalled.reopen();
        self.stalled = Some(stalled);
        reopened.inspect_err(|error| self.fail_unless_passing(error))?;
        let Some(batch) = self.kept_batch() else { return Ok(Vec::new()) };
        let upto = batch.upto;
        self.take_back(batch.write(), upto)
    }

    /// Begins to make everything staged and `records` durable in one batch, on a thread of its own; does nothing if
    /// there is neither. [`Journal::committed`] returns the outcome. No other commit may be running.
    pub fn submit(&mut self, records: Vec<Record>) -> Result<(), CommitError> {
        match self.batch(records)? {
            Some(batch) => self.begin(batch),
            None => Ok(()),
        }
    }

    /// Whether a batch is kept whose write failed. Nothing else is written before it.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Begins to reopen the store, on a thread of its own; does nothing if the journal is not stalled or is already
    /// reopened.
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

    /// Begins to write the batch that was kept, once the store is reopened; returns whether there is one.
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
        // The thread ends only by a panic; then nothing can return an outcome.
        let _ = writer.send(job);
        self.writer = Some(writer);
        Ok(())
    }

    /// Whether a commit or a reopening is running.
    pub fn is_committing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for the running commit or reopening, and returns the effects that waited for it, in the order of their
    /// staging. If nothing is running it waits forever. May be dropped and called again.
    pub async fn committed(&mut self) -> Result<WriterOutcome<E>, CommitError> {
        let Some(UnderWay { upto, done }) = &mut self.under_way else { return std::future::pending().await };
        let (upto, done) = (*upto, done.await);
        self.under_way = None;
        match (done, upto) {
            (Ok(Done::Written(written)), Some(upto)) => self.take_back(written, upto).map(WriterOutcome::Committed),
            (Ok(Done::Reopened { stalled, outcome }), _) => {
                self.stalled = Some(*stalled);
                outcome.inspect_err(|error| self.fail_unless_passing(error))?;
                Ok(WriterOutcome::Reopened)
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

    /// The newest durable entry and its hash: noted elsewhere, they can prove later that this journal was not
    /// rewritten.
    pub fn head(&self) -> (Seq, Hash) {
        (self.queue.durable, self.hash)
    }

    /// The newest staged entry, durable or not: the next has the number after it.
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
            self.state_dir.mark_suspect();
        }
        known
    }

    /// The responses of all completions up to this entry have been sent: a start need not send them again. Kept in the
    /// side file, which is not synced: after a power cut some may be sent again. While a commit is running it is only
    /// remembered, for the next call.
    pub fn mark_sent(&mut self, upto: Seq) {
        self.sent = self.sent.max(upto.min(self.queue.durable));
        if let Some(committer) = &mut self.committer {
            committer.mark(|mark| mark.set_sent(self.sent));
        }
    }

    /// Free space, and the limits that apply to it.
    pub(crate) fn space(&self) -> std::io::Result<Space> {
        self.gauge.measure()
    }

    /// Like [`Journal::space`]; also releases or recreates the ballast file, as the free space requires.
    pub(crate) fn tend_space(&mut self) -> std::io::Result<Space> {
        self.gauge.tend()
    }

    /// Releases the ballast regardless of the free space: a write has failed. Returns whether there was any.
    pub(crate) fn release_ballast(&mut self) -> std::io::Result<bool> {
        self.gauge.release()
    }

    /// Statistics for `status`, as of now.
    pub fn stats(&self) -> Stats {
        Stats {
            last: self.durable(),
            commits: self.commits,
            commit_ms_p99: percentile_99(&self.durations).as_secs_f64() * 1000.0,
            open_ms: self.open_time.as_secs_f64() * 1000.0,
            bytes_on_disk: space::used(&self.database.location().dir()).unwrap_or(0),
        }
    }

    /// A handle for readers on other threads; cheap, and sees commits as they happen.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.database))
    }

    /// What a watchdog of commits checks.
    pub fn progress(&self) -> Watched {
        self.progress.clone()
    }

    /// A handle for compacting its files, on another thread.
    pub fn compactor(&self) -> Compactor {
        let floor = self.gauge.fact_floor();
        Compactor { database: Arc::clone(&self.database), state_dir: self.state_dir.clone(), floor }
    }

    /// Whether anything waits for what is not durable yet, that is, whether it is more than records of duplicates.
    pub fn is_urgent(&self) -> bool {
        self.queue.is_urgent()
    }

    /// The state directory that the journal belongs to.
    pub fn state_dir(&self) -> &Path {
        self.state_dir.path()
    }
}

/// Exact to the microsecond below two milliseconds, and to a tenth of a percent above; zero if there are none.
fn percentile_99(durations: &VecDeque<Duration>) -> Duration {
    // There are fewer of them than a u16 counts.
    let mut histogram = Histogram::<u16>::new_with_bounds(1, LONGEST_US, 3).expect("1 us to an hour is a range");
    for took in durations {
        histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
    Duration::from_micros(histogram.value_at_quantile(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p99_us(micros: impl IntoIterator<Item = u64>) -> u128 {
        percentile_99(&micros.into_iter().map(Duration::from_micros).collect()).as_micros()
    }

    #[test]
    fn the_percentile_is_of_the_nearest_rank() {
        assert_eq!(p99_us([]), 0);
        assert_eq!(p99_us([0]), 0);
        assert_eq!(p99_us([700]), 700);
        assert_eq!(p99_us((1..=100).rev()), 99);
        // Of the last 1024, ten are longer.
        assert_eq!(p99_us(1..=1024), 1014);
    }

    #[test]
    fn the_percentile_of_long_commits_is_off_by_a_thousandth_at_most() {
        let found = p99_us([20_004_837; MEASURED]);
        assert!(found.abs_diff(20_004_837) <= 20_004, "{found}");
        // What no clock gives does not fail.
        assert!(p99_us([u64::MAX; MEASURED]) >= u128::from(LONGEST_US));
    }
}

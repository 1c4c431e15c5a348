//! The only owner of the core and of the journal: input in, commit, effects out.
//!
//! It runs on its own thread, so that nothing on the runtime waits for it. A turn takes one input and whatever else has
//! queued up, and decides and applies each in memory. If no commit is in progress, one starts on the journal's own
//! thread with everything decided so far; once it is durable, its effects are released. Meanwhile the turns continue,
//! up to [`BATCH`] inputs for the next commit. Effects that need nothing new to be durable, such as the answer to a
//! duplicate, are released at once, and the row that records the duplicate waits a moment for more of its kind. A
//! failed commit ends the process: memory is ahead of the disk, and only a restart finds out what is durable. A full or
//! read-only disk is the exception: the batch stays in the journal, no input is accepted, and the batch is written when
//! the disk allows it ([`space`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::api::event::Incoming;
use crate::api::head::Head;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::api::supervision::NodeEvent;
use crate::api::time::Now;
#[cfg(feature = "crash-points")]
use crate::journal::entry::Entry;
use crate::journal::entry::{Record, Sealed};
use crate::journal::{CommitError, Journal, ReadError, WriterOutcome};
use crate::lifecycle::{Effect, Input, Lifecycle, Peers};
use crate::tasks::progress::Progress;

mod space;

use super::budget::{self, Asker, Budget, Share, Shares};
use super::clock;
use super::effects::Performer;
use super::tally::Tally;
use space::Attempts;

/// Inputs per commit: enough that all requests a busy controller has in flight share one fdatasync, few enough that the
/// first does not wait noticeably for the last.
const BATCH: usize = 256;
/// Bytes of requests per commit, exceeded by one request at most: building a commit from them takes several times that.
const BATCH_BYTES: usize = 8 << 20;
/// Rows that only record duplicates wait this long after the last commit: nobody waits for them.
const GATHERING: Duration = Duration::from_millis(2);
/// How often free space is checked while not even facts may be journaled.
const SPACE_WAIT: Duration = Duration::from_secs(1);

/// A query of the core and the journal, run between two turns. The core may be ahead of what is durable.
pub(super) type Question = Box<dyn FnOnce(&Lifecycle, &Journal<Effect>, Now) + Send>;

/// Where the driver's inputs come from.
pub(super) struct Inbox {
    pub inputs: mpsc::Receiver<Input>,
    pub events: mpsc::Receiver<NodeEvent>,
    /// Why the agent should end. A separate channel: it is read even when inputs are not.
    pub stops: mpsc::Receiver<String>,
    pub questions: mpsc::Receiver<Question>,
    /// Who is subscribed to the agent's topics.
    pub peers: watch::Receiver<Peers>,
}

/// Why requests are refused at the moment, shared with the transports.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusing(Arc<Mutex<Option<Refused>>>);

#[derive(Debug, Clone)]
struct Refused {
    reason: String,
    /// The driver accepts no input at all, so a queued request would wait without an answer.
    everything: bool,
}

impl Refusing {
    /// Why new requests are refused.
    pub fn reason(&self) -> Option<String> {
        self.get().map(|refused| refused.reason)
    }

    /// Why even requests whose answer is stored are refused.
    pub fn everything(&self) -> Option<String> {
        self.get().filter(|refused| refused.everything).map(|refused| refused.reason)
    }

    fn get(&self) -> Option<Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, refused: Option<Refused>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
}

/// Why the driver, and with it the process, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a commit failed; nodes run on, and the next start finds out what is durable")]
    Commit(#[source] CommitError),
    #[error("the journal cannot be read; nodes run on, and the next start takes over what can be read")]
    Read(#[source] ReadError),
}

pub(super) struct Driver {
    core: Lifecycle,
    journal: Journal<Effect>,
    performer: Performer,
    refusing: Refusing,
    space_checked: Option<Instant>,
    /// Nothing at all may be written.
    starved: bool,
    /// Why requests are refused or were until now, and whether that was journaled.
    full: Option<(String, bool)>,
    /// When to retry the disk after a failed commit.
    attempts: Attempts,
    /// The agent was told to end: queued requests are refused, and only the end itself is still journaled.
    ending: bool,
    /// Inputs accepted but not yet handed to a commit ([`Driver::hand_over`]).
    gathered: usize,
    /// The bytes of their requests.
    gathered_bytes: usize,
    staged_shares: Vec<Share>,
    /// Shares of the requests in the running commit.
    written_shares: Vec<Share>,
    /// Shares of unfinished requests.
    held_shares: BTreeMap<Seq, Share>,
    shares: Shares,
    /// When the last commit began.
    began: Option<Instant>,
    /// Until when rows that nobody waits for are gathered.
    gathering: Option<Instant>,
    /// Checked by the watchdog: a turn that hangs ends the agent.
    progress: Progress,
    tally: Tally,
    /// Counts commits; odd while one is in progress.
    commits: watch::Sender<u64>,
    #[cfg(feature = "crash-points")]
    staged: Vec<&'static str>,
    #[cfg(feature = "crash-points")]
    under_way: Vec<&'static str>,
}

/// What happens next.
enum Next {
    Input(Input),
    /// The commit in progress has finished.
    Committed(Result<WriterOutcome<Effect>, CommitError>),
    /// Work that needs no input.
    Nothing,
    /// Nothing more can happen.
    End,
}

impl Driver {
    pub fn new(
        core: Lifecycle,
        journal: Journal<Effect>,
        performer: Performer,
        refusing: Refusing,
        commits: watch::Sender<u64>,
        (budget, shares): (Budget, Shares),
        tally: Tally,
    ) -> Self {
        let unfinished = core.durable().unfinished.iter().map(|(seq, one)| {
            let bytes = budget::decoded_size(&one.received.request);
            (*seq, budget.force(&Asker::of(&one.received.source), bytes))
        });
        Self {
            held_shares: unfinished.collect(),
            gathered_bytes: 0,
            staged_shares: Vec::new(),
            written_shares: Vec::new(),
            shares,
            core,
            journal,
            performer,
            refusing,
            space_checked: None,
            starved: false,
            full: None,
            attempts: Attempts::default(),
            ending: false,
            gathered: 0,
            began: None,
            gathering: None,
            progress: Progress::default(),
            tally,
            commits,
            #[cfg(feature = "crash-points")]
            staged: Vec::new(),
            #[cfg(feature = "crash-points")]
            under_way: Vec::new(),
        }
    }

    /// What the watchdog checks of its turns.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Does a part of a turn under the watchdog.
    fn watched<T>(&mut self, part: impl FnOnce(&mut Self) -> T) -> T {
        let progress = self.progress.clone();
        progress.during(|| part(self))
    }

    /// Takes the initial inputs, and makes them and all that follows from them durable. Blocks.
    pub fn begin(&mut self, inputs: Vec<Input>) -> Result<(), Error> {
        for input in inputs {
            self.watched(|driver| driver.take(input))?;
        }
        loop {
            let records = self.watched(|driver| {
                driver.commits.send_modify(|commit| *commit += 1);
                driver.pass_before();
                driver.hand_over()
            });
            let effects = self.journal.commit(records).or_else(|error| self.commit_again(error))?;
            self.watched(|driver| driver.committed(effects));
            if self.journal.staged() == self.journal.durable() {
                break;
            }
        }
        self.journal.mark_sent(self.core.sent_upto());
        Ok(())
    }

    /// Runs turns until every sender of inputs is gone and every decision is durable.
    pub async fn run(mut self, mut inbox: Inbox) -> Result<(), Error> {
        loop {
            match self.next(&mut inbox).await {
                Next::Input(input) => self.watched(|driver| driver.take(input))?,
                Next::Committed(step) => self.watched(|driver| driver.finished(step))?,
                Next::Nothing => {}
                Next::End => break,
            }
            while self.takes_inputs() {
                let event = inbox.events.try_recv().map(Input::Node);
                let Ok(input) = event.or_else(|_| inbox.inputs.try_recv()) else { break };
                self.watched(|driver| driver.take(input))?;
            }
            self.watched(|driver| {
                if !driver.gathers() {
                    driver.submit()?;
                }
                // Facts also arrive without requests, and what a crash loop writes has to stop at the floor.
                driver.look_at_space_now_and_then();
                Ok::<(), Error>(())
            })?;
        }
        // Submit what was gathered last.
        self.watched(Self::submit)?;
        while self.journal.is_committing() {
            let step = self.journal.committed().await;
            self.watched(|driver| driver.finished(step).and_then(|()| driver.submit()))?;
        }
        Ok(())
    }

    /// The commit in progress has finished.
    fn finished(&mut self, outcome: Result<WriterOutcome<Effect>, CommitError>) -> Result<(), Error> {
        match outcome {
            Ok(WriterOutcome::Committed(effects)) => {
                self.written();
                self.committed(effects);
            }
            // The batch that was kept is submitted next.
            Ok(WriterOutcome::Reopened) => {}
            Err(error) if error.is_passing() && !self.ending => self.stall(&error),
            Err(error) => return Err(Error::Commit(error)),
        }
        Ok(())
    }

    async fn next(&mut self, inbox: &mut Inbox) -> Next {
        if self.starved && inbox.inputs.is_closed() {
            return Next::End;
        }
        let wake = self.core.wake_at();
        let (takes_nothing, takes_inputs) = (self.takes_nothing(), self.takes_inputs());
        let pause = async {
            match wake {
                _ if takes_nothing => tokio::time::sleep(SPACE_WAIT).await,
                Some(at) => tokio::time::sleep(clock::until(at)).await,
                None => std::future::pending().await,
            }
        };
        let gathered = async {
            match self.gathering {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            step = self.journal.committed(), if self.journal.is_committing() => Next::Committed(step),
            Some(question) = inbox.questions.recv() => {
                self.watched(|driver| question(&driver.core, &driver.journal, clock::now()));
                Next::Nothing
            }
            Ok(()) = inbox.peers.changed() => {
                let peers = inbox.peers.borrow_and_update().clone();
                Next::Input(Input::Peers(peers))
            }
            Some(reason) = inbox.stops.recv() => {
                self.ending = true;
                if self.journal.is_stalled() {
                    // One last attempt, whatever the floors say; its result is final.
                    self.attempts = Attempts::default();
                    self.watched(Self::look_at_space);
                }
                Next::Input(Input::Stop { reason })
            }
            () = gathered => Next::Nothing,
            () = pause => {
                self.watched(Self::look_at_space);
                if self.takes_nothing() { Next::Nothing } else { Next::Input(Input::Tick) }
            }
            Some(event) = inbox.events.recv(), if takes_inputs => Next::Input(Input::Node(event)),
            input = inbox.inputs.recv(), if takes_inputs => input.map_or(Next::End, Next::Input),
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        self.gathered += 1;
        let mut share = None;
        let input = match input {
            Input::Request { incoming, known: _ } => {
                share = incoming.route.and_then(|route| self.shares.take(route));
                match self.admit(incoming)? {
                    Some(input) => input,
                    None => return Ok(()),
                }
            }
            other => other,
        };
        let before = self.core.durable().last;
        let sealed = self.step(&input);
        self.stage(sealed);
        if let Some(share) = share {
            self.gathered_bytes += share.bytes;
            match self.core.durable().unfinished.range(before.next()..).next() {
                Some((seq, _)) => _ = self.held_shares.insert(*seq, share),
                None => self.staged_shares.push(share),
            }
        }
        Ok(())
    }

    /// One step of the core, once it has what it asked for.
    fn step(&mut self, input: &Input) -> Vec<Sealed<Effect>> {
        let now = clock::now();
        let wanted = self.core.wants_outputs(now);
        let mut sealed = Vec::new();
        if !wanted.is_empty() {
            let outputs = wanted.into_iter().map(|node| {
                let outputs = self.performer.supervisor.outputs(&node);
                (node, outputs)
            });
            let outputs = Input::Outputs { outputs: outputs.collect() };
            sealed.extend(self.core.step(now, &outputs));
        }
        sealed.extend(self.core.step(now, input));
        sealed
    }

    /// Looks up what the journal has about a request, or refuses the request while there is no space for it.
    fn admit(&mut self, incoming: Box<Incoming>) -> Result<Option<Input>, Error> {
        self.look_at_space_now_and_then();
        let known = match self.journal.lookup(&incoming.reqid) {
            Ok(known) => known.map(Box::new),
            // The commit in progress hit the same error, which is handled there.
            Err(error) if error.is_passing() => {
                self.refuse(
                    &incoming,
                    format!("the journal cannot be written at the moment; try again later: {}", chain(&error)),
                );
                return Ok(None);
            }
            Err(error) => return Err(Error::Read(error)),
        };
        match (self.refusing.reason(), &known) {
            // A stored response can be sent without writing anything that matters.
            (Some(reason), None) => {
                self.refuse(&incoming, reason);
                Ok(None)
            }
            (Some(_), Some(_)) | (None, _) => Ok(Some(Input::Request { incoming, known })),
        }
    }

    fn refuse(&mut self, incoming: &Incoming, reason: String) {
        if let Some(route) = incoming.route {
            self.perform(vec![Effect::Refuse { route, reason }]);
        }
    }

    fn takes_nothing(&self) -> bool {
        self.starved && !self.ending
    }

    fn takes_inputs(&self) -> bool {
        !self.takes_nothing() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.gathered < BATCH && self.gathered_bytes < BATCH_BYTES
    }

    fn stage(&mut self, sealed: Vec<Sealed<Effect>>) {
        for one in sealed {
            self.note_crash_points(&one);
            one.entries().iter().for_each(|entry| self.tally.add(entry));
            let free = self.journal.stage(one);
            self.perform(free);
        }
    }

    /// Whether everything decided may wait a moment for more of its kind.
    fn gathers(&mut self) -> bool {
        let is_small = !self.ending && self.has_room() && self.journal.staged() != self.journal.durable();
        if !is_small || self.journal.is_committing() || self.journal.is_stalled() || self.journal.is_urgent() {
            self.gathering = None;
            return false;
        }
        self.gathering = self.began.map(|began| began + GATHERING).filter(|until| Instant::now() < *until);
        self.gathering.is_some()
    }

    /// Hands over what was gathered to the next commit, with the records that it changed: every commit takes both.
    fn hand_over(&mut self) -> Vec<Record> {
        self.gathered = 0;
        self.gathered_bytes = 0;
        self.written_shares.append(&mut self.staged_shares);
        self.core.take_records()
    }

    /// Starts a commit of what is decided; if one is in progress, this goes into the next.
    fn submit(&mut self) -> Result<(), Error> {
        if self.journal.is_stalled() {
            self.resubmit()?;
        } else if !self.journal.is_committing() {
            let records = self.hand_over();
            if !records.is_empty() || self.journal.staged() != self.journal.durable() {
                self.began = Some(Instant::now());
                self.commits.send_modify(|commit| *commit += 1);
                self.pass_before();
                self.journal.submit(records).map_err(Error::Commit)?;
            }
        }
        self.journal.mark_sent(self.core.sent_upto());
        Ok(())
    }

    /// Retries the write that failed, if the store is open again.
    fn resubmit(&mut self) -> Result<(), Error> {
        if self.journal.resubmit().map_err(Error::Commit)? {
            self.commits.send_modify(|commit| *commit += 1);
        }
        Ok(())
    }

    /// A commit is durable: releases its effects, and decides what may follow, as an accepted change is followed by its
    /// plan.
    fn committed(&mut self, effects: Vec<Effect>) {
        self.commits.send_modify(|commit| *commit += 1);
        self.pass_after();
        self.written_shares.clear();
        let unfinished = &self.core.durable().unfinished;
        self.held_shares.retain(|seq, _| unfinished.contains_key(seq));
        self.perform(effects);
        let sealed = self.step(&Input::Committed { upto: self.journal.durable() });
        self.stage(sealed);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let (seq, hash) = self.journal.head();
            if let Some(input) = self.performer.perform(effect, Head { seq, hash }) {
                let sealed = self.step(&input);
                self.stage(sealed);
            }
        }
    }

    #[cfg(not(feature = "crash-points"))]
    fn note_crash_points(&mut self, _: &Sealed<Effect>) {}

    #[cfg(not(feature = "crash-points"))]
    fn pass_before(&mut self) {}

    #[cfg(not(feature = "crash-points"))]
    fn pass_after(&mut self) {}

    #[cfg(feature = "crash-points")]
    fn note_crash_points(&mut self, sealed: &Sealed<Effect>) {
        self.staged.extend(sealed.entries().iter().filter_map(|one| step_name(&one.entry)));
    }

    /// A crash point before each durable step, named after what the batch makes durable.
    #[cfg(feature = "crash-points")]
    fn pass_before(&mut self) {
        self.under_way = std::mem::take(&mut self.staged);
        for step in &self.under_way {
            crate::crash_points::pass(&format!("before_{step}"), None);
        }
    }

    /// The crash point after each durable step.
    #[cfg(feature = "crash-points")]
    fn pass_after(&mut self) {
        for step in std::mem::take(&mut self.under_way) {
            crate::crash_points::pass(&format!("after_{step}"), None);
        }
    }
}

/// The durable steps at which a test can crash the agent.
#[cfg(feature = "crash-points")]
fn step_name(entry: &Entry) -> Option<&'static str> {
    match entry {
        Entry::RequestReceived { .. } => Some("accept"),
        Entry::RequestBegun { .. } => Some("plan"),
        Entry::LaunchIntended { .. } => Some("intent"),
        Entry::NodeStarted { .. } => Some("fact"),
        Entry::PreflightBegun { .. } => Some("preflight"),
        Entry::PreflightEnded { .. } => Some("checked"),
        Entry::NodeReady { .. } => Some("ready"),
        Entry::NodeExited { .. } => Some("exit"),
        Entry::DeadlineAnswered { .. } => Some("deadline"),
        Entry::RequestCompleted { .. } | Entry::RequestAnswered { .. } => Some("outcome"),
        Entry::EventTold { .. } => Some("told"),
        Entry::AgentStarted { .. }
        | Entry::AgentStopped { .. }
        | Entry::AgentSettled
        | Entry::HoldEntered { .. }
        | Entry::HoldEnded { .. }
        | Entry::Salvaged { .. }
        | Entry::Imported { .. }
        | Entry::FormatChanged { .. }
        | Entry::Pruned { .. }
        | Entry::TroubleSeen { .. }
        | Entry::RequestConflicted { .. }
        | Entry::InputRejected { .. }
        | Entry::RequestWaits { .. }
        | Entry::DuplicateSeen { .. }
        | Entry::DesiredChanged { .. }
        | Entry::ConfigurationKept { .. }
        | Entry::NodeAdopted { .. }
        | Entry::NodeRetried { .. } => None,
    }
}

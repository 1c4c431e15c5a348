//! The one owner of the core and of the journal: input in, commit, effects out.
//!
//! It runs on a thread of its own, since commits block. A turn takes in one input and whatever else has gathered, up to
//! [`BATCH`]; decides and applies each in memory; commits once; lets the effects go. While it commits, the next batch
//! gathers in the channels. A failed commit ends the process: memory runs ahead of the disk, and only a restart finds
//! out what is durable.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::api::event::Incoming;
use crate::api::supervision::NodeEvent;
use crate::api::time::Now;
use crate::crash_point;
#[cfg(feature = "crash-points")]
use crate::journal::entry::Entry;
use crate::journal::entry::Sealed;
use crate::journal::{CommitError, Journal, ReadError, Space};
use crate::lifecycle::{Effect, Input, Lifecycle, Peers};

use super::clock;
use super::effects::Performer;

/// Inputs decided on before a commit: enough to share one fdatasync among all that a busy controller has in flight, few
/// enough that the first of them does not wait noticeably for the last.
const BATCH: usize = 256;
/// Free space is looked at again after this.
const SPACE_CHECK: Duration = Duration::from_millis(250);
/// While not even facts may be journaled, it is looked at this often.
const SPACE_WAIT: Duration = Duration::from_secs(1);

/// Something to be read off the core and the journal between two turns.
pub(super) type Question = Box<dyn FnOnce(&Lifecycle, &Journal<Effect>, Now) + Send>;

/// Where the driver's inputs come from.
pub(super) struct Inbox {
    pub inputs: mpsc::Receiver<Input>,
    pub events: mpsc::Receiver<NodeEvent>,
    /// Why the agent is to end. Apart from the inputs: it is taken in even when they are not.
    pub stops: mpsc::Receiver<String>,
    pub questions: mpsc::Receiver<Question>,
    /// Who is subscribed to the agent's topics.
    pub peers: watch::Receiver<Peers>,
}

/// Why requests are refused at the moment, shared with the doors they come through.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusing(Arc<Mutex<Option<Refused>>>);

#[derive(Debug, Clone)]
struct Refused {
    reason: String,
    /// The driver takes in nothing at all, so what is queued for it would wait without an answer.
    everything: bool,
}

impl Refusing {
    /// Why new requests are refused.
    pub fn reason(&self) -> Option<String> {
        self.get().map(|refused| refused.reason)
    }

    /// Why even those are refused whose answer is stored.
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
    #[error("the journal cannot be read; nodes run on, and the next start takes over what reads")]
    Read(#[source] ReadError),
}

pub(super) struct Driver {
    core: Lifecycle,
    journal: Journal<Effect>,
    performer: Performer,
    refusing: Refusing,
    space_checked: Option<Instant>,
    /// Nothing may be written at all.
    starved: bool,
    /// The agent was told to end: what is queued is turned away, and only the end itself is still written.
    ending: bool,
    /// Numbers of commits, odd while one is under way, for the watchdog.
    commits: watch::Sender<u64>,
    #[cfg(feature = "crash-points")]
    staged: Vec<&'static str>,
}

impl Driver {
    pub fn new(
        core: Lifecycle,
        journal: Journal<Effect>,
        performer: Performer,
        refusing: Refusing,
        commits: watch::Sender<u64>,
    ) -> Self {
        Self {
            core,
            journal,
            performer,
            refusing,
            space_checked: None,
            starved: false,
            ending: false,
            commits,
            #[cfg(feature = "crash-points")]
            staged: Vec::new(),
        }
    }

    /// Takes in what is known at the start, and makes it durable.
    pub fn begin(&mut self, inputs: Vec<Input>) -> Result<(), Error> {
        for input in inputs {
            self.take(input)?;
        }
        self.commit()
    }

    /// Turns until every sender of inputs is gone.
    pub async fn run(mut self, mut inbox: Inbox) -> Result<(), Error> {
        while let Some(input) = self.next(&mut inbox).await {
            if let Some(input) = input {
                self.take(input)?;
            }
            for _ in 1..BATCH {
                if self.takes_nothing() {
                    break;
                }
                let event = inbox.events.try_recv().map(Input::Node);
                let Ok(input) = event.or_else(|_| inbox.inputs.try_recv()) else { break };
                self.take(input)?;
            }
            self.commit()?;
            // Facts come without requests, too; what a crash loop writes has to stop at the floor.
            self.look_at_space_now_and_then();
        }
        Ok(())
    }

    /// The next thing to happen: `Some(None)` if it needs no input, `None` when nothing can happen any more.
    async fn next(&mut self, inbox: &mut Inbox) -> Option<Option<Input>> {
        if self.starved && inbox.inputs.is_closed() {
            return None;
        }
        let wake = self.core.wake_at();
        let takes_nothing = self.takes_nothing();
        let (starved, pause) = (takes_nothing, async {
            match wake {
                _ if takes_nothing => tokio::time::sleep(SPACE_WAIT).await,
                Some(at) => tokio::time::sleep(clock::until(at)).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            biased;
            Some(question) = inbox.questions.recv() => {
                question(&self.core, &self.journal, clock::now());
                Some(None)
            }
            Ok(()) = inbox.peers.changed() => {
                let peers = inbox.peers.borrow_and_update().clone();
                Some(Some(Input::Peers(peers)))
            }
            Some(reason) = inbox.stops.recv() => {
                self.ending = true;
                Some(Some(Input::Stop { reason }))
            }
            () = pause => {
                self.look_at_space();
                Some((!self.takes_nothing()).then_some(Input::Tick))
            }
            Some(event) = inbox.events.recv(), if !starved => Some(Some(Input::Node(event))),
            input = inbox.inputs.recv(), if !starved => input.map(Some),
        }
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        let input = match input {
            Input::Request { incoming, known: _ } => match self.admit(incoming)? {
                Some(input) => input,
                None => return Ok(()),
            },
            other => other,
        };
        let sealed = self.step(&input);
        self.stage(sealed);
        Ok(())
    }

    /// One step of the core, after it was given what it asked for.
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

    /// Looks up what the journal knows of a request, or refuses it while there is no space for it.
    fn admit(&mut self, incoming: Box<Incoming>) -> Result<Option<Input>, Error> {
        self.look_at_space_now_and_then();
        let known = self.journal.lookup(&incoming.reqid).map_err(Error::Read)?.map(Box::new);
        match (self.refusing.reason(), &known) {
            // What is stored can be answered without writing anything that matters.
            (Some(reason), None) => {
                if let Some(route) = incoming.route {
                    self.perform(vec![Effect::Refuse { route, reason }]);
                }
                Ok(None)
            }
            (Some(_), Some(_)) | (None, _) => Ok(Some(Input::Request { incoming, known })),
        }
    }

    fn takes_nothing(&self) -> bool {
        self.starved && !self.ending
    }

    fn look_at_space_now_and_then(&mut self) {
        if self.space_checked.is_none_or(|at| at.elapsed() >= SPACE_CHECK) {
            self.look_at_space();
        }
    }

    fn look_at_space(&mut self) {
        self.space_checked = Some(Instant::now());
        let space = match self.journal.space() {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "free space of the state directory cannot be read");
                return;
            }
        };
        let Space { free, request_floor, fact_floor } = space;
        self.starved = space.refuses_facts();
        let reason = space.refuses_requests().then(|| {
            format!(
                "no space: {} MiB are free on the journal's file system and {} MiB have to be; free some, or lower \
                 the floor in the settings",
                free >> 20,
                request_floor >> 20
            )
        });
        match (&reason, self.refusing.reason()) {
            (Some(reason), None) => tracing::error!("new requests are refused, nodes are not affected: {reason}"),
            (None, Some(_)) => tracing::info!("there is space again: requests are taken in"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if self.starved {
            tracing::error!("below {} MiB free nothing is journaled: waiting for space", fact_floor >> 20);
        }
        self.refusing.set(reason.map(|reason| Refused { reason, everything: self.starved }));
    }

    fn stage(&mut self, sealed: Vec<Sealed<Effect>>) {
        for one in sealed {
            self.note_crash_points(&one);
            let free = self.journal.stage(one);
            self.perform(free);
        }
    }

    /// Commits until nothing is staged: what becomes durable may call for more, as an accepted change does for its
    /// plan.
    fn commit(&mut self) -> Result<(), Error> {
        loop {
            let records = self.core.take_records();
            self.commits.send_modify(|commit| *commit += 1);
            self.pass_crash_points(true);
            crash_point!("during_commit");
            let effects = self.journal.commit(records).map_err(Error::Commit)?;
            self.commits.send_modify(|commit| *commit += 1);
            self.pass_crash_points(false);
            self.perform(effects);
            let sealed = self.step(&Input::Committed { upto: self.journal.durable() });
            self.stage(sealed);
            if self.journal.staged() == self.journal.durable() {
                break;
            }
        }
        self.journal.mark_sent(self.core.sent_upto());
        Ok(())
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(input) = self.performer.perform(effect) {
                let sealed = self.step(&input);
                self.stage(sealed);
            }
        }
    }

    #[cfg(not(feature = "crash-points"))]
    fn note_crash_points(&mut self, _: &Sealed<Effect>) {}

    #[cfg(not(feature = "crash-points"))]
    fn pass_crash_points(&mut self, _before: bool) {}

    #[cfg(feature = "crash-points")]
    fn note_crash_points(&mut self, sealed: &Sealed<Effect>) {
        self.staged.extend(sealed.entries().iter().filter_map(|one| step_name(&one.entry)));
    }

    /// One place before and one after each durable step, named after what the batch makes durable.
    #[cfg(feature = "crash-points")]
    fn pass_crash_points(&mut self, before: bool) {
        for step in &self.staged {
            let side = if before { "before" } else { "after" };
            crate::crash_points::pass(&format!("{side}_{step}"), None);
        }
        if !before {
            self.staged.clear();
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
        Entry::NodeReady { .. } => Some("ready"),
        Entry::NodeExited { .. } => Some("exit"),
        Entry::RequestCompleted { .. } => Some("outcome"),
        Entry::AgentStarted { .. }
        | Entry::AgentStopped { .. }
        | Entry::AgentSettled
        | Entry::HoldEntered { .. }
        | Entry::HoldEnded { .. }
        | Entry::Salvaged { .. }
        | Entry::RequestConflicted { .. }
        | Entry::InputRejected { .. }
        | Entry::RequestWaits { .. }
        | Entry::DuplicateSeen { .. }
        | Entry::DesiredChanged { .. }
        | Entry::NodeAdopted { .. }
        | Entry::NodeRetried { .. } => None,
    }
}

//! The agent's core: what each input means, as entries to be made durable and effects to be released after that.
//!
//! Pure: no clock, no randomness, no I/O, no async. [`Lifecycle::step`] takes one input and
//!
//! 1. observes it: volatile facts, such as a closed connection ([`seen`]);
//! 2. decides what it means: entries and effects;
//! 3. applies the entries ([`durable`]), in memory, ahead of the disk: safe, since nothing has left yet and a failed
//!    commit ends the process;
//! 4. advances: as long as the state itself calls for something (a request to begin, a node to start, a deadline that
//!    has come), decides and applies that too.
//!
//! Step 4 is level-triggered. It compares the desired with the actual state, and does not depend on how that came
//! about, so replay after a crash needs no code of its own: load the state, look for the nodes, advance. It looks only
//! at what changed or came due ([`agenda`]): a host has thousands of nodes, and each has its own decisions.
//!
//! Left to others: which transport a response takes, how a node is started, how a commit is made.

mod agenda;
mod alerts;
mod answer;
mod backoff;
mod change;
mod copy;
mod decision;
mod dispatch;
mod duplicates;
mod durable;
mod effect;
mod health;
mod history;
mod hold;
mod input;
mod nodes;
mod outcome;
mod plan;
mod ports;
mod preflight;
mod query;
mod questions;
mod remains;
mod report;
mod requests;
mod seen;
mod set_aside;
mod settle;
mod stages;
mod standby;
mod start;
mod token;
mod waits;
mod wake;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::configuration::ClusterRole;
use crate::api::event::{Dialect, Notification, Response, Route};
use crate::api::ids::{InstanceName, Seq};
use crate::api::launch::{Program, Readiness};
use crate::api::rights::Rights;
use crate::api::status::NodeState;
use crate::api::supervision::Finding;
use crate::api::time::{BootTime, Now};
use crate::journal::entry::{Answer, Entry, Known, Life, Numbered, Record, Recovered, Removal, Sealed, Stored};
use crate::zeek;

use agenda::Agenda;
use change::Current;
use decision::{Answered, Decision, Note};
use questions::Questioned;
use seen::{ProcessPhase, Seen, Unsent, Waiter, Waiting};
use wake::Wake;

pub use backoff::RestartOptions;
pub use durable::{Durable, PROPER_LIFE_MS};
pub use effect::Effect;
pub use input::{Input, Peers};
pub use plan::DeployStrategy;

/// The settings that the core needs. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The instance whose nodes this agent runs.
    pub instance: InstanceName,
    /// CPUs of this host, for checking affinities.
    pub cpus: u32,
    /// Ports that the agent itself listens on, and that its nodes would use.
    pub agent_ports: Vec<u16>,
    /// The node program.
    pub program: Program,
    /// Given to every node program.
    pub args: Vec<String>,
    /// What kind of program it is.
    pub profile: Profile,
    /// Which nodes a configuration with another id replaces.
    pub deploy_strategy: DeployStrategy,
    /// When a node counts as ready.
    pub readiness: Readiness,
    /// User and limits of roles that have their own.
    pub rights: BTreeMap<ClusterRole, Rights>,
    /// A node that is not ready after this is reported once, by notify_error. Measured from when its turn to start
    /// came, no change waits longer for it.
    pub ready_timeout_ms: u64,
    /// From TERM to KILL, for all roles but those below.
    pub stop_timeout_ms: u64,
    /// For loggers and managers, which have more to write.
    pub stop_timeout_writers_ms: u64,
    /// The longest that a stage of nodes waits for the one before it.
    pub stage_wait_ms: u64,
    /// Requesters of a change over Broker or WebSocket get its progress by then; dispatches have their outcome.
    pub request_timeout_ms: u64,
    /// How long a check before a change may take. `None`: changes are made without one.
    pub preflight_ms: Option<u64>,
    /// When a node that ended is started again.
    pub restart: RestartOptions,
}

/// What the node program is, as far as its preparation depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// It gets its environment, which includes its name.
    Plain,
    /// It is Zeek, and gets Zeek's command line, environment and layout.
    Zeek(zeek::Options),
}

impl Options {
    /// Requests that wait for nodes to end are answered within this.
    pub fn longest_stop_ms(&self) -> u64 {
        self.stop_timeout_ms.max(self.stop_timeout_writers_ms) + 3 * self.stage_wait_ms + change::STOP_GRACE_MS
    }

    /// Requests that wait for nodes to get ready have their outcome within this.
    pub fn longest_start_ms(&self) -> u64 {
        self.longest_stop_ms() + self.ready_timeout_ms
    }
}

/// Early deaths in a row after which the next start enters hold mode.
pub const EARLY_DEATHS: u32 = 5;
/// A run that lasted this long was no early death.
pub const SETTLED_MS: u64 = 60_000;
/// The most attempts at a request that may end in a crash.
pub const ATTEMPTS: u32 = 3;
/// The most duplicates that may wait for one outcome.
pub const WAITING_DUPLICATES: usize = 64;
/// The most changes that may wait for their turn or outcome.
pub const UNFINISHED_LIMIT: usize = 1024;

/// The core. One per agent, owned by its driver.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    options: Options,
    durable: Durable,
    seen: Seen,
    agenda: Agenda,
    current: Current,
}

impl Lifecycle {
    /// A core with the journal's state. Nothing happens before [`Input::Started`].
    pub fn new(options: Options, recovered: Recovered) -> Self {
        let mut seen = Seen::new(recovered.last);
        for (key, dialect, response) in &recovered.unsent {
            let unsent = Unsent { dialect: *dialect, response: Arc::new(response.clone()), routes: BTreeSet::new() };
            seen.remember_unsent(*key, unsent);
        }
        for name in recovered.nodes.keys() {
            seen.node(name).phase = ProcessPhase::Unprobed;
        }
        let durable = Durable::new(recovered);
        Self { options, durable, seen, agenda: Agenda::new(), current: Current::default() }
    }

    /// Handles one input; returns what is to be journaled and the effects that may follow.
    pub fn step(&mut self, now: Now, input: &Input) -> Vec<Sealed<Effect>> {
        self.observe(now, input);
        let mut sealed = Vec::new();
        for decision in self.decide(now, input) {
            sealed.extend(self.seal(now, decision));
        }
        loop {
            self.survey(now.boot);
            let Some(decision) = self.advance(now) else { break };
            sealed.extend(self.seal(now, decision));
        }
        let mut last = self.changes();
        // After the answers and the orders that lead up to it.
        last.extend(self.seen.end.take().map(|reason| Effect::Exit { reason }));
        if !last.is_empty() {
            sealed.push(Sealed::new(self.durable.last, Vec::new(), last));
        }
        sealed
    }

    /// When the core needs an [`Input::Tick`], if no other input comes first.
    pub fn wake_at(&self) -> Option<BootTime> {
        self.agenda.wake_at()
    }

    /// The records changed by the steps since the last call; they go into the same commit as the steps' entries.
    pub fn take_records(&mut self) -> Vec<Record> {
        self.durable.take_records()
    }

    /// The state that survives a restart.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Every response decided up to this entry has provably been sent, as far as it had receivers.
    pub fn sent_upto(&self) -> Seq {
        match self.seen.unsent.keys().next() {
            Some(oldest) => Seq(oldest.0.saturating_sub(1)),
            None => self.durable.last,
        }
    }

    /// Observes what need not survive a restart.
    fn observe(&mut self, now: Now, input: &Input) {
        match input {
            Input::Started { version, pid, .. } => {
                self.seen.started = now.boot;
                self.seen.version = version.clone();
                self.seen.pid = *pid;
            }
            Input::Copied { reason } => self.seen.copied = Some(reason.clone()),
            Input::Adopted => {
                self.seen.adopted = true;
                self.seen.all_changed = true;
            }
            Input::Delivered { route } => self.seen.delivered(*route),
            Input::Disconnected { connection } => {
                self.seen.disconnected(*connection);
                self.agenda.unsent = true;
            }
            Input::Peers(peers) => {
                let before = std::mem::replace(&mut self.seen.peers, peers.clone());
                self.observe_hellos(&before);
                self.agenda.unsent = true;
                if peers.cluster_agent > before.cluster_agent || peers.management > before.management {
                    self.seen.last_hello = None;
                }
            }
            Input::NodeAnswered { of, connection, answer } => self.observe_answer(*of, *connection, answer),
            Input::NodeReplied { of, node, incarnation, answer } => {
                self.observe_reply(*of, node, *incarnation, answer);
            }
            Input::Committed { upto } => {
                self.seen.durable = *upto;
                self.seen.fresh.retain(|_, known| known.outcome.as_ref().is_some_and(|one| one.seq > *upto));
                self.seen.fresh_deadlines.retain(|_, one| one.seq > *upto);
            }
            Input::Node(event) => self.observe_node(now, event),
            Input::Found { node, finding: Finding::Adopted { incarnation, .. } } => {
                self.seen.node(node).newest = *incarnation;
            }
            Input::Found { node, finding: Finding::Exited { incarnation, cause, is_lasting, .. } } => {
                self.seen.node(node).newest = *incarnation;
                self.observe_end(now, node, *incarnation, cause, *is_lasting);
            }
            Input::Found {
                finding: Finding::Absent | Finding::Unprovable { .. } | Finding::Foreign { .. }, ..
            }
            | Input::StateAdopted { .. }
            | Input::Request { .. }
            | Input::Malformed { .. }
            | Input::Prune(_)
            | Input::Trouble { .. }
            | Input::PreflightEnded { .. }
            | Input::Told { .. }
            | Input::Tick
            | Input::Stop { .. } => {}
            // It may check in before its start is known here; the consequences wait for that.
            Input::CheckedIn { node } => {
                if self.durable.nodes.get(node).is_some_and(|record| record.life == Life::Intended) {
                    self.seen.node(node).checked_in = true;
                }
            }
            Input::Outputs { outputs } => {
                for (node, outputs) in outputs {
                    self.seen.node(node).outputs = Some(outputs.clone());
                }
            }
        }
    }

    /// Decides what `input` means, in one or several decisions that are sealed separately.
    fn decide(&self, now: Now, input: &Input) -> Vec<Decision> {
        match input {
            Input::Started { boot_id, version, pid, hold } => {
                vec![self.start(now, boot_id, version, *pid, hold.as_deref())]
            }
            Input::Copied { reason } => vec![self.is_a_copy(reason)],
            Input::StateAdopted { of, outcome } => vec![self.state_adopted(now, *of, outcome)],
            Input::Found { node, finding } => vec![self.found(now, node, finding)],
            Input::Request { incoming, known } => self.receive(now, incoming, known.as_deref()),
            Input::Malformed { source, event, error } => vec![self.reject_input(now, source, event, error)],
            Input::Node(event) => vec![self.node_event(now, event)],
            Input::CheckedIn { node } => vec![self.checked_in(node)],
            Input::Stop { reason } => vec![self.stop(reason)],
            Input::Prune(removal) => vec![self.prune(removal)],
            Input::PreflightEnded { of, report } => vec![self.preflight_ended(now, *of, report)],
            Input::Trouble { kind, message } => vec![self.trouble(*kind, message)],
            Input::Told { id, lost, outcome } => vec![self.alert_told(*id, *lost, outcome)],
            Input::Adopted
            | Input::Delivered { .. }
            | Input::Disconnected { .. }
            | Input::Peers(_)
            | Input::NodeAnswered { .. }
            | Input::NodeReplied { .. }
            | Input::Committed { .. }
            | Input::Outputs { .. }
            | Input::Tick => Vec::new(),
        }
    }

    /// Decides what the state itself requires, one decision at a time, until nothing is left to do now.
    fn advance(&mut self, now: Now) -> Option<Decision> {
        if !self.seen.adopted {
            return None;
        }
        if let Some(decision) = self.advance_requests(now).or_else(|| self.advance_nodes(now)) {
            return Some(decision);
        }
        if let Some(decision) = self.advance_alerts() {
            return Some(decision);
        }
        let wake = Wake::new(now.boot);
        let decision = self.advance_agent(&wake);
        let stages = self.agenda.facts.stages.wake_at(now.boot, self.options.stage_wait_ms);
        self.agenda.own_wake = [wake.next(), stages].into_iter().flatten().min();
        decision
    }

    fn prune(&self, removal: &Removal) -> Decision {
        if self.seen.stopping {
            return Decision::default();
        }
        let Removal { upto, hash, trimmed, entries, requests } = *removal;
        // What the history needs of the entries that go is stated again before they do.
        let stated = self.durable.past.records().filter(|(set, record)| record.extras.0.kept_in.max(*set) <= upto);
        let kept = stated.map(|(set, record)| Entry::ConfigurationKept { set, record: Box::new(record.clone()) });
        kept.fold(Decision::default(), Decision::entry).entry(Entry::Pruned { upto, hash, trimmed, entries, requests })
    }

    fn stop(&self, reason: &str) -> Decision {
        if self.seen.stopping {
            return Decision::default();
        }
        Decision::default()
            .entry(Entry::AgentStopped { reason: reason.to_owned() })
            .note(Note::Stopping { reason: reason.to_owned() })
    }

    /// Numbers the entries, applies them, remembers the notes, and seals it all.
    fn seal(&mut self, now: Now, decision: Decision) -> Option<Sealed<Effect>> {
        let Decision { entries, mut effects, notes, resting_on } = decision;
        let mut numbered = Vec::with_capacity(entries.len());
        for entry in entries {
            let one = Numbered { seq: self.durable.last.next(), at: now.wall, entry };
            self.durable.collect_alert(&one);
            self.durable.apply(&one);
            if let Entry::NodeReady { node, .. } = &one.entry {
                self.seen.node(node).awaited = None;
            }
            numbered.push(one);
        }
        for note in notes {
            self.remember(now, note, &numbered, &mut effects);
        }
        if numbered.is_empty() && effects.is_empty() {
            return None;
        }
        Some(match resting_on {
            Some(seq) if numbered.is_empty() => Sealed::resting_on(seq, effects),
            _ => Sealed::new(self.durable.last, numbered, effects),
        })
    }

    #[expect(clippy::too_many_lines, reason = "one short arm for each kind of note")]
    fn remember(&mut self, now: Now, note: Note, numbered: &[Numbered], effects: &mut Vec<Effect>) {
        match note {
            Note::Wait { of, route, dialect, until_deadline } => {
                let waiting = self.seen.waiting.entry(of).or_default();
                waiting.routes.extend(route.map(|route| Waiter { route, dialect, until_deadline }));
            }
            Note::Settle { of, by } => {
                self.seen.waiting.entry(of).or_default().settle_by = Some(by);
                self.agenda.requests.insert(of);
            }
            Note::DeadlineAnswered { of, response, dialect } => {
                self.answered_at_deadline(of, response, dialect, numbered, effects);
            }
            Note::Awaited { node, by, at } => {
                self.seen.node(&node).awaited = Some(seen::Awaited { by, at, is_late: false });
            }
            Note::Late { node } => {
                if let Some(awaited) = &mut self.seen.node(&node).awaited {
                    awaited.is_late = true;
                }
            }
            Note::Deadline { of, at } => {
                self.seen.waiting.entry(of).or_default().deadline = Some(at);
                self.agenda.requests.insert(of);
            }
            Note::Answered(answered) => self.answered(answered, numbered, effects),
            Note::Dispatching { of, nodes } => {
                self.agenda.questions.extend(nodes.keys().map(|node| (of, node.clone())));
                self.seen.dispatch(of, nodes);
                self.agenda.facts.accepted.remove(&of);
                self.agenda.requests.insert(of);
            }
            Note::Asked { of, node, asked } => self.seen.questioned(of, &node, asked),
            Note::Unasked { of, node, error } => {
                self.seen.questioned(of, &node, Questioned::Answered(Err(error)));
                self.agenda.requests.insert(of);
            }
            Note::Published { keys } => {
                for key in keys {
                    self.seen.unsent.remove(&key);
                }
            }
            Note::Phase { node, phase } => {
                let ports = self.durable.nodes.get(&node).map(|record| record.spec.0.ports.clone());
                let node = self.seen.node(&node);
                node.phase = phase;
                if let ProcessPhase::Launching { .. } = phase {
                    node.ports = ports.unwrap_or_default();
                }
            }
            Note::Checking { checking } => {
                self.agenda.facts.accepted.remove(&checking.of);
                self.agenda.requests.insert(checking.of);
                self.seen.checking = Some(checking);
            }
            Note::Checked => self.seen.checking = None,
            Note::StopSent { node, incarnation, at } => {
                let node = self.seen.node(&node);
                node.stop_sent = Some((incarnation, at));
                if let Some(left) = &mut node.left {
                    left.after_stop = false;
                }
            }
            Note::LookedAgain { node, at } => {
                if let Some(blocked) = &mut self.seen.node(&node).blocked {
                    blocked.at = at;
                }
            }
            Note::SetAside { node, progress } => self.seen.node(&node).set_aside = progress,
            Note::LimitedCleanup { node, why } => {
                self.seen.node(&node).limited_cleanup = Some(seen::LimitedCleanup { why, pending: false })
            }
            Note::Adopted { node, ports } => {
                let node = self.seen.node(&node);
                node.was_adopted = true;
                node.ports = ports;
            }
            Note::Blocked { node, by, reason, at } => {
                let node = self.seen.node(&node);
                node.phase = ProcessPhase::Clear;
                node.blocked = Some(seen::Blocked { by, reason, since: at, at, is_told: true });
            }
            Note::Unblocked { node } => self.seen.unblock(&node),
            Note::AdoptingState { of } => {
                self.seen.adopting_state.insert(of);
                self.agenda.facts.accepted.remove(&of);
            }
            Note::StateAdopted { of, done } => {
                self.seen.adopting_state.remove(&of);
                // What may be done about each node has to be decided again.
                self.seen.all_changed = true;
                self.seen.copied = self.seen.copied.take().filter(|_| !done);
            }
            Note::EarlyExit { node, exit } => self.seen.node(&node).early_exit = exit,
            Note::DropTold { node } => self.seen.node(&node).is_drop_told = true,
            Note::Overdue { node } => self.seen.node(&node).overdue = true,
            Note::Forgotten { node } => {
                self.seen.nodes.remove(&node);
                self.seen.leaving.insert(node);
            }
            Note::Rejected { peer, at, journaled } => {
                self.agenda.peers.insert(peer.clone());
                let rejections = self.seen.rejections.entry(peer).or_default();
                if at.ms_since(rejections.since) >= requests::REJECTION_WINDOW_MS || rejections.since.0 == 0 {
                    *rejections = seen::Rejections { since: at, journaled: 0, suppressed: rejections.suppressed };
                }
                if journaled {
                    rejections.journaled += 1;
                    rejections.suppressed = 0;
                } else {
                    rejections.suppressed += 1;
                }
            }
            Note::RejectionsCounted { peer } => {
                self.seen.rejections.remove(&peer);
            }
            Note::WindingDown => self.wind_down(true),
            Note::NotWindingDown => self.wind_down(false),
            Note::Stopping { reason } => {
                self.seen.stopping = true;
                self.seen.end = Some(reason);
            }
            Note::Welcomed => self.seen.welcomed = true,
            Note::HelloSent => self.seen.last_hello = Some(now.boot),
            Note::HeadTold => self.seen.head_told = Some(now.boot),
            Note::Settled => self.seen.settled = true,
            Note::Telling { id } => self.seen.telling = id,
            Note::SpreadingStarts => self.seen.spreading_starts = true,
            Note::SpreadStart => self.seen.last_start = Some(now.boot),
        }
    }

    /// The host goes down: nothing is started any more in this run.
    fn observe_host_shutdown(&mut self) {
        self.seen.host_goes_down = true;
        self.seen.all_changed = true;
    }

    fn wind_down(&mut self, winding_down: bool) {
        self.seen.winding_down = winding_down;
        self.seen.all_changed = true;
    }

    /// The outcome of a request is decided: waiting requesters get it, and repeated requests before the commit find it.
    fn answered(&mut self, answered: Answered, numbered: &[Numbered], effects: &mut Vec<Effect>) {
        let Answered { of, digest, response, dialect, told_at_deadline } = answered;
        let Waiting { routes, .. } = self.seen.waiting.remove(&of).unwrap_or_default();
        self.seen.dispatched(of);
        let outcome = numbered.iter().find(|one| match &one.entry {
            Entry::RequestCompleted { of: completed, .. } => *completed == of,
            Entry::RequestAnswered { .. } => one.seq == of,
            _other => false,
        });
        let Some((key, at)) = outcome.map(|one| (one.seq, one.at)) else { return };
        let response = Arc::new(response);
        let routes = respond_to(&routes, &response, effects);
        if !response.reqid.is_empty() {
            let answer = Answer::Kept((*response).clone());
            let known = Known { seq: of, digest, deadline: None, outcome: Some(Stored { seq: key, at, answer }) };
            self.seen.fresh.insert(response.reqid.clone(), known);
        }
        // Subscribers already got the deadline response, and get no other.
        if !told_at_deadline {
            self.seen.remember_unsent(key, Unsent { dialect, response, routes });
            self.agenda.unsent = true;
        }
    }

    /// Requesters with a deadline get this; the others keep waiting.
    fn answered_at_deadline(
        &mut self,
        of: Seq,
        response: Response,
        dialect: Dialect,
        numbered: &[Numbered],
        effects: &mut Vec<Effect>,
    ) {
        let Some(told) =
            numbered.iter().find(|one| matches!(&one.entry, Entry::DeadlineAnswered { of: told, .. } if *told == of))
        else {
            return;
        };
        let waiting = self.seen.waiting.entry(of).or_default();
        let (hurried, patient): (Vec<_>, Vec<_>) = waiting.routes.drain(..).partition(|waiter| waiter.until_deadline);
        waiting.routes = patient;
        let response = Arc::new(response);
        let routes = respond_to(&hurried, &response, effects);
        let answer = Answer::Kept((*response).clone());
        self.seen.fresh_deadlines.insert(of, Stored { seq: told.seq, at: told.at, answer });
        self.seen.remember_unsent(told.seq, Unsent { dialect, response, routes });
        self.agenda.unsent = true;
    }

    /// Notifications for node states that differ from the last reported ones. A node that is new, or gone, counts as
    /// STOPPED.
    fn changes(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for name in std::mem::take(&mut self.agenda.states) {
            if !self.durable.nodes.contains_key(&name) && !self.seen.told.contains_key(&name) {
                continue;
            }
            let new = self.node_state(&name);
            if !self.seen.adopted {
                // What is found at the start is compared with what the last run knew, once everything is found.
                self.seen.told.entry(name).or_insert(new);
                continue;
            }
            let old = if self.durable.nodes.contains_key(&name) {
                self.seen.told.insert(name.clone(), new)
            } else {
                self.seen.told.remove(&name)
            };
            let old = old.unwrap_or(NodeState::Stopped);
            if old != new {
                effects.push(Effect::Notify(Notification::NotifyChange {
                    instance: self.options.instance.to_string(),
                    node: Box::new(self.described(&name)),
                    state: new,
                    old,
                    new,
                }));
            }
        }
        effects
    }
}

/// Answers all waiting requesters, and returns where the answer went.
fn respond_to(waiters: &[Waiter], response: &Arc<Response>, effects: &mut Vec<Effect>) -> BTreeSet<Route> {
    for Waiter { route, dialect, .. } in waiters {
        let response = Arc::clone(response);
        effects.push(Effect::Respond { route: *route, dialect: *dialect, response, stored_at: None });
    }
    waiters.iter().map(|waiter| waiter.route).collect()
}

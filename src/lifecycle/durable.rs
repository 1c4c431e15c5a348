//! What survives a restart: the sum of the journal's entries, and the only way to change it.
//!
//! [`Durable::apply`] applies a fact. Live operation and replay both come through here, so a restarted agent knows what
//! it knew. Nothing in this file depends on settings or clocks: the same entries always give the same state.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::event::{Request, Source};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId};
use crate::api::time::{BootTime, Timestamp};
use crate::journal::entry::past::{Asked, NodesChanged, Past};
use crate::journal::entry::{
    AgentRecord, ConfigChange, DesiredRecord, Entry, GivenUp, Life, NodeRecord, Numbered, Packed, Received, Record,
    Recovered, Stage, UnfinishedExtras, UnfinishedRecord, Verdict, Want, WantChange,
};

/// A node that ran this long had a proper life: its next death counts as the first in a row.
pub const PROPER_LIFE_MS: u64 = 60_000;

/// Boots remembered: the number that must be close together for starts to be spread out.
pub const BOOTS_KEPT: usize = 3;

/// Deaths remembered per node: more than any `max_restarts` that the settings allow.
pub const DEATHS_KEPT: usize = 64;

/// A request without an outcome, and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    pub received: Received,
    pub record: UnfinishedRecord,
}

/// The agent's state that survives its death.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// The newest entry applied.
    pub last: Seq,
    /// What is remembered of the agent itself: runs, boots, hold mode.
    pub agent: AgentRecord,
    /// The desired configuration, if there is one.
    pub desired: DesiredRecord,
    /// Every node that is wanted, or that has left something behind.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// Requests without an outcome, by their numbers.
    pub unfinished: BTreeMap<Seq, Unfinished>,
    /// The configurations that were to run here.
    pub past: Past,
    by_reqid: BTreeMap<ReqId, Seq>,
    dirty: Dirty,
    changed: Changed,
    /// Entries that an operator wants to be told of are collected.
    pub(super) collects_alerts: bool,
}

/// Nodes with the incarnation that each has to reach.
pub(super) type Targets = Vec<(NodeName, Incarnation)>;

/// What changed since the core last looked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changed {
    /// Something that concerns every node.
    pub all: bool,
    /// The running configuration.
    pub config: bool,
    pub nodes: BTreeSet<NodeName>,
    pub requests: BTreeSet<Seq>,
    /// Requests that no longer wait for these nodes.
    pub over: Vec<(Seq, Targets)>,
}

/// Which records the next commit has to write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Dirty {
    agent: bool,
    desired: bool,
    nodes: BTreeSet<NodeName>,
    /// Each with whether the journal already has a record of it.
    unfinished: BTreeMap<Seq, bool>,
}

impl Durable {
    /// The state that the journal's records describe; all of it counts as changed.
    pub fn new(recovered: Recovered) -> Self {
        let Recovered { last, agent, desired, nodes, unfinished, past, unsent: _ } = recovered;
        let unfinished: BTreeMap<_, _> =
            unfinished.into_iter().map(|(seq, (received, record))| (seq, Unfinished { received, record })).collect();
        let by_reqid = unfinished.iter().map(|(seq, one)| (one.received.reqid.clone(), *seq)).collect();
        let unready = nodes.iter().filter(|(_, record)| reached(record) == Some(false));
        let past = Past::new(past, unready.map(|(name, _)| name.clone()).collect(), &desired);
        let mut durable = Self { last, agent, desired, nodes, unfinished, past, by_reqid, ..Self::default() };
        durable.note_all();
        durable
    }

    /// Marks everything as to be looked at.
    pub(super) fn note_all(&mut self) {
        let requests = self.unfinished.keys().copied().collect();
        self.changed = Changed { all: true, config: true, requests, ..Changed::default() };
    }

    /// What changed since the last call.
    pub(super) fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// The unfinished request of this reqid. An empty reqid names none (P5).
    pub fn unfinished_by_reqid(&self, reqid: &ReqId) -> Option<(Seq, &Unfinished)> {
        if reqid.is_empty() {
            return None;
        }
        let seq = self.by_reqid.get(reqid)?;
        self.unfinished.get(seq).map(|one| (*seq, one))
    }

    /// Whether this request changes something, was accepted before hold mode, and has done nothing yet. If so, it does
    /// nothing until an operator resumes it.
    pub fn waits_for_operator(&self, seq: Seq) -> bool {
        let before = self.agent.extras.0.held_before;
        let waits = |one: &Unfinished| one.record.extras.0.resumed < before && waits_in_hold(one);
        seq < before && self.unfinished.get(&seq).is_some_and(waits)
    }

    /// The records that changed since the last call, to be committed with the entries that changed them.
    pub fn take_records(&mut self) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut records = Vec::new();
        if dirty.agent {
            records.push(Record::Agent(self.agent.clone()));
        }
        if dirty.desired {
            records.push(Record::Desired(self.desired.clone()));
        }
        for name in dirty.nodes {
            let record = self.nodes.get(&name).cloned().map(Box::new);
            records.push(Record::Node(name, record));
        }
        for (seq, stored) in dirty.unfinished {
            match self.unfinished.get(&seq) {
                Some(one) => records.push(Record::Unfinished(seq, Some(one.record.clone()))),
                None if stored => records.push(Record::Unfinished(seq, None)),
                // Created and finished within one batch: the journal never needs a record of it.
                None => {}
            }
        }
        let past = self.past.take_dirty().into_iter();
        records.extend(past.map(|(seq, record)| Record::Past(seq, record.map(Box::new))));
        records
    }

    /// Applies a journaled fact.
    pub fn apply(&mut self, numbered: &Numbered) {
        self.last = numbered.seq;
        match &numbered.entry {
            Entry::AgentStarted { boot_id, .. } => self.agent_started(boot_id, numbered.at),
            Entry::AgentStopped { .. } => self.change_agent(|agent| {
                agent.stopped = true;
                agent.unsettled_starts = 0;
            }),
            Entry::AgentSettled => self.change_agent(|agent| agent.unsettled_starts = 0),
            Entry::HoldEntered { reason } => {
                self.change_hold(Some(reason.clone()));
                self.agent.extras.0.held_before = numbered.seq;
                // Some of them start to wait here.
                self.changed.requests.extend(self.unfinished.keys().copied());
            }
            Entry::HoldEnded { .. } => self.change_hold(None),
            Entry::EventTold { .. } | Entry::TroubleSeen { .. } => {}
            Entry::Imported { .. } => self.past.end(numbered.at),
            Entry::ConfigurationKept { set, record } => self.past.keep(*set, record.as_ref().clone(), numbered.seq),
            Entry::Salvaged { .. } | Entry::FormatChanged { .. } | Entry::Pruned { .. } => {}
            Entry::RequestAnswered { .. } | Entry::RequestConflicted { .. } | Entry::InputRejected { .. } => {}
            Entry::DuplicateSeen { of, source } => self.asked_again(*of, numbered.at, source),
            Entry::RequestReceived { .. } => self.request_received(numbered),
            Entry::RequestBegun { of, .. } => {
                // The attempt follows from how many were lost before; the entry is for the audit.
                if self.waits_for_operator(*of)
                    && let Some(one) = self.unfinished.get_mut(of)
                {
                    one.record.extras.0.resumed = numbered.seq;
                }
                self.touch_unfinished(*of);
            }
            Entry::RequestWaits { of, goal, targets } => {
                if let Some(one) = self.unfinished.get_mut(of) {
                    let waiting = Stage::Waiting { goal: *goal, targets: targets.clone() };
                    let before = std::mem::replace(&mut one.record.stage, waiting);
                    self.changed.over.extend(targets_of(before).map(|targets| (*of, targets)));
                }
                self.touch_unfinished(*of);
            }
            // What is checked is known to this run alone: the request stays accepted.
            Entry::PreflightBegun { of, .. } | Entry::PreflightEnded { of, .. } => self.touch_unfinished(*of),
            Entry::DeadlineAnswered { of, .. } => {
                if let Some(one) = self.unfinished.get_mut(of) {
                    one.record.extras.0.deadline = Some(numbered.seq);
                    self.touch_unfinished(*of);
                }
            }
            Entry::RequestCompleted { of, .. } => self.request_completed(*of),
            Entry::DesiredChanged { by, config, nodes } => {
                let changed = self.count_changes(nodes);
                self.desired_changed(*by, config, nodes);
                self.note_configuration(numbered, *by, config, changed);
            }
            Entry::LaunchIntended { node, incarnation, .. } => self.change_node(node, |record| {
                record.incarnation = *incarnation;
                record.life = Life::Intended;
                record.next_start = None;
            }),
            Entry::NodeStarted { node, incarnation, process } => self.change_node(node, |record| {
                record.incarnation = *incarnation;
                record.life = Life::Up { process: process.clone(), since: since_boot(process), ready: false };
            }),
            Entry::NodeReady { node, .. } => self.change_node(node, |record| {
                if let Life::Up { ready, .. } = &mut record.life {
                    *ready = true;
                }
            }),
            Entry::NodeExited { node, incarnation, cause, asked, ran_ms, when, verdict, .. } => {
                self.change_node(node, |record| {
                    record.incarnation = *incarnation;
                    exited(record, cause, *asked, *ran_ms, *when, verdict);
                });
                self.drop_if_gone(node);
            }
            Entry::NodeAdopted { node, incarnation, process, spec } => {
                self.node_adopted(node, *incarnation, process, spec);
            }
            Entry::NodeRetried { node } => self.change_node(node, |record| {
                record.given_up = None;
                record.next_start = None;
            }),
        }
        self.past.settle(numbered.at);
    }

    /// How a change affects the nodes that are known now.
    fn count_changes(&self, nodes: &[(NodeName, WantChange)]) -> NodesChanged {
        let mut changed = NodesChanged::default();
        for (name, change) in nodes {
            match change {
                WantChange::Up { .. } if self.nodes.contains_key(name) => changed.replaced += 1,
                WantChange::Up { .. } => changed.started += 1,
                WantChange::Gone => changed.removed += 1,
                WantChange::Retry | WantChange::Stopped => {}
            }
        }
        changed
    }

    /// The history of configurations, once the nodes have their new wants.
    fn note_configuration(&mut self, numbered: &Numbered, by: Seq, config: &ConfigChange, changed: NodesChanged) {
        match config {
            ConfigChange::Keep => {}
            ConfigChange::Forget => self.past.end(numbered.at),
            ConfigChange::Set(config) => {
                let nobody = || (ReqId::default(), Source { transport: String::new(), peer: String::new() });
                let known = self.unfinished.get(&by).map(|one| &one.received);
                let (reqid, source) = known.map_or_else(nobody, |one| (one.reqid.clone(), one.source.clone()));
                let asked = Asked { request: by, reqid, source };
                self.past.set(numbered.seq, numbered.at, asked, config.clone(), changed);
            }
        }
    }

    pub(super) fn change_agent(&mut self, change: impl FnOnce(&mut AgentRecord)) {
        change(&mut self.agent);
        self.dirty.agent = true;
    }

    fn change_hold(&mut self, hold: Option<String>) {
        self.change_agent(|agent| agent.hold = hold);
        self.changed.all = true;
    }

    fn change_node(&mut self, name: &NodeName, change: impl FnOnce(&mut NodeRecord)) {
        if let Some(record) = self.nodes.get_mut(name) {
            change(record);
            self.touch_node(name);
        }
    }

    fn touch_node(&mut self, name: &NodeName) {
        self.past.node(name, self.nodes.get(name).and_then(reached));
        self.dirty.nodes.insert(name.clone());
        self.changed.nodes.insert(name.clone());
    }

    fn touch_unfinished(&mut self, seq: Seq) {
        self.dirty.unfinished.entry(seq).or_insert(true);
        self.changed.requests.insert(seq);
    }

    fn agent_started(&mut self, boot_id: &str, at: Timestamp) {
        let crashed = !self.agent.boot_id.is_empty() && !self.agent.stopped;
        if crashed {
            // A waiting request cannot have caused a crash.
            let seqs: Vec<Seq> = self.unfinished.keys().copied().filter(|seq| !self.waits_for_operator(*seq)).collect();
            for seq in seqs {
                if let Some(one) = self.unfinished.get_mut(&seq) {
                    one.record.lost_attempts += 1;
                }
                self.touch_unfinished(seq);
            }
        }
        let is_new_boot = self.agent.boot_id != boot_id;
        if is_new_boot {
            // Deaths and delays are measured in the time of a past boot.
            for (name, record) in &mut self.nodes {
                record.deaths.clear();
                record.streak = 0;
                record.next_start = None;
                record.given_up = None;
                self.dirty.nodes.insert(name.clone());
            }
            self.changed.all = true;
        }
        self.change_agent(|agent| {
            if is_new_boot {
                // A power cut soon after a start is not an early death of the agent.
                agent.unsettled_starts = 0;
                let boots = &mut agent.extras.0.boots;
                boots.push(at);
                boots.drain(..boots.len().saturating_sub(BOOTS_KEPT));
            }
            agent.boot_id = boot_id.to_owned();
            agent.stopped = false;
            agent.unsettled_starts += 1;
        });
    }

    fn request_received(&mut self, numbered: &Numbered) {
        let Entry::RequestReceived { reqid, request, digest, dialect, source } = &numbered.entry else { return };
        let received = Received {
            seq: numbered.seq,
            at: numbered.at,
            reqid: reqid.clone(),
            request: request.0.clone(),
            digest: *digest,
            dialect: *dialect,
            source: source.clone(),
        };
        let asked = source.has_deadline().then_some(numbered.at);
        let extras = Packed(UnfinishedExtras { asked, ..UnfinishedExtras::default() });
        let record = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras };
        self.unfinished.insert(numbered.seq, Unfinished { received, record });
        if !reqid.is_empty() {
            self.by_reqid.insert(reqid.clone(), numbered.seq);
        }
        self.dirty.unfinished.insert(numbered.seq, false);
        self.changed.requests.insert(numbered.seq);
    }

    /// The deadline begins with the first requester that has one.
    fn asked_again(&mut self, of: Seq, at: Timestamp, source: &Source) {
        if let Some(one) = self.unfinished.get_mut(&of)
            && source.has_deadline()
            && one.record.extras.0.asked.is_none()
        {
            one.record.extras.0.asked = Some(at);
            self.touch_unfinished(of);
        }
    }

    fn request_completed(&mut self, of: Seq) {
        if let Some(one) = self.unfinished.remove(&of) {
            self.by_reqid.remove(&one.received.reqid);
            self.changed.over.extend(targets_of(one.record.stage).map(|targets| (of, targets)));
        }
        self.touch_unfinished(of);
    }

    fn desired_changed(&mut self, by: Seq, config: &ConfigChange, nodes: &[(NodeName, WantChange)]) {
        self.desired.by = by;
        match config {
            ConfigChange::Keep => {}
            ConfigChange::Set(config) => self.desired.config = Some(config.clone()),
            ConfigChange::Forget => self.desired.config = None,
        }
        self.dirty.desired = true;
        self.changed.config |= !matches!(config, ConfigChange::Keep);
        for (name, change) in nodes {
            match change {
                WantChange::Up { spec, least } => self.want_up(by, name, spec, *least),
                WantChange::Retry => self.change_node(name, |record| {
                    record.by = by;
                    forgive(record);
                }),
                WantChange::Stopped => self.change_node(name, |record| {
                    record.want = Want::Stopped;
                    record.by = by;
                    forgive(record);
                }),
                WantChange::Gone => {
                    self.change_node(name, |record| {
                        record.want = Want::Gone;
                        record.by = by;
                    });
                    self.drop_if_gone(name);
                }
            }
        }
    }

    fn want_up(&mut self, by: Seq, name: &NodeName, spec: &Packed<LaunchSpec>, least: Incarnation) {
        let record = self.nodes.entry(name.clone()).or_insert_with(|| NodeRecord {
            spec: spec.clone(),
            want: Want::Up,
            least,
            by,
            incarnation: Incarnation(least.0.saturating_sub(1)),
            life: Life::Down,
            deaths: Vec::new(),
            streak: 0,
            next_start: None,
            given_up: None,
            last_exit: None,
            extras: Packed::default(),
        });
        record.spec = spec.clone();
        record.want = Want::Up;
        record.least = least;
        record.by = by;
        forgive(record);
        self.touch_node(name);
    }

    fn node_adopted(
        &mut self,
        name: &NodeName,
        incarnation: Incarnation,
        process: &ProcessId,
        spec: &Packed<LaunchSpec>,
    ) {
        let life = Life::Up { process: process.clone(), since: since_boot(process), ready: false };
        match self.nodes.get_mut(name) {
            Some(record) => {
                record.spec = spec.clone();
                record.incarnation = incarnation;
                record.life = life;
            }
            None => {
                let record = NodeRecord {
                    spec: spec.clone(),
                    want: Want::Up,
                    least: incarnation,
                    by: Seq::default(),
                    incarnation,
                    life,
                    deaths: Vec::new(),
                    streak: 0,
                    next_start: None,
                    given_up: None,
                    last_exit: None,
                    extras: Packed::default(),
                };
                self.nodes.insert(name.clone(), record);
            }
        }
        self.touch_node(name);
    }

    fn drop_if_gone(&mut self, name: &NodeName) {
        let gone = self.nodes.get(name).is_some_and(|r| r.want == Want::Gone && r.life == Life::Down);
        if gone && let Some(record) = self.nodes.remove(name) {
            self.touch_node(name);
            self.change_agent(|agent| agent.newest_gone = agent.newest_gone.max(record.incarnation));
        }
    }
}

/// Whether the node is where the configuration wants it; `None`: the configuration does not want it.
fn reached(record: &NodeRecord) -> Option<bool> {
    let is_ready = record.incarnation >= record.least && matches!(record.life, Life::Up { ready: true, .. });
    (record.want != Want::Gone).then_some(record.want == Want::Up && is_ready)
}

fn targets_of(stage: Stage) -> Option<Targets> {
    match stage {
        Stage::Waiting { targets, .. } => Some(targets),
        Stage::Accepted => None,
    }
}

/// Whether a request that was accepted before hold mode would do something that it has not done yet.
pub(super) fn waits_in_hold(one: &Unfinished) -> bool {
    match (&one.received.request, &one.record.stage) {
        (
            Request::NodeDispatch { .. } | Request::AgentWelcome {} | Request::GetNodes {} | Request::AdoptState {},
            _,
        ) => false,
        // Its nodes are wanted, but it stops them anyway.
        (Request::Shutdown { nodes: true }, _) => true,
        (
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentStandby {}
            | Request::Restart { .. }
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::Shutdown { nodes: false },
            stage,
        ) => *stage == Stage::Accepted,
    }
}

/// Someone asked for this node: its earlier failures no longer count.
fn forgive(record: &mut NodeRecord) {
    record.deaths.clear();
    record.streak = 0;
    record.next_start = None;
    record.given_up = None;
}

fn exited(
    record: &mut NodeRecord,
    cause: &ExitCause,
    asked: bool,
    ran_ms: Option<u64>,
    when: BootTime,
    verdict: &Verdict,
) {
    record.life = Life::Down;
    record.last_exit = Some(cause.clone());
    if asked {
        record.next_start = None;
        record.streak = 0;
        return;
    }
    // What never ran did not die: it counts only for the backoff.
    let is_of_host = matches!(cause, ExitCause::HostRestarted | ExitCause::HostShutdown);
    if !is_of_host && !matches!(cause, ExitCause::NotStarted(_)) {
        record.deaths.push(when);
        if record.deaths.len() > DEATHS_KEPT {
            record.deaths.remove(0);
        }
    }
    if !is_of_host {
        record.streak = if ran_ms.is_some_and(|ms| ms >= PROPER_LIFE_MS) { 1 } else { record.streak + 1 };
    }
    match verdict {
        Verdict::Rest => record.next_start = None,
        Verdict::RestartAt(at) => {
            record.next_start = Some(*at);
            record.given_up = None;
        }
        Verdict::GiveUp { reason } => record.given_up = Some(GivenUp { reason: reason.clone(), at: when }),
    }
}

/// When a process started: the kernel counts in ticks of 10 ms since boot (USER_HZ is 100 on every Linux).
fn since_boot(process: &ProcessId) -> BootTime {
    BootTime(process.start_time.saturating_mul(10_000))
}

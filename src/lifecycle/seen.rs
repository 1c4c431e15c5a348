//! What only this run of the agent needs to know: who waits, where processes are, who is subscribed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::event::{Dialect, Response, Route};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::status::{NodeOutputs, NodeState};
use crate::api::survivors::Survivors;
use crate::api::time::BootTime;
use crate::journal::entry::{Known, Stored};

use super::answer;
use super::input::Peers;
use super::questions::{Dispatch, Questioned};

/// The most responses kept for future subscribers, oldest dropped first: all stay in the journal, and a repeated
/// request gets its response.
pub(super) const UNSENT_LIMIT: usize = 256;
/// The most bytes of them, exceeded by at most one response.
const UNSENT_BYTES: usize = 16 << 20;

/// The preflight check that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checking {
    pub of: Seq,
    pub nodes: Vec<NodeName>,
    /// When it is given up.
    pub by: BootTime,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub started: BootTime,
    pub version: String,
    pub pid: u32,
    /// Every node has been looked for.
    pub adopted: bool,
    pub settled: bool,
    pub stopping: bool,
    /// Why the agent is to end, until the exit has been ordered.
    pub end: Option<String>,
    pub winding_down: bool,
    /// A node ended because the host goes down: this run starts none any more.
    pub host_goes_down: bool,
    /// Why this state directory is considered a copy of another.
    pub copied: Option<String>,
    /// The check before a change, if one is under way.
    pub checking: Option<Checking>,
    /// Requests that adopt the state directory, until that is done.
    pub adopting_state: BTreeSet<Seq>,
    /// The newest entry known to be durable.
    pub durable: Seq,
    /// Requests whose outcome is decided but not yet durable: the journal may not know them.
    pub fresh: BTreeMap<ReqId, Known>,
    /// The same for deadline responses.
    pub fresh_deadlines: BTreeMap<Seq, Stored>,
    pub nodes: Nodes,
    /// Something changed that concerns every node.
    pub all_changed: bool,
    /// Nodes that are in no configuration any more, but may have left something until their supervisor says otherwise.
    pub leaving: BTreeSet<NodeName>,
    /// The state last reported by notify_change, for each node that is not gone.
    pub told: BTreeMap<NodeName, NodeState>,
    pub waiting: BTreeMap<Seq, Waiting>,
    pub unsent: BTreeMap<Seq, Unsent>,
    pub peers: Peers,
    /// Requests that wait for answers of nodes.
    pub dispatches: BTreeMap<Seq, Dispatch>,
    /// For each node, the requests whose question it has not answered.
    asking: BTreeMap<NodeName, BTreeSet<Seq>>,
    pub welcomed: bool,
    pub last_hello: Option<BootTime>,
    /// When the journal's head was last reported because of the interval.
    pub head_told: Option<BootTime>,
    pub rejections: BTreeMap<String, Rejections>,
    /// The host boots too often: nodes are started with pauses for a while.
    pub spreading_starts: bool,
    /// When the last of these starts began.
    pub last_start: Option<BootTime>,
    /// The alert that is being told.
    pub telling: Option<Seq>,
}

/// What is known of each node's process. Nodes whose facts change are noted.
#[derive(Debug, Clone, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeName, NodeSeen>,
    noted: BTreeSet<NodeName>,
}

impl Nodes {
    pub fn get(&self, name: &NodeName) -> Option<&NodeSeen> {
        self.nodes.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    pub fn change(&mut self, name: &NodeName) -> &mut NodeSeen {
        self.note(name);
        self.nodes.entry(name.clone()).or_default()
    }

    pub fn remove(&mut self, name: &NodeName) {
        self.note(name);
        self.nodes.remove(name);
    }

    /// Records that there is such a node. That alone changes nothing.
    pub fn know(&mut self, name: &NodeName) {
        if !self.nodes.contains_key(name) {
            self.nodes.insert(name.clone(), NodeSeen::default());
        }
    }

    /// Notes that something about the node has changed.
    pub fn note(&mut self, name: &NodeName) {
        if !self.noted.contains(name) {
            self.noted.insert(name.clone());
        }
    }

    /// Nodes of which something changed since the last call.
    pub fn take_noted(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.noted)
    }
}

/// What is known of one node's process.
#[derive(Debug, Clone)]
pub(super) struct NodeSeen {
    pub phase: ProcessPhase,
    /// The newest incarnation that is known.
    pub newest: Incarnation,
    /// The ports that its process was started with, which may differ from the ports that are wanted now.
    pub ports: Vec<u16>,
    /// The stop that was ordered, and when.
    pub stop_sent: Option<(Incarnation, BootTime)>,
    /// A foreign obstacle blocks its start.
    pub blocked: Option<Blocked>,
    /// Preparing a start failed.
    pub unprepared: Option<Unprepared>,
    /// The number of lasting ends in a row, and the request that wanted the node then: a later request starts a new
    /// count.
    pub lasting: (u32, Seq),
    /// What its shim could not end after it.
    pub left: Option<Left>,
    /// After its last process, only holders of its lock could be searched for.
    pub limited_cleanup: Option<LimitedCleanup>,
    /// Progress of setting aside its run directory for a forced stop.
    pub set_aside: Option<SetAside>,
    /// Bytes of its process's output that could not be written.
    pub dropped: u64,
    /// The loss of output was reported.
    pub is_drop_told: bool,
    /// The release of its shim, if it said so.
    pub shim: Option<String>,
    /// Its shim does not answer.
    pub silent: bool,
    pub overdue: bool,
    /// Its turn to start came, or could not come, and it is not ready yet.
    pub awaited: Option<Awaited>,
    /// It checked in before its start was known.
    pub checked_in: bool,
    /// Connections over which it said hello since its process was started, oldest first. The first is its channel: the
    /// next one replaces it only when it is closed.
    pub hellos: Vec<u64>,
    /// Found running when the agent started.
    pub was_adopted: bool,
    pub outputs: Option<NodeOutputs>,
    /// The early exit of its last process, until one becomes ready.
    pub early_exit: Option<EarlyExit>,
}

impl Default for NodeSeen {
    fn default() -> Self {
        Self {
            phase: ProcessPhase::Clear,
            newest: Incarnation::default(),
            ports: Vec::new(),
            stop_sent: None,
            blocked: None,
            unprepared: None,
            left: None,
            limited_cleanup: None,
            set_aside: None,
            dropped: 0,
            is_drop_told: false,
            lasting: (0, Seq::default()),
            shim: None,
            silent: false,
            overdue: false,
            awaited: None,
            checked_in: false,
            hellos: Vec::new(),
            was_adopted: false,
            outputs: None,
            early_exit: None,
        }
    }
}

/// Where a node's process is, as far as this run knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessPhase {
    /// Nobody has looked yet.
    Unprobed,
    /// There is no process.
    Clear,
    /// Its lock, socket and launch file are being made, for the request `by`.
    Preparing { incarnation: Incarnation, by: Seq },
    /// They exist: the node can be spawned.
    Prepared { incarnation: Incarnation, by: Seq },
    /// Its shim is being spawned, or has not started it yet.
    Launching { incarnation: Incarnation },
    /// It runs.
    Present { incarnation: Incarnation },
}

/// Failed attempts to prepare a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unprepared {
    /// How many in a row, for the request that wanted the node then: a later request is tried immediately.
    pub tries: u32,
    pub by: Seq,
    pub at: BootTime,
    /// When to try again, unless the node was given up.
    pub next: BootTime,
}

#[derive(Debug, Clone)]
pub(super) struct Blocked {
    pub by: Obstacle,
    pub reason: String,
    /// Blocked by the same obstacle since then, without interruption.
    pub since: BootTime,
    pub at: BootTime,
    /// The obstacle was reported.
    pub is_told: bool,
}

/// Progress of setting aside a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SetAside {
    /// The supervisor was ordered to do it.
    Ordered,
    /// The directory is out of the way. `path`: its new place, if there was a directory.
    Done { path: Option<String> },
    /// The directory stays where it is, and so does whatever holds it.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its lock is held by a process that is not proven ours: some process of the node may run.
    Lock,
    /// Its recorded process runs and belongs to another state directory, of which this one is a copy.
    Foreign,
    /// A process listens on a port that it needs. Nothing of the node itself runs.
    Port,
}

/// Processes that its shim could not end.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub survivors: Survivors,
    /// They were reported after the shim was told to stop the node.
    pub after_stop: bool,
}

/// Less than usual is known about a node's end.
#[derive(Debug, Clone)]
pub(super) struct LimitedCleanup {
    pub why: &'static str,
    /// Holders of its lock are still being searched for.
    pub pending: bool,
}

/// An end so soon after the start that it says something about the configuration.
#[derive(Debug, Clone)]
pub(super) struct EarlyExit {
    pub incarnation: Incarnation,
    pub what: String,
}

/// Who waits for the outcome of a request, and until when.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    pub routes: Vec<Waiter>,
    /// When requesters over Broker or WebSocket get a response.
    pub deadline: Option<BootTime>,
    /// When the outcome is decided at the latest.
    pub settle_by: Option<BootTime>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub route: Route,
    pub dialect: Dialect,
    pub until_deadline: bool,
}

/// The request that waits for a node to become ready, since when, and whether the node is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Awaited {
    pub by: Seq,
    pub at: BootTime,
    pub is_late: bool,
}

/// A response that has not provably been sent.
#[derive(Debug, Clone)]
pub(super) struct Unsent {
    pub dialect: Dialect,
    pub response: Arc<Response>,
    /// Connections it was handed to. If none is left, it is for the next subscriber.
    pub routes: BTreeSet<Route>,
}

/// Rejected input of one peer within the current minute.
#[derive(Debug, Clone, Default)]
pub(super) struct Rejections {
    pub since: BootTime,
    pub journaled: u32,
    pub suppressed: u64,
}

impl Seen {
    /// `durable`: the newest entry that an earlier run left.
    pub fn new(durable: Seq) -> Self {
        Self { durable, ..Self::default() }
    }

    pub fn node(&mut self, name: &NodeName) -> &mut NodeSeen {
        self.nodes.change(name)
    }

    /// Requests that ask this node something.
    pub fn asking(&self, name: &NodeName) -> BTreeSet<Seq> {
        self.asking.get(name).cloned().unwrap_or_default()
    }

    /// Every unanswered question.
    pub fn all_questions(&self) -> impl Iterator<Item = (Seq, NodeName)> {
        self.asking.iter().flat_map(|(name, seqs)| seqs.iter().map(|seq| (*seq, name.clone())))
    }

    pub fn remember_unsent(&mut self, key: Seq, unsent: Unsent) {
        self.unsent.insert(key, unsent);
        let mut bytes: usize = self.unsent.values().map(|unsent| answer::weight(&unsent.response)).sum();
        while self.unsent.len() > UNSENT_LIMIT || (bytes > UNSENT_BYTES && self.unsent.len() > 1) {
            let Some((_, oldest)) = self.unsent.pop_first() else { break };
            bytes = bytes.saturating_sub(answer::weight(&oldest.response));
        }
    }

    /// The request asks these nodes; those with a result are not asked.
    pub fn dispatch(&mut self, of: Seq, nodes: BTreeMap<NodeName, Questioned>) {
        let dispatch = Dispatch::new(nodes);
        for name in dispatch.open() {
            self.asking.entry(name.clone()).or_default().insert(of);
        }
        self.dispatches.insert(of, dispatch);
    }

    /// Records the progress of the question to a node.
    pub fn questioned(&mut self, of: Seq, node: &NodeName, state: Questioned) {
        let is_answered = matches!(state, Questioned::Answered(_));
        let Some(dispatch) = self.dispatches.get_mut(&of) else { return };
        dispatch.set(node, state);
        if is_answered {
            self.not_asking(of, node);
        }
    }

    /// The request has its outcome.
    pub fn dispatched(&mut self, of: Seq) {
        let Some(dispatch) = self.dispatches.remove(&of) else { return };
        for node in dispatch.open() {
            self.not_asking(of, node);
        }
    }

    fn not_asking(&mut self, of: Seq, node: &NodeName) {
        if let Some(seqs) = self.asking.get_mut(node) {
            seqs.remove(&of);
            if seqs.is_empty() {
                self.asking.remove(node);
            }
        }
    }

    pub fn delivered(&mut self, route: Route) {
        self.unsent.retain(|_, unsent| !unsent.routes.contains(&route));
    }

    /// Forgets the routes over a connection; responses in flight there are kept for the next subscriber.
    pub fn disconnected(&mut self, connection: u64) {
        for waiting in self.waiting.values_mut() {
            waiting.routes.retain(|waiter| waiter.route.connection != connection);
        }
        for unsent in self.unsent.values_mut() {
            unsent.routes.retain(|route| route.connection != connection);
        }
    }
}

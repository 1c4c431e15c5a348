//! What this run of the agent has seen and the next may forget: who waits, where processes are, who listens.

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

/// Responses kept for a peer that may come, oldest dropped first: they stay in the journal, and whoever repeats the
/// request gets them.
pub(super) const UNSENT_LIMIT: usize = 256;
/// So many bytes of them, or one more than fits.
const UNSENT_BYTES: usize = 16 << 20;

#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub started: BootTime,
    pub version: String,
    pub pid: u32,
    /// Every node has been looked for.
    pub adopted: bool,
    pub settled: bool,
    pub stopping: bool,
    /// Why the agent is to end, until that has been said.
    pub end: Option<String>,
    pub winding_down: bool,
    /// Why this state directory is taken for a copy of another.
    pub copied: Option<String>,
    /// Requests that make it one of its own, until that is done.
    pub adopting_state: BTreeSet<Seq>,
    /// The newest entry known to be durable.
    pub durable: Seq,
    /// Requests whose outcome is decided and not durable yet: the journal cannot be relied on to know them.
    pub fresh: BTreeMap<ReqId, Known>,
    /// The same of what was told at the deadline of a request.
    pub fresh_deadlines: BTreeMap<Seq, Stored>,
    pub nodes: Nodes,
    /// Something changed that concerns every node.
    pub all_changed: bool,
    /// Nodes that are in no configuration any more, and of which something may be left until their supervisor says otherwise.
    pub leaving: BTreeSet<NodeName>,
    /// The state that notify_change told last, of each node that is not gone.
    pub told: BTreeMap<NodeName, NodeState>,
    pub waiting: BTreeMap<Seq, Waiting>,
    pub unsent: BTreeMap<Seq, Unsent>,
    pub peers: Peers,
    /// Requests that wait for what nodes answer.
    pub dispatches: BTreeMap<Seq, Dispatch>,
    /// Which of them ask a node that has not answered.
    asking: BTreeMap<NodeName, BTreeSet<Seq>>,
    pub welcomed: bool,
    pub last_hello: Option<BootTime>,
    /// When the journal's head was told because it was time.
    pub head_told: Option<BootTime>,
    pub rejections: BTreeMap<String, Rejections>,
    /// The host boots too often: nodes are started with pauses for a while.
    pub spreading_starts: bool,
    /// When the last of these starts began.
    pub last_start: Option<BootTime>,
}

/// What is known of each node's process. Whoever changes that is noted.
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

    /// There is such a node. That alone changes nothing.
    pub fn know(&mut self, name: &NodeName) {
        if !self.nodes.contains_key(name) {
            self.nodes.insert(name.clone(), NodeSeen::default());
        }
    }

    /// Something about it has changed.
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
    /// The newest incarnation that was heard of.
    pub newest: Incarnation,
    /// The ports that its process was started with, which may not be those it is wanted with now.
    pub ports: Vec<u16>,
    /// The stop that was ordered, and when.
    pub stop_sent: Option<(Incarnation, BootTime)>,
    /// Something that is not ours stands in the way of its start.
    pub blocked: Option<Blocked>,
    /// Preparing a start failed.
    pub unprepared: Option<Unprepared>,
    /// Ends in a row that last, and the request that wanted the node then: a later one begins anew.
    pub lasting: (u32, Seq),
    /// What its shim could not end after it.
    pub left: Option<Left>,
    /// Only holders of its lock could be looked for after its last process.
    pub limited_cleanup: Option<LimitedCleanup>,
    /// What became of a forced stop's wish to have its run directory out of the way.
    pub set_aside: Option<SetAside>,
    /// Bytes of its process's output that could not be written.
    pub dropped: u64,
    /// That was said.
    pub is_drop_told: bool,
    /// Its shim does not answer.
    pub silent: bool,
    pub overdue: bool,
    /// Its turn to start came, or could not come, and it is not ready yet.
    pub awaited: Option<Awaited>,
    /// It checked in before its start was known.
    pub checked_in: bool,
    /// Connections over which it said hello since its process was started, oldest first. The first is its channel: another
    /// takes its place when it is gone, and not before.
    pub hellos: Vec<u64>,
    /// Found running when the agent started.
    pub was_adopted: bool,
    pub outputs: Option<NodeOutputs>,
    /// Of its last process, until one gets ready.
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
    /// There is none.
    Clear,
    /// Lock, socket and launch file are being made, for what the request `by` wants.
    Preparing { incarnation: Incarnation, by: Seq },
    /// They are there: it can be spawned.
    Prepared { incarnation: Incarnation, by: Seq },
    /// Its shim is being spawned, or has not started it yet.
    Launching { incarnation: Incarnation },
    /// It runs.
    Present { incarnation: Incarnation },
}

/// Attempts to prepare a start that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unprepared {
    /// In a row, for the request that wanted the node then: a later one is tried at once.
    pub tries: u32,
    pub by: Seq,
    pub at: BootTime,
    /// When it is tried again, unless the node was given up.
    pub next: BootTime,
}

#[derive(Debug, Clone)]
pub(super) struct Blocked {
    pub by: Obstacle,
    pub reason: String,
    /// By the same, without a break.
    pub since: BootTime,
    pub at: BootTime,
    /// It was said before.
    pub is_told: bool,
}

/// How far a run directory is on its way to being set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SetAside {
    /// The supervisor was told to.
    Ordered,
    /// It is not in the way any more. Where it is, if there was one.
    Done { path: Option<String> },
    /// It stays where it is, and so does what holds it.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its lock is held by what is not proven ours: some process of it may run.
    Lock,
    /// Its recorded process runs and is another state directory's, of which this one is a copy.
    Foreign,
    /// Somebody listens on a port that it needs. Nothing of it runs.
    Port,
}

/// Processes that its shim could not end.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub survivors: Survivors,
    /// The shim had been told to stop it.
    pub after_stop: bool,
}

/// Less than usual is known of a node's end.
#[derive(Debug, Clone)]
pub(super) struct LimitedCleanup {
    pub why: &'static str,
    /// Holders of its lock are still being looked for.
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
    /// When those who ask over Broker or WebSocket are told something.
    pub deadline: Option<BootTime>,
    /// When the outcome is decided, whatever it is then.
    pub settle_by: Option<BootTime>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub route: Route,
    pub dialect: Dialect,
    pub until_deadline: bool,
}

/// For which request it is waited for a node to get ready, since when, and whether that was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Awaited {
    pub by: Seq,
    pub at: BootTime,
    pub is_late: bool,
}

/// A response that has not provably left.
#[derive(Debug, Clone)]
pub(super) struct Unsent {
    pub dialect: Dialect,
    pub response: Arc<Response>,
    /// Connections it was handed to. None left: it is for whoever subscribes next.
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

    /// Every question that is not answered.
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

    /// Notes how far the question to a node has come.
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

    /// Forgets the routes over a connection; responses under way there stay for whoever subscribes.
    pub fn disconnected(&mut self, connection: u64) {
        for waiting in self.waiting.values_mut() {
            waiting.routes.retain(|waiter| waiter.route.connection != connection);
        }
        for unsent in self.unsent.values_mut() {
            unsent.routes.retain(|route| route.connection != connection);
        }
    }
}

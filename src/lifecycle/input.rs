//! All inputs of the agent.

use std::collections::BTreeMap;

use crate::api::alert::AlertKind;
use crate::api::event::{Dialect, Incoming, Route, Source};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::preflight::PreflightReport;
use crate::api::status::NodeOutputs;
use crate::api::supervision::{Finding, NodeEvent};
use crate::journal::entry::{Known, Removal};

/// Something that has happened. The core decides what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The first input of a run, after the journal was read. `hold`: why nothing may be started or stopped yet.
    Started {
        /// The kernel's id of this boot.
        boot_id: String,
        /// The agent's release.
        version: String,
        /// The agent's process id.
        pid: u32,
        /// The reason, for the log and `status`; `None`: no doubts.
        hold: Option<String>,
    },
    /// The state directory appears to be a copy of another: why, and what to do. Comes before any finding.
    Copied {
        /// For the log and `status`.
        reason: String,
    },
    /// The request `of` made this an independent state directory, as the text says, or failed to.
    StateAdopted {
        /// The request's number.
        of: Seq,
        /// What was done, or why it could not be.
        outcome: Result<String, String>,
    },
    /// What an earlier run of the agent left of this node.
    Found {
        /// The node's name.
        node: NodeName,
        /// What is left of it.
        finding: Finding,
    },
    /// Every node has been looked for: from now on, requests are handled and nodes started.
    Adopted,
    /// Boxed: a configuration is large, everything else here is small. `known`: what the journal knows of its reqid.
    Request {
        /// The request.
        incoming: Box<Incoming>,
        /// `None`: its reqid is empty, or not in the journal.
        known: Option<Box<Known>>,
    },
    /// Input that is not a request.
    Malformed {
        /// Who sent it.
        source: Source,
        /// The event name that it claims; empty if that could not be read.
        event: String,
        /// What is wrong with it.
        error: String,
    },
    /// A response has left through this route.
    Delivered {
        /// The connection and the call that the response went to.
        route: Route,
    },
    /// The connection is gone, and with it the routes over it.
    Disconnected {
        /// Its number, which no other connection of this run has.
        connection: u64,
    },
    /// The current subscribers of the agent's topics, and which peers are nodes.
    Peers(Peers),
    /// A node's answer to a dispatch for the request `of`: the value, or why there is none.
    NodeAnswered {
        /// The request's number.
        of: Seq,
        /// The connection that the answer came over.
        connection: u64,
        /// The value, if it has one; or why the node has no answer.
        answer: Result<Option<String>, String>,
    },
    /// A node's reply through its directory for questions, for the request `of`: the value, or why there is none.
    NodeReplied {
        /// The request's number.
        of: Seq,
        /// The node.
        node: NodeName,
        /// The one that was asked.
        incarnation: Incarnation,
        /// The value, if it has one; or why the node has no answer.
        answer: Result<Option<String>, String>,
    },
    /// A report about a node, through its shim or the lack of one.
    Node(NodeEvent),
    /// A node reported that it is ready, other than through its shim.
    CheckedIn {
        /// The node's name.
        node: NodeName,
    },
    /// Everything decided up to this entry is durable.
    Committed {
        /// The newest durable entry.
        upto: Seq,
    },
    /// The last output of nodes, requested by [`super::Lifecycle::wants_outputs`].
    Outputs {
        /// The last of each node's output.
        outputs: Vec<(NodeName, NodeOutputs)>,
    },
    /// The check before the change `of` has ended.
    PreflightEnded {
        /// The request's number.
        of: Seq,
        /// What was found.
        report: Box<PreflightReport>,
    },
    /// Retention has found entries that may be removed.
    Prune(Removal),
    /// A problem that concerns neither a request nor a node, and that the controller should know.
    Trouble {
        /// What kind of problem.
        kind: AlertKind,
        /// What is wrong, and what to do.
        message: String,
    },
    /// `event_command` has ended, in one way or another.
    Told {
        /// The alert that it was told.
        id: Seq,
        /// How many others were counted in that.
        lost: u64,
        /// How it ended: `exit code 0`, or why it failed.
        outcome: String,
    },
    /// Time has passed.
    Tick,
    /// The agent is to end; its nodes stay.
    Stop {
        /// For the log and the journal.
        reason: String,
    },
}

/// The number of subscribers to the agent's topic in each dialect, and the names that peers gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// Subscribers of the ClusterAgent dialect's topic.
    pub cluster_agent: usize,
    /// Subscribers of the Management dialect's topic.
    pub management: usize,
    /// Connections whose peer said that it is this node. A connection says so once.
    pub nodes: BTreeMap<u64, NodeName>,
}

impl Peers {
    /// Whether anybody is subscribed.
    pub fn any(&self) -> bool {
        self.cluster_agent + self.management > 0
    }

    /// Whether a response of this dialect has a receiver. Operators' responses go where Management's do.
    pub(super) fn hear(&self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::ClusterAgent => self.cluster_agent > 0,
            Dialect::Management | Dialect::Operator => self.management > 0,
        }
    }
}

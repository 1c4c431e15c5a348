//! All that can happen to the agent.

use std::collections::BTreeMap;

use crate::api::event::{Dialect, Incoming, Route, Source};
use crate::api::ids::{NodeName, Seq};
use crate::api::status::NodeOutputs;
use crate::api::supervision::{Finding, NodeEvent};
use crate::journal::entry::{Known, Removal};

/// Something that has happened. What it means is the core's to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The first input of a run, after the journal was read. `hold`: why nothing should be started or stopped yet.
    Started {
        /// The kernel's id of this boot.
        boot_id: String,
        /// The agent's release.
        version: String,
        /// The agent's process id.
        pid: u32,
        /// Why, for the log and `status`; `None`: no doubts.
        hold: Option<String>,
    },
    /// The state directory is taken for a copy of another: why, and what to do. Before any finding.
    Copied {
        /// For the log and `status`.
        reason: String,
    },
    /// The request `of` made this state directory one of its own, as the text says, or could not: why.
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
    /// Every node has been looked for: from here on, requests are handled and nodes started.
    Adopted,
    /// Boxed: a configuration is large, everything else here is small. `known`: what the journal says of its reqid.
    Request {
        /// The request.
        incoming: Box<Incoming>,
        /// `None`: its reqid is empty, or not in the journal.
        known: Option<Box<Known>>,
    },
    /// Input that is no request.
    Malformed {
        /// Who sent it.
        source: Source,
        /// The name that it gave itself; empty if that could not be read.
        event: String,
        /// What is wrong with it.
        error: String,
    },
    /// A response has left through this route.
    Delivered {
        /// The connection and the call that it went to.
        route: Route,
    },
    /// The connection is gone, and with it the routes over it.
    Disconnected {
        /// Its number, which no other connection of this run has.
        connection: u64,
    },
    /// Who is subscribed to the agent's topics by now, and which peers are nodes.
    Peers(Peers),
    /// What a node said to a dispatch on behalf of the request `of`: the value, or why there is none.
    NodeAnswered {
        /// The request's number.
        of: Seq,
        /// The connection that the answer came over.
        connection: u64,
        /// The value, if it has one; or why the node has no answer.
        answer: Result<Option<String>, String>,
    },
    /// Something became known about a node, through its shim or the lack of one.
    Node(NodeEvent),
    /// A node said that it is ready, other than through its shim.
    CheckedIn {
        /// The node's name.
        node: NodeName,
    },
    /// Everything decided up to this entry is durable.
    Committed {
        /// The newest durable entry.
        upto: Seq,
    },
    /// What nodes wrote last, as [`super::Lifecycle::wants_outputs`] asked for.
    Outputs {
        /// The last of each node's output.
        outputs: Vec<(NodeName, NodeOutputs)>,
    },
    /// Retention has found what may go.
    Prune(Removal),
    /// Something went wrong that is neither a request's nor a node's, and that the controller is to know.
    Trouble {
        /// What is wrong, and what to do.
        message: String,
    },
    /// Time has passed.
    Tick,
    /// The agent is to end; its nodes stay.
    Stop {
        /// For the log and the journal.
        reason: String,
    },
}

/// How many are subscribed to the agent's topic, in each dialect; and what peers said of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// Subscribers of the ClusterAgent dialect's topic.
    pub cluster_agent: usize,
    /// Subscribers of the Management dialect's topic.
    pub management: usize,
    /// Connections whose other end said that it is this node. A connection says so once.
    pub nodes: BTreeMap<u64, NodeName>,
}

impl Peers {
    /// Whether anybody is subscribed.
    pub fn any(&self) -> bool {
        self.cluster_agent + self.management > 0
    }

    /// Whether a response of this dialect has somebody to go to. Operators' go where Management's do.
    pub(super) fn hear(&self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::ClusterAgent => self.cluster_agent > 0,
            Dialect::Management | Dialect::Operator => self.management > 0,
        }
    }
}

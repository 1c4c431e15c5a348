//! All that can happen to the agent.

use std::collections::BTreeMap;

use crate::api::event::{Dialect, Incoming, Route, Source};
use crate::api::ids::{NodeName, Seq};
use crate::api::status::NodeOutputs;
use crate::api::supervision::{Finding, NodeEvent};
use crate::journal::entry::{Known, Removal};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The first input of a run, after the journal was read. `hold`: why nothing should be started or stopped yet.
    Started {
        boot_id: String,
        version: String,
        pid: u32,
        hold: Option<String>,
    },
    /// The state directory is taken for a copy of another: why, and what to do. Before any finding.
    Copied {
        reason: String,
    },
    /// The request `of` made this state directory one of its own, as the text says, or could not: why.
    StateAdopted {
        of: Seq,
        outcome: Result<String, String>,
    },
    /// What an earlier run of the agent left of this node.
    Found {
        node: NodeName,
        finding: Finding,
    },
    /// Every node has been looked for: from here on, requests are handled and nodes started.
    Adopted,
    /// Boxed: a configuration is large, everything else here is small. `known`: what the journal says of its reqid.
    Request {
        incoming: Box<Incoming>,
        known: Option<Box<Known>>,
    },
    /// Input that is no request.
    Malformed {
        source: Source,
        event: String,
        error: String,
    },
    /// A response has left through this route.
    Delivered {
        route: Route,
    },
    /// The connection is gone, and with it the routes over it.
    Disconnected {
        connection: u64,
    },
    /// Who is subscribed to the agent's topics by now, and which peers are nodes.
    Peers(Peers),
    /// What a node said to a dispatch on behalf of the request `of`: the value, or why there is none.
    NodeAnswered {
        of: Seq,
        connection: u64,
        answer: Result<Option<String>, String>,
    },
    Node(NodeEvent),
    /// A node said that it is ready, other than through its shim.
    CheckedIn {
        node: NodeName,
    },
    /// Everything decided up to this entry is durable.
    Committed {
        upto: Seq,
    },
    /// What nodes wrote last, as [`super::Lifecycle::wants_outputs`] asked for.
    Outputs {
        outputs: Vec<(NodeName, NodeOutputs)>,
    },
    /// Retention has found what may go.
    Prune(Removal),
    /// Something went wrong that is neither a request's nor a node's, and that the controller is to know.
    Trouble {
        message: String,
    },
    /// Time has passed.
    Tick,
    /// The agent is to end; its nodes stay.
    Stop {
        reason: String,
    },
}

/// How many are subscribed to the agent's topic, in each dialect; and what peers said of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    pub cluster_agent: usize,
    pub management: usize,
    /// Connections whose other end said that it is this node. A connection says so once.
    pub nodes: BTreeMap<u64, NodeName>,
}

impl Peers {
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

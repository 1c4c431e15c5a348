//! Requests, responses and notifications: a variant for each event of the API, whatever dialect it came in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::configuration::{Configuration, Node};
use super::ids::ReqId;
use super::status::{NodeOutputs, NodeState, NodeStatus};

pub use super::source::Source;

/// The form of the event API in which a request came; its response goes back in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// `ClusterAgent::API`, the seed (Zeek 4.1 and 4.2).
    ClusterAgent,
    /// `Management::Agent::API` (Zeek 5.0 and later).
    Management,
    /// This agent's own commands, over the control socket.
    Operator,
}

impl Dialect {
    /// As `journal dump` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterAgent => "ClusterAgent",
            Self::Management => "Management",
            Self::Operator => "Operator",
        }
    }
}

/// What is asked for. The reqid is not part of it.
///
/// Serialized as MessagePack with field names, this is the canonical internal form that the digest covers: a field
/// added later must be skipped when it has its default, so that old digests still match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run exactly the nodes that `config` gives this instance.
    SetConfiguration {
        /// The topology of the whole cluster.
        config: Configuration,
    },
    /// As `SetConfiguration`; nodes that run as they should are left alone unless `force` is set.
    Deploy {
        /// The topology of the whole cluster.
        config: Configuration,
        /// Restart what runs even if this configuration is the running one.
        force: bool,
        /// What only the control socket can ask for in addition.
        #[serde(default, skip_serializing_if = "DeployOptions::is_default")]
        how: Box<DeployOptions>,
    },
    /// The controller counts this agent in; hellos become rare.
    AgentWelcome {},
    /// Stop all nodes and drop the configuration, but keep the peerings.
    AgentStandby {},
    /// Report the status of every node of this host.
    GetNodes {},
    /// No names: all that are not stopped by command.
    Restart {
        /// Names that this host does not have are left out of the answer.
        nodes: BTreeSet<String>,
    },
    /// No names: all.
    NodeDispatch {
        /// `get_id_value` and the identifier.
        action: Vec<String>,
        /// Nodes of other hosts among them are left out of the answer.
        nodes: BTreeSet<String>,
    },
    /// Operator: start nodes that were stopped by command, or try FAILED ones again now.
    StartNodes {
        /// No names: all. A name that this host does not have refuses the whole request.
        nodes: BTreeSet<String>,
    },
    /// Operator: stop nodes until `StartNodes` or a new configuration. With `force` their run directories are set aside as well,
    /// whatever is wrong with them.
    StopNodes {
        /// No names: all. A name that this host does not have refuses the whole request.
        nodes: BTreeSet<String>,
        /// Have the run directories out of the way as well.
        #[serde(default, skip_serializing_if = "is_false")]
        force: bool,
    },
    /// Operator: take up a request that waits since before hold mode; `request` is its reqid, or `#` and its number.
    ResumeWaiting {
        /// Its reqid, or `#` and its number.
        request: String,
    },
    /// Operator: answer such a request as dropped.
    DropWaiting {
        /// Its reqid, or `#` and its number.
        request: String,
    },
    /// Operator: end the agent, with or without its nodes; the desired state stays.
    Shutdown {
        /// Stop the nodes first.
        nodes: bool,
    },
    /// Operator: this state directory, held for a copy of another, is one of its own from here on.
    AdoptState {},
}

/// How a deploy over the control socket differs from that of a controller. Skipped in the stored form while nothing is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeployOptions {
    /// Deploy a configuration of this host's history instead of `config`, which is empty then: 0 is the running one, 1 the one
    /// before that reached ready, and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<u32>,
    /// Deploy only what this token of `config diff` stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_plan: Option<String>,
    /// Do not look first whether its nodes can run.
    #[serde(skip_serializing_if = "is_false")]
    pub no_preflight: bool,
}

impl DeployOptions {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Request {
    /// The event's name without its module.
    pub fn event(&self) -> &'static str {
        match self {
            Self::SetConfiguration { .. } => "set_configuration_request",
            Self::Deploy { .. } => "deploy_request",
            Self::AgentWelcome {} => "agent_welcome_request",
            Self::AgentStandby {} => "agent_standby_request",
            Self::GetNodes {} => "get_nodes_request",
            Self::Restart { .. } => "restart_request",
            Self::NodeDispatch { .. } => "node_dispatch_request",
            Self::StartNodes { .. } => "start_nodes_request",
            Self::StopNodes { .. } => "stop_nodes_request",
            Self::ResumeWaiting { .. } => "resume_waiting_request",
            Self::DropWaiting { .. } => "drop_waiting_request",
            Self::Shutdown { .. } => "shutdown_request",
            Self::AdoptState {} => "adopt_state_request",
        }
    }

    /// The name of the event that answers this one.
    pub fn response_event(&self) -> &'static str {
        match self {
            Self::SetConfiguration { .. } => "set_configuration_response",
            Self::Deploy { .. } => "deploy_response",
            Self::AgentWelcome {} => "agent_welcome_response",
            Self::AgentStandby {} => "agent_standby_response",
            Self::GetNodes {} => "get_nodes_response",
            Self::Restart { .. } => "restart_response",
            Self::NodeDispatch { .. } => "node_dispatch_response",
            Self::StartNodes { .. } => "start_nodes_response",
            Self::StopNodes { .. } => "stop_nodes_response",
            Self::ResumeWaiting { .. } => "resume_waiting_response",
            Self::DropWaiting { .. } => "drop_waiting_response",
            Self::Shutdown { .. } => "shutdown_response",
            Self::AdoptState {} => "adopt_state_response",
        }
    }

    /// The nodes that it is about by name; none if it names none.
    pub fn named(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Restart { nodes }
            | Self::NodeDispatch { nodes, .. }
            | Self::StartNodes { nodes }
            | Self::StopNodes { nodes, .. } => Some(nodes).filter(|nodes| !nodes.is_empty()),
            Self::SetConfiguration { .. }
            | Self::Deploy { .. }
            | Self::AgentWelcome {}
            | Self::AgentStandby {}
            | Self::GetNodes {}
            | Self::ResumeWaiting { .. }
            | Self::DropWaiting { .. }
            | Self::Shutdown { .. }
            | Self::AdoptState {} => None,
        }
    }

    /// Brings what Zeek holds as sets into one order; every transport calls it before the digest is taken.
    pub fn canonical(self) -> Self {
        match self {
            Self::SetConfiguration { config } => Self::SetConfiguration { config: config.canonical() },
            Self::Deploy { config, force, how } => Self::Deploy { config: config.canonical(), force, how },
            Self::AgentWelcome {}
            | Self::AgentStandby {}
            | Self::GetNodes {}
            | Self::Restart { .. }
            | Self::NodeDispatch { .. }
            | Self::StartNodes { .. }
            | Self::StopNodes { .. }
            | Self::ResumeWaiting { .. }
            | Self::DropWaiting { .. }
            | Self::Shutdown { .. }
            | Self::AdoptState {} => self,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What a Result carries beside success and error (`any` in Zeek).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResultData {
    /// The answer to `get_nodes`.
    Nodes(Vec<NodeStatus>),
    /// What a node wrote last that a change was to make ready and that is not.
    Outputs(NodeOutputs),
    /// A dispatch's value, as the node gave it; or a remark on a success, for example what it does not promise.
    Text(String),
}

/// `Management::Result`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Result {
    /// The reqid of the request that this answers.
    pub reqid: ReqId,
    /// Whether it was done; if not, `error` says why.
    pub success: bool,
    /// The name of the agent that answers.
    pub instance: Option<String>,
    /// Depends on the request; see [`ResultData`].
    pub data: Option<ResultData>,
    /// Why it failed; `None` on success.
    pub error: Option<String>,
    /// The node that this Result is about; `None` if it is about the request as a whole.
    pub node: Option<String>,
}

/// The answer to a request, in the shape that `request --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The response event's name without its module.
    pub event: String,
    /// The reqid of the request; empty if it had none.
    pub reqid: ReqId,
    /// One element where the API has one Result.
    pub results: Vec<Result>,
}

impl Response {
    /// Every Result succeeded. An empty vector has.
    pub fn success(&self) -> bool {
        self.results.iter().all(|result| result.success)
    }

    /// The nodes that `request` names and no Result is about: names that the host does not know are left out of answers.
    pub fn unanswered<'a>(&self, request: &'a Request) -> Vec<&'a str> {
        let answered: BTreeSet<&str> = self.results.iter().filter_map(|result| result.node.as_deref()).collect();
        let named = request.named().into_iter().flatten().map(String::as_str);
        // A failure of the request as a whole is about all of them.
        let is_whole = self.results.iter().any(|result| !result.success && result.node.is_none());
        named.filter(|name| !is_whole && !answered.contains(name)).collect()
    }
}

/// What the agent says unasked. Best effort: get_nodes heals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notification {
    /// The agent's check-in; host and endpoint id are the transport's to fill in.
    NotifyAgentHello {
        /// The agent's name.
        instance: String,
        /// Of the management framework's API; see [`API_VERSION`](crate::dialect::API_VERSION).
        api_version: u64,
    },
    /// A node went from one state to another.
    NotifyChange {
        /// The agent's name.
        instance: String,
        /// As the configuration describes it.
        node: Box<Node>,
        /// The same as `new`: the ClusterAgent dialect carries it in the node's record.
        state: NodeState,
        /// The state before.
        old: NodeState,
        /// The state now.
        new: NodeState,
    },
    /// Something is wrong that an operator should look at.
    NotifyError {
        /// The agent's name.
        instance: String,
        /// What happened, and to what.
        msg: String,
        /// The node that it is about; empty for the agent itself.
        node: String,
    },
    /// Something worth a line in the controller's log.
    NotifyLog {
        /// The agent's name.
        instance: String,
        /// What happened, and to what.
        msg: String,
        /// The node that it is about; empty for the agent itself.
        node: String,
    },
}

/// Where an answer goes: a connection of this run of the agent, and the requester's own number for the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Unique over all transports while the agent runs.
    pub connection: u64,
    /// The requester's number for it, echoed in the answer.
    pub call: u64,
}

/// A request as a transport hands it in: decoded, canonical, not yet journaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Empty if the requester gave none (P5).
    pub reqid: ReqId,
    /// What is asked for, in canonical form.
    pub request: Request,
    /// The form in which the response goes back.
    pub dialect: Dialect,
    /// Who asks, as the journal will record it.
    pub source: Source,
    /// `None`: no connection waits for the response; it is only published.
    pub route: Option<Route>,
}

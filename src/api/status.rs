//! What the agent has seen of its nodes (`Management::NodeStatus`, `Management::NodeOutputs`).

use serde::{Deserialize, Serialize};

use super::configuration::{ClusterRole, Port};

/// The state of a node (`Management::State`). The seed dialect has no PENDING and says Unknown for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NodeState {
    /// Wanted and not yet ready: being started, waiting for its turn or for its check-in.
    Pending,
    /// Its process runs and is ready.
    Running,
    /// Not wanted: by standby, a configuration or a command.
    Stopped,
    /// Given up until `failed_retry`, an operator or a configuration.
    Failed,
    /// Ended although wanted; it comes back after its backoff.
    Crashed,
    /// Something may run that could neither be adopted nor proven ours.
    Unknown,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Pending, Self::Stopped, Self::Crashed, Self::Failed, Self::Unknown];

    /// The word of the Management dialect's enum, without its module.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Crashed => "CRASHED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a process is to the management framework (`Management::Role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ManagementRole {
    /// Not a process of the framework: the nodes that the agent starts.
    None,
    /// The agent itself.
    Agent,
    /// The controller; an agent has none to report.
    Controller,
    /// A node in Zeek's enum; this agent says `None` of its nodes, as Zeek's does.
    Node,
}

/// One row of a get_nodes response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name; in the agent's own row the instance's.
    pub node: String,
    /// What the agent knows of it now.
    pub state: NodeState,
    /// What it is to the framework.
    pub mgmt_role: ManagementRole,
    /// What it does in the cluster; `None` for the agent.
    pub cluster_role: ClusterRole,
    /// The process id of the node itself, not of its shim.
    pub pid: Option<u32>,
    /// Where it listens, if the configuration says so.
    pub port: Option<Port>,
    /// Where its Prometheus endpoint listens, if the configuration says so.
    pub metrics_port: Option<Port>,
}

/// Whether a line of a node's says only that its agent is away: Zeek repeats it every second.
pub fn is_peering_noise(line: &[u8]) -> bool {
    const NOISE: &[u8] = b"Broker error (Broker::PEER_UNAVAILABLE)";
    line.windows(NOISE.len()).any(|part| part == NOISE)
}

/// The last output of a node: at most 100 lines and 16 KiB a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeOutputs {
    /// From its standard output.
    pub stdout: String,
    /// From its standard error.
    pub stderr: String,
}

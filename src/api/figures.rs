//! What nodes use and what they capture (`nodes top`, `nodes list --wide`, the metrics page). The JSON form is a
//! contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

use super::configuration::ClusterRole;
use super::status::NodeState;

/// What processes use.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// How many processes there are.
    pub processes: u64,
    /// CPU time of these and of those of their children that ended, in seconds; never less than before while the same
    /// process is the node.
    pub cpu_seconds: f64,
    /// Resident memory, in bytes. Pages that several processes share count several times.
    pub rss_bytes: u64,
    /// All of their threads.
    pub threads: u64,
    /// Open descriptors; `None` if not all of them could be counted.
    pub descriptors: Option<u64>,
}

/// What a Zeek node says of its packets. All of it counts from the start of its process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// Packets that it received.
    pub received: Option<f64>,
    /// Packets that were dropped before it could receive them.
    pub dropped: Option<f64>,
    /// How far it is behind the time of its packets, in seconds.
    pub lag_seconds: Option<f64>,
}

/// One node in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// The node's name.
    pub node: String,
    /// Its role in the cluster.
    pub role: ClusterRole,
    /// The state that `get_nodes` reports, too.
    pub state: NodeState,
    /// Its own process; `None` if it is down.
    pub pid: Option<u32>,
    /// Milliseconds since that process started.
    pub up_ms: Option<u64>,
    /// Its processes, if it has any.
    pub usage: Option<Usage>,
    /// Its packets, if its metrics port knows of them.
    pub captured: Option<Captured>,
    /// Why its metrics port said nothing, if it has one and it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// All nodes at one time.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// When the processes were looked at: RFC 3339, UTC.
    pub at: String,
    /// The same in milliseconds of a clock that nobody sets, for differences.
    pub at_ms: u64,
    /// All nodes of this host, by name.
    pub nodes: Vec<NodeFigures>,
}

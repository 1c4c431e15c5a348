//! What a deployment would do on a host (`config diff`). The JSON form is a contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

use super::history::Difference;

/// What would happen to each node of this host, or why nothing would.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The id of the configuration that runs, and of the proposed one.
    pub running: Option<String>,
    /// The id of the proposed configuration.
    pub proposed: String,
    /// They are the same, and nothing forces it: nodes that run are left alone.
    pub is_running: bool,
    /// Why it would be rejected. Then there is no plan for nodes.
    pub problems: Vec<String>,
    /// What would work and may not be meant, one line each.
    pub warnings: Vec<String>,
    /// Nodes of this host, by name.
    pub nodes: Vec<NodePlan>,
    /// In which order processes would be stopped and started. Within a step everything happens at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<Step>,
    /// Values that the proposed configuration has otherwise than the running one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// `deploy --if-plan` does this plan or nothing. `None`: there is no plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A step of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done in it.
    pub action: StepAction,
    /// To these nodes, by name.
    pub nodes: Vec<String>,
}

/// What is done in a step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// Their processes are stopped.
    Stop,
    /// New processes are started.
    Start,
}

/// What would happen to one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// The node's name.
    pub node: String,
    /// What would be done to its process.
    pub action: Action,
    /// What is different, or why there is no process to keep.
    pub why: Vec<String>,
}

/// What would be done to a node's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Its process runs on.
    Keep,
    /// There is no process of it; one is started.
    Start,
    /// Its process is stopped and a new one started.
    Replace,
    /// It is stopped and not part of the host any more.
    Stop,
}

//! What is checked on the host before a change replaces nodes that run (the preflight), and what came of it.

use serde::{Deserialize, Serialize};

use super::ids::NodeName;
use super::launch::LaunchSpec;

/// What has to be checked before a change. Nothing of it touches a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preflight {
    /// Scripts and programs, each once however many nodes share it.
    pub checks: Vec<Check>,
    /// What nodes need of the host.
    pub needs: Vec<Needs>,
    /// Ports that this agent's own nodes hold: those that go free them, those that stay were planned with.
    pub own_ports: Vec<u16>,
    /// CPUs that nodes are pinned to; checks keep off them.
    pub node_cpus: Vec<u32>,
    /// What is wrong already, without a look at the host.
    pub problems: Vec<PreflightProblem>,
    /// Nodes whose scripts are not checked, because there are too many different ones.
    pub skipped: u32,
    /// How long all of it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// One program with its scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The nodes that run it.
    pub nodes: Vec<NodeName>,
    /// How it is run to be checked. Its ports are not bound.
    pub spec: LaunchSpec,
    /// Whether it is run (`zeek -a`); else only the program is looked at.
    pub is_run: bool,
}

/// What a node needs of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The node.
    pub node: NodeName,
    /// The network interface, if Zeek opens one of the host.
    pub interface: Option<String>,
    /// The TCP ports that it will listen on.
    pub ports: Vec<u16>,
}

/// What a preflight found. Stored in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PreflightReport {
    /// Empty: the change may be made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PreflightProblem>,
    /// How many programs were run.
    pub ran: u32,
    /// How many were not, because nothing has changed since they passed.
    pub cached: u32,
    /// Nodes whose scripts were not checked, because there were too many different ones.
    pub skipped: u32,
    /// CPU time that they took, in milliseconds.
    pub cpu_ms: u64,
    /// How long all of it took, in milliseconds.
    pub took_ms: u64,
}

/// Something that would keep nodes from running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightProblem {
    /// The nodes that would not run.
    pub nodes: Vec<String>,
    /// What is wrong: in Zeek's words, or in ours.
    pub text: String,
}

/// The answer to `config check --host`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostReport {
    /// Why the configuration itself would be rejected. Then nothing was looked at.
    pub errors: Vec<String>,
    /// What was found.
    pub report: PreflightReport,
}

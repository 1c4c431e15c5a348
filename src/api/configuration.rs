//! What the controller wants: Zeek's Configuration, Instance, Node and Option records.
//!
//! Names stay plain text here: a configuration is untrusted until the check in [`validate`](super::validate) has seen it, and
//! checking reports every problem at once. Source: Zeek `scripts/policy/frameworks/management/types.zeek`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The role of a node in the cluster (`Supervisor::ClusterRole`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterRole {
    None,
    Logger,
    Manager,
    Proxy,
    Worker,
}

impl ClusterRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Logger => "logger",
            Self::Manager => "manager",
            Self::Proxy => "proxy",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for ClusterRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Unknown,
    Tcp,
    Udp,
    Icmp,
}

/// A transport port (Zeek's `port`), written `2200/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

impl Port {
    pub fn tcp(number: u16) -> Self {
        Self { number, protocol: Protocol::Tcp }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Unknown => "unknown",
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// A redefinition of a Zeek global: `name=value` on a node's command line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScriptOption {
    pub name: String,
    pub value: String,
}

/// The place of one agent: a host, and the port if the controller dials the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    pub name: String,
    /// 0.0.0.0 stands for "not known".
    pub host: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<Port>,
}

pub const UNKNOWN_HOST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One Zeek process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// The instance that runs it.
    pub instance: String,
    pub role: ClusterRole,
    /// Where it listens; workers normally do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<ScriptOption>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_affinity: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<Port>,
}

/// The full topology of a cluster, not only this host's part: every node has to know its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configuration {
    pub id: String,
    pub instances: Vec<Instance>,
    pub nodes: Vec<Node>,
}

impl Configuration {
    /// Puts what Zeek holds as sets (instances, nodes, options) into one order, so that equal configurations are equal
    /// values with equal bytes. Scripts keep theirs: they load in order.
    pub fn canonical(mut self) -> Self {
        self.instances.sort();
        for node in &mut self.nodes {
            node.options.sort();
        }
        self.nodes.sort();
        self
    }

    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }
}

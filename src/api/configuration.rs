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
    /// Not a part of the cluster: a stand-alone Zeek.
    None,
    /// Writes the logs that the other nodes send to it.
    Logger,
    /// Coordinates the cluster; there is one.
    Manager,
    /// Shares work and state of scripts between the workers.
    Proxy,
    /// Analyses the packets of an interface.
    Worker,
}

impl ClusterRole {
    /// The word in cluster files and in JSON.
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

/// How the nodes of a cluster talk to each other (`Cluster::BackendTag`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterBackend {
    /// Zeek's own library: every node listens, and workers connect to all others.
    Broker,
    /// ZeroMQ: the manager forwards messages, loggers receive logs directly.
    ZeroMq,
}

impl ClusterBackend {
    /// The word in settings, cluster files and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::ZeroMq => "zeromq",
        }
    }

    /// The backend of that name.
    pub fn of(text: &str) -> Option<Self> {
        [Self::Broker, Self::ZeroMq].into_iter().find(|backend| backend.as_str() == text)
    }
}

impl fmt::Display for ClusterBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The transport protocol of a port, as Zeek has it (`transport_proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Zeek's `unknown_transport`: a port without a protocol.
    Unknown,
    /// The only one on which nodes listen.
    Tcp,
    /// Part of Zeek's type; no node listens on it.
    Udp,
    /// Part of Zeek's type, where the number is a message type.
    Icmp,
}

/// A transport port (Zeek's `port`), written `2200/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// For ICMP the message type.
    pub number: u16,
    /// What the number counts in.
    pub protocol: Protocol,
}

impl Port {
    /// The TCP port `number`.
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
    /// The identifier with its module, for example `Log::default_rotation_interval`.
    pub name: String,
    /// As it stands behind the `=` on the command line; only Zeek knows whether it is of the right type.
    pub value: String,
}

/// The place of one agent: a host, and the port if the controller dials the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// As the agent calls itself (`--name`), and as nodes refer to it.
    pub name: String,
    /// 0.0.0.0 stands for "not known".
    pub host: IpAddr,
    /// Where the agent listens for the controller; `None` if the agent dials it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<Port>,
}

/// What cluster files without addresses give as an instance's host.
pub const UNKNOWN_HOST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// One Zeek process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the cluster; also the name of its working directory.
    pub name: String,
    /// The instance that runs it.
    pub instance: String,
    /// What it does in the cluster.
    pub role: ClusterRole,
    /// Where it listens; workers normally do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Loaded in this order, after the agent's own scripts and the site's `local.zeek`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<String>,
    /// Redefinitions of globals, for this node only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<ScriptOption>,
    /// Where it captures packets; workers have one, other roles need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The CPU to pin it to, counted from 0. Signed, as in Zeek's record: a negative one is a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_affinity: Option<i64>,
    /// Environment variables to set, laid over the agent's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where its Prometheus endpoint listens (`Cluster::Node$metrics_port`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<Port>,
}

/// The full topology of a cluster, not only this host's part: every node has to know its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// What tells one configuration from another; controllers send a UUID.
    pub id: String,
    /// The hosts, each with one agent.
    pub instances: Vec<Instance>,
    /// The nodes of all instances.
    pub nodes: Vec<Node>,
    /// How they talk to each other; `None`: as the settings of each agent say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_backend: Option<ClusterBackend>,
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

    /// The instance of that name.
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }
}

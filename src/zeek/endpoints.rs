//! Where the nodes of a cluster meet over ZeroMQ.
//!
//! The manager forwards messages between all nodes, with two sockets: XPUB, from which nodes receive, and XSUB, to which they
//! send. Whoever receives logs has a third. Every agent of the cluster has to come to the same ports, so they are a
//! pure function of the configuration: XPUB has the manager's port, the others have the next ports that no node
//! names. Ports of other nodes than loggers are not used, since nothing else listens.
//!
//! Source: `policy/frameworks/cluster/backend/zeromq` of Zeek 8.0 to 9.0. There a node's XPUB connects to the manager's
//! XSUB and the other way round; Zeek's options name the end that is *here* (`connect_xpub_endpoint` is where this node's
//! XSUB receives).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::api::configuration::{ClusterRole, Configuration, Node, UNKNOWN_HOST};

/// The name under which nodes load it, without `.zeek`.
pub const NAME: &str = "zeek-cluster-agent-zeromq";

/// The manager's port if the configuration gives it none; Zeek's own for XPUB.
const XPUB: u16 = 5555;

/// The ports of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Some node is at an IPv6 address, so sockets have to speak it: loggers' and the manager's are those that count, and
    /// every node connects to them.
    has_ipv6: bool,
    /// `None`: there is no manager, so nodes cannot meet.
    manager: Option<Manager>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Manager {
    name: String,
    host: IpAddr,
    xpub: u16,
    xsub: u16,
    /// It receives the logs, because no logger does.
    log: Option<u16>,
}

impl Endpoints {
    /// Those of a configuration whose hosts are resolved.
    pub fn of(config: &Configuration) -> Self {
        let managers = config.nodes.iter().filter(|node| node.role == ClusterRole::Manager);
        let members = config.nodes.iter().filter(|node| node.role != ClusterRole::None);
        let mut hosts = members.filter_map(|node| config.instance(&node.instance));
        let has_ipv6 = hosts.any(|instance| instance.host.is_ipv6());
        let Some(manager) = managers.min_by_key(|node| node.name.as_str()) else {
            return Self { has_ipv6, manager: None };
        };
        let named = config.nodes.iter().flat_map(|node| [node.port, node.metrics_port]);
        let named = named.chain(config.instances.iter().map(|instance| instance.listen_port));
        let mut taken: BTreeSet<u16> = named.flatten().map(|port| port.number).collect();
        let mut next = |from: u16| {
            // Of 65,535 ports a configuration can name 12,288.
            let port = (from..=u16::MAX).chain(1024..from).find(|port| !taken.contains(port)).unwrap_or(from);
            taken.insert(port);
            port
        };
        let xpub = manager.port.map_or_else(|| next(XPUB), |port| port.number);
        let xsub = next(xpub.saturating_add(1));
        let has_logger = config.nodes.iter().any(|node| node.role == ClusterRole::Logger);
        let log = (!has_logger).then(|| next(xsub.saturating_add(1)));
        let host = config.instance(&manager.instance).map_or(UNKNOWN_HOST, |instance| instance.host);
        Self { has_ipv6, manager: Some(Manager { name: manager.name.clone(), host, xpub, xsub, log }) }
    }

    /// The port at which this node receives logs, if it does.
    pub fn log_port(&self, node: &Node) -> Option<u16> {
        match node.role {
            ClusterRole::Logger => node.port.map(|port| port.number),
            ClusterRole::Manager => self.manager.as_ref().filter(|manager| manager.name == node.name)?.log,
            ClusterRole::None | ClusterRole::Proxy | ClusterRole::Worker => None,
        }
    }

    /// The ports at which this node listens.
    pub fn ports(&self, node: &Node) -> Vec<u16> {
        let forwards = self.manager.as_ref().filter(|manager| manager.name == node.name);
        let forwards = forwards.map(|manager| [manager.xpub, manager.xsub]);
        forwards.into_iter().flatten().chain(self.log_port(node)).collect()
    }

    /// The script that tells every node where the manager is; `listen` is the one address at which nodes listen, if there
    /// is one. `None`: without a manager there is nothing to tell.
    pub fn script(&self, listen: Option<IpAddr>) -> Option<String> {
        let Manager { host, xpub, xsub, .. } = self.manager.as_ref()?;
        let connect = |port| format!("tcp://{}:{port}", address(*host));
        let listen_at = |port| format!("tcp://{}:{port}", address(listen.unwrap_or(*host)));
        let has_ipv6 = self.has_ipv6 || listen.is_some_and(|address| address.is_ipv6());
        Some(format!(
            "# Written by zeek-cluster-agent at each start of this node.\n\
             # What a node's XPUB sends, the manager's XSUB receives, and the other way round.\n\
             module Cluster::Backend::ZeroMQ;\n\
             redef listen_xpub_endpoint = \"{}\";\n\
             redef listen_xsub_endpoint = \"{}\";\n\
             redef connect_xsub_endpoint = \"{}\";\n\
             redef connect_xpub_endpoint = \"{}\";\n\
             redef ipv6 = {};\n",
            listen_at(xpub),
            listen_at(xsub),
            connect(xpub),
            connect(xsub),
            if has_ipv6 { "T" } else { "F" },
        ))
    }
}

/// As Zeek writes addresses, and as URIs have them.
pub fn address(host: IpAddr) -> String {
    match host {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

//! `cluster-layout.zeek`: the addresses of all nodes of the cluster.
//!
//! Zeek reads it at startup of a node that has a name in the cluster (`base/frameworks/cluster/__load__.zeek`). It
//! contains all nodes of all instances, except those of role none: these do not take part in the cluster, and Zeek has
//! no type for them.
//! Sources: `Cluster::Node` in `base/frameworks/cluster/main.zeek` (5.0 to 8.1) and `types.zeek` (8.2 and later).

use std::fmt::Write as _;

use super::endpoints::{Endpoints, address};
use super::version::Version;
use crate::api::configuration::{ClusterRole, Configuration, Node, Port, UNKNOWN_HOST};

/// The name under which Zeek looks for it, with `.zeek`.
pub const NAME: &str = "cluster-layout.zeek";

/// The layout of a cluster whose hosts are resolved, for one version of Zeek. With ZeroMQ (`endpoints`) only those that
/// receive logs have a port.
pub fn layout(config: &Configuration, version: Version, endpoints: Option<&Endpoints>) -> String {
    let mut nodes: Vec<(&str, &Node)> =
        config.nodes.iter().filter_map(|node| Some((node_type(node.role)?, node))).collect();
    nodes.sort_by_key(|(_, node)| (stage(node.role), node.name.as_str()));
    // The nodes of a cluster use one manager; the check of the configuration warns about a second one.
    let manager = nodes.iter().find(|(_, node)| node.role == ClusterRole::Manager).map(|(_, node)| node.name.as_str());

    let mut text =
        String::from("# Written by zeek-cluster-agent at each start of this node.\nredef Cluster::nodes = {\n");
    for (node_type, node) in &nodes {
        let host = config.instance(&node.instance).map_or(UNKNOWN_HOST, |instance| instance.host);
        let mut line = format!("\t[{}] = [$node_type=Cluster::{node_type}, $ip={}", quoted(&node.name), address(host));
        let port = match endpoints {
            None => node.port,
            Some(endpoints) => endpoints.log_port(node).map(Port::tcp),
        };
        if let Some(port) = port {
            push(&mut line, format_args!(", $p={port}"));
        }
        if let Some(manager) = manager.filter(|_| node.role != ClusterRole::Manager) {
            push(&mut line, format_args!(", $manager={}", quoted(manager)));
        }
        if let Some(port) = node.metrics_port.filter(|_| version.has_metrics_port()) {
            push(&mut line, format_args!(", $metrics_port={port}"));
        }
        push(&mut text, format_args!("{line}],\n"));
    }
    text.push_str("};\n");
    if nodes.iter().any(|(_, node)| node.role == ClusterRole::Logger) {
        // Zeek detects that by itself only under its own Supervisor.
        text.push_str("redef Cluster::manager_is_logger = F;\n");
    }
    text
}

fn push(text: &mut String, more: std::fmt::Arguments) {
    text.write_fmt(more).expect("writing to a String does not fail");
}

fn node_type(role: ClusterRole) -> Option<&'static str> {
    match role {
        ClusterRole::None => None,
        ClusterRole::Logger => Some("LOGGER"),
        ClusterRole::Manager => Some("MANAGER"),
        ClusterRole::Proxy => Some("PROXY"),
        ClusterRole::Worker => Some("WORKER"),
    }
}

/// The position in the file, for readability only.
fn stage(role: ClusterRole) -> u8 {
    match role {
        ClusterRole::Manager => 0,
        ClusterRole::Logger => 1,
        ClusterRole::Proxy => 2,
        ClusterRole::Worker => 3,
        ClusterRole::None => 4,
    }
}

/// A Zeek string constant. Names contain neither control characters nor blanks, but may contain quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

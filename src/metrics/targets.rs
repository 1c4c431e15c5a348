//! `/services.json`: what Prometheus should scrape on this host, in the form of its `http_sd_configs`. Pure.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::Snapshot;

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Group {
    targets: [String; 1],
    labels: Labels,
}

#[derive(Debug, PartialEq, Serialize)]
struct Labels {
    zeek_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    zeek_node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zeek_role: Option<String>,
}

/// The agent and every wanted node that has a metrics port. `reached` is the agent's end of the connection that asks: what
/// the asker can reach, and so an address that is worth giving.
pub(super) fn targets(snapshot: &Snapshot, reached: SocketAddr) -> Vec<Group> {
    let agent = snapshot.status.name.clone();
    let labels = |node: Option<(&str, &str)>| Labels {
        zeek_agent: agent.clone(),
        zeek_node: node.map(|(name, _)| name.to_owned()),
        zeek_role: node.map(|(_, role)| role.to_owned()),
    };
    let mut groups = vec![Group { targets: [plain(reached).to_string()], labels: labels(None) }];
    for node in snapshot.status.nodes.iter().filter(|node| node.want == "up") {
        let Some(port) = node.metrics_port else { continue };
        let address = snapshot.node_address.filter(|address| !address.is_unspecified());
        let target = plain(SocketAddr::new(address.unwrap_or(reached.ip()), port)).to_string();
        groups.push(Group { targets: [target], labels: labels(Some((&node.node, node.role.as_str()))) });
    }
    groups
}

/// An IPv4 address that came over an IPv6 socket, as what it is.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => SocketAddr::new(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4), address.port()),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::report::{NodeReport, StatusReport};
    use crate::api::status::NodeState;

    fn node(name: &str, metrics_port: Option<u16>) -> NodeReport {
        NodeReport {
            node: name.into(),
            role: ClusterRole::Worker,
            state: NodeState::Running,
            want: "up".into(),
            pid: None,
            metrics_port,
            incarnation: 1,
            up_ms: None,
            deaths: 0,
            awaited_ms: None,
            late: false,
            next_start_ms: None,
            last_exit: None,
            note: None,
            dropped_bytes: 0,
            shim: None,
        }
    }

    #[test]
    fn the_agent_and_its_nodes_are_given_at_addresses_that_the_asker_reaches() {
        let stopped = NodeReport { want: "stopped".into(), ..node("w3", Some(9993)) };
        let nodes = vec![node("w1", Some(9991)), node("w2", None), stopped];
        let status = StatusReport { name: "a1".into(), nodes, ..StatusReport::default() };
        let snapshot = Snapshot { status, ..Snapshot::default() };
        let asked = |snapshot: &Snapshot, reached: &str| {
            serde_json::to_string(&targets(snapshot, reached.parse().unwrap())).unwrap()
        };
        assert_eq!(
            asked(&snapshot, "[::ffff:192.0.2.1]:2152"),
            r#"[{"targets":["192.0.2.1:2152"],"labels":{"zeek_agent":"a1"}},{"targets":["192.0.2.1:9991"],"labels":{"zeek_agent":"a1","zeek_node":"w1","zeek_role":"worker"}}]"#
        );
        assert!(asked(&snapshot, "[2001:db8::1]:2152").contains("\"[2001:db8::1]:9991\""));
        let elsewhere = Snapshot { node_address: Some("127.0.0.1".parse().unwrap()), ..snapshot };
        assert!(asked(&elsewhere, "192.0.2.1:2152").contains("\"127.0.0.1:9991\""));
    }
}

//! Simulated nodes with an agent that speaks Broker: they dial it, check in, answer dispatches, come back to the next agent, and
//! misbehave when they are told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use zeek_cluster_agent::api::report::PeerReport;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, eventually, set};

fn host(disable_ssl: &str) -> Host {
    let mut host = Host::new();
    host.set("ZCA_LISTEN", "127.0.0.1:0").set("ZCA_DISABLE_SSL", disable_ssl);
    host
}

/// Peers that are known to be these nodes.
fn peering(host: &Host, nodes: &[&str]) -> Vec<PeerReport> {
    eventually("the nodes to have peerings", || {
        let peers = host.status().peers;
        let names: Vec<&str> = peers.iter().filter_map(|peer| peer.node.as_deref()).collect();
        nodes.iter().all(|node| names.contains(node)).then_some(peers)
    })
}

/// Each node's value, or why there is none.
fn values(host: &Host, id: &str, reqid: &str) -> BTreeMap<String, String> {
    let said = host.run(&["request", "get-id-value", id, "--reqid", reqid, "--json"]);
    let results = said.json()["results"].clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let value = |result: &serde_json::Value| {
        let value = if result["success"] == true { &result["data"] } else { &result["error"] };
        (text(&result["node"]), text(value))
    };
    results.as_array().unwrap().iter().map(value).collect()
}

#[test]
fn they_check_in_over_broker_answer_and_come_back_to_the_next_agent() {
    for (disable_ssl, protection) in [("true", "none"), ("false", "TLSv1.2, anonymous")] {
        let mut host = host(disable_ssl);
        let agent = host.start();
        let address: SocketAddr = host.status().listen.unwrap().parse().unwrap();
        host.set("ZCA_LISTEN", &address.to_string());
        // Nothing else makes them ready: READY=1 is not said where there is a peering.
        let nodes = cluster(&[("manager:manager", ""), ("w1", ""), ("w10", "")]);
        assert!(host.ask("d", set(nodes)).success());
        let names = ["manager", "w1", "w10"];
        let peers = peering(&host, &names);
        assert!(peers.iter().all(|peer| peer.tls == protection && peer.direction == "accepted"), "{peers:?}");
        let own = names.map(|name| (name.to_owned(), format!("\"{name}\""))).into();
        assert_eq!(values(&host, "Cluster::node", "v1"), own);
        let unknown = names.map(|name| (name.to_owned(), "unknown id".to_owned())).into();
        assert_eq!(values(&host, "Site::nothing", "v2"), unknown);

        let pids = host.pids();
        agent.kill();
        let _agent = host.start();
        // A dispatch waits for the peerings, whose nodes dial again each second.
        assert_eq!(values(&host, "Cluster::node", "v3"), own);
        assert_eq!(host.pids(), pids);
    }
}

#[test]
fn they_misbehave_when_they_are_told_to() {
    let mut host = host("true");
    host.set("ZCA_REQUEST_TIMEOUT", "3s").set("ZCA_READY_TIMEOUT", "3s");
    let _agent = host.start();
    let nodes = [
        ("bye", "env = SIM_DROP_PEERING_MS=100"),
        ("large", "env = SIM_VALUE_BYTES=5000"),
        ("mute", "env = SIM_NO_ANSWER=1"),
        ("off", "env = SIM_NO_PEERING=1"),
        ("other", "env = SIM_HELLO_AS=somebody"),
        ("shy", "env = SIM_NO_HELLO=1"),
    ];
    let timed_out = host.ask("d", set(cluster(&nodes)));
    assert!(!timed_out.success(), "two of them never check in");
    let state = |(node, report): (String, zeek_cluster_agent::api::report::NodeReport)| {
        (report.state == NodeState::Running).then_some(node)
    };
    let running: Vec<String> = host.nodes().into_iter().filter_map(state).collect();
    assert_eq!(running, ["bye", "large", "mute", "off"]);
    let peers = peering(&host, &["large", "mute"]);
    let unknown = peers.iter().filter(|peer| peer.node.is_none()).count();
    assert!(unknown >= 2, "other and shy have peerings and are believed to be nobody: {peers:?}");
    assert!(!peers.iter().any(|peer| peer.node.as_deref() == Some("off")), "{peers:?}");

    let values = values(&host, "Cluster::node", "v");
    assert_eq!(values.keys().collect::<Vec<_>>(), ["bye", "large", "mute", "off", "other", "shy"]);
    // It is asked over whichever of its peerings comes next.
    assert_eq!(values["bye"], "\"bye\"");
    assert_eq!(values["large"].len(), 5000);
    assert_eq!(values["mute"], "request timed out: mute did not answer");
    assert_eq!(values["off"], "request timed out: off runs, but has no peering with this agent");
    for node in ["other", "shy"] {
        assert_eq!(values[node], format!("cluster node {node} not in running state"));
    }
}

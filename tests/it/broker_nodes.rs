//! Nodes over native Broker: which of them are believed, what a dispatch asks of whom, and what becomes of it when a node, its
//! peering or the agent is lost meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeek_cluster_agent::api::status::NodeState;

use crate::broker::{config, host, keep_port, port};
use crate::peers::Peers;
use crate::support::{Host, eventually};

const NODE: [&str; 2] = ["zeek/management/node", "zeek/cluster/worker"];

/// Nodes of this configuration check in over Broker or not at all.
fn silent(id: &str, nodes: &[&str]) -> Value {
    json!({"config": config(id, nodes, &json!({"SIM_NOT_READY": "1"}))})
}

/// A controller `c`, whose deployment `d` waits for the node w1 to say hello; and the node's process.
fn one_silent_node(host: &Host, port: u16) -> (Peers, u32) {
    let mut peers = Peers::start();
    peers.controller("c", port);
    peers.begin("c", "management", "deploy", "d", silent("c1", &["w1"]));
    let pid = eventually("the node to be started", || host.pids().remove("w1"));
    (peers, pid)
}

impl Peers {
    /// A node's peering, from which nothing is said yet.
    fn node(&mut self, peering: &str, port: u16) {
        self.ok("endpoint", json!({"name": peering, "filter": NODE}));
        self.ok("dial", json!({"endpoint": peering, "name": peering, "port": port}));
    }

    fn hello(&mut self, peering: &str, node: &str) {
        self.ok("node_hello", json!({"peering": peering, "node": node}));
    }

    /// What the node is asked, within two seconds.
    fn asked(&mut self, peering: &str) -> Value {
        self.ok("node_dispatch", json!({"peering": peering, "patience": 2}))
    }

    fn say(&mut self, peering: &str, node: &str, mut what: Value) {
        let asked = self.ok("node_dispatch", json!({"peering": peering}));
        assert!(asked.is_object(), "{node} was not asked");
        let order = what.as_object_mut().unwrap();
        for (key, value) in [("peering", peering), ("node", node), ("reqid", asked["reqid"].as_str().unwrap())] {
            order.insert(key.to_owned(), value.into());
        }
        self.ok("node_answer", what);
    }
}

fn believed(host: &Host) -> Vec<String> {
    host.status().peers.into_iter().filter_map(|peer| peer.node).collect()
}

#[test]
fn nodes_that_say_hello_run_and_what_they_answer_is_the_answer() {
    let host = host();
    let _agent = host.start();
    let mut peers = Peers::start();
    let port = port(&host);
    peers.controller("c", port);
    peers.begin("c", "management", "deploy", "d", silent("c1", &["w1", "w2", "w3"]));
    eventually("the nodes to be started", || (host.pids().len() == 3).then_some(()));
    // Zeek says hello with an empty name if it was not told one; others are no nodes of this agent.
    for (peering, node) in [("n1", "w1"), ("n2", "w2"), ("n3", "w3"), ("stranger", "w9"), ("nameless", "")] {
        peers.node(peering, port);
        peers.hello(peering, node);
    }
    let deployed = peers.answer("c", "management", "deploy", "d");
    assert!(deployed.as_array().unwrap().iter().all(|result| result["success"] == true), "{deployed}");
    assert_eq!(deployed.as_array().unwrap().len(), 3);
    host.wait_all_running(3);
    let mut named = believed(&host);
    named.sort();
    assert_eq!(named, ["w1", "w2", "w3"]);
    let changes = json!({"peering": "c", "dialect": "management", "kind": "change", "node": "w2", "new": "RUNNING"});
    assert!(peers.ok("notification", changes).is_object());

    let ask = json!({"action": ["get_id_value", "Cluster::node"], "nodes": ["w2", "w1", "w9"]});
    peers.begin("c", "management", "node_dispatch", "v", ask.clone());
    let asked = peers.ok("node_dispatch", json!({"peering": "n1"}));
    assert_eq!((&asked["action"], &asked["nodes"]), (&json!(["get_id_value", "Cluster::node"]), &json!(["w1"])));
    peers.say("n1", "w1", json!({"data": "\"worker\""}));
    peers.say("n2", "w2", json!({"error": "unknown id"}));
    let expected = json!([
        {"reqid": "v", "success": true, "instance": "a1", "data": "\"worker\"", "error": null, "node": "w1"},
        {"reqid": "v", "success": false, "instance": "a1", "data": null, "error": "unknown id", "node": "w2"},
    ]);
    assert_eq!(peers.answer("c", "management", "node_dispatch", "v"), expected);
    // A repeated one is a matter of the journal: nobody is asked.
    peers.controller("again", port);
    assert_eq!(peers.ask("again", "management", "node_dispatch", "v", ask), expected);
    for nobody in ["n3", "stranger", "nameless"] {
        assert_eq!(peers.ok("ping", json!({"peering": nobody, "hex": "00"})), true);
        assert_eq!(peers.ok("node_dispatch", json!({"peering": nobody, "patience": 0})), Value::Null, "{nobody}");
        peers.is_content(nobody);
    }
    host.verify();
}

#[test]
fn a_dispatch_is_answered_by_its_deadline_and_says_who_did_not() {
    let mut host = host();
    host.set("ZCA_REQUEST_TIMEOUT", "1500ms");
    let _agent = host.start();
    let mut peers = Peers::start();
    let port = port(&host);
    peers.controller("c", port);
    // w2 is ready, and no peer; w3 never says anything.
    let mut nodes = silent("c1", &["w1", "w2", "w3", "w4"]);
    nodes["config"]["nodes"][1]["env"] = json!({});
    peers.begin("c", "management", "deploy", "d", nodes);
    eventually("the nodes to be started", || (host.pids().len() == 4).then_some(()));
    for (peering, node) in [("n1", "w1"), ("n4", "w4")] {
        peers.node(peering, port);
        peers.hello(peering, node);
    }
    for node in ["w1", "w2", "w4"] {
        host.wait_state(node, NodeState::Running);
    }
    // Only whom it was asked of answers: an answer of w4 is not one of w1.
    peers.begin("c", "management", "node_dispatch", "v", json!({"action": ["get_id_value", "x"]}));
    let begun = Instant::now();
    let asked = peers.asked("n1");
    peers.say("n4", "w4", json!({"data": "4"}));
    peers.ok("node_answer", json!({"peering": "n4", "node": "w1", "reqid": asked["reqid"], "data": "forged"}));
    let results = peers.answer("c", "management", "node_dispatch", "v");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let said: Vec<(&str, Option<&str>)> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["node"].as_str().unwrap(), one["data"].as_str().or(one["error"].as_str())))
        .collect();
    assert_eq!(
        said,
        [
            ("w1", Some("request timed out: w1 did not answer")),
            ("w2", Some("request timed out: w2 runs, but has no peering with this agent")),
            ("w3", Some("cluster node w3 not in running state")),
            ("w4", Some("4")),
        ]
    );
}

#[test]
fn a_second_peering_takes_over_when_the_first_is_gone_and_not_before() {
    let host = host();
    let _agent = host.start();
    let port = port(&host);
    let (mut peers, _) = one_silent_node(&host, port);
    peers.node("first", port);
    peers.hello("first", "w1");
    host.wait_state("w1", NodeState::Running);
    peers.node("second", port);
    peers.hello("second", "w1");
    // A peering says once who it is.
    peers.hello("second", "w2");
    assert_eq!(peers.ok("ping", json!({"peering": "second", "hex": "00"})), true);

    peers.begin("c", "management", "node_dispatch", "v", json!({"action": ["get_id_value", "x"]}));
    assert!(peers.asked("first").is_object());
    assert_eq!(peers.ok("node_dispatch", json!({"peering": "second", "patience": 0})), Value::Null);
    assert_eq!(believed(&host), ["w1"]);
    // Asked, and gone without an answer: the next one is asked.
    peers.ok("drop", json!({"peering": "first"}));
    peers.say("second", "w1", json!({"data": "2"}));
    assert_eq!(peers.answer("c", "management", "node_dispatch", "v")[0]["data"], "2");
}

#[test]
fn a_node_that_dies_is_not_asked_and_its_next_process_has_to_say_hello() {
    let host = host();
    let _agent = host.start();
    let port = port(&host);
    let (mut peers, first) = one_silent_node(&host, port);
    peers.node("n", port);
    peers.hello("n", "w1");
    host.wait_state("w1", NodeState::Running);
    crate::support::kill(first, rustix::process::Signal::KILL, Some(&host.mark));
    // The peering is still there: it belonged to the process that is gone.
    eventually("the next process", || host.pids().remove("w1").filter(|pid| *pid != first));
    assert_eq!(host.nodes()["w1"].state, NodeState::Pending);
    assert_eq!(believed(&host), [""; 0]);
    let results = peers.ask("c", "management", "node_dispatch", "v", json!({"action": ["get_id_value", "x"]}));
    assert_eq!(results[0]["error"], "cluster node w1 not in running state");
    peers.node("m", port);
    peers.hello("m", "w1");
    host.wait_state("w1", NodeState::Running);
}

#[test]
fn a_dispatch_whose_agent_is_killed_is_asked_again_and_answered_once() {
    let mut host = host();
    let agent = host.start();
    let port = keep_port(&mut host);
    let (mut peers, _) = one_silent_node(&host, port);
    peers.node("n", port);
    peers.hello("n", "w1");
    host.wait_state("w1", NodeState::Running);
    let pids = host.pids();

    let ask = || json!({"action": ["get_id_value", "x"]});
    peers.begin("c", "management", "node_dispatch", "v", ask());
    let asked = peers.asked("n");
    agent.kill();
    let _agent = host.start();
    // It was ready, so it runs, before it has dialled again.
    assert_eq!((host.nodes()["w1"].state, host.pids()), (NodeState::Running, pids));
    peers.controller("again", port);
    peers.node("m", port);
    peers.hello("m", "w1");
    let asked_again = peers.asked("m");
    assert_ne!(asked["reqid"], asked_again["reqid"], "an answer to the last run's question is none to this one's");
    peers.say("m", "w1", json!({"data": "17"}));
    // Nobody repeated it: its outcome is published.
    let expected = json!([
        {"reqid": "v", "success": true, "instance": "a1", "data": "17", "error": null, "node": "w1"},
    ]);
    assert_eq!(peers.answer("again", "management", "node_dispatch", "v"), expected);
    peers.controller("third", port);
    assert_eq!(peers.ask("third", "management", "node_dispatch", "v", ask()), expected);
    // A duplicate's own entry rides in a later commit than its answer.
    let rows = eventually("the duplicate to be noted", || {
        let rows = host.requests("v");
        (rows[0].duplicates > 0).then_some(rows)
    });
    assert_eq!((rows.len(), rows[0].attempts, rows[0].duplicates), (1, 2, 1), "{rows:?}");
    host.verify();
}

#[test]
fn nodes_are_told_where_the_agent_listens_and_it_is_not_part_of_what_they_are() {
    let mut host = host();
    let agent = host.start();
    let mut peers = Peers::start();
    let first = port(&host);
    peers.controller("c", first);
    let plain = || json!({"config": config("c1", &["w1"], &json!({}))});
    assert_eq!(peers.ask("c", "management", "deploy", "d", plain())[0]["success"], true);
    let told = |host: &Host, port: u16| host.processes(&format!("ZEEK_AGENT_PORT={port}/tcp")).len();
    assert_eq!((told(&host, first), host.processes("ZEEK_AGENT_ADDR=127.0.0.1").len()), (1, 1));
    let pids = host.pids();
    agent.kill();
    // Elsewhere: nodes that run are left alone, the next launch is told.
    host.set("ZCA_LISTEN", "127.0.0.1:0");
    let _agent = host.start();
    let second = port(&host);
    assert_eq!(host.pids(), pids);
    peers.controller("again", second);
    assert_eq!(peers.ask("again", "management", "restart", "r", json!({"nodes": ["w1"]}))[0]["success"], true);
    assert_eq!((told(&host, first), told(&host, second)), (usize::from(first == second), 1));
}

#[cfg(feature = "crash-points")]
#[test]
fn a_dispatch_has_one_outcome_wherever_the_agent_is_killed() {
    // The second response is the dispatch's, the first that of the deploy before it.
    for point in ["before_dispatch_sent", "after_dispatch_sent", "before_response_sent:2", "after_response_sent:2"] {
        let mut host = host();
        let once = host.dir.path().join("crashed");
        host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
        let agent = host.start();
        let port = keep_port(&mut host);
        let (mut peers, _) = one_silent_node(&host, port);
        peers.node("n", port);
        peers.hello("n", "w1");
        assert!(peers.answer("c", "management", "deploy", "d")[0]["success"] == true);
        let ask = || json!({"action": ["get_id_value", "x"]});
        peers.begin("c", "management", "node_dispatch", "v", ask());
        let is_asked = |peers: &mut Peers, peering: &str| {
            // Its end, too, ends the wait.
            let asked = peers.asked(peering);
            if asked.is_object() {
                let answer = json!({"peering": peering, "node": "w1", "reqid": asked["reqid"], "data": "17"});
                // The agent may be gone by now.
                let _ = peers.order("node_answer", answer);
            }
            asked.is_object()
        };
        let was_asked = is_asked(&mut peers, "n");
        agent.wait_crashed(&host);
        let _agent = host.start();
        peers.controller("again", port);
        peers.node("m", port);
        peers.hello("m", "w1");
        let is_asked_again = is_asked(&mut peers, "m");
        assert_eq!(is_asked_again, point.contains("dispatch"), "{point}");
        assert!(was_asked || point == "before_dispatch_sent" || point == "after_dispatch_sent", "{point}");
        let expected = json!([
            {"reqid": "v", "success": true, "instance": "a1", "data": "17", "error": null, "node": "w1"},
        ]);
        assert_eq!(peers.answer("again", "management", "node_dispatch", "v"), expected, "{point}: nobody repeats it");
        peers.controller("third", port);
        assert_eq!(peers.ask("third", "management", "node_dispatch", "v", ask()), expected, "{point}");
        assert_eq!(host.requests("v").len(), 1, "{point}");
        host.verify();
    }
}

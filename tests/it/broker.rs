//! Controllers over native Broker: every request of both dialects, in both orders of the handshake, plain and with TLS that
//! authenticates nobody; what is repeated after kill -9; the agent that dials, and the one that is dialled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::report::PeerReport;

use crate::peers::Peers;
use crate::support::{AGENT, Host, eventually};

/// Ids that are below, and above, any that an agent draws.
pub const LOW: &str = "00000000000000000000000000000001";
pub const HIGH: &str = "fffffffffffffffffffffffffffffffe";
pub const CONTROLLER: [&str; 2] = ["zeek/management/agent", "zeek/cluster-control/agent"];

/// Without TLS, and at a port of its own.
pub fn host() -> Host {
    let mut host = Host::new();
    host.set("ZCA_LISTEN", "127.0.0.1:0").set("ZCA_DISABLE_SSL", "true");
    // Nodes inherit it: the peers of these tests are played.
    host.set("SIM_NO_PEERING", "1");
    host
}

/// Where the agent accepts peers.
pub fn port(host: &Host) -> u16 {
    host.status().listen.unwrap().parse::<SocketAddr>().unwrap().port()
}

/// The next agents of this host listen where this one does.
pub fn keep_port(host: &mut Host) -> u16 {
    let port = port(host);
    host.set("ZCA_LISTEN", &format!("127.0.0.1:{port}"));
    port
}

/// A configuration as the peers write one.
pub fn config(id: &str, nodes: &[&str], env: &Value) -> Value {
    let node = |name: &&str| json!({"name": name, "instance": AGENT, "role": "WORKER", "env": env});
    let nodes: Vec<Value> = nodes.iter().map(node).collect();
    json!({"id": id, "instances": [{"name": AGENT}], "nodes": nodes})
}

impl Peers {
    pub fn controller(&mut self, name: &str, port: u16) -> Value {
        self.ok("endpoint", json!({"name": name, "filter": CONTROLLER}));
        self.ok("dial", json!({"endpoint": name, "name": name, "port": port}))
    }

    /// Asks, and gives the Results of the answer.
    pub fn ask(&mut self, peering: &str, dialect: &str, request: &str, reqid: &str, more: Value) -> Value {
        self.begin(peering, dialect, request, reqid, more);
        self.answer(peering, dialect, request, reqid)
    }

    pub fn begin(&mut self, peering: &str, dialect: &str, request: &str, reqid: &str, mut more: Value) {
        let order = more.as_object_mut().unwrap();
        for (key, value) in
            [("peering", peering), ("dialect", dialect), ("request", request), ("reqid", reqid), ("agent", AGENT)]
        {
            order.insert(key.to_owned(), value.into());
        }
        self.ok("request", more);
    }

    pub fn answer(&mut self, peering: &str, dialect: &str, request: &str, reqid: &str) -> Value {
        let order = json!({"peering": peering, "dialect": dialect, "request": request, "reqid": reqid});
        let mut answer = self.ok("response", order);
        assert!(
            answer.is_object(),
            "no answer to {request} {reqid}: {}",
            self.ok("events", json!({"peering": peering}))
        );
        answer["results"].take()
    }

    /// Nothing that it was sent is other than Broker would have it.
    pub fn is_content(&mut self, peering: &str) {
        assert_eq!(self.ok("complaints", json!({"peering": peering})), json!([]));
    }
}

/// The seed dialect has no Result without an error's text.
fn success(results: &Value) -> bool {
    let good = |result: &Value| result["success"] == true && result["error"].as_str().is_none_or(str::is_empty);
    results.as_array().unwrap().iter().all(good)
}

/// A request of each kind; what names it is new in each round.
pub fn every_request(peers: &mut Peers, peering: &str, round: &str) -> BTreeMap<String, Value> {
    let mut answers = BTreeMap::new();
    let mut ask = |dialect: &str, request: &str, more: Value| {
        let reqid = format!("{round}-{dialect}-{}-{request}", answers.len());
        let results = peers.ask(peering, dialect, request, &reqid, more);
        for result in results.as_array().unwrap() {
            assert_eq!((&result["reqid"], &result["instance"]), (&json!(reqid), &json!(AGENT)));
        }
        answers.insert(reqid, results.clone());
        results
    };
    let deploy = |force: bool| json!({"config": config("c1", &["w1", "w2"], &json!({})), "force": force});
    let none = || json!({});
    assert!(success(&ask("management", "agent_welcome", none())));
    let deployed = ask("management", "deploy", deploy(false));
    let nodes: Vec<&Value> = deployed.as_array().unwrap().iter().map(|result| &result["node"]).collect();
    assert!(success(&deployed) && nodes == ["w1", "w2"], "{deployed}");
    // The same again: one Result, and nothing is touched.
    let statuses = ask("management", "get_nodes", none());
    let again = ask("management", "deploy", deploy(false));
    assert!(success(&again) && again.as_array().unwrap().len() == 1 && again[0]["node"].is_null(), "{again}");
    assert_eq!(ask("management", "get_nodes", none())[0]["data"], statuses[0]["data"]);
    let shown: Vec<(&Value, &Value, &Value)> = statuses[0]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|status| (&status["node"], &status["state"], &status["cluster_role"]))
        .collect();
    let running = json!("RUNNING");
    let (worker, none_role) = (json!("WORKER"), json!("NONE"));
    assert_eq!(
        shown,
        [(&json!("w1"), &running, &worker), (&json!("w2"), &running, &worker), (&json!(AGENT), &running, &none_role)]
    );
    let restarted = ask("management", "restart", json!({"nodes": ["w1", "elsewhere"]}));
    assert!(success(&restarted) && restarted[0]["node"] == "w1" && restarted.as_array().unwrap().len() == 1);
    assert_eq!(ask("management", "restart", json!({"nodes": ["elsewhere"]})), json!([]));
    // What nodes answer is for the tests of nodes; here they have no peering.
    let unknown = ask("management", "node_dispatch", json!({"action": ["dance"], "nodes": ["w2"]}));
    assert_eq!((&unknown[0]["error"], &unknown[0]["node"]), (&json!("dispatch dance unknown"), &json!("w2")));
    assert_eq!(ask("management", "node_dispatch", json!({"action": ["get_id_value", "x"], "nodes": ["z"]})), json!([]));
    assert!(success(&ask("management", "agent_standby", none())));
    assert!(success(&ask("seed", "agent_welcome", none())));
    assert!(success(&ask("seed", "set_configuration", json!({"config": config("c2", &["w3"], &json!({}))}))));
    assert!(success(&ask("seed", "agent_standby", none())));
    answers
}

#[test]
fn every_request_is_answered_in_each_mode_and_each_order_of_the_handshake() {
    for (mode, tls, cipher) in
        [("plain", Value::Null, Value::Null), ("anonymous", json!({}), json!(["TLSv1.2", "AECDH-AES256-SHA"]))]
    {
        let mut host = host();
        host.set("ZCA_DISABLE_SSL", if mode == "plain" { "true" } else { "false" });
        let agent = host.start();
        let mut peers = Peers::start();
        let port = keep_port(&mut host);
        let mut answers = Vec::new();
        for (role, id) in [("originator", LOW), ("responder", HIGH)] {
            peers.ok("endpoint", json!({"name": role, "filter": CONTROLLER, "id": id}));
            let about = peers.ok("dial", json!({"endpoint": role, "name": role, "port": port, "tls": tls}));
            assert_eq!((&about["role"], &about["cipher"]), (&json!(role), &cipher), "{about}");
            let topics =
                ["zeek/cluster-control/agent/a1", "zeek/management/agent/a1", "zeek/management/node"].map(Value::from);
            assert!(topics.iter().all(|topic| about["filter"].as_array().unwrap().contains(topic)), "{about}");

            let hello = json!({"peering": role, "dialect": "management", "kind": "hello"});
            let hello = peers.ok("notification", hello);
            let expected = json!({"instance": AGENT, "id": about["remote"], "connecting": false, "version": 1});
            assert_eq!(hello, expected);
            answers.push((role, every_request(&mut peers, role, role)));
            // Zeek's controller sends this one so, and each is handled.
            let standby = peers.ask(role, "management", "agent_standby", "", json!({}));
            assert!(success(&standby), "{standby}");
            peers.is_content(role);

            let id = about["remote"].as_str().unwrap();
            let report = peer(&host, "accepted");
            let protected = report.tls.starts_with(if mode == "plain" { "none" } else { "TLSv1.2, anonymous" });
            assert!(protected && report.node.is_none() && report.endpoint != id, "{report:?}");
            assert_eq!(report.subscribed, ["Management", "ClusterAgent"]);
            assert_eq!(peers.ok("leave", json!({"peering": role})), true, "its BYE is answered");
            eventually("the peer to be gone", || host.status().peers.is_empty().then_some(()));
        }

        // What was answered is answered so again, by the next run of the agent, and touches nothing.
        agent.kill();
        let _agent = host.start();
        peers.ok("endpoint", json!({"name": "again", "filter": CONTROLLER}));
        peers.ok("dial", json!({"endpoint": "again", "name": "again", "port": port, "tls": tls}));
        for (round, answers) in answers {
            assert_eq!(every_request(&mut peers, "again", round), answers);
        }
        assert_eq!(host.status().configuration, None);
        host.verify();
    }
}

fn peer(host: &Host, direction: &str) -> PeerReport {
    let peers = host.status().peers;
    let found = peers.iter().filter(|peer| peer.direction == direction);
    let found: Vec<&PeerReport> = found.collect();
    assert_eq!(found.len(), 1, "{peers:?}");
    found[0].clone()
}

#[test]
fn the_running_configuration_deployed_again_touches_nothing_after_kill_9() {
    let mut host = host();
    let agent = host.start();
    let mut peers = Peers::start();
    let port = keep_port(&mut host);
    peers.controller("c", port);
    let deploy = || json!({"config": config("c1", &["w1", "w2"], &json!({}))});
    assert!(success(&peers.ask("c", "management", "deploy", "d1", deploy())));
    let pids = host.pids();
    agent.kill();
    assert!(peers.ok("closed", json!({"peering": "c"})).is_string());
    let _agent = host.start();
    let hello = peers.controller("again", port);
    let wanted = json!({"peering": "again", "dialect": "management", "kind": "hello", "id": hello["remote"]});
    assert!(peers.ok("notification", wanted).is_object());
    // As Zeek's controller does: welcome, then the whole configuration under a fresh reqid.
    assert!(success(&peers.ask("again", "management", "agent_welcome", "w2", json!({}))));
    let results = peers.ask("again", "management", "deploy", "d2", deploy());
    assert!(success(&results) && results.as_array().unwrap().len() == 1, "{results}");
    assert_eq!(peers.ask("again", "management", "deploy", "d1", deploy()).as_array().unwrap().len(), 2);
    assert_eq!(host.pids(), pids);
    peers.is_content("again");
}

#[test]
fn an_agent_with_a_controller_dials_it_until_it_is_there_and_again_when_it_is_back() {
    let mut host = host();
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c1", "filter": CONTROLLER, "id": LOW}));
    let at = peers.ok("listen", json!({"endpoint": "c1"}));
    peers.ok("stop_listening", json!({"endpoint": "c1"}));
    host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}")).set("ZCA_LISTEN", "off");
    let _agent = host.start();
    let problem = || host.status().controller.unwrap().problem;
    eventually("the refused connection to be shown", || problem()?.contains("refused").then_some(()));

    for (name, id, role) in [("c2", LOW, "originator"), ("c3", HIGH, "responder")] {
        peers.ok("endpoint", json!({"name": name, "filter": CONTROLLER, "id": id}));
        peers.ok("listen", json!({"endpoint": name, "port": at}));
        let about = peers.ok("accepted", json!({"endpoint": name, "name": name}));
        assert_eq!(about["role"], role);
        let hello = json!({"peering": name, "dialect": "management", "kind": "hello"});
        let expected = json!({"instance": AGENT, "id": about["remote"], "connecting": true, "version": 1});
        assert_eq!(peers.ok("notification", hello), expected);
        assert!(success(&peers.ask(name, "management", "agent_welcome", name, json!({}))));
        let controller = eventually("status to say so", || {
            let controller = host.status().controller?;
            (controller.state == "connected").then_some(controller)
        });
        assert_eq!((controller.problem, controller.address), (None, format!("127.0.0.1:{at}")));
        assert_eq!(peer(&host, "dialled").address, format!("127.0.0.1:{at}"));
        peers.is_content(name);
        peers.ok("stop_listening", json!({"endpoint": name}));
        // Gone without a word.
        peers.ok("drop", json!({"peering": name}));
    }
}

#[test]
fn an_answer_whose_peer_is_gone_waits_for_the_next() {
    let host = host();
    let _agent = host.start();
    let mut peers = Peers::start();
    let port = port(&host);
    peers.controller("c", port);
    let slow = config("c1", &["w1"], &json!({"SIM_READY_AFTER_MS": "800"}));
    peers.begin("c", "management", "deploy", "d1", json!({"config": slow}));
    eventually("the request to be journaled", || (!host.requests("d1").is_empty()).then_some(()));
    peers.ok("drop", json!({"peering": "c"}));
    eventually("its outcome", || host.requests("d1")[0].success);
    peers.controller("again", port);
    assert!(success(&peers.answer("again", "management", "deploy", "d1")));
    assert_eq!(host.requests("d1").len(), 1);
}

#[test]
fn what_is_meant_for_an_agent_whose_name_begins_with_ours_is_left_alone() {
    const BEGINS: &str = "warning: instance a10: its name begins with that of instance a1, and so does its Broker topic: \
                          agents that do not compare topics in full, as Zeek's, act upon its requests, too";
    let host = host();
    let agent = host.start();
    let mut peers = Peers::start();
    let port = port(&host);
    peers.controller("c", port);
    for dialect in ["management", "seed"] {
        let order =
            json!({"peering": "c", "dialect": dialect, "request": "agent_standby", "reqid": "r", "agent": "a10"});
        peers.ok("request", order);
    }
    assert!(success(&peers.ask("c", "management", "agent_welcome", "w", json!({}))));
    assert!(host.requests("r").is_empty());
    // A configuration with such names is warned of; with one agent in mind it is easily overlooked.
    let mut both = config("c1", &["w1"], &json!({}));
    both["instances"].as_array_mut().unwrap().push(json!({"name": "a10", "host": "192.0.2.10"}));
    assert!(success(&peers.ask("c", "management", "deploy", "d", json!({"config": both}))));
    let warned = json!({"peering": "c", "dialect": "management", "kind": "note", "message": BEGINS});
    assert!(peers.ok("notification", warned).is_object());
    assert_eq!(host.read_log().matches(BEGINS).count(), 1);
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.read_log().matches(BEGINS).count(), 2);
    let port = self::port(&host);
    // Nor is what we say heard on a topic that ours is a beginning of.
    peers.ok("endpoint", json!({"name": "d", "filter": ["zeek/management/agent/a10"]}));
    peers.ok("dial", json!({"endpoint": "d", "name": "d", "port": port}));
    assert_eq!(peers.ok("ping", json!({"peering": "d", "hex": "00"})), true);
    assert_eq!(peers.ok("events", json!({"peering": "d"})), json!([]));
}

#[test]
fn a_clean_end_says_bye_to_all_and_waits_three_seconds_at_most() {
    let host = host();
    let agent = host.start();
    let mut peers = Peers::start();
    let port = port(&host);
    for name in ["c1", "c2"] {
        peers.controller(name, port);
    }
    agent.signal(Signal::TERM);
    for name in ["c1", "c2"] {
        assert!(peers.ok("closed", json!({"peering": name})).is_string());
        assert_eq!(peers.ok("pings", json!({"peering": name})), 1, "the BYE");
    }
    assert!(agent.wait().success());

    let agent = host.start();
    let port = self::port(&host);
    peers.ok("endpoint", json!({"name": "deaf", "filter": CONTROLLER}));
    peers.ok("dial", json!({"endpoint": "deaf", "name": "deaf", "port": port, "deaf": true}));
    let begun = Instant::now();
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let took = begun.elapsed().as_secs_f64();
    assert!(took >= 2.9, "it did not wait for the answer: {took} s");
    println!("a peer that does not answer the BYE delayed the end by {took:.2} s");
}

#[test]
fn requests_of_all_transports_are_one_space() {
    let host = host();
    let _agent = host.start();
    let mut peers = Peers::start();
    peers.controller("c", port(&host));
    assert!(host.ask("r", Request::AgentWelcome {}).success());
    assert!(success(&peers.ask("c", "seed", "agent_welcome", "r", json!({}))));
    let conflict = peers.ask("c", "management", "get_nodes", "r", json!({}));
    assert!(conflict[0]["error"].as_str().unwrap().starts_with("conflict: "), "{conflict}");
    let rows = host.requests("r");
    assert_eq!((rows.len(), rows[0].duplicates, rows[0].dialect.as_str()), (2, 1, "Management"), "{rows:?}");
    assert!(rows[1].source.transport == "broker" && rows[1].source.peer.starts_with("127.0.0.1 port="), "{rows:?}");
}

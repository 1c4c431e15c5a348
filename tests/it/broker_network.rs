//! Networks that fail: two agents and one controller that comes and goes, a network cut for twenty seconds, peers that vanish
//! without a word, dials that are redundant, a byte at a time, and a thousand peers one after the other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{CONTROLLER, config, host, port};
use crate::peers::Peers;
use crate::support::{AGENT, eventually};

/// A network between a peer and the agent, which can be cut: what is sent meanwhile arrives afterwards, as over TCP.
struct Network {
    port: u16,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Network {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, open) = (listener.local_addr().unwrap().port(), Arc::new((Mutex::new(true), Condvar::new())));
        let gate = Arc::clone(&open);
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let (peer, agent) = (peer.unwrap(), TcpStream::connect(("127.0.0.1", target)).unwrap());
                for (from, to) in [(&peer, &agent), (&agent, &peer)] {
                    let (from, to, gate) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&gate));
                    std::thread::spawn(move || forward(from, to, &gate));
                }
            }
        });
        Self { port, open }
    }

    fn set(&self, open: bool) {
        *self.open.0.lock().unwrap() = open;
        self.open.1.notify_all();
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, gate: &(Mutex<bool>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        // A reset of one side is the end of the other.
        let count = from.read(&mut buffer).unwrap_or(0);
        drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn is_success(results: &Value) -> bool {
    results.as_array().unwrap().iter().all(|result| result["success"] == true)
}

#[test]
fn two_agents_come_back_to_their_controller() {
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c0", "filter": CONTROLLER}));
    let at = peers.ok("listen", json!({"endpoint": "c0"}));
    let (mut one, mut two) = (host(), host());
    for host in [&mut one, &mut two] {
        host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}")).set("ZCA_LISTEN", "off");
    }
    two.set("ZEEK_AGENT_NAME", "a2");
    let _agents = [one.start(), two.start()];
    for round in 0..3 {
        let name = format!("c{round}");
        if round > 0 {
            peers.ok("endpoint", json!({"name": name, "filter": CONTROLLER}));
            peers.ok("listen", json!({"endpoint": name, "port": at}));
        }
        let mut agents = Vec::new();
        for count in [1, 2] {
            let peering = format!("{name}-{count}");
            peers.ok("accepted", json!({"endpoint": name, "name": peering, "count": count}));
            let hello = json!({"peering": peering, "dialect": "management", "kind": "hello"});
            let agent = peers.ok("notification", hello)["instance"].as_str().unwrap().to_owned();
            let order = json!({"peering": peering, "dialect": "management", "agent": agent, "request": "get_nodes",
                "reqid": format!("{name}-{agent}")});
            peers.ok("request", order);
            assert!(is_success(&peers.answer(&peering, "management", "get_nodes", &format!("{name}-{agent}"))));
            agents.push(agent);
            peers.is_content(&peering);
        }
        agents.sort();
        assert_eq!(agents, [AGENT, "a2"]);
        peers.ok("stop_listening", json!({"endpoint": name}));
        for count in [1, 2] {
            peers.ok("drop", json!({"peering": format!("{name}-{count}")}));
        }
    }
    for (host, agent) in [(&one, AGENT), (&two, "a2")] {
        for round in 0..3 {
            assert_eq!(host.requests(&format!("c{round}-{agent}")).len(), 1);
        }
    }
}

#[test]
fn a_network_cut_for_twenty_seconds_loses_nothing() {
    let host = host();
    let _agent = host.start();
    let network = Network::to(port(&host));
    let mut peers = Peers::start();
    peers.controller("c", network.port);
    let slow = config("c1", &["w1"], &json!({"SIM_READY_AFTER_MS": "500"}));
    peers.begin("c", "management", "deploy", "before", json!({"config": slow}));
    eventually("the request to arrive", || (!host.requests("before").is_empty()).then_some(()));
    network.set(false);
    peers.begin("c", "management", "get_nodes", "during", json!({}));
    let begun = Instant::now();
    eventually("its outcome, which nobody hears of", || host.requests("before")[0].success);
    std::thread::sleep(Duration::from_secs(20).saturating_sub(begun.elapsed()));
    assert!(host.requests("during").is_empty());
    network.set(true);
    assert!(is_success(&peers.answer("c", "management", "deploy", "before")));
    assert!(is_success(&peers.answer("c", "management", "get_nodes", "during")));
    assert_eq!((host.requests("before").len(), host.requests("during").len()), (1, 1));
    assert_eq!(host.status().peers.len(), 1, "the same peering");
    peers.is_content("c");
}

#[test]
fn a_peer_that_vanished_without_a_word_does_not_keep_itself_out() {
    let host = host();
    let _agent = host.start();
    let port = port(&host);
    let network = Network::to(port);
    let mut peers = Peers::start();
    // The smaller id is the one that has to notice what is redundant: once the peer, once the agent.
    for (name, id) in [("low", "00000000000000000000000000000001"), ("high", "fffffffffffffffffffffffffffffffe")] {
        network.set(true);
        peers.ok("endpoint", json!({"name": name, "filter": CONTROLLER, "id": id}));
        peers.ok("dial", json!({"endpoint": name, "name": name, "port": network.port}));
        // As long as it is there, a second one is redundant.
        let again = json!({"endpoint": name, "name": "again", "port": port});
        let refused = peers.order("dial", again.clone()).unwrap_err();
        // 39 to an originator; one that went on nevertheless is told late, which Broker does, too.
        assert!(refused.contains("refused: 39") || refused.contains("drop_conn where"), "{refused}");
        assert_eq!(peers.ok("ping", json!({"peering": name, "hex": "00"})), true, "the first is the one that stays");
        network.set(false);
        let begun = Instant::now();
        eventually("its next connection to be let in", || peers.order("dial", again.clone()).ok());
        println!("{name}: let in {:.1} s after the first connection went dead", begun.elapsed().as_secs_f64());
        assert_eq!(host.status().peers.len(), 1);
        peers.ok("drop", json!({"peering": "again"}));
        eventually("it to be gone", || host.status().peers.is_empty().then_some(()));
    }
}

#[test]
fn what_comes_a_byte_at_a_time_is_understood() {
    let host = host();
    let _agent = host.start();
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    peers.ok("dial", json!({"endpoint": "c", "name": "c", "port": port(&host), "segment": 1}));
    let deployed = peers.ask("c", "management", "deploy", "d", json!({"config": config("c1", &["w1"], &json!({}))}));
    assert!(is_success(&deployed), "{deployed}");
}

#[test]
fn a_thousand_peers_one_after_the_other_leave_nothing_behind() {
    let host = host();
    let agent = host.start();
    let port = port(&host);
    let mut peers = Peers::start();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    let memory = || crate::websocket::peak_kib(agent.pid());
    let mut connect = |number: usize| {
        peers.controller("c", port);
        // By turns with a BYE and without.
        let order = if number.is_multiple_of(2) { "leave" } else { "drop" };
        peers.ok(order, json!({"peering": "c"}));
    };
    (0..50).for_each(&mut connect);
    eventually("the first to be gone", || host.status().peers.is_empty().then_some(()));
    let before = (descriptors(), memory());
    (0..1000).for_each(&mut connect);
    eventually("all to be gone", || host.status().peers.is_empty().then_some(()));
    eventually("every descriptor to be closed", || (descriptors() <= before.0).then_some(()));
    let after = (descriptors(), memory());
    println!("(descriptors, peak memory in KiB): {before:?} before 1000 peers, {after:?} after");
    assert!(after.1 < before.1 + 4096, "memory grew");
    host.verify();
}

#[test]
fn a_controller_that_dials_the_agent_that_dials_it_is_one_peer() {
    let mut host = host();
    let mut peers = Peers::start();
    // The agent has the smaller id, and so it is the one that has to notice.
    peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER, "id": "fffffffffffffffffffffffffffffffe"}));
    let at = peers.ok("listen", json!({"endpoint": "c"}));
    peers.ok("stop_listening", json!({"endpoint": "c"}));
    host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}"));
    let _agent = host.start();
    peers.ok("dial", json!({"endpoint": "c", "name": "c", "port": port(&host)}));
    peers.ok("listen", json!({"endpoint": "c", "port": at}));
    eventually("the controller to be known as a peer", || {
        (host.status().controller?.state == "connected").then_some(())
    });
    assert!(peers.ok("failures", json!({"endpoint": "c"}))[0].as_str().unwrap().contains("39"));
    let status = host.status();
    assert_eq!((status.peers.len(), status.peers[0].direction.as_str()), (1, "accepted"));
    assert!(is_success(&peers.ask("c", "management", "agent_welcome", "w", json!({}))));
    // When that one is gone, the agent dials again.
    peers.ok("drop", json!({"peering": "c"}));
    peers.ok("accepted", json!({"endpoint": "c", "name": "d"}));
    assert!(is_success(&peers.ask("d", "management", "agent_welcome", "v", json!({}))));
}

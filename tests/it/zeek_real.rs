//! A real Zeek (8.1 or later) in place of the stand-in: `ZCA_TEST_ZEEK` names its program. Without one these tests say that
//! they are skipped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, Said, eventually, kill};

/// An agent that runs the real Zeek and does not listen for Broker.
fn host() -> Option<Host> {
    let Some(zeek) = std::env::var_os("ZCA_TEST_ZEEK") else {
        println!("SKIPPED: ZCA_TEST_ZEEK names no Zeek");
        return None;
    };
    let mut host = Host::new();
    host.run_program(Path::new(&zeek)).set("ZCA_NODE_PROFILE", "zeek").set("ZCA_LISTEN", "off");
    host.set("ZCA_CLUSTER_BACKEND", "zeromq").set("ZCA_ZEEK_LISTEN_ADDRESS", "127.0.0.1");
    Some(host)
}

/// Ports that were free a moment ago, in order.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut ports: Vec<u16> = held.iter().map(|one| one.local_addr().unwrap().port()).collect();
    ports.sort_unstable();
    ports
}

const NODES: [&str; 5] = ["manager", "logger", "proxy", "w1", "w2"];

/// Manager, logger, proxy and two workers without an interface.
fn deploy(host: &Host) {
    let ports = free_ports(8);
    let with = |port: Option<u16>, metrics: u16| {
        let port = port.map_or_else(String::new, |port| format!("port = {port}\n"));
        format!("{port}metrics_port = {metrics}")
    };
    let sections = [
        ("manager:manager", with(Some(ports[0]), ports[3])),
        ("logger:logger", with(Some(ports[1]), ports[4])),
        ("proxy:proxy", with(Some(ports[2]), ports[5])),
        ("w1", with(None, ports[6])),
        ("w2", with(None, ports[7])),
    ];
    let sections: Vec<(&str, &str)> = sections.iter().map(|(name, lines)| (*name, lines.as_str())).collect();
    let file = host.cluster_file("a.ini", &sections);
    let said = host.run(&["request", "deploy", &file]);
    assert_eq!(said.code, 0, "{said:?}\n{}", host.read_log());
    host.wait_all_running(NODES.len());
}

fn node_dir(host: &Host, node: &str) -> PathBuf {
    host.state_dir().join("nodes").join(node)
}

#[test]
fn five_nodes_on_zeromq_run_without_broker_and_are_asked_all_at_once() {
    let Some(host) = host() else { return };
    let agent = host.start();
    deploy(&host);
    for node in NODES {
        let said = host.run(&["nodes", "print", "Cluster::node", node]);
        assert_eq!((said.code, said.stdout), (0, format!("{node}: \"{node}\"\n")));
        let said = host.run(&["nodes", "print", "No::such", node]);
        assert_eq!((said.code, said.stdout), (1, format!("failed {node}: unknown id\n")));
    }
    let stats = host.json(&["nodes", "netstats", "--json"]);
    assert_eq!(stats["results"].as_array().unwrap().len(), NODES.len());
    thread::scope(|scope| {
        for client in 0..10 {
            let host = &host;
            scope.spawn(move || {
                for number in 0..5 {
                    let reqid = format!("c{client}-{number}");
                    let node = NODES[(client + number) % NODES.len()];
                    let arguments = ["request", "get-id-value", "Cluster::node", "--nodes", node, "--reqid", &reqid];
                    let answer = host.json(&[&arguments[..], &["--json"]].concat());
                    assert_eq!(
                        (answer["reqid"].as_str(), answer["results"][0]["data"].as_str()),
                        (Some(reqid.as_str()), Some(format!("\"{node}\"").as_str()))
                    );
                }
            });
        }
    });
    let pids = host.pids();
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    // The manager forwards what nodes say to each other, and has no part in this.
    kill(pids["manager"], Signal::STOP, None);
    let said = host.run(&["nodes", "print", "Cluster::node", "w1"]);
    kill(pids["manager"], Signal::CONT, None);
    assert_eq!(said.stdout, "w1: \"w1\"\n");
    host.verify();
}

#[test]
fn a_worker_that_was_killed_is_back_and_the_others_saw_it() {
    let Some(host) = host() else { return };
    let _agent = host.start();
    deploy(&host);
    let met = |node: &str, other: &str, times: usize| {
        eventually("the nodes to meet", || {
            let log = fs::read_to_string(node_dir(&host, "logger").join("cluster.log")).ok()?;
            let hello = format!("got hello from {other} ");
            let ups = log.lines().filter(|line| line.split('\t').any(|field| field == node) && line.contains(&hello));
            (ups.count() >= times).then_some(())
        });
    };
    met("w2", "w1", 1);
    let pids = host.pids();
    kill(pids["w1"], Signal::KILL, None);
    eventually("w1 to run again", || {
        let report = host.nodes().remove("w1")?;
        (report.state == NodeState::Running && report.pid != Some(pids["w1"])).then_some(())
    });
    met("w2", "w1", 2);
    for node in ["manager", "logger", "proxy", "w2"] {
        assert_eq!(host.pids()[node], pids[node], "{node}");
    }
}

#[test]
fn what_a_node_prints_is_seen_at_once() {
    let Some(host) = host() else { return };
    let _agent = host.start();
    let script = host.file("say.zeek", "event zeek_init() &priority=-20 { print \"said at once\"; }\n");
    let file = host.cluster_file("a.ini", &[("tap:none", &format!("scripts = {script}\nenv = ZEEK_LOG_SUFFIX=log"))]);
    // Without an interface Zeek ends when it has nothing to do.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}options = exit_only_after_terminate=T\n")).unwrap();
    let said = host.run(&["request", "deploy", &file]);
    assert_eq!(said.code, 0, "{said:?}\n{}", host.read_log());
    eventually("the line", || host.run(&["nodes", "logs", "tap"]).stdout.contains("said at once").then_some(()));
    // It has no metrics port, so it looks for questions once a second.
    assert_eq!(host.run(&["nodes", "print", "exit_only_after_terminate", "tap"]).stdout, "tap: true\n");
    // Zeek itself would never rotate its logs.
    assert_eq!(host.run(&["nodes", "print", "Log::default_rotation_interval", "tap"]).stdout, "tap: \"1.0 hr\"\n");
}

#[test]
fn our_scripts_load_with_the_names_that_this_zeek_knows() {
    let Some(zeek) = std::env::var_os("ZCA_TEST_ZEEK") else {
        println!("SKIPPED: ZCA_TEST_ZEEK names no Zeek");
        return;
    };
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("share/zeek");
    let scratch = tempfile::tempdir().unwrap();
    for script in ["zeek-cluster-agent-logs", "zeek-cluster-agent-channel"] {
        let mut command = Command::new(&zeek);
        command.current_dir(scratch.path()).args(["-a", "Telemetry::metrics_port=0/unknown"]);
        let said = Said::of({
            command.arg(scripts.join(script).with_extension("zeek"));
            command
        });
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{script}");
    }
}

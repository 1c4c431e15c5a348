//! Questions to nodes without Broker. The stand-in looks for them by itself; the doorbell is tested in `src/channel`, and
//! both are with a real Zeek where there is one (`zeek_real.rs`).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fs, thread};

use rustix::process::Signal;

use crate::support::{Host, kill};

const CLUSTER: &[(&str, &str)] = &[
    ("manager:manager", "port = 2200"),
    ("logger:logger", "port = 2201"),
    ("w1", "interface = lo"),
    ("w2", "interface = lo"),
];

fn host() -> Host {
    let mut host = Host::new();
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek");
    host.run_program(&stand_in).set("STAND_IN_VERSION", "9.0.0").set("ZCA_LISTEN", "off");
    host
}

fn deploy(host: &Host) {
    let file = host.cluster_file("a.ini", CLUSTER);
    let said = host.run(&["request", "deploy", &file]);
    assert_eq!(said.code, 0, "{said:?}\n{}", host.read_log());
}

#[test]
fn nodes_are_asked_through_files_that_nobody_else_can_reach() {
    let host = host();
    let agent = host.start();
    deploy(&host);
    for node in ["manager", "logger", "w1", "w2"] {
        let directory = host.state_dir().join("nodes").join(node).join("ask");
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700, "{node}");
        let given = fs::read_to_string(host.state_dir().join("nodes").join(node).join("given")).unwrap();
        assert!(!given.to_lowercase().contains("broker") && !given.contains("ZEEK_AGENT_PORT"), "{given}");
    }
    let said = host.run(&["request", "get-id-value", "Cluster::node"]);
    assert_eq!((said.code, said.stdout.lines().count()), (0, 4), "{said:?}\n{}", host.read_log());
    assert!(said.stdout.contains("logger: \"logger\"\n") && said.stdout.contains("w2: \"w2\"\n"), "{said:?}");
    let said = host.run(&["nodes", "print", "Cluster::node", "w1"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "w1: \"w1\"\n"));
    let said = host.run(&["nodes", "print", "No::such", "w1", "w2"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, "failed w1: unknown id\nfailed w2: unknown id\n"));
    let large = host.json(&["nodes", "print", "STAND_IN::large", "w1", "--json"]);
    assert_eq!(large["results"][0]["data"].as_str().unwrap().len(), 400_002);

    let pids = host.pids();
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.run(&["nodes", "print", "Cluster::node", "w1"]).stdout, "w1: \"w1\"\n");
    assert_eq!(host.pids(), pids);
    host.verify();
}

#[test]
fn packets_are_shown_in_a_table_and_what_failed_below_it() {
    let host = host();
    let _agent = host.start();
    deploy(&host);
    assert_eq!(host.run(&["nodes", "stop", "w2"]).code, 0);
    let said = host.run(&["nodes", "netstats", "w1", "w2"]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (
            1,
            "NODE  RECEIVED  DROPPED  LINK  BYTES    LAG\n\
             w1           7        1     8    700  0.2 s\n\
             failed w2: cluster node w2 not in running state\n"
        )
    );
    let json = host.json(&["nodes", "netstats", "w1", "--json"]);
    assert!(json["results"][0]["data"].as_str().unwrap().contains("\"pkts_dropped\":1"), "{json}");
    let dump = host.run(&["journal", "dump"]);
    assert!(dump.stdout.contains("node_dispatch"), "{dump:?}");
}

#[test]
fn ten_clients_at_once_have_each_its_own_answers() {
    let host = host();
    let _agent = host.start();
    deploy(&host);
    thread::scope(|scope| {
        for client in 0..10 {
            let host = &host;
            scope.spawn(move || {
                for number in 0..3 {
                    let reqid = format!("c{client}-{number}");
                    let node = if (client + number) % 2 == 0 { "w1" } else { "w2" };
                    let arguments = ["request", "get-id-value", "Cluster::node", "--nodes", node, "--reqid", &reqid];
                    let answer = host.json(&[&arguments[..], &["--json"]].concat());
                    assert_eq!(answer["reqid"].as_str(), Some(reqid.as_str()));
                    assert_eq!(answer["results"][0]["data"], format!("\"{node}\""), "{answer}");
                }
            });
        }
    });
}

#[test]
fn a_node_that_does_not_answer_is_named_and_the_others_are_answered() {
    let mut host = host();
    host.set("ZCA_REQUEST_TIMEOUT", "2s");
    let _agent = host.start();
    deploy(&host);
    let pid = host.pids()["w1"];
    kill(pid, Signal::STOP, None);
    let said = host.run(&["nodes", "print", "Cluster::node", "w1", "w2"]);
    kill(pid, Signal::CONT, None);
    let expected = format!(
        "failed w1: no answer within 1.7 s: w1 is stopped; let its process {pid} go on with SIGCONT, or restart it\nw2: \"w2\"\n"
    );
    assert_eq!((said.code, said.stdout), (1, expected));
    assert_eq!(host.run(&["nodes", "print", "Cluster::node", "w1"]).code, 0);
}

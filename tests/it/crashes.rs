//! What is kept of a node's crashes, and what is not.

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, errors, eventually, kill, set};

fn bundles(host: &Host, node: &str) -> Vec<Value> {
    host.json(&["nodes", "crash", node, "--json"]).as_array().unwrap().clone()
}

fn incarnations(host: &Host, node: &str) -> Vec<u64> {
    bundles(host, node).iter().map(|bundle| bundle["incarnation"].as_u64().unwrap()).collect()
}

/// Kills the node's process and waits for the bundle of its incarnation.
fn crash(host: &Host, node: &str) -> u64 {
    let before = host.wait_state(node, NodeState::Running);
    kill(before.pid.unwrap(), Signal::KILL, Some(&host.mark));
    eventually("its bundle", || incarnations(host, node).contains(&before.incarnation).then_some(()));
    before.incarnation
}

#[test]
fn a_crash_leaves_a_bundle_without_secrets_and_what_was_asked_for_leaves_none() {
    let mut host = Host::new();
    host.set("ZCA_CRASH_KEEP", "2").set("ZCA_BACKOFF_MIN", "20ms").set("ZCA_BACKOFF_MAX", "50ms");
    host.set("ZCA_NODE_CORE", "unlimited");
    let agent = host.start();
    let once = host.dir.path().join("once");
    let env = format!("env = SIM_CRASH=11 SIM_ONCE_FILE={} KAFKA_PASSWORD=hush", once.display());
    let answer = host.ask("r", set(cluster(&[("w1", &env), ("w2", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    host.wait_state("w1", NodeState::Running);
    let first = eventually("the first bundle", || bundles(&host, "w1").pop());
    assert_eq!((&first["cause"], &first["incarnation"]), (&json!("signal 11"), &json!(1)));
    assert_eq!(first["environment"]["KAFKA_PASSWORD"], "(masked)");
    assert_eq!(first["environment"]["SIM_CRASH"], "11");
    assert!(first["stdout"].as_str().unwrap().contains("node w1 runs as pid"), "{first}");
    assert!(first["ran_ms"].is_u64() && first["pid"].is_u64(), "{first}");
    // Where the kernel's pattern is a pipe or names another directory, somebody else has the core.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(first["core_pattern"], pattern.trim());
    if pattern.trim() == "core" {
        let core = first["core"]["file"].as_str().unwrap_or_else(|| panic!("no core in {first}"));
        assert!(std::fs::read(core).unwrap().starts_with(b"\x7fELF"), "{core}");
        assert!(!host.state_dir().join("nodes/w1/core").exists(), "it was moved");
    }
    let shown = host.run(&["nodes", "crash", "w1", "last"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for part in ["w1 signal 11", "KAFKA_PASSWORD=(masked)", "node w1 runs as pid", "core "] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains("hush"));
    let absent = host.run(&["nodes", "crash", "w1", "nothing"]);
    assert_eq!(absent.code, 1);
    assert!(absent.stderr.contains("node w1 has no crash bundle nothing"), "{absent:?}");

    // The newest two are kept, also of what happened while no agent ran.
    assert_eq!(crash(&host, "w1"), 2);
    let limits = bundles(&host, "w1")[0]["limits"].clone();
    assert!(limits.as_str().unwrap().contains("Max open files"), "{limits}");
    let running = host.wait_state("w1", NodeState::Running);
    agent.kill();
    kill(running.pid.unwrap(), Signal::KILL, Some(&host.mark));
    let _agent = host.start();
    eventually("the newest bundles", || (incarnations(&host, "w1") == [3, 2]).then_some(()));

    assert!(host.ask("restart", Request::Restart { nodes: ["w2".to_owned()].into() }).success());
    assert!(host.ask("stop", Request::StopNodes { nodes: ["w2".to_owned()].into(), force: false }).success());
    assert_eq!(incarnations(&host, "w2"), [0; 0], "these ends were asked for");
}

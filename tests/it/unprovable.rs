//! Nodes of which nothing can be proven, through the real binary: nothing is done to them, and they cost no entries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, errors, eventually, is_alive, set};

fn script(path: &Path) {
    fs::write(path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A directory where the lock was, and a node program that is gone: each attempt at a start fails, whatever is tried first.
#[test]
fn a_node_whose_lock_cannot_be_had_is_not_journaled_as_ended_again_and_again() {
    let mut host = Host::new();
    let program = host.dir.path().join("node");
    script(&program);
    host.run_program(&program).set("ZCA_READY", "alive").set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STAGE_WAIT", "0.1");
    let agent = host.start();
    let answer = host.ask("first", set(cluster(&[("w1", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    let pid = host.pids()["w1"];
    agent.kill();
    let lock = host.state_dir().join("run/w1/lock");
    fs::rename(&lock, host.dir.path().join("lock")).unwrap();
    fs::create_dir(&lock).unwrap();
    fs::remove_file(&program).unwrap();

    let _agent = host.start();
    let report = host.wait_state("w1", NodeState::Unknown);
    let note = report.note.unwrap();
    assert!(note.contains("run/w1/lock") && note.contains("`nodes stop w1 --force`"), "{note}");
    // Answered when its time is over, which is after the next attempt.
    let said = host.run(&["nodes", "restart", "w1", "--reqid", "again"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(host.events("node_exited"), [], "it runs, and nobody knows better");
    assert_eq!(host.nodes()["w1"].state, NodeState::Unknown);
    let said = host.run(&["request", "standby", "--reqid", "standby"]);
    assert!(said.code == 1 && said.stdout.contains("w1: it may still run: "), "not said to be stopped: {said:?}");
    assert_eq!(host.events("node_exited"), []);
    assert!(is_alive(pid));

    // With its lock back, it is a node like any other.
    fs::remove_dir(&lock).unwrap();
    fs::rename(host.dir.path().join("lock"), &lock).unwrap();
    eventually("the node to be stopped", || (!is_alive(pid)).then_some(()));
    eventually("its exit to be journaled", || (host.events("node_exited").len() == 1).then_some(()));
}

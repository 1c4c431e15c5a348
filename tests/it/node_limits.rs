//! What nodes are given of the host: niceness everywhere, memory and CPU where systemd gives them scopes.

use std::fs;

use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, run_to_end, set};

/// Field 19 of `/proc/PID/stat`.
fn niceness(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(19 - 3).unwrap().parse().unwrap()
}

#[test]
fn nodes_are_as_nice_as_their_role() {
    let mut host = Host::new();
    host.set("ZCA_NODE_NICE", "3 worker=7");
    let _agent = host.start();
    host.ask("d", set(cluster(&[("w1", ""), ("l1:logger", "")])));
    for (node, nice) in [("w1", 7), ("l1", 3)] {
        let pid = host.wait_state(node, NodeState::Running).pid.unwrap();
        assert_eq!(niceness(pid), nice, "{node}");
    }
    // Their shims, and the agent, stay as they are.
    assert_eq!(niceness(host.shim_of("w1")), niceness(std::process::id()));
}

/// A shim whose agent is no service of systemd's does not wait for a scope, and no limit of one keeps a node from running.
#[test]
fn limits_of_scopes_have_no_effect_without_scopes() {
    let mut host = Host::new();
    host.set("ZCA_NODE_MEMORY_MAX", "worker=64MiB").set("ZCA_NODE_CPU_WEIGHT", "200");
    let _agent = host.start();
    host.ask("d", set(cluster(&[("w1", "")])));
    let node = host.wait_state("w1", NodeState::Running);
    let spec = fs::read(host.state_dir().join("run/w1/launch")).unwrap();
    let has = |text: &[u8]| spec.windows(text.len()).any(|window| window == text);
    assert!(has(b"memory_max") && has(b"cpu_weight") && !has(b"nice"), "{node:?}");
}

#[test]
fn limits_that_cannot_be_are_refused_with_the_key() {
    for (variable, value, words) in [
        ("ZCA_NODE_NICE", "20", "`node_nice` has 20; it is a number from 0 to 19"),
        ("ZCA_NODE_CPU_WEIGHT", "worker=0", "`node_cpu_weight` has 0; it is a number from 1 to 10000"),
        (
            "ZCA_NODE_MEMORY_MAX",
            "8",
            "`node_memory_max` has 8, and 1048576 is the least a node can run with; give more",
        ),
    ] {
        let mut host = Host::new();
        host.set(variable, value);
        let said = run_to_end(&host, &[]);
        assert_eq!(said.code, 78, "{said:?}");
        assert!(said.stderr.contains(words) || host.read_log().contains(words), "{said:?}\n{}", host.read_log());
    }
}

//! SIGTERM to a shim: from somebody on a running host, and from a host that goes down.

use std::fs;

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

#[cfg(feature = "crash-points")]
use crate::support::is_alive;
use crate::support::{Host, cluster, eventually, kill, set};

fn bundles(host: &Host) -> usize {
    fs::read_dir(host.state_dir().join("crash").join("w1")).map_or(0, Iterator::count)
}

#[test]
fn a_node_whose_shim_is_told_to_end_it_is_started_again_and_the_sender_named() {
    let host = Host::new();
    let _agent = host.start();
    host.ask("d", set(cluster(&[("w1", "")])));
    let first = host.wait_state("w1", NodeState::Running);
    kill(host.shim_of("w1"), Signal::TERM, None);
    let second = eventually("another start", || {
        let node = host.nodes().remove("w1")?;
        (node.state == NodeState::Running && node.incarnation > first.incarnation).then_some(node)
    });
    assert_eq!(second.deaths, 1);
    let uid = rustix::process::getuid().as_raw();
    let cause = format!("stopped from outside: SIGTERM to its shim by pid {}, uid {uid}", std::process::id());
    assert_eq!(second.last_exit.as_deref(), Some(cause.as_str()));
    let told = host.events("node_exited");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].2["cause"], cause, "{told:?}");
    assert_eq!(bundles(&host), 0, "that is no crash");
    assert!(host.read_log().contains(&cause), "{}", host.read_log());
    host.verify();
}

/// The agent is gone, every shim is told to end, and the next boot finds what they left.
#[cfg(feature = "crash-points")]
#[test]
fn after_a_shutdown_of_the_host_nothing_has_crashed_and_everything_runs_again() {
    let mut host = Host::new();
    host.set("ZCA_TEST_BOOT_ID", "before");
    let agent = host.start();
    host.ask("d", set(cluster(&[("w1", ""), ("w2", "")])));
    host.wait_all_running(2);
    let shims = host.shims();
    assert_eq!(shims.len(), 2);
    agent.signal(Signal::TERM);
    agent.wait();
    for shim in &shims {
        kill(*shim, Signal::TERM, None);
    }
    eventually("all of it to be gone", || shims.iter().all(|shim| !is_alive(*shim)).then_some(()));
    host.set("ZCA_TEST_BOOT_ID", "after");
    let _agent = host.start();
    host.wait_all_running(2);
    for (name, node) in host.nodes() {
        assert_eq!((node.deaths, node.last_exit.as_deref()), (0, Some("host shutdown")), "{name}");
    }
    assert_eq!(bundles(&host), 0);
    host.verify();
}

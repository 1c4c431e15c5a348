//! A driver or a commit that hangs ends the agent, which leaves its nodes running; a disk that is slow, and an agent that gets no CPU
//! or was stopped, are not taken for that.

#![cfg(feature = "crash-points")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zeek_cluster_agent::api::event::{Dialect, Request};

use crate::support::{Agent, Host, cluster, eventually, is_alive, kill, set};

const LIMIT: Duration = Duration::from_secs(1);

/// An agent with two nodes that stops at `point` from now on, until the file that is given is removed.
fn stopped_at(point: &str) -> (Host, Agent, PathBuf) {
    let mut host = Host::new();
    host.set("ZCA_COMMIT_TIMEOUT", "1s");
    let agent = host.start();
    assert!(host.ask("set", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let reached = host.dir.path().join("reached");
    host.set("ZCA_WAIT_AT", point).set("ZCA_WAIT_FILE", reached.to_str().unwrap());
    let agent = host.start();
    let mut client = host.client();
    client.submit("r", Request::Restart { nodes: ["w1".to_owned()].into() }, Dialect::Management, None).unwrap();
    eventually(point, || reached.exists().then_some(()));
    (host, agent, reached)
}

fn ends(point: &str, who: &str) {
    let (mut host, agent, reached) = stopped_at(point);
    let w2 = host.node_processes("w2");
    let begun = Instant::now();
    let status = agent.wait();
    println!("{point}: ended {:?} after it was seen to hang", begun.elapsed());
    let log = host.read_log();
    assert_eq!(status.code(), Some(1), "{log}");
    let said =
        format!("{who} has got no further for 1 s: it waits or computes without end, which is a defect of the agent");
    assert!(log.contains(&said) && log.contains("nodes run on, and a restart finds out what was stored"), "{log}");
    assert_eq!(host.node_processes("w2"), w2, "nodes run on");
    std::fs::remove_file(reached).unwrap();
    host.unset("ZCA_WAIT_AT").unset("ZCA_WAIT_FILE");
    let _agent = host.start();
    host.wait_all_running(2);
    assert_eq!(host.node_processes("w2"), w2);
    host.verify();
}

#[test]
fn a_driver_that_hangs_ends_the_agent() {
    ends("after_accept", "the driver's thread");
}

#[test]
fn a_commit_that_hangs_beside_the_disk_ends_the_agent() {
    ends("during_build:5", "the journal's thread");
}

/// During the start nothing is served yet: what the driver takes in first is that a node has ended meanwhile.
#[test]
fn a_driver_that_hangs_during_the_start_ends_the_agent() {
    let mut host = Host::new();
    let agent = host.start();
    assert!(host.ask("set", set(cluster(&[("w1", "")]))).success());
    let pid = host.pids()["w1"];
    agent.kill();
    kill(pid, Signal::KILL, Some(&host.mark));
    eventually("the node's end", || (!is_alive(pid)).then_some(()));
    host.set("ZCA_COMMIT_TIMEOUT", "1s").set("ZCA_HANG_AT", "before_exit");
    let status = host.spawn().wait();
    let log = host.read_log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the driver's thread has got no further for 1 s"), "{log}");
    assert_eq!(log.matches(" serves on ").count(), 1, "{log}");
}

/// Stopped as a whole for longer than the limit, and then held up for a part of it.
#[test]
fn a_driver_that_goes_on_in_time_or_was_stopped_with_its_process_is_left_alone() {
    let (host, mut agent, reached) = stopped_at("after_accept");
    agent.signal(Signal::STOP);
    std::thread::sleep(2 * LIMIT);
    agent.signal(Signal::CONT);
    std::fs::remove_file(reached).unwrap();
    eventually("an answer", || host.requests("r").first().and_then(|row| row.completed_at.clone()));
    assert_eq!(agent.child.try_wait().unwrap(), None, "{}", host.read_log());
    host.verify();
}

//! Nodes outlive the agent (P7), and what happened to them meanwhile is found out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, PATIENCE, cluster, errors, eventually, is_alive, kill, set};

fn many(count: usize) -> Request {
    let names: Vec<String> = (0..count).map(|number| format!("w{number:02}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    set(cluster(&nodes))
}

#[test]
fn fifty_nodes_are_adopted_within_seconds() {
    let host = Host::new();
    let agent = host.start();
    let answer = host.ask_until_answered("r", &many(50));
    host.wait_all_running(50);
    let before = host.pids();
    assert_eq!(before.len(), 50, "{}", errors(&answer));
    agent.kill();
    let begun = Instant::now();
    let _agent = host.start();
    let served = begun.elapsed();
    println!("50 nodes: served {} ms after the start", served.as_millis());
    assert!(served.as_secs_f64() < 3.0, "it took {served:?}");
    host.wait_all_running(50);
    assert_eq!(host.pids(), before);
    assert!(host.nodes().values().all(|node| node.deaths == 0));
    assert_eq!(host.events("node_exited").len(), 0);
    host.verify();
}

#[test]
fn a_node_killed_while_the_agent_was_away_is_reported_and_restarted_once() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", many(2)).success());
    let before = host.pids();
    agent.kill();
    kill(before["w00"], Signal::ABORT, Some(&host.mark));
    eventually("it to be gone", || (!is_alive(before["w00"])).then_some(()));
    let _agent = host.start();
    eventually("another w00", || host.pids().get("w00").copied().filter(|pid| *pid != before["w00"]));
    host.wait_all_running(2);
    let after = host.pids();
    assert_eq!(before["w01"], after["w01"]);
    assert_ne!(before["w00"], after["w00"]);
    let exits = host.events("node_exited");
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!(host.nodes()["w00"].last_exit.as_deref(), Some("signal 6"));
    assert_eq!(host.events("node_started").len(), 3);
}

/// `up`: with the agent there to see its shim die.
fn shim_dies_under_a_node_that_outlives_it(up: bool) {
    let host = Host::new();
    let agent = host.start();
    // A port that only one process can have: a second one at once would exit with 1.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = format!("env = SIM_CLEAR_PDEATHSIG=1 SIM_PORT={port}");
    let answer = host.ask("r", set(cluster(&[("w1", &lines)])));
    assert!(answer.success(), "{}", errors(&answer));
    let node = host.pids()["w1"];
    let shim = host.shim_of("w1");
    let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
    let mut agent = Some(agent);
    if !up {
        agent.take().unwrap().kill();
    }
    kill(shim, Signal::KILL, Some(&shim_mark));
    let agent = match agent {
        Some(agent) => agent,
        None => {
            eventually("the shim's end", || (!is_alive(shim)).then_some(()));
            assert!(is_alive(node), "it cleared its PDEATHSIG");
            host.start()
        }
    };
    let again = eventually("another process", || host.pids().get("w1").copied().filter(|pid| *pid != node));
    host.wait_all_running(1);
    assert!(!is_alive(node), "two of one node");
    assert_eq!(host.node_processes("w1"), [again]);
    let exits = host.events("node_exited");
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert!(exits[0].2.to_string().contains("lost"), "{exits:?}");
    drop(agent);
}

#[test]
fn a_shim_killed_with_the_agent_up() {
    shim_dies_under_a_node_that_outlives_it(true);
}

#[test]
fn a_shim_killed_with_the_agent_away() {
    shim_dies_under_a_node_that_outlives_it(false);
}

#[test]
fn a_wrapper_script_as_node_is_ended_whole() {
    let mut host = Host::new();
    let script = host.dir.path().join("wrapper");
    fs::write(&script, "#!/bin/sh\ntrap '' HUP\nsleep 1000 &\nsleep 1000\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    host.run_program(&script).set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "0.1");
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    assert_eq!(host.node_processes("w1").len(), 3);
    let node = host.pids()["w1"];
    let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
    kill(host.shim_of("w1"), Signal::KILL, Some(&shim_mark));
    eventually("another process", || host.pids().get("w1").copied().filter(|pid| *pid != node));
    host.wait_all_running(1);
    assert_eq!(host.node_processes("w1").len(), 3, "the old one's children are gone with it");
    drop(agent);
}

#[test]
fn after_a_host_restart_desired_nodes_start_and_stopped_ones_do_not() {
    if !cfg!(feature = "crash-points") {
        return;
    }
    let mut host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", many(3)).success());
    assert!(host.ask("s", Request::StopNodes { nodes: ["w02".to_owned()].into(), force: false }).success());
    agent.kill();
    let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
    for shim in host.shims() {
        kill(shim, Signal::KILL, Some(&shim_mark));
    }
    eventually("all processes to be gone", || host.processes(&host.mark).is_empty().then_some(()));
    host.set("ZCA_TEST_BOOT_ID", "11111111-2222-3333-4444-555555555555");
    let _agent = host.start();
    host.wait_state("w00", NodeState::Running);
    host.wait_state("w01", NodeState::Running);
    assert_eq!(host.nodes()["w02"].state, NodeState::Stopped);
    let restarted = host
        .events("node_exited")
        .iter()
        .filter(|(_, _, detail)| detail.to_string().contains("host restarted"))
        .count();
    assert_eq!(restarted, 2, "{:?}", host.events("node_exited"));
}

#[test]
fn a_replaced_binary_launches_and_adopts() {
    let mut host = Host::new();
    let installed = host.dir.path().join("zeek-cluster-agent");
    fs::copy(crate::support::BINARY, &installed).unwrap();
    host.binary = installed.clone();
    let agent = host.start();
    assert!(host.ask("r", many(2)).success());
    let before = host.pids();
    // An upgrade: the old file is gone, another is in its place.
    fs::remove_file(&installed).unwrap();
    fs::copy(crate::support::BINARY, &installed).unwrap();
    let answer = host.ask("again", Request::Restart { nodes: ["w00".to_owned()].into() });
    assert!(answer.success(), "{}", errors(&answer));
    host.wait_all_running(2);
    assert_ne!(host.pids()["w00"], before["w00"]);
    let between = host.pids();
    agent.kill();
    let _agent = host.start();
    host.wait_all_running(2);
    assert_eq!(host.pids(), between);
}

#[test]
fn signals_to_the_agent_leave_the_nodes() {
    for signal in [Signal::INT, Signal::TERM] {
        let host = Host::new();
        let mut agent = host.start();
        assert!(host.ask("r", many(2)).success());
        let before = host.pids();
        agent.signal_group(Signal::HUP);
        agent.signal_group(signal);
        assert!(agent.wait().success());
        for (node, pid) in &before {
            assert!(is_alive(*pid), "{node} died with the agent");
        }
        assert!(host.read_log().contains("nodes run on"), "{}", host.read_log());
        let _agent = host.start();
        host.wait_all_running(2);
        assert_eq!(host.pids(), before);
    }
}

#[test]
fn a_signal_to_everything_lets_nodes_flush() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", many(2)).success());
    let nodes = host.pids();
    let everything: Vec<u32> = host.processes(&host.mark);
    for pid in everything {
        kill(pid, Signal::TERM, Some(&host.mark));
    }
    assert!(agent.wait().success());
    for (node, pid) in nodes {
        eventually("the node's end", || (!is_alive(pid)).then_some(()));
        let output = host.state_dir().join("nodes").join(&node).join("stdout");
        let flushed = || fs::read_to_string(&output).is_ok_and(|text| text.contains("terminating")).then_some(());
        eventually(&format!("{node}'s last line"), flushed);
    }
}

/// Voluntary context switches of a process, thread by thread.
fn switches(pid: u32) -> BTreeMap<std::ffi::OsString, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((task.file_name(), count.trim().parse().unwrap()))
    };
    tasks.flatten().filter_map(of_task).collect()
}

#[test]
fn at_rest_shims_and_agent_do_nothing() {
    let host = Host::new();
    let agent = host.start();
    host.ask_until_answered("r", &many(50));
    host.wait_all_running(50);
    let shims = host.shims();
    assert_eq!(shims.len(), 50);
    // The status that waited for the nodes pinged every shim: wait until their counts stand still first.
    let count = |pids: &[u32]| pids.iter().map(|pid| switches(*pid)).collect::<Vec<_>>();
    let mut before = count(&shims);
    let begun = Instant::now();
    loop {
        std::thread::sleep(std::time::Duration::from_secs(5));
        let after = count(&shims);
        if after == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "shims never rest");
        before = after;
    }
    let before = switches(agent.pid());
    std::thread::sleep(std::time::Duration::from_secs(5));
    // sled's own threads look for work once a second; the rest of the agent waits for something to happen.
    let after = switches(agent.pid());
    let woken: u64 = after.iter().map(|(task, count)| count - before.get(task).unwrap_or(count)).sum();
    println!("agent: {woken} voluntary context switches in 5 s with 50 nodes");
    assert!(woken < 200, "the agent does not rest: {woken} voluntary context switches in 5 s");
    let pss: Vec<u64> = shims
        .iter()
        .map(|pid| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
            line.trim().trim_end_matches("kB").trim().parse().unwrap()
        })
        .collect();
    println!("shims: PSS {} KiB on average, {} KiB at most", pss.iter().sum::<u64>() / 50, pss.iter().max().unwrap());
}

#[test]
fn a_stopped_shim_is_unknown_and_never_killed() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("r", many(2)).success());
    let before = host.pids();
    let shim = host.shim_of("w00");
    let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
    kill(shim, Signal::STOP, Some(&shim_mark));
    host.wait_state("w00", NodeState::Unknown);
    assert_eq!(host.nodes()["w01"].state, NodeState::Running);
    kill(shim, Signal::CONT, Some(&shim_mark));
    host.wait_state("w00", NodeState::Running);
    assert_eq!(host.pids(), before);
}

/// Killing the agent by its name, as people do, leaves shims and nodes.
#[test]
fn shims_and_nodes_go_by_other_names() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", many(1)).success());
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim().to_owned();
    assert_eq!(name(host.shim_of("w00")), "zca-shim");
    assert_ne!(name(host.pids()["w00"]), name(agent.pid()));
}

//! What keeps a node from starting and passes by itself (a program that is being replaced, descriptors, memory or space that are
//! short) is tried again with the usual pauses, gives no node up, and is over with the try after it.

#[cfg(feature = "crash-points")]
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Dialect;
#[cfg(feature = "crash-points")]
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::control::client::within_ms;

use crate::small::{Small, fill};
use crate::support::{Host, cluster, eventually, kill, set};

/// Long after three of the longest pauses between tries.
const AWAITED_MS: u64 = 2_000;

/// Starts of a node that did not come about, with this in their reason. Where it could not even be prepared, those with the same
/// reason are one.
fn in_vain(host: &Host, node: &str, reason: &str) -> usize {
    let exits = host.events("node_exited");
    exits.iter().filter(|(name, _, detail)| name == node && detail.to_string().contains(reason)).count()
}

fn assert_none_failed(host: &Host) {
    let failed: Vec<_> = host.nodes().into_values().filter(|node| node.state == NodeState::Failed).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Waits until a node could not be started, and was tried for a while; sees it come back with the next try once `mend` has mended that.
fn passes(host: &Host, node: &str, reason: &str, mend: impl FnOnce()) {
    eventually(&format!("{node} to be tried and not started: {reason}"), || {
        assert_none_failed(host);
        let report = host.nodes().remove(node)?;
        let is_awaited = report.awaited_ms.is_some_and(|ms| ms >= AWAITED_MS);
        (is_awaited && in_vain(host, node, reason) > 0).then_some(())
    });
    mend();
    let (before, mended) = (in_vain(host, node, reason), Instant::now());
    host.wait_state(node, NodeState::Running);
    let after = in_vain(host, node, reason);
    println!("{node}: {before} entries of tries in vain ({reason}), back {:?} after that was over", mended.elapsed());
    assert!(after - before <= 1, "{before} entries of tries in vain, and {after}");
}

fn host() -> Host {
    let mut host = Host::new();
    host.set("ZCA_BACKOFF_MIN", "200ms").set("ZCA_BACKOFF_MAX", "400ms");
    host
}

/// Brings up nodes without waiting for them.
fn submit(host: &Host, nodes: &[(&str, &str)]) {
    host.client().submit("set", set(cluster(nodes)), Dialect::ClusterAgent, None).unwrap();
}

/// How often a fault was met at each place, of each node.
#[cfg(feature = "crash-points")]
fn met(file: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for place in fs::read_to_string(format!("{file}.met")).unwrap_or_default().lines() {
        *counts.entry(place.to_owned()).or_default() += 1;
    }
    counts
}

/// Every error that passes, at each place where a start can meet one: its directory, its shim, its process.
#[cfg(feature = "crash-points")]
#[test]
fn errors_that_pass_wherever_they_are_met_give_no_node_up() {
    let errors = [
        ("emfile", libc::EMFILE),
        ("enfile", libc::ENFILE),
        ("enomem", libc::ENOMEM),
        ("eagain", libc::EAGAIN),
        ("enospc", libc::ENOSPC),
        ("eio", libc::EIO),
        ("estale", libc::ESTALE),
        ("etxtbsy", libc::ETXTBSY),
        ("enoent", libc::ENOENT),
    ];
    let places = ["prepare", "spawn", "fork"];
    let all: Vec<(String, &str, i32)> = places
        .iter()
        .flat_map(|place| errors.iter().map(move |(name, errno)| (format!("{place}_{name}"), *place, *errno)))
        .collect();
    let lines: String = all.iter().map(|(node, place, errno)| format!("{place}@{node} {errno}\n")).collect();
    let mut host = host();
    let file = host.file("faults", &lines);
    host.set("ZCA_FAIL_FILE", &file);
    let _agent = host.start();
    let nodes: Vec<(&str, &str)> = all.iter().map(|(node, ..)| (node.as_str(), "")).collect();
    submit(&host, &nodes);
    // More often than what lasts is tried.
    eventually("each to be tried five times", || {
        assert_none_failed(&host);
        let met = met(&file);
        (met.len() == all.len() && met.values().all(|count| *count >= 5)).then_some(())
    });
    for (node, _, errno) in &all {
        assert!(in_vain(&host, node, &format!("(os error {errno})")) > 0, "{node}: the journal has the reason");
    }
    fs::remove_file(&file).unwrap();
    let before = host.events("node_exited").len();
    host.wait_all_running(all.len());
    let late = host.events("node_exited").len() - before;
    println!(
        "{} nodes: {} tries in vain, {late} of them told after that was over",
        all.len(),
        met(&file).values().sum::<usize>()
    );
    assert!(late <= all.len(), "each at most one that was under way: {late}");
    host.verify();
}

#[test]
fn a_program_that_is_moved_away_or_being_written_is_waited_for() {
    let mut host = host();
    let program = host.dir.path().join("node-program");
    let away = host.dir.path().join("moved-away");
    fs::copy("/bin/sleep", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    host.run_program(&program).set("ZCA_NODE_ARGS", "1000").set("ZCA_READY", "alive");
    let _agent = host.start();
    fs::rename(&program, &away).unwrap();
    submit(&host, &[("w1", "")]);
    passes(&host, "w1", program.to_str().unwrap(), || fs::rename(&away, &program).unwrap());

    // Being written by the one who installs it: the program that runs is another file, or that could not be.
    let pid = host.pids()["w1"];
    fs::rename(&program, &away).unwrap();
    fs::copy(&away, &program).unwrap();
    let writer = OpenOptions::new().append(true).open(&program).unwrap();
    kill(pid, Signal::KILL, Some(&host.mark));
    passes(&host, "w1", "(os error 26)", || drop(writer));
    host.verify();
}

#[test]
fn an_agent_without_descriptors_left_starts_its_nodes_when_it_has_some_again() {
    let host = host();
    let agent = host.start();
    assert!(host.ask("set", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let pids = host.pids();
    // Connected while it can be.
    let mut client = host.client();
    let limit = |most: &str| {
        let done =
            Command::new("prlimit").args(["--pid", &agent.pid().to_string(), &format!("--nofile={most}")]).status();
        assert!(done.unwrap().success());
    };
    let before = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let before = before.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = before.split_whitespace().nth(4).unwrap();
    limit(&format!("3:{hard}"));
    kill(pids["w1"], Signal::KILL, Some(&host.mark));
    let report = eventually("the node to wait for descriptors", || {
        let status = client.status(within_ms(10_000)).unwrap();
        let node = status.nodes.into_iter().find(|node| node.node == "w1").unwrap();
        assert_ne!(node.state, NodeState::Failed, "{node:?}");
        format!("{node:?}").contains("(os error 24)").then_some(node)
    });
    println!("without descriptors: {report:?}");
    limit(&format!("{hard}:{hard}"));
    host.wait_all_running(2);
    assert_eq!(host.pids()["w2"], pids["w2"]);
    host.verify();
}

#[test]
fn nodes_whose_run_directory_is_on_a_full_disk_start_when_there_is_space() {
    let host = host();
    // Dropped after the host: its shims are in it.
    let Some(small) = Small::mount(host.state_dir().join("run"), "1m") else { return };
    let _agent = host.start();
    assert!(host.ask("set", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let pids = host.pids();
    // The end of a node gives back what its files took, and the next may be faster than whoever fills that.
    let filler = eventually("a start without space", || {
        let filler = fill(&small.0, 0);
        host.node_processes("w1").into_iter().for_each(|pid| kill(pid, Signal::KILL, Some(&host.mark)));
        (in_vain(&host, "w1", "(os error 28)") > 0).then_some(filler)
    });
    passes(&host, "w1", "(os error 28)", || fs::remove_file(&filler).unwrap());
    assert_eq!(host.pids()["w2"], pids["w2"]);
    host.verify();
}

/// What lasts is given up after three tries: the same places, so that the tests above see a difference.
#[cfg(feature = "crash-points")]
#[test]
fn errors_that_last_are_given_up_at_the_same_places() {
    let mut host = host();
    let places = ["prepare", "spawn"];
    let lines: String = places.iter().map(|place| format!("{place}@{place}_eacces {}\n", libc::EACCES)).collect();
    let file = host.file("faults", &lines);
    host.set("ZCA_FAIL_FILE", &file);
    let _agent = host.start();
    submit(&host, &[("prepare_eacces", ""), ("spawn_eacces", "")]);
    for place in places {
        let node = format!("{place}_eacces");
        host.wait_state(&node, NodeState::Failed);
        assert!(in_vain(&host, &node, "(os error 13)") > 0);
    }
    assert!(met(&file).values().all(|count| *count == 3), "{:?}", met(&file));
    // Once it is mended, whoever asks gets them.
    fs::remove_file(&file).unwrap();
    let again =
        host.ask("start", Request::StartNodes { nodes: ["prepare_eacces", "spawn_eacces"].map(String::from).into() });
    assert!(again.success(), "{again:?}");
    host.wait_all_running(2);
}

//! `status --check`, for probes: 0 and `well`, or 1 and one line that says why not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::json;
use zeek_cluster_agent::api::event::Request;

use crate::support::{Host, Said, cluster, eventually, kill, set};

fn check(host: &Host) -> Said {
    host.run(&["status", "--check"])
}

/// Waits until it is degraded for this reason, and says only that.
fn wait_degraded(host: &Host, why: &str) {
    eventually(&format!("degraded: {why}"), || {
        let said = check(host);
        assert!(said.code == 0 || said.code == 1, "{said:?}");
        (said.code == 1 && said.stdout.contains(why)).then(|| {
            assert!(said.stdout.starts_with("degraded: "), "{said:?}");
            assert_eq!((said.stdout.lines().count(), said.stderr.as_str()), (1, ""), "{said:?}");
        })
    })
}

fn wait_well(host: &Host) {
    eventually("well", || {
        let said = check(host);
        (said.code == 0).then(|| assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("well\n", "")))
    });
}

#[test]
fn an_agent_whose_nodes_run_is_well_and_none_is_not_reachable() {
    let host = Host::new();
    assert_eq!(check(&host).code, 3, "no agent");
    let _agent = host.start();
    wait_well(&host);
    host.ask("r", set(cluster(&[("w1", ""), ("w2", "")])));
    host.wait_all_running(2);
    wait_well(&host);
    assert_eq!(host.json(&["status", "--check", "--json"]), json!({"well": true, "reasons": []}));
    assert_eq!(host.run(&["nodes", "stop", "w2"]).code, 0);
    wait_well(&host);
}

#[test]
fn a_node_that_crashed_was_given_up_or_is_not_ready_in_time_is_named() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "300ms").set("ZCA_BACKOFF_MIN", "1h").set("ZCA_BACKOFF_MAX", "1h");
    let _agent = host.start();
    host.ask("late", set(cluster(&[("w1", "env = SIM_NOT_READY=1")])));
    wait_degraded(&host, "w1 is PENDING for longer than ready_timeout (has not checked in)");
    host.ask("again", set(cluster(&[("w2", "")])));
    host.wait_all_running(1);
    wait_well(&host);
    // The first is started again at once, the second has its backoff.
    for _ in 0..2 {
        let report = host.wait_state("w2", zeek_cluster_agent::api::status::NodeState::Running);
        kill(report.pid.unwrap(), Signal::KILL, Some(&host.mark));
        eventually("its end", || (host.pids().get("w2") != report.pid.as_ref()).then_some(()));
    }
    wait_degraded(&host, "w2 is CRASHED (");
    let said = host.run(&["status", "--check", "--json"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.json()["well"], json!(false));
    assert!(said.json()["reasons"][0].as_str().unwrap().starts_with("w2 is CRASHED ("), "{said:?}");
}

#[test]
fn a_node_that_was_given_up_is_named() {
    let mut host = Host::new();
    host.set("ZCA_BACKOFF_MIN", "1ms").set("ZCA_BACKOFF_MAX", "1ms").set("ZCA_MAX_RESTARTS", "2");
    let _agent = host.start();
    host.ask("r", set(cluster(&[("w1", "env = SIM_EXIT=3")])));
    wait_degraded(&host, "w1 is FAILED (");
}

#[test]
fn a_node_that_keeps_crashing_is_degraded_also_while_it_runs() {
    let mut host = Host::new();
    host.set("ZCA_BACKOFF_MIN", "1ms").set("ZCA_BACKOFF_MAX", "1ms");
    let _agent = host.start();
    host.ask("r", set(cluster(&[("w1", "")])));
    for _ in 0..3 {
        let report = host.wait_state("w1", zeek_cluster_agent::api::status::NodeState::Running);
        kill(report.pid.unwrap(), Signal::KILL, Some(&host.mark));
        eventually("its end", || (host.pids().get("w1") != report.pid.as_ref()).then_some(()));
    }
    host.wait_all_running(1);
    wait_degraded(&host, "w1 is ending again and again");
}

#[test]
fn a_hold_and_an_archiver_that_fails_are_told() {
    let mut host = Host::new();
    let path = host.file("archiver.sh", "#!/bin/sh\nexit 1\n");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_ARCHIVE_COMMAND", &path).set("ZCA_ARCHIVE_INTERVAL", "50ms");
    let agent = host.start();
    wait_well(&host);
    let queue = host.state_dir().join("spool/log-queue");
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join("conn__1__.log"), "log").unwrap();
    wait_degraded(&host, "logs are not archived: exit code 1");
    fs::remove_file(queue.join("conn__1__.log")).unwrap();
    agent.kill();
    // A journal that went away leaves doubt about what is wanted.
    fs::remove_dir_all(host.state_dir().join("journal")).unwrap();
    let _agent = host.start();
    wait_degraded(&host, "on hold: ");
    host.ask("standby", Request::AgentStandby {});
    eventually("no hold", || (!check(&host).stdout.contains("on hold")).then_some(()));
}

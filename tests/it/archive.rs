//! Rotated logs are archived by a job of the agent: never two of it, never for ever, and told when it fails.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Notification;
use zeek_cluster_agent::control::client::{Client, within_ms};
use zeek_cluster_agent::control::message::Publication;

use crate::support::{Agent, Host, eventually, is_alive, kill};

/// A host whose agents archive with this script, often. What the script leaves is in its own directory.
fn host(script: &str) -> Host {
    let mut host = Host::new();
    let path = host.file("archiver.sh", &format!("#!/bin/sh\ncd \"${{0%/*}}\" || exit 99\n{script}"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_ARCHIVE_COMMAND", &path).set("ZCA_ARCHIVE_INTERVAL", "50ms");
    host
}

/// Puts a log where loggers put those that they rotated.
fn rotate(host: &Host, name: &str) {
    let queue = host.state_dir().join("spool/log-queue");
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join(name), "log").unwrap();
}

fn archive(host: &Host) -> Value {
    host.json(&["status", "--json"])["archive"].take()
}

/// The last run, once it is in this state.
fn wait_run(host: &Host, state: &str) -> Value {
    eventually(&format!("a run that is {state}"), || {
        let last = archive(host)["last"].take();
        (last["state"] == state).then_some(last)
    })
}

fn stop(agent: Agent) {
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
}

fn pid(host: &Host, file: &str) -> u32 {
    eventually(file, || fs::read_to_string(host.dir.path().join(file)).ok()?.trim().parse().ok())
}

fn told(client: &mut Client) -> String {
    let deadline = within_ms(30_000);
    loop {
        if let Publication::Notification(Notification::NotifyError { msg, node, .. }) =
            client.next_publication(deadline).unwrap().1
        {
            assert_eq!(node, "");
            return msg;
        }
    }
}

#[test]
fn rotated_logs_are_archived_as_zeeks_agent_does_and_status_shows_it() {
    let host = host("echo \"$@\" > arguments; mv \"$2\"/* \"$3\"\n");
    let _agent = host.start();
    let before = archive(&host);
    assert_eq!(
        (&before["last"], &before["interval_ms"]),
        (&Value::Null, &json!(50)),
        "nothing to archive, nothing runs"
    );
    let shown = host.run(&["status"]);
    assert!(shown.stdout.contains("no log was rotated yet; next at "), "{shown:?}");
    rotate(&host, "conn__1__.log");
    let last = wait_run(&host, "ok");
    assert_eq!((&last["exit_code"], &last["result"]), (&json!(0), &json!("exit code 0")));
    assert!(last["duration_ms"].is_u64() && last["last_words"].is_null(), "{last}");
    let state = host.state_dir();
    assert_eq!(fs::read_to_string(state.join("logs/conn__1__.log")).unwrap(), "log");
    let arguments = format!("-1 {0}/spool/log-queue {0}/logs\n", state.display());
    assert_eq!(fs::read_to_string(host.dir.path().join("arguments")).unwrap(), arguments);
    let shown = host.run(&["status"]);
    assert!(shown.stdout.contains("exit code 0, took "), "{shown:?}");
}

#[test]
fn a_failure_is_told_once_until_it_ends_otherwise() {
    let host = host("echo x >> runs; echo one >&2; echo \"no space\u{1b}[2J\" >&2; exit $(cat code)\n");
    host.file("code", "1");
    let agent = host.start();
    let mut client = host.client();
    client.subscribe(&[""], within_ms(10_000)).unwrap();
    rotate(&host, "a.log");
    let first = told(&mut client);
    assert!(first.contains("archiving logs failed (exit code 1): no space [2J; they wait in "), "{first}");
    let runs = || fs::read_to_string(host.dir.path().join("runs")).unwrap_or_default().lines().count();
    let seen = runs();
    eventually("two more runs", || (runs() >= seen + 2).then_some(()));
    host.file("code", "2");
    // The next that is told is this one: those in between were not.
    assert!(told(&mut client).contains("(exit code 2)"));
    let last = wait_run(&host, "failed");
    assert_eq!((&last["exit_code"], &last["last_words"]), (&json!(2), &json!("no space [2J")));
    // While the next run lasts, it tells of that one.
    eventually("status to tell of the last run", || {
        let shown = host.run(&["status"]).stdout;
        (shown.contains("exit code 2") && shown.contains(": no space")).then_some(())
    });
    // Nor is it news to the next agent.
    stop(agent);
    let _agent = host.start();
    let seen = runs();
    eventually("two runs of the next agent", || (runs() >= seen + 2).then_some(()));
    host.file("code", "0");
    eventually("success", || host.read_log().contains("logs are archived again: exit code 0").then_some(()));
    let told = host.read_log().matches("ERROR archiving logs failed").count();
    assert_eq!(told, 2, "{}", host.read_log());
}

#[test]
fn a_command_that_is_missing_is_told_with_what_to_do() {
    let mut host = host("");
    host.set("ZCA_ARCHIVE_COMMAND", "no-such-archiver");
    rotate(&host, "a.log");
    let _agent = host.start();
    let last = wait_run(&host, "failed");
    let result = last["result"].as_str().unwrap();
    assert!(result.starts_with("not started: cannot find archive_command no-such-archiver in PATH"), "{result}");
}

#[test]
fn never_two_at_once_though_agents_are_killed() {
    let host = host("mkdir busy || echo two >> two\necho x >> runs; sleep 0.3; rmdir busy\n");
    rotate(&host, "a.log");
    let runs = || fs::read_to_string(host.dir.path().join("runs")).unwrap_or_default().lines().count();
    for round in 1..=6 {
        let agent = host.start();
        eventually("a run", || (runs() >= round && host.dir.path().join("busy").exists()).then_some(()));
        agent.kill();
    }
    let _agent = host.start();
    let seen = runs();
    eventually("more runs", || (runs() >= seen + 2).then_some(()));
    assert!(!host.dir.path().join("two").exists(), "two runs at once");
}

#[test]
fn what_a_killed_agent_left_is_waited_for_and_ended_at_its_deadline() {
    let mut host = host("echo $$ > first; exec sleep 1000\n");
    host.set("ZCA_ARCHIVE_TIMEOUT", "1h");
    rotate(&host, "a.log");
    let agent = host.start();
    let first = pid(&host, "first");
    agent.kill();
    assert!(is_alive(first));
    let agent = host.start();
    assert_eq!(wait_run(&host, "running")["result"], "runs");
    assert!(host.run(&["status"]).stdout.contains("runs since "));
    assert_eq!(pid(&host, "first"), first, "and none was started beside it");
    agent.kill();
    host.set("ZCA_ARCHIVE_TIMEOUT", "1ms").set("ZCA_ARCHIVE_INTERVAL", "1h");
    let _agent = host.start();
    let last = wait_run(&host, "failed");
    assert_eq!(last["result"], "ended after 1 ms (archive_timeout)");
    assert!(!is_alive(first));
}

#[test]
fn a_run_that_ends_while_no_agent_watches_does_not_bring_the_next_forward() {
    let mut host = host("echo $$ > first; exec sleep 1000\n");
    rotate(&host, "a.log");
    let agent = host.start();
    let first = pid(&host, "first");
    agent.kill();
    eventually("its end", || {
        // While it becomes `sleep` it shows no environment, by which it is known.
        kill(first, Signal::KILL, Some(&host.mark));
        (!is_alive(first)).then_some(())
    });
    host.set("ZCA_ARCHIVE_INTERVAL", "1h");
    let _agent = host.start();
    let last = wait_run(&host, "interrupted");
    assert_eq!((&last["result"], &last["duration_ms"]), (&json!("ended while no agent watched"), &Value::Null));
    assert!(archive(&host)["next_at"].is_string());
}

#[test]
fn a_run_that_floods_dies_or_leaves_something_behind_is_told_as_it_was() {
    let leaves = "setsid sh -c 'echo $$ > left; yes >&2' &\nuntil [ -s left ]; do sleep 0.01; done\n";
    let leaves_deaf = "(trap '' TERM; echo why >&2; exec setsid sh -c 'echo $$ > left; exec sleep 1000') &\n\
                       until [ -s left ]; do sleep 0.01; done; exit 7\n";
    for (timeout, script, state, result, words) in [
        ("500ms", "exec yes complaint >&2\n", "failed", "ended after 500 ms (archive_timeout)", "complaint"),
        ("1m", "echo why >&2; kill -SEGV $$\n", "failed", "signal 11", "why"),
        ("1m", leaves, "ok", "exit code 0", "y"),
        ("1m", leaves_deaf, "failed", "exit code 7", "why"),
    ] {
        let mut host = host(script);
        host.set("ZCA_ARCHIVE_TIMEOUT", timeout).set("ZCA_ARCHIVE_INTERVAL", "1h");
        let yesterday = json!({"started_at": "2026-01-01T00:00:00Z", "state": "interrupted", "result": "not seen"});
        fs::create_dir_all(host.state_dir().join("archive")).unwrap();
        fs::write(host.state_dir().join("archive/last.json"), yesterday.to_string()).unwrap();
        rotate(&host, "a.log");
        let _agent = host.start();
        let last = wait_run(&host, state);
        assert_eq!(last["result"], result, "{script}");
        // What is killed while it writes may not have got to the end of its line.
        let said = last["last_words"].as_str().unwrap();
        assert!(!said.is_empty() && words.starts_with(said), "{said:?}: {script}");
        let left = host.dir.path().join("left");
        assert!(!left.exists() || !is_alive(pid(&host, "left")), "{script} left something that lives on");
    }
}

/// Nobody reads what it says then.
#[test]
fn a_run_that_complains_after_its_agent_was_killed_goes_on() {
    let host = host(
        "echo $$ > first\nn=0; until [ -e go ] || [ $n = 500 ]; do n=$((n+1)); sleep 0.02; done\n\
         echo one >&2; /bin/echo two >&2; mv \"$2\"/* .; touch archived\n",
    );
    rotate(&host, "a.log");
    let agent = host.start();
    let first = pid(&host, "first");
    agent.kill();
    host.file("go", "");
    eventually("its end", || (!is_alive(first)).then_some(()));
    assert!(host.dir.path().join("archived").exists(), "it ended before its work was done");
}

#[test]
fn all_of_a_run_ends_at_its_deadline_and_with_the_agent() {
    let mut host =
        host("trap '' TERM\n(trap '' TERM; sh -c 'echo $$ > child; exec sleep 1000')&\necho $$ > parent\nwait\n");
    host.set("ZCA_ARCHIVE_TIMEOUT", "500ms").set("ZCA_ARCHIVE_INTERVAL", "1h");
    rotate(&host, "a.log");
    // An hour from now, but for what is remembered.
    let yesterday = json!({"started_at": "2026-01-01T00:00:00Z", "state": "ok", "result": "exit code 0"});
    fs::create_dir_all(host.state_dir().join("archive")).unwrap();
    fs::write(host.state_dir().join("archive/last.json"), yesterday.to_string()).unwrap();
    let agent = host.start();
    let last = wait_run(&host, "failed");
    assert_eq!(last["result"], "ended after 500 ms (archive_timeout)");
    for one in ["parent", "child"] {
        assert!(!is_alive(pid(&host, one)), "{one} lives on");
        fs::remove_file(host.dir.path().join(one)).unwrap();
    }
    stop(agent);

    host.set("ZCA_ARCHIVE_TIMEOUT", "1h").set("ZCA_ARCHIVE_INTERVAL", "50ms");
    let agent = host.start();
    let (parent, child) = (pid(&host, "parent"), pid(&host, "child"));
    stop(agent);
    assert!(!is_alive(parent) && !is_alive(child));
    host.set("ZCA_ARCHIVE_INTERVAL", "1h");
    let _agent = host.start();
    assert_eq!(wait_run(&host, "interrupted")["result"], "stopped with the agent");
}

#[test]
fn a_root_agent_archives_as_the_nodes_user_and_without_roots_rights() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: node_user needs root");
        return;
    }
    let uid = zeek_cluster_agent::settings::accounts::user("nobody").unwrap().expect("every host has nobody").uid;
    let mut host = host("cat /proc/self/status > \"$3/status\"; umask > \"$3/umask\"; rm \"$2\"/*\n");
    host.set("ZCA_NODE_USER", "nobody");
    fs::set_permissions(host.dir.path(), Permissions::from_mode(0o711)).unwrap();
    let _agent = host.start();
    rotate(&host, "a.log");
    wait_run(&host, "ok");
    let logs = host.state_dir().join("logs");
    let metadata = fs::metadata(&logs).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (uid, 0o750));
    let status = fs::read_to_string(logs.join("status")).unwrap();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!(line("Uid:"), [uid.to_string().as_str(); 4].join("\t"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(fs::read_to_string(logs.join("umask")).unwrap().trim(), "0022", "the agent's own mask is its own");
    let own = fs::metadata(host.state_dir().join("archive")).unwrap();
    assert_eq!((own.uid(), own.mode() & 0o777), (0, 0o700));
}

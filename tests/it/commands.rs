//! The commands around the agent, with a real one behind them or none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, Said, cluster, copy_dir, errors, eventually, is_alive, kill, set};

const TWO: &[(&str, &str)] = &[("logger:logger", ""), ("w1", "")];

fn by_name(nodes: &Value) -> BTreeMap<String, Value> {
    nodes.as_array().unwrap().iter().map(|node| (node["node"].as_str().unwrap().to_owned(), node.clone())).collect()
}

#[test]
fn nodes_are_listed_stopped_started_and_restarted() {
    let host = Host::new();
    let agent = host.start();
    let said = host.run(&["nodes", "list"]);
    assert!(said.code == 0 && said.stderr.contains("no configuration runs"), "{said:?}");
    assert_eq!(host.json(&["nodes", "list", "--json"]), json!([]));
    let file = host.cluster_file("a.ini", TWO);
    assert_eq!(host.run(&["request", "set-configuration", &file]).code, 0);
    let list = || by_name(&host.json(&["nodes", "list", "--json"]));
    let before = list();
    for (node, role) in [("logger", "logger"), ("w1", "worker")] {
        let one = &before[node];
        assert!(one["state"] == "RUNNING" && one["role"].as_str().unwrap().eq_ignore_ascii_case(role), "{one}");
        assert!(one["pid"].is_u64() && one["want"] == "up" && one["deaths"] == 0, "{one}");
    }
    let text = host.run(&["nodes", "list"]);
    let mut lines = text.stdout.lines();
    assert!(lines.next().unwrap().starts_with("NODE"), "{text:?}");
    assert!(lines.next().unwrap().starts_with("logger"), "{text:?}");

    let stopped = host.run(&["--json", "nodes", "stop", "w1"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(stopped.json()["results"][0]["node"], "w1");
    assert_eq!((&list()["w1"]["state"], &list()["w1"]["want"]), (&json!("STOPPED"), &json!("stopped")));
    assert_eq!(host.node_processes("w1"), [0_u32; 0]);
    // It stays stopped through a crash, the same configuration, and a restart of all.
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.run(&["request", "set-configuration", &file]).code, 0);
    let all = host.json(&["--json", "request", "restart"]);
    assert_eq!(all["results"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(list()["w1"]["state"], "STOPPED");
    assert_ne!(list()["logger"]["pid"], before["logger"]["pid"]);

    assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0);
    host.wait_state("w1", NodeState::Running);
    let again = list()["w1"]["pid"].clone();
    assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0, "nothing to do");
    assert_eq!(list()["w1"]["pid"], again);
    assert_eq!(host.run(&["nodes", "restart", "w1", "logger"]).code, 0);
    assert_ne!(list()["w1"]["pid"], again);
    // Each is a journaled request of the operator's own dialect.
    let rows = host.run(&["journal", "dump", "--event", "stop_nodes"]).lines();
    assert_eq!((rows.len(), &rows[0]["dialect"]), (1, &json!("Operator")), "{rows:?}");
    // A stop ends with a new configuration.
    assert_eq!(host.run(&["nodes", "stop", "w1"]).code, 0);
    let other = host.cluster_file("b.ini", &[("logger:logger", ""), ("w1", ""), ("w2", "")]);
    assert_eq!(host.run(&["request", "set-configuration", &other]).code, 0);
    host.wait_all_running(3);
    assert_eq!(host.events("node_exited").iter().filter(|(_, _, detail)| detail["asked"] == false).count(), 0);
}

#[test]
fn logs_are_shown_and_followed_by_stream() {
    let mut host = Host::new();
    let script = host.dir.path().join("talker");
    fs::write(&script, "#!/bin/sh\necho out $$\necho err $$ >&2\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    host.run_program(&script).set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "0.1");
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let pid = host.pids()["w1"];
    let logs = |more: &[&str]| {
        let args: Vec<&str> = ["nodes", "logs", "w1"].iter().chain(more).copied().collect();
        let said = host.run(&args);
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout
    };
    eventually("its output", || (logs(&[]) == format!("out {pid}\n")).then_some(()));
    eventually("its errors", || (logs(&["--stderr"]) == format!("err {pid}\n")).then_some(()));
    let mut following = host.begin(&["nodes", "logs", "w1", "-f"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("out {pid}"));
    assert_eq!(host.run(&["nodes", "restart", "w1"]).code, 0);
    let again = host.pids()["w1"];
    assert_eq!(lines.next().unwrap(), format!("out {again}"), "what the next process writes");
    assert_eq!(logs(&["-n", "1"]), format!("out {again}\n"));
    agent.kill();
    assert!(lines.next().is_none());
    assert_eq!(following.wait().unwrap().code(), Some(3), "the agent went away");
    assert_eq!(logs(&["-n", "1"]), format!("out {again}\n"), "without an agent, from the directory");
    let said = host.run(&["nodes", "logs", "nobody"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert_eq!(host.run(&["nodes", "logs", "../w1"]).code, 2);
}

#[test]
fn status_tells_how_the_agent_is() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let report = host.json(&["status", "--json"]);
    assert_eq!((&report["name"], &report["serving"], &report["hold"]), (&json!("a1"), &json!(true), &Value::Null));
    assert_eq!(report["pid"], json!(agent.pid()));
    assert_eq!(report["state_dir"], json!(host.state_dir().display().to_string()));
    assert_eq!((report["nodes"].as_array().unwrap().len(), &report["unfinished"]), (2, &json!(0)));
    assert!(report["configuration"].is_string() && report["journal"]["last"].as_u64().unwrap() > 5, "{report}");
    assert!(report["journal"]["bytes_on_disk"].as_u64().unwrap() > 0, "{report}");
    let text = host.run(&["status"]).stdout;
    for wanted in ["a1: serving", "2 RUNNING", "journal", "w1"] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
    assert!(host.run(&["status", "--color", "always"]).stdout.contains('\u{1b}'));
    kill(host.pids()["w1"], Signal::KILL, Some(&host.mark));
    eventually("the death to be counted", || (host.nodes()["w1"].deaths == 1).then_some(()));
}

#[test]
fn shutdown_leaves_nodes_and_with_nodes_stops_them_until_the_next_run() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", set(cluster(TWO))).success());
    let pids = host.pids();
    let said = host.run(&["shutdown"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(agent.wait().code(), Some(0));
    assert!(pids.values().all(|pid| is_alive(*pid)));
    let said = host.run(&["shutdown"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains(&host.socket().display().to_string()), "{said:?}");

    let agent = host.start();
    assert_eq!(host.pids(), pids);
    let said = host.run(&["--json", "shutdown", "--nodes", "--reqid", "down"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()["event"], "shutdown_response");
    assert_eq!(agent.wait().code(), Some(0));
    let gone = |host: &Host| ["logger", "w1"].iter().all(|node| host.node_processes(node).is_empty());
    assert!(gone(&host));
    // Shims end once their reports are acknowledged, and that outlives nobody.
    eventually("the shims to end", || host.shims().is_empty().then_some(()));
    assert!(pids.values().all(|pid| !is_alive(*pid)));

    // The desired state stays: the next run starts them.
    let agent = host.start();
    host.wait_all_running(2);
    let pids = host.pids();
    // Without an agent.
    agent.kill();
    let said = host.run(&["--json", "shutdown", "--nodes", "--reqid", "offline"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!((&said.json()["reqid"], &said.json()["results"][0]["success"]), (&json!("offline"), &json!(true)));
    assert!(gone(&host));
    // Shims end once their reports are acknowledged, and that outlives nobody.
    eventually("the shims to end", || host.shims().is_empty().then_some(()));
    assert!(pids.values().all(|pid| !is_alive(*pid)));
    let rows = host.run(&["journal", "dump", "--event", "shutdown"]).lines();
    let sources: Vec<&str> = rows.iter().map(|row| row["source"]["transport"].as_str().unwrap()).collect();
    assert_eq!(sources, ["control", "control", "offline"], "{rows:?}");
    assert!(rows.iter().all(|row| row["state"] == "completed" && row["success"] == true), "{rows:?}");
    // Nothing left to stop.
    let said = host.run(&["shutdown", "--nodes"]);
    assert_eq!(said.code, 0, "{said:?}");

    let _agent = host.start();
    host.wait_all_running(2);
    assert_eq!(host.events("node_exited").iter().filter(|(_, _, detail)| detail["asked"] == false).count(), 0);
    host.verify();
}

#[test]
fn shutdown_offline_needs_a_state_directory_and_keeps_stopped_nodes_stopped() {
    let host = Host::new();
    let said = host.run(&["shutdown", "--nodes"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(!host.state_dir().exists(), "nothing is made by it");
    let agent = host.start();
    assert!(host.ask("r", set(cluster(TWO))).success());
    assert_eq!(host.run(&["nodes", "stop", "w1"]).code, 0);
    agent.kill();
    assert_eq!(host.run(&["shutdown", "--nodes"]).code, 0);
    let _agent = host.start();
    host.wait_state("logger", NodeState::Running);
    assert_eq!(host.nodes()["w1"].state, NodeState::Stopped);
}

#[test]
fn a_node_is_told_to_be_ready() {
    let host = Host::new();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "env = SIM_NOT_READY=1"), ("w2", "env = SIM_NOT_READY=1")]);
    let deploy = host.begin(&["request", "set-configuration", &file]);
    for node in ["w1", "w2"] {
        host.wait_state(node, NodeState::Pending);
        eventually("its process", || host.pids().get(node).copied());
        assert_eq!(host.run(&["notify", "--ready", "--node", node]).code, 0);
        host.wait_state(node, NodeState::Running);
    }
    let said = Said::wait(deploy);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(host.run(&["notify", "--ready", "--node", "nobody"]).code, 1);
    assert_eq!(host.events("node_ready").len(), 2);
}

#[test]
fn settings_config_completions_and_man() {
    let host = Host::new();
    let shown = host.json(&["settings", "--json"]);
    let find = |key: &str| shown.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone();
    assert_eq!(find("state_dir")["value"], json!(host.state_dir().display().to_string()));
    assert_eq!(find("state_dir")["source"], "environment ZCA_STATE_DIR");
    assert!(host.run(&["settings"]).stdout.starts_with("KEY"));
    let good = host.cluster_file("good.ini", TWO);
    let said = host.run(&["config", "check", &good]);
    assert!(said.code == 0 && said.stdout.contains("valid, 1 instances, 2 nodes"), "{said:?}");
    let id = host.json(&["config", "check", &good, "--json"])["id"].clone();
    let as_json = host.run(&["config", "convert", &good, "--to", "json"]);
    assert_eq!((as_json.code, &as_json.json()["id"]), (0, &id));
    let path = host.file("good.json", &as_json.stdout);
    assert_eq!(host.json(&["config", "check", &path, "--json"])["id"], id, "the same configuration");
    let ini = host.run(&["config", "convert", &path, "--to", "ini"]);
    assert!(ini.code == 0 && ini.stdout.contains("[w1]"), "{ini:?}");
    let bad = host.file("bad.ini", "[instances]\na1\n[w1]\ninstance = nowhere\nrole = worker\n[w2]\nrole = chief\n");
    let said = host.run(&["config", "check", &bad]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("bad.ini:7") && said.stderr.contains("chief"), "{said:?}");
    // From a file or from standard input: the same request.
    let mut child = host
        .command(&["config", "check", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(fs::read_to_string(&good).unwrap().as_bytes()).unwrap();
    assert_eq!(Said::wait(child).json()["id"], id);
    for shell in ["bash", "zsh", "fish"] {
        let said = host.run(&["completions", shell]);
        assert!(said.code == 0 && said.stdout.contains("set-configuration"), "{shell}: {said:?}");
    }
    let man = host.run(&["man"]);
    assert!(man.code == 0 && man.stdout.contains(".TH zeek-cluster-agent 1"), "{man:?}");
    assert_eq!(host.run(&["frobnicate"]).code, 2);
    assert_eq!(host.run(&["--version"]).code, 0);
    assert!(!host.state_dir().exists(), "none of these makes a state directory");
}

/// A journal with something of each kind in it.
fn history(host: &Host) {
    assert!(host.ask("set", set(cluster(TWO))).success());
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "read"]).code, 0);
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "read"]).code, 0);
    assert_eq!(host.run(&["request", "welcome", "--reqid", "read"]).code, 5);
    assert_eq!(host.run(&["request", "get-id-value", "x", "--reqid", "dispatch"]).code, 1);
    let elsewhere = host.file("else.ini", "[instances]\nb2 = 10.0.0.2\n[w1]\ninstance = b2\nrole = worker\n");
    assert_eq!(host.run(&["request", "set-configuration", &elsewhere, "--reqid", "elsewhere"]).code, 1);
    let pid = host.pids()["w1"];
    kill(pid, Signal::ABORT, Some(&host.mark));
    eventually("another w1", || host.pids().get("w1").copied().filter(|again| *again != pid));
    host.wait_all_running(2);
    assert_eq!(host.run(&["nodes", "stop", "w1", "--reqid", "stop"]).code, 0);
}

fn seqs(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["seq"].as_u64().unwrap()).collect()
}

#[test]
fn a_dump_is_filtered_and_printed_in_each_form() {
    let host = Host::new();
    let _agent = host.start();
    history(&host);
    let dump = |more: &[&str]| {
        let args: Vec<&str> = ["journal", "dump"].iter().chain(more).copied().collect();
        host.run(&args).lines()
    };
    let reqids = |more: &[&str]| -> Vec<String> {
        dump(more).iter().map(|row| row["reqid"].as_str().unwrap_or("-").to_owned()).collect()
    };
    let all = dump(&[]);
    assert_eq!(reqids(&[]), ["set", "read", "read", "dispatch", "elsewhere", "stop"]);
    assert!(seqs(&all).is_sorted());
    // The contract's fields.
    for field in [
        "seq",
        "reqid",
        "event",
        "dialect",
        "source",
        "received_at",
        "state",
        "attempts",
        "duplicates",
        "digest",
        "request",
        "completed_at",
        "duration_ms",
        "success",
        "response",
    ] {
        assert!(all[1].get(field).is_some(), "{field}: {}", all[1]);
    }
    assert_eq!((&all[1]["duplicates"], &all[1]["dialect"]), (&json!(1), &json!("Management")));
    assert!(all[1]["received_at"].as_str().unwrap().ends_with('Z'));
    assert!(all[1]["duration_ms"].as_f64().unwrap() >= 0.0);

    assert_eq!(reqids(&["--reqid", "read"]), ["read", "read"]);
    assert_eq!(reqids(&["--event", "get_nodes"]), ["read"]);
    assert_eq!(reqids(&["--event", "get_nodes_request"]), ["read"]);
    assert_eq!(reqids(&["--event", "welcome"]), reqids(&["--event", "agent_welcome_request"]));
    assert_eq!(reqids(&["--event", "welcome"]), ["read"], "the conflict");
    assert_eq!(reqids(&["--state", "conflict"]), ["read"]);
    assert_eq!(reqids(&["--state", "rejected"]), ["elsewhere"]);
    assert_eq!(reqids(&["--state", "completed"]), ["set", "read", "dispatch", "stop"]);
    assert_eq!(reqids(&["--failed", "--kind", "request"]), ["read", "dispatch", "elsewhere"]);
    assert_eq!(reqids(&["-n", "2"]), ["elsewhere", "stop"]);
    assert_eq!(reqids(&["-n", "2", "--reverse"]), ["stop", "elsewhere"]);
    assert_eq!(reqids(&["--reverse"]), ["stop", "elsewhere", "dispatch", "read", "read", "set"]);
    let uid = format!("uid={}", rustix::process::getuid().as_raw());
    assert_eq!(reqids(&["--source", &uid]).len(), 6);
    assert_eq!(reqids(&["--source", "broker"]).len(), 0);
    let (from, to) = (all[1]["seq"].to_string(), all[3]["seq"].to_string());
    assert_eq!(reqids(&["--from-seq", &from, "--to-seq", &to]), ["read", "read", "dispatch"]);
    let at = |row: usize| all[row]["received_at"].as_str().unwrap();
    assert_eq!(reqids(&["--since", at(3)]), ["dispatch", "elsewhere", "stop"]);
    assert_eq!(reqids(&["--until", at(1)]), ["set"]);
    assert_eq!(reqids(&["--since", "1h"]).len(), 6);
    assert_eq!(reqids(&["--since", "yesterday"]).len(), 6);
    assert_eq!(reqids(&["--until", "1h"]).len(), 0);
    assert!(reqids(&["--node", "w1"]).contains(&"stop".to_owned()));

    let nodes = dump(&["--kind", "node", "--node", "w1"]);
    let events: Vec<&str> = nodes.iter().map(|row| row["event"].as_str().unwrap()).collect();
    for wanted in ["node_started", "node_ready", "node_exited"] {
        assert!(events.contains(&wanted), "{events:?}");
    }
    assert!(nodes.iter().all(|row| row["node"] == "w1"), "{nodes:?}");
    let died = dump(&["--kind", "node", "--failed"]);
    assert_eq!(died.len(), 1, "the exit nobody asked for: {died:?}");
    let everything = dump(&["--kind", "all"]);
    assert!(everything.len() > all.len() + nodes.len());
    assert!(everything.iter().any(|row| row["event"] == "agent_started"));

    a_dump_has_each_form(&host, everything.len());
}

/// Table, CSV with this many rows of any kind, and nothing for values that are none.
fn a_dump_has_each_form(host: &Host, rows: usize) {
    let table = host.run(&["journal", "dump", "--format", "table"]).stdout;
    assert!(table.lines().count() == 7 && table.starts_with("SEQ") || table.trim_start().starts_with("SEQ"), "{table}");
    let csv_text = host.run(&["journal", "dump", "--format", "csv", "--kind", "all"]).stdout;
    let mut reader = csv::Reader::from_reader(csv_text.as_bytes());
    assert_eq!(reader.headers().unwrap().get(0), Some("seq"));
    assert_eq!(reader.records().map(Result::unwrap).count(), rows);
    for bad in [&["--since", "soon"][..], &["--state", "odd"], &["--kind", "x"], &["--format", "xml"], &["-n", "x"]] {
        let args: Vec<&str> = ["journal", "dump"].iter().chain(bad).copied().collect();
        assert_eq!(host.run(&args).code, 2, "{bad:?}");
    }
    // A reader that has seen enough is no failure.
    let mut child = host.begin(&["journal", "dump", "--kind", "all"]);
    drop(child.stdout.take());
    let said = Said::wait(child);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

#[test]
fn the_journal_reads_the_same_live_offline_and_from_a_copy() {
    let host = Host::new();
    let agent = host.start();
    history(&host);
    let dump = ["journal", "dump", "--kind", "all"];
    let show = ["journal", "show", "read"];
    let verify = |more: &[&str]| {
        let args: Vec<&str> = ["--json", "journal", "verify"].iter().chain(more).copied().collect();
        host.json(&args)
    };
    let (live, shown) = (host.run(&dump), host.run(&show));
    assert_eq!((live.code, shown.code), (0, 0), "{shown:?}");
    for wanted in ["get_nodes_request", "duplicates", "completed", "conflict"] {
        assert!(shown.stdout.contains(wanted), "{shown:?}");
    }
    assert_eq!(verify(&[])["problems"], json!([]));
    assert_eq!(host.run(&["journal", "show", "nobody"]).code, 1);
    agent.kill();

    // Offline: the same, less what an agent's end adds, which kill -9 does not.
    assert_eq!(host.run(&dump), live);
    assert_eq!(host.run(&show), shown);
    let offline = verify(&[]);
    assert_eq!(offline["problems"], json!([]));
    assert_eq!(offline["entries"].as_u64(), offline["last"].as_u64());
    assert_eq!(host.run(&dump), live, "reading changed nothing");
    // From a copy, with no agent and with one that runs.
    let copy = host.dir.path().join("copy");
    copy_dir(&host.state_dir(), &copy);
    let from = copy.display().to_string();
    for running in [false, true] {
        let agent = running.then(|| host.start());
        assert_eq!(host.run(&["journal", "dump", "--kind", "all", "--dir", &from]).stdout, live.stdout);
        assert_eq!(host.run(&["journal", "show", "read", "--dir", &from]).stdout, shown.stdout);
        assert_eq!(verify(&["--dir", &from]), offline);
        drop(agent);
    }
    assert_eq!(host.run(&["journal", "verify", "--dir", "/nonexistent"]).code, 1);
}

#[test]
fn verify_finds_what_was_removed() {
    let host = Host::new();
    let agent = host.start();
    history(&host);
    agent.kill();
    let mut key = vec![b'L'];
    key.extend_from_slice(&3_u64.to_be_bytes());
    {
        let db = sled::open(host.state_dir().join("journal")).unwrap();
        assert!(db.remove(&key).unwrap().is_some());
        db.flush().unwrap();
    }
    let said = host.run(&["journal", "verify"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(format!("{}{}", said.stdout, said.stderr).contains('3'), "{said:?}");
}

#[test]
fn without_an_agent_commands_say_what_they_tried() {
    let host = Host::new();
    for args in [
        &["status"][..],
        &["nodes", "list"],
        &["nodes", "stop", "w1"],
        &["request", "get-nodes"],
        &["journal", "dump"],
        &["notify", "--ready", "--node", "w1"],
        &["shutdown"],
    ] {
        let said = host.run(args);
        assert_eq!(said.code, 3, "{args:?}: {said:?}");
        assert!(said.stderr.contains(&host.socket().display().to_string()), "{args:?}: {said:?}");
        assert_eq!(said.stdout, "", "{args:?}");
    }
    assert!(!host.state_dir().exists());
}

#[test]
fn the_demo_runs_to_its_end_and_leaves_nothing() {
    let host = Host::new();
    let scratch = host.dir.path().join("tmp");
    fs::create_dir(&scratch).unwrap();
    let mut command = host.command(&["demo"]);
    command.env("TMPDIR", &scratch).env_remove("ZEEK_AGENT_NAME");
    let said = Said::of(command);
    assert_eq!(said.code, 0, "{said:?}");
    for wanted in ["killed with SIGKILL", "the same processes as before", "equal, byte for byte", "exit code 5"] {
        assert!(said.stdout.contains(wanted), "{wanted}: {}", said.stdout);
    }
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "something is left in its directory");
    assert_eq!(host.processes(&format!("TMPDIR={}", scratch.display())), [0_u32; 0], "processes are left");
    assert!(!host.state_dir().exists(), "it works in a directory of its own");
}

#[test]
fn requests_through_standard_input_are_the_same_request() {
    let host = Host::new();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", TWO);
    let first = host.run(&["--json", "request", "set-configuration", &file, "--reqid", "x"]);
    assert_eq!(first.code, 0, "{first:?}");
    let mut child = host
        .command(&["--json", "request", "set-configuration", "-", "--reqid", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(fs::read_to_string(&file).unwrap().as_bytes()).unwrap();
    let again = Said::wait(child);
    assert!(again.is_stored_answer(&first), "{again:?}");
    let answer = host.ask("x", set(cluster(TWO)));
    assert!(answer.success(), "{}", errors(&answer));
}

//! The order of system calls, as strace sees it: fdatasync on the journal returns before the first byte of a response
//! leaves, over whatever transport, before a node is asked anything, and before the first shim is spawned. And no signal
//! ever goes to a process that a forged file names.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;

use crate::peers::Peers;
use crate::support::{Agent, Host, cluster, errors, eventually, is_alive, set};

/// Starts an agent under strace; the trace has one line per call, with the process, in order.
fn start_traced(host: &Host, calls: &str) -> (Agent, std::path::PathBuf) {
    let trace = host.dir.path().join("trace");
    let mut command = Command::new("strace");
    host.prepare(&mut command);
    // -s: enough of each write to tell a response from the rest. -y: descriptors with their paths.
    command.args(["-f", "-y", "-qq", "-s", "4096", "-e", &format!("trace={calls}"), "-o"]).arg(&trace);
    command.arg(&host.binary).args(host.run_args());
    let child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
    eventually("the traced agent to serve", || {
        let mut client = zeek_cluster_agent::control::client::Client::connect(&host.socket(), "test").ok()?;
        client.status(zeek_cluster_agent::control::client::within_ms(5_000)).ok()?.serving.then_some(())
    });
    (Agent { child }, trace)
}

/// Ends the traced agent in order, and then strace, which would go on to follow the shims.
fn stop_traced(host: &Host, strace: Agent) {
    let pid = host.client().welcome().pid;
    crate::support::kill(pid, Signal::TERM, Some(&host.mark));
    eventually("the traced agent's end", || (!is_alive(pid)).then_some(()));
    strace.kill();
}

/// Line numbers of calls that have returned. An interrupted call counts where it resumes.
fn returned(lines: &[&str], matches: impl Fn(&str) -> bool) -> Vec<usize> {
    lines.iter().enumerate().filter(|(_, line)| matches(line)).map(|(number, _)| number).collect()
}

#[test]
fn a_response_leaves_after_the_journal_is_synced() {
    let host = Host::new();
    let (agent, trace) = start_traced(&host, "fdatasync,write,writev,sendto,sendmsg");
    let mut client = host.client();
    let dialect = zeek_cluster_agent::api::event::Dialect::Management;
    for number in 0..20 {
        let deadline = zeek_cluster_agent::control::client::within_ms(20_000);
        let reqid = format!("ordered-{number}");
        client.request(&reqid, Request::AgentWelcome {}, dialect, None, deadline).unwrap();
    }
    stop_traced(&host, agent);
    let sent: Vec<_> = (0..20).map(|number| ("agent_welcome_response", format!("ordered-{number}"))).collect();
    each_follows_a_sync(&trace, &sent);
}

/// What was sent, in this order, as an event's name and something that is in no earlier one of that name: before each,
/// and after the one before it, the journal was synced.
fn each_follows_a_sync(trace: &Path, sent: &[(&str, String)]) {
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let synced = returned(&lines, |line| {
        line.contains("fdatasync")
            && line.contains("= 0")
            && (line.contains("/journal/db>") || line.contains("resumed"))
    });
    let mut previous = 0;
    for (event, what) in sent {
        let left = lines
            .iter()
            .position(|line| line.contains("socket:") && line.contains(event) && line.contains(what))
            .unwrap_or_else(|| panic!("{event} {what} was never sent"));
        let before = synced.iter().rev().find(|sync| **sync < left).copied().unwrap_or(0);
        assert!(
            before > previous,
            "{event} {what} left in line {left} of the trace, and since line {previous} no fdatasync of the journal returned"
        );
        previous = left;
    }
}

#[test]
fn what_leaves_over_broker_leaves_after_the_journal_is_synced() {
    let host = crate::broker::host();
    let (agent, trace) = start_traced(&host, "fdatasync,write,writev,sendto,sendmsg");
    let mut peers = Peers::start();
    let port = crate::broker::port(&host);
    peers.controller("c", port);
    let nodes = crate::broker::config("c1", &["w1"], &json!({"SIM_NOT_READY": "1"}));
    peers.begin("c", "management", "deploy", "d", json!({"config": nodes}));
    eventually("the node to be started", || (host.pids().len() == 1).then_some(()));
    peers.controller("n", port);
    peers.ok("subscribe", json!({"peering": "n", "filter": ["zeek/management/node"]}));
    peers.ok("node_hello", json!({"peering": "n", "node": "w1"}));
    peers.answer("c", "management", "deploy", "d");
    let mut sent = vec![("deploy_response", "w1".to_owned())];
    for number in 0..5 {
        let (reqid, value) = (format!("ordered-{number}"), format!("value_{number}"));
        peers.begin("c", "management", "node_dispatch", &reqid, json!({"action": ["get_id_value", value]}));
        let asked = eventually("the question", || {
            let events = peers.ok("events", json!({"peering": "n"}));
            let is_it = |event: &&Value| event["args"][1] == json!(["get_id_value", value]);
            events.as_array().unwrap().iter().find(is_it).cloned()
        });
        let answer = json!({"peering": "n", "node": "w1", "reqid": asked["args"][0], "data": "1"});
        peers.ok("node_answer", answer);
        peers.answer("c", "management", "node_dispatch", &reqid);
        sent.extend([("node_dispatch_request", value), ("node_dispatch_response", reqid)]);
    }
    stop_traced(&host, agent);
    each_follows_a_sync(&trace, &sent);
}

#[test]
fn a_shim_is_spawned_after_its_intent_is_synced() {
    let host = Host::new();
    let (agent, trace) = start_traced(&host, "fdatasync,execve");
    let response = host.ask("r", set(cluster(&[("w1", ""), ("w2", "")])));
    assert!(response.success(), "{}", errors(&response));
    stop_traced(&host, agent);
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let first_spawn = lines.iter().position(|line| line.contains("execve") && line.contains("zca-shim")).unwrap();
    let synced = returned(&lines[..first_spawn], |line| line.contains("fdatasync") && line.contains("= 0"));
    // The run's start, the request, its plan, and the intent.
    assert!(synced.len() >= 4, "{} syncs before the first spawn:\n{}", synced.len(), lines[..=first_spawn].join("\n"));
}

/// Rewrites a shim's status file, checksum and all, so that it names another process.
fn forge_status(path: &std::path::Path, node: u32, victim: u32, boot_id: Option<&str>) {
    const HEADER: usize = 16;
    const CHECKSUM: usize = 32;
    let bytes = fs::read(path).unwrap();
    let body = &bytes[HEADER..bytes.len() - CHECKSUM];
    let mut status: serde_json::Value = rmp_serde::from_slice(body).unwrap();
    assert_eq!(status["process"]["pid"], node, "what is forged is what names the process: {status}");
    status["process"]["pid"] = victim.into();
    if let Some(boot_id) = boot_id {
        status["process"]["boot_id"] = boot_id.into();
    }
    let body = rmp_serde::to_vec_named(&status).unwrap();
    let mut forged = bytes[..HEADER - 4].to_vec();
    forged.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    forged.extend(body);
    let checksum = blake3::hash(&forged);
    forged.extend(checksum.as_bytes());
    fs::write(path, forged).unwrap();
}

/// The pid is a process of the test; its start time, and perhaps the boot, are not.
fn a_forged_status_leads_to_no_signal(boot_id: Option<&str>) {
    let host = Host::new();
    let victim = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let victim = Agent { child: victim };
    let agent = host.start();
    let response = host.ask("r", set(cluster(&[("w1", "")])));
    assert!(response.success(), "{}", errors(&response));
    let node = host.pids()["w1"];
    let shim = host.shim_of("w1");
    agent.kill();
    crate::support::kill(shim, Signal::KILL, Some(&format!("ZCA_STATE_DIR={}", host.state_dir().display())));
    eventually("shim and node to be gone", || (!is_alive(shim) && !is_alive(node)).then_some(()));
    forge_status(&host.state_dir().join("run/w1/status"), node, victim.pid(), boot_id);
    let (agent, trace) = start_traced(&host, "kill,tkill,tgkill,pidfd_send_signal,rt_sigqueueinfo,pidfd_open");
    host.wait_all_running(1);
    assert_ne!(host.pids()["w1"], node);
    stop_traced(&host, agent);
    let text = fs::read_to_string(trace).unwrap();
    let wanted = victim.pid().to_string();
    // One through a pidfd may not name the pid: that one shows in whether the process lives.
    let signals = ["kill(", "tkill(", "tgkill(", "pidfd_send_signal(", "rt_sigqueueinfo("];
    for line in text.lines().filter(|line| signals.iter().any(|call| line.contains(call))) {
        assert!(!line.contains(&wanted), "a signal to the test's process {wanted}: {line}");
    }
    assert!(is_alive(victim.pid()));
}

#[test]
fn a_forged_status_with_a_wrong_start_time_leads_to_no_signal() {
    a_forged_status_leads_to_no_signal(None);
}

#[test]
fn a_forged_status_of_another_boot_leads_to_no_signal() {
    a_forged_status_leads_to_no_signal(Some("0b5c2a5e-0000-4000-8000-000000000000"));
}

//! The order of system calls, as strace sees it: fdatasync on the journal returns before the first byte of a response
//! leaves, and before the first shim is spawned. And no signal ever goes to a process that a forged file names.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;

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
    let text = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let synced = returned(&lines, |line| {
        line.contains("fdatasync")
            && line.contains("= 0")
            && (line.contains("/journal/db>") || line.contains("resumed"))
    });
    let mut previous = 0;
    for number in 0..20 {
        let reqid = format!("ordered-{number}");
        let left = lines
            .iter()
            .position(|line| {
                line.contains("socket:") && line.contains("agent_welcome_response") && line.contains(&reqid)
            })
            .unwrap_or_else(|| panic!("{reqid} was never sent"));
        let before = synced.iter().rev().find(|sync| **sync < left).copied().unwrap_or(0);
        assert!(
            before > previous,
            "{reqid} left in line {left} of the trace, and since line {previous} no fdatasync of the journal returned"
        );
        previous = left;
    }
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

#[test]
fn a_forged_status_file_leads_to_no_signal() {
    let mut host = Host::new();
    let victim = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    let victim = Agent { child: victim };
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "SIM_UNUSED = 1")]))).results.iter().all(|result| result.success));
    let run = host.state_dir().join("run/w1");
    agent.kill();
    let shim = host.shim_of("w1");
    // What the shim wrote about its node now names a process of the test, as an attacker or a reused pid would have it.
    let node = host.node_processes("w1")[0];
    for file in ["launch", "status"] {
        let path = run.join(file);
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let (old, new) = (node.to_be_bytes(), victim.pid().to_be_bytes());
        for at in 0..bytes.len().saturating_sub(4) {
            if bytes[at..at + 4] == old {
                bytes[at..at + 4].copy_from_slice(&new);
            }
        }
        fs::write(&path, bytes).unwrap();
    }
    crate::support::kill(shim, Signal::KILL, Some(&format!("ZCA_STATE_DIR={}", host.state_dir().display())));
    host.set("ZCA_LOG_LEVEL", "debug");
    let (agent, trace) = start_traced(&host, "kill,tkill,tgkill,pidfd_send_signal,pidfd_open,rt_sigqueueinfo");
    host.wait_all_running(1);
    stop_traced(&host, agent);
    let text = fs::read_to_string(trace).unwrap();
    let signals = ["kill(", "tkill(", "tgkill(", "pidfd_send_signal(", "rt_sigqueueinfo("];
    let wanted = format!("{}", victim.pid());
    for line in text.lines().filter(|line| signals.iter().any(|call| line.contains(call))) {
        assert!(!line.contains(&wanted), "a signal to the test's process {wanted}: {line}");
    }
    assert!(is_alive(victim.pid()));
}

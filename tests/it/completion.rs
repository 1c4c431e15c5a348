//! Completion, in the shells themselves: a key is pressed on a terminal, and what the shell then runs is looked at.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;

use crate::peers::python;
use crate::support::{Host, Said, cluster, set};

/// What is typed before the key, and what is run after it. Each shell's own habits apart, they are the same.
const TYPED: &[(&str, &[&str])] = &[
    ("sett", &["settings"]),
    ("journal ver", &["journal", "verify"]),
    ("request get-id", &["request", "get-id-value"]),
    ("status --js", &["status", "--json"]),
    ("journal dump --state conf", &["journal", "dump", "--state", "conflict"]),
    ("config check clus", &["config", "check", "cluster-of-two.ini"]),
    ("nodes restart work", &["nodes", "restart", "worker-1"]),
    ("nodes logs -f log", &["nodes", "logs", "-f", "logger-1"]),
    ("request get-id-value x --nodes work", &["request", "get-id-value", "x", "--nodes", "worker-1"]),
    ("journal show first-req", &["journal", "show", "first-request.1"]),
    ("journal dump --reqid first", &["journal", "dump", "--reqid", "first-request.1"]),
    // Nothing that fits: the line stays as it was typed.
    ("nodes restart zz", &["nodes", "restart", "zz"]),
];

fn is_there(shell: &str) -> bool {
    Command::new(shell).args(["-c", "exit 0"]).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn bash_zsh_and_fish_complete_commands_nodes_reqids_and_files() {
    let host = Host::new();
    let _agent = host.start();
    let nodes = [("worker-1", ""), ("logger-1:logger", "")];
    assert!(host.ask("first-request.1", set(cluster(&nodes))).success());
    // A name that a shell would run, if it were offered.
    assert!(host.ask("work$(touch harm)", Request::AgentWelcome {}).success());
    let mut done = 0;
    for shell in ["bash", "zsh", "fish"] {
        if !is_there(shell) {
            println!("NOT RUN: completion in {shell}, which is not installed; scripts/test installs it");
            continue;
        }
        let directory = host.dir.path().join(shell);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("cluster-of-two.ini"), "").unwrap();
        let mut command = python(&["complete.py", shell, host.binary.to_str().unwrap(), directory.to_str().unwrap()]);
        let python_path = std::env::var_os("PATH").unwrap();
        host.prepare(&mut command);
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients")).env("PATH", python_path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines: String = TYPED.iter().map(|(typed, _)| format!("zeek-cluster-agent {typed}\n")).collect();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let said = Said::wait(child);
        assert_eq!(said.code, 0, "{shell}: {said:?}");
        let ran: Vec<Vec<String>> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(ran.len(), TYPED.len(), "{shell}: {said:?}");
        for ((typed, expected), ran) in TYPED.iter().zip(ran) {
            assert_eq!(ran, *expected, "{shell}, after {typed:?} and the key");
        }
        assert!(!directory.join("harm").exists());
        done += 1;
    }
    println!("completed in {done} shells");
}

#[test]
fn completion_without_an_agent_is_quick_and_silent() {
    let host = Host::new();
    let said = host.run(&["complete", "--for", "bash", "--", "nodes", "stop", "w"]);
    assert_eq!(said, Said { code: 0, stdout: String::new(), stderr: String::new() });
    // An agent that does not answer is given up soon: what is there is a listener, and nobody behind it.
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let offered = host.run(&["complete", "--for", "bash", "--", "nodes", "stop", "w"]);
    assert_eq!((offered.code, offered.stdout.as_str()), (0, "w1\n"));
    crate::support::kill(agent.pid(), Signal::STOP, Some(&host.mark));
    let begun = Instant::now();
    let said = host.run(&["complete", "--for", "fish", "--", "nodes", "stop", ""]);
    println!("gave up after {:?}", begun.elapsed());
    assert_eq!(said, Said { code: 0, stdout: String::new(), stderr: String::new() });
    crate::support::kill(agent.pid(), Signal::CONT, Some(&host.mark));
    // Settings that do not read are not completion's to tell of.
    let bad = host.file("bad.toml", "name = ");
    let said = host.run(&["complete", "--for", "zsh", "--", "--config", &bad, "nodes", "stop", ""]);
    assert_eq!(said, Said { code: 0, stdout: String::new(), stderr: String::new() });
}

#[test]
fn a_manual_page_is_written_for_each_command() {
    let host = Host::new();
    let directory = host.dir.path().join("man/man1");
    let said = host.run(&["man", "--dir", directory.to_str().unwrap()]);
    assert_eq!(said, Said { code: 0, stdout: String::new(), stderr: String::new() });
    let pages: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert!(pages.len() > 35, "{pages:?}");
    for (page, title) in [
        ("zeek-cluster-agent.1", ".TH zeek-cluster-agent 1"),
        ("zeek-cluster-agent-nodes-restart.1", ".TH zeek-cluster-agent-nodes-restart 1"),
    ] {
        assert!(fs::read_to_string(directory.join(page)).unwrap().contains(title), "{page}");
    }
    assert!(!pages.iter().any(|page| page.contains("help") || page.contains("complete.")), "{pages:?}");
    let taken = host.file("taken", "");
    let said = host.run(&["man", "--dir", &taken]);
    assert!(said.code == 1 && said.stderr.contains(&taken), "{said:?}");
}

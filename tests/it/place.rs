//! A state directory is one place (P16): a copy of it does nothing to the original's nodes, and a directory that was moved or
//! restored is no copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;

use crate::small::Small;
use crate::support::{Host, cluster, errors, is_alive, set};

const NODES: usize = 4;

fn deployed(host: &Host) -> BTreeMap<String, u32> {
    let names: Vec<String> = (1..=NODES).map(|number| format!("w{number}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let answer = host.ask("deploy", set(cluster(&nodes)));
    assert!(answer.success(), "{}", errors(&answer));
    host.wait_all_running(NODES);
    host.pids()
}

/// The original: its nodes, and their shims.
struct Original<'a> {
    host: &'a Host,
    nodes: BTreeMap<String, u32>,
    shims: Vec<u32>,
}

impl<'a> Original<'a> {
    fn of(host: &'a Host) -> Self {
        Self { host, nodes: deployed(host), shims: host.shims() }
    }

    /// Nothing was done to it: the same processes, alive, and their shims.
    fn is_untouched(&self) {
        for (node, pid) in &self.nodes {
            assert!(is_alive(*pid), "{node}, {pid}, has ended");
            assert_eq!(self.host.node_processes(node), [*pid], "{node}");
        }
        assert_eq!(self.host.shims(), self.shims);
        assert!(self.shims.iter().all(|shim| is_alive(*shim)));
    }

    fn is_named_in(&self, text: &str) {
        let path = self.host.state_dir();
        assert!(text.contains(&path.canonicalize().unwrap().display().to_string()), "{text}");
        assert!(text.contains("state adopt"), "{text}");
    }

    /// Its next agent finds everything as it was.
    fn goes_on(&self) {
        let _agent = self.host.start();
        self.host.wait_all_running(NODES);
        assert_eq!(self.host.status().hold, None);
        assert_eq!(self.host.events("node_exited"), []);
        assert_eq!(self.host.pids(), self.nodes);
        self.is_untouched();
    }
}

/// `run` and `shutdown --nodes` on a copy: nothing is done, and the original is named.
fn holds(copy: &Host, original: &Original<'_>) {
    let said = copy.run(&["shutdown", "--nodes"]);
    assert_eq!(said.code, 1, "{said:?}");
    original.is_named_in(&said.stdout);
    original.is_untouched();
    let agent = copy.start();
    let status = copy.status();
    assert!(status.is_copy);
    original.is_named_in(&status.hold.unwrap());
    original.is_named_in(&copy.run(&["status"]).stdout);
    original.is_named_in(&copy.read_log());
    for (reqid, change) in [
        ("copy-deploy", set(cluster(&[("w1", ""), ("w9", "")]))),
        ("copy-standby", Request::AgentStandby {}),
        ("copy-stop", Request::StopNodes { nodes: ["w1".to_owned()].into() }),
        ("copy-restart", Request::Restart { nodes: Default::default() }),
        ("copy-shutdown", Request::Shutdown { nodes: true }),
    ] {
        let answer = copy.ask(reqid, change);
        assert!(!answer.success(), "{reqid}");
        original.is_named_in(&errors(&answer));
    }
    assert!(copy.node_processes("w9").is_empty());
    original.is_untouched();
    // However often it is started, and however it ends.
    agent.kill();
    let agent = copy.start();
    original.is_named_in(&copy.status().hold.unwrap());
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert!(copy.shims().is_empty(), "a copy has started something");
    original.is_untouched();
}

fn copy_with(how: &[&str], from: &Path, to: &Path) {
    let done = Command::new(how[0]).args(&how[1..]).arg(from.join(".")).arg(to).output().unwrap();
    // What is in use changes under the copy, and not each tool copies a socket.
    eprintln!("{how:?}: {} {}", done.status, String::from_utf8_lossy(&done.stderr));
    assert!(to.join("IDENTITY").exists() && to.join("journal").exists());
}

/// Copies a live directory so, with its agent running, and has the copy run beside it.
fn copied(how: &[&str], put: impl FnOnce(&Host) -> Option<Option<Small>>) {
    if Command::new(how[0]).arg("--version").output().is_err() {
        eprintln!("SKIPPED: no {} on this host", how[0]);
        return;
    }
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    let Some(mounted) = put(&copy) else { return };
    copy_with(how, &host.state_dir(), &copy.state_dir());
    holds(&copy, &original);
    agent.kill();
    // The same with nobody there to look after them.
    holds(&copy, &original);
    original.goes_on();
    copy.end_all();
    drop(mounted);
}

fn plain_directory(copy: &Host) -> Option<Option<Small>> {
    fs::create_dir(copy.state_dir()).unwrap();
    Some(None)
}

#[test]
fn a_copy_by_cp_holds_and_names_the_original() {
    copied(&["cp", "-a"], plain_directory);
}

#[test]
fn a_copy_by_rsync_holds_and_names_the_original() {
    copied(&["rsync", "-aH"], plain_directory);
}

#[test]
fn a_copy_on_another_file_system_holds_and_names_the_original() {
    copied(&["cp", "-a"], |copy| Small::mount(copy.state_dir(), "256m").map(Some));
}

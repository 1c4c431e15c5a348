//! What a service manager is told, and what it hands over: readiness, state, signs of life, the log's priorities, the state
//! directory.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, PATIENCE, cluster, set};

/// The manager's end, and what it was told so far.
struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, told: Vec::new() }
    }

    fn next(&mut self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{error} after {:?}", self.told));
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        self.told.push(text.clone());
        text
    }

    fn wait_for(&mut self, what: &str) -> String {
        loop {
            let text = self.next();
            if text.contains(what) {
                return text;
            }
        }
    }
}

#[test]
fn a_manager_is_told_of_readiness_nodes_life_and_the_end() {
    let mut host = Host::new();
    let path = host.dir.path().join("notify");
    let mut manager = Manager::listen(&path);
    host.set("NOTIFY_SOCKET", path.to_str().unwrap()).set("WATCHDOG_USEC", "400000");
    let mut agent = host.spawn();
    assert_eq!(manager.next(), "READY=1\nSTATUS=serving\n");
    host.wait_served(&mut agent);
    assert_eq!(manager.wait_for("STATUS"), "STATUS=serving; no nodes\n");
    host.ask("d", set(cluster(&[("w1", ""), ("w2", "")])));
    assert_eq!(manager.wait_for("2 RUNNING"), "STATUS=serving; 2 nodes: 2 RUNNING\n");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    // Less than three commits may take.
    let warnings = host.status().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("WatchdogSec of its unit to 30 s")), "{warnings:?}");
    let pids = host.pids();
    agent.signal(Signal::TERM);
    assert_eq!(manager.wait_for("STOPPING"), "STOPPING=1\nSTATUS=stopping; nodes run on\n");
    agent.wait();
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(manager.wait_for("2 RUNNING"), "STATUS=serving; 2 nodes: 2 RUNNING\n");
}

/// A manager that never reads: its queue fills up, and nothing of the agent's waits for it.
#[test]
fn a_manager_that_reads_nothing_delays_nothing() {
    let mut host = Host::new();
    let path = host.dir.path().join("notify");
    let manager = Manager::listen(&path);
    host.set("NOTIFY_SOCKET", path.to_str().unwrap()).set("WATCHDOG_USEC", "4000");
    let _agent = host.start();
    manager.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    crate::support::eventually("a full queue", || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.send_to(b"x", &path).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock).then_some(())
    });
    let answer = host.ask("d", set(cluster(&[("w1", "")])));
    assert!(answer.results.iter().all(|result| result.success), "{answer:?}");
    host.wait_state("w1", NodeState::Running);
}

#[test]
fn lines_for_the_system_journal_have_a_priority_and_no_time() {
    let mut host = Host::new();
    drop(host.log());
    let log = std::fs::metadata(host.dir.path().join("agent.log")).unwrap();
    host.set("JOURNAL_STREAM", &format!("{}:{}", log.dev(), log.ino()));
    host.set("WATCHDOG_USEC", "1000000").set("NOTIFY_SOCKET", "/nonexistent");
    let agent = host.start();
    agent.signal(Signal::TERM);
    agent.wait();
    let log = host.read_log();
    assert!(log.lines().any(|line| line.starts_with("<6> INFO agent a1 serves on ")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("<4> WARN ")), "{log}");
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    // Another file: as ever.
    host.set("JOURNAL_STREAM", "1:1");
    std::fs::remove_file(host.dir.path().join("agent.log")).unwrap();
    let _agent = host.start();
    let log = host.read_log();
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn the_directory_that_a_manager_made_is_used() {
    let host = Host::new();
    let handed = host.dir.path().join("handed");
    std::fs::create_dir(&handed).unwrap();
    let mut command = host.command(&["run", "--simulate-nodes"]);
    command.env_remove("ZCA_STATE_DIR").env("STATE_DIRECTORY", format!("{}:/other", handed.display()));
    let mut child = command.stdout(std::process::Stdio::null()).stderr(host.log()).spawn().unwrap();
    let socket = handed.join("control.sock");
    crate::support::eventually("its socket", || socket.exists().then_some(()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", host.read_log());
}

//! A state directory is one place (P16): a copy of it does nothing to the original's nodes, and a directory that was moved or
//! restored is no copy.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;

use crate::small::Small;
use crate::support::{Host, cluster, errors, eventually, is_alive, kill, run_to_end, set};

const NODES: usize = 4;

/// Free when it was looked for.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

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
        ("copy-stop", Request::StopNodes { nodes: ["w1".to_owned()].into(), force: false }),
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

/// Its files are the original's, under second names.
#[test]
fn a_copy_of_hard_links_is_not_opened() {
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    plain_directory(&copy);
    copy_with(&["cp", "-al"], &host.state_dir(), &copy.state_dir());
    agent.kill();
    for said in [copy.run(&["shutdown", "--nodes"]), run_to_end(&copy, &[])] {
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(&host.state_dir().canonicalize().unwrap().display().to_string()), "{said:?}");
        assert!(said.stderr.contains("hard links") && said.stderr.contains("cp -a"), "{said:?}");
    }
    original.is_untouched();
    // Nor is the original disturbed by the second names of its files.
    original.goes_on();
}

/// Writes go to a layer of the copy's own, so every file has its own numbers once it was opened for writing, and most never are.
#[test]
fn a_copy_by_an_overlay_holds_and_names_the_original() {
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    // A running agent's journal changes underneath, which no overlay takes well.
    agent.kill();
    let Some(layers) = Small::mount(copy.dir.path().join("layers"), "256m") else { return };
    let Some(mounted) = Small::overlay(copy.state_dir(), &host.state_dir(), &layers.0) else { return };
    holds(&copy, &original);
    copy.end_all();
    drop(mounted);
    original.goes_on();
}

/// The same directory by two paths is one place.
#[test]
fn a_bind_mount_or_a_link_is_the_same_directory() {
    for link in [true, false] {
        let (host, other) = (Host::new(), Host::new());
        let agent = host.start();
        let original = Original::of(&host);
        agent.kill();
        let mounted = if link {
            std::os::unix::fs::symlink(host.state_dir(), other.state_dir()).unwrap();
            None
        } else {
            fs::create_dir(other.state_dir()).unwrap();
            let Some(mounted) = Small::bind_to(other.state_dir(), &host.state_dir()) else { return };
            Some(mounted)
        };
        let agent = other.start();
        other.wait_all_running(NODES);
        assert_eq!((other.status().hold, other.pids()), (None, original.nodes.clone()), "link: {link}");
        assert!(other.run(&["shutdown", "--nodes"]).code == 0);
        assert!(agent.wait().success());
        assert!(original.nodes.values().all(|pid| !is_alive(*pid)));
        drop(mounted);
    }
}

/// Nothing of the nodes in `before` is left, and each runs once, without a hold.
fn started_once(host: &Host, before: &Original<'_>) {
    host.wait_all_running(NODES);
    assert_eq!(host.status().hold, None);
    let after = host.pids();
    for (node, pid) in &before.nodes {
        assert!(!is_alive(*pid), "two of {node}");
        assert_ne!(after[node], *pid);
        assert_eq!(host.node_processes(node), [after[node]], "{node}");
    }
    eventually("the old shims' end", || before.shims.iter().all(|shim| !is_alive(*shim)).then_some(()));
    assert_eq!(host.shims().len(), NODES);
}

#[test]
fn a_directory_that_was_renamed_adopts_its_nodes() {
    let (host, moved) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    agent.kill();
    fs::rename(host.state_dir(), moved.state_dir()).unwrap();
    // Its new path is on record: moved once more, and back.
    for _ in 0..2 {
        let agent = moved.start();
        moved.wait_all_running(NODES);
        assert_eq!((moved.status().hold, moved.pids()), (None, original.nodes.clone()));
        assert_eq!(moved.events("node_exited"), []);
        agent.kill();
    }
    fs::rename(moved.state_dir(), host.state_dir()).unwrap();
    original.goes_on();
}

fn moved_to_another_file_system(live: bool) {
    let (host, moved) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    if live {
        agent.kill();
    } else {
        assert_eq!(host.run(&["shutdown", "--nodes"]).code, 0);
        assert!(agent.wait().success());
    }
    let Some(mounted) = Small::mount(moved.state_dir(), "256m") else { return };
    copy_with(&["cp", "-a"], &host.state_dir(), &moved.state_dir());
    fs::remove_dir_all(host.state_dir()).unwrap();
    let agent = moved.start();
    started_once(&moved, &original);
    // From here on it is a directory like any other.
    let now = moved.pids();
    agent.kill();
    let _agent = moved.start();
    moved.wait_all_running(NODES);
    assert_eq!((moved.status().hold, moved.pids()), (None, now));
    moved.end_all();
    drop(mounted);
}

#[test]
fn a_directory_that_was_moved_to_another_file_system_runs_each_node_once() {
    moved_to_another_file_system(true);
    moved_to_another_file_system(false);
}

/// Everything is a new file, and what runs holds what was deleted.
#[test]
fn a_directory_that_was_restored_in_place_runs_each_node_once() {
    let host = Host::new();
    let agent = host.start();
    let mut original = Original::of(&host);
    agent.kill();
    let backup = host.dir.path().join("backup");
    copy_with(&["cp", "-a"], &host.state_dir(), &backup);
    // Since then w1 was restarted: the backup's record of it is out of date.
    let agent = host.start();
    assert!(host.ask("restart", Request::Restart { nodes: ["w1".to_owned()].into() }).success());
    host.wait_all_running(NODES);
    original.nodes = host.pids();
    original.shims = host.shims();
    agent.kill();
    fs::remove_dir_all(host.state_dir()).unwrap();
    copy_with(&["cp", "-a"], &backup, &host.state_dir());
    let agent = host.start();
    started_once(&host, &original);
    let told = host.read_log().matches("its run directory, or the lock in it").count();
    assert_eq!(told, NODES, "told once of each node:\n{}", host.read_log());
    let before = host.pids();
    agent.kill();
    let _agent = host.start();
    host.wait_all_running(NODES);
    assert_eq!(host.pids(), before);
}

/// Under the agent, and while it is away.
#[test]
fn a_removed_run_directory_leaks_no_shim() {
    for (what, live) in [("run", true), ("run", false), ("run/w2", true), ("run/w2", false)] {
        let host = Host::new();
        let mut agent = Some(host.start());
        let original = Original::of(&host);
        if !live {
            agent.take().unwrap().kill();
        }
        fs::remove_dir_all(host.state_dir().join(what)).unwrap();
        if live {
            // As long as there is a connection to the shims nothing is amiss.
            host.wait_all_running(NODES);
            assert_eq!(host.pids(), original.nodes);
            agent.take().unwrap().kill();
        }
        let agent = host.start();
        host.wait_all_running(NODES);
        let concerned = |node: &str| what == "run" || node == "w2";
        for (node, pid) in &original.nodes {
            assert_eq!(is_alive(*pid), !concerned(node), "{what}, live: {live}, {node}");
        }
        assert_eq!(host.shims().len(), NODES, "{what}, live: {live}");
        assert_eq!(host.run(&["shutdown", "--nodes"]).code, 0);
        assert!(agent.wait().success());
        assert!(host.processes(&host.mark).is_empty(), "{what}, live: {live}");
    }
}

#[test]
fn another_boot_is_no_copy() {
    if !cfg!(feature = "crash-points") {
        return;
    }
    let mut host = Host::new();
    let agent = host.start();
    let original = Original::of(&host);
    agent.kill();
    let mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
    for shim in &original.shims {
        kill(*shim, Signal::KILL, Some(&mark));
    }
    eventually("all to be gone", || host.processes(&host.mark).is_empty().then_some(()));
    host.set("ZCA_TEST_BOOT_ID", "another-boot");
    let _agent = host.start();
    host.wait_all_running(NODES);
    assert_eq!(host.status().hold, None);
    assert!(host.nodes().values().all(|node| node.last_exit.as_deref() == Some("host restarted")));
}

/// What the first release leaves: no path in IDENTITY, and processes that hold the lock. Those of the first release hold
/// nothing else, and have no other working directories.
fn forget_path(state_dir: &Path) {
    let path = state_dir.join("IDENTITY");
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("path")).collect();
    assert!(kept.len() == 3 && text.lines().count() == 4, "{text}");
    fs::write(&path, kept.join("\n") + "\n").unwrap();
}

#[test]
fn a_directory_of_the_first_release_is_adopted_and_its_copy_is_not() {
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    agent.kill();
    forget_path(&host.state_dir());
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    // Nothing but its processes tells that it is one.
    holds(&copy, &original);
    original.goes_on();
    let text = fs::read_to_string(host.state_dir().join("IDENTITY")).unwrap();
    assert!(text.contains(&format!("path = \"{}\"", host.state_dir().canonicalize().unwrap().display())), "{text}");
}

/// A copy becomes a directory of its own, beside the original.
#[test]
fn an_adopted_copy_runs_its_own_nodes_beside_the_originals() {
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    let said = host.run(&["state", "adopt"]);
    assert!(said.code == 0 && said.stdout.contains("already"), "{said:?}");
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    let id = |host: &Host| {
        let text = fs::read_to_string(host.state_dir().join("IDENTITY")).unwrap();
        text.lines().find(|line| line.starts_with("id")).unwrap().to_owned()
    };
    assert_eq!(id(&host), id(&copy));
    let its_agent = copy.start();
    assert!(copy.status().is_copy);
    let said = copy.run(&["state", "adopt", "--reqid", "adopt"]);
    assert_eq!(said.code, 0, "{said:?}");
    let status = copy.status();
    assert_eq!((status.is_copy, status.hold), (false, None));
    copy.wait_all_running(NODES);
    assert_ne!(id(&host), id(&copy));
    assert_eq!(copy.shims().len(), NODES);
    original.is_untouched();
    // The request is in the journal, and done once.
    assert_eq!(copy.requests("adopt").len(), 1);
    assert_eq!(copy.run(&["state", "adopt", "--reqid", "adopt"]).stdout, said.stdout);
    copy.verify();
    // Two directories from here on: each stops its own.
    let own = copy.pids();
    its_agent.kill();
    let its_agent = copy.start();
    copy.wait_all_running(NODES);
    assert_eq!((copy.status().hold, copy.pids()), (None, own.clone()));
    assert_eq!(copy.run(&["shutdown", "--nodes"]).code, 0);
    assert!(its_agent.wait().success());
    assert!(own.values().all(|pid| !is_alive(*pid)));
    original.is_untouched();
    agent.kill();
    original.goes_on();
}

/// Over Broker an agent is known by its name, and the copy's is the original's.
#[test]
fn a_held_copy_neither_accepts_nor_dials_broker_peers() {
    let (host, mut copy) = (Host::new(), Host::new());
    let agent = host.start();
    let original = Original::of(&host);
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    let controller = TcpListener::bind("127.0.0.1:0").unwrap();
    controller.set_nonblocking(true).unwrap();
    let dialled = || match controller.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    let listen = format!("127.0.0.1:{}", free_port());
    copy.set("ZCA_LISTEN", &listen).set("ZCA_CONTROLLER", &controller.local_addr().unwrap().to_string());
    let its_agent = copy.start();
    assert!(copy.status().is_copy);
    assert!(copy.read_log().contains("no Broker peer is accepted or dialled"), "{}", copy.read_log());
    assert_eq!(TcpStream::connect(&listen).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(!dialled());
    // `status` names no address that nobody can connect to.
    assert_eq!((copy.status().listen, copy.status().listen_when_adopted.as_deref()), (None, Some(listen.as_str())));
    let said = copy.run(&["status"]).stdout;
    assert!(said.contains(&format!("listens at     no address while held; {listen} after `state adopt`")), "{said}");
    assert_eq!(copy.run(&["state", "adopt"]).code, 0);
    eventually("the controller to be dialled", || dialled().then_some(()));
    eventually("peers to be accepted", || TcpStream::connect(&listen).ok());
    assert_eq!((copy.status().listen.as_deref(), copy.status().listen_when_adopted), (Some(listen.as_str()), None));
    copy.wait_all_running(NODES);
    assert_eq!(copy.run(&["shutdown", "--nodes"]).code, 0);
    assert!(its_agent.wait().success());
    agent.kill();
    original.goes_on();
}

/// The hold outlives what it was held for.
#[test]
fn a_copy_stays_held_when_the_original_is_gone() {
    let (host, copy) = (Host::new(), Host::new());
    let agent = host.start();
    Original::of(&host);
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    copy.start().kill();
    assert_eq!(host.run(&["shutdown", "--nodes"]).code, 0);
    assert!(agent.wait().success());
    fs::remove_dir_all(host.state_dir()).unwrap();
    let _agent = copy.start();
    assert!(copy.status().is_copy);
    assert!(copy.shims().is_empty());
    assert_eq!(copy.run(&["state", "adopt"]).code, 0);
    copy.wait_all_running(NODES);
}

/// One directory for the nodes of both: whose a process is tells its lock alone.
#[test]
fn a_copy_with_the_same_node_dir_holds_and_cannot_be_adopted_into_it() {
    let (mut host, mut copy) = (Host::new(), Host::new());
    let nodes = host.dir.path().join("nodes").display().to_string();
    host.set("ZCA_NODE_DIR", &nodes);
    copy.set("ZCA_NODE_DIR", &nodes);
    let agent = host.start();
    let original = Original::of(&host);
    agent.kill();
    forget_path(&host.state_dir());
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    holds(&copy, &original);
    let its_agent = copy.start();
    let said = copy.run(&["state", "adopt"]);
    assert!(said.code == 1 && said.stdout.contains("node_dir"), "{said:?}");
    assert!(copy.status().is_copy);
    its_agent.kill();
    copy.set("ZCA_NODE_DIR", &copy.dir.path().join("own").display().to_string());
    let _its_agent = copy.start();
    assert_eq!(copy.run(&["state", "adopt"]).code, 0);
    copy.wait_all_running(NODES);
    original.is_untouched();
    original.goes_on();
}

/// The agent is killed when the directory is its own and its journal does not know it yet.
#[cfg(feature = "crash-points")]
#[test]
fn an_adoption_that_a_crash_interrupts_is_finished_by_the_next_start() {
    let (host, mut copy) = (Host::new(), Host::new());
    let _agent = host.start();
    let original = Original::of(&host);
    plain_directory(&copy);
    copy_with(&["cp", "-a"], &host.state_dir(), &copy.state_dir());
    copy.set("ZCA_CRASH_AT", "after_state_adopted");
    let its_agent = copy.start();
    let asking = copy.begin(&["state", "adopt", "--reqid", "adopt"]);
    its_agent.wait_crashed(&copy);
    drop(crate::support::Said::wait(asking));
    copy.set("ZCA_CRASH_AT", "");
    let _its_agent = copy.start();
    assert!(copy.ask_until_answered("adopt", &Request::AdoptState {}).success());
    copy.wait_all_running(NODES);
    assert!(!copy.status().is_copy);
    original.is_untouched();
}

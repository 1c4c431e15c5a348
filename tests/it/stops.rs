//! A stop leaves nothing of a node, or says what it leaves (P15), through the real binary. What takes root says so where there
//! is none.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

use crate::rights;
use crate::support::{BINARY, Host, Said, cluster, errors, eventually, is_alive, kill, set};

/// How a node leaves processes behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// A child in a session of its own, and one in the node's.
    Session,
    /// A daemon that forked twice and closed all descriptors.
    Daemon,
    /// Processes that each start the next one and end.
    ForkedForEver,
}

impl Leaves {
    fn lines(self) -> &'static str {
        match self {
            Self::Daemon => "env = SIM_FORK=1 SIM_FORK_DAEMON=1",
            Self::Session | Self::ForkedForEver => "",
        }
    }

    fn host(self) -> Host {
        let mut host = Host::new();
        match self {
            Self::Session => _ = host.run_program(&data("field/node-that-leaves-a-session.sh")),
            Self::ForkedForEver => _ = host.run_program(&data("stops/node-that-forks-for-ever.sh")),
            Self::Daemon => {}
        }
        host.set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "0.05").set("ZCA_STAGE_WAIT", "0.1");
        host
    }

    /// Waits until the node has left what it leaves; gives its processes.
    fn wait_left(self, host: &Host) -> BTreeSet<u32> {
        eventually(&format!("{self:?}"), || {
            let all = host.node_processes("w1");
            let has_left = match self {
                Self::Session => all.iter().filter(|pid| command(**pid) == "sleep").count() == 3,
                Self::Daemon => all.iter().any(|pid| variable(*pid, "SIM_FORK_DAEMON=2") && open_files(*pid) <= 3),
                Self::ForkedForEver => all.len() >= 3,
            };
            has_left.then(|| all.into_iter().collect())
        })
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn command(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn variable(pid: u32, line: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|one| one == line.as_bytes())
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(usize::MAX, Iterator::count)
}

/// Nothing of the node lives. Several looks: what forks for ever can slip through one.
fn assert_nothing_left(host: &Host, how: &str) {
    for _ in 0..20 {
        let left: Vec<String> =
            host.node_processes("w1").into_iter().map(|pid| format!("{pid} {}", command(pid))).collect();
        assert!(left.is_empty(), "after {how}: {left:?}\n{}", host.read_log());
    }
}

fn assert_ok(said: &Said, how: &str) {
    assert_eq!(said.code, 0, "{how}: {said:?}");
}

/// Every way to end a node, one after the other.
fn nothing_is_left_by(leaves: Leaves) {
    let host = leaves.host();
    let agent = host.start();
    let with = set(cluster(&[("w1", leaves.lines())]));
    let answer = host.ask("deploy", with.clone());
    assert!(answer.success(), "{}", errors(&answer));

    let before = leaves.wait_left(&host);
    assert_ok(&host.run(&["nodes", "restart", "w1"]), "a restart");
    let after: BTreeSet<u32> = host.node_processes("w1").into_iter().collect();
    let both: Vec<&u32> = before.intersection(&after).collect();
    assert!(both.is_empty(), "{both:?} of the incarnation before live beside the next one");

    leaves.wait_left(&host);
    assert_ok(&host.run(&["nodes", "stop", "w1"]), "a stop");
    assert_nothing_left(&host, "a stop");

    assert_ok(&host.run(&["nodes", "start", "w1"]), "a start");
    leaves.wait_left(&host);
    let answer = host.ask("remove", set(cluster(&[])));
    assert!(answer.success(), "{}", errors(&answer));
    assert_nothing_left(&host, "its removal by a configuration");

    assert!(host.ask("again", with.clone()).success());
    leaves.wait_left(&host);
    assert_ok(&host.run(&["request", "standby"]), "a standby");
    assert_nothing_left(&host, "a standby");

    assert!(host.ask("once more", with).success());
    leaves.wait_left(&host);
    agent.kill();
    assert_ok(&host.run(&["shutdown", "--nodes"]), "a shutdown without an agent");
    assert_nothing_left(&host, "a shutdown without an agent");

    // The next agent starts what is wanted, and ends it.
    let agent = host.start();
    host.wait_state("w1", NodeState::Running);
    leaves.wait_left(&host);
    assert_ok(&host.run(&["shutdown", "--nodes"]), "a shutdown");
    assert!(agent.wait().success());
    assert_nothing_left(&host, "a shutdown");
}

#[test]
fn a_child_in_a_session_of_its_own_is_ended_with_its_node() {
    nothing_is_left_by(Leaves::Session);
}

#[test]
fn a_daemon_that_closed_everything_is_ended_with_its_node() {
    nothing_is_left_by(Leaves::Daemon);
}

#[test]
fn processes_that_fork_for_ever_are_ended_with_their_node() {
    nothing_is_left_by(Leaves::ForkedForEver);
}

#[test]
fn what_a_node_leaves_that_ends_by_itself_is_gone_before_the_next_one_starts() {
    let host = Leaves::Daemon.host();
    let _agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", Leaves::Daemon.lines())]))).success());
    let before = Leaves::Daemon.wait_left(&host);
    let node = host.pids()["w1"];
    kill(node, Signal::KILL, Some(&host.mark));
    eventually("the next incarnation", || host.pids().get("w1").filter(|pid| **pid != node).map(|_| ()));
    let left: Vec<u32> = host.node_processes("w1").into_iter().filter(|pid| before.contains(pid)).collect();
    assert!(left.is_empty(), "{left:?} live beside the next one");
}

/// It has the lock because the node handed it on, and descends from nobody here.
#[test]
fn a_process_that_has_only_the_lock_is_ended_if_it_is_the_nodes_and_named_if_not() {
    let Some((mut host, uid)) = rights::host("a process that has only the lock") else { return };
    host.set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STAGE_WAIT", "0.1");
    let _agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let lock = rights::handed_over(host.pids()["w1"], &host.state_dir().join("run/w1/lock"));
    let mut holder = {
        let mut command = Command::new("sleep");
        host.prepare(&mut command);
        command.arg("1000").stdin(Stdio::from(lock)).uid(uid).current_dir("/").spawn().unwrap()
    };
    assert_ok(&host.run(&["nodes", "stop", "w1"]), "a stop");
    assert!(holder.try_wait().unwrap().is_some(), "it runs as the node did");

    assert_ok(&host.run(&["nodes", "start", "w1"]), "a start");
    let lock = rights::handed_over(host.pids()["w1"], &host.state_dir().join("run/w1/lock"));
    let mut victims = rights::victims(&host, lock);
    let said = host.run(&["nodes", "stop", "w1"]);
    assert_eq!(said.code, 1, "{said:?}");
    for stranger in rights::strangers(&victims).map(|stranger| as_survivor(&stranger)) {
        assert!(said.stdout.contains(&stranger), "{stranger} is not in {said:?}");
    }
    assert_eq!(host.nodes()["w1"].state, NodeState::Unknown);
    rights::assert_unharmed(&mut victims);
    rights::end(&mut victims);
    assert_ok(&host.run(&["nodes", "stop", "w1"]), "a stop when they are gone");
    host.wait_state("w1", NodeState::Stopped);
}

/// `pid 7 ("sleep", uid 0)` as `pid 7 (uid 0, "sleep")`.
fn as_survivor(stranger: &str) -> String {
    let (pid, rest) = stranger.split_once(" (").unwrap();
    let (name, uid) = rest.trim_end_matches(')').split_once(", ").unwrap();
    format!("{pid} ({uid}, {name})")
}

/// A host whose agent runs as nobody; and a helper in it that becomes root.
fn unprivileged_host(test: &str) -> Option<(Host, PathBuf)> {
    let (host, uid) = rights::host(test)?;
    let mut host = {
        drop(host);
        Host::new()
    };
    let dir = host.dir.path().to_owned();
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    let copy = |from: &Path, name: &str, mode: u32| {
        let to = dir.join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
        to
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let setpriv = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|path| path.is_file());
    let Some(setpriv) = setpriv else {
        println!("NOT RUN: {test} needs setpriv (util-linux)");
        return None;
    };
    let helper = copy(&setpriv, "helper", 0o4755);
    let becomes =
        Command::new(&helper).args(["--reuid=0", "--regid=0", "--clear-groups", "id", "-u"]).uid(uid).output();
    if !becomes.as_ref().is_ok_and(|output| output.stdout == b"0\n") {
        println!("NOT RUN: {test} needs set-user-ID programs in {}", dir.display());
        return None;
    }
    let agent = copy(Path::new(BINARY), "agent", 0o755);
    let wrapper = host.file(
        "wrapper.sh",
        &format!("#!/bin/sh\nexec setpriv --reuid={uid} --regid={uid} --clear-groups {} \"$@\"\n", agent.display()),
    );
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    host.binary = wrapper.into();
    Some((host, helper))
}

#[test]
fn a_helper_that_became_root_under_an_agent_that_is_not_is_named() {
    let Some((mut host, helper)) = unprivileged_host("a set-user-ID helper") else { return };
    let program = host.file(
        "node.sh",
        &format!("#!/bin/sh\n{} --reuid=0 --regid=0 --clear-groups sleep 7773 &\nexec sleep 7772\n", helper.display()),
    );
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    host.run_program(Path::new(&program)).set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "0.05");
    host.set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STAGE_WAIT", "0.1");
    let agent = host.start();
    let with = set(cluster(&[("w1", "")]));
    assert!(host.ask("deploy", with).success());
    let helper = eventually("the helper", || {
        host.node_processes("w1").into_iter().find(|pid| command(*pid) == "sleep" && uid_of(*pid) == 0)
    });
    let named = format!("pid {helper} (uid 0, \"sleep\")");
    let assert_named = |said: &Said, how: &str| {
        assert_eq!(said.code, 1, "{how}: {said:?}\n{}", host.read_log());
        assert!(said.stdout.contains(&named), "{how}: {named} is not in {said:?}");
        assert!(is_alive(helper));
    };
    assert_named(&host.run(&["nodes", "restart", "w1"]), "a restart");
    assert_eq!(host.node_processes("w1"), [helper], "nothing starts beside it");
    assert_named(&host.run(&["nodes", "stop", "w1"]), "a stop");
    let report = host.nodes().remove("w1").unwrap();
    assert_eq!(report.state, NodeState::Unknown);
    assert!(report.note.as_ref().is_some_and(|note| note.contains(&named)), "{report:?}");
    let answer = host.ask("remove", set(cluster(&[])));
    assert!(!answer.success() && errors(&answer).contains(&named), "{answer:?}");
    assert_named(&host.run(&["request", "standby"]), "a standby");
    agent.kill();
    assert_named(&host.run(&["shutdown", "--nodes"]), "a shutdown without an agent");
    let _agent = host.start();
    kill(helper, Signal::KILL, Some(&host.mark));
    assert_ok(&host.run(&["request", "standby"]), "a standby when it is gone");
    assert_nothing_left(&host, "a standby when it is gone");
}

fn uid_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().next()?.parse().ok()).unwrap_or(u32::MAX)
}

#[test]
fn a_shutdown_without_an_agent_does_not_say_ok_beside_a_node_that_it_cannot_stop() {
    let mut host = Leaves::Session.host();
    host.set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STOP_TIMEOUT_MANAGER_LOGGER", "1");
    let agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let node = host.pids()["w1"];
    agent.kill();
    let launch = host.state_dir().join("run/w1/launch");
    let bytes = fs::read(&launch).unwrap();
    let mut flipped = bytes.clone();
    flipped[40] ^= 0x20;
    for damaged in [&bytes[..bytes.len() / 2], flipped.as_slice()] {
        fs::write(&launch, damaged).unwrap();
        // The program was a flag of `run`, so nobody could start the node here either.
        let said = host.run(&["shutdown", "--nodes"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stdout.contains("w1: it may still run: ") && said.stdout.contains("run/w1/launch"), "{said:?}");
        assert!(is_alive(node));
    }
    fs::write(&launch, bytes).unwrap();
    assert_ok(&host.run(&["shutdown", "--nodes"]), "a shutdown with the file as it was");
    assert_nothing_left(&host, "a shutdown with the file as it was");
}

#[test]
fn when_a_shim_is_killed_what_holds_the_lock_is_ended_and_that_only_this_is_promised_is_said() {
    let host = Leaves::Session.host();
    let _agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let before = Leaves::Session.wait_left(&host);
    let node = host.pids()["w1"];
    kill(host.shim_of("w1"), Signal::KILL, Some(&host.mark));
    eventually("the next incarnation", || host.pids().get("w1").filter(|pid| **pid != node).map(|_| ()));
    let left: Vec<u32> = host.node_processes("w1").into_iter().filter(|pid| before.contains(pid)).collect();
    assert!(left.is_empty(), "{left:?} live beside the next one");
    let promised = "only processes that hold its lock could be looked for, since its shim was gone before it";
    assert!(host.read_log().contains(promised), "{}", host.read_log());
}

/// Killed while a stop is under way: the answer itself says what it promises.
#[test]
fn when_a_shim_is_killed_during_a_stop_the_answer_says_what_is_promised() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "env = SIM_IGNORE_TERM=1")]))).success());
    let stop = host.begin(&["nodes", "stop", "w1"]);
    let log = host.state_dir().join("run/w1/shim.log");
    eventually("the order to stop", || fs::read_to_string(&log).ok()?.contains("stopping").then_some(()));
    kill(host.shim_of("w1"), Signal::KILL, Some(&host.mark));
    let said = Said::wait(stop);
    assert_ok(&said, "a stop");
    assert!(said.stdout.starts_with("ok w1: only processes that hold its lock could be looked for"), "{said:?}");
    assert_nothing_left(&host, "a stop");
}

/// A shim as the first release had them, which ends its node's process group alone, under an agent of today.
#[test]
#[cfg(feature = "crash-points")]
fn behind_a_shim_of_the_first_release_holders_of_the_lock_are_ended_and_the_answer_says_so() {
    for leaves in [Leaves::Session, Leaves::Daemon] {
        let mut host = leaves.host();
        host.set("ZCA_TEST_FIRST_SHIM", "1");
        let agent = host.start();
        assert!(host.ask("deploy", set(cluster(&[("w1", leaves.lines())]))).success());
        let before = leaves.wait_left(&host);
        agent.kill();
        host.unset("ZCA_TEST_FIRST_SHIM");
        let _agent = host.start();
        let said = host.run(&["nodes", "stop", "w1"]);
        assert_ok(&said, "a stop");
        let promised = "only processes that hold its lock could be looked for, since its shim is of the first release";
        assert!(said.stdout.contains(promised), "{said:?}");
        match leaves {
            Leaves::Session => assert_nothing_left(&host, "a stop"),
            // This is what is not promised: it could not be found.
            Leaves::Daemon => assert!(before.iter().any(|pid| is_alive(*pid))),
            Leaves::ForkedForEver => unreachable!(),
        }
    }
}

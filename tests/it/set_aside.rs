//! `nodes stop NODE --force`, through the real binary: the way out for a node whose run directory is damaged. What is proven to be
//! the node's is ended, what is not is named and left alone (P7), and a `nodes start` works afterwards.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

use crate::rights;
use crate::support::{Agent, Host, Said, cluster, errors, is_alive, kill, set};

/// A host on which w1 runs, with its process and its shim.
fn running() -> (Host, Agent, u32, u32) {
    let mut host = Host::new();
    host.set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STAGE_WAIT", "0.1");
    let agent = host.start();
    let answer = host.ask("deploy", set(cluster(&[("w1", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    let (node, shim) = (host.pids()["w1"], host.shim_of("w1"));
    (host, agent, node, shim)
}

fn force(host: &Host) -> Said {
    host.run(&["nodes", "stop", "w1", "--force"])
}

/// What was set aside, by its number.
fn aside(host: &Host, number: u32) -> PathBuf {
    host.state_dir().canonicalize().unwrap().join(format!("run/.aside-w1-{number}"))
}

/// Nothing of the node is left, where its run directory is was said, and another process of it can be started.
fn is_gone_and_starts_again(host: &Host, said: &Said, what: &str, processes: [u32; 2]) {
    assert_eq!(said.code, 0, "{what}: {said:?}\n{}", host.read_log());
    let moved = aside(host, 1);
    assert!(said.stdout.contains(&format!("set aside as {}", moved.display())), "{what}: {said:?}");
    assert!(fs::symlink_metadata(&moved).is_ok(), "{what}");
    for pid in processes {
        assert!(!is_alive(pid), "{what}: {pid} lives");
    }
    assert_eq!((host.node_processes("w1"), host.shims()), (vec![], vec![]), "{what}");
    assert_eq!(host.nodes()["w1"].state, NodeState::Stopped, "{what}");
    assert_eq!(host.events("node_exited").len(), 1, "{what}");
    assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0, "{what}: {}", host.read_log());
    host.wait_state("w1", NodeState::Running);
    assert_eq!(host.node_processes("w1"), [host.pids()["w1"]], "{what}");
    host.verify();
}

type Damage = fn(&Path, &Path);

/// What can lie in the run directory, or in its place.
const DAMAGES: [(&str, Damage); 8] = [
    ("nothing is wrong", |_, _| {}),
    ("a directory as its lock", |run, kept| {
        fs::rename(run.join("lock"), kept).unwrap();
        fs::create_dir(run.join("lock")).unwrap();
    }),
    ("a link as its lock, and no socket", |run, kept| {
        fs::rename(run.join("lock"), kept).unwrap();
        symlink(kept, run.join("lock")).unwrap();
        fs::remove_file(run.join("socket")).unwrap();
    }),
    ("a torn launch file", |run, _| fs::write(run.join("launch"), "zca-lnch").unwrap()),
    ("a directory as its launch file", |run, _| {
        fs::remove_file(run.join("launch")).unwrap();
        fs::create_dir(run.join("launch")).unwrap();
    }),
    ("a file in its place", |run, kept| {
        fs::rename(run, kept).unwrap();
        fs::write(run, "").unwrap();
    }),
    ("a link in its place", |run, kept| {
        fs::rename(run, kept).unwrap();
        symlink(kept, run).unwrap();
    }),
    ("a FIFO in its place", |run, kept| {
        fs::rename(run, kept).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, run, kind, mode, 0).unwrap();
    }),
];

#[test]
fn a_node_whose_run_directory_is_damaged_is_ended_and_starts_again() {
    for (what, damage) in DAMAGES {
        let (host, agent, node, shim) = running();
        agent.kill();
        damage(&host.state_dir().join("run/w1"), &host.dir.path().join("kept"));
        let _agent = host.start();
        let said = force(&host);
        is_gone_and_starts_again(&host, &said, what, [node, shim]);
    }
}

/// The agent has not been away: it is connected to the shim all the time.
#[test]
fn what_is_under_supervision_is_stopped_first() {
    let (host, _agent, node, shim) = running();
    let said = force(&host);
    is_gone_and_starts_again(&host, &said, "under supervision", [node, shim]);
    // Once more, beside what was set aside before.
    assert_eq!(force(&host).code, 0);
    assert!(aside(&host, 1).exists() && aside(&host, 2).exists());
}

/// Its lock was handed to processes of others, and its shim is gone.
#[test]
fn a_holder_of_the_lock_that_is_not_proven_to_be_the_nodes_is_named_and_gets_no_signal() {
    let Some((mut host, _)) = rights::host("a forced stop beside a holder of the lock") else { return };
    host.set("ZCA_STOP_TIMEOUT", "1").set("ZCA_STAGE_WAIT", "0.1");
    let _agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let node = host.pids()["w1"];
    let mut victims = rights::victims(&host, rights::handed_over(node, &host.state_dir().join("run/w1/lock")));
    kill(host.shim_of("w1"), Signal::KILL, Some(&format!("ZCA_STATE_DIR={}", host.state_dir().display())));
    host.wait_state("w1", NodeState::Unknown);
    let said = force(&host);
    assert_eq!(said.code, 1, "{said:?}");
    for stranger in rights::strangers(&victims) {
        assert!(said.stdout.contains(&stranger), "{stranger} is not in {said:?}");
    }
    assert_eq!(host.nodes()["w1"].state, NodeState::Unknown);
    assert!(!aside(&host, 1).exists() && host.state_dir().join("run/w1/lock").exists());
    rights::assert_unharmed(&mut victims);
    rights::end(&mut victims);
    assert_eq!(force(&host).code, 0);
    assert!(aside(&host, 1).exists());
    assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0);
    host.wait_state("w1", NodeState::Running);
}

/// Without a lock, whoever is busy in the node's directories may be the node's.
#[test]
fn without_a_lock_who_works_in_the_nodes_directories_is_named_and_gets_no_signal() {
    for place in ["nodes/w1", "run/w1"] {
        let (host, agent, node, shim) = running();
        agent.kill();
        let run = host.state_dir().join("run/w1");
        DAMAGES[1].1(&run, &host.dir.path().join("kept"));
        let mut shell = Command::new("sleep");
        host.prepare(&mut shell);
        let mut shell = shell.arg("1000").current_dir(host.state_dir().join(place)).process_group(0).spawn().unwrap();
        let _agent = host.start();
        let said = force(&host);
        assert_eq!(said.code, 1, "{place}: {said:?}");
        let named = format!("pid {} (uid {}, \"sleep\")", shell.id(), rustix::process::geteuid().as_raw());
        assert!(said.stdout.contains(&named), "{place}: {named} is not in {said:?}");
        assert_eq!(host.nodes()["w1"].state, NodeState::Unknown);
        assert_eq!(shell.try_wait().unwrap(), None, "{place}: somebody's process was signalled");
        assert!(!is_alive(node) && !is_alive(shim), "{place}: what is proven ours is ended all the same");
        assert!(run.exists() && !aside(&host, 1).exists(), "{place}");
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(force(&host).code, 0, "{place}");
        assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0, "{place}");
        host.wait_state("w1", NodeState::Running);
    }
}

#[test]
fn a_copy_sets_nothing_aside() {
    let (host, _agent, node, _) = running();
    let copy = Host::new();
    let done = Command::new("cp").arg("-a").arg(host.state_dir()).arg(copy.state_dir()).output().unwrap();
    drop(done);
    let _beside = copy.start();
    let said = force(&copy);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("state adopt"), "{said:?}");
    assert!(copy.state_dir().join("run/w1").exists() && !aside(&copy, 1).exists() && is_alive(node));
}

/// The agent is killed at each step; the next one finishes it, and the request has one outcome.
#[test]
#[cfg(feature = "crash-points")]
fn the_agent_may_be_killed_at_each_step() {
    use zeek_cluster_agent::api::event::Request;

    for place in ["agent_before_set_aside", "agent_after_set_aside"] {
        for (what, damage) in &DAMAGES[..3] {
            let (mut host, agent, node, shim) = running();
            agent.kill();
            damage(&host.state_dir().join("run/w1"), &host.dir.path().join("kept"));
            host.set("ZCA_CRASH_AT", place);
            let agent = host.start();
            let stop = Request::StopNodes { nodes: ["w1".to_owned()].into(), force: true };
            let mut asking = host.begin(&["nodes", "stop", "w1", "--force", "--reqid", "f"]);
            assert!(!agent.wait().success(), "{place}: it was to die");
            asking.wait().unwrap();
            host.unset("ZCA_CRASH_AT");
            let _agent = host.start();
            let answer = host.ask_until_answered("f", &stop);
            assert!(answer.success(), "{place}, {what}: {}\n{}", errors(&answer), host.read_log());
            assert_eq!(host.requests("f").len(), 1, "{place}, {what}");
            assert!(!is_alive(node) && !is_alive(shim), "{place}, {what}");
            assert!(aside(&host, 1).exists() && !aside(&host, 2).exists(), "{place}, {what}");
            assert_eq!(host.events("node_exited").len(), 1, "{place}, {what}");
            assert_eq!(host.run(&["nodes", "start", "w1"]).code, 0, "{place}, {what}");
            host.wait_state("w1", NodeState::Running);
        }
    }
}

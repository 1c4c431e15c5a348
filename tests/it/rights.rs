//! A root agent's nodes run as a user of their own, with what capture needs and no more. Needs root; says so where there is
//! none.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use serde_json::json;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Agent, Host, cluster, errors, eventually, is_alive, kill, set};

/// CAP_NET_ADMIN and CAP_NET_RAW.
const CAPTURE: &str = "0000000000003000";
const NOTHING: &str = "0000000000000000";
const USER: &str = "nobody";

/// A host whose nodes run as [`USER`]; `None`, and a line that says so, where that takes root.
pub(crate) fn host(test: &str) -> Option<(Host, u32)> {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: {test} needs root");
        return None;
    }
    let uid = zeek_cluster_agent::settings::accounts::user(USER).unwrap().expect("every host has nobody").uid;
    let mut host = Host::new();
    host.set("ZCA_NODE_USER", USER);
    // Scratch directories are their owner's alone, and the nodes have to get to theirs.
    fs::set_permissions(host.dir.path(), Permissions::from_mode(0o711)).unwrap();
    Some((host, uid))
}

fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pair = |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

fn assert_identity(pid: u32, uid: u32, capabilities: &str) {
    let status = status(pid);
    let four: Vec<&str> = status["Uid"].split_whitespace().collect();
    assert_eq!(four, [uid.to_string().as_str(); 4], "real, effective, saved and file system uid");
    let group = zeek_cluster_agent::settings::accounts::user(USER).unwrap().unwrap().gid.to_string();
    let four: Vec<&str> = status["Gid"].split_whitespace().collect();
    assert_eq!(four, [group.as_str(); 4], "real, effective, saved and file system gid");
    assert!(!status["Groups"].split_whitespace().any(|group| group == "0"), "groups {}", status["Groups"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], capabilities, "{set}");
    }
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path.as_ref()).unwrap();
    (metadata.uid(), metadata.mode() & 0o777)
}

#[test]
fn nodes_run_as_their_user_with_exactly_what_capture_needs() {
    let Some((host, uid)) = host("node_user") else { return };
    let agent = host.start();
    fs::write(format!("/proc/{}/oom_score_adj", agent.pid()), "200").unwrap();
    let answer = host.ask("r", set(cluster(&[("w1", "interface = lo"), ("logger:logger", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    let pids = host.pids();
    assert_identity(pids["w1"], uid, CAPTURE);
    assert_identity(pids["logger"], uid, NOTHING);
    for pid in pids.values() {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "0\n");
    }
    let state = host.state_dir();
    for theirs in ["nodes/w1", "nodes/w1/stdout", "nodes/w1/stderr", "nodes/logger", "spool/log-queue"] {
        assert_eq!(owner(state.join(theirs)).0, uid, "{theirs}");
    }
    assert_eq!(owner(&state), (0, 0o711), "they have to get through");
    for way in ["nodes", "spool"] {
        assert_eq!(owner(state.join(way)), (0, 0o711), "{way}");
    }
    for ours in fs::read_dir(&state)
        .unwrap()
        .flatten()
        .filter(|entry| !["nodes", "spool"].iter().any(|way| entry.file_name() == *way))
    {
        let (owner, mode) = owner(ours.path());
        assert_eq!((owner, mode & 0o077), (0, 0), "{:?} is nobody else's business", ours.file_name());
    }
    assert_eq!(owner(state.join("run/w1")), (0, 0o700));
    assert_eq!(status(host.shim_of("w1"))["Uid"].split_whitespace().next(), Some("0"));
    let report = host.status();
    assert!(report.warnings.iter().all(|warning| !warning.contains("root")), "{:?}", report.warnings);
    // Another user's processes are signalled and adopted like the agent's own.
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    assert!(host.ask("standby", Request::AgentStandby {}).success());
    for pid in pids.values() {
        assert!(!is_alive(*pid));
    }
}

#[test]
fn the_death_of_a_shim_never_leaves_two_of_another_users_node() {
    let Some((host, uid)) = host("node_user with a dead shim") else { return };
    let _agent = host.start();
    let nodes = [("w1", "interface = lo"), ("w2", "interface = lo\nenv = SIM_CLEAR_PDEATHSIG=1 SIM_IGNORE_TERM=1")];
    assert!(host.ask("r", set(cluster(&nodes))).success());
    for node in ["w1", "w2"] {
        let before = host.pids()[node];
        let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
        kill(host.shim_of(node), Signal::KILL, Some(&shim_mark));
        let report = eventually("its successor", || {
            let live = host.node_processes(node);
            assert!(live.len() <= 1, "two of {node}: {live:?}");
            let report = host.nodes().remove(node)?;
            (report.state == NodeState::Running && report.pid != Some(before)).then_some(report)
        });
        assert!(!is_alive(before), "{node}'s first process lives on");
        assert_identity(report.pid.unwrap(), uid, CAPTURE);
    }
}

/// What the test above sees by looking often enough, the node says itself: each of its processes takes a lock.
#[test]
fn a_node_of_another_user_is_never_started_beside_itself() {
    let Some((mut host, uid)) = host("node_user with a node that counts itself") else { return };
    let stand_in = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek")).unwrap();
    // Where its user gets to.
    let zeek = host.file("zeek", &stand_in);
    fs::set_permissions(&zeek, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "100ms").run_program(Path::new(&zeek));
    host.set("ZCA_BACKOFF_MIN", "1ms").set("ZCA_BACKOFF_MAX", "10ms");
    let _agent = host.start();
    let answer = host.ask("r", set(cluster(&[("w1", "interface = lo")])));
    assert!(answer.success(), "{}", errors(&answer));
    let directory = host.state_dir().join("nodes/w1");
    for deaths in 1..=5 {
        let shim_mark = format!("ZCA_STATE_DIR={}", host.state_dir().display());
        let before = host.wait_state("w1", NodeState::Running).pid;
        kill(host.shim_of("w1"), Signal::KILL, Some(&shim_mark));
        eventually("its successor", || {
            let report = host.nodes().remove("w1")?;
            (report.state == NodeState::Running && report.pid != before).then_some(())
        });
        assert_identity(host.pids()["w1"], uid, CAPTURE);
        assert_eq!(fs::read_to_string(directory.join("starts")).unwrap().lines().count(), deaths + 1);
    }
    assert!(!directory.join("twice").exists(), "it was started beside itself");
}

/// What to run, and for which program, is in `status`, for whoever cannot give nodes their rights.
#[test]
fn an_agent_that_is_not_root_says_how_nodes_get_to_capture() {
    let mut host = Host::new();
    let zeek = host.file("zeek", "#!/bin/sh\necho zeek version 8.0.10\n");
    fs::set_permissions(&zeek, Permissions::from_mode(0o755)).unwrap();
    host.run_program(Path::new(&zeek));
    let mut agent = host.command(&host.run_args());
    if rustix::process::geteuid().is_root() {
        let user = zeek_cluster_agent::settings::accounts::user(USER).unwrap().unwrap();
        std::os::unix::fs::chown(host.dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        // Not every user gets to where this was built.
        let binary = host.dir.path().join("agent");
        fs::copy(&host.binary, &binary).unwrap();
        host.binary = binary;
        agent = host.command(&host.run_args());
        agent.uid(user.uid).gid(user.gid);
    }
    let mut agent = Agent { child: agent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap() };
    host.wait_served(&mut agent);
    let said = host.run(&["status"]).stdout;
    let expected = format!("run `setcap cap_net_raw,cap_net_admin=eip {zeek}` as root");
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_script_keeps_the_capabilities_and_gets_limits_mask_and_cpu() {
    let Some((mut host, uid)) = host("node_user with a script") else { return };
    let script = host.file(
        "node.sh",
        "#!/bin/sh\nulimit -n > nofile; ulimit -c > core; umask > mask; cat /proc/self/status > status\n\
         echo absolute > \"$PWD/absolute\"; exec sleep 1000\n",
    );
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "500ms").run_program(Path::new(&script));
    host.set("ZCA_NODE_OPEN_FILES", "512 worker=777").set("ZCA_NODE_CORE", "0");
    let _agent = host.start();
    let answer = host.ask("r", set(cluster(&[("w1", "interface = lo\ncpu_affinity = 0"), ("logger:logger", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    let nodes = host.state_dir().join("nodes");
    let read = |file: &str| fs::read_to_string(nodes.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("w1/nofile"), read("logger/nofile"), read("w1/core")), ("777".into(), "512".into(), "0".into()));
    assert_eq!(read("w1/mask"), "0022", "the agent's own mask is its own");
    assert_eq!(read("w1/absolute"), "absolute");
    assert_eq!(owner(nodes.join("w1/absolute")).0, uid);
    let line = |key: &str| read("w1/status").lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("CapEff").ends_with(CAPTURE) && line("CapAmb").ends_with(CAPTURE), "through the interpreter");
    assert!(line("Cpus_allowed_list").ends_with("\t0"));
}

#[test]
fn what_the_nodes_user_plants_does_not_reach_what_is_roots() {
    let Some((host, uid)) = host("node_user as an attacker") else { return };
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let secret = host.dir.path().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let directory = host.state_dir().join("nodes/w1");
    for name in ["stdout", "stderr"] {
        fs::remove_file(directory.join(name)).unwrap();
    }
    symlink(&secret, directory.join("stdout")).unwrap();
    fs::hard_link(&secret, directory.join("stderr")).unwrap();
    assert!(host.ask("again", Request::Restart { nodes: ["w1".to_owned()].into() }).success());
    host.wait_state("w1", NodeState::Running);
    let pid = host.pids()["w1"];
    let line = format!("node w1 runs as pid {pid}");
    eventually("its output", || fs::read_to_string(directory.join("stdout")).ok()?.contains(&line).then_some(()));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
    assert_eq!(owner(&secret).0, 0);
    assert_eq!(owner(directory.join("stdout")).0, uid);
}

/// The descriptor of `lock` that `pid` has, as if that process had passed it on (unix(7), SCM_RIGHTS).
pub(crate) fn handed_over(pid: u32, lock: &Path) -> OwnedFd {
    let lock = lock.canonicalize().unwrap();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let its =
        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file == lock)).last().expect("it keeps the lock");
    let number = its.file_name().to_str().unwrap().parse().unwrap();
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, number, PidfdGetfdFlags::empty()).expect("root may copy a descriptor")
}

/// Processes of root and of somebody else that were handed the lock, and end at any signal.
pub(crate) fn victims(host: &Host, lock: OwnedFd) -> [Child; 2] {
    [0, 1234].map(|uid| {
        let mut command = Command::new("sleep");
        host.prepare(&mut command);
        let copy = lock.try_clone().unwrap();
        command.arg("1000").stdin(Stdio::from(copy)).uid(uid).current_dir("/").spawn().unwrap()
    })
}

pub(crate) fn assert_unharmed(victims: &mut [Child]) {
    for victim in victims {
        assert_eq!(victim.try_wait().unwrap(), None, "somebody else's process was signalled");
    }
}

/// Who a stranger is, as messages have it.
pub(crate) fn strangers(victims: &[Child; 2]) -> [String; 2] {
    [(&victims[0], 0), (&victims[1], 1234)].map(|(child, uid)| format!("pid {} (\"sleep\", uid {uid})", child.id()))
}

pub(crate) fn end(victims: &mut [Child]) {
    for victim in victims {
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
}

#[test]
fn a_nodes_lock_handed_to_others_gets_them_no_signal() {
    let Some((host, uid)) = host("node_user handing on its lock") else { return };
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let pids = host.pids();
    let mut victims = victims(&host, handed_over(pids["w1"], &host.state_dir().join("run/w1/lock")));
    kill(host.shim_of("w1"), Signal::KILL, Some(&format!("ZCA_STATE_DIR={}", host.state_dir().display())));
    host.wait_state("w1", NodeState::Unknown);
    assert!(!is_alive(pids["w1"]), "its own process is proven by the journal");
    assert_unharmed(&mut victims);
    let log = host.read_log();
    for said in strangers(&victims).iter().chain([&format!("the node ran as uid {uid}: it was handed to them")]) {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    assert_eq!(host.pids()["w2"], pids["w2"]);
    end(&mut victims);
    assert!(host.ask("again", Request::Restart { nodes: ["w1".to_owned()].into() }).success());
    host.wait_state("w1", NodeState::Running);
}

#[test]
fn the_archivers_lock_handed_to_others_gets_them_no_signal() {
    let Some((mut host, uid)) = host("node_user handing on the archiver's lock") else { return };
    let script = host.file("archiver.sh", "#!/bin/sh\nexec sleep 1000\n");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_ARCHIVE_COMMAND", &script).set("ZCA_ARCHIVE_INTERVAL", "50ms");
    let queue = host.state_dir().join("spool/log-queue");
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join("a.log"), "log").unwrap();
    let agent = host.start();
    let archiver = eventually("the archiver", || {
        let running = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sleep\0") && status(*pid)["Uid"].starts_with(&format!("{uid}\t"))
        };
        host.processes(&host.mark).into_iter().find(running)
    });
    let mut victims = victims(&host, handed_over(archiver, &host.state_dir().join("archive/lock")));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert!(!is_alive(archiver), "it ends with its agent");
    assert_unharmed(&mut victims);
    let log = host.read_log();
    for said in strangers(&victims).iter().chain([&format!("runs as uid {uid}: it was handed to them")]) {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    end(&mut victims);
}

/// A lock is the holders' together, and any of them can let go of it (flock(2)).
#[test]
fn a_node_that_lets_go_of_its_lock_is_adopted_all_the_same() {
    let Some((host, _)) = host("node_user letting go of its lock") else { return };
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let (pids, shim) = (host.pids(), host.shim_of("w1"));
    let lock = handed_over(pids["w1"], &host.state_dir().join("run/w1/lock"));
    flock(&lock, FlockOperation::Unlock).unwrap();
    drop(lock);
    agent.kill();
    let _agent = host.start();
    host.wait_state("w1", NodeState::Running);
    assert_eq!((host.pids(), host.shim_of("w1")), (pids.clone(), shim));
    assert!(host.ask("again", Request::Restart { nodes: ["w1".to_owned()].into() }).success());
    host.wait_state("w1", NodeState::Running);
    assert!(!is_alive(pids["w1"]) && !is_alive(shim));
    assert_eq!(host.events("node_exited").len(), 1);
}

/// A shim is root's whatever its node is, and is proven by where it works.
#[test]
fn a_shim_whose_socket_is_gone_is_ended_with_its_node() {
    let Some((host, uid)) = host("node_user with a shim that nobody reaches") else { return };
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "interface = lo")]))).success());
    let (node, shim) = (host.pids()["w1"], host.shim_of("w1"));
    agent.kill();
    fs::remove_file(host.state_dir().join("run/w1/socket")).unwrap();
    let _agent = host.start();
    let again = eventually("its successor", || host.pids().get("w1").copied().filter(|pid| *pid != node));
    host.wait_state("w1", NodeState::Running);
    assert!(!is_alive(node) && !is_alive(shim));
    assert_identity(again, uid, CAPTURE);
}

#[test]
fn a_log_queue_that_is_a_link_is_not_given_away_and_one_of_another_user_is() {
    let Some((host, uid)) = host("a log queue that is a link") else { return };
    let elsewhere = host.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let queue = host.state_dir().join("spool/log-queue");
    fs::create_dir_all(queue.parent().unwrap()).unwrap();
    symlink(&elsewhere, &queue).unwrap();
    let said = host.run(&host.run_args());
    let told = format!("nodes cannot be given {}", queue.display());
    assert!(said.code == 1 && said.stderr.contains(&told) && said.stderr.contains("not a link"), "{said:?}");
    assert_eq!(owner(&elsewhere).0, 0);
    fs::remove_file(&queue).unwrap();
    fs::create_dir(&queue).unwrap();
    std::os::unix::fs::chown(&queue, Some(uid - 1), None).unwrap();
    let _agent = host.start();
    assert_eq!(owner(&queue).0, uid);
}

/// Not 78, after which the service manager may not try again: at boot the name service may not be up yet.
#[test]
fn a_user_that_the_name_service_does_not_know_is_exit_1_naming_it() {
    let mut host = Host::new();
    host.set("ZCA_NODE_USER", "no-such-user-here");
    let said = host.run(&host.run_args());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("`node_user` is \"no-such-user-here\", and this host has no such user"), "{said:?}");
}

/// The agent sees an /etc/passwd of its own, to which the user is added while the agent asks for it.
#[test]
fn a_user_that_the_name_service_knows_late_is_waited_for() {
    let mut host = Host::new();
    let passwd = host.file("passwd", &fs::read_to_string("/etc/passwd").unwrap());
    let own_mounts = format!("mount --bind {passwd} /etc/passwd && exec \"$@\"");
    let can = Command::new("unshare").args(["-m", "sh", "-c", &own_mounts, "sh", "true"]).output().unwrap();
    if !can.status.success() {
        eprintln!("SKIPPED: no mount of its own: {}", String::from_utf8_lossy(&can.stderr));
        return;
    }
    host.set("ZCA_NODE_USER", "zca-late");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &own_mounts, "sh", env!("CARGO_BIN_EXE_zeek-cluster-agent")]).args(host.run_args());
    host.prepare(&mut command);
    let mut agent = Agent { child: command.stderr(host.log()).spawn().unwrap() };
    eventually("the user to be asked for", || {
        host.read_log().contains("has no such user; the name service").then_some(())
    });
    let line = "zca-late:x:61234:61234::/nonexistent:/usr/sbin/nologin\n";
    OpenOptions::new().append(true).open(&passwd).unwrap().write_all(line.as_bytes()).unwrap();
    host.wait_served(&mut agent);
    assert!(host.ask("set", set(cluster(&[("w1", "")]))).success());
    let status = fs::read_to_string(format!("/proc/{}/status", host.pids()["w1"])).unwrap();
    assert!(status.contains("Uid:\t61234\t61234\t61234\t61234"), "{status}");
}

#[test]
fn a_limit_that_this_host_cannot_give_is_exit_78_naming_it() {
    let mut host = Host::new();
    host.set("ZCA_NODE_OPEN_FILES", "999999999999");
    let said = host.run(&host.run_args());
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("fs.nr_open"), "{said:?}");
    let shown = host.set("ZCA_NODE_OPEN_FILES", "100 worker=200").json(&["settings", "--json"]);
    let limit = shown.as_array().unwrap().iter().find(|one| one["key"] == "node_open_files").unwrap().clone();
    assert_eq!(limit["value"], json!(["100", "worker=200"]));
}

//! Something else lies where a file of the state directory should be: the agent serves, or ends and says which file and what
//! to do. It waits for nothing, writes to nothing outside, and node and directory are as before when the file is back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, eventually, is_alive, set};

#[derive(Debug, Clone, Copy)]
enum Thing {
    Fifo,
    Directory,
    Link,
    DanglingLink,
    Empty,
}

impl Thing {
    fn put(self, path: &Path, outside: &Path) {
        match self {
            Self::Fifo => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
            }
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::Link => symlink(outside, path).unwrap(),
            Self::DanglingLink => symlink(outside.with_extension("missing"), path).unwrap(),
            Self::Empty => fs::write(path, "").unwrap(),
        }
    }

    fn remove(path: &Path) {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            // The agent moved it away itself.
            Err(_) => {}
        }
    }
}

const PLACES: &[&str] = &[
    "IDENTITY",
    "agent.lock",
    "journal.mark",
    "journal.current",
    "journal.ballast",
    "journal.suspect",
    "control.sock",
    "run/w1/lock",
    "run/w1/launch",
    "run/w1/status",
    "run/w1/shim.log",
    "nodes/w1/stdout",
    "nodes/w1/stderr",
    "run/w1",
    "run",
    "nodes/w1",
    "nodes",
    "crash",
    "archive",
    "spool",
];

#[test]
fn an_odd_file_hangs_nothing_and_is_told_with_what_to_do() {
    let mut host = Host::new();
    host.set("ZCA_BALLAST_SIZE", "64KiB");
    let agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", "")]))).success());
    let pid = host.pids()["w1"];
    let outside = host.dir.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    end(&host, agent);
    for place in PLACES {
        for thing in [Thing::Fifo, Thing::Directory, Thing::Link, Thing::DanglingLink, Thing::Empty] {
            let what = format!("{thing:?} as {place}");
            let path = host.state_dir().join(place);
            if path.is_dir() && matches!(thing, Thing::Directory) {
                continue;
            }
            let kept = host.dir.path().join("kept");
            let was_there = fs::rename(&path, &kept).is_ok();
            thing.put(&path, &outside);
            fs::write(host.dir.path().join("agent.log"), "").unwrap();
            start_and_end(&host, &what, &path);
            assert_eq!(fs::read_to_string(&outside).unwrap(), "mine", "{what}: what it points to was written to");
            assert!(!outside.with_extension("missing").exists(), "{what}: something was made where it points to");
            assert!(is_alive(pid), "{what}: the node has ended");
            Thing::remove(&path);
            if was_there {
                fs::rename(&kept, &path).unwrap();
            }
        }
    }
    let _agent = host.start();
    host.wait_state("w1", NodeState::Running);
    assert_eq!((host.pids()["w1"], host.status().hold), (pid, None));
    assert!(host.run(&["nodes", "restart", "w1"]).code == 0, "and it can be restarted");
    host.verify();
}

/// The agent serves and is ended again, or it ends by itself with 1 or 78 and names the file.
fn start_and_end(host: &Host, what: &str, path: &Path) {
    let mut agent = host.spawn();
    let ended = eventually(&format!("the agent to serve or to end ({what})"), || match agent.exited() {
        Some(code) => Some(Some(code)),
        None => host.try_status().filter(|status| status.serving).map(|_| None),
    });
    let log = host.read_log();
    match ended {
        Some(code) => {
            assert!(matches!(code, 1 | 78), "{what}: it ended with {code}; its log:\n{log}");
            let (name, dir) = (path.file_name().unwrap().to_str().unwrap(), host.state_dir());
            assert!(log.contains(name) && log.contains(dir.to_str().unwrap()), "{what} is not named:\n{log}");
        }
        None => end(host, agent),
    }
}

fn end(host: &Host, agent: crate::support::Agent) {
    let said = host.run(&["shutdown"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(agent.wait().success());
}

#[test]
fn an_identity_that_says_nothing_can_be_made_anew() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", "")]))).success());
    let pids = host.pids();
    end(&host, agent);
    let identity = host.state_dir().join("IDENTITY");
    fs::write(&identity, "").unwrap();
    let said = crate::support::run_to_end(&host, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    for told in [identity.to_str().unwrap(), "remove it and start the agent with the --name"] {
        assert!(said.stderr.contains(told), "{told}: {said:?}");
    }
    fs::remove_file(identity).unwrap();
    let _agent = host.start();
    assert_eq!((host.pids(), host.status().hold), (pids, None));
    assert_eq!(host.requests("first").len(), 1);
}

#[test]
fn output_with_a_second_name_is_not_read() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("first", set(cluster(&[("w1", "")]))).success());
    let secret = host.dir.path().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let stdout = host.state_dir().join("nodes/w1/stdout");
    fs::remove_file(&stdout).unwrap();
    fs::hard_link(&secret, &stdout).unwrap();
    let said = host.run(&["nodes", "logs", "w1"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("second name") && !said.stdout.contains("secret"), "{said:?}");
}

//! Bad input is answered, not suffered (P10), and nothing fails silently (P11): through the real binary.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::control::message::{
    self, CLIENT_FRAME_LIMIT, ClientFrame, ErrorCode, HEADER, SERVER_FRAME_LIMIT, ServerFrame, VERSION,
};

use crate::support::{Agent, Host, PATIENCE, cluster, copy_dir, errors, eventually, is_alive, kill, run_to_end, set};

const TWO: &[(&str, &str)] = &[("w1", ""), ("w2", "")];

fn deployed() -> (Host, Agent) {
    let host = Host::new();
    let agent = host.start();
    let answer = host.ask("first", set(cluster(TWO)));
    assert!(answer.success(), "{}", errors(&answer));
    (host, agent)
}

#[test]
fn an_invalid_configuration_is_journaled_answered_with_every_problem_and_changes_nothing() {
    let (host, _agent) = deployed();
    let pids = host.pids();
    let mut config = cluster(&[("w1", ""), ("w2", ""), ("m:manager", ""), ("a-b", "")]);
    config.nodes[1].name = "../w2".to_owned();
    config.nodes[3].instance = "ghost".to_owned();
    config.nodes.push(config.nodes[0].clone());
    let clashing =
        config.nodes.iter().find_map(|node| node.port).unwrap_or_else(|| config.instances[0].listen_port.unwrap());
    for node in &mut config.nodes {
        node.port = Some(clashing);
    }
    for (reqid, request) in [
        ("bad-s", set(config.clone())),
        ("bad-d", Request::Deploy { config: config.clone(), force: true, how: Box::default() }),
    ] {
        let answer = host.ask(reqid, request);
        assert!(!answer.success());
        let said = errors(&answer);
        for wanted in ["../w2", "ghost", "w1", "port"] {
            assert!(said.contains(wanted), "{wanted} is not named: {said}");
        }
        let rows = host.run(&["journal", "dump", "--reqid", reqid]).lines();
        assert_eq!((rows.len(), &rows[0]["state"], &rows[0]["success"]), (1, &json!("rejected"), &json!(false)));
        assert!(rows[0]["error"].is_string(), "a rejected row carries its error: {rows:?}");
    }
    // The command line tells the same in lines of its own and with its own exit code.
    let file = host
        .file("bad.ini", "[instances]\na1\n[w1]\ninstance = ghost\nrole = worker\n[w2]\ninstance = a1\nrole = chief\n");
    let said = host.run(&["request", "set-configuration", &file]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("bad.ini:8"), "{said:?}");
    assert_eq!(host.pids(), pids);
    assert_eq!(host.events("node_exited").len(), 0);
    host.verify();
}

/// A connection without a client's good manners.
struct Raw(UnixStream);

impl Raw {
    fn connect(host: &Host) -> Self {
        // Sockets are reached relative to their directory where the path is long; a scratch directory's is short.
        let stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn greeted(host: &Host) -> Self {
        let mut raw = Self::connect(host);
        raw.send(&message::encode_client(&ClientFrame::Hello { version: VERSION, client: "raw".to_owned() }).unwrap());
        assert!(matches!(raw.read(), Some(ServerFrame::Welcome(_))));
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn frame(&mut self, body: &[u8]) {
        self.send(&u32::try_from(body.len()).unwrap().to_be_bytes());
        self.send(body);
    }

    /// `None` when the agent has closed the connection.
    fn read(&mut self) -> Option<ServerFrame> {
        let mut header = [0; HEADER];
        match self.0.read(&mut header[..1]) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        self.0.read_exact(&mut header[1..]).unwrap();
        let mut body = vec![0; message::body_length(header, SERVER_FRAME_LIMIT).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Some(message::decode_server(&body).unwrap())
    }

    /// The error frame, and then the end.
    fn expect_error(mut self, wanted: ErrorCode, what: &str) {
        match self.read() {
            Some(ServerFrame::Error { call: None, code, message }) => {
                assert_eq!(code, wanted, "{what}: {message}");
                assert!(!message.is_empty());
            }
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(self.read(), None, "{what}: the connection is still open");
    }
}

#[test]
fn bad_frames_cost_their_own_connection_and_are_journaled_in_moderation() {
    let (host, _agent) = deployed();
    let pids = host.pids();
    let mut bystander = Raw::greeted(&host);
    let malformed: &[u8] = &[0xc1, 0xff, 0x00];
    let unknown_kind = {
        // {"frobnicate": {}}
        let mut body = vec![0x81, 0xaa];
        body.extend_from_slice(b"frobnicate");
        body.push(0x80);
        body
    };
    for greeted in [false, true] {
        let connect = || if greeted { Raw::greeted(&host) } else { Raw::connect(&host) };
        let mut raw = connect();
        raw.send(&u32::try_from(CLIENT_FRAME_LIMIT + 1).unwrap().to_be_bytes());
        raw.expect_error(ErrorCode::TooLong, "too long");
        let mut raw = connect();
        raw.send(&100_u32.to_be_bytes());
        raw.send(b"only some");
        raw.0.shutdown(Shutdown::Write).unwrap();
        raw.expect_error(ErrorCode::CutShort, "cut short");
        let mut raw = connect();
        raw.frame(malformed);
        raw.expect_error(ErrorCode::Malformed, "not MessagePack");
        let mut raw = connect();
        raw.send(&0_u32.to_be_bytes());
        raw.expect_error(ErrorCode::Malformed, "empty");
        let mut raw = connect();
        raw.frame(&unknown_kind);
        raw.expect_error(ErrorCode::UnknownKind, "unknown kind");
    }
    let mut raw = Raw::connect(&host);
    raw.send(&message::encode_client(&ClientFrame::Hello { version: 77, client: "future".to_owned() }).unwrap());
    raw.expect_error(ErrorCode::UnknownVersion, "unknown version");
    let mut raw = Raw::connect(&host);
    raw.send(&message::encode_client(&ClientFrame::Status { call: 1 }).unwrap());
    raw.expect_error(ErrorCode::OutOfOrder, "no hello");
    let deep: Vec<u8> = std::iter::repeat_n(0x91, 10_000).chain([0xc0]).collect();
    let mut raw = Raw::greeted(&host);
    raw.frame(&deep);
    raw.expect_error(ErrorCode::Malformed, "nested without end");
    // A request that is too large, in a frame that is not: that call fails, the connection goes on.
    let request = Request::NodeDispatch { action: vec!["x".repeat(5 << 20)], nodes: Default::default() };
    let frame = ClientFrame::Request {
        call: 9,
        reqid: "large".to_owned(),
        dialect: zeek_cluster_agent::api::event::Dialect::Management,
        timeout_ms: None,
        request,
    };
    bystander.send(&message::encode_client(&frame).unwrap());
    match bystander.read() {
        Some(ServerFrame::Error { call: Some(9), code: ErrorCode::Invalid, message }) => {
            assert!(message.contains("is the most"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    bystander.send(&message::encode_client(&ClientFrame::Status { call: 10 }).unwrap());
    assert!(matches!(bystander.read(), Some(ServerFrame::Status { call: 10, .. })), "others are served");

    // 14 of one peer within a minute, of which 10 are rows; the rest comes as a count when the minute is over.
    assert!(host.run(&["request", "welcome"]).code == 0);
    let rows = host.run(&["journal", "dump", "--state", "rejected"]).lines();
    assert_eq!(rows.len(), 10, "{rows:?}");
    assert!(rows.iter().all(|row| row["error"].as_str().is_some_and(|error| !error.is_empty())), "{rows:?}");
    assert_eq!(rows[0]["source"]["transport"], "control");
    assert_eq!(host.pids(), pids);
    host.verify();
}

#[test]
fn a_node_program_that_cannot_run_is_told_with_the_reason_and_given_up_only_if_that_lasts() {
    let mut host = Host::new();
    host.set("ZCA_REQUEST_TIMEOUT", "2").set("ZCA_READY_TIMEOUT", "2");
    let plain_file = host.file("not-executable", "#!/bin/sh\n");
    let no_interpreter = host.file("no-interpreter", "#!/nonexistent/sh\n");
    fs::set_permissions(&no_interpreter, fs::Permissions::from_mode(0o755)).unwrap();
    let directory = host.dir.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let programs = [
        (PathBuf::from("/nonexistent/zeek"), "/nonexistent/zeek", false),
        (PathBuf::from(plain_file), "not-executable", true),
        (PathBuf::from(no_interpreter), "no-interpreter", false),
        (directory, "directory", false),
        (PathBuf::from("no-such-program-in-path"), "no-such-program-in-path", false),
    ];
    let file = host.cluster_file("a.ini", &[("w1", "")]);
    for (program, wanted, lasts) in programs {
        host.run_program(&program);
        let agent = host.start();
        let said = host.run(&["request", "deploy", &file, "--force", "--json"]);
        assert_eq!(said.code, 1, "{}: {said:?}", program.display());
        let results = said.json()["results"].as_array().unwrap().clone();
        let of_node = results.iter().find(|result| result["node"] == json!("w1")).unwrap();
        let error = of_node["error"].as_str().unwrap_or_default();
        assert!(error.contains(wanted), "{}: {said:?}", program.display());
        if lasts {
            host.wait_state("w1", NodeState::Failed);
            // The running configuration again: failed nodes are tried again, and answered for.
            let again = host.run(&["request", "set-configuration", &file]);
            assert_eq!(again.code, 1, "{again:?}");
            assert!(again.stdout.contains("w1: ") && again.stdout.contains(wanted), "{again:?}");
        } else {
            assert_eq!(host.nodes()["w1"].state, NodeState::Crashed, "{}", program.display());
        }
        agent.kill();
    }
    // With a program that runs, the same request brings it up.
    host.run_program(Path::new("/bin/sleep")).set("ZCA_NODE_ARGS", "1000").set("ZCA_READY", "alive");
    let _agent = host.start();
    let said = host.run(&["request", "deploy", &file, "--force"]);
    assert_eq!(said.code, 0, "{said:?}");
    host.wait_all_running(1);
}

#[test]
fn bad_settings_end_with_78_and_say_where() {
    let mut host = Host::new();
    let file = host.file("agent.toml", "node_arg = [\"-C\"]\n");
    let said = run_to_end(&host, &["--config", &file]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("agent.toml:1") && said.stderr.contains("node_args"), "{said:?}");
    host.file("agent.toml", "ready_timeout = \"soon\"\n");
    let said = run_to_end(&host, &["--config", &file]);
    assert!(said.code == 78 && said.stderr.contains("ready_timeout"), "{said:?}");
    host.set("ZCA_READY", "perhaps");
    let said = run_to_end(&host, &[]);
    assert!(said.code == 78 && said.stderr.contains("ZCA_READY"), "{said:?}");
    assert!(!host.state_dir().exists(), "nothing was touched");
}

#[test]
fn a_state_directory_in_use_is_refused_after_waiting_and_names_the_holder() {
    let (host, agent) = deployed();
    let pids = host.pids();
    let begun = Instant::now();
    let said = run_to_end(&host, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&format!("pid {}", agent.pid())), "{said:?}");
    assert!(begun.elapsed() > Duration::from_secs(25), "a predecessor gets time to end: {:?}", begun.elapsed());
    assert_eq!(host.pids(), pids);
    assert_eq!(host.run(&["status"]).code, 0);
}

#[test]
fn a_successor_waits_for_its_predecessor() {
    let (host, agent) = deployed();
    let pids = host.pids();
    let mut second = host.spawn();
    // It has the lock's file open: it is waiting.
    let lock = host.state_dir().join("agent.lock");
    eventually("the second to come to the lock", || {
        let open = fs::read_dir(format!("/proc/{}/fd", second.pid())).ok()?;
        open.flatten().any(|one| fs::read_link(one.path()).is_ok_and(|path| path == lock)).then_some(())
    });
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    host.wait_served(&mut second);
    assert_eq!(host.pids(), pids);
}

/// Everything in a directory that is not a process's business of the moment: path and content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else if path.is_file() && !path.ends_with("agent.lock") {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_of_another_name_is_left_alone() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    let before = content(&host.state_dir());
    let said = run_to_end(&host, &["--name", "other"]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("belongs to agent a1, not to other"), "{said:?}");
    assert_eq!(content(&host.state_dir()), before);
    assert!(pids.values().all(|pid| is_alive(*pid)));
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    // By the identity.
    let path = host.state_dir().join("IDENTITY");
    let identity = fs::read_to_string(&path).unwrap();
    fs::write(&path, identity.replace("format = 1", "format = 2")).unwrap();
    let before = content(&host.state_dir());
    let said = run_to_end(&host, &[]);
    assert!(said.code == 78 && said.stderr.contains("newer release"), "{said:?}");
    assert_eq!(content(&host.state_dir()), before);
    fs::write(&path, identity).unwrap();

    // By the journal's side file, as a newer release writes it.
    let mark = host.state_dir().join("journal.mark");
    let good = fs::read(&mark).unwrap();
    let mut slot = [0; 64];
    slot[..8].copy_from_slice(b"ZCAMARK1");
    slot[8..12].copy_from_slice(&4_u32.to_le_bytes());
    slot[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let checksum = blake3::hash(&slot[..40]);
    slot[40..56].copy_from_slice(&checksum.as_bytes()[..16]);
    OpenOptions::new().write(true).open(&mark).unwrap().write_all_at(&slot, 0).unwrap();
    let before = content(&host.state_dir());
    let said = run_to_end(&host, &[]);
    assert!(said.code == 78 && said.stderr.contains("format 4"), "{said:?}");
    assert_eq!(content(&host.state_dir()), before);
    assert!(pids.values().all(|pid| is_alive(*pid)));
    fs::write(&mark, good).unwrap();
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(host.status().hold, None);
}

/// Damages a value under sled's own checksums, as a fault of memory would.
fn rewrite(host: &Host, key: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let db = sled::open(host.state_dir().join("journal")).unwrap();
    let value = db.get(key).unwrap().unwrap().to_vec();
    db.insert(key, change(value)).unwrap();
    db.flush().unwrap();
}

/// The agent is on hold, and says so wherever somebody looks.
fn check_hold(host: &Host, why: &str) {
    let report = host.status();
    assert!(report.serving);
    let hold = report.hold.unwrap_or_default();
    assert!(hold.contains(why), "{hold:?}");
    let said = host.run(&["status"]);
    assert!(said.code == 0 && said.stdout.contains("on hold") && said.stdout.contains(why), "{said:?}");
    assert_eq!(host.json(&["status", "--json"])["hold"], json!(hold));
    assert_eq!(host.events("hold_entered").len(), 1);
}

#[test]
fn a_damaged_journal_is_set_aside_and_nodes_are_adopted_on_hold() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    rewrite(&host, b"A", |mut value| {
        value.pop();
        value
    });
    let agent = host.start();
    check_hold(&host, "damaged");
    assert_eq!(host.pids(), pids, "adopted");
    let aside: Vec<PathBuf> = fs::read_dir(host.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("journal.damaged-"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(host.status().hold.unwrap().contains(&aside[0].display().to_string()), "it says where");
    // What was answered is still known.
    assert_eq!(host.run(&["journal", "show", "first"]).code, 0);
    assert!(host.ask("first", set(cluster(TWO))).success());
    host.verify();
    // It stays on hold through another crash, and until somebody says what they want.
    agent.kill();
    let _agent = host.start();
    assert!(host.status().hold.is_some());
    assert_eq!(host.pids(), pids);
    assert!(host.ask("again", set(cluster(TWO))).success());
    assert_eq!(host.status().hold, None);
    assert_eq!(host.pids(), pids, "the same configuration runs");
    host.verify();
}

#[test]
fn a_deleted_journal_leads_to_hold_with_nodes_supervised() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    kill(pids["w2"], Signal::KILL, Some(&host.mark));
    eventually("w2 to be gone", || (!is_alive(pids["w2"])).then_some(()));
    fs::remove_dir_all(host.state_dir().join("journal")).unwrap();
    let agent = host.start();
    check_hold(&host, "missing");
    assert_eq!(host.pids().get("w1"), Some(&pids["w1"]), "adopted");
    // Adopted nodes are supervised: one that dies is started again.
    kill(pids["w1"], Signal::KILL, Some(&host.mark));
    eventually("another w1", || host.pids().get("w1").copied().filter(|pid| *pid != pids["w1"]));
    host.wait_state("w1", NodeState::Running);
    assert_eq!(host.node_processes("w2"), [0_u32; 0], "nothing else is started");
    agent.kill();
    let _agent = host.start();
    assert!(host.status().hold.is_some());
    assert_eq!(host.node_processes("w2"), [0_u32; 0]);
    let before = host.node_processes("w1");
    let file = host.cluster_file("a.ini", TWO);
    assert_eq!(host.run(&["request", "set-configuration", &file]).code, 0);
    host.wait_all_running(2);
    assert_eq!(host.status().hold, None);
    println!("w1 before and after the configuration: {before:?} {:?}", host.node_processes("w1"));
    for node in ["w1", "w2"] {
        assert_eq!(host.node_processes(node).len(), 1, "{node}");
    }
    host.verify();
}

#[test]
fn nodes_commands_end_hold_mode() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    rewrite(&host, b"A", |_| b"?".to_vec());
    let _agent = host.start();
    check_hold(&host, "damaged");
    let said = host.run(&["nodes", "restart", "w1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(host.status().hold, None);
    assert_ne!(host.pids()["w1"], pids["w1"]);
    assert_eq!(host.pids()["w2"], pids["w2"]);
}

#[test]
fn a_journal_that_lost_its_tail_leads_to_hold() {
    let (host, agent) = deployed();
    let pids = host.pids();
    agent.kill();
    let journal = host.state_dir().join("journal");
    let yesterday = host.dir.path().join("yesterday");
    copy_dir(&journal, &yesterday);
    let agent = host.start();
    for number in 0..20 {
        assert!(host.ask(&format!("g{number}"), Request::GetNodes {}).success());
    }
    agent.kill();
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&yesterday, &journal).unwrap();
    let _agent = host.start();
    check_hold(&host, "lost its newest entries");
    assert_eq!(host.pids(), pids);
    // Numbers are not given out again, and the gap is accounted for.
    host.verify();
}

#[test]
fn an_identity_names_format_name_and_a_random_id() {
    let (host, agent) = deployed();
    let identity: toml::Table =
        toml::from_str(&fs::read_to_string(host.state_dir().join("IDENTITY")).unwrap()).unwrap();
    assert_eq!((identity["format"].as_integer(), identity["name"].as_str()), (Some(1), Some("a1")));
    let id = identity["id"].as_str().unwrap().to_owned();
    assert!(id.len() >= 32, "{id}");
    agent.kill();
    let _agent = host.start();
    let again: toml::Table = toml::from_str(&fs::read_to_string(host.state_dir().join("IDENTITY")).unwrap()).unwrap();
    assert_eq!(again["id"].as_str(), Some(id.as_str()), "written once");
    let mode = |path: &str| fs::metadata(host.state_dir().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("control.sock") & 0o007, 0, "not for everybody");
    let value: Value = host.json(&["settings", "--json"]);
    assert!(value.is_array());
}

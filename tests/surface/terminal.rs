//! What a peer, a node or a file says reaches no terminal as it is: every command and format, on a terminal of its own,
//! with an agent all of whose texts are hostile.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeek_cluster_agent::api::audit::Row;
use zeek_cluster_agent::api::configuration::Configuration;
use zeek_cluster_agent::api::figures::Figures;
use zeek_cluster_agent::api::history::PastReport;
use zeek_cluster_agent::api::plan::Plan;
use zeek_cluster_agent::api::preflight::HostReport;
use zeek_cluster_agent::api::report::StatusReport;
use zeek_cluster_agent::api::stats::{JournalStats, NodeStats};
use zeek_cluster_agent::cli;

use super::{PROGRAM, Served, program};

/// Colours that are none of ours, CSI and OSC in both forms, moves, text turned around, lines that would be of ours.
const HOSTILE: &str = "ev\u{1b}[8m\u{1b}]0;t\u{7}\u{9b}2J\u{9d}t\u{9c}\r\u{8}\u{7f}\u{202a}\u{202e}\u{2066}\u{2069}\
                       \u{200e}\u{200f}\u{61c}\u{2028}\u{2029}\u{85}il";
/// The same as a node's output, with bytes that are no text.
const OUTPUT: &[u8] = b"ev\x1b[8m\x9b2J\x85\xc2\x9b\xe2\x80\xaeil\n\xff\xc2\n";

/// `value` with [`HOSTILE`] for each text in it that may be any text.
pub fn tainted<T: Serialize + DeserializeOwned>(value: T) -> T {
    let mut whole = serde_json::to_value(value).unwrap();
    let mut places = Vec::new();
    texts(&whole, &mut String::new(), &mut places);
    assert!(!places.is_empty(), "{whole} has no text");
    for place in places {
        let calm = std::mem::replace(whole.pointer_mut(&place).unwrap(), HOSTILE.into());
        if serde_json::from_value::<T>(whole.clone()).is_err() {
            *whole.pointer_mut(&place).unwrap() = calm;
        }
    }
    serde_json::from_value(whole).unwrap()
}

fn texts(value: &Value, path: &mut String, places: &mut Vec<String>) {
    let mut below = |name: &str, value: &Value| {
        let length = path.len();
        path.push('/');
        path.push_str(name);
        texts(value, path, places);
        path.truncate(length);
    };
    match value {
        Value::String(_) => places.push(path.clone()),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| below(&at.to_string(), value)),
        Value::Object(values) => values.iter().for_each(|(name, value)| below(name, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// With everything that a report may have.
pub fn full_status(state_dir: &Path) -> StatusReport {
    let node = |state: &str| {
        json!({"node": "w1", "role": "worker", "state": state, "want": "up", "pid": 7, "incarnation": 1, "up_ms": 5, "deaths": 3,
               "next_start_ms": 9, "last_exit": "x", "note": "x"})
    };
    let archive = json!({"command": "x", "queue": "x", "directory": "x", "interval_ms": 1, "next_at": "x",
        "last": {"started_at": "x", "state": "failed", "result": "x", "exit_code": 1, "duration_ms": 1, "last_words": "x"}});
    let peer = json!({"direction": "x", "address": "x", "tls": "x", "endpoint": "x", "subscribed": ["x"], "node": null,
        "since_ms": 1});
    of(json!({
        "name": "x", "version": "x", "pid": 1, "state_dir": state_dir, "started_at": "2026-11-22T08:31:00Z", "serving": true,
        "hold": "x", "configuration": "x", "nodes": [node("RUNNING"), node("CRASHED")], "unfinished": 1, "refused": 1,
        "waiting_requests": [{"seq": 1, "reqid": "x", "event": "x", "accepted_at": "x", "source": "x"}],
        "journal": {"last": 3, "commits": 1, "commit_ms_p99": 1.0, "open_ms": 1.0, "bytes_on_disk": 1, "free_bytes": 1,
            "refusing": "x"},
        "listen": "x", "controller": {"address": "x", "state": "x", "problem": "x"}, "peers": [peer], "archive": archive,
        "warnings": ["x"],
    }))
}

/// One of each form.
pub fn full_rows() -> Vec<Row> {
    let source = json!({"transport": "x", "peer": "x"});
    let sighting = json!({"at": "x", "source": source});
    let result = json!({"reqid": "x", "success": false, "instance": "x", "data": {"stdout": "x", "stderr": "x"}, "error": "x",
        "node": "x"});
    let request = json!({"seq": 1, "reqid": "x", "event": "x", "dialect": "x", "source": source, "received_at": "x",
        "state": "completed", "attempts": 2, "duplicates": 1, "duplicates_first": [sighting], "digest": "x",
        "request": {"config": "x"}, "completed_at": "x", "duration_ms": 1.5, "success": false,
        "response": {"event": "x", "reqid": "x", "results": [result]}});
    let mut rejected = request.clone();
    rejected["error"] = "x".into();
    rejected["state"] = "rejected".into();
    let event =
        json!({"seq": 2, "at": "x", "event": "x", "node": "x", "incarnation": 1, "detail": {"y": "x"}, "summary": "x"});
    vec![of(request), of(rejected), of(event), of(json!({"seq": 3, "unreadable": "x"}))]
}

pub fn full_stats() -> JournalStats {
    let mut stats = JournalStats { entries: 1, unreadable: 1, ..JournalStats::default() };
    for text in [&mut stats.head, &mut stats.oldest, &mut stats.newest] {
        *text = Some("x".to_owned());
    }
    for counts in [&mut stats.states, &mut stats.sources, &mut stats.events] {
        counts.insert(HOSTILE.to_owned(), 1);
    }
    stats.requests.insert(HOSTILE.to_owned(), Default::default());
    let crashes = [(HOSTILE.to_owned(), 1)].into();
    stats.nodes.insert(HOSTILE.to_owned(), NodeStats { crashes, ..NodeStats::default() });
    stats
}

pub fn full_figures() -> Figures {
    let node = |problem: Option<&str>| {
        json!({"node": "x", "role": "worker", "state": "RUNNING", "pid": 7, "up_ms": 5, "usage": {"processes": 1,
            "cpu_seconds": 1.0, "rss_bytes": 1, "threads": 1, "descriptors": 1}, "captured": null, "problem": problem})
    };
    of(json!({"at": "x", "at_ms": 1, "nodes": [node(Some("x")), node(None)]}))
}

pub fn full_plan() -> Plan {
    of(json!({"running": "x", "proposed": "x", "is_running": false, "problems": [], "warnings": ["x"],
        "nodes": [{"node": "x", "action": "replace", "why": ["x"]}], "order": [{"action": "stop", "nodes": ["x"]}],
        "differences": [{"of": "x", "field": "x", "old": "x", "new": "x"}], "token": "x"}))
}

pub fn full_host_report() -> HostReport {
    of(
        json!({"errors": [], "report": {"problems": [{"nodes": ["x"], "text": "x\nx"}], "ran": 1, "cached": 1, "skipped": 1,
        "cpu_ms": 1, "took_ms": 1}}),
    )
}

pub fn full_past() -> PastReport {
    of(json!({"back": 1, "id": "x", "set_at": "x", "ready_at": "x", "ended_at": "x", "request": 1, "reqid": "x",
        "source": {"transport": "x", "peer": "x"}, "nodes": 1, "started": 1, "replaced": 1, "removed": 1}))
}

pub fn full_configuration() -> Configuration {
    of(json!({"id": "x", "instances": [{"name": "x", "host": "127.0.0.1"}], "nodes": [{"name": "x", "instance": "x",
        "role": "worker", "scripts": ["x"], "interface": "x", "env": {"X": "x"}, "options": [{"name": "x", "value": "x"}]}]}))
}

/// Writes what commands read beside the agent: a node's output, a crash bundle, cluster files.
fn write_files(dir: &Path) {
    let node = dir.join("nodes/w1");
    fs::create_dir_all(&node).unwrap();
    fs::write(node.join("stdout"), OUTPUT).unwrap();
    fs::write(node.join("stderr"), OUTPUT).unwrap();
    let bundle = dir.join("crash/w1/20261122T083100Z-1");
    fs::create_dir_all(&bundle).unwrap();
    let report = json!({"bundle": "b", "node": "w1", "incarnation": 1, "cause": HOSTILE, "noticed_at": HOSTILE, "ran_ms": 1,
        "pid": 1, "program": HOSTILE, "arguments": [HOSTILE], "environment": {HOSTILE: HOSTILE}, "directory": HOSTILE,
        "user": HOSTILE, "limits": HOSTILE, "core": null, "core_pattern": HOSTILE, "release": HOSTILE, "stdout": HOSTILE,
        "stderr": HOSTILE});
    fs::write(bundle.join("crash.json"), report.to_string()).unwrap();
    let damaged = dir.join("crash/w1/20261122T083200Z-2");
    fs::create_dir_all(&damaged).unwrap();
    fs::write(damaged.join("crash.json"), format!("{{\"{HOSTILE}\"")).unwrap();
    let cluster = json!({"id": HOSTILE, "instances": [{"name": "a1", "host": "127.0.0.1"}], "nodes": [{"name": "w1",
        "instance": "a1", "role": "WORKER", "env": {"X": HOSTILE}, "options": HOSTILE, "scripts": [HOSTILE]}]});
    fs::write(dir.join("good.json"), cluster.to_string()).unwrap();
    fs::write(dir.join("bad.ini"), format!("[{HOSTILE}]\nrole = {HOSTILE}\n{HOSTILE} = 1\n")).unwrap();
    fs::write(
        dir.join("node.cfg"),
        format!("[zeek]\ntype=standalone\nhost=localhost\ninterface=lo\nx{HOSTILE}={HOSTILE}\n"),
    )
    .unwrap();
}

/// On a terminal of its own. There, standard output and standard error are one.
fn on_a_terminal(served: &Served, line: &str) -> Child {
    let mut shell = Command::new("script");
    let direct = program(&[]);
    for (name, value) in direct.get_envs() {
        if value.is_none() {
            shell.env_remove(name);
        }
    }
    let command = format!("stty cols 100; exec {PROGRAM} {line} --state-dir {}", served.scratch.path().display());
    shell.args(["-qec", &command, "/dev/null"]).current_dir(served.scratch.path()).env("EVIL", HOSTILE);
    shell.env("TERM", "xterm").env("ZCA_NODE_DIR", served.scratch.path().join("nodes")).env_remove("NO_COLOR");
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What has come through to a terminal that obeys more than lines, tabs and our own colours.
fn obeyed(shown: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(shown) else {
        return Some("bytes that are no text".to_owned());
    };
    let mut text = text.replace("\r\n", "\n");
    for code in [0, 1, 2, 31, 32, 33, 35] {
        text = text.replace(&format!("\x1b[{code}m"), "");
    }
    let turns =
        |c| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let at = text.find(|c: char| c.is_control() && c != '\n' && c != '\t' || turns(c))?;
    Some(format!("{:?}", &text[at..].chars().take(8).collect::<String>()))
}

/// The commands without what is below them, `journal dump` for example.
fn leaves(command: &clap::Command, above: &str, found: &mut BTreeSet<String>) {
    for child in command.get_subcommands().filter(|child| child.get_name() != "help" && !child.is_hide_set()) {
        let name = format!("{above} {}", child.get_name());
        match child.has_subcommands() {
            true => leaves(child, &name, found),
            false => drop(found.insert(name.trim().to_owned())),
        }
    }
}

/// Commands as a shell runs them, and whether they have to show something of what was said to them.
const LINES: [(&str, bool); 83] = [
    ("request set-configuration good.json --reqid \"$EVIL\"", false),
    ("request set-configuration bad.ini", true),
    ("request set-configuration good.json --json", true),
    ("request deploy good.json --reqid failed", true),
    ("request deploy good.json --reqid refused", false),
    ("request deploy node.cfg", false),
    ("request deploy \"$EVIL\"", true),
    ("request welcome --reqid conflict", true),
    ("request welcome --reqid silent --timeout 0.1", false),
    ("request standby --reqid failed --json", true),
    ("request get-nodes --reqid failed", true),
    ("request restart w1 \"$EVIL\"", true),
    ("request restart w1 --json", true),
    ("request get-id-value \"$EVIL\" --reqid failed", true),
    ("request \"$EVIL\"", false),
    ("requests list", true),
    ("requests list --json", true),
    ("requests resume \"$EVIL\" --reqid failed", true),
    ("requests drop \"$EVIL\" --reqid failed", true),
    ("nodes list", true),
    ("nodes list --json", true),
    ("nodes list --wide", true),
    ("nodes list --wide --json", true),
    ("nodes top -n 1", true),
    ("nodes top -n 1 --json", true),
    ("nodes start w1 \"$EVIL\"", true),
    ("nodes stop w1 \"$EVIL\"", true),
    ("nodes stop w1 \"$EVIL\" --force", true),
    ("nodes restart w1 \"$EVIL\"", true),
    ("nodes logs w1", true),
    ("nodes logs w1 --stderr", true),
    ("nodes logs w2", true),
    ("nodes logs \"$EVIL\"", true),
    ("nodes print \"$EVIL\" w1 --reqid failed", true),
    ("nodes netstats \"$EVIL\" --reqid failed", true),
    ("nodes crash w1", true),
    ("nodes crash w1 20261122T083100Z-1", true),
    ("nodes crash w1 20261122T083100Z-1 --json", true),
    ("nodes crash w1 20261122T083200Z-2", false),
    ("nodes crash w1 \"$EVIL\"", true),
    ("status", true),
    ("status --json", true),
    ("notify --ready --node \"$EVIL\"", true),
    ("settings --config \"$EVIL\"", true),
    ("settings --json", false),
    ("journal dump", true),
    ("journal dump --json", true),
    ("journal dump --format table --color always", true),
    ("journal dump --format json", true),
    ("journal dump --format csv", true),
    ("journal dump --since \"$EVIL\"", true),
    ("journal tail", true),
    ("journal tail --format json", true),
    ("journal tail --format csv", true),
    ("journal show x", true),
    ("journal show x --json", true),
    ("journal prune --dry-run", false),
    ("journal stats", true),
    ("journal stats --json", true),
    ("journal compact", true),
    ("journal verify", true),
    ("journal verify --json", true),
    ("journal export out", true),
    ("journal import \"$EVIL\"", true),
    ("config check bad.ini", true),
    ("config check bad.ini --json", true),
    ("config check node.cfg", true),
    ("config check good.json --host", true),
    ("config check good.json --host --json", true),
    ("config diff good.json", true),
    ("config diff @-1 @0", true),
    ("config history", true),
    ("config history --json", true),
    ("config show", true),
    ("config show --json", true),
    ("config show \"$EVIL\"", true),
    ("config convert good.json --to json", true),
    ("config convert node.cfg --to ini", true),
    ("zeek keys \"$EVIL\"", true),
    ("state adopt --reqid failed", true),
    ("completions bash", false),
    ("man", false),
    // It ends with the name.
    ("run --name \"$EVIL\"", true),
];

/// These show nothing but what they started themselves, or end the agent.
const APART: [&str; 2] = ["demo", "shutdown"];

#[test]
fn no_command_lets_through_what_drives_a_terminal() {
    let served = Served::start_as(true);
    write_files(served.scratch.path());
    let mut wanted = BTreeSet::new();
    leaves(&cli::command(), "", &mut wanted);
    for apart in APART {
        assert!(wanted.remove(apart), "{apart}");
    }
    wanted.retain(|leaf| !LINES.iter().any(|(line, _)| line.starts_with(leaf.as_str())));
    assert!(wanted.is_empty(), "commands that are not looked at: {wanted:?}");
    let mut wrong = Vec::new();
    for (line, shows) in LINES {
        let output = on_a_terminal(&served, line).wait_with_output().unwrap();
        if let Some(what) = obeyed(&output.stdout) {
            wrong.push(format!("{line}: {what}"));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        // Cluster files are read with a sign in its place.
        if shows && !["ev\\u{1b}", "ev\\u001b", "ev\u{fffd}"].iter().any(|escaped| text.contains(escaped)) {
            wrong.push(format!("{line} shows nothing of it: {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_followed_log_is_escaped_however_its_bytes_come() {
    let served = Served::start_as(true);
    write_files(served.scratch.path());
    let mut child = on_a_terminal(&served, "nodes logs w1 -f");
    let mut log = fs::OpenOptions::new().append(true).open(served.scratch.path().join("nodes/w1/stdout")).unwrap();
    let mut terminal = child.stdout.take().unwrap();
    let (reads, read) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(length @ 1..) = terminal.read(&mut some) {
            reads.send(some[..length].to_vec()).unwrap();
        }
    });
    let mut shown = Vec::new();
    let mut until = |wanted: &str| {
        while !String::from_utf8_lossy(&shown).contains(wanted) {
            let Ok(more) = read.recv_timeout(Duration::from_secs(30)) else {
                panic!("{wanted:?} is not shown: {:?}", String::from_utf8_lossy(&shown));
            };
            shown.extend(more);
        }
    };
    until("\\xff\\xc2");
    // The first byte of a control character, and the second when the first has been read.
    log.write_all(b"one \xc2").unwrap();
    until("one ");
    log.write_all(b"\x9b \x9b\xe2\x80").unwrap();
    until("\\u{9b} \\x9b");
    log.write_all(b"\xae two\n").unwrap();
    until("\\u{202e} two");
    served.stop.cancel();
    child.wait().unwrap();
    shown.extend(read.iter().flatten());
    reading.join().unwrap();
    assert_eq!(obeyed(&shown), None, "{:?}", String::from_utf8_lossy(&shown));
}

#[test]
fn a_pipe_gets_the_bytes_as_they_are() {
    let served = Served::start_as(true);
    write_files(served.scratch.path());
    assert_eq!(served.run(&["nodes", "logs", "w1"]).stdout, OUTPUT);
    let dumped = served.run(&["journal", "dump"]).stdout;
    let row: Value = serde_json::from_slice(dumped.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(row["reqid"], HOSTILE);
    assert!(String::from_utf8(dumped).unwrap().contains("\u{9b}2J"));
    // On a terminal it is the same JSON in other words.
    let shown = on_a_terminal(&served, "journal dump --json").wait_with_output().unwrap().stdout;
    let row: Value = serde_json::from_slice(shown.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(row["reqid"], HOSTILE);
}

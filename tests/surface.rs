//! The command line through the real binary, against an agent that says what it is told to, and against none.

// Helpers are tests, too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use zeek_cluster_agent::api::audit::{EventRow, Filter, Page, Row};
use zeek_cluster_agent::api::configuration::Configuration;
use zeek_cluster_agent::api::event::{Incoming, Request, Response, Result as ApiResult, Route};
use zeek_cluster_agent::api::export::{ExportChunk, ExportCursor};
use zeek_cluster_agent::api::figures::Figures;
use zeek_cluster_agent::api::head::Anchor;
use zeek_cluster_agent::api::history::{PastReport, Which};
use zeek_cluster_agent::api::ids::{NodeName, Seq};
use zeek_cluster_agent::api::preflight::HostReport;
use zeek_cluster_agent::api::prune::{PruneOrder, PruneReport};
use zeek_cluster_agent::api::report::{CompactReport, JournalReport, SettingReport, StatusReport, VerifyReport};
use zeek_cluster_agent::api::stats::JournalStats;
use zeek_cluster_agent::control::logs;
use zeek_cluster_agent::control::message::{LogChunk, LogQuery, VERSION, Welcome};
use zeek_cluster_agent::control::{self, ControlAgent, Credentials, Handle, Server, Timeouts};
use zeek_cluster_agent::identify::{self, Gate};
use zeek_cluster_agent::transport::{Agent, Refusal};

#[path = "../fuzz/properties/control_frame.rs"]
mod control_frame;

#[path = "surface/tables.rs"]
mod tables;
#[path = "surface/terminal.rs"]
mod terminal;
#[path = "surface/timeout.rs"]
mod timeout;

use terminal::tainted;

const PROGRAM: &str = env!("CARGO_BIN_EXE_zeek-cluster-agent");

/// Answers by reqid: `silent` not at all, `refused`, `conflict`, `failed`; anything else succeeds.
struct Fake {
    dir: PathBuf,
    handle: OnceLock<Handle>,
    incoming: Mutex<Vec<Incoming>>,
    has_answered: AtomicBool,
    /// It greets, and answers no question for its status.
    is_mute: AtomicBool,
    /// Every text that it says is one that drives terminals.
    is_hostile: bool,
    /// What its journal has, if not ten rows that are all alike.
    rows: OnceLock<Vec<Row>>,
}

impl Fake {
    fn says<T: serde::Serialize + serde::de::DeserializeOwned>(&self, calm: T) -> T {
        if self.is_hostile { tainted(calm) } else { calm }
    }
}

impl Agent for Fake {
    fn request(&self, incoming: Incoming) -> Result<(), Refusal> {
        self.incoming.lock().unwrap().push(incoming.clone());
        let (success, error) = match incoming.reqid.as_str() {
            "silent" => return Ok(()),
            "refused" => return Err(Refusal { reason: "no space".into() }),
            "conflict" => (false, Some("conflict: the reqid is taken")),
            "failed" => (false, Some("it broke")),
            _ => (true, None),
        };
        let result = |node: Option<&str>| ApiResult {
            reqid: incoming.reqid.clone(),
            success,
            instance: Some("agent-1".into()),
            data: None,
            error: error.map(str::to_owned),
            node: node.map(str::to_owned),
        };
        let results = match &incoming.request {
            // This host has one node: w1.
            Request::Restart { nodes } | Request::StartNodes { nodes } | Request::StopNodes { nodes, .. }
                if success =>
            {
                nodes.iter().filter(|node| *node == "w1").map(|node| result(Some(node))).collect()
            }
            _ => vec![result(None)],
        };
        let event = incoming.request.response_event().to_owned();
        let mut response = self.says(Response { event, reqid: incoming.reqid.clone(), results });
        // A client looks for its own.
        response.reqid = incoming.reqid.clone();
        self.handle.get().unwrap().respond(incoming.route.unwrap(), &response, None);
        self.has_answered.store(true, Ordering::Release);
        Ok(())
    }

    fn malformed(&self, _: zeek_cluster_agent::api::event::Source, _: String, _: String) {}

    fn delivered(&self, _: Route) {}

    fn disconnected(&self, _: u64) {}

    fn subscribed(&self) {}
}

impl ControlAgent for Fake {
    async fn check_in(&self, node: NodeName, _: Credentials) -> Result<(), String> {
        if node.as_str() == "w1" { Ok(()) } else { Err(format!("no node {node}")) }
    }

    async fn status(&self) -> StatusReport {
        if self.is_mute.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        if self.is_hostile {
            return tainted(terminal::full_status(&self.dir));
        }
        StatusReport {
            name: "agent-1".into(),
            version: "0".into(),
            pid: 1,
            state_dir: "/s".into(),
            started_at: "2026-11-22T08:31:00Z".into(),
            serving: true,
            journal: JournalReport {
                last: 3,
                commits: 3,
                commit_ms_p99: 1.0,
                open_ms: 1.0,
                bytes_on_disk: 1,
                free_bytes: 1,
                refusing: None,
            },
            ..StatusReport::default()
        }
    }

    /// Ten rows in pages of three, the second of which is empty.
    async fn page(&self, filter: Filter, cursor: Option<Seq>) -> Result<Page, String> {
        if self.is_hostile {
            let rows = terminal::full_rows().into_iter().map(tainted).collect();
            return Ok(Page { rows, ..Page::default() });
        }
        if let Some(rows) = self.rows.get() {
            let rows = rows.iter().filter(|row| tables::is_in(row, &filter)).cloned().collect();
            return Ok(Page { rows, is_exact: true, ..Page::default() });
        }
        let from = cursor.map_or(0, |cursor| cursor.0);
        let row = |seq: u64| {
            let seq = if filter.reverse { 9 - seq } else { seq };
            Row::Event(Box::new(EventRow {
                seq: Seq(seq),
                at: "2026-11-22T08:31:00.000000Z".into(),
                event: "agent_started".into(),
                node: None,
                incarnation: None,
                detail: Value::Null,
                summary: "x".repeat(200),
            }))
        };
        let rows = if from == 3 { Vec::new() } else { (from..(from + 3).min(10)).map(row).collect() };
        let next = match from {
            0 => Some(3),
            3 => Some(30),
            30 => None,
            _ => unreachable!("no such page"),
        };
        let mut rows: Vec<Row> = if from == 30 { (3..10).map(row).collect() } else { rows };
        rows.retain(|row| filter.from_seq.is_none_or(|first| row.seq() >= first));
        Ok(Page { rows, next: next.map(Seq), ..Page::default() })
    }

    async fn verify(&self, _anchor: Option<Anchor>) -> Result<VerifyReport, String> {
        Ok(self.says(VerifyReport {
            entries: 3,
            first: 1,
            last: 3,
            problems: vec!["entry 2: checksum".into()],
            notes: vec!["a note".into()],
            head: "3:00".into(),
            ..VerifyReport::default()
        }))
    }

    async fn export(&self, _cursor: Option<Box<ExportCursor>>) -> Result<ExportChunk, String> {
        Err(self.says("the fake exports nothing".to_owned()))
    }

    async fn prune(&self, order: PruneOrder, _: Credentials) -> Result<PruneReport, String> {
        Ok(PruneReport { dry_run: order.dry_run, entries: 3, ..PruneReport::default() })
    }

    fn settings(&self) -> Vec<SettingReport> {
        let setting =
            SettingReport { key: "name".into(), value: "a".into(), source: "default".into(), shown: "a".into() };
        vec![self.says(setting)]
    }

    async fn figures(&self) -> Result<Figures, String> {
        match self.is_hostile {
            true => Ok(tainted(terminal::full_figures())),
            false => Err("there are none".to_owned()),
        }
    }

    async fn stats(&self) -> Result<JournalStats, String> {
        let stats = JournalStats { entries: 3, ..JournalStats::default() };
        Ok(if self.is_hostile { tainted(terminal::full_stats()) } else { stats })
    }

    async fn compact(&self, _force: bool) -> Result<CompactReport, String> {
        Err(self.says("there is nothing to compact".to_owned()))
    }

    async fn plan(
        &self,
        config: zeek_cluster_agent::api::configuration::Configuration,
        _force: bool,
    ) -> Result<zeek_cluster_agent::api::plan::Plan, String> {
        if self.is_hostile {
            return Ok(tainted(terminal::full_plan()));
        }
        Ok(zeek_cluster_agent::api::plan::Plan { proposed: config.id, ..Default::default() })
    }

    async fn check_host(&self, _config: Configuration) -> Result<HostReport, String> {
        Ok(if self.is_hostile { tainted(terminal::full_host_report()) } else { HostReport::default() })
    }

    async fn config_history(&self) -> Result<Vec<PastReport>, String> {
        Ok(if self.is_hostile { vec![tainted(terminal::full_past())] } else { Vec::new() })
    }

    async fn config_show(&self, which: Which) -> Result<(PastReport, Configuration), String> {
        match (self.is_hostile, which) {
            (true, Which::Back(0)) => Ok((tainted(terminal::full_past()), tainted(terminal::full_configuration()))),
            (true, Which::Back(_)) => Ok((tainted(terminal::full_past()), Configuration::default())),
            (_, which) => Err(self.says(format!("there is no {which}"))),
        }
    }

    async fn logs(&self, node: NodeName, query: LogQuery) -> Result<LogChunk, String> {
        logs::read(&self.dir.join(node.as_str()), &query).map_err(|error| self.says(error.to_string()))
    }
}

struct Served {
    scratch: tempfile::TempDir,
    fake: Arc<Fake>,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn start() -> Self {
        Self::start_as(false)
    }

    fn start_as(is_hostile: bool) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake {
            dir: scratch.path().join("nodes"),
            handle: OnceLock::new(),
            incoming: Mutex::new(Vec::new()),
            has_answered: AtomicBool::new(false),
            is_mute: AtomicBool::new(false),
            is_hostile,
            rows: OnceLock::new(),
        });
        let welcome = Welcome {
            version: VERSION,
            agent: "agent-1".into(),
            release: "0".into(),
            pid: 1,
            state_dir: if is_hostile { scratch.path().display().to_string() } else { "/s".into() },
            request_timeout_ms: 7000,
            stop_timeout_ms: 20_000,
            ready_timeout_ms: 0,
        };
        let options =
            control::Options { path: scratch.path().join("control.sock"), group: None, timeouts: Timeouts::default() };
        let gate = Gate::new(identify::Options::only(rustix::process::geteuid().as_raw()));
        let (server, handle) = Server::bind(&options, Arc::new(AtomicU64::new(1)), welcome, gate).unwrap();
        fake.handle.set(handle).ok().unwrap();
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(server.run(Arc::clone(&fake), stop.clone()));
        Self { scratch, fake, stop, _runtime: runtime }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--state-dir").arg(self.scratch.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn exit(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }
}

/// The binary, without anything of this process's surroundings that it would listen to.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["ZCA_", "ZEEK_", "XDG_", "RUST_LOG", "NOTIFY_", "CLUSTER_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn outcomes_have_the_exit_codes_of_the_contract() {
    let served = Served::start();
    for (arguments, exit) in [
        (&["request", "welcome"][..], 0),
        (&["request", "standby", "--reqid", "failed"], 1),
        (&["request", "get-nodes", "--reqid", "refused"], 1),
        (&["request", "frobnicate"], 2),
        (&["request", "welcome", "--reqid", "silent", "--timeout", "0.1"], 4),
        (&["request", "welcome", "--reqid", "conflict"], 5),
        (&["request", "set-configuration", "/nonexistent"], 78),
        (&["request", "restart", "w1"], 0),
        (&["request", "restart", "w1", "w2"], 1),
        (&["nodes", "restart", "w2"], 1),
        (&["nodes", "start", "w1"], 0),
        (&["nodes", "stop", "w1"], 0),
        (&["nodes", "stop", "w1", "--force"], 0),
        (&["status"], 0),
        (&["nodes", "list"], 0),
        (&["journal", "verify"], 1),
        (&["notify", "--ready", "--node", "w1"], 0),
        (&["notify", "--ready", "--node", "w2"], 1),
        (&["notify", "--ready"], 2),
    ] {
        assert_eq!(served.exit(arguments), exit, "{arguments:?}");
    }
}

#[test]
fn a_request_prints_its_response_and_nothing_else() {
    let served = Served::start();
    let output = served.run(&["request", "restart", "w1", "w2", "--json"]);
    let reqid = stderr(&output).lines().find_map(|line| line.strip_prefix("reqid: ").map(str::to_owned)).unwrap();
    assert!(stderr(&output).contains("no node called w2"), "{output:?}");
    assert_eq!(
        json(&output),
        serde_json::json!({"event": "restart_response", "reqid": reqid, "results": [
            {"reqid": reqid, "success": true, "instance": "agent-1", "data": null, "error": null, "node": "w1"}
        ]})
    );
    let output = served.run(&["request", "welcome", "--reqid", "mine", "--timeout", "2.5", "--json"]);
    assert_eq!((stderr(&output), json(&output)["reqid"].as_str()), (String::new(), Some("mine")));
    let incoming = served.fake.incoming.lock().unwrap();
    assert_eq!(incoming[1].dialect.as_str(), "ClusterAgent");
    assert_eq!(incoming[0].dialect.as_str(), "Management");
}

#[test]
fn a_timeout_says_how_to_ask_again() {
    let served = Served::start();
    let output = served.run(&["request", "welcome", "--reqid", "silent", "--timeout", "0.1"]);
    assert!(stderr(&output).contains("still being handled: ask again with --reqid silent"), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_file_without_instances_means_the_connected_agent() {
    let served = Served::start();
    let file = served.scratch.path().join("cluster.ini");
    std::fs::write(&file, "[w1]\nrole = worker\ninterface = lo\n").unwrap();
    assert_eq!(served.exit(&["request", "deploy", file.to_str().unwrap(), "--force"]), 0);
    let incoming = served.fake.incoming.lock().unwrap();
    let Request::Deploy { config, force: true, .. } = &incoming[0].request else { panic!("{:?}", incoming[0]) };
    assert_eq!(config.nodes[0].instance, "agent-1");
}

#[test]
fn a_cluster_file_comes_from_standard_input_and_its_errors_name_it() {
    let served = Served::start();
    let mut command = served.command(&["request", "set-configuration", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"[w1]\nrole = chief\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("standard input:2"), "{output:?}");
    assert!(served.fake.incoming.lock().unwrap().is_empty());
}

#[test]
fn a_dump_goes_through_every_page() {
    let served = Served::start();
    let seqs = |arguments: &[&str]| -> Vec<u64> {
        let text = stdout(&served.run(arguments));
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&["journal", "dump"]), (0..10).collect::<Vec<_>>());
    assert_eq!(seqs(&["journal", "dump", "--json"]), (0..10).collect::<Vec<_>>());
    assert_eq!(seqs(&["journal", "dump", "-n", "4"]), [6, 7, 8, 9]);
    assert_eq!(seqs(&["journal", "dump", "-n", "4", "--reverse"]), [9, 8, 7, 6]);
    assert_eq!(seqs(&["journal", "dump", "-n", "0"]), [0_u64; 0]);
    let table = stdout(&served.run(&["journal", "dump", "--format", "table"]));
    assert_eq!(table.lines().count(), 11);
    let csv = stdout(&served.run(&["journal", "dump", "--format", "csv"]));
    assert!(csv.starts_with("seq,received_at,event,reqid,"), "{csv}");
    assert_eq!(served.exit(&["journal", "dump", "--since", "soon"]), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let served = Served::start();
    let mut child = served.command(&["journal", "dump"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn output_of_a_node_is_followed() {
    let served = Served::start();
    let dir = served.fake.dir.join("w1");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("stdout"), "one\ntwo\n").unwrap();
    std::fs::write(dir.join("stderr"), "oops\n").unwrap();
    assert_eq!(stdout(&served.run(&["nodes", "logs", "w1", "-n", "1"])), "two\n");
    assert_eq!(stdout(&served.run(&["nodes", "logs", "w1", "--stderr"])), "oops\n");
    assert_eq!(served.exit(&["nodes", "logs", "w2"]), 1);

    let mut child = served.command(&["nodes", "logs", "w1", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!((lines.next().unwrap(), lines.next().unwrap()), ("one".to_owned(), "two".to_owned()));
    std::fs::OpenOptions::new().append(true).open(dir.join("stdout")).unwrap().write_all(b"three\n").unwrap();
    assert_eq!(lines.next().unwrap(), "three");
    // The agent goes: the command ends by itself, and says that it did not reach it any more.
    served.stop.cancel();
    assert_eq!(child.wait().unwrap().code(), Some(3));

    // Without an agent the files are read where they are.
    assert_eq!(stdout(&served.run(&["nodes", "logs", "w1", "-n", "1"])), "three\n");
}

#[test]
fn a_shutdown_is_done_when_the_agent_is_gone() {
    let served = Served::start();
    let stop = served.stop.clone();
    let fake = Arc::clone(&served.fake);
    let ending = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fake.has_answered.load(Ordering::Acquire) {
            assert!(Instant::now() < deadline, "no request was answered");
            std::thread::yield_now();
        }
        stop.cancel();
    });
    assert_eq!(served.exit(&["shutdown", "--reqid", "s"]), 0);
    ending.join().unwrap();
    assert_eq!(served.exit(&["shutdown"]), 3);
}

#[test]
fn without_an_agent_what_was_tried_is_named() {
    let home = tempfile::tempdir().unwrap();
    let tried = |arguments: &[&str]| {
        let output =
            program(arguments).env("HOME", home.path()).env("STATE_DIRECTORY", "/nonexistent").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        stderr(&output)
    };
    let said = tried(&["nodes", "list"]);
    assert!(said.contains("/nonexistent/control.sock"), "{said}");
    assert!(
        said.contains(&format!("{}/.local/state/zeek-cluster-agent/control.sock", home.path().display())),
        "{said}"
    );
    assert!(tried(&["status", "--control-socket", "/nonexistent/x"]).contains("tried /nonexistent/x ("));
}

#[test]
fn settings_show_where_they_come_from_and_bad_ones_are_78() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("agent.toml");
    std::fs::write(&file, "name = \"sensor\"\nready_timeout = 90\n").unwrap();
    let settings = |arguments: &[&str]| {
        let mut command = program(&["settings", "--json"]);
        command.args(arguments).env("ZCA_CONFIG", &file).env("ZCA_READY", "alive").output().unwrap()
    };
    let shown = json(&settings(&["--state-dir", "/s"]));
    let find = |key: &str| shown.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone();
    assert_eq!(find("name")["value"], "sensor");
    assert_eq!(find("name")["source"], format!("{}:1", file.display()));
    assert_eq!(find("ready")["source"], "environment ZCA_READY");
    assert_eq!(find("control_socket")["value"], "/s/control.sock");
    assert_eq!(find("state_dir")["source"], "flag --state-dir");
    assert_eq!(find("stop_timeout")["source"], "default");

    std::fs::write(&file, "nmae = \"sensor\"\n").unwrap();
    let output = settings(&[]);
    assert_eq!(output.status.code(), Some(78));
    let expected = format!("{}:1: unknown setting `nmae`; the nearest known one is `name`", file.display());
    assert!(stderr(&output).contains(&expected), "{output:?}");
    assert_eq!(program(&["run", "--config", "/nonexistent"]).output().unwrap().status.code(), Some(78));
    assert_eq!(program(&["run", "--listen", "somewhere"]).output().unwrap().status.code(), Some(2));
    assert_eq!(program(&["run", "--name", "a/b"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn cluster_files_are_checked_and_converted() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).display().to_string();
    std::fs::write(path("good.ini"), "[instances]\na1\n[w1]\ninstance = a1\nrole = worker\ninterface = lo\n").unwrap();
    std::fs::write(path("bad.ini"), "[w1]\nrole = chief\n").unwrap();
    let run = |arguments: &[&str]| program(arguments).output().unwrap();
    let output = run(&["config", "check", &path("good.ini")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("valid"));
    let output = run(&["config", "check", &path("bad.ini"), "--json"]);
    assert_eq!((output.status.code(), &json(&output)["valid"]), (Some(78), &Value::Bool(false)));

    let converted = run(&["config", "convert", &path("good.ini"), "--to", "json"]);
    assert_eq!(json(&converted)["nodes"][0]["name"], "w1");
    std::fs::write(path("good.json"), &converted.stdout).unwrap();
    let ini = run(&["config", "convert", &path("good.json"), "--to", "ini"]);
    assert!(stdout(&ini).contains("[w1]"));
}

#[test]
fn a_node_cfg_is_checked_and_converted_and_not_sent() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("node.cfg").display().to_string();
    std::fs::write(&file, "[zeek]\ntype=standalone\nhost=localhost\ninterface=lo\nzone_id=lo\n").unwrap();
    let run = |arguments: &[&str]| program(arguments).output().unwrap();
    let output = run(&["config", "check", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("node.cfg:5: [zeek] zone_id: has no equivalent here"), "{output:?}");
    let output = run(&["config", "convert", &file, "--to", "json"]);
    assert_eq!(
        (&json(&output)["nodes"][0]["name"], &json(&output)["nodes"][0]["role"]),
        (&"zeek".into(), &"NONE".into())
    );
    assert!(stderr(&output).contains("warning: "), "{output:?}");
    let output = run(&["request", "deploy", &file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(stderr(&output).contains("is zeekctl's node.cfg and not a cluster file; convert it with `config convert"));
}

#[test]
fn a_node_without_a_channel_says_that_it_is_ready_through_its_environment() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let output = program(&["notify", "--ready"]).env("NOTIFY_SOCKET", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut bytes = [0; 100];
    let length = socket.recv(&mut bytes).unwrap();
    assert!(bytes[..length].starts_with(b"READY=1\n"));
}

#[test]
fn shells_and_man_get_their_texts() {
    let bash = program(&["completions", "bash"]).output().unwrap();
    assert!(stdout(&bash).contains("set-configuration"));
    let man = stdout(&program(&["man"]).output().unwrap());
    assert!(man.contains(".TH zeek-cluster-agent 1") && man.contains(".TH zeek-cluster-agent-journal-dump 1"), "{man}");
    let help = stdout(&program(&["request", "--help"]).output().unwrap());
    assert!(help.contains("4 timeout"), "{help}");
}

#[test]
fn the_unit_file_says_what_the_promises_rest_on() {
    let unit = include_str!("../packaging/zeek-cluster-agent.service");
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "KillMode=process",
        "OOMPolicy=continue",
        "TasksMax=infinity",
        "Restart=always",
        "RestartSec=1",
        "RestartPreventExitStatus=78",
        "WatchdogSec=45",
        "StartLimitIntervalSec=0",
        "StateDirectory=zeek-cluster-agent",
    ] {
        assert!(unit.lines().any(|own| own == line), "{line}");
    }
}

/// The inputs that fuzzing starts from and whatever it found, without a fuzzer.
#[test]
fn the_fuzz_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/control_frame");
    let mut count = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        let body = std::fs::read(file.unwrap().path()).unwrap();
        for end in 0..=body.len() {
            control_frame::holds(&body[..end]);
        }
        for place in 0..body.len().min(120) {
            for bit in 0..8 {
                let mut flipped = body.clone();
                flipped[place] ^= 1 << bit;
                control_frame::holds(&flipped);
            }
        }
        count += 1;
    }
    assert!(count >= 30, "{count} inputs");
}

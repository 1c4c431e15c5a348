//! One of every stored thing, as values. `migrations/*/entries` hold them as bytes, written when the format was made;
//! whoever changes what these bytes mean finds out here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;

use crate::api::alert::{Alert, AlertKind};
use crate::api::configuration::{ClusterRole, Configuration, Instance, Node, Port, Protocol, ScriptOption};
use crate::api::event::{DeployOptions, Dialect, Request, Response, Result as ApiResult, ResultData, Source};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId, Program, Readiness};
use crate::api::preflight::{PreflightProblem, PreflightReport};
use crate::api::status::{ManagementRole, NodeOutputs, NodeState, NodeStatus};
use crate::api::time::{BootTime, Timestamp};
use crate::journal::format::codec::{self, CHUNK, Encoded, Hash, Head};
use crate::journal::format::entry::past::{NodesChanged, PastExtras, PastRecord};
use crate::journal::format::entry::*;
use crate::journal::format::keys;
use crate::journal::format::versions::records::{
    DeadlineRecord, DuplicatesRecord, FormatRecord, HistoryRecord, OutcomeRecord, ReqidRecord, Stored,
};
use crate::journal::format::versions::v2::{ENTRY_KINDS, entry_kind};

/// Set in the environment of the tests: samples that have no file yet get one.
const WRITE_MISSING: &str = "WRITE_MISSING_SAMPLES";

/// 2026-11-22T08:31:00.123456Z
const AT: Timestamp = Timestamp(1_795_336_260_123_456);

/// The hash of entry 16.
const PREVIOUS: Hash = [0xa7; 32];

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn reqid(text: &str) -> ReqId {
    ReqId::new(text).unwrap()
}

fn source() -> Source {
    Source { transport: "control".to_owned(), peer: "uid=0 pid=4242".to_owned() }
}

fn process() -> ProcessId {
    ProcessId { boot_id: "6f1c2a1e-5f0e-4c53-8d0a-0123456789ab".to_owned(), pid: 4711, start_time: 123_456 }
}

fn spec() -> LaunchSpec {
    LaunchSpec {
        program: Program::Path("/opt/zeek/bin/zeek".to_owned()),
        args: vec!["-i".to_owned(), "eth0".to_owned()],
        env: BTreeMap::from([("TZ".to_owned(), "UTC".to_owned())]),
        role: ClusterRole::Worker,
        ports: vec![2200, 9000],
        readiness: Readiness::Alive { after_ms: 1000 },
        stop_timeout_ms: 10_000,
        secrets: BTreeMap::new(),
        rights: Box::default(),
        files: BTreeMap::new(),
    }
}

fn simulated() -> LaunchSpec {
    LaunchSpec { program: Program::Simulated, readiness: Readiness::Checkin, ..spec() }
}

fn configuration(padding: usize) -> Configuration {
    let port = |number| Some(Port { number, protocol: Protocol::Tcp });
    let full = Node {
        name: "worker-1".to_owned(),
        instance: "agent-1".to_owned(),
        role: ClusterRole::Worker,
        port: port(2203),
        scripts: vec!["policy/tuning/json-logs".to_owned()],
        options: vec![ScriptOption { name: "Log::rotate".to_owned(), value: "x".repeat(padding) }],
        interface: Some("eth0".to_owned()),
        cpu_affinity: Some(4),
        env: BTreeMap::from([("FOO".to_owned(), "bar".to_owned())]),
        metrics_port: port(9003),
    };
    let bare = Node {
        name: "manager".to_owned(),
        instance: "agent-2".to_owned(),
        role: ClusterRole::Manager,
        port: None,
        scripts: Vec::new(),
        options: Vec::new(),
        interface: None,
        cpu_affinity: None,
        env: BTreeMap::new(),
        metrics_port: None,
    };
    let instances = vec![
        Instance { name: "agent-1".to_owned(), host: "10.0.0.7".parse().unwrap(), listen_port: port(2151) },
        Instance { name: "agent-2".to_owned(), host: "fd00::7".parse().unwrap(), listen_port: None },
    ];
    Configuration { id: "c-1".to_owned(), instances, nodes: vec![bare, full], cluster_backend: None }
}

fn result(data: Option<ResultData>) -> ApiResult {
    ApiResult {
        reqid: reqid("r-1"),
        success: false,
        instance: Some("agent-1".to_owned()),
        data,
        error: Some("no".to_owned()),
        node: Some("worker-1".to_owned()),
    }
}

fn response() -> Response {
    let row = NodeStatus {
        node: "worker-1".to_owned(),
        state: NodeState::Running,
        mgmt_role: ManagementRole::Node,
        cluster_role: ClusterRole::Worker,
        pid: Some(4711),
        port: Some(Port { number: 2203, protocol: Protocol::Tcp }),
        metrics_port: None,
    };
    let outputs = NodeOutputs { stdout: "out".to_owned(), stderr: "err".to_owned() };
    Response {
        event: "deploy_response".to_owned(),
        reqid: reqid("r-1"),
        results: vec![
            result(None),
            result(Some(ResultData::Nodes(vec![row]))),
            result(Some(ResultData::Nodes(Vec::new()))),
            result(Some(ResultData::Outputs(outputs))),
            result(Some(ResultData::Text("42".to_owned()))),
        ],
    }
}

fn received(dialect: Dialect, request: Request) -> Entry {
    Entry::RequestReceived {
        reqid: reqid("r-1"),
        digest: digest(&request),
        request: Packed(request),
        dialect,
        source: source(),
    }
}

fn exited(cause: ExitCause, verdict: Verdict, process: Option<ProcessId>) -> Entry {
    Entry::NodeExited {
        node: name("worker-1"),
        incarnation: Incarnation(3),
        cause,
        asked: matches!(verdict, Verdict::Rest),
        ran_ms: process.as_ref().map(|_| 1500),
        process,
        when: BootTime(77),
        verdict,
    }
}

/// Every entry, and every variant of the enums inside, as entry 17.
#[allow(clippy::too_many_lines, reason = "a table: a line or two for each sample")]
fn entries() -> Vec<(&'static str, Entry)> {
    let nodes = || BTreeSet::from(["worker-1".to_owned(), "worker-2".to_owned()]);
    let waits = |goal| Entry::RequestWaits { of: Seq(16), goal, targets: vec![(name("worker-1"), Incarnation(3))] };
    let changed = |config| Entry::DesiredChanged {
        by: Seq(16),
        config,
        nodes: vec![
            (name("a"), WantChange::Up { spec: Packed(spec()), least: Incarnation(2) }),
            (name("b"), WantChange::Retry),
            (name("c"), WantChange::Stopped),
            (name("d"), WantChange::Gone),
        ],
    };
    let completed = |outcome, response| Entry::RequestCompleted { of: Seq(16), outcome, attempts: 2, response };
    let outcome = |outcome| completed(outcome, Answer::Kept(response()));
    let answered = |response| Entry::RequestAnswered {
        reqid: reqid("r-1"),
        digest: digest(&Request::GetNodes {}),
        request: Packed(Request::GetNodes {}),
        dialect: Dialect::Management,
        source: source(),
        response,
    };
    let dropped = Answer::Dropped { digest: [0x5c; 32], length: 700 };
    let long = || {
        let mut response = response();
        response.results[0].error = Some("e".repeat(5000));
        Answer::Kept(response)
    };
    vec![
        ("agent_started", Entry::AgentStarted { boot_id: process().boot_id, version: "0.1.0".to_owned(), pid: 4242 }),
        ("agent_stopped", Entry::AgentStopped { reason: "SIGTERM".to_owned() }),
        ("agent_settled", Entry::AgentSettled),
        ("hold_entered", Entry::HoldEntered { reason: "the journal was missing".to_owned() }),
        ("hold_ended", Entry::HoldEnded { by: Seq(16) }),
        (
            "salvaged",
            Entry::Salvaged {
                from: "/var/lib/zeek-cluster-agent/journal.damaged-20261122T083100Z-1".to_owned(),
                recovered: 14,
                missing: vec![(Seq(3), Seq(3)), (Seq(15), Seq(16))],
            },
        ),
        (
            "imported",
            Entry::Imported {
                from: "/srv/backup/a1.journal".to_owned(),
                entries: 14,
                missing: vec![(Seq(15), Seq(16))],
            },
        ),
        ("format_changed", Entry::FormatChanged { from: 1, to: 2 }),
        ("pruned", Entry::Pruned { upto: Seq(9), hash: [0x3e; 32], trimmed: Seq(12), entries: 200, requests: 80 }),
        (
            "request_received-set_configuration",
            received(Dialect::ClusterAgent, Request::SetConfiguration { config: configuration(10) }),
        ),
        (
            "request_received-deploy-in_pieces",
            received(
                Dialect::Management,
                Request::Deploy { config: configuration(5000), force: true, how: Box::default() },
            ),
        ),
        (
            "request_received-deploy-of_the_history",
            received(
                Dialect::Management,
                Request::Deploy {
                    config: Configuration::default(),
                    force: false,
                    how: Box::new(DeployOptions {
                        back: Some(1),
                        if_plan: Some("0a-1b-2c".to_owned()),
                        ..DeployOptions::default()
                    }),
                },
            ),
        ),
        ("request_received-agent_welcome", received(Dialect::Operator, Request::AgentWelcome {})),
        ("request_received-agent_standby", received(Dialect::Operator, Request::AgentStandby {})),
        ("request_received-get_nodes", received(Dialect::Operator, Request::GetNodes {})),
        ("request_received-restart", received(Dialect::Operator, Request::Restart { nodes: nodes() })),
        (
            "request_received-node_dispatch",
            received(
                Dialect::Management,
                Request::NodeDispatch {
                    action: vec!["get_id_value".to_owned(), "Foo::bar".to_owned()],
                    nodes: BTreeSet::new(),
                },
            ),
        ),
        ("request_received-start_nodes", received(Dialect::Operator, Request::StartNodes { nodes: nodes() })),
        (
            "request_received-stop_nodes",
            received(Dialect::Operator, Request::StopNodes { nodes: nodes(), force: false }),
        ),
        (
            "request_received-stop_nodes_by_force",
            received(Dialect::Operator, Request::StopNodes { nodes: nodes(), force: true }),
        ),
        (
            "request_received-resume_waiting",
            received(Dialect::Operator, Request::ResumeWaiting { request: "r-0".to_owned() }),
        ),
        (
            "request_received-drop_waiting",
            received(Dialect::Operator, Request::DropWaiting { request: "#16".to_owned() }),
        ),
        ("request_received-shutdown", received(Dialect::Operator, Request::Shutdown { nodes: true })),
        ("request_received-adopt_state", received(Dialect::Operator, Request::AdoptState {})),
        (
            "request_conflicted",
            Entry::RequestConflicted {
                reqid: reqid("r-1"),
                first: Seq(16),
                request: Packed(Request::GetNodes {}),
                digest: digest(&Request::GetNodes {}),
                dialect: Dialect::Management,
                source: source(),
                response: Packed(response()),
            },
        ),
        (
            "input_rejected",
            Entry::InputRejected {
                source: source(),
                event: "no_such_request".to_owned(),
                error: "unknown event".to_owned(),
                suppressed: 5,
            },
        ),
        ("trouble_seen", Entry::TroubleSeen { what: "disk_full".to_owned(), message: "no space".to_owned() }),
        ("event_told", Entry::EventTold { of: Seq(16), lost: 3, outcome: "exit code 7: no network".to_owned() }),
        ("request_begun", Entry::RequestBegun { of: Seq(16), attempt: 2 }),
        ("request_waits-ready", waits(Goal::Ready)),
        ("request_waits-restarted", waits(Goal::Restarted)),
        ("request_waits-down", waits(Goal::Down)),
        ("request_completed-completed", outcome(Outcome::Completed)),
        ("request_completed-rejected", outcome(Outcome::Rejected)),
        ("request_completed-abandoned", outcome(Outcome::Abandoned)),
        ("request_completed-in_pieces", completed(Outcome::Completed, long())),
        ("request_completed-dropped", completed(Outcome::Completed, dropped.clone())),
        ("deadline_answered", Entry::DeadlineAnswered { of: Seq(16), response: Answer::Kept(response()) }),
        ("deadline_answered-in_pieces", Entry::DeadlineAnswered { of: Seq(16), response: long() }),
        ("request_waits-kept", waits(Goal::Kept)),
        ("request_answered", answered(Answer::Kept(response()))),
        ("request_answered-in_pieces", answered(long())),
        ("request_answered-dropped", answered(dropped)),
        ("duplicate_seen", Entry::DuplicateSeen { of: Seq(16), source: source() }),
        ("desired_changed-keep", changed(ConfigChange::Keep)),
        ("desired_changed-set", changed(ConfigChange::Set(Packed(configuration(1))))),
        ("desired_changed-forget", changed(ConfigChange::Forget)),
        ("preflight_begun", Entry::PreflightBegun { of: Seq(16), nodes: vec![name("worker-1"), name("worker-2")] }),
        ("preflight_ended-passed", preflight_ended(Vec::new())),
        (
            "preflight_ended-failed",
            preflight_ended(vec![PreflightProblem { nodes: vec!["worker-1".to_owned()], text: "no eth9".to_owned() }]),
        ),
        ("configuration_kept", Entry::ConfigurationKept { set: Seq(12), record: Box::new(past_record()) }),
        ("launch_intended", Entry::LaunchIntended { node: name("worker-1"), incarnation: Incarnation(3), by: Seq(16) }),
        (
            "node_started",
            Entry::NodeStarted { node: name("worker-1"), incarnation: Incarnation(3), process: process() },
        ),
        ("node_ready", Entry::NodeReady { node: name("worker-1"), incarnation: Incarnation(3) }),
        ("node_exited-code", exited(ExitCause::Code(1), Verdict::RestartAt(BootTime(99)), Some(process()))),
        ("node_exited-signal", exited(ExitCause::Signal(15), Verdict::Rest, Some(process()))),
        ("node_exited-lost", exited(ExitCause::Lost, Verdict::RestartAt(BootTime(99)), None)),
        ("node_exited-host_restarted", exited(ExitCause::HostRestarted, Verdict::RestartAt(BootTime(0)), None)),
        ("node_exited-host_shutdown", exited(ExitCause::HostShutdown, Verdict::Rest, Some(process()))),
        (
            "node_exited-terminated",
            exited(ExitCause::Terminated { pid: 1, uid: 0 }, Verdict::RestartAt(BootTime(99)), Some(process())),
        ),
        ("node_exited-oom", exited(ExitCause::OutOfMemory, Verdict::RestartAt(BootTime(99)), Some(process()))),
        (
            "node_exited-not_started",
            exited(
                ExitCause::NotStarted("no such file".to_owned()),
                Verdict::GiveUp { reason: "10 deaths".to_owned() },
                None,
            ),
        ),
        (
            "node_adopted",
            Entry::NodeAdopted {
                node: name("worker-1"),
                incarnation: Incarnation(3),
                process: process(),
                spec: Packed(simulated()),
            },
        ),
        ("node_retried", Entry::NodeRetried { node: name("worker-1") }),
    ]
}

fn preflight_ended(problems: Vec<PreflightProblem>) -> Entry {
    let report = PreflightReport { problems, ran: 2, cached: 3, skipped: 1, cpu_ms: 400, took_ms: 700 };
    Entry::PreflightEnded { of: Seq(16), report: Packed(report) }
}

fn past_record() -> PastRecord {
    let extras = PastExtras {
        changed: NodesChanged { started: 1, replaced: 2, removed: 3 },
        ready_at: Some(AT),
        ended_at: Some(Timestamp(AT.0 + 1)),
        kept_in: Seq(14),
    };
    PastRecord {
        request: Seq(11),
        reqid: reqid("r-1"),
        source: source(),
        set_at: AT,
        config: Packed(configuration(1)),
        extras: Packed(extras),
    }
}

fn node_record(life: Life, want: Want) -> NodeRecord {
    NodeRecord {
        spec: Packed(spec()),
        want,
        least: Incarnation(2),
        by: Seq(16),
        incarnation: Incarnation(3),
        life,
        deaths: vec![BootTime(5), BootTime(6)],
        streak: 2,
        next_start: Some(BootTime(7)),
        given_up: Some(GivenUp { reason: "10 deaths".to_owned(), at: BootTime(8) }),
        last_exit: Some(ExitCause::Code(1)),
        extras: Packed::default(),
    }
}

enum Sample {
    Entry(Box<Numbered>),
    Format(FormatRecord),
    Agent(AgentRecord),
    Desired(DesiredRecord),
    Node(Box<NodeRecord>),
    Unfinished(UnfinishedRecord),
    Duplicates(DuplicatesRecord),
    Reqid(ReqidRecord),
    Outcome(OutcomeRecord),
    Deadline(DeadlineRecord),
    History(HistoryRecord),
    Past(Box<PastRecord>),
}

#[test]
fn every_event_that_has_a_row_can_be_asked_for() {
    let folded = ["request_begun", "request_waits", "request_completed", "duplicate_seen", "deadline_answered"];
    for (_, entry) in entries() {
        let name = crate::journal::tree::rows::event_name(&entry);
        if !matches!(entry, Entry::InputRejected { .. }) && !folded.contains(&name) {
            assert_eq!(crate::journal::tree::rows::check_event(name), Ok(()), "{name}");
        }
    }
}

/// File, key, value. `format`: which one the format record names.
#[allow(clippy::too_many_lines, reason = "a table: a line or two for each sample")]
fn samples(format: u32) -> Vec<(String, Vec<u8>, Sample)> {
    let mut samples: Vec<(String, Vec<u8>, Sample)> = entries()
        .into_iter()
        .map(|(file, entry)| {
            let numbered = Box::new(Numbered { seq: Seq(17), at: AT, entry });
            (file.to_owned(), keys::entry(Seq(17)), Sample::Entry(numbered))
        })
        .collect();
    let agent = AgentRecord {
        boot_id: process().boot_id,
        unsettled_starts: 2,
        stopped: true,
        hold: Some("the journal was missing".to_owned()),
        newest_gone: Incarnation(5),
        extras: Packed::default(),
    };
    let held = AgentRecord {
        extras: Packed(AgentExtras {
            held_before: Seq(15),
            boots: vec![AT, Timestamp(AT.0 + 1)],
            lossless_salvage: Seq(12),
            ..AgentExtras::default()
        }),
        ..agent.clone()
    };
    let crash =
        Alert { node: "worker-1".to_owned(), ..Alert::new(Seq(16), AT, AlertKind::Crash, "worker-1 ended: signal 9") };
    let alerting = AgentRecord {
        extras: Packed(AgentExtras { alerts: vec![crash], alerts_lost: 3, ..AgentExtras::default() }),
        ..agent.clone()
    };
    let resumed = UnfinishedRecord {
        lost_attempts: 1,
        stage: Stage::Accepted,
        extras: Packed(UnfinishedExtras { resumed: Seq(16), ..UnfinishedExtras::default() }),
    };
    let up = Life::Up { process: process(), since: BootTime(9), ready: true };
    let waiting = Stage::Waiting { goal: Goal::Ready, targets: vec![(name("worker-1"), Incarnation(3))] };
    let duplicates = DuplicatesRecord {
        count: 40,
        first: vec![(AT, source()); 16],
        last: vec![(Timestamp(AT.0 + 1), source()); 16],
    };
    let desired = |padding| DesiredRecord {
        by: Seq(16),
        config: Some(Packed(configuration(padding))),
        extras: Packed::default(),
    };
    let unfinished =
        |lost_attempts, stage| Sample::Unfinished(UnfinishedRecord { lost_attempts, stage, extras: Packed::default() });
    let worker = keys::node(&name("worker-1"));
    let records = [
        ("record-format", keys::FORMAT.to_vec(), Sample::Format(FormatRecord { version: format })),
        ("record-agent", keys::AGENT.to_vec(), Sample::Agent(agent)),
        ("record-agent-extras", keys::AGENT.to_vec(), Sample::Agent(held)),
        ("record-agent-alerts", keys::AGENT.to_vec(), Sample::Agent(alerting)),
        ("record-unfinished-resumed", keys::unfinished(Seq(16)), Sample::Unfinished(resumed)),
        ("record-desired", keys::DESIRED.to_vec(), Sample::Desired(desired(1))),
        ("record-desired-in_pieces", keys::DESIRED.to_vec(), Sample::Desired(desired(9000))),
        ("record-node-up", worker.clone(), Sample::Node(Box::new(node_record(up, Want::Up)))),
        ("record-node-down", worker.clone(), Sample::Node(Box::new(node_record(Life::Down, Want::Stopped)))),
        ("record-node-intended", worker, Sample::Node(Box::new(node_record(Life::Intended, Want::Gone)))),
        ("record-unfinished-accepted", keys::unfinished(Seq(16)), unfinished(1, Stage::Accepted)),
        ("record-unfinished-waiting", keys::unfinished(Seq(16)), unfinished(0, waiting)),
        (
            "record-unfinished-asked",
            keys::unfinished(Seq(16)),
            Sample::Unfinished(UnfinishedRecord {
                lost_attempts: 0,
                stage: Stage::Accepted,
                extras: Packed(UnfinishedExtras {
                    asked: Some(AT),
                    deadline: Some(Seq(17)),
                    ..UnfinishedExtras::default()
                }),
            }),
        ),
        ("record-past", keys::past(Seq(12)), Sample::Past(Box::new(past_record()))),
        (
            "record-past-new",
            keys::past(Seq(12)),
            Sample::Past(Box::new(PastRecord { extras: Packed::default(), ..past_record() })),
        ),
        ("record-deadline", keys::deadline(Seq(16)), Sample::Deadline(DeadlineRecord { answered: Seq(17) })),
        ("record-duplicates", keys::duplicates(Seq(16)), Sample::Duplicates(duplicates)),
        (
            "record-reqid",
            keys::reqid(&reqid("r-1")),
            Sample::Reqid(ReqidRecord { seq: Seq(16), digest: digest(&Request::GetNodes {}) }),
        ),
        ("record-outcome", keys::outcome(Seq(16)), Sample::Outcome(OutcomeRecord { completed: Seq(17) })),
        (
            "record-history",
            keys::HISTORY.to_vec(),
            Sample::History(HistoryRecord {
                first: Seq(10),
                last: Seq(17),
                hash: PREVIOUS,
                trimmed: Seq(12),
                requests: 3,
                bytes: 4567,
            }),
        ),
    ];
    samples.extend(records.map(|(file, key, sample)| (file.to_owned(), key, sample)));
    samples
}

fn directory(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("migrations").join(format).join("entries")
}

fn files(format: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(directory(format)).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn encode(key: &[u8], sample: &Sample) -> Encoded {
    match sample {
        Sample::Entry(numbered) => codec::encode_entry(numbered, PREVIOUS).map(|(encoded, _)| encoded),
        Sample::Format(record) => codec::encode_record(key, record),
        Sample::Agent(record) => codec::encode_record(key, record),
        Sample::Desired(record) => codec::encode_record(key, record),
        Sample::Node(record) => codec::encode_record(key, record.as_ref()),
        Sample::Unfinished(record) => codec::encode_record(key, record),
        Sample::Duplicates(record) => codec::encode_record(key, record),
        Sample::Reqid(record) => codec::encode_record(key, record),
        Sample::Outcome(record) => codec::encode_record(key, record),
        Sample::Deadline(record) => codec::encode_record(key, record),
        Sample::History(record) => codec::encode_record(key, record),
        Sample::Past(record) => codec::encode_record(key, record.as_ref()),
    }
    .unwrap()
}

/// The value as it is stored, and after it the pieces of its body.
fn flat(encoded: &Encoded) -> Vec<u8> {
    let mut bytes = encoded.value.clone();
    encoded.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes
}

fn assert_decodes(file: &str, key: &[u8], bytes: &[u8], sample: &Sample) {
    let linked = if bytes[0] < 0x80 && bytes[1] > 1 { 32 } else { 0 };
    let behind = 23 + linked + if bytes[2] & 2 != 0 { 36 } else { 0 };
    let value = if bytes[2] & 1 == 0 { bytes } else { &bytes[..behind] };
    let (head, inline) = codec::head(value).unwrap();
    let assembled = codec::assemble(&head, |index| {
        let piece = bytes[behind..].chunks(CHUNK).nth(index as usize);
        Ok::<_, codec::DecodeError>(piece.map(<[u8]>::to_vec))
    })
    .unwrap();
    let body = if head.pieces() == 0 { inline } else { &assembled };
    match sample {
        Sample::Entry(numbered) => {
            let (decoded, link) = codec::decode_entry(numbered.seq, &head, body).unwrap();
            assert_eq!(decoded, **numbered, "{file}");
            assert_eq!(link.map(|link| link.previous), (linked > 0).then_some(PREVIOUS), "{file}");
        }
        Sample::Format(record) => assert_record(file, key, &head, body, record),
        Sample::Agent(record) => assert_record(file, key, &head, body, record),
        Sample::Desired(record) => assert_record(file, key, &head, body, record),
        Sample::Node(record) => assert_record(file, key, &head, body, record.as_ref()),
        Sample::Unfinished(record) => assert_record(file, key, &head, body, record),
        Sample::Duplicates(record) => assert_record(file, key, &head, body, record),
        Sample::Reqid(record) => assert_record(file, key, &head, body, record),
        Sample::Outcome(record) => assert_record(file, key, &head, body, record),
        Sample::Deadline(record) => assert_record(file, key, &head, body, record),
        Sample::History(record) => assert_record(file, key, &head, body, record),
        Sample::Past(record) => assert_record(file, key, &head, body, record.as_ref()),
    }
}

fn assert_record<T: Stored + PartialEq + Debug>(file: &str, key: &[u8], head: &Head, body: &[u8], expected: &T) {
    assert_eq!(codec::decode_record::<T>(key, head, body).unwrap(), *expected, "{file}");
}

/// How many of the files are still written as they are.
fn assert_means_what_it_meant(folder: &str, format: u32) -> usize {
    let samples = samples(format);
    let read = files(folder).into_iter().map(|file| {
        let bytes = std::fs::read(directory(folder).join(&file)).unwrap();
        let (name, key, sample) = samples.iter().find(|(name, ..)| format!("{name}.bin") == file).unwrap();
        assert_decodes(name, key, &bytes, sample);
        let written = flat(&encode(key, sample));
        assert!(written == bytes || written[1] > bytes[1], "{file} is written differently now, with the same version");
        usize::from(written == bytes)
    });
    read.sum()
}

#[test]
fn the_bytes_of_earlier_formats_mean_what_they_meant() {
    // Of format 1 the records of reqid, outcome, duplicates and format are left as they were.
    assert_eq!(assert_means_what_it_meant("0001_initial", 1), 4);
    // Of format 2 all but the records that have extras now.
    let changed = ["agent", "desired", "desired-in_pieces", "node-up", "node-down", "node-intended"].len();
    let changed = changed + ["unfinished-accepted", "unfinished-waiting"].len();
    assert_eq!(assert_means_what_it_meant("0002_chain", 2), files("0002_chain").len() - changed);
}

#[test]
fn the_bytes_of_format_3_mean_what_they_meant() {
    for (file, key, sample) in samples(3) {
        let path = directory("0003_answers").join(format!("{file}.bin"));
        // For a new entry, before its release. A sample that exists is never changed.
        if std::env::var_os(WRITE_MISSING).is_some() && !path.exists() {
            std::fs::write(&path, flat(&encode(&key, &sample))).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_decodes(&file, &key, &bytes, &sample);
        assert_eq!(flat(&encode(&key, &sample)), bytes, "{file} is written differently now");
    }
}

#[test]
fn every_sample_is_of_this_list_and_every_kind_has_one() {
    let expected: BTreeSet<String> = samples(3).iter().map(|(file, ..)| format!("{file}.bin")).collect();
    assert_eq!(files("0003_answers"), expected);
    let kinds: BTreeSet<u8> = entries().iter().map(|(_, entry)| entry_kind(entry)).collect();
    assert_eq!(kinds, ENTRY_KINDS.iter().copied().collect());
}

/// Retention drops a response; the entry's hash, and so the chain, stays.
#[test]
fn a_dropped_response_leaves_the_hash_as_it_was() {
    for (file, key, sample) in samples(3) {
        let Sample::Entry(numbered) = &sample else { continue };
        let encoded = encode(&key, &sample);
        let stored = match encoded.pieces.is_empty() {
            true => codec::head(&encoded.value).unwrap().1.to_vec(),
            false => encoded.pieces.concat(),
        };
        let (head, _) = codec::head(&encoded.value).unwrap();
        let (_, link) = codec::decode_entry(numbered.seq, &head, &stored).unwrap();
        let Some(bare) = codec::without_payload(&head, &stored) else {
            let has_one =
                ["request_completed", "request_answered", "deadline_answered"].iter().any(|one| file.starts_with(one));
            assert!(!has_one || file.ends_with("dropped"), "{file}");
            continue;
        };
        let (head, stored) = codec::head(&bare.value).unwrap();
        let (decoded, after) = codec::decode_entry(numbered.seq, &head, stored).unwrap();
        assert_eq!(after, link, "{file}");
        match decoded.entry {
            Entry::RequestCompleted { response, .. }
            | Entry::RequestAnswered { response, .. }
            | Entry::DeadlineAnswered { response, .. } => {
                assert!(matches!(response, Answer::Dropped { .. }), "{file}");
            }
            other => panic!("{file}: {other:?}"),
        }
        // The same as if it had been written so.
        let again =
            codec::encode_entry(&Numbered { entry: decoded_again(&bare, numbered.seq), ..**numbered }, PREVIOUS);
        assert_eq!(again.unwrap().0, bare, "{file}");
    }
}

fn decoded_again(bare: &Encoded, seq: Seq) -> Entry {
    let (head, stored) = codec::head(&bare.value).unwrap();
    codec::decode_entry(seq, &head, stored).unwrap().0.entry
}

/// A build of the same format may know fewer fields of a record than the one that wrote it.
#[test]
fn extras_that_are_not_known_here_are_passed_over() {
    let bytes = rmp_serde::to_vec_named(&BTreeMap::from([("not_known_here", 7)])).unwrap();
    assert_eq!(rmp_serde::from_slice::<AgentExtras>(&bytes).unwrap(), AgentExtras::default());
    assert_eq!(
        rmp_serde::to_vec_named(&AgentExtras::default()).unwrap(),
        [0x80],
        "what has its default takes no space"
    );
}

#[test]
fn a_value_does_not_pass_under_another_key_kind_or_version() {
    let (_, key, sample) = samples(3).remove(0);
    let Encoded { value, .. } = encode(&key, &sample);
    let (head, body) = codec::head(&value).unwrap();
    assert!(codec::decode_entry(Seq(17), &head, body).is_ok());
    assert!(matches!(codec::decode_entry(Seq(18), &head, body), Err(codec::DecodeError::Checksum)));
    for at in 0..value.len() {
        let mut changed = value.clone();
        changed[at] ^= 0x10;
        let decoded = codec::head(&changed).and_then(|(head, body)| codec::decode_entry(Seq(17), &head, body));
        assert!(decoded.is_err(), "byte {at}");
    }
}

#[test]
fn cut_and_arbitrary_values_are_errors() {
    for (_, key, sample) in samples(3) {
        let bytes = flat(&encode(&key, &sample));
        assert!(codec::try_decode(&key, &bytes).is_ok() || bytes[2] & 1 == 1);
        for cut in 0..bytes.len().min(64) {
            assert!(codec::try_decode(&key, &bytes[..cut]).is_err());
        }
    }
}

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::api::audit::{EventRow, Kind, RequestRow, RequestState, Row, Unreadable};
use crate::api::configuration::{ClusterRole, Configuration, Instance, Node, Port, ScriptOption};
use crate::api::event::{Result as ApiResult, ResultData, Source};
use crate::api::figures::{Captured, Figures, NodeFigures, Usage};
use crate::api::history::{Difference, PastReport};
use crate::api::ids::ReqId;
use crate::api::plan::{Action, NodePlan, Step, StepAction};
use crate::api::preflight::{HostReport, PreflightProblem, PreflightReport};
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{
    ArchiveReport, ArchiveRun, ArchiveState, CompactReport, ControllerReport, JournalReport, NodeReport, PeerReport,
};
use crate::api::stats::{EventStats, Latency};
use crate::api::status::{ManagementRole, NodeOutputs, NodeState, NodeStatus};
use crate::api::time::Timestamp;

const GOLDEN: &str = include_str!("golden.txt");

fn configuration() -> Configuration {
    let node = Node {
        name: "w1".into(),
        instance: "agent-1".into(),
        role: ClusterRole::Worker,
        port: Some(Port::tcp(2200)),
        scripts: vec!["local".into()],
        options: vec![ScriptOption { name: "Log::enable".into(), value: "T".into() }],
        interface: Some("eth0".into()),
        cpu_affinity: Some(1),
        env: BTreeMap::from([("A".into(), "b".into())]),
        metrics_port: None,
    };
    let hosts = ["127.0.0.1", "::1"];
    let instances = hosts.iter().enumerate().map(|(number, host)| Instance {
        name: format!("agent-{}", number + 1),
        host: host.parse().unwrap(),
        listen_port: (number == 0).then(|| Port::tcp(2151)),
    });
    Configuration { id: "c1".into(), instances: instances.collect(), nodes: vec![node], cluster_backend: None }
}

fn export_cursor() -> ExportCursor {
    ExportCursor {
        next: Seq(18),
        offset: 3,
        begun: Some([2; 16]),
        checksum: [1; 16],
        entries: 17,
        first: Seq(1),
        last: Seq(17),
        hash: [0xab; 32],
    }
}

fn client_frames() -> Vec<ClientFrame> {
    let request = |request| ClientFrame::Request {
        call: 7,
        reqid: "r-1".into(),
        dialect: Dialect::Management,
        timeout_ms: Some(1500),
        request,
    };
    let names = BTreeSet::from(["w1".to_owned(), "w2".to_owned()]);
    vec![
        ClientFrame::Hello { version: VERSION, client: "test 1".into() },
        request(Request::SetConfiguration { config: configuration() }),
        request(Request::Deploy { config: configuration(), force: true, how: Box::default() }),
        request(Request::AgentWelcome {}),
        request(Request::AgentStandby {}),
        request(Request::GetNodes {}),
        request(Request::Restart { nodes: names.clone() }),
        request(Request::NodeDispatch { action: vec!["get_id_value".into(), "x".into()], nodes: names.clone() }),
        request(Request::StartNodes { nodes: names.clone() }),
        request(Request::StopNodes { nodes: names, force: false }),
        request(Request::Shutdown { nodes: true }),
        ClientFrame::Status { call: 8 },
        ClientFrame::JournalPage { call: 16, filter: Filter { as_lines: true, ..Filter::default() }, cursor: None },
        ClientFrame::JournalPage {
            call: 9,
            filter: Filter {
                kind: Kind::All,
                since: Some(Timestamp(1_700_000_000_000_000)),
                state: Some(RequestState::Completed),
                failed: true,
                to_seq: Some(Seq(40)),
                ..Filter::default()
            },
            cursor: Some(Seq(17)),
        },
        ClientFrame::JournalVerify { call: 10, anchor: None },
        ClientFrame::JournalVerify { call: 10, anchor: Some("7:cd".into()) },
        ClientFrame::JournalExport { call: 15, cursor: None },
        ClientFrame::JournalExport { call: 15, cursor: Some(Box::new(export_cursor())) },
        ClientFrame::JournalStats { call: 14 },
        ClientFrame::Settings { call: 22 },
        ClientFrame::JournalPrune {
            call: 15,
            order: PruneOrder { older_than_ms: Some(86_400_000), keep: Some(100), dry_run: true },
        },
        ClientFrame::JournalCompact { call: 15, force: true },
        ClientFrame::Plan { call: 14, config: configuration(), force: true },
        ClientFrame::ConfigCheck { call: 26, config: configuration() },
        ClientFrame::ConfigHistory { call: 23 },
        ClientFrame::ConfigShow { call: 24, which: "@-1".into() },
        ClientFrame::Logs {
            call: 11,
            node: "w1".into(),
            query: LogQuery { stream: Stream::Stderr, from: Some(LogPosition { inode: 5, offset: 6 }), lines: 20 },
        },
        ClientFrame::Subscribe { call: 12, topics: vec!["zeek/".into()] },
        ClientFrame::NotifyReady { call: 13, node: "w1".into() },
        ClientFrame::Figures { call: 23 },
    ]
}

fn used() -> Figures {
    let usage = Usage { processes: 2, cpu_seconds: 1.5, rss_bytes: 4096, threads: 3, descriptors: Some(9) };
    let captured = Captured { received: Some(10.0), dropped: Some(1.0), lag_seconds: None };
    let node = NodeFigures {
        node: "w1".into(),
        role: ClusterRole::Worker,
        state: NodeState::Running,
        pid: Some(4711),
        up_ms: Some(2500),
        usage: Some(usage),
        captured: Some(captured),
        problem: None,
    };
    let problem = Some("p".into());
    let silent = NodeFigures { node: "w2".into(), usage: None, captured: None, problem, ..node.clone() };
    Figures { at: "2026-12-01T10:00:00.000000Z".into(), at_ms: 17, nodes: vec![node, silent] }
}

fn figures() -> JournalStats {
    let latency = Some(Latency { p50_ms: 0.5, p90_ms: 1.5, p99_ms: 2.5, max_ms: 9.75 });
    JournalStats {
        entries: 18,
        first: 1,
        last: 18,
        head: Some("18:ab".into()),
        oldest: Some("o".into()),
        newest: Some("n".into()),
        states: [("completed".to_owned(), 5)].into(),
        failed: 1,
        unfinished: 2,
        replays: 3,
        duplicates: 4,
        malformed: 5,
        unreadable: 6,
        latency,
        requests: [("deploy_request".to_owned(), EventStats { count: 5, failed: 1, latency })].into(),
        sources: [("control".to_owned(), 5)].into(),
        events: [("node_exited".to_owned(), 7)].into(),
        nodes: Default::default(),
        bytes_on_disk: 8192,
        bytes_live: Some(4096),
        open_ms: 2.5,
    }
}

fn response() -> Response {
    let reqid = ReqId::new("r-1").unwrap();
    let status = NodeStatus {
        node: "w1".into(),
        state: NodeState::Running,
        mgmt_role: ManagementRole::Node,
        cluster_role: ClusterRole::Worker,
        pid: Some(4711),
        port: None,
        metrics_port: Some(Port::tcp(9000)),
    };
    let outputs = NodeOutputs { stdout: "out".into(), stderr: "err".into() };
    let result = |data, error: Option<&str>| ApiResult {
        reqid: reqid.clone(),
        success: error.is_none(),
        instance: Some("agent-1".into()),
        data,
        error: error.map(str::to_owned),
        node: Some("w1".into()),
    };
    Response {
        event: "get_nodes_response".into(),
        reqid: reqid.clone(),
        results: vec![
            result(Some(ResultData::Nodes(vec![status])), None),
            result(Some(ResultData::Outputs(outputs)), Some("failed")),
            result(Some(ResultData::Text("42".into())), None),
            result(None, None),
        ],
    }
}

fn past_report() -> PastReport {
    PastReport {
        back: Some(1),
        id: "c1".into(),
        set_at: Some("2026-11-22T08:31:00.123456Z".into()),
        ready_at: None,
        ended_at: None,
        request: 17,
        reqid: "r-1".into(),
        source: Source { transport: "control".into(), peer: "uid=0 pid=4242".into() },
        nodes: 4,
        started: 1,
        replaced: 2,
        removed: 3,
    }
}

#[expect(clippy::too_many_lines, reason = "a table: a sample of each frame")]
fn server_frames() -> Vec<ServerFrame> {
    let source = Source { transport: "control".into(), peer: "uid=0 pid=4242".into() };
    let row = RequestRow {
        seq: Seq(17),
        reqid: "r-1".into(),
        event: "get_nodes_request".into(),
        dialect: "Management".into(),
        source,
        received_at: "2026-11-22T08:31:00.123456Z".into(),
        state: RequestState::Completed,
        attempts: 1,
        duplicates: 0,
        duplicates_first: Vec::new(),
        duplicates_last: Vec::new(),
        digest: "00ff".into(),
        request: serde_json::json!({"config": {"f": 0.5, "id": "c1", "n": 1, "x": null}}),
        completed_at: Some("2026-11-22T08:31:01.123456Z".into()),
        duration_ms: Some(812.5),
        success: Some(true),
        response: Some(response()),
        response_digest: None,
        deadline_at: None,
        deadline_response: None,
        settled_at: None,
        error: None,
    };
    let event = EventRow {
        seq: Seq(18),
        at: "2026-11-22T08:31:00.123456Z".into(),
        event: "node_exited".into(),
        node: Some("w1".into()),
        incarnation: Some(3),
        detail: serde_json::json!({"cause": {"signal": 9}}),
        summary: "signal 9".into(),
    };
    let unreadable = Unreadable { seq: Seq(19), unreadable: "checksum".into() };
    let node = NodeReport {
        node: "w1".into(),
        role: ClusterRole::Worker,
        state: NodeState::Crashed,
        want: "up".into(),
        pid: Some(4711),
        incarnation: 3,
        up_ms: Some(1000),
        deaths: 1,
        awaited_ms: None,
        late: false,
        metrics_port: None,
        next_start_ms: None,
        last_exit: Some("signal 9".into()),
        note: None,
        dropped_bytes: 0,
        shim: None,
    };
    vec![
        ServerFrame::Welcome(Welcome {
            version: VERSION,
            agent: "agent-1".into(),
            release: "0.1.0".into(),
            pid: 99,
            state_dir: "/var/lib/zeek-cluster-agent".into(),
            request_timeout_ms: 7000,
            stop_timeout_ms: 20000,
            ready_timeout_ms: 0,
        }),
        ServerFrame::Response { call: 7, response: response(), replayed: None },
        ServerFrame::Refused { call: 7, reason: "busy".into() },
        ServerFrame::Status {
            call: 8,
            report: Box::new(StatusReport {
                name: "agent-1".into(),
                version: "0.1.0".into(),
                pid: 99,
                state_dir: "/s".into(),
                started_at: "2026-11-22T08:31:00.123456Z".into(),
                serving: true,
                hold: None,
                is_copy: false,
                configuration: Some("c1".into()),
                journal: JournalReport {
                    last: 18,
                    commits: 5,
                    commit_ms_p99: 1.5,
                    open_ms: 2.5,
                    bytes_on_disk: 4096,
                    free_bytes: 1 << 40,
                    refusing: None,
                },
                nodes: vec![node],
                unfinished: 1,
                waiting_requests: Vec::new(),
                refused: 2,
                may_ask: Vec::new(),
                listen: Some("127.0.0.1:2151".into()),
                listen_when_adopted: None,
                controller: Some(ControllerReport {
                    address: "192.0.2.1:2150".into(),
                    state: "connecting".into(),
                    problem: Some("refused".into()),
                }),
                peers: vec![PeerReport {
                    direction: "accepted".into(),
                    address: "127.0.0.1:40000".into(),
                    uid: None,
                    may_ask: false,
                    tls: "none".into(),
                    endpoint: "00112233-4455-6677-8899-aabbccddeeff".into(),
                    subscribed: vec!["Management".into()],
                    node: None,
                    since_ms: 61_000,
                }],
                archive: Some(ArchiveReport {
                    command: "zeek-archiver".into(),
                    queue: "/q".into(),
                    directory: "/logs".into(),
                    interval_ms: 3_600_000,
                    next_at: None,
                    last: Some(ArchiveRun {
                        started_at: "2026-11-26T11:00:00.000000Z".into(),
                        state: ArchiveState::Failed,
                        result: "exit code 1".into(),
                        exit_code: Some(1),
                        duration_ms: Some(250),
                        last_words: Some("no space".into()),
                    }),
                    failing: None,
                }),
                keeping: None,
                events: None,
                warnings: vec!["w".into()],
            }),
        },
        ServerFrame::Page {
            call: 9,
            page: Page {
                lines: String::new(),
                is_exact: false,
                rows: vec![Row::Request(Box::new(row)), Row::Event(Box::new(event)), Row::Unreadable(unreadable)],
                next: Some(Seq(20)),
            },
        },
        ServerFrame::Page { call: 9, page: Page { lines: "{\"seq\":1}\n".into(), ..Page::default() } },
        ServerFrame::Pruned {
            call: 15,
            report: PruneReport {
                dry_run: true,
                entries: 7,
                requests: 5,
                responses: 1,
                bytes: 4096,
                upto: 7,
                held_by: Some(8),
                clock_doubted: true,
            },
        },
        ServerFrame::Verified {
            call: 10,
            report: VerifyReport {
                entries: 18,
                first: 1,
                last: 18,
                problems: vec!["p".into()],
                ..VerifyReport::default()
            },
        },
        ServerFrame::Verified {
            call: 10,
            report: VerifyReport {
                entries: 18,
                first: 1,
                last: 18,
                head: "18:ab".into(),
                anchor: Some("7:cd".into()),
                notes: vec!["n".into()],
                problems: vec![],
            },
        },
        ServerFrame::Exported {
            call: 15,
            chunk: Box::new(ExportChunk { bytes: vec![1, 2], cursor: export_cursor(), end: true, newest: Seq(18) }),
        },
        ServerFrame::Stats { call: 14, stats: Box::new(figures()) },
        ServerFrame::Settings {
            call: 22,
            settings: vec![SettingReport {
                key: "name".into(),
                value: "a".into(),
                source: "default".into(),
                shown: "a".into(),
            }],
        },
        ServerFrame::Compacted {
            call: 15,
            report: CompactReport { compacted: true, bytes_before: 9, bytes_after: 3, bytes_live: 1, ms: 2.5 },
        },
        ServerFrame::Logs {
            call: 11,
            chunk: LogChunk {
                bytes: b"\xff\n".to_vec(),
                next: LogPosition { inode: 5, offset: 8 },
                end: true,
                gap: false,
            },
        },
        ServerFrame::Plan {
            call: 14,
            plan: Plan {
                running: Some("c0".into()),
                proposed: "c1".into(),
                is_running: false,
                problems: Vec::new(),
                warnings: vec!["w".into()],
                nodes: vec![NodePlan { node: "w1".into(), action: Action::Replace, why: vec!["arguments".into()] }],
                ..Plan::default()
            },
        },
        ServerFrame::Plan {
            call: 25,
            plan: Plan {
                proposed: "c1".into(),
                order: vec![Step { action: StepAction::Stop, nodes: vec!["w1".into()] }],
                differences: vec![Difference {
                    of: "node w1".into(),
                    field: Some("interface".into()),
                    old: Some("eth0".into()),
                    new: None,
                }],
                token: Some("a-b-c".into()),
                ..Plan::default()
            },
        },
        ServerFrame::ConfigChecked {
            call: 26,
            report: HostReport {
                errors: vec!["e".into()],
                report: PreflightReport {
                    problems: vec![PreflightProblem { nodes: vec!["w1".into()], text: "t".into() }],
                    ran: 1,
                    cached: 2,
                    skipped: 3,
                    cpu_ms: 4,
                    took_ms: 5,
                },
            },
        },
        ServerFrame::ConfigHistory { call: 23, configurations: vec![past_report()] },
        ServerFrame::ConfigShown { call: 24, about: Box::new(past_report()), configuration: configuration() },
        ServerFrame::Done { call: 12 },
        ServerFrame::Published { topic: "zeek/x".into(), what: Publication::Response(response()) },
        ServerFrame::Published {
            topic: "zeek/x".into(),
            what: Publication::Notification(Notification::NotifyChange {
                instance: "agent-1".into(),
                node: Box::new(configuration().nodes.remove(0)),
                state: NodeState::Running,
                old: NodeState::Pending,
                new: NodeState::Running,
            }),
        },
        ServerFrame::Error { call: None, code: ErrorCode::TooLong, message: "m".into() },
        ServerFrame::Figures { call: 23, figures: Box::new(used()) },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_frame_is_written_as_it_always_was() {
    let client = client_frames().into_iter().map(|frame| encode_client(&frame).unwrap());
    let server = server_frames().into_iter().map(|frame| encode_server(&frame).unwrap());
    let written: Vec<String> = client.chain(server).map(|bytes| hex(&bytes)).collect();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    if written != golden {
        panic!("the frames' bytes changed; golden.txt would have to be:\n{}", written.join("\n"));
    }
}

#[test]
fn every_frame_reads_back_as_it_was() {
    for frame in client_frames() {
        let bytes = encode_client(&frame).unwrap();
        assert_eq!(decode_client(&bytes[HEADER..]).unwrap(), frame);
    }
    for frame in server_frames() {
        let bytes = encode_server(&frame).unwrap();
        assert_eq!(decode_server(&bytes[HEADER..]).unwrap(), frame);
    }
}

#[test]
fn every_kind_is_known_by_its_name() {
    let name = |bytes: Vec<u8>| kind_of(&bytes[HEADER..]).unwrap();
    let client: BTreeSet<String> = client_frames().iter().map(|frame| name(encode_client(frame).unwrap())).collect();
    let server: BTreeSet<String> = server_frames().iter().map(|frame| name(encode_server(frame).unwrap())).collect();
    assert_eq!(client, CLIENT_KINDS.iter().map(|kind| (*kind).to_owned()).collect());
    assert_eq!(server, SERVER_KINDS.iter().map(|kind| (*kind).to_owned()).collect());
}

#[test]
fn a_body_cut_short_anywhere_is_an_error_and_no_panic() {
    for frame in client_frames() {
        let bytes = encode_client(&frame).unwrap();
        for end in HEADER..bytes.len() {
            assert!(decode_client(&bytes[HEADER..end]).is_err(), "{frame:?} cut at {end} was read");
        }
    }
}

#[test]
fn what_is_wrong_with_a_body_is_said() {
    let of = |value: serde_json::Value| decode_client(&rmp_serde::to_vec_named(&value).unwrap()).unwrap_err();
    assert_eq!(of(serde_json::json!({"launch": {}})).code(), ErrorCode::UnknownKind);
    assert_eq!(of(serde_json::json!({"status": {}})).code(), ErrorCode::Malformed);
    assert_eq!(of(serde_json::json!([1, 2])).code(), ErrorCode::Malformed);
    let unknown_request = serde_json::json!({
        "request": {"call": 1, "reqid": "", "dialect": "Management", "request": {"reboot": {}}}
    });
    assert!(of(unknown_request).to_string().contains("reboot"));

    let mut trailing = encode_client(&ClientFrame::Status { call: 1 }).unwrap();
    trailing.push(0);
    assert_eq!(decode_client(&trailing[HEADER..]), Err(DecodeError::Trailing { bytes: 1 }));

    let mut deep = vec![0x91; 100_000];
    deep.push(0xc0);
    assert_eq!(decode_client(&deep).unwrap_err().code(), ErrorCode::Malformed);
    let mut inside = vec![0x81, 0xa4];
    inside.extend(b"logs");
    inside.extend(deep);
    assert_eq!(decode_client(&inside).unwrap_err().code(), ErrorCode::Malformed);
}

#[test]
fn lengths_are_checked_before_anything_is_read() {
    assert_eq!(body_length([0, 0, 0, 0], 10), Err(DecodeError::Empty));
    assert_eq!(body_length([0, 0, 0, 10], 10), Ok(10));
    assert_eq!(body_length([0, 0, 0, 11], 10), Err(DecodeError::TooLong { length: 11, limit: 10 }));
    assert!(body_length([255; 4], SERVER_FRAME_LIMIT).is_err());
}

#[test]
fn frames_that_nobody_would_read_are_not_written() {
    let long = ServerFrame::Refused { call: 1, reason: "x".repeat(SERVER_FRAME_LIMIT) };
    assert_eq!(encode_server(&long), Err(EncodeError::TooLong { limit: SERVER_FRAME_LIMIT }));
}

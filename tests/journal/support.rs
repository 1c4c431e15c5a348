//! Histories to write, and directories to write them to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeek_cluster_agent::api::audit::{Filter, Page, Row};
use zeek_cluster_agent::api::configuration::{ClusterRole, Configuration, Instance, Node};
use zeek_cluster_agent::api::event::{Dialect, Request, Response, Result as ApiResult, ResultData, Source};
use zeek_cluster_agent::api::ids::{Incarnation, NodeName, ReqId, Seq};
use zeek_cluster_agent::api::launch::{ExitCause, LaunchSpec, ProcessId, Program, Readiness};
use zeek_cluster_agent::api::status::{ManagementRole, NodeState, NodeStatus};
use zeek_cluster_agent::api::time::{BootTime, Timestamp};
use zeek_cluster_agent::journal::entry::{
    AgentRecord, Answer, ConfigChange, DesiredRecord, Entry, Goal, Life, NodeRecord, Numbered, Outcome, Packed, Record,
    Sealed, Stage, UnfinishedRecord, Verdict, Want, WantChange, digest,
};
use zeek_cluster_agent::journal::memory::MemoryJournal;
use zeek_cluster_agent::journal::{Journal, Opened, Options};

use crate::random::Random;

/// 2026-11-22T08:31:00.123456Z
pub const EPOCH: u64 = 1_795_336_260_123_456;

pub fn options() -> Options {
    Options {
        cache_capacity: 8 << 20,
        open_timeout: Duration::from_secs(120),
        ballast_bytes: 0,
        request_floor: 0,
        fact_floor: 0,
    }
}

pub fn open(state_dir: &Path) -> Opened<u64> {
    Journal::open(state_dir, &options()).unwrap()
}

pub fn source(pid: u64) -> Source {
    Source { transport: "control".to_owned(), peer: format!("uid=0 pid={pid}") }
}

pub fn reqid(text: &str) -> ReqId {
    ReqId::new(text).unwrap()
}

pub fn node_name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub fn spec(padding: usize) -> LaunchSpec {
    LaunchSpec {
        program: Program::Path("/opt/zeek/bin/zeek".to_owned()),
        args: vec!["-i".to_owned(), "eth0".to_owned()],
        env: BTreeMap::from([("PADDING".to_owned(), "p".repeat(padding))]),
        role: ClusterRole::Worker,
        ports: vec![2200],
        readiness: Readiness::Checkin,
        stop_timeout_ms: 10_000,
        secrets: BTreeMap::new(),
        rights: Box::default(),
        files: BTreeMap::new(),
    }
}

pub fn configuration(id: &str, nodes: usize, padding: usize) -> Configuration {
    let node = |number: usize| Node {
        name: format!("w{number:04}"),
        instance: "agent-1".to_owned(),
        role: ClusterRole::Worker,
        port: None,
        scripts: vec!["local".to_owned()],
        options: Vec::new(),
        interface: Some("eth0".to_owned()),
        cpu_affinity: Some(3),
        env: BTreeMap::from([("PADDING".to_owned(), "p".repeat(padding))]),
        metrics_port: None,
    };
    let instance = Instance { name: "agent-1".to_owned(), host: "10.0.0.7".parse().unwrap(), listen_port: None };
    Configuration {
        id: id.to_owned(),
        instances: vec![instance],
        nodes: (0..nodes).map(node).collect(),
        cluster_backend: None,
    }
    .canonical()
}

pub fn received(reqid_text: &str, request: Request, from: u64) -> Entry {
    Entry::RequestReceived {
        reqid: reqid(reqid_text),
        digest: digest(&request),
        request: Packed(request),
        dialect: Dialect::Management,
        source: source(from),
    }
}

pub fn answered(name: &str, request: Request) -> Entry {
    let response = Response { event: request.response_event().to_owned(), ..response(name, true) };
    Entry::RequestAnswered {
        reqid: reqid(name),
        digest: digest(&request),
        request: Packed(request),
        dialect: Dialect::Management,
        source: source(1),
        response: Answer::Kept(response),
    }
}

pub fn result(reqid_text: &str, success: bool) -> ApiResult {
    ApiResult {
        reqid: reqid(reqid_text),
        success,
        instance: Some("agent-1".to_owned()),
        data: None,
        error: (!success).then(|| "it did not work".to_owned()),
        node: None,
    }
}

pub fn response(reqid_text: &str, success: bool) -> Response {
    Response {
        event: "deploy_response".to_owned(),
        reqid: reqid(reqid_text),
        results: vec![result(reqid_text, success)],
    }
}

pub fn completed(of: Seq, response: Response) -> Entry {
    Entry::RequestCompleted { of, outcome: Outcome::Completed, attempts: 1, response: Answer::Kept(response) }
}

pub fn status_rows(count: usize) -> ResultData {
    let row = |number: usize| NodeStatus {
        node: format!("w{number}"),
        state: NodeState::Running,
        mgmt_role: ManagementRole::Node,
        cluster_role: ClusterRole::Worker,
        pid: Some(4242),
        port: None,
        metrics_port: None,
    };
    ResultData::Nodes((0..count).map(row).collect())
}

pub fn process(pid: u32) -> ProcessId {
    ProcessId { boot_id: "6f1c2a1e-0000-4000-8000-000000000001".to_owned(), pid, start_time: 123_456 }
}

pub fn node_record(incarnation: u64, padding: usize) -> NodeRecord {
    NodeRecord {
        spec: Packed(spec(padding)),
        want: Want::Up,
        least: Incarnation(1),
        by: Seq(1),
        incarnation: Incarnation(incarnation),
        life: Life::Up { process: process(77), since: BootTime(1_000_000), ready: true },
        deaths: vec![BootTime(1), BootTime(2)],
        streak: 1,
        next_start: None,
        given_up: None,
        last_exit: Some(ExitCause::Signal(9)),
        extras: Packed::default(),
    }
}

/// The sink of entries: the real journal, or the one in memory.
pub trait Sink {
    fn stage_one(&mut self, sealed: Sealed<u64>) -> Vec<u64>;
    fn commit_all(&mut self, records: Vec<Record>) -> Vec<u64>;
}

impl Sink for Journal<u64> {
    fn stage_one(&mut self, sealed: Sealed<u64>) -> Vec<u64> {
        self.stage(sealed)
    }

    fn commit_all(&mut self, records: Vec<Record>) -> Vec<u64> {
        self.commit(records).unwrap()
    }
}

impl Sink for MemoryJournal<u64> {
    fn stage_one(&mut self, sealed: Sealed<u64>) -> Vec<u64> {
        self.stage(sealed)
    }

    fn commit_all(&mut self, records: Vec<Record>) -> Vec<u64> {
        self.commit(records)
    }
}

/// Writes a plausible history from a seed, commit by commit, and remembers it.
pub struct Writer {
    random: Random,
    pub entries: Vec<Numbered>,
    open: BTreeMap<Seq, String>,
    /// Requests with a reqid and an outcome.
    pub answered: BTreeMap<String, Seq>,
    effect: u64,
}

impl Writer {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            entries: Vec::new(),
            open: BTreeMap::new(),
            answered: BTreeMap::new(),
            effect: 0,
        }
    }

    pub fn last(&self) -> Seq {
        self.entries.last().map_or(Seq(0), |numbered| numbered.seq)
    }

    fn push(&mut self, staged: &mut Vec<Numbered>, entry: Entry) -> Seq {
        let seq = self.last().next();
        let numbered = Numbered { seq, at: Timestamp(EPOCH + seq.0 * 1000), entry };
        self.entries.push(numbered.clone());
        staged.push(numbered);
        seq
    }

    /// One commit; the effects that came out.
    pub fn commit(&mut self, sink: &mut impl Sink) -> Vec<u64> {
        let mut staged = Vec::new();
        let mut records = Vec::new();
        for _ in 0..=self.random.below(4) {
            self.step(&mut staged, &mut records);
        }
        if staged.is_empty() {
            self.push(&mut staged, Entry::AgentSettled);
        }
        self.effect += 1;
        assert_eq!(sink.stage_one(Sealed::new(Seq(0), staged, vec![self.effect])), Vec::<u64>::new());
        let free = sink.commit_all(records);
        assert_eq!(free, vec![self.effect]);
        free
    }

    #[expect(clippy::too_many_lines, reason = "a table: an arm for each kind of step")]
    fn step(&mut self, staged: &mut Vec<Numbered>, records: &mut Vec<Record>) {
        match self.random.below(10) {
            0..=2 => {
                let name = if self.random.one_in(6) { String::new() } else { format!("r{}", self.last().0 + 1) };
                let request = match self.random.below(4) {
                    0 => Request::GetNodes {},
                    1 => Request::Restart { nodes: BTreeSet::from(["w1".to_owned()]) },
                    2 => Request::Deploy { config: configuration("c", 3, 10), force: false, how: Box::default() },
                    _ => Request::SetConfiguration { config: configuration("big", 4, 3000) },
                };
                let from = self.random.below(100);
                let seq = self.push(staged, received(&name, request, from));
                self.open.insert(seq, name);
                let record = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
                records.push(Record::Unfinished(seq, Some(record)));
            }
            3 => {
                if let Some(of) = self.open.keys().next().copied() {
                    self.push(staged, Entry::RequestBegun { of, attempt: 1 });
                    let targets = vec![(node_name("w1"), Incarnation(2))];
                    let waits = Entry::RequestWaits { of, goal: Goal::Ready, targets: targets.clone() };
                    self.push(staged, waits);
                    let stage = Stage::Waiting { goal: Goal::Ready, targets };
                    records.push(Record::Unfinished(
                        of,
                        Some(UnfinishedRecord { lost_attempts: 0, stage, extras: Packed::default() }),
                    ));
                }
            }
            4..=5 => {
                if let Some((of, name)) = self.open.pop_first() {
                    let mut answer = response(&name, !self.random.one_in(3));
                    if self.random.one_in(3) {
                        answer.results[0].data = Some(status_rows(60));
                    }
                    self.push(staged, completed(of, answer));
                    records.push(Record::Unfinished(of, None));
                    if !name.is_empty() {
                        self.answered.insert(name, of);
                    }
                }
            }
            6 => {
                if let Some((_, of)) = self.answered.first_key_value() {
                    let entry = Entry::DuplicateSeen { of: *of, source: source(9) };
                    self.push(staged, entry);
                }
            }
            7 => {
                let by = self.last();
                let change = WantChange::Up { spec: Packed(spec(40)), least: Incarnation(1) };
                let nodes = vec![(node_name("w1"), change), (node_name("w2"), WantChange::Gone)];
                let config = ConfigChange::Set(Packed(configuration("c", 2, 0)));
                self.push(staged, Entry::DesiredChanged { by, config, nodes });
                let config = Some(Packed(configuration("c", 2 + (by.0 % 5) as usize, 900)));
                records.push(Record::Desired(DesiredRecord { by, config, extras: Packed::default() }));
            }
            8 => {
                let node = node_name(&format!("w{}", self.random.below(5)));
                let incarnation = Incarnation(self.last().0);
                self.push(
                    staged,
                    Entry::NodeExited {
                        node: node.clone(),
                        incarnation,
                        cause: ExitCause::Code(1),
                        asked: false,
                        process: Some(process(5)),
                        ran_ms: Some(1500),
                        when: BootTime(99),
                        verdict: Verdict::RestartAt(BootTime(100)),
                    },
                );
                let padding = self.random.below(8000) as usize;
                let record = (!self.random.one_in(4)).then(|| Box::new(node_record(incarnation.0, padding)));
                records.push(Record::Node(node, record));
            }
            _ => {
                self.push(staged, Entry::AgentSettled);
                let boot_id = format!("boot {}", self.last());
                records.push(Record::Agent(AgentRecord { boot_id, ..AgentRecord::default() }));
            }
        }
    }
}

/// A copy of a directory as it lies there, as a crash would leave it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Names of the entries of a directory.
pub fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

pub fn aside(state_dir: &Path) -> Vec<PathBuf> {
    let damaged = names(state_dir).into_iter().filter(|name| name.starts_with("journal.damaged-"));
    damaged.map(|name| state_dir.join(name)).collect()
}

/// All rows of a filter, page by page.
pub fn all_rows(filter: &Filter, page: impl Fn(&Filter, Option<Seq>) -> Page) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut cursor = None;
    loop {
        let page = page(filter, cursor);
        rows.extend(page.rows);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return rows,
        }
    }
}

/// The database itself. sled lets go of its lock on threads of its own, some time after the last handle is dropped.
pub fn open_sled(state_dir: &Path) -> sled::Db {
    let begun = std::time::Instant::now();
    loop {
        match sled::open(state_dir.join("journal")) {
            Ok(db) => return db,
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") && begun.elapsed().as_secs() < 10 => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

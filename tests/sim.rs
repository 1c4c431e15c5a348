//! Random histories on the pure core: requests, duplicates, conflicts, node deaths, host restarts, and crashes of the
//! agent between any two steps.
//!
//! The world around the core is a model: a journal that forgets what was not committed, and hosts' processes that outlive
//! the agent. After each step it is checked that nothing left before its entry was durable, that no node runs twice and
//! that a reqid has one outcome; after each crash, that replaying every entry gives the state that was stored; and at the
//! end that every request is answered and every wanted node runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use zeek_cluster_agent::api::configuration::{ClusterRole, Configuration, Instance, Node, Port};
use zeek_cluster_agent::api::event::{Dialect, Incoming, Request, Response, Route, Source};
use zeek_cluster_agent::api::ids::{Incarnation, InstanceName, NodeName, ReqId, Seq};
use zeek_cluster_agent::api::launch::{ExitCause, LaunchSpec, ProcessId, Program, Readiness};
use zeek_cluster_agent::api::preflight::{PreflightProblem, PreflightReport};
use zeek_cluster_agent::api::supervision::{Finding, NodeEvent, NodeHappening, NodeOrder};
use zeek_cluster_agent::api::survivors::{Survivor, Survivors};
use zeek_cluster_agent::api::time::{BootTime, Now, Timestamp};
use zeek_cluster_agent::journal::entry::{
    ConfigChange, Digest, Entry, Numbered, Recovered, Verdict, Want, WantChange, digest,
};
use zeek_cluster_agent::journal::memory::MemoryJournal;
use zeek_cluster_agent::lifecycle::{
    DeployStrategy, Durable, Effect, Input, Lifecycle, Options, Peers, Profile, RestartOptions,
};

/// One thing that happens. Numbers choose among what is there, so that every sequence makes sense and shrinks well.
#[derive(Debug, Clone)]
enum Op {
    /// Ask with a fresh reqid, or with none.
    Ask {
        over: usize,
        what: usize,
        anonymous: bool,
    },
    /// Ask again with an earlier reqid: the same, or something else.
    AskAgain {
        over: usize,
        which: usize,
        other: Option<usize>,
    },
    Commit,
    /// Begin one, and go on meanwhile.
    BeginCommit,
    FinishCommit,
    /// Carry out the oldest released effects.
    Effects {
        count: usize,
    },
    /// Hand in the oldest reports of the supervisor.
    Reports {
        count: usize,
    },
    Pass {
        ms: u64,
    },
    NodeReady {
        which: usize,
    },
    /// A node dials the agent and says hello, beside a peering that it may have already.
    NodePeers {
        which: usize,
    },
    /// A peering of a node is lost.
    PeeringLost {
        which: usize,
    },
    /// Nodes answer the oldest questions that reached them.
    Answers {
        count: usize,
    },
    NodeExit {
        which: usize,
        code: i32,
    },
    ShimDies {
        which: usize,
    },
    /// A node starts a process that its shim cannot end.
    Lingers {
        which: usize,
    },
    /// All such processes end.
    Vanish,
    Subscribe,
    Disconnect,
    Crash,
    StopCleanly,
    HostRestart,
    /// Something that nobody can prove ours takes a node's lock, or lets go of it.
    Squat {
        which: usize,
    },
    LetGo,
    /// From now on nodes cannot be prepared, or not be launched, for a reason that passes by itself or that does not.
    Break {
        lasting: bool,
        at_launch: bool,
    },
    Mend,
    /// Configurations that take nodes away and bring them back, with so much done in between.
    ToAndFro {
        turns: usize,
    },
    /// A change of running nodes whose check fails.
    Refuse,
    /// One waits for the outcome of a change, and so much later somebody asks the same who has a deadline.
    AskLate {
        ms: u64,
    },
    /// Nodes are to be started, and cannot be for a reason that lasts, until they are given up.
    BreakForLong {
        at_launch: bool,
    },
    /// The same, and what runs there lives on behind it.
    HideBehind {
        which: usize,
    },
    /// The agent dies, and its next run is told to hold.
    CrashIntoHold,
    /// The agent's next run is on a copy of its directory, beside the original's nodes.
    CrashIntoCopy,
    /// An operator has a request taken up, or dropped, that waits since before hold mode; or one that does not.
    Word {
        which: usize,
        resume: bool,
    },
    Unsubscribe,
    Malformed,
    /// The check before a change ends, or reports late that it has ended.
    Checked {
        passes: bool,
        late: bool,
    },
    /// All that is under way gets done, and nodes die of it.
    Churn {
        which: usize,
    },
}

fn left() -> NodeHappening {
    let helper = Survivor { pid: 78, uid: Some(0), command: "helper".into() };
    NodeHappening::Left { survivors: Survivors { named: vec![helper], ..Survivors::default() } }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..TRANSPORTS.len(), 0..REQUESTS, prop::bool::weighted(0.1))
            .prop_map(|(over, what, anonymous)| Op::Ask { over, what, anonymous }),
        3 => (0..TRANSPORTS.len(), any::<usize>(), prop::option::weighted(0.3, 0..REQUESTS))
            .prop_map(|(over, which, other)| Op::AskAgain { over, which, other }),
        8 => Just(Op::Commit),
        4 => Just(Op::BeginCommit),
        3 => Just(Op::FinishCommit),
        8 => (1..4usize).prop_map(|count| Op::Effects { count }),
        8 => (1..4usize).prop_map(|count| Op::Reports { count }),
        6 => (1..3000u64).prop_map(|ms| Op::Pass { ms }),
        2 => (3000..70_000u64).prop_map(|ms| Op::Pass { ms }),
        5 => any::<usize>().prop_map(|which| Op::NodeReady { which }),
        5 => any::<usize>().prop_map(|which| Op::NodePeers { which }),
        2 => any::<usize>().prop_map(|which| Op::PeeringLost { which }),
        4 => (1..4usize).prop_map(|count| Op::Answers { count }),
        3 => (any::<usize>(), 0..3).prop_map(|(which, code)| Op::NodeExit { which, code }),
        1 => any::<usize>().prop_map(|which| Op::ShimDies { which }),
        1 => any::<usize>().prop_map(|which| Op::Lingers { which }),
        1 => Just(Op::Vanish),
        1 => Just(Op::Subscribe),
        1 => Just(Op::Disconnect),
        3 => Just(Op::Crash),
        1 => Just(Op::StopCleanly),
        1 => Just(Op::HostRestart),
        1 => any::<usize>().prop_map(|which| Op::Squat { which }),
        1 => Just(Op::LetGo),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(lasting, at_launch)| Op::Break { lasting, at_launch }),
        1 => Just(Op::Mend),
        1 => (0..4usize).prop_map(|turns| Op::ToAndFro { turns }),
        1 => (0..6_000u64).prop_map(|ms| Op::AskLate { ms }),
        1 => any::<bool>().prop_map(|at_launch| Op::BreakForLong { at_launch }),
        1 => any::<usize>().prop_map(|which| Op::HideBehind { which }),
        2 => Just(Op::CrashIntoHold),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, resume)| Op::Word { which, resume }),
        1 => Just(Op::CrashIntoCopy),
        1 => Just(Op::Unsubscribe),
        1 => Just(Op::Malformed),
        6 => (prop::bool::weighted(0.7), prop::bool::weighted(0.1))
            .prop_map(|(passes, late)| Op::Checked { passes, late }),
        1 => Just(Op::Refuse),
        4 => any::<usize>().prop_map(|which| Op::Churn { which }),
    ]
}

const REQUESTS: usize = 18;

/// Where requests come from; on the first one waits for the outcome.
const TRANSPORTS: [&str; 3] = ["control", "broker", "websocket"];

/// How many histories: more where the environment says so.
fn histories() -> u32 {
    std::env::var("SIM_HISTORIES").map_or(400, |count| count.parse().expect("SIM_HISTORIES is a number"))
}

/// The requests that histories are made of.
fn request(what: usize) -> Request {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let action = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match what {
        0 => Request::SetConfiguration { config: configuration("c1", &["logger", "manager", "w1", "w2"]) },
        1 => Request::Deploy {
            config: configuration("c1", &["logger", "manager", "w1", "w2"]),
            force: true,
            how: Box::default(),
        },
        2 => Request::Deploy { config: configuration("c2", &["w2", "w3"]), force: false, how: Box::default() },
        3 => Request::SetConfiguration { config: configuration("c3", &["w1", "w1"]) },
        4 => Request::AgentStandby {},
        5 => Request::AgentWelcome {},
        6 => Request::GetNodes {},
        7 => Request::Restart { nodes: names(&["w1"]) },
        8 => Request::Restart { nodes: BTreeSet::new() },
        9 => Request::StopNodes { nodes: names(&["w2"]), force: false },
        10 => Request::StartNodes { nodes: names(&["w2"]) },
        11 => Request::Shutdown { nodes: true },
        12 => Request::NodeDispatch { action: action(&["get_id_value", "x"]), nodes: BTreeSet::new() },
        13 => {
            Request::NodeDispatch { action: action(&["get_id_value", "x"]), nodes: names(&["w1", "w2", "elsewhere"]) }
        }
        14 => Request::AdoptState {},
        15 => Request::StopNodes { nodes: names(&["w1"]), force: true },
        16 => Request::StopNodes { nodes: names(&["w2", "w3"]), force: true },
        _ => Request::Shutdown { nodes: false },
    }
}

fn configuration(id: &str, nodes: &[&str]) -> Configuration {
    let nodes = nodes.iter().enumerate().map(|(index, name)| Node {
        name: (*name).to_owned(),
        instance: "a1".to_owned(),
        role: match *name {
            "logger" => ClusterRole::Logger,
            "manager" => ClusterRole::Manager,
            _ => ClusterRole::Worker,
        },
        port: (!name.starts_with('w')).then(|| Port::tcp(2200 + index as u16)),
        scripts: Vec::new(),
        options: Vec::new(),
        interface: None,
        cpu_affinity: None,
        env: BTreeMap::new(),
        metrics_port: None,
    });
    let host = "127.0.0.1".parse().expect("an address");
    let instances = vec![Instance { name: "a1".to_owned(), host, listen_port: None }];
    Configuration { id: id.to_owned(), instances, nodes: nodes.collect(), cluster_backend: None }.canonical()
}

fn options() -> Options {
    Options {
        instance: InstanceName::new("a1").expect("a name"),
        cpus: 2,
        agent_ports: Vec::new(),
        program: Program::Simulated,
        args: Vec::new(),
        profile: Profile::Plain,
        deploy_strategy: DeployStrategy::Replace,
        readiness: Readiness::Checkin,
        ready_timeout_ms: 60_000,
        stop_timeout_ms: 10_000,
        rights: std::collections::BTreeMap::new(),
        stop_timeout_writers_ms: 15_000,
        stage_wait_ms: 1_000,
        request_timeout_ms: 7_000,
        preflight_ms: Some(60_000),
        restart: RestartOptions::default(),
    }
}

/// What of a node outlives the agent: its run directory, its shim, its process.
#[derive(Debug, Clone, Default)]
struct Host {
    nodes: BTreeMap<NodeName, OnHost>,
    boot: u32,
    next_pid: u32,
}

#[derive(Debug, Clone)]
struct OnHost {
    incarnation: Incarnation,
    spec: LaunchSpec,
    process: ProcessId,
    ready: bool,
    /// The shim's report that nobody has acknowledged.
    exit: Option<ExitCause>,
    /// It has a process that its shim cannot end.
    lingers: bool,
    /// It ended so, and that process is left.
    left: Option<ExitCause>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    lasting: bool,
    at_launch: bool,
}

impl Fault {
    fn reason(self) -> &'static str {
        if self.lasting { "permission denied" } else { PASSING }
    }
}

/// What nobody is given up for.
const PASSING: &str = "no space is left";

struct World {
    host: Host,
    journal: MemoryJournal<Effect>,
    core: Option<Lifecycle>,
    now: Now,
    /// Released by the journal, not yet carried out.
    effects: VecDeque<Effect>,
    /// Reported by the supervisor, not yet handed in.
    reports: VecDeque<NodeEvent>,
    prepared: BTreeMap<NodeName, (Incarnation, LaunchSpec)>,
    /// Run directories to be set aside when what runs there has ended.
    to_set_aside: BTreeMap<NodeName, Incarnation>,
    asked: Vec<(ReqId, Request)>,
    /// What was answered, to those who have a deadline and to those who wait for the outcome.
    answers: BTreeMap<(ReqId, Digest, bool), Response>,
    connection: u64,
    call: u64,
    routes: BTreeMap<Route, (ReqId, Digest, bool)>,
    /// Which node is at the other end of a connection.
    peerings: BTreeMap<u64, NodeName>,
    /// Questions that reached a node and are not answered: the request, and the connection.
    questions: VecDeque<(Seq, u64)>,
    exits: BTreeSet<(NodeName, Incarnation)>,
    /// Nodes whose lock somebody else holds.
    squatted: BTreeSet<NodeName>,
    /// The directory is taken for a copy: what runs is the original's.
    copied: bool,
    /// Why no node can be started at the moment.
    fault: Option<Fault>,
    /// Somebody is subscribed to the agent's topic.
    subscribed: bool,
    /// Accepted and not refused: each has to be answered to somebody in the end.
    told: BTreeSet<Seq>,
    /// The agent has ended by itself.
    ended: bool,
    /// What was ordered last of each node was to forget it, and how often that was, and was followed by a preparation.
    just_forgotten: BTreeSet<NodeName>,
    /// The change that is being checked, and those that were.
    checking: Option<Seq>,
    were_checked: Vec<Seq>,
    forgotten: u64,
    prepared_again: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            host: Host::default(),
            journal: MemoryJournal::new(),
            core: None,
            now: Now { wall: Timestamp(1_000_000_000), boot: BootTime(60_000_000) },
            effects: VecDeque::new(),
            reports: VecDeque::new(),
            prepared: BTreeMap::new(),
            to_set_aside: BTreeMap::new(),
            asked: Vec::new(),
            answers: BTreeMap::new(),
            connection: 1,
            call: 0,
            routes: BTreeMap::new(),
            peerings: BTreeMap::new(),
            questions: VecDeque::new(),
            exits: BTreeSet::new(),
            squatted: BTreeSet::new(),
            copied: false,
            fault: None,
            subscribed: false,
            told: BTreeSet::new(),
            ended: false,
            just_forgotten: BTreeSet::new(),
            checking: None,
            were_checked: Vec::new(),
            forgotten: 0,
            prepared_again: 0,
        };
        world.start(None);
        world
    }

    fn start(&mut self, hold: Option<String>) {
        self.ended = false;
        let recovered = self.journal.recover();
        self.check_replay(&recovered);
        let known: BTreeSet<NodeName> =
            recovered.nodes.keys().cloned().chain(self.host.nodes.keys().cloned()).collect();
        self.core = Some(Lifecycle::new(options(), recovered));
        let boot_id = format!("boot-{}", self.host.boot);
        self.step(Input::Started { boot_id, version: "test".into(), pid: 1, hold });
        if self.copied {
            self.step(Input::Copied { reason: "a copy".into() });
        }
        for node in known {
            let finding = match self.host.nodes.get(&node) {
                Some(_) if self.copied => {
                    Finding::Foreign { pid: 1, reason: "another's".into(), state_dir: None, works_here: false }
                }
                _ if self.squatted.contains(&node) => Finding::Unprovable { reason: "somebody holds the lock".into() },
                None => Finding::Absent,
                Some(found) => match &found.exit {
                    Some(cause) => Finding::Exited {
                        incarnation: found.incarnation,
                        process: Some(found.process.clone()),
                        cause: cause.clone(),
                        stdout: String::new(),
                        stderr: String::new(),
                        is_lasting: false,
                    },
                    None => Finding::Adopted {
                        incarnation: found.incarnation,
                        process: Some(found.process.clone()),
                        ready: found.ready,
                        spec: Box::new(found.spec.clone()),
                    },
                },
            };
            let lingering = matches!(finding, Finding::Adopted { .. })
                .then(|| self.host.nodes.get(&node).filter(|found| found.left.is_some()))
                .flatten()
                .map(|found| found.incarnation);
            self.step(Input::Found { node: node.clone(), finding });
            if let Some(incarnation) = lingering {
                self.report(node, incarnation, left());
            }
        }
        self.step(Input::Adopted);
        self.tell_peers();
    }

    fn tell_peers(&mut self) {
        let peers = Peers { cluster_agent: 0, management: usize::from(self.subscribed), nodes: self.peerings.clone() };
        self.step(Input::Peers(peers));
    }

    /// Replaying every entry from the first gives what the records say.
    fn check_replay(&self, recovered: &Recovered) {
        let mut replayed = Durable::default();
        for entry in self.entries() {
            replayed.apply(entry);
        }
        let stored = Durable::new(recovered.clone());
        assert_eq!(replayed.last, stored.last, "last");
        assert_eq!(replayed.agent, stored.agent, "agent");
        assert_eq!(replayed.desired, stored.desired, "desired");
        assert_eq!(replayed.nodes, stored.nodes, "nodes");
        assert_eq!(replayed.unfinished, stored.unfinished, "unfinished");
        assert_eq!(replayed.past.clone().into_records(), stored.past.clone().into_records(), "history");
    }

    fn step(&mut self, input: Input) {
        let Some(core) = &mut self.core else { return };
        for sealed in core.step(self.now, &input) {
            self.effects.extend(self.journal.stage(sealed));
        }
        assert_eq!(core.overlooked(self.now), None, "after {input:?}");
        self.note_exits();
    }

    fn commit(&mut self) {
        self.finish_commit();
        self.begin_commit();
        self.finish_commit();
    }

    /// Decisions go on while it is under way.
    fn begin_commit(&mut self) {
        let Some(core) = &mut self.core else { return };
        if !self.journal.is_committing() {
            self.journal.submit(core.take_records());
        }
    }

    fn finish_commit(&mut self) {
        if self.core.is_none() || !self.journal.is_committing() {
            return;
        }
        self.effects.extend(self.journal.committed());
        let upto = self.journal.durable();
        self.step(Input::Committed { upto });
        self.mark_sent();
    }

    /// As the driver does, once what a commit let go has been carried out.
    fn mark_sent(&mut self) {
        if let Some(core) = &self.core
            && self.effects.is_empty()
            && self.journal.staged() == self.journal.durable()
        {
            self.journal.mark_sent(core.sent_upto());
        }
    }

    /// P9: one exit per launch among the entries, and no passing cause among what nodes were given up for.
    fn note_exits(&mut self) {
        let mut seen = BTreeSet::new();
        for one in self.entries() {
            match &one.entry {
                Entry::NodeExited { node, incarnation, cause, verdict, .. } => {
                    assert!(seen.insert((node.clone(), *incarnation)), "{node} {incarnation} exited twice");
                    if *cause == ExitCause::NotStarted(PASSING.to_owned()) {
                        assert!(!matches!(verdict, Verdict::GiveUp { .. }), "{node} was given up: {cause}");
                    }
                }
                // A node of a name that was gone, and of which nothing is left, counts from 1 again.
                Entry::DesiredChanged { nodes, .. } => {
                    for (name, change) in nodes {
                        if let WantChange::Up { least: Incarnation(1), .. } = change {
                            seen.retain(|(node, _)| node != name);
                        }
                    }
                }
                _ => {}
            }
        }
        self.exits = seen;
    }

    fn ask(&mut self, over: usize, reqid: ReqId, request: Request) {
        self.call += 1;
        let route = Route { connection: self.connection, call: self.call };
        let source = Source { transport: TRANSPORTS[over].into(), peer: "p".into() };
        self.routes.insert(route, (reqid.clone(), digest(&request), source.has_deadline()));
        let known = self.journal.lookup(&reqid).map(Box::new);
        let incoming = Incoming { reqid, request, dialect: Dialect::Management, source, route: Some(route) };
        self.step(Input::Request { incoming: Box::new(incoming), known });
    }

    fn is_durable(&self, matches: impl Fn(&Numbered) -> bool) -> bool {
        self.entries().iter().any(matches)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Respond { route, response, .. } => {
                self.check_response(&response, Some(route));
                if route.connection == self.connection {
                    self.note_told(&response);
                    self.step(Input::Delivered { route });
                }
            }
            Effect::Publish { response, .. } => {
                self.check_response(&response, None);
                self.note_told(&response);
            }
            // Without `with_alerts` nobody is told of anything.
            Effect::Tell { .. } => panic!("told without being asked to"),
            Effect::Exit { .. } => {
                let last = self
                    .entries()
                    .iter()
                    .rev()
                    .find(|one| matches!(one.entry, Entry::AgentStarted { .. } | Entry::AgentStopped { .. }));
                assert!(
                    last.is_some_and(|one| matches!(one.entry, Entry::AgentStopped { .. })),
                    "ended before that was durable"
                );
                self.ended = true;
            }
            Effect::Ask { node, .. } => panic!("{node} has no directory for questions: its profile is plain"),
            Effect::Dispatch { of, node, connection, .. } => {
                let accepted =
                    self.is_durable(|one| one.seq == of && matches!(one.entry, Entry::RequestReceived { .. }));
                assert!(accepted, "request {of} had an effect before it was durable");
                // The peering may be gone by now.
                if let Some(at) = self.peerings.get(&connection) {
                    assert_eq!(*at, node, "asked somebody else");
                    self.questions.push_back((of, connection));
                }
            }
            Effect::AdoptState { of, nodes: _ } => {
                let begun =
                    self.is_durable(|one| matches!(one.entry, Entry::RequestBegun { of: begun, .. } if begun == of));
                assert!(begun, "request {of} had an effect before it was durable");
                // The original's nodes go on, in another directory.
                if std::mem::take(&mut self.copied) {
                    self.host.nodes.clear();
                }
                self.step(Input::StateAdopted { of, outcome: Ok("done".into()) });
            }
            Effect::Preflight { of, .. } => {
                let begun =
                    self.is_durable(|one| matches!(one.entry, Entry::PreflightBegun { of: begun, .. } if begun == of));
                assert!(begun, "request {of} was checked before that was durable");
                self.were_checked.extend(self.checking.replace(of));
            }
            Effect::EndPreflight { of } => self.were_checked.extend(self.checking.take_if(|checking| *checking == of)),
            Effect::Refuse { .. } | Effect::Notify(_) | Effect::TellHead { .. } => {}
            Effect::Order { node, order } => self.order(node, order),
        }
    }

    /// P2 and P3.
    fn check_response(&mut self, response: &Response, route: Option<Route>) {
        let stored = self.is_durable(|one| match &one.entry {
            Entry::RequestCompleted { response: stored, .. }
            | Entry::RequestAnswered { response: stored, .. }
            | Entry::DeadlineAnswered { response: stored, .. } => stored.kept() == Some(response),
            Entry::RequestConflicted { response: stored, .. } => stored.0 == *response,
            _ => false,
        });
        assert!(stored, "left before it was durable: {response:?}");
        let conflict = response.results.iter().any(|r| r.error.as_ref().is_some_and(|e| e.starts_with("conflict: ")));
        if let Some(key) = route.and_then(|route| self.routes.get(&route)).cloned()
            && !conflict
            && !response.reqid.is_empty()
        {
            if !key.2 {
                self.check_outcome(&key.0, response);
            }
            let first = self.answers.entry(key).or_insert_with(|| response.clone());
            assert_eq!(first, response, "two answers for one reqid");
        }
    }

    /// Who waits is told the outcome, and nothing that was told before it.
    fn check_outcome(&self, reqid: &ReqId, response: &Response) {
        let known = self.journal.lookup(reqid).expect("it was answered");
        let outcome = known.outcome.expect("who has no deadline is told when there is an outcome");
        assert_eq!(outcome.answer.kept(), Some(response));
    }

    /// Somebody has this outcome, or what was told at the deadline.
    fn note_told(&mut self, response: &Response) {
        let outcomes = self.entries().iter().filter_map(|one| match &one.entry {
            Entry::RequestCompleted { of, response: stored, .. } | Entry::DeadlineAnswered { of, response: stored }
                if stored.kept() == Some(response) =>
            {
                Some(*of)
            }
            Entry::RequestAnswered { response: stored, .. } if stored.kept() == Some(response) => Some(one.seq),
            _ => None,
        });
        let outcomes: Vec<Seq> = outcomes.collect();
        self.told.extend(outcomes);
    }

    fn order(&mut self, node: NodeName, order: NodeOrder) {
        if self.ended {
            return;
        }
        if self.copied {
            let acts = matches!(
                order,
                NodeOrder::Prepare { .. }
                    | NodeOrder::Launch { .. }
                    | NodeOrder::Stop { .. }
                    | NodeOrder::SetAside { .. }
            );
            assert!(!acts, "{node}: a copy starts and stops nothing: {order:?}");
            return;
        }
        if matches!(order, NodeOrder::Prepare { .. }) {
            self.to_set_aside.remove(&node);
        }
        if matches!(order, NodeOrder::Forget { .. }) {
            self.forgotten += 1;
            self.just_forgotten.insert(node.clone());
        } else if self.just_forgotten.remove(&node) && matches!(order, NodeOrder::Prepare { .. }) {
            self.prepared_again += 1;
        }
        match order {
            NodeOrder::Prepare { incarnation, spec, .. } => self.prepare(node, incarnation, *spec),
            NodeOrder::Launch { incarnation } => self.launch(node, incarnation),
            NodeOrder::Stop { incarnation, .. } => {
                let due = self.host.nodes.get(&node).is_some_and(|n| n.incarnation == incarnation && n.exit.is_none());
                if due {
                    self.exit(&node, ExitCause::Signal(15));
                }
            }
            NodeOrder::Clear { incarnation } => self.clear(node, incarnation),
            NodeOrder::SetAside { incarnation, .. } => self.begin_setting_aside(node, incarnation),
            NodeOrder::AcknowledgeExit { incarnation } => {
                let acknowledged = self.host.nodes.get(&node).is_some_and(|found| found.incarnation == incarnation);
                if acknowledged {
                    let recorded = self.is_durable(|one| {
                        matches!(&one.entry, Entry::NodeExited { node: n, incarnation: i, .. }
                            if *n == node && *i >= incarnation)
                    });
                    assert!(recorded, "{node} {incarnation}: exit acknowledged before it was durable");
                    self.host.nodes.remove(&node);
                    self.set_aside(&node);
                }
            }
            NodeOrder::KeepCrash { incarnation } => {
                let recorded = self.is_durable(|one| {
                    matches!(&one.entry, Entry::NodeExited { node: n, incarnation: i, cause, asked, .. }
                        if *n == node && *i == incarnation && (!asked || *cause == ExitCause::Signal(11)))
                });
                assert!(recorded, "{node} {incarnation}: a crash bundle before the crash was durable");
            }
            NodeOrder::Disown => {}
            NodeOrder::Forget { .. } => {
                self.prepared.remove(&node);
                if !self.host.nodes.contains_key(&node) {
                    self.report(node, Incarnation::default(), NodeHappening::Forgotten);
                }
            }
        }
    }

    fn prepare(&mut self, node: NodeName, incarnation: Incarnation, spec: LaunchSpec) {
        match self.host.nodes.get(&node) {
            _ if self.squatted.contains(&node) => {
                self.report(node, incarnation, NodeHappening::Blocked { reason: "the lock is held".into() });
            }
            Some(found) => {
                let (there, process) = (found.incarnation, found.process.clone());
                let exit = found.exit.clone();
                let blocked = NodeHappening::Blocked { reason: "the lock is held".into() };
                self.report(node.clone(), incarnation, blocked);
                // As the look at it finds out.
                let what = match exit {
                    None => NodeHappening::Started { process },
                    Some(cause) => NodeHappening::Exited {
                        cause,
                        is_lasting: false,
                        process: Some(process),
                        stdout: String::new(),
                        stderr: String::new(),
                    },
                };
                self.report(node, there, what);
            }
            None if self.fault.is_some_and(|fault| !fault.at_launch) => {
                self.prepared.remove(&node);
                self.not_started(node, incarnation, None);
            }
            None => {
                self.prepared.insert(node.clone(), (incarnation, spec));
                self.report(node, incarnation, NodeHappening::Prepared);
            }
        }
    }

    fn launch(&mut self, node: NodeName, incarnation: Incarnation) {
        // What was prepared may have been let go of, and prepared anew, before this order was given.
        let Some((_, spec)) = self.prepared.get(&node).filter(|(prepared, _)| *prepared == incarnation).cloned() else {
            if self.host.nodes.get(&node).is_none_or(|found| found.incarnation != incarnation) {
                self.not_started(node, incarnation, Some("it was not prepared"));
            }
            return;
        };
        self.prepared.remove(&node);
        let intended = self.is_durable(|one| {
            matches!(&one.entry, Entry::LaunchIntended { node: n, incarnation: i, .. }
                if *n == node && *i == incarnation)
        });
        assert!(intended, "{node} {incarnation} was started without a durable intent");
        assert!(!self.host.nodes.contains_key(&node), "{node} runs twice");
        if self.fault.is_some_and(|fault| fault.at_launch) {
            self.not_started(node, incarnation, None);
            return;
        }
        self.host.next_pid += 1;
        let process = ProcessId {
            boot_id: format!("boot-{}", self.host.boot),
            pid: self.host.next_pid,
            start_time: self.now.boot.0 / 10_000,
        };
        let started = OnHost {
            incarnation,
            spec,
            process: process.clone(),
            ready: false,
            exit: None,
            lingers: false,
            left: None,
        };
        self.host.nodes.insert(node.clone(), started);
        self.report(node, incarnation, NodeHappening::Started { process });
    }

    fn clear(&mut self, node: NodeName, incarnation: Incarnation) {
        match self.host.nodes.get(&node) {
            _ if self.squatted.contains(&node) => {
                self.report(node, incarnation, NodeHappening::Blocked { reason: "the lock is held".into() });
            }
            Some(OnHost { incarnation, process, exit, .. }) => {
                let (incarnation, process) = (*incarnation, process.clone());
                let what = match exit.clone() {
                    None => NodeHappening::Started { process },
                    Some(cause) => {
                        let (stdout, stderr) = (String::new(), String::new());
                        NodeHappening::Exited { cause, process: Some(process), stdout, stderr, is_lasting: false }
                    }
                };
                self.report(node, incarnation, what);
            }
            None => {
                let cause = ExitCause::Lost;
                let lost = NodeHappening::Exited {
                    cause,
                    process: None,
                    stdout: String::new(),
                    stderr: String::new(),
                    is_lasting: false,
                };
                self.report(node.clone(), incarnation, lost);
                self.report(node, incarnation, NodeHappening::Cleared);
            }
        }
    }

    fn begin_setting_aside(&mut self, node: NodeName, incarnation: Incarnation) {
        let stopped = self.is_durable(|one| match &one.entry {
            Entry::RequestReceived { request, .. } => match &request.0 {
                Request::StopNodes { nodes, force: true } => nodes.contains(node.as_str()),
                _ => false,
            },
            _ => false,
        });
        assert!(stopped, "{node} is to be set aside, and nobody asked for that");
        self.prepared.remove(&node);
        if self.squatted.contains(&node) {
            return self.report(node, incarnation, NodeHappening::NotSetAside { reason: "it is held".into() });
        }
        self.to_set_aside.insert(node.clone(), incarnation);
        if let Some(found) = self.host.nodes.get(&node) {
            let (running, process) = (found.incarnation, found.process.clone());
            if let Some(cause) = found.exit.clone() {
                // Its shim has an exit that nobody has acknowledged.
                let (stdout, stderr, is_lasting) = (String::new(), String::new(), false);
                let exited = NodeHappening::Exited { cause, process: Some(process), stdout, stderr, is_lasting };
                self.report(node.clone(), running, exited);
            } else {
                // Its shim is found, and told to stop it.
                self.report(node.clone(), running, NodeHappening::Started { process });
                self.exit(&node, ExitCause::Signal(15));
            }
        } else {
            let (cause, process) = (ExitCause::Lost, None);
            let (stdout, stderr, is_lasting) = (String::new(), String::new(), false);
            let lost = NodeHappening::Exited { cause, process, stdout, stderr, is_lasting };
            self.report(node.clone(), incarnation, lost);
        }
        self.set_aside(&node);
    }

    /// Does what was ordered if nothing of the node is left.
    fn set_aside(&mut self, node: &NodeName) {
        if self.host.nodes.contains_key(node) {
            return;
        }
        if let Some(incarnation) = self.to_set_aside.remove(node) {
            let path = Some(format!("/run/.aside-{node}-1").into());
            self.report(node.clone(), incarnation, NodeHappening::SetAside { path });
        }
    }

    fn not_started(&mut self, node: NodeName, incarnation: Incarnation, reason: Option<&str>) {
        let fault = self.fault.filter(|_| reason.is_none());
        let reason = reason.or(fault.map(Fault::reason)).unwrap_or(PASSING);
        let what = NodeHappening::Exited {
            cause: ExitCause::NotStarted(reason.to_owned()),
            process: None,
            stdout: String::new(),
            stderr: String::new(),
            is_lasting: fault.is_some_and(|fault| fault.lasting),
        };
        self.report(node, incarnation, what);
    }

    fn report(&mut self, node: NodeName, incarnation: Incarnation, what: NodeHappening) {
        self.reports.push_back(NodeEvent { node, incarnation, what });
    }

    fn exit(&mut self, node: &NodeName, cause: ExitCause) {
        let Some(found) = self.host.nodes.get_mut(node) else { return };
        if found.exit.is_some() {
            return;
        }
        if found.lingers {
            found.left.get_or_insert(cause);
            let incarnation = found.incarnation;
            let gone = node.clone();
            self.report(node.clone(), incarnation, left());
            return self.lose(|_, node| *node == gone);
        }
        found.exit = Some(cause.clone());
        // The kernel closes its sockets; the agent hears of both in either order.
        let gone = node.clone();
        let (incarnation, process) = (found.incarnation, Some(found.process.clone()));
        let (stdout, stderr, is_lasting) = (String::new(), String::new(), false);
        let what = NodeHappening::Exited { cause, process, stdout, stderr, is_lasting };
        self.report(node.clone(), incarnation, what);
        self.lose(|_, node| *node == gone);
    }

    /// What could not be ended has ended by itself.
    fn vanish(&mut self) {
        let mut ended = Vec::new();
        for (name, found) in &mut self.host.nodes {
            found.lingers = false;
            ended.extend(found.left.take().map(|cause| (name.clone(), cause)));
        }
        for (name, cause) in ended {
            self.exit(&name, cause);
        }
    }

    /// These peerings are over.
    fn lose(&mut self, lost: impl Fn(u64, &NodeName) -> bool) {
        self.peerings.retain(|connection, node| !lost(*connection, node));
        let peerings = &self.peerings;
        self.questions.retain(|(_, connection)| peerings.contains_key(connection));
        self.tell_peers();
    }

    fn answer(&mut self, count: usize) {
        for _ in 0..count {
            let Some((of, connection)) = self.questions.pop_front() else { return };
            let answer = match self.peerings.get(&connection) {
                Some(node) if node.as_str() == "w2" => Err("unknown id".to_owned()),
                Some(node) => Ok(Some(format!("\"{node}\""))),
                None => continue,
            };
            self.step(Input::NodeAnswered { of, connection, answer });
        }
    }

    fn pick(&self, which: usize) -> Option<NodeName> {
        if self.copied {
            // What becomes of the original's nodes is told to the original's agent.
            return None;
        }
        let names: Vec<&NodeName> = self.host.nodes.keys().collect();
        names.get(which.checked_rem(names.len())?).map(|name| (*name).clone())
    }

    fn crash(&mut self) {
        self.core = None;
        self.effects.clear();
        self.reports.clear();
        self.prepared.clear();
        self.to_set_aside.clear();
        self.routes.clear();
        self.peerings.clear();
        self.questions.clear();
        self.were_checked.extend(self.checking.take());
        self.connection += 1;
        // Whether a commit that was under way is durable nobody can tell: by turns.
        self.journal.crash(self.connection.is_multiple_of(2));
    }

    #[expect(clippy::too_many_lines, reason = "a table: an arm for each operation")]
    fn run(&mut self, op: &Op) {
        if self.ended {
            // The service manager starts it again.
            self.crash();
            self.start(None);
        }
        match op {
            Op::Ask { over, what, anonymous } => {
                let text = if *anonymous { String::new() } else { format!("r{}", self.asked.len()) };
                let reqid = ReqId::new(text).expect("short");
                if !anonymous {
                    self.asked.push((reqid.clone(), request(*what)));
                }
                self.ask(*over, reqid, request(*what).canonical());
            }
            Op::AskAgain { over, which, other } => {
                let Some(index) = which.checked_rem(self.asked.len()) else { return };
                let (reqid, first) = self.asked[index].clone();
                self.ask(*over, reqid, other.map_or(first, request).canonical());
            }
            Op::Commit => self.commit(),
            Op::BeginCommit => self.begin_commit(),
            Op::FinishCommit => self.finish_commit(),
            Op::Effects { count } => {
                for _ in 0..*count {
                    if let Some(effect) = self.effects.pop_front() {
                        self.carry_out(effect);
                    }
                }
                self.mark_sent();
            }
            Op::Reports { count } => {
                for _ in 0..*count {
                    if let Some(event) = self.reports.pop_front() {
                        self.step(Input::Node(event));
                    }
                }
            }
            Op::Pass { ms } => {
                self.now.wall.0 += ms * 1000;
                self.now.boot = self.now.boot.plus_ms(*ms);
                self.step(Input::Tick);
            }
            Op::NodeReady { which } => self.node_ready(*which),
            Op::NodePeers { which } => {
                if let Some(node) = self.pick(*which)
                    && self.host.nodes.get(&node).is_some_and(|found| found.exit.is_none() && found.left.is_none())
                {
                    self.call += 1;
                    self.peerings.insert(1_000_000 + self.call, node);
                    self.tell_peers();
                }
            }
            Op::PeeringLost { which } => {
                let lost = which.checked_rem(self.peerings.len()).and_then(|index| self.peerings.keys().nth(index));
                if let Some(lost) = lost.copied() {
                    self.lose(|connection, _| connection == lost);
                }
            }
            Op::Answers { count } => self.answer(*count),
            Op::NodeExit { which, code } => {
                if let Some(node) = self.pick(*which) {
                    self.exit(&node, ExitCause::Code(*code));
                }
            }
            Op::Lingers { which } => {
                if !self.copied
                    && let Some(found) = self.pick(*which).and_then(|node| self.host.nodes.get_mut(&node))
                {
                    found.lingers = true;
                }
            }
            Op::Vanish => self.vanish(),
            Op::ShimDies { which } => {
                if let Some(node) = self.pick(*which)
                    && let Some(found) = self.host.nodes.remove(&node)
                {
                    let cause = ExitCause::Lost;
                    let process = Some(found.process);
                    let (stdout, stderr, is_lasting) = (String::new(), String::new(), false);
                    let what = NodeHappening::Exited { cause, process, stdout, stderr, is_lasting };
                    self.report(node.clone(), found.incarnation, what);
                    self.lose(|_, lost| *lost == node);
                }
            }
            Op::Subscribe => {
                self.subscribed = true;
                self.tell_peers();
            }
            Op::Unsubscribe => {
                self.subscribed = false;
                self.tell_peers();
            }
            Op::Malformed => self.step(Input::Malformed {
                source: Source { transport: "test".into(), peer: "p".into() },
                event: String::new(),
                error: "no request".into(),
            }),
            Op::Squat { which } => {
                // The agent notices when it next looks; what runs there has died meanwhile, unseen.
                if let Some(node) = self.pick(*which)
                    && self.core.as_ref().is_some_and(|core| core.durable().nodes.contains_key(&node))
                {
                    self.crash();
                    self.host.nodes.remove(&node);
                    self.squatted.insert(node);
                    self.start(None);
                }
            }
            Op::Churn { which } => {
                for _ in 0..4 {
                    self.do_what_is_under_way();
                }
                if !self.ended && self.journal.staged() == self.journal.durable() && self.effects.is_empty() {
                    self.check_nothing_is_forgotten();
                }
                self.run(&Op::NodeExit { which: *which, code: 1 });
            }
            Op::HideBehind { which } => {
                if let Some(node) = self.pick(*which)
                    && self.core.as_ref().is_some_and(|core| core.durable().nodes.contains_key(&node))
                {
                    self.crash();
                    self.squatted.insert(node);
                    self.start(None);
                }
            }
            Op::LetGo => self.squatted.clear(),
            Op::CrashIntoCopy => {
                self.crash();
                self.copied = true;
                // Their ends are the original's to see.
                self.host.nodes.retain(|_, found| found.exit.is_none() && found.left.is_none());
                self.host.nodes.values_mut().for_each(|found| found.lingers = false);
                self.start(None);
            }
            Op::Break { lasting, at_launch } => self.fault = Some(Fault { lasting: *lasting, at_launch: *at_launch }),
            Op::Mend => self.fault = None,
            Op::Checked { passes, late: false } => self.end_check(*passes),
            Op::Checked { passes, late: true } => {
                if let Some(of) = self.were_checked.pop() {
                    self.report_check(of, *passes);
                }
            }
            Op::ToAndFro { turns } => {
                for what in [1, 2, 1] {
                    self.run(&Op::Ask { over: 0, what, anonymous: false });
                    for _ in 0..*turns {
                        self.do_what_is_under_way();
                    }
                }
            }
            Op::Refuse => {
                self.run(&Op::Ask { over: 0, what: 1, anonymous: false });
                // Prepared, launched, and the next stage likewise.
                for _ in 0..6 {
                    self.do_what_is_under_way();
                }
                self.run(&Op::Ask { over: 0, what: 2, anonymous: false });
                // Accepted, then begun, then checked.
                for _ in 0..3 {
                    self.commit();
                    while let Some(effect) = self.effects.pop_front() {
                        self.carry_out(effect);
                    }
                }
                self.end_check(false);
            }
            Op::AskLate { ms } => {
                let which = self.asked.len();
                self.run(&Op::Ask { over: 0, what: 1, anonymous: false });
                self.commit();
                self.run(&Op::Pass { ms: *ms });
                self.run(&Op::AskAgain { over: 1, which, other: None });
                self.commit();
                self.run(&Op::Pass { ms: 7_000 });
                self.commit();
            }
            Op::BreakForLong { at_launch } => {
                self.run(&Op::Ask { over: 0, what: 1, anonymous: false });
                self.fault = Some(Fault { lasting: true, at_launch: *at_launch });
                for _ in 0..4 {
                    for _ in 0..4 {
                        self.do_what_is_under_way();
                    }
                    self.run(&Op::Pass { ms: 7_000 });
                }
            }
            Op::Word { which, resume } => {
                let waiting: Vec<Seq> =
                    self.core.iter().flat_map(|core| core.waiting_requests().map(|one| one.seq)).collect();
                let seq = which.checked_rem(waiting.len()).map_or(Seq(1), |index| waiting[index]);
                self.say(seq, *resume);
            }
            Op::CrashIntoHold => {
                self.crash();
                self.start(Some("told to".into()));
            }
            Op::Disconnect => {
                self.step(Input::Disconnected { connection: self.connection });
                self.connection += 1;
            }
            Op::Crash => {
                self.crash();
                self.start(None);
            }
            Op::StopCleanly => {
                self.step(Input::Stop { reason: "test".into() });
                self.commit();
                self.crash();
                self.start(None);
            }
            Op::HostRestart => {
                self.crash();
                self.host.nodes.clear();
                self.host.boot += 1;
                self.now.boot = BootTime(30_000_000);
                self.squatted.clear();
                self.start(None);
            }
        }
    }

    fn end_check(&mut self, passes: bool) {
        if let Some(of) = self.checking.take() {
            self.were_checked.push(of);
            self.report_check(of, passes);
        }
    }

    fn report_check(&mut self, of: Seq, passes: bool) {
        let problem = PreflightProblem { nodes: vec!["w1".into()], text: "it would not run".into() };
        let problems = if passes { Vec::new() } else { vec![problem] };
        let report = Box::new(PreflightReport { problems, ..PreflightReport::default() });
        self.step(Input::PreflightEnded { of, report });
    }

    /// P14: a change that was checked is made if the check passed, and not before; one is checked at a time.
    fn check_preflights(&self) {
        #[derive(Debug, PartialEq)]
        enum Check {
            UnderWay,
            Passed,
            Failed,
        }
        let mut checks = BTreeMap::new();
        for one in self.entries() {
            match &one.entry {
                Entry::PreflightBegun { of, .. } => {
                    assert!(!checks.values().any(|check| *check == Check::UnderWay), "two checks at a time");
                    checks.insert(*of, Check::UnderWay);
                }
                Entry::PreflightEnded { of, report } => {
                    assert_eq!(checks.get(of), Some(&Check::UnderWay), "a check that ends was under way");
                    let passed = report.0.problems.is_empty();
                    checks.insert(*of, if passed { Check::Passed } else { Check::Failed });
                }
                Entry::RequestCompleted { of, .. } => {
                    checks.remove(of);
                }
                Entry::DesiredChanged { by, .. } => {
                    assert!(
                        checks.get(by).is_none_or(|check| *check == Check::Passed),
                        "{by} was not checked to its end"
                    );
                }
                // What was under way is begun again, or is not needed any more.
                Entry::AgentStarted { .. } => checks.clear(),
                _ => {}
            }
        }
    }

    fn do_what_is_under_way(&mut self) {
        self.commit();
        while let Some(effect) = self.effects.pop_front() {
            self.carry_out(effect);
        }
        self.end_check(true);
        while let Some(event) = self.reports.pop_front() {
            self.step(Input::Node(event));
        }
    }

    /// Nothing comes due before the time at which the core asks to be woken.
    fn check_nothing_is_forgotten(&self) {
        let core = self.core.as_ref().expect("running");
        let asked = core.wake_at().map_or(self.now.boot.plus_ms(1_000_000), |at| BootTime(at.0 - 1));
        for boot in [BootTime(self.now.boot.0.midpoint(asked.0)), asked] {
            let came = core.clone().step(Now { boot, ..self.now }, &Input::Tick);
            assert!(came.is_empty(), "due at {boot:?}, woken at {:?}: {came:?}", core.wake_at());
        }
    }

    /// An operator's word about a waiting request.
    fn say(&mut self, about: Seq, resume: bool) {
        let reqid = ReqId::new(format!("w{}", self.asked.len())).expect("short");
        let request = format!("#{about}");
        let word = if resume { Request::ResumeWaiting { request } } else { Request::DropWaiting { request } };
        self.asked.push((reqid.clone(), word.clone()));
        self.ask(0, reqid, word);
    }

    /// What was accepted before hold mode ends it, and changes what is wanted, only on an operator's word.
    fn check_hold(&self) {
        let mut entered = Seq(0);
        let mut resumed = BTreeSet::new();
        for one in self.entries() {
            match &one.entry {
                Entry::HoldEntered { .. } => {
                    entered = one.seq;
                    resumed.clear();
                }
                Entry::RequestReceived { request, .. } => {
                    if let Request::ResumeWaiting { request } = &request.0 {
                        resumed.insert(request.clone());
                    }
                }
                Entry::HoldEnded { by } => {
                    assert!(*by > entered || resumed.contains(&format!("#{by}")), "hold mode ended by {by}");
                }
                Entry::DesiredChanged { by, config: ConfigChange::Set(_) | ConfigChange::Forget, .. } => {
                    assert!(*by > entered || resumed.contains(&format!("#{by}")), "{by} changed what is wanted");
                }
                _ => {}
            }
        }
    }

    fn node_ready(&mut self, which: usize) {
        if let Some(node) = self.pick(which)
            && let Some(found) = self.host.nodes.get_mut(&node)
            && found.exit.is_none()
            && found.left.is_none()
            && !found.ready
        {
            found.ready = true;
            let incarnation = found.incarnation;
            self.report(node, incarnation, NodeHappening::Ready);
        }
    }

    /// Nothing goes wrong any more: everything that is under way comes to its end. Time passes only to where the core
    /// asks to be woken: a deadline that it forgets to name is never met. What waits for an operator's word gets one.
    fn settle(&mut self) {
        self.squatted.clear();
        self.fault = None;
        self.vanish();
        self.run(&Op::Subscribe);
        for round in 0.. {
            assert!(round < 100, "requests go on waiting");
            self.come_to_rest();
            let core = self.core.as_ref().expect("running");
            let waiting: Vec<Seq> = core.waiting_requests().map(|one| one.seq).collect();
            let unfinished: Vec<Seq> = core.durable().unfinished.keys().copied().collect();
            assert_eq!(unfinished, waiting, "unanswered: {:?}", core.durable().unfinished);
            match waiting.get(round % waiting.len().max(1)) {
                Some(seq) => self.say(*seq, round % 3 != 2),
                None => break,
            }
        }
        self.check_end();
    }

    fn come_to_rest(&mut self) {
        let end = self.now.boot.plus_ms(1_000_000);
        for turn in 0.. {
            assert!(turn < 1_000, "it does not come to rest");
            if self.ended {
                self.crash();
                self.start(None);
            }
            self.do_what_is_under_way();
            for which in 0..self.host.nodes.len() {
                self.node_ready(which);
            }
            self.answer(usize::MAX);
            let quiet = self.effects.is_empty()
                && self.reports.is_empty()
                && !self.ended
                && self.journal.staged() == self.journal.durable();
            if !quiet {
                continue;
            }
            let core = self.core.as_ref().expect("running");
            self.check_nothing_is_forgotten();
            let Some(at) = core.wake_at() else { break };
            assert!(at > self.now.boot, "it asks to be woken in the past");
            if at > end {
                break;
            }
            self.run(&Op::Pass { ms: (at.0 - self.now.boot.0).div_ceil(1000) });
        }
    }

    fn check_end(&self) {
        self.check_hold();
        self.check_preflights();
        let core = self.core.as_ref().expect("running");
        let durable = core.durable();
        let wanted: BTreeSet<&NodeName> =
            durable.nodes.iter().filter(|(_, record)| record.want == Want::Up).map(|(name, _)| name).collect();
        let held = core.hold().is_some() || core.copied().is_some();
        let running: BTreeSet<&NodeName> =
            self.host.nodes.iter().filter(|(_, found)| found.exit.is_none()).map(|(name, _)| name).collect();
        if !held {
            assert_eq!(running, wanted, "wanted nodes run, and no others; {durable:?}");
        }
        for (name, found) in &self.host.nodes {
            // One that could not be seen when its configuration went is found by the next start.
            let is_known = durable.nodes.contains_key(name);
            assert!(found.exit.is_none() || !is_known, "{name}: its exit was never acknowledged");
        }
        for (reqid, request) in self.asked.clone() {
            let accepted = self.is_durable(|one| {
                matches!(&one.entry, Entry::RequestReceived { reqid: r, digest: d, .. }
                    | Entry::RequestAnswered { reqid: r, digest: d, .. } if *r == reqid && *d == digest(&request.clone().canonical()))
            });
            if accepted {
                let known = self.journal.lookup(&reqid).expect("an accepted request is known");
                assert!(known.outcome.is_some(), "{reqid} has no outcome");
            }
        }
        let completions = self.entries().iter().filter_map(|one| match one.entry {
            Entry::RequestCompleted { of, .. } => Some(of),
            Entry::RequestAnswered { .. } => Some(one.seq),
            _ => None,
        });
        let mut once = BTreeSet::new();
        for of in completions {
            assert!(once.insert(of), "request {of} was completed twice");
        }
        self.check_deadlines();
        for of in once {
            assert!(self.told.contains(&of), "nobody was told the outcome of request {of}");
        }
        let last = self.entries().last().map_or(Seq(0), |one| one.seq);
        assert_eq!(last, self.journal.durable());
        let recovered = self.journal.recover();
        self.check_replay(&recovered);
        assert_eq!(self.journal.verify().problems, Vec::<String>::new(), "the journal is whole");
    }

    /// What was told at a deadline: once, before the outcome, and only if somebody asked who has one.
    fn check_deadlines(&self) {
        let (mut asked, mut told, mut completed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for one in self.entries() {
            match &one.entry {
                Entry::RequestReceived { source, .. } if source.has_deadline() => _ = asked.insert(one.seq),
                Entry::DuplicateSeen { of, source } if source.has_deadline() => _ = asked.insert(*of),
                Entry::RequestCompleted { of, .. } => _ = completed.insert(*of),
                Entry::DeadlineAnswered { of, .. } => {
                    assert!(asked.contains(of), "request {of} had no deadline");
                    assert!(told.insert(*of), "request {of} was answered twice at its deadline");
                    assert!(!completed.contains(of), "request {of} was answered at a deadline after its outcome");
                }
                _ => {}
            }
        }
    }

    /// What is durable.
    fn entries(&self) -> &[Numbered] {
        self.journal.entries()
    }
}

/// What histories had in them, all together: promises about what never happens are kept by accident.
#[derive(Debug, Default)]
struct Contents(BTreeMap<&'static str, u64>);

impl Contents {
    /// What has to be there at least once.
    const WANTED: [&'static str; 15] = [
        "told at a deadline",
        "told at a deadline that somebody asked for later",
        "settled after its deadline",
        "superseded",
        "hold mode entered",
        "hold mode ended",
        "not started for a reason that passes",
        "not started for a reason that lasts",
        "given up for a reason that lasts",
        "forgotten",
        "prepared after it was forgotten",
        "a check that passed",
        "a check that failed",
        "superseded while it was checked",
        "checked again after a crash",
    ];

    fn add(&mut self, world: &World) {
        let (mut asked, mut told) = (BTreeSet::new(), BTreeSet::new());
        let (mut checking, mut interrupted) = (None, None);
        for one in world.entries() {
            match &one.entry {
                Entry::PreflightBegun { of, .. } => {
                    if interrupted.take() == Some(*of) {
                        self.count("checked again after a crash");
                    }
                    checking = Some(*of);
                }
                Entry::PreflightEnded { report, .. } => {
                    checking = None;
                    self.count(if report.0.problems.is_empty() {
                        "a check that passed"
                    } else {
                        "a check that failed"
                    });
                }
                Entry::AgentStarted { .. } => interrupted = checking.take(),
                Entry::RequestReceived { source, .. } if source.has_deadline() => _ = asked.insert(one.seq),
                Entry::DeadlineAnswered { of, .. } => {
                    told.insert(*of);
                    self.count("told at a deadline");
                    if !asked.contains(of) {
                        self.count("told at a deadline that somebody asked for later");
                    }
                }
                Entry::RequestCompleted { of, response, .. } => {
                    if checking.take_if(|checking| checking == of).is_some() {
                        self.count("superseded while it was checked");
                    }
                    if told.contains(of) {
                        self.count("settled after its deadline");
                    }
                    let errors =
                        response.kept().into_iter().flat_map(|kept| &kept.results).filter_map(|one| one.error.as_ref());
                    if errors.into_iter().any(|error| error.contains("superseded by")) {
                        self.count("superseded");
                    }
                }
                Entry::HoldEntered { .. } => self.count("hold mode entered"),
                Entry::HoldEnded { .. } => self.count("hold mode ended"),
                Entry::NodeExited { cause: ExitCause::NotStarted(reason), verdict, .. } => {
                    let lasts = reason != PASSING;
                    self.count(match lasts {
                        true => "not started for a reason that lasts",
                        false => "not started for a reason that passes",
                    });
                    if lasts && matches!(verdict, Verdict::GiveUp { .. }) {
                        self.count("given up for a reason that lasts");
                    }
                }
                _ => {}
            }
        }
        *self.0.entry("forgotten").or_default() += world.forgotten;
        *self.0.entry("prepared after it was forgotten").or_default() += world.prepared_again;
    }

    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

#[test]
fn histories_keep_the_promises() {
    let cases = histories();
    let config = ProptestConfig { cases, max_shrink_iters: 20_000, ..ProptestConfig::with_source_file(file!()) };
    let contents = RefCell::new(Contents::default());
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&prop::collection::vec(op(), 1..120), |ops| {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.settle();
        contents.borrow_mut().add(&world);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}\n{runner}");
    }
    let contents = contents.into_inner();
    println!("{cases} histories: {:?}", contents.0);
    let missing: Vec<&str> =
        Contents::WANTED.into_iter().filter(|what| contents.0.get(what).is_none_or(|count| *count == 0)).collect();
    // A few histories need not have everything.
    assert!(missing.is_empty() || cases < 400, "{cases} histories had none of these: {missing:?}");
}

//! Tables of state and input against entries and effects. `tests/sim.rs` has the random histories.

use std::collections::{BTreeMap, BTreeSet};

mod alerts;
mod channel;
mod copy;
mod costs;
mod health;
mod hold;
mod preview;
mod remains;
mod set_aside;
mod settle;
mod unprovable;

use super::*;
use crate::api::configuration::{ClusterRole, Configuration, Instance, Node, Port};
use crate::api::event::{Incoming, Request, ResultData, Route, Source};
use crate::api::ids::{Incarnation, NodeName, ReqId};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId};
use crate::api::plan::Action;
use crate::api::status::{NodeOutputs, NodeState};
use crate::api::supervision::{Finding, NodeEvent, NodeHappening, NodeOrder};
use crate::api::time::Timestamp;
use crate::journal::entry::Outcome;
use crate::journal::memory::MemoryJournal;

/// A core with a journal, and a supervisor that does nothing by itself.
struct Bench {
    core: Lifecycle,
    journal: MemoryJournal<Effect>,
    now: Now,
    calls: u64,
    /// Whether everything is looked at after each step, to find what the step has not.
    is_checked: bool,
    starts: usize,
    /// Over what requests come.
    transport: &'static str,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let core = Lifecycle::new(options, Recovered::default());
        let now = Now { wall: Timestamp(1_000_000), boot: BootTime(100_000_000) };
        let journal = MemoryJournal::new();
        let mut bench = Self { core, journal, now, calls: 0, is_checked: true, starts: 0, transport: "control" };
        bench.start("boot-1", Vec::new());
        bench
    }

    /// Begins a run; gives what it does at once.
    fn start(&mut self, boot_id: &str, found: Vec<(&str, Finding)>) -> Vec<Effect> {
        self.starts += 1;
        let started = Input::Started { boot_id: boot_id.into(), version: "1".into(), pid: 1, hold: None };
        let mut effects = self.give(started);
        for (node, finding) in found {
            effects.extend(self.give(Input::Found { node: name(node), finding }));
        }
        effects.extend(self.give(Input::Adopted));
        effects
    }

    /// Kills the agent and starts it again.
    fn crash(&mut self, found: Vec<(&str, Finding)>) -> Vec<Effect> {
        self.reload();
        self.start("boot-1", found)
    }

    fn reload(&mut self) {
        self.journal.crash(false);
        let recovered = self.journal.recover();
        self.core = Lifecycle::new(self.core.options.clone(), recovered);
    }

    /// One input, with every commit that follows; gives the effects in the order in which they may leave.
    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.step(&input, &mut effects);
        effects.extend(self.commit());
        while self.journal.staged() > self.journal.durable() {
            effects.extend(self.commit());
        }
        effects
    }

    fn commit(&mut self) -> Vec<Effect> {
        let records = self.core.take_records();
        let mut effects = self.journal.commit(records);
        let upto = self.journal.durable();
        self.step(&Input::Committed { upto }, &mut effects);
        effects
    }

    fn step(&mut self, input: &Input, free: &mut Vec<Effect>) {
        for sealed in self.core.step(self.now, input) {
            free.extend(self.journal.stage(sealed));
        }
        if self.is_checked {
            assert_eq!(self.core.overlooked(self.now), None, "after {input:?}");
        }
    }

    fn ask(&mut self, reqid: &str, request: Request) -> Vec<Effect> {
        self.calls += 1;
        let reqid = ReqId::new(reqid).unwrap();
        let known = self.journal.lookup(&reqid).map(Box::new);
        let incoming = Incoming {
            reqid,
            request: request.canonical(),
            dialect: Dialect::Management,
            source: Source { transport: self.transport.to_owned(), ..source("uid=0 pid=7") },
            route: Some(Route { connection: 1, call: self.calls }),
        };
        self.give(Input::Request { incoming: Box::new(incoming), known })
    }

    /// As a controller asks, who does not wait for long.
    fn over_broker(mut self) -> Self {
        self.transport = "broker";
        self
    }

    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now.boot = self.now.boot.plus_ms(ms);
        self.now.wall.0 += ms * 1000;
        self.give(Input::Tick)
    }

    fn report(&mut self, node: &str, incarnation: Incarnation, what: NodeHappening) -> Vec<Effect> {
        self.give(Input::Node(NodeEvent { node: name(node), incarnation, what }))
    }

    /// Carries out the orders in `effects` as a host without faults does, until no more come.
    fn execute(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut queue: std::collections::VecDeque<Effect> = effects.into();
        let mut seen = Vec::new();
        while let Some(effect) = queue.pop_front() {
            if let Effect::Order { node, order } = &effect {
                let process = self.process(17);
                let (incarnation, what) = match order {
                    NodeOrder::Prepare { incarnation, .. } => (*incarnation, Some(NodeHappening::Prepared)),
                    NodeOrder::Launch { incarnation } => (*incarnation, Some(NodeHappening::Started { process })),
                    NodeOrder::Stop { incarnation, .. } => (*incarnation, Some(exited(ExitCause::Signal(15)))),
                    NodeOrder::Clear { incarnation } => (*incarnation, Some(NodeHappening::Cleared)),
                    NodeOrder::SetAside { incarnation, .. } => {
                        let path = Some(format!("/run/.aside-{node}-1").into());
                        (*incarnation, Some(NodeHappening::SetAside { path }))
                    }
                    NodeOrder::KeepCrash { incarnation }
                    | NodeOrder::AcknowledgeExit { incarnation }
                    | NodeOrder::Forget { incarnation } => (*incarnation, None),
                    NodeOrder::Disown => (Incarnation::default(), None),
                };
                if let Some(what) = what {
                    queue.extend(self.report(node.as_str(), incarnation, what));
                }
            }
            seen.push(effect);
        }
        seen
    }

    fn process(&self, pid: u32) -> ProcessId {
        ProcessId { boot_id: "boot-1".into(), pid, start_time: self.now.boot.0 / 10_000 }
    }

    fn incarnation(&self, node: &str) -> Incarnation {
        self.core.durable().nodes[&name(node)].incarnation
    }

    fn ready(&mut self, node: &str) -> Vec<Effect> {
        let incarnation = self.incarnation(node);
        let effects = self.report(node, incarnation, NodeHappening::Ready);
        self.execute(effects)
    }

    fn state(&self, node: &str) -> NodeState {
        self.core.node_state(&name(node))
    }

    /// A configuration of these nodes, up and ready.
    fn running(nodes: &[&str]) -> Self {
        Self::running_with(options(), nodes)
    }

    fn running_with(options: Options, nodes: &[&str]) -> Self {
        let mut bench = Self::with(options);
        let effects = bench.ask("setup", set("c1", nodes));
        let mut effects = bench.execute(effects);
        for node in nodes {
            effects.extend(bench.ready(node));
            let later = bench.pass(1_000);
            effects.extend(bench.execute(later));
        }
        for node in nodes {
            bench.ready(node);
            assert_eq!(bench.state(node), NodeState::Running, "{node}");
        }
        bench
    }

    fn entries(&self, matches: impl Fn(&Entry) -> bool) -> usize {
        self.journal.entries().iter().filter(|one| matches(&one.entry)).count()
    }
}

fn options() -> Options {
    Options {
        instance: InstanceName::new("a1").unwrap(),
        cpus: 2,
        agent_ports: vec![2151],
        program: Program::Simulated,
        args: Vec::new(),
        profile: Profile::Plain,
        deploy_strategy: DeployStrategy::Replace,
        readiness: Readiness::Checkin,
        rights: BTreeMap::new(),
        ready_timeout_ms: 60_000,
        stop_timeout_ms: 10_000,
        stop_timeout_writers_ms: 15_000,
        stage_wait_ms: 1_000,
        request_timeout_ms: 7_000,
        preflight_ms: None,
        restart: RestartOptions::default(),
    }
}

fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

fn source(peer: &str) -> Source {
    Source { transport: "test".into(), peer: peer.into() }
}

fn exited(cause: ExitCause) -> NodeHappening {
    NodeHappening::Exited {
        cause,
        process: None,
        stdout: String::new(),
        stderr: "last words".into(),
        is_lasting: false,
    }
}

fn configuration(id: &str, nodes: &[&str]) -> Configuration {
    let node = |(index, name): (usize, &&str)| Node {
        name: (*name).to_owned(),
        instance: "a1".to_owned(),
        role: match *name {
            "logger" => ClusterRole::Logger,
            "manager" => ClusterRole::Manager,
            "proxy" => ClusterRole::Proxy,
            _ => ClusterRole::Worker,
        },
        port: (!name.starts_with('w')).then(|| Port::tcp(2200 + index as u16)),
        scripts: Vec::new(),
        options: Vec::new(),
        interface: None,
        cpu_affinity: None,
        env: BTreeMap::new(),
        metrics_port: None,
    };
    let instances = vec![Instance { name: "a1".into(), host: "127.0.0.1".parse().unwrap(), listen_port: None }];
    Configuration {
        id: id.into(),
        instances,
        nodes: nodes.iter().enumerate().map(node).collect(),
        cluster_backend: None,
    }
}

fn set(id: &str, nodes: &[&str]) -> Request {
    Request::SetConfiguration { config: configuration(id, nodes) }
}

fn names(nodes: &[&str]) -> BTreeSet<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

fn responses(effects: &[Effect]) -> Vec<(Route, Response)> {
    let response = |effect: &Effect| match effect {
        Effect::Respond { route, response, .. } => Some((*route, (**response).clone())),
        _ => None,
    };
    effects.iter().filter_map(response).collect()
}

fn only_response(effects: &[Effect]) -> Response {
    let all = responses(effects);
    assert_eq!(all.len(), 1, "{effects:?}");
    all[0].1.clone()
}

fn prepared(effects: &[Effect]) -> Vec<String> {
    let node = |effect: &Effect| match effect {
        Effect::Order { node, order: NodeOrder::Prepare { .. } } => Some(node.to_string()),
        _ => None,
    };
    effects.iter().filter_map(node).collect()
}

fn stopped(effects: &[Effect]) -> Vec<String> {
    let node = |effect: &Effect| match effect {
        Effect::Order { node, order: NodeOrder::Stop { .. } } => Some(node.to_string()),
        _ => None,
    };
    effects.iter().filter_map(node).collect()
}

fn looked_for(effects: &[Effect]) -> Vec<String> {
    let node = |effect: &Effect| match effect {
        Effect::Order { node, order: NodeOrder::Clear { .. } } => Some(node.to_string()),
        _ => None,
    };
    effects.iter().filter_map(node).collect()
}

fn adopted(bench: &Bench, node: &str) -> Finding {
    let record = &bench.core.durable().nodes[&name(node)];
    let process = match &record.life {
        crate::journal::entry::Life::Up { process, .. } => Some(process.clone()),
        _ => None,
    };
    let spec: Box<LaunchSpec> = Box::new(record.spec.0.clone());
    Finding::Adopted { incarnation: record.incarnation, process, ready: false, spec }
}

#[test]
fn nothing_leaves_before_its_commit() {
    let mut bench = Bench::new();
    let incoming = Incoming {
        reqid: ReqId::new("r").unwrap(),
        request: Request::AgentWelcome {},
        dialect: Dialect::ClusterAgent,
        source: source("p"),
        route: Some(Route { connection: 1, call: 1 }),
    };
    let input = Input::Request { incoming: Box::new(incoming), known: None };
    let mut free = Vec::new();
    bench.step(&input, &mut free);
    assert_eq!(free, Vec::new());
    assert_eq!(responses(&bench.commit()).len(), 1);
}

#[test]
fn a_completed_duplicate_gets_the_stored_response() {
    let mut bench = Bench::running(&["w1"]);
    let first = only_response(&bench.ask("g", Request::GetNodes {}));
    let effects = bench.report("w1", bench.incarnation("w1"), exited(ExitCause::Signal(9)));
    bench.execute(effects);
    let again = only_response(&bench.ask("g", Request::GetNodes {}));
    assert_eq!(first, again);
    let effects = bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    assert!(responses(&effects).is_empty());
    assert_eq!(only_response(&bench.ask("g", Request::GetNodes {})), first);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::DuplicateSeen { .. })), 2);
    let fresh = only_response(&bench.ask("g2", Request::GetNodes {}));
    assert_ne!(fresh.results[0].data, first.results[0].data, "a fresh reqid sees fresh values");
}

#[test]
fn a_duplicate_during_handling_waits_for_the_same_response() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert!(responses(&effects).is_empty());
    bench.execute(effects);
    assert!(responses(&bench.ask("d", set("c1", &["w1"]))).is_empty());
    let answers = responses(&bench.ready("w1"));
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].1, answers[1].1);
    assert!(answers[0].1.success());
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::LaunchIntended { .. })), 1);
}

#[test]
fn too_many_waiting_duplicates_are_refused() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    bench.execute(effects);
    for _ in 1..WAITING_DUPLICATES {
        assert!(bench.ask("d", set("c1", &["w1"])).is_empty());
    }
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert!(matches!(effects.as_slice(), [Effect::Refuse { .. }]), "{effects:?}");
}

#[test]
fn another_request_under_the_same_reqid_is_a_conflict() {
    let mut bench = Bench::running(&["w1"]);
    let first = only_response(&bench.ask("r", Request::AgentWelcome {}));
    let conflict = only_response(&bench.ask("r", Request::AgentStandby {}));
    assert!(conflict.results[0].error.as_ref().unwrap().starts_with("conflict: "));
    assert!(!conflict.success());
    assert_eq!(conflict.event, "agent_standby_response");
    assert_eq!(bench.state("w1"), NodeState::Running);
    assert_eq!(only_response(&bench.ask("r", Request::AgentWelcome {})), first);
}

#[test]
fn an_empty_reqid_is_never_a_duplicate() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        assert!(only_response(&bench.ask("", Request::AgentWelcome {})).success());
    }
    assert!(only_response(&bench.ask("", Request::AgentStandby {})).success());
    let taken = |entry: &Entry| matches!(entry, Entry::RequestReceived { .. } | Entry::RequestAnswered { .. });
    assert_eq!(bench.entries(taken), 3);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::DuplicateSeen { .. })), 0);
}

#[test]
fn three_crashes_abandon_a_request_and_clean_stops_do_not_count() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    bench.execute(effects);
    for _ in 0..5 {
        bench.give(Input::Stop { reason: "test".into() });
        bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    }
    assert_eq!(bench.core.durable().unfinished.len(), 1, "clean stops ended it");
    for _ in 0..2 {
        bench.crash(vec![("w1", adopted(&bench, "w1"))]);
        assert_eq!(bench.core.durable().unfinished.len(), 1);
    }
    bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    assert!(bench.core.durable().unfinished.is_empty());
    assert_eq!(
        bench
            .entries(|entry| matches!(entry, Entry::RequestCompleted { outcome: Outcome::Abandoned, attempts: 3, .. })),
        1
    );
    let answer = only_response(&bench.ask("d", set("c1", &["w1"])));
    assert!(answer.results[0].error.as_ref().unwrap().starts_with("abandoned after 3 attempts"));
}

#[test]
fn the_journals_head_is_told_after_each_change_and_every_hour() {
    let mut bench = Bench::new();
    let told = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::TellHead { .. })).count();
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert_eq!(told(&effects), 1);
    bench.execute(effects);
    assert_eq!(told(&bench.ask("g", Request::GetNodes {})), 0, "a read changes nothing");
    assert_eq!(told(&bench.ask("r", Request::Restart { nodes: BTreeSet::new() })), 1);
    bench.ready("w1");
    // Every hour since the start, and a suspended host is told once.
    assert_eq!((told(&bench.pass(3_599_000)), told(&bench.pass(1000)), told(&bench.pass(3_599_000))), (0, 1, 0));
    assert_eq!((told(&bench.pass(10 * 3_600_000)), told(&bench.pass(3_599_000)), told(&bench.pass(1000))), (1, 0, 1));
}

#[test]
fn a_replayed_request_is_finished_and_published_to_whoever_subscribes() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    bench.execute(effects);
    bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    assert!(responses(&bench.ready("w1")).is_empty(), "who asked is gone");
    assert!(bench.core.durable().unfinished.is_empty());
    let effects = bench.give(Input::Peers(Peers { management: 1, ..Peers::default() }));
    let published: Vec<_> = effects.iter().filter(|effect| matches!(effect, Effect::Publish { .. })).collect();
    assert_eq!(published.len(), 1);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Notify(Notification::NotifyAgentHello { .. }))));
    assert!(
        bench
            .give(Input::Peers(Peers { management: 1, ..Peers::default() }))
            .iter()
            .all(|effect| !matches!(effect, Effect::Publish { .. }))
    );
}

#[test]
fn a_response_is_unsent_until_its_delivery_is_reported() {
    let mut bench = Bench::new();
    let effects = bench.ask("w", Request::AgentWelcome {});
    let (route, _) = responses(&effects)[0].clone();
    assert!(bench.core.sent_upto() < bench.journal.durable());
    bench.give(Input::Delivered { route });
    assert_eq!(bench.core.sent_upto(), bench.journal.durable());
}

#[test]
fn an_invalid_configuration_lists_every_problem_and_changes_nothing() {
    let mut bench = Bench::running(&["w1"]);
    let before = bench.incarnation("w1");
    let mut bad = configuration("bad", &["w1", "w1", "manager"]);
    bad.nodes[2].port = None;
    bad.nodes[2].instance = "nowhere".into();
    let answer = only_response(&bench.ask("b", Request::SetConfiguration { config: bad.clone() }));
    assert_eq!(answer.results.len(), 1);
    let error = answer.results[0].error.clone().unwrap();
    assert!(error.contains("w1") && error.contains("nowhere") && error.contains("manager"), "{error}");
    let several = only_response(&bench.ask("b2", Request::Deploy { config: bad, force: true, how: Box::default() }));
    assert!(several.results.len() >= 3, "{several:?}");
    assert_eq!(bench.incarnation("w1"), before);
    assert_eq!(bench.state("w1"), NodeState::Running);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::RequestCompleted { outcome: Outcome::Rejected, .. })), 2);
    let again = Request::SetConfiguration { config: configuration("bad", &["w1"]) };
    assert!(only_response(&bench.ask("b", again)).results[0].error.as_ref().unwrap().starts_with("conflict: "));
}

#[test]
fn the_running_configuration_is_left_alone_unless_forced() {
    let mut bench = Bench::running(&["w1"]);
    let before = bench.incarnation("w1");
    let answer = only_response(
        &bench.ask("s", Request::Deploy { config: configuration("c1", &["w1"]), force: false, how: Box::default() }),
    );
    assert_eq!((answer.results.len(), answer.success()), (1, true));
    assert_eq!(bench.incarnation("w1"), before);
    let effects =
        bench.ask("f", Request::Deploy { config: configuration("c1", &["w1"]), force: true, how: Box::default() });
    bench.execute(effects);
    assert_eq!(bench.incarnation("w1"), before.next());
}

#[test]
fn a_later_configuration_supersedes_one_that_still_waits() {
    let mut bench = Bench::new();
    let effects = bench.ask("first", set("c1", &["w1"]));
    bench.execute(effects);
    let effects = bench.ask("second", set("c2", &["w2"]));
    let answer = only_response(&effects);
    assert_eq!(answer.reqid.as_str(), "first");
    assert!(answer.results[0].error.as_ref().unwrap().starts_with("superseded by request "), "{answer:?}");
    bench.execute(effects);
    assert_eq!(only_response(&bench.ready("w2")).reqid.as_str(), "second");
    assert!(!bench.core.durable().nodes.contains_key(&name("w1")));
}

#[test]
fn stages_start_in_order_and_wait_for_a_slow_one_only_so_long() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1", "manager", "logger", "proxy"]));
    assert_eq!(prepared(&effects), ["logger"]);
    assert_eq!(prepared(&bench.execute(effects)), ["logger"], "others wait for the logger");
    let effects = bench.ready("logger");
    assert_eq!(prepared(&effects), ["manager"]);
    let effects = bench.pass(999);
    assert!(prepared(&effects).is_empty());
    let effects = bench.pass(1);
    assert_eq!(prepared(&effects), ["proxy"], "the manager had its second");
    bench.execute(effects);
    assert_eq!(prepared(&bench.ready("proxy")), ["w1"], "workers wait for the proxy, not for the manager any more");
}

#[test]
fn stages_stop_in_reverse() {
    let mut bench = Bench::running(&["logger", "manager", "w1"]);
    let effects = bench.ask("s", Request::AgentStandby {});
    assert_eq!(stopped(&effects), ["w1"]);
    let seen = bench.execute(effects);
    assert_eq!(stopped(&seen), ["w1", "manager", "logger"]);
    assert!(only_response(&seen).success());
    assert!(bench.core.durable().nodes.is_empty());
    assert_eq!(bench.core.configuration_id(), None);
}

#[test]
fn a_standby_that_takes_too_long_names_what_still_runs() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.ask("s", Request::AgentStandby {});
    assert_eq!(stopped(&effects), ["w1"]);
    let answer = only_response(&bench.pass(10_000 + 3_000 + 5_000));
    assert!(answer.results[0].error.as_ref().unwrap().contains("w1: still running"), "{answer:?}");
}

#[test]
fn a_node_that_cannot_start_is_failed_with_the_reason() {
    let mut bench = Bench::new().over_broker();
    let effects = bench
        .ask("d", Request::Deploy { config: configuration("c1", &["w1", "w2"]), force: false, how: Box::default() });
    assert_eq!(prepared(&effects), ["w1", "w2"]);
    let refused = NodeHappening::Exited {
        cause: ExitCause::NotStarted("/opt/zeek: permission denied".into()),
        process: None,
        stdout: String::new(),
        stderr: String::new(),
        is_lasting: true,
    };
    let incarnation = bench.incarnation("w1").next();
    let effects = bench.report("w1", incarnation, refused.clone());
    assert_eq!(bench.state("w1"), NodeState::Crashed);
    bench.execute(effects);
    let effects = bench.report("w2", incarnation, NodeHappening::Prepared);
    bench.execute(effects);
    bench.ready("w2");
    let mut effects = bench.pass(3_000);
    for pause in [4_000, 2_000] {
        assert_eq!(prepared(&effects), ["w1"]);
        let incarnation = bench.incarnation("w1").next();
        bench.report("w1", incarnation, refused.clone());
        effects = bench.pass(pause);
        if pause == 4_000 {
            let answer = only_response(&effects);
            let failed = answer.results.iter().find(|result| result.node.as_deref() == Some("w1")).unwrap();
            assert!(failed.error.as_ref().unwrap().contains("/opt/zeek: permission denied"), "{answer:?}");
            assert!(answer.results.iter().any(|result| result.node.as_deref() == Some("w2") && result.success));
            effects = bench.pass(2_000);
        }
    }
    assert_eq!(bench.state("w1"), NodeState::Failed, "after three tries in ten seconds");
    let effects = bench.pass(300_000);
    assert_eq!(prepared(&effects), ["w1"], "tried again after failed_retry");
}

/// A process that does not end keeps the next from starting, and the answer says so.
#[test]
fn a_restart_of_what_does_not_end_says_what_it_waits_for() {
    let mut bench = Bench::running(&["w1"]).over_broker();
    let effects = bench.ask("r", Request::Restart { nodes: names(&["w1"]) });
    assert_eq!(stopped(&effects), ["w1"]);
    let answer = only_response(&bench.pass(7_000));
    let error = answer.results[0].error.as_ref().unwrap();
    assert!(error.contains("still being stopped"), "{error}");
}

/// A node counts its own incarnations; one of a name that was gone counts on while something of it may be left.
#[test]
fn incarnations_count_per_node() {
    let mut bench = Bench::running(&["w1"]);
    for _ in 0..3 {
        let effects = bench.report("w1", bench.incarnation("w1"), exited(ExitCause::Signal(11)));
        bench.execute(effects);
        let later = bench.pass(60_000);
        bench.execute(later);
        bench.ready("w1");
    }
    assert_eq!(bench.incarnation("w1"), Incarnation(4));
    let effects = bench.ask("d", set("c2", &["w2"]));
    bench.execute(effects);
    assert_eq!(bench.incarnation("w2"), Incarnation(1));
    // Its run directory may still be there.
    let effects = bench.ask("e", set("c3", &["w1", "w2"]));
    bench.execute(effects);
    assert_eq!(bench.incarnation("w1"), Incarnation(5));
    let effects = bench.ask("f", set("c4", &["w2"]));
    bench.execute(effects);
    bench.report("w1", Incarnation::default(), NodeHappening::Forgotten);
    let effects = bench.ask("g", set("c5", &["w1", "w2"]));
    bench.execute(effects);
    assert_eq!(bench.incarnation("w1"), Incarnation(1));
}

#[test]
fn at_the_deadline_pending_nodes_are_named_and_supervision_goes_on() {
    let mut bench = Bench::new().over_broker();
    let effects = bench
        .ask("d", Request::Deploy { config: configuration("c1", &["w1", "w2"]), force: false, how: Box::default() });
    bench.execute(effects);
    assert!(responses(&bench.ready("w1")).is_empty());
    let incarnation = bench.incarnation("w2");
    let effects = bench.report("w2", incarnation, exited(ExitCause::Code(3)));
    bench.execute(effects);
    let answer = only_response(&bench.pass(7_000));
    let [timed_out, w1, w2] = answer.results.as_slice() else { panic!("{answer:?}") };
    assert_eq!((timed_out.error.as_deref(), &timed_out.node), (Some("request timed out"), &None));
    assert!(w1.success);
    assert!(!w2.success && w2.error.as_deref().unwrap().contains("not ready yet"), "{w2:?}");
    assert!(matches!(&w2.data, Some(ResultData::Outputs(outputs)) if outputs.stderr == "last words"), "{w2:?}");
    bench.ready("w2");
    assert_eq!(bench.state("w2"), NodeState::Running);
}

#[test]
fn a_crash_loop_backs_off_and_is_given_up() {
    let mut bench = Bench::running(&["w1"]);
    let mut restarts = 0;
    while bench.state("w1") != NodeState::Failed {
        let incarnation = bench.incarnation("w1");
        let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(11)));
        let mut seen = bench.execute(effects);
        for _ in 0..70 {
            let later = bench.pass(500);
            seen.extend(bench.execute(later));
        }
        restarts += prepared(&seen).len();
        assert!(restarts < 20, "it is never given up");
    }
    assert_eq!(restarts, 10);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { asked: false, .. })), 11);
}

#[test]
fn a_stopped_node_stays_stopped_until_it_is_started_or_configured() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.ask("x", Request::StopNodes { nodes: names(&["w1"]), force: false });
    assert!(only_response(&bench.execute(effects)).success());
    assert_eq!(bench.state("w1"), NodeState::Stopped);
    bench.crash(vec![("w1", Finding::Absent)]);
    assert!(prepared(&bench.pass(600_000)).is_empty());
    let effects = bench.ask("same", set("c1", &["w1"]));
    assert!(only_response(&effects).success() && prepared(&effects).is_empty());
    let effects = bench.ask("y", Request::StartNodes { nodes: names(&["w1"]) });
    assert_eq!(prepared(&effects), ["w1"]);
    bench.execute(effects);
    assert!(only_response(&bench.ready("w1")).success());
}

#[test]
fn unknown_nodes_are_dropped_by_the_api_and_named_to_operators() {
    let mut bench = Bench::running(&["w1"]).over_broker();
    // A controller names the nodes of all its hosts.
    let answer = only_response(&bench.ask("a", Request::Restart { nodes: names(&["nobody"]) }));
    assert!(answer.results.is_empty());
    bench.transport = "control";
    let answer = only_response(&bench.ask("aa", Request::Restart { nodes: names(&["nobody"]) }));
    assert!(answer.results[0].error.as_ref().unwrap().contains("no such node") && !answer.success(), "{answer:?}");
    let rejected = |entry: &Entry| matches!(entry, Entry::RequestCompleted { outcome: Outcome::Rejected, .. });
    assert_eq!(bench.entries(rejected), 1);
    let effects = bench.ask("aaa", Request::Restart { nodes: names(&["w1", "nobody"]) });
    bench.execute(effects);
    let answer = only_response(&bench.ready("w1"));
    let told: Vec<_> = answer.results.iter().map(|one| (one.node.as_deref(), one.success)).collect();
    assert_eq!(told, [(Some("w1"), true), (Some("nobody"), false)]);
    let answer = only_response(&bench.ask("b", Request::StopNodes { nodes: names(&["w1", "nobody"]), force: false }));
    assert!(answer.results[0].error.as_ref().unwrap().contains("nobody"));
    assert_eq!(bench.state("w1"), NodeState::Running);
}

#[test]
fn an_exit_while_the_agent_was_away_is_recorded_once_and_restarted_once() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    let report = Finding::Exited {
        incarnation,
        process: None,
        cause: ExitCause::Signal(9),
        stdout: String::new(),
        stderr: String::new(),
        is_lasting: false,
    };
    let effects = bench.crash(vec![("w1", report)]);
    let seen = bench.execute(effects);
    assert_eq!(prepared(&seen), ["w1"]);
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(9)));
    assert_eq!(
        effects,
        [Effect::Order { node: name("w1"), order: NodeOrder::AcknowledgeExit { incarnation } }],
        "the second report is acknowledged and nothing else"
    );
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { .. })), 1);
}

#[test]
fn after_a_host_restart_wanted_nodes_start_and_stopped_ones_do_not() {
    let mut bench = Bench::running(&["w1", "w2"]);
    let effects = bench.ask("x", Request::StopNodes { nodes: names(&["w2"]), force: false });
    bench.execute(effects);
    bench.reload();
    bench.now.boot = BootTime(5_000_000);
    let effects = bench.start("boot-2", vec![("w1", Finding::Absent), ("w2", Finding::Absent)]);
    assert_eq!(prepared(&effects), ["w1"]);
    let restarted =
        |entry: &Entry| matches!(entry, Entry::NodeExited { cause: ExitCause::HostRestarted, asked: false, .. });
    assert_eq!(bench.entries(restarted), 1);
}

#[test]
fn an_intent_without_a_process_is_carried_out_under_its_own_number() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    let incarnation = bench.incarnation("w1").next();
    assert_eq!(prepared(&effects), ["w1"]);
    bench.report("w1", incarnation, NodeHappening::Prepared);
    let effects = bench.crash(vec![("w1", Finding::Absent)]);
    let seen = bench.execute(effects);
    let launched = Effect::Order { node: name("w1"), order: NodeOrder::Launch { incarnation } };
    assert!(seen.contains(&launched), "{seen:?}");
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::LaunchIntended { .. })), 1);
}

#[test]
fn five_early_deaths_hold_until_somebody_says_what_they_want() {
    let mut bench = Bench::running(&["w1", "w2"]);
    for _ in 0..4 {
        bench.crash(vec![("w1", adopted(&bench, "w1")), ("w2", adopted(&bench, "w2"))]);
        assert_eq!(bench.core.hold(), None);
    }
    let effects = bench.crash(vec![("w1", adopted(&bench, "w1")), ("w2", Finding::Absent)]);
    assert!(bench.core.hold().is_some());
    assert!(prepared(&effects).is_empty() && prepared(&bench.pass(10_000)).is_empty(), "w2 is not started");
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(11)));
    assert_eq!(prepared(&effects), ["w1"], "what was adopted is supervised");
    bench.execute(effects);
    let effects = bench.ask("go", set("c1", &["w1", "w2"]));
    assert_eq!(bench.core.hold(), None);
    assert_eq!(prepared(&effects), ["w2"]);
    bench.execute(effects);
    assert_eq!(bench.state("w2"), NodeState::Pending);
}

#[test]
fn a_run_of_a_minute_is_no_early_death() {
    let mut bench = Bench::new();
    for _ in 0..12 {
        bench.pass(SETTLED_MS);
        bench.crash(Vec::new());
        assert_eq!(bench.core.hold(), None);
    }
}

#[test]
fn a_node_that_nobody_can_prove_ours_is_left_alone() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.crash(vec![("w1", Finding::Unprovable { reason: "the lock is held by pid 1".into() })]);
    assert_eq!(bench.state("w1"), NodeState::Unknown);
    assert!(prepared(&effects).is_empty() && stopped(&effects).is_empty());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Notify(Notification::NotifyError { .. }))));
    let effects = bench.pass(5_000);
    assert_eq!(prepared(&effects), ["w1"], "looked at again");
    let incarnation = bench.incarnation("w1").next();
    let effects = bench.report("w1", incarnation, NodeHappening::Prepared);
    let seen = bench.execute(effects);
    let launched = Effect::Order { node: name("w1"), order: NodeOrder::Launch { incarnation } };
    assert!(seen.contains(&launched), "once the lock is free, the old one is lost and a new one starts: {seen:?}");
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { cause: ExitCause::Lost, .. })), 1);
}

#[test]
fn a_node_that_never_gets_ready_is_told_once_and_left_running() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    bench.execute(effects);
    let mut errors = 0;
    for _ in 0..20 {
        let effects = bench.pass(10_000);
        assert!(stopped(&effects).is_empty());
        errors +=
            effects.iter().filter(|effect| matches!(effect, Effect::Notify(Notification::NotifyError { .. }))).count();
    }
    assert_eq!(errors, 1);
    assert_eq!(bench.state("w1"), NodeState::Pending);
}

#[test]
fn alive_for_long_enough_is_ready_where_that_is_what_ready_means() {
    let mut bench = Bench::with(Options { readiness: Readiness::Alive { after_ms: 1_000 }, ..options() });
    let effects = bench.ask("d", set("c1", &["w1"]));
    bench.execute(effects);
    assert_eq!(bench.state("w1"), NodeState::Pending);
    assert!(only_response(&bench.pass(1_000)).success());
    assert_eq!(bench.state("w1"), NodeState::Running);
}

#[test]
fn rejected_input_is_journaled_ten_times_a_minute_and_then_counted() {
    let mut bench = Bench::new();
    for pid in 0..100 {
        bench.give(Input::Malformed {
            source: source(&format!("uid=5 pid={pid}")),
            event: String::new(),
            error: "not MessagePack".into(),
        });
    }
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::InputRejected { .. })), 10);
    bench.pass(60_000);
    let counted = |entry: &Entry| matches!(entry, Entry::InputRejected { suppressed: 90, .. });
    assert_eq!(bench.entries(counted), 1);
    bench.give(Input::Malformed { source: source("uid=6 pid=1"), event: String::new(), error: "x".into() });
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::InputRejected { .. })), 12);
}

/// On loopback all have one address: a user who floods it does not silence what the journal has to say of another.
#[test]
fn rejected_input_is_counted_for_each_user_of_an_address() {
    let mut bench = Bench::new();
    for port in 0..100 {
        for uid in ["", " uid=5", " uid=6 subject=CN=uid=7", " uid=6 subject=CN=uid=8"] {
            bench.give(Input::Malformed {
                source: source(&format!("127.0.0.1 port={port}{uid}")),
                event: String::new(),
                error: "nonsense".into(),
            });
        }
    }
    let of = |uid: &str| {
        let is_its = |entry: &Entry| match entry {
            Entry::InputRejected { source, .. } => source.peer.contains(uid),
            _ => false,
        };
        bench.entries(is_its)
    };
    assert_eq!((of(" uid=5"), of(" uid=6"), of("127.0.0.1")), (10, 10, 30));
}

#[test]
fn shutdown_with_nodes_keeps_what_is_wanted() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.ask("bye", Request::Shutdown { nodes: true });
    let seen = bench.execute(effects);
    assert!(only_response(&seen).success());
    let at = |wanted: fn(&Effect) -> bool| seen.iter().position(wanted).unwrap();
    let answered = at(|effect| matches!(effect, Effect::Respond { .. }));
    assert!(answered < at(|effect| matches!(effect, Effect::Exit { .. })), "the answer leaves before the end");
    assert_eq!(bench.state("w1"), NodeState::Stopped);
    let place = |wanted: fn(&Effect) -> bool| seen.iter().position(wanted).unwrap();
    let answered = place(|effect| matches!(effect, Effect::Respond { .. }));
    assert!(answered < place(|effect| matches!(effect, Effect::Exit { .. })), "{seen:?}");
    let effects = bench.ask("late", Request::AgentWelcome {});
    assert!(matches!(effects.as_slice(), [Effect::Refuse { .. }]));
    let effects = bench.crash(vec![("w1", Finding::Absent)]);
    assert_eq!(prepared(&effects), ["w1"], "the next run starts them");
}

#[test]
fn a_shutdown_is_answered_before_the_agent_ends() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.ask("bye", Request::Shutdown { nodes: false });
    assert!(only_response(&effects).success());
    assert!(matches!(effects.as_slice(), [.., Effect::Respond { .. }, Effect::Exit { .. }]), "{effects:?}");
}

#[test]
fn what_a_late_node_writes_belongs_into_the_answer() {
    let mut bench = Bench::new().over_broker();
    let effects = bench
        .ask("d", Request::Deploy { config: configuration("c1", &["w1", "w2"]), force: false, how: Box::default() });
    bench.execute(effects);
    bench.ready("w1");
    assert!(bench.core.wants_outputs(bench.now).is_empty());
    bench.now.boot = bench.now.boot.plus_ms(7_000);
    assert_eq!(bench.core.wants_outputs(bench.now), [name("w2")]);
    let outputs = NodeOutputs { stdout: "loading scripts".into(), stderr: String::new() };
    let answer = only_response(&bench.give(Input::Outputs { outputs: vec![(name("w2"), outputs.clone())] }));
    let data: Vec<_> = answer.results.iter().map(|result| result.data.clone()).collect();
    assert_eq!(data, [None, None, Some(ResultData::Outputs(outputs))]);
    assert!(bench.core.wants_outputs(bench.now).is_empty());
}

#[test]
fn output_in_an_answer_is_bounded() {
    let mut bench = Bench::new().over_broker();
    let nodes: Vec<String> = (0..100).map(|number| format!("w{number}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let effects =
        bench.ask("d", Request::Deploy { config: configuration("c1", &nodes), force: false, how: Box::default() });
    bench.execute(effects);
    bench.now.boot = bench.now.boot.plus_ms(7_000);
    let full = NodeOutputs { stdout: "x".repeat(16 << 10), stderr: "y".repeat(16 << 10) };
    let outputs = nodes.iter().map(|node| (name(node), full.clone())).collect();
    let answer = only_response(&bench.give(Input::Outputs { outputs }));
    assert_eq!(answer.results.len(), 101);
    assert_eq!(answer.results.iter().filter(|result| result.data.is_some()).count(), 20);
}

/// A dispatch of `get_id_value`, or of something else.
fn dispatch(action: &[&str], nodes: &[&str]) -> Request {
    Request::NodeDispatch { action: action.iter().map(|word| (*word).to_owned()).collect(), nodes: names(nodes) }
}

const GET: [&str; 2] = ["get_id_value", "Cluster::node"];

/// The nodes that say hello, each over a connection of this number.
fn peers(nodes: &[(u64, &str)]) -> Input {
    let nodes = nodes.iter().map(|(connection, node)| (*connection, name(node))).collect();
    Input::Peers(Peers { nodes, ..Peers::default() })
}

/// Who is asked, and over which connection.
fn asked(effects: &[Effect]) -> Vec<(u64, String, Seq)> {
    let asked = |effect: &Effect| match effect {
        Effect::Dispatch { of, node, connection, .. } => Some((*connection, node.to_string(), *of)),
        _ => None,
    };
    effects.iter().filter_map(asked).collect()
}

fn answers(bench: &mut Bench, of: Seq, connection: u64, answer: Result<Option<&str>, &str>) -> Vec<Effect> {
    let answer = answer.map(|value| value.map(str::to_owned)).map_err(str::to_owned);
    bench.give(Input::NodeAnswered { of, connection, answer })
}

fn said(response: &Response) -> Vec<(String, Option<String>, Option<String>)> {
    let said = |one: &crate::api::event::Result| {
        let text = match &one.data {
            Some(ResultData::Text(text)) => Some(text.clone()),
            Some(ResultData::Nodes(_) | ResultData::Outputs(_)) | None => None,
        };
        assert_eq!(one.success, one.error.is_none());
        (one.node.clone().unwrap_or_default(), text, one.error.clone())
    };
    response.results.iter().map(said).collect()
}

#[test]
fn a_dispatch_that_need_not_ask_is_answered_at_once() {
    let mut bench = Bench::running(&["w1"]);
    for (number, (action, error)) in [
        (&[][..], "no dispatch arguments provided"),
        (&["frobnicate", "x"], "dispatch frobnicate unknown"),
        (&["get_id_value"], "get_id_value expects name of global identifier"),
    ]
    .into_iter()
    .enumerate()
    {
        let effects = bench.ask(&format!("wrong-{number}"), dispatch(action, &[]));
        assert_eq!(said(&only_response(&effects)), [("w1".into(), None, Some(error.into()))]);
    }
    let unknown = only_response(&bench.ask("b", dispatch(&GET, &["nobody"])));
    assert!(unknown.results.len() == 1 && !unknown.success(), "{unknown:?}");
    bench.transport = "broker";
    assert!(only_response(&bench.ask("bb", dispatch(&GET, &["nobody"]))).results.is_empty());
    let effects = bench.ask("x", Request::StopNodes { nodes: names(&["w1"]), force: false });
    bench.execute(effects);
    let effects = bench.ask("c", dispatch(&GET, &["w1"]));
    let error = "cluster node w1 not in running state";
    assert_eq!(said(&only_response(&effects)), [("w1".into(), None, Some(error.into()))]);
}

#[test]
fn nodes_are_asked_over_their_peerings_and_answer_once() {
    let mut bench = Bench::running(&["w1", "w2"]);
    assert_eq!(asked(&bench.give(peers(&[(7, "w1")]))), []);
    let effects = bench.ask("d", dispatch(&GET, &[]));
    let (connection, node, of) = asked(&effects)[0].clone();
    assert_eq!((connection, node.as_str(), asked(&effects).len()), (7, "w1", 1));
    // Neither who was not asked, nor who was asked something else, has anything to say.
    assert_eq!(answers(&mut bench, of, 8, Ok(Some("forged"))), []);
    assert_eq!(answers(&mut bench, Seq(of.0 + 1), 7, Ok(Some("forged"))), []);
    assert_eq!(answers(&mut bench, of, 7, Ok(Some("1"))), []);
    assert_eq!(answers(&mut bench, of, 7, Ok(Some("2"))), []);
    // The other one is asked as soon as it can be.
    assert_eq!(asked(&bench.give(peers(&[(7, "w1"), (9, "w2")]))), [(9, "w2".to_owned(), of)]);
    let effects = answers(&mut bench, of, 9, Err("unknown id"));
    let expected = [("w1".into(), Some("1".into()), None), ("w2".into(), None, Some("unknown id".into()))];
    assert_eq!(said(&only_response(&effects)), expected);
    // P3: the values of then, whatever they are now.
    assert_eq!(said(&only_response(&bench.ask("d", dispatch(&GET, &[])))), expected);
}

#[test]
fn a_dispatch_waits_for_peerings_until_its_deadline() {
    let mut bench = Bench::running(&["w1", "w2"]);
    bench.give(peers(&[(7, "w1")]));
    let effects = bench.ask("d", dispatch(&GET, &[]));
    assert_eq!(asked(&effects).len(), 1);
    assert_eq!(bench.pass(6_999), []);
    let texts: Vec<String> =
        said(&only_response(&bench.pass(1))).into_iter().map(|(_, _, error)| error.unwrap()).collect();
    assert_eq!(
        texts,
        ["request timed out: w1 did not answer", "request timed out: w2 runs, but has no peering with this agent"]
    );
}

#[test]
fn a_lost_peering_is_replaced_by_the_next_and_an_ended_node_by_an_error() {
    let mut bench = Bench::running(&["w1"]);
    bench.give(peers(&[(7, "w1")]));
    let effects = bench.ask("d", dispatch(&GET, &[]));
    let (_, _, of) = asked(&effects)[0].clone();
    // A second peering waits behind the first.
    assert_eq!(asked(&bench.give(peers(&[(7, "w1"), (8, "w1")]))), []);
    assert_eq!(asked(&bench.give(peers(&[(8, "w1")]))), [(8, "w1".to_owned(), of)]);
    assert_eq!(answers(&mut bench, of, 7, Ok(Some("late"))), []);
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(11)));
    let error = "cluster node w1 not in running state any more";
    assert_eq!(said(&only_response(&effects)), [("w1".into(), None, Some(error.into()))]);
}

#[test]
fn a_dispatch_in_the_middle_of_which_the_agent_dies_is_asked_again() {
    let mut bench = Bench::running(&["w1"]);
    bench.give(peers(&[(7, "w1")]));
    let (_, _, of) = asked(&bench.ask("d", dispatch(&GET, &[])))[0].clone();
    let found = adopted(&bench, "w1");
    assert_eq!(asked(&bench.crash(vec![("w1", found)])), [], "it has no peering yet, but runs");
    assert_eq!(bench.state("w1"), NodeState::Running);
    assert_eq!(asked(&bench.give(peers(&[(3, "w1")]))), [(3, "w1".to_owned(), of)]);
    // Whoever asks again waits for the same outcome.
    assert_eq!(bench.ask("d", dispatch(&GET, &[])), []);
    let effects = answers(&mut bench, of, 3, Ok(Some("1")));
    assert_eq!(said(&only_response(&effects)), [("w1".into(), Some("1".into()), None)]);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::RequestCompleted { of: one, .. } if *one == of)), 1);
}

#[test]
fn a_value_without_room_is_an_error_and_not_cut() {
    let mut bench = Bench::running(&["w1", "w2"]);
    bench.give(peers(&[(7, "w1"), (8, "w2")]));
    let (_, _, of) = asked(&bench.ask("d", dispatch(&GET, &[])))[0].clone();
    let large = "x".repeat(600 << 10);
    assert_eq!(answers(&mut bench, of, 7, Ok(Some(&large))), []);
    let results = said(&only_response(&answers(&mut bench, of, 8, Ok(Some(&large)))));
    assert_eq!(results[0].1.as_ref().map(String::len), Some(600 << 10));
    assert!(results[1].2.as_ref().unwrap().starts_with("the value has 614400 bytes"), "{:?}", results[1].2);
}

#[test]
fn a_hello_over_a_peering_makes_a_node_ready_while_it_runs() {
    let mut bench = Bench::new();
    let effects = bench.ask("s", set("c1", &["w1"]));
    bench.give(peers(&[(6, "w1"), (5, "nobody")]));
    bench.execute(effects);
    assert_eq!(bench.state("w1"), NodeState::Pending, "it said so before it was started");
    bench.give(peers(&[(7, "w1")]));
    assert_eq!(bench.state("w1"), NodeState::Running);
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(11)));
    bench.execute(effects);
    assert_eq!(bench.state("w1"), NodeState::Pending, "the hello was the last process's");
    bench.give(peers(&[(7, "w1"), (8, "w1")]));
    assert_eq!((bench.state("w1"), bench.core.channel(&name("w1"))), (NodeState::Running, Some(8)));
}

#[test]
fn every_change_of_state_is_told_once_also_the_first_and_the_last() {
    let mut bench = Bench::new();
    let told = |effects: &[Effect]| -> Vec<String> {
        let change = |effect: &Effect| match effect {
            Effect::Notify(Notification::NotifyChange { node, old, new, .. }) => {
                Some(format!("{} {old} {new}", node.name))
            }
            _ => None,
        };
        effects.iter().filter_map(change).collect()
    };
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert_eq!(told(&bench.execute(effects)), ["w1 STOPPED PENDING"]);
    assert_eq!(told(&bench.ready("w1")), ["w1 PENDING RUNNING"]);
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(11)));
    assert_eq!(told(&bench.execute(effects)), ["w1 RUNNING CRASHED", "w1 CRASHED PENDING"]);
    assert_eq!(told(&bench.ready("w1")), ["w1 PENDING RUNNING"]);
    let effects = bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    assert!(told(&effects).is_empty(), "an adopted node has not changed");
    let effects = bench.ask("s", Request::AgentStandby {});
    assert_eq!(told(&bench.execute(effects)), ["w1 RUNNING STOPPED"]);
}

fn changes(effects: &[Effect]) -> Vec<(String, NodeState, NodeState)> {
    let change = |effect: &Effect| match effect {
        Effect::Notify(Notification::NotifyChange { node, old, new, .. }) => Some((node.name.clone(), *old, *new)),
        _ => None,
    };
    effects.iter().filter_map(change).collect()
}

#[test]
fn a_standby_is_not_held_up_by_what_is_only_being_prepared() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert_eq!(prepared(&effects), ["w1"]);
    let answer = bench.ask("s", Request::AgentStandby {});
    let standby = responses(&answer).into_iter().find(|(_, response)| response.reqid.as_str() == "s");
    assert!(standby.is_some_and(|(_, response)| response.success()), "nothing runs: {answer:?}");
    let effects = bench.report("w1", Incarnation(1), NodeHappening::Prepared);
    let forgotten = Effect::Order { node: name("w1"), order: NodeOrder::Forget { incarnation: Incarnation(1) } };
    assert_eq!(effects, [forgotten], "its lock is let go");
}

#[test]
fn a_node_that_goes_with_its_configuration_is_told() {
    let mut bench = Bench::running(&["w1"]);
    let effects = bench.ask("s", Request::AgentStandby {});
    let seen = bench.execute(effects);
    assert_eq!(changes(&seen), [("w1".to_owned(), NodeState::Running, NodeState::Stopped)]);
}

#[test]
fn an_exit_while_the_agent_was_away_is_told() {
    let mut bench = Bench::running(&["w1"]);
    let report = Finding::Exited {
        incarnation: bench.incarnation("w1"),
        process: None,
        cause: ExitCause::Signal(9),
        stdout: String::new(),
        stderr: String::new(),
        is_lasting: false,
    };
    let effects = bench.crash(vec![("w1", report)]);
    assert_eq!(changes(&effects), [("w1".to_owned(), NodeState::Running, NodeState::Crashed)]);
}

#[test]
fn an_unprovable_worker_keeps_nobody_from_stopping() {
    let mut bench = Bench::running(&["logger", "w1"]);
    let unprovable = Finding::Unprovable { reason: "the lock is held by pid 1".into() };
    let logger = adopted(&bench, "logger");
    bench.crash(vec![("logger", logger), ("w1", unprovable)]);
    let effects = bench.ask("s", Request::AgentStandby {});
    assert_eq!(stopped(&effects), ["logger"]);
}

#[test]
fn an_unprovable_intent_that_is_not_wanted_comes_to_its_end() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert_eq!(prepared(&effects), ["w1"]);
    bench.report("w1", Incarnation(1), NodeHappening::Prepared);
    bench.crash(vec![("w1", Finding::Unprovable { reason: "the lock is held by pid 1".into() })]);
    bench.ask("s", Request::AgentStandby {});
    let effects = bench.pass(5_000);
    assert_eq!(looked_for(&effects), ["w1"], "looked for again");
    let effects = bench.report("w1", Incarnation(1), NodeHappening::Cleared);
    assert!(responses(&effects).iter().any(|(_, response)| response.success()), "{effects:?}");
    assert!(bench.core.durable().nodes.is_empty());
}

#[test]
fn a_change_after_a_shutdown_supersedes_it() {
    let mut bench = Bench::running(&["w1", "w2"]);
    let effects = bench.ask("bye", Request::Shutdown { nodes: true });
    assert_eq!(stopped(&effects), ["w1", "w2"]);
    let answers = bench.ask("no", set("c1", &["w1", "w2"]));
    let superseded = |(_, response): &(Route, Response)| {
        response.results[0].error.as_ref().is_some_and(|error| error.starts_with("superseded by request "))
    };
    assert!(responses(&answers).iter().any(superseded), "{answers:?}");
    let seen = bench.execute(effects);
    assert_eq!(prepared(&seen), ["w1", "w2"], "they start again");
    assert!(!seen.iter().any(|effect| matches!(effect, Effect::Exit { .. })));
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { asked: false, .. })), 0, "we stopped them");
}

#[test]
fn an_abandoned_shutdown_stops_nothing_any_more() {
    let mut bench = Bench::running(&["w1"]);
    bench.ask("bye", Request::Shutdown { nodes: true });
    for _ in 0..2 {
        let effects = bench.crash(vec![("w1", adopted(&bench, "w1"))]);
        assert_eq!(stopped(&effects), ["w1"], "tried again");
    }
    let effects = bench.crash(vec![("w1", adopted(&bench, "w1"))]);
    assert!(stopped(&effects).is_empty(), "{effects:?}");
    assert_eq!(bench.state("w1"), NodeState::Running);
    let begun = |entry: &Entry| matches!(entry, Entry::RequestBegun { attempt, .. } if *attempt > ATTEMPTS);
    assert_eq!(bench.entries(begun), 0);
}

#[test]
fn a_response_stays_within_its_limit() {
    let mut bench = Bench::new().over_broker();
    let nodes: Vec<String> = (0..100).map(|index| format!("w{index}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let effects =
        bench.ask("d", Request::Deploy { config: configuration("c1", &nodes), force: false, how: Box::default() });
    bench.execute(effects);
    for node in &nodes {
        let (incarnation, long) = (bench.incarnation(node), "x".repeat(16 << 10));
        let cause = ExitCause::Code(1);
        let what =
            NodeHappening::Exited { cause, process: None, stdout: long.clone(), stderr: long, is_lasting: false };
        bench.report(node, incarnation, what);
    }
    let answer = only_response(&bench.pass(7_000));
    assert_eq!(answer.results.len(), 101);
    let size = rmp_serde::to_vec_named(&answer).unwrap().len();
    assert!(size <= 1 << 20, "{size} bytes");
    assert!(matches!(&answer.results[1].data, Some(ResultData::Outputs(outputs)) if !outputs.stderr.is_empty()));
}

#[test]
fn a_node_that_is_found_after_all_is_supervised_again() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    bench.crash(vec![("w1", Finding::Unprovable { reason: "out of descriptors".into() })]);
    let effects = bench.pass(5_000);
    assert_eq!(prepared(&effects), ["w1"]);
    let still_there = NodeHappening::Blocked { reason: "incarnation 1 is still there".into() };
    bench.report("w1", incarnation.next(), still_there);
    let process = bench.process(17);
    bench.report("w1", incarnation, NodeHappening::Started { process });
    assert_eq!(bench.state("w1"), NodeState::Running);
    assert_eq!(stopped(&bench.ask("s", Request::AgentStandby {})), ["w1"]);
}

#[test]
fn nodes_that_swap_their_ports_wait_for_each_other_to_end() {
    let mut bench = Bench::running(&["x1", "x2"]);
    let (first, second) = (bench.incarnation("x1"), bench.incarnation("x2"));
    // The second of a configuration has the port that the first had.
    let effects = bench.ask("swap", set("c2", &["x2", "x1"]));
    assert_eq!(stopped(&effects), ["x1", "x2"]);
    let effects = bench.report("x1", first, exited(ExitCause::Code(0)));
    assert!(prepared(&effects).is_empty(), "x2 still has the port that x1 is to have");
    let effects = bench.report("x2", second, exited(ExitCause::Code(0)));
    assert_eq!(prepared(&effects), ["x1", "x2"]);
}

#[test]
fn a_check_in_that_overtakes_the_start_is_not_lost() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", set("c1", &["w1"]));
    assert_eq!(prepared(&effects), ["w1"]);
    let incarnation = bench.incarnation("w1").next();
    bench.report("w1", incarnation, NodeHappening::Prepared);
    assert!(responses(&bench.give(Input::CheckedIn { node: name("w1") })).is_empty(), "nothing runs yet");
    let process = bench.process(17);
    let effects = bench.report("w1", incarnation, NodeHappening::Started { process });
    assert!(only_response(&effects).success());
    assert_eq!(bench.state("w1"), NodeState::Running);
}

/// A configuration with another id, in which w2 has another script: what would run differently is replaced.
#[test]
fn a_changed_configuration_leaves_unchanged_nodes_alone() {
    let mut bench = Bench::with(Options { deploy_strategy: DeployStrategy::Changed, ..options() });
    let effects = bench.ask("a", set("c1", &["w1", "w2", "w3"]));
    bench.execute(effects);
    for node in ["w1", "w2", "w3"] {
        bench.ready(node);
    }
    let mut config = configuration("c2", &["w1", "w2", "w4"]);
    config.nodes[1].env = BTreeMap::from([("A".to_owned(), "secret".to_owned())]);
    let preview = |bench: &Bench, force| {
        let plan = bench.core.preview(&config, force);
        assert_eq!((plan.running.as_deref(), plan.problems.len()), (Some("c1"), 0));
        let nodes = plan.nodes.into_iter();
        nodes.map(|node| format!("{} {:?} {}", node.node, node.action, node.why.join(", "))).collect::<Vec<_>>()
    };
    let gone = "w3 Stop not in the configuration";
    let expected = ["w1 Keep ", "w2 Replace environment (A)", gone, "w4 Start new"];
    assert_eq!(preview(&bench, false), expected);
    assert_eq!(preview(&bench, true)[0], "w1 Replace forced");

    let effects = bench.ask("b", Request::SetConfiguration { config: config.clone() });
    assert_eq!(stopped(&effects), ["w2", "w3"]);
    assert_eq!(prepared(&effects), ["w4"]);
    let effects = bench.execute(effects);
    assert!(responses(&effects).is_empty(), "w1 is ready, and two are not");
    bench.ready("w2");
    assert!(only_response(&bench.ready("w4")).success());
    assert_eq!(["w1", "w2", "w4"].map(|node| bench.incarnation(node).0), [1, 2, 1]);
    assert!(bench.core.preview(&config, false).is_running);

    // A node that is not there cannot be kept; a stop by command ends with the new configuration.
    let effects = bench.ask("s", Request::StopNodes { nodes: names(&["w1"]), force: false });
    bench.execute(effects);
    let plan = bench.core.preview(&Configuration { id: "c3".into(), ..config }, false);
    assert_eq!((plan.nodes[0].action, &plan.nodes[0].why[0][..]), (Action::Start, "stopped by command"));
    let invalid = bench.core.preview(&configuration("", &["w1"]), false);
    assert!(invalid.nodes.is_empty() && invalid.problems[0].contains("has no id"), "{invalid:?}");
}

//! A staged start of Zeek nodes (the stand-in): slow, failing and dying nodes hold up nobody, and an agent that is killed in the
//! middle carries on with nothing started twice. The latter is what the nodes' own directories say, not what was seen in time.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeek_cluster_agent::api::event::{Notification, Request, Response, ResultData};
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};
use zeek_cluster_agent::control::message::Publication;

use crate::support::{Host, cluster, dialect, errors, eventually, set};

fn host() -> Host {
    let mut host = Host::new();
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek");
    host.run_program(&stand_in).set("STAND_IN_VERSION", "8.0.10");
    host
}

fn in_directory(host: &Host, node: &str, name: &str) -> PathBuf {
    host.state_dir().join("nodes").join(node).join(name)
}

/// How often a process of this node was started.
fn starts(host: &Host, node: &str) -> usize {
    fs::read_to_string(in_directory(host, node, "starts")).unwrap_or_default().lines().count()
}

fn assert_never_two(host: &Host, node: &str) {
    let beside = fs::read_to_string(in_directory(host, node, "twice")).ok();
    assert_eq!(beside, None, "{node} was started beside a living process of it");
}

fn gate(host: &Host, node: &str) -> PathBuf {
    host.dir.path().join(format!("gate-{node}"))
}

/// The node waits for this file before it is initialized.
fn gated(host: &Host, node: &str, more: &str) -> String {
    format!("env = STAND_IN_GATE={}\n{more}", gate(host, node).display())
}

/// What was published: the states that each node was said to have, in order, and what was said of its errors.
#[derive(Default)]
struct Heard {
    states: BTreeMap<String, Vec<NodeState>>,
    errors: BTreeMap<String, Vec<String>>,
    /// When a node was first said to be in a state.
    at: BTreeMap<(String, NodeState), Duration>,
}

impl Heard {
    /// Takes in what is published until `done`.
    fn until(&mut self, client: &mut Client, begun: Instant, mut done: impl FnMut(&Self) -> bool) {
        let deadline = within_ms(60_000);
        while !done(self) {
            let (_, publication) = client.next_publication(deadline).unwrap_or_else(|error| {
                panic!("{error}; heard so far: {:?} and {:?}", self.states, self.errors);
            });
            match publication {
                Publication::Notification(Notification::NotifyChange { node, old, new, .. }) => {
                    let states = self.states.entry(node.name.clone()).or_default();
                    assert_eq!(states.last().copied().unwrap_or(NodeState::Stopped), old, "{} jumped", node.name);
                    states.push(new);
                    self.at.entry((node.name.clone(), new)).or_insert(begun.elapsed());
                }
                Publication::Notification(Notification::NotifyError { node, msg, .. }) => {
                    self.errors.entry(node).or_default().push(msg);
                }
                Publication::Notification(_) | Publication::Response(_) => {}
            }
        }
    }

    fn count(&self, node: &str, state: NodeState) -> usize {
        self.states.get(node).map_or(0, |states| states.iter().filter(|one| **one == state).count())
    }
}

fn outputs(response: &Response, node: &str) -> String {
    let result = response.results.iter().find(|one| one.node.as_deref() == Some(node)).unwrap();
    match &result.data {
        Some(ResultData::Outputs(outputs)) => outputs.stderr.clone(),
        other => panic!("{node}: {other:?}"),
    }
}

/// What the failing proxy says.
const WORDS: &str = "fatal error: cannot load site/proxies";
const DEATHS: usize = 30;
const HEALTHY: [&str; 5] = ["logger-1", "manager", "proxy-3", "w2", "w3"];

/// Who has nothing to do with it was up before the answer, for all that others were slow, failing, dying.
fn each_node_has_its_result(answer: &Response, port: u16) {
    let success: BTreeMap<&str, bool> =
        answer.results.iter().filter_map(|one| Some((one.node.as_deref()?, one.success))).collect();
    let expected = [
        ("logger-1", true),
        ("logger-2", false),
        ("manager", true),
        ("proxy-1", false),
        ("proxy-2", false),
        ("proxy-3", true),
        ("w1", false),
        ("w2", true),
        ("w3", true),
    ];
    assert_eq!(success, expected.into(), "{answer:?}");
    assert_eq!(answer.results.len(), expected.len(), "{answer:?}");
    let error = |node: &str| {
        let result = answer.results.iter().find(|one| one.node.as_deref() == Some(node)).unwrap();
        result.error.clone().unwrap_or_default()
    };
    assert!(
        error("proxy-1").contains("ended with code 1 within 2 s") && error("proxy-1").contains(WORDS),
        "{answer:?}"
    );
    assert!(outputs(answer, "proxy-1").contains(WORDS), "{answer:?}");
    assert!(error("proxy-2").starts_with(&format!("port {port}/tcp is taken by ")), "{answer:?}");
}

/// The newest ten of each node; of those that had nothing to do with it none.
fn each_death_has_its_bundle(host: &Host) {
    let bundles =
        |node: &str| -> Vec<Value> { host.json(&["nodes", "crash", node, "--json"]).as_array().unwrap().clone() };
    eventually("the bundle of the last death", || {
        (bundles("w1").first()?["incarnation"] == json!(DEATHS)).then_some(())
    });
    let kept = bundles("w1");
    assert_eq!(kept.len(), 10);
    for (bundle, death) in kept.iter().zip((1..=DEATHS).rev()) {
        assert_eq!((&bundle["incarnation"], &bundle["cause"]), (&json!(death), &json!("signal 6")));
        assert!(bundle["stderr"].as_str().unwrap().contains(&format!("internal error: start {death}\n")), "{bundle}");
        assert_eq!(bundle["environment"]["CLUSTER_NODE"], "w1");
    }
    let of_proxy = &bundles("proxy-1")[0];
    assert_eq!(of_proxy["cause"], "exit code 1");
    assert!(of_proxy["stderr"].as_str().unwrap().contains(WORDS), "{of_proxy}");
    for node in HEALTHY.iter().chain(&["logger-2", "proxy-2"]) {
        assert_eq!(bundles(node), [Value::Null; 0], "{node}");
    }
}

#[test]
fn a_slow_logger_a_failing_proxy_a_port_in_use_and_a_dying_worker_hold_up_nobody() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = squatter.local_addr().unwrap().port();
    let mut host = host();
    host.set("ZCA_MAX_RESTARTS", &(DEATHS - 1).to_string()).set("ZCA_FAILED_RETRY", "0");
    host.set("ZCA_BACKOFF_MIN", "1ms").set("ZCA_BACKOFF_MAX", "20ms").set("ZCA_READY_TIMEOUT", "6s");
    let _agent = host.start();
    let slow = gated(&host, "logger-2", "");
    let taken = format!("port = {port}");
    let aborts = format!("env = STAND_IN_ABORTS={DEATHS}");
    let nodes = [
        ("logger-1:logger", ""),
        ("logger-2:logger", slow.as_str()),
        ("manager:manager", ""),
        ("proxy-1:proxy", "env = \"STAND_IN_EXIT=cannot load site/proxies\""),
        ("proxy-2:proxy", taken.as_str()),
        ("proxy-3:proxy", ""),
        ("w1", aborts.as_str()),
        ("w2", ""),
        ("w3", ""),
    ];
    let mut listener = host.client();
    listener.subscribe(&["zeek/management/agent/"], within_ms(10_000)).unwrap();
    let request = Request::Deploy { config: cluster(&nodes), force: false, how: Box::default() };
    let mut client = host.client();
    let begun = Instant::now();
    let call = client.submit("d", request.clone(), dialect(&request), None).unwrap();
    let mut heard = Heard::default();
    heard.until(&mut listener, begun, |heard| HEALTHY.iter().all(|node| heard.count(node, NodeState::Running) == 1));
    let Answer::Response(answer) = client.answer(call, within_ms(30_000)).unwrap() else { panic!("refused") };

    each_node_has_its_result(&answer, port);

    heard.until(&mut listener, begun, |heard| heard.count("w1", NodeState::Failed) == 1);
    let failed = host.wait_state("w1", NodeState::Failed);
    assert_eq!((failed.deaths, starts(&host, "w1")), (DEATHS as u64, DEATHS), "{failed:?}");
    let exits: Vec<_> = host.events("node_exited").into_iter().filter(|(node, ..)| node == "w1").collect();
    assert_eq!(exits.len(), DEATHS);
    assert!(exits.iter().all(|(_, _, detail)| detail.to_string().contains('6')), "each by SIGABRT: {exits:?}");
    // Each death once, and nothing after the last.
    assert_eq!(heard.count("w1", NodeState::Running), 0, "{:?}", heard.states["w1"]);
    assert_eq!(heard.errors["w1"].len(), DEATHS, "{:?}", heard.errors["w1"]);
    assert!(heard.errors["w1"][DEATHS - 1].starts_with("w1 failed: "), "{:?}", heard.errors["w1"]);
    let last_words = host.run(&["nodes", "logs", "w1", "--stderr"]).stdout;
    assert!(last_words.contains(&format!("internal error: start {DEATHS}")), "{last_words}");

    assert!(heard.count("proxy-1", NodeState::Crashed) >= 2, "{:?}", heard.states["proxy-1"]);
    assert!(heard.errors["proxy-1"].iter().all(|msg| msg.contains(WORDS)), "{:?}", heard.errors["proxy-1"]);
    assert_eq!(heard.states["proxy-2"], [NodeState::Pending]);
    assert_eq!((heard.errors["proxy-2"].len(), starts(&host, "proxy-2")), (1, 0), "{:?}", heard.errors);
    assert_eq!(heard.states["logger-2"], [NodeState::Pending]);
    for node in HEALTHY {
        assert_eq!(heard.states[node], [NodeState::Pending, NodeState::Running], "{node}");
        assert_eq!((heard.errors.get(node), starts(&host, node)), (None, 1), "{node}");
        let up = heard.at[&(node.to_owned(), NodeState::Running)];
        println!("{node} was heard to run {up:?} after the request");
    }

    each_death_has_its_bundle(&host);

    // Trouble ends, and those that only waited run, started once.
    fs::write(gate(&host, "logger-2"), "").unwrap();
    drop(squatter);
    let freed = Instant::now();
    heard.until(&mut listener, begun, |heard| {
        ["logger-2", "proxy-2"].iter().all(|node| heard.count(node, NodeState::Running) == 1)
    });
    println!("logger-2 and proxy-2 ran {:?} after nothing was in their way", freed.elapsed());
    for node in ["logger-2", "proxy-2"] {
        assert_eq!(starts(&host, node), 1, "{node}");
    }
    // A new configuration is a new beginning for the one that failed, whose first starts are over.
    assert!(host.ask("again", Request::Restart { nodes: ["w1".to_owned()].into() }).success());
    host.wait_state("w1", NodeState::Running);
    for (node, _) in nodes {
        assert_never_two(&host, node.split(':').next().unwrap());
    }
    host.verify();
}

const STAGES: [&[&str]; 4] = [&["logger"], &["manager"], &["proxy"], &["w1", "w2"]];

/// Five nodes in four stages, each of which waits for its gate; a stage waits for the one before for as long as it takes.
fn gated_cluster(host: &mut Host) -> Request {
    host.set("ZCA_STAGE_WAIT", "10min").set("ZCA_REQUEST_TIMEOUT", "60s");
    let roles = ["logger:logger", "manager:manager", "proxy:proxy", "w1", "w2"];
    let lines = roles.map(|role| (role, gated(host, role.split(':').next().unwrap(), "")));
    set(cluster(&lines.each_ref().map(|(role, lines)| (*role, lines.as_str()))))
}

/// Everybody of this stage was started once, nobody of a later one.
fn assert_at_stage(host: &Host, stage: usize) {
    for (number, nodes) in STAGES.iter().enumerate() {
        for node in *nodes {
            assert_eq!(starts(host, node), usize::from(number <= stage), "{node}, when stage {stage} starts");
        }
    }
}

fn wait_for_stage(host: &Host, stage: usize) {
    eventually(&format!("stage {stage} to start"), || {
        STAGES[stage].iter().all(|node| starts(host, node) > 0).then_some(())
    });
    assert_at_stage(host, stage);
}

fn open_gates(host: &Host, stage: usize) {
    for node in STAGES[stage] {
        fs::write(gate(host, node), "").unwrap();
    }
}

fn assert_all_started_once(host: &Host) {
    host.wait_all_running(5);
    assert_at_stage(host, STAGES.len());
    let pids = host.pids();
    for node in STAGES.concat() {
        assert_never_two(host, node);
        let started = fs::read_to_string(in_directory(host, node, "starts")).unwrap();
        assert_eq!(started, format!("{}\n", pids[node]), "{node}: what runs is what was started");
    }
    assert_eq!(host.events("node_started").len(), 5);
    assert_eq!(host.events("node_exited").len(), 0);
    host.verify();
}

/// kill -9 when `stage` has been started and is not ready; it gets ready with no agent there, or when there is one again.
fn killed_at_stage(stage: usize, ready_while_away: bool) {
    let mut host = host();
    let request = gated_cluster(&mut host);
    let agent = host.start();
    host.client().submit("r", request.clone(), dialect(&request), None).unwrap();
    for earlier in 0..stage {
        wait_for_stage(&host, earlier);
        open_gates(&host, earlier);
    }
    wait_for_stage(&host, stage);
    agent.kill();
    if ready_while_away {
        open_gates(&host, stage);
    }
    let _agent = host.start();
    for later in stage + usize::from(ready_while_away)..STAGES.len() {
        wait_for_stage(&host, later);
        open_gates(&host, later);
    }
    let answer = host.ask_until_answered("r", &request);
    assert!(answer.success(), "{}", errors(&answer));
    assert_all_started_once(&host);
    let row = &host.requests("r")[0];
    assert_eq!((row.attempts, row.duplicates), (2, 1), "{row:?}");
}

macro_rules! kills {
    ($($name:ident: $stage:literal;)*) => {
        $(mod $name {
            #[test]
            fn gets_ready_with_no_agent_there() {
                super::killed_at_stage($stage, true);
            }

            #[test]
            fn gets_ready_later() {
                super::killed_at_stage($stage, false);
            }
        })*
    };
}

kills! {
    killed_while_loggers_start: 0;
    killed_while_the_manager_starts: 1;
    killed_while_proxies_start: 2;
    killed_while_workers_start: 3;
}

/// More crashes than a request outlives (P6): it is abandoned, what it asked for is not.
#[test]
fn killed_at_each_stage_the_start_is_finished_though_the_request_is_abandoned() {
    let mut host = host();
    let request = gated_cluster(&mut host);
    let mut agent = host.start();
    host.client().submit("r", request.clone(), dialect(&request), None).unwrap();
    for stage in 0..STAGES.len() {
        wait_for_stage(&host, stage);
        agent.kill();
        open_gates(&host, stage);
        agent = host.start();
    }
    assert_all_started_once(&host);
    let answer = host.ask("r", request);
    assert_eq!(errors(&answer), "abandoned after 3 attempts, each of which ended with the agent's death");
}

/// kill -9 at named places of a start, at the stage in between.
#[cfg(feature = "crash-points")]
fn killed_at_point(point: &str) {
    let mut host = host();
    let once = host.dir.path().join("crashed");
    let request = gated_cluster(&mut host);
    (0..STAGES.len()).for_each(|stage| open_gates(&host, stage));
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let agent = host.start();
    host.client().submit("r", request.clone(), dialect(&request), None).unwrap();
    agent.wait_crashed(&host);
    let _agent = host.start();
    let answer = host.ask_until_answered("r", &request);
    assert!(answer.success(), "{point}: {}", errors(&answer));
    assert_all_started_once(&host);
    assert_eq!(host.requests("r")[0].attempts, 2, "{point}");
}

#[cfg(feature = "crash-points")]
macro_rules! points {
    ($($name:ident: $point:literal;)*) => {
        mod killed {
            $(#[test] fn $name() { super::killed_at_point($point); })*
        }
    };
}

#[cfg(feature = "crash-points")]
points! {
    before_the_manager_is_prepared: "before_intent:2";
    when_its_start_is_intended: "after_intent:2";
    when_it_is_prepared: "agent_after_prepare@manager";
    before_its_shim: "agent_before_spawn@manager";
    after_its_shim: "agent_after_spawn@manager";
    before_it_is_known_to_run: "before_fact:2";
    after_it_is_known_to_run: "after_fact:2";
    before_it_is_known_to_be_ready: "before_ready:2";
    after_it_is_known_to_be_ready: "after_ready:2";
    before_the_shim_of_a_proxy: "agent_before_spawn@proxy";
    after_the_shim_of_a_worker: "agent_after_spawn@w1";
}

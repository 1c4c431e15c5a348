//! SIGKILL at every named point, in the agent and in a shim, with the agent there and away: the promises hold after a
//! restart. And at random moments under load.

#![cfg(feature = "crash-points")]

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use zeek_cluster_agent::api::audit::{Kind, RequestState, Row};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::control::client::{self, within_ms};

use crate::support::{Agent, Host, cluster, dialect, errors, eventually, is_alive, kill, set};

fn three_nodes() -> zeek_cluster_agent::api::event::Request {
    set(cluster(&[("logger:logger", ""), ("w1", ""), ("w2", "")]))
}

/// What has to be true of the journal and of the processes at any quiet moment.
fn check_promises(host: &Host) {
    host.verify();
    let starts = host.events("node_started");
    let exits = host.events("node_exited");
    let mut seen = BTreeSet::new();
    for (node, incarnation, _) in &starts {
        assert!(seen.insert((node.clone(), *incarnation)), "{node} {incarnation} has two starts in the journal");
    }
    let mut seen = BTreeSet::new();
    for (node, incarnation, _) in &exits {
        assert!(seen.insert((node.clone(), *incarnation)), "{node} {incarnation} has two exits in the journal");
    }
    for (node, report) in host.nodes() {
        let alive = host.node_processes(&node);
        assert!(alive.len() <= 1, "{node} runs {} times: {alive:?}", alive.len());
        assert_eq!(alive.first().copied(), report.pid, "{node}");
        if report.state == NodeState::Running {
            let started = starts.iter().any(|(n, i, _)| *n == node && *i == report.incarnation);
            assert!(started, "{node} {} runs and has no start in the journal", report.incarnation);
        }
    }
    for row in host.rows(Kind::Request) {
        let Row::Request(row) = row else { panic!("{row:?}") };
        assert!(
            matches!(row.state, RequestState::Completed | RequestState::Conflict | RequestState::Rejected),
            "{row:?}"
        );
    }
}

/// Runs a deploy that crashes at `point`, restarts, repeats the request, and checks everything.
fn crash_while_deploying(point: &str) {
    let mut host = Host::new();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let agent = host.start();
    let mut client = host.client();
    client.submit("r", three_nodes(), dialect(&three_nodes()), None).unwrap();
    let agent = restart_if_crashed(&host, agent, &once, point);
    let first = host.ask_until_answered("r", &three_nodes());
    assert!(first.success(), "{point}: {}", errors(&first));
    host.wait_all_running(3);
    let pids = host.pids();
    check_promises(&host);
    assert_eq!(host.ask("r", three_nodes()), first, "{point}: the repeated request got another answer");
    assert_eq!(host.requests("r").len(), 1);
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.ask("r", three_nodes()), first, "{point}: another answer after the restart");
    assert_eq!(host.pids(), pids, "{point}: nodes were replaced");
    check_promises(&host);
}

/// Waits until the crash has happened; if it was the agent that died, starts another.
fn restart_if_crashed(host: &Host, mut agent: Agent, once: &std::path::Path, point: &str) -> Agent {
    eventually(&format!("the crash at {point}"), || once.exists().then_some(()));
    if point.starts_with("shim_") {
        return agent;
    }
    eventually("the agent's end", || agent.child.try_wait().unwrap());
    host.start()
}

macro_rules! deploy_crashes {
    ($($name:ident)*) => {
        mod deploy {
            $(#[test] fn $name() { super::crash_while_deploying(stringify!($name)); })*
        }
    };
}

deploy_crashes! {
    before_accept after_accept
    before_plan after_plan
    before_intent after_intent
    agent_after_prepare
    agent_before_spawn agent_after_spawn
    before_fact after_fact
    before_ready after_ready
    before_outcome after_outcome
    before_response_sent after_response_sent
    shim_before_fork shim_after_fork
}

/// A node dies, and something crashes around its end. `away`: with no agent there to see it.
fn crash_around_an_exit(point: &str, away: bool) {
    let mut host = Host::new();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", &format!("{point}@w1")).set("ZCA_CRASH_ONCE", &once.display().to_string());
    if !point.starts_with("shim_") {
        host.set("ZCA_CRASH_AT", point);
    }
    let agent = host.start();
    let first = host.ask("r", three_nodes());
    assert!(first.success(), "{}", errors(&first));
    let before = host.pids();
    let mark = host.mark.clone();
    let mut agent = Some(agent);
    if away {
        agent.take().unwrap().kill();
    }
    kill(before["w1"], Signal::ABORT, Some(&mark));
    eventually("w1 to be gone", || (!is_alive(before["w1"])).then_some(()));
    if away && point.ends_with("_ack") {
        // There is nobody to acknowledge anything before the agent is back.
        agent = Some(host.start());
    }
    eventually(&format!("the crash at {point}"), || once.exists().then_some(()));
    if let Some(mut running) = agent.take()
        && point.starts_with("shim_")
    {
        assert!(running.child.try_wait().unwrap().is_none(), "the agent died with the shim");
        agent = Some(running);
    }
    let _agent = match agent {
        Some(agent) => agent,
        None => host.start(),
    };
    eventually("another w1", || host.pids().get("w1").copied().filter(|pid| *pid != before["w1"]));
    host.wait_all_running(3);
    let after = host.pids();
    assert_eq!((before["w2"], before["logger"]), (after["w2"], after["logger"]), "{point}: others were replaced");
    let exits: Vec<_> = host.events("node_exited");
    let of_w1: Vec<_> = exits.iter().filter(|(node, _, _)| node == "w1").collect();
    assert_eq!(exits.len(), of_w1.len(), "{point}: other nodes have exits: {exits:?}");
    // The shim may die with what it knew, and its second process is then w1's, too.
    assert!((1..=2).contains(&of_w1.len()), "{point}: {of_w1:?}");
    check_promises(&host);
}

macro_rules! exit_crashes {
    ($($name:ident)*) => {
        mod exit_seen { $(#[test] fn $name() { super::crash_around_an_exit(stringify!($name), false); })* }
        mod exit_unseen { $(#[test] fn $name() { super::crash_around_an_exit(stringify!($name), true); })* }
    };
}

exit_crashes! { shim_after_exit shim_before_status shim_after_status shim_before_ack shim_after_ack }

mod agent_exit {
    #[test]
    fn before_exit() {
        super::crash_agent_at_exit("before_exit");
    }

    #[test]
    fn after_exit() {
        super::crash_agent_at_exit("after_exit");
    }
}

/// The agent dies while it records a node's end: the shim still has the report.
fn crash_agent_at_exit(point: &str) {
    let mut host = Host::new();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let agent = host.start();
    assert!(host.ask("r", three_nodes()).success());
    let before = host.pids();
    kill(before["w1"], Signal::ABORT, Some(&host.mark));
    agent.wait_crashed(&host);
    let _agent = host.start();
    eventually("another w1", || host.pids().get("w1").copied().filter(|pid| *pid != before["w1"]));
    host.wait_all_running(3);
    let exits = host.events("node_exited");
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert!(exits[0].2.to_string().contains("6"), "its signal is recorded: {exits:?}");
    check_promises(&host);
}

/// 200 SIGKILLs at random moments while requests come in and nodes die; at the end every request has one outcome and
/// every node runs once.
#[test]
fn random_kills_under_load() {
    const KILLS: usize = 200;
    let host = Host::new();
    // A fixed seed, printed by a failure through the history that it leads to.
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut answers: BTreeMap<String, zeek_cluster_agent::api::event::Response> = BTreeMap::new();
    let configs = [three_nodes(), set(cluster(&[("logger:logger", ""), ("w2", "")]))];
    let mut asked = Vec::new();
    for round in 0..KILLS {
        // Every fourth dies somewhere in its start, the others while they serve.
        let agent = if round % 4 == 0 { host.spawn() } else { host.start() };
        let delay = std::time::Duration::from_millis(next(120));
        let begun = std::time::Instant::now();
        let mut sent = 0;
        while begun.elapsed() < delay {
            let Ok(mut client) = zeek_cluster_agent::control::client::Client::connect(&host.socket(), "load") else {
                continue;
            };
            let reqid = format!("r{round}-{sent}");
            let request = match next(6) {
                0 => configs[usize::try_from(next(2)).unwrap()].clone(),
                1 => zeek_cluster_agent::api::event::Request::Restart { nodes: ["w2".to_owned()].into() },
                2 | 3 => zeek_cluster_agent::api::event::Request::GetNodes {},
                _ => zeek_cluster_agent::api::event::Request::AgentWelcome {},
            };
            if client.submit(&reqid, request.clone(), dialect(&request), None).is_ok() {
                asked.push((reqid.clone(), request.clone()));
                sent += 1;
            }
            if next(2) == 0
                && let Ok(zeek_cluster_agent::control::client::Answer::Response(response)) =
                    client.answer(1, zeek_cluster_agent::control::client::within_ms(50))
            {
                answers.insert(reqid, response);
            }
        }
        if next(3) == 0 {
            let nodes: Vec<u32> = ["logger", "w1", "w2"].iter().flat_map(|node| host.node_processes(node)).collect();
            if let Some(victim) = nodes.get(usize::try_from(next(3)).unwrap()) {
                kill(*victim, Signal::ABORT, Some(&host.mark));
            }
        }
        agent.kill();
    }
    let _agent = host.start();
    let settled = host.ask("settle", configs[0].clone());
    assert!(settled.success() || errors(&settled).is_empty(), "{}", errors(&settled));
    host.wait_all_running(3);
    for (reqid, request) in &asked {
        let answer = host.ask_until_answered(reqid, request);
        if let Some(seen) = answers.get(reqid) {
            assert_eq!(*seen, answer, "{reqid} has two outcomes");
        }
    }
    println!("{KILLS} kills, {} requests, {} answered before a kill", asked.len(), answers.len());
    // Requests that no kill left a trace of were handled just now, for the first time.
    let settled = host.ask("settle again", configs[0].clone());
    assert!(settled.success() || errors(&settled).is_empty(), "{}", errors(&settled));
    host.wait_all_running(3);
    host.verify();
    for node in ["logger", "w1", "w2"] {
        assert_eq!(host.node_processes(node).len(), 1, "{node}");
    }
}

/// A disk that does not answer: whether the agent serves already or still starts, it does not wait with it.
#[test]
fn a_commit_that_hangs_ends_the_agent_during_its_start_and_later() {
    let ends = |host: &Host, agent: Agent| {
        let status = agent.wait();
        let log = host.read_log();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("a commit to the journal takes longer than"), "{log}");
    };
    let mut host = Host::new();
    host.set("ZCA_HANG_AT", "during_commit").set("ZCA_COMMIT_TIMEOUT", "300ms");
    ends(&host, host.spawn());

    let mut host = Host::new();
    host.set("ZCA_HANG_AT", "during_commit:12").set("ZCA_COMMIT_TIMEOUT", "3s");
    let agent = host.start();
    let mut client = host.client();
    for number in 0..12 {
        let reqid = format!("r{number}");
        // Each has a commit of its own, until one hangs.
        let welcome = Request::AgentWelcome {};
        if client.request(&reqid, welcome.clone(), dialect(&welcome), None, within_ms(1_000)).is_err() {
            break;
        }
    }
    ends(&host, agent);
}

/// P3, and design: the answer to a duplicate rests on what is durable already, so it does not wait for any commit.
#[test]
fn a_duplicate_is_answered_while_a_commit_hangs_and_a_new_request_is_not() {
    let mut host = Host::new();
    host.set("ZCA_HANG_AT", "during_commit:12").set("ZCA_COMMIT_TIMEOUT", "4s");
    let agent = host.start();
    let welcome = Request::AgentWelcome {};
    let known = host.ask("known", welcome.clone());
    let mut client = host.client();
    let hangs = (0..12).map(|number| format!("new-{number}")).find(|reqid| {
        let answer = client.request(reqid, welcome.clone(), dialect(&welcome), None, within_ms(1_500));
        matches!(answer, Err(client::Error::TimedOut))
    });
    assert!(hangs.is_some(), "each request has a commit, so one of them has the twelfth");
    assert_eq!(host.ask("known", welcome), known);
    let status = agent.wait();
    assert_eq!(status.code(), Some(1));
    assert!(host.read_log().contains("a commit to the journal takes longer than"), "{}", host.read_log());
    host.set("ZCA_HANG_AT", "nowhere");
    let _agent = host.start();
    check_promises(&host);
}

//! Hold mode: what enters it, what ends it, what waits for an operator; and starts that are spread out.

use super::*;
use crate::journal::entry::Want;

/// Begins a run in another boot, or with something wrong with the journal; nodes are not there.
fn begin(bench: &mut Bench, boot_id: &str, hold: Option<&str>) -> Vec<Effect> {
    bench.reload();
    let found: Vec<NodeName> = bench.core.durable().nodes.keys().cloned().collect();
    let hold = hold.map(str::to_owned);
    let mut effects = bench.give(Input::Started { boot_id: boot_id.into(), version: "1".into(), pid: 1, hold });
    for node in found {
        effects.extend(bench.give(Input::Found { node, finding: Finding::Absent }));
    }
    effects.extend(bench.give(Input::Adopted));
    effects
}

/// As [`begin`], with the agent having accepted `request` and done nothing about it.
fn held_with(bench: &mut Bench, requests: Vec<(&str, Request)>) -> Vec<Effect> {
    for (reqid, request) in requests {
        let incoming = Incoming {
            reqid: ReqId::new(reqid).unwrap(),
            request: request.canonical(),
            dialect: Dialect::Management,
            source: source("uid=0 pid=7"),
            route: None,
        };
        let mut free = Vec::new();
        bench.step(&Input::Request { incoming: Box::new(incoming), known: None }, &mut free);
    }
    // Its acceptance is durable, and nothing else.
    let records = bench.core.take_records();
    bench.journal.commit(records);
    begin(bench, "boot-1", Some("its newest entries are lost"))
}

fn waiting(bench: &Bench) -> Vec<String> {
    bench.core.waiting_requests().map(|one| one.reqid.to_string()).collect()
}

fn outcome(bench: &Bench, reqid: &str) -> Option<String> {
    let known = bench.journal.lookup(&ReqId::new(reqid).unwrap())?;
    let response = known.outcome?.answer.kept()?.clone();
    Some(response.results.iter().filter_map(|one| one.error.clone()).collect::<Vec<_>>().join("; "))
}

fn resume(request: &str) -> Request {
    Request::ResumeWaiting { request: request.to_owned() }
}

#[test]
fn early_deaths_count_within_one_boot() {
    let mut bench = Bench::running(&["w1"]);
    for boot in 0..12 {
        // The hosts' power is cut soon after each start.
        bench.pass(3_600_000);
        begin(&mut bench, &format!("power-{boot}"), None);
        assert_eq!(bench.core.hold(), None);
    }
    for _ in 0..4 {
        begin(&mut bench, "power-11", None);
        assert_eq!(bench.core.hold(), None);
    }
    begin(&mut bench, "power-11", None);
    assert!(bench.core.hold().unwrap().contains("died 5 times"));
}

#[test]
fn a_change_from_before_waits_and_is_listed() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("s", Request::AgentStandby {})]);
    for _ in 0..5 {
        assert!(stopped(&bench.pass(30_000)).is_empty());
        assert_eq!((waiting(&bench), outcome(&bench, "s")), (vec!["s".to_owned()], None));
        assert!(bench.core.hold().is_some());
        // However often the agent dies: what waits has no part in it.
        begin(&mut bench, "boot-1", None);
    }
    assert_eq!(bench.core.durable().nodes[&name("w1")].want, Want::Up);
    let again = bench.ask("s", Request::AgentStandby {});
    assert!(responses(&again).is_empty(), "whoever asks again waits with it");
    let answer = only_response(&bench.ask("x", resume("nosuch")));
    assert!(answer.results[0].error.as_ref().unwrap().contains("`requests list`"), "{answer:?}");
}

#[test]
fn what_changes_nothing_does_not_wait() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("q", dispatch(&["get_id_value", "x"], &["w1"]))]);
    assert!(waiting(&bench).is_empty());
    bench.pass(10_000);
    assert!(outcome(&bench, "q").is_some());
}

#[test]
fn a_later_configuration_takes_the_place_of_what_waits() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("s", Request::AgentStandby {}), ("d", set("c2", &["w9"]))]);
    assert_eq!(waiting(&bench), ["s", "d"]);
    // The same configuration, as controllers deploy it again on each reconnect.
    bench.ask("again", set("c1", &["w1"]));
    assert_eq!(bench.core.hold(), None);
    assert!(waiting(&bench).is_empty());
    for reqid in ["s", "d"] {
        assert!(outcome(&bench, reqid).unwrap().contains("superseded by request"), "{reqid}");
    }
    assert_eq!(bench.core.durable().nodes.keys().collect::<Vec<_>>(), [&name("w1")]);
}

#[test]
fn a_command_for_nodes_ends_hold_mode_and_leaves_waiting_what_waits() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("s", Request::AgentStandby {})]);
    bench.ask("up", Request::StartNodes { nodes: names(&["w1"]) });
    assert_eq!(bench.core.hold(), None);
    assert_eq!(waiting(&bench), ["s"], "it says nothing about all nodes");
    begin(&mut bench, "boot-1", None);
    assert_eq!(waiting(&bench), ["s"]);
    assert_eq!(bench.core.durable().nodes[&name("w1")].want, Want::Up);
}

#[test]
fn an_invalid_configuration_ends_nothing() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("s", Request::AgentStandby {})]);
    let answer = only_response(&bench.ask("bad", set("c2", &["w1", "w1"])));
    assert!(!answer.success() && bench.core.hold().is_some());
    assert_eq!(waiting(&bench), ["s"]);
}

#[test]
fn a_resumed_change_goes_before_what_came_after_it() {
    let mut bench = Bench::running(&["w1"]);
    let requests =
        vec![("one", set("c1", &["w1", "w2"])), ("two", set("c2", &["w1"])), ("three", Request::AgentStandby {})];
    held_with(&mut bench, requests);
    let effects = bench.ask("word", resume("two"));
    assert!(only_response(&effects).success());
    assert_eq!(bench.core.hold(), None);
    assert_eq!(bench.core.configuration_id(), Some("c2"));
    assert!(outcome(&bench, "one").unwrap().contains("(reqid two)"), "it came before: {:?}", outcome(&bench, "one"));
    assert_eq!(waiting(&bench), ["three"], "what came after it is not wanted by that");
    bench.ask("word-2", resume("three"));
    assert_eq!(bench.core.configuration_id(), None);
    assert!(waiting(&bench).is_empty());
}

#[test]
fn a_request_without_a_reqid_is_named_by_its_number() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("", Request::AgentStandby {}), ("#3", Request::Restart { nodes: names(&[]) })]);
    let seq = bench.core.waiting_requests().next().unwrap().seq;
    let drop = |request: &str| Request::DropWaiting { request: request.to_owned() };
    assert!(!only_response(&bench.ask("a", drop(""))).success());
    assert!(only_response(&bench.ask("b", drop(&format!("#{seq}")))).success());
    assert_eq!(waiting(&bench), ["#3"], "a reqid may look like a number");
    assert!(only_response(&bench.ask("c", drop("#3"))).success());
    assert!(outcome(&bench, "#3").unwrap().contains("dropped by an operator"));
    assert!(waiting(&bench).is_empty() && bench.core.hold().is_some());
}

#[test]
fn a_shutdown_from_before_stops_nothing() {
    let mut bench = Bench::running(&["w1"]);
    bench.ask("off", Request::Shutdown { nodes: true });
    bench.reload();
    let hold = Some("its newest entries are lost".to_owned());
    bench.give(Input::Started { boot_id: "boot-1".into(), version: "1".into(), pid: 1, hold });
    let finding = adopted(&bench, "w1");
    bench.give(Input::Found { node: name("w1"), finding });
    let mut effects = bench.give(Input::Adopted);
    effects.extend(bench.pass(120_000));
    assert!(stopped(&effects).is_empty() && !effects.iter().any(|effect| matches!(effect, Effect::Exit { .. })));
    assert_eq!(waiting(&bench), ["off"], "its first step is durable, and it is the second that stops nodes");
    let effects = bench.ask("word", resume("off"));
    assert_eq!(stopped(&effects), ["w1"]);
    let effects = bench.execute(effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Exit { .. })));
}

#[test]
fn hold_mode_of_the_first_release_gets_a_number() {
    let mut bench = Bench::running(&["w1"]);
    held_with(&mut bench, vec![("s", Request::AgentStandby {})]);
    bench.reload();
    let mut recovered = bench.journal.recover();
    recovered.agent.extras.0.held_before = Seq::default();
    bench.core = Lifecycle::new(options(), recovered);
    let effects = bench.start("boot-1", vec![("w1", Finding::Absent)]);
    assert!(stopped(&effects).is_empty());
    assert_eq!((waiting(&bench), bench.core.hold()), (vec!["s".to_owned()], Some("its newest entries are lost")));
}

fn starts_at(bench: &mut Bench, seconds: u64) -> Vec<u64> {
    let mut at = Vec::new();
    let mut effects = bench.pass(0);
    for second in 0..seconds {
        let mut queue = std::mem::take(&mut effects);
        queue.extend(bench.pass(if second == 0 { 0 } else { 1_000 }));
        at.extend(prepared(&queue).iter().map(|_| second));
        effects = Vec::new();
    }
    at
}

#[test]
fn three_boots_within_ten_minutes_spread_starts_out() {
    for (pause_ms, spread) in [(200_000, true), (400_000, false)] {
        let mut bench = Bench::running(&["w1", "w2", "w3", "w4"]);
        for boot in ["b2", "b3"] {
            bench.pass(pause_ms);
            bench.now.boot = BootTime(20_000_000);
            let effects = begin(&mut bench, boot, None);
            let at_once = prepared(&effects).len();
            if boot == "b2" || !spread {
                assert_eq!(at_once, 4, "{pause_ms}: all at once");
                continue;
            }
            assert_eq!(at_once, 1);
            assert!(effects.iter().any(|effect| matches!(effect,
                Effect::Notify(Notification::NotifyError { msg, .. }) if msg.contains("booted 3 times within 10 minutes"))));
            assert_eq!(starts_at(&mut bench, 10), [2, 4, 6]);
            assert_eq!(bench.core.hold(), None);
        }
    }
}

#[test]
fn spread_out_starts_come_to_an_end_and_survive_the_agents_death() {
    let mut bench = Bench::running(&["w1", "w2", "w3", "w4"]);
    for boot in ["b2", "b3"] {
        bench.now.boot = BootTime(20_000_000);
        begin(&mut bench, boot, None);
    }
    // The same boot: the rest of its starts are spread out as well.
    assert_eq!(prepared(&begin(&mut bench, "b3", None)).len(), 1);
    bench.now.boot = BootTime(599_000_000);
    assert_eq!(prepared(&begin(&mut bench, "b3", None)).len(), 1);
    assert_eq!(prepared(&bench.pass(2_000)).len(), 3, "ten minutes after the boot");
}

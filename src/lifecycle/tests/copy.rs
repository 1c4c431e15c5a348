//! A state directory that is a copy: nothing is started or stopped until `state adopt`.

use super::*;

fn foreign() -> Finding {
    Finding::Foreign { pid: 17, reason: "process 17 belongs to /original".into(), state_dir: None, works_here: false }
}

/// A run on a copy of the directory in which `nodes` run.
fn copy_of(nodes: &[&str]) -> Bench {
    let mut bench = Bench::running(nodes);
    start_copy(&mut bench, nodes);
    bench
}

fn start_copy(bench: &mut Bench, nodes: &[&str]) -> Vec<Effect> {
    bench.reload();
    let started = Input::Started { boot_id: "boot-1".into(), version: "1".into(), pid: 1, hold: None };
    let mut effects = bench.give(started);
    effects.extend(bench.give(Input::Copied { reason: "this is a copy of /original; `state adopt`".into() }));
    for node in nodes {
        effects.extend(bench.give(Input::Found { node: name(node), finding: foreign() }));
    }
    effects.extend(bench.give(Input::Adopted));
    effects
}

fn acts(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Order { order, .. } => {
            matches!(order, NodeOrder::Prepare { .. } | NodeOrder::Launch { .. } | NodeOrder::Stop { .. })
        }
        _ => false,
    })
}

fn adoption(effects: &[Effect]) -> Option<(Seq, Vec<NodeName>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::AdoptState { of, nodes } => Some((*of, nodes.clone())),
        _ => None,
    })
}

#[test]
fn every_change_is_refused_and_nothing_is_done_to_any_node() {
    let mut bench = copy_of(&["w1", "w2"]);
    assert_eq!((bench.state("w1"), bench.state("w2")), (NodeState::Unknown, NodeState::Unknown));
    assert!(bench.core.copied().is_some_and(|reason| reason.contains("/original")));
    let changes = [
        set("c1", &["w1", "w2"]),
        set("c2", &["w3"]),
        Request::Deploy { config: configuration("c3", &["w3"]), force: true, how: Box::default() },
        Request::AgentStandby {},
        Request::Restart { nodes: names(&["w1"]) },
        Request::StartNodes { nodes: names(&["w1"]) },
        Request::StopNodes { nodes: names(&["w1"]), force: false },
        Request::Shutdown { nodes: true },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let effects = bench.ask(&format!("change-{number}"), change);
        let response = only_response(&effects);
        let error = response.results[0].error.clone().unwrap_or_default();
        assert!(!response.success() && error.contains("/original") && error.contains("state adopt"), "{response:?}");
        assert!(!acts(&effects), "{effects:?}");
    }
    for _ in 0..100 {
        let effects = bench.pass(5_000);
        assert!(!acts(&effects), "{effects:?}");
    }
    let ended = bench.entries(|entry| matches!(entry, Entry::NodeExited { .. } | Entry::HoldEnded { .. }));
    assert_eq!(ended, 0, "they run, in the original");
    // Reads are answered, and the agent itself can be ended.
    assert!(only_response(&bench.ask("get", Request::GetNodes {})).success());
    assert!(only_response(&bench.ask("end", Request::Shutdown { nodes: false })).success());
}

#[test]
fn what_was_under_way_when_it_was_copied_is_not_carried_on() {
    let mut bench = Bench::running(&["w1"]);
    bench.ask("stop", Request::StopNodes { nodes: names(&["w1"]), force: false });
    assert_eq!(bench.core.durable().unfinished.len(), 1);
    let mut effects = start_copy(&mut bench, &["w1"]);
    for _ in 0..10 {
        effects.extend(bench.pass(5_000));
    }
    assert!(!acts(&effects), "{effects:?}");
    assert!(bench.core.durable().unfinished.is_empty(), "it is answered all the same");
}

#[test]
fn adopted_it_forgets_the_originals_processes_and_starts_its_own() {
    let mut bench = copy_of(&["w1", "w2"]);
    let effects = bench.ask("adopt", Request::AdoptState {});
    let (of, nodes) = adoption(&effects).unwrap();
    assert_eq!((nodes, responses(&effects).len()), (vec![name("w1"), name("w2")], 0), "answered once it is done");
    let effects = bench.give(Input::StateAdopted { of, outcome: Ok("done".into()) });
    assert!(only_response(&effects).success());
    assert!(bench.core.copied().is_none());
    let ended = bench.entries(|entry| matches!(entry, Entry::NodeExited { asked: true, .. }));
    assert_eq!(ended, 2);
    assert!(bench.core.durable().nodes.values().all(|record| record.deaths.is_empty()));
    let disowned = effects.iter().filter(|effect| matches!(effect, Effect::Order { order: NodeOrder::Disown, .. }));
    assert_eq!(disowned.count(), 2);
    assert_eq!(prepared(&effects), ["w1", "w2"]);
    bench.execute(effects);
    assert_eq!(bench.incarnation("w1"), Incarnation(2));
    // Again, with everything in order.
    let response = only_response(&bench.ask("again", Request::AdoptState {}));
    assert!(response.success(), "{response:?}");
    assert_eq!(bench.state("w1"), NodeState::Pending);
}

#[test]
fn an_adoption_that_fails_or_crashes_changes_nothing_and_is_done_again() {
    let mut bench = copy_of(&["w1"]);
    let (of, _) = adoption(&bench.ask("fails", Request::AdoptState {})).unwrap();
    let effects = bench.give(Input::StateAdopted { of, outcome: Err("no space".into()) });
    assert_eq!(only_response(&effects).results[0].error.as_deref(), Some("no space"));
    assert!(bench.core.copied().is_some() && !acts(&effects));
    let (first, _) = adoption(&bench.ask("crashes", Request::AdoptState {})).unwrap();
    let effects = start_copy(&mut bench, &["w1"]);
    assert_eq!(adoption(&effects).unwrap().0, first, "the same request, again");
    // Two at once: each is answered.
    let (second, _) = adoption(&bench.ask("second", Request::AdoptState {})).unwrap();
    bench.give(Input::StateAdopted { of: first, outcome: Ok("done".into()) });
    assert_eq!(responses(&bench.give(Input::StateAdopted { of: second, outcome: Ok("done".into()) })).len(), 1);
    assert!(bench.core.durable().unfinished.is_empty());
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { .. })), 1);
}

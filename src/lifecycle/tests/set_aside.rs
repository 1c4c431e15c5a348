//! Stops with `--force`: what is ordered and when, what is answered, and that a crash of the agent anywhere changes neither.

use super::*;

fn force(nodes: &[&str]) -> Request {
    Request::StopNodes { nodes: names(nodes), force: true }
}

fn set_aside(effects: &[Effect]) -> Vec<String> {
    let node = |effect: &Effect| match effect {
        Effect::Order { node, order: NodeOrder::SetAside { .. } } => Some(node.to_string()),
        _ => None,
    };
    effects.iter().filter_map(node).collect()
}

fn unprovable() -> Finding {
    Finding::Unprovable { reason: "cannot try /run/w1/lock: not a regular file".into() }
}

fn text(response: &Response) -> String {
    match &response.results[0].data {
        Some(ResultData::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_runs_is_stopped_before_its_run_directory_is_set_aside() {
    let mut bench = Bench::running(&["w1", "w2"]);
    let effects = bench.ask("f", force(&["w1"]));
    assert_eq!((stopped(&effects), set_aside(&effects)), (vec!["w1".to_owned()], vec![]));
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Signal(15)));
    assert_eq!(set_aside(&effects), ["w1"]);
    assert!(responses(&effects).is_empty(), "not before it is done");
    let effects = bench.execute(effects);
    let response = only_response(&effects);
    assert!(response.success() && text(&response).contains("set aside as /run/.aside-w1-1"), "{response:?}");
    assert_eq!((bench.state("w1"), bench.state("w2")), (NodeState::Stopped, NodeState::Running));
    let effects = bench.ask("s", Request::StartNodes { nodes: names(&["w1"]) });
    let effects = bench.execute(effects);
    assert!(set_aside(&effects).is_empty(), "once for each request");
    bench.ready("w1");
    assert_eq!(bench.state("w1"), NodeState::Running);
    // Said anew, it is done anew.
    let effects = bench.ask("f2", force(&["w1"]));
    let effects = bench.execute(effects);
    assert_eq!(set_aside(&effects), ["w1"]);
    assert!(only_response(&effects).success());
}

#[test]
fn what_could_not_be_proven_is_gone_by_it() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w1", unprovable())]);
    assert_eq!(bench.state("w1"), NodeState::Unknown);
    let effects = bench.ask("f", force(&["w1"]));
    assert_eq!(set_aside(&effects), ["w1"]);
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, NodeHappening::SetAside { path: None });
    let response = only_response(&effects);
    assert!(response.success() && text(&response).contains("no run directory any more"), "{response:?}");
    assert_eq!(bench.state("w1"), NodeState::Stopped);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { cause: ExitCause::Lost, .. })), 1);
}

#[test]
fn what_is_alive_and_not_proven_fails_it_by_name_and_the_node_stays_unknown() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w1", unprovable())]);
    let effects = bench.ask("f", force(&["w1"]));
    assert_eq!(set_aside(&effects), ["w1"]);
    let incarnation = bench.incarnation("w1");
    let reason = "pid 7 (uid 0, \"sleep\") could be its".to_owned();
    let effects = bench.report("w1", incarnation, NodeHappening::NotSetAside { reason });
    let response = only_response(&effects);
    let error = response.results[0].error.clone().unwrap();
    assert!(!response.success() && error.contains("pid 7") && error.contains("it may still run"), "{error}");
    assert_eq!(bench.state("w1"), NodeState::Unknown);
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { .. })), 0);
    // It is looked for as before, and not set aside unasked when it is gone.
    let effects = bench.pass(60_000);
    assert_eq!((looked_for(&effects).is_empty(), set_aside(&effects).is_empty()), (false, true));
    let effects = bench.ask("f2", force(&["w1"]));
    assert_eq!(set_aside(&effects), ["w1"], "and again when asked again");
}

#[test]
fn a_crash_of_the_agent_anywhere_has_it_done_again() {
    for was_done in [false, true] {
        let mut bench = Bench::running(&["w1"]);
        bench.crash(vec![("w1", unprovable())]);
        let effects = bench.ask("f", force(&["w1"]));
        assert_eq!(set_aside(&effects), ["w1"]);
        let finding = if was_done { Finding::Absent } else { unprovable() };
        let effects = bench.crash(vec![("w1", finding)]);
        assert_eq!(set_aside(&effects), ["w1"], "done: {was_done}");
        bench.execute(effects);
        assert_eq!(bench.state("w1"), NodeState::Stopped);
        let again = only_response(&bench.ask("f", force(&["w1"])));
        assert!(again.success(), "{again:?}");
        assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { .. })), 1);
    }
}

#[test]
fn a_node_of_no_configuration_of_which_something_may_be_left_can_be_named() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w9", unprovable())]);
    let refused = only_response(&bench.ask("s", Request::StopNodes { nodes: names(&["w9"]), force: false }));
    assert!(!refused.success(), "there is nothing to stop: {refused:?}");
    let effects = bench.ask("f", force(&["w9"]));
    assert_eq!(set_aside(&effects), ["w9"]);
    assert!(only_response(&bench.execute(effects)).success());
    let unknown = only_response(&bench.ask("g", force(&["w8"])));
    assert!(unknown.results[0].error.clone().unwrap().contains("no such node on this host: w8"), "{unknown:?}");
}

#[test]
fn a_start_that_comes_meanwhile_supersedes_it() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w1", unprovable())]);
    bench.ask("f", force(&["w1"]));
    let effects = bench.ask("s", Request::StartNodes { nodes: names(&["w1"]) });
    let answers = responses(&effects);
    assert!(answers[0].1.results[0].error.clone().unwrap().starts_with("superseded by request"), "{answers:?}");
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, NodeHappening::SetAside { path: None });
    bench.execute(effects);
    let later = bench.pass(10_000);
    bench.execute(later);
    bench.ready("w1");
    assert_eq!(bench.state("w1"), NodeState::Running);
}

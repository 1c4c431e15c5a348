//! The two answers of a change: at the deadline of those who cannot wait, and when it has settled.

use super::*;

fn deploy(id: &str, nodes: &[&str]) -> Request {
    Request::Deploy { config: configuration(id, nodes), force: false, how: Box::default() }
}

fn nodes_of(response: &Response) -> Vec<(Option<&str>, bool)> {
    response.results.iter().map(|one| (one.node.as_deref(), one.success)).collect()
}

/// What is sent again, and whether it is said to be a stored answer.
fn stored(effects: &[Effect]) -> (Response, bool) {
    let stored = effects.iter().find_map(|effect| match effect {
        Effect::Respond { response, stored_at, .. } => Some(((**response).clone(), stored_at.is_some())),
        _ => None,
    });
    stored.unwrap_or_else(|| panic!("{effects:?}"))
}

fn deadlines(bench: &Bench) -> usize {
    bench.entries(|entry| matches!(entry, Entry::DeadlineAnswered { .. }))
}

#[test]
fn on_the_control_socket_one_waits_for_the_outcome_however_long_nodes_take() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    assert!(responses(&bench.pass(20_000)).is_empty());
    let answer = only_response(&bench.ready("w1"));
    assert_eq!(nodes_of(&answer), [(Some("w1"), true)]);
    assert_eq!(deadlines(&bench), 0, "nobody asked where there is a deadline");
}

#[test]
fn a_controller_is_told_at_the_deadline_and_gets_that_for_ever() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    // Somebody on the host asks too.
    bench.transport = "control";
    assert!(responses(&bench.ask("d", deploy("c1", &["w1"]))).is_empty());
    let told = only_response(&bench.pass(7_000));
    assert_eq!(nodes_of(&told), [(None, false), (Some("w1"), false)]);
    assert_eq!(deadlines(&bench), 1);
    assert_eq!(bench.core.durable().unfinished.len(), 1, "it is not over");

    // Repeated before its outcome, by a connection that has just come.
    bench.transport = "websocket";
    assert_eq!(stored(&bench.ask("d", deploy("c1", &["w1"]))), (told.clone(), true));
    // The outcome is for the one who waits on the host, and for nobody else.
    let outcome = only_response(&bench.ready("w1"));
    assert_eq!(nodes_of(&outcome), [(Some("w1"), true)]);
    for (transport, answer) in [("websocket", &told), ("broker", &told), ("control", &outcome)] {
        bench.transport = transport;
        assert_eq!(stored(&bench.ask("d", deploy("c1", &["w1"]))), (answer.clone(), true), "{transport}");
    }
    // After a crash from the journal alone.
    let found = vec![("w1", adopted(&bench, "w1"))];
    bench.crash(found);
    for (transport, answer) in [("broker", &told), ("control", &outcome)] {
        bench.transport = transport;
        assert_eq!(stored(&bench.ask("d", deploy("c1", &["w1"]))), (answer.clone(), true), "{transport}");
    }
    assert_eq!(deadlines(&bench), 1);
}

#[test]
fn the_deadline_begins_with_the_first_who_has_one() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    bench.pass(10_000);
    bench.transport = "broker";
    assert!(responses(&bench.ask("d", deploy("c1", &["w1"]))).is_empty());
    assert!(responses(&bench.pass(6_999)).is_empty());
    assert!(responses(&bench.ask("d", deploy("c1", &["w1"]))).is_empty(), "the second does not begin it anew");
    let effects = bench.pass(1);
    let told = responses(&effects);
    assert_eq!(told.len(), 2, "both, and not the one on the control socket: {told:?}");
    assert_eq!(deadlines(&bench), 1);
}

#[test]
fn an_outcome_that_comes_before_the_deadline_is_the_only_answer() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    let answer = only_response(&bench.ready("w1"));
    assert!(responses(&bench.pass(60_000)).is_empty());
    assert_eq!(deadlines(&bench), 0);
    assert_eq!(stored(&bench.ask("d", deploy("c1", &["w1"]))), (answer, true));
}

#[test]
fn who_asked_before_a_crash_is_told_at_a_deadline_after_it() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    let found = vec![("w1", adopted(&bench, "w1"))];
    bench.crash(found);
    bench.pass(7_000);
    assert_eq!(deadlines(&bench), 1);
    // A crash after that makes no second one.
    let found = vec![("w1", adopted(&bench, "w1"))];
    bench.crash(found);
    bench.pass(7_000);
    assert_eq!(deadlines(&bench), 1);
    let told = stored(&bench.ask("d", deploy("c1", &["w1"])));
    assert!(told.1 && !told.0.success(), "{told:?}");
    bench.transport = "control";
    assert!(responses(&bench.ask("d", deploy("c1", &["w1"]))).is_empty());
    assert!(only_response(&bench.ready("w1")).success());
}

#[test]
fn a_node_that_does_not_get_ready_in_time_is_the_outcome() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", deploy("c1", &["w1", "w2"]));
    bench.execute(effects);
    bench.ready("w1");
    assert!(responses(&bench.pass(59_999)).is_empty());
    let answer = only_response(&bench.pass(1));
    assert_eq!(nodes_of(&answer), [(Some("w1"), true), (Some("w2"), false)]);
    let error = answer.results[1].error.as_deref().unwrap();
    assert_eq!(error, "not ready within 60 s (it runs and has not checked in); supervision goes on");
    // The same again finds it late already; once it is there, all is well.
    let again = only_response(&bench.ask("e", deploy("c1", &["w1", "w2"])));
    assert_eq!(nodes_of(&again), [(Some("w2"), false)]);
    bench.ready("w2");
    assert!(only_response(&bench.ask("f", deploy("c1", &["w1", "w2"]))).success());
    // Begun anew it has all its time again.
    let effects = bench.ask("g", Request::Restart { nodes: names(&["w2"]) });
    bench.execute(effects);
    assert!(responses(&bench.pass(59_999)).is_empty());
    assert!(only_response(&bench.ready("w2")).success());
}

#[test]
fn a_node_whose_lock_is_held_has_an_outcome_too() {
    let mut bench = Bench::new();
    bench.ask("d", deploy("c1", &["w1"]));
    bench.report("w1", Incarnation(1), NodeHappening::Blocked { reason: "its lock is held by pid 7".into() });
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.extend(responses(&bench.pass(5_000)));
        bench.report("w1", Incarnation(1), NodeHappening::Blocked { reason: "its lock is held by pid 7".into() });
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0].1.results[0].error.as_deref(), Some("its lock is held by pid 7"));
}

/// Field note: `ok` was said while everything was on its way.
#[test]
fn the_same_configuration_again_waits_for_the_same_outcome_and_a_controller_does_not() {
    let mut bench = Bench::new();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    assert!(responses(&bench.ask("again", deploy("c1", &["w1"]))).is_empty());
    bench.transport = "broker";
    let told = only_response(&bench.ask("controller", deploy("c1", &["w1"])));
    assert!(told.success() && told.results.len() == 1, "{told:?}");
    assert_eq!(deadlines(&bench), 1);
    let answers = responses(&bench.ready("w1"));
    let told: Vec<_> = answers.iter().map(|(_, response)| (response.reqid.as_str(), response.success())).collect();
    assert_eq!(told, [("d", true), ("again", true)]);
    bench.transport = "control";
    let (outcome, _) = stored(&bench.ask("controller", deploy("c1", &["w1"])));
    assert_eq!(nodes_of(&outcome), [(Some("w1"), true)]);
}

#[test]
fn a_superseded_change_has_its_outcome_at_once_and_what_was_told_before_stays() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    let told = only_response(&bench.pass(7_000));
    let effects = bench.ask("e", deploy("c2", &["w1"]));
    assert!(responses(&effects).is_empty(), "who was told at the deadline is told nothing else: {effects:?}");
    bench.execute(effects);
    assert_eq!(stored(&bench.ask("d", deploy("c1", &["w1"]))), (told, true));
    bench.transport = "control";
    let (outcome, _) = stored(&bench.ask("d", deploy("c1", &["w1"])));
    assert!(outcome.results[0].error.as_deref().unwrap().contains("superseded by request"), "{outcome:?}");
}

/// Nobody took it: it goes to whoever subscribes next, and the outcome does not.
#[test]
fn what_was_told_at_the_deadline_is_published_and_the_outcome_is_not() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("d", deploy("c1", &["w1"]));
    bench.execute(effects);
    bench.give(Input::Disconnected { connection: 1 });
    let told = bench.pass(7_000);
    assert!(responses(&told).is_empty(), "{told:?}");
    bench.ready("w1");
    let found = vec![("w1", adopted(&bench, "w1"))];
    bench.crash(found);
    let effects = bench.give(Input::Peers(Peers { management: 1, ..Peers::default() }));
    let published: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Publish { response, .. } => Some(nodes_of(response)),
            _ => None,
        })
        .collect();
    assert_eq!(published, [[(None, false), (Some("w1"), false)]]);
}

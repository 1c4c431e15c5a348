//! Ports in use and early exits.

use super::*;

fn errors(effects: &[Effect]) -> Vec<String> {
    let text = |effect: &Effect| match effect {
        Effect::Notify(Notification::NotifyError { msg, .. }) => Some(msg.clone()),
        _ => None,
    };
    effects.iter().filter_map(text).collect()
}

fn taken(by: &str) -> NodeHappening {
    NodeHappening::PortTaken { reason: format!("port 2200/tcp is taken by {by}") }
}

fn deploy(id: &str, nodes: &[&str]) -> Request {
    Request::Deploy { config: configuration(id, nodes), force: false, how: Box::default() }
}

#[test]
fn a_taken_port_is_told_once_holds_up_nobody_and_is_tried_again() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("r1", deploy("c1", &["logger", "w1"]));
    assert_eq!(prepared(&effects), ["logger"]);
    let effects = bench.report("logger", Incarnation(1), taken("nginx (pid 7, uid 33)"));
    let told = errors(&effects);
    assert!(
        told.len() == 1 && told[0].contains("logger is not started") && told[0].contains("nginx (pid 7"),
        "{told:?}"
    );
    assert_eq!(bench.state("logger"), NodeState::Pending);
    assert_eq!(prepared(&effects), ["w1"], "the next stage does not wait for a port");
    assert_eq!(
        bench.core.node_reports(bench.now)[0].note.as_deref(),
        Some("port 2200/tcp is taken by nginx (pid 7, uid 33)")
    );
    let effects = bench.pass(5_000);
    assert_eq!(prepared(&effects), ["logger"]);
    let again = bench.report("logger", Incarnation(1), taken("nginx (pid 7, uid 33)"));
    assert_eq!(errors(&again), Vec::<String>::new());
    let effects = bench.pass(5_000);
    let response = only_response(&effects);
    let of_logger: Vec<_> = response.results.iter().filter(|one| one.node.as_deref() == Some("logger")).collect();
    assert_eq!(of_logger[0].error.as_deref(), Some("port 2200/tcp is taken by nginx (pid 7, uid 33)"));
    assert_eq!(bench.entries(|entry| matches!(entry, Entry::LaunchIntended { .. })), 0, "nothing was launched");
    let other = bench.report("logger", Incarnation(1), taken("zeek (pid 8, uid 0)"));
    assert_eq!(errors(&other).len(), 1, "somebody else is news");
    let effects = bench.pass(5_000);
    bench.execute(effects);
    bench.ready("logger");
    assert_eq!(bench.state("logger"), NodeState::Running);
}

#[test]
fn a_node_that_waits_for_a_port_keeps_nobody_from_standing_by() {
    let mut bench = Bench::new();
    bench.ask("r1", set("c1", &["logger"]));
    bench.report("logger", Incarnation(1), taken("nginx (pid 7, uid 33)"));
    let answers = responses(&bench.ask("r2", Request::AgentStandby {}));
    assert!(answers.iter().any(|(_, response)| response.reqid.as_str() == "r2" && response.success()), "{answers:?}");
    assert_eq!(prepared(&bench.pass(60_000)), Vec::<String>::new());
}

#[test]
fn an_intent_whose_port_was_taken_meanwhile_comes_to_its_end() {
    let mut bench = Bench::new();
    let effects = bench.ask("r1", set("c1", &["logger"]));
    assert_eq!(prepared(&effects), ["logger"]);
    bench.report("logger", Incarnation(1), NodeHappening::Prepared);
    // Killed between the intent and the launch; then somebody takes the port.
    let effects = bench.crash(vec![("logger", Finding::Absent)]);
    assert_eq!(prepared(&effects), ["logger"]);
    bench.report("logger", Incarnation(1), taken("nginx (pid 7, uid 33)"));
    assert!(only_response(&bench.ask("r2", Request::AgentStandby {})).success());
}

/// A node that starts and ends by itself `ms` later.
fn ends(bench: &mut Bench, ms: u64, cause: ExitCause, stderr: &str) -> Vec<Effect> {
    bench.pass(ms);
    let incarnation = bench.incarnation("logger");
    let what = NodeHappening::Exited {
        cause,
        process: None,
        stdout: String::new(),
        stderr: stderr.to_owned(),
        is_lasting: false,
    };
    bench.report("logger", incarnation, what)
}

#[test]
fn code_1_at_once_is_told_with_the_last_words_and_answered_so() {
    let mut bench = Bench::new().over_broker();
    let effects = bench.ask("r1", deploy("c1", &["logger"]));
    bench.execute(effects);
    let words = "noise\n1\n2\n3\n4\nfatal error: can't find \x1b[2Jcluster-layout\n";
    let effects = ends(&mut bench, 100, ExitCause::Code(1), words);
    let told = errors(&effects);
    assert!(told[0].contains("ended with code 1 within 2 s"), "{told:?}");
    assert!(
        told[0].contains("it said: 1 | 2 | 3 | 4 | fatal error: can't find ?[2Jcluster-layout; starting"),
        "{told:?}"
    );
    assert!(bench.core.node_reports(bench.now)[0].note.as_deref().unwrap().contains("nodes logs logger --stderr"));
    bench.execute(effects);
    let response = only_response(&bench.pass(7_000));
    let of_logger = response.results.iter().find(|one| one.node.is_some()).unwrap();
    assert!(of_logger.error.as_deref().unwrap().contains("cluster-layout"), "{of_logger:?}");
    bench.ready("logger");
    assert_eq!(bench.core.node_reports(bench.now)[0].note, None);
}

#[test]
fn what_was_given_up_keeps_its_last_words() {
    let restart = RestartOptions { permanent_exit_codes: vec![1], ..RestartOptions::default() };
    let mut bench = Bench::with(Options { restart, ..options() });
    let effects = bench.ask("r1", deploy("c1", &["logger"]));
    bench.execute(effects);
    let mut seen = Vec::new();
    for pause in [3_000, 6_000, 0] {
        assert_ne!(bench.state("logger"), NodeState::Failed);
        let effects = ends(&mut bench, 10, ExitCause::Code(1), "fatal error: can't find cluster-layout\n");
        seen.extend(bench.execute(effects));
        let effects = bench.pass(pause);
        seen.extend(bench.execute(effects));
    }
    assert_eq!(bench.state("logger"), NodeState::Failed);
    let response = only_response(&seen);
    let answered = response.results.iter().find(|one| one.node.is_some()).unwrap();
    assert!(answered.error.as_deref().unwrap().contains("can't find cluster-layout"), "{response:?}");
    let reports = bench.core.node_reports(bench.now);
    let said = reports[0].note.as_deref().unwrap();
    assert!(
        said.contains("the settings call permanent")
            && said.ends_with("it said: fatal error: can't find cluster-layout"),
        "{said}"
    );
}

#[test]
fn another_code_a_signal_or_a_later_end_is_a_crash() {
    for (ms, cause) in [(100, ExitCause::Code(2)), (100, ExitCause::Signal(11)), (2_500, ExitCause::Code(1))] {
        let mut bench = Bench::new();
        let effects = bench.ask("r1", set("c1", &["logger"]));
        bench.execute(effects);
        let told = errors(&ends(&mut bench, ms, cause.clone(), "words"));
        assert!(told[0].contains(&format!("logger ended ({cause}); starting")), "{told:?}");
    }
}

#[test]
fn last_words_are_bounded() {
    let mut bench = Bench::new();
    let effects = bench.ask("r1", set("c1", &["logger"]));
    bench.execute(effects);
    let told = errors(&ends(&mut bench, 1, ExitCause::Code(1), &"ä".repeat(10_000)));
    assert!(told[0].len() < 1_300, "{}", told[0].len());
}

#[test]
fn that_the_agent_was_away_is_not_among_a_nodes_last_words() {
    let mut bench = Bench::new();
    let effects = bench.ask("r", deploy("c1", &["w1"]));
    bench.execute(effects);
    let noise =
        "error in /usr/share/zeek/log.zeek, line 81: Broker error (Broker::PEER_UNAVAILABLE): (x, *127.0.0.1:2151)";
    let stderr = format!("fatal error: no such script\n{}", format!("{noise}\n").repeat(50));
    let (cause, stdout) = (ExitCause::Code(1), String::new());
    let exited = NodeHappening::Exited { cause, process: None, stdout, stderr, is_lasting: false };
    let told = errors(&bench.report("w1", Incarnation(1), exited)).join("\n");
    assert!(told.contains("it said: fatal error: no such script") && !told.contains("PEER_UNAVAILABLE"), "{told}");
}

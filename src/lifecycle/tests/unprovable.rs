//! Nodes that cannot be proven or prepared: one entry for each reason, none for each attempt.

use super::*;

/// For a reason that does not pass by itself.
fn not_started(reason: &str) -> NodeHappening {
    NodeHappening::Exited {
        cause: ExitCause::NotStarted(reason.to_owned()),
        process: None,
        stdout: String::new(),
        stderr: String::new(),
        is_lasting: true,
    }
}

fn exits(bench: &Bench) -> usize {
    bench.entries(|entry| matches!(entry, Entry::NodeExited { .. }))
}

/// Tries as long as the core wants to, and has every attempt end this way.
fn try_for(bench: &mut Bench, minutes: u64, outcome: &NodeHappening) -> usize {
    let mut attempts = 0;
    for _ in 0..minutes * 12 {
        let mut effects = bench.pass(5_000);
        for _ in 0..20 {
            let order = effects.iter().find_map(|effect| match effect {
                Effect::Order { order: NodeOrder::Prepare { incarnation, .. }, .. } => Some(*incarnation),
                _ => None,
            });
            let Some(incarnation) = order else { break };
            attempts += 1;
            effects = bench.report("w1", incarnation, outcome.clone());
        }
    }
    attempts
}

#[test]
fn a_held_lock_is_looked_at_again_without_an_entry() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w1", Finding::Unprovable { reason: "the lock is held by pid 1".into() })]);
    let entries = bench.journal.entries().len();
    let held = NodeHappening::Blocked { reason: "the lock is held by pid 1".into() };
    let attempts = try_for(&mut bench, 10, &held);
    assert!((100..=120).contains(&attempts), "every 5 s: {attempts}");
    let new: Vec<_> = bench.journal.entries()[entries..].iter().map(|one| one.entry.clone()).collect();
    assert!(new.iter().all(|entry| matches!(entry, Entry::AgentSettled)), "{new:?}");
    assert_eq!(bench.state("w1"), NodeState::Unknown);
}

#[test]
fn what_cannot_be_prepared_costs_an_entry_for_each_reason() {
    let mut bench = Bench::running(&["w1"]);
    bench.crash(vec![("w1", Finding::Unprovable { reason: "the lock is held by pid 1".into() })]);
    // The lock was had for it, so the last process is gone: that, and the reason.
    let attempts = try_for(&mut bench, 60, &not_started("no such program"));
    // And that it was given up after three tries.
    assert_eq!((exits(&bench), bench.state("w1")), (3, NodeState::Failed));
    assert!((12..=17).contains(&attempts), "every failed_retry: {attempts}");
    let retried = |bench: &Bench| bench.entries(|entry| matches!(entry, Entry::NodeRetried { .. }));
    assert_eq!(retried(&bench), 0);
    try_for(&mut bench, 60, &not_started("it may not be executed"));
    assert_eq!((exits(&bench), bench.state("w1")), (4, NodeState::Failed));
    // Then it can.
    for _ in 0..61 {
        let effects = bench.pass(5_000);
        bench.execute(effects);
    }
    assert_eq!((retried(&bench), bench.state("w1")), (1, NodeState::Pending));
    bench.ready("w1");
    assert_eq!((exits(&bench), bench.state("w1")), (4, NodeState::Running));
}

/// What one attempt to prepare w1 comes to: it is tried again at once, or later.
fn fail(bench: &mut Bench, effects: &[Effect], outcome: &NodeHappening) -> Option<Vec<Effect>> {
    let incarnation = effects.iter().find_map(|effect| match effect {
        Effect::Order { order: NodeOrder::Prepare { incarnation, .. }, .. } => Some(*incarnation),
        _ => None,
    })?;
    Some(bench.report("w1", incarnation, outcome.clone()))
}

#[test]
fn asked_for_again_it_is_tried_again_and_answered() {
    let mut bench = Bench::new().over_broker();
    for reqid in ["d", "e"] {
        let effects = bench
            .ask(reqid, Request::Deploy { config: configuration("c1", &["w1"]), force: true, how: Box::default() });
        fail(&mut bench, &effects, &not_started("it may not be executed")).unwrap();
        let answer = only_response(&bench.pass(7_000));
        assert!(!answer.success());
        let errors: Vec<&str> = answer.results.iter().filter_map(|result| result.error.as_deref()).collect();
        assert!(errors.iter().any(|error| error.contains("it may not be executed")), "{errors:?}");
    }
}

/// A cause that passes: with backoff, never given up, one entry, and back within one step of its end.
#[test]
fn what_passes_is_tried_again_with_backoff_and_never_given_up() {
    let mut bench = Bench::new();
    let mut effects = bench.ask("d", set("c1", &["w1"]));
    let missing = exited(ExitCause::NotStarted("no space is left".to_owned()));
    let (mut tries, mut last) = (Vec::new(), bench.now.boot);
    let end = bench.now.boot.plus_ms(3_600_000);
    while bench.now.boot < end {
        while let Some(more) = fail(&mut bench, &effects, &missing) {
            tries.push(bench.now.boot.ms_since(last));
            last = bench.now.boot;
            effects = more;
        }
        assert_ne!(bench.state("w1"), NodeState::Failed);
        let wake = bench.core.wake_at().expect("it is tried again");
        effects = bench.pass((wake.0 - bench.now.boot.0).div_ceil(1000));
    }
    assert!(tries.len() > 60 && tries.len() < 100, "{tries:?}");
    assert!(tries.iter().all(|pause| *pause <= 60_000), "{tries:?}");
    let doubling: Vec<u64> = tries.iter().take(7).copied().collect();
    assert!(doubling.iter().skip(3).zip(doubling.iter().skip(2)).all(|(later, before)| later > before), "{doubling:?}");
    assert_eq!(exits(&bench), 1, "the same again is no news");
    let deaths = &bench.core.durable().nodes[&name("w1")].deaths;
    assert!(deaths.is_empty(), "{deaths:?}");
    // It is over: the next try is the last.
    for _ in 0..2 {
        let seen = bench.execute(effects);
        if bench.entries(|entry| matches!(entry, Entry::NodeStarted { .. })) == 1 {
            break;
        }
        drop(seen);
        effects = bench.pass(60_000);
    }
    bench.ready("w1");
    assert_eq!(bench.state("w1"), NodeState::Running);
}

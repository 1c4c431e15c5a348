//! Nodes that cannot be proven or prepared: one entry for each reason, none for each attempt.

use super::*;

fn not_started(reason: &str) -> NodeHappening {
    exited(ExitCause::NotStarted(reason.to_owned()))
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
    assert_eq!((exits(&bench), bench.state("w1")), (2, NodeState::Failed));
    assert!((12..=15).contains(&attempts), "every failed_retry: {attempts}");
    let retried = |bench: &Bench| bench.entries(|entry| matches!(entry, Entry::NodeRetried { .. }));
    assert_eq!(retried(&bench), 0);
    try_for(&mut bench, 60, &not_started("it may not be executed"));
    assert_eq!((exits(&bench), bench.state("w1")), (3, NodeState::Failed));
    // Then it can.
    for _ in 0..61 {
        let effects = bench.pass(5_000);
        bench.obey(effects);
    }
    assert_eq!((retried(&bench), bench.state("w1")), (1, NodeState::Pending));
    bench.ready("w1");
    assert_eq!((exits(&bench), bench.state("w1")), (3, NodeState::Running));
}

#[test]
fn asked_for_again_it_is_tried_again_and_answered() {
    let mut bench = Bench::new();
    let deploy = |force| Request::Deploy { config: configuration("c1", &["w1"]), force };
    bench.ask("d", deploy(false));
    let incarnation = bench.incarnation("w1").next();
    let answer = only_response(&bench.report("w1", incarnation, not_started("no such program")));
    assert!(!answer.success());
    assert_eq!(prepared(&bench.ask("e", deploy(true))), ["w1"]);
    let incarnation = bench.incarnation("w1").next();
    let answer = only_response(&bench.report("w1", incarnation, not_started("no such program")));
    assert!(answer.results[0].error.as_ref().unwrap().contains("no such program"), "{answer:?}");
}

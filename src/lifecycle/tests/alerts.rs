//! What an operator is told of: one after the other, at least once, under the numbers of the entries.

use super::*;
use crate::api::alert::{Alert, AlertKind, MESSAGE_LIMIT, WAITING_LIMIT};

fn alerting(bench: &mut Bench) {
    bench.core = bench.core.clone().with_alerts(true);
}

fn told(effects: &[Effect]) -> Vec<(Alert, u64)> {
    let tell = |effect: &Effect| match effect {
        Effect::Tell { alert, lost } => Some(((**alert).clone(), *lost)),
        _ => None,
    };
    effects.iter().filter_map(tell).collect()
}

fn trouble(message: &str) -> Input {
    Input::Trouble { kind: AlertKind::ArchiveFailed, message: message.to_owned() }
}

fn over(alert: &Alert, lost: u64) -> Input {
    Input::Told { id: alert.id, lost, outcome: "exit code 0".to_owned() }
}

#[test]
fn alerts_are_told_one_after_the_other_and_again_after_a_crash() {
    let mut bench = Bench::new();
    alerting(&mut bench);
    let first = told(&bench.give(trouble("one")));
    assert_eq!(first.len(), 1);
    let (one, lost) = &first[0];
    assert_eq!((one.kind, one.message.as_str(), *lost), (AlertKind::ArchiveFailed, "one", 0));
    let entry = bench.journal.entries().iter().find(|entry| entry.seq == one.id).unwrap().entry.clone();
    assert!(matches!(entry, Entry::TroubleSeen { .. }), "{entry:?}");
    assert_eq!(told(&bench.give(trouble("two"))), [], "one at a time");
    // Neither was told when the agent died.
    bench.reload();
    alerting(&mut bench);
    assert_eq!(told(&bench.start("boot-1", Vec::new())), first);
    let second = told(&bench.give(over(one, 0)));
    assert_eq!(second[0].0.message, "two");
    assert_eq!(told(&bench.give(over(one, 0))), [], "it is over already");
    assert_eq!(told(&bench.give(over(&second[0].0, 0))), []);
    assert_eq!(bench.core.waiting_alerts(), (0, 0));
    bench.reload();
    alerting(&mut bench);
    assert_eq!(told(&bench.start("boot-1", Vec::new())), [], "what was told is not told again");
}

#[test]
fn without_a_command_nothing_is_kept_and_with_one_no_more_than_there_is_place_for() {
    let mut bench = Bench::new();
    assert_eq!(told(&bench.give(trouble("nobody is told"))), []);
    assert_eq!(bench.core.waiting_alerts(), (0, 0));
    alerting(&mut bench);
    let first = told(&bench.give(trouble(&"x".repeat(MESSAGE_LIMIT + 1)))).remove(0).0;
    assert_eq!(first.message.len(), MESSAGE_LIMIT);
    for number in 0..WAITING_LIMIT + 2 {
        assert_eq!(told(&bench.give(trouble(&number.to_string()))), []);
    }
    assert_eq!(bench.core.waiting_alerts(), (WAITING_LIMIT, 3));
    let (second, lost) = told(&bench.give(over(&first, 0))).remove(0);
    assert_eq!((second.message.as_str(), lost), ("0", 3));
    let (_, lost) = told(&bench.give(over(&second, lost))).remove(0);
    assert_eq!(lost, 0, "they were told of");
}

#[test]
fn ends_and_refusals_are_told_and_stops_are_not() {
    let mut bench = Bench::running(&["w1"]);
    alerting(&mut bench);
    let effects = bench.report("w1", Incarnation(1), exited(ExitCause::Signal(9)));
    let (crash, _) = told(&effects).remove(0);
    assert_eq!((crash.kind, crash.node.as_str()), (AlertKind::Crash, "w1"));
    bench.execute(effects);
    assert_eq!(told(&bench.give(over(&crash, 0))), []);
    let effects = bench.ask("bad", set("c2", &["not a name"]));
    let (refused, _) = told(&effects).remove(0);
    assert_eq!((refused.kind, refused.reqid.as_str()), (AlertKind::ChangeRefused, "bad"));
    assert!(!refused.message.is_empty());
    bench.give(over(&refused, 0));
    let effects = bench.ask("standby", Request::AgentStandby {});
    let seen = bench.execute(effects);
    assert_eq!(told(&seen), []);
    assert_eq!(bench.core.waiting_alerts(), (0, 0));
}

//! What is left of nodes that are to be gone.

use super::*;
use crate::api::survivors::{Survivor, Survivors};

const HELPER: &str = "pid 78 (uid 0, \"ping\")";

fn left() -> NodeHappening {
    let helper = Survivor { pid: 78, uid: Some(0), command: "ping".into() };
    NodeHappening::Left { survivors: Survivors { named: vec![helper], ..Survivors::default() } }
}

fn only_error(response: &Response) -> String {
    let errors: Vec<&String> = response.results.iter().filter_map(|one| one.error.as_ref()).collect();
    assert_eq!(errors.len(), 1, "{response:?}");
    assert!(!response.success());
    errors[0].clone()
}

#[test]
fn what_cannot_be_ended_fails_a_stop_at_once_and_by_name() {
    let stops: [(&str, Request); 3] = [
        ("stop", Request::StopNodes { nodes: names(&["w1"]), force: false }),
        ("standby", Request::AgentStandby {}),
        ("shutdown", Request::Shutdown { nodes: true }),
    ];
    for (reqid, request) in stops {
        let mut bench = Bench::running(&["w1"]);
        let incarnation = bench.incarnation("w1");
        let effects = bench.ask(reqid, request);
        assert_eq!(stopped(&effects), ["w1"]);
        assert!(responses(&effects).is_empty());
        let effects = bench.report("w1", incarnation, left());
        let error = only_error(&only_response(&effects));
        assert!(error.contains(HELPER), "{reqid}: {error}");
        assert_eq!(bench.state("w1"), NodeState::Unknown, "{reqid}");
        let note = bench.core.node_reports(bench.now)[0].note.clone().unwrap();
        assert!(note.contains(HELPER), "{note}");
        assert_eq!(bench.entries(|entry| matches!(entry, Entry::NodeExited { .. })), 0, "it comes with the last of it");
    }
}

#[test]
fn a_stop_of_what_could_not_be_ended_before_is_tried_again() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    bench.ask("s1", Request::StopNodes { nodes: names(&["w1"]), force: false });
    bench.report("w1", incarnation, left());
    let effects = bench.ask("s2", Request::StopNodes { nodes: names(&["w1"]), force: false });
    assert_eq!(stopped(&effects), ["w1"]);
    assert!(responses(&effects).is_empty(), "what was said before the order is no answer to it");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Code(0)));
    assert!(only_response(&effects).success());
    assert_eq!(bench.state("w1"), NodeState::Stopped);
}

#[test]
fn nothing_starts_beside_what_is_left_of_the_last_one() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    let effects = bench.ask("r", Request::Restart { nodes: names(&["w1"]) });
    assert_eq!(stopped(&effects), ["w1"]);
    let effects = bench.report("w1", incarnation, left());
    assert!(prepared(&effects).is_empty());
    let effects = bench.pass(60_000);
    assert!(only_error(&only_response(&effects)).contains(HELPER), "{effects:?}");
    assert!(prepared(&effects).is_empty());
    let effects = bench.report("w1", incarnation, exited(ExitCause::Code(0)));
    assert_eq!(prepared(&effects), ["w1"], "when it is gone, the next one starts");
}

#[test]
fn a_node_that_ended_by_itself_and_left_something_is_neither_up_nor_started() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    let effects = bench.report("w1", incarnation, left());
    assert!(prepared(&effects).is_empty() && stopped(&effects).is_empty());
    let told = |effect: &&Effect| matches!(effect, Effect::Notify(Notification::NotifyError { msg, .. }) if msg.contains(HELPER));
    assert_eq!(effects.iter().filter(told).count(), 1);
    assert_eq!(bench.state("w1"), NodeState::Unknown);
    let effects = bench.ask("s", Request::StopNodes { nodes: names(&["w1"]), force: false });
    assert_eq!(stopped(&effects), ["w1"], "its shim tries again");
    let effects = bench.report("w1", incarnation, exited(ExitCause::Code(1)));
    assert!(only_response(&effects).success());
}

#[test]
fn a_configuration_is_done_when_what_it_removes_is_gone() {
    for force in [false, true] {
        let deploy = |nodes: &[&str]| match force {
            true => Request::Deploy { config: configuration("c2", nodes), force, how: Box::default() },
            false => set("c2", nodes),
        };
        // Without any node of its own.
        let mut bench = Bench::running(&["w1"]);
        let incarnation = bench.incarnation("w1");
        let effects = bench.ask("none", deploy(&[]));
        assert!(responses(&effects).is_empty(), "{effects:?}");
        let effects = bench.report("w1", incarnation, exited(ExitCause::Code(0)));
        let response = only_response(&effects);
        assert!(response.success() && response.results.len() == 1, "{response:?}");
        // With one.
        let mut bench = Bench::running(&["w1", "w2"]);
        let gone = bench.incarnation("w2");
        let effects = bench.ask("one", deploy(&["w1"]));
        // The host carries out all but the end of w2.
        let others = |effect: &Effect| !matches!(effect, Effect::Order { node, .. } if node.as_str() == "w2");
        bench.execute(effects.into_iter().filter(others).collect());
        let effects = bench.ready("w1");
        assert!(responses(&effects).is_empty(), "w2 is still there: {effects:?}");
        let effects = bench.report("w2", gone, left());
        let response = only_response(&effects);
        let failed = response.results.iter().filter(|one| !one.success).count();
        assert!(failed == 1 && only_error(&response).contains(HELPER), "{response:?}");
        assert!(
            only_error(&response).contains("w2")
                || response.results.iter().any(|one| one.node.as_deref() == Some("w2"))
        );
    }
}

#[test]
fn a_lock_that_somebody_holds_fails_a_shutdown_also_where_the_journal_knows_no_such_node() {
    let mut bench = Bench::new();
    let reason = "run/w9/lock is held by pid 7";
    bench.crash(vec![("w9", Finding::Unprovable { reason: reason.into() })]);
    let effects = bench.ask("bye", Request::Shutdown { nodes: true });
    assert!(responses(&effects).is_empty());
    let effects = bench.pass(5_000);
    assert_eq!(looked_for(&effects), ["w9"], "looked for again before it is given up");
    bench.report("w9", Incarnation(0), NodeHappening::Blocked { reason: reason.into() });
    let effects = bench.pass(20_000);
    assert!(only_error(&only_response(&effects)).contains(reason));
    // And when it is free, nothing is left.
    let mut bench = Bench::new();
    bench.crash(vec![("w9", Finding::Unprovable { reason: reason.into() })]);
    bench.ask("bye", Request::Shutdown { nodes: true });
    bench.pass(5_000);
    let effects = bench.report("w9", Incarnation(0), NodeHappening::Cleared);
    assert!(only_response(&effects).success());
}

#[test]
fn behind_a_shim_of_the_first_release_a_stop_waits_for_the_lock_and_says_what_it_promises() {
    let mut bench = Bench::running(&["w1"]);
    let incarnation = bench.incarnation("w1");
    bench.ask("s", Request::StopNodes { nodes: names(&["w1"]), force: false });
    bench.report("w1", incarnation, NodeHappening::HoldersOnly);
    let effects = bench.report("w1", incarnation, exited(ExitCause::Code(0)));
    assert!(responses(&effects).is_empty(), "holders of the lock are still being looked for");
    let effects = bench.report("w1", incarnation, NodeHappening::Cleared);
    let response = only_response(&effects);
    assert!(response.success());
    let Some(ResultData::Text(promised)) = &response.results[0].data else { panic!("{response:?}") };
    assert!(promised.contains("only processes that hold its lock"), "{promised}");
    // The same of a removal, whose record goes with the exit.
    let mut bench = Bench::running(&["w1"]);
    bench.ask("d", set("c2", &[]));
    bench.report("w1", incarnation, NodeHappening::HoldersOnly);
    let effects = bench.report("w1", incarnation, exited(ExitCause::Code(0)));
    assert!(bench.core.durable().nodes.is_empty() && responses(&effects).is_empty());
    let reason = "run/w1/lock is held by pid 7";
    let effects = bench.report("w1", incarnation, NodeHappening::Blocked { reason: reason.into() });
    assert!(responses(&effects).is_empty());
    assert!(only_error(&only_response(&bench.pass(30_000))).contains(reason));
    let effects = bench.ask("again", Request::AgentStandby {});
    assert!(responses(&effects).is_empty(), "somebody still has the lock");
}

//! Whether all is well, for probes (`status --check`): a pure reading of a status report.

use super::report::{NodeReport, StatusReport};
use super::status::NodeState;

/// How many nodes with the same problem are named.
const NAMED: usize = 3;

impl StatusReport {
    /// What keeps this host from being well, most important first; nothing if it is. What an operator stopped is well, and
    /// so is a node that is still within `ready_timeout`.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.serving {
            reasons.push("the agent does not serve yet".to_owned());
        }
        if let Some(hold) = &self.hold {
            reasons.push(format!("on hold: {hold}"));
        }
        if let Some(refusing) = &self.journal.refusing {
            reasons.push(format!("requests are refused: {refusing}"));
        }
        for state in [NodeState::Unknown, NodeState::Failed, NodeState::Crashed] {
            reasons.extend(together(
                state.as_str(),
                self.nodes.iter().filter(|node| node.state == state && is_wanted(node)),
            ));
        }
        let is_late = |node: &&NodeReport| node.state == NodeState::Pending && node.late && is_wanted(node);
        reasons.extend(together("PENDING for longer than ready_timeout", self.nodes.iter().filter(is_late)));
        // Between two crashes it is RUNNING or PENDING.
        let loops = |node: &&NodeReport| {
            node.is_crash_looping() && matches!(node.state, NodeState::Running | NodeState::Pending) && !is_late(node)
        };
        reasons.extend(together("ending again and again", self.nodes.iter().filter(loops)));
        if let Some(failing) = self.archive.as_ref().and_then(|archive| archive.failing.as_ref()) {
            reasons.push(format!("logs are not archived: {failing}"));
        }
        if let Some(failing) = self.events.as_ref().and_then(|events| events.failing.as_ref()) {
            reasons.push(format!("event_command fails: {failing}"));
        }
        if let Some(keeping) = &self.keeping {
            reasons.extend(keeping.problem.clone());
            reasons.extend(
                keeping
                    .unarchived
                    .as_ref()
                    .map(|queue| format!("rotated logs wait in {queue} and nobody archives them")),
            );
        }
        reasons
    }
}

/// A node that was stopped by command, or is on its way out, is no problem.
fn is_wanted(node: &NodeReport) -> bool {
    node.want == "up" || node.state == NodeState::Unknown
}

/// For example `w1 and w2 are CRASHED (w1: signal 9)`.
fn together<'a>(what: &str, nodes: impl Iterator<Item = &'a NodeReport>) -> Option<String> {
    let nodes: Vec<&NodeReport> = nodes.collect();
    let first = nodes.first()?;
    let names: Vec<&str> = nodes.iter().take(NAMED).map(|node| node.node.as_str()).collect();
    let verb = if nodes.len() == 1 { "is" } else { "are" };
    let names = match (names.as_slice(), nodes.len().saturating_sub(NAMED)) {
        ([one], _) => (*one).to_owned(),
        ([others @ .., last], 0) => format!("{} and {last}", others.join(", ")),
        (some, more) => format!("{} and {more} more", some.join(", ")),
    };
    let why = first.note.as_ref().or(first.last_exit.as_ref()).filter(|_| first.state != NodeState::Running);
    let why = match (why, nodes.len()) {
        (Some(why), 1) => format!(" ({why})"),
        (Some(why), _) => format!(" ({}: {why})", first.node),
        (None, _) => String::new(),
    };
    Some(format!("{names} {verb} {what}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::report::{ArchiveReport, JournalReport};

    fn node(name: &str, state: NodeState) -> NodeReport {
        NodeReport {
            node: name.into(),
            role: ClusterRole::Worker,
            state,
            want: "up".into(),
            pid: None,
            incarnation: 1,
            up_ms: Some(100_000),
            deaths: 0,
            awaited_ms: None,
            late: false,
            metrics_port: None,
            next_start_ms: None,
            last_exit: None,
            note: None,
            dropped_bytes: 0,
            shim: None,
        }
    }

    fn of(nodes: Vec<NodeReport>) -> Vec<String> {
        StatusReport { serving: true, nodes, ..StatusReport::default() }.reasons()
    }

    #[test]
    fn what_runs_is_well_and_so_is_what_was_stopped_or_is_still_starting() {
        assert_eq!(of(Vec::new()), Vec::<String>::new());
        let stopped = NodeReport { want: "stopped".into(), ..node("w2", NodeState::Stopped) };
        let leaving = NodeReport { want: "gone".into(), ..node("w3", NodeState::Crashed) };
        let nodes = vec![node("w1", NodeState::Running), stopped, leaving, node("w4", NodeState::Pending)];
        assert_eq!(of(nodes), Vec::<String>::new());
    }

    #[test]
    fn nodes_that_are_not_as_they_should_be_are_named() {
        let crashed = |name| NodeReport { last_exit: Some("signal 9".into()), ..node(name, NodeState::Crashed) };
        assert_eq!(of(vec![crashed("w1")]), ["w1 is CRASHED (signal 9)"]);
        assert_eq!(of(vec![crashed("w1"), crashed("w2")]), ["w1 and w2 are CRASHED (w1: signal 9)"]);
        let five = ["w1", "w2", "w3", "w4", "w5"].map(crashed).to_vec();
        assert_eq!(of(five), ["w1, w2, w3 and 2 more are CRASHED (w1: signal 9)"]);
        let late = NodeReport { late: true, note: Some("has not checked in".into()), ..node("w1", NodeState::Pending) };
        let failed = NodeReport { note: Some("11 exits".into()), ..node("w2", NodeState::Failed) };
        let looping = NodeReport { deaths: 4, up_ms: Some(10), ..node("w4", NodeState::Running) };
        // Not wanted any more, but nobody knows what runs.
        let unknown = NodeReport { want: "gone".into(), ..node("w3", NodeState::Unknown) };
        assert_eq!(
            of(vec![late, failed, unknown, looping]),
            [
                "w3 is UNKNOWN",
                "w2 is FAILED (11 exits)",
                "w1 is PENDING for longer than ready_timeout (has not checked in)",
                "w4 is ending again and again",
            ]
        );
    }

    #[test]
    fn the_agent_itself_can_be_unwell() {
        let archive = ArchiveReport { failing: Some("exit code 1".into()), ..ArchiveReport::default() };
        let report = StatusReport {
            hold: Some("five early deaths".into()),
            journal: JournalReport { refusing: Some("no space".into()), ..JournalReport::default() },
            archive: Some(archive),
            ..StatusReport::default()
        };
        let expected = [
            "the agent does not serve yet",
            "on hold: five early deaths",
            "requests are refused: no space",
            "logs are not archived: exit code 1",
        ];
        assert_eq!(report.reasons(), expected);
    }
}

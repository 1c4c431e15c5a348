//! Every metric, with its samples. `docs/METRICS.md` shows the same table, and a test compares the two.

use super::Snapshot;
use crate::api::counts::Durations;
use crate::api::figures::Usage;
use crate::api::report::NodeReport;
use crate::api::status::NodeState;

/// The first part of every name.
pub const PREFIX: &str = "zca";

/// What a metric is, in OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until its owner starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Says something in its labels; the value is 1.
    Info,
    /// How many were within each bound.
    Histogram,
}

/// A value with what it is of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Values of the family's labels, in their order.
    pub labels: Vec<String>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Durations(Durations),
}

/// A metric and its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Without the prefix and without `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in words.
    pub help: &'static str,
    pub(super) samples: Vec<Sample>,
}

impl Family {
    fn new(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind, labels, help, samples: Vec::new() }
    }

    fn with(mut self, labels: Vec<String>, value: Value) -> Self {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        self.samples.push(Sample { labels, value });
        self
    }

    fn of(mut self, samples: impl IntoIterator<Item = (Vec<String>, f64)>) -> Self {
        for (labels, value) in samples {
            self = self.with(labels, Value::Number(value));
        }
        self
    }

    /// One without labels.
    fn is(self, value: impl Into<Option<f64>>) -> Self {
        match value.into() {
            Some(value) => self.with(Vec::new(), Value::Number(value)),
            None => self,
        }
    }
}

fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family::new(name, Kind::Counter, labels, help)
}

fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, labels, help)
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Everything, in the order of the page.
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut found = of_agent(snapshot);
    found.extend(of_requests(snapshot));
    found.extend(of_journal(snapshot));
    found.extend(of_nodes(snapshot));
    found.extend(of_node_processes(snapshot));
    found
}

fn of_agent(snapshot: &Snapshot) -> Vec<Family> {
    let Snapshot { status, own, .. } = snapshot;
    let own = |value: fn(&Usage) -> f64| own.as_ref().map(value);
    let controller = status.controller.as_ref().map(|controller| flag(controller.state == "connected"));
    let archive = status.archive.as_ref();
    vec![
        Family::new("agent", Kind::Info, &["name", "version"], "The agent.")
            .of([(vec![status.name.clone(), status.version.clone()], 1.0)]),
        gauge("start_time_seconds", &[], "When the agent was started, in seconds since 1970.")
            .is(snapshot.started.0 as f64 / 1e6),
        gauge("serving", &[], "1 if every node was looked for and requests are handled.").is(flag(status.serving)),
        gauge("well", &[], "1 if `status --check` finds nothing wrong.").is(flag(status.reasons().is_empty())),
        gauge("hold", &[], "1 in hold mode, in which nothing is started or stopped.").is(flag(status.hold.is_some())),
        gauge("broker_peers", &[], "Broker peers, nodes included.").is(status.peers.len() as f64),
        gauge(
            "controller_connected",
            &[],
            "1 if the controller that the agent dials is connected. Absent without one.",
        )
        .is(controller),
        gauge("archive_failing", &[], "1 if the last finished archival of logs failed. Absent if it is off.")
            .is(archive.map(|archive| flag(archive.failing.is_some()))),
        counter(
            "archive_expired_files",
            &[],
            "Archived logs that were removed because of their age or size. Absent if they are kept.",
        )
        .is(status.keeping.as_ref().map(|keeping| keeping.removed_files as f64)),
        counter("process_cpu_seconds", &[], "CPU time of the agent itself.").is(own(|own| own.cpu_seconds)),
        gauge("process_resident_memory_bytes", &[], "Resident memory of the agent itself.")
            .is(own(|own| own.rss_bytes as f64)),
        gauge("process_threads", &[], "Threads of the agent itself.").is(own(|own| own.threads as f64)),
        gauge("process_open_fds", &[], "Open descriptors of the agent itself.")
            .is(snapshot.own.and_then(|own| own.descriptors).map(|count| count as f64)),
    ]
}

fn of_requests(snapshot: &Snapshot) -> Vec<Family> {
    let Snapshot { status, counts, .. } = snapshot;
    let endings = counts
        .requests
        .iter()
        .map(|((event, ending), count)| (vec![(*event).to_owned(), ending.as_str().to_owned()], *count as f64));
    let mut durations = Family::new(
        "request_duration_seconds",
        Kind::Histogram,
        &["event"],
        "From the receipt of a request to its outcome, since the agent's start.",
    );
    for (event, one) in &counts.durations {
        durations = durations.with(vec![(*event).to_owned()], Value::Durations(one.clone()));
    }
    vec![
        counter("requests", &["event", "outcome"], "Requests with an outcome, since the agent's start. The outcome is success, failure, rejected, abandoned or conflict.")
            .of(endings),
        durations,
        counter("requests_duplicate", &[], "Requests that came again and were answered from the journal, since the agent's start.")
            .is(counts.duplicates as f64),
        counter("requests_refused", &[], "Requests refused without being journaled, since the agent's start: busy, stopping, no space.")
            .is(status.refused as f64),
        counter("input_rejected", &[], "Input that was no request, since the agent's start.").is(counts.malformed as f64),
        gauge("requests_unfinished", &[], "Requests that were accepted and have no outcome.").is(status.unfinished as f64),
        gauge("requests_waiting", &[], "Those of them that wait for `requests resume` or `requests drop`.")
            .is(status.waiting_requests.len() as f64),
    ]
}

fn of_journal(snapshot: &Snapshot) -> Vec<Family> {
    let journal = &snapshot.status.journal;
    vec![
        gauge("journal_last_entry", &[], "The number of the newest durable entry.").is(journal.last as f64),
        counter("journal_commits", &[], "Commits since the agent's start.").is(journal.commits as f64),
        gauge("journal_commit_p99_seconds", &[], "The 99th percentile of how long the last 1024 commits took.")
            .is(journal.commit_ms_p99 / 1e3),
        gauge("journal_size_bytes", &[], "What the journal's directory takes up.").is(journal.bytes_on_disk as f64),
        gauge("journal_free_bytes", &[], "What is left on the journal's file system for the agent.")
            .is(journal.free_bytes as f64),
        gauge(
            "journal_refusing",
            &[],
            "1 if new requests are refused for lack of space or because the disk cannot be written.",
        )
        .is(flag(journal.refusing.is_some())),
    ]
}

const NODE: &[&str] = &["node", "role"];

fn labels(node: &NodeReport) -> Vec<String> {
    vec![node.node.clone(), node.role.as_str().to_owned()]
}

fn of_nodes(snapshot: &Snapshot) -> Vec<Family> {
    let Snapshot { status, counts, .. } = snapshot;
    let nodes = &status.nodes;
    let each = |value: &dyn Fn(&NodeReport) -> f64| -> Vec<(Vec<String>, f64)> {
        nodes.iter().map(|node| (labels(node), value(node))).collect()
    };
    let states = NodeState::ALL.map(|state| {
        let count = nodes.iter().filter(|node| node.state == state).count();
        (vec![state.as_str().to_owned()], count as f64)
    });
    let crashes = |node: &NodeReport| counts.crashes.get(&node.node).copied().unwrap_or(0) as f64;
    vec![
        gauge("nodes", &["state"], "Nodes by their state.").of(states),
        gauge("node_running", NODE, "1 if the node is RUNNING.")
            .of(each(&|node| flag(node.state == NodeState::Running))),
        gauge("node_wanted", NODE, "1 if the node should run: it is in the configuration, and not stopped by command.")
            .of(each(&|node| flag(node.want == "up"))),
        counter("node_starts", NODE, "Starts of the node, over all runs of the agent.")
            .of(each(&|node| node.incarnation as f64)),
        counter("node_crashes", NODE, "Ends of the node that nobody asked for, since the agent's start.")
            .of(each(&crashes)),
        counter("node_output_dropped_bytes", NODE, "Output of the node's process that the disk did not take.")
            .of(each(&|node| node.dropped_bytes as f64)),
    ]
}

fn of_node_processes(snapshot: &Snapshot) -> Vec<Family> {
    let used: Vec<(&NodeReport, &Usage)> =
        snapshot.status.nodes.iter().filter_map(|node| Some((node, snapshot.usage.get(&node.node)?))).collect();
    let each = |value: &dyn Fn(&Usage) -> Option<f64>| -> Vec<(Vec<String>, f64)> {
        used.iter().filter_map(|(node, usage)| Some((labels(node), value(usage)?))).collect()
    };
    vec![
        gauge("node_processes", NODE, "Processes of the node: itself and all that descends from it.")
            .of(each(&|usage| Some(usage.processes as f64))),
        counter("node_cpu_seconds", NODE, "CPU time of the node's processes.")
            .of(each(&|usage| Some(usage.cpu_seconds))),
        gauge("node_resident_memory_bytes", NODE, "Resident memory of the node's processes.")
            .of(each(&|usage| Some(usage.rss_bytes as f64))),
        gauge("node_threads", NODE, "Threads of the node's processes.").of(each(&|usage| Some(usage.threads as f64))),
        gauge("node_open_fds", NODE, "Open descriptors of the node's processes. Absent if the agent may not see them.")
            .of(each(&|usage| usage.descriptors.map(|count| count as f64))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/METRICS.md.
    fn table() -> String {
        let mut table = String::from("| name | type | labels | what it says |\n| --- | --- | --- | --- |\n");
        for Family { name, kind, labels, help, .. } in families(&Snapshot::default()) {
            let (suffix, kind) = match kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Info => ("_info", "info"),
                Kind::Gauge => ("", "gauge"),
                Kind::Histogram => ("", "histogram"),
            };
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            table += &format!("| `{PREFIX}_{name}{suffix}` | {kind} | {} | {help} |\n", labels.join(", "));
        }
        table
    }

    #[test]
    fn metrics_md_shows_this_table() {
        let page = include_str!("../../docs/METRICS.md");
        assert!(page.contains(&table()), "docs/METRICS.md would have to contain:\n{}", table());
    }

    #[test]
    fn names_are_those_of_prometheus_and_each_is_there_once() {
        let found = families(&Snapshot::default());
        let mut names: Vec<&str> = found.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), found.len());
        for Family { name, kind, help, .. } in found {
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()),
                "{name}"
            );
            assert!(!name.ends_with("_total") && help.ends_with('.') && !help.contains(['|', '\n', '\\']), "{name}");
            let has_unit = name.ends_with("_seconds");
            assert!(!matches!(kind, Kind::Histogram) || has_unit, "{name}");
        }
    }
}

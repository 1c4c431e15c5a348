//! What an entry says, for people and programs.

use serde_json::{Value, json};

use super::hex;
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::ProcessId;
use crate::journal::format::entry::{ConfigChange, Entry, Verdict, WantChange};
use crate::journal::format::versions::v2;

/// What an entry says, for its row.
#[derive(Default)]
pub(super) struct Description {
    pub(super) incarnation: Option<Incarnation>,
    pub(super) detail: Value,
    pub(super) summary: String,
    /// Nodes other than the one that the entry is about.
    pub(super) named: Vec<NodeName>,
}

fn format_changed(from: u32, to: u32) -> String {
    if from < v2::FIRST_CHAINED_FORMAT {
        return format!(
            "journal rewritten from format {from} to {to}; the hashes of all entries before are of this day"
        );
    }
    format!("journal brought from format {from} to {to}; the entries before are as they were")
}

fn agent(detail: Value, summary: String) -> Description {
    Description { detail, summary, ..Description::default() }
}

fn of_node(incarnation: Option<Incarnation>, detail: Value, summary: String) -> Description {
    Description { incarnation, detail, summary, named: Vec::new() }
}

/// What an entry says, as JSON and in a sentence.
#[allow(clippy::too_many_lines, reason = "a table: an arm for each kind of entry")]
pub(super) fn describe(entry: Entry) -> Description {
    match entry {
        Entry::AgentStarted { boot_id, version, pid } => agent(
            json!({ "boot_id": boot_id, "version": version, "pid": pid }),
            format!("agent {version} started with pid {pid}"),
        ),
        Entry::AgentStopped { reason } => agent(json!({ "reason": reason }), format!("agent stopped: {reason}")),
        Entry::AgentSettled => agent(json!({}), "agent has been up for a minute".to_owned()),
        Entry::HoldEntered { reason } => agent(json!({ "reason": reason }), format!("hold mode: {reason}")),
        Entry::HoldEnded { by } => agent(json!({ "by": by }), format!("hold mode ended by request {by}")),
        Entry::Salvaged { from, recovered, missing } => {
            let summary = recovery_summary(recovered, &missing);
            agent(json!({ "from": from, "recovered": recovered, "missing": missing }), summary)
        }
        Entry::Imported { from, entries, missing } => {
            let summary = format!("imported from {from}: {}", recovery_summary(entries, &missing));
            agent(json!({ "from": from, "entries": entries, "missing": missing }), summary)
        }
        Entry::FormatChanged { from, to } => agent(json!({ "from": from, "to": to }), format_changed(from, to)),
        Entry::Pruned { upto, hash, trimmed, entries, requests } => agent(
            json!({ "upto": upto, "hash": hex(&hash), "trimmed": trimmed, "entries": entries, "requests": requests }),
            format!("retention: entries up to {upto} removed ({entries}, {requests} requests among them)"),
        ),
        Entry::TroubleSeen { what, message } => agent(json!({ "what": what, "message": message }), message),
        Entry::EventTold { of, lost, outcome } => {
            let summary = format!("event_command was run for entry {of}: {outcome}");
            agent(json!({ "of": of, "lost": lost, "outcome": outcome }), summary)
        }
        Entry::DesiredChanged { by, config, nodes } => {
            let config = match config {
                ConfigChange::Keep => "keep",
                ConfigChange::Set(_) => "set",
                ConfigChange::Forget => "forget",
            };
            let wants: serde_json::Map<String, Value> =
                nodes.iter().map(|(name, want)| (name.to_string(), Value::from(want_name(want)))).collect();
            Description {
                summary: format!("request {by}: configuration {config}, {} nodes changed", nodes.len()),
                detail: json!({ "by": by, "config": config, "nodes": wants }),
                named: nodes.into_iter().map(|(name, _)| name).collect(),
                ..Description::default()
            }
        }
        Entry::ConfigurationKept { set, record } => {
            let id = &record.config.0.id;
            let summary = format!("configuration {id}, set by entry {set}, stays in the history");
            agent(json!({ "set": set, "request": record.request, "configuration": id }), summary)
        }
        Entry::LaunchIntended { node: _, incarnation, by } => {
            let summary = format!("about to start incarnation {incarnation}, wanted by request {by}");
            of_node(Some(incarnation), json!({ "by": by }), summary)
        }
        Entry::NodeStarted { node: _, incarnation, process } => {
            let summary = format!("started with pid {}", process.pid);
            of_node(Some(incarnation), json!({ "process": process_json(&process) }), summary)
        }
        Entry::NodeReady { node: _, incarnation } => of_node(Some(incarnation), json!({}), "ready".to_owned()),
        Entry::NodeExited { node: _, incarnation, cause, asked, process, ran_ms, when: _, verdict } => {
            let (word, sentence) = match &verdict {
                Verdict::Rest => ("rest", String::new()),
                Verdict::RestartAt(_) => ("restart", "; to be restarted".to_owned()),
                Verdict::GiveUp { reason } => ("give_up", format!("; given up: {reason}")),
            };
            let wish = if asked { " as asked" } else { "" };
            let ran = ran_ms.map_or_else(String::new, |ms| format!(" after {:.1} s", ms as f64 / 1000.0));
            let summary = format!("ended{wish}{ran}: {cause}{sentence}");
            let mut detail = json!({
                "cause": cause.to_string(),
                "asked": asked,
                "process": process.as_ref().map(process_json),
                "ran_ms": ran_ms,
                "verdict": word,
            });
            if let (Verdict::GiveUp { reason }, Some(detail)) = (verdict, detail.as_object_mut()) {
                detail.insert("reason".to_owned(), Value::from(reason));
            }
            of_node(Some(incarnation), detail, summary)
        }
        Entry::NodeAdopted { node: _, incarnation, process, spec: _ } => {
            let summary = format!("found running with pid {} and taken over", process.pid);
            of_node(Some(incarnation), json!({ "process": process_json(&process) }), summary)
        }
        Entry::NodeRetried { node: _ } => of_node(None, json!({}), "tried again after it was given up".to_owned()),
        // Rows of their own, or folded into the rows of their requests.
        Entry::RequestReceived { .. }
        | Entry::RequestAnswered { .. }
        | Entry::RequestConflicted { .. }
        | Entry::InputRejected { .. } => Description::default(),
        Entry::RequestBegun { of, attempt } => {
            agent(json!({ "of": of, "attempt": attempt }), format!("attempt {attempt} at request {of}"))
        }
        Entry::RequestWaits { of, .. } => agent(json!({ "of": of }), format!("request {of} waits for its nodes")),
        Entry::PreflightBegun { of, nodes } => Description {
            detail: json!({ "of": of }),
            summary: format!("request {of}: it is looked at whether {} nodes can run", nodes.len()),
            named: nodes,
            ..Description::default()
        },
        Entry::PreflightEnded { of, report } => {
            let found = match report.0.problems.as_slice() {
                [] => "nodes can run".to_owned(),
                [first, ..] => format!("{}: {}", first.nodes.join(", "), first.text),
            };
            agent(json!({ "of": of, "report": report.0 }), format!("request {of}: {found}"))
        }
        Entry::DeadlineAnswered { of, .. } => {
            agent(json!({ "of": of }), format!("request {of} was answered at its deadline"))
        }
        Entry::RequestCompleted { of, .. } => agent(json!({ "of": of }), format!("request {of} has its outcome")),
        Entry::DuplicateSeen { of, .. } => agent(json!({ "of": of }), format!("request {of} came again")),
    }
}

fn want_name(want: &WantChange) -> &'static str {
    match want {
        WantChange::Up { .. } => "up",
        WantChange::Retry => "retry",
        WantChange::Stopped => "stopped",
        WantChange::Gone => "gone",
    }
}

fn process_json(process: &ProcessId) -> Value {
    json!({ "pid": process.pid, "start_time": process.start_time, "boot_id": process.boot_id })
}

/// The result of a salvage or an import, for people.
pub(in crate::journal) fn recovery_summary(recovered: u64, missing: &[(Seq, Seq)]) -> String {
    if missing.is_empty() {
        return format!("all of its {recovered} entries could be read");
    }
    let lost: u64 = missing.iter().map(|(first, last)| last.0.saturating_sub(first.0).saturating_add(1)).sum();
    let mut ranges: Vec<String> = missing
        .iter()
        .take(5)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
        .collect();
    if missing.len() > 5 {
        ranges.push("more".to_owned());
    }
    format!("{recovered} entries were taken over, {lost} are lost ({})", ranges.join(", "))
}

//! What became of each node, from the rows of the journal: starts, crashes by their cause, and how long it did not run.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::audit::EventRow;
use crate::api::stats::NodeStats;

/// Names that are counted; a history can have more than any host has nodes.
const NAMES: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Nodes {
    found: BTreeMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    stats: NodeStats,
    /// Not by command, standby or another configuration.
    is_wanted: bool,
    /// Since when it is wanted and not RUNNING, in milliseconds since 1970.
    missing_since: Option<i64>,
}

impl Nodes {
    pub(super) fn add(&mut self, row: &EventRow) {
        let Some(at) = milliseconds(&row.at) else { return };
        if row.event == "desired_changed" {
            let wants = row.detail.get("nodes").and_then(Value::as_object);
            for (name, want) in wants.into_iter().flatten() {
                let is_wanted = matches!(want.as_str(), Some("up" | "retry"));
                self.with(name, |node| node.want(is_wanted, at));
            }
        } else if let Some(name) = &row.node {
            self.with(name, |node| node.happened(row, at));
        }
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.found.get_mut(name) {
            change(node);
        } else if self.found.len() < NAMES {
            change(self.found.entry(name.to_owned()).or_default());
        }
    }

    /// `newest`: when the newest thing that is told of happened. A node that was missing then is missing until then.
    pub(super) fn finish(self, newest: Option<&str>) -> BTreeMap<String, NodeStats> {
        let newest = newest.and_then(milliseconds);
        let stats = self.found.into_iter().map(|(name, mut node)| {
            if let Some(newest) = newest {
                node.count_until(newest);
            }
            (name, node.stats)
        });
        stats.collect()
    }
}

impl Node {
    fn want(&mut self, is_wanted: bool, at: i64) {
        if is_wanted && !self.is_wanted {
            // It does not run yet, or if it does it says so.
            self.missing_since = Some(at);
        } else if !is_wanted {
            self.count_until(at);
        }
        self.is_wanted = is_wanted;
    }

    fn happened(&mut self, row: &EventRow, at: i64) {
        match row.event.as_str() {
            "node_started" => self.stats.starts += 1,
            "node_adopted" => self.is_wanted = true,
            "node_ready" => self.count_until(at),
            "node_exited" => {
                if row.detail.get("asked") != Some(&Value::Bool(true)) {
                    let cause = row.detail.get("cause").and_then(Value::as_str).unwrap_or_default();
                    // What a start failed of may be said in many ways.
                    let cause = cause.split(':').next().unwrap_or_default();
                    *self.stats.crashes.entry(cause.to_owned()).or_default() += 1;
                }
                if self.is_wanted {
                    self.missing_since.get_or_insert(at);
                }
            }
            _other => {}
        }
    }

    /// If the clock was set back in between, the time would be negative: it is left out.
    fn count_until(&mut self, at: i64) {
        if let Some(since) = self.missing_since.take() {
            self.stats.not_running_ms += u64::try_from(at - since).unwrap_or(0);
        }
    }
}

fn milliseconds(rfc3339: &str) -> Option<i64> {
    Some(rfc3339.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(second: u64, event: &str, node: Option<&str>, detail: Value) -> EventRow {
        let at = format!("2026-12-01T10:00:{second:02}.000000Z");
        let row = json!({"seq": 1, "at": at, "event": event, "node": node, "incarnation": 1, "detail": detail, "summary": ""});
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn starts_crashes_and_the_time_without_it_are_counted() {
        let mut nodes = Nodes::default();
        let want = |second, want: &str| row(second, "desired_changed", None, json!({"nodes": {"w1": want}}));
        let exited = |second, cause: &str, asked: bool| {
            row(second, "node_exited", Some("w1"), json!({"cause": cause, "asked": asked}))
        };
        let plain = |second, event: &str| row(second, event, Some("w1"), json!({}));
        for row in [
            want(0, "up"),
            plain(1, "node_started"),
            plain(2, "node_ready"),
            exited(10, "signal 9", false),
            plain(11, "node_started"),
            plain(13, "node_ready"),
            exited(14, "not started: no such program", false),
            exited(15, "not started: it may not be executed", false),
            plain(18, "node_started"),
            plain(19, "node_ready"),
            // Stopped by command: nobody misses it.
            want(20, "stopped"),
            exited(21, "exit code 0", true),
            want(30, "up"),
            plain(31, "node_started"),
        ] {
            nodes.add(&row);
        }
        let found = nodes.finish(Some("2026-12-01T10:00:33.000000Z"));
        let expected = NodeStats {
            starts: 4,
            crashes: [("signal 9".to_owned(), 1), ("not started".to_owned(), 2)].into(),
            not_running_ms: 2_000 + 3_000 + 5_000 + 3_000,
        };
        assert_eq!(found, BTreeMap::from([("w1".to_owned(), expected)]));
    }
}

//! What `journal stats` tells. The JSON form is a contract: fields are added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All of the journal in figures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct JournalStats {
    /// How many there are, and the numbers of the oldest and the newest; 0 in an empty journal.
    pub entries: u64,
    /// The number of the oldest entry; 0 in an empty journal.
    pub first: u64,
    /// The number of the newest entry; 0 in an empty journal.
    pub last: u64,
    /// The newest entry and its hash, `SEQ:HASH`: to be noted elsewhere for `journal verify --anchor`.
    pub head: Option<String>,
    /// When the oldest and the newest thing that is told of happened: RFC 3339, UTC.
    pub oldest: Option<String>,
    /// When the newest thing that is told of happened: RFC 3339, UTC.
    pub newest: Option<String>,
    /// Requests by state, conflicts and rejected ones included.
    pub states: BTreeMap<String, u64>,
    /// Requests that were answered with a failure.
    pub failed: u64,
    /// Requests that have no outcome yet.
    pub unfinished: u64,
    /// Handlings that a crash ended and the next run began again.
    pub replays: u64,
    /// Requests that came again and were answered from the journal.
    pub duplicates: u64,
    /// Input that was no request; part of the rejected.
    pub malformed: u64,
    /// Rows that cannot be read; `journal verify` says what is wrong.
    pub unreadable: u64,
    /// From receipt to outcome, of completed requests.
    pub latency: Option<Latency>,
    /// By the event's name.
    pub requests: BTreeMap<String, EventStats>,
    /// Requests by the transport they came through.
    pub sources: BTreeMap<String, u64>,
    /// What happened to nodes and to the agent, by the entry's name.
    pub events: BTreeMap<String, u64>,
    /// What became of each node, by its name; of the first 10,000 names if there were more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, NodeStats>,
    /// What the journal's directory takes up.
    pub bytes_on_disk: u64,
    /// Keys and values alone; `None` if damage keeps them from being walked.
    pub bytes_live: Option<u64>,
    /// How long it took to open.
    pub open_ms: f64,
}

/// The requests of one event.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EventStats {
    /// How many there are, whatever became of them.
    pub count: u64,
    /// Those that were answered with a failure, conflicts included.
    pub failed: u64,
    /// From receipt to outcome, of the completed ones; `None` if there are none.
    pub latency: Option<Latency>,
}

/// Milliseconds; percentiles are exact to one percent, and the longest is exact.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the requests took no longer than this.
    pub p50_ms: f64,
    /// 90 % took no longer than this.
    pub p90_ms: f64,
    /// 99 % took no longer than this.
    pub p99_ms: f64,
    /// The longest that any took.
    pub max_ms: f64,
}

/// What became of one node, as far as the journal goes back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeStats {
    /// Processes that were started for it.
    pub starts: u64,
    /// Ends that nobody asked for, by their cause: `signal 9`, `exit code 1`, `not started`.
    pub crashes: BTreeMap<String, u64>,
    /// How long it was wanted and not RUNNING, in milliseconds: starting, crashed, given up, or its host was down.
    pub not_running_ms: u64,
}

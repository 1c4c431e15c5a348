//! The journal as its readers see it: rows, and which of them are wanted.
//!
//! The JSON form of [`RequestRow`] is a contract: `journal dump --format json` prints one object a line.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{Response, Source};
use super::ids::Seq;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Request,
    /// Starts, check-ins, exits, restarts and give-ups of nodes.
    Node,
    /// Both, and the agent's own starts and stops.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    Accepted,
    Handling,
    Completed,
    Conflict,
    Rejected,
    Abandoned,
}

impl RequestState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Handling => "handling",
            Self::Completed => "completed",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Which rows are wanted, and how. Everything unset matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filter {
    pub kind: Kind,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub reqid: Option<String>,
    /// With or without `_request`, with or without `agent_`, without module.
    pub event: Option<String>,
    pub state: Option<RequestState>,
    /// Part of the source, as it is printed.
    pub source: Option<String>,
    /// Only requests with a failed Result, conflicts, rejections, abandoned ones; node rows of unasked exits.
    pub failed: bool,
    /// Rows that concern this node.
    pub node: Option<String>,
    pub from_seq: Option<Seq>,
    pub to_seq: Option<Seq>,
    /// Newest first.
    pub reverse: bool,
    /// As text, where that fits (see [`Page::lines`]): whoever only prints rows need not take them apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_lines: bool,
}

/// Some rows, and where to go on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Page {
    /// Rows before `rows`, each a line of JSON, if [`Filter::as_lines`] asked for that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lines: String,
    pub rows: Vec<Row>,
    /// The entry at which the next page begins; `None` at the end. Pages are bounded in size, not in match count: one
    /// may be empty and yet have a successor.
    pub next: Option<Seq>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    Request(Box<RequestRow>),
    Event(Box<EventRow>),
    Unreadable(Unreadable),
}

impl Row {
    /// The number of its entry.
    pub fn seq(&self) -> Seq {
        match self {
            Self::Request(row) => row.seq,
            Self::Event(row) => row.seq,
            Self::Unreadable(row) => row.seq,
        }
    }

    /// An object in JSON and the end of the line.
    pub fn write_line(&self, out: &mut impl io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }
}

/// A moment and a sender: one duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub at: String,
    pub source: Source,
}

/// One request, with what became of it. Times are RFC 3339, UTC, microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRow {
    pub seq: Seq,
    pub reqid: String,
    pub event: String,
    pub dialect: String,
    pub source: Source,
    pub received_at: String,
    pub state: RequestState,
    pub attempts: u32,
    pub duplicates: u64,
    /// The first 16 and the last 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duplicates_first: Vec<Sighting>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duplicates_last: Vec<Sighting>,
    /// BLAKE3 of event and arguments, in hexadecimal; empty for input that was no request.
    pub digest: String,
    /// The event's arguments.
    pub request: Value,
    pub completed_at: Option<String>,
    pub duration_ms: Option<f64>,
    pub success: Option<bool>,
    pub response: Option<Response>,
    /// BLAKE3 of a response whose body retention has dropped, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Anything else that happened: to a node, or to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    pub seq: Seq,
    pub at: String,
    /// The entry's name in snake case, for example `node_exited`.
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
    /// What else the entry says.
    pub detail: Value,
    /// The same, for a table's last column.
    pub summary: String,
}

/// A place where a record should be and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub seq: Seq,
    pub unreadable: String,
}

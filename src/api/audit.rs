//! The journal as its readers see it: rows, and which of them are wanted.
//!
//! The JSON form of [`RequestRow`] is a contract: `journal dump --format json` prints one object a line.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{Response, Source};
use super::ids::Seq;
use super::time::Timestamp;

/// Which rows a reader of the journal wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Requests, conflicts and rejected input, each a row with its outcome.
    #[default]
    Request,
    /// Starts, check-ins, exits, restarts and give-ups of nodes.
    Node,
    /// Both, and the agent's own starts and stops.
    All,
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestState {
    /// Durable, and not begun.
    Accepted,
    /// Begun; the answer waits for nodes.
    Handling,
    /// It has its outcome, be that a success or a failure.
    Completed,
    /// Not handled: its reqid was another request's (P4).
    Conflict,
    /// Refused: malformed or unknown input, or arguments that cannot be accepted, such as an invalid configuration.
    Rejected,
    /// Answered as failed after three attempts, each ended by a crash (P6).
    Abandoned,
}

impl RequestState {
    /// The word that stands in JSON and that `--state` takes.
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
    /// Requests, nodes, or everything.
    pub kind: Kind,
    /// Nothing before this moment.
    pub since: Option<Timestamp>,
    /// Nothing at or after this moment.
    pub until: Option<Timestamp>,
    /// The whole reqid. No row of a node or of the agent has one.
    pub reqid: Option<String>,
    /// With or without `_request`, with or without `agent_`, without module.
    pub event: Option<String>,
    /// Leaves only rows of requests.
    pub state: Option<RequestState>,
    /// Words of the source, as it is printed: see [`Source::is_named_by`](super::source::Source::is_named_by).
    pub source: Option<String>,
    /// Only requests with a failed Result, conflicts, rejections, abandoned ones; node rows of unasked exits.
    pub failed: bool,
    /// Rows that concern this node.
    pub node: Option<String>,
    /// The first entry that may be a row.
    pub from_seq: Option<Seq>,
    /// The last entry that may be a row.
    pub to_seq: Option<Seq>,
    /// Newest first.
    pub reverse: bool,
    /// As text, where that fits (see [`Page::lines`]): whoever only prints rows need not take them apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_lines: bool,
    /// Where one of several will do, instead of the fields above.
    #[serde(default, skip_serializing_if = "OneOf::is_empty")]
    pub one_of: OneOf,
}

/// Lists of which a row has to have one each; an empty list matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OneOf {
    /// As [`Filter::reqid`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reqids: Vec<String>,
    /// As [`Filter::event`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// As [`Filter::state`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RequestState>,
    /// As [`Filter::source`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// As [`Filter::node`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl OneOf {
    /// No list asks for anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Filter {
    /// Whether an agent of a release that does not know all of it would give other rows than those that are wanted.
    pub fn needs_all(&self) -> bool {
        !self.one_of.is_empty() || self.source.is_some()
    }
}

/// Some rows, and where to go on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Page {
    /// Rows before `rows`, each a line of JSON, if [`Filter::as_lines`] asked for that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lines: String,
    /// In the order that the filter asked for.
    pub rows: Vec<Row>,
    /// The filter was understood as a whole. Releases before this field skip what they do not know of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_exact: bool,
    /// The entry at which the next page begins; `None` at the end. Pages are bounded in size, not in match count: one
    /// may be empty and yet have a successor.
    pub next: Option<Seq>,
}

/// A row, told apart in JSON by its fields alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    /// A request, a conflict, or input that was no request.
    Request(Box<RequestRow>),
    /// Something that happened to a node or to the agent.
    Event(Box<EventRow>),
    /// An entry that is damaged, or of a kind that this release does not know.
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
    /// When it was received: RFC 3339, UTC.
    pub at: String,
    /// Who sent it.
    pub source: Source,
}

/// One request, with what became of it. Times are RFC 3339, UTC, microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRow {
    /// The number of the entry in which the request was received.
    pub seq: Seq,
    /// Empty if the requester gave none.
    pub reqid: String,
    /// The event's name without its module.
    pub event: String,
    /// [`Dialect::as_str`](super::event::Dialect::as_str) of the request; empty for input that was no request.
    pub dialect: String,
    /// Who sent it first.
    pub source: Source,
    /// When it was received, by the wall clock.
    pub received_at: String,
    /// What has become of it by now.
    pub state: RequestState,
    /// Those that a crash ended, and the one that is under way or led to the outcome; 0 if there was none.
    pub attempts: u32,
    /// How often it came again and was not handled.
    pub duplicates: u64,
    /// The first 16 and the last 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duplicates_first: Vec<Sighting>,
    /// Up to 16 of those that came after [`duplicates_first`](Self::duplicates_first), the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duplicates_last: Vec<Sighting>,
    /// BLAKE3 of event and arguments, in hexadecimal; empty for input that was no request.
    pub digest: String,
    /// The event's arguments.
    pub request: Value,
    /// When it had its outcome.
    pub completed_at: Option<String>,
    /// From `received_at` to `completed_at`; 0 if the clock was set back in between.
    pub duration_ms: Option<f64>,
    /// Whether every Result is a success and no named node is missing. `None` without an outcome, or when its body is gone.
    pub success: Option<bool>,
    /// The outcome. `None` before there is one, and when retention has dropped its body.
    pub response: Option<Response>,
    /// BLAKE3 of a response whose body retention has dropped, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_digest: Option<String>,
    /// Why it was not done, for states other than `completed`; also for a completed one that named nodes this host has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When those who asked over Broker or WebSocket were told something because they wait no longer, and what: they get
    /// that for ever. `response` is the outcome, which the control socket gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<String>,
    /// What they were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_response: Option<Response>,
    /// Of a request with a deadline: when each node concerned was where it should be, or would not get there in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<String>,
}

/// Anything else that happened: to a node, or to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// The number of the entry.
    pub seq: Seq,
    /// When it was journaled: RFC 3339, UTC, microseconds.
    pub at: String,
    /// The entry's name in snake case, for example `node_exited`.
    pub event: String,
    /// The node it happened to; `None` for what happened to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Which start of the node it concerns.
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
    /// The number of the entry that should be there.
    pub seq: Seq,
    /// Why it cannot be read.
    pub unreadable: String,
}

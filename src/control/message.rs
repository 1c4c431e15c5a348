//! The frames of the control socket: a length (u32, big endian) and a body in MessagePack with field names.
//!
//! Pure. Promises: nothing is allocated for a length that a peer claims, bodies nest no deeper than [`DEPTH_LIMIT`], and
//! whatever bytes come, the worst is a [`DecodeError`]. A body is a map of one entry: the frame's kind, and its fields.
//! Unknown fields are skipped, so fields with defaults may be added within one [`VERSION`]; unknown kinds are errors.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Notification, Request, Response};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::ids::{ReqId, Seq};
use crate::api::plan::Plan;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;

/// The version of this protocol; a `Hello` with another one is answered with an error.
pub const VERSION: u32 = 1;
/// The longest body from a client: a request of 4 MiB and what is around it, with room to say that one is too large.
pub const CLIENT_FRAME_LIMIT: usize = 6 << 20;
/// The longest body from the agent: a page of the journal that holds the largest request and its response.
pub const SERVER_FRAME_LIMIT: usize = 8 << 20;
/// The largest request, in its canonical form.
pub const REQUEST_LIMIT: usize = 4 << 20;
/// How deep a body may nest. Our own frames stay below 16.
pub const DEPTH_LIMIT: usize = 64;
/// Topic prefixes of one subscription, and the length of each.
pub const TOPICS_LIMIT: usize = 64;
pub const TOPIC_LIMIT: usize = 512;

/// The bytes of a frame's length.
pub const HEADER: usize = 4;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientFrame {
    /// The first frame of every connection.
    Hello {
        version: u32,
        /// Who connects, for the log: a program's name and version.
        client: String,
    },
    /// Answered by `Response`, `Refused` or `Error`. The reqid is checked when the frame is handled, so that a bad one costs
    /// only this call.
    Request {
        call: u64,
        reqid: String,
        dialect: Dialect,
        /// How long the requester waits; earlier releases answered by then. The outcome does not depend on it.
        #[serde(default)]
        timeout_ms: Option<u64>,
        request: Request,
    },
    Status {
        call: u64,
    },
    /// A page of the journal that begins at `cursor`, or at the first row.
    JournalPage {
        call: u64,
        filter: Filter,
        #[serde(default)]
        cursor: Option<Seq>,
    },
    /// `anchor`: a head noted elsewhere, `SEQ:HASH` or `HASH`.
    JournalVerify {
        call: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<String>,
    },
    /// A stretch of the journal as a stream (docs/EXPORT.md), from `cursor` or its beginning on.
    JournalExport {
        call: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<Box<ExportCursor>>,
    },
    JournalStats {
        call: u64,
    },
    /// The settings that the agent runs with.
    Settings {
        call: u64,
    },
    /// Remove the journal's oldest entries, or tell what would go.
    JournalPrune {
        call: u64,
        order: PruneOrder,
    },
    /// Makes the journal's files small if they have outgrown what they hold, or if `force`.
    JournalCompact {
        call: u64,
        force: bool,
    },
    /// What deploying this configuration would do; nothing is journaled.
    Plan {
        call: u64,
        config: Configuration,
        force: bool,
    },
    Logs {
        call: u64,
        node: String,
        query: LogQuery,
    },
    /// Receive, from now on, what is published under any of these topic prefixes; an empty prefix is all of it. Replaces an
    /// earlier subscription of this connection.
    Subscribe {
        call: u64,
        topics: Vec<String>,
    },
    /// This node is ready: a check-in for node programs that have no other way to say so.
    NotifyReady {
        call: u64,
        node: String,
    },
}

/// The kinds of [`ClientFrame`], as they are written.
const CLIENT_KINDS: [&str; 14] = [
    "hello",
    "request",
    "status",
    "journal_page",
    "journal_verify",
    "journal_export",
    "journal_stats",
    "settings",
    "journal_prune",
    "journal_compact",
    "plan",
    "logs",
    "subscribe",
    "notify_ready",
];
/// The kinds of [`ServerFrame`], as they are written.
const SERVER_KINDS: [&str; 16] = [
    "welcome",
    "response",
    "refused",
    "status",
    "page",
    "verified",
    "pruned",
    "exported",
    "stats",
    "settings",
    "compacted",
    "plan",
    "logs",
    "done",
    "published",
    "error",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame {
    Welcome(Welcome),
    Response {
        call: u64,
        response: Response,
        /// When it was decided, if that was before this was asked: an answer to an earlier request with this reqid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replayed: Option<Timestamp>,
    },
    /// Not journaled, and the reqid is not used up: the agent is busy, stopping, or has no space.
    Refused {
        call: u64,
        reason: String,
    },
    Status {
        call: u64,
        report: Box<StatusReport>,
    },
    Page {
        call: u64,
        page: Page,
    },
    Verified {
        call: u64,
        report: VerifyReport,
    },
    Pruned {
        call: u64,
        report: PruneReport,
    },
    Exported {
        call: u64,
        chunk: Box<ExportChunk>,
    },
    Stats {
        call: u64,
        stats: Box<JournalStats>,
    },
    Settings {
        call: u64,
        settings: Vec<SettingReport>,
    },
    Compacted {
        call: u64,
        report: CompactReport,
    },
    Plan {
        call: u64,
        plan: Plan,
    },
    Logs {
        call: u64,
        chunk: LogChunk,
    },
    /// Answers `Subscribe` and `NotifyReady`.
    Done {
        call: u64,
    },
    Published {
        topic: String,
        what: Publication,
    },
    /// With a call: that call failed. Without: the connection is closed after it.
    Error {
        call: Option<u64>,
        code: ErrorCode,
        message: String,
    },
}

impl ServerFrame {
    /// The call that this frame answers.
    pub fn call(&self) -> Option<u64> {
        match self {
            Self::Response { call, .. }
            | Self::Refused { call, .. }
            | Self::Status { call, .. }
            | Self::Page { call, .. }
            | Self::Verified { call, .. }
            | Self::Pruned { call, .. }
            | Self::Exported { call, .. }
            | Self::Stats { call, .. }
            | Self::Settings { call, .. }
            | Self::Compacted { call, .. }
            | Self::Plan { call, .. }
            | Self::Logs { call, .. }
            | Self::Done { call } => Some(*call),
            Self::Error { call, .. } => *call,
            Self::Welcome(_) | Self::Published { .. } => None,
        }
    }
}

/// Who answers, and what a client has to know to wait long enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub version: u32,
    /// The agent's name, which is its instance's.
    pub agent: String,
    /// The release of the agent's binary.
    pub release: String,
    pub pid: u32,
    pub state_dir: String,
    /// Reads are answered within this, and over Broker and WebSocket changes too.
    pub request_timeout_ms: u64,
    /// Requests that wait for nodes to end are answered within this.
    pub stop_timeout_ms: u64,
    /// Requests that wait for nodes to get ready have their outcome within this. 0: an earlier release, which answers them
    /// within `request_timeout_ms`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ready_timeout_ms: u64,
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// Something that went out to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Publication {
    Response(Response),
    Notification(Notification),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame claims more bytes than a frame may have.
    TooLong,
    /// The connection ended inside a frame.
    CutShort,
    /// Not MessagePack, or not the fields of its kind.
    Malformed,
    UnknownVersion,
    UnknownKind,
    /// Something else came before `Hello`, or a second `Hello`.
    OutOfOrder,
    /// The rest of a frame, or the `Hello`, did not come in time.
    TooSlow,
    /// Too many connections.
    Busy,
    /// This call's arguments are not acceptable; nothing was handed to the agent.
    Invalid,
    /// The agent could not do what this call asks.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The name of its file in the node's directory.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A place in a node's output: rotation renames files, so the file is told by its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    pub inode: u64,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    pub stream: Stream,
    /// Go on from here; `None`: the last `lines` lines.
    #[serde(default)]
    pub from: Option<LogPosition>,
    pub lines: u64,
}

/// A stretch of a node's output. Not text: nodes write what they like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Where the next stretch begins.
    pub next: LogPosition,
    /// Nothing lies beyond `next` for now.
    pub end: bool,
    /// Output was rotated away before it could be read.
    pub gap: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the frame claims {length} bytes, {limit} is the most")]
    TooLong { length: u64, limit: usize },
    #[error("the frame is empty")]
    Empty,
    #[error("unknown kind of frame {kind:?}")]
    UnknownKind { kind: String },
    #[error("the frame cannot be read: {reason}")]
    Malformed { reason: String },
    #[error("{bytes} bytes follow the end of the frame's content")]
    Trailing { bytes: usize },
}

impl DecodeError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong { .. } => ErrorCode::TooLong,
            Self::UnknownKind { .. } => ErrorCode::UnknownKind,
            Self::Empty | Self::Malformed { .. } | Self::Trailing { .. } => ErrorCode::Malformed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the frame would have more than {limit} bytes")]
    TooLong { limit: usize },
}

/// How many bytes of body a header announces.
pub fn body_length(header: [u8; HEADER], limit: usize) -> Result<usize, DecodeError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > limit {
        return Err(DecodeError::TooLong { length: length as u64, limit });
    }
    if length == 0 {
        return Err(DecodeError::Empty);
    }
    Ok(length)
}

pub fn encode_client(frame: &ClientFrame) -> Result<Vec<u8>, EncodeError> {
    encode(frame, CLIENT_FRAME_LIMIT)
}

pub fn encode_server(frame: &ServerFrame) -> Result<Vec<u8>, EncodeError> {
    encode(frame, SERVER_FRAME_LIMIT)
}

pub fn decode_client(body: &[u8]) -> Result<ClientFrame, DecodeError> {
    decode(body, CLIENT_FRAME_LIMIT, &CLIENT_KINDS)
}

pub fn decode_server(body: &[u8]) -> Result<ServerFrame, DecodeError> {
    decode(body, SERVER_FRAME_LIMIT, &SERVER_KINDS)
}

/// The size of a request in its canonical form, which [`REQUEST_LIMIT`] bounds.
pub fn request_size(request: &Request) -> usize {
    let mut counter = Bounded { bytes: None, written: 0, limit: usize::MAX };
    request
        .serialize(&mut rmp_serde::Serializer::new(&mut counter).with_struct_map())
        .expect("a request has only types that MessagePack can carry, and counting has no limit");
    counter.written
}

/// A reqid that is worth sending, or why not.
pub fn check_reqid(text: &str) -> Result<ReqId, String> {
    ReqId::new(text).map_err(|error| error.to_string())
}

fn encode<T: Serialize>(frame: &T, limit: usize) -> Result<Vec<u8>, EncodeError> {
    let mut bounded = Bounded { bytes: Some(vec![0; HEADER]), written: 0, limit };
    frame
        .serialize(&mut rmp_serde::Serializer::new(&mut bounded).with_struct_map())
        .map_err(|_| EncodeError::TooLong { limit })?;
    let length = u32::try_from(bounded.written).map_err(|_| EncodeError::TooLong { limit })?;
    let mut bytes = bounded.bytes.unwrap_or_default();
    for (place, byte) in bytes.iter_mut().zip(length.to_be_bytes()) {
        *place = byte;
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(body: &[u8], limit: usize, kinds: &[&str]) -> Result<T, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    if body.len() > limit {
        return Err(DecodeError::TooLong { length: body.len() as u64, limit });
    }
    let mut deserializer = rmp_serde::Deserializer::new(body);
    deserializer.set_max_depth(DEPTH_LIMIT);
    match T::deserialize(&mut deserializer) {
        Ok(frame) => match deserializer.get_ref().len() {
            0 => Ok(frame),
            bytes => Err(DecodeError::Trailing { bytes }),
        },
        Err(error) => Err(match kind_of(body) {
            Some(kind) if !kinds.contains(&kind.as_str()) => DecodeError::UnknownKind { kind: shorten(&kind) },
            Some(_) | None => DecodeError::Malformed { reason: shorten(&error.to_string()) },
        }),
    }
}

/// The kind that a body names, if it is a frame at all.
fn kind_of(body: &[u8]) -> Option<String> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    deserializer.set_max_depth(DEPTH_LIMIT);
    let map = std::collections::BTreeMap::<String, IgnoredAny>::deserialize(&mut deserializer).ok()?;
    if map.len() > 1 {
        return None;
    }
    map.into_keys().next()
}

/// Error texts may quote what a peer sent: bounded, so that they fit into an answer and a journal entry.
fn shorten(text: &str) -> String {
    const MOST: usize = 512;
    if text.len() <= MOST {
        return text.to_owned();
    }
    let cut = (0..=MOST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..cut).unwrap_or_default())
}

/// Takes bytes, or only counts them, up to a limit.
#[derive(Debug)]
struct Bounded {
    bytes: Option<Vec<u8>>,
    written: usize,
    limit: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > self.limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        if let Some(into) = &mut self.bytes {
            into.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

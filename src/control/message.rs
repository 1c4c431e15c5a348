//! The frames of the control socket: a length (u32, big endian) and a body in MessagePack with field names.
//!
//! Pure. Promises: nothing is allocated for a length that a peer claims, bodies nest no deeper than [`DEPTH_LIMIT`],
//! and whatever bytes arrive, the worst result is a [`DecodeError`]. A body is a map of one entry: the frame's kind,
//! and its fields. Unknown fields are skipped, so fields with defaults may be added within one [`VERSION`]; unknown
//! kinds are errors.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Notification, Request, Response};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::figures::Figures;
use crate::api::history::PastReport;
use crate::api::ids::{ReqId, Seq};
use crate::api::plan::Plan;
use crate::api::preflight::HostReport;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;

/// The version of this protocol; a `Hello` with another one is answered with an error.
pub const VERSION: u32 = 1;
/// The longest body from a client: a request of 4 MiB with its envelope, and room to report that a request is too
/// large.
pub const CLIENT_FRAME_LIMIT: usize = 6 << 20;
/// The longest body from the agent: a page of the journal that holds the largest request and its response.
pub const SERVER_FRAME_LIMIT: usize = 8 << 20;
/// How deep a body may nest. Our own frames stay below 16.
pub const DEPTH_LIMIT: usize = 64;
/// The most topic prefixes in one subscription.
pub const TOPICS_LIMIT: usize = 64;
/// The longest topic prefix, in bytes.
pub const TOPIC_LIMIT: usize = 512;

/// The bytes of a frame's length.
pub const HEADER: usize = 4;

/// What a client sends. `call` is a number of its choice that the answer repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientFrame {
    /// The first frame of every connection.
    Hello {
        /// The protocol that the client speaks, [`VERSION`].
        version: u32,
        /// The client program's name and version, for the log.
        client: String,
    },
    /// Answered by `Response`, `Refused` or `Error`. The reqid is checked when the frame is handled, so that a bad one
    /// costs only this call.
    Request {
        /// Comes back in the answer.
        call: u64,
        /// The request's id; empty if it has none.
        reqid: String,
        /// The dialect in which the request is journaled.
        dialect: Dialect,
        /// How long the requester waits; earlier releases answered within this. The outcome does not depend on it.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// The request itself.
        request: Request,
    },
    /// The state of the agent, its journal and its nodes.
    Status {
        /// Comes back in the answer.
        call: u64,
    },
    /// What each node uses and captures.
    Figures {
        /// Comes back in the answer.
        call: u64,
    },
    /// A page of the journal that begins at `cursor`, or at the first row.
    JournalPage {
        /// Comes back in the answer.
        call: u64,
        /// Which rows are wanted.
        filter: Filter,
        /// [`Page::next`] of the page before.
        #[serde(default)]
        cursor: Option<Seq>,
    },
    /// `anchor`: a head noted elsewhere, `SEQ:HASH` or `HASH`.
    JournalVerify {
        /// Comes back in the answer.
        call: u64,
        /// `None`: only what the journal itself proves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<String>,
    },
    /// A chunk of the journal as a stream (docs/EXPORT.md), from `cursor` or from the beginning.
    JournalExport {
        /// Comes back in the answer.
        call: u64,
        /// [`ExportChunk::cursor`] of the chunk before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<Box<ExportCursor>>,
    },
    /// Statistics of the journal.
    JournalStats {
        /// Comes back in the answer.
        call: u64,
    },
    /// The settings that the agent runs with.
    Settings {
        /// Comes back in the answer.
        call: u64,
    },
    /// Removes the journal's oldest entries, or reports what would be removed.
    JournalPrune {
        /// Comes back in the answer.
        call: u64,
        /// What to remove.
        order: PruneOrder,
    },
    /// Compacts the journal's files if they have outgrown their contents, or if `force`.
    JournalCompact {
        /// Comes back in the answer.
        call: u64,
        /// Compact even if it is not needed.
        force: bool,
    },
    /// What deploying this configuration would do; nothing is journaled.
    Plan {
        /// Comes back in the answer.
        call: u64,
        /// As in a deploy.
        config: Configuration,
        /// As in a deploy.
        force: bool,
    },
    /// Whether the nodes of this configuration can run on this host; nothing is journaled, and no node is touched.
    ConfigCheck {
        /// Comes back in the answer.
        call: u64,
        /// As in a deploy.
        config: Configuration,
    },
    /// The configurations that were to run on this host.
    ConfigHistory {
        /// Comes back in the answer.
        call: u64,
    },
    /// One of them.
    ConfigShow {
        /// Comes back in the answer.
        call: u64,
        /// `@0` is the running one, `@-1` the one before; anything else is an id.
        which: String,
    },
    /// A chunk of a node's output.
    Logs {
        /// Comes back in the answer.
        call: u64,
        /// The node's name.
        node: String,
        /// Which chunk.
        query: LogQuery,
    },
    /// Receive, from now on, what is published under any of these topic prefixes; an empty prefix matches everything.
    /// Replaces an earlier subscription of this connection.
    Subscribe {
        /// Comes back in the answer.
        call: u64,
        /// At most [`TOPICS_LIMIT`] of at most [`TOPIC_LIMIT`] bytes each.
        topics: Vec<String>,
    },
    /// This node is ready: a check-in for node programs that have no other way to report it.
    NotifyReady {
        /// Comes back in the answer.
        call: u64,
        /// The node's name.
        node: String,
    },
}

/// The kinds of [`ClientFrame`], as encoded.
const CLIENT_KINDS: [&str; 18] = [
    "hello",
    "request",
    "status",
    "figures",
    "journal_page",
    "journal_verify",
    "journal_export",
    "journal_stats",
    "settings",
    "journal_prune",
    "journal_compact",
    "plan",
    "config_check",
    "config_history",
    "config_show",
    "logs",
    "subscribe",
    "notify_ready",
];
/// The kinds of [`ServerFrame`], as encoded.
const SERVER_KINDS: [&str; 20] = [
    "welcome",
    "response",
    "refused",
    "status",
    "figures",
    "page",
    "verified",
    "pruned",
    "exported",
    "stats",
    "settings",
    "compacted",
    "plan",
    "config_checked",
    "config_history",
    "config_shown",
    "logs",
    "done",
    "published",
    "error",
];

/// What the agent sends. `call` is the client's number of the call that this answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame {
    /// Answers `Hello`.
    Welcome(Welcome),
    /// The outcome of a request.
    Response {
        /// The client's number for the request.
        call: u64,
        /// As it is stored.
        response: Response,
        /// When the response was decided, if that was before the request came: it answers an earlier request with this
        /// reqid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replayed: Option<Timestamp>,
    },
    /// Not journaled, and the reqid is not used up: the agent is busy, stopping, or has no space.
    Refused {
        /// The client's number for the request.
        call: u64,
        /// Why, and what to do.
        reason: String,
    },
    /// Answers [`ClientFrame::Status`].
    Status {
        /// The client's number for the call.
        call: u64,
        /// As of now.
        report: Box<StatusReport>,
    },
    /// Answers [`ClientFrame::Figures`].
    Figures {
        /// The client's number for the call.
        call: u64,
        /// As of now.
        figures: Box<Figures>,
    },
    /// Answers [`ClientFrame::JournalPage`].
    Page {
        /// The client's number for the call.
        call: u64,
        /// Rows, and where the next page begins.
        page: Page,
    },
    /// Answers [`ClientFrame::JournalVerify`].
    Verified {
        /// The client's number for the call.
        call: u64,
        /// What was found, problems included.
        report: VerifyReport,
    },
    /// Answers [`ClientFrame::JournalPrune`].
    Pruned {
        /// The client's number for the call.
        call: u64,
        /// What was removed, or would be.
        report: PruneReport,
    },
    /// Answers [`ClientFrame::JournalExport`].
    Exported {
        /// The client's number for the call.
        call: u64,
        /// Bytes, and where the next chunk begins.
        chunk: Box<ExportChunk>,
    },
    /// Answers [`ClientFrame::JournalStats`].
    Stats {
        /// The client's number for the call.
        call: u64,
        /// As of now.
        stats: Box<JournalStats>,
    },
    /// Answers [`ClientFrame::Settings`].
    Settings {
        /// The client's number for the call.
        call: u64,
        /// One for each setting, defaults included.
        settings: Vec<SettingReport>,
    },
    /// Answers [`ClientFrame::JournalCompact`].
    Compacted {
        /// The client's number for the call.
        call: u64,
        /// The result.
        report: CompactReport,
    },
    /// Answers [`ClientFrame::Plan`].
    Plan {
        /// The client's number for the call.
        call: u64,
        /// What would happen to each node.
        plan: Plan,
    },
    /// Answers [`ClientFrame::ConfigCheck`].
    ConfigChecked {
        /// The client's number for the call.
        call: u64,
        /// What was found.
        report: HostReport,
    },
    /// Answers [`ClientFrame::ConfigHistory`].
    ConfigHistory {
        /// The client's number for the call.
        call: u64,
        /// Newest first.
        configurations: Vec<PastReport>,
    },
    /// Answers [`ClientFrame::ConfigShow`].
    ConfigShown {
        /// The client's number for the call.
        call: u64,
        /// Whose and when it was.
        about: Box<PastReport>,
        /// As it was to run.
        configuration: Configuration,
    },
    /// Answers [`ClientFrame::Logs`].
    Logs {
        /// The client's number for the call.
        call: u64,
        /// A chunk of output, and where the next one begins.
        chunk: LogChunk,
    },
    /// Answers `Subscribe` and `NotifyReady`.
    Done {
        /// The client's number for the call.
        call: u64,
    },
    /// Something that was published on a topic that this connection subscribes to.
    Published {
        /// The whole topic.
        topic: String,
        /// What was published.
        what: Publication,
    },
    /// With a call: that call failed. Without: the connection is closed after this frame.
    Error {
        /// `None`: the connection failed, not a call.
        call: Option<u64>,
        /// For programs.
        code: ErrorCode,
        /// For people: what is wrong, and what to do.
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
            | Self::Figures { call, .. }
            | Self::Page { call, .. }
            | Self::Verified { call, .. }
            | Self::Pruned { call, .. }
            | Self::Exported { call, .. }
            | Self::Stats { call, .. }
            | Self::Settings { call, .. }
            | Self::Compacted { call, .. }
            | Self::Plan { call, .. }
            | Self::ConfigChecked { call, .. }
            | Self::ConfigHistory { call, .. }
            | Self::ConfigShown { call, .. }
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
    /// The protocol that the agent speaks.
    pub version: u32,
    /// The agent's name, which is also its instance's.
    pub agent: String,
    /// The release of the agent's binary.
    pub release: String,
    /// The agent's process id.
    pub pid: u32,
    /// The path of its state directory.
    pub state_dir: String,
    /// The agent answers reads within this time, and changes over Broker and WebSocket as well.
    pub request_timeout_ms: u64,
    /// The agent answers requests that wait for nodes to end within this time.
    pub stop_timeout_ms: u64,
    /// Requests that wait for nodes to get ready have their outcome within this time. 0: an earlier release, which
    /// answers them within `request_timeout_ms`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ready_timeout_ms: u64,
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// Something that was published on a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Publication {
    /// The response to a request that no connection waits for any more.
    Response(Response),
    /// A notification of the agent.
    Notification(Notification),
}

/// What went wrong, for programs to distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame claims more bytes than a frame may have.
    TooLong,
    /// The connection ended inside a frame.
    CutShort,
    /// Not MessagePack, or not the fields of its kind.
    Malformed,
    /// `Hello` names a version other than [`VERSION`].
    UnknownVersion,
    /// A frame of a kind that this release does not know.
    UnknownKind,
    /// Another frame came before `Hello`, or a second `Hello` came.
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

/// One of a node's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
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

/// A position in a node's output: rotation renames files, so the inode identifies the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Which file, whatever its current name.
    pub inode: u64,
    /// Bytes from the beginning of that file.
    pub offset: u64,
}

/// Which chunk of a node's output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Which of the two streams.
    pub stream: Stream,
    /// Continue from here; `None`: the last `lines` lines.
    #[serde(default)]
    pub from: Option<LogPosition>,
    /// How many of the last lines, if `from` does not say where to begin.
    pub lines: u64,
}

/// A chunk of a node's output. Not necessarily text: nodes write what they like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// The bytes as written.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Where the next chunk begins.
    pub next: LogPosition,
    /// There is nothing beyond `next` for now.
    pub end: bool,
    /// Output was rotated away before it could be read.
    pub gap: bool,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Refused before anything is allocated for it.
    #[error("the frame claims {length} bytes, {limit} is the most")]
    TooLong {
        /// What the header claims.
        length: u64,
        /// The most for this direction.
        limit: usize,
    },
    /// Its length is 0.
    #[error("the frame is empty")]
    Empty,
    /// It names a kind that this release does not know.
    #[error("unknown kind of frame {kind:?}")]
    UnknownKind {
        /// The name, shortened if it is long.
        kind: String,
    },
    /// Not MessagePack, nested too deeply, or not the fields of its kind.
    #[error("the frame cannot be read: {reason}")]
    Malformed {
        /// What the decoder says.
        reason: String,
    },
    /// More bytes follow than the frame needs.
    #[error("{bytes} bytes follow the end of the frame's content")]
    Trailing {
        /// How many bytes follow.
        bytes: usize,
    },
}

impl DecodeError {
    /// The error code for a peer that sent such a frame.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong { .. } => ErrorCode::TooLong,
            Self::UnknownKind { .. } => ErrorCode::UnknownKind,
            Self::Empty | Self::Malformed { .. } | Self::Trailing { .. } => ErrorCode::Malformed,
        }
    }
}

/// Why a frame cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than the other side accepts.
    #[error("the frame would have more than {limit} bytes")]
    TooLong {
        /// The most for this direction.
        limit: usize,
    },
}

/// The length of the body that a header announces.
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

/// The frame with its header, at most [`CLIENT_FRAME_LIMIT`] bytes of body.
pub fn encode_client(frame: &ClientFrame) -> Result<Vec<u8>, EncodeError> {
    encode(frame, CLIENT_FRAME_LIMIT)
}

/// The frame with its header, at most [`SERVER_FRAME_LIMIT`] bytes of body.
pub fn encode_server(frame: &ServerFrame) -> Result<Vec<u8>, EncodeError> {
    encode(frame, SERVER_FRAME_LIMIT)
}

/// Reads a body, without the header.
pub fn decode_client(body: &[u8]) -> Result<ClientFrame, DecodeError> {
    decode(body, CLIENT_FRAME_LIMIT, &CLIENT_KINDS)
}

/// Reads a body, without the header.
pub fn decode_server(body: &[u8]) -> Result<ServerFrame, DecodeError> {
    decode(body, SERVER_FRAME_LIMIT, &SERVER_KINDS)
}

/// Parses a reqid, or says why it is not acceptable.
pub fn check_reqid(text: &str) -> Result<ReqId, String> {
    ReqId::new(text).map_err(|error| error.to_string())
}

fn encode<T: Serialize>(frame: &T, limit: usize) -> Result<Vec<u8>, EncodeError> {
    let mut bounded = Bounded { bytes: vec![0; HEADER], written: 0, limit };
    frame
        .serialize(&mut rmp_serde::Serializer::new(&mut bounded).with_struct_map())
        .map_err(|_| EncodeError::TooLong { limit })?;
    let length = u32::try_from(bounded.written).map_err(|_| EncodeError::TooLong { limit })?;
    let mut bytes = bounded.bytes;
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

/// Error texts may quote what a peer sent: shortened, so that they fit into an answer and a journal entry.
fn shorten(text: &str) -> String {
    const MOST: usize = 512;
    if text.len() <= MOST {
        return text.to_owned();
    }
    let cut = (0..=MOST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..cut).unwrap_or_default())
}

/// Accepts bytes up to a limit.
#[derive(Debug)]
struct Bounded {
    bytes: Vec<u8>,
    written: usize,
    limit: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > self.limit {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

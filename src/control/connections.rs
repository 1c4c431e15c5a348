//! The connections of the control socket: what they share, and how the agent's effects reach them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::message::{self, ErrorCode, Publication, SERVER_FRAME_LIMIT, ServerFrame, Welcome};
use crate::api::event::{Response, Route};
use crate::api::time::Timestamp;
use crate::identify::Gate;
use crate::transport::outgoing::{Capacity, Names, Outgoing};

/// The most that is queued for one slow reader: more frames than the responses and notifications that a deploy of 4096
/// nodes causes at once, and the bytes of two of the largest frames.
pub(super) const QUEUE: Capacity = Capacity { messages: 8192, kib: (SERVER_FRAME_LIMIT as u32 / 1024 + 1) * 2 };
pub(super) const NAMES: Names = Names { transport: "control", other: "peer" };

/// Timeouts of peers. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From accepting the connection to the complete `Hello`.
    pub hello: Duration,
    /// From the first byte of a frame to its last.
    pub frame: Duration,
    /// For one queued frame to be written.
    pub write: Duration,
    /// For everything that is queued to be written when the connection ends.
    pub flush: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
            flush: Duration::from_secs(2),
        }
    }
}

/// A frame's bytes, shared by all its recipients.
pub(super) type Frame = Arc<[u8]>;

/// An open connection.
pub(super) struct Entry {
    pub outgoing: Outgoing<Frame>,
    /// The topic prefixes that it subscribes to.
    pub topics: Vec<String>,
}

impl Entry {
    /// Queues a frame, or cuts the connection if its peer has left too much unread.
    fn offer(&self, frame: &Frame, route: Option<Route>) -> bool {
        self.outgoing.offer(Arc::clone(frame), frame.len(), route)
    }
}

/// What all connections share.
pub(super) struct Connections {
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// Numbers connections over all transports.
    pub ids: Arc<AtomicU64>,
    /// The budget for large frames that are being received.
    pub receiving: Semaphore,
    pub timeouts: Timeouts,
    pub welcome: Welcome,
    pub gate: Gate,
}

impl Connections {
    pub fn new(ids: Arc<AtomicU64>, receiving: Semaphore, timeouts: Timeouts, welcome: Welcome, gate: Gate) -> Self {
        Self { entries: Mutex::new(BTreeMap::new()), ids, receiving, timeouts, welcome, gate }
    }

    pub fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        // The map is consistent between any two operations, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the agent's effects reach connections. Nothing here waits; booleans and counts say who took a frame, not who
/// read it.
#[derive(Clone)]
pub struct Handle {
    pub(super) connections: Arc<Connections>,
}

impl Handle {
    /// Sends a response to the requester, if its connection is still open. `replayed`: when the response was decided,
    /// if that was before the request came.
    pub fn respond(&self, route: Route, response: &Response, replayed: Option<Timestamp>) -> bool {
        let frame = ServerFrame::Response { call: route.call, response: response.clone(), replayed };
        self.send(route.connection, &frame, Some(route))
    }

    /// Tells the requester that its request was not accepted.
    pub fn refuse(&self, route: Route, reason: &str) -> bool {
        self.send(route.connection, &ServerFrame::Refused { call: route.call, reason: reason.to_owned() }, None)
    }

    /// Sends a publication to every connection that subscribes to `topic`; returns how many took it.
    pub fn publish(&self, topic: &str, what: &Publication) -> usize {
        let entries = self.connections.entries();
        let mut peers = entries.values().filter(|peer| matches(&peer.topics, topic)).peekable();
        if peers.peek().is_none() {
            return 0;
        }
        let frame = ServerFrame::Published { topic: topic.to_owned(), what: what.clone() };
        let Some(bytes) = encode(&frame) else { return 0 };
        peers.filter(|peer| peer.offer(&bytes, None)).count()
    }

    /// How many connections are subscribed to `topic`.
    pub fn subscribers(&self, topic: &str) -> usize {
        self.connections.entries().values().filter(|peer| matches(&peer.topics, topic)).count()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.connections.entries().len()
    }

    fn send(&self, connection: u64, frame: &ServerFrame, route: Option<Route>) -> bool {
        let entries = self.connections.entries();
        let Some(peer) = entries.get(&connection) else { return false };
        let Some(bytes) = encode(frame) else { return false };
        peer.offer(&bytes, route)
    }
}

fn matches(prefixes: &[String], topic: &str) -> bool {
    prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()))
}

/// The bytes of a frame. A frame that is too long is replaced by an error that says so.
pub(super) fn encode(frame: &ServerFrame) -> Option<Arc<[u8]>> {
    match message::encode_server(frame) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            let call = frame.call();
            tracing::error!(?call, %error, "an answer does not fit into a control frame");
            let instead = ServerFrame::Error { call, code: ErrorCode::Failed, message: error.to_string() };
            call.and_then(|_| message::encode_server(&instead).ok()).map(Into::into)
        }
    }
}

//! What all connections share: the hub, budgets and timeouts, and how a client is turned away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::broker::json::{self, ErrorCode};
use crate::dialect::event::Event;
use crate::hub::{self, Hub};
use crate::identify::Gate;
use crate::telemetry::LogThrottle;
use crate::tls;

/// More than the controllers and tools of one agent; each costs a task and two small buffers.
pub(super) const CONNECTIONS_LIMIT: usize = 256;

/// Timeouts of clients. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From connecting to the whole subscription.
    pub hello: Duration,
    /// From the first byte of a message to its last.
    pub message: Duration,
    /// For one queued message to be taken.
    pub write: Duration,
    /// For all that is queued to be taken when the connection ends.
    pub flush: Duration,
    /// Between pings. A client that has sent nothing from one to the next but one is gone.
    pub ping: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            message: Duration::from_secs(30),
            write: Duration::from_secs(30),
            flush: Duration::from_secs(2),
            ping: Duration::from_secs(30),
        }
    }
}

/// Zeek's JSON form of Broker's data.
pub struct Json;

impl hub::Wire for Json {
    const NAME: &'static str = "WebSocket";
    const OTHER: &'static str = "client";
    type Message = Utf8Bytes;

    fn event(&self, topic: &str, event: Event) -> Result<Utf8Bytes, String> {
        json::write_data_message(topic, &event.into_data()).map(Into::into).map_err(|error| error.to_string())
    }

    fn error(&self, code: ErrorCode, context: &str) -> Option<Utf8Bytes> {
        Some(json::write_error(code, context).into())
    }

    fn size(message: &Utf8Bytes) -> usize {
        message.len()
    }
}

/// What all connections share.
pub(super) struct Shared {
    pub hub: Hub<Json>,
    pub budget: Arc<Semaphore>,
    pub timeouts: Timeouts,
    pub tls: Option<tls::Context>,
    pub gate: Gate,
    /// Everybody is let in.
    pub is_open: bool,
}

/// Tells a client in HTTP that there is no place for it. One that begins with TLS would not understand that.
pub(super) fn turn_away(tcp: &TcpStream, is_tls: bool, turned_away: &mut LogThrottle) {
    if turned_away.should_log(Instant::now()) {
        tracing::warn!("WebSocket connection turned away: {CONNECTIONS_LIMIT} are open, which is the most");
    }
    if is_tls {
        return;
    }
    // A new socket's buffer takes a short answer at once; a client that is already gone misses nothing. Not through the
    // runtime, which would first have to hear from the kernel that the socket can be written.
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let _ = rustix::net::send(tcp, answer, SendFlags::NOSIGNAL);
}

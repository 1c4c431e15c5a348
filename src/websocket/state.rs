//! What all connections of the WebSocket server share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::broker::json::{self, ErrorCode};
use crate::dialect::event::Event;
use crate::hub::{self, Hub};
use crate::tls;
use crate::transport::admission::Admission;

/// Timeouts of clients. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From connecting to the whole subscription.
    pub hello: Duration,
    /// From the first byte of a message to its last.
    pub message: Duration,
    /// For one queued message to be written.
    pub write: Duration,
    /// For everything that is queued to be written when the connection ends.
    pub flush: Duration,
    /// Between pings. A client that sends nothing between two pings is considered gone.
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

/// Zeek's JSON format of Broker's data.
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
pub(super) struct ServerState {
    pub hub: Hub<Json>,
    pub budget: Arc<Semaphore>,
    pub timeouts: Timeouts,
    pub tls: Option<tls::Context>,
    pub admission: Admission,
}

/// How the agent's effects reach connections.
pub type Handle = Hub<Json>;

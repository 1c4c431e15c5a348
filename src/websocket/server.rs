//! The agent as a WebSocket server: what Zeek's own servers do at this path, for the topics of one agent.
//!
//! Each connection is one task with a bounded queue of what it is to be sent. A client's first message are the prefixes
//! of the topics it wants, compared byte for byte; it is answered with an ack. After that it publishes events, and gets
//! what the agent publishes. Nothing is passed on from client to client: this is an agent, not a broker.
//!
//! What is sent to whom, and what an event leads to, is the [`hub`]'s affair.
//!
//! What a client does wrong costs its own connection at most. One that does not read is cut when its queue is full, so the
//! agent never waits for anybody. Memory is bounded by the number of connections, by each queue's bytes, and by one budget
//! for all large messages that are being received.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Client;
use super::{PATH, metered};
use crate::api::event::Dialect;
use crate::api::ids::InstanceName;
use crate::broker::json::{self, ErrorCode};
use crate::dialect::event::Event;
use crate::hub::{self, Agent, Hub};
use crate::identify::Gate;
use crate::telemetry::LogThrottle;
use crate::tls;

/// More than the controllers and tools of one agent; each costs a task and two small buffers.
const CONNECTIONS_LIMIT: usize = 256;
/// Bytes of large messages being received by all connections.
const RECEIVE_BYTES: usize = 64 << 20;
/// The least between log lines about connections that are turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);

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

#[derive(Debug, Clone)]
pub struct Options {
    /// The first of them that can be listened at is taken.
    pub addresses: Vec<SocketAddr>,
    /// The dialects of what the agent says unasked.
    pub notify: Vec<Dialect>,
    /// A controller is configured, which this agent dials.
    pub connecting: bool,
    pub timeouts: Timeouts,
    /// `None`: plain TCP.
    pub tls: Option<tls::Context>,
    /// Everybody who reaches it is let in.
    pub insecure: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot serve WebSocket clients at {address}; free the port, or give another --websocket")]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
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

/// How the agent's effects reach connections.
pub type Handle = Hub<Json>;

/// A bound listener; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
}

impl Server {
    /// `ids` numbers connections over all transports; `endpoint` is the agent's for this run.
    pub fn bind(
        options: &Options,
        ids: Arc<AtomicU64>,
        instance: &InstanceName,
        endpoint: String,
        gate: Gate,
    ) -> Result<(Self, Handle), BindError> {
        let failed = |source| {
            let addresses: Vec<String> = options.addresses.iter().map(ToString::to_string).collect();
            BindError { address: addresses.join(" or "), source }
        };
        let listener = std::net::TcpListener::bind(options.addresses.as_slice()).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let hub = Hub::new(
            Json,
            ids,
            hub::Options {
                instance: instance.clone(),
                endpoint,
                notify: options.notify.clone(),
                connecting: options.connecting,
                connections: CONNECTIONS_LIMIT,
                unsubscribed: CONNECTIONS_LIMIT,
            },
        );
        let budget = metered::budget(RECEIVE_BYTES);
        let shared = Arc::new(Shared {
            hub: hub.clone(),
            budget,
            timeouts: options.timeouts,
            tls: options.tls.clone(),
            gate,
            is_open: options.insecure,
        });
        Ok((Self { listener, shared }, hub))
    }

    /// Serves until `stop`; then takes no more, gives clients what is queued for them, and returns when the last is gone.
    pub async fn run<A: Agent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, shared } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let scheme = if shared.tls.is_some() { "wss" } else { "ws" };
        tracing::info!("WebSocket clients are served at {scheme}://{}{PATH}", listener.local_addr()?);
        let tracker = TaskTracker::new();
        let mut turned_away = LogThrottle::new(TURNED_AWAY_EVERY);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                () = turned_away.due() => {
                    say_how_many(&mut turned_away);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    if let Some(client) = Client::register(&shared, &agent, &tcp, peer, &mut turned_away) {
                        tracker.spawn(client.serve(tcp, stop.clone()));
                    }
                }
                Err(error) => {
                    // Out of descriptors or memory. The pending connection stays pending, so pause instead of spinning.
                    tracing::error!(%error, "cannot accept WebSocket connections; trying again in 100 ms");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    }
                }
            }
        }
        drop(listener);
        say_how_many(&mut turned_away);
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
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

fn say_how_many(turned_away: &mut LogThrottle) {
    if let Some(more) = turned_away.take_suppressed(Instant::now()) {
        tracing::warn!(
            "{more} more WebSocket connections were turned away: the most that may be open is {CONNECTIONS_LIMIT}"
        );
    }
}

#[cfg(test)]
mod tests;

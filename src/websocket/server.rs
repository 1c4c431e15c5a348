//! The agent as a WebSocket server: what Zeek's own servers do at this path, for the topics of one agent.
//!
//! Each connection is one task with a bounded queue of outgoing messages. A client's first message is the list of topic
//! prefixes it subscribes to, compared byte for byte; it is answered with an ack. After that it publishes events, and
//! receives what the agent publishes. Nothing is forwarded between clients: this is an agent, not a broker.
//!
//! The [`hub`] decides what is sent to whom, and what an event leads to.
//!
//! A client's mistake costs at most its own connection. A client that does not read is cut when its queue is full, so
//! the agent never waits for anybody. Memory is bounded by the number of connections, by each queue's bytes, and by one
//! budget for all large messages that are being received.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::limits::{CONNECTIONS_LIMIT, RECEIVE_BYTES};
use super::state::{Handle, Json, ServerState, Timeouts};
use super::{PATH, metered};
use crate::api::event::Dialect;
use crate::api::ids::InstanceName;
use crate::hub::{self, Direction, Hub, Wire};
use crate::identify::Gate;
use crate::tls;
use crate::transport::accept::{Accepted, accept, send_at_once};
use crate::transport::admission::{Admission, Remote};
use crate::transport::{Agent, tcp};

/// The name of this transport in the journal.
const TRANSPORT: &str = "websocket";
/// How a client of another host could be identified.
const ADVICE: &str = "websocket_client_ca makes its certificate known, websocket_insecure lets everybody in";
/// The answer to a client that is not served.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[derive(Debug, Clone)]
pub struct Options {
    /// The first one that can be bound is used.
    pub addresses: Vec<SocketAddr>,
    /// The dialects of the agent's notifications.
    pub notify: Vec<Dialect>,
    /// A controller is configured that this agent dials.
    pub connecting: bool,
    pub timeouts: Timeouts,
    /// `None`: plain TCP.
    pub tls: Option<tls::Context>,
    /// Everybody who can connect is admitted.
    pub insecure: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot serve WebSocket clients at {address}; free the port, or give another --websocket")]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
}

/// A bound listener; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::net::TcpListener,
    state: Arc<ServerState>,
}

impl Server {
    /// `ids` numbers connections over all transports; `endpoint` identifies this run of the agent.
    pub fn bind(
        options: &Options,
        ids: Arc<AtomicU64>,
        instance: &InstanceName,
        endpoint: String,
        gate: Gate,
    ) -> Result<(Self, Handle), BindError> {
        let listener = tcp::listen(&options.addresses)
            .map_err(|source| BindError { address: tcp::one_of(&options.addresses), source })?;
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
        let state = Arc::new(ServerState {
            hub: hub.clone(),
            budget,
            timeouts: options.timeouts,
            tls: options.tls.clone(),
            admission: Admission { gate, protocol: Json::NAME, is_open: options.insecure, advice: ADVICE },
        });
        Ok((Self { listener, state }, hub))
    }

    /// Serves until `stop`; then accepts no more, sends clients what is queued for them, and returns when the last is
    /// gone.
    pub async fn run<A: Agent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, state } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let scheme = if state.tls.is_some() { "wss" } else { "ws" };
        tracing::info!("WebSocket clients are served at {scheme}://{}{PATH}", listener.local_addr()?);
        let tracker = TaskTracker::new();
        accept(listener, "WebSocket connection", CONNECTIONS_LIMIT, &stop, |(tcp, address)| {
            let remote = match Remote::of(&tcp, address, TRANSPORT) {
                Ok(remote) => remote,
                Err(error) => {
                    tracing::debug!(%error, "WebSocket connection lost at once");
                    return Accepted::Lost;
                }
            };
            let Some(registration) = state.hub.register(Direction::Accepted, remote.local().ip()) else {
                // The answer is plain HTTP, which a client that begins with TLS would not understand.
                if state.tls.is_none() {
                    send_at_once(&tcp, TURNED_AWAY);
                }
                return Accepted::TurnedAway { address: Some(address) };
            };
            let connection = Connection::new(&state, &agent, remote, registration);
            tracker.spawn(connection.serve(tcp, stop.clone()));
            Accepted::Served
        })
        .await;
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

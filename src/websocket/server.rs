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

/// How this transport is called in the journal.
const TRANSPORT: &str = "websocket";
/// What would make a client of another host known.
const ADVICE: &str = "websocket_client_ca makes its certificate known, websocket_insecure lets everybody in";
/// The answer to a client that is turned away.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

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

/// A bound listener; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::net::TcpListener,
    state: Arc<ServerState>,
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

    /// Serves until `stop`; then accepts no more, gives clients what is queued for them, and returns when the last is gone.
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
                // In HTTP. A client that begins with TLS would not understand that.
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

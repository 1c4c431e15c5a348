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

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Client;
use super::shared::{CONNECTIONS_LIMIT, Shared};
pub use super::shared::{Json, Timeouts};
use super::{PATH, metered};
use crate::api::event::Dialect;
use crate::api::ids::InstanceName;
use crate::hub::{self, Agent, Hub};
use crate::identify::Gate;
use crate::telemetry::LogThrottle;
use crate::tls;

/// Bytes of large messages being received by all connections.
const RECEIVE_BYTES: usize = 64 << 20;
/// The least between log lines about connections that are turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);

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

fn say_how_many(turned_away: &mut LogThrottle) {
    if let Some(more) = turned_away.take_suppressed(Instant::now()) {
        tracing::warn!(
            "{more} more WebSocket connections were turned away: the most that may be open is {CONNECTIONS_LIMIT}"
        );
    }
}

#[cfg(test)]
mod tests;

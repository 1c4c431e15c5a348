//! The listener, and the tasks of all connections.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::PeersAgent;
use super::connection::{Connection, NotRegistered};
use super::dial::Dialler;
use super::ending::Ending;
use super::frames::Frames;
use super::handle::Handle;
use super::state::{PeersState, Timeouts};
use super::{port_owner, receiving, session};
use crate::api::event::Dialect;
use crate::api::ids::InstanceName;
use crate::broker::handshake::Registry;
use crate::broker::wire::{EndpointId, Filter};
use crate::dialect::node;
use crate::hub::{self, Direction, Hub, Wire};
use crate::identify::Gate;
use crate::tls;
use crate::transport::accept::{Accepted, accept};
use crate::transport::admission::Admission;
use crate::transport::tcp;

/// One for each node, and some for controllers and tools.
const CONNECTIONS_LIMIT: usize = 4096 + 256;
/// Connections in their handshake. This many nodes may start at once.
const HANDSHAKES_LIMIT: usize = 256;
/// How a peer of another host could be identified.
const ADVICE: &str = "broker_certificate, broker_key and broker_cafile on both sides make it known, broker_insecure lets \
                      everybody in";

#[derive(Debug, Clone)]
pub struct Options {
    /// The first one that can be bound is used; if empty, nobody can connect.
    pub listen: Vec<SocketAddr>,
    /// The controller's host and port.
    pub controller: Option<(String, u16)>,
    pub tls: tls::BrokerOptions,
    /// Everybody who can connect is admitted.
    pub insecure: bool,
    /// The dialects of the agent's notifications.
    pub notify: Vec<Dialect>,
    pub timeouts: Timeouts,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot accept Broker peers at {address}{holder}; free the port, give another --listen ADDR:PORT, or --listen off"
    )]
    Listen { address: String, holder: String, source: io::Error },
    #[error("Broker's TLS cannot be set up")]
    Tls(#[from] tls::Error),
}

/// A bound listener, if one is wanted; nothing is served or dialled until [`Server::run`].
pub struct Server {
    listener: Option<TcpListener>,
    /// Where to listen again, if the port was released until [`Server::run`].
    closed: Option<SocketAddr>,
    controller: Option<(String, u16)>,
    mode: tls::BrokerMode,
    state: Arc<PeersState>,
}

impl Server {
    /// `ids` numbers connections over all transports; `endpoint` identifies this run of the agent.
    pub fn bind(
        options: &Options,
        ids: Arc<AtomicU64>,
        instance: &InstanceName,
        endpoint: [u8; 16],
        gate: Gate,
    ) -> Result<(Self, Handle), BindError> {
        let local = EndpointId(endpoint);
        let tls = tls::broker(&options.tls)?;
        let listener = listen(&options.listen)?;
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let hub = Hub::new(
            Frames { local },
            ids,
            hub::Options {
                instance: instance.clone(),
                endpoint: local.to_string(),
                notify: options.notify.clone(),
                connecting: options.controller.is_some(),
                connections: CONNECTIONS_LIMIT,
                unsubscribed: HANDSHAKES_LIMIT,
            },
        );
        let filter = Filter::new(hub.topics().chain([node::TOPIC]));
        let state = Arc::new(PeersState {
            hub,
            local,
            filter,
            tls,
            admission: Admission { gate, protocol: Frames::NAME, is_open: options.insecure, advice: ADVICE },
            timeouts: options.timeouts.clone(),
            is_listening: AtomicBool::new(listener.is_some()),
            budget: receiving::budget(),
            began: Instant::now(),
            registry: Mutex::new(Registry::default()),
            settled: watch::Sender::new(0),
            peered: Mutex::new(BTreeMap::new()),
            controller: Mutex::new(None),
            troubles: Mutex::new(BTreeMap::new()),
        });
        let handle = Handle { state: Arc::clone(&state), address };
        let (controller, mode) = (options.controller.clone(), options.tls.mode());
        Ok((Self { listener, closed: None, controller, mode, state }, handle))
    }

    /// Releases the port until [`Server::run`]: nobody can connect before that.
    pub fn close(self) -> Self {
        self.state.is_listening.store(false, Ordering::Release);
        let closed = self.listener.and_then(|listener| listener.local_addr().ok());
        Self { listener: None, closed, ..self }
    }

    /// Serves until `stop`; then sends BYE to all peers, and returns when the last is gone.
    pub async fn run<A: PeersAgent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, closed, controller, mode, state } = self;
        let listener = match listener {
            Some(listener) => Some(listener),
            None => listen(closed.as_slice()).map_err(io::Error::other)?,
        };
        state.is_listening.store(listener.is_some(), Ordering::Release);
        let tracker = TaskTracker::new();
        if let Some((host, port)) = controller {
            let dialler = Dialler::new(host, port, Arc::clone(&state), Arc::clone(&agent));
            tracker.spawn(dialler.run(stop.clone()));
        }
        match listener {
            Some(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let tls = match mode {
                    tls::BrokerMode::Plain => "without TLS",
                    tls::BrokerMode::Anonymous => "with TLS that authenticates nobody",
                    tls::BrokerMode::Certificates => "with certificates",
                };
                tracing::info!("Broker peers are accepted at {}, {tls}", listener.local_addr()?);
                accept(listener, "Broker peer", CONNECTIONS_LIMIT, &stop, |(tcp, address)| match Connection::register(
                    &state,
                    &agent,
                    &tcp,
                    Direction::Accepted,
                    address,
                ) {
                    Ok(connection) => {
                        tracker.spawn(serve(connection, tcp, stop.clone()));
                        Accepted::Served
                    }
                    Err(NotRegistered::Lost(error)) => {
                        tracing::debug!(%error, "Broker peer lost at once");
                        Accepted::Lost
                    }
                    Err(NotRegistered::NoRoom) => Accepted::TurnedAway { address: Some(address) },
                })
                .await;
            }
            None => stop.cancelled().await,
        }
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

fn listen(addresses: &[SocketAddr]) -> Result<Option<TcpListener>, BindError> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let listener = tcp::listen(addresses).map_err(|source| {
        let holder = match (source.kind(), addresses) {
            (io::ErrorKind::AddrInUse, [address, ..]) => port_owner::describe(*address),
            _ => String::new(),
        };
        BindError::Listen { address: tcp::one_of(addresses), holder, source }
    })?;
    Ok(Some(listener))
}

/// Serves one accepted connection.
async fn serve<A: PeersAgent>(connection: Connection<A>, tcp: TcpStream, stop: CancellationToken) {
    let (agent, state) = (Arc::clone(&connection.agent), Arc::clone(&connection.state));
    let (address, source) = (connection.remote.address, connection.remote.source.clone());
    match session::run(connection, tcp, stop, |_| ()).await {
        // A refusal has been logged already.
        Ending::Peering(_) | Ending::Redundant(_) | Ending::Refused(_) | Ending::Stopped => {}
        Ending::Handshake { reason, malformed } => {
            if state.is_new_trouble(address, &reason) {
                tracing::warn!(%address, "no peering with a Broker peer that connected: {reason}");
            } else {
                tracing::debug!(%address, "no peering with a Broker peer that connected: {reason}");
            }
            if malformed {
                agent.malformed(source, String::new(), reason);
            }
        }
    }
}

//! Listening, and the life of all connections together.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Ending, Link};
use super::dial::Dialler;
use super::{
    Agent, BindError, CONNECTIONS_LIMIT, Frames, HANDSHAKES_LIMIT, Handle, Options, RECEIVE_BYTES, SHARE, Shared,
    holder,
};
use crate::api::ids::InstanceName;
use crate::broker::handshake::Registry;
use crate::broker::wire::{EndpointId, Filter};
use crate::dialect::node;
use crate::hub::{self, Direction, Hub};
use crate::identify::Gate;
use crate::telemetry::LogThrottle;
use crate::tls;

/// The least between log lines about peers that are turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);

/// A bound listener, if one is wanted; nobody is served or dialled until [`Server::run`].
pub struct Server {
    listener: Option<TcpListener>,
    /// Where to listen again, if the port was given up until [`Server::run`].
    closed: Option<SocketAddr>,
    controller: Option<(String, u16)>,
    mode: tls::BrokerMode,
    shared: Arc<Shared>,
}

impl Server {
    /// `ids` numbers connections over all transports; `endpoint` is the agent's for this run.
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
        let listening = listener.as_ref().and_then(|listener| listener.local_addr().ok());
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
        let shared = Arc::new(Shared {
            hub,
            local,
            filter,
            tls,
            gate,
            is_open: options.insecure,
            timeouts: options.timeouts.clone(),
            budget: Arc::new(Semaphore::new(RECEIVE_BYTES / SHARE)),
            began: Instant::now(),
            registry: Mutex::new(Registry::default()),
            settled: watch::Sender::new(0),
            peered: Mutex::new(BTreeMap::new()),
            controller: Mutex::new(None),
            troubles: Mutex::new(BTreeMap::new()),
        });
        let handle = Handle { shared: Arc::clone(&shared), listening };
        let (controller, mode) = (options.controller.clone(), options.tls.mode());
        Ok((Self { listener, closed: None, controller, mode, shared }, handle))
    }

    /// Gives the port up until [`Server::run`]: nobody gets a connection by then.
    pub fn close(self) -> Self {
        let closed = self.listener.and_then(|listener| listener.local_addr().ok());
        Self { listener: None, closed, ..self }
    }

    /// Serves until `stop`; then says BYE to all peers, and returns when the last is gone.
    pub async fn run<A: Agent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, closed, controller, mode, shared } = self;
        let listener = match listener {
            Some(listener) => Some(listener),
            None => listen(closed.as_slice()).map_err(io::Error::other)?,
        };
        let tracker = TaskTracker::new();
        if let Some((host, port)) = controller {
            let dialler = Dialler::new(host, port, Arc::clone(&shared), Arc::clone(&agent));
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
                accept(listener, &shared, &agent, &tracker, &stop).await;
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
    let failed = |source: io::Error| {
        let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let holder = match (source.kind(), addresses) {
            (io::ErrorKind::AddrInUse, [address, ..]) => holder::describe(*address),
            _ => String::new(),
        };
        BindError::Listen { address: text.join(" or "), holder, source }
    };
    let listener = TcpListener::bind(addresses).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Some(listener))
}

async fn accept<A: Agent>(
    listener: tokio::net::TcpListener,
    shared: &Arc<Shared>,
    agent: &Arc<A>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut turned_away = LogThrottle::new(TURNED_AWAY_EVERY);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return say_how_many(&mut turned_away),
            () = turned_away.due() => {
                say_how_many(&mut turned_away);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, address)) => {
                if !take(tcp, address, shared, agent, tracker, stop)
                    && turned_away.should_log(std::time::Instant::now())
                {
                    tracing::warn!(
                        %address,
                        "Broker peer turned away: {CONNECTIONS_LIMIT} connections are open, which is the most"
                    );
                }
            }
            Err(error) => {
                // Out of descriptors or memory. The pending connection stays pending, so pause instead of spinning.
                tracing::error!(%error, "cannot accept Broker peers; trying again in 100 ms");
                tokio::select! {
                    () = stop.cancelled() => return say_how_many(&mut turned_away),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        }
    }
}

fn say_how_many(turned_away: &mut LogThrottle) {
    if let Some(more) = turned_away.take_suppressed(std::time::Instant::now()) {
        tracing::warn!("{more} more Broker peers were turned away: {CONNECTIONS_LIMIT} connections are the most");
    }
}

/// `false`: there is no place for it.
fn take<A: Agent>(
    tcp: TcpStream,
    address: SocketAddr,
    shared: &Arc<Shared>,
    agent: &Arc<A>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> bool {
    let Some(link) = Link::register(shared, agent, &tcp, Direction::Accepted, address) else { return false };
    let (shared, agent, stop) = (Arc::clone(shared), Arc::clone(agent), stop.clone());
    tracker.spawn(async move {
        let source = link.source().clone();
        match link.serve(tcp, stop, |_| ()).await {
            // Who was refused has been told of already.
            Ending::Peering(_) | Ending::Redundant(_) | Ending::Refused(_) | Ending::Stopped => {}
            Ending::Handshake { reason, malformed } => {
                if shared.is_news(address, &reason) {
                    tracing::warn!(%address, "no peering with a Broker peer that connected: {reason}");
                } else {
                    tracing::debug!(%address, "no peering with a Broker peer that connected: {reason}");
                }
                if malformed {
                    agent.malformed(source, String::new(), reason);
                }
            }
        }
    });
    true
}

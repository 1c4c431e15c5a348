//! The agent as a Broker endpoint: it accepts peers, dials its controller, and speaks with both of agents' and nodes' events.
//!
//! Answers for sockets, TLS, queues and retries, around the state machines of [`broker`](crate::broker). Each connection is
//! one task ([`connection`]), which reads and writes at the same time, so that pings are answered however much waits to be
//! sent. What is sent to whom, and what a request leads to, is the [`hub`]'s affair. Nothing is forwarded.
//!
//! Promises: a peer's mistake costs its own connection at most; memory is bounded by the number of connections, by each
//! queue's bytes, and by one budget for all long frames that are being received; a clean end says BYE to all peers together
//! and takes three seconds at most.
//!
//! Who may not ask ([`identify`](crate::identify)) gets no peering, unless it runs as nodes do: then it is heard as a node,
//! hears nothing of what the agent publishes, and what it asks is refused.
//!
//! Left to others: which node is believed, and which of several peerings that claim its name is taken for it, is decided
//! by the core, which is told what each connection said.

mod connection;
mod dial;
mod holder;
mod nodes;
mod outbox;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::api::event::Dialect;
use crate::api::ids::{NodeName, Seq};
use crate::api::report::{ControllerReport, PeerReport};
use crate::broker::data::Data;
use crate::broker::handshake::{ConnectionId, DEADLINE, Registry};
use crate::broker::json::ErrorCode;
use crate::broker::peering;
use crate::broker::wire::{self, EndpointId, Filter};
use crate::dialect::event::Event;
use crate::dialect::node::{self, NodeEvent};
use crate::hub::{self, Hub};
use crate::identify::Gate;
use crate::tls;

pub use server::Server;

/// A node each, and some controllers and tools.
const CONNECTIONS_LIMIT: usize = 4096 + 256;
/// Connections whose handshake is not done. As many nodes may start at once.
const HANDSHAKES_LIMIT: usize = 256;
/// Frames over this are skipped: a request of 4 MiB in canonical form is hardly more in Broker's.
const FRAME_LIMIT: usize = 8 << 20;
/// Bytes of long frames being received by all connections.
const RECEIVE_BYTES: usize = 64 << 20;
/// What a frame may have without a share of that budget, and the size of a share.
const SHARE: usize = 64 << 10;

/// Timeouts of peers. Tests shorten them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a TCP connection to an address of the controller.
    pub connect: Duration,
    /// From the connection to the end of the handshakes of TLS and Broker.
    pub handshake: Duration,
    /// From the first byte of a frame to its last.
    pub frame: Duration,
    /// Without any byte taken of what there is to write.
    pub write: Duration,
    pub peering: peering::Options,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: DEADLINE,
            frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
            peering: peering::Options::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// The first of them that can be listened at is taken; none: nobody is let in.
    pub listen: Vec<SocketAddr>,
    /// The controller's host and port.
    pub controller: Option<(String, u16)>,
    pub tls: tls::BrokerOptions,
    /// Everybody who reaches it is let in.
    pub insecure: bool,
    /// The dialects of what the agent says unasked.
    pub notify: Vec<Dialect>,
    pub timeouts: Timeouts,
}

/// What this transport asks of the agent, beside what all do.
pub trait Agent: hub::Agent {
    /// What the node at the other end of a connection said to a dispatch of request `of`: the value, or why there is none.
    fn answered(
        &self,
        of: Seq,
        connection: u64,
        answer: Result<Option<String>, String>,
    ) -> impl Future<Output = ()> + Send;
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

/// Broker's binary form.
pub struct Frames {
    local: EndpointId,
}

impl Frames {
    fn frame(&self, topic: &str, data: &Data) -> Result<Arc<[u8]>, String> {
        let frame = wire::data_frame(self.local, EndpointId::NIL, topic, data);
        frame.map(Arc::from).map_err(|error| error.to_string())
    }
}

impl hub::Wire for Frames {
    const NAME: &'static str = "Broker";
    const OTHER: &'static str = "peer";
    type Message = Arc<[u8]>;

    fn event(&self, topic: &str, event: Event) -> Result<Arc<[u8]>, String> {
        self.frame(topic, &event.into_data())
    }

    /// Broker has no words for errors: Zeek drops what it does not understand.
    fn error(&self, _: ErrorCode, _: &str) -> Option<Arc<[u8]>> {
        None
    }

    fn size(message: &Arc<[u8]>) -> usize {
        message.len()
    }
}

/// What is known of a connection whose handshake is done.
struct Peered {
    remote: EndpointId,
    direction: hub::Direction,
    address: SocketAddr,
    uid: Option<u32>,
    may_ask: bool,
    tls: String,
    since: Instant,
    /// Wakes its task to ask whether the peer is still there.
    doubt: Arc<Notify>,
    /// The node that it said it is.
    node: Option<NodeName>,
}

/// What all connections share.
struct Shared {
    hub: Hub<Frames>,
    local: EndpointId,
    filter: Filter,
    tls: Option<tls::Context>,
    gate: Gate,
    /// Everybody is let in.
    is_open: bool,
    timeouts: Timeouts,
    budget: Arc<Semaphore>,
    /// The time that the state machines are told is counted from here.
    began: Instant,
    registry: Mutex<Registry>,
    /// Changes with the registry: what waits behind another handshake looks again.
    settled: watch::Sender<u64>,
    peered: Mutex<BTreeMap<u64, Peered>>,
    controller: Mutex<Option<ControllerReport>>,
    /// The troubles with peers from an address, so that each is logged once.
    troubles: Mutex<BTreeMap<IpAddr, BTreeSet<String>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder changes one thing at a time, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn at(&self, at: Duration) -> Instant {
        self.began + at
    }

    /// The connection's claim on its remote, if it has one, is given back.
    fn release(&self, connection: ConnectionId) {
        locked(&self.registry).release(connection);
        self.settled.send_modify(|changes| *changes += 1);
    }

    /// The peering with this endpoint may be dead without our having noticed.
    fn doubt(&self, remote: EndpointId) {
        for peered in locked(&self.peered).values().filter(|peered| peered.remote == remote) {
            peered.doubt.notify_one();
        }
    }

    /// Whether this trouble with an address is news, since there last was a peer at it.
    fn is_news(&self, address: SocketAddr, trouble: &str) -> bool {
        /// Addresses whose troubles are remembered, and how many of each. What is beyond is not worth a line.
        const REMEMBERED: usize = 256;
        const OF_EACH: usize = 8;
        let mut troubles = locked(&self.troubles);
        if troubles.len() >= REMEMBERED && !troubles.contains_key(&address.ip()) {
            return false;
        }
        let told = troubles.entry(address.ip()).or_default();
        told.len() < OF_EACH && told.insert(trouble.to_owned())
    }
}

/// How the agent's effects reach peers.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    listening: Option<SocketAddr>,
}

impl Handle {
    pub fn hub(&self) -> &Hub<Frames> {
        &self.shared.hub
    }

    /// Where peers are accepted.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Asks the node at the other end of a connection, on behalf of request `of`.
    pub fn dispatch(&self, connection: u64, of: Seq, node: &NodeName, action: &[String]) {
        let request = NodeEvent::DispatchRequest {
            reqid: nodes::reqid(self.shared.local, of),
            action: action.to_vec(),
            nodes: [node.to_string()].into(),
        };
        let frame = Frames { local: self.shared.local }.frame(node::TOPIC, &node::encode(&request).into_data());
        match frame {
            // Gone or deaf: the core hears of that, and asks again over the node's next peering.
            Ok(frame) => _ = self.shared.hub.send(connection, &frame),
            Err(error) => tracing::error!(error, %node, "a dispatch cannot be sent"),
        }
    }

    /// Which node each connection said that it is.
    pub fn nodes(&self) -> BTreeMap<u64, NodeName> {
        let peered = locked(&self.shared.peered);
        peered.iter().filter_map(|(id, peered)| Some((*id, peered.node.clone()?))).collect()
    }

    /// What `status` shows. Which claims of nodes are believed is for the caller to say.
    pub fn peers(&self) -> Vec<(u64, PeerReport)> {
        let peered = locked(&self.shared.peered);
        let report = |(id, peered): (&u64, &Peered)| {
            let report = PeerReport {
                direction: match peered.direction {
                    hub::Direction::Accepted => "accepted",
                    hub::Direction::Dialled => "dialled",
                }
                .to_owned(),
                address: peered.address.to_string(),
                uid: peered.uid,
                may_ask: peered.may_ask,
                tls: peered.tls.clone(),
                endpoint: peered.remote.to_string(),
                subscribed: self.shared.hub.hears(*id).iter().map(|dialect| dialect.as_str().to_owned()).collect(),
                node: peered.node.as_ref().map(ToString::to_string),
                since_ms: u64::try_from(peered.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            (*id, report)
        };
        peered.iter().map(report).collect()
    }

    pub fn controller(&self) -> Option<ControllerReport> {
        locked(&self.shared.controller).clone()
    }
}

/// Where processes of this host reach what listens at `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

//! One registered connection: who is at its other end, and how its messages are handled.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::PeersAgent;
use super::nodes::{self, Said};
use super::outbox::Outbox;
use super::state::{Peered, PeersState, locked};
use crate::api::ids::NodeName;
use crate::broker::handshake::ConnectionId;
use crate::broker::peering::Message;
use crate::broker::wire::{EndpointId, Filter};
use crate::dialect::node;
use crate::hub::intake::Publisher;
use crate::hub::{Direction, Registration};
use crate::transport::admission::Remote;
use crate::transport::outgoing::Queued;

/// A connection, registered until it is dropped.
pub(super) struct Connection<A: PeersAgent> {
    pub id: ConnectionId,
    pub state: Arc<PeersState>,
    pub agent: Arc<A>,
    pub queue: mpsc::Receiver<Queued<Arc<[u8]>>>,
    pub cut: CancellationToken,
    pub direction: Direction,
    pub remote: Remote,
    /// Why it may not send requests, if it is admitted only as a node.
    pub only_as_node: Option<String>,
    /// The topics that it subscribes to.
    wanted: Filter,
    /// How it is protected, for `status`.
    pub tls: String,
    /// The agent knows of this connection.
    pub is_peered: bool,
}

/// Why a connection was not registered.
pub(super) enum NotRegistered {
    Lost(io::Error),
    NoRoom,
}

impl<A: PeersAgent> Drop for Connection<A> {
    fn drop(&mut self) {
        self.state.hub.forget(self.id.0);
        locked(&self.state.peered).remove(&self.id.0);
        self.state.release(self.id);
        // A connection that never became a peer never asked for anything, so the agent is not bothered with it.
        if self.is_peered {
            self.agent.disconnected(self.id.0);
        }
    }
}

impl<A: PeersAgent> Connection<A> {
    pub fn register(
        state: &Arc<PeersState>,
        agent: &Arc<A>,
        tcp: &TcpStream,
        direction: Direction,
        address: SocketAddr,
    ) -> Result<Self, NotRegistered> {
        let remote = Remote::of(tcp, address, "broker").map_err(NotRegistered::Lost)?;
        let host = remote.local().ip().to_canonical();
        let Registration { id, queue, cut } = state.hub.register(direction, host).ok_or(NotRegistered::NoRoom)?;
        Ok(Self {
            id: ConnectionId(id),
            state: Arc::clone(state),
            agent: Arc::clone(agent),
            queue,
            cut,
            direction,
            remote,
            only_as_node: None,
            wanted: Filter::default(),
            tls: "none".to_owned(),
            is_peered: false,
        })
    }

    /// From here on `status` shows the peer. Returns what makes its task ask whether the peer is still alive.
    pub fn announce(&mut self, remote: EndpointId) -> Arc<Notify> {
        let probe = Arc::new(Notify::new());
        let peered = Peered {
            remote,
            direction: self.direction,
            address: self.remote.address,
            uid: self.remote.uid,
            may_ask: self.only_as_node.is_none(),
            tls: self.tls.clone(),
            since: Instant::now(),
            probe: Arc::clone(&probe),
            node: None,
        };
        locked(&self.state.peered).insert(self.id.0, peered);
        self.is_peered = true;
        tracing::debug!(connection = self.id.0, address = %self.remote.address, %remote, "peering");
        probe
    }

    /// Subscribes the peer to its topics, unless it is admitted only as a node: a node receives its dispatches without
    /// a subscription, and must not count as a recipient of the agent's answers.
    pub fn subscribe(&mut self, wanted: &Filter) {
        self.wanted = wanted.clone();
        let filter = if self.only_as_node.is_none() { wanted.clone() } else { Filter::default() };
        self.state.hub.subscribe(self.id.0, filter);
        self.agent.subscribed();
    }

    /// Handles what the peer published. Answers for this peer alone go into `outbox`.
    pub async fn message(&self, message: Message, outbox: &mut Outbox) {
        let Message { topic, data, directed: _ } = message;
        if topic == node::TOPIC {
            for said in nodes::read(self.state.local, data) {
                self.node_said(said).await;
            }
        } else if let Some(dialect) = self.state.hub.dialect_of(&topic) {
            let answers = match &self.only_as_node {
                None => self.state.hub.take(&self.publisher(), dialect, data),
                Some(reason) => {
                    let answers = self.state.hub.turn_down(&self.publisher(), dialect, data, reason);
                    if self.wanted.matches(&topic) { answers } else { Vec::new() }
                }
            };
            for answer in answers {
                outbox.push(&answer, self.state.now());
            }
        } else {
            // Filters are prefixes: this may be for another agent, whose name begins with ours.
            tracing::debug!(connection = self.id.0, topic, "a message on a topic of somebody else");
        }
    }

    async fn node_said(&self, said: Said) {
        match said {
            Said::Hello(node) => self.hello(node),
            Said::Answer { of, answer } => self.agent.answered(of, self.id.0, answer).await,
            Said::Rejected { event, error } => self.reject(event, error),
        }
    }

    /// The peer says that it is this node. The core decides whether to believe it.
    fn hello(&self, node: NodeName) {
        let mut peered = locked(&self.state.peered);
        let Some(ours) = peered.get_mut(&self.id.0) else { return };
        match &ours.node {
            Some(known) if *known == node => return,
            Some(known) => {
                let error = format!("it said that it is node {known}, and now that it is {node}");
                drop(peered);
                return self.reject("notify_node_hello".to_owned(), error);
            }
            None => ours.node = Some(node.clone()),
        }
        tracing::debug!(connection = self.id.0, address = %self.remote.address, %node, "a node says hello");
        // An earlier peering of this node, if dead, would block this one.
        for (id, other) in peered.iter() {
            if *id != self.id.0 && other.node.as_ref() == Some(&node) {
                other.probe.notify_one();
            }
        }
        drop(peered);
        self.agent.subscribed();
    }

    fn publisher(&self) -> Publisher<'_, A> {
        Publisher { id: self.id.0, source: &self.remote.source, agent: &self.agent }
    }

    pub fn reject(&self, event: String, error: String) {
        self.state.hub.reject(&self.publisher(), event, error);
    }
}

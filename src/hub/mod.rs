//! What the transports of Zeek's events share: who is connected, what each client subscribes to, what is queued for it,
//! and what happens with an event that it publishes on the agent's topic ([`intake`]).
//!
//! A transport supplies its message format ([`Wire`]), registers each connection, subscribes it once the other end has
//! sent its topics, and writes what the queue yields. The agent's effects enter through the same [`Hub`]; none of its
//! methods waits. A client that does not read is cut when its queue is full.
//!
//! A response goes to all subscribers of the agent's topic in the request's dialect, so whoever wants it has to be
//! subscribed. It counts as delivered when the requester's connection took it, or else when the first other one did.

pub mod intake;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::event::Route;
use crate::api::event::{Dialect, Notification, Request, Response, Result as ApiResult, ResultData};
use crate::api::ids::{InstanceName, ReqId};
use crate::broker::json::ErrorCode;
use crate::broker::wire::Filter;
use crate::dialect::event::Event;
use crate::dialect::{self, Local};
use crate::transport::outgoing::{Capacity, Names, Outgoing, Queued};

/// The most that is queued for one slow reader.
const QUEUE: Capacity = Capacity { messages: 8192, kib: 16 * 1024 };

/// A transport's message format.
pub trait Wire: Send + Sync + 'static {
    /// Its name, for the log.
    const NAME: &'static str;
    /// What it calls the other end.
    const OTHER: &'static str;
    /// Cheap to clone: one serves all subscribers.
    type Message: Clone + Send + Sync + 'static;

    fn event(&self, topic: &str, event: Event) -> Result<Self::Message, String>;
    /// A message that reports an error to one client; `None` if the protocol has none.
    fn error(&self, code: ErrorCode, context: &str) -> Option<Self::Message>;
    fn size(message: &Self::Message) -> usize;
}

#[derive(Debug, Clone)]
pub struct Options {
    pub instance: InstanceName,
    /// Identifies this run of the agent, as text.
    pub endpoint: String,
    /// The dialects of the agent's notifications.
    pub notify: Vec<Dialect>,
    /// A controller is configured that this agent dials.
    pub connecting: bool,
    /// Limit for open connections; each costs a task and its buffers.
    pub connections: usize,
    /// Limit for connections that have not subscribed yet.
    pub unsubscribed: usize,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Accepted,
    /// By us, so it is never cut to make room for others.
    Dialled,
}

/// A connection that was registered, as its transport holds it.
pub struct Registration<M> {
    pub id: u64,
    pub queue: mpsc::Receiver<Queued<M>>,
    /// Cancelled when the connection has to end: a newer one needs its place, or its other end does not read.
    pub cut: CancellationToken,
}

/// What is kept of a request in case it is refused.
struct Asked {
    dialect: Dialect,
    reqid: ReqId,
    response_event: &'static str,
}

struct Connection<M> {
    outgoing: Outgoing<M>,
    direction: Direction,
    /// `None` until it subscribes.
    topics: Option<Filter>,
    /// The address at which the client reached us, or from which we reached it.
    host: IpAddr,
    /// Unanswered requests, by call.
    pending: BTreeMap<u64, Asked>,
    rejections: Rejections,
}

/// Bad input of one connection within a second: beyond a few, it is only counted, so that nobody can fill the driver's
/// queue with garbage.
struct Rejections {
    since: Instant,
    told: u32,
    more: u64,
}

impl Rejections {
    const TOLD_PER_SECOND: u32 = 20;

    /// Returns how many were not reported before this one, if this one is reported.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.told = 0;
        }
        if self.told >= Self::TOLD_PER_SECOND {
            self.more += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.more))
    }
}

impl<M: Clone> Connection<M> {
    fn wants(&self, topic: &str) -> bool {
        self.topics.as_ref().is_some_and(|filter| filter.matches(topic))
    }

    /// Queues a message, or cuts the connection if its other end has left too much unread.
    fn offer<W: Wire<Message = M>>(&self, message: &M, route: Option<Route>) -> bool {
        self.outgoing.offer(message.clone(), W::size(message), route)
    }
}

struct HubState<W: Wire> {
    wire: W,
    options: Options,
    /// The agent's topic for each dialect that has one.
    topics: Vec<(Dialect, String)>,
    connections: Mutex<BTreeMap<u64, Connection<W::Message>>>,
    /// Numbers connections over all transports.
    ids: Arc<AtomicU64>,
    calls: AtomicU64,
}

/// The connections of one transport. Booleans and counts say who took a message, not who read it.
pub struct Hub<W: Wire>(Arc<HubState<W>>);

impl<W: Wire> Clone for Hub<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Wire> Hub<W> {
    /// `ids` numbers connections over all transports.
    pub fn new(wire: W, ids: Arc<AtomicU64>, options: Options) -> Self {
        let topic = |dialect| Some((dialect, dialect::agent_topic(dialect, options.instance.as_str())?));
        Self(Arc::new(HubState {
            wire,
            topics: [Dialect::Management, Dialect::ClusterAgent].into_iter().filter_map(topic).collect(),
            options,
            connections: Mutex::new(BTreeMap::new()),
            ids,
            calls: AtomicU64::new(0),
        }))
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The agent's topics.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.0.topics.iter().map(|(_, topic)| topic.as_str())
    }

    /// The dialect in which this is the topic of this agent. Compared in full: filters are prefixes, so what is meant
    /// for `a10` reaches `a1`, too.
    pub fn dialect_of(&self, topic: &str) -> Option<Dialect> {
        self.0.topics.iter().find(|(_, ours)| ours == topic).map(|(dialect, _)| *dialect)
    }

    fn topic(&self, dialect: Dialect) -> Option<&str> {
        self.0.topics.iter().find(|(one, _)| *one == dialect).map(|(_, topic)| topic.as_str())
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection<W::Message>>> {
        // The map is consistent between any two operations, so a panic elsewhere leaves nothing half done.
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection. At the limit, the oldest accepted one that has not subscribed yet is cut to make room;
    /// `None` if there is none to cut.
    pub fn register(&self, direction: Direction, host: IpAddr) -> Option<Registration<W::Message>> {
        let mut connections = self.connections();
        let options = &self.0.options;
        let is_idle = |one: &Connection<W::Message>| one.direction == Direction::Accepted && one.topics.is_none();
        let idle = connections.values().filter(|one| is_idle(one)).count();
        if direction == Direction::Accepted
            && (connections.len() >= options.connections || idle >= options.unsubscribed)
        {
            let oldest = connections.iter().find(|(_, one)| is_idle(one)).map(|(id, _)| *id)?;
            if let Some(oldest) = connections.remove(&oldest) {
                oldest.outgoing.cut().cancel();
            }
        }
        let id = self.0.ids.fetch_add(1, Ordering::Relaxed);
        let (outgoing, queue) = Outgoing::new(id, Names { transport: W::NAME, other: W::OTHER }, QUEUE);
        let cut = outgoing.cut().clone();
        let connection = Connection {
            outgoing,
            direction,
            topics: None,
            host,
            pending: BTreeMap::new(),
            rejections: Rejections { since: Instant::now(), told: 0, more: 0 },
        };
        connections.insert(id, connection);
        Some(Registration { id, queue, cut })
    }

    /// From here on the connection receives its topics. On each agent topic that is new to it, a hello comes first, in
    /// each configured dialect.
    pub fn subscribe(&self, id: u64, topics: Filter) {
        let instance = self.0.options.instance.to_string();
        let hello = Notification::NotifyAgentHello { instance, api_version: dialect::API_VERSION };
        let mut connections = self.connections();
        let Some(connection) = connections.get_mut(&id) else { return };
        let before = connection.topics.replace(topics);
        for dialect in &self.0.options.notify {
            if let Some(topic) = self.topic(*dialect)
                && connection.wants(topic)
                && !before.as_ref().is_some_and(|before| before.matches(topic))
                && let Some(message) = self.notification(*dialect, &hello, connection.host)
            {
                connection.offer::<W>(&message, None);
            }
        }
    }

    /// Queues nothing more for this connection.
    pub fn forget(&self, id: u64) {
        self.connections().remove(&id);
    }

    /// Whether the connection is one of this transport's and still open.
    pub fn owns(&self, connection: u64) -> bool {
        self.connections().contains_key(&connection)
    }

    /// How many connections are subscribed to the agent's topic of a dialect.
    pub fn subscribers(&self, dialect: Dialect) -> usize {
        let Some(topic) = self.topic(dialect) else { return 0 };
        self.connections().values().filter(|peer| peer.wants(topic)).count()
    }

    /// The dialects in which this connection receives the agent's messages.
    pub fn hears(&self, connection: u64) -> Vec<Dialect> {
        let connections = self.connections();
        let Some(connection) = connections.get(&connection) else { return Vec::new() };
        self.0.topics.iter().filter(|(_, topic)| connection.wants(topic)).map(|(dialect, _)| *dialect).collect()
    }

    /// Sends a response to the subscribers of the agent's topic. `true`: at least one took it.
    pub fn respond(&self, route: Route, dialect: Dialect, response: &Response) -> bool {
        let mut connections = self.connections();
        if let Some(requester) = connections.get_mut(&route.connection) {
            requester.pending.remove(&route.call);
        }
        let Some((topic, message)) = self.response(dialect, response) else { return false };
        let mut taken = connections
            .get(&route.connection)
            .is_some_and(|requester| requester.wants(topic) && requester.offer::<W>(&message, Some(route)));
        for (_, peer) in connections.iter().filter(|(id, peer)| **id != route.connection && peer.wants(topic)) {
            let reported = (!taken).then_some(route);
            taken |= peer.offer::<W>(&message, reported);
        }
        taken
    }

    /// Tells the requester that its request was not accepted: with a failed response if it subscribes, else an error.
    pub fn refuse(&self, route: Route, reason: &str) -> bool {
        let mut connections = self.connections();
        let Some(requester) = connections.get_mut(&route.connection) else { return false };
        let Some(asked) = requester.pending.remove(&route.call) else { return false };
        let response = self.failed(&asked, reason);
        let message = match self.response(asked.dialect, &response) {
            Some((topic, message)) if requester.wants(topic) => Some(message),
            Some(_) | None => self.0.wire.error(ErrorCode::BrokerError, reason),
        };
        message.is_some_and(|message| requester.offer::<W>(&message, None))
    }

    /// Sends a response that no connection waits for; returns how many took it.
    pub fn publish(&self, dialect: Dialect, response: &Response) -> usize {
        let connections = self.connections();
        let Some(topic) = self.topic(dialect) else { return 0 };
        if !connections.values().any(|peer| peer.wants(topic)) {
            return 0;
        }
        let Some((topic, message)) = self.response(dialect, response) else { return 0 };
        connections.values().filter(|peer| peer.wants(topic) && peer.offer::<W>(&message, None)).count()
    }

    /// Sends subscribers a notification, in each configured dialect.
    pub fn notify(&self, notification: &Notification) {
        let connections = self.connections();
        for dialect in &self.0.options.notify {
            let Some(topic) = self.topic(*dialect) else { continue };
            // Only a hello depends on the address at which the client reached us; there are few such addresses.
            let mut messages: BTreeMap<IpAddr, Option<W::Message>> = BTreeMap::new();
            for peer in connections.values().filter(|peer| peer.wants(topic)) {
                let message =
                    messages.entry(peer.host).or_insert_with(|| self.notification(*dialect, notification, peer.host));
                if let Some(message) = message {
                    peer.offer::<W>(message, None);
                }
            }
        }
    }

    /// Sends a message to this connection, whatever its topics. `false`: it is gone, or has left too much unread.
    pub fn send(&self, connection: u64, message: &W::Message) -> bool {
        self.connections().get(&connection).is_some_and(|peer| peer.offer::<W>(message, None))
    }

    /// A notification in this dialect, for a connection that reached us at `host`.
    fn notification(&self, dialect: Dialect, notification: &Notification, host: IpAddr) -> Option<W::Message> {
        let Options { endpoint, connecting, .. } = &self.0.options;
        let local = Local { host, endpoint: endpoint.clone(), connecting: *connecting };
        match dialect::notification(dialect, notification, &local) {
            Ok(event) => self.event(self.topic(dialect)?, event),
            Err(error) => {
                tracing::error!(%error, "a notification cannot be sent");
                None
            }
        }
    }

    fn response(&self, dialect: Dialect, response: &Response) -> Option<(&str, W::Message)> {
        let topic = self.topic(dialect)?;
        match dialect::response(dialect, response) {
            Ok(event) => Some((topic, self.event(topic, event)?)),
            Err(error) => {
                tracing::error!(%error, reqid = %response.reqid, "a response cannot be sent");
                None
            }
        }
    }

    fn event(&self, topic: &str, event: Event) -> Option<W::Message> {
        let name = event.name.clone();
        match self.0.wire.event(topic, event) {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::error!(error, event = name, "an event cannot be sent");
                None
            }
        }
    }

    /// The response that says that a request was not accepted.
    fn failed(&self, asked: &Asked, reason: &str) -> Response {
        let result = ApiResult {
            reqid: asked.reqid.clone(),
            success: false,
            instance: Some(self.0.options.instance.to_string()),
            // Zeek's controller casts the data, and would abort without.
            data: (asked.response_event == (Request::GetNodes {}).response_event())
                .then(|| ResultData::Nodes(Vec::new())),
            error: Some(reason.to_owned()),
            node: None,
        };
        Response { event: asked.response_event.to_owned(), reqid: asked.reqid.clone(), results: vec![result] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_nonsense_is_counted() {
        let begun = Instant::now();
        let mut rejections = Rejections { since: begun, told: 0, more: 0 };
        let told = (0..1000).filter(|_| rejections.next(begun).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(rejections.next(begun + Duration::from_secs(1)), Some(980));
        assert_eq!(rejections.next(begun + Duration::from_secs(1)), Some(0));
    }
}

//! The agent as a WebSocket server: what Zeek's own servers do at this path, for the topics of one agent.
//!
//! Each connection is one task with a bounded queue of what it is to be sent. A client's first message are the prefixes
//! of the topics it wants, compared byte for byte; it is answered with an ack. After that it publishes events, and gets
//! what the agent publishes. Nothing is passed on from client to client: this is an agent, not a broker.
//!
//! A response goes to all subscribers of the agent's topic in the request's dialect, as over Broker: whoever wants it has
//! to be subscribed. It counts as delivered when the requester's connection took it, or else the first that did.
//!
//! What a client does wrong costs its own connection at most. One that does not read is cut when its queue is full, so the
//! agent, which speaks through [`Handle`], never waits for anybody. Memory is bounded by the number of connections, by
//! each queue's bytes, and by one budget for all large messages that are being received.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Client;
use super::{PATH, metered};
use crate::api::event::{Dialect, Incoming, Notification, Request, Response, Result as ApiResult, ResultData};
use crate::api::event::{Route, Source};
use crate::api::ids::{InstanceName, ReqId};
use crate::broker::json::{self, ErrorCode};
use crate::dialect::event::Event;
use crate::dialect::{self, Local};

/// More than the controllers and tools of one agent; each costs a task and two small buffers.
pub(super) const CONNECTIONS_LIMIT: usize = 256;
/// Messages that wait for one slow reader.
pub(super) const QUEUE_MESSAGES: usize = 8192;
/// Bytes that wait for one slow reader, in KiB.
pub(super) const QUEUE_KIB: u32 = 16 * 1024;
/// Bytes of large messages being received by all connections.
const RECEIVE_BYTES: usize = 64 << 20;

/// How long clients may take. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
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

impl Default for Patience {
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
    pub patience: Patience,
}

/// Why a request is not taken in. It is not journaled and does not use up its reqid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
}

/// What the server asks of the agent. Nothing here waits.
pub trait Agent: Send + Sync + 'static {
    /// Takes in a request, canonical. The answer comes through [`Handle::respond`] or [`Handle::refuse`] with its route.
    fn request(&self, incoming: Incoming) -> Result<(), Refusal>;
    /// Input that is no request, to be journaled as rejected; its sender has been told. `event` is empty if unknown.
    fn malformed(&self, source: Source, event: String, error: String);
    /// The response for this route has been handed to the kernel, whole.
    fn delivered(&self, route: Route);
    /// The connection is gone: nothing sent to it arrives any more.
    fn disconnected(&self, connection: u64);
    /// Somebody may have begun to receive what is published on the agent's topics.
    fn subscribed(&self);
}

#[derive(Debug, thiserror::Error)]
#[error("cannot serve WebSocket clients at {address}; free the port, or give another --websocket")]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
}

/// A message on its way out.
pub(super) struct Queued {
    pub text: Utf8Bytes,
    /// Its share of the queue's bytes, given back when it has been written.
    pub share: OwnedSemaphorePermit,
    /// The request whose delivery this is.
    pub route: Option<Route>,
}

/// What a refusal needs to know of a request.
pub(super) struct Asked {
    pub dialect: Dialect,
    pub reqid: ReqId,
    pub response_event: &'static str,
}

pub(super) struct Connection {
    pub queue: mpsc::Sender<Queued>,
    pub room: Arc<Semaphore>,
    pub cut: CancellationToken,
    /// `None` until the subscription came.
    pub topics: Option<Vec<String>>,
    /// The address at which the client reached us.
    pub host: IpAddr,
    /// Requests without an answer, by call.
    pub pending: BTreeMap<u64, Asked>,
}

impl Connection {
    pub fn wants(&self, topic: &str) -> bool {
        self.topics.iter().flatten().any(|prefix| topic.starts_with(prefix.as_str()))
    }

    /// Queues a message, or cuts the connection if its client has left too much unread.
    pub fn offer(&self, id: u64, text: &Utf8Bytes, route: Option<Route>) -> bool {
        let kib = u32::try_from(text.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let Ok(share) = Arc::clone(&self.room).try_acquire_many_owned(kib) else {
            return self.overflow(id);
        };
        match self.queue.try_send(Queued { text: text.clone(), share, route }) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => self.overflow(id),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    fn overflow(&self, id: u64) -> bool {
        if !self.cut.is_cancelled() {
            tracing::warn!(connection = id, "WebSocket connection cut: its client does not read what it is sent");
            self.cut.cancel();
        }
        false
    }
}

pub(super) struct Shared {
    connections: Mutex<BTreeMap<u64, Connection>>,
    /// Numbers of connections over all transports.
    pub ids: Arc<AtomicU64>,
    pub calls: AtomicU64,
    pub budget: Arc<Semaphore>,
    pub patience: Patience,
    pub instance: InstanceName,
    /// The agent's topic for each dialect that has one.
    pub topics: Vec<(Dialect, String)>,
    pub notify: Vec<Dialect>,
    connecting: bool,
    /// Of this run of the agent.
    pub endpoint: String,
}

impl Shared {
    pub fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection>> {
        // The map is whole between any two of its operations, so a panic elsewhere leaves nothing half done.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn topic(&self, dialect: Dialect) -> Option<&str> {
        self.topics.iter().find(|(one, _)| *one == dialect).map(|(_, topic)| topic.as_str())
    }

    fn local(&self, host: IpAddr) -> Local {
        Local { host, endpoint: self.endpoint.clone(), connecting: self.connecting }
    }

    /// A notification in this dialect, as somebody is told it who reached us at `host`.
    pub fn notification(
        &self,
        dialect: Dialect,
        notification: &Notification,
        host: IpAddr,
    ) -> Option<(&str, Utf8Bytes)> {
        let topic = self.topic(dialect)?;
        match dialect::notification(dialect, notification, &self.local(host)) {
            Ok(event) => Some((topic, message(topic, event)?)),
            Err(error) => {
                tracing::error!(%error, "a notification cannot be sent");
                None
            }
        }
    }

    pub fn response(&self, dialect: Dialect, response: &Response) -> Option<(&str, Utf8Bytes)> {
        let topic = self.topic(dialect)?;
        match dialect::response(dialect, response) {
            Ok(event) => Some((topic, message(topic, event)?)),
            Err(error) => {
                tracing::error!(%error, reqid = %response.reqid, "a response cannot be sent");
                None
            }
        }
    }
}

/// The text of an event on a topic.
fn message(topic: &str, event: Event) -> Option<Utf8Bytes> {
    let name = event.name.clone();
    match json::write_data_message(topic, &event.into_data()) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            tracing::error!(%error, event = name, "an event cannot be sent");
            None
        }
    }
}

/// How the agent's effects reach connections. Nothing here waits; `true` and counts say who took it, not who read it.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The connection is one of this transport's, and still there.
    pub fn owns(&self, connection: u64) -> bool {
        self.shared.connections().contains_key(&connection)
    }

    /// Sends a response to the subscribers of the agent's topic. `true`: somebody took it.
    pub fn respond(&self, route: Route, dialect: Dialect, response: &Response) -> bool {
        let mut connections = self.shared.connections();
        if let Some(requester) = connections.get_mut(&route.connection) {
            requester.pending.remove(&route.call);
        }
        let Some((topic, text)) = self.shared.response(dialect, response) else { return false };
        let mut taken = connections
            .get(&route.connection)
            .is_some_and(|requester| requester.wants(topic) && requester.offer(route.connection, &text, Some(route)));
        for (id, peer) in connections.iter().filter(|(id, peer)| **id != route.connection && peer.wants(topic)) {
            let reported = (!taken).then_some(route);
            taken |= peer.offer(*id, &text, reported);
        }
        taken
    }

    /// Tells the requester that its request was not taken in: by a failed response if it is subscribed, else by an error.
    pub fn refuse(&self, route: Route, reason: &str) -> bool {
        let mut connections = self.shared.connections();
        let Some(requester) = connections.get_mut(&route.connection) else { return false };
        let Some(asked) = requester.pending.remove(&route.call) else { return false };
        let response = failed(&self.shared.instance, &asked, reason);
        match self.shared.response(asked.dialect, &response) {
            Some((topic, text)) if requester.wants(topic) => requester.offer(route.connection, &text, None),
            Some(_) | None => {
                let text = json::write_error(ErrorCode::BrokerError, reason).into();
                requester.offer(route.connection, &text, None)
            }
        }
    }

    /// Sends a response that no connection waits for; says how many took it.
    pub fn publish(&self, dialect: Dialect, response: &Response) -> usize {
        let connections = self.shared.connections();
        let Some(topic) = self.shared.topic(dialect) else { return 0 };
        if !connections.values().any(|peer| peer.wants(topic)) {
            return 0;
        }
        let Some((topic, text)) = self.shared.response(dialect, response) else { return 0 };
        connections.iter().filter(|(id, peer)| peer.wants(topic) && peer.offer(**id, &text, None)).count()
    }

    /// Tells subscribers something unasked, in each dialect that is configured.
    pub fn notify(&self, notification: &Notification) {
        let connections = self.shared.connections();
        for dialect in &self.shared.notify {
            let Some(topic) = self.shared.topic(*dialect) else { continue };
            // Only a hello depends on where the client reached us; there are few such addresses.
            let mut texts: BTreeMap<IpAddr, Option<Utf8Bytes>> = BTreeMap::new();
            for (id, peer) in connections.iter().filter(|(_, peer)| peer.wants(topic)) {
                let text = texts.entry(peer.host).or_insert_with(|| {
                    self.shared.notification(*dialect, notification, peer.host).map(|(_, text)| text)
                });
                if let Some(text) = text {
                    peer.offer(*id, text, None);
                }
            }
        }
    }

    /// How many connections are subscribed to the agent's topic of a dialect.
    pub fn subscribers(&self, dialect: Dialect) -> usize {
        let Some(topic) = self.shared.topic(dialect) else { return 0 };
        self.shared.connections().values().filter(|peer| peer.wants(topic)).count()
    }
}

/// The response that says that a request was not taken in.
pub(super) fn failed(instance: &InstanceName, asked: &Asked, reason: &str) -> Response {
    let result = ApiResult {
        reqid: asked.reqid.clone(),
        success: false,
        instance: Some(instance.to_string()),
        // A controller's cast would abort without.
        data: (asked.response_event == (Request::GetNodes {}).response_event()).then(|| ResultData::Nodes(Vec::new())),
        error: Some(reason.to_owned()),
        node: None,
    };
    Response { event: asked.response_event.to_owned(), reqid: asked.reqid.clone(), results: vec![result] }
}

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
    ) -> Result<(Self, Handle), BindError> {
        let failed = |source| {
            let addresses: Vec<String> = options.addresses.iter().map(ToString::to_string).collect();
            BindError { address: addresses.join(" or "), source }
        };
        let listener = std::net::TcpListener::bind(options.addresses.as_slice()).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let topic = |dialect| Some((dialect, dialect::agent_topic(dialect, instance.as_str())?));
        let shared = Arc::new(Shared {
            connections: Mutex::new(BTreeMap::new()),
            ids,
            calls: AtomicU64::new(0),
            budget: metered::budget(RECEIVE_BYTES),
            patience: options.patience,
            instance: instance.clone(),
            topics: [Dialect::Management, Dialect::ClusterAgent].into_iter().filter_map(topic).collect(),
            notify: options.notify.clone(),
            connecting: options.connecting,
            endpoint,
        });
        Ok((Self { listener, shared: Arc::clone(&shared) }, Handle { shared }))
    }

    /// Serves until `stop`; then takes no more, gives clients what is queued for them, and returns when the last is gone.
    pub async fn run<A: Agent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, shared } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tracing::info!("WebSocket clients are served at ws://{}{PATH}", listener.local_addr()?);
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    if let Some(client) = Client::register(&shared, &agent, &tcp, peer) {
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
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

/// Tells a client in HTTP that there is no place for it.
pub(super) fn turn_away(tcp: &TcpStream) {
    tracing::warn!("WebSocket connection turned away: {CONNECTIONS_LIMIT} are open, which is the most");
    // A new socket's buffer takes a short answer at once; a client that is already gone misses nothing.
    let _ = tcp.try_write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

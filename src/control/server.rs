//! The agent's end of the control socket.
//!
//! Each connection is one task that reads and one that writes, with a bounded queue between them. What a peer does wrong
//! costs its own connection: it is answered with an error frame where one can be sent, and cut. A peer that does not read
//! is cut when its queue is full, so the agent, which speaks through [`Handle`], never waits for anybody.
//!
//! Memory is bounded: by the number of connections, by each queue's bytes, and by one budget for large frames that are
//! being received by all connections together.
//!
//! What the frames ask for is the business of the [`Agent`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::message::{
    self, CLIENT_FRAME_LIMIT, ClientFrame, DecodeError, ErrorCode, HEADER, LogChunk, LogQuery, Publication,
    REQUEST_LIMIT, SERVER_FRAME_LIMIT, ServerFrame, TOPIC_LIMIT, TOPICS_LIMIT, Welcome,
};
use super::socket::{BindError, SocketFile};
use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Incoming, Request, Response, Route, Source};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::head::{Anchor, AnchorError};
use crate::api::ids::{NodeName, Seq};
use crate::api::plan::Plan;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;
use crate::identify::Gate;
use crate::telemetry::LogThrottle;

/// More than the people and tools of one host open; each costs two tasks.
const CONNECTIONS_LIMIT: usize = 256;
/// The least between log lines about connections that are turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);
/// Frames that wait for one slow reader: more than the responses and notifications of a deploy of 4096 nodes at once are
/// worth keeping for somebody who does not read.
const QUEUE_FRAMES: usize = 8192;
/// Frames that are written at once, if so many wait: as many as a busy controller has in flight.
const WRITE_FRAMES: usize = 64;
/// What they are gathered in; larger ones go by themselves.
const WRITE_BYTES: usize = 16 << 10;
/// So much is read at once: the requests that a busy controller has in flight come together.
const READ_BYTES: usize = 16 << 10;
/// Bytes that wait for one slow reader, in KiB: two of the largest frames.
const QUEUE_KIB: u32 = (SERVER_FRAME_LIMIT as u32 / 1024 + 1) * 2;
/// Bytes of large frames being received by all connections, in KiB. A frame waits for its share.
const RECEIVE_KIB: u32 = 32 * 1024;
/// Frames up to this size need no share of that budget.
const SMALL_FRAME: usize = 64 << 10;

/// Timeouts of peers. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From connecting to the whole `Hello`.
    pub hello: Duration,
    /// From the first byte of a frame to its last.
    pub frame: Duration,
    /// For one queued frame to be taken.
    pub write: Duration,
    /// For all that is queued to be taken when the connection ends.
    pub flush: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
            flush: Duration::from_secs(2),
        }
    }
}

/// Where to listen, and for whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The socket's path.
    pub path: PathBuf,
    /// The group that may connect beside the owner.
    pub group: Option<u32>,
    /// How long a peer may take over what.
    pub timeouts: Timeouts,
}

/// Why a request is not taken in: busy, stopping, no space. It is not journaled and does not use up its reqid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For whoever asked: why, and what to do.
    pub reason: String,
}

/// The other end of a connection, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user that it runs as.
    pub uid: u32,
    /// That user's primary group.
    pub gid: u32,
    /// Absent where the peer lives in another pid namespace.
    pub pid: Option<i32>,
}

impl Credentials {
    /// As the journal records it.
    fn source(self) -> Source {
        let peer = match self.pid {
            Some(pid) => format!("uid={} pid={pid}", self.uid),
            None => format!("uid={}", self.uid),
        };
        Source { transport: "control".to_owned(), peer }
    }
}

/// What the server asks of the agent. Methods that are not futures never wait.
pub trait Agent: Send + Sync + 'static {
    /// Takes in a request, canonical and within its limits. The answer comes through [`Handle::respond`] or
    /// [`Handle::refuse`] with the request's route.
    fn request(&self, incoming: Incoming) -> Result<(), Refusal>;
    /// Waits, for a while, until there is room for a message of so many bytes that the connection has read. Nothing more is to
    /// be read meanwhile. [`Agent::room_over`] follows once the message was taken in, whatever it was.
    fn room(&self, _connection: u64, _source: &Source, _bytes: usize) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// The message that [`Agent::room`] made room for has been taken in.
    fn room_over(&self, _connection: u64) {}
    /// Input that is no request, to be journaled as rejected; its sender has been told. `event` is empty if unknown.
    fn malformed(&self, source: Source, event: String, error: String);
    /// The response for this route has been handed to the kernel, whole.
    fn delivered(&self, route: Route);
    /// The connection is gone: nothing sent to it arrives any more.
    fn disconnected(&self, connection: u64);
    /// The connection now receives what is published under these topic prefixes.
    fn subscribed(&self, connection: u64, topics: &[String]);
    /// A node says, through the socket, that it is ready.
    fn check_in(&self, node: NodeName, credentials: Credentials) -> impl Future<Output = Result<(), String>> + Send;
    /// How the agent, its journal and its nodes are.
    fn status(&self) -> impl Future<Output = StatusReport> + Send;
    /// The page of the journal that begins at `cursor`, or at the first row.
    fn page(&self, filter: Filter, cursor: Option<Seq>) -> impl Future<Output = Result<Page, String>> + Send;
    /// Checks the journal, and that it continues the head noted as `anchor`.
    fn verify(&self, anchor: Option<Anchor>) -> impl Future<Output = Result<VerifyReport, String>> + Send;
    /// A stretch of the journal as a stream, from `cursor` or its beginning on.
    fn export(&self, cursor: Option<Box<ExportCursor>>) -> impl Future<Output = Result<ExportChunk, String>> + Send;
    /// What it runs with.
    fn settings(&self) -> Vec<SettingReport>;
    /// The journal in figures.
    fn stats(&self) -> impl Future<Output = Result<JournalStats, String>> + Send;
    /// Removes the journal's oldest entries, or tells what would go.
    fn prune(&self, order: PruneOrder, who: Credentials) -> impl Future<Output = Result<PruneReport, String>> + Send;
    /// Makes the journal's files small.
    fn compact(&self, force: bool) -> impl Future<Output = Result<CompactReport, String>> + Send;
    /// What deploying this configuration would do.
    fn plan(&self, config: Configuration, force: bool) -> impl Future<Output = Result<Plan, String>> + Send;
    /// [`super::logs::read`] does the reading.
    fn logs(&self, node: NodeName, query: LogQuery) -> impl Future<Output = Result<LogChunk, String>> + Send;
}

/// A frame on its way out.
struct Queued {
    bytes: Arc<[u8]>,
    /// Its share of the queue's bytes, given back when it has been written.
    _share: OwnedSemaphorePermit,
    /// The response that it is, if it is one.
    route: Option<Route>,
}

struct Connection {
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    cut: CancellationToken,
    topics: Vec<String>,
}

impl Connection {
    /// Queues a frame, or cuts the connection if its peer has left too much unread.
    fn offer(&self, id: u64, frame: &Arc<[u8]>, route: Option<Route>) -> bool {
        let Ok(share) = Arc::clone(&self.room).try_acquire_many_owned(kib(frame.len())) else {
            return self.overflow(id);
        };
        match self.queue.try_send(Queued { bytes: Arc::clone(frame), _share: share, route }) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => self.overflow(id),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    fn overflow(&self, id: u64) -> bool {
        if !self.cut.is_cancelled() {
            tracing::warn!(connection = id, "control connection cut: its peer does not read what it is sent");
            self.cut.cancel();
        }
        false
    }
}

/// Writes some frames, each and then all of them within `limit`.
async fn write(
    writing: &mut BufWriter<OwnedWriteHalf>,
    frames: &[Queued],
    limit: Duration,
) -> Result<io::Result<()>, Elapsed> {
    for frame in frames {
        if let Err(error) = timeout(limit, writing.write_all(&frame.bytes)).await? {
            return Ok(Err(error));
        }
    }
    timeout(limit, writing.flush()).await
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

struct Shared {
    connections: Mutex<BTreeMap<u64, Connection>>,
    /// Numbers of connections over all transports.
    ids: Arc<AtomicU64>,
    receiving: Semaphore,
    timeouts: Timeouts,
    welcome: Welcome,
    gate: Gate,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<u64, Connection>> {
        // The map is whole between any two of its operations, so a panic elsewhere leaves nothing half done.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the agent's effects reach connections. Nothing here waits; `true` and counts say who took it, not who read it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Sends a response to the requester, if its connection is still there.
    /// `replayed`: when that was decided, if it was before this was asked.
    pub fn respond(&self, route: Route, response: &Response, replayed: Option<Timestamp>) -> bool {
        let frame = ServerFrame::Response { call: route.call, response: response.clone(), replayed };
        self.send(route.connection, &frame, Some(route))
    }

    /// Tells the requester that its request was not taken in.
    pub fn refuse(&self, route: Route, reason: &str) -> bool {
        self.send(route.connection, &ServerFrame::Refused { call: route.call, reason: reason.to_owned() }, None)
    }

    /// Sends something to every connection subscribed to `topic`; says how many took it.
    pub fn publish(&self, topic: &str, what: &Publication) -> usize {
        let connections = self.shared.connections();
        let mut peers = connections.iter().filter(|(_, peer)| matches(&peer.topics, topic)).peekable();
        if peers.peek().is_none() {
            return 0;
        }
        let frame = ServerFrame::Published { topic: topic.to_owned(), what: what.clone() };
        let Some(bytes) = encode(&frame) else { return 0 };
        peers.filter(|(id, peer)| peer.offer(**id, &bytes, None)).count()
    }

    /// How many connections are subscribed to `topic`.
    pub fn subscribers(&self, topic: &str) -> usize {
        self.shared.connections().values().filter(|peer| matches(&peer.topics, topic)).count()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.connections().len()
    }

    fn send(&self, connection: u64, frame: &ServerFrame, route: Option<Route>) -> bool {
        let connections = self.shared.connections();
        let Some(peer) = connections.get(&connection) else { return false };
        let Some(bytes) = encode(frame) else { return false };
        peer.offer(connection, &bytes, route)
    }
}

fn matches(prefixes: &[String], topic: &str) -> bool {
    prefixes.iter().any(|prefix| topic.starts_with(prefix.as_str()))
}

/// The bytes of a frame. One that is too long becomes the error that says so.
fn encode(frame: &ServerFrame) -> Option<Arc<[u8]>> {
    match message::encode_server(frame) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            let call = frame.call();
            tracing::error!(?call, %error, "an answer does not fit into a control frame");
            let instead = ServerFrame::Error { call, code: ErrorCode::Failed, message: error.to_string() };
            call.and_then(|_| message::encode_server(&instead).ok()).map(Into::into)
        }
    }
}

/// A bound control socket; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
    shared: Arc<Shared>,
}

impl Server {
    /// Takes the socket's place in the file system, over a stale one if there is one. `ids` numbers connections over all
    /// transports.
    pub fn bind(
        options: &Options,
        ids: Arc<AtomicU64>,
        welcome: Welcome,
        gate: Gate,
    ) -> Result<(Self, Handle), BindError> {
        let (listener, file) = SocketFile::bind(&options.path, options.group)?;
        let shared = Arc::new(Shared {
            connections: Mutex::new(BTreeMap::new()),
            ids,
            receiving: Semaphore::new(RECEIVE_KIB as usize),
            timeouts: options.timeouts,
            welcome,
            gate,
        });
        Ok((Self { listener, file, shared: Arc::clone(&shared) }, Handle { shared }))
    }

    /// Serves until `stop`; then takes no more, gives peers what is queued for them, and returns when the last is gone.
    pub async fn run<A: Agent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, file, shared } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
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
                Ok((stream, _)) if shared.connections().len() >= CONNECTIONS_LIMIT => {
                    turn_away(&stream, &mut turned_away);
                }
                Ok((stream, _)) => {
                    if let Some(peer) = Peer::register(&shared, &agent, stream, &stop) {
                        tracker.spawn(peer.serve());
                    }
                }
                Err(error) => {
                    // Out of descriptors or memory. The pending connection stays pending, so pause instead of spinning.
                    tracing::error!(%error, "cannot accept control connections; trying again in 100 ms");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    }
                }
            }
        }
        say_how_many(&mut turned_away);
        drop(listener);
        drop(file);
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

fn say_how_many(turned_away: &mut LogThrottle) {
    if let Some(more) = turned_away.take_suppressed(Instant::now()) {
        tracing::warn!(
            "{more} more control connections were turned away: the most that may be open is {CONNECTIONS_LIMIT}"
        );
    }
}

fn turn_away(stream: &UnixStream, turned_away: &mut LogThrottle) {
    let message = format!("{CONNECTIONS_LIMIT} control connections are open, which is the most; try again later");
    if turned_away.should_log(Instant::now()) {
        tracing::warn!("control connection turned away: {message}");
    }
    let frame = ServerFrame::Error { call: None, code: ErrorCode::Busy, message };
    if let Some(bytes) = encode(&frame) {
        // A new socket's buffer takes a short frame at once; a peer that is already gone misses nothing. Not through the
        // runtime, which would first have to hear from the kernel that the socket can be written.
        let _ = rustix::net::send(stream, &bytes, SendFlags::NOSIGNAL);
    }
}

/// How reading a frame ended without one.
enum ReadError {
    /// The peer closed between two frames, or is gone.
    Closed,
    CutShort,
    TooSlow,
    Decode(DecodeError),
}

/// What follows for the connection from a frame that was handled.
enum Next {
    GoOn,
    Close,
}

/// One connection: reads, and asks the agent.
struct Peer<A> {
    id: u64,
    shared: Arc<Shared>,
    agent: Arc<A>,
    credentials: Credentials,
    reading: BufReader<OwnedReadHalf>,
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    cut: CancellationToken,
    stop: CancellationToken,
    writer: tokio::task::JoinHandle<()>,
}

impl<A: Agent> Peer<A> {
    fn register(shared: &Arc<Shared>, agent: &Arc<A>, stream: UnixStream, stop: &CancellationToken) -> Option<Self> {
        let credentials = match stream.peer_cred() {
            Ok(peer) => Credentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().filter(|pid| *pid != 0) },
            Err(error) => {
                tracing::warn!(%error, "control connection dropped: its credentials cannot be read");
                return None;
            }
        };
        let id = shared.ids.fetch_add(1, Ordering::Relaxed);
        let (reading, writing) = stream.into_split();
        let (queue, mut queued) = mpsc::channel::<Queued>(QUEUE_FRAMES);
        let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
        let cut = CancellationToken::new();
        let (timeouts, writer_cut, writer_agent) = (shared.timeouts, cut.clone(), Arc::clone(agent));
        let writer = tokio::spawn(async move {
            // Answers come in batches, as commits do, and go so.
            let mut writing = BufWriter::with_capacity(WRITE_BYTES, writing);
            let mut frames: Vec<Queued> = Vec::with_capacity(WRITE_FRAMES);
            let write_all = async {
                while queued.recv_many(&mut frames, WRITE_FRAMES).await > 0 {
                    match write(&mut writing, &frames, timeouts.write).await {
                        Ok(Ok(())) => {
                            frames.drain(..).filter_map(|frame| frame.route).for_each(|route| {
                                writer_agent.delivered(route);
                            });
                        }
                        Ok(Err(_)) => break,
                        Err(_) => {
                            tracing::warn!(connection = id, "control connection cut: its peer does not read");
                            break;
                        }
                    }
                }
            };
            tokio::select! {
                () = write_all => {}
                () = writer_cut.cancelled() => {}
            }
            writer_cut.cancel();
        });
        let connection =
            Connection { queue: queue.clone(), room: Arc::clone(&room), cut: cut.clone(), topics: Vec::new() };
        shared.connections().insert(id, connection);
        Some(Self {
            id,
            shared: Arc::clone(shared),
            agent: Arc::clone(agent),
            credentials,
            reading: BufReader::with_capacity(READ_BYTES, reading),
            queue,
            room,
            cut,
            stop: stop.clone(),
            writer,
        })
    }

    async fn serve(mut self) {
        tracing::debug!(connection = self.id, uid = self.credentials.uid, pid = ?self.credentials.pid, "control connection");
        let (cut, stop) = (self.cut.clone(), self.stop.clone());
        tokio::select! {
            () = self.talk() => {}
            () = cut.cancelled() => {}
            () = stop.cancelled() => {}
        }
        self.shared.connections().remove(&self.id);
        let Self { id, agent, queue, mut writer, shared, .. } = self;
        drop(queue);
        // With the last sender gone the writer ends by itself once the queue is empty.
        if timeout(shared.timeouts.flush, &mut writer).await.is_err() {
            cut.cancel();
            // It has nothing left to wait for; a panic of it has been reported by the runtime.
            let _ = writer.await;
        }
        // After the last frame: what was delivered has been told by now, and only the rest is undelivered.
        agent.disconnected(id);
    }

    async fn talk(&mut self) {
        match timeout(self.shared.timeouts.hello, self.hello()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.fail(&ReadError::TooSlow).await,
        }
        loop {
            let (body, share) = match read_frame(&mut self.reading, &self.shared.receiving, self.shared.timeouts).await
            {
                Ok(frame) => frame,
                Err(error) => return self.fail(&error).await,
            };
            let is_large = body.len() > SMALL_FRAME;
            if is_large {
                self.agent.room(self.id, &self.credentials.source(), body.len()).await;
            }
            let frame = message::decode_client(&body);
            drop((body, share));
            let next = match frame {
                Ok(frame) => self.handle(frame).await,
                Err(error) => return self.fail(&ReadError::Decode(error)).await,
            };
            if is_large {
                self.agent.room_over(self.id);
            }
            match next {
                Next::GoOn => {}
                Next::Close => return,
            }
        }
    }

    /// The first frame. `false`: the connection is over.
    async fn hello(&mut self) -> bool {
        let body = match read_frame(&mut self.reading, &self.shared.receiving, self.shared.timeouts).await {
            Ok((body, _share)) => body,
            Err(error) => {
                self.fail(&error).await;
                return false;
            }
        };
        match message::decode_client(&body) {
            Ok(ClientFrame::Hello { version: message::VERSION, client }) => {
                tracing::debug!(connection = self.id, ?client, "control client");
                self.reply(ServerFrame::Welcome(self.shared.welcome.clone())).await;
                true
            }
            Ok(ClientFrame::Hello { version, .. }) => {
                let message = format!(
                    "version {version} of the control protocol is not spoken here; this agent ({}) speaks version {}: use its release",
                    self.shared.welcome.release,
                    message::VERSION
                );
                self.complain(None, ErrorCode::UnknownVersion, message).await;
                false
            }
            Ok(
                ClientFrame::Request { .. }
                | ClientFrame::Status { .. }
                | ClientFrame::JournalPage { .. }
                | ClientFrame::JournalVerify { .. }
                | ClientFrame::JournalPrune { .. }
                | ClientFrame::JournalExport { .. }
                | ClientFrame::JournalStats { .. }
                | ClientFrame::Settings { .. }
                | ClientFrame::JournalCompact { .. }
                | ClientFrame::Plan { .. }
                | ClientFrame::Logs { .. }
                | ClientFrame::Subscribe { .. }
                | ClientFrame::NotifyReady { .. },
            ) => {
                self.complain(None, ErrorCode::OutOfOrder, "hello has to come first".to_owned()).await;
                false
            }
            Err(error) => {
                self.fail(&ReadError::Decode(error)).await;
                false
            }
        }
    }

    async fn handle(&mut self, frame: ClientFrame) -> Next {
        match frame {
            ClientFrame::Hello { .. } => {
                self.complain(None, ErrorCode::OutOfOrder, "hello came twice".to_owned()).await;
                return Next::Close;
            }
            ClientFrame::Request { call, reqid, dialect, timeout_ms: _, request } => {
                if let Some(answer) = self.request(call, &reqid, dialect, request) {
                    self.reply(answer).await;
                }
            }
            ClientFrame::Status { call } => {
                let report = Box::new(self.agent.status().await);
                self.reply(ServerFrame::Status { call, report }).await;
            }
            ClientFrame::JournalPage { call, filter, cursor } => {
                let answer = match self.agent.page(filter, cursor).await {
                    Ok(page) => ServerFrame::Page { call, page },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::JournalVerify { call, anchor } => {
                let answer = match anchor.map(|anchor| anchor.parse()).transpose() {
                    Ok(anchor) => match self.agent.verify(anchor).await {
                        Ok(report) => ServerFrame::Verified { call, report },
                        Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                    },
                    Err(error) => invalid(call, AnchorError::to_string(&error)),
                };
                self.reply(answer).await;
            }
            ClientFrame::JournalPrune { call, order } => {
                // To look what would go is no more than to look.
                let allowed = if order.dry_run { Ok(()) } else { self.may_ask("journal prune") };
                let pruned = match allowed {
                    Ok(()) => self.agent.prune(order, self.credentials).await,
                    Err(reason) => Err(reason),
                };
                let answer = match pruned {
                    Ok(report) => ServerFrame::Pruned { call, report },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::JournalExport { call, cursor } => {
                let answer = match self.agent.export(cursor).await {
                    Ok(chunk) => ServerFrame::Exported { call, chunk: Box::new(chunk) },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::JournalStats { call } => {
                let answer = match self.agent.stats().await {
                    Ok(stats) => ServerFrame::Stats { call, stats: Box::new(stats) },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::Settings { call } => {
                let settings = self.agent.settings();
                self.reply(ServerFrame::Settings { call, settings }).await;
            }
            ClientFrame::JournalCompact { call, force } => {
                let compacted = match self.may_ask("journal compact") {
                    Ok(()) => self.agent.compact(force).await,
                    Err(reason) => Err(reason),
                };
                let answer = match compacted {
                    Ok(report) => ServerFrame::Compacted { call, report },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::Plan { call, config, force } => {
                let answer = match self.agent.plan(config, force).await {
                    Ok(plan) => ServerFrame::Plan { call, plan },
                    Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                };
                self.reply(answer).await;
            }
            ClientFrame::Logs { call, node, query } => {
                let answer = match NodeName::new(node) {
                    Ok(node) => match self.agent.logs(node, query).await {
                        Ok(chunk) => ServerFrame::Logs { call, chunk },
                        Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                    },
                    Err(error) => invalid(call, error.to_string()),
                };
                self.reply(answer).await;
            }
            ClientFrame::Subscribe { call, topics } => self.subscribe(call, topics).await,
            ClientFrame::NotifyReady { call, node } => {
                let answer = match NodeName::new(node) {
                    Ok(node) => match self.agent.check_in(node, self.credentials).await {
                        Ok(()) => ServerFrame::Done { call },
                        Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
                    },
                    Err(error) => invalid(call, error.to_string()),
                };
                self.reply(answer).await;
            }
        }
        Next::GoOn
    }

    /// Whether this user may ask. Who is let in by the socket's mode alone may look on, and say for a node that it is ready.
    /// What was not taken is journaled.
    fn may_ask(&self, what: &str) -> Result<(), String> {
        let allowed = self.shared.gate.admits_at_socket(self.credentials.uid);
        allowed.inspect_err(|reason| {
            self.agent.malformed(self.credentials.source(), what.to_owned(), format!("refused: {reason}"));
        })
    }

    /// Hands a request to the agent; says at once what is wrong with it.
    fn request(&self, call: u64, reqid: &str, dialect: Dialect, request: Request) -> Option<ServerFrame> {
        if let Err(reason) = self.may_ask(request.event()) {
            return Some(ServerFrame::Refused { call, reason });
        }
        let request = request.canonical();
        let reqid = match self.check(reqid, dialect, &request) {
            Ok(reqid) => reqid,
            Err(problem) => {
                self.agent.malformed(self.credentials.source(), request.event().to_owned(), problem.clone());
                return Some(invalid(call, problem));
            }
        };
        let route = Some(Route { connection: self.id, call });
        let incoming = Incoming { reqid, request, dialect, source: self.credentials.source(), route };
        match self.agent.request(incoming) {
            Ok(()) => None,
            Err(Refusal { reason }) => Some(ServerFrame::Refused { call, reason }),
        }
    }

    fn check(&self, reqid: &str, dialect: Dialect, request: &Request) -> Result<crate::api::ids::ReqId, String> {
        let size = message::request_size(request);
        if size > REQUEST_LIMIT {
            return Err(format!("the request has {size} bytes, {REQUEST_LIMIT} is the most"));
        }
        match request {
            Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::Shutdown { .. }
            | Request::AdoptState {} => {
                if dialect != Dialect::Operator {
                    return Err(format!("{} is not part of the {} dialect", request.event(), dialect.as_str()));
                }
            }
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentWelcome {}
            | Request::AgentStandby {}
            | Request::GetNodes {}
            | Request::Restart { .. }
            | Request::NodeDispatch { .. } => {}
        }
        message::check_reqid(reqid)
    }

    async fn subscribe(&self, call: u64, topics: Vec<String>) {
        if topics.len() > TOPICS_LIMIT || topics.iter().any(|topic| topic.len() > TOPIC_LIMIT) {
            let message = format!("a subscription has at most {TOPICS_LIMIT} topics of at most {TOPIC_LIMIT} bytes");
            return self.reply(invalid(call, message)).await;
        }
        // The answer goes first, so that the peer knows from when on it receives.
        self.reply(ServerFrame::Done { call }).await;
        if let Some(connection) = self.shared.connections().get_mut(&self.id) {
            connection.topics.clone_from(&topics);
        }
        self.agent.subscribed(self.id, &topics);
    }

    /// Says what ended the connection, to the peer and, if it sent something wrong, to the agent.
    async fn fail(&self, error: &ReadError) {
        let (code, message) = match error {
            ReadError::Closed => return,
            ReadError::CutShort => (ErrorCode::CutShort, "the connection ended inside a frame".to_owned()),
            ReadError::TooSlow => {
                let message = "a whole frame did not come in time".to_owned();
                return self.reply(ServerFrame::Error { call: None, code: ErrorCode::TooSlow, message }).await;
            }
            ReadError::Decode(error) => (error.code(), error.to_string()),
        };
        self.complain(None, code, message).await;
    }

    async fn complain(&self, call: Option<u64>, code: ErrorCode, message: String) {
        tracing::debug!(connection = self.id, ?code, message, "bad input on the control socket");
        self.agent.malformed(self.credentials.source(), String::new(), message.clone());
        self.reply(ServerFrame::Error { call, code, message }).await;
    }

    /// Queues an answer to what this connection asked, waiting for room: who does not read is not read from.
    async fn reply(&self, frame: ServerFrame) {
        let Some(bytes) = encode(&frame) else { return };
        let Ok(share) = Arc::clone(&self.room).acquire_many_owned(kib(bytes.len())).await else { return };
        // A closed queue means that the writer is gone, and the connection with it.
        let _ = self.queue.send(Queued { bytes, _share: share, route: None }).await;
    }
}

fn invalid(call: u64, message: String) -> ServerFrame {
    ServerFrame::Error { call: Some(call), code: ErrorCode::Invalid, message }
}

/// Reads one frame's body, with its share of the budget for large ones.
async fn read_frame<'a>(
    stream: &mut BufReader<OwnedReadHalf>,
    receiving: &'a Semaphore,
    timeouts: Timeouts,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'a>>), ReadError> {
    let first = stream.read_u8().await.map_err(|_| ReadError::Closed)?;
    let rest = async {
        let mut others = [0; HEADER - 1];
        stream.read_exact(&mut others).await.map_err(cut_short)?;
        let [second, third, fourth] = others;
        let length =
            message::body_length([first, second, third, fourth], CLIENT_FRAME_LIMIT).map_err(ReadError::Decode)?;
        let share = if length > SMALL_FRAME {
            Some(receiving.acquire_many(kib(length)).await.map_err(|_| ReadError::Closed)?)
        } else {
            None
        };
        // Grows with what has come, not with what was claimed.
        let mut body = Vec::new();
        stream.take(length as u64).read_to_end(&mut body).await.map_err(cut_short)?;
        if body.len() < length {
            return Err(ReadError::CutShort);
        }
        Ok((body, share))
    };
    timeout(timeouts.frame, rest).await.unwrap_or(Err(ReadError::TooSlow))
}

fn cut_short(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::CutShort } else { ReadError::Closed }
}

#[cfg(test)]
mod tests;

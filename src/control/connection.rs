//! One connection: a task that reads and asks the agent, and one that writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::agent::{ControlAgent, Credentials};
use super::connections::{Connections, Entry, Frame, NAMES, QUEUE, encode};
use super::frame::{ReadError, SMALL_FRAME, read_frame};
use super::message::{self, ClientFrame, ErrorCode, ServerFrame, TOPIC_LIMIT, TOPICS_LIMIT};
use crate::api::event::{Dialect, Incoming, Request, Route};
use crate::api::head::AnchorError;
use crate::api::history::Which;
use crate::api::ids::{NodeName, ReqId};
use crate::transport::Refusal;
use crate::transport::outgoing::{Outgoing, Queued};
use crate::transport::request;

/// Frames written at once if this many wait: as many as a busy controller has in flight.
const WRITE_FRAMES: usize = 64;
/// The buffer that gathers them; larger frames are written directly.
const WRITE_BYTES: usize = 16 << 10;
/// Bytes per read: the requests that a busy controller has in flight arrive together.
const READ_BYTES: usize = 16 << 10;

/// What to do with the connection after a frame was handled.
enum Next {
    GoOn,
    Close,
}

/// One connection: reads, and asks the agent.
pub(super) struct Connection<A> {
    id: u64,
    connections: Arc<Connections>,
    agent: Arc<A>,
    credentials: Credentials,
    reading: BufReader<OwnedReadHalf>,
    outgoing: Outgoing<Frame>,
    stop: CancellationToken,
    writer: tokio::task::JoinHandle<()>,
}

impl<A: ControlAgent> Connection<A> {
    /// `None`: the peer's credentials are not available, and the connection is dropped.
    pub fn register(
        connections: &Arc<Connections>,
        agent: &Arc<A>,
        stream: UnixStream,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let credentials = match stream.peer_cred() {
            Ok(peer) => Credentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().filter(|pid| *pid != 0) },
            Err(error) => {
                tracing::warn!(%error, "control connection dropped: its credentials cannot be read");
                return None;
            }
        };
        let id = connections.ids.fetch_add(1, Ordering::Relaxed);
        let (reading, writing) = stream.into_split();
        let (outgoing, queued) = Outgoing::new(id, NAMES, QUEUE);
        let time_limit = connections.timeouts.write;
        let writer = write_all(id, writing, queued, outgoing.cut().clone(), time_limit, Arc::clone(agent));
        let writer = tokio::spawn(writer);
        connections.entries().insert(id, Entry { outgoing: outgoing.clone(), topics: Vec::new() });
        Some(Self {
            id,
            connections: Arc::clone(connections),
            agent: Arc::clone(agent),
            credentials,
            reading: BufReader::with_capacity(READ_BYTES, reading),
            outgoing,
            stop: stop.clone(),
            writer,
        })
    }

    pub async fn serve(mut self) {
        tracing::debug!(connection = self.id, uid = self.credentials.uid, pid = ?self.credentials.pid, "control connection");
        let (cut, stop) = (self.outgoing.cut().clone(), self.stop.clone());
        tokio::select! {
            () = self.talk() => {}
            () = cut.cancelled() => {}
            () = stop.cancelled() => {}
        }
        self.connections.entries().remove(&self.id);
        let Self { id, agent, outgoing, mut writer, connections, .. } = self;
        drop(outgoing);
        // Once the last sender is gone, the writer ends when the queue is empty.
        if timeout(connections.timeouts.flush, &mut writer).await.is_err() {
            cut.cancel();
            // It has nothing left to wait for; the runtime has reported a panic of it.
            let _ = writer.await;
        }
        // After the last frame: deliveries have been reported by now, so only the rest is undelivered.
        agent.disconnected(id);
    }

    async fn talk(&mut self) {
        match timeout(self.connections.timeouts.hello, self.hello()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.fail(&ReadError::TooSlow).await,
        }
        loop {
            let (body, share) =
                match read_frame(&mut self.reading, &self.connections.receiving, self.connections.timeouts.frame).await
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
        let body =
            match read_frame(&mut self.reading, &self.connections.receiving, self.connections.timeouts.frame).await {
                Ok((body, _share)) => body,
                Err(error) => {
                    self.fail(&error).await;
                    return false;
                }
            };
        match message::decode_client(&body) {
            Ok(ClientFrame::Hello { version: message::VERSION, client }) => {
                tracing::debug!(connection = self.id, ?client, "control client");
                self.reply(ServerFrame::Welcome(self.connections.welcome.clone())).await;
                true
            }
            Ok(ClientFrame::Hello { version, .. }) => {
                let message = format!(
                    "version {version} of the control protocol is not spoken here; this agent ({}) speaks version {}: use its release",
                    self.connections.welcome.release,
                    message::VERSION
                );
                self.complain(None, ErrorCode::UnknownVersion, message).await;
                false
            }
            Ok(
                ClientFrame::Request { .. }
                | ClientFrame::Status { .. }
                | ClientFrame::Figures { .. }
                | ClientFrame::JournalPage { .. }
                | ClientFrame::JournalVerify { .. }
                | ClientFrame::JournalPrune { .. }
                | ClientFrame::JournalExport { .. }
                | ClientFrame::JournalStats { .. }
                | ClientFrame::Settings { .. }
                | ClientFrame::JournalCompact { .. }
                | ClientFrame::Plan { .. }
                | ClientFrame::ConfigCheck { .. }
                | ClientFrame::ConfigHistory { .. }
                | ClientFrame::ConfigShow { .. }
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

    #[expect(clippy::too_many_lines, reason = "one short arm for each kind of frame")]
    async fn handle(&mut self, frame: ClientFrame) -> Next {
        let reply = match frame {
            ClientFrame::Hello { .. } => {
                self.complain(None, ErrorCode::OutOfOrder, "hello came twice".to_owned()).await;
                return Next::Close;
            }
            ClientFrame::Subscribe { call, topics } => {
                self.subscribe(call, topics).await;
                return Next::GoOn;
            }
            ClientFrame::Request { call, reqid, dialect, timeout_ms: _, request } => {
                match self.request(call, &reqid, dialect, request) {
                    Some(reply) => reply,
                    None => return Next::GoOn,
                }
            }
            ClientFrame::Status { call } => ServerFrame::Status { call, report: Box::new(self.agent.status().await) },
            ClientFrame::Figures { call } => {
                let figures = self.agent.figures().await;
                answer(call, figures, |figures| ServerFrame::Figures { call, figures: Box::new(figures) })
            }
            ClientFrame::Settings { call } => ServerFrame::Settings { call, settings: self.agent.settings() },
            ClientFrame::JournalPage { call, filter, cursor } => {
                answer(call, self.agent.page(filter, cursor).await, |page| ServerFrame::Page { call, page })
            }
            ClientFrame::JournalVerify { call, anchor } => match anchor.map(|anchor| anchor.parse()).transpose() {
                Ok(anchor) => {
                    answer(call, self.agent.verify(anchor).await, |report| ServerFrame::Verified { call, report })
                }
                Err(error) => invalid(call, AnchorError::to_string(&error)),
            },
            ClientFrame::JournalPrune { call, order } => {
                // A dry run changes nothing.
                let allowed = if order.dry_run { Ok(()) } else { self.may_ask("journal prune") };
                let pruned = match allowed {
                    Ok(()) => self.agent.prune(order, self.credentials).await,
                    Err(reason) => Err(reason),
                };
                answer(call, pruned, |report| ServerFrame::Pruned { call, report })
            }
            ClientFrame::JournalExport { call, cursor } => {
                let chunk = self.agent.export(cursor).await;
                answer(call, chunk, |chunk| ServerFrame::Exported { call, chunk: Box::new(chunk) })
            }
            ClientFrame::JournalStats { call } => {
                let stats = self.agent.stats().await;
                answer(call, stats, |stats| ServerFrame::Stats { call, stats: Box::new(stats) })
            }
            ClientFrame::JournalCompact { call, force } => {
                let compacted = match self.may_ask("journal compact") {
                    Ok(()) => self.agent.compact(force).await,
                    Err(reason) => Err(reason),
                };
                answer(call, compacted, |report| ServerFrame::Compacted { call, report })
            }
            ClientFrame::Plan { call, config, force } => {
                answer(call, self.agent.plan(config, force).await, |plan| ServerFrame::Plan { call, plan })
            }
            ClientFrame::ConfigCheck { call, config } => {
                // It runs the nodes' program.
                let checked = match self.may_ask("config check --host") {
                    Ok(()) => self.agent.check_host(config).await,
                    Err(reason) => Err(reason),
                };
                answer(call, checked, |report| ServerFrame::ConfigChecked { call, report })
            }
            ClientFrame::ConfigHistory { call } => {
                let past = self.agent.config_history().await;
                answer(call, past, |configurations| ServerFrame::ConfigHistory { call, configurations })
            }
            ClientFrame::ConfigShow { call, which } => {
                let shown = self.agent.config_show(Which::parse(&which)).await;
                answer(call, shown, |(about, configuration)| ServerFrame::ConfigShown {
                    call,
                    about: Box::new(about),
                    configuration,
                })
            }
            ClientFrame::Logs { call, node, query } => match NodeName::new(node) {
                Ok(node) => answer(call, self.agent.logs(node, query).await, |chunk| ServerFrame::Logs { call, chunk }),
                Err(error) => invalid(call, error.to_string()),
            },
            ClientFrame::NotifyReady { call, node } => match NodeName::new(node) {
                Ok(node) => {
                    let known = self.agent.check_in(node, self.credentials).await;
                    answer(call, known, |()| ServerFrame::Done { call })
                }
                Err(error) => invalid(call, error.to_string()),
            },
        };
        self.reply(reply).await;
        Next::GoOn
    }

    /// Whether this user may send requests. A user that only the socket's mode admits may read, and report that a node
    /// is ready. A refusal is journaled.
    fn may_ask(&self, what: &str) -> Result<(), String> {
        let allowed = self.connections.gate.admits_at_socket(self.credentials.uid);
        allowed.inspect_err(|reason| {
            self.agent.malformed(self.credentials.source(), what.to_owned(), format!("refused: {reason}"));
        })
    }

    /// Hands a request to the agent; returns an answer only if the request is not accepted.
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

    fn check(&self, reqid: &str, dialect: Dialect, request: &Request) -> Result<ReqId, String> {
        request::check_size(request)?;
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
        // The answer goes first, so that the peer knows from when on it receives publications.
        self.reply(ServerFrame::Done { call }).await;
        if let Some(entry) = self.connections.entries().get_mut(&self.id) {
            entry.topics.clone_from(&topics);
        }
        self.agent.subscribed();
    }

    /// Reports what ended the connection, to the peer and, if it sent something wrong, to the agent.
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

    /// Queues an answer to a call of this connection, waiting for room.
    async fn reply(&self, frame: ServerFrame) {
        let Some(bytes) = encode(&frame) else { return };
        let length = bytes.len();
        self.outgoing.push(bytes, length).await;
    }
}

/// The answer to a call that can fail.
fn answer<T>(call: u64, outcome: Result<T, String>, frame: impl FnOnce(T) -> ServerFrame) -> ServerFrame {
    match outcome {
        Ok(value) => frame(value),
        Err(message) => ServerFrame::Error { call: Some(call), code: ErrorCode::Failed, message },
    }
}

fn invalid(call: u64, message: String) -> ServerFrame {
    ServerFrame::Error { call: Some(call), code: ErrorCode::Invalid, message }
}

/// The writing task: sends what is queued until the queue is closed and empty, the connection is cut, or its peer does
/// not read.
async fn write_all<A: ControlAgent>(
    id: u64,
    writing: OwnedWriteHalf,
    mut queued: mpsc::Receiver<Queued<Frame>>,
    cut: CancellationToken,
    time_limit: Duration,
    agent: Arc<A>,
) {
    // Answers come in batches, as commits do, and are written in batches.
    let mut writing = BufWriter::with_capacity(WRITE_BYTES, writing);
    let mut frames = Vec::with_capacity(WRITE_FRAMES);
    let write_all = async {
        while queued.recv_many(&mut frames, WRITE_FRAMES).await > 0 {
            match write_frames(&mut writing, &frames, time_limit).await {
                Ok(Ok(())) => {
                    frames.drain(..).filter_map(|frame| frame.route).for_each(|route| agent.delivered(route));
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
        () = cut.cancelled() => {}
    }
    cut.cancel();
}

/// Writes frames; each of them, and then the flush of all, within `time_limit`.
async fn write_frames(
    writing: &mut BufWriter<OwnedWriteHalf>,
    frames: &[Queued<Frame>],
    time_limit: Duration,
) -> Result<io::Result<()>, Elapsed> {
    for frame in frames {
        if let Err(error) = timeout(time_limit, writing.write_all(&frame.message)).await? {
            return Ok(Err(error));
        }
    }
    timeout(time_limit, writing.flush()).await
}

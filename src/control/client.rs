//! The client side of the control socket: blocking, with a deadline for every wait.
//!
//! Several calls may be in flight; answers are kept until they are fetched, and so are publications on a subscribed
//! connection. One connection serves one thread.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::address::Address;
use super::message::{
    self, ClientFrame, DecodeError, EncodeError, ErrorCode, HEADER, LogChunk, LogQuery, Publication,
    SERVER_FRAME_LIMIT, ServerFrame, Welcome,
};
use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Request, Response};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::figures::Figures;
use crate::api::head::Anchor;
use crate::api::history::PastReport;
use crate::api::ids::Seq;
use crate::api::plan::Plan;
use crate::api::preflight::HostReport;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;

/// For connecting, for the agent's `Welcome`, and for the agent to read a frame.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket, nobody listens on it, or the listener sends no `Welcome`.
    #[error("no agent answers at {}", path.display())]
    Unreachable {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says, or what was missing.
        source: io::Error,
    },
    /// The deadline has passed. The agent may still be working on it: the outcome can be queried under the same reqid.
    #[error("no answer came in time")]
    TimedOut,
    /// The connection ended before the answer came.
    #[error("the agent closed the connection")]
    Closed,
    /// The agent answered with an error.
    #[error("the agent says: {message}")]
    Agent {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The agent sent bytes that are not a frame.
    #[error("the agent's frame cannot be read")]
    Decode(#[from] DecodeError),
    /// The request does not fit into a frame.
    #[error("the request is too large: {0}")]
    Encode(#[from] EncodeError),
    /// The answer's kind is not that of the call.
    #[error(
        "the agent's answer does not belong to what was asked: it may be of another release; restart it with this one"
    )]
    Mismatch,
    /// Reading or writing failed.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The outcome, success or failure.
    Response(Response),
    /// Not journaled, and the reqid is not used up.
    Refused(String),
}

/// When to stop waiting; `None` waits without limit.
pub type Deadline = Option<Instant>;

/// A deadline `ms` from now.
pub fn within_ms(ms: u64) -> Deadline {
    Instant::now().checked_add(Duration::from_millis(ms))
}

/// A connection to an agent, after the greetings.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    welcome: Welcome,
    next_call: u64,
    /// Bytes received that are not a complete frame yet.
    received: Vec<u8>,
    answers: BTreeMap<u64, ServerFrame>,
    publications: VecDeque<(String, Publication)>,
    /// When the last answer to a request was decided, if that was before the request was sent.
    replayed: Option<Timestamp>,
}

impl Client {
    /// Connects and exchanges greetings. `client` names the program, for the agent's log.
    pub fn connect(path: &Path, client: &str) -> Result<Self, Error> {
        Self::connect_by(path, client, None)
    }

    /// The same, but waits no longer than `deadline`.
    pub fn connect_by(path: &Path, client: &str, deadline: Deadline) -> Result<Self, Error> {
        let greeted_by = Instant::now().checked_add(CONNECT_TIMEOUT).into_iter().chain(deadline).min();
        let stream = open(path).map_err(|source| Error::Unreachable { path: path.to_owned(), source })?;
        let nobody = Welcome {
            version: message::VERSION,
            agent: String::new(),
            release: String::new(),
            pid: 0,
            state_dir: String::new(),
            request_timeout_ms: 0,
            stop_timeout_ms: 0,
            ready_timeout_ms: 0,
        };
        let mut connected = Self {
            stream,
            welcome: nobody,
            next_call: 1,
            received: Vec::new(),
            answers: BTreeMap::new(),
            publications: VecDeque::new(),
            replayed: None,
        };
        connected.send(&ClientFrame::Hello { version: message::VERSION, client: client.to_owned() })?;
        match connected.read_frame(greeted_by) {
            Ok(ServerFrame::Welcome(welcome)) => connected.welcome = welcome,
            Ok(ServerFrame::Error { code, message, .. }) => return Err(Error::Agent { code, message }),
            Ok(_) => return Err(Error::Mismatch),
            Err(Error::TimedOut) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, "it accepts connections and does not greet");
                return Err(Error::Unreachable { path: path.to_owned(), source });
            }
            Err(Error::Closed) => {
                let source =
                    io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection without greeting");
                return Err(Error::Unreachable { path: path.to_owned(), source });
            }
            Err(other) => return Err(other),
        }
        Ok(connected)
    }

    /// The agent's greeting.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// When the last answer received was decided, if it was for an earlier request with the same reqid.
    pub fn replayed(&self) -> Option<Timestamp> {
        self.replayed
    }

    /// Sends a request and waits for its outcome.
    pub fn request(
        &mut self,
        reqid: &str,
        request: Request,
        dialect: Dialect,
        timeout_ms: Option<u64>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let call = self.submit(reqid, request, dialect, timeout_ms)?;
        self.answer(call, deadline)
    }

    /// Sends a request; [`Client::answer`] waits for its outcome. `timeout_ms`: agents of the first release answer
    /// within this; later ones once there is an outcome.
    pub fn submit(
        &mut self,
        reqid: &str,
        request: Request,
        dialect: Dialect,
        timeout_ms: Option<u64>,
    ) -> Result<u64, Error> {
        let reqid = reqid.to_owned();
        self.call(|call| ClientFrame::Request { call, reqid, dialect, timeout_ms, request })
    }

    /// The outcome of the request that [`Client::submit`] sent.
    pub fn answer(&mut self, call: u64, deadline: Deadline) -> Result<Answer, Error> {
        match self.wait(call, deadline)? {
            ServerFrame::Response { response, replayed, .. } => {
                self.replayed = replayed;
                Ok(Answer::Response(response))
            }
            ServerFrame::Refused { reason, .. } => Ok(Answer::Refused(reason)),
            other => Err(unexpected(other)),
        }
    }

    /// The state of the agent, its journal and its nodes.
    pub fn status(&mut self, deadline: Deadline) -> Result<StatusReport, Error> {
        let call = self.call(|call| ClientFrame::Status { call })?;
        match self.wait(call, deadline)? {
            ServerFrame::Status { report, .. } => Ok(*report),
            other => Err(unexpected(other)),
        }
    }

    /// What deploying `config` would do.
    pub fn plan(&mut self, config: Configuration, force: bool, deadline: Deadline) -> Result<Plan, Error> {
        let call = self.call(|call| ClientFrame::Plan { call, config, force })?;
        match self.wait(call, deadline)? {
            ServerFrame::Plan { plan, .. } => Ok(plan),
            other => Err(unexpected(other)),
        }
    }

    /// Whether the nodes of `config` can run on the agent's host.
    pub fn check_host(&mut self, config: Configuration, deadline: Deadline) -> Result<HostReport, Error> {
        let call = self.call(|call| ClientFrame::ConfigCheck { call, config })?;
        match self.wait(call, deadline)? {
            ServerFrame::ConfigChecked { report, .. } => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// The configurations that were to run on the agent's host, newest first.
    pub fn config_history(&mut self, deadline: Deadline) -> Result<Vec<PastReport>, Error> {
        let call = self.call(|call| ClientFrame::ConfigHistory { call })?;
        match self.wait(call, deadline)? {
            ServerFrame::ConfigHistory { configurations, .. } => Ok(configurations),
            other => Err(unexpected(other)),
        }
    }

    /// One of them: `@0`, `@-1`, or an id.
    pub fn config_show(&mut self, which: &str, deadline: Deadline) -> Result<(PastReport, Configuration), Error> {
        let which = which.to_owned();
        let call = self.call(|call| ClientFrame::ConfigShow { call, which })?;
        match self.wait(call, deadline)? {
            ServerFrame::ConfigShown { about, configuration, .. } => Ok((*about, configuration)),
            other => Err(unexpected(other)),
        }
    }

    /// The page of the journal that begins at `cursor`, or at the first row.
    pub fn page(&mut self, filter: &Filter, cursor: Option<Seq>, deadline: Deadline) -> Result<Page, Error> {
        let call = self.ask_page(filter, cursor)?;
        self.take_page(call, deadline)
    }

    /// Asks for a page; [`Client::take_page`] waits for it.
    pub fn ask_page(&mut self, filter: &Filter, cursor: Option<Seq>) -> Result<u64, Error> {
        self.call(|call| ClientFrame::JournalPage { call, filter: filter.clone(), cursor })
    }

    /// The page that [`Client::ask_page`] asked for.
    pub fn take_page(&mut self, call: u64, deadline: Deadline) -> Result<Page, Error> {
        match self.wait(call, deadline)? {
            ServerFrame::Page { page, .. } => Ok(page),
            other => Err(unexpected(other)),
        }
    }

    /// Removes the journal's oldest entries, or reports what would be removed.
    pub fn prune(&mut self, order: PruneOrder, deadline: Deadline) -> Result<PruneReport, Error> {
        let call = self.call(|call| ClientFrame::JournalPrune { call, order })?;
        match self.wait(call, deadline)? {
            ServerFrame::Pruned { report, .. } => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// A chunk of the journal as a stream, from `cursor` or from the beginning.
    pub fn export(&mut self, cursor: Option<&ExportCursor>, deadline: Deadline) -> Result<ExportChunk, Error> {
        let cursor = cursor.cloned().map(Box::new);
        let call = self.call(|call| ClientFrame::JournalExport { call, cursor })?;
        match self.wait(call, deadline)? {
            ServerFrame::Exported { chunk, .. } => Ok(*chunk),
            other => Err(unexpected(other)),
        }
    }

    /// Has the agent check its journal, and whether it continues the head noted as `anchor`.
    pub fn verify(&mut self, anchor: Option<Anchor>, deadline: Deadline) -> Result<VerifyReport, Error> {
        let anchor = anchor.map(|anchor| anchor.to_string());
        let call = self.call(|call| ClientFrame::JournalVerify { call, anchor })?;
        match self.wait(call, deadline)? {
            ServerFrame::Verified { report, .. } => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// Statistics of the journal.
    pub fn stats(&mut self, deadline: Deadline) -> Result<JournalStats, Error> {
        let call = self.call(|call| ClientFrame::JournalStats { call })?;
        match self.wait(call, deadline)? {
            ServerFrame::Stats { stats, .. } => Ok(*stats),
            other => Err(unexpected(other)),
        }
    }

    /// What each node uses and captures.
    pub fn figures(&mut self, deadline: Deadline) -> Result<Figures, Error> {
        let call = self.call(|call| ClientFrame::Figures { call })?;
        match self.wait(call, deadline)? {
            ServerFrame::Figures { figures, .. } => Ok(*figures),
            other => Err(unexpected(other)),
        }
    }

    /// The settings that the agent runs with.
    pub fn settings(&mut self, deadline: Deadline) -> Result<Vec<SettingReport>, Error> {
        let call = self.call(|call| ClientFrame::Settings { call })?;
        match self.wait(call, deadline)? {
            ServerFrame::Settings { settings, .. } => Ok(settings),
            other => Err(unexpected(other)),
        }
    }

    /// Compacts the journal's files.
    pub fn compact(&mut self, force: bool, deadline: Deadline) -> Result<CompactReport, Error> {
        let call = self.call(|call| ClientFrame::JournalCompact { call, force })?;
        match self.wait(call, deadline)? {
            ServerFrame::Compacted { report, .. } => Ok(report),
            other => Err(unexpected(other)),
        }
    }

    /// A chunk of a node's output.
    pub fn logs(&mut self, node: &str, query: LogQuery, deadline: Deadline) -> Result<LogChunk, Error> {
        let call = self.call(|call| ClientFrame::Logs { call, node: node.to_owned(), query })?;
        match self.wait(call, deadline)? {
            ServerFrame::Logs { chunk, .. } => Ok(chunk),
            other => Err(unexpected(other)),
        }
    }

    /// Receives, from now on, what is published under these topic prefixes; `[""]` is everything.
    pub fn subscribe(&mut self, topics: &[&str], deadline: Deadline) -> Result<(), Error> {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let call = self.call(|call| ClientFrame::Subscribe { call, topics })?;
        self.wait_done(call, deadline)
    }

    /// Reports that this node is ready.
    pub fn notify_ready(&mut self, node: &str, deadline: Deadline) -> Result<(), Error> {
        let call = self.call(|call| ClientFrame::NotifyReady { call, node: node.to_owned() })?;
        self.wait_done(call, deadline)
    }

    /// The next publication on a topic that this connection subscribes to.
    pub fn next_publication(&mut self, deadline: Deadline) -> Result<(String, Publication), Error> {
        loop {
            if let Some(publication) = self.publications.pop_front() {
                return Ok(publication);
            }
            self.take_in(deadline)?;
        }
    }

    fn call(&mut self, frame: impl FnOnce(u64) -> ClientFrame) -> Result<u64, Error> {
        let call = self.next_call;
        self.next_call += 1;
        self.send(&frame(call))?;
        Ok(call)
    }

    fn wait_done(&mut self, call: u64, deadline: Deadline) -> Result<(), Error> {
        match self.wait(call, deadline)? {
            ServerFrame::Done { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn wait(&mut self, call: u64, deadline: Deadline) -> Result<ServerFrame, Error> {
        loop {
            match self.answers.remove(&call) {
                Some(ServerFrame::Error { code, message, .. }) => return Err(Error::Agent { code, message }),
                Some(frame) => return Ok(frame),
                None => self.take_in(deadline)?,
            }
        }
    }

    /// Receives one frame and stores it where it is looked up.
    fn take_in(&mut self, deadline: Deadline) -> Result<(), Error> {
        let frame = self.read_frame(deadline)?;
        match (frame.call(), frame) {
            (Some(call), frame) => {
                self.answers.insert(call, frame);
            }
            (None, ServerFrame::Published { topic, what }) => self.publications.push_back((topic, what)),
            (None, ServerFrame::Error { code, message, .. }) => return Err(Error::Agent { code, message }),
            (None, _) => return Err(Error::Mismatch),
        }
        Ok(())
    }

    fn send(&mut self, frame: &ClientFrame) -> Result<(), Error> {
        let bytes = message::encode_client(frame)?;
        match self.stream.write_all(&bytes) {
            Ok(()) => Ok(()),
            // An agent that closes a connection has usually said why.
            Err(error) => match self.read_frame(Instant::now().checked_add(CONNECT_TIMEOUT)) {
                Ok(ServerFrame::Error { code, message, .. }) => Err(Error::Agent { code, message }),
                Ok(_) | Err(_) => Err(Error::Connection(error)),
            },
        }
    }

    fn read_frame(&mut self, deadline: Deadline) -> Result<ServerFrame, Error> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(frame);
            }
            let left = match deadline {
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => Some(left),
                    Some(_) | None => return Err(Error::TimedOut),
                },
                None => None,
            };
            self.stream.set_read_timeout(left).map_err(Error::Connection)?;
            let mut piece = [0; 64 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Error::Closed),
                Ok(length) => self.received.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    io::ErrorKind::ConnectionReset => return Err(Error::Closed),
                    _ => return Err(Error::Connection(error)),
                },
            }
        }
    }

    fn buffered_frame(&mut self) -> Result<Option<ServerFrame>, Error> {
        let Some(header) = self.received.first_chunk::<HEADER>() else { return Ok(None) };
        let length = message::body_length(*header, SERVER_FRAME_LIMIT)?;
        let Some(body) = self.received.get(HEADER..HEADER + length) else { return Ok(None) };
        let frame = message::decode_server(body)?;
        self.received.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

fn unexpected(frame: ServerFrame) -> Error {
    match frame {
        ServerFrame::Error { code, message, .. } => Error::Agent { code, message },
        ServerFrame::Welcome(_)
        | ServerFrame::Response { .. }
        | ServerFrame::Refused { .. }
        | ServerFrame::Status { .. }
        | ServerFrame::Figures { .. }
        | ServerFrame::Page { .. }
        | ServerFrame::Verified { .. }
        | ServerFrame::Pruned { .. }
        | ServerFrame::Exported { .. }
        | ServerFrame::Stats { .. }
        | ServerFrame::Settings { .. }
        | ServerFrame::Compacted { .. }
        | ServerFrame::Plan { .. }
        | ServerFrame::ConfigChecked { .. }
        | ServerFrame::ConfigHistory { .. }
        | ServerFrame::ConfigShown { .. }
        | ServerFrame::Logs { .. }
        | ServerFrame::Done { .. }
        | ServerFrame::Published { .. } => Error::Mismatch,
    }
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let address = Address::of(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Limits connecting too: a listener that does not accept lets its backlog fill up.
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(address.path())?)?;
    Ok(UnixStream::from(socket))
}

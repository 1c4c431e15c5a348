//! One connection: TLS, Broker's handshake, the peering, its end.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::nodes::{self, Said};
use super::outbox::Outbox;
use super::{Agent, FRAME_LIMIT, Peered, SHARE, Shared, locked};
use crate::api::event::Source;
use crate::api::ids::NodeName;
use crate::api::report::chain;
use crate::broker::handshake::{self, ConnectionId, Established, Handshake, HandshakeError, Outcome, Step};
use crate::broker::peering::{Due, Message, Peering, Received};
use crate::broker::wire::{EndpointId, Filter, Frame, FrameError, FrameReader};
use crate::dialect::node;
use crate::hub::intake::Publisher;
use crate::hub::{Direction, Place};
use crate::identify::{self, Caller, Ends, Verdict};
use crate::tls;

/// Read at once.
const BUFFER: usize = 16 << 10;
/// A message longer than this waits for room.
const LARGE_MESSAGE: usize = 64 << 10;
/// The longest ping that is answered: its answer is as long.
const PING_LIMIT: usize = 4 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How peers of other hosts become known.
const ADVICE: &str = "broker_certificate, broker_key and broker_cafile on both sides make it known, broker_insecure lets \
                      everybody in";

/// For the last bytes of a connection.
const FAREWELL: Duration = Duration::from_millis(500);

type Socket = Box<dyn Stream>;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// There was a peering, and this is why it is over.
    Peering(String),
    /// There is a peering with this endpoint over another connection.
    Redundant(EndpointId),
    /// It did not come to a peering. `malformed`: because of what the peer sent.
    Handshake { reason: String, malformed: bool },
    /// It may not ask, for this reason, and cannot be a node either.
    Refused(String),
    /// The agent ends.
    Stopped,
}

impl Ending {
    fn handshake(reason: impl Into<String>) -> Self {
        Self::Handshake { reason: reason.into(), malformed: false }
    }
}

/// A connection's place among the others, given back when dropped.
pub(super) struct Link<A: Agent> {
    id: ConnectionId,
    shared: Arc<Shared>,
    agent: Arc<A>,
    place: Place<Arc<[u8]>>,
    direction: Direction,
    address: SocketAddr,
    ends: Ends,
    source: Source,
    /// Whose its other end is, on this host.
    uid: Option<u32>,
    /// Why it may not ask for anything, if it is let in as a node alone.
    only_as_node: Option<String>,
    /// What it wants to receive.
    wanted: Filter,
    /// What protects it, for `status`.
    tls: String,
    /// The agent knows of this connection.
    is_peered: bool,
}

impl<A: Agent> Drop for Link<A> {
    fn drop(&mut self) {
        self.shared.hub.forget(self.id.0);
        locked(&self.shared.peered).remove(&self.id.0);
        self.shared.release(self.id);
        // Who never became a peer never asked for anything: connections that come and go cost the agent nothing.
        if self.is_peered {
            self.agent.disconnected(self.id.0);
        }
    }
}

impl<A: Agent> Link<A> {
    /// `None`: there is no place for it, or it is gone already.
    pub fn register(
        shared: &Arc<Shared>,
        agent: &Arc<A>,
        tcp: &TcpStream,
        direction: Direction,
        address: SocketAddr,
    ) -> Option<Self> {
        let local = tcp.local_addr().ok()?;
        let ends = identify::ends(tcp, local, address).ok()?;
        let place = shared.hub.register(direction, local.ip().to_canonical())?;
        let id = ConnectionId(place.id);
        let (shared, agent) = (Arc::clone(shared), Arc::clone(agent));
        let source = Source { transport: "broker".to_owned(), peer: identify::peer(address, None, None) };
        Some(Self {
            id,
            shared,
            agent,
            place,
            direction,
            address,
            ends,
            source,
            uid: None,
            only_as_node: None,
            wanted: Filter::default(),
            tls: "none".to_owned(),
            is_peered: false,
        })
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Serves the connection to its end. `peered` is called once there is a peering.
    pub async fn serve(mut self, tcp: TcpStream, stop: CancellationToken, peered: impl FnOnce(EndpointId)) -> Ending {
        let cut = self.place.cut.clone();
        let lived = tokio::select! {
            ending = self.live(tcp, &stop, peered) => Some(ending),
            () = cut.cancelled() => None,
        };
        match lived {
            Some(ending) => ending,
            None if self.is_peered => Ending::Peering("it does not read what it is sent".to_owned()),
            None => Ending::handshake("newer connections took its place before it was a peer"),
        }
    }

    async fn live(&mut self, tcp: TcpStream, stop: &CancellationToken, peered: impl FnOnce(EndpointId)) -> Ending {
        // Responses are small and somebody waits for each.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(connection = self.id.0, %error, "TCP_NODELAY cannot be set");
        }
        let begun = tokio::select! {
            () = stop.cancelled() => return Ending::Stopped,
            begun = self.begin(tcp) => begun,
        };
        let (socket, reader, established) = match begun {
            Ok(begun) => begun,
            Err(ending) => {
                self.judge(&ending);
                return ending;
            }
        };
        locked(&self.shared.troubles).remove(&self.address.ip());
        peered(established.remote);
        let remote = established.remote;
        let ending = self.talk(socket, reader, established, stop).await;
        if let Ending::Peering(reason) = &ending {
            tracing::debug!(connection = self.id.0, address = %self.address, %remote, "peering ended: {reason}");
        }
        ending
    }

    /// Who dials us although there is a peering may know better than we do whether that is still alive.
    fn judge(&self, ending: &Ending) {
        if let (Ending::Redundant(remote), Direction::Accepted) = (ending, self.direction) {
            self.shared.doubt(*remote);
        }
    }

    /// TLS and Broker's handshake, together within one deadline.
    async fn begin(&mut self, tcp: TcpStream) -> Result<(Socket, FrameReader, Established), Ending> {
        let begun = self.shared.now();
        let limit = self.shared.timeouts.handshake;
        let mut subject = None;
        let mut socket: Socket = match &self.shared.tls {
            None => Box::new(tcp),
            Some(context) => {
                let done = match self.direction {
                    Direction::Accepted => context.accept(tcp, limit).await,
                    Direction::Dialled => context.connect(tcp, limit).await,
                };
                let stream = done.map_err(|error| {
                    let hint = match error {
                        tls::HandshakeError::PlainPeer | tls::HandshakeError::PlainHttp => {
                            " and this side does; make both the same (disable_ssl, Broker::disable_ssl)"
                        }
                        _ => "",
                    };
                    Ending::handshake(format!("{}{hint}", chain(&error)))
                })?;
                subject = tls::subject(stream.ssl());
                let name = subject.as_deref().unwrap_or("anonymous");
                self.tls = format!("{}, {name}", stream.ssl().version_str());
                Box::new(stream)
            }
        };
        if let Err(reason) = self.identify(subject.as_deref()).await {
            if self.direction == Direction::Accepted {
                let refusal = handshake::refusal(self.shared.local, &reason);
                let deadline = self.shared.at(begun.saturating_add(limit));
                if self.write(&mut socket, &refusal, deadline).await.is_ok() {
                    take_leave(&mut socket).await;
                }
            }
            return Err(Ending::Refused(reason));
        }
        self.shake_hands(socket, begun).await
    }

    /// Finds out who the other end is, and whether it is let in: before a word of Broker's is said. The controller that we
    /// dial has to be one that may ask; whoever dials us may be a node.
    async fn identify(&mut self, subject: Option<&str>) -> Result<(), String> {
        let caller = Caller { ends: self.ends, subject, is_open: self.shared.is_open, advice: ADVICE };
        let admitted = self.shared.gate.admit(caller).await;
        self.uid = admitted.uid;
        self.source.peer = admitted.peer;
        let reason = match (admitted.verdict, self.direction) {
            (Verdict::MayAsk, Direction::Accepted | Direction::Dialled) => return Ok(()),
            (Verdict::OnlyAsNode(reason), Direction::Accepted) => {
                self.only_as_node = Some(reason);
                return Ok(());
            }
            (Verdict::OnlyAsNode(reason), Direction::Dialled)
            | (Verdict::Refused(reason), Direction::Accepted | Direction::Dialled) => reason,
        };
        if let Some(error) = self.shared.gate.refused("Broker", self.address, self.uid, &reason) {
            self.agent.malformed(self.source.clone(), String::new(), error);
        }
        Err(reason)
    }

    async fn shake_hands(
        &mut self,
        mut socket: Socket,
        begun: Duration,
    ) -> Result<(Socket, FrameReader, Established), Ending> {
        let (local, filter) = (self.shared.local, self.shared.filter.clone());
        let (mut handshake, first) = match self.direction {
            Direction::Accepted => Handshake::accept(self.id, local, filter, begun),
            Direction::Dialled => Handshake::dial(self.id, local, filter, begun),
        };
        let deadline = self.shared.at(handshake.deadline().min(begun.saturating_add(self.shared.timeouts.handshake)));
        let mut settled = self.shared.settled.subscribe();
        let mut reader = FrameReader::default();
        let mut buffer = vec![0; BUFFER];
        let mut heard = false;
        self.write(&mut socket, &first, deadline).await?;
        loop {
            while let Some(frame) = reader.take().map_err(|error| unreadable(&error))? {
                let payload = match frame {
                    Frame::Payload(payload) => payload,
                    // Not during a handshake.
                    Frame::Oversized { .. } => continue,
                };
                let step = handshake.handle_frame(&payload, &mut locked(&self.shared.registry));
                if let Some(established) = self.follow(&mut socket, step, deadline).await? {
                    return Ok((socket, reader, established));
                }
            }
            let step = tokio::select! {
                read = socket.read(&mut buffer) => {
                    match read {
                        Ok(0) => return Err(self.closed(heard)),
                        Ok(count) => reader.feed(buffer.get(..count).unwrap_or_default()),
                        // Closed, with something of ours unread.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(self.closed(heard)),
                        Err(error) => return Err(Ending::handshake(lost(&error))),
                    }
                    heard = true;
                    continue;
                }
                Ok(()) = settled.changed(), if handshake.is_parked() => {
                    handshake.resume(&mut locked(&self.shared.registry))
                }
                () = sleep_until(deadline) => {
                    let late = handshake.deadline();
                    handshake.handle_timeout(late, &mut locked(&self.shared.registry))
                }
            };
            if let Some(established) = self.follow(&mut socket, step, deadline).await? {
                return Ok((socket, reader, established));
            }
        }
    }

    /// Does what the handshake says.
    async fn follow(&self, socket: &mut Socket, step: Step, deadline: Instant) -> Result<Option<Established>, Ending> {
        let Step { send, outcome } = step;
        let ending = match outcome {
            Outcome::Wait => {
                self.write(socket, &send, deadline).await?;
                return Ok(None);
            }
            Outcome::Established(established) => {
                self.write(socket, &send, deadline).await?;
                self.shared.settled.send_modify(|changes| *changes += 1);
                return Ok(Some(established));
            }
            Outcome::Redundant(remote) => Ending::Redundant(remote),
            Outcome::Failed(error) => {
                if let HandshakeError::Redundant(remote) = &error {
                    self.shared.doubt(*remote);
                }
                let malformed = matches!(
                    error,
                    HandshakeError::Malformed(_)
                        | HandshakeError::Unexpected { .. }
                        | HandshakeError::InvalidId
                        | HandshakeError::Version { .. }
                );
                Ending::Handshake { reason: chain(&error), malformed }
            }
        };
        // What waits behind this handshake need not wait for our taking leave.
        self.shared.release(self.id);
        if !send.is_empty() && self.write(socket, &send, deadline).await.is_ok() {
            take_leave(socket).await;
        }
        Err(ending)
    }

    async fn write(&self, socket: &mut Socket, bytes: &[u8], deadline: Instant) -> Result<(), Ending> {
        let written = tokio::time::timeout_at(deadline, async {
            socket.write_all(bytes).await?;
            socket.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ending::handshake(lost(&error))),
            Err(_) => Err(Ending::handshake("the peer does not read what it is sent")),
        }
    }

    /// The stream ended during the handshake.
    fn closed(&self, heard: bool) -> Ending {
        Ending::handshake(match (&self.shared.tls, self.direction, heard) {
            (Some(_), Direction::Dialled, false) => tls::closed_after_handshake(),
            (None, _, false) => {
                "the peer closed the connection without a word: perhaps it speaks TLS and this side does not"
            }
            (Some(_), Direction::Accepted, false) | (_, _, true) => {
                "the peer closed the connection during the handshake"
            }
        })
    }

    /// The peering, from its first frame to its last.
    async fn talk(
        &mut self,
        socket: Socket,
        mut reader: FrameReader,
        established: Established,
        stop: &CancellationToken,
    ) -> Ending {
        reader.established(FRAME_LIMIT);
        let shared = Arc::clone(&self.shared);
        let doubt = self.announce(established.remote);
        let mut outbox = Outbox::default();
        let options = shared.timeouts.peering.clone();
        let (mut peering, update) = Peering::new(established, shared.filter.clone(), options, shared.now());
        if let Some(update) = update {
            outbox.push(&update, shared.now());
        }
        self.subscribe(peering.remote_filter());

        let (mut read, mut write) = tokio::io::split(socket);
        let mut receiving = Receiving::new(&shared);
        let mut buffer = vec![0; BUFFER];
        let mut leaving = false;
        let ending = loop {
            if let Some(ending) = self.take_frames(&mut reader, &mut peering, &mut outbox, &mut receiving).await {
                break if leaving { Ending::Stopped } else { ending };
            }
            let may_read = !outbox.is_full();
            let needs_share = receiving.needs_share(&reader);
            let due = [outbox.stalls(shared.timeouts.write), receiving.deadline].into_iter().flatten();
            let due = due.fold(peering.next_timeout(), Duration::min);
            tokio::select! {
                () = receiving.take_share(), if may_read && needs_share => {}
                count = read.read(&mut buffer), if may_read && !needs_share => match count {
                    Ok(0) => break Ending::Peering("the peer closed the connection".to_owned()),
                    Ok(count) => reader.feed(buffer.get(..count).unwrap_or_default()),
                    Err(error) => break Ending::Peering(lost(&error)),
                },
                count = write.write(outbox.waiting()), if !outbox.is_empty() => match count {
                    Ok(count) => {
                        for route in outbox.took(count, shared.now()) {
                            self.agent.delivered(route);
                        }
                    }
                    Err(error) => break Ending::Peering(lost(&error)),
                },
                Some(queued) = self.place.queue.recv(), if !leaving && !outbox.is_full() => {
                    outbox.push_queued(queued, shared.now());
                }
                () = doubt.notified() => {
                    if let Some(ping) = peering.doubt(shared.now()) {
                        outbox.push(&ping, shared.now());
                    }
                }
                () = stop.cancelled(), if !leaving => {
                    leaving = true;
                    shared.hub.forget(self.id.0);
                    while let Ok(queued) = self.place.queue.try_recv() {
                        outbox.push_queued(queued, shared.now());
                    }
                    outbox.push(&peering.leave(self.id.0, shared.now()), shared.now());
                }
                () = sleep_until(shared.at(due)) => {
                    let now = shared.now();
                    if outbox.stalls(shared.timeouts.write).is_some_and(|at| at <= now) {
                        break Ending::Peering("it does not read what it is sent".to_owned());
                    }
                    if receiving.deadline.is_some_and(|at| at <= now) {
                        self.reject(String::new(), "a whole frame did not come in time".to_owned());
                        break Ending::Peering("a whole frame did not come in time".to_owned());
                    }
                    match peering.handle_timeout(now) {
                        Due::Nothing => {}
                        Due::Ping(ping) => outbox.push(&ping, now),
                        Due::Dead { silent } => {
                            break Ending::Peering(format!("nothing was heard of it for {} s", silent.as_secs()));
                        }
                        Due::Left => break Ending::Stopped,
                    }
                }
            }
        };
        // TLS says goodbye, too; who does not listen misses nothing.
        let _ = timeout(FAREWELL, write.shutdown()).await;
        if leaving { Ending::Stopped } else { ending }
    }

    /// From here on the peer is shown by `status`. Gives what wakes its task when it is doubted.
    fn announce(&mut self, remote: EndpointId) -> Arc<Notify> {
        let doubt = Arc::new(Notify::new());
        let peered = Peered {
            remote,
            direction: self.direction,
            address: self.address,
            uid: self.uid,
            may_ask: self.only_as_node.is_none(),
            tls: self.tls.clone(),
            since: Instant::now(),
            doubt: Arc::clone(&doubt),
            node: None,
        };
        locked(&self.shared.peered).insert(self.id.0, peered);
        self.is_peered = true;
        tracing::debug!(connection = self.id.0, address = %self.address, %remote, "peering");
        doubt
    }

    /// The peer receives what it wants, unless it is there as a node alone: what a node is asked goes to it whatever it wants,
    /// and it must not be taken for somebody who hears the agent's answers.
    fn subscribe(&mut self, wanted: &Filter) {
        self.wanted = wanted.clone();
        let filter = if self.only_as_node.is_none() { wanted.clone() } else { Filter::default() };
        self.shared.hub.subscribe(self.id.0, filter);
        self.agent.subscribed();
    }

    /// Takes in every frame that is whole. `Some`: the connection is over.
    async fn take_frames(
        &mut self,
        reader: &mut FrameReader,
        peering: &mut Peering,
        outbox: &mut Outbox,
        receiving: &mut Receiving,
    ) -> Option<Ending> {
        let mut whole = false;
        loop {
            let frame = match reader.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.reject(String::new(), error.to_string());
                    return Some(Ending::Peering(error.to_string()));
                }
            };
            whole = true;
            let mut is_large = false;
            if let Frame::Payload(payload) = &frame
                && payload.len() > LARGE_MESSAGE
            {
                is_large = true;
                self.agent.room(self.id.0, &self.source, payload.len()).await;
            }
            let now = self.shared.now();
            let received = match frame {
                Frame::Payload(payload) => peering.handle_frame(&payload, now),
                Frame::Oversized { length } => {
                    peering.heard(now);
                    self.reject(
                        String::new(),
                        format!("a frame of {length} bytes was skipped, {FRAME_LIMIT} is the most"),
                    );
                    continue;
                }
            };
            match received {
                Received::Message(message) => {
                    self.message(message, outbox).await;
                    if is_large {
                        self.agent.room_over(self.id.0);
                    }
                }
                Received::Filter => {
                    self.subscribe(peering.remote_filter());
                }
                Received::Reply { frame, .. } if frame.len() > PING_LIMIT => {
                    self.reject(
                        String::new(),
                        format!("a ping of about {} bytes, {PING_LIMIT} is the most", frame.len()),
                    );
                }
                Received::Reply { frame, bye } => {
                    outbox.push(&frame, now);
                    if bye {
                        tracing::debug!(connection = self.id.0, "the peer says BYE");
                    }
                }
                Received::Left => return Some(Ending::Stopped),
                Received::Alive => {}
                Received::Ignored(why) => tracing::trace!(connection = self.id.0, ?why, "a message that is not for us"),
                Received::Skipped(why) => self.reject(String::new(), chain(&why)),
            }
        }
        receiving.taken(reader, whole, self.shared.now().saturating_add(self.shared.timeouts.frame));
        None
    }

    async fn message(&self, message: Message, outbox: &mut Outbox) {
        let Message { topic, data, directed: _ } = message;
        if topic == node::TOPIC {
            for said in nodes::read(self.shared.local, data) {
                self.node_said(said).await;
            }
        } else if let Some(dialect) = self.shared.hub.dialect_of(&topic) {
            let answers = match &self.only_as_node {
                None => self.shared.hub.take(&self.publisher(), dialect, data),
                Some(reason) => {
                    let answers = self.shared.hub.turn_down(&self.publisher(), dialect, data, reason);
                    if self.wanted.matches(&topic) { answers } else { Vec::new() }
                }
            };
            for answer in answers {
                outbox.push(&answer, self.shared.now());
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

    /// The peer says that it is this node. Whether it is believed is for the core to say.
    fn hello(&self, node: NodeName) {
        let mut peered = locked(&self.shared.peered);
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
        tracing::debug!(connection = self.id.0, address = %self.address, %node, "a node says hello");
        // If an earlier peering of this node is dead, it stands in the way of this one.
        for (id, other) in peered.iter() {
            if *id != self.id.0 && other.node.as_ref() == Some(&node) {
                other.doubt.notify_one();
            }
        }
        drop(peered);
        self.agent.subscribed();
    }

    fn publisher(&self) -> Publisher<'_, A> {
        Publisher { id: self.id.0, source: &self.source, agent: &self.agent }
    }

    fn reject(&self, event: String, error: String) {
        self.shared.hub.reject(&self.publisher(), event, error);
    }
}

/// A frame that comes in parts: its share of the budget, and until when it has to be whole.
struct Receiving {
    budget: PollSemaphore,
    shares: Option<OwnedSemaphorePermit>,
    deadline: Option<Duration>,
}

impl Receiving {
    fn new(shared: &Shared) -> Self {
        Self { budget: PollSemaphore::new(Arc::clone(&shared.budget)), shares: None, deadline: None }
    }

    fn needs_share(&self, reader: &FrameReader) -> bool {
        let held = self.shares.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        reader.pending() >= SHARE * (held + 1)
    }

    async fn take_share(&mut self) {
        // The budget is never closed.
        let Some(share) = poll_fn(|context| self.budget.poll_acquire(context)).await else { return };
        match &mut self.shares {
            Some(shares) => shares.merge(share),
            None => self.shares = Some(share),
        }
    }

    /// Every whole frame has been taken; `whole`: there were some.
    fn taken(&mut self, reader: &FrameReader, whole: bool, deadline: Duration) {
        if whole {
            self.shares = None;
            self.deadline = None;
        }
        match reader.pending() {
            0 => self.deadline = None,
            _ => _ = self.deadline.get_or_insert(deadline),
        }
    }
}

/// The stream is not Broker's.
fn unreadable(error: &FrameError) -> Ending {
    let malformed = match error {
        FrameError::PeerSpeaksTls => false,
        FrameError::NotBroker(_) | FrameError::TooLong { .. } | FrameError::Empty | FrameError::Impossible(_) => true,
    };
    Ending::Handshake { reason: error.to_string(), malformed }
}

fn lost(error: &io::Error) -> String {
    match tls::explain(error) {
        Some(explained) => chain(&explained),
        None => format!("the connection was lost: {error}"),
    }
}

/// Reads what still comes until the peer has seen what we said: data left unread would make the kernel reset the connection,
/// and with it what we said.
async fn take_leave(socket: &mut Socket) {
    let mut waste = vec![0; BUFFER];
    let leave = async {
        let _ = socket.shutdown().await;
        while socket.read(&mut waste).await.is_ok_and(|count| count > 0) {}
    };
    // Who goes on sending is cut off.
    let _ = timeout(FAREWELL, leave).await;
}

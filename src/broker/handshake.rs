//! The handshake of a connection, from the first byte to an established peering, without a socket.
//!
//! Who dials and who accepts decides who speaks first; who is *originator* is decided by the endpoint ids: the smaller
//! one (as bytes). Only one connection per remote endpoint survives. The [`Registry`] knows which remotes have one, and
//! the originator must look there before it goes on; a responder that finds a duplicate has met a faulty originator.
//!
//! Broker waits for ever; we give a handshake [`DEADLINE`]. Points in time are durations since any fixed moment of a
//! clock that never goes back. The owner hands in frames and time, writes what a [`HandshakeStep`] says, and closes the
//! connection once the outcome is anything but [`Outcome::Wait`] or [`Outcome::Established`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::wire::{EndpointId, ErrorCode, Filter, HandshakeDecodeError, HandshakeMessage, VERSION};

/// How long a handshake may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The owner's number for a connection, unique in its [`Registry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// How far the one connection to a remote endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its handshake is under way; another one has to wait for its end.
    Connecting,
    /// The peering is established; another connection is redundant.
    Peered,
}

/// Which remote endpoints have a connection, and which.
#[derive(Debug, Default)]
pub struct Registry {
    remotes: BTreeMap<EndpointId, (ConnectionId, Stage)>,
    closing: bool,
}

impl Registry {
    /// The connection to `remote`, if there is one.
    pub fn get(&self, remote: EndpointId) -> Option<(ConnectionId, Stage)> {
        self.remotes.get(&remote).copied()
    }

    /// The connection has ended, for whatever reason. Handshakes parked behind it should be resumed.
    pub fn release(&mut self, connection: ConnectionId) {
        self.remotes.retain(|_, (holder, _)| *holder != connection);
    }

    /// From now on every handshake is told that this endpoint shuts down.
    pub fn close(&mut self) {
        self.closing = true;
    }

    fn claim(&mut self, remote: EndpointId, connection: ConnectionId) -> Claim {
        if self.closing {
            return Claim::Closing;
        }
        match self.get(remote) {
            Some((holder, Stage::Connecting)) if holder != connection => Claim::Connecting,
            Some((holder, Stage::Peered)) if holder != connection => Claim::Peered,
            _ => {
                self.remotes.insert(remote, (connection, Stage::Connecting));
                Claim::Ours
            }
        }
    }

    fn established(&mut self, remote: EndpointId, connection: ConnectionId) {
        self.remotes.insert(remote, (connection, Stage::Peered));
    }
}

enum Claim {
    Ours,
    Connecting,
    Peered,
    Closing,
}

/// Who selects the version and sends its filter first, and who answers. Not who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The endpoint with the smaller id.
    Originator,
    /// The endpoint with the greater id.
    Responder,
}

/// A peering to come: hand it to [`Peering::new`](super::peering::Peering::new).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    /// This endpoint.
    pub local: EndpointId,
    /// The peer, as it named itself.
    pub remote: EndpointId,
    /// The role of this side.
    pub role: Role,
    /// What the peer wants to receive.
    pub remote_filter: Filter,
    /// The filter that the remote was told. If it has changed since, a routing update is due.
    pub local_filter: Filter,
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The message is not the one that is due in this state.
    #[error("the peer sent {got} while {wanted} was due")]
    Unexpected {
        /// The message's name, as Broker has it.
        got: &'static str,
        /// What was due.
        wanted: &'static str,
    },
    /// The frame is no handshake message.
    #[error("the peer sent something else than a handshake message")]
    Malformed(#[from] HandshakeDecodeError),
    /// The versions do not overlap, or another one was selected.
    #[error("the peer offers protocol versions {min} to {max}, this side speaks {VERSION} only")]
    Version {
        /// The lowest that the peer offers.
        min: u8,
        /// The highest that it offers.
        max: u8,
    },
    /// The peer has the id of this endpoint.
    #[error("the connection leads back to this endpoint")]
    Oneself,
    /// The peer has no id, or another one than before.
    #[error("the peer's endpoint id is nil or changed during the handshake")]
    InvalidId,
    /// The peer sent `drop_conn`.
    #[error("the peer refused: {code}: {description:?}")]
    Refused {
        /// Why, as a code.
        code: ErrorCode,
        /// Why, in the peer's words.
        description: String,
    },
    /// There is a connection to this endpoint already, which the peer, as the originator, should have noticed.
    #[error("the peer {0} opened a second connection although it had to notice the first")]
    Redundant(EndpointId),
    /// [`Registry::close`] was called.
    #[error("this endpoint is shutting down")]
    ShuttingDown,
    /// The peer took longer than [`DEADLINE`].
    #[error("the handshake took longer than {} s, {wanted} did not come", DEADLINE.as_secs())]
    Timeout {
        /// The message that did not come.
        wanted: &'static str,
    },
}

/// What a step means for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Go on reading.
    Wait,
    /// The handshake is over, and the peering begins.
    Established(Established),
    /// There is a peering with this endpoint already: close, and see the attempt as satisfied. If the remote dialled, it
    /// may know better: [probe](super::peering::Peering::probe_liveness) the peering.
    Redundant(EndpointId),
    /// Close the connection, once what there is to send is written.
    Failed(HandshakeError),
}

/// What to write, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct HandshakeStep {
    /// Whole frames, to be written before a connection is closed.
    pub send: Vec<u8>,
    /// What it means for the connection.
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The dialler's first state: the acceptor may answer with either, depending on the ids.
    HelloOrVersionSelect,
    Hello,
    VersionSelect,
    /// Originator, while another handshake with the same remote runs. Nothing is sent until that is settled.
    Parked,
    OriginatorSyn,
    ResponderSynAck,
    OriginatorAck {
        remote_filter: Filter,
    },
    Over,
}

impl State {
    fn wanted(&self) -> &'static str {
        match self {
            Self::HelloOrVersionSelect => "hello or version_select",
            Self::Hello => "hello",
            Self::VersionSelect => "version_select",
            Self::Parked => "the end of another handshake with the same peer",
            Self::OriginatorSyn => "originator_syn",
            Self::ResponderSynAck => "responder_syn_ack",
            Self::OriginatorAck { .. } => "originator_ack",
            Self::Over => "nothing",
        }
    }
}

/// One connection's handshake.
///
/// Created by [`dial`](Self::dial) or [`accept`](Self::accept); driven by [`handle_frame`](Self::handle_frame),
/// [`handle_timeout`](Self::handle_timeout) and [`resume`](Self::resume). A failed one gives its claim in the registry
/// back; an abandoned one (the connection closed) is the owner's to [`release`](Registry::release).
#[derive(Debug)]
pub struct Handshake {
    connection: ConnectionId,
    local: EndpointId,
    filter: Filter,
    deadline: Duration,
    state: State,
    remote: Option<EndpointId>,
}

impl Handshake {
    /// The TCP client. Returns also what to write first.
    pub fn dial(connection: ConnectionId, local: EndpointId, filter: Filter, now: Duration) -> (Self, Vec<u8>) {
        let hello = hello(local);
        (Self::new(connection, local, filter, now, State::HelloOrVersionSelect), hello)
    }

    /// The TCP server. Returns also what to write first.
    pub fn accept(connection: ConnectionId, local: EndpointId, filter: Filter, now: Duration) -> (Self, Vec<u8>) {
        let probe = frame(&HandshakeMessage::Probe);
        (Self::new(connection, local, filter, now, State::Hello), probe)
    }

    fn new(connection: ConnectionId, local: EndpointId, filter: Filter, now: Duration, state: State) -> Self {
        Self { connection, local, filter, deadline: now.saturating_add(DEADLINE), state, remote: None }
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The remote endpoint, once it has named itself.
    pub fn remote(&self) -> Option<EndpointId> {
        self.remote
    }

    /// Waits behind another handshake with the same remote; call [`resume`](Self::resume) when that has ended.
    pub fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    /// Ends the handshake if its time is up.
    pub fn handle_timeout(&mut self, now: Duration, registry: &mut Registry) -> HandshakeStep {
        if now < self.deadline || self.state == State::Over {
            return HandshakeStep { send: Vec::new(), outcome: Outcome::Wait };
        }
        let wanted = self.state.wanted();
        self.fail(registry, Vec::new(), HandshakeError::Timeout { wanted })
    }

    /// The other connection's handshake has ended: go on, or end, as it says.
    pub fn resume(&mut self, registry: &mut Registry) -> HandshakeStep {
        match (&self.state, self.remote) {
            (State::Parked, Some(remote)) => self.originate(remote, registry),
            _ => HandshakeStep { send: Vec::new(), outcome: Outcome::Wait },
        }
    }

    /// Takes in the payload of a frame.
    pub fn handle_frame(&mut self, payload: &[u8], registry: &mut Registry) -> HandshakeStep {
        let message = match HandshakeMessage::decode(payload) {
            Ok(message) => message,
            Err(error) => return self.malformed(registry, error),
        };
        match (&self.state, message) {
            (
                State::HelloOrVersionSelect | State::Hello | State::VersionSelect | State::Parked,
                HandshakeMessage::Probe,
            ) => HandshakeStep { send: Vec::new(), outcome: Outcome::Wait },
            (
                State::HelloOrVersionSelect | State::Hello | State::VersionSelect | State::Parked,
                HandshakeMessage::DropConn { sender, code, description },
            ) => self.dropped(registry, sender, code, description),
            (
                State::HelloOrVersionSelect | State::Hello,
                HandshakeMessage::Hello { sender, min_version, max_version },
            ) => self.hello(registry, sender, min_version, max_version),
            (
                State::HelloOrVersionSelect | State::VersionSelect,
                HandshakeMessage::VersionSelect { sender, version },
            ) => self.version_select(registry, sender, version),
            (State::OriginatorSyn, HandshakeMessage::OriginatorSyn { filter }) => {
                self.state = State::OriginatorAck { remote_filter: Filter::new(filter) };
                let filter = self.filter.topics().to_vec();
                let send = frame(&HandshakeMessage::ResponderSynAck { filter });
                HandshakeStep { send, outcome: Outcome::Wait }
            }
            (State::ResponderSynAck, HandshakeMessage::ResponderSynAck { filter }) => {
                let send = frame(&HandshakeMessage::OriginatorAck);
                self.established(registry, Role::Originator, Filter::new(filter), send)
            }
            (State::OriginatorAck { remote_filter }, HandshakeMessage::OriginatorAck) => {
                let remote_filter = remote_filter.clone();
                self.established(registry, Role::Responder, remote_filter, Vec::new())
            }
            (state, message) => {
                let error = HandshakeError::Unexpected { got: message.name(), wanted: state.wanted() };
                self.fail(registry, Vec::new(), error)
            }
        }
    }

    fn hello(&mut self, registry: &mut Registry, sender: EndpointId, min: u8, max: u8) -> HandshakeStep {
        if !(min..=max).contains(&VERSION) {
            let send = self.drop_conn(ErrorCode::PEER_INCOMPATIBLE, "unsupported versions offered");
            return self.fail(registry, send, HandshakeError::Version { min, max });
        }
        if let Err(step) = self.name(registry, sender) {
            return step;
        }
        if self.local < sender {
            return self.originate(sender, registry);
        }
        self.state = State::VersionSelect;
        HandshakeStep { send: hello(self.local), outcome: Outcome::Wait }
    }

    /// The originator's part: it alone sees to it that there is one connection.
    fn originate(&mut self, remote: EndpointId, registry: &mut Registry) -> HandshakeStep {
        match registry.claim(remote, self.connection) {
            Claim::Ours => {
                self.state = State::ResponderSynAck;
                let mut send = frame(&HandshakeMessage::VersionSelect { sender: self.local, version: VERSION });
                let filter = self.filter.topics().to_vec();
                send.extend(frame(&HandshakeMessage::OriginatorSyn { filter }));
                HandshakeStep { send, outcome: Outcome::Wait }
            }
            Claim::Connecting => {
                self.state = State::Parked;
                HandshakeStep { send: Vec::new(), outcome: Outcome::Wait }
            }
            Claim::Peered => {
                self.state = State::Over;
                let send = self.drop_conn(ErrorCode::REDUNDANT_CONNECTION, "redundant connection");
                HandshakeStep { send, outcome: Outcome::Redundant(remote) }
            }
            Claim::Closing => self.shutting_down(registry),
        }
    }

    fn version_select(&mut self, registry: &mut Registry, sender: EndpointId, version: u8) -> HandshakeStep {
        if version != VERSION {
            let send = self.drop_conn(ErrorCode::PEER_INCOMPATIBLE, "unsupported version selected");
            return self.fail(registry, send, HandshakeError::Version { min: version, max: version });
        }
        if let Err(step) = self.name(registry, sender) {
            return step;
        }
        if self.local < sender {
            // Only the originator selects, and that would be this side.
            let error = HandshakeError::Unexpected { got: "version_select", wanted: "hello" };
            return self.fail(registry, Vec::new(), error);
        }
        match registry.claim(sender, self.connection) {
            Claim::Ours => {
                self.state = State::OriginatorSyn;
                HandshakeStep { send: Vec::new(), outcome: Outcome::Wait }
            }
            Claim::Connecting | Claim::Peered => {
                let send = self.drop_conn(ErrorCode::LOGIC_ERROR, "detected redundant connection at the responder");
                self.fail(registry, send, HandshakeError::Redundant(sender))
            }
            Claim::Closing => self.shutting_down(registry),
        }
    }

    fn dropped(
        &mut self,
        registry: &mut Registry,
        sender: EndpointId,
        code: ErrorCode,
        description: String,
    ) -> HandshakeStep {
        let others = registry.get(sender).is_some_and(|(holder, _)| holder != self.connection);
        if code == ErrorCode::REDUNDANT_CONNECTION && others {
            self.state = State::Over;
            return HandshakeStep { send: Vec::new(), outcome: Outcome::Redundant(sender) };
        }
        self.fail(registry, Vec::new(), HandshakeError::Refused { code, description })
    }

    /// Notes who the remote says it is.
    fn name(&mut self, registry: &mut Registry, sender: EndpointId) -> Result<(), HandshakeStep> {
        if sender == self.local {
            // Two of us would answer hello with hello and wait.
            return Err(self.fail(registry, Vec::new(), HandshakeError::Oneself));
        }
        if sender.is_nil() || self.remote.is_some_and(|known| known != sender) {
            let send = self.drop_conn(ErrorCode::PEER_INVALID, "invalid endpoint id");
            return Err(self.fail(registry, send, HandshakeError::InvalidId));
        }
        self.remote = Some(sender);
        Ok(())
    }

    fn established(
        &mut self,
        registry: &mut Registry,
        role: Role,
        remote_filter: Filter,
        send: Vec<u8>,
    ) -> HandshakeStep {
        let Some(remote) = self.remote else {
            // No state that leads here is entered without a name.
            return self.fail(registry, Vec::new(), HandshakeError::InvalidId);
        };
        self.state = State::Over;
        registry.established(remote, self.connection);
        let local_filter = self.filter.clone();
        let established = Established { local: self.local, remote, role, remote_filter, local_filter };
        HandshakeStep { send, outcome: Outcome::Established(established) }
    }

    fn malformed(&mut self, registry: &mut Registry, error: HandshakeDecodeError) -> HandshakeStep {
        let send = match &error {
            HandshakeDecodeError::Tag(_) => self.drop_conn(ErrorCode::INVALID_MESSAGE, "invalid message type tag"),
            HandshakeDecodeError::Magic(_) => self.drop_conn(ErrorCode::WRONG_MAGIC_NUMBER, "wrong magic number"),
            HandshakeDecodeError::Malformed(_) => {
                self.drop_conn(ErrorCode::DESERIALIZATION_FAILED, "malformed handshake message")
            }
        };
        self.fail(registry, send, error.into())
    }

    fn shutting_down(&mut self, registry: &mut Registry) -> HandshakeStep {
        let send = self.drop_conn(ErrorCode::SHUTTING_DOWN, "shutting down");
        self.fail(registry, send, HandshakeError::ShuttingDown)
    }

    fn fail(&mut self, registry: &mut Registry, send: Vec<u8>, error: HandshakeError) -> HandshakeStep {
        // After the end nothing is ours to give back: the claim has become the peering's.
        if self.state != State::Over {
            registry.release(self.connection);
        }
        self.state = State::Over;
        HandshakeStep { send, outcome: Outcome::Failed(error) }
    }

    fn drop_conn(&self, code: ErrorCode, description: &str) -> Vec<u8> {
        frame(&HandshakeMessage::DropConn { sender: self.local, code, description: description.to_owned() })
    }
}

/// What is written, instead of all else, to a peer that is not to get a peering.
pub fn refusal(local: EndpointId, reason: &str) -> Vec<u8> {
    frame(&HandshakeMessage::DropConn { sender: local, code: ErrorCode::PEER_INVALID, description: reason.to_owned() })
}

fn hello(sender: EndpointId) -> Vec<u8> {
    frame(&HandshakeMessage::Hello { sender, min_version: VERSION, max_version: VERSION })
}

fn frame(message: &HandshakeMessage) -> Vec<u8> {
    message.encode().expect("our own filter and texts are far below two gigabytes")
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Frame, FrameReader};
    use super::*;

    const SMALL: EndpointId = EndpointId([1; 16]);
    const LARGE: EndpointId = EndpointId([2; 16]);

    fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut reader = FrameReader::default();
        reader.feed(bytes);
        std::iter::from_fn(|| match reader.take().unwrap() {
            Some(Frame::Payload(payload)) => Some(payload),
            _ => None,
        })
        .collect()
    }

    fn said(bytes: &[u8]) -> Vec<HandshakeMessage> {
        payloads(bytes).iter().map(|payload| HandshakeMessage::decode(payload).unwrap()).collect()
    }

    fn names(bytes: &[u8]) -> Vec<&'static str> {
        said(bytes).iter().map(HandshakeMessage::name).collect()
    }

    fn hear(handshake: &mut Handshake, registry: &mut Registry, message: HandshakeMessage) -> HandshakeStep {
        let frame = message.encode().unwrap();
        handshake.handle_frame(&frame[4..], registry)
    }

    fn dial(local: EndpointId, connection: u64) -> Handshake {
        Handshake::dial(ConnectionId(connection), local, Filter::new(["local"]), Duration::ZERO).0
    }

    fn accept(local: EndpointId, connection: u64) -> Handshake {
        Handshake::accept(ConnectionId(connection), local, Filter::new(["local"]), Duration::ZERO).0
    }

    fn hello_of(sender: EndpointId) -> HandshakeMessage {
        HandshakeMessage::Hello { sender, min_version: 1, max_version: 1 }
    }

    fn select_of(sender: EndpointId) -> HandshakeMessage {
        HandshakeMessage::VersionSelect { sender, version: 1 }
    }

    fn filter() -> Vec<Vec<u8>> {
        vec![b"remote".to_vec()]
    }

    fn drop_code(step: &HandshakeStep) -> u8 {
        match said(&step.send).as_slice() {
            [HandshakeMessage::DropConn { code, .. }] => code.0,
            other => panic!("{other:?}"),
        }
    }

    /// Brings a handshake to each of its states, with what led there.
    fn states() -> Vec<(&'static str, Handshake, Registry)> {
        let mut all = vec![
            ("hello or version_select", dial(SMALL, 1), Registry::default()),
            ("hello", accept(SMALL, 1), Registry::default()),
        ];
        let mut with = |mut handshake: Handshake, mut registry: Registry, messages: Vec<HandshakeMessage>| {
            for message in messages {
                assert_eq!(hear(&mut handshake, &mut registry, message).outcome, Outcome::Wait);
            }
            all.push((handshake.state.wanted(), handshake, registry));
        };
        with(accept(LARGE, 1), Registry::default(), vec![hello_of(SMALL)]);
        with(accept(LARGE, 1), Registry::default(), vec![hello_of(SMALL), select_of(SMALL)]);
        with(dial(SMALL, 1), Registry::default(), vec![hello_of(LARGE)]);
        let syn = HandshakeMessage::OriginatorSyn { filter: filter() };
        with(dial(LARGE, 1), Registry::default(), vec![select_of(SMALL), syn]);
        let mut busy = Registry::default();
        _ = hear(&mut dial(SMALL, 9), &mut busy, hello_of(LARGE));
        with(accept(SMALL, 1), busy, vec![hello_of(LARGE)]);
        all
    }

    #[test]
    fn every_state_takes_what_is_due_and_ends_at_anything_else() {
        let messages = || {
            [
                hello_of(LARGE),
                HandshakeMessage::Probe,
                select_of(SMALL),
                HandshakeMessage::DropConn { sender: LARGE, code: ErrorCode(4), description: "no".into() },
                HandshakeMessage::OriginatorSyn { filter: filter() },
                HandshakeMessage::ResponderSynAck { filter: filter() },
                HandshakeMessage::OriginatorAck,
            ]
        };
        // For each state, what becomes of the messages above: . goes on, ! ends silently, D refused, = established,
        // E ends with an answer. Their senders do not fit every state, which is the reason of the odd ones.
        let table = [
            ("hello or version_select", "..ED!!!"),
            ("hello", "..!D!!!"),
            ("version_select", "!..D!!!"),
            ("originator_syn", "!!!!.!!"),
            ("responder_syn_ack", "!!!!!=!"),
            ("originator_ack", "!!!!!!="),
            ("the end of another handshake with the same peer", "!.!D!!!"),
        ];
        let states = states();
        assert_eq!(states.len(), table.len());
        for (number, (name, ..)) in states.iter().enumerate() {
            let (_, outcomes) = table.iter().find(|(state, _)| state == name).unwrap();
            for (index, expected) in outcomes.chars().enumerate() {
                let (_, mut handshake, mut registry) = self::states().remove(number);
                let step = hear(&mut handshake, &mut registry, messages()[index].clone());
                let got = match (&step.outcome, step.send.is_empty()) {
                    (Outcome::Wait, _) => '.',
                    (Outcome::Established(_), _) => '=',
                    (Outcome::Failed(HandshakeError::Refused { .. }), true) => 'D',
                    (Outcome::Failed(HandshakeError::Oneself), true) => 'E',
                    (Outcome::Failed(_), true) => '!',
                    (Outcome::Failed(_) | Outcome::Redundant(_), _) => 'X',
                };
                assert_eq!(got, expected, "{name} hears {}: {step:?}", messages()[index].name());
                if got != '.' && got != '=' {
                    let held = registry.get(LARGE).or(registry.get(SMALL));
                    assert!(held.is_none_or(|(holder, _)| holder != ConnectionId(1)), "{name}: the claim stays");
                }
            }
        }
    }

    #[test]
    fn magic_versions_and_tags_are_checked() {
        let fresh = || (accept(SMALL, 1), Registry::default());
        for (payload, code) in [
            (b"\x06NEEK\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x01\x01".as_slice(), 38),
            (b"\x0d", 20),
            (b"\x01", 20),
            (b"\x06ZEEK", 37),
            (b"", 37),
            (b"\x0a\x05", 37),
        ] {
            let (mut handshake, mut registry) = fresh();
            let step = handshake.handle_frame(payload, &mut registry);
            assert!(matches!(step.outcome, Outcome::Failed(HandshakeError::Malformed(_))), "{step:?}");
            assert_eq!(drop_code(&step), code, "{payload:02x?}");
        }
        for (min, max, fine) in [(1, 1, true), (0, 9, true), (2, 3, false), (0, 0, false), (3, 1, false)] {
            let (mut handshake, mut registry) = fresh();
            let hello = HandshakeMessage::Hello { sender: LARGE, min_version: min, max_version: max };
            let step = hear(&mut handshake, &mut registry, hello);
            assert_eq!(step.outcome == Outcome::Wait, fine, "{min} to {max}");
            assert!(fine || drop_code(&step) == 2);
        }
        let (mut handshake, mut registry) = (dial(LARGE, 1), Registry::default());
        let step = hear(&mut handshake, &mut registry, HandshakeMessage::VersionSelect { sender: SMALL, version: 2 });
        assert_eq!(drop_code(&step), 2);
    }

    #[test]
    fn ones_own_id_and_odd_ids_are_refused() {
        let mut registry = Registry::default();
        let step = hear(&mut accept(SMALL, 1), &mut registry, hello_of(SMALL));
        assert_eq!(step, HandshakeStep { send: vec![], outcome: Outcome::Failed(HandshakeError::Oneself) });
        let step = hear(&mut dial(SMALL, 1), &mut registry, select_of(SMALL));
        assert_eq!(step.outcome, Outcome::Failed(HandshakeError::Oneself));
        let step = hear(&mut accept(SMALL, 1), &mut registry, hello_of(EndpointId::NIL));
        assert_eq!((drop_code(&step), step.outcome), (3, Outcome::Failed(HandshakeError::InvalidId)));
        let mut changing = accept(LARGE, 1);
        _ = hear(&mut changing, &mut registry, hello_of(SMALL));
        let step = hear(&mut changing, &mut registry, select_of(EndpointId([3; 16])));
        assert_eq!((drop_code(&step), step.outcome), (3, Outcome::Failed(HandshakeError::InvalidId)));
    }

    /// A peering of `SMALL` with `LARGE` over connection 1, seen from the given end.
    fn peered(local: EndpointId) -> Registry {
        let mut registry = Registry::default();
        if local == SMALL {
            let mut handshake = dial(SMALL, 1);
            _ = hear(&mut handshake, &mut registry, hello_of(LARGE));
            let step = hear(&mut handshake, &mut registry, HandshakeMessage::ResponderSynAck { filter: filter() });
            assert_eq!(names(&step.send), ["originator_ack"]);
            assert!(matches!(step.outcome, Outcome::Established(Established { role: Role::Originator, .. })));
        } else {
            let mut handshake = accept(LARGE, 1);
            _ = hear(&mut handshake, &mut registry, hello_of(SMALL));
            _ = hear(&mut handshake, &mut registry, select_of(SMALL));
            _ = hear(&mut handshake, &mut registry, HandshakeMessage::OriginatorSyn { filter: filter() });
            let step = hear(&mut handshake, &mut registry, HandshakeMessage::OriginatorAck);
            let Outcome::Established(established) = step.outcome else { panic!("{:?}", step.outcome) };
            assert_eq!((established.remote, established.role), (SMALL, Role::Responder));
            assert_eq!(established.remote_filter, Filter::new(filter()));
        }
        registry
    }

    #[test]
    fn the_originator_notices_a_redundant_connection() {
        let mut registry = peered(SMALL);
        let step = hear(&mut accept(SMALL, 2), &mut registry, hello_of(LARGE));
        assert_eq!((drop_code(&step), &step.outcome), (39, &Outcome::Redundant(LARGE)));
        assert_eq!(registry.get(LARGE), Some((ConnectionId(1), Stage::Peered)));
        // Once the first has ended, another may come.
        registry.release(ConnectionId(1));
        let step = hear(&mut accept(SMALL, 3), &mut registry, hello_of(LARGE));
        assert_eq!(names(&step.send), ["version_select", "originator_syn"]);
    }

    #[test]
    fn the_responder_blames_an_originator_that_did_not() {
        let mut registry = peered(LARGE);
        let step = hear(&mut dial(LARGE, 2), &mut registry, select_of(SMALL));
        assert_eq!((drop_code(&step), &step.outcome), (40, &Outcome::Failed(HandshakeError::Redundant(SMALL))));
        assert_eq!(registry.get(SMALL), Some((ConnectionId(1), Stage::Peered)));
    }

    #[test]
    fn a_parked_handshake_follows_the_other_ones_fate() {
        for ends_well in [true, false] {
            let mut registry = Registry::default();
            let (mut first, mut second) = (dial(SMALL, 1), accept(SMALL, 2));
            _ = hear(&mut first, &mut registry, hello_of(LARGE));
            let step = hear(&mut second, &mut registry, hello_of(LARGE));
            assert_eq!(step, HandshakeStep { send: vec![], outcome: Outcome::Wait });
            assert!(second.is_parked() && second.remote() == Some(LARGE));
            assert_eq!(second.resume(&mut registry).outcome, Outcome::Wait, "the other one still runs");
            assert!(second.is_parked());
            if ends_well {
                _ = hear(&mut first, &mut registry, HandshakeMessage::ResponderSynAck { filter: filter() });
                let step = second.resume(&mut registry);
                assert_eq!((drop_code(&step), step.outcome), (39, Outcome::Redundant(LARGE)));
            } else {
                _ = hear(&mut first, &mut registry, HandshakeMessage::OriginatorAck);
                let step = second.resume(&mut registry);
                assert_eq!(names(&step.send), ["version_select", "originator_syn"]);
                assert!(!second.is_parked());
                assert_eq!(registry.get(LARGE), Some((ConnectionId(2), Stage::Connecting)));
            }
        }
    }

    #[test]
    fn being_told_of_a_redundant_connection_counts_only_if_there_is_one() {
        let told = |registry: &mut Registry| {
            let description = "redundant connection".to_owned();
            let message =
                HandshakeMessage::DropConn { sender: SMALL, code: ErrorCode::REDUNDANT_CONNECTION, description };
            hear(&mut dial(LARGE, 2), registry, message).outcome
        };
        assert_eq!(told(&mut peered(LARGE)), Outcome::Redundant(SMALL));
        // The remote has not noticed yet that an earlier connection is gone: try again later.
        assert!(matches!(told(&mut Registry::default()), Outcome::Failed(HandshakeError::Refused { .. })));
    }

    #[test]
    fn nobody_is_let_in_at_shutdown() {
        let mut registry = Registry::default();
        registry.close();
        let step = hear(&mut accept(SMALL, 1), &mut registry, hello_of(LARGE));
        assert_eq!((drop_code(&step), step.outcome), (28, Outcome::Failed(HandshakeError::ShuttingDown)));
        let step = hear(&mut dial(LARGE, 2), &mut registry, select_of(SMALL));
        assert_eq!(drop_code(&step), 28);
    }

    #[test]
    fn every_state_ends_at_its_deadline() {
        for (name, mut handshake, mut registry) in states() {
            let early = handshake.handle_timeout(DEADLINE - Duration::from_millis(1), &mut registry);
            assert_eq!(early.outcome, Outcome::Wait);
            assert_eq!(handshake.deadline(), DEADLINE);
            let step = handshake.handle_timeout(DEADLINE, &mut registry);
            assert_eq!(
                step,
                HandshakeStep { send: vec![], outcome: Outcome::Failed(HandshakeError::Timeout { wanted: name }) }
            );
            assert!(registry.get(LARGE).is_none_or(|(holder, _)| holder != ConnectionId(1)));
            assert_eq!(handshake.handle_timeout(DEADLINE * 2, &mut registry).outcome, Outcome::Wait);
        }
    }

    #[test]
    fn a_late_frame_does_not_take_the_peering_away() {
        let mut registry = Registry::default();
        let mut handshake = dial(SMALL, 1);
        _ = hear(&mut handshake, &mut registry, hello_of(LARGE));
        _ = hear(&mut handshake, &mut registry, HandshakeMessage::ResponderSynAck { filter: filter() });
        let step = hear(&mut handshake, &mut registry, hello_of(LARGE));
        assert!(matches!(step.outcome, Outcome::Failed(HandshakeError::Unexpected { .. })));
        assert_eq!(registry.get(LARGE), Some((ConnectionId(1), Stage::Peered)));
    }
}

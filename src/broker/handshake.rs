//! The handshake of a connection, from the first byte to an established peering, without a socket.
//!
//! Who dials and who accepts decides who speaks first; who is *originator* is decided by the endpoint ids: the smaller
//! one (as bytes). Only one connection per remote endpoint survives. The [`Registry`] knows which remotes have one, and
//! the originator must look there before it goes on; a responder that finds a duplicate has met a faulty originator.
//!
//! Broker waits for ever; we give a handshake [`DEADLINE`]. Points in time are durations since any fixed moment of a
//! clock that never goes back. The owner hands in frames and time, writes what a [`Step`] says, and closes the
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
    Connecting,
    Peered,
}

/// Which remote endpoints have a connection, and which.
#[derive(Debug, Default)]
pub struct Registry {
    remotes: BTreeMap<EndpointId, (ConnectionId, Stage)>,
    closing: bool,
}

impl Registry {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Originator,
    Responder,
}

/// A peering to come: hand it to [`Peering::new`](super::peering::Peering::new).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    pub local: EndpointId,
    pub remote: EndpointId,
    pub role: Role,
    pub remote_filter: Filter,
    /// The filter that the remote was told. If it has changed since, a routing update is due.
    pub local_filter: Filter,
}

/// Why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the peer sent {got} while {wanted} was due")]
    Unexpected { got: &'static str, wanted: &'static str },
    #[error("the peer sent something else than a handshake message")]
    Malformed(#[from] HandshakeDecodeError),
    #[error("the peer offers protocol versions {min} to {max}, this side speaks {VERSION} only")]
    Version { min: u8, max: u8 },
    #[error("the connection leads back to this endpoint")]
    Oneself,
    #[error("the peer's endpoint id is nil or changed during the handshake")]
    InvalidId,
    #[error("the peer refused: {code}: {description:?}")]
    Refused { code: ErrorCode, description: String },
    #[error("the peer {0} opened a second connection although it had to notice the first")]
    Redundant(EndpointId),
    #[error("this endpoint is shutting down")]
    ShuttingDown,
    #[error("the handshake took longer than {} s, {wanted} did not come", DEADLINE.as_secs())]
    Timeout { wanted: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Go on reading.
    Wait,
    Established(Established),
    /// There is a peering with this endpoint already: close, and see the attempt as satisfied.
    Redundant(EndpointId),
    Failed(HandshakeError),
}

/// What to write, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Whole frames, to be written before a connection is closed.
    pub send: Vec<u8>,
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
    pub fn handle_timeout(&mut self, now: Duration, registry: &mut Registry) -> Step {
        if now < self.deadline || self.state == State::Over {
            return Step { send: Vec::new(), outcome: Outcome::Wait };
        }
        let wanted = self.state.wanted();
        self.fail(registry, Vec::new(), HandshakeError::Timeout { wanted })
    }

    /// The other connection's handshake has ended: go on, or end, as it says.
    pub fn resume(&mut self, registry: &mut Registry) -> Step {
        match (&self.state, self.remote) {
            (State::Parked, Some(remote)) => self.originate(remote, registry),
            _ => Step { send: Vec::new(), outcome: Outcome::Wait },
        }
    }

    /// Takes in the payload of a frame.
    pub fn handle_frame(&mut self, payload: &[u8], registry: &mut Registry) -> Step {
        let message = match HandshakeMessage::decode(payload) {
            Ok(message) => message,
            Err(error) => return self.malformed(registry, error),
        };
        match (&self.state, message) {
            (
                State::HelloOrVersionSelect | State::Hello | State::VersionSelect | State::Parked,
                HandshakeMessage::Probe,
            ) => Step { send: Vec::new(), outcome: Outcome::Wait },
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
                Step { send, outcome: Outcome::Wait }
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

    fn hello(&mut self, registry: &mut Registry, sender: EndpointId, min: u8, max: u8) -> Step {
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
        Step { send: hello(self.local), outcome: Outcome::Wait }
    }

    /// The originator's part: it alone sees to it that there is one connection.
    fn originate(&mut self, remote: EndpointId, registry: &mut Registry) -> Step {
        match registry.claim(remote, self.connection) {
            Claim::Ours => {
                self.state = State::ResponderSynAck;
                let mut send = frame(&HandshakeMessage::VersionSelect { sender: self.local, version: VERSION });
                let filter = self.filter.topics().to_vec();
                send.extend(frame(&HandshakeMessage::OriginatorSyn { filter }));
                Step { send, outcome: Outcome::Wait }
            }
            Claim::Connecting => {
                self.state = State::Parked;
                Step { send: Vec::new(), outcome: Outcome::Wait }
            }
            Claim::Peered => {
                self.state = State::Over;
                let send = self.drop_conn(ErrorCode::REDUNDANT_CONNECTION, "redundant connection");
                Step { send, outcome: Outcome::Redundant(remote) }
            }
            Claim::Closing => self.shutting_down(registry),
        }
    }

    fn version_select(&mut self, registry: &mut Registry, sender: EndpointId, version: u8) -> Step {
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
                Step { send: Vec::new(), outcome: Outcome::Wait }
            }
            Claim::Connecting | Claim::Peered => {
                let send = self.drop_conn(ErrorCode::LOGIC_ERROR, "detected redundant connection at the responder");
                self.fail(registry, send, HandshakeError::Redundant(sender))
            }
            Claim::Closing => self.shutting_down(registry),
        }
    }

    fn dropped(&mut self, registry: &mut Registry, sender: EndpointId, code: ErrorCode, description: String) -> Step {
        let others = registry.get(sender).is_some_and(|(holder, _)| holder != self.connection);
        if code == ErrorCode::REDUNDANT_CONNECTION && others {
            self.state = State::Over;
            return Step { send: Vec::new(), outcome: Outcome::Redundant(sender) };
        }
        self.fail(registry, Vec::new(), HandshakeError::Refused { code, description })
    }

    /// Notes who the remote says it is.
    fn name(&mut self, registry: &mut Registry, sender: EndpointId) -> Result<(), Step> {
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

    fn established(&mut self, registry: &mut Registry, role: Role, remote_filter: Filter, send: Vec<u8>) -> Step {
        let Some(remote) = self.remote else {
            // No state that leads here is entered without a name.
            return self.fail(registry, Vec::new(), HandshakeError::InvalidId);
        };
        self.state = State::Over;
        registry.established(remote, self.connection);
        let local_filter = self.filter.clone();
        let established = Established { local: self.local, remote, role, remote_filter, local_filter };
        Step { send, outcome: Outcome::Established(established) }
    }

    fn malformed(&mut self, registry: &mut Registry, error: HandshakeDecodeError) -> Step {
        let send = match &error {
            HandshakeDecodeError::Tag(_) => self.drop_conn(ErrorCode::INVALID_MESSAGE, "invalid message type tag"),
            HandshakeDecodeError::Magic(_) => self.drop_conn(ErrorCode::WRONG_MAGIC_NUMBER, "wrong magic number"),
            HandshakeDecodeError::Malformed(_) => {
                self.drop_conn(ErrorCode::DESERIALIZATION_FAILED, "malformed handshake message")
            }
        };
        self.fail(registry, send, error.into())
    }

    fn shutting_down(&mut self, registry: &mut Registry) -> Step {
        let send = self.drop_conn(ErrorCode::SHUTTING_DOWN, "shutting down");
        self.fail(registry, send, HandshakeError::ShuttingDown)
    }

    fn fail(&mut self, registry: &mut Registry, send: Vec<u8>, error: HandshakeError) -> Step {
        // After the end nothing is ours to give back: the claim has become the peering's.
        if self.state != State::Over {
            registry.release(self.connection);
        }
        self.state = State::Over;
        Step { send, outcome: Outcome::Failed(error) }
    }

    fn drop_conn(&self, code: ErrorCode, description: &str) -> Vec<u8> {
        frame(&HandshakeMessage::DropConn { sender: self.local, code, description: description.to_owned() })
    }
}

fn hello(sender: EndpointId) -> Vec<u8> {
    frame(&HandshakeMessage::Hello { sender, min_version: VERSION, max_version: VERSION })
}

fn frame(message: &HandshakeMessage) -> Vec<u8> {
    message.encode().expect("our own filter and texts are far below two gigabytes")
}

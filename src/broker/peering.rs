//! An established peering with one endpoint, without a socket: what its frames mean, what to answer, when it is dead.
//!
//! Nothing is forwarded and nothing is believed that is not the peer's to say. Frames that make no sense are skipped,
//! not suffered (Zeek 8 does the same). No queue is kept: what is to be written is returned.
//!
//! Broker itself pings only to say BYE and never notices a dead path; every release answers pings, though, so we send
//! our own while the peer is silent and give up when nothing comes back.

use std::time::Duration;

use super::binary::{self, DecodeError};
use super::data::Data;
use super::handshake::Established;
use super::wire::{self, CONTROL_TOPIC, EncodeError, EndpointId, Envelope, EnvelopeError, Filter, Kind, TTL};

/// A BYE: this and eight bytes of the leaving side's choice.
const BYE: &[u8] = b"BYE";
/// Our own pings. Not empty, since Broker before 2.8 refuses that, and not BYE.
const ALIVE: &[u8] = b"alive?";

#[derive(Debug, Clone)]
pub struct Options {
    /// Silence of the peer after which we ask, and between one question and the next.
    pub ping_after: Duration,
    /// Silence after which the peering is dead.
    pub dead_after: Duration,
    /// How long to wait for the answer to our BYE (Broker: 3 s).
    pub bye_timeout: Duration,
    pub limits: binary::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(45),
            bye_timeout: Duration::from_secs(3),
            limits: binary::Limits::default(),
        }
    }
}

/// What was published to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub data: Data,
    /// Sent to this endpoint by name, whatever its filter.
    pub directed: bool,
}

/// Why a well-formed message concerns nobody here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Of a data store, of which we have none.
    Command,
    /// For another endpoint; we do not forward.
    NotForUs,
    NotSubscribed,
    /// A routing update that another endpoint claims to have sent.
    NotThePeers,
    /// A pong to nothing we asked.
    StrayPong,
    /// Our own message came back.
    Echo,
}

/// Why a frame was skipped. The peering goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    #[error("a frame is no envelope")]
    Envelope(#[from] EnvelopeError),
    #[error("a message's data cannot be read")]
    Data(#[source] DecodeError),
    #[error("a routing update cannot be read")]
    RoutingUpdate(#[source] DecodeError),
    #[error("a topic is not UTF-8")]
    Topic,
}

/// What a frame meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Received {
    Message(Message),
    /// The peer's subscriptions are replaced.
    Filter,
    /// Write this: the answer to a ping. After a `bye` the peer will close; data may come until then.
    Reply {
        frame: Vec<u8>,
        bye: bool,
    },
    /// The peer answered our ping.
    Alive,
    /// The peer answered our BYE: close.
    Left,
    Ignored(Ignored),
    Skipped(Skipped),
}

/// What the time says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Due {
    Nothing,
    /// Write this.
    Ping(Vec<u8>),
    /// Nothing was heard for so long: close, and dial again if this side did.
    Dead {
        silent: Duration,
    },
    /// The peer did not answer our BYE in time: close.
    Left,
}

/// One peering. Fed by [`handle_frame`](Self::handle_frame) and [`handle_timeout`](Self::handle_timeout).
#[derive(Debug)]
pub struct Peering {
    local: EndpointId,
    remote: EndpointId,
    local_filter: Filter,
    remote_filter: Filter,
    options: Options,
    heard: Duration,
    asked: Option<Duration>,
    pings: u64,
    leaving: Option<(Vec<u8>, Duration)>,
}

impl Peering {
    /// `filter` is what we want now; if that is not what the handshake said, the second value is the routing update to
    /// write first.
    pub fn new(established: Established, filter: Filter, options: Options, now: Duration) -> (Self, Option<Vec<u8>>) {
        let Established { local, remote, role: _, remote_filter, local_filter } = established;
        let mut peering = Self {
            local,
            remote,
            local_filter,
            remote_filter,
            options,
            heard: now,
            asked: None,
            pings: 0,
            leaving: None,
        };
        let update = peering.subscribe(filter);
        (peering, update)
    }

    pub fn remote(&self) -> EndpointId {
        self.remote
    }

    pub fn remote_filter(&self) -> &Filter {
        &self.remote_filter
    }

    /// The peer subscribed to this topic. Frames for others are not to be sent to it.
    pub fn wants(&self, topic: &str) -> bool {
        self.remote_filter.matches(topic)
    }

    /// The frame that publishes `data`, or `None` if the peer did not subscribe to the topic.
    pub fn publish(&self, topic: &str, data: &Data) -> Result<Option<Vec<u8>>, EncodeError> {
        match self.wants(topic) {
            true => wire::data_frame(self.local, EndpointId::NIL, topic, data).map(Some),
            false => Ok(None),
        }
    }

    /// The frame that sends `data` to this peer alone, whatever it subscribed to.
    pub fn direct(&self, topic: &str, data: &Data) -> Result<Vec<u8>, EncodeError> {
        wire::data_frame(self.local, self.remote, topic, data)
    }

    /// We want this from now on. Returns the routing update to write, if anything changed.
    pub fn subscribe(&mut self, filter: Filter) -> Option<Vec<u8>> {
        if filter == self.local_filter {
            return None;
        }
        self.local_filter = filter;
        let payload = wire::encode_filter(self.local_filter.topics());
        Some(self.control(Kind::RoutingUpdate, self.remote, &payload))
    }

    /// Says BYE. `token` tells this farewell from others. Returns the frame to write; then go on until
    /// [`Received::Left`] or [`Due::Left`].
    pub fn leave(&mut self, token: u64, now: Duration) -> Vec<u8> {
        let payload = [BYE, &token.to_be_bytes()].concat();
        let frame = self.control(Kind::Ping, self.remote, &payload);
        self.leaving = Some((payload, now.saturating_add(self.options.bye_timeout)));
        frame
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn next_timeout(&self) -> Duration {
        match &self.leaving {
            Some((_, deadline)) => *deadline,
            None => {
                let ask = self.asked.unwrap_or(self.heard).max(self.heard).saturating_add(self.options.ping_after);
                ask.min(self.heard.saturating_add(self.options.dead_after))
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) -> Due {
        if now < self.next_timeout() {
            return Due::Nothing;
        }
        if self.leaving.is_some() {
            return Due::Left;
        }
        let silent = now.saturating_sub(self.heard);
        if silent >= self.options.dead_after {
            return Due::Dead { silent };
        }
        self.asked = Some(now);
        self.pings += 1;
        let payload = [ALIVE, &self.pings.to_be_bytes()].concat();
        Due::Ping(self.control(Kind::Ping, self.remote, &payload))
    }

    /// The peer sent a frame too long to be read: it lives.
    pub fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// Takes in the payload of a frame.
    pub fn handle_frame(&mut self, frame: &[u8], now: Duration) -> Received {
        self.heard(now);
        let envelope = match Envelope::decode(frame) {
            Ok(envelope) => envelope,
            Err(error) => return Received::Skipped(error.into()),
        };
        let directed = envelope.receiver == self.local;
        if !directed && !envelope.receiver.is_nil() {
            return Received::Ignored(Ignored::NotForUs);
        }
        if envelope.sender == self.local {
            return Received::Ignored(Ignored::Echo);
        }
        match envelope.kind {
            Kind::Data => self.data(&envelope, directed),
            Kind::Command => Received::Ignored(Ignored::Command),
            Kind::RoutingUpdate => self.routing_update(&envelope),
            // The answer goes to the sender that the ping names, as Broker does.
            Kind::Ping => Received::Reply {
                frame: self.control(Kind::Pong, envelope.sender, envelope.payload),
                bye: envelope.payload.starts_with(BYE),
            },
            Kind::Pong => match &self.leaving {
                Some((payload, _)) if payload == envelope.payload => Received::Left,
                _ if envelope.payload.starts_with(ALIVE) => Received::Alive,
                _ => Received::Ignored(Ignored::StrayPong),
            },
        }
    }

    fn data(&self, envelope: &Envelope<'_>, directed: bool) -> Received {
        if !directed && !self.local_filter.matches(envelope.topic) {
            return Received::Ignored(Ignored::NotSubscribed);
        }
        let Ok(topic) = str::from_utf8(envelope.topic) else {
            return Received::Skipped(Skipped::Topic);
        };
        match binary::decode(envelope.payload, &self.options.limits) {
            Ok(data) => Received::Message(Message { topic: topic.to_owned(), data, directed }),
            Err(error) => Received::Skipped(Skipped::Data(error)),
        }
    }

    fn routing_update(&mut self, envelope: &Envelope<'_>) -> Received {
        if envelope.sender != self.remote {
            return Received::Ignored(Ignored::NotThePeers);
        }
        match wire::decode_filter(envelope.payload) {
            Ok(topics) => {
                self.remote_filter = Filter::new(topics);
                Received::Filter
            }
            Err(error) => Received::Skipped(Skipped::RoutingUpdate(error)),
        }
    }

    fn control(&self, kind: Kind, receiver: EndpointId, payload: &[u8]) -> Vec<u8> {
        let topic = CONTROL_TOPIC.as_bytes();
        Envelope { sender: self.local, receiver, kind, ttl: TTL, topic, payload }
            .encode()
            .expect("a control message is our own filter or no longer than a frame that was received")
    }
}

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

/// How long silence may last, and what a value may cost.
#[derive(Debug, Clone)]
pub struct Options {
    /// Silence of the peer after which we ask, and between one question and the next.
    pub ping_after: Duration,
    /// Silence after which the peering is dead.
    pub dead_after: Duration,
    /// The same once it was [probed](Peering::probe_liveness).
    pub dead_after_probe: Duration,
    /// How long to wait for the answer to our BYE (Broker: 3 s).
    pub bye_timeout: Duration,
    /// For the values of data messages.
    pub limits: binary::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(45),
            dead_after_probe: Duration::from_secs(5),
            bye_timeout: Duration::from_secs(3),
            limits: binary::Limits::default(),
        }
    }
}

/// What was published to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The whole topic.
    pub topic: String,
    /// The value that was published.
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
    /// The topic is not under any prefix of our filter.
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
    /// It is cut short, or of an unknown kind.
    #[error("a frame is no envelope")]
    Envelope(#[from] EnvelopeError),
    /// The payload of a data message is no value, or exceeds the limits.
    #[error("a message's data cannot be read")]
    Data(#[source] DecodeError),
    /// The payload of a routing update is no list of topics.
    #[error("a routing update cannot be read")]
    RoutingUpdate(#[source] DecodeError),
    /// Topics of data messages have to be text here.
    #[error("a topic is not UTF-8")]
    Topic,
}

/// What a frame meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// Something was published to us.
    Message(Message),
    /// The peer's subscriptions are replaced.
    Filter,
    /// Write this: the answer to a ping. After a `bye` the peer will close; data may come until then.
    Reply {
        /// The pong, as a whole frame.
        frame: Vec<u8>,
        /// The ping was a BYE.
        bye: bool,
    },
    /// The peer answered our ping.
    Alive,
    /// The peer answered our BYE: close.
    Left,
    /// It needs nothing to be done.
    Ignored(Ignored),
    /// It could not be understood.
    Skipped(Skipped),
}

/// What the time says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Due {
    /// It is not time yet.
    Nothing,
    /// Write this.
    Ping(Vec<u8>),
    /// Nothing was heard for so long: close, and dial again if this side did.
    Dead {
        /// Since the last frame.
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
    /// When the peering is dead unless something is heard before.
    probed: Option<Duration>,
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
            probed: None,
            pings: 0,
            leaving: None,
        };
        let update = peering.subscribe(filter);
        (peering, update)
    }

    /// The peer's endpoint.
    pub fn remote(&self) -> EndpointId {
        self.remote
    }

    /// What the peer wants to receive.
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
                ask.min(self.dies())
            }
        }
    }

    fn dies(&self) -> Duration {
        let dies = self.heard.saturating_add(self.options.dead_after);
        self.probed.map_or(dies, |probed| probed.min(dies))
    }

    /// The remote opens another connection, as if it knew of none: this one may be dead without our having noticed, and
    /// stands in the way of the new one. Returns the ping to write, if that has not been done yet.
    pub fn probe_liveness(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.probed.is_some() || self.leaving.is_some() {
            return None;
        }
        self.probed = Some(now.saturating_add(self.options.dead_after_probe));
        Some(self.ask(now))
    }

    fn ask(&mut self, now: Duration) -> Vec<u8> {
        self.asked = Some(now);
        self.pings += 1;
        let payload = [ALIVE, &self.pings.to_be_bytes()].concat();
        self.control(Kind::Ping, self.remote, &payload)
    }

    /// Finds out what is due at `now`; see [`next_timeout`](Self::next_timeout).
    pub fn handle_timeout(&mut self, now: Duration) -> Due {
        if now < self.next_timeout() {
            return Due::Nothing;
        }
        if self.leaving.is_some() {
            return Due::Left;
        }
        if now >= self.dies() {
            return Due::Dead { silent: now.saturating_sub(self.heard) };
        }
        Due::Ping(self.ask(now))
    }

    /// The peer sent a frame too long to be read: it lives.
    pub fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
        self.probed = None;
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

#[cfg(test)]
mod tests {
    use super::super::handshake::Role;
    use super::*;

    const LOCAL: EndpointId = EndpointId([0xaa; 16]);
    const REMOTE: EndpointId = EndpointId([0xbb; 16]);
    const OTHER: EndpointId = EndpointId([0xcc; 16]);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn peering() -> Peering {
        let established = Established {
            local: LOCAL,
            remote: REMOTE,
            role: Role::Originator,
            remote_filter: Filter::new(["zeek/management/agent"]),
            local_filter: Filter::new(["zeek/management/node"]),
        };
        Peering::new(established, Filter::new(["zeek/management/node"]), Options::default(), Duration::ZERO).0
    }

    fn envelope<'a>(kind: Kind, topic: &'a str, payload: &'a [u8]) -> Envelope<'a> {
        let topic = topic.as_bytes();
        Envelope { sender: REMOTE, receiver: EndpointId::NIL, kind, ttl: TTL, topic, payload }
    }

    fn hear(peering: &mut Peering, envelope: Envelope<'_>) -> Received {
        let frame = envelope.encode().unwrap();
        peering.handle_frame(&frame[4..], Duration::ZERO)
    }

    #[test]
    fn messages_are_delivered_by_filter_or_by_name_and_never_passed_on() {
        let mut peering = peering();
        let data = Data::string("x");
        let payload = binary::encode(&data);
        let message =
            |topic: &str, directed| Received::Message(Message { topic: topic.into(), data: data.clone(), directed });
        let on_topic = envelope(Kind::Data, "zeek/management/node", &payload);
        assert_eq!(hear(&mut peering, on_topic), message("zeek/management/node", false));
        let log = envelope(Kind::Data, "zeek/logs/Broker::LOG", &payload);
        assert_eq!(hear(&mut peering, log), Received::Ignored(Ignored::NotSubscribed));
        assert_eq!(hear(&mut peering, Envelope { receiver: LOCAL, ..log }), message("zeek/logs/Broker::LOG", true));
        let elsewhere = Envelope { receiver: OTHER, ..on_topic };
        assert_eq!(hear(&mut peering, elsewhere), Received::Ignored(Ignored::NotForUs));
        assert_eq!(hear(&mut peering, Envelope { sender: LOCAL, ..on_topic }), Received::Ignored(Ignored::Echo));
        // Broker rewrites the sender at each hop, but what is said counts, not who is named.
        assert_eq!(
            hear(&mut peering, Envelope { sender: EndpointId::NIL, ..on_topic }),
            message("zeek/management/node", false)
        );
        let command = envelope(Kind::Command, "s/<$>/data/clone", &[]);
        assert_eq!(hear(&mut peering, command), Received::Ignored(Ignored::Command));
    }

    #[test]
    fn what_is_published_depends_on_the_peers_latest_filter() {
        let mut peering = peering();
        let topic = "zeek/management/agent/a1";
        assert!(peering.publish(topic, &Data::None).unwrap().is_some());
        assert!(peering.publish("zeek/supervisor", &Data::None).unwrap().is_none());
        let payload = wire::encode_filter(&[b"zeek/supervisor".to_vec()]);
        let update = envelope(Kind::RoutingUpdate, CONTROL_TOPIC, &payload);
        assert_eq!(hear(&mut peering, Envelope { sender: OTHER, ..update }), Received::Ignored(Ignored::NotThePeers));
        assert!(peering.wants(topic));
        assert_eq!(hear(&mut peering, Envelope { receiver: LOCAL, ..update }), Received::Filter);
        assert!(!peering.wants(topic) && peering.wants("zeek/supervisor"));
        let directed = peering.direct(topic, &Data::None).unwrap();
        let directed = Envelope::decode(&directed[4..]).unwrap();
        assert_eq!((directed.sender, directed.receiver), (LOCAL, REMOTE));
        assert_eq!(peering.publish("x", &Data::None), Ok(None));
        assert_eq!(peering.direct(&"x".repeat(65536), &Data::None), Err(EncodeError::Topic(65536)));
    }

    #[test]
    fn a_change_of_our_filter_is_told_once_in_full() {
        let mut peering = peering();
        assert_eq!(peering.subscribe(Filter::new(["zeek/management/node"])), None);
        let update = peering.subscribe(Filter::new(["b", "a"])).unwrap();
        let update = Envelope::decode(&update[4..]).unwrap();
        assert_eq!((update.kind, update.receiver, update.topic), (Kind::RoutingUpdate, REMOTE, b"<$>".as_slice()));
        assert_eq!(wire::decode_filter(update.payload).unwrap(), [b"a", b"b"]);
        assert_eq!(peering.subscribe(Filter::new(["a", "b"])), None);
    }

    #[test]
    fn a_filter_that_changed_during_the_handshake_is_told_first() {
        let established = Established {
            local: LOCAL,
            remote: REMOTE,
            role: Role::Originator,
            remote_filter: Filter::default(),
            local_filter: Filter::new(["a"]),
        };
        let (_, update) = Peering::new(established, Filter::new(["a", "b"]), Options::default(), Duration::ZERO);
        let update = update.unwrap();
        assert_eq!(Envelope::decode(&update[4..]).unwrap().kind, Kind::RoutingUpdate);
    }

    #[test]
    fn every_ping_is_answered_to_its_sender() {
        let mut peering = peering();
        for (sender, payload, bye) in
            [(REMOTE, b"BYE\x01\0\0\0\0\0\0\x10".as_slice(), true), (REMOTE, b"", false), (OTHER, b"hello", false)]
        {
            let ping = Envelope { sender, receiver: LOCAL, ..envelope(Kind::Ping, CONTROL_TOPIC, payload) };
            let Received::Reply { frame, bye: said } = hear(&mut peering, ping) else { panic!("no answer") };
            let pong = Envelope::decode(&frame[4..]).unwrap();
            let expected = Envelope { sender: LOCAL, receiver: sender, kind: Kind::Pong, ..ping };
            assert_eq!((pong, said), (expected, bye));
        }
    }

    #[test]
    fn bad_frames_are_skipped_one_by_one() {
        let mut peering = peering();
        let skipped = |received| match received {
            Received::Skipped(why) => why.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(skipped(peering.handle_frame(&[0; 36], Duration::ZERO)), "a frame is no envelope");
        let mut strange = envelope(Kind::Data, "x", &[]).encode().unwrap().split_off(4);
        strange[32] = 9;
        assert_eq!(skipped(peering.handle_frame(&strange, Duration::ZERO)), "a frame is no envelope");
        let topic = "zeek/management/node";
        for bad in [&[][..], &[0x0f], &[0, 0], &[0x0c, 2, 0, 0], &[8, 0, 80, 9]] {
            let data = envelope(Kind::Data, topic, bad);
            assert_eq!(skipped(hear(&mut peering, data)), "a message's data cannot be read");
        }
        let update = envelope(Kind::RoutingUpdate, CONTROL_TOPIC, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(skipped(hear(&mut peering, update)), "a routing update cannot be read");
        let topic = Envelope { receiver: LOCAL, topic: &[0xff], ..envelope(Kind::Data, "", &[0]) };
        assert_eq!(skipped(hear(&mut peering, topic)), "a topic is not UTF-8");
        assert!(peering.wants("zeek/management/agent/a1"), "nothing of it had an effect");
    }

    #[test]
    fn silence_is_asked_about_and_then_taken_for_death() {
        let mut peering = peering();
        assert_eq!(peering.next_timeout(), seconds(10));
        assert_eq!(peering.handle_timeout(seconds(9)), Due::Nothing);
        let Due::Ping(ping) = peering.handle_timeout(seconds(10)) else { panic!("no ping") };
        let ping = Envelope::decode(&ping[4..]).unwrap();
        assert!(ping.kind == Kind::Ping && !ping.payload.is_empty() && !ping.payload.starts_with(BYE));
        // The answer, or anything else, starts the clock again.
        let pong = Envelope { sender: REMOTE, receiver: LOCAL, kind: Kind::Pong, ..ping }.encode().unwrap();
        assert_eq!(peering.handle_frame(&pong[4..], seconds(11)), Received::Alive);
        assert_eq!(peering.next_timeout(), seconds(21));
        let mut pings = 0;
        loop {
            let now = peering.next_timeout();
            match peering.handle_timeout(now) {
                Due::Ping(_) => pings += 1,
                Due::Dead { silent } => {
                    assert_eq!((now, silent), (seconds(11 + 45), seconds(45)));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pings, 4);
    }

    #[test]
    fn a_peering_that_was_probed_has_five_seconds() {
        let pong = |ping: &[u8]| {
            let ping = Envelope::decode(&ping[4..]).unwrap();
            Envelope { sender: REMOTE, receiver: LOCAL, kind: Kind::Pong, ..ping }.encode().unwrap()
        };
        let mut alive = peering();
        let ping = alive.probe_liveness(seconds(1)).unwrap();
        assert_eq!((alive.probe_liveness(seconds(2)), alive.next_timeout()), (None, seconds(6)));
        assert_eq!(alive.handle_frame(&pong(&ping)[4..], seconds(3)), Received::Alive);
        assert_eq!(alive.next_timeout(), seconds(13));
        let mut dead = peering();
        _ = dead.probe_liveness(seconds(1)).unwrap();
        assert_eq!(dead.handle_timeout(seconds(5)), Due::Nothing);
        assert_eq!(dead.handle_timeout(seconds(6)), Due::Dead { silent: seconds(6) });
    }

    #[test]
    fn a_bye_ends_with_its_answer_or_after_three_seconds() {
        let mut leaving = peering();
        let ping = leaving.leave(7, seconds(1));
        let ping = Envelope::decode(&ping[4..]).unwrap();
        assert_eq!((ping.kind, ping.payload), (Kind::Ping, b"BYE\0\0\0\0\0\0\0\x07".as_slice()));
        assert_eq!((leaving.next_timeout(), leaving.handle_timeout(seconds(3))), (seconds(4), Due::Nothing));
        let pong = |payload| Envelope { receiver: LOCAL, ..envelope(Kind::Pong, CONTROL_TOPIC, payload) };
        let answer = hear(&mut leaving, pong(b"BYE\0\0\0\0\0\0\0\x08"));
        assert_eq!(answer, Received::Ignored(Ignored::StrayPong));
        // Until the answer comes, work goes on.
        let payload = binary::encode(&Data::None);
        let message = hear(&mut leaving, envelope(Kind::Data, "zeek/management/node", &payload));
        assert!(matches!(message, Received::Message(_)));
        assert_eq!(hear(&mut leaving, pong(b"BYE\0\0\0\0\0\0\0\x07")), Received::Left);
        let mut unanswered = peering();
        _ = unanswered.leave(7, seconds(1));
        assert_eq!(unanswered.handle_timeout(seconds(4)), Due::Left);
    }
}

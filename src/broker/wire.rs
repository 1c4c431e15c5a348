//! Frames, handshake messages, envelopes and topics: Broker's protocol version 1 to bytes and back.
//!
//! Every message is one frame: a 32-bit length and as many bytes. During the handshake the first byte tells the message;
//! after it, every frame is an [`Envelope`]. What the messages lead to is [`handshake`](super::handshake)'s and
//! [`peering`](super::peering)'s affair.

use std::fmt;
use std::str::FromStr;

use super::binary::{self, DecodeError, Reader, put_bytes, put_varbyte};
use super::data::Data;

/// "ZEEK".
pub const MAGIC: u32 = 0x5a45_454b;
/// The protocol version of every release since Broker 2.3 (Zeek 5.0).
pub const VERSION: u8 = 1;
/// Frames longer than this during a handshake end it. Zeek's filters take some hundred bytes.
pub const HANDSHAKE_FRAME_LIMIT: usize = 64 * 1024;
/// Frames longer than this are skipped in a peering, unread.
pub const FRAME_LIMIT: usize = 16 * 1024 * 1024;
/// Broker itself ends a connection whose frames are longer.
const FRAME_MAX: usize = 0x7fff_ffff - 4;
/// The topic of routing updates, pings and pongs.
pub const CONTROL_TOPIC: &str = "<$>";
/// What Broker writes; nobody has ever counted it down.
pub const TTL: u16 = 16;
const TOPIC_MAX: usize = u16::MAX as usize;

/// Identifies an endpoint for the life of its process. A new one is drawn on each start, as Broker does: a remote that
/// has not noticed the end of the last process would refuse the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub [u8; 16]);

impl EndpointId {
    /// As a receiver: everybody who subscribed.
    pub const NIL: Self = Self([0; 16]);

    /// Whether it names no endpoint.
    pub fn is_nil(self) -> bool {
        self == Self::NIL
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no endpoint id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint id is 32 hexadecimal digits in groups of 8-4-4-4-12")]
pub struct EndpointIdError;

impl FromStr for EndpointId {
    type Err = EndpointIdError;

    fn from_str(text: &str) -> Result<Self, EndpointIdError> {
        let mut id = [0; 16];
        let mut digits = text.bytes().filter(|byte| *byte != b'-');
        for byte in &mut id {
            let mut digit = || char::from(digits.next()?).to_digit(16);
            let (high, low) = (digit().ok_or(EndpointIdError)?, digit().ok_or(EndpointIdError)?);
            *byte = (high << 4 | low) as u8;
        }
        let id = Self(id);
        match id.to_string().eq_ignore_ascii_case(text) {
            true => Ok(id),
            false => Err(EndpointIdError),
        }
    }
}

/// Why a stream of frames cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are a TLS record.
    #[error("the peer speaks TLS and this side does not; make both the same (Broker::disable_ssl)")]
    PeerSpeaksTls,
    /// The first four bytes, which it holds, are no length that a handshake has.
    #[error("the peer does not speak Broker's protocol; it began with {0:02x?}")]
    NotBroker([u8; 4]),
    /// Refused during the handshake, before it is read.
    #[error("a frame of {length} bytes during the handshake, {limit} is the most")]
    TooLong {
        /// What its header says.
        length: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// Only an established peering ignores empty frames.
    #[error("a frame of length 0 during the handshake")]
    Empty,
    /// Broker itself would end the connection. Holds the length.
    #[error("a frame of {0} bytes, more than Broker's protocol allows")]
    Impossible(usize),
}

/// What came out of a stream of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What stands after the length.
    Payload(Vec<u8>),
    /// A frame over the limit; its bytes are dropped as they come.
    Oversized {
        /// What its header says, in bytes.
        length: usize,
    },
}

/// Cuts a stream of bytes into frames. Holds no more than was fed and not yet taken, so take until `None` after each
/// [`feed`](Self::feed).
///
/// It starts strict, for the handshake; once that is done, [`established`](Self::established) makes it as forgiving as
/// Broker is in a peering. Bytes that came early stay.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    limit: usize,
    skipping: usize,
    strict: bool,
    first: bool,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(HANDSHAKE_FRAME_LIMIT)
    }
}

impl FrameReader {
    /// For a stream that begins with a handshake whose frames have at most `handshake_limit` bytes.
    pub fn new(handshake_limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, limit: handshake_limit, skipping: 0, strict: true, first: true }
    }

    /// The handshake is over: empty frames are ignored, and those over `limit` skipped.
    pub fn established(&mut self, limit: usize) {
        self.limit = limit;
        self.strict = false;
    }

    /// Takes in bytes as they come, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        let skipped = self.skipping.min(bytes.len());
        self.skipping -= skipped;
        self.buffer.extend_from_slice(bytes.get(skipped..).unwrap_or_default());
    }

    /// Bytes held for a frame that is not complete.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next frame; `None` until more is fed.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            let Some((head, body)) = rest.split_first_chunk::<4>() else {
                self.compact();
                return Ok(None);
            };
            let length = u32::from_be_bytes(*head) as usize;
            if std::mem::take(&mut self.first) {
                self.first_bytes(*head, length)?;
            }
            match length {
                0 if self.strict => return Err(FrameError::Empty),
                0 => self.start += 4,
                _ if length > FRAME_MAX => return Err(FrameError::Impossible(length)),
                _ if length > self.limit && self.strict => {
                    return Err(FrameError::TooLong { length, limit: self.limit });
                }
                _ if length > self.limit => {
                    let there = length.min(body.len());
                    self.skipping = length - there;
                    self.start += 4 + there;
                    return Ok(Some(Frame::Oversized { length }));
                }
                _ => {
                    let Some(payload) = body.get(..length) else {
                        self.compact();
                        return Ok(None);
                    };
                    if length <= HANDSHAKE_FRAME_LIMIT {
                        let payload = payload.to_vec();
                        self.start += 4 + length;
                        return Ok(Some(Frame::Payload(payload)));
                    }
                    return Ok(Some(Frame::Payload(self.take_long(length))));
                }
            }
        }
    }

    /// The next frame, which is there and long: whoever waits with it has it once, and not in this buffer too.
    fn take_long(&mut self, length: usize) -> Vec<u8> {
        let begin = self.start + 4;
        let rest = self.buffer.split_off(begin + length);
        let mut payload = std::mem::replace(&mut self.buffer, rest);
        self.start = 0;
        payload.drain(..begin);
        payload.shrink_to_fit();
        payload
    }

    /// A stream that does not begin as Broker's does usually belongs to TLS: its records begin with their type (0x15
    /// alert, 0x16 handshake) and major version 3.
    fn first_bytes(&self, head: [u8; 4], length: usize) -> Result<(), FrameError> {
        match head {
            [0x15 | 0x16, 3, ..] => Err(FrameError::PeerSpeaksTls),
            _ if length > self.limit && head.first() != Some(&0) => Err(FrameError::NotBroker(head)),
            _ => Ok(()),
        }
    }

    /// Drops what was taken. Only when nothing more can be taken, so each byte moves at most once per feed; a frame that
    /// needs many feeds is at the start already and does not move again.
    fn compact(&mut self) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > HANDSHAKE_FRAME_LIMIT {
            self.buffer = Vec::new();
        }
    }
}

/// Something too long to be written as a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Its length, which it holds, does not fit into 16 bits.
    #[error("a topic of {0} bytes, {TOPIC_MAX} is the most")]
    Topic(usize),
    /// Longer than any Broker reads. Holds the length.
    #[error("a frame of {0} bytes, {FRAME_MAX} is the most")]
    Frame(usize),
}

/// Puts the length in front. `body` starts with four bytes kept for it.
fn seal(mut body: Vec<u8>) -> Result<Vec<u8>, EncodeError> {
    let length = body.len().saturating_sub(4);
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_MAX => {
            if let Some(head) = body.first_chunk_mut::<4>() {
                *head = prefix.to_be_bytes();
            }
            Ok(body)
        }
        _ => Err(EncodeError::Frame(length)),
    }
}

/// Broker's error codes (`broker::ec`), by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u8);

impl ErrorCode {
    /// Stands for every code that is not known.
    pub const UNSPECIFIED: Self = Self(1);
    /// No common protocol version.
    pub const PEER_INCOMPATIBLE: Self = Self(2);
    /// The peer's endpoint id is nil, its own, or changed.
    pub const PEER_INVALID: Self = Self(3);
    /// A message is not known or not due.
    pub const INVALID_MESSAGE: Self = Self(20);
    /// The endpoint is closing.
    pub const SHUTTING_DOWN: Self = Self(28);
    /// A message cannot be read.
    pub const DESERIALIZATION_FAILED: Self = Self(37);
    /// A handshake message without `ZEEK`.
    pub const WRONG_MAGIC_NUMBER: Self = Self(38);
    /// The originator has a peering with this endpoint already.
    pub const REDUNDANT_CONNECTION: Self = Self(39);
    /// The responder has one, which the originator should have noticed.
    pub const LOGIC_ERROR: Self = Self(40);

    const NAMES: [&'static str; 42] = [
        "none",
        "unspecified",
        "peer_incompatible",
        "peer_invalid",
        "peer_unavailable",
        "peer_disconnect_during_handshake",
        "peer_timeout",
        "master_exists",
        "no_such_master",
        "no_such_key",
        "request_timeout",
        "type_clash",
        "invalid_data",
        "backend_failure",
        "stale_data",
        "cannot_open_file",
        "cannot_write_file",
        "invalid_topic_key",
        "end_of_file",
        "invalid_tag",
        "invalid_message",
        "invalid_status",
        "conversion_failed",
        "consumer_exists",
        "connection_timeout",
        "bad_member_function_call",
        "repeated_request_id",
        "broken_clone",
        "shutting_down",
        "invalid_peering_request",
        "repeated_peering_handshake_request",
        "unexpected_handshake_message",
        "invalid_handshake_state",
        "no_path_to_peer",
        "no_connector_available",
        "cannot_open_resource",
        "serialization_failed",
        "deserialization_failed",
        "wrong_magic_number",
        "redundant_connection",
        "logic_error",
        "invalid_json",
    ];

    /// The name as it also appears in error messages of the WebSocket API.
    pub fn name(self) -> &'static str {
        Self::NAMES.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// A message of the handshake. Topics stay raw: what a peer writes must not fail for being odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeMessage {
    /// What the dialler sends first; the acceptor answers with its own unless it is the originator.
    Hello {
        /// Who speaks.
        sender: EndpointId,
        /// The lowest version that it speaks.
        min_version: u8,
        /// The highest version that it speaks.
        max_version: u8,
    },
    /// What the acceptor sends first, so that a dialler learns at once that this is Broker.
    Probe,
    /// The originator selects a version.
    VersionSelect {
        /// Who speaks.
        sender: EndpointId,
        /// The version selected.
        version: u8,
    },
    /// The connection is closed after this.
    DropConn {
        /// Who speaks.
        sender: EndpointId,
        /// Why.
        code: ErrorCode,
        /// Why, in words.
        description: String,
    },
    /// The originator's filter.
    OriginatorSyn {
        /// Prefixes of the topics that it wants.
        filter: Vec<Vec<u8>>,
    },
    /// The responder's filter, in answer to the originator's.
    ResponderSynAck {
        /// Prefixes of the topics that it wants.
        filter: Vec<Vec<u8>>,
    },
    /// The originator has the responder's filter: the peering is established.
    OriginatorAck,
}

/// Why a frame is no handshake message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeDecodeError {
    /// The first byte is no tag of the handshake.
    #[error("there is no handshake message with tag {0}")]
    Tag(u8),
    /// The magic number is not [`MAGIC`].
    #[error("the magic number is {0:#010x} and not \"ZEEK\"")]
    Magic(u32),
    /// A field is cut short, or has no valid value.
    #[error("the handshake message is cut short or malformed")]
    Malformed(#[source] DecodeError),
}

impl HandshakeMessage {
    /// The name that Broker's sources give the message.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Probe => "probe",
            Self::VersionSelect { .. } => "version_select",
            Self::DropConn { .. } => "drop_conn",
            Self::OriginatorSyn { .. } => "originator_syn",
            Self::ResponderSynAck { .. } => "responder_syn_ack",
            Self::OriginatorAck => "originator_ack",
        }
    }

    /// Reads the payload of a frame. Bytes after the last field are ignored, as Broker does.
    pub fn decode(payload: &[u8]) -> Result<Self, HandshakeDecodeError> {
        use HandshakeDecodeError::{Magic, Malformed, Tag};
        let mut reader = Reader::new(payload);
        let tag = reader.u8().map_err(Malformed)?;
        if (6..=9).contains(&tag) {
            match reader.u32().map_err(Malformed)? {
                MAGIC => {}
                other => return Err(Magic(other)),
            }
        }
        Self::body(tag, &mut reader).map_err(Malformed)?.ok_or(Tag(tag))
    }

    fn body(tag: u8, reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match tag {
            6 => Self::Hello {
                sender: EndpointId(reader.array()?),
                min_version: reader.u8()?,
                max_version: reader.u8()?,
            },
            7 => Self::Probe,
            8 => Self::VersionSelect { sender: EndpointId(reader.array()?), version: reader.u8()? },
            9 => Self::DropConn {
                sender: EndpointId(reader.array()?),
                code: match reader.u8()? {
                    code if code <= ErrorCode::LOGIC_ERROR.0 => ErrorCode(code),
                    _ => ErrorCode::UNSPECIFIED,
                },
                description: String::from_utf8_lossy(reader.counted()?).into_owned(),
            },
            10 => Self::OriginatorSyn { filter: read_filter(reader)? },
            11 => Self::ResponderSynAck { filter: read_filter(reader)? },
            12 => Self::OriginatorAck,
            _ => return Ok(None),
        }))
    }

    /// The whole frame, length included.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![0; 4];
        let with_magic = |out: &mut Vec<u8>, tag: u8| {
            out.push(tag);
            out.extend(MAGIC.to_be_bytes());
        };
        match self {
            Self::Hello { sender, min_version, max_version } => {
                with_magic(&mut out, 6);
                out.extend(sender.0);
                out.extend([*min_version, *max_version]);
            }
            Self::Probe => with_magic(&mut out, 7),
            Self::VersionSelect { sender, version } => {
                with_magic(&mut out, 8);
                out.extend(sender.0);
                out.push(*version);
            }
            Self::DropConn { sender, code, description } => {
                with_magic(&mut out, 9);
                out.extend(sender.0);
                out.push(code.0);
                put_bytes(&mut out, description.as_bytes());
            }
            Self::OriginatorSyn { filter } => {
                out.push(10);
                put_filter(&mut out, filter);
            }
            Self::ResponderSynAck { filter } => {
                out.push(11);
                put_filter(&mut out, filter);
            }
            Self::OriginatorAck => out.push(12),
        }
        seal(out)
    }
}

fn put_filter<T: AsRef<[u8]>>(out: &mut Vec<u8>, topics: &[T]) {
    put_varbyte(out, topics.len());
    topics.iter().for_each(|topic| put_bytes(out, topic.as_ref()));
}

fn read_filter(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = reader.varbyte()?;
    // Each topic takes a byte or more. In memory an empty one takes 24, which the limits on frames keep in bounds.
    if count > reader.left() {
        return Err(reader.error(binary::Problem::Count { count, left: reader.left() }));
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        topics.push(reader.counted()?.to_vec());
    }
    Ok(topics)
}

/// The topics of a filter as a routing update's payload has them.
pub fn decode_filter(payload: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut reader = Reader::new(payload);
    let topics = read_filter(&mut reader)?;
    match reader.left() {
        0 => Ok(topics),
        left => Err(reader.error(binary::Problem::Trailing(left))),
    }
}

/// The payload of a routing update with these topics.
pub fn encode_filter(topics: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_filter(&mut out, topics);
    out
}

/// What an endpoint wants to receive: every topic that begins with one of these, byte for byte.
///
/// Kept sorted and without entries that a shorter one covers. Then only the last entry not after a topic can match it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter(Vec<Vec<u8>>);

impl Filter {
    /// A filter for these prefixes, in any order.
    pub fn new<T: Into<Vec<u8>>>(topics: impl IntoIterator<Item = T>) -> Self {
        let mut topics: Vec<Vec<u8>> = topics.into_iter().map(Into::into).collect();
        topics.sort_unstable();
        let mut kept: Vec<Vec<u8>> = Vec::with_capacity(topics.len());
        for topic in topics {
            if !kept.last().is_some_and(|shorter| topic.starts_with(shorter)) {
                kept.push(topic);
            }
        }
        Self(kept)
    }

    /// Whether the topic begins with one of the prefixes.
    pub fn matches(&self, topic: impl AsRef<[u8]>) -> bool {
        let topic = topic.as_ref();
        let after = self.0.partition_point(|entry| entry.as_slice() <= topic);
        after.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|entry| topic.starts_with(entry))
    }

    /// The prefixes, sorted, none of which begins with another.
    pub fn topics(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// What an envelope carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value published under a topic.
    Data,
    /// Of a data store.
    Command,
    /// The sender's new filter.
    RoutingUpdate,
    /// To be answered by a pong with the same payload. One that begins with BYE announces the end of the peering.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Command => 2,
            Self::RoutingUpdate => 3,
            Self::Ping => 4,
            Self::Pong => 5,
        }
    }
}

/// Why a frame is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It ends before its topic does.
    #[error("the envelope is cut short")]
    Truncated(#[source] DecodeError),
    /// Its type, which it holds, is not known.
    #[error("there is no envelope of type {0}")]
    Kind(u8),
}

/// A message of an established peering, its payload not yet looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The endpoint of the last hop.
    pub sender: EndpointId,
    /// Nil: everybody who subscribed.
    pub receiver: EndpointId,
    /// What the payload is.
    pub kind: Kind,
    /// Hops that are left; see [`TTL`].
    pub ttl: u16,
    /// Raw: it need not be text.
    pub topic: &'a [u8],
    /// In the encoding of its kind.
    pub payload: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads the payload of a frame.
    pub fn decode(frame: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut reader = Reader::new(frame);
        Self::read(&mut reader).map_err(EnvelopeError::Truncated)?.map_err(EnvelopeError::Kind)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Result<Self, u8>, DecodeError> {
        let sender = EndpointId(reader.array()?);
        let receiver = EndpointId(reader.array()?);
        let kind = match reader.u8()? {
            1 => Kind::Data,
            2 => Kind::Command,
            3 => Kind::RoutingUpdate,
            4 => Kind::Ping,
            5 => Kind::Pong,
            other => return Ok(Err(other)),
        };
        let ttl = reader.u16()?;
        let topic = reader.u16()?;
        let topic = reader.bytes(usize::from(topic))?;
        Ok(Ok(Self { sender, receiver, kind, ttl, topic, payload: reader.rest() }))
    }

    /// The whole frame, length included.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = self.head(self.payload.len())?;
        out.extend_from_slice(self.payload);
        seal(out)
    }

    fn head(&self, payload: usize) -> Result<Vec<u8>, EncodeError> {
        let length = u16::try_from(self.topic.len()).map_err(|_| EncodeError::Topic(self.topic.len()))?;
        let mut out = Vec::with_capacity(4 + 37 + self.topic.len() + payload);
        out.extend([0; 4]);
        out.extend(self.sender.0);
        out.extend(self.receiver.0);
        out.push(self.kind.number());
        out.extend(self.ttl.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend_from_slice(self.topic);
        Ok(out)
    }
}

/// The frame that publishes `data`: to whoever subscribed if `receiver` is nil, else to that endpoint whatever its
/// filter. One frame serves all peers.
pub fn data_frame(sender: EndpointId, receiver: EndpointId, topic: &str, data: &Data) -> Result<Vec<u8>, EncodeError> {
    let envelope = Envelope { sender, receiver, kind: Kind::Data, ttl: TTL, topic: topic.as_bytes(), payload: &[] };
    let mut out = envelope.head(256)?;
    binary::encode_into(data, &mut out);
    seal(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let stream = [&[0, 0, 0, 1, 12][..], &[0, 0, 0, 3, 1, 2, 3], &[0, 0, 0, 1, 9]].concat();
        for size in 1..=stream.len() {
            let mut reader = FrameReader::default();
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                reader.feed(piece);
                while let Some(frame) = reader.take().unwrap() {
                    frames.push(frame);
                }
            }
            let expected = [vec![12], vec![1, 2, 3], vec![9]].map(Frame::Payload);
            assert_eq!(frames, expected, "in pieces of {size}");
            assert_eq!(reader.pending(), 0);
        }
    }

    #[test]
    fn a_long_frame_is_held_once_by_who_took_it() {
        let long = vec![7; HANDSHAKE_FRAME_LIMIT + 1];
        let head = u32::try_from(long.len()).unwrap().to_be_bytes();
        let stream = [&[0, 0, 0, 1, 12][..], &head, &long, &[0, 0, 0, 3, 1, 2]].concat();
        for size in [1_000, stream.len()] {
            let mut reader = FrameReader::default();
            reader.established(1 << 20);
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                reader.feed(piece);
                while let Some(frame) = reader.take().unwrap() {
                    let is_long = matches!(&frame, Frame::Payload(payload) if payload.len() == long.len());
                    assert!(!is_long || reader.buffer.capacity() < HANDSHAKE_FRAME_LIMIT, "{size}");
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [vec![12], long.clone()].map(Frame::Payload), "in pieces of {size}");
            assert_eq!(reader.pending(), 6);
        }
    }

    #[test]
    fn a_handshake_bears_no_odd_frames() {
        let take = |bytes: &[u8]| {
            let mut reader = FrameReader::default();
            reader.feed(bytes);
            reader.take()
        };
        assert_eq!(take(&[0x15, 3, 1, 0, 2]), Err(FrameError::PeerSpeaksTls));
        assert_eq!(take(&[0x16, 3, 1, 0, 200]), Err(FrameError::PeerSpeaksTls));
        assert_eq!(take(b"GET /v1"), Err(FrameError::NotBroker(*b"GET ")));
        assert_eq!(take(&[0; 4]), Err(FrameError::Empty));
        let limit = HANDSHAKE_FRAME_LIMIT;
        assert_eq!(take(&[0, 1, 0, 1]), Err(FrameError::TooLong { length: 65537, limit }));
        assert_eq!(take(&[0, 0, 0]), Ok(None));
    }

    #[test]
    fn an_established_peering_skips_empty_and_oversized_frames() {
        let mut reader = FrameReader::default();
        reader.established(4);
        reader.feed(&[0, 0, 0, 0, 0, 0, 0, 6, 1, 2]);
        assert_eq!(reader.take(), Ok(Some(Frame::Oversized { length: 6 })));
        assert_eq!(reader.take(), Ok(None));
        reader.feed(&[3, 4, 5]);
        assert_eq!((reader.take(), reader.pending()), (Ok(None), 0));
        reader.feed(&[6, 0, 0, 0, 1, 7]);
        assert_eq!(reader.take(), Ok(Some(Frame::Payload(vec![7]))));
        reader.feed(&[0xff; 4]);
        assert_eq!(reader.take(), Err(FrameError::Impossible(u32::MAX as usize)));
    }

    #[test]
    fn filters_match_prefixes_byte_for_byte() {
        let filter =
            Filter::new(["zeek/management/agent/a1", "zeek/supervisor", "zeek/supervisor/x", "zeek/supervisor"]);
        assert_eq!(filter.topics().len(), 2);
        assert!(filter.matches("zeek/management/agent/a1"));
        assert!(filter.matches("zeek/management/agent/a10"));
        assert!(filter.matches("zeek/supervisor/x/y"));
        assert!(!filter.matches("zeek/management/agent/a"));
        assert!(!filter.matches("zeek/t") && !filter.matches("") && !filter.matches("a"));
        assert!(Filter::new([""]).matches("") && Filter::new([""]).matches([0xff]));
        assert!(!Filter::default().matches(""));
    }

    #[test]
    fn endpoint_ids_are_lower_case_uuids() {
        let id: EndpointId = "00112233-4455-6677-8899-AABBCCDDEEFF".parse().unwrap();
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        for bad in ["", "00112233", "001122334455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeefff"] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn error_codes_have_brokers_names() {
        assert_eq!(ErrorCode(39).to_string(), "redundant_connection (39)");
        assert_eq!(ErrorCode(20).name(), "invalid_message");
        assert_eq!(ErrorCode(41).name(), "invalid_json");
        assert_eq!(ErrorCode(200).name(), "unknown");
    }
}

//! Values of the journal's tree, to and from bytes. Pure.
//!
//! ```text
//! kind u8 · version u8 · form u8 · length u32 LE · checksum 16 bytes
//!     · entries from version 2 on: hash of the entry before 32 bytes
//!     · with a payload: its length u32 LE · its BLAKE3 32 bytes
//!     · body · payload
//! ```
//!
//! Bits of `form`: 1, body and payload are stored in separate pieces of 4 KiB (see [`keys::chunk`]), so that no value
//! comes near the size at which sled moves pages into files that it never syncs; 2, there is a payload; 4, it was
//! dropped.
//!
//! An entry's hash is BLAKE3 over kind, version, key, the hash of the entry before, body and the payload's length and
//! digest: the chain. Its first half is the entry's checksum. That of a record, and of an entry of version 1, is the
//! first half of BLAKE3 over kind, version, key and body. So a value that appears under another key does not pass, and
//! an entry's payload can be dropped without changing any hash. Checksums are checked before kind and version are
//! interpreted: an unknown kind or version was therefore written by a newer release, and is refused rather than
//! dropped.

use super::entry::Numbered;
use super::keys::{self, Key};
pub use super::versions::Hash;
use super::versions::v2::{Parts, Payload};
use super::versions::{
    self, kind,
    records::{self, Stored},
    v1, v2,
};
use crate::api::ids::Seq;

/// A larger body is split into pieces.
pub(in crate::journal) const INLINE_LIMIT: usize = 3 << 10;
pub(in crate::journal) const CHUNK: usize = 4 << 10;

const HEAD: usize = 23;
const CHECKSUM: usize = 16;
const IN_PIECES: u8 = 1;
const WITH_PAYLOAD: u8 = 2;
const DROPPED: u8 = 4;

/// Why a stored value is not what its key says.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It ends before its head or its body does, or claims an impossible length.
    #[error("it is cut short or has an impossible length")]
    Malformed,
    /// Altered bytes, or a value that belongs under another key.
    #[error("its checksum does not match")]
    Checksum,
    /// The body is stored in pieces, and one of them is wrong.
    #[error("piece {index} of its body is missing or has a wrong length")]
    Piece {
        /// Which piece, from 0.
        index: u32,
    },
    /// It is intact, and a newer release wrote it: nothing may be touched.
    #[error("its kind {kind:#04x} version {version} is unknown: a newer release wrote it; use that one")]
    Newer {
        /// As in the head of the value.
        kind: u8,
        /// As in the head of the value.
        version: u8,
    },
    /// It is intact, but does not belong under keys of this kind.
    #[error("it is of kind {found:#04x}, which does not belong there")]
    Kind {
        /// As in the head of the value.
        found: u8,
    },
    /// It is intact, but its fields are not those of its kind and version.
    #[error("its body does not read as version {version} of kind {kind:#04x}")]
    Body {
        /// As in the head of the value.
        kind: u8,
        /// As in the head of the value.
        version: u8,
        /// The decoder's message.
        source: bincode::Error,
    },
}

/// Why something cannot be stored. A bug of our own: outside input is limited long before.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be encoded, most likely because it exceeds {} bytes", versions::BODY_LIMIT)]
pub struct EncodeError {
    /// Which entry or record.
    pub what: String,
    /// The encoder's message.
    pub source: bincode::Error,
}

/// A value ready to be written: under its key, and the pieces of its body under theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::journal) struct Encoded {
    pub(in crate::journal) value: Vec<u8>,
    pub(in crate::journal) pieces: Vec<Vec<u8>>,
}

/// What precedes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Head {
    pub(in crate::journal) kind: u8,
    pub(in crate::journal) version: u8,
    in_pieces: bool,
    /// Of the body.
    length: usize,
    checksum: [u8; CHECKSUM],
    /// The hash of the entry before.
    previous: Option<Hash>,
    payload: Option<PayloadHead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PayloadHead {
    length: usize,
    digest: Hash,
    kept: bool,
}

/// An entry's place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Link {
    /// The hash of the entry before it, as stored in this one.
    pub(in crate::journal) previous: Hash,
    /// Its own.
    pub(in crate::journal) hash: Hash,
}

impl Head {
    /// How many pieces body and payload are in; 0 if they follow the head.
    pub(in crate::journal) fn pieces(&self) -> u32 {
        if !self.in_pieces {
            return 0;
        }
        u32::try_from(self.stored_length().div_ceil(CHUNK)).expect("both lengths are at most BODY_LIMIT")
    }

    /// The length of body and payload in bytes, as far as they are kept.
    pub(in crate::journal) fn stored_length(&self) -> usize {
        self.length + self.payload.filter(|payload| payload.kept).map_or(0, |payload| payload.length)
    }

    /// The length that piece `index` must have.
    fn piece_length(&self, index: u32) -> usize {
        self.stored_length().saturating_sub(index as usize * CHUNK).min(CHUNK)
    }

    fn is_linked(kind: u8, version: u8) -> bool {
        kind < kind::FIRST_RECORD && version > 1
    }

    /// Body and payload of what was stored behind this head.
    fn split<'a>(&self, stored: &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), DecodeError> {
        let (body, payload) = stored.split_at_checked(self.length).ok_or(DecodeError::Malformed)?;
        Ok((body, self.payload.filter(|head| head.kept).map(|_| payload)))
    }

    /// The hash that makes the checksum: for entries, their link of the chain.
    fn hash(&self, key: &[u8], body: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.kind, self.version]);
        hasher.update(&(key.len() as u64).to_le_bytes());
        hasher.update(key);
        if let Some(previous) = &self.previous {
            hasher.update(previous);
            hasher.update(&(body.len() as u64).to_le_bytes());
        }
        hasher.update(body);
        if let Some(payload) = &self.payload {
            hasher.update(&u32_length(payload.length));
            hasher.update(&payload.digest);
        }
        *hasher.finalize().as_bytes()
    }

    /// The value and its pieces.
    fn store(&self, stored: &[u8]) -> Encoded {
        let form = u8::from(self.in_pieces) * IN_PIECES
            + self.payload.map_or(0, |payload| WITH_PAYLOAD + u8::from(!payload.kept) * DROPPED);
        let mut value = Vec::with_capacity(HEAD + 68 + if self.in_pieces { 0 } else { stored.len() });
        value.extend_from_slice(&[self.kind, self.version, form]);
        value.extend_from_slice(&u32_length(self.length));
        value.extend_from_slice(&self.checksum);
        if let Some(previous) = &self.previous {
            value.extend_from_slice(previous);
        }
        if let Some(payload) = &self.payload {
            value.extend_from_slice(&u32_length(payload.length));
            value.extend_from_slice(&payload.digest);
        }
        if self.in_pieces {
            return Encoded { value, pieces: stored.chunks(CHUNK).map(<[u8]>::to_vec).collect() };
        }
        value.extend_from_slice(stored);
        Encoded { value, pieces: Vec::new() }
    }
}

fn u32_length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("the body's limit is far below 4 GiB").to_le_bytes()
}

fn half(hash: &Hash) -> [u8; CHECKSUM] {
    std::array::from_fn(|index| hash[index])
}

fn seal(mut head: Head, key: &[u8], body: &[u8], stored: &[u8]) -> (Encoded, Hash) {
    head.in_pieces = stored.len() > INLINE_LIMIT;
    let hash = head.hash(key, body);
    head.checksum = half(&hash);
    (head.store(stored), hash)
}

/// Encodes an entry that comes after the one with the hash `previous`; also returns its own hash.
pub(in crate::journal) fn encode_entry(numbered: &Numbered, previous: Hash) -> Result<(Encoded, Hash), EncodeError> {
    let Parts { mut body, payload } = v2::encode_entry(numbered.at, &numbered.entry)
        .map_err(|source| EncodeError { what: format!("entry {}", numbered.seq), source })?;
    let length = body.len();
    let payload = payload.map(|payload| match payload {
        Payload::Bytes(bytes) => {
            let head = PayloadHead { length: bytes.len(), digest: *blake3::hash(&bytes).as_bytes(), kept: true };
            body.extend_from_slice(&bytes);
            head
        }
        Payload::Dropped { digest, length } => PayloadHead { length: length as usize, digest, kept: false },
    });
    let head = Head {
        kind: v2::entry_kind(&numbered.entry),
        version: v2::VERSION,
        in_pieces: false,
        length,
        checksum: [0; CHECKSUM],
        previous: Some(previous),
        payload,
    };
    let (bare, _) = body.split_at(length);
    Ok(seal(head, &keys::entry(numbered.seq), bare, &body))
}

pub(in crate::journal) fn encode_record<T: Stored>(key: &[u8], record: &T) -> Result<Encoded, EncodeError> {
    let body = versions::to_bytes(record).map_err(|source| EncodeError { what: keys::describe(key), source })?;
    let head = Head {
        kind: T::KIND,
        version: T::VERSION,
        in_pieces: false,
        length: body.len(),
        checksum: [0; CHECKSUM],
        previous: None,
        payload: None,
    };
    Ok(seal(head, key, &body, &body).0)
}

/// The same entry without its payload, if it has one; hash and checksum stay.
pub(in crate::journal) fn without_payload(head: &Head, stored: &[u8]) -> Option<Encoded> {
    let payload = head.payload.filter(|payload| payload.kept)?;
    let body = stored.get(..head.length)?;
    let bare =
        Head { in_pieces: body.len() > INLINE_LIMIT, payload: Some(PayloadHead { kept: false, ..payload }), ..*head };
    Some(bare.store(body))
}

/// The same value, to be stored elsewhere.
pub(in crate::journal) fn copy(head: &Head, stored: &[u8]) -> Encoded {
    head.store(stored)
}

/// The same value in one piece, as it is exported.
pub(in crate::journal) fn flat(head: &Head, stored: &[u8]) -> Vec<u8> {
    Head { in_pieces: false, ..*head }.store(stored).value
}

/// An entry that was just encoded, in one piece, as it is exported.
pub(in crate::journal) fn joined(encoded: &Encoded) -> Vec<u8> {
    let Ok((head, inline)) = head(&encoded.value) else { return encoded.value.clone() };
    let stored = if encoded.pieces.is_empty() { inline.to_vec() } else { encoded.pieces.concat() };
    flat(&head, &stored)
}

/// An entry that was exported, as it is to be stored.
pub(in crate::journal) fn decode_flat(
    seq: Seq,
    value: &[u8],
) -> Result<(Numbered, Option<Link>, Head, Vec<u8>), DecodeError> {
    let (head, stored) = head(value)?;
    if head.in_pieces {
        return Err(DecodeError::Malformed);
    }
    let (numbered, link) = decode_entry(seq, &head, stored)?;
    let head = Head { in_pieces: stored.len() > INLINE_LIMIT, ..head };
    Ok((numbered, link, head, stored.to_vec()))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = u32::from_le_bytes(self.take()?);
        if u64::from(length) > versions::BODY_LIMIT {
            return Err(DecodeError::Malformed);
        }
        Ok(length as usize)
    }
}

/// Reads the head, and what follows it if that is present too.
pub(in crate::journal) fn head(value: &[u8]) -> Result<(Head, &[u8]), DecodeError> {
    let mut cursor = Cursor(value);
    let [kind, version, form] = cursor.take()?;
    let length = cursor.length()?;
    let checksum = cursor.take()?;
    let previous = if Head::is_linked(kind, version) { Some(cursor.take()?) } else { None };
    let payload = match form & (WITH_PAYLOAD | DROPPED) {
        0 => None,
        bits if bits & WITH_PAYLOAD != 0 && previous.is_some() => {
            Some(PayloadHead { length: cursor.length()?, digest: cursor.take()?, kept: bits & DROPPED == 0 })
        }
        _ => return Err(DecodeError::Malformed),
    };
    if form & !(IN_PIECES | WITH_PAYLOAD | DROPPED) != 0 {
        return Err(DecodeError::Malformed);
    }
    let head = Head { kind, version, in_pieces: form & IN_PIECES != 0, length, checksum, previous, payload };
    let expected = if head.in_pieces { 0 } else { head.stored_length() };
    if cursor.0.len() != expected {
        return Err(DecodeError::Malformed);
    }
    Ok((head, cursor.0))
}

/// Puts the pieces of body and payload together; `piece` fetches one.
pub(in crate::journal) fn assemble<E: From<DecodeError>>(
    head: &Head,
    mut piece: impl FnMut(u32) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<u8>, E> {
    // Not allocated up front: the length is only trusted as far as pieces are found.
    let mut stored = Vec::new();
    for index in 0..head.pieces() {
        match piece(index)? {
            Some(bytes) if bytes.len() == head.piece_length(index) => stored.extend_from_slice(&bytes),
            Some(_) | None => return Err(DecodeError::Piece { index }.into()),
        }
    }
    Ok(stored)
}

fn check(key: &[u8], head: &Head, body: &[u8]) -> Result<Hash, DecodeError> {
    let hash = head.hash(key, body);
    if half(&hash) != head.checksum {
        return Err(DecodeError::Checksum);
    }
    let known = match head.version {
        1 if v1::is_entry(head.kind) => true,
        v2::VERSION if v2::is_entry(head.kind) => true,
        version => records::is_known(head.kind, version),
    };
    if known { Ok(hash) } else { Err(DecodeError::Newer { kind: head.kind, version: head.version }) }
}

/// An entry, and its link of the chain if its version has one. `stored`: what follows the head.
pub(in crate::journal) fn decode_entry(
    seq: Seq,
    head: &Head,
    stored: &[u8],
) -> Result<(Numbered, Option<Link>), DecodeError> {
    let (body, payload) = head.split(stored)?;
    let hash = check(&keys::entry(seq), head, body)?;
    let payload = match (&head.payload, payload) {
        (None, _) => None,
        (Some(PayloadHead { digest, .. }), Some(bytes)) if blake3::hash(bytes).as_bytes() == digest => {
            Some(Payload::Bytes(bytes.to_vec()))
        }
        (Some(_), Some(_)) => return Err(DecodeError::Checksum),
        (Some(PayloadHead { digest, length, .. }), None) => {
            let length = u32::from_le_bytes(u32_length(*length));
            Some(Payload::Dropped { digest: *digest, length })
        }
    };
    let Head { kind, version, .. } = *head;
    let decoded = match version {
        1 => v1::decode_entry(kind, body),
        _ => v2::decode_entry(kind, body, payload),
    };
    match decoded {
        Some(Ok((at, entry))) => {
            let link = head.previous.map(|previous| Link { previous, hash });
            Ok((Numbered { seq, at, entry }, link))
        }
        Some(Err(source)) => Err(DecodeError::Body { kind, version, source }),
        None => Err(DecodeError::Kind { found: kind }),
    }
}

pub(in crate::journal) fn decode_record<T: Stored>(key: &[u8], head: &Head, body: &[u8]) -> Result<T, DecodeError> {
    check(key, head, body)?;
    let Head { kind, version, .. } = *head;
    if kind != T::KIND {
        return Err(DecodeError::Kind { found: kind });
    }
    T::read(version, body).map_err(|source| DecodeError::Body { kind, version, source })
}

/// Whether a value can be decoded as its kind, for readers that need nothing else.
pub(in crate::journal) fn check_record(key: &[u8], head: &Head, body: &[u8]) -> Result<(), DecodeError> {
    check(key, head, body)?;
    let Head { kind, version, .. } = *head;
    match records::reads(kind, version, body) {
        Some(read) => read.map_err(|source| DecodeError::Body { kind, version, source }),
        None => Err(DecodeError::Kind { found: kind }),
    }
}

/// Does to arbitrary bytes all that reading does to a stored value, with and without a matching checksum. For
/// fuzzing: it returns for any bytes.
pub fn try_decode(key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    let seq = match keys::parse(key) {
        Some(Key::Entry(seq)) => Some(seq),
        Some(_) | None => None,
    };
    if let Some((kind, body)) = value.split_first() {
        // The bodies' decoders must cope even with bytes that a checksum would have rejected.
        drop(v1::decode_entry(*kind, body));
        drop(v2::decode_entry(*kind, body, None));
        let payload = || Some(Payload::Bytes(body.to_vec()));
        drop(v2::decode_entry(*kind, &body[..body.len() / 2], payload()));
        drop(records::reads(*kind, 1, body));
        drop(records::reads(*kind, 2, body));
    }
    let (head, inline) = head(value)?;
    let assembled = assemble(&head, |index| {
        let start = index as usize * CHUNK;
        Ok::<_, DecodeError>(value.get(start..).map(|rest| rest[..rest.len().min(CHUNK)].to_vec()))
    })?;
    let stored = if head.in_pieces { &assembled } else { inline };
    match seq {
        Some(seq) => decode_entry(seq, &head, stored).map(drop),
        None => check_record(key, &head, stored),
    }
}

//! Values of the journal's tree: bytes to bodies and back. Pure.
//!
//! ```text
//! kind u8 · version u8 · form u8 · length u32 LE · checksum 16 bytes · body (only with form 0)
//! ```
//!
//! `form` 0: the body follows. 1: it lies in pieces of 4 KiB of its own (see [`keys::chunk`]), so that no value comes
//! near the size at which sled moves pages into files that it never syncs. The checksum is the first half of BLAKE3
//! over kind, version, key length, key and body: a value that turns up under another key does not pass. It is checked
//! before anything is made of kind and version, so a kind or version that is not known here was really written so, by
//! a newer release, and is refused rather than dropped.

use super::entry::Numbered;
use super::keys::{self, Key};
use super::versions::v1::{self, Stored};
use crate::api::ids::Seq;

/// A longer body is cut into pieces.
pub(super) const INLINE_LIMIT: usize = 3 << 10;
pub(super) const CHUNK: usize = 4 << 10;

const HEAD: usize = 23;
const CHECKSUM: usize = 16;
const FORM_INLINE: u8 = 0;
const FORM_CHUNKED: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("it is cut short or has an impossible length")]
    Malformed,
    #[error("its checksum does not match")]
    Checksum,
    #[error("piece {index} of its body is missing or has a wrong length")]
    Piece { index: u32 },
    #[error("its kind {kind:#04x} version {version} is unknown: a newer release wrote it")]
    Newer { kind: u8, version: u8 },
    #[error("it is of kind {found:#04x}, which does not belong there")]
    Kind { found: u8 },
    #[error("its body does not read as version {version} of kind {kind:#04x}")]
    Body { kind: u8, version: u8, source: bincode::Error },
}

/// Why something cannot be stored. A fault of our own: what comes from outside is limited long before.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be encoded, most likely because it exceeds {} bytes", v1::BODY_LIMIT)]
pub struct EncodeError {
    pub what: String,
    pub source: bincode::Error,
}

/// A value ready to be written: under its key, and the pieces of its body under theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) value: Vec<u8>,
    pub(super) pieces: Vec<Vec<u8>>,
}

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) version: u8,
    chunked: bool,
    length: usize,
    checksum: [u8; CHECKSUM],
}

impl Head {
    /// How many pieces the body is in; 0 if it follows the head.
    pub(super) fn pieces(&self) -> u32 {
        if !self.chunked {
            return 0;
        }
        u32::try_from(self.length.div_ceil(CHUNK)).expect("the length is at most BODY_LIMIT")
    }

    pub(super) fn body_length(&self) -> usize {
        self.length
    }

    /// The length that piece `index` must have.
    fn piece_length(&self, index: u32) -> usize {
        self.length.saturating_sub(index as usize * CHUNK).min(CHUNK)
    }
}

fn checksum(key: &[u8], kind: u8, version: u8, body: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind, version]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(body);
    let mut half = [0; CHECKSUM];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM]);
    half
}

fn encode(key: &[u8], kind: u8, body: &[u8]) -> Encoded {
    let chunked = body.len() > INLINE_LIMIT;
    let length = u32::try_from(body.len()).expect("the body's limit is far below 4 GiB");
    let mut value = Vec::with_capacity(HEAD + if chunked { 0 } else { body.len() });
    value.extend_from_slice(&[kind, v1::VERSION, if chunked { FORM_CHUNKED } else { FORM_INLINE }]);
    value.extend_from_slice(&length.to_le_bytes());
    value.extend_from_slice(&checksum(key, kind, v1::VERSION, body));
    if chunked {
        return Encoded { value, pieces: body.chunks(CHUNK).map(<[u8]>::to_vec).collect() };
    }
    value.extend_from_slice(body);
    Encoded { value, pieces: Vec::new() }
}

pub(super) fn encode_entry(numbered: &Numbered) -> Result<Encoded, EncodeError> {
    let body = v1::encode_entry(numbered.at, &numbered.entry)
        .map_err(|source| EncodeError { what: format!("entry {}", numbered.seq), source })?;
    Ok(encode(&keys::entry(numbered.seq), v1::entry_kind(&numbered.entry), &body))
}

pub(super) fn encode_record<T: Stored>(key: &[u8], record: &T) -> Result<Encoded, EncodeError> {
    let body = v1::to_bytes(record).map_err(|source| EncodeError { what: keys::describe(key), source })?;
    Ok(encode(key, T::KIND, &body))
}

/// Reads what stands before the body, and the body if it is there too.
pub(super) fn head(value: &[u8]) -> Result<(Head, &[u8]), DecodeError> {
    let (head, body) = value.split_at_checked(HEAD).ok_or(DecodeError::Malformed)?;
    let [kind, version, form, l0, l1, l2, l3, rest @ ..] = head else { return Err(DecodeError::Malformed) };
    let checksum = rest.try_into().map_err(|_| DecodeError::Malformed)?;
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    if u64::from(length) > v1::BODY_LIMIT {
        return Err(DecodeError::Malformed);
    }
    let length = length as usize;
    let chunked = match *form {
        FORM_INLINE if body.len() == length => false,
        FORM_CHUNKED if body.is_empty() => true,
        _ => return Err(DecodeError::Malformed),
    };
    Ok((Head { kind: *kind, version: *version, chunked, length, checksum }, body))
}

/// Puts the pieces of a body together; `piece` fetches one.
pub(super) fn assemble<E: From<DecodeError>>(
    head: &Head,
    mut piece: impl FnMut(u32) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<u8>, E> {
    // Not allocated up front: the length is believed no further than pieces turn up.
    let mut body = Vec::new();
    for index in 0..head.pieces() {
        match piece(index)? {
            Some(bytes) if bytes.len() == head.piece_length(index) => body.extend_from_slice(&bytes),
            Some(_) | None => return Err(DecodeError::Piece { index }.into()),
        }
    }
    Ok(body)
}

fn check(key: &[u8], head: &Head, body: &[u8]) -> Result<(), DecodeError> {
    if checksum(key, head.kind, head.version, body) != head.checksum {
        return Err(DecodeError::Checksum);
    }
    let known = head.version == v1::VERSION && (v1::is_entry(head.kind) || v1::is_record(head.kind));
    if known { Ok(()) } else { Err(DecodeError::Newer { kind: head.kind, version: head.version }) }
}

pub(super) fn decode_entry(seq: Seq, head: &Head, body: &[u8]) -> Result<Numbered, DecodeError> {
    check(&keys::entry(seq), head, body)?;
    let Head { kind, version, .. } = *head;
    match v1::decode_entry(kind, body) {
        Some(Ok((at, entry))) => Ok(Numbered { seq, at, entry }),
        Some(Err(source)) => Err(DecodeError::Body { kind, version, source }),
        None => Err(DecodeError::Kind { found: kind }),
    }
}

pub(super) fn decode_record<T: Stored>(key: &[u8], head: &Head, body: &[u8]) -> Result<T, DecodeError> {
    check(key, head, body)?;
    let Head { kind, version, .. } = *head;
    if kind != T::KIND {
        return Err(DecodeError::Kind { found: kind });
    }
    v1::from_bytes(body).map_err(|source| DecodeError::Body { kind, version, source })
}

/// Whether a value reads as whatever its kind says, for readers that want to know no more.
pub(super) fn check_record(key: &[u8], head: &Head, body: &[u8]) -> Result<(), DecodeError> {
    check(key, head, body)?;
    let Head { kind, version, .. } = *head;
    match v1::record_reads(kind, body) {
        Some(read) => read.map_err(|source| DecodeError::Body { kind, version, source }),
        None => Err(DecodeError::Kind { found: kind }),
    }
}

/// Does to arbitrary bytes all that reading does to a stored value, with and without a checksum that fits. For
/// fuzzing: whatever the bytes are, it returns.
pub fn try_decode(key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    let seq = match keys::parse(key) {
        Some(Key::Entry(seq)) => Some(seq),
        Some(_) | None => None,
    };
    if let Some((kind, body)) = value.split_first() {
        // The bodies' readers must hold even where a checksum would have stopped the bytes.
        drop(v1::decode_entry(*kind, body));
        drop(v1::record_reads(*kind, body));
    }
    let (head, inline) = head(value)?;
    let assembled = assemble(&head, |index| {
        let start = index as usize * CHUNK;
        Ok::<_, DecodeError>(value.get(start..).map(|rest| rest[..rest.len().min(CHUNK)].to_vec()))
    })?;
    let body = if head.chunked { &assembled } else { inline };
    match seq {
        Some(seq) => decode_entry(seq, &head, body).map(drop),
        None => check_record(key, &head, body),
    }
}

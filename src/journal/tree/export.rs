//! A journal as one stream, to be kept elsewhere or imported by another agent: its bytes, and how they are produced.
//! `docs/EXPORT.md` describes them.
//!
//! Every frame's checksum continues that of the frame before, so a frame that was altered, left out, moved or repeated
//! is detected where it occurs, before its content is used. The entries inside are as they are stored, with their
//! hashes, which are a proof by themselves.
//!
//! [`chunk`] writes a chunk, [`Unpacker`] parses a stream as its bytes arrive. Nothing is allocated just because a
//! stream claims a length.

pub(crate) mod older;

use serde::{Deserialize, Serialize};

use super::table::{Entries, ReadError, Table};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::ids::Seq;
use crate::api::time::Timestamp;
use crate::journal::format::codec::{self, Hash};
use crate::journal::format::keys;
use crate::journal::format::versions::{self, BODY_LIMIT, records::HistoryRecord};

const MAGIC: &[u8; 8] = b"ZCAEXPRT";
/// The version of the stream, which is independent of the version of the entries in it.
const VERSION: u32 = 1;

const HEADER: u8 = 1;
const ENTRY: u8 = 2;
const END: u8 = 3;

const CHECKSUM: usize = 16;
type Checksum = [u8; CHECKSUM];
/// Kind and length.
const FRAME: usize = 5;
/// Number of entries, number of the newest, its hash.
const END_LENGTH: usize = 8 + 8 + 32;
/// Our own are below 200 bytes; later releases may say more.
const HEADER_LIMIT: u64 = 64 << 10;
/// A number, the head of a value, a body and a payload.
const ENTRY_LIMIT: u64 = 128 + 2 * BODY_LIMIT;

/// The approximate size of a chunk of the stream, in bytes.
const CHUNK: usize = 1 << 20;

/// What a stream says about itself before its first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the journal that the entries are of.
    pub format: u32,
    /// The oldest entry that retention had kept.
    pub first: Seq,
    /// Responses of reads up to here are kept as digests only.
    pub trimmed: Seq,
    /// When the export began, by the wall clock.
    pub exported_at: Timestamp,
    /// The release that wrote it.
    pub release: String,
}

/// What a stream ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How many entries precede it.
    pub entries: u64,
    /// The newest of them.
    pub last: Seq,
    /// Its hash.
    pub hash: Hash,
}

/// What a stream is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Comes first.
    Header(Header),
    /// An entry as it is stored, in one piece.
    Entry {
        /// The entry's number.
        seq: Seq,
        /// Head, body and payload, as [`codec`] describes them.
        value: Vec<u8>,
    },
    /// Comes last.
    End(End),
}

/// Why a journal cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something is unreadable. What was written so far is useless.
    #[error(
        "the journal is damaged, and an export is all or nothing; `journal import --salvage` takes over what can be read"
    )]
    Damaged(#[source] ReadError),
    /// The storage failed for another reason than damage, or an entry is a newer release's.
    #[error(transparent)]
    Read(ReadError),
    /// An entry of format 1. Holds its number.
    #[error(
        "entry {0} is in a format without hashes and could not be converted to this release's; start the agent once, then \
         export again"
    )]
    Older(Seq),
    /// The next entry is gone. Holds its number; the export has to be restarted.
    #[error("retention removed entry {0} while it was about to be exported; try again")]
    Pruned(Seq),
    /// Half of the entry is in the stream, and retention has dropped its response since. Holds its number.
    #[error("entry {0} has changed since its first part was exported; try again")]
    Changed(Seq),
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        if error.is_damage() { Self::Damaged(error) } else { Self::Read(error) }
    }
}

fn checksum(before: &Checksum, parts: &[&[u8]]) -> Checksum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    for part in parts {
        hasher.update(part);
    }
    first_half(hasher.finalize().as_bytes())
}

fn first_half(hash: &Hash) -> Checksum {
    std::array::from_fn(|index| hash[index])
}

fn prologue() -> [u8; 12] {
    let mut prologue = [0; 12];
    prologue[..8].copy_from_slice(MAGIC);
    prologue[8..].copy_from_slice(&VERSION.to_le_bytes());
    prologue
}

/// A frame, and its checksum.
fn frame(before: &Checksum, kind: u8, content: &[&[u8]]) -> (Vec<u8>, Checksum) {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("no stored entry comes near 4 GiB").to_le_bytes();
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&length);
    content.iter().for_each(|part| bytes.extend_from_slice(part));
    let checksum = checksum(before, &[&bytes]);
    bytes.extend_from_slice(&checksum);
    (bytes, checksum)
}

/// The chunk of the stream that begins at `cursor`, or at its beginning. `now`: when the export began.
pub(in crate::journal) fn chunk(
    table: &impl Table,
    cursor: Option<&ExportCursor>,
    now: Timestamp,
) -> Result<ExportChunk, ExportError> {
    let history = table.record::<HistoryRecord>(keys::HISTORY)?.unwrap_or_default();
    let mut bytes = Vec::new();
    let mut at = match cursor {
        Some(cursor) => cursor.clone(),
        None => begin(&mut bytes, &history, now),
    };
    let from = at.next;
    let full = entries(table, &mut bytes, &mut at, history.last)?;
    let after = table.record::<HistoryRecord>(keys::HISTORY)?.unwrap_or_default();
    // What was removed meanwhile may have been missed.
    if after.first > from {
        return Err(ExportError::Pruned(from));
    }
    // Responses that were dropped meanwhile are reported by an entry after these.
    let end = !full && after.trimmed == history.trimmed;
    if end {
        let (last, checksum) = end_frame(&at.checksum, &End { entries: at.entries, last: at.last, hash: at.hash });
        bytes.extend_from_slice(&last);
        at.checksum = checksum;
    }
    Ok(ExportChunk { bytes, cursor: at, end, newest: history.last })
}

fn begin(bytes: &mut Vec<u8>, history: &HistoryRecord, now: Timestamp) -> ExportCursor {
    let first = history.first.max(Seq(1));
    let header = Header {
        format: versions::CURRENT_FORMAT,
        first,
        trimmed: history.trimmed,
        exported_at: now,
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let checksum = write_header(bytes, &header);
    ExportCursor {
        next: first,
        offset: 0,
        begun: None,
        checksum,
        entries: 0,
        first,
        last: Seq(first.0.saturating_sub(1)),
        hash: Hash::default(),
    }
}

fn write_header(bytes: &mut Vec<u8>, header: &Header) -> Checksum {
    let header = rmp_serde::to_vec_named(header).expect("numbers and a text are MessagePack");
    let prologue = prologue();
    let (frame, checksum) = frame(&first_half(blake3::hash(&prologue).as_bytes()), HEADER, &[&header]);
    bytes.extend_from_slice(&prologue);
    bytes.extend_from_slice(&frame);
    checksum
}

fn end_frame(before: &Checksum, end: &End) -> (Vec<u8>, Checksum) {
    frame(before, END, &[&end.entries.to_le_bytes(), &end.last.0.to_le_bytes(), &end.hash])
}

fn entry_frame(before: &Checksum, seq: Seq, value: &[u8]) -> (Vec<u8>, Checksum) {
    frame(before, ENTRY, &[&seq.0.to_le_bytes(), value])
}

/// A whole stream, of any entries.
#[cfg(test)]
pub(in crate::journal) struct Written {
    bytes: Vec<u8>,
    checksum: Checksum,
}

#[cfg(test)]
impl Written {
    pub(in crate::journal) fn begin(header: &Header) -> Self {
        let mut bytes = Vec::new();
        let checksum = write_header(&mut bytes, header);
        Self { bytes, checksum }
    }

    pub(in crate::journal) fn entry(&mut self, seq: Seq, value: &[u8]) {
        let (frame, checksum) = entry_frame(&self.checksum, seq, value);
        self.bytes.extend_from_slice(&frame);
        self.checksum = checksum;
    }

    pub(in crate::journal) fn end(mut self, end: &End) -> Vec<u8> {
        self.bytes.extend_from_slice(&end_frame(&self.checksum, end).0);
        self.bytes
    }
}

/// Entries up to `last`, as far as there is room; returns whether the room ran out first.
fn entries(table: &impl Table, bytes: &mut Vec<u8>, at: &mut ExportCursor, last: Seq) -> Result<bool, ExportError> {
    for (seq, value) in Entries::new(table, at.next, last, false) {
        let whole = table.read_entry(seq, &value?)?;
        let link = whole.link.ok_or(ExportError::Older(seq))?;
        let value = codec::flat(&whole.head, &whole.stored);
        let (frame, checksum) = entry_frame(&at.checksum, seq, &value);
        let begun = at.begun.is_some_and(|_| at.next == seq);
        if begun && at.begun != Some(checksum) {
            return Err(ExportError::Changed(seq));
        }
        let offset = if begun { usize::try_from(at.offset).unwrap_or(usize::MAX) } else { 0 };
        let rest = frame.get(offset..).ok_or(ExportError::Changed(seq))?;
        let room = CHUNK.saturating_sub(bytes.len());
        at.next = seq;
        if rest.len() > room {
            // An entry that fits into the next chunk as a whole is not split.
            if rest.len() > CHUNK {
                let part = &rest[..room];
                bytes.extend_from_slice(part);
                at.offset = (offset + part.len()) as u64;
                at.begun = Some(checksum);
            }
            return Ok(true);
        }
        bytes.extend_from_slice(rest);
        *at = ExportCursor {
            next: seq.next(),
            offset: 0,
            begun: None,
            checksum,
            entries: at.entries + 1,
            first: at.first,
            last: seq,
            hash: link.hash,
        };
    }
    Ok(false)
}

/// What is wrong with a stream, and at which of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It does not begin like an export.
    #[error("it is not an export of a journal; give a file that `journal export` wrote")]
    Magic,
    /// The version of the stream is unknown. Holds it.
    #[error("it is an export of version {0}, and this release knows version {VERSION}: import it with a newer release")]
    Version(u32),
    /// It ends before its end frame does.
    #[error("it is cut short: it ends at byte {at}, {after}; copy it again, or export it again", after = after(.last))]
    CutShort {
        /// The offset at which it ends.
        at: u64,
        /// The newest entry before that.
        last: Option<Seq>,
    },
    /// Frames were altered, left out, moved or repeated.
    #[error("it was altered: the checksum of what begins at byte {at}, {after}, does not match; copy it again, or export it again", after = after(.last))]
    Checksum {
        /// The offset of the frame.
        at: u64,
        /// The newest entry before it.
        last: Option<Seq>,
    },
    /// Refused before anything is allocated for it.
    #[error("what begins at byte {at}, {after}, claims {length} bytes, and {limit} is the most; copy it again, or export it again", after = after(.last))]
    Length {
        /// The offset of the frame.
        at: u64,
        /// The newest entry before it.
        last: Option<Seq>,
        /// What it claims.
        length: u64,
        /// The most for its kind.
        limit: u64,
    },
    /// Frames of this kind are not known.
    #[error("what begins at byte {at}, {after}, is of kind {kind}: a newer release wrote it; import it with that one", after = after(.last))]
    Kind {
        /// The offset of the frame.
        at: u64,
        /// The newest entry before it.
        last: Option<Seq>,
        /// Its kind.
        kind: u8,
    },
    /// The frame is intact but cannot occur there.
    #[error("what begins at byte {at}, {after}, {what}; copy it again, or export it again", after = after(.last))]
    Order {
        /// The offset of the frame.
        at: u64,
        /// The newest entry before it.
        last: Option<Seq>,
        /// What is wrong, as a part of a sentence.
        what: &'static str,
    },
    /// The header is not a map of the required fields. Holds the decoder's message.
    #[error("its header cannot be read ({0}); copy it again, or export it again")]
    Header(String),
    /// There are bytes after the end frame.
    #[error("something follows its end, at byte {at}; copy it again, or export it again")]
    Trailing {
        /// The offset of what follows.
        at: u64,
    },
}

fn after(last: &Option<Seq>) -> String {
    last.map_or_else(|| "before the first entry".to_owned(), |seq| format!("after entry {seq}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prologue,
    Header,
    Entries,
    Ended,
}

/// Parses a stream: [`Unpacker::push`] what has arrived, [`Unpacker::next`] until it returns nothing, and in the end
/// [`Unpacker::finish`]. Entries come in ascending order, between one header and one end that counts them.
#[derive(Debug)]
pub struct Unpacker {
    buffer: Vec<u8>,
    /// How much of the buffer has been consumed, and where in the stream that is.
    done: usize,
    at: u64,
    stage: Stage,
    checksum: Checksum,
    first: Seq,
    last: Option<Seq>,
    entries: u64,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            done: 0,
            at: 0,
            stage: Stage::Prologue,
            checksum: first_half(blake3::hash(&prologue()).as_bytes()),
            first: Seq(1),
            last: None,
            entries: 0,
        }
    }
}

impl Unpacker {
    /// Adds bytes as they arrive, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.done));
        self.buffer.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.done..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.done += bytes;
        self.at += bytes as u64;
    }

    /// The next frame; `None`: more bytes are needed.
    #[expect(clippy::should_implement_trait, reason = "none now does not mean none later")]
    pub fn next(&mut self) -> Result<Option<Frame>, UnpackError> {
        if self.stage == Stage::Prologue {
            let rest = self.rest();
            if !rest.iter().zip(MAGIC).all(|(found, wanted)| found == wanted) {
                return Err(UnpackError::Magic);
            }
            let Some(version) = rest.get(8..12) else { return Ok(None) };
            let version = u32::from_le_bytes(std::array::from_fn(|index| version[index]));
            if version != VERSION {
                return Err(UnpackError::Version(version));
            }
            self.skip(12);
            self.stage = Stage::Header;
        }
        let (at, last) = (self.at, self.last);
        let Some((head, rest)) = self.rest().split_first_chunk::<FRAME>() else {
            return match self.stage {
                Stage::Ended if !self.rest().is_empty() => Err(UnpackError::Trailing { at }),
                _ => Ok(None),
            };
        };
        let [kind, length @ ..] = *head;
        let length = u64::from(u32::from_le_bytes(length));
        let limit = match (self.stage, kind) {
            (Stage::Ended, _) => return Err(UnpackError::Trailing { at }),
            (Stage::Header, HEADER) => HEADER_LIMIT,
            (Stage::Entries, ENTRY) => ENTRY_LIMIT,
            (Stage::Entries, END) => END_LENGTH as u64,
            (_, HEADER | ENTRY | END) => {
                return Err(UnpackError::Order { at, last, what: "does not belong there" });
            }
            (_, kind) => return Err(UnpackError::Kind { at, last, kind }),
        };
        if length > limit {
            return Err(UnpackError::Length { at, last, length, limit });
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((content, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        let Some(found) = rest.first_chunk::<CHECKSUM>() else { return Ok(None) };
        let wanted = checksum(&self.checksum, &[head, content]);
        if *found != wanted {
            return Err(UnpackError::Checksum { at, last });
        }
        let frame = self.content(kind, content)?;
        self.checksum = wanted;
        self.stage = match &frame {
            Frame::Header(header) => {
                self.first = header.first;
                Stage::Entries
            }
            Frame::Entry { seq, .. } => {
                self.last = Some(*seq);
                self.entries += 1;
                Stage::Entries
            }
            Frame::End(_) => Stage::Ended,
        };
        self.skip(FRAME + length + CHECKSUM);
        Ok(Some(frame))
    }

    fn content(&self, kind: u8, content: &[u8]) -> Result<Frame, UnpackError> {
        let order = |what| Err(UnpackError::Order { at: self.at, last: self.last, what });
        match kind {
            HEADER => match rmp_serde::from_slice::<Header>(content) {
                Ok(Header { first: Seq(0), .. }) => Err(UnpackError::Header("it begins before entry 1".to_owned())),
                Ok(header) => Ok(Frame::Header(header)),
                Err(error) => Err(UnpackError::Header(error.to_string())),
            },
            ENTRY => {
                let Some((seq, value)) = content.split_first_chunk::<8>() else { return order("is too short") };
                let seq = Seq(u64::from_le_bytes(*seq));
                match self.last {
                    Some(last) if seq <= last => order("is an entry that does not come after the one before it"),
                    None if seq < self.first => order("is an entry from before the export's beginning"),
                    // An import needs one more number for the entry that it adds.
                    _ if seq.0 > u64::MAX >> 1 => order("is an entry with an impossible number"),
                    _ => Ok(Frame::Entry { seq, value: value.to_vec() }),
                }
            }
            _ => {
                let Some((entries, rest)) = content.split_first_chunk::<8>() else { return order("is too short") };
                let Some((last, rest)) = rest.split_first_chunk::<8>() else { return order("is too short") };
                let Some(hash) = rest.first_chunk::<32>() else { return order("is too short") };
                let end =
                    End { entries: u64::from_le_bytes(*entries), last: Seq(u64::from_le_bytes(*last)), hash: *hash };
                let last = self.last.unwrap_or(Seq(self.first.0.saturating_sub(1)));
                if (end.entries, end.last) != (self.entries, last) {
                    return order("is an end that counts other entries");
                }
                Ok(Frame::End(end))
            }
        }
    }

    /// There are no more bytes.
    pub fn finish(&self) -> Result<(), UnpackError> {
        match self.stage {
            Stage::Ended if self.rest().is_empty() => Ok(()),
            Stage::Ended => Err(UnpackError::Trailing { at: self.at }),
            Stage::Prologue if self.at == 0 && self.rest().is_empty() => Err(UnpackError::Magic),
            Stage::Prologue | Stage::Header | Stage::Entries => {
                Err(UnpackError::CutShort { at: self.at + self.rest().len() as u64, last: self.last })
            }
        }
    }
}

//! The keys of the journal's one tree. A prefix is assigned permanently: a retired one stays reserved.
//!
//! ```text
//! F                          the format's version
//! L seq                      an entry; gapless from 1
//! C seq index                the body of an entry over 3 KiB, in pieces of 4 KiB
//! R reqid                    the first request with this reqid that was not a conflict: its seq and digest
//! P seq                      the entry that completed request `seq`, if it is a different entry
//! D seq                      the entry with the deadline response of request `seq`
//! U seq                      request `seq` has no outcome yet: how far it has come
//! X seq                      the duplicates of request `seq`: how many, the first 16, the last 16
//! H                          where history begins and ends, its newest hash, its totals
//! A                          the agent, over all its runs
//! W                          the desired configuration
//! N name                     one node
//! O seq                      a configuration that was to run, by the entry that set it
//! K length key index         the body of any other record over 3 KiB, in pieces of 4 KiB; `key` is the record's
//! ```
//!
//! Numbers are big-endian, so that the tree's order is theirs: seq and index of an entry 8 and 4 bytes, `length` 2.

use std::ops::Range;

use crate::api::ids::{NodeName, ReqId, Seq};

pub(in crate::journal) const FORMAT: &[u8] = b"F";
pub(in crate::journal) const HISTORY: &[u8] = b"H";
pub(in crate::journal) const AGENT: &[u8] = b"A";
pub(in crate::journal) const DESIRED: &[u8] = b"W";

const ENTRY: u8 = b'L';
const ENTRY_CHUNK: u8 = b'C';
const REQID: u8 = b'R';
const OUTCOME: u8 = b'P';
const DEADLINE: u8 = b'D';
const UNFINISHED: u8 = b'U';
const DUPLICATES: u8 = b'X';
const NODE: u8 = b'N';
const PAST: u8 = b'O';
const RECORD_CHUNK: u8 = b'K';

/// A parsed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Key<'a> {
    Format,
    Entry(Seq),
    EntryChunk(Seq, u32),
    Reqid(&'a [u8]),
    Outcome(Seq),
    Deadline(Seq),
    Unfinished(Seq),
    Duplicates(Seq),
    History,
    Agent,
    Desired,
    Node(&'a [u8]),
    Past(Seq),
    RecordChunk(&'a [u8], u32),
}

/// The families of keys that are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Family {
    Entry,
    EntryChunk,
    Reqid,
    Outcome,
    Deadline,
    Unfinished,
    Duplicates,
    Node,
    Past,
    RecordChunk,
}

impl Family {
    fn prefix(self) -> u8 {
        match self {
            Self::Entry => ENTRY,
            Self::EntryChunk => ENTRY_CHUNK,
            Self::Reqid => REQID,
            Self::Outcome => OUTCOME,
            Self::Deadline => DEADLINE,
            Self::Unfinished => UNFINISHED,
            Self::Duplicates => DUPLICATES,
            Self::Node => NODE,
            Self::Past => PAST,
            Self::RecordChunk => RECORD_CHUNK,
        }
    }

    /// All keys of the family.
    pub(in crate::journal) fn range(self) -> Range<Vec<u8>> {
        vec![self.prefix()]..vec![self.prefix() + 1]
    }
}

/// All keys there can be: the longest is that of the last piece of a reqid's row.
pub(in crate::journal) fn everything() -> Range<Vec<u8>> {
    vec![0]..vec![0xff; 300]
}

fn numbered(prefix: u8, seq: Seq) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(prefix);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

fn named(prefix: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(prefix);
    key.extend_from_slice(name.as_bytes());
    key
}

pub(in crate::journal) fn entry(seq: Seq) -> Vec<u8> {
    numbered(ENTRY, seq)
}

/// The keys of the entries `first` to `last`, both included.
pub(in crate::journal) fn entries(first: Seq, last: Seq) -> Range<Vec<u8>> {
    let end = if last.0 == u64::MAX { vec![ENTRY + 1] } else { entry(last.next()) };
    entry(first)..end
}

pub(in crate::journal) fn reqid(reqid: &ReqId) -> Vec<u8> {
    named(REQID, reqid.as_str())
}

pub(in crate::journal) fn outcome(request: Seq) -> Vec<u8> {
    numbered(OUTCOME, request)
}

pub(in crate::journal) fn deadline(request: Seq) -> Vec<u8> {
    numbered(DEADLINE, request)
}

pub(in crate::journal) fn unfinished(request: Seq) -> Vec<u8> {
    numbered(UNFINISHED, request)
}

pub(in crate::journal) fn duplicates(request: Seq) -> Vec<u8> {
    numbered(DUPLICATES, request)
}

pub(in crate::journal) fn node(name: &NodeName) -> Vec<u8> {
    named(NODE, name.as_str())
}

pub(in crate::journal) fn past(set: Seq) -> Vec<u8> {
    numbered(PAST, set)
}

/// The key of piece `index` of the body behind `key`.
pub(in crate::journal) fn chunk(key: &[u8], index: u32) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 7);
    match parse(key) {
        Some(Key::Entry(seq)) => {
            chunk.push(ENTRY_CHUNK);
            chunk.extend_from_slice(&seq.0.to_be_bytes());
        }
        _ => {
            let length = u16::try_from(key.len()).expect("a key is a prefix and at most a reqid of 256 bytes");
            chunk.push(RECORD_CHUNK);
            chunk.extend_from_slice(&length.to_be_bytes());
            chunk.extend_from_slice(key);
        }
    }
    chunk.extend_from_slice(&index.to_be_bytes());
    chunk
}

/// Parses a key; `None` for one that this version would not write.
pub(in crate::journal) fn parse(key: &[u8]) -> Option<Key<'_>> {
    fn seq(bytes: &[u8]) -> Option<Seq> {
        Some(Seq(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
    let (prefix, rest) = key.split_first()?;
    match *prefix {
        ENTRY => seq(rest).map(Key::Entry),
        OUTCOME => seq(rest).map(Key::Outcome),
        DEADLINE => seq(rest).map(Key::Deadline),
        UNFINISHED => seq(rest).map(Key::Unfinished),
        DUPLICATES => seq(rest).map(Key::Duplicates),
        PAST => seq(rest).map(Key::Past),
        ENTRY_CHUNK => {
            let (number, index) = rest.split_at_checked(8)?;
            Some(Key::EntryChunk(seq(number)?, u32::from_be_bytes(index.try_into().ok()?)))
        }
        RECORD_CHUNK => {
            let (length, rest) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
            let (key, index) = rest.split_at_checked(length)?;
            Some(Key::RecordChunk(key, u32::from_be_bytes(index.try_into().ok()?)))
        }
        REQID => (!rest.is_empty()).then_some(Key::Reqid(rest)),
        NODE => (!rest.is_empty()).then_some(Key::Node(rest)),
        prefix => match (rest.is_empty(), [prefix].as_slice()) {
            (true, FORMAT) => Some(Key::Format),
            (true, HISTORY) => Some(Key::History),
            (true, AGENT) => Some(Key::Agent),
            (true, DESIRED) => Some(Key::Desired),
            _ => None,
        },
    }
}

/// A key in words, for messages.
pub(in crate::journal) fn describe(key: &[u8]) -> String {
    match parse(key) {
        Some(Key::Format) => "the format record".to_owned(),
        Some(Key::Entry(seq)) => format!("entry {seq}"),
        Some(Key::EntryChunk(seq, index)) => format!("piece {index} of entry {seq}"),
        Some(Key::Reqid(reqid)) => format!("the index row of reqid {:?}", String::from_utf8_lossy(reqid)),
        Some(Key::Outcome(seq)) => format!("the outcome row of request {seq}"),
        Some(Key::Deadline(seq)) => format!("the deadline row of request {seq}"),
        Some(Key::Unfinished(seq)) => format!("the unfinished row of request {seq}"),
        Some(Key::Duplicates(seq)) => format!("the duplicates row of request {seq}"),
        Some(Key::History) => "the record of history".to_owned(),
        Some(Key::Agent) => "the agent record".to_owned(),
        Some(Key::Desired) => "the desired-state record".to_owned(),
        Some(Key::Node(name)) => format!("the record of node {:?}", String::from_utf8_lossy(name)),
        Some(Key::Past(seq)) => format!("the record of the configuration that entry {seq} set"),
        Some(Key::RecordChunk(key, index)) => format!("piece {index} of {}", describe(key)),
        None => format!("an unknown key {}", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_itself() {
        let reqid = ReqId::new("L\0\0").unwrap();
        let name = NodeName::new("w1").unwrap();
        let entry = entry(Seq(7));
        let node = node(&name);
        assert_eq!(parse(&entry), Some(Key::Entry(Seq(7))));
        assert_eq!(parse(&super::reqid(&reqid)), Some(Key::Reqid(b"L\0\0")));
        assert_eq!(parse(&node), Some(Key::Node(b"w1")));
        assert_eq!(parse(&chunk(&entry, 3)), Some(Key::EntryChunk(Seq(7), 3)));
        assert_eq!(parse(&chunk(&node, 3)), Some(Key::RecordChunk(&node, 3)));
        assert_eq!(parse(&deadline(Seq(7))), Some(Key::Deadline(Seq(7))));
        assert_eq!(parse(&past(Seq(7))), Some(Key::Past(Seq(7))));
        assert_eq!(parse(FORMAT), Some(Key::Format));
        assert_eq!(parse(HISTORY), Some(Key::History));
        assert_eq!(parse(AGENT), Some(Key::Agent));
        assert_eq!(parse(DESIRED), Some(Key::Desired));
        for strange in [b"".as_slice(), b"Z", b"L", b"L1234567", b"L123456789", b"K", b"K\0\x09abc", b"Fx", b"R"] {
            assert_eq!(parse(strange), None, "{strange:?}");
        }
    }

    #[test]
    fn the_order_of_entry_keys_is_the_order_of_numbers() {
        let range = entries(Seq(255), Seq(256));
        assert!(range.contains(&entry(Seq(255))) && range.contains(&entry(Seq(256))));
        assert!(!range.contains(&entry(Seq(254))) && !range.contains(&entry(Seq(257))));
        assert!(entries(Seq(1), Seq(u64::MAX)).contains(&entry(Seq(u64::MAX))));
    }
}

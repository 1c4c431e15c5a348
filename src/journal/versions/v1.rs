//! Version 1 of every stored body. `migrations/0001_initial/FORMAT.md` describes the bytes, its `entries/` hold samples.
//!
//! An entry's body is its time followed by its fields in the order of the table below; the kind byte says which entry
//! it is, so neither the order of [`Entry`]'s variants nor that of their fields is part of the format. The enums inside
//! (outcomes, causes, wants) are stored by position: they grow at the end only, and the samples hold them to it.

use bincode::Options;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::api::event::Source;
use crate::api::ids::Seq;
use crate::api::time::Timestamp;
use crate::journal::entry::{AgentRecord, DesiredRecord, Digest, Entry, NodeRecord, UnfinishedRecord};

pub(in crate::journal) const VERSION: u8 = 1;

/// No body is larger, written or read. The largest that is meant to occur is a change of 4096 nodes with their launch
/// specs, beside a request of 4 MiB.
pub(in crate::journal) const BODY_LIMIT: u64 = 32 << 20;

/// Kinds of records; those of entries are below 0x80.
pub(in crate::journal) mod kind {
    pub(in crate::journal) const FORMAT: u8 = 0x80;
    pub(in crate::journal) const AGENT: u8 = 0x81;
    pub(in crate::journal) const DESIRED: u8 = 0x82;
    pub(in crate::journal) const NODE: u8 = 0x83;
    pub(in crate::journal) const UNFINISHED: u8 = 0x84;
    pub(in crate::journal) const DUPLICATES: u8 = 0x85;
    pub(in crate::journal) const REQID: u8 = 0x86;
    pub(in crate::journal) const OUTCOME: u8 = 0x87;
}

/// The first and last sightings that are kept of a request's duplicates, each.
pub(in crate::journal) const SIGHTINGS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct FormatRecord {
    pub(in crate::journal) version: u32,
}

/// `R`: the request that a reqid stands for. The digest is here too, so that telling a duplicate from a conflict reads
/// no request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct ReqidRecord {
    pub(in crate::journal) seq: Seq,
    pub(in crate::journal) digest: Digest,
}

/// `P`: the entry with the outcome, and how many attempts it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct OutcomeRecord {
    pub(in crate::journal) completed: Seq,
}

/// `X`: `last` are the newest of those that `first` had no room for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::journal) struct DuplicatesRecord {
    pub(in crate::journal) count: u64,
    pub(in crate::journal) first: Vec<(Timestamp, Source)>,
    pub(in crate::journal) last: Vec<(Timestamp, Source)>,
}

impl DuplicatesRecord {
    pub(in crate::journal) fn add(&mut self, at: Timestamp, source: Source) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < SIGHTINGS {
            self.first.push((at, source));
            return;
        }
        if self.last.len() >= SIGHTINGS {
            self.last.remove(0);
        }
        self.last.push((at, source));
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(BODY_LIMIT).reject_trailing_bytes()
}

pub(in crate::journal) fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, bincode::Error> {
    options().serialize(value)
}

/// Slices only: from a reader, a hostile length would be allocated before it is read.
pub(in crate::journal) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, bincode::Error> {
    options().deserialize(bytes)
}

macro_rules! entry_table {
    ($($kind:tt => $variant:ident ($($field:ident),*);)*) => {
        /// Every kind of entry.
        #[cfg(test)]
        pub(in crate::journal) const ENTRY_KINDS: &[u8] = &[$($kind),*];

        pub(in crate::journal) fn entry_kind(entry: &Entry) -> u8 {
            match entry {
                $(Entry::$variant { .. } => $kind,)*
            }
        }

        pub(in crate::journal) fn is_entry(kind: u8) -> bool {
            matches!(kind, $($kind)|*)
        }

        pub(in crate::journal) fn encode_entry(at: Timestamp, entry: &Entry) -> Result<Vec<u8>, bincode::Error> {
            match entry {
                $(Entry::$variant { $($field),* } => to_bytes(&(at, $($field,)*)),)*
            }
        }

        /// `None`: no entry of this version has this kind.
        pub(in crate::journal) fn decode_entry(
            kind: u8,
            body: &[u8],
        ) -> Option<Result<(Timestamp, Entry), bincode::Error>> {
            match kind {
                $($kind => Some(from_bytes(body).map(|(at, $($field,)*)| (at, Entry::$variant { $($field),* }))),)*
                _ => None,
            }
        }
    };
}

/// Kinds that are looked for without reading bodies.
pub(in crate::journal) const REQUEST_RECEIVED: u8 = 0x10;
pub(in crate::journal) const REQUEST_CONFLICTED: u8 = 0x11;
pub(in crate::journal) const INPUT_REJECTED: u8 = 0x12;
pub(in crate::journal) const REQUEST_BEGUN: u8 = 0x13;
pub(in crate::journal) const REQUEST_COMPLETED: u8 = 0x14;
pub(in crate::journal) const DUPLICATE_SEEN: u8 = 0x15;
pub(in crate::journal) const REQUEST_WAITS: u8 = 0x16;
pub(in crate::journal) const FIRST_OF_NODES: u8 = 0x30;
pub(in crate::journal) const LAST_OF_NODES: u8 = 0x3f;

// Kinds are given out for good. The fields stand in their order on disk.
entry_table! {
    0x01 => AgentStarted(boot_id, version, pid);
    0x02 => AgentStopped(reason);
    0x03 => AgentSettled();
    0x04 => HoldEntered(reason);
    0x05 => HoldEnded(by);
    0x06 => Salvaged(from, recovered, missing);
    REQUEST_RECEIVED => RequestReceived(reqid, request, digest, dialect, source);
    REQUEST_CONFLICTED => RequestConflicted(reqid, first, request, digest, dialect, source, response);
    INPUT_REJECTED => InputRejected(source, event, error, suppressed);
    REQUEST_BEGUN => RequestBegun(of, attempt);
    REQUEST_COMPLETED => RequestCompleted(of, outcome, attempts, response);
    DUPLICATE_SEEN => DuplicateSeen(of, source);
    REQUEST_WAITS => RequestWaits(of, goal, targets);
    0x20 => DesiredChanged(by, config, nodes);
    0x30 => LaunchIntended(node, incarnation, by);
    0x31 => NodeStarted(node, incarnation, process);
    0x32 => NodeReady(node, incarnation);
    0x33 => NodeExited(node, incarnation, cause, asked, process, ran_ms, when, verdict);
    0x34 => NodeAdopted(node, incarnation, process, spec);
    0x35 => NodeRetried(node);
}

/// A record body that has a kind of its own.
pub(in crate::journal) trait Stored: Serialize + DeserializeOwned {
    const KIND: u8;
}

macro_rules! record_table {
    ($($kind:ident => $record:ty;)*) => {
        $(impl Stored for $record {
            const KIND: u8 = kind::$kind;
        })*

        pub(in crate::journal) fn is_record(kind: u8) -> bool {
            matches!(kind, $(kind::$kind)|*)
        }

        /// Whether `body` reads as a record of this kind; `None`: no record of this version has it.
        pub(in crate::journal) fn record_reads(kind: u8, body: &[u8]) -> Option<Result<(), bincode::Error>> {
            match kind {
                $(kind::$kind => Some(from_bytes::<$record>(body).map(drop)),)*
                _ => None,
            }
        }
    };
}

record_table! {
    FORMAT => FormatRecord;
    AGENT => AgentRecord;
    DESIRED => DesiredRecord;
    NODE => NodeRecord;
    UNFINISHED => UnfinishedRecord;
    DUPLICATES => DuplicatesRecord;
    REQID => ReqidRecord;
    OUTCOME => OutcomeRecord;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(at: u64) -> (Timestamp, Source) {
        (Timestamp(at), Source { transport: "control".to_owned(), peer: "uid=0 pid=1".to_owned() })
    }

    #[test]
    fn the_first_and_the_last_duplicates_are_kept() {
        let mut record = DuplicatesRecord::default();
        for at in 0..100 {
            let (at, source) = sighting(at);
            record.add(at, source);
        }
        assert_eq!(record.count, 100);
        assert_eq!(record.first, (0..16).map(sighting).collect::<Vec<_>>());
        assert_eq!(record.last, (84..100).map(sighting).collect::<Vec<_>>());
    }

    #[test]
    fn kinds_of_entries_and_records_are_apart() {
        assert!(ENTRY_KINDS.iter().all(|kind| *kind < 0x80 && is_entry(*kind) && !is_record(*kind)));
        let mut unique = ENTRY_KINDS.to_vec();
        unique.dedup();
        assert_eq!(unique, ENTRY_KINDS);
    }
}

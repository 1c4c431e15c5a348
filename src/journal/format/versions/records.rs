//! Bodies of records. Each has a version of its own, whatever the format of the journal: a record of an older version
//! is read by its old shape and written in the new one when it next changes.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Hash, from_bytes, kind, records_v1};
use crate::api::event::Source;
use crate::api::ids::Seq;
use crate::api::time::Timestamp;
use crate::journal::format::entry::past::PastRecord;
use crate::journal::format::entry::{AgentRecord, DesiredRecord, Digest, NodeRecord, UnfinishedRecord};

/// The first and last sightings that are kept of a request's duplicates, each.
pub(in crate::journal) const SIGHTINGS: usize = 16;

/// `F`. Its shape never changes: every release has to be able to read it, to refuse formats that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct FormatRecord {
    pub(in crate::journal) version: u32,
}

/// `R`: the request that a reqid stands for. The digest is here too, so that a duplicate and a conflict can be told
/// apart without reading the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct ReqidRecord {
    pub(in crate::journal) seq: Seq,
    pub(in crate::journal) digest: Digest,
}

/// `P`: the entry with the outcome of a request that had an effect to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct OutcomeRecord {
    pub(in crate::journal) completed: Seq,
}

/// `D`: the entry with a request's deadline response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct DeadlineRecord {
    pub(in crate::journal) answered: Seq,
}

/// `H`: where history begins and ends, and its totals. Written with every commit that adds to it. While a journal of an
/// older format is being rewritten, it ends where the rewriting has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::journal) struct HistoryRecord {
    /// The oldest entry that retention has kept; entries before it are gone.
    pub(in crate::journal) first: Seq,
    /// The newest entry; 0 if there was none yet.
    pub(in crate::journal) last: Seq,
    /// The newest entry's hash: the head of the chain.
    pub(in crate::journal) hash: Hash,
    /// Responses of reads up to here have no bodies any more.
    pub(in crate::journal) trimmed: Seq,
    /// Requests, conflicts and rejected input among the entries.
    pub(in crate::journal) requests: u64,
    /// Keys and values of entries and their pieces.
    pub(in crate::journal) bytes: u64,
}

impl Default for HistoryRecord {
    fn default() -> Self {
        Self { first: Seq(1), last: Seq(0), hash: Hash::default(), trimmed: Seq(0), requests: 0, bytes: 0 }
    }
}

impl HistoryRecord {
    /// The history of a journal that is rebuilt from entries which say that retention came this far.
    pub(in crate::journal) fn retention_came_to(&mut self, upto: Seq, trimmed: Seq) {
        self.first = self.first.max(upto.next());
        self.trimmed = self.trimmed.max(trimmed);
    }
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

/// A record body with a kind of its own.
pub(in crate::journal) trait Stored: Serialize + DeserializeOwned {
    const KIND: u8;
    const VERSION: u8;

    /// Reads a body of a version up to [`Self::VERSION`].
    fn read(_version: u8, body: &[u8]) -> Result<Self, bincode::Error> {
        from_bytes(body)
    }
}

macro_rules! record_table {
    ($($kind:ident, $version:literal => $record:ty $(, before: $before:ty)?;)*) => {
        $(impl Stored for $record {
            const KIND: u8 = kind::$kind;
            const VERSION: u8 = $version;
            $(fn read(version: u8, body: &[u8]) -> Result<Self, bincode::Error> {
                if version < $version { from_bytes::<$before>(body).map(Self::from) } else { from_bytes(body) }
            })?
        })*

        /// Whether this release knows records of this kind and version.
        pub(in crate::journal) fn is_known(kind: u8, version: u8) -> bool {
            match kind {
                $(kind::$kind => (1..=$version).contains(&version),)*
                _ => false,
            }
        }

        /// Whether `body` can be decoded as a record of this kind; `None`: there is no such kind.
        pub(in crate::journal) fn reads(kind: u8, version: u8, body: &[u8]) -> Option<Result<(), bincode::Error>> {
            match kind {
                $(kind::$kind => Some(<$record>::read(version, body).map(drop)),)*
                _ => None,
            }
        }
    };
}

record_table! {
    FORMAT, 1 => FormatRecord;
    AGENT, 2 => AgentRecord, before: records_v1::AgentRecord;
    DESIRED, 2 => DesiredRecord, before: records_v1::DesiredRecord;
    NODE, 2 => NodeRecord, before: records_v1::NodeRecord;
    UNFINISHED, 2 => UnfinishedRecord, before: records_v1::UnfinishedRecord;
    DUPLICATES, 1 => DuplicatesRecord;
    REQID, 1 => ReqidRecord;
    OUTCOME, 1 => OutcomeRecord;
    HISTORY, 1 => HistoryRecord;
    DEADLINE, 1 => DeadlineRecord;
    PAST, 1 => PastRecord;
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
}

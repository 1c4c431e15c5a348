//! Entries and records to the writes that store them: one batch, all or nothing. Pure but for the reads it needs.

use std::collections::{BTreeMap, HashMap};

use super::codec::{self, EncodeError};
use super::entry::{Entry, Numbered, Record};
use super::keys;
use super::table::{ReadError, Table};
use super::versions::v1::{DuplicatesRecord, OutcomeRecord, ReqidRecord, Stored};
use crate::api::event::Source;
use crate::api::ids::Seq;
use crate::api::time::Timestamp;

/// A row to be written, or removed.
pub(super) type Write = (Vec<u8>, Option<Vec<u8>>);

/// The pieces of each record that has any, so that rewriting one removes what it does not need any more.
pub(super) type Pieces = HashMap<Vec<u8>, u32>;

#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What `entries` and `records` come to. Of several records for one thing the last counts.
pub(super) fn build(
    table: &impl Table,
    pieces: &mut Pieces,
    entries: &[Numbered],
    records: &[Record],
) -> Result<Vec<Write>, BatchError> {
    let mut batch = Builder { writes: BTreeMap::new(), pieces };
    let mut duplicates: BTreeMap<Seq, DuplicatesRecord> = BTreeMap::new();
    for numbered in entries {
        batch.entry(numbered)?;
        match &numbered.entry {
            Entry::RequestReceived { reqid, digest, .. } if !reqid.is_empty() => {
                let key = keys::reqid(reqid);
                // The first keeps its reqid, whatever the core believes.
                if !batch.writes.contains_key(&key) && table.get(&key)?.is_none() {
                    batch.record(key, &ReqidRecord { seq: numbered.seq, digest: *digest })?;
                }
            }
            Entry::RequestCompleted { of, .. } => {
                batch.record(keys::outcome(*of), &OutcomeRecord { completed: numbered.seq })?;
            }
            Entry::DuplicateSeen { of, source } => {
                add_duplicate(table, &mut duplicates, *of, numbered.at, source)?;
            }
            Entry::AgentStarted { .. }
            | Entry::AgentStopped { .. }
            | Entry::AgentSettled
            | Entry::HoldEntered { .. }
            | Entry::HoldEnded { .. }
            | Entry::Salvaged { .. }
            | Entry::RequestReceived { .. }
            | Entry::RequestConflicted { .. }
            | Entry::InputRejected { .. }
            | Entry::RequestBegun { .. }
            | Entry::RequestWaits { .. }
            | Entry::DesiredChanged { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeExited { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => {}
        }
    }
    for (of, record) in &duplicates {
        batch.record(keys::duplicates(*of), record)?;
    }
    for record in records {
        match record {
            Record::Agent(agent) => batch.record(keys::AGENT.to_vec(), agent)?,
            Record::Desired(desired) => batch.record(keys::DESIRED.to_vec(), desired)?,
            Record::Node(name, Some(node)) => batch.record(keys::node(name), node.as_ref())?,
            Record::Node(name, None) => batch.remove(keys::node(name)),
            Record::Unfinished(seq, Some(unfinished)) => batch.record(keys::unfinished(*seq), unfinished)?,
            Record::Unfinished(seq, None) => batch.remove(keys::unfinished(*seq)),
        }
    }
    Ok(batch.writes.into_iter().collect())
}

fn add_duplicate(
    table: &impl Table,
    duplicates: &mut BTreeMap<Seq, DuplicatesRecord>,
    of: Seq,
    at: Timestamp,
    source: &Source,
) -> Result<(), ReadError> {
    let record = match duplicates.entry(of) {
        std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::btree_map::Entry::Vacant(vacant) => {
            vacant.insert(table.record(&keys::duplicates(of))?.unwrap_or_default())
        }
    };
    record.add(at, source.clone());
    Ok(())
}

/// Collects writes. Also for what is no part of a commit: the format record, a salvage.
pub(super) struct Builder<'a> {
    pub(super) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) pieces: &'a mut Pieces,
}

impl Builder<'_> {
    pub(super) fn entry(&mut self, numbered: &Numbered) -> Result<(), EncodeError> {
        let encoded = codec::encode_entry(numbered)?;
        let key = keys::entry(numbered.seq);
        for (index, piece) in (0..).zip(encoded.pieces) {
            self.writes.insert(keys::chunk(&key, index), Some(piece));
        }
        self.writes.insert(key, Some(encoded.value));
        Ok(())
    }

    pub(super) fn record<T: Stored>(&mut self, key: Vec<u8>, record: &T) -> Result<(), EncodeError> {
        let encoded = codec::encode_record(&key, record)?;
        let count = u32::try_from(encoded.pieces.len()).expect("the body's limit allows some thousands of pieces");
        self.drop_pieces(&key, count);
        for (index, piece) in (0..).zip(encoded.pieces) {
            self.writes.insert(keys::chunk(&key, index), Some(piece));
        }
        if count > 0 {
            self.pieces.insert(key.clone(), count);
        }
        self.writes.insert(key, Some(encoded.value));
        Ok(())
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.drop_pieces(&key, 0);
        self.writes.insert(key, None);
    }

    /// Removes the pieces from `keep` on.
    fn drop_pieces(&mut self, key: &[u8], keep: u32) {
        if let Some(old) = self.pieces.remove(key) {
            for index in keep..old {
                self.writes.insert(keys::chunk(key, index), None);
            }
        }
    }
}

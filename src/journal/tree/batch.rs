//! Turns entries and records into the writes that store them: one atomic batch. Pure except for the reads it needs.

use std::collections::{BTreeMap, btree_map};

use super::table::{ReadError, Table, Whole};
use crate::api::event::Request;
use crate::api::ids::Seq;
use crate::journal::format::codec::{self, EncodeError, Encoded, Hash, Head};
use crate::journal::format::entry::{Entry, Numbered, Record};
use crate::journal::format::keys;
use crate::journal::format::versions::kind;
use crate::journal::format::versions::records::{
    DeadlineRecord, DuplicatesRecord, HistoryRecord, OutcomeRecord, ReqidRecord, Stored,
};

/// A row to be written, or removed.
pub(in crate::journal) type Write = (Vec<u8>, Option<Vec<u8>>);

/// The pieces of each record that has any, so that rewriting a record removes pieces that it no longer needs.
pub(in crate::journal) type Pieces = BTreeMap<Vec<u8>, u32>;

/// What a batch is built on, in addition to the table. It runs ahead of the disk as batches are built; a failed batch
/// ends the journal.
#[derive(Debug, Clone, Default)]
pub(in crate::journal) struct State {
    pub(in crate::journal) history: HistoryRecord,
    pub(in crate::journal) pieces: Pieces,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::journal) enum BatchError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The batch for `entries` and `records`. Of several records for one thing the last counts.
pub(in crate::journal) fn build(
    table: &impl Table,
    state: &mut State,
    entries: &[Numbered],
    records: &[Record],
) -> Result<Vec<Write>, BatchError> {
    let mut batch = Builder::new(state);
    for numbered in entries {
        batch.entry(numbered)?;
        batch.index(table, numbered)?;
        if let Entry::Pruned { upto, trimmed, .. } = &numbered.entry {
            batch.prune(table, *upto, *trimmed)?;
        }
    }
    for record in records {
        match record {
            Record::Agent(agent) => batch.record(keys::AGENT.to_vec(), agent)?,
            Record::Desired(desired) => batch.record(keys::DESIRED.to_vec(), desired)?,
            Record::Node(name, Some(node)) => batch.record(keys::node(name), node.as_ref())?,
            Record::Node(name, None) => batch.remove(keys::node(name)),
            Record::Unfinished(seq, Some(unfinished)) => batch.record(keys::unfinished(*seq), unfinished)?,
            Record::Unfinished(seq, None) => batch.remove(keys::unfinished(*seq)),
            Record::Past(seq, Some(past)) => batch.record(keys::past(*seq), past.as_ref())?,
            Record::Past(seq, None) => batch.remove(keys::past(*seq)),
        }
    }
    Ok(batch.finish()?)
}

/// Collects writes. Also used outside of commits: for the format record, a salvage, a migration.
pub(in crate::journal) struct Builder<'a> {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    state: &'a mut State,
    duplicates: BTreeMap<Seq, DuplicatesRecord>,
    has_entries: bool,
}

impl<'a> Builder<'a> {
    pub(in crate::journal) fn new(state: &'a mut State) -> Self {
        Self { writes: BTreeMap::new(), state, duplicates: BTreeMap::new(), has_entries: false }
    }

    /// All writes, and the record of history even if there is no entry among them.
    pub(in crate::journal) fn finish_with_history(mut self) -> Result<Vec<Write>, EncodeError> {
        self.has_entries = true;
        self.finish()
    }

    /// All writes; if there are entries among them, the record of history too.
    pub(in crate::journal) fn finish(mut self) -> Result<Vec<Write>, EncodeError> {
        for (of, record) in std::mem::take(&mut self.duplicates) {
            // A duplicate of a request that retention has just removed.
            if of < self.state.history.first {
                continue;
            }
            self.record(keys::duplicates(of), &record)?;
        }
        if self.has_entries {
            let history = self.state.history.clone();
            self.record(keys::HISTORY.to_vec(), &history)?;
        }
        Ok(self.writes.into_iter().collect())
    }

    /// Appends an entry to the chain.
    pub(in crate::journal) fn entry(&mut self, numbered: &Numbered) -> Result<(), EncodeError> {
        let (encoded, hash) = codec::encode_entry(numbered, self.state.history.hash)?;
        self.append(numbered.seq, encoded, hash);
        Ok(())
    }

    /// Copies an entry as it is stored elsewhere, with its place in the chain if it has one.
    pub(in crate::journal) fn copied(&mut self, whole: &Whole) -> Result<(), EncodeError> {
        match whole.link {
            Some(link) => {
                self.append(whole.numbered.seq, codec::copy(&whole.head, &whole.stored), link.hash);
                Ok(())
            }
            None => self.entry(&whole.numbered),
        }
    }

    fn append(&mut self, seq: Seq, encoded: Encoded, hash: Hash) {
        let key = keys::entry(seq);
        let history = &mut self.state.history;
        history.last = seq;
        history.hash = hash;
        history.requests += u64::from(encoded.value.first().is_some_and(|first| kind::is_request(*first)));
        history.bytes += encoded_bytes(&key, &encoded);
        self.has_entries = true;
        self.put(key, encoded);
    }

    fn put(&mut self, key: Vec<u8>, encoded: Encoded) {
        for (index, piece) in (0..).zip(encoded.pieces) {
            self.writes.insert(keys::chunk(&key, index), Some(piece));
        }
        self.writes.insert(key, Some(encoded.value));
    }

    /// The index rows of an entry.
    pub(in crate::journal) fn index(&mut self, table: &impl Table, numbered: &Numbered) -> Result<(), BatchError> {
        match &numbered.entry {
            Entry::RequestReceived { reqid, digest, .. } | Entry::RequestAnswered { reqid, digest, .. }
                if !reqid.is_empty() =>
            {
                let key = keys::reqid(reqid);
                // The first request keeps the reqid, however the core treats this one.
                if !self.writes.contains_key(&key) && table.get(&key)?.is_none() {
                    self.record(key, &ReqidRecord { seq: numbered.seq, digest: *digest })?;
                }
            }
            Entry::RequestCompleted { of, .. } => {
                self.record(keys::outcome(*of), &OutcomeRecord { completed: numbered.seq })?;
            }
            Entry::DeadlineAnswered { of, .. } => {
                self.record(keys::deadline(*of), &DeadlineRecord { answered: numbered.seq })?;
            }
            Entry::DuplicateSeen { of, source } => {
                let record = match self.duplicates.entry(*of) {
                    btree_map::Entry::Occupied(known) => known.into_mut(),
                    btree_map::Entry::Vacant(vacant) => {
                        vacant.insert(table.record(&keys::duplicates(*of))?.unwrap_or_default())
                    }
                };
                record.add(numbered.at, source.clone());
            }
            _other => {}
        }
        Ok(())
    }

    pub(in crate::journal) fn record<T: Stored>(&mut self, key: Vec<u8>, record: &T) -> Result<(), EncodeError> {
        let encoded = codec::encode_record(&key, record)?;
        let count = u32::try_from(encoded.pieces.len()).expect("the body's limit allows some thousands of pieces");
        self.drop_pieces(&key, count);
        if count > 0 {
            self.state.pieces.insert(key.clone(), count);
        }
        self.put(key, encoded);
        Ok(())
    }

    pub(in crate::journal) fn remove(&mut self, key: Vec<u8>) {
        self.drop_pieces(&key, 0);
        self.writes.insert(key, None);
    }

    /// Removes the pieces from `keep` on.
    fn drop_pieces(&mut self, key: &[u8], keep: u32) {
        if let Some(old) = self.state.pieces.remove(key) {
            for index in keep..old {
                self.writes.insert(keys::chunk(key, index), None);
            }
        }
    }

    /// Carries out what retention decided: removes the entries up to `upto` with their index rows, and the bodies of
    /// reads' responses up to `trimmed`.
    pub(in crate::journal) fn prune(&mut self, table: &impl Table, upto: Seq, trimmed: Seq) -> Result<(), BatchError> {
        while self.state.history.first <= upto {
            let seq = self.state.history.first;
            let key = keys::entry(seq);
            // A salvage may have left a gap here.
            if let Some(value) = table.get(&key)? {
                let whole = table.read_entry(seq, &value)?;
                self.forget(table, &whole.numbered)?;
                self.remove_entry(key, &value, &whole.head);
            }
            self.state.history.first = seq.next();
        }
        let history = &mut self.state.history;
        let mut seq = history.trimmed.next().max(history.first);
        history.trimmed = history.trimmed.max(trimmed);
        while seq <= trimmed {
            let key = keys::entry(seq);
            if let Some(value) = table.get(&key)?
                && value.first().is_some_and(|first| matches!(*first, kind::REQUEST_ANSWERED | kind::REQUEST_COMPLETED))
            {
                let whole = table.read_entry(seq, &value)?;
                if is_reads_outcome(&whole.numbered.entry)
                    && let Some(bare) = codec::without_payload(&whole.head, &whole.stored)
                {
                    let bytes = encoded_bytes(&key, &bare);
                    self.remove_entry(key.clone(), &value, &whole.head);
                    self.state.history.requests += u64::from(kind::is_request(whole.head.kind));
                    self.state.history.bytes += bytes;
                    self.put(key, bare);
                }
            }
            seq = seq.next();
        }
        Ok(())
    }

    fn remove_entry(&mut self, key: Vec<u8>, value: &[u8], head: &Head) {
        for index in 0..head.pieces() {
            self.writes.insert(keys::chunk(&key, index), None);
        }
        let history = &mut self.state.history;
        history.bytes = history.bytes.saturating_sub(stored_bytes(&key, value, head));
        history.requests = history.requests.saturating_sub(u64::from(kind::is_request(head.kind)));
        self.writes.insert(key, None);
    }

    /// Removes the index rows of a request.
    fn forget(&mut self, table: &impl Table, numbered: &Numbered) -> Result<(), BatchError> {
        let (Entry::RequestReceived { reqid, .. } | Entry::RequestAnswered { reqid, .. }) = &numbered.entry else {
            return Ok(());
        };
        let key = keys::reqid(reqid);
        if !reqid.is_empty()
            && let Some(ReqidRecord { seq, .. }) = table.record(&key)?
            && seq == numbered.seq
        {
            self.writes.insert(key, None);
        }
        self.writes.insert(keys::outcome(numbered.seq), None);
        self.writes.insert(keys::deadline(numbered.seq), None);
        self.remove(keys::duplicates(numbered.seq));
        Ok(())
    }
}

/// Whether retention drops the response of such a request early.
pub(in crate::journal) fn is_trimmed(request: &Request) -> bool {
    // A welcome's answer is no larger than its digest.
    matches!(request, Request::GetNodes {} | Request::NodeDispatch { .. })
}

/// Whether the entry holds the response to a read, whose body retention drops early.
pub(in crate::journal) fn is_reads_outcome(entry: &Entry) -> bool {
    match entry {
        Entry::RequestAnswered { response, .. } | Entry::RequestCompleted { response, .. } => response
            .kept()
            .is_some_and(|kept| matches!(kept.event.as_str(), "get_nodes_response" | "node_dispatch_response")),
        _other => false,
    }
}

/// The size of an encoded entry under `key`, including its pieces.
pub(in crate::journal) fn encoded_bytes(key: &[u8], encoded: &Encoded) -> u64 {
    let pieces: usize = encoded.pieces.iter().map(|piece| key.len() + 4 + piece.len()).sum();
    (key.len() + encoded.value.len() + pieces) as u64
}

/// The size of an entry under `key`, including its pieces.
pub(in crate::journal) fn stored_bytes(key: &[u8], value: &[u8], head: &Head) -> u64 {
    let pieces = head.pieces() as usize * (key.len() + 4) + if head.pieces() > 0 { head.stored_length() } else { 0 };
    (key.len() + value.len() + pieces) as u64
}

//! A journal in memory, for tests of what is built on the journal: it forgets whatever was not committed.
//!
//! Batches, lookups and recovery are the code of the real one, on another table.

use std::collections::BTreeMap;
use std::ops::Range;

use super::batch::{self, BatchError, Builder, Pieces};
use super::entry::{Known, Record, Recovered, Sealed};
use super::keys;
use super::reader;
use super::recover;
use super::table::{ReadError, Row, Table};
use super::verify::{self, VerifyReport};
use super::versions::{self, v1::FormatRecord};
use super::writer::{CommitError, Queue};
use crate::api::audit::{Filter, Page};
use crate::api::ids::{ReqId, Seq};

#[derive(Debug, Clone, Default)]
pub(super) struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

impl Memory {
    pub(super) fn apply(&mut self, writes: Vec<batch::Write>) {
        for (key, value) in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl Table for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, range: Range<Vec<u8>>) -> Box<dyn DoubleEndedIterator<Item = Row> + '_> {
        Box::new(self.0.range(range).map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

/// As [`Journal`](super::Journal), without a disk.
#[derive(Debug)]
pub struct MemoryJournal<E> {
    table: Memory,
    pieces: Pieces,
    queue: Queue<E>,
    sent: Seq,
    fail_next: bool,
}

impl<E> Default for MemoryJournal<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> MemoryJournal<E> {
    pub fn new() -> Self {
        let mut pieces = Pieces::new();
        let mut table = Memory::default();
        let mut batch = Builder { writes: BTreeMap::new(), pieces: &mut pieces };
        batch
            .record(keys::FORMAT.to_vec(), &FormatRecord { version: versions::FORMAT })
            .expect("the format record is four bytes");
        table.apply(batch.writes.into_iter().collect());
        Self { table, pieces, queue: Queue::new(Seq(0)), sent: Seq(0), fail_next: false }
    }

    pub fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        self.queue.stage(sealed)
    }

    pub fn commit(&mut self, records: Vec<Record>) -> Result<Vec<E>, CommitError> {
        self.queue.check()?;
        if self.queue.entries.is_empty() && records.is_empty() {
            return Ok(Vec::new());
        }
        if std::mem::take(&mut self.fail_next) {
            self.queue.fail();
            return Err(CommitError::Failed);
        }
        let built = batch::build(&self.table, &mut self.pieces, &self.queue.entries, &records);
        let writes = built.map_err(|error| {
            self.queue.fail();
            match error {
                BatchError::Encode(error) => CommitError::Encode(error),
                BatchError::Read(error) => CommitError::Read(error),
            }
        })?;
        self.table.apply(writes);
        Ok(self.queue.release())
    }

    /// Lets the next commit fail, as a disk would.
    pub fn fail_next_commit(&mut self) {
        self.fail_next = true;
    }

    pub fn durable(&self) -> Seq {
        self.queue.durable
    }

    pub fn staged(&self) -> Seq {
        self.queue.staged
    }

    pub fn lookup(&self, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
        recover::lookup(&self.table, reqid)
    }

    pub fn mark_sent(&mut self, upto: Seq) {
        self.sent = self.sent.max(upto.min(self.queue.durable));
    }

    pub fn page(&self, filter: &Filter, cursor: Option<Seq>) -> Result<Page, ReadError> {
        reader::page(&self.table, filter, cursor)
    }

    pub fn verify(&self) -> VerifyReport {
        verify::verify(&self.table, Some(self.queue.durable))
    }

    /// The process dies here: staged entries and waiting effects are gone. Returns what the next start takes in, and
    /// goes on as the journal of that start.
    pub fn crash(&mut self) -> Result<Recovered, ReadError> {
        let (recovered, pieces) = recover::recover(&self.table, self.sent)?;
        self.pieces = pieces;
        self.queue = Queue::new(recovered.last);
        Ok(recovered)
    }
}

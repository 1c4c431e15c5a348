//! A journal in memory, for tests of what is built on the journal: it forgets whatever was not committed.
//!
//! Batches, lookups and recovery are the code of the real one, on another table, so what they do is the same.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::api::audit::{Filter, Page};
use crate::api::ids::{ReqId, Seq};
use crate::api::report::VerifyReport;
use crate::journal::format::entry::{Known, Numbered, Record, Recovered, Sealed};
use crate::journal::format::keys;
use crate::journal::format::versions::{self, records::FormatRecord};
use crate::journal::read::page;
use crate::journal::tree::batch::{self, Builder, State};
use crate::journal::tree::recover;
use crate::journal::tree::table::{ReadError, Row, Table};
use crate::journal::tree::verify;
use crate::journal::write::queue::Queue;

/// Why nothing here returns errors.
const SOUND: &str = "memory holds what was put into it";

#[derive(Debug, Clone, Default)]
pub(in crate::journal) struct Memory(pub(in crate::journal) BTreeMap<Vec<u8>, Vec<u8>>);

impl Memory {
    /// With the format record and no more.
    pub(in crate::journal) fn formatted() -> Self {
        let mut memory = Self::default();
        let mut state = State::default();
        let mut batch = Builder::new(&mut state);
        batch.record(keys::FORMAT.to_vec(), &FormatRecord { version: versions::CURRENT_FORMAT }).expect(SOUND);
        memory.apply(batch.finish().expect(SOUND));
        memory
    }

    pub(in crate::journal) fn apply(&mut self, writes: Vec<batch::Write>) {
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

/// As [`Journal`](crate::journal::Journal), without a disk and without its errors.
#[derive(Debug)]
pub struct MemoryJournal<E> {
    table: Memory,
    state: State,
    queue: Queue<E>,
    sent: Seq,
    entries: Vec<Numbered>,
    under_way: Option<UnderWay>,
}

/// A commit between its beginning and its end: what it writes.
#[derive(Debug)]
struct UnderWay {
    writes: Vec<batch::Write>,
    entries: Vec<Numbered>,
    upto: Seq,
}

impl<E> Default for MemoryJournal<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> MemoryJournal<E> {
    /// An empty journal of the newest format.
    pub fn new() -> Self {
        Self {
            table: Memory::formatted(),
            state: State::default(),
            queue: Queue::new(Seq(0)),
            sent: Seq(0),
            entries: Vec::new(),
            under_way: None,
        }
    }

    /// As [`Journal::stage`](crate::journal::Journal::stage).
    pub fn stage(&mut self, sealed: Sealed<E>) -> Vec<E> {
        self.queue.stage(sealed)
    }

    /// Entries out of sequence are a fault of the caller, and panic.
    pub fn commit(&mut self, records: Vec<Record>) -> Vec<E> {
        self.submit(records);
        self.committed()
    }

    /// Begins a commit of what is staged, as the real one does beside its owner.
    pub fn submit(&mut self, records: Vec<Record>) {
        self.queue.check().expect("entries are numbered without gaps");
        assert!(self.under_way.is_none(), "one commit at a time");
        let (entries, upto) = self.queue.take();
        let writes = batch::build(&self.table, &mut self.state, &entries, &records).expect(SOUND);
        self.under_way = Some(UnderWay { writes, entries, upto });
    }

    /// As [`Journal::is_committing`](crate::journal::Journal::is_committing).
    pub fn is_committing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Ends the commit that is under way, if there is one.
    pub fn committed(&mut self) -> Vec<E> {
        match self.write() {
            Some(upto) => self.queue.release(upto),
            None => Vec::new(),
        }
    }

    fn write(&mut self) -> Option<Seq> {
        let UnderWay { writes, entries, upto } = self.under_way.take()?;
        self.table.apply(writes);
        self.entries.extend(entries);
        Some(upto)
    }

    /// As [`Journal::durable`](crate::journal::Journal::durable).
    pub fn durable(&self) -> Seq {
        self.queue.durable
    }

    /// As [`Journal::staged`](crate::journal::Journal::staged).
    pub fn staged(&self) -> Seq {
        self.queue.staged
    }

    /// What is committed.
    pub fn entries(&self) -> &[Numbered] {
        &self.entries
    }

    /// As [`Journal::lookup`](crate::journal::Journal::lookup).
    pub fn lookup(&self, reqid: &ReqId) -> Option<Known> {
        recover::lookup(&self.table, reqid).expect(SOUND)
    }

    /// As [`Journal::mark_sent`](crate::journal::Journal::mark_sent).
    pub fn mark_sent(&mut self, upto: Seq) {
        self.sent = self.sent.max(upto.min(self.queue.durable));
    }

    /// As [`Reader::page`](crate::journal::Reader::page).
    pub fn page(&self, filter: &Filter, cursor: Option<Seq>) -> Page {
        page::page(&self.table, filter, cursor).expect(SOUND)
    }

    /// As [`Reader::verify`](crate::journal::Reader::verify), against what a side file would say.
    pub fn verify(&self) -> VerifyReport {
        verify::verify(&self.table, Some((self.queue.durable, Some(self.state.history.hash))), None).expect(SOUND)
    }

    /// The process dies: staged entries and waiting effects are gone. A commit under way was `written`, or was not.
    pub fn crash(&mut self, written: bool) {
        let reached = if written { self.write() } else { None };
        self.under_way = None;
        self.queue = Queue::new(reached.unwrap_or(self.queue.durable));
        self.state = recover::recover(&self.table, self.sent).expect(SOUND).1;
    }

    /// What a start takes in.
    pub fn recover(&self) -> Recovered {
        recover::recover(&self.table, self.sent).expect(SOUND).0
    }
}

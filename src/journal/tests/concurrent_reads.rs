//! Tests: readers beside a writer that commits, and removes what is old, between any two of their reads.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;

use super::memory::Memory;
use crate::api::audit::{self, Filter, Kind, RequestState};
use crate::api::event::{Dialect, Request, Response, Result as ApiResult, Source};
use crate::api::ids::{ReqId, Seq};
use crate::api::time::Timestamp;
use crate::journal::format::entry::{
    Answer, Entry, Numbered, Outcome, Packed, Record, Removal, Stage, UnfinishedRecord, digest,
};
use crate::journal::format::keys;
use crate::journal::read::page;
use crate::journal::read::stats;
use crate::journal::tree::batch::{self, State};
use crate::journal::tree::retention::{self, Policy};
use crate::journal::tree::table::{ReadError, Row, Table};
use crate::journal::tree::verify;

const DAY_US: u64 = 86_400_000_000;
/// 2026-11-22
const EPOCH: u64 = 1_795_305_600_000_000;

/// A journal that is written to, and what it was after each commit.
struct Writer {
    table: Memory,
    state: State,
    commits: Vec<Memory>,
    now: Timestamp,
}

impl Writer {
    fn new() -> Self {
        Self { table: Memory::formatted(), state: State::default(), commits: Vec::new(), now: Timestamp(EPOCH) }
    }

    fn last(&self) -> Seq {
        self.state.history.last
    }

    fn commit(&mut self, entries: Vec<Entry>, records: &[Record]) {
        let numbers = self.last().0 + 1..;
        let entries: Vec<Numbered> =
            numbers.zip(entries).map(|(seq, entry)| Numbered { seq: Seq(seq), at: self.now, entry }).collect();
        let writes = batch::build(&self.table, &mut self.state, &entries, records).unwrap();
        self.table.apply(writes);
        self.commits.push(self.table.clone());
    }

    /// A change: accepted, seen again, completed. Its arguments are long enough to be kept in pieces.
    fn change(&mut self, name: &str) {
        let request = Request::Restart { nodes: (0..400).map(|number| format!("worker-{number}")).collect() };
        let received = Entry::RequestReceived {
            reqid: reqid(name),
            digest: digest(&request),
            request: Packed(request.clone()),
            dialect: Dialect::Management,
            source: source(),
        };
        let of = self.last().next();
        let unfinished = UnfinishedRecord { lost_attempts: 0, stage: Stage::Accepted, extras: Packed::default() };
        self.commit(vec![received], &[Record::Unfinished(of, Some(unfinished))]);
        let outcome = Outcome::Completed;
        let response = Answer::Kept(response(name, &request));
        let completed = Entry::RequestCompleted { of, outcome, attempts: 1, response };
        self.commit(vec![Entry::DuplicateSeen { of, source: source() }, completed], &[Record::Unfinished(of, None)]);
    }

    /// A request that reads. Its response is long enough to be kept in pieces.
    fn read(&mut self, name: &str) {
        let request = Request::GetNodes {};
        let response = Answer::Kept(response(name, &request));
        let answered = Entry::RequestAnswered {
            reqid: reqid(name),
            digest: digest(&request),
            request: Packed(request),
            dialect: Dialect::Management,
            source: source(),
            response,
        };
        self.commit(vec![answered], &[]);
    }

    fn retain(&mut self, policy: Policy) {
        while let Some(step) = retention::next(&self.table, &policy, self.now).unwrap() {
            let Removal { upto, hash, trimmed, entries, requests } = step.removal;
            self.commit(vec![Entry::Pruned { upto, hash, trimmed, entries, requests }], &[]);
        }
    }
}

fn reqid(text: &str) -> ReqId {
    ReqId::new(text).unwrap()
}

fn source() -> Source {
    Source { transport: "control".to_owned(), peer: "uid=0 pid=4242".to_owned() }
}

fn response(name: &str, request: &Request) -> Response {
    let result = ApiResult {
        reqid: reqid(name),
        success: true,
        instance: Some("a1".to_owned()),
        data: None,
        error: Some("x".repeat(9000)),
        node: None,
    };
    Response { event: request.response_event().to_owned(), reqid: reqid(name), results: vec![result] }
}

/// A busy agent with short retention: requests come, old ones go, and reqids come again that had gone.
fn busy() -> Writer {
    let mut writer = Writer::new();
    for round in 0..3 {
        for number in 0..2 {
            writer.read(&format!("r{number}"));
            writer.change(&format!("c{number}-{round}"));
        }
        writer.retain(Policy { requests: Some(round % 2), ..Policy::default() });
    }
    // What is a day old is there as a digest only, and goes in the end.
    for round in 0..2 {
        writer.read(&format!("old{round}"));
        writer.now = Timestamp(writer.now.0 + 2 * DAY_US);
        writer.change(&format!("new{round}"));
        writer.retain(Policy { reads_ms: Some(DAY_US / 1000), ..Policy::default() });
    }
    writer.retain(Policy { requests: Some(1), ..Policy::default() });
    writer
}

/// What a reader sees who began after commit `first`, and from its read `quiet` on meets one more commit every `every`
/// reads.
struct Beside<'a> {
    commits: &'a [Memory],
    first: usize,
    quiet: usize,
    every: usize,
    /// Walks show what was there when they began, as sled does within a page; or what is there now.
    stale: bool,
    reads: Cell<usize>,
}

impl Beside<'_> {
    fn now(&self) -> &Memory {
        let reads = self.reads.replace(self.reads.get() + 1);
        let met = reads.checked_sub(self.quiet).map_or(0, |reads| 1 + reads / self.every);
        &self.commits[(self.first + met).min(self.commits.len() - 1)]
    }
}

impl Table for Beside<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.now().get(key)
    }

    fn range(&self, range: Range<Vec<u8>>) -> Box<dyn DoubleEndedIterator<Item = Row> + '_> {
        match self.stale {
            true => self.now().range(range),
            false => Box::new(Walk { table: self, range }),
        }
    }
}

struct Walk<'a> {
    table: &'a Beside<'a>,
    range: Range<Vec<u8>>,
}

impl Iterator for Walk<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let row = self.table.now().range(self.range.clone()).next()?;
        if let Ok((key, _)) = &row {
            self.range.start = [key.as_slice(), &[0]].concat();
        }
        Some(row)
    }
}

impl DoubleEndedIterator for Walk<'_> {
    fn next_back(&mut self) -> Option<Row> {
        let row = self.table.now().range(self.range.clone()).next_back()?;
        if let Ok((key, _)) = &row {
            self.range.end.clone_from(key);
        }
        Some(row)
    }
}

/// Has `check` read at every moment of a busy journal's life that makes a difference, and gives what it complained of.
fn beside(check: impl Fn(&Beside<'_>) -> Vec<String>) -> BTreeSet<String> {
    let writer = busy();
    let mut complaints = BTreeSet::new();
    for stale in [true, false] {
        for first in 0..writer.commits.len() - 1 {
            for every in [usize::MAX, 2] {
                for quiet in 0.. {
                    let table = Beside { commits: &writer.commits, first, quiet, every, stale, reads: Cell::new(0) };
                    complaints.extend(check(&table));
                    if table.reads.get() <= quiet {
                        break;
                    }
                }
            }
        }
    }
    complaints
}

#[test]
fn verify_finds_nothing_wrong_with_what_is_removed_meanwhile() {
    let complaints = beside(|table| verify::verify(table, None, None).unwrap().problems);
    assert_eq!(complaints, BTreeSet::new());
}

#[test]
fn a_page_has_no_row_of_what_is_removed_meanwhile_that_was_never_so() {
    for reverse in [false, true] {
        let filter = Filter { kind: Kind::All, reverse, ..Filter::default() };
        let complaints = beside(|table| {
            let page = page::page(table, &filter, None).unwrap();
            let wrong = page.rows.iter().filter(|row| match row {
                // Each of these has its outcome in the very next commit.
                audit::Row::Request(row) => {
                    matches!(row.state, RequestState::Accepted | RequestState::Handling)
                        && table.commits[table.first].0.contains_key(&keys::outcome(row.seq))
                }
                audit::Row::Unreadable(_) => true,
                audit::Row::Event(_) => false,
            });
            wrong.map(|row| format!("{row:?}")).map(|text| text.chars().take(120).collect()).collect()
        });
        assert_eq!(complaints, BTreeSet::new());
    }
}

#[test]
fn figures_count_nothing_as_unreadable_that_is_removed_meanwhile() {
    let complaints = beside(|table| {
        let stats = stats::stats(table).unwrap();
        (stats.unreadable > 0 || stats.unfinished > 1).then(|| format!("{stats:?}")).into_iter().collect()
    });
    assert_eq!(complaints, BTreeSet::new());
}

/// As where somebody altered it: only what is gone was removed.
#[test]
fn a_record_of_history_that_says_too_much_hides_no_request_that_is_there() {
    let writer = busy();
    let mut table =
        writer.commits.iter().find(|table| table.0.contains_key(&keys::unfinished(Seq(2)))).unwrap().clone();
    table.0.remove(&keys::unfinished(Seq(2)));
    let pruned = writer.commits.last().unwrap().0[keys::HISTORY].clone();
    table.0.insert(keys::HISTORY.to_vec(), pruned);
    let page = page::page(&table, &Filter::default(), None).unwrap();
    assert_eq!(page.rows.iter().map(audit::Row::seq).collect::<Vec<_>>(), [Seq(1), Seq(2)]);
}

//! Reading the journal a page at a time.
//!
//! A page is bounded in rows, in bytes and in the work of finding them, whatever the journal's size and the filter;
//! memory is that of one page. An unreadable entry becomes a row that says so, and reading continues.

use crate::api::audit::{Filter, Page, Row};
use crate::api::ids::{ReqId, Seq};
use crate::api::report::chain;
use crate::journal::format::codec;
use crate::journal::format::entry::{Entry, Numbered};
use crate::journal::format::keys;
use crate::journal::format::versions::records::{DeadlineRecord, DuplicatesRecord, OutcomeRecord, ReqidRecord};
use crate::journal::tree::rows::{self, Fate};
use crate::journal::tree::table::{Entries, ReadError, Table, Whole};

/// A page ends when it has this many rows, …
const ROWS: usize = 256;
/// … this many bytes of bodies (one row may be larger), …
const BYTES: usize = 1 << 20;
/// … or this many bytes of text, which a single row may not exceed either, …
const LINES: usize = 4 << 20;
/// … or has examined this many entries.
const EXAMINED: usize = 4096;

/// One page under construction.
struct Draft<'a> {
    filter: &'a Filter,
    rows: Vec<Row>,
    /// Rows as text, and how many.
    lines: Vec<u8>,
    written: usize,
    bytes: usize,
    examined: usize,
}

impl<'a> Draft<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self { filter, rows: Vec::new(), lines: Vec::new(), written: 0, bytes: 0, examined: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows.len() + self.written >= ROWS || self.bytes >= BYTES || self.examined >= EXAMINED
    }

    fn push(&mut self, row: Row) {
        if !self.filter.as_lines {
            self.rows.push(row);
            return;
        }
        let before = self.lines.len();
        if row.write_line(&mut self.lines).is_ok() && self.lines.len() <= LINES {
            self.bytes += self.lines.len() - before;
            self.written += 1;
        } else {
            // Escapes make text up to six times as long as the fields, for which a frame has room. The page ends with
            // it: lines come before rows.
            self.lines.truncate(before);
            self.rows.push(row);
            self.bytes = BYTES;
        }
    }

    fn finish(self, next: Option<Seq>) -> Page {
        // Written only by `Row::write_line`.
        let lines = String::from_utf8(self.lines).expect("JSON is text");
        Page { lines, rows: self.rows, is_exact: true, next }
    }

    fn examine(&mut self, table: &impl Table, seq: Seq, value: &[u8]) {
        if value.first().is_some_and(|kind| !rows::wanted_kind(self.filter.kind, *kind)) {
            return;
        }
        match self.row(table, seq, value) {
            Ok(Some(row)) => self.push(row),
            Ok(None) => {}
            Err(error) => self.cannot_read(seq, &error),
        }
    }

    fn cannot_read(&mut self, seq: Seq, error: &ReadError) {
        self.push(rows::unreadable(seq, chain(error)));
    }

    fn row(&mut self, table: &impl Table, seq: Seq, value: &[u8]) -> Result<Option<Row>, ReadError> {
        let Some(Whole { numbered, .. }) = table.read_walked(seq, value)? else { return Ok(None) };
        if !rows::may_match(self.filter, &numbered) {
            return Ok(None);
        }
        let (fate, bytes) = match &numbered.entry {
            Entry::RequestReceived { .. } => fate(table, seq)?,
            Entry::RequestAnswered { .. } => {
                let duplicates = table.record::<DuplicatesRecord>(&keys::duplicates(seq))?.unwrap_or_default();
                (Fate { duplicates, ..Fate::default() }, 0)
            }
            _other => (Fate::default(), 0),
        };
        // With all that was known of it; one that is accepted is known to be unfinished.
        let has_none = fate.outcome.is_none() && fate.unfinished.is_none();
        if has_none && matches!(numbered.entry, Entry::RequestReceived { .. }) && table.is_removed(seq)? {
            return Ok(None);
        }
        let row = rows::row(self.filter, numbered, fate);
        if row.is_some() {
            self.bytes += length(value) + bytes;
        }
        Ok(row)
    }
}

fn length(value: &[u8]) -> usize {
    codec::head(value).map_or(0, |(head, _)| head.stored_length())
}

/// What became of request `seq`, and how many bytes were read for it.
fn fate(table: &impl Table, seq: Seq) -> Result<(Fate, usize), ReadError> {
    let mut fate = Fate::default();
    let mut bytes = 0;
    fate.duplicates = table.record::<DuplicatesRecord>(&keys::duplicates(seq))?.unwrap_or_default();
    // First how far it has come, then its outcome: in the other order, a commit in between would hide both. The
    // deadline response is older than the outcome.
    fate.unfinished = table.record(&keys::unfinished(seq))?;
    if let Some(OutcomeRecord { completed }) = table.record(&keys::outcome(seq))?
        && let Some(value) = table.get(&keys::entry(completed))?
    {
        bytes += length(&value);
        if let Some(Whole { numbered, .. }) = table.read_walked(completed, &value)?
            && let Numbered { at, entry: Entry::RequestCompleted { outcome, attempts, response, .. }, .. } = numbered
        {
            fate.outcome = Some((at, outcome, attempts, response));
        }
    }
    if let Some(DeadlineRecord { answered }) = table.record(&keys::deadline(seq))?
        && let Some(value) = table.get(&keys::entry(answered))?
    {
        bytes += length(&value);
        if let Some(Whole { numbered, .. }) = table.read_walked(answered, &value)?
            && let Numbered { at, entry: Entry::DeadlineAnswered { response, .. }, .. } = numbered
        {
            fate.deadline = Some((at, response));
        }
    }
    Ok((fate, bytes))
}

pub(in crate::journal) fn page(table: &impl Table, filter: &Filter, cursor: Option<Seq>) -> Result<Page, ReadError> {
    let mut first = filter.from_seq.unwrap_or_default().max(Seq(1));
    // Conflicts come after the request that they are in conflict with.
    let begins = |reqid: &String| -> Option<Seq> {
        let record = table.record::<ReqidRecord>(&keys::reqid(&ReqId::new(reqid.as_str()).ok()?)).ok()??;
        Some(record.seq)
    };
    let asked = if filter.one_of.reqids.is_empty() { filter.reqid.as_slice() } else { &filter.one_of.reqids };
    if let Some(begin) = asked.iter().map(begins).min().flatten() {
        first = first.max(begin);
    }
    // An unreadable tail has no known end; the search goes as far as a page allows.
    let last = match table.last() {
        Ok(last) => last,
        Err(error) if error.is_damage() => Seq(u64::MAX),
        Err(error) => return Err(error),
    };
    let mut last = filter.to_seq.unwrap_or(Seq(u64::MAX)).min(last);
    match cursor {
        Some(cursor) if filter.reverse => last = last.min(cursor),
        Some(cursor) => first = first.max(cursor),
        None => {}
    }
    if first > last {
        return Ok(Page::default());
    }
    let mut draft = Draft::new(filter);
    let next = walk(table, &mut draft, first, last)?;
    Ok(draft.finish(next))
}

/// Fills the draft; returns the entry at which to continue.
fn walk(table: &impl Table, draft: &mut Draft<'_>, first: Seq, last: Seq) -> Result<Option<Seq>, ReadError> {
    for (seq, value) in Entries::new(table, first, last, draft.filter.reverse) {
        if draft.is_full() {
            return Ok(Some(seq));
        }
        draft.examined += 1;
        match value {
            Ok(value) => draft.examine(table, seq, &value),
            Err(error) if error.is_damage() => draft.cannot_read(seq, &error),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

//! Reading the journal a page at a time, beside its writer or offline.
//!
//! A page is bounded in rows, in bytes and in the work that finding them takes, whatever the journal's size and
//! whatever the filter; memory is that of one page. What cannot be read is a row that says so, and reading goes on.

use std::sync::Arc;

use super::stats;
use crate::api::audit::{Filter, Page, Row};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::head::Anchor;
use crate::api::ids::{ReqId, Seq};
use crate::api::report::{VerifyReport, chain};
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;
use crate::journal::format::codec::{self, Hash};
use crate::journal::format::entry::{Entry, Known, Numbered, Removal};
use crate::journal::format::keys;
use crate::journal::format::versions::records::{
    DeadlineRecord, DuplicatesRecord, HistoryRecord, OutcomeRecord, ReqidRecord,
};
use crate::journal::store::database::{Database, Shared};
use crate::journal::tree::export::{self, ExportError};
use crate::journal::tree::recover;
use crate::journal::tree::retention::{self, Policy, Step};
use crate::journal::tree::rows::{self, Fate};
use crate::journal::tree::table::{Entries, ReadError, Table, Whole};
use crate::journal::tree::verify;

/// A page ends when it has so many rows, …
const ROWS: usize = 256;
/// … so many bytes of bodies (one row may be larger), …
const BYTES: usize = 1 << 20;
/// … or so many bytes of text, which one row may not exceed either, …
const LINES: usize = 4 << 20;
/// … or has looked at so many entries.
const EXAMINED: usize = 4096;

/// Reads while the journal is written to. Cheap to clone; every clone keeps the journal open.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<Shared>,
}

impl Reader {
    pub(in crate::journal) fn new(database: Arc<Shared>) -> Self {
        Self { database }
    }

    fn database(&self) -> Result<Arc<Database>, ReadError> {
        self.database.get().map_err(|source| ReadError::Storage { what: "the history".to_owned(), source })
    }

    /// The rows that `filter` wants, from `cursor` (a page's `next`) or the beginning. Blocks on the disk.
    pub fn page(&self, filter: &Filter, cursor: Option<Seq>) -> Result<Page, ReadError> {
        page(self.database()?.as_ref(), filter, cursor)
    }

    /// The newest entry.
    pub fn last(&self) -> Result<Seq, ReadError> {
        self.database()?.last()
    }

    pub fn lookup(&self, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
        recover::lookup(self.database()?.as_ref(), reqid)
    }

    /// Checks everything (see [`verify`]), and whether the journal continues `anchor`. Takes as long as reading the whole journal.
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<VerifyReport, ReadError> {
        verify::verify(self.database()?.as_ref(), None, anchor)
    }

    /// All but the size on disk and the time to open. Takes as long as reading the whole journal.
    pub fn stats(&self) -> Result<JournalStats, ReadError> {
        stats::stats(self.database()?.as_ref())
    }

    /// As [`Self::verify`], knowing how far the journal had come.
    pub(in crate::journal) fn verify_to(
        &self,
        noted: Option<(Seq, Option<Hash>)>,
        anchor: Option<&Anchor>,
    ) -> Result<VerifyReport, ReadError> {
        verify::verify(self.database()?.as_ref(), noted, anchor)
    }

    /// A stretch of the journal as a stream (see [`export`]), from `cursor` or the beginning on. Blocks on the disk.
    pub fn export(&self, cursor: Option<&ExportCursor>, now: Timestamp) -> Result<ExportChunk, ExportError> {
        export::chunk(self.database()?.as_ref(), cursor, now)
    }

    /// The next step of retention towards `policy`; `None`: there is nothing to remove. Blocks on the disk.
    pub fn next_removal(&self, policy: &Policy, now: Timestamp) -> Result<Option<Step>, ReadError> {
        retention::next(self.database()?.as_ref(), policy, now)
    }

    /// What all steps towards `policy` would come to. Blocks on the disk.
    pub fn preview_removal(&self, policy: &Policy, now: Timestamp) -> Result<Step, ReadError> {
        retention::preview(self.database()?.as_ref(), policy, now)
    }

    /// Whether the clock may make anything too old, as far as the journal can tell.
    pub fn believes(&self, now: Timestamp) -> Result<bool, ReadError> {
        retention::believes(self.database()?.as_ref(), now)
    }

    /// Whether a step that was decided is durable.
    pub fn is_removed(&self, removal: &Removal) -> Result<bool, ReadError> {
        let history = self.database()?.record::<HistoryRecord>(keys::HISTORY)?.unwrap_or_default();
        Ok(history.first > removal.upto && history.trimmed >= removal.trimmed)
    }

    /// Lets go without waiting for a damaged database to close.
    pub(in crate::journal) fn abandon(self) {
        if let Some(database) = Arc::into_inner(self.database) {
            database.abandon();
        }
    }
}

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
            // Escapes make text up to six times as long as the fields, for which a frame has room. The page ends with it:
            // lines come before rows.
            self.lines.truncate(before);
            self.rows.push(row);
            self.bytes = BYTES;
        }
    }

    fn finish(self, next: Option<Seq>) -> Page {
        // Written by `Row::write_line` alone.
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

/// What became of request `seq`, and how many bytes that took.
fn fate(table: &impl Table, seq: Seq) -> Result<(Fate, usize), ReadError> {
    let mut fate = Fate::default();
    let mut bytes = 0;
    fate.duplicates = table.record::<DuplicatesRecord>(&keys::duplicates(seq))?.unwrap_or_default();
    // First how far it is, then its outcome: read the other way round, a commit in between would leave neither. What was told
    // at the deadline is older than the outcome.
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
    // A tail that does not read has no known end; it is looked for as far as a page reaches.
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

/// Fills the draft; returns the entry at which to go on.
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

//! Verifies the journal: every record is readable, numbers are gapless, each entry continues the one before it, indexes
//! agree both ways, digests match their requests.
//!
//! An entry holds the hash of the one before; the record of history holds the newest entry's hash. If somebody rewrote
//! all of that, only a head that was noted elsewhere reveals it.
//!
//! Works concurrently with the writer: entries newer than the newest at the start are ignored, and what looks wrong
//! about a request is checked again, since there is no snapshot to read from. Memory does not grow with the journal.

mod entries;
mod indexes;
mod links;

use std::fmt;

use super::rows;
use super::table::{Entries, ReadError, Table};
use crate::api::head::Anchor;
use crate::api::ids::Seq;
use crate::api::report::{VerifyReport, chain};
use crate::api::time::Timestamp;
use crate::journal::format::codec::Hash;
use crate::journal::format::entry::{Entry, Numbered};
use crate::journal::format::keys;
use crate::journal::format::versions::{
    self, kind,
    records::{FormatRecord, HistoryRecord},
};

use links::{ChainPosition, Links};

/// Problems reported one by one; further ones are only counted.
const REPORTED_LIMIT: usize = 1000;

/// Checks everything. `noted`: the newest entry and its hash according to the side file. `anchor`: a head noted
/// elsewhere, which the journal has to continue. An error is not a finding about the journal: the device could not be
/// read.
pub(in crate::journal) fn verify(
    table: &impl Table,
    noted: Option<(Seq, Option<Hash>)>,
    anchor: Option<&Anchor>,
) -> Result<VerifyReport, ReadError> {
    let mut check = Check {
        table,
        report: VerifyReport::default(),
        problems: Vec::new(),
        not_reported: 0,
        history: HistoryRecord::default(),
        began_at: Seq::default(),
        links: Links::new(anchor),
        pruned: Pruned::default(),
        gaps: Vec::new(),
        missing: Vec::new(),
        undelivered: None,
    };
    check.run(noted);
    if let Some(anchor) = anchor {
        check.anchor(anchor);
    }
    if let Some(error) = check.undelivered {
        return Err(error);
    }
    let mut report = check.report;
    check.problems.sort();
    report.problems = check.problems.iter().map(ToString::to_string).collect();
    if check.not_reported > 0 {
        report.problems.push(format!("and {} more problems", check.not_reported));
    }
    Ok(report)
}

/// In the order of entries; those of records come first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    seq: Option<Seq>,
    at: Option<String>,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.seq, &self.at) {
            (Some(seq), Some(at)) => write!(f, "entry {seq} of {at}: {}", self.what),
            (Some(seq), None) => write!(f, "entry {seq}: {}", self.what),
            (None, _) => f.write_str(&self.what),
        }
    }
}

struct Check<'a, T> {
    table: &'a T,
    report: VerifyReport,
    problems: Vec<Problem>,
    not_reported: u64,
    /// According to the record of history.
    history: HistoryRecord,
    /// The oldest entry that retention had kept when this began.
    began_at: Seq,
    links: Links,
    /// What the newest entry of retention says.
    pruned: Pruned,
    /// Ranges of numbers without an entry, and those that salvages have reported lost.
    gaps: Vec<(Seq, Seq)>,
    missing: Vec<(Seq, Seq)>,
    undelivered: Option<ReadError>,
}

/// Entries removed up to `upto`, and the hash of that one; responses removed up to `trimmed`.
#[derive(Debug, Clone, Copy, Default)]
struct Pruned {
    upto: Seq,
    hash: Hash,
    trimmed: Seq,
}

impl<T: Table> Check<'_, T> {
    /// Something is wrong with an entry, unless retention has removed it while it was being checked.
    fn problem(&mut self, seq: Option<Seq>, at: Option<Timestamp>, what: String) {
        if !seq.is_some_and(|seq| self.was_removed_meanwhile(seq)) {
            self.report_problem(seq, at, what);
        }
    }

    fn was_removed_meanwhile(&self, seq: Seq) -> bool {
        seq >= self.began_at && self.table.is_removed(seq).unwrap_or(false)
    }

    fn report_problem(&mut self, seq: Option<Seq>, at: Option<Timestamp>, what: String) {
        if self.problems.len() < REPORTED_LIMIT {
            self.problems.push(Problem { seq, at: at.map(rows::time), what });
        } else {
            self.not_reported += 1;
        }
    }

    fn note(&mut self, what: String) {
        if self.report.notes.len() < REPORTED_LIMIT {
            self.report.notes.push(what);
        }
    }

    /// The value, or a problem.
    fn read<V>(&mut self, seq: Option<Seq>, read: Result<V, ReadError>) -> Option<V> {
        match read {
            Ok(value) => Some(value),
            Err(error) if error.is_damage() || error.is_newer() => {
                self.problem(seq, None, chain(&error));
                None
            }
            Err(error) => {
                self.undelivered.get_or_insert(error);
                None
            }
        }
    }

    fn run(&mut self, noted: Option<(Seq, Option<Hash>)>) {
        let format = self.table.record::<FormatRecord>(keys::FORMAT);
        match self.read(None, format) {
            Some(Some(FormatRecord { version: versions::CURRENT_FORMAT })) | None => {}
            Some(Some(FormatRecord { version })) => self.problem(None, None, format!("the format is {version}")),
            Some(None) => self.problem(None, None, "the format record is missing".to_owned()),
        }
        let newest = self.table.last();
        let newest = self.read(None, newest);
        // Read after the newest entry, so that a commit in between does no harm.
        let history = self.table.record::<HistoryRecord>(keys::HISTORY);
        let history = self.read(None, history);
        if let (Some(None), Some(newest)) = (&history, newest)
            && newest > Seq(0)
        {
            self.problem(None, None, "the record of history is missing".to_owned());
        }
        let history = history.flatten();
        let known = history.as_ref().map(|history| history.last).or(newest);
        // Without a known end, everything readable is checked, up to the end according to the side file.
        let last = known.or(noted.map(|(high, _)| high)).unwrap_or(Seq(u64::MAX));
        self.history = history.clone().unwrap_or_default();
        self.began_at = self.history.first;
        self.report.last = known.unwrap_or_default().0;
        self.entries(last, noted);
        let head = history.as_ref().filter(|history| Some(history.last) == self.links.newest().map(|head| head.seq));
        if let Some(altered) = self.links.end(head.map(|history| history.hash)) {
            self.altered(altered);
        }
        self.report.head = self.links.newest().map(|head| head.to_string()).unwrap_or_default();
        if let (Some(newest), Some(last)) = (newest, known)
            && newest > last
        {
            let what = format!("the journal ends with entry {last}, and there is one after it");
            self.problem(Some(newest), None, what);
        }
        self.later_pruning(last);
        self.account_for_gaps();
        if let (Some((high, _)), Some(last)) = (noted, known)
            && high > last
        {
            let what = format!("the journal ends at {last}, and had come to {high}: its newest entries are lost");
            self.problem(Some(last.next()), None, what);
        }
        self.records(last);
        self.indexes(last);
        self.pieces(last);
    }

    fn entries(&mut self, last: Seq, noted: Option<(Seq, Option<Hash>)>) {
        let mut expected = Seq(1);
        for (seq, value) in Entries::new(self.table, Seq(1), last, false) {
            if seq > expected {
                self.gaps.push((expected, Seq(seq.0 - 1)));
            }
            expected = seq.next();
            if self.report.first == 0 {
                self.report.first = seq.0;
            }
            let read = value.and_then(|value| self.table.read_walked(seq, &value));
            let Some(Some(whole)) = self.read(Some(seq), read) else {
                self.links.interrupt();
                continue;
            };
            self.report.entries += 1;
            let at = whole.numbered.at;
            match whole.link {
                Some(link) => {
                    if let Some(altered) = self.links.take(seq, at, link) {
                        self.altered(altered);
                    }
                    if seq == Seq(1) && link.previous != Hash::default() {
                        self.problem(Some(seq), Some(at), "it is the first entry, and continues another".to_owned());
                    }
                    if let Some((high, Some(head))) = noted
                        && high == seq
                        && head != link.hash
                    {
                        let what = "it is not the entry whose hash the side file has noted".to_owned();
                        self.problem(Some(seq), Some(at), what);
                    }
                }
                None => self.problem(Some(seq), Some(at), "it is of an older format and has no hash".to_owned()),
            }
            self.entry(&whole.numbered);
        }
        if expected <= last && last.0 < u64::MAX {
            self.gaps.push((expected, last));
        }
    }

    fn altered(&mut self, ChainPosition { seq, at, .. }: ChainPosition) {
        let what = "it was altered: its hash is not the one that the journal goes on from".to_owned();
        self.problem(Some(seq), Some(at), what);
    }

    /// Whether the journal continues a head that was noted elsewhere, and if not, what is known about it.
    fn anchor(&mut self, anchor: &Anchor) {
        self.report.anchor = self.links.found.map(|head| head.to_string());
        if self.report.anchor.is_some() {
            return;
        }
        let pruned = self.history.first;
        let (seq, what) = match anchor.seq {
            Some(seq) if seq.0 > self.report.last => {
                let last = self.report.last;
                (
                    Some(seq),
                    format!("it was noted elsewhere, and the journal ends at {last}: its newest entries are lost"),
                )
            }
            Some(seq) if seq < pruned => {
                let what = "retention has removed it since it was noted elsewhere, so that nothing proves any more what \
                            came after it; hold the journal against a younger head";
                (None, format!("entry {seq}: {what}"))
            }
            Some(seq) => (Some(seq), "it is not the entry whose hash was noted elsewhere: it was rewritten".to_owned()),
            None if pruned > Seq(1) => {
                let what = format!(
                    "no entry has the hash {anchor} that was noted elsewhere: it was rewritten, or it is one of those \
                     before {pruned} that retention has removed"
                );
                (None, what)
            }
            None => (None, format!("no entry has the hash {anchor} that was noted elsewhere: it was rewritten")),
        };
        self.report_problem(seq, None, what);
    }

    /// What retention has removed since the walk began is reported by entries after the end of the walk.
    fn later_pruning(&mut self, last: Seq) {
        let history = |check: &mut Self| {
            let history = check.table.record::<HistoryRecord>(keys::HISTORY);
            check.read(None, history).flatten()
        };
        let Some(mut now) = history(self) else { return };
        let agrees = loop {
            for (seq, value) in Entries::new(self.table, last.next(), now.last, false) {
                if let Ok(value) = value
                    && value.first() == Some(&kind::PRUNED)
                    && let Ok(Numbered { entry: Entry::Pruned { upto, hash, trimmed, .. }, .. }) =
                        self.table.decode_entry(seq, &value)
                {
                    self.pruned = Pruned { upto, hash, trimmed };
                }
            }
            if now.first == self.pruned.upto.next() && now.trimmed == self.pruned.trimmed {
                break true;
            }
            // That entry may have been removed by now, too.
            let Some(later) = history(self) else { return };
            if (later.first, later.trimmed) == (now.first, now.trimmed) {
                break false;
            }
            now = later;
        };
        if !agrees {
            let what = format!(
                "the record of history says that entries before {} and responses up to {} were removed; the entries \
                 tell of entries before {} and responses up to {}",
                now.first,
                now.trimmed,
                self.pruned.upto.next(),
                self.pruned.trimmed
            );
            self.problem(None, None, what);
        }
        if let Some((ChainPosition { seq, at, .. }, previous)) = self.links.first
            && seq == self.pruned.upto.next()
            && self.pruned.hash != Hash::default()
            && previous != self.pruned.hash
        {
            let what = "it does not continue the newest entry that retention has removed".to_owned();
            self.problem(Some(seq), Some(at), what);
        }
        self.history = now;
    }

    /// Gaps that a salvage or retention has reported are not a problem.
    fn account_for_gaps(&mut self) {
        if self.pruned.upto > Seq(0) {
            self.missing.push((Seq(1), self.pruned.upto));
            self.note(format!("retention has removed the entries up to {}", self.pruned.upto));
        }
        for (first, last) in std::mem::take(&mut self.gaps) {
            let mut at = first;
            while at <= last {
                match self.missing.iter().find(|(from, to)| (*from..=*to).contains(&at)) {
                    Some((_, to)) => at = to.next(),
                    None => {
                        let known = self.missing.iter().map(|(from, _)| *from).filter(|from| *from > at).min();
                        let end = known.map_or(last, |from| Seq(from.0 - 1)).min(last);
                        let what = match end == at {
                            true => "this entry is missing".to_owned(),
                            false => format!("the entries from here to {end} are missing"),
                        };
                        self.problem(Some(at), None, what);
                        at = end.next();
                    }
                }
            }
        }
    }

    fn is_missing(&self, seq: Seq) -> bool {
        self.missing.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    }
}

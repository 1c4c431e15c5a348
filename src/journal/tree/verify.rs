//! Whether the journal is what it should be: every record reads, numbers are gapless, each entry continues the one before
//! it, indexes agree both ways, digests match their requests.
//!
//! An entry holds the hash of the one before; what the newest entry's hash has to be, the record of history says. Who can
//! rewrite all of that is found out by a head that was noted elsewhere.
//!
//! Works beside the writer: entries after the newest at the start are left alone, and what looks wrong about a request
//! is looked at again, since there is no snapshot to read from. Memory does not grow with the journal.

mod links;

use std::fmt;

use super::batch;
use super::rows;
use super::table::{Entries, ReadError, Table};
use crate::api::event::Request;
use crate::api::head::Anchor;
use crate::api::ids::{ReqId, Seq};
use crate::api::report::{VerifyReport, chain};
use crate::api::time::Timestamp;
use crate::journal::format::codec::{self, Hash};
use crate::journal::format::entry::{
    AgentRecord, DesiredRecord, Digest, Entry, NodeRecord, Numbered, UnfinishedRecord, digest,
};
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::{
    self, kind,
    records::{DeadlineRecord, DuplicatesRecord, FormatRecord, HistoryRecord, OutcomeRecord, ReqidRecord, SIGHTINGS},
    v2,
};

use links::{Links, Place};

/// Problems told one by one; of further ones there is only the count.
const TOLD: usize = 1000;

/// Checks everything. `noted`: the newest entry and its hash according to the side file. `anchor`: a head noted elsewhere,
/// which the journal has to continue. An error is no finding about the journal: the device did not deliver it.
pub(in crate::journal) fn verify(
    table: &impl Table,
    noted: Option<(Seq, Option<Hash>)>,
    anchor: Option<&Anchor>,
) -> Result<VerifyReport, ReadError> {
    let mut check = Check {
        table,
        report: VerifyReport::default(),
        problems: Vec::new(),
        untold: 0,
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
    if check.untold > 0 {
        report.problems.push(format!("and {} more problems", check.untold));
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
    untold: u64,
    /// As the record of history has it.
    history: HistoryRecord,
    /// The oldest entry that retention had left when this began.
    began_at: Seq,
    links: Links,
    /// What retention has told of last.
    pruned: Pruned,
    /// Ranges of numbers without an entry, and those that salvages have told of.
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
    /// Something is wrong with an entry, unless retention has removed it while it was looked at.
    fn problem(&mut self, seq: Option<Seq>, at: Option<Timestamp>, what: String) {
        if !seq.is_some_and(|seq| self.was_removed_meanwhile(seq)) {
            self.tell(seq, at, what);
        }
    }

    fn was_removed_meanwhile(&self, seq: Seq) -> bool {
        seq >= self.began_at && self.table.is_removed(seq).unwrap_or(false)
    }

    fn tell(&mut self, seq: Option<Seq>, at: Option<Timestamp>, what: String) {
        if self.problems.len() < TOLD {
            self.problems.push(Problem { seq, at: at.map(rows::time), what });
        } else {
            self.untold += 1;
        }
    }

    fn note(&mut self, what: String) {
        if self.report.notes.len() < TOLD {
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
        // Without a known end all that reads is looked at, up to where the side file says it ends.
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
        self.index(Family::Reqid, last, Self::reqid_row);
        self.index(Family::Outcome, last, Self::outcome_row);
        self.index(Family::Deadline, last, Self::deadline_row);
        self.index(Family::Unfinished, last, Self::unfinished_row);
        self.index(Family::Duplicates, last, Self::duplicates_row);
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

    fn altered(&mut self, Place { seq, at, .. }: Place) {
        let what = "it was altered: its hash is not the one that the journal goes on from".to_owned();
        self.problem(Some(seq), Some(at), what);
    }

    /// Whether the journal continues a head that was noted elsewhere, and if not, what can be said.
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
        self.tell(seq, None, what);
    }

    /// What retention has removed since the walk began is told by entries that the walk did not come to.
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
            // That entry, too, may be removed by now.
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
        if let Some((Place { seq, at, .. }, previous)) = self.links.first
            && seq == self.pruned.upto.next()
            && self.pruned.hash != Hash::default()
            && previous != self.pruned.hash
        {
            let what = "it does not continue the newest entry that retention has removed".to_owned();
            self.problem(Some(seq), Some(at), what);
        }
        self.history = now;
    }

    /// Gaps that a salvage or retention has told of are no problem.
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

    fn entry(&mut self, numbered: &Numbered) {
        let Numbered { seq, at, entry } = numbered;
        match entry {
            Entry::RequestReceived { reqid, request, digest, .. } => {
                self.digest(*seq, *at, &request.0, digest);
                self.reqid(*seq, *at, reqid, digest);
                self.progress(*seq, *at);
            }
            Entry::RequestAnswered { reqid, request, digest, response, .. } => {
                self.digest(*seq, *at, &request.0, digest);
                self.reqid(*seq, *at, reqid, digest);
                if response.kept().is_none() {
                    self.dropped(*seq, *at, Some(&request.0));
                }
            }
            Entry::RequestConflicted { first, request, digest, .. } => {
                self.digest(*seq, *at, &request.0, digest);
                self.earlier(*seq, *at, *first);
            }
            Entry::RequestCompleted { of, response, .. } => {
                self.earlier(*seq, *at, *of);
                if response.kept().is_none() {
                    let request = match self.table.entry(*of) {
                        Ok(Some(Numbered { entry: Entry::RequestReceived { request, .. }, .. })) => Some(request.0),
                        Ok(_) | Err(_) => None,
                    };
                    self.dropped(*seq, *at, request.as_ref());
                }
                if *of < self.history.first {
                    return;
                }
                let row = self.table.record(&keys::outcome(*of));
                match self.read(Some(*seq), row) {
                    Some(Some(OutcomeRecord { completed })) if completed == *seq => {}
                    Some(Some(OutcomeRecord { completed })) => {
                        let what = format!("it completes request {of}, whose outcome is entry {completed}");
                        self.problem(Some(*seq), Some(*at), what);
                    }
                    Some(None) if self.was_removed_meanwhile(*of) => {}
                    Some(None) => {
                        let what = format!("it completes request {of}, which is not known to have an outcome");
                        self.problem(Some(*seq), Some(*at), what);
                    }
                    None => {}
                }
            }
            Entry::DeadlineAnswered { of, response } => {
                self.earlier(*seq, *at, *of);
                if response.kept().is_none() {
                    self.problem(
                        Some(*seq),
                        Some(*at),
                        "its response was removed, and retention keeps such".to_owned(),
                    );
                }
                if *of < self.history.first {
                    return;
                }
                let row = self.table.record(&keys::deadline(*of));
                match self.read(Some(*seq), row) {
                    Some(Some(DeadlineRecord { answered })) if answered == *seq => {}
                    Some(None) if self.was_removed_meanwhile(*of) => {}
                    Some(Some(_) | None) => {
                        let what =
                            format!("it answers request {of} at its deadline, and its index row does not say so");
                        self.problem(Some(*seq), Some(*at), what);
                    }
                    None => {}
                }
            }
            Entry::DuplicateSeen { of, .. } => {
                self.earlier(*seq, *at, *of);
                if *of < self.history.first {
                    return;
                }
                let row = self.table.record::<DuplicatesRecord>(&keys::duplicates(*of));
                if let Some(None) = self.read(Some(*seq), row)
                    && !self.was_removed_meanwhile(*of)
                {
                    let what = format!("it is a duplicate of request {of}, which is not known to have any");
                    self.problem(Some(*seq), Some(*at), what);
                }
            }
            Entry::RequestBegun { of, .. } | Entry::RequestWaits { of, .. } => self.earlier(*seq, *at, *of),
            Entry::Salvaged { recovered, missing, .. } => {
                self.missing.extend(missing);
                if !missing.is_empty() {
                    let summary = rows::recovery_summary(*recovered, missing);
                    let at = rows::time(*at);
                    self.note(format!(
                        "entry {seq} of {at} tells of a loss: {summary}; the chain does not reach across"
                    ));
                }
            }
            Entry::Imported { entries, missing, .. } => {
                self.missing.extend(missing);
                let summary = rows::recovery_summary(*entries, missing);
                let at = rows::time(*at);
                self.note(format!("entry {seq} of {at} tells of an import: {summary}"));
            }
            // From format 2 on the chain is older than the change.
            Entry::FormatChanged { from, .. } if *from >= v2::FIRST_CHAINED_FORMAT => {}
            Entry::FormatChanged { from, .. } => {
                let at = rows::time(*at);
                self.note(format!("the hashes up to entry {seq} were computed on {at}, when format {from} was left"));
            }
            Entry::Pruned { upto, hash, trimmed, .. } => {
                self.pruned = Pruned { upto: *upto, hash: *hash, trimmed: *trimmed };
                self.links.vouch(*upto, *hash);
            }
            Entry::AgentStarted { .. }
            | Entry::AgentStopped { .. }
            | Entry::AgentSettled
            | Entry::HoldEntered { .. }
            | Entry::HoldEnded { .. }
            | Entry::InputRejected { .. }
            | Entry::DesiredChanged { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeExited { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => {}
        }
    }

    fn earlier(&mut self, seq: Seq, at: Timestamp, other: Seq) {
        if other >= seq || other == Seq(0) {
            self.problem(Some(seq), Some(at), format!("it refers to entry {other}, which is not an earlier one"));
        }
    }

    fn digest(&mut self, seq: Seq, at: Timestamp, request: &Request, stored: &Digest) {
        if digest(request) != *stored {
            self.problem(Some(seq), Some(at), "its digest is not that of the request stored with it".to_owned());
        }
    }

    /// Retention drops responses of reads, and says so; nobody else does.
    fn dropped(&mut self, seq: Seq, at: Timestamp, request: Option<&Request>) {
        if request.is_some_and(|request| !batch::is_trimmed(request)) {
            self.problem(Some(seq), Some(at), "its response was removed, and retention keeps such".to_owned());
            return;
        }
        if seq <= self.history.trimmed {
            return;
        }
        let now = self.table.record::<HistoryRecord>(keys::HISTORY);
        if let Some(Some(now)) = self.read(None, now)
            && seq > now.trimmed
        {
            let what = "its response was removed, and retention has not come to it".to_owned();
            self.problem(Some(seq), Some(at), what);
        }
    }

    fn reqid(&mut self, seq: Seq, at: Timestamp, reqid: &ReqId, digest: &Digest) {
        if !reqid.is_empty() {
            let text = reqid.as_str();
            let row = self.table.record(&keys::reqid(reqid));
            match self.read(Some(seq), row) {
                Some(Some(ReqidRecord { seq: first, digest: known })) => {
                    if first != seq {
                        let what = format!("reqid {text:?} stands for entry {first}, not for this request");
                        self.problem(Some(seq), Some(at), what);
                    } else if known != *digest {
                        let what = format!("reqid {text:?} is indexed with another digest");
                        self.problem(Some(seq), Some(at), what);
                    }
                }
                Some(None) => self.problem(Some(seq), Some(at), format!("reqid {text:?} is not indexed")),
                None => {}
            }
        }
    }

    fn progress(&mut self, seq: Seq, at: Timestamp) {
        // Its outcome may be committed between two reads: what looks wrong is looked at again.
        let mut state = self.state(seq);
        if !matches!(state, Ok((true, false) | (false, true))) {
            state = self.state(seq);
        }
        match self.read(Some(seq), state) {
            Some((true, true)) => {
                self.problem(Some(seq), Some(at), "it has an outcome and counts as unfinished".to_owned());
            }
            Some((false, false)) => {
                self.problem(Some(seq), Some(at), "it has no outcome and does not count as unfinished".to_owned());
            }
            Some((false, true) | (true, false)) | None => {}
        }
    }

    /// Whether a request has an outcome, and whether it counts as unfinished.
    fn state(&self, seq: Seq) -> Result<(bool, bool), ReadError> {
        let unfinished = self.table.record::<UnfinishedRecord>(&keys::unfinished(seq))?.is_some();
        let outcome = self.table.record::<OutcomeRecord>(&keys::outcome(seq))?.is_some();
        Ok((outcome, unfinished))
    }

    fn records(&mut self, last: Seq) {
        let agent = self.table.record::<AgentRecord>(keys::AGENT);
        self.read(None, agent);
        let desired = self.table.record::<DesiredRecord>(keys::DESIRED);
        if let Some(Some(DesiredRecord { by, .. })) = self.read(None, desired)
            && by > last
            && self.table.last().is_ok_and(|now| by > now)
        {
            self.problem(None, None, format!("the desired-state record is of entry {by}, which does not exist"));
        }
        self.index(Family::Node, last, |check, _, key, _| {
            let record = check.table.record::<NodeRecord>(key);
            check.read(None, record);
        });
    }

    /// Walks a family of keys as far as it reads. Rows may be rewritten or gone by the time they are looked at.
    fn index(&mut self, family: Family, last: Seq, each: impl Fn(&mut Self, Key<'_>, &[u8], Seq)) {
        let table = self.table;
        for row in table.range(family.range()) {
            let Some((key, _)) = self.read(None, row) else { return };
            match keys::parse(&key) {
                Some(parsed) => each(self, parsed, &key, last),
                None => self.problem(None, None, keys::describe(&key)),
            }
        }
    }

    fn reqid_row(&mut self, parsed: Key<'_>, key: &[u8], last: Seq) {
        let row = self.table.record(key);
        let Some(Some(ReqidRecord { seq, .. })) = self.read(None, row) else { return };
        if seq > last || self.is_missing(seq) && seq >= self.history.first {
            return;
        }
        let entry = self.table.entry(seq);
        // What does not read was told of in its turn.
        let Ok(entry) = entry else { return };
        let same = match (&entry, parsed) {
            (
                Some(Numbered {
                    entry: Entry::RequestReceived { reqid, .. } | Entry::RequestAnswered { reqid, .. },
                    ..
                }),
                Key::Reqid(indexed),
            ) => reqid.as_str().as_bytes() == indexed,
            (Some(_) | None, _) => false,
        };
        // Retention may have removed both in between.
        if !same && matches!(self.table.get(key), Ok(Some(_))) {
            let what = format!("{} points at it, and it is no request with this reqid", keys::describe(key));
            self.problem(Some(seq), entry.map(|entry| entry.at), what);
        }
    }

    fn outcome_row(&mut self, parsed: Key<'_>, key: &[u8], last: Seq) {
        let Key::Outcome(of) = parsed else { return };
        let row = self.table.record(key);
        let Some(Some(OutcomeRecord { completed })) = self.read(Some(of), row) else { return };
        self.belongs_to_request(of, key, last);
        if completed > last {
            return;
        }
        if let Ok(entry) = self.table.entry(completed) {
            let same = matches!(&entry, Some(Numbered { entry: Entry::RequestCompleted { of: other, .. }, .. })
                if *other == of);
            if !same {
                let what = format!("{} points at it, and it is no outcome of that request", keys::describe(key));
                self.problem(Some(completed), entry.map(|entry| entry.at), what);
            }
        }
    }

    fn deadline_row(&mut self, parsed: Key<'_>, key: &[u8], last: Seq) {
        let Key::Deadline(of) = parsed else { return };
        let row = self.table.record(key);
        let Some(Some(DeadlineRecord { answered })) = self.read(Some(of), row) else { return };
        self.belongs_to_request(of, key, last);
        if answered > last {
            return;
        }
        if let Ok(entry) = self.table.entry(answered) {
            let same = matches!(&entry, Some(Numbered { entry: Entry::DeadlineAnswered { of: other, .. }, .. })
                if *other == of);
            // Retention may have removed both in between.
            if !same && matches!(self.table.get(key), Ok(Some(_))) {
                let what = format!("{} points at it, and it is no answer of that request", keys::describe(key));
                self.problem(Some(answered), entry.map(|entry| entry.at), what);
            }
        }
    }

    fn unfinished_row(&mut self, parsed: Key<'_>, key: &[u8], last: Seq) {
        let Key::Unfinished(of) = parsed else { return };
        let row = self.table.record::<UnfinishedRecord>(key);
        self.read(Some(of), row);
        self.belongs_to_request(of, key, last);
    }

    fn duplicates_row(&mut self, parsed: Key<'_>, key: &[u8], last: Seq) {
        let Key::Duplicates(of) = parsed else { return };
        let row = self.table.record(key);
        if let Some(Some(DuplicatesRecord { count, first, last })) = self.read(Some(of), row) {
            let kept = first.len() + last.len();
            if kept > 2 * SIGHTINGS || (kept as u64) != count.min(2 * SIGHTINGS as u64) {
                let what = format!("{} counts {count} and keeps {kept}", keys::describe(key));
                self.problem(Some(of), None, what);
            }
        }
        self.belongs_to_request(of, key, last);
    }

    fn belongs_to_request(&mut self, of: Seq, key: &[u8], last: Seq) {
        if of > last || self.is_missing(of) {
            return;
        }
        if let Ok(entry) = self.table.entry(of)
            && !matches!(
                &entry,
                Some(Numbered { entry: Entry::RequestReceived { .. } | Entry::RequestAnswered { .. }, .. })
            )
            && matches!(self.table.get(key), Ok(Some(_)))
        {
            let what = format!("{} stands for it, and it is no request", keys::describe(key));
            self.problem(Some(of), entry.map(|entry| entry.at), what);
        }
    }

    /// Pieces that belong to nothing.
    fn pieces(&mut self, last: Seq) {
        let mut of = (Vec::new(), 0);
        for family in [Family::EntryChunk, Family::RecordChunk] {
            let table = self.table;
            for row in table.range(family.range()) {
                let Some((key, _)) = self.read(None, row) else { break };
                let (owner, index, seq) = match keys::parse(&key) {
                    Some(Key::EntryChunk(seq, _)) if seq > last => continue,
                    Some(Key::EntryChunk(seq, index)) => (keys::entry(seq), index, Some(seq)),
                    Some(Key::RecordChunk(owner, index)) => (owner.to_vec(), index, None),
                    Some(_) | None => {
                        self.problem(None, None, keys::describe(&key));
                        continue;
                    }
                };
                if of.0 != owner {
                    of = (owner.clone(), self.piece_count(&owner));
                }
                // A record may have been rewritten in between, or retention have taken a response.
                if index >= of.1
                    && index >= self.piece_count(&owner)
                    && matches!(table.get(&key), Ok(Some(_)))
                    && index >= self.piece_count(&owner)
                {
                    self.problem(seq, None, format!("{} belongs to nothing", keys::describe(&key)));
                }
            }
        }
    }

    fn piece_count(&self, owner: &[u8]) -> u32 {
        let value = self.table.get(owner).ok().flatten();
        value.map_or(0, |value| codec::head(&value).map_or(0, |(head, _)| head.pieces()))
    }
}

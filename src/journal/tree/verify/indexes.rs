//! Checks the records that sum history up, and the index rows.

use super::Check;
use crate::api::ids::Seq;
use crate::journal::format::codec;
use crate::journal::format::entry::past::PastRecord;
use crate::journal::format::entry::{AgentRecord, DesiredRecord, Entry, NodeRecord, Numbered, UnfinishedRecord};
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::records::{
    DeadlineRecord, DuplicatesRecord, OutcomeRecord, ReqidRecord, SIGHTINGS,
};
use crate::journal::tree::table::Table;

impl<T: Table> Check<'_, T> {
    pub(super) fn records(&mut self, last: Seq) {
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
        self.index(Family::Past, last, |check, _, key, _| {
            let record = check.table.record::<PastRecord>(key);
            check.read(None, record);
        });
    }

    /// The index rows of requests.
    pub(super) fn indexes(&mut self, last: Seq) {
        self.index(Family::Reqid, last, Self::reqid_row);
        self.index(Family::Outcome, last, Self::outcome_row);
        self.index(Family::Deadline, last, Self::deadline_row);
        self.index(Family::Unfinished, last, Self::unfinished_row);
        self.index(Family::Duplicates, last, Self::duplicates_row);
    }

    /// Walks a family of keys as far as it is readable. Rows may be rewritten or gone by the time they are checked.
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
        // An unreadable entry was reported already.
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
    pub(super) fn pieces(&mut self, last: Seq) {
        for family in [Family::EntryChunk, Family::RecordChunk] {
            self.pieces_of(family, last);
        }
    }

    fn pieces_of(&mut self, family: Family, last: Seq) {
        let table = self.table;
        let mut of = (Vec::new(), 0);
        for row in table.range(family.range()) {
            let Some((key, _)) = self.read(None, row) else { return };
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

    fn piece_count(&self, owner: &[u8]) -> u32 {
        let value = self.table.get(owner).ok().flatten();
        value.map_or(0, |value| codec::head(&value).map_or(0, |(head, _)| head.pieces()))
    }
}

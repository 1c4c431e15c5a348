//! Checks an entry by itself, and its index rows.

use super::{Check, Pruned};
use crate::api::event::Request;
use crate::api::ids::{ReqId, Seq};
use crate::api::time::Timestamp;
use crate::journal::format::entry::{Answer, Digest, Entry, Numbered, UnfinishedRecord, digest};
use crate::journal::format::keys;
use crate::journal::format::versions::{
    records::{DeadlineRecord, DuplicatesRecord, HistoryRecord, OutcomeRecord, ReqidRecord},
    v2,
};
use crate::journal::tree::batch;
use crate::journal::tree::rows;
use crate::journal::tree::table::{ReadError, Table};

impl<T: Table> Check<'_, T> {
    pub(super) fn entry(&mut self, numbered: &Numbered) {
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
            Entry::RequestCompleted { of, response, .. } => self.outcome(*seq, *at, *of, response),
            Entry::DeadlineAnswered { of, response } => self.deadline_answer(*seq, *at, *of, response),
            Entry::DuplicateSeen { of, .. } => self.duplicate(*seq, *at, *of),
            Entry::RequestBegun { of, .. }
            | Entry::RequestWaits { of, .. }
            | Entry::PreflightBegun { of, .. }
            | Entry::PreflightEnded { of, .. } => self.earlier(*seq, *at, *of),
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
            | Entry::TroubleSeen { .. }
            | Entry::EventTold { .. }
            | Entry::InputRejected { .. }
            | Entry::DesiredChanged { .. }
            | Entry::ConfigurationKept { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeExited { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => {}
        }
    }

    fn outcome(&mut self, seq: Seq, at: Timestamp, of: Seq, response: &Answer) {
        self.earlier(seq, at, of);
        if response.kept().is_none() {
            let request = match self.table.entry(of) {
                Ok(Some(Numbered { entry: Entry::RequestReceived { request, .. }, .. })) => Some(request.0),
                Ok(_) | Err(_) => None,
            };
            self.dropped(seq, at, request.as_ref());
        }
        if of < self.history.first {
            return;
        }
        let row = self.table.record(&keys::outcome(of));
        match self.read(Some(seq), row) {
            Some(Some(OutcomeRecord { completed })) if completed == seq => {}
            Some(Some(OutcomeRecord { completed })) => {
                let what = format!("it completes request {of}, whose outcome is entry {completed}");
                self.problem(Some(seq), Some(at), what);
            }
            Some(None) if self.was_removed_meanwhile(of) => {}
            Some(None) => {
                let what = format!("it completes request {of}, which is not known to have an outcome");
                self.problem(Some(seq), Some(at), what);
            }
            None => {}
        }
    }

    fn deadline_answer(&mut self, seq: Seq, at: Timestamp, of: Seq, response: &Answer) {
        self.earlier(seq, at, of);
        if response.kept().is_none() {
            self.problem(Some(seq), Some(at), "its response was removed, and retention keeps such".to_owned());
        }
        if of < self.history.first {
            return;
        }
        let row = self.table.record(&keys::deadline(of));
        match self.read(Some(seq), row) {
            Some(Some(DeadlineRecord { answered })) if answered == seq => {}
            Some(None) if self.was_removed_meanwhile(of) => {}
            Some(Some(_) | None) => {
                let what = format!("it answers request {of} at its deadline, and its index row does not say so");
                self.problem(Some(seq), Some(at), what);
            }
            None => {}
        }
    }

    fn duplicate(&mut self, seq: Seq, at: Timestamp, of: Seq) {
        self.earlier(seq, at, of);
        if of < self.history.first {
            return;
        }
        let row = self.table.record::<DuplicatesRecord>(&keys::duplicates(of));
        if let Some(None) = self.read(Some(seq), row)
            && !self.was_removed_meanwhile(of)
        {
            let what = format!("it is a duplicate of request {of}, which is not known to have any");
            self.problem(Some(seq), Some(at), what);
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

    /// Only retention drops responses of reads, and it reports that.
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
        // Its outcome may be committed between two reads: what looks wrong is checked again.
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
}

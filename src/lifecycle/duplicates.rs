//! A reqid that is already known: the same request again gets the stored answer (P3), a different one is a conflict
//! (P4).

use crate::api::event::{Incoming, Response};
use crate::api::ids::{ReqId, Seq};
use crate::api::time::Now;
use crate::journal::entry::{Answer, Digest, Entry, Known, Packed, Stored};

use super::decision::{Decision, Note};
use super::requests::{refuse, respond};
use super::{Lifecycle, WAITING_DUPLICATES, answer};

impl Lifecycle {
    /// What is known of a reqid. This run is asked first, since the journal knows only what is committed.
    pub(super) fn known(&self, reqid: &ReqId, journaled: Option<&Known>) -> Option<Known> {
        if reqid.is_empty() {
            return None;
        }
        if let Some((seq, one)) = self.durable.unfinished_by_reqid(reqid) {
            return Some(Known {
                seq,
                digest: one.received.digest,
                deadline: self.told_at_deadline(seq, journaled),
                outcome: None,
            });
        }
        let known = self.seen.fresh.get(reqid).or(journaled).cloned();
        known.map(|known| Known { deadline: self.told_at_deadline(known.seq, journaled), ..known })
    }

    fn told_at_deadline(&self, of: Seq, journaled: Option<&Known>) -> Option<Stored> {
        let journaled = journaled.filter(|known| known.seq == of).and_then(|known| known.deadline.as_ref());
        self.seen.fresh_deadlines.get(&of).or(journaled).cloned()
    }

    /// Requesters with a deadline get the deadline response if there was one; all others get the outcome.
    pub(super) fn duplicate(&self, now: Now, incoming: &Incoming, known: &Known) -> Vec<Decision> {
        let has_deadline = incoming.source.has_deadline();
        let stored = known.deadline.as_ref().filter(|_| has_deadline).or(known.outcome.as_ref());
        let seen_again =
            Decision::default().entry(Entry::DuplicateSeen { of: known.seq, source: incoming.source.clone() });
        match stored {
            Some(Stored { seq, at, answer }) => {
                let response = match answer {
                    Answer::Kept(response) => response.clone(),
                    Answer::Dropped { .. } => self.no_longer_kept(incoming),
                };
                let mut answer = respond(incoming.route, incoming.dialect, response, Some(*at));
                answer.resting_on = Some(*seq);
                vec![answer, seen_again]
            }
            None => {
                let waiting = self.seen.waiting.get(&known.seq);
                if waiting.is_some_and(|waiting| waiting.routes.len() >= WAITING_DUPLICATES) {
                    return vec![refuse(incoming.route, "busy: too many wait for the outcome of this request already")];
                }
                let (route, dialect) = (incoming.route, incoming.dialect);
                let waits = seen_again.note(Note::Wait { of: known.seq, route, dialect, until_deadline: has_deadline });
                if !has_deadline || waiting.is_some_and(|waiting| waiting.deadline.is_some()) {
                    return vec![waits];
                }
                // The first requester with a deadline.
                vec![waits.note(self.deadline(now, known.seq))]
            }
        }
    }

    /// A partly pruned answer is no answer: the requester has to send a new request.
    fn no_longer_kept(&self, incoming: &Incoming) -> Response {
        let error =
            "this request was answered before, and what it was answered is not kept any more; use a fresh reqid";
        answer::failed(&self.options.instance, &incoming.reqid, &incoming.request, error.to_owned())
    }

    /// P4: the first outcome stays; the second sender gets an error, and the conflict is recorded.
    pub(super) fn conflict(&self, incoming: &Incoming, digest: Digest, first: Seq) -> Decision {
        let error = format!(
            "conflict: reqid {:?} was used for another request (journal entry {first}); use a fresh reqid",
            incoming.reqid.as_str()
        );
        let response = answer::failed(&self.options.instance, &incoming.reqid, &incoming.request, error);
        let entry = Entry::RequestConflicted {
            reqid: incoming.reqid.clone(),
            first,
            request: Packed(incoming.request.clone()),
            digest,
            dialect: incoming.dialect,
            source: incoming.source.clone(),
            response: Packed(response.clone()),
        };
        Decision::default().entry(entry).and(respond(incoming.route, incoming.dialect, response, None))
    }
}

//! When a waiting change is answered: at the deadline of requesters over Broker or WebSocket, and when it has settled.
//!
//! It has settled when each of its nodes is ready, was given up, or did not become ready within `ready_timeout` after
//! its turn to start came. Whether a node is late depends on that node alone, not on the requests that wait for it.

use crate::api::event::{Request, Response};
use crate::api::ids::{NodeName, Seq};
use crate::api::status::NodeState;
use crate::api::time::{BootTime, Now};
use crate::journal::entry::{Answer, Entry, Life, NodeRecord, Outcome, Received, Stage};

use super::decision::{Decision, Note};
use super::durable::Unfinished;
use super::outcome::Moment;
use super::seen::{Awaited, NodeSeen};
use super::wake::Wake;
use super::{Lifecycle, answer};

impl Lifecycle {
    /// Answers a change that has settled, or whose deadline has come.
    pub(super) fn settle(&self, now: Now, wake: &Wake, seq: Seq) -> Option<Decision> {
        let one = self.durable.unfinished.get(&seq)?;
        let Stage::Waiting { goal, targets } = &one.record.stage else {
            return self.preflight_overdue(now, wake, seq).or_else(|| self.meet_deadline(wake, seq, one));
        };
        if self.durable.waits_for_operator(seq) {
            return self.meet_deadline(wake, seq, one);
        }
        let settle_by = self.seen.waiting.get(&seq).and_then(|waiting| waiting.settle_by).unwrap_or(now.boot);
        if !self.agenda.facts.waits.is_met(seq) && !wake.due(settle_by) {
            return self.meet_deadline(wake, seq, one);
        }
        let response = self.outcome(&one.received, *goal, targets, Moment::Settled);
        let mut done = self.complete(&one.received, Outcome::Completed, response);
        if let Request::Shutdown { .. } = one.received.request {
            done = done.and(self.stop("shutdown was requested"));
        }
        Some(done)
    }

    /// Sends the deadline response to requesters over Broker or WebSocket, once.
    fn meet_deadline(&self, wake: &Wake, seq: Seq, one: &Unfinished) -> Option<Decision> {
        let extras = &one.record.extras.0;
        if extras.asked.is_none() || extras.deadline.is_some() {
            return None;
        }
        let received = &one.received;
        let at_once = match &one.record.stage {
            Stage::Waiting { goal, targets } => self.only_on_their_way(received, *goal, targets),
            Stage::Accepted => false,
        };
        let deadline = self.seen.waiting.get(&seq).and_then(|waiting| waiting.deadline);
        if !at_once && !deadline.is_none_or(|at| wake.due(at)) {
            return None;
        }
        let response = match &one.record.stage {
            Stage::Waiting { goal, targets } => self.deadline_response(received, *goal, targets),
            // A dispatch has its own answer by then.
            Stage::Accepted if self.seen.dispatches.contains_key(&seq) => return None,
            Stage::Accepted => {
                let is_checked = self.seen.checking.as_ref().is_some_and(|checking| checking.of == seq);
                let error = match is_checked {
                    true => {
                        "request timed out; whether its nodes can run is still being checked, and nothing was changed yet"
                    }
                    false => "request timed out; it was accepted and waits for its turn",
                };
                answer::failed(&self.options.instance, &received.reqid, &received.request, error.to_owned())
            }
        };
        Some(answer_at_deadline(received, response))
    }

    /// Whether the node did not become ready in time, for the request that wants it now.
    pub(super) fn is_late(&self, name: &NodeName) -> bool {
        let Some(record) = self.durable.nodes.get(name) else { return false };
        let awaited = self.seen.nodes.get(name).and_then(|node| node.awaited);
        awaited.is_some_and(|awaited| awaited.by == record.by && awaited.is_late)
    }

    /// Whether the node has been PENDING for longer than `ready_timeout`, whoever wanted it.
    pub(super) fn is_pending_too_long(&self, now: Now, name: &NodeName) -> bool {
        let (Some(record), Some(node)) = (self.durable.nodes.get(name), self.seen.nodes.get(name)) else {
            return false;
        };
        let started = match record.life {
            Life::Up { since, ready: false, .. } => Some(since),
            Life::Up { ready: true, .. } | Life::Down | Life::Intended => None,
        };
        let awaited = node.awaited.filter(|awaited| awaited.by == record.by).map(|awaited| awaited.at);
        let since = awaited.into_iter().chain(started).min();
        let is_late = since.is_some_and(|since| since.plus_ms(self.options.ready_timeout_ms) <= now.boot);
        is_late && self.node_state(name) == NodeState::Pending
    }

    /// Whether an answer to the request is due because of the time that has passed.
    pub(super) fn is_due(&self, now: Now, one: &Unfinished) -> bool {
        let Some(waiting) = self.seen.waiting.get(&one.received.seq) else { return false };
        if self.durable.waits_for_operator(one.received.seq) {
            return false;
        }
        let is_due = |at: Option<BootTime>| at.is_some_and(|at| at <= now.boot);
        let is_untold = one.record.extras.0.asked.is_some() && one.record.extras.0.deadline.is_none();
        is_due(waiting.settle_by) || is_untold && is_due(waiting.deadline)
    }

    /// Whether the node, which runs, becomes late now.
    pub(super) fn turns_late(&self, now: Now, name: &NodeName) -> bool {
        let (Some(record), Some(node)) = (self.durable.nodes.get(name), self.seen.nodes.get(name)) else {
            return false;
        };
        let runs = record.incarnation >= record.least && matches!(record.life, Life::Up { ready: false, .. });
        runs && node.awaited.is_some_and(|awaited| {
            let late_at = awaited.at.plus_ms(self.options.ready_timeout_ms);
            awaited.by == record.by && !awaited.is_late && late_at <= now.boot
        })
    }

    /// Records since when a node is waited for, and that it is late.
    pub(super) fn await_node(
        &self,
        now: Now,
        wake: &Wake,
        name: &NodeName,
        record: &NodeRecord,
        node: &NodeSeen,
    ) -> Option<Decision> {
        let is_ready = record.incarnation >= record.least && matches!(record.life, Life::Up { ready: true, .. });
        if is_ready || !self.wants_up(name, record) {
            return None;
        }
        match node.awaited {
            Some(Awaited { by, at, is_late }) if by == record.by => {
                let is_due = !is_late && wake.due(at.plus_ms(self.options.ready_timeout_ms));
                is_due.then(|| Decision::default().note(Note::Late { node: name.clone() }))
            }
            Some(_) | None if self.has_turn(name) || node.blocked.is_some() => {
                let awaited = Note::Awaited { node: name.clone(), by: record.by, at: now.boot };
                Some(Decision::default().note(awaited))
            }
            Some(_) | None => None,
        }
    }
}

/// The entry, and the response to requesters that have a deadline.
fn answer_at_deadline(received: &Received, response: Response) -> Decision {
    let response = answer::bounded(response);
    Decision::default()
        .entry(Entry::DeadlineAnswered { of: received.seq, response: Answer::Kept(response.clone()) })
        .note(Note::DeadlineAnswered { of: received.seq, response, dialect: received.dialect })
}

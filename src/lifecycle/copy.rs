//! A state directory that is a copy of another. Its records belong to the other one, so nothing is started, stopped or
//! signalled until an operator declares it a directory of its own (`state adopt`).
//!
//! This is not one of the holds of [`AgentRecord`](crate::journal::entry::AgentRecord), which end when somebody states
//! the desired state. It is about the ownership of processes, is kept in the directory's `IDENTITY`, and is passed to
//! the core at each start.

use crate::api::event::{Request, ResultData};
use crate::api::ids::{NodeName, Seq};
use crate::api::launch::ExitCause;
use crate::api::supervision::NodeOrder;
use crate::api::time::Now;
use crate::journal::entry::{Entry, Life, Outcome, Received, Verdict};

use super::decision::{Decision, Note};
use super::effect::Effect;
use super::seen::{Obstacle, ProcessPhase};
use super::{Lifecycle, answer};

/// Recorded for the process of another directory.
const NOT_OURS: &str = "the process on record is that of the directory that this one was copied from";

impl Lifecycle {
    /// Why nothing is started or stopped here, if this directory is a copy.
    pub fn copied(&self) -> Option<&str> {
        self.seen.copied.as_deref()
    }

    pub(super) fn is_a_copy(&self, reason: &str) -> Decision {
        self.notify_trouble(&format!("hold mode: {reason}"))
    }

    /// A copy refuses requests that change the desired state, and says what to do.
    pub(super) fn refuse_in_copy(&self, received: &Received) -> Option<Decision> {
        let reason = self.seen.copied.as_ref()?;
        let is_refused = match &received.request {
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentStandby {}
            | Request::Restart { .. }
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::ResumeWaiting { .. }
            | Request::Shutdown { nodes: true } => true,
            Request::Shutdown { nodes: false }
            | Request::DropWaiting { .. }
            | Request::AdoptState {}
            | Request::AgentWelcome {}
            | Request::GetNodes {}
            | Request::NodeDispatch { .. } => false,
        };
        let refused = || {
            let instance = &self.options.instance;
            let response =
                answer::failed(instance, &received.reqid, &received.request, format!("nothing was done: {reason}"));
            self.complete(received, Outcome::Rejected, response)
        };
        is_refused.then(refused)
    }

    /// Makes this an independent directory. The request stays accepted until that has been done, so it is done again
    /// after a crash.
    pub(super) fn plan_adopt_state(&self, received: &Received) -> Decision {
        if self.seen.copied.is_none() {
            let text = "this is the agent's own state directory already; nothing was to be done".to_owned();
            return self.answer_adoption(received, Ok(text));
        }
        Decision::default()
            .effect(Effect::AdoptState { of: received.seq, nodes: self.foreign_nodes() })
            .note(Note::AdoptingState { of: received.seq })
    }

    /// The adoption succeeded or failed. Records of another directory's processes are forgotten; wanted nodes may
    /// start.
    pub(super) fn state_adopted(&self, now: Now, of: Seq, outcome: &Result<String, String>) -> Decision {
        let mut decision = Decision::default().note(Note::StateAdopted { of, done: outcome.is_ok() });
        for name in outcome.as_ref().map(|_| self.foreign_nodes()).unwrap_or_default() {
            decision = decision.and(self.forget_foreign(now, &name));
        }
        match self.durable.unfinished.get(&of) {
            Some(one) => decision.and(self.answer_adoption(&one.received, outcome.clone())),
            None => decision,
        }
    }

    fn answer_adoption(&self, received: &Received, outcome: Result<String, String>) -> Decision {
        let (instance, request) = (&self.options.instance, &received.request);
        let response = match outcome {
            Ok(text) => {
                let mut one = answer::result(instance, &received.reqid, true);
                one.data = Some(ResultData::Text(text));
                answer::response(&received.reqid, request, vec![one])
            }
            Err(error) => answer::failed(instance, &received.reqid, request, error),
        };
        self.complete(received, Outcome::Completed, response)
    }

    /// Nodes whose recorded process is alive and belongs to another directory.
    fn foreign_nodes(&self) -> Vec<NodeName> {
        let is_foreign = |by: &Obstacle| match by {
            Obstacle::Foreign => true,
            Obstacle::Lock | Obstacle::Port => false,
        };
        let blocked = |name: &NodeName| self.seen.nodes.get(name).and_then(|node| node.blocked.as_ref());
        let names = self.seen.nodes.names();
        names.filter(|name| blocked(name).is_some_and(|blocked| is_foreign(&blocked.by))).cloned().collect()
    }

    fn forget_foreign(&self, now: Now, name: &NodeName) -> Decision {
        let order = Effect::Order { node: name.clone(), order: NodeOrder::Disown };
        let clear = Note::Unblocked { node: name.clone() };
        let decision = Decision::default().effect(order).note(clear);
        let Some(record) = self.durable.nodes.get(name) else { return decision };
        let Life::Up { process, .. } = &record.life else { return decision };
        let exited = Entry::NodeExited {
            node: name.clone(),
            incarnation: record.incarnation,
            cause: ExitCause::NotStarted(NOT_OURS.to_owned()),
            asked: true,
            process: Some(process.clone()),
            ran_ms: None,
            when: now.boot,
            verdict: Verdict::Rest,
        };
        decision.entry(exited)
    }

    /// A process of this name runs and belongs to another directory.
    pub(super) fn found_foreign(&self, now: Now, name: &NodeName, reason: &str) -> Decision {
        Decision::default()
            .note(Note::Blocked { node: name.clone(), by: Obstacle::Foreign, reason: reason.to_owned(), at: now.boot })
            .and(self.notify_error(name, reason))
    }
}

impl super::seen::Seen {
    pub(super) fn unblock(&mut self, node: &NodeName) {
        let node = self.node(node);
        node.blocked = None;
        node.phase = ProcessPhase::Clear;
    }
}

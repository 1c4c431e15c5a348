//! Counts what is journaled, for the metrics page: from the start of the agent on, and of nodes that there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::counts::{Counts, Ending};
use crate::api::event::Response;
use crate::api::ids::Seq;
use crate::api::launch::ExitCause;
use crate::api::time::Timestamp;
use crate::journal::entry::{Answer, Entry, Numbered, Outcome};
use crate::lifecycle::Lifecycle;

/// Shared by the driver, which counts, and whoever looks.
#[derive(Debug, Clone)]
pub(super) struct Tally(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// Unfinished requests: their event, and when they came.
    begun: BTreeMap<Seq, (&'static str, Timestamp)>,
}

impl Tally {
    /// Nothing but the requests from before the agent's start that have no outcome yet.
    pub fn resume(core: &Lifecycle) -> Self {
        let begun = core.durable().unfinished.iter().map(|(seq, one)| {
            let received = &one.received;
            (*seq, (received.request.event(), received.at))
        });
        let state = State { counts: Counts::default(), begun: begun.collect() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn add(&self, numbered: &Numbered) {
        self.with(|state| state.add(numbered));
    }

    /// What was counted; forgets nodes that are gone.
    pub fn counts(&self, is_there: impl Fn(&str) -> bool) -> Counts {
        self.with(|state| {
            state.counts.crashes.retain(|node, _| is_there(node));
            state.counts.clone()
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn add(&mut self, numbered: &Numbered) {
        match &numbered.entry {
            Entry::RequestReceived { request, .. } => {
                self.begun.insert(numbered.seq, (request.0.event(), numbered.at));
            }
            Entry::RequestAnswered { request, response, .. } => {
                self.ended(request.0.event(), ending(Outcome::Completed, response), 0.0);
            }
            Entry::RequestCompleted { of, outcome, response, .. } => {
                if let Some((event, at)) = self.begun.remove(of) {
                    let seconds = numbered.at.0.saturating_sub(at.0) as f64 / 1e6;
                    self.ended(event, ending(*outcome, response), seconds);
                }
            }
            Entry::RequestConflicted { request, .. } => {
                *self.counts.requests.entry((request.0.event(), Ending::Conflict)).or_default() += 1;
            }
            Entry::DuplicateSeen { .. } => self.counts.duplicates += 1,
            Entry::InputRejected { suppressed, .. } => self.counts.malformed += 1 + suppressed,
            // The host's restart is no crash, and what never ran did not end.
            Entry::NodeExited { node, asked: false, cause, .. }
                if !matches!(cause, ExitCause::HostRestarted | ExitCause::NotStarted(_)) =>
            {
                *self.counts.crashes.entry(node.to_string()).or_default() += 1;
            }
            Entry::NodeExited { .. }
            | Entry::AgentStarted { .. }
            | Entry::AgentStopped { .. }
            | Entry::AgentSettled
            | Entry::HoldEntered { .. }
            | Entry::HoldEnded { .. }
            | Entry::Salvaged { .. }
            | Entry::Imported { .. }
            | Entry::FormatChanged { .. }
            | Entry::Pruned { .. }
            | Entry::TroubleSeen { .. }
            | Entry::EventTold { .. }
            | Entry::RequestBegun { .. }
            | Entry::RequestWaits { .. }
            | Entry::PreflightBegun { .. }
            | Entry::PreflightEnded { .. }
            | Entry::DeadlineAnswered { .. }
            | Entry::DesiredChanged { .. }
            | Entry::ConfigurationKept { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => {}
        }
    }

    fn ended(&mut self, event: &'static str, ending: Ending, seconds: f64) {
        *self.counts.requests.entry((event, ending)).or_default() += 1;
        self.counts.durations.entry(event).or_default().add(seconds);
    }
}

fn ending(outcome: Outcome, answer: &Answer) -> Ending {
    match outcome {
        Outcome::Rejected => Ending::Rejected,
        Outcome::Abandoned => Ending::Abandoned,
        Outcome::Completed if answer.kept().is_none_or(Response::success) => Ending::Success,
        Outcome::Completed => Ending::Failure,
    }
}

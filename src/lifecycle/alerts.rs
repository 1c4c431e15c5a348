//! What an operator is told of (`event_command`): which entries are worth it, and one after the other, each until it was told.
//!
//! What waits is part of the agent's record, so that it survives a crash: an alert is taken from there only by the entry that
//! says that it was told. So each is told at least once, and again under the same id if the agent died meanwhile.

use crate::api::alert::{Alert, AlertKind, WAITING_LIMIT};
use crate::api::event::{Request, Response};
use crate::api::ids::{NodeName, Seq};
use crate::api::launch::ExitCause;
use crate::journal::entry::{Answer, Entry, Numbered, Outcome, Verdict};

use super::Lifecycle;
use super::decision::{Decision, Note};
use super::durable::Durable;
use super::effect::Effect;

/// Results of a failed change that are told.
const RESULTS: usize = 5;

impl Durable {
    /// Notes an entry that is worth telling, or that one was told. Called before the entry is applied.
    pub(super) fn collect_alert(&mut self, numbered: &Numbered) {
        if let Entry::EventTold { of, lost, .. } = &numbered.entry {
            self.event_told(*of, *lost);
        }
        if !self.collects_alerts {
            return;
        }
        let Some(alert) = self.alert_of(numbered) else { return };
        self.change_agent(|agent| {
            let extras = &mut agent.extras.0;
            if extras.alerts.len() < WAITING_LIMIT {
                extras.alerts.push(alert);
            } else {
                extras.alerts_lost += 1;
            }
        });
    }

    fn alert_of(&self, numbered: &Numbered) -> Option<Alert> {
        let alert = |kind, message: &str| Alert::new(numbered.seq, numbered.at, kind, message);
        let of_node = |node: &NodeName, kind, message: &str| Alert { node: node.to_string(), ..alert(kind, message) };
        match &numbered.entry {
            Entry::NodeExited { asked: true, .. } => None,
            Entry::NodeExited { node, verdict: Verdict::GiveUp { reason }, .. } => {
                Some(of_node(node, AlertKind::GivenUp, reason))
            }
            // The host's restart is no crash, and what never ran is tried again.
            Entry::NodeExited { cause: ExitCause::HostRestarted | ExitCause::NotStarted(_), .. } => None,
            Entry::NodeExited { node, cause, ran_ms, .. } => {
                let ran = ran_ms.map(|ms| format!(" after {:.1} s", ms as f64 / 1e3)).unwrap_or_default();
                Some(of_node(node, AlertKind::Crash, &format!("{node} ended{ran}: {cause}")))
            }
            Entry::HoldEntered { reason } => Some(alert(AlertKind::Hold, reason)),
            Entry::RequestCompleted { of, outcome, response, .. } => {
                let received = &self.unfinished.get(of)?.received;
                let kind = match (&received.request, outcome) {
                    (Request::SetConfiguration { .. } | Request::Deploy { .. }, outcome) => failed(*outcome, response)?,
                    _other => return None,
                };
                Some(Alert { reqid: received.reqid.to_string(), ..alert(kind, &errors(response)) })
            }
            Entry::TroubleSeen { what, message } => Some(alert(AlertKind::of_trouble(what), message)),
            Entry::AgentStarted { .. }
            | Entry::AgentStopped { .. }
            | Entry::AgentSettled
            | Entry::HoldEnded { .. }
            | Entry::Salvaged { .. }
            | Entry::Imported { .. }
            | Entry::FormatChanged { .. }
            | Entry::Pruned { .. }
            | Entry::EventTold { .. }
            | Entry::RequestReceived { .. }
            | Entry::RequestAnswered { .. }
            | Entry::RequestConflicted { .. }
            | Entry::InputRejected { .. }
            | Entry::RequestBegun { .. }
            | Entry::RequestWaits { .. }
            | Entry::DeadlineAnswered { .. }
            | Entry::DuplicateSeen { .. }
            | Entry::DesiredChanged { .. }
            | Entry::ConfigurationKept { .. }
            | Entry::PreflightBegun { .. }
            | Entry::PreflightEnded { .. }
            | Entry::LaunchIntended { .. }
            | Entry::NodeStarted { .. }
            | Entry::NodeReady { .. }
            | Entry::NodeAdopted { .. }
            | Entry::NodeRetried { .. } => None,
        }
    }

    /// An alert was told, together with the number of those that had no place.
    fn event_told(&mut self, of: Seq, lost: u64) {
        self.change_agent(|agent| {
            let extras = &mut agent.extras.0;
            extras.alerts.retain(|alert| alert.id != of);
            extras.alerts_lost = extras.alerts_lost.saturating_sub(lost);
        });
    }
}

/// `None`: the change succeeded.
fn failed(outcome: Outcome, answer: &Answer) -> Option<AlertKind> {
    match outcome {
        Outcome::Rejected | Outcome::Abandoned => Some(AlertKind::ChangeRefused),
        Outcome::Completed if answer.kept().is_none_or(Response::success) => None,
        Outcome::Completed => Some(AlertKind::ChangeFailed),
    }
}

fn errors(answer: &Answer) -> String {
    let results = answer.kept().map(|response| response.results.as_slice()).unwrap_or_default();
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.success)
        .map(|result| {
            let error = result.error.as_deref().unwrap_or("failed");
            result.node.as_ref().map_or_else(|| error.to_owned(), |node| format!("{node}: {error}"))
        })
        .collect();
    let more = match failed.len().saturating_sub(RESULTS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let told: Vec<&str> = failed.iter().take(RESULTS).map(String::as_str).collect();
    format!("{}{more}", told.join("; "))
}

impl Lifecycle {
    /// With alerts to be told, or without.
    pub fn with_alerts(mut self, wanted: bool) -> Self {
        self.durable.collects_alerts = wanted;
        self
    }

    /// How many alerts wait to be told, and how many found no place.
    pub fn waiting_alerts(&self) -> (usize, u64) {
        let extras = &self.durable.agent.extras.0;
        (extras.alerts.len(), extras.alerts_lost)
    }

    /// The next alert, if none is being told.
    pub(super) fn advance_alerts(&self) -> Option<Decision> {
        if !self.durable.collects_alerts || self.seen.telling.is_some() || self.seen.stopping {
            return None;
        }
        let extras = &self.durable.agent.extras.0;
        let alert = extras.alerts.first()?;
        let effect = Effect::Tell { alert: Box::new(alert.clone()), lost: extras.alerts_lost };
        Some(Decision::default().effect(effect).note(Note::Telling { id: Some(alert.id) }))
    }

    /// The command has ended, in one way or another.
    pub(super) fn alert_told(&self, id: Seq, lost: u64, outcome: &str) -> Decision {
        if self.seen.telling != Some(id) {
            return Decision::default();
        }
        Decision::default()
            .entry(Entry::EventTold { of: id, lost, outcome: outcome.to_owned() })
            .note(Note::Telling { id: None })
    }

    /// Something is wrong that concerns neither a request nor a node.
    pub(super) fn trouble(&self, kind: AlertKind, message: &str) -> Decision {
        let entry = Entry::TroubleSeen { what: kind.as_str().to_owned(), message: message.to_owned() };
        self.notify_trouble(message).entry(entry)
    }
}

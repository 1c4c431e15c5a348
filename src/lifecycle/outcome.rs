//! The answers to a waiting change: one at the deadline for requesters that have one, and the outcome for all others,
//! once each node is where it should be or is too late.

use std::collections::BTreeSet;

use crate::api::event::{Request, Response, Result, ResultData};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ExitCause;
use crate::journal::entry::{Goal, Life, NodeRecord, Received, Want};

use super::change::REMOVED;
use super::seen::NodeSeen;
use super::{Lifecycle, answer};

/// The most bytes of output in one answer; with 4096 Results around them a stored response stays near 1 MiB.
const OUTPUTS_BYTES: usize = 640 << 10;

/// Added to the reason for a pending node.
const GOES_ON: &str = "supervision goes on";

/// Which of the two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Controllers have short timeouts; nodes may still be pending.
    Deadline,
    /// Everything waited for has happened, or will not happen in time.
    Settled,
}

type Targets<'a> = &'a [(NodeName, Incarnation)];

impl Lifecycle {
    /// The response for requesters over Broker or WebSocket while the outcome is still open.
    pub(super) fn deadline_response(&self, received: &Received, goal: Goal, targets: Targets<'_>) -> Response {
        match goal {
            Goal::Kept => {
                let touched: Vec<_> =
                    targets.iter().filter(|(name, _)| self.is_touched(received, name)).cloned().collect();
                if touched.is_empty() {
                    return answer::succeeded(&self.options.instance, &received.reqid, &received.request);
                }
                self.outcome(received, Goal::Ready, &touched, Moment::Deadline)
            }
            Goal::Ready | Goal::Restarted | Goal::Down => self.outcome(received, goal, targets, Moment::Deadline),
        }
    }

    /// Whether only pending nodes are waited for: then a controller can be told about these immediately.
    pub(super) fn only_on_their_way(&self, received: &Received, goal: Goal, targets: Targets<'_>) -> bool {
        match goal {
            Goal::Kept => !targets.iter().any(|(name, _)| self.is_touched(received, name)),
            Goal::Ready | Goal::Restarted | Goal::Down => false,
        }
    }

    /// Whether this request was the last to change the desired state of the node.
    fn is_touched(&self, received: &Received, name: &NodeName) -> bool {
        self.durable.nodes.get(name).is_some_and(|record| record.by == received.seq)
    }

    /// The outcome of a change, or its progress at the deadline.
    pub(super) fn outcome(&self, received: &Received, goal: Goal, targets: Targets<'_>, moment: Moment) -> Response {
        // A removed node is mentioned only if it is not gone.
        let is_gone = |name: &NodeName, least| goal == Goal::Ready && least == REMOVED && self.is_down(name);
        let told = targets.iter().filter(|(name, least)| !is_gone(name, *least));
        let nodes: Vec<Result> =
            told.map(|(name, least)| self.node_outcome(received, goal, name, *least, moment)).collect();
        let (reqid, request) = (&received.reqid, &received.request);
        let instance = &self.options.instance;
        let nodes = within_budget(nodes);
        let missed = moment == Moment::Deadline && nodes.iter().any(|result| !result.success);
        match request {
            Request::SetConfiguration { .. } | Request::AgentStandby {} | Request::Shutdown { .. } => {
                let failed: Vec<String> = nodes
                    .iter()
                    .filter(|result| !result.success)
                    .map(|result| {
                        let node = result.node.as_deref().unwrap_or_default();
                        format!("{node}: {}", result.error.as_deref().unwrap_or_default())
                    })
                    .collect();
                if failed.is_empty() {
                    let mut done = answer::succeeded(instance, reqid, request);
                    if let (Request::Shutdown { .. }, Some(one)) = (request, done.results.first_mut()) {
                        one.data = self.only_promised_of(targets);
                    }
                    return done;
                }
                let prefix = if missed { "request timed out; " } else { "" };
                answer::failed(instance, reqid, request, format!("{prefix}{}", failed.join("; ")))
            }
            Request::Deploy { .. } => {
                let mut results = Vec::new();
                if missed {
                    let mut timed_out = answer::result(instance, reqid, false);
                    timed_out.error = Some("request timed out".to_owned());
                    results.push(timed_out);
                }
                results.extend(nodes);
                if results.is_empty() {
                    return answer::succeeded(instance, reqid, request);
                }
                answer::response(reqid, request, results)
            }
            Request::Restart { .. }
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::AgentWelcome {}
            | Request::GetNodes {}
            | Request::AdoptState {}
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::NodeDispatch { .. } => {
                let unknown = self.unknown_nodes(received);
                answer::response(reqid, request, nodes.into_iter().chain(unknown).collect())
            }
        }
    }

    /// One node's Result. A failure includes its reason.
    fn node_outcome(
        &self,
        received: &Received,
        goal: Goal,
        name: &NodeName,
        least: Incarnation,
        moment: Moment,
    ) -> Result {
        let (instance, reqid) = (&self.options.instance, &received.reqid);
        let goal = if goal == Goal::Ready && least == REMOVED { Goal::Down } else { goal };
        let good = match (goal, moment) {
            (Goal::Ready | Goal::Kept, _) | (Goal::Restarted, Moment::Settled) => self.is_ready(name, least),
            (Goal::Restarted, Moment::Deadline) => self.is_ready(name, least) || self.lives(name, least),
            (Goal::Down, _) if self.is_forced_stop(received.seq) => self.is_set_aside(name),
            (Goal::Down, _) => self.is_down(name),
        };
        if good {
            let mut one = answer::of_node(instance, reqid, name, None);
            if let Request::StopNodes { .. } = received.request {
                one.data = self.told_of_stop(received, name).map(ResultData::Text);
            }
            return one;
        }
        let fallback = NodeSeen::default();
        let node = self.seen.nodes.get(name).unwrap_or(&fallback);
        let error = match self.durable.nodes.get(name) {
            Some(_) | None if goal == Goal::Down => self.why_not_down(name),
            None => "not part of the configuration any more".to_owned(),
            Some(record) => match &record.given_up {
                Some(given_up) => node.given_up(given_up, record.incarnation),
                None if record.want != Want::Up => "stopped by a later command".to_owned(),
                None => match (node.obstacle(least), moment) {
                    (Some(obstacle), _) => obstacle,
                    (None, Moment::Deadline) => {
                        format!("not ready yet ({}); {GOES_ON}", self.pending(name, record, node, least))
                    }
                    (None, Moment::Settled) => {
                        let seconds = self.options.ready_timeout_ms as f64 / 1000.0;
                        let why = self.pending(name, record, node, least);
                        format!("not ready within {seconds} s ({why}); {GOES_ON}")
                    }
                },
            },
        };
        let mut one = answer::of_node(instance, reqid, name, Some(error));
        one.data = node.outputs.clone().map(ResultData::Outputs);
        one
    }

    /// What is said about several nodes in an answer with one Result.
    fn only_promised_of(&self, targets: Targets<'_>) -> Option<ResultData> {
        let said = targets.iter().filter_map(|(name, _)| Some(format!("{name}: {}", self.only_promised(name)?)));
        let said: Vec<String> = said.collect();
        (!said.is_empty()).then(|| ResultData::Text(said.join("; ")))
    }

    /// The progress of a node that is not ready and is not blocked.
    fn pending(&self, name: &NodeName, record: &NodeRecord, node: &NodeSeen, least: Incarnation) -> String {
        let last_exit = || record.last_exit.as_ref().map(ToString::to_string).unwrap_or_default();
        match &record.life {
            Life::Up { .. } if node.silent => "its shim does not answer".to_owned(),
            Life::Up { .. } if record.incarnation < least => "its last process is still being stopped".to_owned(),
            Life::Up { .. } => "it runs and has not checked in".to_owned(),
            Life::Intended => "it is being started".to_owned(),
            Life::Down if self.is_held(name) => "hold mode: it is not started".to_owned(),
            Life::Down if record.next_start.is_some() => match &record.last_exit {
                Some(ExitCause::NotStarted(reason)) => {
                    format!("it could not be started and is tried again: {reason}")
                }
                Some(_) | None => {
                    format!("it ended with {} and is to be started again", last_exit())
                }
            },
            Life::Down => "it is to be started".to_owned(),
        }
    }

    /// Failed Results for names that no node of this host has. A controller names nodes of all hosts in one request,
    /// and each agent answers for its own; a requester on this host means only this host.
    pub(super) fn unknown_nodes(&self, received: &Received) -> Vec<Result> {
        if received.source.has_deadline() {
            return Vec::new();
        }
        let none = BTreeSet::new();
        let named = match &received.request {
            Request::Restart { nodes } | Request::NodeDispatch { nodes, .. } => nodes,
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentWelcome {}
            | Request::AgentStandby {}
            | Request::GetNodes {}
            | Request::AdoptState {}
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::Shutdown { .. } => &none,
        };
        let is_known = |name: &str| self.durable.nodes.get(name).is_some_and(|record| record.want != Want::Gone);
        let unknown = named.iter().filter(|name| !is_known(name)).map(|name| {
            let mut one = answer::result(&self.options.instance, &received.reqid, false);
            one.error = Some("no such node on this host; `nodes list` shows those there are".to_owned());
            one.node = Some(name.clone());
            one
        });
        unknown.collect()
    }
}

/// Removes output from the Results that do not fit in a stored response.
fn within_budget(mut nodes: Vec<Result>) -> Vec<Result> {
    let mut left = OUTPUTS_BYTES;
    for result in &mut nodes {
        let Some(ResultData::Outputs(outputs)) = &result.data else { continue };
        match left.checked_sub(outputs.stdout.len() + outputs.stderr.len()) {
            Some(rest) => left = rest,
            None => result.data = None,
        }
    }
    nodes
}

//! Waiting for the outcome of a request on the control socket: for how long, what is shown meanwhile, and what is said when
//! the deadline has passed. It is the client's alone: the request goes on, and its reqid tells what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::outcome::{Exit, Failure};
use super::{connect, time};
use crate::api::event::{Request, Response};
use crate::api::report::NodeReport;
use crate::api::status::NodeState;
use crate::control::client::{Answer, Client, Deadline, Error};
use crate::control::message::Welcome;
use crate::terminal::{plain, to_stderr};

/// Beyond what the agent may take: for the way there and back, and a commit.
pub const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at the nodes on a terminal.
const LOOK: Duration = Duration::from_millis(500);
/// For a look: an agent that does not answer it is not waited for any longer.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// Nodes that are named when the deadline has passed.
const NAMED: usize = 8;

/// The deadline that `--timeout` gives, if there is one.
pub fn deadline(timeout_ms: Option<u64>) -> Deadline {
    Instant::now().checked_add(Duration::from_millis(timeout_ms?))
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Nodes get ready.
    Starts,
    /// Nodes end.
    Ends,
    Nothing,
}

fn waits_for(request: &Request) -> Wait {
    match request {
        Request::AgentStandby {} | Request::StopNodes { .. } | Request::Shutdown { .. } => Wait::Ends,
        Request::SetConfiguration { .. }
        | Request::Deploy { .. }
        | Request::Restart { .. }
        | Request::StartNodes { .. } => Wait::Starts,
        Request::AgentWelcome {}
        | Request::GetNodes {}
        | Request::NodeDispatch { .. }
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::AdoptState {} => Wait::Nothing,
    }
}

/// Within this an answer comes over WebSocket, which does not wait for nodes to get ready.
pub fn ends_within_ms(request: &Request, stop_ms: u64, other_ms: u64) -> u64 {
    match waits_for(request) {
        Wait::Ends => stop_ms.max(other_ms),
        Wait::Starts | Wait::Nothing => other_ms,
    }
}

/// A request that was sent.
pub struct Waiting {
    wait: Wait,
    /// The nodes that it names; none means that it may concern any.
    named: BTreeSet<String>,
    reqid: String,
    begun: Instant,
    deadline: Deadline,
    shown: BTreeMap<String, NodeState>,
    is_watched: bool,
}

impl Waiting {
    /// `deadline`: until when to wait; `None` means until the agent has to have answered.
    pub fn new(request: &Request, reqid: &str, welcome: &Welcome, deadline: Deadline) -> Self {
        let wait = waits_for(request);
        let named = match request {
            Request::Restart { nodes } | Request::StartNodes { nodes } | Request::StopNodes { nodes, .. } => {
                nodes.clone()
            }
            Request::SetConfiguration { config } | Request::Deploy { config, .. } => config
                .nodes
                .iter()
                .filter(|node| node.instance == welcome.agent)
                .map(|node| node.name.clone())
                .collect(),
            Request::AgentWelcome {}
            | Request::AgentStandby {}
            | Request::GetNodes {}
            | Request::NodeDispatch { .. }
            | Request::AdoptState {}
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::Shutdown { .. } => BTreeSet::new(),
        };
        let longest_ms = match wait {
            Wait::Starts => welcome.ready_timeout_ms,
            Wait::Ends => welcome.stop_timeout_ms,
            Wait::Nothing => 0,
        };
        let longest = Duration::from_millis(longest_ms.max(welcome.request_timeout_ms)).saturating_add(GRACE);
        let begun = Instant::now();
        Self {
            wait,
            named,
            reqid: reqid.to_owned(),
            begun,
            deadline: deadline.or_else(|| begun.checked_add(longest)),
            shown: BTreeMap::new(),
            is_watched: wait != Wait::Nothing && std::io::stderr().is_terminal(),
        }
    }

    pub fn until_answered(mut self, client: &mut Client, call: u64) -> Result<Response, Failure> {
        loop {
            let look = if self.is_watched { Instant::now().checked_add(LOOK) } else { None };
            let until = look.into_iter().chain(self.deadline).min();
            match client.answer(call, until) {
                Ok(Answer::Response(response)) => {
                    if let Some(at) = client.replayed() {
                        to_stderr!("stored answer of {}", time::show_briefly(at, &jiff::ZonedDateTime::now()));
                    }
                    return Ok(response);
                }
                Ok(Answer::Refused(reason)) => {
                    let message = format!("refused: {}; nothing was done", plain(&reason));
                    return Err(Failure::new(Exit::Failed, message));
                }
                Err(Error::TimedOut) if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Err(self.timed_out(client));
                }
                Err(Error::TimedOut) => self.show(client),
                Err(Error::Closed | Error::Connection(_)) => return Err(went_away(&again(&self.reqid))),
                Err(error) => return Err(connect::failed(error)),
            }
        }
    }

    /// The nodes that the request may be waiting for.
    fn look(&self, client: &mut Client) -> Option<Vec<NodeReport>> {
        let report = client.status(Instant::now().checked_add(LOOK_TIMEOUT)).ok()?;
        let concerned = |node: &NodeReport| self.named.is_empty() || self.named.contains(&node.node);
        Some(report.nodes.into_iter().filter(concerned).collect())
    }

    /// Each node whose state is another than when it was last shown.
    fn show(&mut self, client: &mut Client) {
        for node in self.look(client).unwrap_or_default() {
            let before = self.shown.insert(node.node.clone(), node.state);
            let is_news = match before {
                Some(before) => before != node.state,
                None => is_waited_for(self.wait, &node),
            };
            if is_news {
                to_stderr!("{} {}", plain(&node.node), node.state);
            }
        }
    }

    fn timed_out(&self, client: &mut Client) -> Failure {
        let again = again(&self.reqid);
        let seconds = self.begun.elapsed().as_secs_f64();
        let open: Vec<String> = self
            .look(client)
            .unwrap_or_default()
            .iter()
            .filter(|node| is_waited_for(self.wait, node))
            .map(|node| match node.awaited_ms {
                Some(ms) => format!("{} ({}, {} s)", plain(&node.node), node.state, ms / 1000),
                None => format!("{} ({})", plain(&node.node), node.state),
            })
            .collect();
        let what = match self.wait {
            Wait::Starts if !open.is_empty() => "still starting",
            Wait::Ends if !open.is_empty() => "still stopping",
            Wait::Starts | Wait::Ends | Wait::Nothing => return no_answer(seconds, &again),
        };
        let mut nodes = open.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        if open.len() > NAMED {
            nodes = format!("{nodes} and {} more", open.len() - NAMED);
        }
        Failure::new(Exit::Timeout, format!("{what}: {nodes}; {again}"))
    }
}

fn is_waited_for(wait: Wait, node: &NodeReport) -> bool {
    match wait {
        Wait::Starts => node.want == "up" && node.state != NodeState::Running,
        Wait::Ends => node.pid.is_some(),
        Wait::Nothing => false,
    }
}

/// How to find out what became of a request.
pub fn again(reqid: &str) -> String {
    if reqid.is_empty() {
        "`request get-nodes` tells how far it is".to_owned()
    } else {
        format!("ask again with --reqid {reqid}")
    }
}

/// The same for who asks over WebSocket, where changes are answered before they have their outcome.
pub fn again_elsewhere(reqid: &str) -> String {
    if reqid.is_empty() {
        return again(reqid);
    }
    format!("ask on the host itself, over the agent's control socket, with --reqid {reqid}: there its outcome is told")
}

pub fn no_answer(seconds: f64, again: &str) -> Failure {
    Failure::new(Exit::Timeout, format!("no answer within {seconds:.1} s: still being handled: {again}"))
}

pub fn went_away(again: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("the agent went away before it answered; when it is back, {again}"))
}

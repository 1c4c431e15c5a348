//! What an entry is about: the one list of all entries from which such questions are answered.

use super::entry::Entry;
use crate::api::event::Request;
use crate::api::ids::{NodeName, ReqId, Seq};

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject<'a> {
    /// A received request, and what was done with it then.
    Incoming {
        reqid: &'a ReqId,
        request: &'a Request,
        fate: Incoming,
    },
    /// What became of an earlier request.
    Earlier {
        of: Seq,
        step: RequestStep,
    },
    Node(&'a NodeName),
    /// The agent, the journal, input that is not a request, the desired state of all nodes.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Accepted,
    Answered,
    Conflicted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestStep {
    Begun { attempt: u32 },
    Waits,
    Checked,
    AnsweredAtDeadline,
    Completed,
    SeenAgain,
}

/// How an entry changes the set of requests without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum UnfinishedChange<'a> {
    Received { reqid: &'a ReqId, request: &'a Request },
    Begun { of: Seq, attempt: u32 },
    Completed { of: Seq },
}

impl Entry {
    fn subject(&self) -> Subject<'_> {
        let earlier = |of: &Seq, step| Subject::Earlier { of: *of, step };
        match self {
            Self::RequestReceived { reqid, request, .. } => {
                Subject::Incoming { reqid, request: &request.0, fate: Incoming::Accepted }
            }
            Self::RequestAnswered { reqid, request, .. } => {
                Subject::Incoming { reqid, request: &request.0, fate: Incoming::Answered }
            }
            Self::RequestConflicted { reqid, request, .. } => {
                Subject::Incoming { reqid, request: &request.0, fate: Incoming::Conflicted }
            }
            Self::RequestBegun { of, attempt } => earlier(of, RequestStep::Begun { attempt: *attempt }),
            Self::RequestWaits { of, .. } => earlier(of, RequestStep::Waits),
            Self::PreflightBegun { of, .. } | Self::PreflightEnded { of, .. } => earlier(of, RequestStep::Checked),
            Self::DeadlineAnswered { of, .. } => earlier(of, RequestStep::AnsweredAtDeadline),
            Self::RequestCompleted { of, .. } => earlier(of, RequestStep::Completed),
            Self::DuplicateSeen { of, .. } => earlier(of, RequestStep::SeenAgain),
            Self::LaunchIntended { node, .. }
            | Self::NodeStarted { node, .. }
            | Self::NodeReady { node, .. }
            | Self::NodeExited { node, .. }
            | Self::NodeAdopted { node, .. }
            | Self::NodeRetried { node } => Subject::Node(node),
            Self::AgentStarted { .. }
            | Self::AgentStopped { .. }
            | Self::AgentSettled
            | Self::HoldEntered { .. }
            | Self::HoldEnded { .. }
            | Self::Salvaged { .. }
            | Self::Imported { .. }
            | Self::FormatChanged { .. }
            | Self::Pruned { .. }
            | Self::TroubleSeen { .. }
            | Self::EventTold { .. }
            | Self::InputRejected { .. }
            | Self::DesiredChanged { .. }
            | Self::ConfigurationKept { .. } => Subject::Other,
        }
    }

    /// The received request.
    pub(in crate::journal) fn request(&self) -> Option<&Request> {
        match self.subject() {
            Subject::Incoming { request, .. } => Some(request),
            Subject::Earlier { .. } | Subject::Node(_) | Subject::Other => None,
        }
    }

    /// The reqid of the received request.
    pub(in crate::journal) fn reqid(&self) -> Option<&ReqId> {
        match self.subject() {
            Subject::Incoming { reqid, .. } => Some(reqid),
            Subject::Earlier { .. } | Subject::Node(_) | Subject::Other => None,
        }
    }

    /// The earlier request that the entry is about.
    pub(in crate::journal) fn of(&self) -> Option<Seq> {
        match self.subject() {
            Subject::Earlier { of, .. } => Some(of),
            Subject::Incoming { .. } | Subject::Node(_) | Subject::Other => None,
        }
    }

    /// The one node that the entry is about.
    pub(in crate::journal) fn node(&self) -> Option<&NodeName> {
        match self.subject() {
            Subject::Node(node) => Some(node),
            Subject::Incoming { .. } | Subject::Earlier { .. } | Subject::Other => None,
        }
    }

    /// What follows for the requests without an outcome.
    pub(in crate::journal) fn unfinished_change(&self) -> Option<UnfinishedChange<'_>> {
        match self.subject() {
            Subject::Incoming { reqid, request, fate: Incoming::Accepted } => {
                Some(UnfinishedChange::Received { reqid, request })
            }
            Subject::Earlier { of, step: RequestStep::Begun { attempt } } => {
                Some(UnfinishedChange::Begun { of, attempt })
            }
            Subject::Earlier { of, step: RequestStep::Completed } => Some(UnfinishedChange::Completed { of }),
            Subject::Incoming { fate: Incoming::Answered | Incoming::Conflicted, .. }
            | Subject::Earlier {
                step:
                    RequestStep::Waits | RequestStep::Checked | RequestStep::AnsweredAtDeadline | RequestStep::SeenAgain,
                ..
            }
            | Subject::Node(_)
            | Subject::Other => None,
        }
    }
}

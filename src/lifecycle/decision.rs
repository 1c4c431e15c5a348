//! One step of the core before it is sealed: facts, their consequences, and notes that last only until the end of this
//! run.

use std::collections::BTreeMap;

use crate::api::event::{Dialect, Response, Route};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::time::BootTime;
use crate::journal::entry::{Digest, Entry};

use super::effect::Effect;
use super::questions::Questioned;
use super::seen::{Checking, EarlyExit, Obstacle, ProcessPhase, SetAside};

#[derive(Debug, Default)]
pub(super) struct Decision {
    pub entries: Vec<Entry>,
    pub effects: Vec<Effect>,
    pub notes: Vec<Note>,
    /// The effects depend on this entry alone and need not wait for newer ones.
    pub resting_on: Option<Seq>,
}

impl Decision {
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entries.push(entry);
        self
    }

    pub fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    pub fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }

    /// Both, one after the other.
    pub fn and(mut self, other: Decision) -> Self {
        self.entries.extend(other.entries);
        self.effects.extend(other.effects);
        self.notes.extend(other.notes);
        self
    }
}

/// The outcome of `of` is decided; its entry is in the same decision. Waiting requesters are answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub of: Seq,
    pub digest: Digest,
    pub response: Response,
    pub dialect: Dialect,
    /// Requesters over Broker or WebSocket already got a deadline response.
    pub told_at_deadline: bool,
}

/// A change of what only this run of the agent needs to know.
#[derive(Debug)]
pub(super) enum Note {
    /// A requester waits for the outcome of `of`.
    Wait {
        of: Seq,
        route: Option<Route>,
        dialect: Dialect,
        until_deadline: bool,
    },
    /// When requesters of `of` over Broker or WebSocket get a response at the latest.
    Deadline {
        of: Seq,
        at: BootTime,
    },
    /// They get this response; its entry is in this decision.
    DeadlineAnswered {
        of: Seq,
        response: Response,
        dialect: Dialect,
    },
    /// When the outcome of `of` has to be decided at the latest.
    Settle {
        of: Seq,
        by: BootTime,
    },
    /// The request `by` has been waiting for a node to become ready since then.
    Awaited {
        node: NodeName,
        by: Seq,
        at: BootTime,
    },
    /// The node did not become ready in time, and is no longer waited for.
    Late {
        node: NodeName,
    },
    Answered(Answered),
    /// Responses that nobody had received have been published.
    Published {
        keys: Vec<Seq>,
    },
    /// The request `of` asks these nodes; those with a result are not asked.
    Dispatching {
        of: Seq,
        nodes: BTreeMap<NodeName, Questioned>,
    },
    /// A node is asked, and how.
    Asked {
        of: Seq,
        node: NodeName,
        asked: Questioned,
    },
    /// There is no point in asking a node any more.
    Unasked {
        of: Seq,
        node: NodeName,
        error: String,
    },
    Phase {
        node: NodeName,
        phase: ProcessPhase,
    },
    /// The check before a change is under way.
    Checking {
        checking: Checking,
    },
    /// It has ended, or nobody waits for it.
    Checked,
    StopSent {
        node: NodeName,
        incarnation: Incarnation,
        at: BootTime,
    },
    /// Found running when the agent started, with these ports.
    Adopted {
        node: NodeName,
        ports: Vec<u16>,
    },
    Blocked {
        node: NodeName,
        by: Obstacle,
        reason: String,
        at: BootTime,
    },
    /// Nothing blocks its start any more.
    Unblocked {
        node: NodeName,
    },
    /// The request `of` waits until this state directory has been adopted.
    AdoptingState {
        of: Seq,
    },
    /// The directory was adopted, or cannot be.
    StateAdopted {
        of: Seq,
        done: bool,
    },
    /// Holders of the node's lock are being looked for again.
    LookedAgain {
        node: NodeName,
        at: BootTime,
    },
    /// How far setting aside the node's run directory has come; `None`: it begins.
    SetAside {
        node: NodeName,
        progress: Option<SetAside>,
    },
    /// Less than usual is known about the end of the node's last process.
    LimitedCleanup {
        node: NodeName,
        why: &'static str,
    },
    /// How its last process ended, if that says something about the configuration.
    EarlyExit {
        node: NodeName,
        exit: Option<EarlyExit>,
    },
    /// It was reported that the node is not ready in time.
    Overdue {
        node: NodeName,
    },
    /// It was reported that output of the node was lost.
    DropTold {
        node: NodeName,
    },
    /// The supervisor was told to forget the node.
    Forgotten {
        node: NodeName,
    },
    /// Input of this peer was rejected at `at`; `journaled`, or else only counted.
    Rejected {
        peer: String,
        at: BootTime,
        journaled: bool,
    },
    /// Rejections that were only counted are journaled as a count.
    RejectionsCounted {
        peer: String,
    },
    /// All nodes are stopped, whatever the desired state, and then the agent ends.
    WindingDown,
    /// A later change has superseded the shutdown.
    NotWindingDown,
    /// No new input is accepted; the agent ends once all decided effects have been carried out.
    Stopping {
        reason: String,
    },
    Welcomed,
    HelloSent,
    HeadTold,
    Settled,
    /// This alert is being told; `None`: none is any more.
    Telling {
        id: Option<Seq>,
    },
    /// Nodes are started one after the other, with pauses.
    SpreadingStarts,
    /// One node was started.
    SpreadStart,
}

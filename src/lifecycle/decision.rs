//! One step of the core before it is sealed: facts, what follows from them, and what to remember until the end of this
//! run only.

use std::collections::BTreeMap;

use crate::api::event::{Dialect, Response, Route};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::time::BootTime;
use crate::journal::entry::{Digest, Entry};

use super::effect::Effect;
use super::questions::Questioned;
use super::seen::{EarlyExit, Obstacle, ProcessPhase, SetAside};

#[derive(Debug, Default)]
pub(super) struct Decision {
    pub entries: Vec<Entry>,
    pub effects: Vec<Effect>,
    pub notes: Vec<Note>,
    /// The effects rest on this entry alone and need not wait for newer ones.
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

/// The outcome of `of` is decided; its entry is in the same decision. Those who wait are told.
#[derive(Debug)]
pub(super) struct Answered {
    pub of: Seq,
    pub digest: Digest,
    pub response: Response,
    pub dialect: Dialect,
    /// Who asked over Broker or WebSocket was told something before.
    pub told_at_deadline: bool,
}

/// A change of what this run of the agent knows and the next may forget.
#[derive(Debug)]
pub(super) enum Note {
    /// Somebody waits for the outcome of `of`.
    Wait {
        of: Seq,
        route: Option<Route>,
        dialect: Dialect,
        until_deadline: bool,
    },
    /// When those who ask for `of` over Broker or WebSocket are told something at the latest.
    Deadline {
        of: Seq,
        at: BootTime,
    },
    /// They are told this; its entry is in this decision.
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
    /// Since then it is waited for a node to get ready, for what the request `by` wants of it.
    Awaited {
        node: NodeName,
        by: Seq,
        at: BootTime,
    },
    /// It has not got ready in time, and nobody waits for it any longer.
    Late {
        node: NodeName,
    },
    Answered(Answered),
    /// Responses that nobody took have been published.
    Published {
        keys: Vec<Seq>,
    },
    /// The request `of` asks these nodes; those with a result are not asked.
    Dispatching {
        of: Seq,
        nodes: BTreeMap<NodeName, Questioned>,
    },
    /// A node is asked over this connection.
    Asked {
        of: Seq,
        node: NodeName,
        connection: u64,
    },
    /// Asking a node makes no sense any more.
    Unasked {
        of: Seq,
        node: NodeName,
        error: String,
    },
    Phase {
        node: NodeName,
        phase: ProcessPhase,
    },
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
    /// Nothing stands in its way any more.
    Unblocked {
        node: NodeName,
    },
    /// The request `of` waits until this state directory is one of its own.
    AdoptingState {
        of: Seq,
    },
    /// It is, or cannot become one.
    StateAdopted {
        of: Seq,
        done: bool,
    },
    /// What has the node's lock is looked for again.
    LookedAgain {
        node: NodeName,
        at: BootTime,
    },
    /// How far the node's run directory is on its way to be set aside; `None`: that begins.
    SetAside {
        node: NodeName,
        progress: Option<SetAside>,
    },
    /// Less than usual is known of the end of the node's last process.
    LimitedCleanup {
        node: NodeName,
        why: &'static str,
    },
    /// How its last process ended, if that says something about the configuration.
    EarlyExit {
        node: NodeName,
        exit: Option<EarlyExit>,
    },
    /// It was said that the node is not ready in time.
    Overdue {
        node: NodeName,
    },
    /// It was said that output of the node is lost.
    DropTold {
        node: NodeName,
    },
    /// The supervisor was told to forget the node.
    Forgotten {
        node: NodeName,
    },
    /// Input of this peer was rejected at `at`; `journaled` or only counted.
    Rejected {
        peer: String,
        at: BootTime,
        journaled: bool,
    },
    /// What was only counted is journaled as a count.
    RejectionsCounted {
        peer: String,
    },
    /// All nodes go down, whatever is desired, and then the agent ends.
    WindingDown,
    /// A later change has superseded that.
    NotWindingDown,
    /// Nothing new is taken any more; the agent ends once all that is decided has left.
    Stopping {
        reason: String,
    },
    Welcomed,
    HelloSent,
    HeadTold,
    Settled,
    /// Nodes are started one after the other, with pauses.
    SpreadingStarts,
    /// One was.
    SpreadStart,
}

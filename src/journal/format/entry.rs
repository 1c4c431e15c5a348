//! The facts that are worth surviving a crash, the records that sum them up, and the seal between facts and effects.
//!
//! An [`Entry`] is history: appended once, numbered without gaps, never changed. A [`Record`] is the sum of all history
//! for one thing (the agent, the desired state, one node, one unfinished request), rewritten in the same commit as the
//! entries that changed it, so that a start reads what is unfinished and not what is past.
//!
//! Everything here is written with bincode, which knows no missing or added fields: a changed shape is a new version
//! (`versions/`). What grows with Zeek rather than with us (requests, responses, launch specs) is [`Packed`], and so are
//! the extras of records: fields that they gain without becoming another version.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Request, Response, Source};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId};
use crate::api::time::{BootTime, Timestamp};

/// A value carried as MessagePack with field names inside bincode, so that its type may gain fields with defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed<T>(pub T);

impl<T: Serialize> Serialize for Packed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = rmp_serde::to_vec_named(&self.0).map_err(serde::ser::Error::custom)?;
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Packed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        rmp_serde::from_slice(&bytes).map(Packed).map_err(serde::de::Error::custom)
    }
}

/// BLAKE3 over the event name without its module and the canonical arguments: what makes two requests the same (P3).
pub type Digest = [u8; 32];

/// The digest of a canonical request. Neither dialect nor transport, source or deadline go into it.
pub fn digest(request: &Request) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request.event().as_bytes());
    hasher.update(&[0]);
    let arguments = rmp_serde::to_vec_named(request).expect("a request has only types that MessagePack can carry");
    hasher.update(&arguments);
    *hasher.finalize().as_bytes()
}

/// An entry with its number and the time it was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    pub seq: Seq,
    pub at: Timestamp,
    pub entry: Entry,
}

/// A fact. Named as what happened; every variant is one row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    AgentStarted {
        boot_id: String,
        version: String,
        pid: u32,
    },
    /// The agent ended of its own will; requests then unfinished lose no attempt.
    AgentStopped {
        reason: String,
    },
    /// It has been up for 60 s: the count of early deaths begins anew.
    AgentSettled,
    HoldEntered {
        reason: String,
    },
    HoldEnded {
        by: Seq,
    },
    /// The journal before this one was damaged: what was taken over from the directory set aside, and which entries
    /// are missing (first, last).
    Salvaged {
        from: String,
        recovered: u64,
        missing: Vec<(Seq, Seq)>,
    },
    /// All entries before this one were taken over from somewhere else, `entries` of them, and those numbered `missing`
    /// (first, last) were not there. No state was: this host runs what somebody asks for from here on.
    Imported {
        from: String,
        entries: u64,
        missing: Vec<(Seq, Seq)>,
    },
    /// The journal was rewritten in a newer format. The hashes of all entries before this one were computed then.
    FormatChanged {
        from: u32,
        to: u32,
    },
    /// Retention's anchor: the entries up to `upto`, whose hash was `hash`, are gone, `entries` of them with `requests`
    /// requests this time, and the responses of reads up to `trimmed` are kept as digests only. What is older than the
    /// oldest kept entry and not told of by one of these was removed by somebody else.
    Pruned {
        upto: Seq,
        hash: Digest,
        trimmed: Seq,
        entries: u64,
        requests: u64,
    },

    RequestReceived {
        reqid: ReqId,
        request: Packed<Request>,
        digest: Digest,
        dialect: Dialect,
        source: Source,
    },
    /// A request that changes nothing and its outcome, in one: there is no effect to be kept back in between.
    RequestAnswered {
        reqid: ReqId,
        request: Packed<Request>,
        digest: Digest,
        dialect: Dialect,
        source: Source,
        response: Answer,
    },
    /// A known reqid with another event or other arguments (P4). `response` is what its sender was told.
    RequestConflicted {
        reqid: ReqId,
        first: Seq,
        request: Packed<Request>,
        digest: Digest,
        dialect: Dialect,
        source: Source,
        response: Packed<Response>,
    },
    /// Input that is no request: undecodable, unknown. `suppressed` counts those since the last such entry of this
    /// peer that got none.
    InputRejected {
        source: Source,
        event: String,
        error: String,
        suppressed: u64,
    },
    /// Handling began, or began again after a crash: the attempt's number, from 1.
    RequestBegun {
        of: Seq,
        attempt: u32,
    },
    /// Step 1 of a change is taken: it is answered once the targets meet the goal.
    RequestWaits {
        of: Seq,
        goal: Goal,
        targets: Vec<(NodeName, Incarnation)>,
    },
    /// Those who asked over Broker or WebSocket have waited as long as they do, and were told this; the outcome is still to
    /// come. Whoever repeats the request there is told the same for ever.
    DeadlineAnswered {
        of: Seq,
        response: Answer,
    },
    /// The request has its outcome.
    RequestCompleted {
        of: Seq,
        outcome: Outcome,
        attempts: u32,
        response: Answer,
    },
    /// The same request again; answered from the first.
    DuplicateSeen {
        of: Seq,
        source: Source,
    },

    /// Step 1 of a change: what is wanted from now on.
    DesiredChanged {
        by: Seq,
        config: ConfigChange,
        nodes: Vec<(NodeName, WantChange)>,
    },

    /// The node's next process is about to be started.
    LaunchIntended {
        node: NodeName,
        incarnation: Incarnation,
        by: Seq,
    },
    NodeStarted {
        node: NodeName,
        incarnation: Incarnation,
        process: ProcessId,
    },
    /// It checked in, or ran long enough where that is what ready means.
    NodeReady {
        node: NodeName,
        incarnation: Incarnation,
    },
    /// `asked`: we wanted it to end. `when`: noticed at this time of this boot.
    NodeExited {
        node: NodeName,
        incarnation: Incarnation,
        cause: ExitCause,
        asked: bool,
        process: Option<ProcessId>,
        ran_ms: Option<u64>,
        when: BootTime,
        verdict: Verdict,
    },
    /// A node that the journal did not know was found running and taken over.
    NodeAdopted {
        node: NodeName,
        incarnation: Incarnation,
        process: ProcessId,
        spec: Packed<LaunchSpec>,
    },
    /// A FAILED node is tried again, by `failed_retry` or a command.
    NodeRetried {
        node: NodeName,
    },
}

/// A response as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Kept(Response),
    /// Retention has dropped its body. The digest that it had proves what a copy of it says.
    Dropped {
        digest: Digest,
        length: u32,
    },
}

impl Answer {
    pub fn kept(&self) -> Option<&Response> {
        match self {
            Self::Kept(response) => Some(response),
            Self::Dropped { .. } => None,
        }
    }

    pub fn into_kept(self) -> Option<Response> {
        match self {
            Self::Kept(response) => Some(response),
            Self::Dropped { .. } => None,
        }
    }
}

/// An answer, with the entry that holds it and when that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub seq: Seq,
    pub at: Timestamp,
    pub answer: Answer,
}

/// What retention takes away in one step; see [`Entry::Pruned`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    pub upto: Seq,
    pub hash: Digest,
    pub trimmed: Seq,
    pub entries: u64,
    pub requests: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Completed,
    /// Invalid: answered with every problem, nothing changed.
    Rejected,
    /// Given up after three attempts that each ended in a crash.
    Abandoned,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigChange {
    Keep,
    /// This one, hosts resolved.
    Set(Packed<Configuration>),
    Forget,
}

/// What a change wants of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantChange {
    /// Up with this spec, at no earlier incarnation than `least`.
    Up { spec: Packed<LaunchSpec>, least: Incarnation },
    /// Try again now, if it was given up or waits for its backoff.
    Retry,
    /// Down by command; the spec stays for the next start.
    Stopped,
    /// Not part of the configuration any more.
    Gone,
}

/// What follows from an exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing: it was asked to end.
    Rest,
    /// Start it again at this time of this boot.
    RestartAt(BootTime),
    /// Too many deaths, or an exit code that means "do not try": FAILED.
    GiveUp { reason: String },
}

/// The agent itself, over all its runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentRecord {
    pub boot_id: String,
    /// Starts since one last lived for 60 s or ended cleanly.
    pub unsettled_starts: u32,
    /// The newest run ended cleanly.
    pub stopped: bool,
    pub hold: Option<String>,
    /// The newest incarnation of any node that is gone: new names count on from it, so that no incarnation of a name
    /// is used twice.
    pub newest_gone: Incarnation,
    pub extras: Packed<AgentExtras>,
}

/// What the agent's record holds beyond its first fields. A new field has a default, is left out of the stored bytes
/// while it has that (`skip_serializing_if`), and gets a row in the newest `FORMAT.md` and a sample of its own in `samples.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentExtras {
    /// The entry with which hold mode was entered last. Changes that were accepted before it and have done nothing yet wait
    /// for an operator's word, also after its end.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_before: Seq,
    /// When the newest boots were first seen, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Timestamp>,
    /// The newest salvage by which nothing was lost, if there was one: the number of its entry.
    #[serde(skip_serializing_if = "is_zero")]
    pub lossless_salvage: Seq,
}

fn is_zero(seq: &Seq) -> bool {
    *seq == Seq::default()
}

/// The running configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// The request that last changed the desired state.
    pub by: Seq,
    pub config: Option<Packed<Configuration>>,
    pub extras: Packed<DesiredExtras>,
}

/// As [`AgentExtras`], of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredExtras {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub spec: Packed<LaunchSpec>,
    pub want: Want,
    /// The earliest incarnation that satisfies what is wanted.
    pub least: Incarnation,
    /// The request that last changed `want`, `spec` or `least`.
    pub by: Seq,
    /// The newest incarnation whose launch was intended.
    pub incarnation: Incarnation,
    pub life: Life,
    /// Unasked exits within the restart window, oldest first.
    pub deaths: Vec<BootTime>,
    /// Unasked exits in a row, each within 60 s of its start.
    pub streak: u32,
    pub next_start: Option<BootTime>,
    pub given_up: Option<GivenUp>,
    pub last_exit: Option<ExitCause>,
    pub extras: Packed<NodeExtras>,
}

/// As [`AgentExtras`], of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeExtras {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    Up,
    Stopped,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    Down,
    /// The intent is durable; whether a process exists is not known from here.
    Intended,
    Up {
        process: ProcessId,
        since: BootTime,
        ready: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    pub reason: String,
    pub at: BootTime,
}

/// A request that is accepted and has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedRecord {
    /// Attempts that a crash ended; the one under way is the next.
    pub lost_attempts: u32,
    pub stage: Stage,
    pub extras: Packed<UnfinishedExtras>,
}

/// As [`AgentExtras`], of an unfinished request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnfinishedExtras {
    /// When somebody first asked over Broker or WebSocket: there is a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// The entry with what they were told at the deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Seq>,
    /// The entry with which handling began again on an operator's word, after hold mode was entered.
    #[serde(skip_serializing_if = "is_zero")]
    pub resumed: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Accepted; step 1 is still to be taken.
    Accepted,
    /// Step 1 is durable; waits until the nodes meet `goal`.
    Waiting { goal: Goal, targets: Vec<(NodeName, Incarnation)> },
}

/// When a waiting change is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Each target is ready at its incarnation or a later one.
    Ready,
    /// As `Ready`; at the deadline it is enough that the new process lives.
    Restarted,
    /// No process of the targets is left.
    Down,
    /// As `Ready`, for a configuration that runs already: at the deadline, nodes that this request has not touched count as
    /// there if they are on their way.
    Kept,
}

/// A record to be written, or removed, with the entries that changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Agent(AgentRecord),
    Desired(DesiredRecord),
    Node(NodeName, Option<Box<NodeRecord>>),
    Unfinished(Seq, Option<UnfinishedRecord>),
}

/// An accepted request as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub seq: Seq,
    pub at: Timestamp,
    pub reqid: ReqId,
    pub request: Request,
    pub digest: Digest,
    pub dialect: Dialect,
    pub source: Source,
}

/// All that a start takes in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The number of the newest entry.
    pub last: Seq,
    pub agent: AgentRecord,
    pub desired: DesiredRecord,
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    pub unfinished: BTreeMap<Seq, (Received, UnfinishedRecord)>,
    /// Responses that may never have been sent: the number of the entry that holds it, dialect, response.
    pub unsent: Vec<(Seq, Dialect, Response)>,
}

/// What the journal knows about a reqid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub seq: Seq,
    pub digest: Digest,
    /// What was told over Broker and WebSocket at the deadline, if the outcome came later than that.
    pub deadline: Option<Stored>,
    pub outcome: Option<Stored>,
}

/// Effects that stay shut in until the entries that justify them are durable: only the journal can open it, so acting
/// before the commit does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "entries that are not committed never happened"]
pub struct Sealed<E> {
    entries: Vec<Numbered>,
    effects: Vec<E>,
    /// Durable up to here, the effects may go.
    behind: Seq,
}

impl<E> Sealed<E> {
    /// `effects` behind `entries`. No entries means that the effects rest on everything decided so far, up to `last`.
    pub fn new(last: Seq, entries: Vec<Numbered>, effects: Vec<E>) -> Self {
        let behind = entries.last().map_or(last, |newest| newest.seq);
        Self { entries, effects, behind }
    }

    /// Effects that rest on one earlier entry and wait for nothing newer.
    pub fn resting_on(seq: Seq, effects: Vec<E>) -> Self {
        Self { entries: Vec::new(), effects, behind: seq }
    }

    pub fn entries(&self) -> &[Numbered] {
        &self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.effects.is_empty()
    }

    /// Takes the seal apart: entries, effects, and the entry they wait for. The journal alone may.
    pub(in crate::journal) fn open(self) -> (Vec<Numbered>, Vec<E>, Seq) {
        (self.entries, self.effects, self.behind)
    }
}

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
    /// From 1, without gaps.
    pub seq: Seq,
    /// By the wall clock, which may have been set back since.
    pub at: Timestamp,
    /// What happened.
    pub entry: Entry,
}

/// A fact. Named as what happened; every variant is one row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A run of the agent began.
    AgentStarted {
        /// The kernel's id of the boot.
        boot_id: String,
        /// The agent's release.
        version: String,
        /// The agent's process id.
        pid: u32,
    },
    /// The agent ended of its own will; requests then unfinished lose no attempt.
    AgentStopped {
        /// Why, for example the signal that it got.
        reason: String,
    },
    /// It has been up for 60 s: the count of early deaths begins anew.
    AgentSettled,
    /// The agent starts and stops nothing by itself any more.
    HoldEntered {
        /// Why it doubts the desired state.
        reason: String,
    },
    /// The agent works as usual again.
    HoldEnded {
        /// The request that ended it.
        by: Seq,
    },
    /// The journal before this one was damaged: what was taken over from the directory set aside, and which entries
    /// are missing (first, last).
    Salvaged {
        /// The name of the directory set aside, `journal` if that is this one, or nothing if there was none.
        from: String,
        /// How many entries were taken over.
        recovered: u64,
        /// Both ends are included.
        missing: Vec<(Seq, Seq)>,
    },
    /// All entries before this one were taken over from somewhere else, `entries` of them, and those numbered `missing`
    /// (first, last) were not there. No state was: this host runs what somebody asks for from here on.
    Imported {
        /// Where they came from: a file or directory as the command line had it, or what a rewritten export says of itself.
        from: String,
        /// How many were taken over.
        entries: u64,
        /// Both ends are included.
        missing: Vec<(Seq, Seq)>,
    },
    /// The journal was rewritten in a newer format. The hashes of all entries before this one were computed then.
    FormatChanged {
        /// The format before.
        from: u32,
        /// The format now.
        to: u32,
    },
    /// Retention's anchor: the entries up to `upto`, whose hash was `hash`, are gone, `entries` of them with `requests`
    /// requests this time, and the responses of reads up to `trimmed` are kept as digests only. What is older than the
    /// oldest kept entry and not reported by one of these was removed by somebody else.
    Pruned {
        /// The newest entry that is gone.
        upto: Seq,
        /// Its hash, which the oldest kept entry continues.
        hash: Digest,
        /// The newest entry whose response counts as dropped if it is that of a read.
        trimmed: Seq,
        /// How many went with this step.
        entries: u64,
        /// How many of those were requests.
        requests: u64,
    },

    /// A request was accepted, under a reqid that was free or empty.
    RequestReceived {
        /// Empty if the requester gave none.
        reqid: ReqId,
        /// In canonical form.
        request: Packed<Request>,
        /// Of the request: see [`digest`](fn@digest).
        digest: Digest,
        /// The dialect in which it was asked, and is answered when nobody waits on a connection.
        dialect: Dialect,
        /// Who asked.
        source: Source,
    },
    /// A request that changes nothing and its outcome, in one: there is no effect to be kept back in between.
    RequestAnswered {
        /// Empty if the requester gave none.
        reqid: ReqId,
        /// In canonical form.
        request: Packed<Request>,
        /// Of the request.
        digest: Digest,
        /// The dialect in which it was asked.
        dialect: Dialect,
        /// Who asked.
        source: Source,
        /// The outcome.
        response: Answer,
    },
    /// A known reqid with another event or other arguments (P4). `response` is what its sender was told.
    RequestConflicted {
        /// The reqid that both have.
        reqid: ReqId,
        /// The request that had it before.
        first: Seq,
        /// The later request, in canonical form.
        request: Packed<Request>,
        /// Of the later request.
        digest: Digest,
        /// The dialect of the later request.
        dialect: Dialect,
        /// Who sent the later request.
        source: Source,
        /// A failure whose error begins `conflict: `.
        response: Packed<Response>,
    },
    /// Input that is no request: undecodable, unknown. `suppressed` counts those since the last such entry of this
    /// peer that got none.
    InputRejected {
        /// Who sent it.
        source: Source,
        /// The name that it gave itself; empty if that could not be read.
        event: String,
        /// What is wrong with it.
        error: String,
        /// How many more came from this peer without an entry of their own.
        suppressed: u64,
    },
    /// Handling began, or began again after a crash: the attempt's number, from 1.
    RequestBegun {
        /// The request's entry.
        of: Seq,
        /// One more than the attempts that a crash ended.
        attempt: u32,
    },
    /// Step 1 of a change is taken: it is answered once the targets meet the goal.
    RequestWaits {
        /// The request's entry.
        of: Seq,
        /// What is waited for.
        goal: Goal,
        /// Which nodes, and the least incarnation that counts for each.
        targets: Vec<(NodeName, Incarnation)>,
    },
    /// Those who asked over Broker or WebSocket have waited as long as they do, and were told this; the outcome is still to
    /// come. Whoever repeats the request there is told the same for ever.
    DeadlineAnswered {
        /// The request's entry.
        of: Seq,
        /// What they were told.
        response: Answer,
    },
    /// The request has its outcome.
    RequestCompleted {
        /// The request's entry.
        of: Seq,
        /// How it ended.
        outcome: Outcome,
        /// Those that a crash ended, and the one that led to the outcome.
        attempts: u32,
        /// What the requester gets, now and whenever the request comes again.
        response: Answer,
    },
    /// The same request again; answered from the first.
    DuplicateSeen {
        /// The first request's entry.
        of: Seq,
        /// Who sent it this time.
        source: Source,
    },

    /// Step 1 of a change: what is wanted from now on.
    DesiredChanged {
        /// The request that wants it.
        by: Seq,
        /// What becomes of the configuration.
        config: ConfigChange,
        /// Nodes that are not mentioned stay wanted as they are.
        nodes: Vec<(NodeName, WantChange)>,
    },

    /// The node's next process is about to be started.
    LaunchIntended {
        /// The node's name.
        node: NodeName,
        /// Which start of it this will be.
        incarnation: Incarnation,
        /// The request that wants it to run.
        by: Seq,
    },
    /// Its process exists.
    NodeStarted {
        /// The node's name.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
        /// The node's own process, not its shim.
        process: ProcessId,
    },
    /// It checked in, or ran long enough where that is what ready means.
    NodeReady {
        /// The node's name.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
    },
    /// `asked`: we wanted it to end. `when`: noticed at this time of this boot.
    NodeExited {
        /// The node's name.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
        /// How it ended.
        cause: ExitCause,
        /// It was told to, by whatever is wanted now.
        asked: bool,
        /// The process that ended; `None` if it never ran or is not on record.
        process: Option<ProcessId>,
        /// How long it ran, in milliseconds; `None` if that is not known.
        ran_ms: Option<u64>,
        /// Comparable with what else happened in this boot.
        when: BootTime,
        /// What follows from it.
        verdict: Verdict,
    },
    /// A node that the journal did not know was found running and taken over.
    NodeAdopted {
        /// The node's name.
        node: NodeName,
        /// As its shim tells it.
        incarnation: Incarnation,
        /// The node's own process.
        process: ProcessId,
        /// How it was started, as its run directory says.
        spec: Packed<LaunchSpec>,
    },
    /// A FAILED node is tried again, by `failed_retry` or a command.
    NodeRetried {
        /// The node's name.
        node: NodeName,
    },
}

/// A response as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As it was sent.
    Kept(Response),
    /// Retention has dropped its body. The digest that it had proves what a copy of it says.
    Dropped {
        /// BLAKE3 of the response as it was stored.
        digest: Digest,
        /// Its bytes as it was stored.
        length: u32,
    },
}

impl Answer {
    /// The response, while its body is there.
    pub fn kept(&self) -> Option<&Response> {
        match self {
            Self::Kept(response) => Some(response),
            Self::Dropped { .. } => None,
        }
    }

    /// The response, while its body is there.
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
    /// The entry with the answer in it.
    pub seq: Seq,
    /// When that was decided.
    pub at: Timestamp,
    /// The answer, or what is left of it.
    pub answer: Answer,
}

/// What retention takes away in one step; see [`Entry::Pruned`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// The newest entry that goes.
    pub upto: Seq,
    /// Its hash.
    pub hash: Digest,
    /// Responses of reads up to here are dropped.
    pub trimmed: Seq,
    /// How many entries go.
    pub entries: u64,
    /// How many of those are requests.
    pub requests: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Handled to its end, be that a success or a failure.
    Completed,
    /// Invalid: answered with every problem, nothing changed.
    Rejected,
    /// Given up after three attempts that each ended in a crash.
    Abandoned,
}

/// What a change does to the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigChange {
    /// It stays as it is.
    Keep,
    /// This one, hosts resolved.
    Set(Packed<Configuration>),
    /// There is none any more: standby.
    Forget,
}

/// What a change wants of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantChange {
    /// Up with this spec, at no earlier incarnation than `least`.
    Up {
        /// How to run it.
        spec: Packed<LaunchSpec>,
        /// The start that has to be reached; one that runs with a lower number is replaced.
        least: Incarnation,
    },
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
    GiveUp {
        /// For people.
        reason: String,
    },
}

/// The agent itself, over all its runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentRecord {
    /// The boot of the newest run; empty before the first.
    pub boot_id: String,
    /// Starts since one last lived for 60 s or ended cleanly.
    pub unsettled_starts: u32,
    /// The newest run ended cleanly.
    pub stopped: bool,
    /// Why nothing is started or stopped; `None` outside hold mode.
    pub hold: Option<String>,
    /// The newest incarnation of any node that is gone: new names count on from it, so that no incarnation of a name
    /// is used twice.
    pub newest_gone: Incarnation,
    /// Fields that were added later.
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
    /// `None`: none has been set, or standby forgot it.
    pub config: Option<Packed<Configuration>>,
    /// Fields that were added later.
    pub extras: Packed<DesiredExtras>,
}

/// As [`AgentExtras`], of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredExtras {}

/// A node that is wanted, or of which something is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// How to run it.
    pub spec: Packed<LaunchSpec>,
    /// What is wanted of it.
    pub want: Want,
    /// The earliest incarnation that satisfies what is wanted.
    pub least: Incarnation,
    /// The request that last changed `want`, `spec` or `least`.
    pub by: Seq,
    /// The newest incarnation whose launch was intended.
    pub incarnation: Incarnation,
    /// What is known of its process.
    pub life: Life,
    /// Unasked exits within the restart window, oldest first.
    pub deaths: Vec<BootTime>,
    /// Unasked exits in a row, each within 60 s of its start.
    pub streak: u32,
    /// When its backoff ends, in this boot; `None`: it waits for none.
    pub next_start: Option<BootTime>,
    /// Since when it is FAILED and why; `None`: it is not.
    pub given_up: Option<GivenUp>,
    /// How its last process ended; `None`: none has.
    pub last_exit: Option<ExitCause>,
    /// Fields that were added later.
    pub extras: Packed<NodeExtras>,
}

/// As [`AgentExtras`], of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeExtras {}

/// What is wanted of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// A process of it is to run.
    Up,
    /// None is to run, by command; the configuration still has the node.
    Stopped,
    /// None is to run, and the node is forgotten once none does.
    Gone,
}

/// What is known of a node's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// There is none.
    Down,
    /// The intent is durable; whether a process exists is not known from here.
    Intended,
    /// It runs, as far as is known.
    Up {
        /// The node's own process.
        process: ProcessId,
        /// When its start was noticed, in this boot.
        since: BootTime,
        /// It is ready, or once was: readiness is not lost.
        ready: bool,
    },
}

/// A node is FAILED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// For people.
    pub reason: String,
    /// When that was decided, in this boot.
    pub at: BootTime,
}

/// A request that is accepted and has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedRecord {
    /// Attempts that a crash ended; the one under way is the next.
    pub lost_attempts: u32,
    /// How far its handling is.
    pub stage: Stage,
    /// Fields that were added later.
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

/// How far the handling of a request is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Accepted; step 1 is still to be taken.
    Accepted,
    /// Step 1 is durable; waits until the nodes meet `goal`.
    Waiting {
        /// What is waited for.
        goal: Goal,
        /// Which nodes, and the least incarnation that counts for each.
        targets: Vec<(NodeName, Incarnation)>,
    },
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
    /// The agent's, of which there is one.
    Agent(AgentRecord),
    /// The desired state's, of which there is one.
    Desired(DesiredRecord),
    /// A node's; `None` removes it.
    Node(NodeName, Option<Box<NodeRecord>>),
    /// An unfinished request's, by its entry; `None` removes it.
    Unfinished(Seq, Option<UnfinishedRecord>),
}

/// An accepted request as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The number of its entry.
    pub seq: Seq,
    /// When it was received.
    pub at: Timestamp,
    /// Empty if the requester gave none.
    pub reqid: ReqId,
    /// In canonical form.
    pub request: Request,
    /// Of the request.
    pub digest: Digest,
    /// The dialect in which it was asked.
    pub dialect: Dialect,
    /// Who asked.
    pub source: Source,
}

/// All that a start takes in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The number of the newest entry.
    pub last: Seq,
    /// What is remembered of earlier runs.
    pub agent: AgentRecord,
    /// The configuration, if there is one.
    pub desired: DesiredRecord,
    /// Every node that is wanted, or of which something is left.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// Requests without an outcome, by their numbers.
    pub unfinished: BTreeMap<Seq, (Received, UnfinishedRecord)>,
    /// Responses that may never have been sent: the number of the entry that holds it, dialect, response.
    pub unsent: Vec<(Seq, Dialect, Response)>,
}

/// What the journal knows about a reqid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The first request that had it.
    pub seq: Seq,
    /// Of that request: another one is a conflict.
    pub digest: Digest,
    /// What was told over Broker and WebSocket at the deadline, if the outcome came later than that.
    pub deadline: Option<Stored>,
    /// `None`: the request is not finished.
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

    /// Facts that the effects wait for; empty if they rest on earlier ones.
    pub fn entries(&self) -> &[Numbered] {
        &self.entries
    }

    /// Nothing was decided: no fact and no effect.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.effects.is_empty()
    }

    /// Takes the seal apart: entries, effects, and the entry they wait for. The journal alone may.
    pub(in crate::journal) fn open(self) -> (Vec<Numbered>, Vec<E>, Seq) {
        (self.entries, self.effects, self.behind)
    }
}

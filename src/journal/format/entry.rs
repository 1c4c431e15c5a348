//! The facts that must survive a crash, the records that sum them up, and the seal between facts and effects.
//!
//! An [`Entry`] is history: appended once, numbered without gaps, never changed. A [`Record`] is the sum of all history
//! for one thing (the agent, the desired state, one node, one unfinished request), rewritten in the same commit as the
//! entries that changed it, so that a start reads only the current state and not the history.
//!
//! Everything here is written with bincode, which supports no missing or added fields: a changed shape is a new version
//! (`versions/`). What grows with Zeek rather than with us (requests, responses, launch specs) is [`Packed`], and so
//! are the extras of records: fields that they gain without becoming another version.

pub mod past;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::api::alert::Alert;
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Request, Response, Source};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId};
use crate::api::preflight::PreflightReport;
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

/// The digest of a canonical request. It does not cover dialect, transport, source or deadline.
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
    /// The agent ended cleanly; this costs unfinished requests no attempt.
    AgentStopped {
        /// Why, for example the signal that it received.
        reason: String,
    },
    /// It has been up for 60 s: the count of early deaths is reset.
    AgentSettled,
    /// Hold mode: the agent starts and stops nothing by itself from here on.
    HoldEntered {
        /// Why it doubts the desired state.
        reason: String,
    },
    /// The agent works as usual again.
    HoldEnded {
        /// The request that ended it.
        by: Seq,
    },
    /// The journal before this one was damaged: what was recovered from the directory that was moved aside, and which
    /// entries are missing (first, last).
    Salvaged {
        /// The name of the directory moved aside, `journal` if that is this one, or empty if there was none.
        from: String,
        /// How many entries were recovered.
        recovered: u64,
        /// Both ends are included.
        missing: Vec<(Seq, Seq)>,
    },
    /// All entries before this one were imported, `entries` of them; those numbered `missing` (first, last) did not
    /// exist. No state was imported: this host runs what is requested from here on.
    Imported {
        /// Where they came from: a file or directory as given on the command line, or what a rewritten export says.
        from: String,
        /// How many were imported.
        entries: u64,
        /// Both ends are included.
        missing: Vec<(Seq, Seq)>,
    },
    /// The journal was rewritten in a newer format. The hashes of all earlier entries were computed at that time.
    FormatChanged {
        /// The format before.
        from: u32,
        /// The format now.
        to: u32,
    },
    /// Retention's anchor: the entries up to `upto`, whose hash was `hash`, are gone, `entries` of them with `requests`
    /// requests this time, and the responses of reads up to `trimmed` are kept as digests only. What is older than the
    /// oldest kept entry and not reported by one of these was not removed by the agent.
    Pruned {
        /// The newest entry that is gone.
        upto: Seq,
        /// Its hash, which the oldest kept entry continues.
        hash: Digest,
        /// The newest entry whose response counts as dropped if it is that of a read.
        trimmed: Seq,
        /// How many this step removed.
        entries: u64,
        /// How many of those were requests.
        requests: u64,
    },

    /// Something is wrong that concerns neither a request nor a node.
    TroubleSeen {
        /// A word for programs: `disk_full`, `archive_failed`, `other`.
        what: String,
        /// For people: what is wrong, and what to do.
        message: String,
    },
    /// `event_command` was run for an entry.
    EventTold {
        /// The entry that it was told of.
        of: Seq,
        /// How many others that had no place were counted in what it was told.
        lost: u64,
        /// How the run ended: `exit code 0`, or why it failed.
        outcome: String,
    },

    /// A request was accepted, under a reqid that was free or empty.
    RequestReceived {
        /// Empty if the requester gave none.
        reqid: ReqId,
        /// In canonical form.
        request: Packed<Request>,
        /// Of the request: see [`digest`](fn@digest).
        digest: Digest,
        /// The dialect of the request, and of the response if no requester waits on a connection.
        dialect: Dialect,
        /// Who asked.
        source: Source,
    },
    /// A request that changes nothing, with its outcome: there is no effect to hold back in between.
    RequestAnswered {
        /// Empty if the requester gave none.
        reqid: ReqId,
        /// In canonical form.
        request: Packed<Request>,
        /// Of the request.
        digest: Digest,
        /// The dialect of the request.
        dialect: Dialect,
        /// Who asked.
        source: Source,
        /// The outcome.
        response: Answer,
    },
    /// A known reqid with another event or other arguments (P4). `response` is what its sender got.
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
    /// Input that is not a request: undecodable, unknown. `suppressed` counts those of this peer since its last such
    /// entry that got no entry of their own.
    InputRejected {
        /// Who sent it.
        source: Source,
        /// The event name in the input; empty if that could not be read.
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
        /// One more than the number of attempts that a crash ended.
        attempt: u32,
    },
    /// Before a change, it is looked at whether its nodes can run.
    PreflightBegun {
        /// The request's entry.
        of: Seq,
        /// The nodes that it would start.
        nodes: Vec<NodeName>,
    },
    /// What came of that.
    PreflightEnded {
        /// The request's entry.
        of: Seq,
        /// Problems, if there are any; then the change is not made.
        report: Packed<PreflightReport>,
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
    /// The deadline of requesters over Broker or WebSocket has passed, and they got this response; the outcome is still
    /// to come. Every duplicate over these transports gets the same response.
    DeadlineAnswered {
        /// The request's entry.
        of: Seq,
        /// The deadline response.
        response: Answer,
    },
    /// The request has its outcome.
    RequestCompleted {
        /// The request's entry.
        of: Seq,
        /// How it ended.
        outcome: Outcome,
        /// Attempts that a crash ended, and the one that led to the outcome.
        attempts: u32,
        /// What the requester gets, now and for every duplicate.
        response: Answer,
    },
    /// The same request again; answered with the first one's response.
    DuplicateSeen {
        /// The first request's entry.
        of: Seq,
        /// Who sent it this time.
        source: Source,
    },

    /// Step 1 of a change: the desired state from now on.
    DesiredChanged {
        /// The request that wants it.
        by: Seq,
        /// What becomes of the configuration.
        config: ConfigChange,
        /// The desired state of nodes that are not mentioned does not change.
        nodes: Vec<(NodeName, WantChange)>,
    },

    /// A configuration of the history, stated again: retention removes the entry that stated it before.
    ConfigurationKept {
        /// The entry that set it.
        set: Seq,
        /// As it is known now.
        record: Box<past::PastRecord>,
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
    /// It checked in, or ran long enough where that is the definition of ready.
    NodeReady {
        /// The node's name.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
    },
    /// `asked`: its end was requested. `when`: noticed at this time of this boot.
    NodeExited {
        /// The node's name.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
        /// How it ended.
        cause: ExitCause,
        /// It was told to end, because of the desired state.
        asked: bool,
        /// The process that ended; `None` if it never ran or was not recorded.
        process: Option<ProcessId>,
        /// How long it ran, in milliseconds; `None` if that is not known.
        ran_ms: Option<u64>,
        /// Comparable with other times of this boot.
        when: BootTime,
        /// What follows from it.
        verdict: Verdict,
    },
    /// A node that the journal did not know was found running and adopted.
    NodeAdopted {
        /// The node's name.
        node: NodeName,
        /// As its shim reports it.
        incarnation: Incarnation,
        /// The node's own process.
        process: ProcessId,
        /// How it was started, according to its run directory.
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
    /// Retention has dropped its body. The digest can prove that a copy of it is genuine.
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

/// An answer, with the entry that holds it and the time of that entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The entry with the answer in it.
    pub seq: Seq,
    /// When that was decided.
    pub at: Timestamp,
    /// The answer, or what is left of it.
    pub answer: Answer,
}

/// What retention removes in one step; see [`Entry::Pruned`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// The newest entry that is removed.
    pub upto: Seq,
    /// Its hash.
    pub hash: Digest,
    /// Responses of reads up to here are dropped.
    pub trimmed: Seq,
    /// How many entries are removed.
    pub entries: u64,
    /// How many of those are requests.
    pub requests: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Handled to its end, successfully or not.
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
    /// It is removed: standby.
    Forget,
}

/// What a change requires of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantChange {
    /// Up with this spec, at no earlier incarnation than `least`.
    Up {
        /// How to run it.
        spec: Packed<LaunchSpec>,
        /// The start that has to be reached; one that runs with a lower number is replaced.
        least: Incarnation,
    },
    /// Try again now, if it is FAILED or in backoff.
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
    /// Too many deaths, or an exit code that means "do not retry": FAILED.
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
    /// Starts since a run last lasted 60 s or ended cleanly.
    pub unsettled_starts: u32,
    /// The newest run ended cleanly.
    pub stopped: bool,
    /// Why nothing is started or stopped; `None` outside hold mode.
    pub hold: Option<String>,
    /// The newest incarnation of any removed node: new names continue counting from it, so that no incarnation of a
    /// name is used twice.
    pub newest_gone: Incarnation,
    /// Fields that were added later.
    pub extras: Packed<AgentExtras>,
}

/// Fields added to the agent's record later. A new field has a default, is left out of the stored bytes while it has
/// that value (`skip_serializing_if`), and gets a row in the newest `FORMAT.md` and a sample of its own in
/// `samples.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentExtras {
    /// The entry with which hold mode was last entered. Changes that were accepted before it and have had no effect yet
    /// wait for an operator's decision, even after hold mode has ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_before: Seq,
    /// When the newest boots were first seen, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<Timestamp>,
    /// The newest salvage that lost nothing, if there was one: the number of its entry.
    #[serde(skip_serializing_if = "is_zero")]
    pub lossless_salvage: Seq,
    /// What waits to be told to `event_command`, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<Alert>,
    /// How many more there were that had no place there.
    #[serde(skip_serializing_if = "is_none")]
    pub alerts_lost: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

fn is_zero(seq: &Seq) -> bool {
    *seq == Seq::default()
}

/// The running configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// The request that last changed the desired state.
    pub by: Seq,
    /// `None`: none has been set, or standby removed it.
    pub config: Option<Packed<Configuration>>,
    /// Fields that were added later.
    pub extras: Packed<DesiredExtras>,
}

/// Like [`AgentExtras`], for the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DesiredExtras {}

/// A node that is to run, or that has left something behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// How to run it.
    pub spec: Packed<LaunchSpec>,
    /// Its desired state.
    pub want: Want,
    /// The earliest incarnation that satisfies the desired state.
    pub least: Incarnation,
    /// The request that last changed `want`, `spec` or `least`.
    pub by: Seq,
    /// The newest incarnation whose launch was intended.
    pub incarnation: Incarnation,
    /// What is known of its process.
    pub life: Life,
    /// Unrequested exits within the restart window, oldest first.
    pub deaths: Vec<BootTime>,
    /// Consecutive unrequested exits, each within 60 s of its start.
    pub streak: u32,
    /// When its backoff ends, in this boot; `None`: it is not in backoff.
    pub next_start: Option<BootTime>,
    /// Since when it is FAILED and why; `None`: it is not.
    pub given_up: Option<GivenUp>,
    /// How its last process ended; `None`: none has.
    pub last_exit: Option<ExitCause>,
    /// Fields that were added later.
    pub extras: Packed<NodeExtras>,
}

/// Like [`AgentExtras`], for a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeExtras {}

/// The desired state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// A process of it is to run.
    Up,
    /// None is to run, by command; the configuration still has the node.
    Stopped,
    /// None is to run, and the node is forgotten once its process has ended.
    Gone,
}

/// What is known of a node's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// There is none.
    Down,
    /// The intent is durable; it is not known yet whether a process exists.
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
    /// Attempts that a crash ended; the current one is the next.
    pub lost_attempts: u32,
    /// How far its handling has come.
    pub stage: Stage,
    /// Fields that were added later.
    pub extras: Packed<UnfinishedExtras>,
}

/// Like [`AgentExtras`], for an unfinished request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnfinishedExtras {
    /// When the request first came over Broker or WebSocket: there is a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// The entry with the deadline response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Seq>,
    /// The entry with which an operator resumed handling after hold mode was entered.
    #[serde(skip_serializing_if = "is_zero")]
    pub resumed: Seq,
}

/// How far the handling of a request has come.
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
    /// Like `Ready`; at the deadline it is enough that the new process is alive.
    Restarted,
    /// No process of the targets is left.
    Down,
    /// Like `Ready`, for a configuration that already runs: at the deadline, nodes that this request has not touched
    /// count as ready if they are starting.
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
    /// That of a configuration of the history, by the entry that set it; `None` removes it.
    Past(Seq, Option<Box<past::PastRecord>>),
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
    /// The dialect of the request.
    pub dialect: Dialect,
    /// Who asked.
    pub source: Source,
}

/// All that a start loads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The number of the newest entry.
    pub last: Seq,
    /// What is remembered about earlier runs.
    pub agent: AgentRecord,
    /// The configuration, if there is one.
    pub desired: DesiredRecord,
    /// Every node that is to run, or that has left something behind.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// Requests without an outcome, by their numbers.
    pub unfinished: BTreeMap<Seq, (Received, UnfinishedRecord)>,
    /// The configurations that were to run, by the entry that set each.
    pub past: BTreeMap<Seq, past::PastRecord>,
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
    /// The deadline response over Broker and WebSocket, if the outcome came later than that.
    pub deadline: Option<Stored>,
    /// `None`: the request is not finished.
    pub outcome: Option<Stored>,
}

/// Effects that stay sealed until the entries that justify them are durable: only the journal can open the seal, so
/// acting before the commit does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "entries that are not committed never happened"]
pub struct Sealed<E> {
    entries: Vec<Numbered>,
    effects: Vec<E>,
    /// When everything up to here is durable, the effects may be released.
    behind: Seq,
}

impl<E> Sealed<E> {
    /// `effects` behind `entries`. No entries means that the effects depend on everything decided so far, up to `last`.
    pub fn new(last: Seq, entries: Vec<Numbered>, effects: Vec<E>) -> Self {
        let behind = entries.last().map_or(last, |newest| newest.seq);
        Self { entries, effects, behind }
    }

    /// Effects that depend on one earlier entry and wait for nothing newer.
    pub fn resting_on(seq: Seq, effects: Vec<E>) -> Self {
        Self { entries: Vec::new(), effects, behind: seq }
    }

    /// Facts that the effects wait for; empty if they depend on earlier ones.
    pub fn entries(&self) -> &[Numbered] {
        &self.entries
    }

    /// Nothing was decided: no fact and no effect.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.effects.is_empty()
    }

    /// Opens the seal: entries, effects, and the entry they wait for. Only the journal may.
    pub(in crate::journal) fn open(self) -> (Vec<Numbered>, Vec<E>, Seq) {
        (self.entries, self.effects, self.behind)
    }
}

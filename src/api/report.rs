//! What the agent tells an operator about itself (`status`, `nodes list`). The JSON form is a contract: fields are
//! added, never renamed.

use serde::{Deserialize, Serialize};

use super::configuration::ClusterRole;
use super::status::NodeState;

/// The agent, its journal and its nodes, as `status` prints them.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The agent's name, which is that of its instance.
    pub name: String,
    /// The agent's release.
    pub version: String,
    /// The agent's own process id.
    pub pid: u32,
    /// The state directory's path.
    pub state_dir: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Journal open, adoption done, replay begun.
    pub serving: bool,
    /// Why the agent starts and stops nothing by itself, if so.
    pub hold: Option<String>,
    /// The hold is for a state directory that is a copy of another: `state adopt` ends it, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_copy: bool,
    /// The id of the running configuration.
    pub configuration: Option<String>,
    /// How the journal is doing.
    pub journal: JournalReport,
    /// All nodes of this host, by name.
    pub nodes: Vec<NodeReport>,
    /// Requests accepted and without an outcome.
    pub unfinished: u64,
    /// Those of them that were accepted before hold mode and wait for `requests resume` or `requests drop`, by age.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_requests: Vec<WaitingRequest>,
    /// Requests refused without being journaled: busy, stopping, no space.
    pub refused: u64,
    /// Who may ask the agent for something, one clause each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_ask: Vec<String>,
    /// Where Broker peers are accepted, if they are.
    #[serde(default)]
    pub listen: Option<String>,
    /// Where they will be accepted after `state adopt`, while the state directory is held as a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_when_adopted: Option<String>,
    /// The controller that the agent dials, if one is set.
    #[serde(default)]
    pub controller: Option<ControllerReport>,
    /// Broker peers, by age.
    #[serde(default)]
    pub peers: Vec<PeerReport>,
    /// Archival of rotated logs, unless it is off.
    #[serde(default)]
    pub archive: Option<ArchiveReport>,
    /// What becomes of logs beside that; absent where there is nothing to look after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeping: Option<KeepingReport>,
    /// How `event_command` does, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<EventsReport>,
    /// What an operator should mend, one line each.
    pub warnings: Vec<String>,
}

/// A change that was asked for before hold mode began and has done nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRequest {
    /// Its number in the journal: `#17` names it as well as its reqid does.
    pub seq: u64,
    /// Empty if the requester gave none.
    pub reqid: String,
    /// The event's name without its module.
    pub event: String,
    /// RFC 3339, UTC.
    pub accepted_at: String,
    /// Who asked: the transport, and who that is within it.
    pub source: String,
}

/// How rotated logs are archived.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// The program that archives, as the settings name it (`archive_command`).
    pub command: String,
    /// Where nodes put rotated logs.
    pub queue: String,
    /// Where archived logs go.
    pub directory: String,
    /// From one look at the queue to the next, in milliseconds.
    pub interval_ms: u64,
    /// When the queue is looked at next (RFC 3339, UTC); absent while a run lasts.
    pub next_at: Option<String>,
    /// The last run, or the one that lasts.
    pub last: Option<ArchiveRun>,
    /// How the last finished run failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// How `event_command` does.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReport {
    /// What waits to be told, the one that is being told included.
    pub waiting: u64,
    /// What was not kept because too much waited, since the last that was told.
    pub lost: u64,
    /// How the last run failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// What becomes of logs beside their archival.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepingReport {
    /// Archived logs that expired since the agent's start.
    pub removed_files: u64,
    /// What they took up, in bytes.
    pub removed_bytes: u64,
    /// What keeps archived logs from expiring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The queue, if logs have waited in it for more than a day and the agent does not archive them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unarchived: Option<String>,
}

/// One run of the archival of logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRun {
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How it went, or that it still runs.
    pub state: ArchiveState,
    /// For example `exit code 1`.
    pub result: String,
    /// `None` while it runs, when a signal ended it, and when it was never started.
    pub exit_code: Option<i32>,
    /// From its start to its end, in milliseconds of a clock that nobody sets (it counts while the host sleeps). Absent while
    /// it runs, and if the agent that saw its end did not start it.
    pub duration_ms: Option<u64>,
    /// The last line that it wrote to standard error.
    pub last_words: Option<String>,
}

/// How a run of the archival went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveState {
    /// It has not ended yet.
    Running,
    /// It exited with code 0.
    Ok,
    /// It exited with another code, was killed, or could not be started.
    Failed,
    /// It was ended with the agent, or ended while none watched.
    Interrupted,
}

/// The journal's figures; all 0 while the agent ends and its journal cannot be asked.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalReport {
    /// The number of the newest durable entry.
    pub last: u64,
    /// Commits since the journal was opened.
    pub commits: u64,
    /// The 99th percentile of how long the last 1024 commits took, in milliseconds; 0 before the first.
    pub commit_ms_p99: f64,
    /// Milliseconds that opening the journal took.
    pub open_ms: f64,
    /// What the journal's directory takes up.
    pub bytes_on_disk: u64,
    /// What is left on its file system for the agent; 0 if that is not known.
    pub free_bytes: u64,
    /// Why new requests are refused, if they are.
    pub refusing: Option<String>,
}

/// What a compaction of the journal came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CompactReport {
    /// Whether it was needed or wanted anyway.
    pub compacted: bool,
    /// What the journal's directory took up before.
    pub bytes_before: u64,
    /// What it takes up now; the same as before if nothing was done.
    pub bytes_after: u64,
    /// Keys and values alone; of the entries alone if that was enough to tell that there is nothing to do.
    pub bytes_live: u64,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// One node, as `nodes list` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's name.
    pub node: String,
    /// Its role in the cluster.
    pub role: ClusterRole,
    /// The state that `get_nodes` reports, too.
    pub state: NodeState,
    /// `up`, `stopped` (by command) or `gone` (not in the configuration any more).
    pub want: String,
    /// The node's own process, not its shim; `None` if it is down.
    pub pid: Option<u32>,
    /// Where its own metrics are served, if the configuration says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<u16>,
    /// The number of its current or last start; 0: never started.
    pub incarnation: u64,
    /// Milliseconds since the process started.
    pub up_ms: Option<u64>,
    /// Unasked exits within the restart window.
    pub deaths: u64,
    /// Milliseconds since its turn to start came, while it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited_ms: Option<u64>,
    /// It has been PENDING for longer than `ready_timeout`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
    /// Milliseconds until the next start.
    pub next_start_ms: Option<u64>,
    /// How its last process ended, in words; `None` if none has ended yet.
    pub last_exit: Option<String>,
    /// What keeps it from RUNNING, in words.
    pub note: Option<String>,
    /// Bytes of its process's output that the disk did not take; absent if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_bytes: u64,
    /// The release of the shim that its process runs under; absent if it has none, or one of the first release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// So many unasked ends within the restart window are no accident, …
const LOOPING: u64 = 3;
/// … unless the node has been up for so long since.
const SETTLED_MS: u64 = 60_000;

impl NodeReport {
    /// Whether it ends again and again although it is wanted.
    pub fn is_crash_looping(&self) -> bool {
        let is_up = self.state == NodeState::Running && self.up_ms.is_some_and(|ms| ms >= SETTLED_MS);
        self.want == "up" && self.deaths >= LOOPING && !is_up
    }
}

/// The controller that the agent dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerReport {
    /// As set: host and port.
    pub address: String,
    /// `connected` or `connecting`.
    pub state: String,
    /// Why it is not connected, or was not the last time.
    pub problem: Option<String>,
}

/// A Broker peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// `accepted` or `dialled`.
    pub direction: String,
    /// The address of the other end.
    pub address: String,
    /// Whose its end is, if it is on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its requests are taken. Not there: they are not, and it is there as a node alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub may_ask: bool,
    /// `none`; or the version, and `anonymous` or the subject of the peer's certificate.
    pub tls: String,
    /// Its id, as Broker writes it.
    pub endpoint: String,
    /// The dialects in which it hears the agent.
    pub subscribed: Vec<String>,
    /// The node of this agent that it is.
    pub node: Option<String>,
    /// Milliseconds since the handshake.
    pub since_ms: u64,
}

/// A setting in effect (`settings`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettingReport {
    /// As it is written in the settings file.
    pub key: String,
    /// As JSON.
    pub value: serde_json::Value,
    /// Where it comes from.
    pub source: String,
    /// The value as it could be written.
    pub shown: String,
}

/// What `journal verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Entries that were read and are whole.
    pub entries: u64,
    /// The first and the newest entry; 0 in an empty journal.
    pub first: u64,
    /// The newest entry; 0 in an empty journal.
    pub last: u64,
    /// The newest entry and its hash, as `SEQ:HASH`: who notes it elsewhere can prove later that nothing before it was
    /// altered. Empty in an empty journal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub head: String,
    /// The head noted elsewhere that this journal continues, as `SEQ:HASH`, if one was asked about and it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// What narrows down what the chain proves, one line each: entries removed by retention or lost in a salvage, a change
    /// of format. No problems: the journal itself tells of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is wrong, one line each; empty means that every record decodes, the sequence has no gap, indexes agree and
    /// digests match.
    pub problems: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An error and its causes in a line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors tell their cause's part, too.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

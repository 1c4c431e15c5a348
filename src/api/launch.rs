//! How to run one node: planned by the core, carried out by the supervisor.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::configuration::ClusterRole;
use super::rights::Rights;

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A path, or a name looked up in PATH when the node is launched.
    Path(String),
    /// This binary's own simulated node.
    Simulated,
}

/// When a node that runs counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// When it checks in: its hello over Broker, or READY=1 on NOTIFY_SOCKET.
    Checkin,
    /// When it has run for so many milliseconds.
    Alive {
        /// How long it has to have run.
        after_ms: u64,
    },
}

/// The complete recipe of a launch, without the environment that the agent itself passes on.
///
/// Stored in the journal as MessagePack with field names: fields added later need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// The node's program, without its arguments.
    pub program: Program,
    /// The arguments, without the zeroth.
    pub args: Vec<String>,
    /// The configuration's and ours; laid over the agent's own.
    pub env: BTreeMap<String, String>,
    /// The node's role in the cluster, from which its place in the order of starts follows.
    pub role: ClusterRole,
    /// TCP ports that the node will listen on; what else holds them delays its start.
    pub ports: Vec<u16>,
    /// What makes it ready.
    pub readiness: Readiness,
    /// How long the node may take to end after SIGTERM.
    pub stop_timeout_ms: u64,
    /// Boxed: most of a plan's entries have none to carry.
    #[serde(default, skip_serializing_if = "Rights::is_default")]
    pub rights: Box<Rights>,
    /// Files of its working directory, by name; written before each launch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, NodeFile>,
    /// Variables whose values are read from these files when the node starts, and written down nowhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
}

/// The directory through which the agent asks a node, in the node's own.
pub const CHANNEL_DIRECTORY: &str = "ask";
/// In the environment of a node that can be asked so: the directory's name.
pub const CHANNEL_VARIABLE: &str = "ZCA_CHANNEL";
/// In the same environment: where the node's metrics port is.
pub const DOORBELL_VARIABLE: &str = "ZCA_DOORBELL";

/// How a node is asked through files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The directory, in the node's own.
    pub directory: String,
    /// A request for metrics there makes the node look at once. `None`: it looks once a second.
    pub doorbell: Option<SocketAddr>,
}

impl LaunchSpec {
    /// How a node that was launched so is asked through files; `None`: it is not.
    pub fn channel(&self) -> Option<Channel> {
        let directory = self.env.get(CHANNEL_VARIABLE).filter(|name| *name == CHANNEL_DIRECTORY)?.clone();
        let doorbell = self.env.get(DOORBELL_VARIABLE).and_then(|address| address.parse().ok());
        Some(Channel { directory, doorbell })
    }
}

/// A file that a node finds in its working directory. Two are the same if their content is.
///
/// Only the digest is stored: the content follows from configuration and settings, and may be long and the same for a
/// thousand nodes. Where nobody has it (the journal was lost), the file that is there has to match the digest.
#[derive(Clone, Serialize, Deserialize)]
pub struct NodeFile {
    /// BLAKE3 of the content, in hexadecimal.
    pub digest: String,
    /// `None` when it was read from the journal, which stores the digest alone.
    #[serde(skip)]
    pub content: Option<Arc<str>>,
}

impl NodeFile {
    /// A file with this content; the digest is computed here.
    pub fn new(content: String) -> Self {
        Self { digest: Self::digest_of(content.as_bytes()), content: Some(content.into()) }
    }

    /// The digest that a file with this content has.
    pub fn digest_of(content: &[u8]) -> String {
        blake3::hash(content).to_hex().to_string()
    }
}

impl PartialEq for NodeFile {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for NodeFile {}

impl fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeFile({})", self.digest)
    }
}

/// How a process of a node ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was running, and neither shim nor agent observed its end.
    Lost,
    /// The host went down with it.
    HostRestarted,
    /// It never ran: the program is missing, cannot be executed, or its directory cannot be used.
    NotStarted(String),
    /// The host was going down, and it ended in order.
    HostShutdown,
    /// Its shim was told to end it by SIGTERM, which no agent sends.
    Terminated {
        /// The process that sent the signal, or caused it: 1 for a service manager.
        pid: u32,
        /// That process's user.
        uid: u32,
    },
    /// The kernel killed it because its memory limit, or the host's memory, was used up.
    #[serde(rename = "oom")]
    OutOfMemory,
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost => f.write_str("lost (ended while nobody watched)"),
            Self::HostRestarted => f.write_str("host restarted"),
            Self::NotStarted(reason) => write!(f, "not started: {reason}"),
            Self::HostShutdown => f.write_str("host shutdown"),
            Self::Terminated { pid: 1, uid } => {
                write!(f, "stopped from outside: SIGTERM to its shim by the service manager (pid 1, uid {uid})")
            }
            Self::Terminated { pid, uid } => {
                write!(f, "stopped from outside: SIGTERM to its shim by pid {pid}, uid {uid}")
            }
            Self::OutOfMemory => f.write_str("oom (killed by the kernel for want of memory)"),
        }
    }
}

/// A process, told apart from every other that ever had its pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's id of the boot in which it was started (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The kernel's number for it, which it gives to another process later.
    pub pid: u32,
    /// Clock ticks after boot (`/proc/PID/stat` field 22).
    pub start_time: u64,
}

//! What a node's process may do and use on its host.

use serde::{Deserialize, Serialize};

/// The user and the limits of a node's process. The default changes nothing: it is as the agent is.
///
/// Part of [`LaunchSpec`](super::launch::LaunchSpec), so stored with field names: fields added later need a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rights {
    /// Whom it runs as; the agent's own user if there is none. Needs an agent that is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Of root's capabilities it keeps CAP_NET_RAW and CAP_NET_ADMIN, which packet capture needs. Means something with a
    /// `user` only: without, it has all that the agent has.
    #[serde(default, skip_serializing_if = "is_false")]
    pub captures: bool,
    /// The CPU that it is pinned to, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Resource limits that are set for it.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

impl Rights {
    /// Whether nothing differs from the agent's own.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A user of this host, looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// For messages; the numbers count.
    pub name: String,
    /// The number of the user.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Resource limits: soft and hard ones (setrlimit(2)), those of its scope (systemd.resource-control(5)), its niceness.
/// One that is not there is as the agent was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// RLIMIT_NOFILE: open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// RLIMIT_CORE in bytes; `u64::MAX` is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_bytes: Option<u64>,
    /// `MemoryMax` of its scope, in bytes; `u64::MAX` is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// `CPUWeight` of its scope: 1 to 10000; 100 is that of everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// Its niceness: 0 to 19, the higher the less CPU time it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<u64>,
}

/// How many files a process may have open, soft and hard; `u64::MAX` is no limit.
///
/// The agent raises its own soft limit, since it has descriptors for each node; its nodes get what it was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFiles {
    /// The limit in force, which a process may raise as far as the hard one.
    pub soft: u64,
    /// The limit up to which the soft one may be raised.
    pub hard: u64,
}

impl Limits {
    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

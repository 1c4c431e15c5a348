//! What an operator wants to be told of (`event_command`).

use serde::{Deserialize, Serialize};

use super::ids::Seq;
use super::time::Timestamp;

/// How many wait to be told; what happens beyond that is counted.
pub const WAITING_LIMIT: usize = 64;
/// The longest message, in bytes.
pub const MESSAGE_LIMIT: usize = 2_000;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A node ended although nobody asked it to, and is started again.
    Crash,
    /// A node ended too often, or cannot be started, and is FAILED.
    GivenUp,
    /// A configuration was refused or abandoned: nothing was changed.
    ChangeRefused,
    /// A configuration was taken up, and not all of it works.
    ChangeFailed,
    /// Hold mode began.
    Hold,
    /// Requests are refused for lack of space, or because the disk cannot be written.
    DiskFull,
    /// Rotated logs are not archived, or archived ones do not expire.
    ArchiveFailed,
    /// Something else.
    Other,
}

impl AlertKind {
    /// As it is written in the journal and handed to `event_command`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::GivenUp => "given_up",
            Self::ChangeRefused => "change_refused",
            Self::ChangeFailed => "change_failed",
            Self::Hold => "hold",
            Self::DiskFull => "disk_full",
            Self::ArchiveFailed => "archive_failed",
            Self::Other => "other",
        }
    }

    /// Of a trouble in the journal; a word of a later release is `Other`.
    pub fn of_trouble(word: &str) -> Self {
        match word {
            "disk_full" => Self::DiskFull,
            "archive_failed" => Self::ArchiveFailed,
            _later => Self::Other,
        }
    }
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The number of the journal's entry that it tells of: the same however often it is told.
    pub id: Seq,
    /// When that was.
    pub at: Timestamp,
    /// What kind of thing it is.
    pub kind: AlertKind,
    /// The node that it is about; empty if it is about none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The request that it is about; empty if it is about none, or one without a reqid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reqid: String,
    /// For people; at most [`MESSAGE_LIMIT`] bytes.
    pub message: String,
}

impl Alert {
    /// With the message cut to its limit.
    pub fn new(id: Seq, at: Timestamp, kind: AlertKind, message: &str) -> Self {
        let mut message = message.to_owned();
        if message.len() > MESSAGE_LIMIT {
            let end = (0..=MESSAGE_LIMIT).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
        }
        Self { id, at, kind, node: String::new(), reqid: String::new(), message }
    }
}

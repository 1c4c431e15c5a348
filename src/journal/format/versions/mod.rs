//! The shapes of what is stored, a file per version, left alone once released.
//!
//! Only the newest version is written; an older one is read by its own file and converted when read. Kinds are assigned
//! permanently, across all versions.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

pub(in crate::journal) mod records;
mod records_v1;
pub(in crate::journal) mod v1;
pub(in crate::journal) mod v2;

/// A link of the chain. Zeros stand before the first entry.
pub type Hash = [u8; 32];

/// The format that this build writes.
pub const CURRENT_FORMAT: u32 = 3;

/// No body is larger, written or read. The largest expected is a change of 4096 nodes with their launch specs,
/// besides a request of 4 MiB.
pub(in crate::journal) const BODY_LIMIT: u64 = 32 << 20;

/// What a value holds. Entries are below 0x80, records from there on.
pub(in crate::journal) mod kind {
    pub(in crate::journal) const AGENT_STARTED: u8 = 0x01;
    pub(in crate::journal) const AGENT_STOPPED: u8 = 0x02;
    pub(in crate::journal) const AGENT_SETTLED: u8 = 0x03;
    pub(in crate::journal) const HOLD_ENTERED: u8 = 0x04;
    pub(in crate::journal) const HOLD_ENDED: u8 = 0x05;
    pub(in crate::journal) const SALVAGED: u8 = 0x06;
    pub(in crate::journal) const FORMAT_CHANGED: u8 = 0x07;
    pub(in crate::journal) const PRUNED: u8 = 0x08;
    pub(in crate::journal) const IMPORTED: u8 = 0x09;
    pub(in crate::journal) const TROUBLE_SEEN: u8 = 0x0a;
    pub(in crate::journal) const EVENT_TOLD: u8 = 0x0b;
    pub(in crate::journal) const REQUEST_RECEIVED: u8 = 0x10;
    pub(in crate::journal) const REQUEST_CONFLICTED: u8 = 0x11;
    pub(in crate::journal) const INPUT_REJECTED: u8 = 0x12;
    pub(in crate::journal) const REQUEST_BEGUN: u8 = 0x13;
    pub(in crate::journal) const REQUEST_COMPLETED: u8 = 0x14;
    pub(in crate::journal) const DUPLICATE_SEEN: u8 = 0x15;
    pub(in crate::journal) const REQUEST_WAITS: u8 = 0x16;
    pub(in crate::journal) const REQUEST_ANSWERED: u8 = 0x17;
    pub(in crate::journal) const DEADLINE_ANSWERED: u8 = 0x18;
    pub(in crate::journal) const PREFLIGHT_BEGUN: u8 = 0x19;
    pub(in crate::journal) const PREFLIGHT_ENDED: u8 = 0x1a;
    pub(in crate::journal) const DESIRED_CHANGED: u8 = 0x20;
    pub(in crate::journal) const CONFIGURATION_KEPT: u8 = 0x21;
    pub(in crate::journal) const LAUNCH_INTENDED: u8 = 0x30;
    pub(in crate::journal) const NODE_STARTED: u8 = 0x31;
    pub(in crate::journal) const NODE_READY: u8 = 0x32;
    pub(in crate::journal) const NODE_EXITED: u8 = 0x33;
    pub(in crate::journal) const NODE_ADOPTED: u8 = 0x34;
    pub(in crate::journal) const NODE_RETRIED: u8 = 0x35;
    pub(in crate::journal) const FIRST_OF_NODES: u8 = 0x30;
    pub(in crate::journal) const LAST_OF_NODES: u8 = 0x3f;

    pub(in crate::journal) const FIRST_RECORD: u8 = 0x80;
    pub(in crate::journal) const FORMAT: u8 = 0x80;
    pub(in crate::journal) const AGENT: u8 = 0x81;
    pub(in crate::journal) const DESIRED: u8 = 0x82;
    pub(in crate::journal) const NODE: u8 = 0x83;
    pub(in crate::journal) const UNFINISHED: u8 = 0x84;
    pub(in crate::journal) const DUPLICATES: u8 = 0x85;
    pub(in crate::journal) const REQID: u8 = 0x86;
    pub(in crate::journal) const OUTCOME: u8 = 0x87;
    pub(in crate::journal) const HISTORY: u8 = 0x88;
    pub(in crate::journal) const DEADLINE: u8 = 0x89;
    pub(in crate::journal) const PAST: u8 = 0x8a;

    /// Entries that are rows of their own for requests: what retention counts.
    pub(in crate::journal) fn is_request(kind: u8) -> bool {
        matches!(kind, REQUEST_RECEIVED | REQUEST_ANSWERED | REQUEST_CONFLICTED | INPUT_REJECTED)
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(BODY_LIMIT).reject_trailing_bytes()
}

pub(in crate::journal) fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, bincode::Error> {
    options().serialize(value)
}

/// Slices only: from a reader, memory for a hostile length would be allocated before it is read.
pub(in crate::journal) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, bincode::Error> {
    options().deserialize(bytes)
}

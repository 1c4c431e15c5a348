//! How the journal is opened.

use std::time::Duration;

use crate::journal::store::database::OpenOptions;

/// How the journal is opened, and how much space it leaves free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// sled's cache; real use can be several times as much.
    pub cache_capacity: u64,
    /// An open that takes longer is abandoned, and nothing is moved aside because of it. Copying and salvaging do not
    /// count.
    pub open_timeout: Duration,
    /// The size of the file that is kept to be released on a full disk: opening needs space. 0: none.
    pub ballast_bytes: u64,
    /// Free space below which requests are refused.
    pub request_floor: u64,
    /// Free space below which the ballast is released, and nothing is journaled without it.
    pub fact_floor: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_capacity: 32 << 20,
            open_timeout: Duration::from_secs(60),
            ballast_bytes: 16 << 20,
            request_floor: 256 << 20,
            fact_floor: 64 << 20,
        }
    }
}

impl Options {
    pub(in crate::journal) fn store(&self) -> OpenOptions {
        OpenOptions {
            cache_capacity: self.cache_capacity,
            timeout: self.open_timeout,
            lock_wait: Duration::from_secs(2),
        }
    }
}

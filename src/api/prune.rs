//! `journal prune`: what is to go, and what went. The report's JSON form is a contract: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// What is to go. Neither an age nor a number: what retention would remove by its settings, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PruneOrder {
    /// Entries older than this.
    #[serde(default)]
    pub older_than_ms: Option<u64>,
    /// All but so many requests, conflicts and rejected ones included.
    #[serde(default)]
    pub keep: Option<u64>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PruneReport {
    /// Nothing was removed; the report says what would be.
    pub dry_run: bool,
    /// Entries, and how many of them were requests.
    pub entries: u64,
    /// How many of the entries were requests.
    pub requests: u64,
    /// Responses of reads of which only digests are left.
    pub responses: u64,
    /// Keys and values: space that new entries use again. The files become smaller when they are compacted.
    pub bytes: u64,
    /// The newest entry that went; 0 if there never was one.
    pub upto: u64,
    /// The request without an outcome that keeps older ones than that from going.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<u64>,
    /// The clock is not believed, so nothing goes for its age.
    #[serde(default)]
    pub clock_doubted: bool,
}

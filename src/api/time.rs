//! Points in time, handed to the core as values.

use serde::{Deserialize, Serialize};

/// Wall-clock time in microseconds since 1970-01-01 UTC: for people and records, never for measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// Microseconds since this host booted, suspend included (CLOCK_BOOTTIME): for deadlines and backoff. Comparable across
/// agents of one boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The moment so many milliseconds later, or the last one there is.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Milliseconds since `earlier`; 0 if that is not earlier.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// Both clocks, read together at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// What to record and print.
    pub wall: Timestamp,
    /// What to measure with.
    pub boot: BootTime,
}

//! The wall clock.

use std::time::UNIX_EPOCH;

use crate::api::time::Timestamp;

/// The current time, for entries that are written without the core. The core's entries carry their own.
pub(super) fn now() -> Timestamp {
    let since = crate::crash_points::wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

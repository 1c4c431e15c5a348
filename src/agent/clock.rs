//! Where time enters: both clocks, read together, and the conversion of a deadline to a sleep.

use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::api::time::{BootTime, Now, Timestamp};

/// Both clocks, now.
pub(super) fn now() -> Now {
    let wall = crate::crash_points::wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = clock_gettime(ClockId::Boottime);
    let boot_us = u64::try_from(boot.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(boot.tv_nsec).unwrap_or(0) / 1000;
    Now { wall: Timestamp(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)), boot: BootTime(boot_us) }
}

/// How long it is until `at`.
pub(super) fn until(at: BootTime) -> Duration {
    Duration::from_micros(at.0.saturating_sub(now().boot.0))
}

/// RFC 3339, UTC, microseconds.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let micros = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(at) => format!("{at:.6}"),
        Err(_) => format!("{micros} µs after 1970"),
    }
}

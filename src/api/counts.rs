//! What an agent has counted since it was started (the metrics page).

use std::collections::BTreeMap;

/// The upper bounds of the buckets of request durations, in seconds.
pub const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Everything that it asked for was done.
    Success,
    /// It was handled, and something failed.
    Failure,
    /// It was not valid.
    Rejected,
    /// It was given up after crashes.
    Abandoned,
    /// Its reqid belonged to another request.
    Conflict,
}

impl Ending {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
            Self::Conflict => "conflict",
        }
    }
}

/// Since the agent's start.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Counts {
    /// Requests with an outcome, by the event's name and how they ended.
    pub requests: BTreeMap<(&'static str, Ending), u64>,
    /// From receipt to outcome, by the event's name.
    pub durations: BTreeMap<&'static str, Durations>,
    /// Requests that came again.
    pub duplicates: u64,
    /// Input that was no request.
    pub malformed: u64,
    /// Ends of nodes that nobody asked for, by the node's name.
    pub crashes: BTreeMap<String, u64>,
}

/// How long something took.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Durations {
    /// How many there were.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum_seconds: f64,
    /// How many were within each of [`BUCKETS`] and not within the one before it.
    pub buckets: [u64; BUCKETS.len()],
}

impl Durations {
    /// One more.
    pub fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.sum_seconds += seconds;
        if let Some(bucket) = BUCKETS.iter().position(|most| seconds <= *most) {
            self.buckets[bucket] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_one_bucket_or_in_none() {
        let mut durations = Durations::default();
        for seconds in [0.0, 0.001, 0.0025, 299.0, 301.0] {
            durations.add(seconds);
        }
        assert_eq!(durations.count, 5);
        assert!((durations.sum_seconds - 600.0035).abs() < 1e-9, "{}", durations.sum_seconds);
        assert_eq!(durations.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}

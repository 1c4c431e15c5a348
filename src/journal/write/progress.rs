//! When it is time to report how far a long operation has come.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often progress is reported.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) struct ReportEvery {
    pub(in crate::journal) log: Duration,
    /// More often on a terminal.
    pub(in crate::journal) terminal: Duration,
}

pub(in crate::journal) struct Progress {
    reported: Instant,
    every: Duration,
}

impl Progress {
    pub(in crate::journal) fn new(every: ReportEvery) -> Self {
        let every = if std::io::stderr().is_terminal() { every.terminal } else { every.log };
        Self { reported: Instant::now(), every }
    }

    /// Whether to report now; then it counts as done.
    pub(in crate::journal) fn is_due(&mut self) -> bool {
        let due = self.reported.elapsed() >= self.every;
        if due {
            self.reported = Instant::now();
        }
        due
    }
}

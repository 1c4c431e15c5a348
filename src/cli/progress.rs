//! How far something has come that takes long, for whoever watches on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two looks of a person.
const EVERY: Duration = Duration::from_millis(200);

/// One line on standard error, rewritten; nothing where that is no terminal.
pub struct Progress {
    what: &'static str,
    shown: bool,
    told: Instant,
    wanted: bool,
}

impl Progress {
    pub fn new(what: &'static str) -> Self {
        Self { what, shown: false, told: Instant::now(), wanted: io::stderr().is_terminal() }
    }

    pub fn tell(&mut self, done: impl FnOnce() -> String) {
        if self.wanted && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.shown = true;
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r{}: {}\x1b[K", self.what, done());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

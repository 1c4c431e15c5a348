//! Progress of long operations, shown on a terminal.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::terminal;

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
            terminal::rewrite_line(&format!("{}: {}", self.what, done()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            terminal::rewrite_line("");
        }
    }
}

/// Runs an operation that cannot report its progress, and shows for how long it has been running.
pub fn waiting<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (working, is_done) = mpsc::sync_channel::<()>(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            let begun = Instant::now();
            let mut progress = Progress::new(what);
            while is_done.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                progress.tell(|| format!("{} s", begun.elapsed().as_secs()));
            }
        });
        // Gone with the work, however that ends.
        let _working = working;
        work()
    })
}

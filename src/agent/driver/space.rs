//! A disk that is full or read-only: which requests are refused, and how the agent recovers without help.
//!
//! Above the floors everything is accepted. Below the floor for requests, new ones are refused; below the floor for
//! facts, the ballast is released and only facts are journaled. If a commit still fails, the journal keeps it, and
//! everything that depends on it waits. The store is reopened and the same batch written again: at once if there was
//! ballast to release, then periodically, and as soon as there is more space.

use std::time::{Duration, Instant};

use super::{Driver, Error, Refused};
use crate::api::alert::AlertKind;
use crate::api::report::chain;
use crate::journal::{CommitError, Space};
use crate::lifecycle::{Effect, Input};

/// How often free space is checked.
const CHECK: Duration = Duration::from_millis(250);
/// The first pause after a failed attempt; each further pause is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: opening a long journal takes seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// If this much more space is free than at the last attempt, the next one is made at once.
const MORE: u64 = 1 << 20;

/// When to retry a disk that failed a write.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// When the last attempt was, and how much was free.
    last: Option<(Instant, u64)>,
    pause: Duration,
    /// The error was not "disk full". A kernel that makes a file system read-only after an error does not set the flags
    /// of its mount.
    read_only: bool,
}

impl Attempts {
    fn is_due(&self, free: u64) -> bool {
        self.last.is_none_or(|(at, then)| at.elapsed() >= self.pause || free >= then.saturating_add(MORE))
    }

    fn failed(&mut self, free: u64) {
        self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
        self.last = Some((Instant::now(), free));
    }
}

impl Driver {
    pub(super) fn look_at_space_now_and_then(&mut self) {
        if self.space_checked.is_none_or(|at| at.elapsed() >= CHECK) {
            self.look_at_space();
        }
    }

    pub(super) fn look_at_space(&mut self) {
        self.space_checked = Some(Instant::now());
        let space = match self.journal.tend_space() {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "free space of the state directory cannot be read");
                return;
            }
        };
        let starved = space.refuses_facts() || self.journal.is_stalled();
        if starved && !self.starved {
            tracing::error!("nothing is journaled until the disk takes something in again");
        }
        self.starved = starved;
        match (starved || space.refuses_requests(), self.refusing.reason()) {
            (true, before) => {
                let reason = why(&space, self.attempts.read_only);
                if before.is_none() {
                    tracing::error!("new requests are refused, nodes are not affected: {reason}");
                }
                self.refusing.set(Some(Refused { reason, everything: starved }));
            }
            (false, Some(_)) => {
                tracing::info!("there is space again: requests are taken in");
                self.refusing.set(None);
            }
            (false, None) => {}
        }
        self.tell_of_space(starved);
        let worth_it = self.ending || !space.refuses_facts();
        if self.journal.is_stalled() && worth_it && self.attempts.is_due(space.free) {
            self.attempts.failed(space.free);
            // The result arrives as the outcome of a commit does. An error here has failed the journal for good, as the
            // next commit reports.
            if let Err(error) = self.journal.reopen() {
                tracing::error!(error = %chain(&error), "the journal cannot be opened again");
            }
        }
    }

    /// Journals once that requests are refused; if not even that can be written, as soon as it can.
    fn tell_of_space(&mut self, starved: bool) {
        let refusing = self.refusing.reason();
        if self.full.is_none() {
            self.full = refusing.clone().map(|reason| (reason, false));
        }
        if let Some((reason, told @ false)) = &mut self.full
            && !starved
        {
            *told = true;
            let message = format!("new requests are refused: {reason}");
            let sealed = self.step(&Input::Trouble { kind: AlertKind::DiskFull, message });
            self.stage(sealed);
        }
        if refusing.is_none() {
            self.full = None;
        }
    }

    /// The disk failed a commit, or does not let the journal be reopened.
    pub(super) fn stall(&mut self, error: &CommitError) {
        let watched = !self.commits.borrow().is_multiple_of(2);
        if watched {
            self.commits.send_modify(|commit| *commit += 1);
            tracing::error!(
                error = %chain(error),
                "a commit failed: it is kept, and written when the disk takes it; nodes are not affected"
            );
        } else {
            tracing::debug!(error = %chain(error), "the disk still takes nothing in");
        }
        self.attempts.read_only = matches!(error, CommitError::ReadOnly(_));
        if self.release_ballast(error) {
            self.attempts = Attempts::default();
        } else if watched {
            self.attempts.failed(self.journal.space().map_or(0, |space| space.free));
        }
        self.look_at_space();
    }

    /// During the start only the start itself waits: tries once more with the space of the ballast, and only if there
    /// was any.
    pub(super) fn commit_again(&mut self, error: CommitError) -> Result<Vec<Effect>, Error> {
        if self.release_ballast(&error) {
            return self.journal.commit_again().map_err(Error::Commit);
        }
        Err(Error::Commit(error))
    }

    /// Releases the ballast where that may help; returns whether there was any.
    fn release_ballast(&mut self, error: &CommitError) -> bool {
        if !matches!(error, CommitError::NoSpace(_)) {
            return false;
        }
        self.journal.release_ballast().unwrap_or_else(|error| {
            tracing::warn!(%error, "the ballast file cannot be released");
            false
        })
    }

    /// A commit is durable.
    pub(super) fn written(&mut self) {
        if self.attempts.last.is_some() {
            tracing::info!("the disk takes the journal's entries again; what waited is written");
            self.attempts = Attempts::default();
            self.look_at_space();
        }
    }
}

fn why(space: &Space, read_only: bool) -> String {
    if read_only || space.read_only {
        return "the journal's file system is read-only; see why in the kernel's log, and remount it writable"
            .to_owned();
    }
    if space.refuses_requests() {
        return format!(
            "no space: {} MiB are free on the journal's file system and {} MiB have to be; free some, or lower the floor \
             in the settings",
            space.free >> 20,
            space.needed() >> 20
        );
    }
    "no space: the journal's file system has not taken its newest entries; free some, or check the disk".to_owned()
}

//! Messages that say what keeps a node from becoming ready: who has its port or lock, and its last output before an
//! early end.

use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ExitCause;
use crate::api::status;
use crate::api::time::BootTime;
use crate::journal::entry::GivenUp;

use super::Lifecycle;
use super::decision::{Decision, Note};
use super::seen::{Blocked, EarlyExit, NodeSeen, Obstacle};

/// A program that ends with code 1 within this time has, like Zeek, found a problem during startup.
const EARLY_MS: u64 = 2_000;
/// How many of its last lines are reported.
const LAST_LINES: usize = 5;
const LAST_BYTES: usize = 1_000;

/// What an exit says about the configuration, if anything.
///
/// Zeek ends with code 1 when a script, an initialisation or a port fails, and with another code or by a signal when it
/// crashes. After two seconds it is past startup.
pub(super) fn early_exit(
    incarnation: Incarnation,
    cause: &ExitCause,
    ran_ms: Option<u64>,
    stderr: &str,
) -> Option<EarlyExit> {
    if *cause != ExitCause::Code(1) || ran_ms.is_none_or(|ms| ms >= EARLY_MS) {
        return None;
    }
    let words = last_words(stderr);
    let said = if words.is_empty() { "it said nothing on stderr".to_owned() } else { format!("it said: {words}") };
    let seconds = EARLY_MS / 1000;
    let what = format!(
        "ended with code 1 within {seconds} s of its start, as for a fault of its configuration or a port in use; {said}"
    );
    Some(EarlyExit { incarnation, what })
}

/// The last lines joined into one, without terminal control characters.
fn last_words(stderr: &str) -> String {
    let own = |line: &&str| !line.is_empty() && !status::is_peering_noise(line.as_bytes());
    let mut lines: Vec<&str> = stderr.lines().map(str::trim).filter(own).collect();
    lines.drain(..lines.len().saturating_sub(LAST_LINES));
    let mut words: String = lines.join(" | ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if words.len() > LAST_BYTES {
        let excess = words.len() - LAST_BYTES;
        let cut = (excess..=words.len()).find(|place| words.is_char_boundary(*place)).unwrap_or(0);
        words.replace_range(..cut, "... ");
    }
    words
}

/// A port that is being released is free within seconds, for example when a node moves from one agent of this host to
/// another. It is checked often for a while, then rarely. A lock that a stranger holds is checked rarely from the
/// beginning.
const CLOSELY_MS: u64 = 5_000;
const CLOSE_RETRY_MS: u64 = 250;
const BLOCKED_RETRY_MS: u64 = 5_000;

impl Blocked {
    /// When to check again.
    pub(super) fn next(&self) -> BootTime {
        let is_fresh = self.at < self.since.plus_ms(CLOSELY_MS);
        self.at.plus_ms(match self.by {
            Obstacle::Port if is_fresh => CLOSE_RETRY_MS,
            Obstacle::Port | Obstacle::Lock | Obstacle::Foreign => BLOCKED_RETRY_MS,
        })
    }
}

impl NodeSeen {
    /// Something blocks a start. The same obstacle is not reported again.
    pub(super) fn block(&mut self, by: Obstacle, reason: &str, at: BootTime) {
        let before = self.blocked.as_ref().filter(|blocked| blocked.by == by);
        let is_told = before.is_some_and(|blocked| blocked.reason == reason);
        let since = before.map_or(at, |blocked| blocked.since);
        self.blocked = Some(Blocked { by, reason: reason.to_owned(), since, at, is_told });
    }

    /// Why the node was given up, and its last output if its last process ended early.
    pub(super) fn given_up(&self, given_up: &GivenUp, last: Incarnation) -> String {
        match self.early_exit.as_ref().filter(|early| early.incarnation == last) {
            Some(early) => format!("{}; it {}", given_up.reason, early.what),
            None => given_up.reason.clone(),
        }
    }

    /// Why the node is not ready, as far as is known, for a request that wants incarnation `least` or a later one.
    pub(super) fn obstacle(&self, least: Incarnation) -> Option<String> {
        let left = self.left.as_ref().map(ToString::to_string);
        let blocked = left.or_else(|| self.blocked.as_ref().map(|blocked| blocked.reason.clone()));
        blocked.or_else(|| {
            self.early_exit.as_ref().filter(|early| early.incarnation >= least).map(|early| early.what.clone())
        })
    }
}

impl Lifecycle {
    /// The disk does not accept a node's output: reported once for each of its processes. `status` counts how much is
    /// lost.
    pub(super) fn notify_dropping(&self, name: &NodeName, reason: Option<&str>) -> Decision {
        if self.seen.nodes.get(name).is_some_and(|node| node.is_drop_told) {
            return Decision::default();
        }
        let why = reason.unwrap_or("the disk did not take it");
        let message =
            format!("output of {name} is dropped and not written: {why}; `nodes list --json` counts the bytes");
        self.notify_error(name, &message).note(Note::DropTold { node: name.clone() })
    }

    pub(super) fn notify_obstacle(&self, name: &NodeName) -> Decision {
        let blocked = self.seen.nodes.get(name).and_then(|node| node.blocked.as_ref());
        match blocked.filter(|blocked| !blocked.is_told) {
            Some(Blocked { by: Obstacle::Lock | Obstacle::Foreign, reason, .. }) => self.notify_error(name, reason),
            Some(Blocked { by: Obstacle::Port, reason, .. }) => {
                self.notify_error(name, &format!("{name} is not started: {reason}; it starts when that is free"))
            }
            None => Decision::default(),
        }
    }
}

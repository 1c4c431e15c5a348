//! After the node's end: ends its descendants, then the holders of its lock, and reports what could not be ended.
//!
//! Promises: its exit is reported only when nothing is left ([`ClearingProgress::Done`]). Processes left when the time
//! is over are reported, and checked again whenever one of them ends and every few seconds; the shim stays for them.
//! Processes that the kernel does not let this process signal are reported and left alone.
//!
//! A holder of the lock that does not descend from the shim got it from a process that did. It is signalled if it is
//! proven to be the run's ([`Run`]), and not before the agent that made the lock has had time to close its own copies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Signal;

use super::super::cgroup::NodeCgroup;
use super::super::files::Exit;
use super::super::process::{self, Holders, Proven, Run};
use super::descendants;
use crate::api::launch::ProcessId;
use crate::api::survivors::{Survivor, Survivors};

/// How long descendants may take to end after the node, unless its own stop timeout ends earlier.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long killed processes may take before they are reported as left.
const KILL_TAKES: Duration = Duration::from_secs(2);
/// How long a lock may be held by a process that is just releasing it: the agent, right after a launch.
const HOLD_PATIENCE: Duration = Duration::from_millis(250);
/// From TERM to KILL, for holders of the lock.
const HOLDER_GRACE: Duration = Duration::from_millis(750);
/// The total time that holders may take before they are reported as left.
const HOLDERS_TAKE: Duration = Duration::from_secs(2);
/// Between two looks at processes that were just killed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Between two looks at processes that could not be ended.
const RETRY: Duration = Duration::from_secs(5);

/// The node's lock as the shim holds it.
pub(super) struct Lock {
    file: File,
    state: Held,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Through the open file that the node inherited.
    WithNode,
    /// Through an open file of our own, shared with any process that has the node's.
    Shared,
    /// No other process has it.
    Alone,
}

impl Lock {
    pub(super) fn new(file: File) -> Self {
        Self { file, state: Held::WithNode }
    }

    /// Whether only this process has the lock. It is held throughout.
    ///
    /// The kernel does not distinguish us from processes that share our open file. So we first hold the lock through a
    /// file of our own, by way of a shared lock, and then try to make it exclusive. An agent only ever takes it
    /// exclusively, so no agent can take it while it is shared.
    fn is_alone(&mut self) -> io::Result<bool> {
        if self.state == Held::WithNode {
            rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared)?;
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let own: File = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into();
            rustix::fs::flock(&own, FlockOperation::NonBlockingLockShared)?;
            *self = Self { file: own, state: Held::Shared };
        }
        if self.state == Held::Shared {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => self.state = Held::Alone,
                // A failed conversion loses the existing lock.
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockShared)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.state == Held::Alone)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Which holders of the lock belong to the node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// The uid that the node was started with.
    pub(super) uid: u32,
    /// The process that started this one: the agent at that time. It had the lock before us, and a child that it forks
    /// has it until the child executes a program.
    pub(super) agent: u32,
}

impl Rule {
    /// The holders that may be signalled; the others are added to the strangers.
    fn split(&self, holders: Holders) -> (Vec<Proven>, Survivors) {
        let Holders { ours, strangers, hidden } = holders;
        let mut others = Survivors::default();
        let is_agents = |pid: u32| pid == self.agent || process::parent(pid).is_ok_and(|parent| parent == self.agent);
        let (agents, ours): (Vec<Proven>, Vec<Proven>) = ours.into_iter().partition(|process| is_agents(process.pid));
        for stranger in strangers {
            others.add(Survivor {
                pid: stranger.pid,
                uid: Some(stranger.uid),
                command: process::describe(stranger.pid).command,
            });
        }
        for agent in agents {
            others.add(process::describe(agent.pid));
        }
        others.unseen = ours.is_empty() && others.is_empty() && hidden > 0;
        (ours, others)
    }
}

/// The state of ending what the node left after its own end.
pub(super) struct Clearing {
    pub(super) process: Option<ProcessId>,
    pub(super) exit: Exit,
    rule: Rule,
    /// When descendants are killed.
    kill_at: Instant,
    /// When remaining processes are reported.
    tell_at: Instant,
    /// What was last reported as left.
    pub(super) told: Option<Survivors>,
    holders: Option<Asked>,
    /// When to look again if nothing happens before.
    pub(super) wake: Instant,
}

/// Holders of the lock, once the descendants are gone.
struct Asked {
    since: Instant,
    /// Live processes that were asked to end.
    processes: Option<Vec<Proven>>,
}

/// The progress of clearing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClearingProgress {
    /// Nothing is left.
    Done,
    Waits,
    /// The time is over and these are left; reported again when they change.
    Left(Survivors),
}

impl Clearing {
    pub(super) fn new(process: Option<ProcessId>, exit: Exit, rule: Rule, kill_at: Instant) -> Self {
        let (tell_at, wake) = (kill_at + KILL_TAKES, kill_at);
        Self { process, exit, rule, kill_at, tell_at, told: None, holders: None, wake }
    }

    /// A stop with this timeout was ordered: remaining processes are ended and reported again.
    pub(super) fn hurry(&mut self, timeout: Duration) {
        let now = Instant::now();
        let due = now.checked_add(timeout).unwrap_or(self.kill_at);
        self.kill_at = self.kill_at.min(due);
        if self.told.take().is_some() {
            self.holders = None;
            self.tell_at = now + KILL_TAKES;
        } else {
            self.tell_at = self.tell_at.min(self.kill_at.max(now) + KILL_TAKES);
        }
        self.wake = now;
    }

    /// What can wake it, apart from its time and the end of children.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.holders.iter().flat_map(|asked| asked.processes.iter().flatten()).map(Proven::as_fd)
    }

    /// Does what is due now.
    pub(super) fn step(&mut self, lock: &mut Lock, cgroup: Option<&NodeCgroup>) -> ClearingProgress {
        let now = Instant::now();
        let is_due = now >= self.kill_at;
        if is_due && let Some(cgroup) = cgroup {
            // All at once. What it cannot do is done below, and seen.
            let _ = cgroup.kill();
        }
        let none_left = if is_due { descendants::kill_all() } else { !descendants::reap().has_more };
        let is_empty = cgroup.is_none_or(|cgroup| cgroup.is_empty().unwrap_or(false));
        if !none_left || !is_empty {
            let next = if is_due { now + LOOK_AGAIN } else { self.kill_at };
            return self.wait(now, next, || survivors(none_left, cgroup));
        }
        if self.holders.is_none() {
            self.holders = Some(Asked { since: now, processes: None });
            self.tell_at = now + HOLDERS_TAKE;
        }
        match lock.is_alone() {
            Ok(true) => ClearingProgress::Done,
            Ok(false) => self.end_holders(now, lock),
            Err(_) => self.wait(now, now + LOOK_AGAIN, || Survivors { unseen: true, ..Survivors::default() }),
        }
    }

    fn end_holders(&mut self, now: Instant, lock: &Lock) -> ClearingProgress {
        let Some(Asked { since, processes }) = &mut self.holders else { return ClearingProgress::Waits };
        let (ask_at, kill_at) = (*since + HOLD_PATIENCE, *since + HOLD_PATIENCE + HOLDER_GRACE);
        if now < ask_at {
            return self.wait(now, now + LOOK_AGAIN, Survivors::default);
        }
        if let Some(asked) = processes {
            asked.retain(|process| !process.wait_until(now));
            if !asked.is_empty() && now < kill_at {
                return self.wait(now, kill_at, Survivors::default);
            }
        }
        let signal = if processes.is_none() { Signal::TERM } else { Signal::KILL };
        let found = find_holders(lock, &self.rule);
        let (ours, mut survivors) = match found {
            Ok(found) => self.rule.split(found),
            Err(_) => (Vec::new(), Survivors { unseen: true, ..Survivors::default() }),
        };
        for process in &ours {
            let _ = process.signal(signal);
            survivors.add(process::describe(process.pid));
        }
        // Held by a process that /proc does not show: it may have ended since, so this is only reported in the end.
        survivors.unseen |= survivors.is_empty();
        let next = if signal == Signal::TERM { kill_at } else { now + LOOK_AGAIN };
        *processes = Some(ours);
        self.wait(now, next, || survivors)
    }

    fn wait(&mut self, now: Instant, next: Instant, survivors: impl FnOnce() -> Survivors) -> ClearingProgress {
        if now < self.tell_at {
            self.wake = next.min(self.tell_at);
            return ClearingProgress::Waits;
        }
        self.wake = now + RETRY;
        let survivors = survivors();
        if self.told.as_ref() == Some(&survivors) {
            return ClearingProgress::Waits;
        }
        self.told = Some(survivors.clone());
        ClearingProgress::Left(survivors)
    }
}

/// The processes that are left: descendants, or members of the node's cgroup that are none.
fn survivors(no_descendants: bool, cgroup: Option<&NodeCgroup>) -> Survivors {
    if !no_descendants {
        return descendants::survivors();
    }
    let mut survivors = Survivors::default();
    for pid in cgroup.map(NodeCgroup::pids).unwrap_or_default() {
        survivors.add(process::describe(pid));
    }
    survivors.unseen = survivors.named.is_empty();
    survivors
}

fn find_holders(lock: &Lock, rule: &Rule) -> io::Result<Holders> {
    let directory = File::open(super::HERE)?;
    Proven::by_lock(&lock.file, &Run { uid: Some(rule.uid), directory: &directory })
}

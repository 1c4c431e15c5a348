//! After the node's end: ends what descends from it, then what holds its lock, and says what could not be ended.
//!
//! Promises: its exit is reported when nothing is left ([`ClearingProgress::Done`]), and not before. What is left when the time for it
//! is over is named, looked at again whenever a process of it ends and every few seconds, and the shim stays for it. Whom the
//! kernel does not let this process signal is named and left alone.
//!
//! A holder of the lock that does not descend from the shim has it from somebody who did. It is signalled if it is proven to
//! be the run's ([`Run`]), and not before the agent that made the lock has had time to close its own copies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Signal;

use super::super::files::Exit;
use super::super::process::{self, Holders, Proven, Run};
use super::descendants;
use crate::api::launch::ProcessId;
use crate::api::survivors::{Survivor, Survivors};

/// How long descendants may take to end after the node, if its own time is not over before.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long killed ones may take before they are told to be left.
const KILL_TAKES: Duration = Duration::from_secs(2);
/// How long a lock may be held by what is just letting go of it: the agent, right after a launch.
const HOLD_PATIENCE: Duration = Duration::from_millis(250);
/// From TERM to KILL, for holders of the lock.
const HOLDER_GRACE: Duration = Duration::from_millis(750);
/// All the time that holders may take before they are told to be left.
const HOLDERS_TAKE: Duration = Duration::from_secs(2);
/// Between two looks at what was just killed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Between two looks at what could not be ended.
const RETRY: Duration = Duration::from_secs(5);

/// The node's lock, in the shim's hands.
pub(super) struct Lock {
    file: File,
    state: Held,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Through the open file that the node inherited.
    WithNode,
    /// Through one of our own, shared with whoever has the node's.
    Shared,
    /// Nobody else has it.
    Alone,
}

impl Lock {
    pub(super) fn new(file: File) -> Self {
        Self { file, state: Held::WithNode }
    }

    /// Whether nobody but this process has the lock. It is held all the while.
    ///
    /// Whoever shares our open file cannot be told from us by the kernel. So we come to hold it through one of our own,
    /// by way of a shared lock, and then try whether we can have it alone. An agent only ever takes it exclusively, so as
    /// long as it is shared no agent has it.
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
                // A conversion that fails loses what there was.
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

/// Whose holders of the lock are the node's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// The uid that the node was started with.
    pub(super) uid: u32,
    /// The process that started this one: the agent of then. It had the lock before us, and what it forks has it until it
    /// executes something.
    pub(super) agent: u32,
}

impl Rule {
    /// Those of the holders that may be signalled; the others join the strangers.
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

/// The node has ended, and this is what is being done about what it left.
pub(super) struct Clearing {
    pub(super) process: Option<ProcessId>,
    pub(super) exit: Exit,
    rule: Rule,
    /// When descendants are killed.
    kill_at: Instant,
    /// When what is left is told.
    tell_at: Instant,
    /// What was told to be left.
    pub(super) told: Option<Survivors>,
    holders: Option<Asked>,
    /// When to look again if nothing happens before.
    pub(super) wake: Instant,
}

/// Holders of the lock, descendants being gone.
struct Asked {
    since: Instant,
    /// They were asked to end, and live.
    processes: Option<Vec<Proven>>,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClearingProgress {
    /// Nothing is left.
    Done,
    Waits,
    /// Its time is over and this is left; said again when it is something else.
    Left(Survivors),
}

impl Clearing {
    pub(super) fn new(process: Option<ProcessId>, exit: Exit, rule: Rule, kill_at: Instant) -> Self {
        let (tell_at, wake) = (kill_at + KILL_TAKES, kill_at);
        Self { process, exit, rule, kill_at, tell_at, told: None, holders: None, wake }
    }

    /// Somebody asks for the end, with so much patience: what is left is gone after anew, and told anew.
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

    /// What can wake it beside its time and the end of children.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.holders.iter().flat_map(|asked| asked.processes.iter().flatten()).map(Proven::as_fd)
    }

    /// Does what is due.
    pub(super) fn step(&mut self, lock: &mut Lock) -> ClearingProgress {
        let now = Instant::now();
        let is_due = now >= self.kill_at;
        let none_left = if is_due { descendants::kill_all() } else { !descendants::reap().has_more };
        if !none_left {
            let next = if is_due { now + LOOK_AGAIN } else { self.kill_at };
            return self.wait(now, next, descendants::survivors);
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
        // Held, and by nobody that /proc shows: it may have ended since, so this is only told in the end.
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

fn find_holders(lock: &Lock, rule: &Rule) -> io::Result<Holders> {
    let directory = File::open(super::HERE)?;
    Proven::by_lock(&lock.file, &Run { uid: Some(rule.uid), directory: &directory })
}

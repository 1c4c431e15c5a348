//! Descendants of the shim: found, signalled, reaped.
//!
//! The shim is a subreaper (`PR_SET_CHILD_SUBREAPER`): every descendant of the node that loses its parent becomes the
//! shim's child, whatever sessions it has created or descriptors it has closed. So once the node has ended, the shim
//! ends its own children until none is left, and thus ends every descendant.
//!
//! Promises: a direct child is signalled by its number, which stays its own until this process has reaped it. Deeper
//! descendants are signalled through a pidfd, after they were seen to be children of a process that is proven and alive
//! ([`Proven::child_of`]). Nothing else is signalled from here.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::super::process::{self, Proven};
use crate::api::survivors::Survivors;

/// How long one call may keep killing before other work gets its turn: a process that forks for ever has to be hit
/// between two forks, which takes many tries in quick succession.
const BURST: Duration = Duration::from_millis(50);
/// Tries in a row without effect after which to wait.
const IDLE_TRIES: u32 = 20;
/// The most processes reaped in one go, so that a flood of them does not occupy the shim.
const REAPED_AT_ONCE: u32 = 4096;
/// The depth and number of descendants that are asked to end. All others are killed later.
const DEPTH: u32 = 32;
const ASKED: u32 = 1024;

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) struct Reaped {
    pub(in crate::supervisor) count: u32,
    /// Whether live children are left.
    pub(in crate::supervisor) has_more: bool,
}

/// Reaps children that have ended, except `node`, whose exit status is read elsewhere.
pub(in crate::supervisor) fn reap_others(node: Pid) {
    for child in children().into_iter().filter(|child| *child != node) {
        let _ = rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Reaps children that have ended. For use after the node itself was reaped.
pub(in crate::supervisor) fn reap() -> Reaped {
    let mut count = 0;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => count += 1,
            Ok(None) => return Reaped { count, has_more: true },
            Err(rustix::io::Errno::INTR) => {}
            // ECHILD: there are no children.
            Err(_) => return Reaped { count, has_more: false },
        }
        if count >= REAPED_AT_ONCE {
            return Reaped { count, has_more: true };
        }
    }
}

/// Kills children, and processes that become children as a result, until none is left or nothing changes any more;
/// returns whether none is left. For use after the node itself was reaped.
pub(in crate::supervisor) fn kill_all() -> bool {
    let end = Instant::now() + BURST;
    let mut idle = 0;
    while reap().has_more {
        for child in children() {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match reap() {
            Reaped { has_more: false, .. } => return true,
            Reaped { count: 0, .. } => {
                idle += 1;
                std::thread::yield_now();
            }
            Reaped { .. } => idle = 0,
        }
        if idle >= IDLE_TRIES || Instant::now() >= end {
            return false;
        }
    }
    true
}

/// Sends `signal` to all descendants of this process, except members of the process group `except`.
pub(super) fn signal_all(signal: Signal, except: Option<Pid>) {
    let mut left = ASKED;
    for child in children() {
        let Ok(Some(child)) = Proven::child_of(None, number(child)) else { continue };
        signal_tree(&child, signal, except, DEPTH, &mut left);
    }
}

fn signal_tree(process: &Proven, signal: Signal, except: Option<Pid>, depth: u32, left: &mut u32) {
    if *left == 0 {
        return;
    }
    *left -= 1;
    // Those below first: they are found through their parent, which may be gone once it has the signal.
    if depth > 0 {
        for child in children_of(process.pid) {
            if let Ok(Some(child)) = Proven::child_of(Some(process), child) {
                signal_tree(&child, signal, except, depth - 1, left);
            }
        }
    }
    let group = i32::try_from(process.pid).ok().and_then(Pid::from_raw).map(|pid| rustix::process::getpgid(Some(pid)));
    if except.is_none() || !matches!((group, except), (Some(Ok(group)), Some(except)) if group == except) {
        let _ = process.signal(signal);
    }
}

/// The live children, for a message.
pub(in crate::supervisor) fn survivors() -> Survivors {
    let mut survivors = Survivors::default();
    for child in children() {
        if process::is_zombie(number(child)) {
            continue;
        }
        survivors.add(process::describe(number(child)));
    }
    // There is one, or this would not be called.
    survivors.unseen = survivors.named.is_empty();
    survivors
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// The direct children of this process, including those that have ended and are not reaped.
fn children() -> Vec<Pid> {
    let found = children_of(std::process::id());
    found.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

/// The pids of a process's children, as they were a moment ago.
pub(in crate::supervisor) fn children_of(pid: u32) -> Vec<u32> {
    match children_by_thread(pid) {
        Ok(children) => children,
        // A kernel without CONFIG_PROC_CHILDREN, or a process that is gone.
        Err(_) => {
            process::all_pids().filter(|child| process::parent(*child).is_ok_and(|parent| parent == pid)).collect()
        }
    }
}

/// Each thread lists the children that it created.
fn children_by_thread(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

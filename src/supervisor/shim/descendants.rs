//! What descends from the shim: found, signalled, reaped.
//!
//! The shim is a subreaper (`PR_SET_CHILD_SUBREAPER`): whatever loses its parent among the node's descendants becomes its
//! child, however many sessions lie between and whatever it closed. So once the node has ended, ending one's children
//! until there is none left ends everything that descends from it.
//!
//! Promises: a direct child is signalled by its number, which is its own until this process has reaped it. What lies
//! deeper is signalled through a pidfd, after it was seen to be a child of a process that is proven and alive
//! ([`Proven::child_of`]). Nothing else gets a signal from here.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::super::process::{self, Proven};
use crate::api::survivors::Survivors;

/// How long one call may go on killing before everything else has its turn: a process that forks for ever has to be
/// met between two forks, which takes many tries in quick succession.
const BURST: Duration = Duration::from_millis(50);
/// Tries in a row without effect after which waiting is better.
const IDLE_TRIES: u32 = 20;
/// Processes reaped in one go, so that a flood of them does not keep the shim.
const REAPED_AT_ONCE: u32 = 4096;
/// How deep, and how many, the search goes for those that are to be asked to end. All others are killed later.
const DEPTH: u32 = 32;
const ASKED: u32 = 1024;

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reaped {
    pub(super) count: u32,
    /// Children that live are left.
    pub(super) has_more: bool,
}

/// Reaps children that have ended, except `node`, whose exit status somebody else is to read.
pub(super) fn reap_others(node: Pid) {
    for child in children().into_iter().filter(|child| *child != node) {
        let _ = rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Reaps children that have ended. For when the node itself is reaped.
pub(super) fn reap() -> Reaped {
    let mut count = 0;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => count += 1,
            Ok(None) => return Reaped { count, has_more: true },
            Err(rustix::io::Errno::INTR) => {}
            // ECHILD: there is none.
            Err(_) => return Reaped { count, has_more: false },
        }
        if count >= REAPED_AT_ONCE {
            return Reaped { count, has_more: true };
        }
    }
}

/// Kills children, and what becomes a child by that, until none is left or nothing happens any more; tells whether none is.
/// For when the node itself is reaped.
pub(super) fn kill_all() -> bool {
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

/// Sends `signal` to everything that descends from this process, but for members of the process group `except`.
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
    // Those below first: they are found by their parent, which may be gone once it has its signal.
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

/// The children that live, for a message.
pub(super) fn survivors() -> Survivors {
    let mut survivors = Survivors::default();
    for child in children() {
        if process::is_zombie(number(child)) {
            continue;
        }
        survivors.add(process::describe(number(child)));
    }
    // There is one, or nobody would ask.
    survivors.unseen = survivors.named.is_empty();
    survivors
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// The direct children of this process, also those that have ended and are not reaped.
fn children() -> Vec<Pid> {
    let found = children_of(std::process::id());
    found.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

/// The numbers of a process's children, as they were a moment ago.
fn children_of(pid: u32) -> Vec<u32> {
    match children_by_thread(pid) {
        Ok(children) => children,
        // A kernel without CONFIG_PROC_CHILDREN, or a process that is gone.
        Err(_) => {
            process::all_pids().filter(|child| process::parent(*child).is_ok_and(|parent| parent == pid)).collect()
        }
    }
}

/// A child is listed by the thread that made it.
fn children_by_thread(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

//! Moves a node's run directory away, whatever is wrong with it, once nothing of the node is left (P7, P15).
//!
//! Processes under a shim that answers are stopped by it as always, even if the lock or the launch file is damaged.
//! Processes without a shim are ended as [`adopt`] says. More is needed only if there is no lock at all, because
//! something else is in its place or in place of the directory. Then
//!
//! 1. a recorded process that is alive and works in this directory's `nodes/<node>` is ended, together with its parent
//!    shim;
//! 2. so is a shim that works in this very run directory, which only the agent's user can enter;
//! 3. any other process that works in either directory, or has something of the run directory open, may be the node's
//!    but is not proven to be: it is reported and left alone, and so is the directory.
//!
//! The directory keeps its content under a name in `run/` that no node can have.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use super::adopt::{self, Cannot, Known, Look, ROUNDS, WithoutShim};
use super::aside::PREFIX;
use super::files::Status;
use super::launch::{PATIENCE, RunDir};
use super::link::{Heard, Link};
use super::process::{self, Proven};
use super::protocol::{Hello, ToAgent};
use super::task::{Life, NodeTask, Stage, lost};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::supervision::NodeHappening;
use crate::crash_point;
use crate::tasks::blocking;

impl NodeTask {
    /// Carries out the order as soon as no shim is connected any more.
    pub(super) async fn try_set_aside(&mut self) {
        let Some((incarnation, timeout_ms)) = self.set_aside else { return };
        match &self.life {
            Life::Shim(shim) if shim.stage == Stage::Watching && shim.stop.is_none() => {
                let running = shim.incarnation;
                return self.stop(running, timeout_ms).await;
            }
            // It is being stopped, or is about to leave.
            Life::Shim(_) => return,
            // This releases the lock.
            Life::Prepared(_) => self.life = Life::Nothing,
            Life::Nothing => {}
        }
        match self.end_what_is_left(incarnation).await {
            Ok(None) => {}
            Ok(Some((link, hello, launched))) => {
                let running = self.welcome(link, hello, launched).await;
                return self.stop(running, timeout_ms).await;
            }
            Err(reason) => {
                self.set_aside = None;
                return self.report(incarnation, NodeHappening::NotSetAside { reason }).await;
            }
        }
        self.set_aside = None;
        crash_point!("agent_before_set_aside", self.node.as_str());
        let (run, node) = (self.shared.context.run.clone(), self.node.clone());
        let renamed = blocking(move || rename(&run, &node)).await;
        crash_point!("agent_after_set_aside", self.node.as_str());
        let what = match renamed {
            Ok(path) => NodeHappening::SetAside { path },
            Err(error) => {
                let path = self.shared.context.run_dir(&self.node);
                NodeHappening::NotSetAside { reason: format!("cannot rename {}: {error}", path.display()) }
            }
        };
        self.report(incarnation, what).await;
    }

    /// Returns the shim, if there is one, with the incarnation that it was launched for; else nothing is left, and the
    /// end of `incarnation` is reported.
    async fn end_what_is_left(
        &mut self,
        incarnation: Incarnation,
    ) -> Result<Option<(Link, Option<Box<Hello>>, Incarnation)>, String> {
        match self.look(PATIENCE).await {
            Look::Absent => {}
            Look::Exited { incarnation, process, exit } => {
                self.report_exited(incarnation, process, exit).await;
                return Ok(None);
            }
            Look::Shim { link, hello, launch } => return Ok(Some((link, hello, launch.incarnation))),
            Look::Foreign(foreign) => return Err(format!("{foreign}; it is not signalled, and nothing was set aside")),
            Look::Unprovable(reason) => return Err(reason),
            Look::Damaged(reason) => {
                let shim = look_without_lock(&self.shared.context, &self.node, &self.known, reason).await?;
                if let Some((link, hello)) = shim {
                    let launched = hello.incarnation;
                    return Ok(Some((link, Some(hello), launched)));
                }
            }
        }
        let process = self.known.process.clone().filter(|_| self.known.incarnation == incarnation);
        self.report_exited(incarnation, process, lost()).await;
        Ok(None)
    }
}

/// Finds out, in a damaged run directory, what is left of a node, and ends what is left without a shim. Returns the
/// shim, if one answers. `reason` says what is wrong with the directory.
async fn look_without_lock(
    context: &Arc<Context>,
    node: &NodeName,
    known: &Known,
    reason: String,
) -> Result<Option<(Link, Box<Hello>)>, String> {
    let directory = RunDir::open(context.run_dir(node)).ok().flatten().map(Arc::new);
    if let Some(directory) = &directory {
        if let Ok(mut link) = Link::connect(directory).await {
            return match tokio::time::timeout(PATIENCE, link.hear()).await {
                Ok(Heard::Message(ToAgent::Hello(hello))) if hello.node == *node => Ok(Some((link, hello))),
                Ok(Heard::Message(_) | Heard::Closed(_) | Heard::Silent) | Err(_) => Err(reason),
            };
        }
        if directory.open_lock().is_ok() {
            return Err(reason);
        }
    }
    let (context, node, known) = (Arc::clone(context), node.clone(), known.clone());
    let ended = adopt::blocking(move || {
        // With the directory, it would require the lock.
        let left = WithoutShim { context, node, known, directory: None };
        left.end_without_lock(directory.as_deref())
    });
    match ended.await {
        Ok(()) => Ok(None),
        Err(Cannot::Foreign(foreign)) => Err(format!("{foreign}; it is not signalled, and nothing was set aside")),
        Err(Cannot::Unprovable(why) | Cannot::Damaged(why)) => Err(format!("{why} ({reason})")),
    }
}

impl WithoutShim {
    fn end_without_lock(&self, directory: Option<&RunDir>) -> Result<(), Cannot> {
        let status = directory.and_then(adopt::read::<Status>);
        let recorded = status.as_ref().and_then(|status| status.process.as_ref());
        for _ in 0..ROUNDS {
            let mut ours = self.by_record([self.known.process.as_ref(), recorded])?;
            let mut shims: Vec<Proven> = ours.iter().filter_map(Proven::shim_of).collect();
            ours.extend(self.lingering(true)?);
            if let Some(directory) = directory {
                let is_new = |pid: &u32| shims.iter().chain(&ours).all(|one| one.pid != *pid);
                let found: Vec<u32> = process::all_pids().filter(is_new).collect();
                shims.extend(found.into_iter().filter_map(|pid| Proven::shim_in(pid, directory.as_file())));
            }
            if ours.is_empty() && shims.is_empty() {
                return self.leave_alone(directory);
            }
            self.end_all(&ours)?;
            for shim in shims {
                self.end_shim(shim)?;
            }
        }
        Err(Cannot::Unprovable(format!("processes of it are left after they were ended {ROUNDS} times")))
    }

    /// Its children first: without the shim their owner is unknown.
    fn end_shim(&self, shim: Proven) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let children: Vec<Proven> =
                process::all_pids().filter_map(|pid| Proven::child_of(Some(&shim), pid).ok().flatten()).collect();
            if children.is_empty() {
                break;
            }
            self.end_all(&children)?;
        }
        self.end_all(&[shim])
    }

    /// No process that is proven ours is left. Processes that may still be ours are listed.
    fn leave_alone(&self, directory: Option<&RunDir>) -> Result<(), Cannot> {
        // As the kernel shows it.
        let run = fs::canonicalize(&self.context.run).unwrap_or_else(|_| self.context.run.clone());
        let run = run.join(self.node.as_str());
        let works = self.context.node_dir(&self.node);
        let own = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let places: BTreeSet<(u64, u64)> = directory
            .and_then(|directory| directory.as_file().metadata().ok())
            .into_iter()
            .chain(fs::metadata(&works).ok())
            .map(own)
            .collect();
        let strangers: Vec<String> = process::all_pids()
            .filter(|pid| *pid != std::process::id())
            .filter(|pid| is_busy_there(*pid, &places, &run))
            .map(|pid| process::describe(pid).to_string())
            .collect();
        if strangers.is_empty() {
            return Ok(());
        }
        Err(Cannot::Unprovable(format!(
            "whether it runs cannot be told: {} could be its, being busy in {} or {}, and cannot be proven to be; nothing was done \
             to them. End them if they are the node's, else have them leave, and repeat this",
            strangers.join(", "),
            works.display(),
            run.display()
        )))
    }
}

/// Whether a process works in one of these directories, or has something of the run directory open.
fn is_busy_there(pid: u32, places: &BTreeSet<(u64, u64)>, run: &Path) -> bool {
    let works =
        fs::metadata(format!("/proc/{pid}/cwd")).is_ok_and(|found| places.contains(&(found.dev(), found.ino())));
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    works || descriptors().any(|one| fs::read_link(one.path()).is_ok_and(|link| link.starts_with(run)))
}

/// Renames the node's run directory, or whatever is in its place, to a new name; returns that, unless there was
/// nothing.
fn rename(run: &Path, node: &NodeName) -> io::Result<Option<PathBuf>> {
    let from = run.join(node.as_str());
    let mut number = 1_u64;
    loop {
        let to = run.join(format!("{PREFIX}{node}-{number}"));
        match fs::symlink_metadata(&to) {
            Ok(_) => number += 1,
            // Nobody else creates names in there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::rename(&from, &to) {
                Ok(()) => return Ok(Some(to)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::aside::has_name;
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn whatever_lies_there_is_moved_and_nothing_that_was_moved_before_is_replaced() {
        let run = tempfile::tempdir().unwrap();
        let node = NodeName::new("w1").unwrap();
        assert_eq!(rename(run.path(), &node).unwrap(), None);
        let place = run.path().join("w1");
        std::os::unix::fs::symlink("/nowhere", &place).unwrap();
        let first = rename(run.path(), &node).unwrap().unwrap();
        fs::create_dir(&place).unwrap();
        fs::write(place.join("launch"), "x").unwrap();
        let second = rename(run.path(), &node).unwrap().unwrap();
        assert!(fs::symlink_metadata(&first).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(second.join("launch")).unwrap(), "x");
        for moved in [first, second] {
            let name = moved.file_name().unwrap();
            assert!(has_name(name) && NodeName::new(name.to_str().unwrap()).is_err(), "{name:?}");
        }
        assert!(!has_name(OsStr::new("w1")));
    }
}

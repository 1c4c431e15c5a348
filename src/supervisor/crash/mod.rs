//! Crash bundles: what is left of a node after an unrequested end, in `crash/<node>/<time>-<incarnation>/` of the state
//! directory, for later analysis.
//!
//! Promises: written by a separate task, so neither the core nor the node's restart waits for it; written aside, synced
//! and renamed, so a bundle is complete or absent; bounded in size and number; none below the floor of free space. Only
//! the owner can read a bundle, and values that look like secrets are masked in it. Best effort: an agent that is
//! killed in between has journaled the exit but kept no bundle.

mod mask;
mod report;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use tokio::sync::mpsc;

pub use report::{Core, CrashReport, ReadError, list, read};

use super::files::{Exit, Launch};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId};
use crate::tasks::{OnExit, Tasks};

/// The directory of all bundles, in the state directory.
pub const DIRECTORY: &str = "crash";
/// The directory of a bundle that is being written. No node has such a name.
const ASIDE: &str = ".new";
/// Crashes that may wait for the disk, each of at most about 100 KiB. Restarts are spaced out, so more than one per
/// node means that the disk hangs.
const WAITING: usize = 256;
/// How often expired bundles are looked for.
const PRUNE: Duration = Duration::from_secs(3600);
/// A format that sorts by time and suits directory names.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// How many bundles are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// For each node; 0: no bundles are made.
    pub keep: usize,
    pub keep_for: Duration,
    /// No bundle is made with less free space than this.
    pub space_floor: u64,
}

/// The content of a bundle.
#[derive(Debug)]
pub(super) struct Crash {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub process: Option<ProcessId>,
    pub exit: Exit,
    /// What was executed, and when the launch file was written, in seconds since 1970.
    pub launch: Option<(Launch, i64)>,
    /// `/proc/PID/limits`, soon after its start.
    pub limits: Option<String>,
    /// Its working directory, where the kernel may have put a core.
    pub directory: PathBuf,
    pub noticed: jiff::Timestamp,
}

/// The interface to the task that writes bundles.
#[derive(Debug)]
pub(super) struct Keeper {
    crashes: mpsc::Sender<Crash>,
}

impl Keeper {
    pub fn start(state_dir: &Path, options: Options, tasks: &Tasks) -> Self {
        let (crashes, mut waiting) = mpsc::channel::<Crash>(WAITING);
        let mut store = Store { directory: state_dir.join(DIRECTORY), options };
        tasks.spawn("crash bundles", OnExit::Tolerated, |token| async move {
            let mut crash = None;
            loop {
                let work = move || {
                    if let Some(crash) = crash {
                        store.add(&crash);
                    }
                    store.prune();
                    store
                };
                store = match tokio::task::spawn_blocking(work).await {
                    Ok(store) => store,
                    Err(error) => {
                        tracing::error!(%error, "no more crash bundles are made until the agent starts again");
                        return;
                    }
                };
                crash = tokio::select! {
                    biased;
                    Some(next) = waiting.recv() => Some(next),
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(PRUNE) => None,
                };
            }
        });
        Self { crashes }
    }

    /// Has a bundle made of the crash. Never waits.
    pub fn keep(&self, crash: Crash) {
        let (crash, why) = match self.crashes.try_send(crash) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(crash)) => (crash, "too many wait for the disk"),
            Err(mpsc::error::TrySendError::Closed(crash)) => (crash, "the agent ends"),
        };
        tracing::warn!(node = %crash.node, incarnation = %crash.incarnation, "no crash bundle of it: {why}");
    }
}

struct Store {
    directory: PathBuf,
    options: Options,
}

impl Store {
    fn add(&self, crash: &Crash) {
        if self.options.keep == 0 {
            return;
        }
        let (node, incarnation) = (&crash.node, crash.incarnation);
        match self.try_add(crash) {
            Ok(path) => tracing::info!(%node, %incarnation, "crash bundle in {}", path.display()),
            Err(error) => tracing::warn!(%node, %incarnation, %error, "no crash bundle of it"),
        }
    }

    fn try_add(&self, crash: &Crash) -> io::Result<PathBuf> {
        let of_node = self.directory.join(crash.node.as_str());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&of_node)?;
        let space = rustix::fs::statvfs(&of_node)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < self.options.space_floor {
            let floor = self.options.space_floor >> 20;
            return Err(io::Error::other(format!("{} MiB are free and {floor} MiB have to be", free >> 20)));
        }
        let aside = of_node.join(ASIDE);
        remove(&aside)?;
        fs::DirBuilder::new().mode(0o700).create(&aside)?;
        // Not older than the existing bundles: otherwise, after a clock was set back, the newest bundle would be
        // removed first.
        let newest = report::bundles(&of_node)?.first().and_then(|name| Some(name.split_once('-')?.0.to_owned()));
        let time = newest.into_iter().fold(crash.noticed.strftime(TIME).to_string(), Ord::max);
        let bundle = format!("{time}-{}", crash.incarnation);
        let path = of_node.join(&bundle);
        let core = take_core(crash, &aside)?.map(|core| match core {
            Taken::Moved { bytes } => Core { file: path.join(report::CORE).display().to_string(), bytes },
            Taken::Left { file, bytes } => Core { file: file.display().to_string(), bytes },
        });
        let report = report::of(crash, bundle, core);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside.join(report::REPORT))?;
        file.write_all(&serde_json::to_vec_pretty(&report)?)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        Ok(path)
    }

    /// Removes surplus and expired bundles. If one cannot be removed, it is tried again with the next crash.
    fn prune(&self) {
        if let Err(error) = self.try_prune() {
            tracing::warn!(%error, "old crash bundles stay in {}", self.directory.display());
        }
    }

    fn try_prune(&self) -> io::Result<()> {
        let nodes = match fs::read_dir(&self.directory) {
            Ok(nodes) => nodes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let keep_for = jiff::SignedDuration::try_from(self.options.keep_for).unwrap_or(jiff::SignedDuration::MAX);
        let oldest = jiff::Timestamp::now().checked_sub(keep_for).ok().map(|oldest| oldest.strftime(TIME).to_string());
        for node in nodes {
            let node = node?.path();
            for (age, bundle) in report::bundles(&node)?.into_iter().enumerate() {
                let path = node.join(&bundle);
                let is_old = oldest.as_ref().is_some_and(|oldest| bundle < *oldest);
                if age >= self.options.keep || is_old {
                    remove(&path)?;
                } else if age > 0 {
                    // Cores are large, and those of one node are much alike.
                    remove(&path.join(report::CORE))?;
                }
            }
            // Nothing is left of a node that is gone.
            if self.options.keep == 0 || report::bundles(&node)?.is_empty() {
                let _ = fs::remove_dir(&node);
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

enum Taken {
    Moved {
        bytes: u64,
    },
    /// It is on another file system, from which it would have to be copied.
    Left {
        file: PathBuf,
        bytes: u64,
    },
}

/// Moves the core that the kernel wrote into the node's directory, if that is where it writes them (core(5)). The
/// directory belongs to the node: the core must be a regular file without a second name, both before and after the
/// move.
fn take_core(crash: &Crash, aside: &Path) -> io::Result<Option<Taken>> {
    let (ExitCause::Signal(_), Some(process), Some((_, launched))) = (&crash.exit.cause, &crash.process, &crash.launch)
    else {
        return Ok(None);
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(&crash.directory, flags, Mode::empty()) else { return Ok(None) };
    for name in ["core".to_owned(), format!("core.{}", process.pid)] {
        let Ok(found) = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        // A core from before or after this process belongs to another process.
        let its_own = *launched..=crash.noticed.as_second();
        if !is_core(&found) || !its_own.contains(&found.st_mtime) {
            continue;
        }
        let to = aside.join(report::CORE);
        match rustix::fs::renameat(&directory, &name, CWD, &to) {
            Ok(()) => {}
            Err(rustix::io::Errno::XDEV) => {
                let bytes = u64::try_from(found.st_size).unwrap_or(0);
                return Ok(Some(Taken::Left { file: crash.directory.join(name), bytes }));
            }
            Err(error) => return Err(error.into()),
        }
        let moved = fs::symlink_metadata(&to)?;
        if moved.is_file() && moved.nlink() == 1 {
            return Ok(Some(Taken::Moved { bytes: moved.len() }));
        }
        remove(&to)?;
    }
    Ok(None)
}

fn is_core(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 && stat.st_size > 0
}

#[cfg(test)]
mod tests;

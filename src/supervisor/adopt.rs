//! Finds what is left of a node, and makes sure that it is either under supervision or gone.
//!
//! | lock | socket | then |
//! | --- | --- | --- |
//! | held | a shim answers | it is adopted, or its exit is taken |
//! | held | connects, no answer | it is adopted as it is on disk, and reported silent: slowness is never punished |
//! | held | nobody, for 2 s | what is proven ours is ended: the recorded process, and all processes of the node's user that hold this very lock |
//! | held | nobody, nothing proven | unprovable: no signal, no start |
//! | any | nobody, and a recorded process is alive and belongs to another state directory | this directory is a copy of that one: no signal, no start |
//! | free | a shim answers, or only connects | as if the lock were held: the node has released the lock, which both share |
//! | free, or gone | nobody | processes that hold a deleted lock of this node are ended, including its shim, which cannot be reached any more; an exit report of this incarnation counts; a recorded process is ended if it is alive and ours, and was lost if it ran in this boot; else nothing is left |
//!
//! [`process`] does the proof. A file of the run directory alone never leads to a signal: it can only name a process,
//! whose boot and start time the kernel has to confirm, and which must have this very directory's lock.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use super::cgroup;
use super::files::{self, Checked, Circumstances, Exit, Launch, Status};
use super::launch::{LOOK_AGAIN, RunDir};
use super::link::{Heard, Link};
use super::process::{self, Foreign, Live, NodeHome, Owner, Proven, Run};
use super::protocol::{Hello, ToAgent};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId};
use crate::api::report::chain;

/// How long a process without a shim may take to end after SIGTERM. Nobody reads its output or records its exit.
const GRACE: Duration = Duration::from_secs(2);
/// How often to look again: a process that is proven ours can fork while it is being ended.
pub(super) const ROUNDS: u32 = 5;

/// The records about a node.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub incarnation: Incarnation,
    pub process: Option<ProcessId>,
    /// Holders of a deleted lock of it, if they were already searched for: that takes a look at every process.
    pub lingering: Option<Vec<u32>>,
}

/// What was found.
#[derive(Debug)]
pub enum Look {
    Absent,
    /// A connected shim. Without `hello` it has not answered yet.
    Shim {
        link: Link,
        hello: Option<Box<Hello>>,
        launch: Box<Launch>,
    },
    /// The process is gone, and this is known about its end.
    Exited {
        incarnation: Incarnation,
        process: Option<ProcessId>,
        exit: Exit,
    },
    /// A recorded process is alive and belongs to another state directory.
    Foreign(Foreign),
    /// An unknown process holds the lock.
    Unprovable(String),
    /// The run directory, its lock or its launch file is damaged, so nothing is known about what may run.
    Damaged(String),
}

/// Why nothing can be done about a node.
pub(super) enum Cannot {
    Foreign(Foreign),
    Unprovable(String),
    Damaged(String),
}

impl From<String> for Cannot {
    fn from(reason: String) -> Self {
        Self::Unprovable(reason)
    }
}

/// Finds out what is left of `node`, and ends what is left without a shim. Waits for at most `patience` for processes
/// that are just ending.
pub async fn look(context: &Arc<Context>, node: &NodeName, known: &Known, patience: Duration) -> Look {
    match try_look(context, node, known, patience).await {
        Ok(look) => look,
        Err(Cannot::Foreign(foreign)) => Look::Foreign(foreign),
        Err(Cannot::Unprovable(reason)) => Look::Unprovable(reason),
        Err(Cannot::Damaged(reason)) => Look::Damaged(reason),
    }
}

async fn try_look(context: &Arc<Context>, node: &NodeName, known: &Known, patience: Duration) -> Result<Look, Cannot> {
    let path = context.run_dir(node);
    let directory = RunDir::open(path.clone())
        .map_err(|error| Cannot::Damaged(format!("cannot open {}: {error}", path.display())))?;
    let left = WithoutShim { context: Arc::clone(context), node: node.clone(), known: known.clone(), directory: None };
    let Some(directory) = directory.map(Arc::new) else {
        // The journal knows the node, but its directory was removed: a recorded process counts nevertheless.
        return blocking(move || left.nothing_holds_it()).await;
    };
    let left = WithoutShim { directory: Some(Arc::clone(&directory)), ..left };
    if context.is_copy() && left.lock()?.is_some_and(|lock| lock.nlink() > 1) {
        return Err(Cannot::Unprovable(format!(
            "{}/lock has a second name: what answers here may be the original's",
            directory.path.display()
        )));
    }
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        // Only tests whether somebody holds it; not kept.
        let is_free = {
            let directory = Arc::clone(&directory);
            let tried = move || {
                let tried = directory.try_lock().map(|lock| lock.is_some());
                tried.map_err(|error| cannot_lock(&directory, &error))
            };
            blocking(tried).await?
        };
        // Also if the lock is free: the node shares it with its shim, and may have released it for both.
        if let Ok(mut link) = Link::connect(&directory).await {
            match tokio::time::timeout_at(deadline.max(Instant::now() + LOOK_AGAIN), link.hear()).await {
                Ok(Heard::Message(ToAgent::Hello(hello))) => return adopt(node, &directory, link, Some(hello)),
                Err(_) => return adopt(node, &directory, link, None),
                // It went away meanwhile, or does not speak the shim protocol: look again.
                Ok(Heard::Message(_) | Heard::Closed(_) | Heard::Silent) => {}
            }
        }
        if is_free {
            return blocking(move || left.nothing_holds_it()).await;
        }
        if Instant::now() >= deadline {
            return blocking(move || left.end_without_shim(&directory)).await;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN);
    }
}

fn adopt(node: &NodeName, directory: &RunDir, link: Link, hello: Option<Box<Hello>>) -> Result<Look, Cannot> {
    let damaged = |what: String| Err(Cannot::Damaged(format!("its shim runs, but {what}")));
    let launch = match files::read::<Launch>(&directory.path) {
        Ok(Some(launch)) => launch,
        Ok(None) => return damaged(format!("{}/launch is gone", directory.path.display())),
        Err(error) => return damaged(format!("what it launched is unknown: {}", chain(&error))),
    };
    if let Some(hello) = &hello
        && hello.node != *node
    {
        let reason = format!("the shim of node {} answers in {}", hello.node, directory.path.display());
        return Err(reason.into());
    }
    Ok(Look::Shim { link, hello, launch: Box::new(launch) })
}

/// One look at what is left of a node without a shim that answers.
pub(super) struct WithoutShim {
    pub(super) context: Arc<Context>,
    pub(super) node: NodeName,
    pub(super) known: Known,
    /// The node's run directory, if there is one.
    pub(super) directory: Option<Arc<RunDir>>,
}

impl WithoutShim {
    /// The lock is free, or gone with its directory.
    fn nothing_holds_it(&self) -> Result<Look, Cannot> {
        let (context, known) = (&self.context, &self.known);
        let status = self.directory.as_ref().and_then(|directory| read::<Status>(directory));
        let status = status.filter(|status| status.incarnation >= known.incarnation);
        let exit = status.as_ref().and_then(|status| status.exit.clone());
        let recorded = status.as_ref().and_then(|status| status.process.as_ref());
        let scope = status.as_ref().and_then(|status| status.scope.clone());
        let mut alive = match &exit {
            Some(_) => Vec::new(),
            None => self.by_record([known.process.as_ref(), recorded])?,
        };
        let lingering = self.lingering(!alive.is_empty())?;
        if !lingering.is_empty() {
            tracing::warn!(
                node = %self.node,
                "its run directory, or the lock in it, was removed or replaced while it ran: its shim cannot be reached any more, \
                 so what is left of it is ended"
            );
        }
        let new: Vec<Proven> =
            lingering.into_iter().filter(|one| alive.iter().all(|other| other.pid != one.pid)).collect();
        alive.extend(new);
        if !alive.is_empty() {
            self.end_all(&alive)?;
        }
        self.kill_cgroup(scope.as_deref(), recorded)?;
        if let (Some(Status { incarnation, process, .. }), Some(exit)) = (&status, exit) {
            return Ok(Look::Exited { incarnation: *incarnation, process: process.clone(), exit });
        }
        // It ran in this boot and its shim did not survive to report its end. The core decides about earlier boots.
        let has_run = recorded.is_some_and(|process| process.boot_id == context.boot_id);
        if alive.is_empty() && !has_run {
            return Ok(Look::Absent);
        }
        let incarnation = status.as_ref().map_or(known.incarnation, |status| status.incarnation);
        Ok(lost(incarnation, known, status))
    }

    /// The lock is held, and no shim is there to talk to.
    fn end_without_shim(&self, directory: &RunDir) -> Result<Look, Cannot> {
        let known = &self.known;
        let launch = read::<Launch>(directory);
        let status = read::<Status>(directory);
        let incarnation = launch.as_ref().map_or(known.incarnation, |launch| launch.incarnation).max(known.incarnation);
        let recorded = status.as_ref().and_then(|status| status.process.as_ref());
        // An earlier holder of the lock would have prevented this launch, so the holder belongs to this launch.
        let run = Run { uid: uid(launch.as_ref()), directory: directory.as_file() };
        let mut strangers = None;
        for _ in 0..ROUNDS {
            let lock = directory.open_lock().map_err(|error| cannot_lock(directory, &error))?;
            let mut ours = self.by_record([known.process.as_ref(), recorded])?;
            let holders = Proven::by_lock(&lock, &run)
                .map_err(|error| format!("cannot look through /proc for its processes: {error}"))?;
            strangers = holders.strangers();
            let hidden = holders.hidden;
            ours.extend(holders.ours);
            if !ours.is_empty() {
                self.end_all(&ours)?;
            }
            let free = directory.lock_within(LOOK_AGAIN).map_err(|error| cannot_lock(directory, &error))?.is_some();
            if free {
                let status = read::<Status>(directory).filter(|status| status.incarnation == incarnation);
                return Ok(match status {
                    Some(Status { incarnation, process, exit: Some(exit), scope: _ }) => {
                        Look::Exited { incarnation, process, exit }
                    }
                    status => lost(incarnation, known, status),
                });
            }
            // A stranger may still be the node's: between its fork and the change to its user.
            if ours.is_empty() && strangers.is_none() {
                return Err(Cannot::Unprovable(format!(
                    "{}/lock is held, no shim answers, and no process could be proven to be the node's ({hidden} could not \
                     be inspected); find the holder with `fuser {0}/lock` and end it",
                    directory.path.display()
                )));
            }
        }
        if let Some(strangers) = strangers {
            let user = run.uid.map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
            return Err(Cannot::Unprovable(format!(
                "{}/lock is held by {strangers}, and the node ran as {user}: it was handed to them, they are not signalled; \
                 end them if they are the node's, then start the node again",
                directory.path.display()
            )));
        }
        let path = directory.path.display();
        Err(Cannot::Unprovable(format!("{path}/lock is still held after its processes were ended {ROUNDS} times")))
    }

    fn lock(&self) -> Result<Option<Metadata>, Cannot> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let lock = directory.open_lock().and_then(|lock| lock.metadata());
        lock.map(Some).map_err(|error| cannot_lock(directory, &error))
    }

    /// Those of the recorded processes that are alive, if they belong to this directory.
    pub(super) fn by_record<const N: usize>(&self, recorded: [Option<&ProcessId>; N]) -> Result<Vec<Proven>, Cannot> {
        let (context, lock) = (&self.context, self.lock()?);
        let directory = context.node_dir(&self.node);
        let home = NodeHome { home: &context.home, node: &self.node, lock: lock.as_ref(), directory: &directory };
        let mut alive: Vec<Proven> = Vec::new();
        for process in recorded.into_iter().flatten() {
            let pid = process.pid;
            let live = Live::find(process, &context.boot_id)
                .map_err(|error| format!("cannot tell whether its process {pid} lives: {error}"))?;
            let Some(live) = live.filter(|live| alive.iter().all(|other| other.pid != live.pid)) else { continue };
            match live.owner(&home) {
                Owner::Ours(proven) => alive.push(proven),
                Owner::Gone => {}
                Owner::Another(foreign) => return Err(Cannot::Foreign(foreign)),
                Owner::Hidden(error) => {
                    return Err(Cannot::Unprovable(format!(
                        "its process {pid} lives without its shim, and whether it is this state directory's cannot be seen \
                         ({error}); end it if it is, then start the node again"
                    )));
                }
            }
        }
        Ok(alive)
    }

    /// Holders of a deleted lock of the node. `is_suspected`: something is left that should not be.
    pub(super) fn lingering(&self, is_suspected: bool) -> Result<Vec<Proven>, String> {
        let home = &self.context.home;
        let cannot = |error: io::Error| format!("cannot look through /proc for its processes: {error}");
        let pids = match &self.known.lingering {
            Some(pids) => pids.clone(),
            None if is_suspected || self.directory.is_none() => {
                let all = process::lingering(home).map_err(cannot)?;
                all.into_iter().filter(|one| one.node == self.node).map(|one| one.pid).collect()
            }
            None => Vec::new(),
        };
        let launch = self.directory.as_ref().and_then(|directory| read::<Launch>(directory));
        let uid = uid(launch.as_ref());
        let proven = pids.into_iter().map(|pid| Proven::by_deleted_lock(pid, home, &self.node, uid));
        Ok(proven.collect::<Result<Vec<_>, _>>().map_err(cannot)?.into_iter().flatten().collect())
    }

    /// Kills what a node whose shim was killed has left in its cgroup, if it had one in this boot.
    fn kill_cgroup(&self, scope: Option<&str>, recorded: Option<&ProcessId>) -> Result<(), String> {
        let is_of_now = recorded.is_some_and(|process| process.boot_id == self.context.boot_id);
        let Some(scope) = scope.filter(|_| is_of_now && !self.context.is_copy()) else { return Ok(()) };
        let deadline = Instant::now() + GRACE;
        loop {
            match cgroup::kill_left(scope) {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Ok(false) => return Err(format!("processes in the node's cgroup {scope} were killed and do not end")),
                Err(error) => return Err(format!("cannot end what is left in the node's cgroup {scope}: {error}")),
            }
        }
    }

    pub(super) fn end_all(&self, processes: &[Proven]) -> Result<(), String> {
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        if self.context.is_copy() {
            return Err(format!(
                "its processes {pids:?} have lost their shim, and a copy of a state directory ends nothing"
            ));
        }
        tracing::warn!(?pids, "ending processes of a node that have lost their shim");
        match process::end(processes, GRACE) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("its processes {pids:?} were killed and do not end")),
            Err(error) => Err(format!("cannot end its processes {pids:?}: {error}")),
        }
    }
}

/// The user that the node's processes run as. Without a readable launch file, an agent that is root cannot know.
fn uid(launch: Option<&Launch>) -> Option<u32> {
    let own = process::own_uid();
    match launch {
        Some(launch) => Some(launch.spec.rights.user.as_ref().map_or(own, |user| user.uid)),
        None => Some(own).filter(|own| *own != 0),
    }
}

fn lost(incarnation: Incarnation, known: &Known, status: Option<Status>) -> Look {
    let recorded = status.filter(|status| status.incarnation == incarnation).and_then(|status| status.process);
    let process = recorded.or_else(|| known.process.clone().filter(|_| known.incarnation == incarnation));
    let (stdout, stderr) = (String::new(), String::new());
    let circumstances = Circumstances::default();
    let exit = Exit { cause: ExitCause::Lost, ran_ms: 0, stdout, stderr, is_lasting: false, circumstances };
    Look::Exited { incarnation, process, exit }
}

/// A file of the run directory, if it is valid.
pub(super) fn read<T: Checked>(directory: &RunDir) -> Option<T> {
    files::read(&directory.path).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "a file in a node's run directory is not used");
        None
    })
}

fn cannot_lock(directory: &RunDir, error: &std::io::Error) -> Cannot {
    Cannot::Damaged(format!("cannot try {}/lock: {error}", directory.path.display()))
}

/// Runs blocking work on files and processes outside the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Cannot> + Send + 'static,
) -> Result<T, Cannot> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Cannot::Unprovable(format!("the look at its run directory failed: {error}"))),
    }
}

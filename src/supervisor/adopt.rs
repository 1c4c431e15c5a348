//! What is left of a node, and making sure that it is either under supervision or gone.
//!
//! | lock | socket | then |
//! | --- | --- | --- |
//! | held | a shim answers | it is adopted, or its exit is taken |
//! | held | connects, no answer | it is adopted as it is on disk, and silent: slowness is never punished |
//! | held | nobody, for 2 s | what is proven ours is ended: the recorded process, and all of the node's user that hold this very lock |
//! | held | nobody, nothing proven | unprovable: no signal, no start |
//! | free | a shim answers, or only connects | as if it were held: its node has let go of the lock, which both share |
//! | free | nobody | an exit report of this incarnation counts; a recorded process is ended if it lives, and was lost if it ran in this boot; else nothing is left |
//!
//! Proof is in [`process`]. A file of the run directory alone never leads to a signal: it can only name a
//! process, whose boot and start time the kernel has to confirm.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use super::files::{self, Checked, Exit, Launch, Status};
use super::launch::{LOOK_AGAIN, RunDir};
use super::link::{Heard, Link};
use super::process::{self, Proven, Run};
use super::protocol::{Hello, ToAgent};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId};
use crate::api::report::chain;

/// How long a process without a shim may take to end after SIGTERM. Nobody reads its output, nobody records its exit.
const GRACE: Duration = Duration::from_secs(2);
/// What is proven ours can fork while it is being ended; how often to look again.
const ROUNDS: u32 = 5;

/// What is on record about a node.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub incarnation: Incarnation,
    pub process: Option<ProcessId>,
}

/// What is there.
#[derive(Debug)]
pub enum Look {
    Absent,
    /// A shim, connected. Without `hello` it has not answered yet.
    Shim {
        link: Link,
        hello: Option<Hello>,
        launch: Box<Launch>,
    },
    /// The process is gone, and this is known of its end.
    Exited {
        incarnation: Incarnation,
        process: Option<ProcessId>,
        exit: Exit,
    },
    /// The lock is held by who knows whom.
    Unprovable(String),
}

/// Finds out what is left of `node`, and ends what is left without a shim. `patience` is for what is just going away.
pub async fn look(context: &Arc<Context>, node: &NodeName, known: &Known, patience: Duration) -> Look {
    match try_look(context, node, known, patience).await {
        Ok(look) => look,
        Err(reason) => Look::Unprovable(reason),
    }
}

async fn try_look(context: &Arc<Context>, node: &NodeName, known: &Known, patience: Duration) -> Result<Look, String> {
    let path = context.run_dir(node);
    let directory = RunDir::open(path.clone()).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let Some(directory) = directory.map(Arc::new) else {
        // The journal knows it, and somebody removed the directory: the process counts all the same.
        let (context, known) = (Arc::clone(context), known.clone());
        return blocking(move || nothing_holds_it(&context, &known, None)).await;
    };
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        // Not kept: it is only to be known whether somebody has it.
        let is_free = {
            let directory = Arc::clone(&directory);
            let tried = move || {
                directory.try_lock().map(|lock| lock.is_some()).map_err(|error| cannot_lock(&directory, &error))
            };
            blocking(tried).await?
        };
        // Also where the lock is free: the node shares it with its shim, and may have let go of it for both.
        if let Ok(mut link) = Link::connect(&directory).await {
            match tokio::time::timeout_at(deadline.max(Instant::now() + LOOK_AGAIN), link.hear()).await {
                Ok(Heard::Message(ToAgent::Hello(hello))) => return adopt(node, &directory, link, Some(hello)),
                Err(_) => return adopt(node, &directory, link, None),
                // It went away in between, or is no shim of ours to talk to: look again.
                Ok(Heard::Message(_) | Heard::Closed(_) | Heard::Silent) => {}
            }
        }
        if is_free {
            let (context, known, directory) = (Arc::clone(context), known.clone(), Arc::clone(&directory));
            return blocking(move || nothing_holds_it(&context, &known, read::<Status>(&directory))).await;
        }
        if Instant::now() >= deadline {
            let (context, known) = (Arc::clone(context), known.clone());
            return blocking(move || end_without_shim(&context, &known, &directory)).await;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_AGAIN);
    }
}

fn adopt(node: &NodeName, directory: &RunDir, link: Link, hello: Option<Hello>) -> Result<Look, String> {
    let launch = match files::read::<Launch>(&directory.path) {
        Ok(Some(launch)) => launch,
        Ok(None) => return Err(format!("its shim runs, but {}/launch is gone", directory.path.display())),
        Err(error) => return Err(format!("its shim runs, but what it launched is unknown: {}", chain(&error))),
    };
    if let Some(hello) = &hello
        && hello.node != *node
    {
        return Err(format!("the shim of node {} answers in {}", hello.node, directory.path.display()));
    }
    Ok(Look::Shim { link, hello, launch: Box::new(launch) })
}

/// The lock is free.
fn nothing_holds_it(context: &Context, known: &Known, status: Option<Status>) -> Result<Look, String> {
    let status = status.filter(|status| status.incarnation >= known.incarnation);
    if let Some(Status { incarnation, process, exit: Some(exit) }) = status {
        return Ok(Look::Exited { incarnation, process, exit });
    }
    let recorded = status.as_ref().and_then(|status| status.process.as_ref());
    let alive = by_record(context, [known.process.as_ref(), recorded])?;
    // It ran in this boot and its shim did not live to tell how it ended. What an earlier boot left is the core's to name.
    let has_run = recorded.is_some_and(|process| process.boot_id == context.boot_id);
    if alive.is_empty() && !has_run {
        return Ok(Look::Absent);
    }
    let incarnation = status.as_ref().map_or(known.incarnation, |status| status.incarnation);
    if !alive.is_empty() {
        end_all(&alive)?;
    }
    Ok(lost(incarnation, known, status))
}

/// The lock is held, and no shim is there to talk to.
fn end_without_shim(context: &Context, known: &Known, directory: &RunDir) -> Result<Look, String> {
    let launch = read::<Launch>(directory);
    let status = read::<Status>(directory);
    let incarnation = launch.as_ref().map_or(known.incarnation, |launch| launch.incarnation).max(known.incarnation);
    let recorded = status.as_ref().and_then(|status| status.process.as_ref());
    // Whoever held the lock before did not let it be launched anew, so this is their launch.
    let run = Run { uid: uid(launch.as_ref()), directory: directory.as_file() };
    let mut strangers = None;
    for _ in 0..ROUNDS {
        let lock = directory.open_lock().map_err(|error| cannot_lock(directory, &error))?;
        let mut ours = by_record(context, [known.process.as_ref(), recorded])?;
        let holders = Proven::by_lock(&lock, &run)
            .map_err(|error| format!("cannot look through /proc for its processes: {error}"))?;
        strangers = holders.strangers();
        let hidden = holders.hidden;
        ours.extend(holders.ours);
        if !ours.is_empty() {
            end_all(&ours)?;
        }
        let free = directory.lock_within(LOOK_AGAIN).map_err(|error| cannot_lock(directory, &error))?.is_some();
        if free {
            let status = read::<Status>(directory).filter(|status| status.incarnation == incarnation);
            return Ok(match status {
                Some(Status { incarnation, process, exit: Some(exit) }) => Look::Exited { incarnation, process, exit },
                status => lost(incarnation, known, status),
            });
        }
        // A stranger may be the node's yet: between its fork and the change to its user.
        if ours.is_empty() && strangers.is_none() {
            return Err(format!(
                "{}/lock is held, no shim answers, and no process could be proven to be the node's ({hidden} could not be \
                 inspected); find the holder with `fuser {0}/lock` and end it",
                directory.path.display()
            ));
        }
    }
    if let Some(strangers) = strangers {
        let user = run.uid.map_or("an unknown user".to_owned(), |uid| format!("uid {uid}"));
        return Err(format!(
            "{}/lock is held by {strangers}, and the node ran as {user}: it was handed to them, they are not signalled; end \
             them if they are the node's, then start the node again",
            directory.path.display()
        ));
    }
    Err(format!("{}/lock is still held after its processes were ended {ROUNDS} times", directory.path.display()))
}

/// Whom the node's processes run as. Without a launch file that reads, an agent that is root cannot know.
fn uid(launch: Option<&Launch>) -> Option<u32> {
    let own = process::own_uid();
    match launch {
        Some(launch) => Some(launch.spec.rights.user.as_ref().map_or(own, |user| user.uid)),
        None => Some(own).filter(|own| *own != 0),
    }
}

/// Those of the recorded processes that live.
fn by_record<const N: usize>(context: &Context, recorded: [Option<&ProcessId>; N]) -> Result<Vec<Proven>, String> {
    let mut alive: Vec<Proven> = Vec::new();
    for process in recorded.into_iter().flatten() {
        let proven = Proven::by_identity(process, &context.boot_id)
            .map_err(|error| format!("cannot tell whether its process {} lives: {error}", process.pid))?;
        alive.extend(proven.filter(|proven| alive.iter().all(|other| other.pid != proven.pid)));
    }
    Ok(alive)
}

fn end_all(processes: &[Proven]) -> Result<(), String> {
    let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
    tracing::warn!(?pids, "ending processes of a node that have lost their shim");
    match process::end(processes, GRACE) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("its processes {pids:?} were killed and do not end")),
        Err(error) => Err(format!("cannot end its processes {pids:?}: {error}")),
    }
}

fn lost(incarnation: Incarnation, known: &Known, status: Option<Status>) -> Look {
    let recorded = status.filter(|status| status.incarnation == incarnation).and_then(|status| status.process);
    let process = recorded.or_else(|| known.process.clone().filter(|_| known.incarnation == incarnation));
    let exit = Exit { cause: ExitCause::Lost, ran_ms: 0, stdout: String::new(), stderr: String::new() };
    Look::Exited { incarnation, process, exit }
}

/// A file of the run directory, if it can be believed.
fn read<T: Checked>(directory: &RunDir) -> Option<T> {
    files::read(&directory.path).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "a file in a node's run directory is not used");
        None
    })
}

fn cannot_lock(directory: &RunDir, error: &std::io::Error) -> String {
    format!("cannot try {}/lock: {error}", directory.path.display())
}

/// Runs what looks at files and processes off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("the look at its run directory failed: {error}")),
    }
}

//! One task per node: carries out the core's orders and reports what it learns.
//!
//! Promises: a fact about an incarnation is reported once per run of the agent. When a connection to a shim breaks, the
//! node is looked for as after a start of the agent: it ends up under supervision, gone, or reported as blocked.
//!
//! A node's task is in one of three states: no process is known; prepared, which means that it holds the lock; or
//! connected to the shim, until the shim has gone after the acknowledged exit.

mod discovery;
mod report;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::adopt::{self, Known, Look};
use super::aside::way_out;
use super::cgroup;
use super::crash::Crash;
use super::fault::Fault;
use super::files::{self, Circumstances, Exit, LAUNCH, Launch, STATUS, Status};
use super::launch::{self, Order, PATIENCE, Preparation, Prepared, RunDir};
use super::link::{Heard, Link};
use super::orders::{Pending, Slot, SupervisorState, locked};
use super::protocol::{Hello, ToAgent, ToShim};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId};
use crate::api::report::chain;
use crate::api::rights::Limits;
use crate::api::supervision::NodeHappening;
use crate::api::survivors::Survivors;
use crate::crash_point;
use crate::tasks::{OnExit, blocking};

/// What is known about the node's process.
#[derive(Debug)]
pub(super) enum Life {
    Nothing,
    Prepared(Prepared),
    Shim(Shim),
}

/// A connection to the node's shim.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) link: Link,
    pub(super) incarnation: Incarnation,
    pub(super) stage: Stage,
    /// The stop order that the shim was given, in case the connection has to be re-established.
    pub(super) stop: Option<u64>,
    /// Whether it ends all descendants of its node. Known once it has said hello.
    subreaper: bool,
    /// It is being put into a scope, and told to go on when that is done.
    is_entering: bool,
    /// Its release, once it has said hello; shims of the first release do not say it.
    release: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its node runs or is about to run.
    Watching,
    /// Its exit is reported, but not durable yet.
    ExitReported,
    /// Its exit is durable; it is leaving.
    Acknowledged,
}

/// What a crash bundle needs to know about an exit.
#[derive(Debug)]
struct Ended {
    incarnation: Incarnation,
    process: Option<ProcessId>,
    exit: Exit,
    noticed: jiff::Timestamp,
}

/// The newest incarnation for which each fact was reported.
#[derive(Debug, Default)]
struct Reported {
    started: Incarnation,
    ready: Incarnation,
    exited: Incarnation,
}

#[derive(Debug)]
pub(super) struct NodeTask {
    pub(super) shared: Arc<SupervisorState>,
    slot: Arc<Slot>,
    pub(super) node: NodeName,
    pub(super) life: Life,
    /// How much output the shim had dropped when it was found.
    found_dropped: u64,
    /// The newest process on record.
    pub(super) known: Known,
    reported: Reported,
    /// `/proc/PID/limits` of the known process.
    limits: Option<String>,
    /// The last exit that was reported, until it is durable.
    ended: Option<Ended>,
    /// Its run directory is to be removed as soon as nothing is left.
    forget: bool,
    /// Its run directory is to be kept under another name instead; with the stop timeout.
    pub(super) set_aside: Option<(Incarnation, u64)>,
}

impl NodeTask {
    pub(super) fn new(shared: Arc<SupervisorState>, slot: Arc<Slot>, node: NodeName) -> Self {
        let (known, reported) = (Known::default(), Reported::default());
        Self {
            shared,
            slot,
            node,
            life: Life::Nothing,
            found_dropped: 0,
            known,
            reported,
            limits: None,
            ended: None,
            forget: false,
            set_aside: None,
        }
    }

    /// Works until the token is cancelled. Then it finishes what it began, and passes on the last acknowledgement,
    /// which nobody else would do before the next start. Leaving only closes the connection: the shim continues alone.
    pub(super) async fn run(mut self, token: tokio_util::sync::CancellationToken) {
        loop {
            let is_last = token.is_cancelled();
            let mut pending = std::mem::take(&mut *locked(&self.slot.pending));
            if is_last {
                let Pending { keep_crash, acknowledge, .. } = pending;
                pending = Pending { keep_crash, acknowledge, ..Pending::default() };
            }
            self.carry_out(pending).await;
            if is_last {
                return self.linger().await;
            }
            self.try_set_aside().await;
            if self.forget && self.try_forget().await {
                return;
            }
            let slot = Arc::clone(&self.slot);
            let heard = tokio::select! {
                () = slot.wake.notified() => None,
                () = token.cancelled() => None,
                heard = self.hear() => Some(heard),
            };
            if let Some(heard) = heard {
                self.take_in(heard).await;
            }
        }
    }

    /// Waits until a shim that was told to leave is gone, so that no process is left over.
    async fn linger(&mut self) {
        if let Life::Shim(shim) = &mut self.life
            && shim.stage == Stage::Acknowledged
        {
            let gone = async { while !matches!(shim.link.hear().await, Heard::Closed(_)) {} };
            if tokio::time::timeout(PATIENCE, gone).await.is_err() {
                tracing::warn!(node = %self.node, "its shim was told to go and does not");
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        match &mut self.life {
            Life::Shim(shim) => shim.link.hear().await,
            Life::Nothing | Life::Prepared(_) => std::future::pending().await,
        }
    }

    async fn carry_out(&mut self, pending: Pending) {
        let Pending { probe, disown, prepare, launch, stop, clear, set_aside, keep_crash, acknowledge, forget, ping } =
            pending;
        if disown {
            self.known = Known::default();
        }
        if let Some((known, reply)) = probe {
            let mut left = Survivors::default();
            let finding = self.probe(known, &mut left).await;
            // The caller has gone: nobody needs the answer.
            let _ = reply.send(finding);
            if let Life::Shim(Shim { incarnation, stage, subreaper, ref release, .. }) = self.life {
                self.report_release(incarnation, release.clone()).await;
                self.report_dropped(incarnation, self.found_dropped, None).await;
                self.report_left(incarnation, left).await;
                if stage == Stage::ExitReported && !subreaper {
                    self.report(incarnation, NodeHappening::HoldersOnly).await;
                }
            }
        }
        if let Some(incarnation) = keep_crash {
            self.keep_crash(incarnation).await;
        }
        if let Some(incarnation) = acknowledge {
            self.ended = self.ended.take().filter(|ended| ended.incarnation > incarnation);
            self.acknowledge(incarnation).await;
        }
        let is_old = |stop: &(Incarnation, u64)| prepare.as_ref().is_some_and(|prepare| stop.0 < prepare.incarnation);
        let (old_stop, stop) = if stop.as_ref().is_some_and(is_old) { (stop, None) } else { (None, stop) };
        if let Some((incarnation, timeout_ms)) = old_stop {
            self.stop(incarnation, timeout_ms).await;
        }
        if set_aside.is_some() {
            self.set_aside = set_aside;
        }
        if let Some(order) = prepare {
            self.forget = false;
            self.set_aside = None;
            self.prepare(order).await;
        }
        if let Some(incarnation) = launch {
            self.launch(incarnation).await;
        }
        if let Some((incarnation, timeout_ms)) = stop {
            self.stop(incarnation, timeout_ms).await;
        }
        if let (Some(incarnation), Life::Nothing) = (clear, &self.life) {
            self.clear(incarnation).await;
        }
        if let Life::Shim(shim) = &mut self.life
            && ping
            && shim.link.is_quiet()
        {
            shim.link.ask(&ToShim::Ping { token: shim.incarnation.0 });
        }
        let present = match &self.life {
            Life::Nothing => None,
            Life::Prepared(prepared) => Some(prepared.incarnation),
            Life::Shim(shim) => Some(shim.incarnation),
        };
        // A node that was started again meanwhile stays.
        self.forget |= forget.is_some_and(|forgotten| present.is_none_or(|present| present <= forgotten));
    }

    /// Collects the parts of a crash bundle before the next preparation replaces the launch file.
    async fn keep_crash(&mut self, incarnation: Incarnation) {
        let Some(Ended { process, exit, noticed, .. }) = self.ended.take_if(|ended| ended.incarnation == incarnation)
        else {
            return;
        };
        let path = self.shared.context.run_dir(&self.node);
        let launch = blocking(move || match files::read::<Launch>(&path) {
            Ok(Some(launch)) if launch.incarnation == incarnation => {
                let written = fs::metadata(path.join(LAUNCH)).ok()?.mtime();
                Some((launch, written))
            }
            // Then the bundle has no command line.
            Ok(_) | Err(_) => None,
        });
        self.shared.crashes.keep(Crash {
            node: self.node.clone(),
            incarnation,
            process,
            exit,
            launch: launch.await,
            limits: self.limits.take(),
            directory: self.shared.context.node_dir(&self.node),
            noticed,
        });
    }

    pub(super) async fn look(&self, patience: Duration) -> Look {
        adopt::look(&self.shared.context, &self.node, &self.known, patience).await
    }

    fn connect(&mut self, link: Link, incarnation: Incarnation) {
        self.life = Life::Shim(Shim {
            link,
            incarnation,
            stage: Stage::Watching,
            stop: None,
            subreaper: false,
            is_entering: false,
            release: None,
        });
    }

    /// Looks for the node while the agent runs, and reports the result; `expected` is the incarnation that is waited
    /// for. Returns whether nothing of the node is there.
    async fn settle(&mut self, expected: Incarnation, patience: Duration) -> bool {
        match self.look(patience).await {
            Look::Absent => {
                let process = self.known.process.clone().filter(|_| self.known.incarnation == expected);
                let exit = lost();
                self.report_exited(expected, process, exit).await;
                true
            }
            Look::Exited { incarnation, process, exit } => {
                self.report_exited(incarnation, process, exit).await;
                true
            }
            Look::Unprovable(reason) => {
                self.report(expected, NodeHappening::Blocked { reason }).await;
                false
            }
            Look::Damaged(reason) => {
                let reason = self.with_way_out(&reason);
                self.report(expected, NodeHappening::Blocked { reason }).await;
                false
            }
            Look::Foreign(foreign) => {
                self.report_foreign(expected, &foreign).await;
                false
            }
            Look::Shim { link, hello, launch } => {
                self.welcome(link, hello, launch.incarnation).await;
                false
            }
        }
    }

    fn with_way_out(&self, reason: &str) -> String {
        format!("{reason}; {}", way_out(&self.node))
    }

    /// Searches again for what is to be gone.
    async fn clear(&mut self, incarnation: Incarnation) {
        if self.settle(incarnation, PATIENCE).await {
            self.report(incarnation, NodeHappening::Cleared).await;
        }
    }

    /// Takes a shim under supervision that was found while the agent runs; returns its incarnation.
    pub(super) async fn welcome(
        &mut self,
        link: Link,
        hello: Option<Box<Hello>>,
        launched: Incarnation,
    ) -> Incarnation {
        let incarnation = hello.as_ref().map_or(launched, |hello| hello.incarnation);
        self.connect(link, incarnation);
        if let Some(hello) = hello {
            if let Life::Shim(shim) = &mut self.life {
                shim.link.settle();
            }
            self.take_in_message(incarnation, ToAgent::Hello(hello)).await;
        }
        incarnation
    }

    async fn acknowledge(&mut self, incarnation: Incarnation) {
        match &mut self.life {
            Life::Shim(shim) if shim.incarnation == incarnation => match shim.stage {
                Stage::ExitReported => {
                    shim.link.ask(&ToShim::Acknowledge { incarnation });
                    shim.stage = Stage::Acknowledged;
                }
                Stage::Acknowledged => {}
                Stage::Watching => {
                    tracing::warn!(node = %self.node, %incarnation, "an exit was acknowledged that nobody told")
                }
            },
            // The shim is gone, but its report may be there.
            Life::Nothing => {
                let path = self.shared.context.run_dir(&self.node);
                let removed = blocking(move || match files::read::<Status>(&path) {
                    Ok(Some(status)) if status.incarnation > incarnation => Ok(()),
                    Ok(_) | Err(_) => files::remove(&path.join(STATUS)),
                });
                if let Err(error) = removed.await {
                    // It will be reported and acknowledged once more.
                    tracing::warn!(node = %self.node, error = chain(&error), "an exit report stays");
                }
            }
            Life::Shim(_) | Life::Prepared(_) => {}
        }
    }

    async fn prepare(&mut self, order: Order) {
        let incarnation = order.incarnation;
        match &mut self.life {
            Life::Nothing => {}
            // Prepared again, perhaps with another spec. This releases the lock.
            Life::Prepared(_) => self.life = Life::Nothing,
            Life::Shim(shim) if shim.incarnation == incarnation => return,
            Life::Shim(shim) if shim.stage == Stage::Acknowledged => {
                let gone = async { while !matches!(shim.link.hear().await, Heard::Closed(_)) {} };
                if tokio::time::timeout(PATIENCE, gone).await.is_err() {
                    let reason = format!("the shim of incarnation {} was told to go and does not", shim.incarnation);
                    return self.report(incarnation, NodeHappening::Blocked { reason }).await;
                }
                self.life = Life::Nothing;
            }
            Life::Shim(shim) => {
                let found = shim.incarnation;
                return self.report_still_there(incarnation, found).await;
            }
        }
        // A process that outlived its shim may hold the lock: it is ended if it is proven ours, then there is one more
        // try.
        let mut is_last = false;
        loop {
            let (context, node, last) =
                (Arc::clone(&self.shared.context), self.node.clone(), self.known.process.clone());
            let attempt = order.clone();
            match blocking(move || launch::prepare(&context, &node, &attempt, last.as_ref())).await {
                Preparation::Prepared(prepared) => {
                    self.life = Life::Prepared(prepared);
                    crash_point!("agent_after_prepare", self.node.as_str());
                    return self.report(incarnation, NodeHappening::Prepared).await;
                }
                Preparation::PortTaken(reason) => {
                    return self.report(incarnation, NodeHappening::PortTaken { reason }).await;
                }
                Preparation::Impossible(fault) => {
                    // Not a fact about an incarnation, so it is reported as often as it is tried.
                    let Exit { cause, stdout, stderr, is_lasting, .. } = not_started(fault);
                    let what = NodeHappening::Exited { cause, process: None, stdout, stderr, is_lasting };
                    return self.report(incarnation, what).await;
                }
                Preparation::Unprovable(reason) => {
                    return self.report(incarnation, NodeHappening::Blocked { reason }).await;
                }
                Preparation::Held if is_last => {
                    let reason = "its lock is taken again and again".to_owned();
                    return self.report(incarnation, NodeHappening::Blocked { reason }).await;
                }
                Preparation::Held => {}
            }
            is_last = true;
            match self.look(Duration::ZERO).await {
                Look::Absent => {}
                Look::Exited { incarnation, process, exit } => self.report_exited(incarnation, process, exit).await,
                Look::Unprovable(reason) => return self.report(incarnation, NodeHappening::Blocked { reason }).await,
                Look::Damaged(reason) => {
                    let reason = self.with_way_out(&reason);
                    return self.report(incarnation, NodeHappening::Blocked { reason }).await;
                }
                Look::Foreign(foreign) => return self.report_foreign(incarnation, &foreign).await,
                Look::Shim { link, hello, launch } => {
                    let found = self.welcome(link, hello, launch.incarnation).await;
                    return self.report_still_there(incarnation, found).await;
                }
            }
        }
    }

    async fn launch(&mut self, incarnation: Incarnation) {
        let prepared = match std::mem::replace(&mut self.life, Life::Nothing) {
            Life::Prepared(prepared) if prepared.incarnation == incarnation => prepared,
            other => {
                let is_launched = matches!(&other, Life::Shim(shim) if shim.incarnation == incarnation);
                self.life = other;
                if !is_launched {
                    let exit = not_started("it was not prepared when it was to be launched");
                    self.report_exited(incarnation, None, exit).await;
                }
                return;
            }
        };
        crash_point!("agent_before_spawn", self.node.as_str());
        let (context, node) = (Arc::clone(&self.shared.context), self.node.clone());
        let (limits, stop_timeout) = (prepared.limits, prepared.stop_timeout);
        let runtime = self.shared.tasks.runtime().clone();
        let spawned = blocking(move || {
            // This runtime watches for the child's end.
            let _guard = runtime.enter();
            launch::spawn(&context, &node, prepared)
        });
        let (directory, child) = match spawned.await {
            Ok(spawned) => spawned,
            Err(error) => {
                let exit = not_started(Fault::of(format!("cannot start its shim: {error}"), &error));
                return self.report_exited(incarnation, None, exit).await;
            }
        };
        crash_point!("agent_after_spawn", self.node.as_str());
        let pid = child.id();
        self.reap(child);
        // Its predecessor was proven dead when it was prepared.
        self.known = Known { incarnation, ..Known::default() };
        match connect(&directory).await {
            Ok(link) => {
                self.connect(link, incarnation);
                if let Some(pid) = pid {
                    self.enter_scope(incarnation, pid, &limits, stop_timeout).await;
                }
            }
            // The listener was closed with the shim that had it.
            Err(_) => _ = self.settle(incarnation, PATIENCE).await,
        }
    }

    /// Has a shim that waits for it put into a scope, and tells it to go on, whatever came of it.
    async fn enter_scope(&mut self, incarnation: Incarnation, pid: u32, limits: &Limits, stop_timeout: Duration) {
        let context = Arc::clone(&self.shared.context);
        let Some(systemd) = context.systemd.as_ref().filter(|_| context.gives_scopes) else { return };
        if let Life::Shim(shim) = &mut self.life {
            shim.is_entering = true;
        }
        let has_entered = systemd.enter(&self.node, incarnation, pid, limits, stop_timeout).await;
        // systemd refuses a scope then, and without one the node would end last and in disorder.
        let is_too_late = !has_entered && systemd.host_goes_down().await;
        if let Life::Shim(shim) = &mut self.life {
            shim.is_entering = false;
            shim.link.ask(&match is_too_late {
                true => ToShim::Stop { incarnation, timeout_ms: 0 },
                false => ToShim::Go { incarnation },
            });
        }
    }

    /// The scope of the node's shim, if it has one.
    pub(super) fn note_scope(&self, scope: Option<String>) {
        self.shared.cgroups.set(&self.node, scope.as_deref().and_then(cgroup::id_of_node));
    }

    /// A shim of ours is our child: it must be reaped, and its exit code says nothing.
    fn reap(&self, mut child: tokio::process::Child) {
        let node = self.node.clone();
        self.shared.tasks.spawn(format!("reaper of the shim of {node}"), OnExit::Tolerated, |token| async move {
            let _ = token.run_until_cancelled(child.wait()).await;
        });
    }

    pub(super) async fn stop(&mut self, incarnation: Incarnation, timeout_ms: u64) {
        if let Life::Nothing = self.life
            && self.reported.exited < incarnation
        {
            // Blocked, or never looked for: handles whatever is there now.
            self.settle(incarnation, PATIENCE).await;
        }
        match &mut self.life {
            Life::Shim(shim) if shim.incarnation == incarnation && shim.stage == Stage::Watching => {
                let timeout_ms = shim.stop.map_or(timeout_ms, |before| before.min(timeout_ms));
                shim.stop = Some(timeout_ms);
                shim.link.ask(&ToShim::Stop { incarnation, timeout_ms });
            }
            Life::Prepared(prepared) if prepared.incarnation == incarnation => {
                self.life = Life::Nothing;
                let exit = not_started("it was stopped before it was started");
                self.report_exited(incarnation, None, exit).await;
            }
            // Already gone, or another one.
            Life::Nothing | Life::Prepared(_) | Life::Shim(_) => {}
        }
    }

    /// Removes the run directory once nothing needs it; returns whether the task is finished.
    async fn try_forget(&mut self) -> bool {
        match &self.life {
            Life::Shim(_) => return false,
            Life::Prepared(_) => self.life = Life::Nothing,
            Life::Nothing => {}
        }
        let path = self.shared.context.run_dir(&self.node);
        let removed = blocking(move || {
            let Some(directory) = RunDir::open(path.clone())? else { return Ok(true) };
            let Some(_lock) = directory.lock_within(PATIENCE)? else { return Ok(false) };
            fs::remove_dir_all(&path).map(|()| true)
        });
        let is_removed = match removed.await {
            Ok(true) => true,
            Ok(false) => {
                // A process left the node's group and holds the lock. The next start of the node, or of the agent, ends
                // it.
                tracing::warn!(node = %self.node, "its lock is still held, so its run directory stays");
                self.forget = false;
                return false;
            }
            // Harmless, and tried again at the agent's next start.
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "cannot remove its run directory");
                false
            }
        };
        self.forget = false;
        let is_over = {
            let mut slots = locked(&self.shared.slots);
            let is_over = locked(&self.slot.pending).is_empty();
            if is_over {
                slots.remove(&self.node);
            }
            is_over
        };
        if is_over && is_removed {
            self.report(Incarnation::default(), NodeHappening::Forgotten).await;
        }
        is_over
    }

    async fn take_in(&mut self, heard: Heard) {
        let Life::Shim(shim) = &mut self.life else { return };
        let incarnation = shim.incarnation;
        match heard {
            Heard::Silent => self.report(incarnation, NodeHappening::Silent).await,
            Heard::Closed(error) => {
                let stage = shim.stage;
                let (stop, subreaper) = (shim.stop, shim.subreaper);
                self.life = Life::Nothing;
                match stage {
                    Stage::Watching => {
                        tracing::warn!(node = %self.node, %incarnation, ?error, "the connection to its shim broke");
                        self.settle(incarnation, PATIENCE).await;
                        if let (Life::Shim(_), Some(timeout_ms)) = (&self.life, stop) {
                            self.stop(incarnation, timeout_ms).await;
                        }
                    }
                    // The acknowledgement is still to come, and will find the report on disk.
                    Stage::ExitReported => {}
                    // It may have died before it removed its report.
                    Stage::Acknowledged => {
                        self.acknowledge(incarnation).await;
                        if !subreaper {
                            self.clear(incarnation).await;
                        }
                    }
                }
            }
            Heard::Message(message) => {
                let was_silent = match shim.stage {
                    // It now has to close the connection.
                    Stage::Acknowledged => false,
                    Stage::Watching | Stage::ExitReported => shim.link.settle(),
                };
                if was_silent {
                    self.report(incarnation, NodeHappening::Responsive).await;
                }
                self.take_in_message(incarnation, message).await;
            }
        }
    }

    async fn take_in_message(&mut self, incarnation: Incarnation, message: ToAgent) {
        match message {
            ToAgent::Hello(hello) => {
                let Hello {
                    incarnation: named,
                    process,
                    ready,
                    exit,
                    dropped,
                    left,
                    subreaper,
                    release,
                    scope,
                    waits,
                    ..
                } = *hello;
                if named != incarnation {
                    tracing::warn!(node = %self.node, %incarnation, %named, "its shim is of another incarnation");
                    return;
                }
                if let Life::Shim(shim) = &mut self.life {
                    shim.subreaper = subreaper;
                    shim.release.clone_from(&release);
                    if waits && !shim.is_entering {
                        shim.link.ask(&ToShim::Go { incarnation });
                    }
                }
                self.note_scope(scope);
                self.report_release(incarnation, release).await;
                if let Some(process) = process.clone() {
                    self.report_started(incarnation, process).await;
                }
                if ready {
                    self.report_ready(incarnation).await;
                }
                self.report_dropped(incarnation, dropped, None).await;
                self.report_left(incarnation, left).await;
                if let Some(exit) = exit {
                    self.report_exited(incarnation, process, exit).await;
                }
            }
            ToAgent::Dropped { bytes, reason } => self.report_dropped(incarnation, bytes, reason).await,
            ToAgent::Left { survivors } => self.report_left(incarnation, survivors).await,
            ToAgent::Started { process, scope } => {
                self.note_scope(scope);
                self.report_started(incarnation, process).await;
            }
            ToAgent::Ready {} => self.report_ready(incarnation).await,
            ToAgent::Exited { process, exit } => self.report_exited(incarnation, process, exit).await,
            ToAgent::Stopping {} | ToAgent::Pong { token: _ } => {}
        }
    }
}

pub(super) fn lost() -> Exit {
    let (stdout, stderr) = (String::new(), String::new());
    let circumstances = Circumstances::default();
    Exit { cause: ExitCause::Lost, ran_ms: 0, stdout, stderr, is_lasting: false, circumstances }
}

fn not_started(fault: impl Into<Fault>) -> Exit {
    let Fault { reason, is_lasting } = fault.into();
    let (stdout, stderr, circumstances) = (String::new(), String::new(), Circumstances::default());
    Exit { cause: ExitCause::NotStarted(reason), ran_ms: 0, stdout, stderr, is_lasting, circumstances }
}

/// Connects to a shim that was just spawned. Its listener existed before it did, so there is no need to wait.
async fn connect(directory: &RunDir) -> std::io::Result<Link> {
    tokio::time::timeout_at(Instant::now() + PATIENCE, Link::connect(directory)).await?
}

//! Reports of a node's task to the agent: each fact about an incarnation once per run of the agent.

use std::fs;

use super::super::files::{Circumstances, Exit};
use super::super::output;
use super::super::process::Foreign;
use super::{Ended, Known, Life, NodeTask, Shim, Stage};
use crate::api::ids::Incarnation;
use crate::api::launch::{ExitCause, ProcessId};
use crate::api::status::NodeOutputs;
use crate::api::supervision::{NodeEvent, NodeHappening};
use crate::api::survivors::Survivors;
use crate::tasks::blocking;

/// SIGKILL, with which the kernel ends a process when memory is used up.
const KILL: i32 = 9;
/// TERM and KILL, with which a node is stopped.
const ENDING: [i32; 2] = [15, KILL];

impl NodeTask {
    pub(in crate::supervisor) async fn report_started(&mut self, incarnation: Incarnation, process: ProcessId) {
        self.known = Known { incarnation, process: Some(process.clone()), lingering: None };
        if self.reported.started < incarnation {
            self.reported.started = incarnation;
            self.read_limits(&process).await;
            self.report(incarnation, NodeHappening::Started { process }).await;
        }
    }

    /// Found while the agent runs; the next start of the agent holds because of it.
    pub(in crate::supervisor) async fn report_foreign(&mut self, incarnation: Incarnation, foreign: &Foreign) {
        let reason = format!("{foreign}; it is not signalled, and nothing is started beside it");
        self.report(incarnation, NodeHappening::Blocked { reason }).await;
    }

    /// `wanted` cannot be prepared, because the shim of `found` is connected. Facts about it are reported again.
    pub(in crate::supervisor) async fn report_still_there(&mut self, wanted: Incarnation, found: Incarnation) {
        let reason = format!("incarnation {found} is still there");
        self.report(wanted, NodeHappening::Blocked { reason }).await;
        if let (Life::Shim(Shim { stage: Stage::Watching, .. }), Some(process)) = (&self.life, &self.known.process)
            && self.known.incarnation == found
        {
            let process = process.clone();
            self.report(found, NodeHappening::Started { process }).await;
        }
    }

    pub(in crate::supervisor) async fn report_release(&self, incarnation: Incarnation, release: Option<String>) {
        if let Some(release) = release {
            self.report(incarnation, NodeHappening::Shim { release }).await;
        }
    }

    pub(in crate::supervisor) async fn report_ready(&mut self, incarnation: Incarnation) {
        if self.reported.ready < incarnation {
            self.reported.ready = incarnation;
            self.report(incarnation, NodeHappening::Ready).await;
        }
    }

    pub(in crate::supervisor) async fn report_dropped(
        &self,
        incarnation: Incarnation,
        bytes: u64,
        reason: Option<String>,
    ) {
        if bytes > 0 {
            self.report(incarnation, NodeHappening::Dropped { bytes, reason }).await;
        }
    }

    pub(in crate::supervisor) async fn report_left(&self, incarnation: Incarnation, survivors: Survivors) {
        if !survivors.is_empty() {
            self.report(incarnation, NodeHappening::Left { survivors }).await;
        }
    }

    pub(in crate::supervisor) async fn report_exited(
        &mut self,
        incarnation: Incarnation,
        process: Option<ProcessId>,
        exit: Exit,
    ) {
        if let Life::Shim(shim) = &mut self.life
            && shim.incarnation == incarnation
            && shim.stage == Stage::Watching
        {
            shim.stage = Stage::ExitReported;
        }
        if self.reported.exited < incarnation {
            self.reported.exited = incarnation;
            if matches!(&self.life, Life::Shim(shim) if shim.incarnation == incarnation && !shim.subreaper) {
                self.report(incarnation, NodeHappening::HoldersOnly).await;
            }
            let exit = self.note_end(incarnation, process.as_ref(), exit).await;
            let Exit { cause, ran_ms: _, stdout, stderr, is_lasting, circumstances: _ } = exit;
            self.report(incarnation, NodeHappening::Exited { cause, process, stdout, stderr, is_lasting }).await;
        }
    }

    pub(in crate::supervisor) async fn report(&self, incarnation: Incarnation, what: NodeHappening) {
        let event = NodeEvent { node: self.node.clone(), incarnation, what };
        // A closed channel means that the agent ends; the next agent learns it from the shim.
        let _ = self.shared.events.send(event).await;
    }

    pub(in crate::supervisor) async fn note_end(
        &mut self,
        incarnation: Incarnation,
        process: Option<&ProcessId>,
        exit: Exit,
    ) -> Exit {
        let exit = self.of_host(explained(self.with_output(exit).await)).await;
        let (process, noticed) = (process.cloned(), jiff::Timestamp::now());
        self.ended = Some(Ended { incarnation, process, exit: exit.clone(), noticed });
        exit
    }

    /// An exit in order while the host goes down is no end of the node's own.
    async fn of_host(&self, exit: Exit) -> Exit {
        let is_orderly = match exit.cause {
            ExitCause::Code(_) | ExitCause::Terminated { .. } | ExitCause::NotStarted(_) => true,
            ExitCause::Signal(signal) => ENDING.contains(&signal),
            ExitCause::Lost | ExitCause::HostRestarted | ExitCause::HostShutdown | ExitCause::OutOfMemory => false,
        };
        match &self.shared.context.systemd {
            Some(systemd) if is_orderly && systemd.host_goes_down().await => {
                Exit { cause: ExitCause::HostShutdown, ..exit }
            }
            Some(_) | None => exit,
        }
    }

    /// For a lost exit nobody kept the output: the content of the files is better than nothing.
    pub(in crate::supervisor) async fn with_output(&self, exit: Exit) -> Exit {
        match exit.cause {
            ExitCause::Lost => {
                let directory = self.shared.context.node_dir(&self.node);
                let NodeOutputs { stdout, stderr } = blocking(move || output::tails(&directory)).await;
                Exit { stdout, stderr, ..exit }
            }
            ExitCause::Code(_)
            | ExitCause::Signal(_)
            | ExitCause::HostRestarted
            | ExitCause::NotStarted(_)
            | ExitCause::HostShutdown
            | ExitCause::Terminated { .. }
            | ExitCause::OutOfMemory => exit,
        }
    }

    /// Reads the limits of a running process; they are unavailable once it is gone.
    pub(in crate::supervisor) async fn read_limits(&mut self, process: &ProcessId) {
        let path = format!("/proc/{}/limits", process.pid);
        self.limits = blocking(move || fs::read_to_string(path).ok()).await;
    }
}

/// The exit with the cause that its circumstances show.
fn explained(exit: Exit) -> Exit {
    let Circumstances { terminated, oom } = &exit.circumstances;
    let cause = match (&exit.cause, terminated) {
        (ExitCause::Signal(KILL), _) if *oom => ExitCause::OutOfMemory,
        (ExitCause::Code(_) | ExitCause::Signal(_), Some(sender)) => {
            ExitCause::Terminated { pid: sender.pid, uid: sender.uid }
        }
        (cause, _) => cause.clone(),
    };
    Exit { cause, ..exit }
}

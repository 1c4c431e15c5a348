//! Finds what an earlier run of the agent left of a node, once, before any order.

use super::super::adopt::Look;
use super::super::files::Exit;
use super::super::launch::PATIENCE;
use super::super::protocol::{Hello, ToShim};
use super::{Known, Life, NodeTask, Stage};
use crate::api::ids::Incarnation;
use crate::api::launch::{LaunchSpec, ProcessId};
use crate::api::supervision::Finding;
use crate::api::survivors::Survivors;

impl NodeTask {
    /// Finds what an earlier agent left.
    pub(in crate::supervisor) async fn probe(&mut self, known: Known, left: &mut Survivors) -> Finding {
        if !matches!(self.life, Life::Nothing) {
            return Finding::Unprovable { reason: "it is under supervision already".into() };
        }
        self.known = known;
        let look = self.look(PATIENCE).await;
        // From now on this may change.
        self.known.lingering = None;
        match look {
            Look::Absent => Finding::Absent,
            Look::Unprovable(reason) => Finding::Unprovable { reason },
            Look::Damaged(reason) => Finding::Unprovable { reason: self.with_way_out(&reason) },
            Look::Foreign(foreign) => Finding::Foreign {
                pid: foreign.pid,
                reason: foreign.to_string(),
                state_dir: foreign.state_dir,
                works_here: foreign.works_here,
            },
            Look::Exited { incarnation, process, exit } => {
                self.reported.exited = incarnation;
                self.found_exit(incarnation, process, exit).await
            }
            Look::Shim { link, hello, launch } => {
                let incarnation = hello.as_ref().map_or(launch.incarnation, |hello| hello.incarnation);
                let spec = launch.spec;
                self.connect(link, incarnation);
                match hello {
                    // Silent. The journal's information is the best available.
                    None => {
                        let process = self.known.process.clone().filter(|_| self.known.incarnation == incarnation);
                        if process.is_some() {
                            self.reported.started = incarnation;
                        }
                        Finding::Adopted { incarnation, process, ready: false, spec: Box::new(spec) }
                    }
                    Some(mut hello) => {
                        *left = std::mem::take(&mut hello.left);
                        let finding = self.found_shim(*hello, spec).await;
                        if let Finding::Adopted { process: Some(process), .. } = &finding {
                            self.read_limits(process).await;
                        }
                        finding
                    }
                }
            }
        }
    }

    pub(in crate::supervisor) async fn found_shim(&mut self, hello: Hello, spec: LaunchSpec) -> Finding {
        let Hello {
            version: _,
            node: _,
            incarnation,
            process,
            ready,
            exit,
            dropped,
            left: _,
            subreaper,
            release,
            scope,
            waits,
        } = hello;
        if let Life::Shim(shim) = &mut self.life {
            shim.link.settle();
            shim.subreaper = subreaper;
            shim.release = release;
            if waits {
                shim.link.ask(&ToShim::Go { incarnation });
            }
            self.found_dropped = dropped;
            if exit.is_some() {
                shim.stage = Stage::ExitReported;
            }
        }
        self.note_scope(scope);
        if let Some(exit) = exit {
            self.reported.exited = incarnation;
            return self.found_exit(incarnation, process, exit).await;
        }
        if let Some(process) = &process {
            self.reported.started = incarnation;
            self.known = Known { incarnation, process: Some(process.clone()), lingering: None };
        }
        if ready {
            self.reported.ready = incarnation;
        }
        Finding::Adopted { incarnation, process, ready, spec: Box::new(spec) }
    }

    pub(in crate::supervisor) async fn found_exit(
        &mut self,
        incarnation: Incarnation,
        process: Option<ProcessId>,
        exit: Exit,
    ) -> Finding {
        let exit = self.note_end(incarnation, process.as_ref(), exit).await;
        let Exit { cause, ran_ms: _, stdout, stderr, is_lasting, circumstances: _ } = exit;
        Finding::Exited { incarnation, process, cause, stdout, stderr, is_lasting }
    }
}

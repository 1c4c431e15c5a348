//! The beginning of a run: what the last run left, in the journal and among the processes.

use crate::api::event::Request;
use crate::api::ids::NodeName;
use crate::api::launch::ExitCause;
use crate::api::supervision::Finding;
use crate::api::time::Now;
use crate::journal::entry::{Entry, Life, Packed, Stage};

use super::decision::{Decision, Note};
use super::durable::waits_in_hold;
use super::seen::{Obstacle, ProcessPhase};
use super::{ATTEMPTS, Lifecycle};

impl Lifecycle {
    /// The run begins. Unfinished requests get a new attempt and a new deadline. Their requesters are gone, and get the
    /// outcome by asking again or by subscribing.
    pub(super) fn start(&self, now: Now, boot_id: &str, version: &str, pid: u32, hold: Option<&str>) -> Decision {
        let started = Entry::AgentStarted { boot_id: boot_id.to_owned(), version: version.to_owned(), pid };
        let mut decision = Decision::default().entry(started);
        let hold = self.hold_reason(boot_id, hold);
        let is_entered = hold.is_some();
        if let Some(reason) = hold {
            decision = decision.and(self.enter_hold(reason));
        }
        if self.boots_too_often(now.wall, boot_id) {
            decision = decision.and(self.spread_starts());
        }
        if let Some(config) = &self.durable.desired.config {
            decision = decision.and(self.notify_warnings(&self.check(&config.0)));
        }
        for (seq, one) in &self.durable.unfinished {
            if one.record.extras.0.asked.is_some() {
                decision = decision.note(self.deadline(now, *seq));
            }
            decision = decision.note(match &one.record.stage {
                Stage::Waiting { goal, targets } => {
                    Note::Settle { of: *seq, by: now.boot.plus_ms(self.settles_within_ms(*goal, targets)) }
                }
                Stage::Accepted => self.settles_in_time(now, *seq),
            });
            // The entry above counts the crash, if it was one; this is the attempt that follows, unless there were too
            // many.
            let crashed = !self.durable.agent.stopped && !self.durable.agent.boot_id.is_empty();
            let attempt = one.record.lost_attempts + u32::from(crashed) + 1;
            let waits = if is_entered { waits_in_hold(one) } else { self.durable.waits_for_operator(*seq) };
            if one.record.stage == Stage::Accepted || attempt > ATTEMPTS || waits {
                continue;
            }
            decision = decision.entry(Entry::RequestBegun { of: *seq, attempt });
            if let Request::Shutdown { nodes: true } = one.received.request {
                decision = decision.note(Note::WindingDown);
            }
        }
        decision
    }

    /// What was found of a node: adopted, ended, gone, or nothing that can be proven.
    pub(super) fn found(&self, now: Now, name: &NodeName, finding: &Finding) -> Decision {
        let record = self.durable.nodes.get(name);
        match finding {
            Finding::Adopted { incarnation, process, ready, spec } => {
                let phase = match process {
                    Some(_) => ProcessPhase::Present { incarnation: *incarnation },
                    None => ProcessPhase::Launching { incarnation: *incarnation },
                };
                let decision = Decision::default()
                    .note(Note::Phase { node: name.clone(), phase })
                    .note(Note::Adopted { node: name.clone(), ports: spec.ports.clone() });
                let Some(process) = process else { return decision };
                let known = record.is_some_and(|record| {
                    // A journal that lost its newest entries may have an earlier process under the same number.
                    let is_same = match &record.life {
                        Life::Up { process: known, .. } => known == process,
                        Life::Intended => true,
                        Life::Down => false,
                    };
                    record.incarnation > *incarnation || record.incarnation == *incarnation && is_same
                });
                let decision = if known {
                    decision.and(self.started(name, *incarnation, process))
                } else {
                    decision.entry(Entry::NodeAdopted {
                        node: name.clone(),
                        incarnation: *incarnation,
                        process: process.clone(),
                        spec: Packed((**spec).clone()),
                    })
                };
                let was_ready = known
                    && record.is_some_and(|r| {
                        r.incarnation == *incarnation && matches!(r.life, Life::Up { ready: true, .. })
                    });
                if *ready && !was_ready && record.is_none_or(|record| record.incarnation <= *incarnation) {
                    decision.entry(Entry::NodeReady { node: name.clone(), incarnation: *incarnation })
                } else {
                    decision
                }
            }
            Finding::Exited { incarnation, process, cause, stdout: _, stderr, is_lasting: _ } => {
                let clear = Decision::default().note(Note::Phase { node: name.clone(), phase: ProcessPhase::Clear });
                let boot_id = &self.durable.agent.boot_id;
                let cause = match (cause, process) {
                    // Its shim was told to end it while the host went down, and no agent was there any more.
                    (ExitCause::Terminated { .. }, Some(process)) if process.boot_id != *boot_id => {
                        &ExitCause::HostShutdown
                    }
                    (cause, _) => cause,
                };
                clear.and(self.exited(now, name, *incarnation, cause, process.as_ref(), stderr))
            }
            Finding::Absent => {
                let clear = Decision::default().note(Note::Phase { node: name.clone(), phase: ProcessPhase::Clear });
                let Some(record) = record else { return clear };
                let Life::Up { process, .. } = &record.life else { return clear };
                let cause = if process.boot_id == self.durable.agent.boot_id {
                    ExitCause::Lost
                } else {
                    ExitCause::HostRestarted
                };
                clear.and(self.exited(now, name, record.incarnation, &cause, Some(process), ""))
            }
            Finding::Unprovable { reason } => Decision::default()
                .note(Note::Blocked { node: name.clone(), by: Obstacle::Lock, reason: reason.clone(), at: now.boot })
                .and(self.notify_error(name, reason)),
            Finding::Foreign { pid: _, reason, state_dir: _, works_here: _ } => self.found_foreign(now, name, reason),
        }
    }
}

//! What to do about each node: the difference between the desired and the actual state, as one order at a time.

use crate::api::configuration::Node;
use crate::api::event::Notification;
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId, Readiness};
use crate::api::status::{NodeOutputs, NodeState};
use crate::api::supervision::{NodeEvent, NodeHappening, NodeOrder};
use crate::api::time::{BootTime, Now};
use crate::journal::entry::{ConfigChange, Entry, Life, NodeRecord, Packed, Verdict, Want, WantChange};

use super::agenda::Item;
use super::decision::{Decision, Note};
use super::effect::Effect;
use super::seen::{EarlyExit, NodeSeen, Obstacle, ProcessPhase, Unprepared};
use super::wake::Wake;
use super::{Lifecycle, SETTLED_MS, backoff, health, remains};

/// The interval of hellos, also after the controller welcomed us: a late peer loss makes a controller forget us.
const HELLO_MS: u64 = 15_000;
const HELLO_WELCOMED_MS: u64 = 60_000;
/// The interval of reports of the journal's head, in addition to those after changes.
const HEAD_MS: u64 = 3_600_000;
/// QUIT, ILL, TRAP, ABRT, BUS, FPE, SEGV, XCPU, XFSZ, SYS (signal(7)): signals that nobody uses to stop a process.
const DUMPS_CORE: [i32; 10] = [3, 4, 5, 6, 7, 8, 11, 24, 25, 31];
/// `Management::Agent::API::version`.
const API_VERSION: u64 = 1;

impl Lifecycle {
    /// Observes where a node's process is, before deciding what that means.
    pub(super) fn observe_node(&mut self, now: Now, event: &NodeEvent) {
        let NodeEvent { node: name, incarnation, what } = event;
        if let NodeHappening::Forgotten = what {
            self.seen.leaving.remove(name);
            return;
        }
        if let NodeHappening::Exited { cause: ExitCause::HostShutdown, .. } = what {
            self.observe_host_shutdown();
        }
        if let NodeHappening::Exited { cause, is_lasting, .. } = what {
            self.observe_end(now, name, *incarnation, cause, *is_lasting);
        }
        let asked = self.durable.nodes.get(name).is_some_and(|record| self.is_asked(name, record, *incarnation));
        let node = self.seen.node(name);
        node.newest = node.newest.max(*incarnation);
        match what {
            NodeHappening::Prepared => {
                if let ProcessPhase::Preparing { incarnation: preparing, by } = node.phase
                    && preparing == *incarnation
                {
                    node.phase = ProcessPhase::Prepared { incarnation: *incarnation, by };
                }
                node.blocked = None;
                node.observe_free();
                node.unprepared = None;
            }
            NodeHappening::Blocked { reason } => {
                node.phase = ProcessPhase::Clear;
                node.block(Obstacle::Lock, reason, now.boot);
            }
            NodeHappening::PortTaken { reason } => {
                node.phase = ProcessPhase::Clear;
                node.observe_free();
                node.block(Obstacle::Port, reason, now.boot);
            }
            NodeHappening::Started { .. } => {
                node.phase = ProcessPhase::Present { incarnation: *incarnation };
                node.blocked = None;
                node.limited_cleanup = None;
                (node.dropped, node.is_drop_told) = (0, false);
                node.unprepared = None;
            }
            NodeHappening::Shim { release } => node.shim = Some(release.clone()),
            NodeHappening::Dropped { bytes, reason: _ } => node.dropped = *bytes,
            NodeHappening::Left { survivors } => node.observe_left(*incarnation, survivors),
            NodeHappening::HoldersOnly => node.observe_first_shim(),
            NodeHappening::Cleared => node.observe_cleared(),
            NodeHappening::SetAside { path } => node.observe_set_aside(path.as_deref()),
            NodeHappening::NotSetAside { reason } => node.observe_not_set_aside(reason, now.boot),
            NodeHappening::Ready => node.early_exit = None,
            NodeHappening::Exited { cause, stdout, stderr, .. } => {
                if let ExitCause::NotStarted(_) = cause {
                    // For the preparation its lock was taken: nobody else has it any more.
                    node.blocked = None;
                    node.observe_free();
                }
                let current = match node.phase {
                    ProcessPhase::Preparing { incarnation: at, .. }
                    | ProcessPhase::Prepared { incarnation: at, .. }
                    | ProcessPhase::Launching { incarnation: at }
                    | ProcessPhase::Present { incarnation: at } => at <= *incarnation,
                    ProcessPhase::Unprobed | ProcessPhase::Clear => true,
                };
                if current {
                    node.phase = ProcessPhase::Clear;
                    node.left = None;
                    node.shim = None;
                    node.silent = false;
                    node.overdue = false;
                    node.checked_in = false;
                    node.hellos.clear();
                }
                node.outputs = (!asked).then(|| NodeOutputs { stdout: stdout.clone(), stderr: stderr.clone() });
            }
            NodeHappening::Silent => node.silent = true,
            NodeHappening::Responsive => node.silent = false,
            NodeHappening::Forgotten => {}
        }
    }

    /// Counts lasting ends in a row, and starts that failed before the launch.
    pub(super) fn observe_end(
        &mut self,
        now: Now,
        name: &NodeName,
        incarnation: Incarnation,
        cause: &ExitCause,
        is_lasting: bool,
    ) {
        let Some(record) = self.durable.nodes.get(name) else { return };
        let restart = &self.options.restart;
        let lasts = match cause {
            ExitCause::NotStarted(_) => is_lasting,
            ExitCause::Code(code) => restart.permanent_exit_codes.contains(code),
            ExitCause::Signal(_)
            | ExitCause::Lost
            | ExitCause::HostRestarted
            | ExitCause::HostShutdown
            | ExitCause::Terminated { .. }
            | ExitCause::OutOfMemory => false,
        };
        let has_lived =
            matches!(record.life, Life::Up { since, .. } if now.boot.ms_since(since) >= super::PROPER_LIFE_MS);
        let node = self.seen.nodes.change(name);
        let (before, by) = node.lasting;
        let before = if by == record.by && !has_lived { before } else { 0 };
        let lasting = if lasts { before.saturating_add(1) } else { 0 };
        node.lasting = (lasting, record.by);
        if matches!(cause, ExitCause::NotStarted(_)) && record.life == Life::Down && incarnation > record.incarnation {
            let tries = node.unprepared.filter(|before| before.by == record.by).map_or(0, |before| before.tries);
            let streak = record.streak.saturating_add(tries.max(1));
            let pause_ms =
                backoff::pause_ms(lasting).unwrap_or_else(|| backoff::delay_ms(restart, name, incarnation, streak));
            let next = now.boot.plus_ms(pause_ms);
            node.unprepared = Some(Unprepared { tries: tries + 1, by: record.by, at: now.boot, next });
        }
    }

    pub(super) fn node_event(&self, now: Now, event: &NodeEvent) -> Decision {
        let NodeEvent { node: name, incarnation, what } = event;
        match what {
            NodeHappening::Started { process } => self.started(name, *incarnation, process),
            NodeHappening::Ready => self.ready(name, *incarnation),
            NodeHappening::Exited { cause, process, stdout: _, stderr, is_lasting: _ } => {
                self.exited(now, name, *incarnation, cause, process.as_ref(), stderr)
            }
            NodeHappening::Blocked { .. } | NodeHappening::PortTaken { .. } => self.notify_obstacle(name),
            NodeHappening::Silent => {
                self.notify_error(name, "its shim does not answer; nothing is done to it until it does")
            }
            NodeHappening::Dropped { reason, bytes: _ } => self.notify_dropping(name, reason.as_deref()),
            NodeHappening::Left { survivors } => self.notify_left(name, survivors),
            NodeHappening::HoldersOnly => self.notify_first_shim(name),
            NodeHappening::Cleared => self.cleared(now, name),
            NodeHappening::SetAside { path } => {
                self.notify_set_aside(name, path.as_deref()).and(self.cleared(now, name))
            }
            NodeHappening::NotSetAside { .. } => self.notify_obstacle(name),
            NodeHappening::Prepared
            | NodeHappening::Shim { .. }
            | NodeHappening::Responsive
            | NodeHappening::Forgotten => Decision::default(),
        }
    }

    /// Nothing of the node is there: the process that the journal has as running is gone.
    fn cleared(&self, now: Now, name: &NodeName) -> Decision {
        let is_clear = self.seen.nodes.get(name).is_some_and(|node| node.phase == ProcessPhase::Clear);
        match self.durable.nodes.get(name) {
            Some(NodeRecord { life: Life::Up { process, .. }, incarnation, .. }) if is_clear => {
                self.exited(now, name, *incarnation, &ExitCause::Lost, Some(process), "")
            }
            Some(_) | None => Decision::default(),
        }
    }

    /// A node reported itself ready; identified by its name while it runs.
    pub(super) fn checked_in(&self, name: &NodeName) -> Decision {
        match self.durable.nodes.get(name) {
            Some(record) => self.ready(name, record.incarnation),
            None => Decision::default(),
        }
    }

    pub(super) fn started(&self, name: &NodeName, incarnation: Incarnation, process: &ProcessId) -> Decision {
        match self.durable.nodes.get(name) {
            Some(record) if record.incarnation == incarnation && record.life == Life::Intended => Decision::default()
                .entry(Entry::NodeStarted { node: name.clone(), incarnation, process: process.clone() }),
            Some(_) | None => Decision::default(),
        }
    }

    pub(super) fn ready(&self, name: &NodeName, incarnation: Incarnation) -> Decision {
        match self.durable.nodes.get(name) {
            Some(record)
                if record.incarnation == incarnation && matches!(record.life, Life::Up { ready: false, .. }) =>
            {
                Decision::default().entry(Entry::NodeReady { node: name.clone(), incarnation })
            }
            Some(_) | None => Decision::default(),
        }
    }

    /// Whether the end of this incarnation is intended.
    fn is_asked(&self, name: &NodeName, record: &NodeRecord, incarnation: Incarnation) -> bool {
        let was_told = self.seen.nodes.get(name).and_then(|node| node.stop_sent);
        record.want != Want::Up
            || incarnation < record.least
            || self.seen.winding_down
            || was_told.is_some_and(|(told, _)| told == incarnation)
    }

    /// P9: one entry per launch, whoever reports its end and however often.
    pub(super) fn exited(
        &self,
        now: Now,
        name: &NodeName,
        incarnation: Incarnation,
        cause: &ExitCause,
        process: Option<&ProcessId>,
        stderr: &str,
    ) -> Decision {
        let acknowledge = Decision::default()
            .effect(Effect::Order { node: name.clone(), order: NodeOrder::AcknowledgeExit { incarnation } });
        let Some(record) = self.durable.nodes.get(name) else { return acknowledge };
        let is_unstarted = matches!(cause, ExitCause::NotStarted(_));
        let news = match &record.life {
            Life::Up { process, .. } if is_unstarted && incarnation > record.incarnation => {
                // The next incarnation could not be prepared. For the attempt, the lock was taken and the last process
                // was looked for, so that one is gone and nobody saw how it ended.
                return self.exited(now, name, record.incarnation, &ExitCause::Lost, Some(process), "");
            }
            Life::Intended | Life::Up { .. } => incarnation >= record.incarnation,
            // It failed before a launch: the lock, the directory or the program was unavailable.
            Life::Down => incarnation > record.incarnation && is_unstarted,
        };
        if !news {
            return acknowledge;
        }
        let asked = self.is_asked(name, record, incarnation);
        let ran_ms = match &record.life {
            // Times of different boots cannot be compared.
            Life::Up { process, since, .. } if process.boot_id == self.durable.agent.boot_id => {
                Some(now.boot.ms_since(*since))
            }
            Life::Up { .. } | Life::Intended | Life::Down => None,
        };
        let verdict = match asked {
            true => Verdict::Rest,
            false => self.verdict(now, name, record, incarnation, cause, ran_ms),
        };
        if record.life == Life::Down && is_known(record, cause, &verdict) {
            return acknowledge;
        }
        let early = if asked { None } else { health::early_exit(incarnation, cause, ran_ms, stderr) };
        let known = match &record.life {
            Life::Up { process, .. } => Some(process.clone()),
            Life::Intended | Life::Down => None,
        };
        let message = exit_message(now, name, cause, early.as_ref(), &verdict);
        let entry = Entry::NodeExited {
            node: name.clone(),
            incarnation,
            cause: cause.clone(),
            asked,
            process: process.cloned().or(known),
            ran_ms,
            when: now.boot,
            verdict,
        };
        let early = Note::EarlyExit { node: name.clone(), exit: early };
        let crashed = match cause {
            ExitCause::Signal(signal) => !asked || DUMPS_CORE.contains(signal),
            ExitCause::Code(_) | ExitCause::Lost | ExitCause::OutOfMemory => !asked,
            ExitCause::HostRestarted
            | ExitCause::HostShutdown
            | ExitCause::Terminated { .. }
            | ExitCause::NotStarted(_) => false,
        };
        let keep = crashed.then(|| Effect::Order { node: name.clone(), order: NodeOrder::KeepCrash { incarnation } });
        let mut decision = Decision::default().entry(entry).note(early);
        if *cause == ExitCause::Lost {
            let why = remains::SHIM_GONE;
            decision = decision
                .note(Note::LimitedCleanup { node: name.clone(), why })
                .and(self.notify_limited_cleanup(name, why));
        }
        let decision = keep.into_iter().fold(decision, Decision::effect).and(acknowledge);
        match message {
            Some(message) => decision.and(self.notify_error(name, &message)),
            None => decision,
        }
    }

    /// The consequences of an unrequested end.
    fn verdict(
        &self,
        now: Now,
        name: &NodeName,
        record: &NodeRecord,
        incarnation: Incarnation,
        cause: &ExitCause,
        ran_ms: Option<u64>,
    ) -> Verdict {
        let lasting = match cause {
            ExitCause::NotStarted(_) | ExitCause::Code(_) => self.seen.nodes.get(name).map_or(0, |node| node.lasting.0),
            ExitCause::Signal(_)
            | ExitCause::Lost
            | ExitCause::HostRestarted
            | ExitCause::HostShutdown
            | ExitCause::Terminated { .. }
            | ExitCause::OutOfMemory => 0,
        };
        let end = backoff::End { incarnation, cause, ran_ms, lasting };
        backoff::verdict(&self.options.restart, name, record, &end, now.boot)
    }

    pub(super) fn advance_nodes(&mut self, now: Now) -> Option<Decision> {
        while let Some(name) = self.agenda.nodes.first().cloned() {
            self.agenda.look();
            let wake = Wake::new(now.boot);
            let decision = self.look_at_node(now, &wake, &name);
            if decision.is_some() {
                return decision;
            }
            if let Some(port) = self.durable.nodes.get(&name).and_then(|record| self.port_taken(&name, record)) {
                self.agenda.facts.ports.want(&name, port);
            }
            self.agenda.put_aside(Item::Node(name), wake.next());
        }
        None
    }

    fn look_at_node(&self, now: Now, wake: &Wake, name: &NodeName) -> Option<Decision> {
        let fallback = NodeSeen::default();
        let node = self.seen.nodes.get(name);
        if let Some(record) = self.durable.nodes.get(name) {
            // From that time on it is starting, whatever else blocks it.
            let _ = self.next_try(name, record).is_none_or(|at| wake.due(at));
            return self.advance_node(now, wake, name, record, node.unwrap_or(&fallback));
        }
        // It is in no configuration any more, or never was. In hold mode, unknown nodes that are found are not cleared
        // away.
        let node = node.filter(|_| self.durable.agent.hold.is_none())?;
        match node.phase {
            ProcessPhase::Clear if self.is_to_be_set_aside(name, node) => Some(self.order_set_aside(name, node.newest)),
            ProcessPhase::Clear if node.may_be_left() => {
                let due = |at: BootTime| self.copied().is_none() && wake.due(at);
                node.blocked
                    .as_ref()
                    .is_some_and(|blocked| due(blocked.next()))
                    .then(|| self.look_again(now, name, node.newest))
            }
            // A preparation in progress is released when it is done.
            ProcessPhase::Clear | ProcessPhase::Prepared { .. } => {
                let order = NodeOrder::Forget { incarnation: node.newest };
                Some(
                    Decision::default()
                        .effect(Effect::Order { node: name.clone(), order })
                        .note(Note::Forgotten { node: name.clone() }),
                )
            }
            ProcessPhase::Unprobed
            | ProcessPhase::Preparing { .. }
            | ProcessPhase::Launching { .. }
            | ProcessPhase::Present { .. } => None,
        }
    }

    fn advance_node(
        &self,
        now: Now,
        wake: &Wake,
        name: &NodeName,
        record: &NodeRecord,
        node: &NodeSeen,
    ) -> Option<Decision> {
        let awaited = self.await_node(now, wake, name, record, node);
        if awaited.is_some() {
            return awaited;
        }
        match node.phase {
            ProcessPhase::Unprobed | ProcessPhase::Launching { .. } => None,
            ProcessPhase::Present { incarnation } => self.advance_present(now, wake, name, record, node, incarnation),
            ProcessPhase::Preparing { by, .. } => {
                (by != record.by && self.wants_up(name, record)).then(|| self.prepare(name, record))
            }
            ProcessPhase::Prepared { incarnation, by } => {
                self.advance_prepared(now, wake, name, record, incarnation, by == record.by)
            }
            ProcessPhase::Clear => self.advance_absent(now, wake, name, record, node),
        }
    }

    /// A process runs: stop it if it is not wanted, check its readiness if it is.
    fn advance_present(
        &self,
        now: Now,
        wake: &Wake,
        name: &NodeName,
        record: &NodeRecord,
        node: &NodeSeen,
        incarnation: Incarnation,
    ) -> Option<Decision> {
        let sent = node.stop_sent.is_some_and(|(sent, _)| sent == incarnation);
        let stale = incarnation != record.incarnation;
        if !sent && (stale || (self.must_go(record) && self.may_stop(record))) {
            return Some(self.order_stop(now, name, record, incarnation));
        }
        if node.left.is_some() {
            // Its own process has ended.
            return None;
        }
        let Life::Up { since, ready: false, .. } = &record.life else { return None };
        let has_lived = match record.spec.0.readiness {
            Readiness::Alive { after_ms } => wake.due(since.plus_ms(after_ms)),
            Readiness::Checkin => false,
        };
        if node.checked_in || has_lived {
            return Some(Decision::default().entry(Entry::NodeReady { node: name.clone(), incarnation }));
        }
        let timeout_ms = self.options.ready_timeout_ms;
        if !node.overdue && wake.due(since.plus_ms(timeout_ms)) {
            let message = format!("{name} runs but has not checked in within {timeout_ms} ms; it is left running");
            return Some(self.notify_error(name, &message).note(Note::Overdue { node: name.clone() }));
        }
        None
    }

    /// Everything is prepared for a launch: record the intent, or release the preparation if the node is not wanted any
    /// more.
    fn advance_prepared(
        &self,
        now: Now,
        wake: &Wake,
        name: &NodeName,
        record: &NodeRecord,
        incarnation: Incarnation,
        current: bool,
    ) -> Option<Decision> {
        if let Life::Up { process, .. } = &record.life {
            // It was blocked, and now the lock is free: the process that the journal has as running is gone.
            let process = process.clone();
            return Some(self.exited(now, name, record.incarnation, &ExitCause::Lost, Some(&process), ""));
        }
        if !self.wants_up(name, record) {
            let order = NodeOrder::Forget { incarnation };
            return Some(
                Decision::default()
                    .effect(Effect::Order { node: name.clone(), order })
                    .note(Note::Phase { node: name.clone(), phase: ProcessPhase::Clear }),
            );
        }
        if !current {
            return Some(self.prepare(name, record));
        }
        if record.next_start.is_some_and(|at| !wake.due(at)) {
            return None;
        }
        if let Some(given_up) = &record.given_up {
            // The reason why it could not be prepared is gone.
            let retry =
                matches!(record.last_exit, Some(ExitCause::NotStarted(_))) || self.may_retry(record, given_up.at, wake);
            return retry.then(|| Decision::default().entry(Entry::NodeRetried { node: name.clone() }));
        }
        let launch = Decision::default()
            .effect(Effect::Order { node: name.clone(), order: NodeOrder::Launch { incarnation } })
            .note(Note::Phase { node: name.clone(), phase: ProcessPhase::Launching { incarnation } });
        if record.life == Life::Intended && record.incarnation == incarnation {
            return Some(launch);
        }
        let intended = Entry::LaunchIntended { node: name.clone(), incarnation, by: record.by };
        Some(Decision::default().entry(intended).and(launch))
    }

    /// No process: start one if it is wanted, its time and turn have come, and nothing blocks it.
    fn advance_absent(
        &self,
        now: Now,
        wake: &Wake,
        name: &NodeName,
        record: &NodeRecord,
        node: &NodeSeen,
    ) -> Option<Decision> {
        if self.is_to_be_set_aside(name, node) {
            return Some(self.order_set_aside(name, record.incarnation));
        }
        if let Some(blocked) = &node.blocked
            && (blocked.by != Obstacle::Port || self.wants_up(name, record))
        {
            // In a copied state directory nothing is touched.
            if self.copied().is_some() {
                return None;
            }
            if !wake.due(blocked.next()) {
                return None;
            }
            return Some(match self.wants_up(name, record) {
                true => self.prepare(name, record),
                // A node that is to be gone is not prepared: it is only looked for.
                false => self.look_again(now, name, record.incarnation),
            });
        }
        if !self.wants_up(name, record) {
            // The intent of a launch that never happened and is not wanted any more.
            let forsaken = record.life == Life::Intended && !self.is_held(name);
            let cause = ExitCause::NotStarted("not wanted any more".to_owned());
            return forsaken.then(|| self.exited(now, name, record.incarnation, &cause, None, ""));
        }
        if let Some(given_up) = &record.given_up {
            let tried = node.unprepared.map_or(given_up.at, |unprepared| unprepared.at.max(given_up.at));
            if !self.may_retry(record, tried, wake) {
                return None;
            }
            return Some(match record.last_exit {
                // Journaled as a new attempt once it can be prepared: an attempt with the same end as the last one is
                // no news.
                Some(ExitCause::NotStarted(_)) => self.prepare(name, record),
                Some(
                    ExitCause::Code(_)
                    | ExitCause::Signal(_)
                    | ExitCause::Lost
                    | ExitCause::HostRestarted
                    | ExitCause::HostShutdown
                    | ExitCause::Terminated { .. }
                    | ExitCause::OutOfMemory,
                )
                | None => Decision::default().entry(Entry::NodeRetried { node: name.clone() }),
            });
        }
        if self.next_try(name, record).is_some_and(|at| !wake.due(at)) || !self.has_turn(name) {
            return None;
        }
        if self.port_taken(name, record).is_some() || !self.may_start_another(now.boot, wake) {
            return None;
        }
        let decision = self.prepare(name, record);
        // A new launch spec may have to be journaled first.
        Some(if decision.entries.is_empty() { decision.note(Note::SpreadStart) } else { decision })
    }

    /// Whether a node that was given up may be tried again, where `at` is the time of the last try.
    fn may_retry(&self, record: &NodeRecord, at: BootTime, wake: &Wake) -> bool {
        let retry_ms = backoff::failed_retry_ms(&self.options.restart, record.last_exit.as_ref());
        retry_ms.is_some_and(|retry_ms| wake.due(at.plus_ms(retry_ms)))
    }

    /// The earliest time of the next start, after an end or a failed attempt.
    pub(super) fn next_try(&self, name: &NodeName, record: &NodeRecord) -> Option<BootTime> {
        let unprepared = self.seen.nodes.get(name).and_then(|node| node.unprepared);
        let unprepared = unprepared.filter(|unprepared| unprepared.by == record.by && record.life == Life::Down);
        record.next_start.max(unprepared.map(|unprepared| unprepared.next))
    }

    /// The agent's own duties: its settled mark and its hello.
    pub(super) fn advance_agent(&self, wake: &Wake) -> Option<Decision> {
        if !self.seen.settled && wake.due(self.seen.started.plus_ms(SETTLED_MS)) {
            let settled = Decision::default().note(Note::Settled);
            return Some(if self.seen.stopping { settled } else { settled.entry(Entry::AgentSettled) });
        }
        if wake.due(self.seen.head_told.unwrap_or(self.seen.started).plus_ms(HEAD_MS)) {
            let instance = self.options.instance.to_string();
            return Some(Decision::default().effect(Effect::TellHead { instance }).note(Note::HeadTold));
        }
        if self.seen.peers.any() {
            let period = if self.seen.welcomed { HELLO_WELCOMED_MS } else { HELLO_MS };
            if self.seen.last_hello.is_none_or(|at| wake.due(at.plus_ms(period))) {
                let instance = self.options.instance.to_string();
                let hello = Notification::NotifyAgentHello { instance, api_version: API_VERSION };
                return Some(Decision::default().effect(Effect::Notify(hello)).note(Note::HelloSent));
            }
        }
        None
    }

    /// The state of a node, derived from what is wanted, recorded and observed.
    pub(super) fn node_state(&self, name: &NodeName) -> NodeState {
        let Some(record) = self.durable.nodes.get(name) else { return NodeState::Stopped };
        let fallback = NodeSeen::default();
        let node = self.seen.nodes.get(name).unwrap_or(&fallback);
        if node.is_unknown() || node.silent {
            return NodeState::Unknown;
        }
        match &record.life {
            Life::Up { ready: true, .. } if record.incarnation >= record.least || record.want != Want::Up => {
                NodeState::Running
            }
            Life::Up { .. } => NodeState::Pending,
            Life::Intended | Life::Down if record.want != Want::Up || self.seen.winding_down => NodeState::Stopped,
            Life::Intended => NodeState::Pending,
            Life::Down if record.given_up.is_some() => NodeState::Failed,
            Life::Down if record.next_start.is_some() => NodeState::Crashed,
            Life::Down => NodeState::Pending,
        }
    }

    /// The node as configured, for notifications; one with only a name if it is in no configuration.
    pub(super) fn described(&self, name: &NodeName) -> Node {
        match self.configured(name) {
            Some(node) => node.clone(),
            None => Node {
                name: name.to_string(),
                instance: self.options.instance.to_string(),
                role: self
                    .durable
                    .nodes
                    .get(name)
                    .map_or(crate::api::configuration::ClusterRole::None, |record| record.spec.0.role),
                port: None,
                scripts: Vec::new(),
                options: Vec::new(),
                interface: None,
                cpu_affinity: None,
                env: Default::default(),
                metrics_port: None,
            },
        }
    }

    pub(super) fn notify_error(&self, name: &NodeName, message: &str) -> Decision {
        self.notify_error_about(name.to_string(), message)
    }

    /// Reports an error that concerns no node.
    pub(super) fn notify_trouble(&self, message: &str) -> Decision {
        self.notify_error_about(String::new(), message)
    }

    fn notify_error_about(&self, node: String, message: &str) -> Decision {
        let (instance, msg) = (self.options.instance.to_string(), message.to_owned());
        Decision::default().effect(Effect::Notify(Notification::NotifyError { instance, msg, node }))
    }

    /// Orders the lock, socket and launch file for the node's next process.
    ///
    /// The journaled launch spec may be out of date because the settings changed or Zeek was upgraded. Then the new one
    /// is journaled first, and failures with the old one no longer count.
    fn prepare(&self, name: &NodeName, record: &NodeRecord) -> Decision {
        let spec = self.current_spec(name).unwrap_or_else(|| record.spec.0.clone());
        if spec != record.spec.0 && self.wants_up(name, record) {
            let change = WantChange::Up { spec: Packed(spec), least: record.least };
            let nodes = vec![(name.clone(), change)];
            let by = self.durable.desired.by;
            return Decision::default().entry(Entry::DesiredChanged { by, config: ConfigChange::Keep, nodes });
        }
        // An intent without a launch is carried out under its own number: its process does not exist.
        let incarnation = match record.life {
            Life::Intended => record.incarnation,
            Life::Down | Life::Up { .. } => record.incarnation.next(),
        };
        let order = NodeOrder::Prepare { incarnation, spec: Box::new(spec), by: record.by };
        Decision::default()
            .effect(Effect::Order { node: name.clone(), order })
            .note(Note::Phase { node: name.clone(), phase: ProcessPhase::Preparing { incarnation, by: record.by } })
    }
}

/// The message about an unrequested end.
fn exit_message(
    now: Now,
    name: &NodeName,
    cause: &ExitCause,
    early: Option<&EarlyExit>,
    verdict: &Verdict,
) -> Option<String> {
    let how = match (early, cause) {
        (Some(early), _) => early.what.clone(),
        (None, ExitCause::NotStarted(reason)) => format!("could not be started: {reason}"),
        // It is started with the host.
        (None, ExitCause::HostShutdown) => return None,
        (
            None,
            ExitCause::Code(_)
            | ExitCause::Signal(_)
            | ExitCause::Lost
            | ExitCause::HostRestarted
            | ExitCause::Terminated { .. }
            | ExitCause::OutOfMemory,
        ) => format!("ended ({cause})"),
    };
    match verdict {
        Verdict::Rest => None,
        Verdict::RestartAt(at) => Some(format!("{name} {how}; starting it again in {} ms", at.ms_since(now.boot))),
        Verdict::GiveUp { reason } if early.is_some() => Some(format!("{name} failed: {reason}; it {how}")),
        Verdict::GiveUp { reason } => Some(format!("{name} failed: {reason}")),
    }
}

/// A start that failed like the one before, with the same consequence, is no news.
fn is_known(record: &NodeRecord, cause: &ExitCause, verdict: &Verdict) -> bool {
    record.last_exit.as_ref() == Some(cause)
        && match verdict {
            Verdict::RestartAt(_) => record.next_start.is_some() && record.given_up.is_none(),
            Verdict::GiveUp { .. } => record.given_up.is_some(),
            Verdict::Rest => false,
        }
}

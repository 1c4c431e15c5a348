//! Requests that change the desired state: step 1 of each, and their answers.
//!
//! Step 1 makes the new desired state durable, in one batch with the attempt's number. Step 2 is waiting: the `nodes`
//! module works towards the desired state whether or not anybody waits, and `finish` answers when it is reached.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::configuration::{ClusterRole, Configuration, Node};
use crate::api::event::{DeployOptions, Notification, Request, Response};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::LaunchSpec;
use crate::api::rights::Rights;
use crate::api::time::Now;
use crate::api::validate::{self, HostFacts};
use crate::journal::entry::{
    ConfigChange, Entry, Goal, Life, NodeRecord, Outcome, Packed, Received, Stage, Want, WantChange,
};
use crate::zeek;

use super::decision::{Decision, Note};
use super::durable::Targets;
use super::effect::Effect;
use super::plan::Planned;
use super::{Lifecycle, Profile, answer};

/// A standby or a stop is answered at most this long after its nodes' stop timeouts.
pub(super) const STOP_GRACE_MS: u64 = 5_000;

/// The most nodes whose output is requested at one deadline. More would hardly fit.
const OUTPUTS_LIMIT: usize = 256;

/// Stands for the incarnation of a removed node among the targets of a configuration. No process has this number.
pub(super) const REMOVED: Incarnation = Incarnation(0);

/// The most warnings about one configuration that are reported one by one.
const WARNINGS_TOLD: usize = 16;

/// The running configuration, indexed by node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Current {
    shared: Option<zeek::SharedFiles>,
    /// The position of each node in it.
    by_name: BTreeMap<NodeName, usize>,
}

impl Lifecycle {
    /// Step 1 of a change.
    pub(super) fn plan(&self, now: Now, received: &Received) -> Decision {
        if let Some(refused) = self.refuse_in_copy(received) {
            return refused;
        }
        match &received.request {
            Request::SetConfiguration { config } => {
                self.plan_configuration(now, received, config, false, &DeployOptions::default())
            }
            Request::Deploy { config, force, how } => self.plan_configuration(now, received, config, *force, how),
            Request::AgentStandby {} => self.plan_standby(now, received),
            Request::Restart { nodes } => self.plan_restart(now, received, nodes),
            Request::StartNodes { nodes } => self.plan_start(now, received, nodes),
            Request::StopNodes { nodes, force } => self.plan_stop(now, received, nodes, *force),
            Request::Shutdown { nodes } => self.plan_shutdown(now, received, *nodes),
            Request::AdoptState {} => self.plan_adopt_state(received),
            Request::ResumeWaiting { request } => self.plan_resume(now, received, request),
            Request::DropWaiting { request } => self.plan_drop(received, request),
            Request::NodeDispatch { action, nodes } => self.plan_dispatch(received, action, nodes),
            Request::AgentWelcome {} | Request::GetNodes {} => {
                // Accepted by a release that could not answer it immediately; there is nothing to prepare.
                match self.query(received) {
                    Some(response) => self.complete(received, Outcome::Completed, response),
                    None => Decision::default(),
                }
            }
        }
    }

    /// Makes this host run exactly the configuration's nodes of this instance.
    ///
    /// If the running configuration has the same id, it is left alone unless `force` is set: controllers deploy it
    /// again on each reconnect. Only nodes that were given up are then tried again and included in the answer.
    fn plan_configuration(
        &self,
        now: Now,
        received: &Received,
        config: &Configuration,
        force: bool,
        how: &DeployOptions,
    ) -> Decision {
        let sent = match self.meant(config, how) {
            Ok(sent) => sent,
            Err(error) => return self.refuse_change(received, error),
        };
        let report = self.check(&sent);
        if !report.problems.is_empty() {
            return self.complete(received, Outcome::Rejected, self.rejection(received, &report.problems));
        }
        let running = self.durable.desired.config.as_ref();
        if !force && running.is_some_and(|running| running.0.id == sent.id) {
            let stale = how.if_plan.as_ref().and_then(|shown| self.stale(shown, &self.token(&sent, force, &[])));
            return match stale {
                Some(stale) => self.refuse_change(received, stale),
                None => self.plan_same_configuration(now, received),
            };
        }
        let config = match validate::resolve_hosts(sent.clone().into_owned(), &self.options.instance) {
            Ok(config) => config,
            Err(problems) => {
                return self.complete(received, Outcome::Rejected, self.rejection(received, &problems));
            }
        };
        let planned = self.plan_nodes(&config, force);
        if let Some(shown) = &how.if_plan
            && let Some(stale) = self.stale(shown, &self.token(&sent, force, &planned))
        {
            return self.refuse_change(received, stale);
        }
        if let Some(checking) = self.begin_preflight(now, received, &config, &planned, how) {
            return checking;
        }
        // While it was checked, nodes may have been stopped by command: that was said later, and counts.
        let is_stopped = |name: &NodeName| {
            let record = self.durable.nodes.get(name);
            self.is_checking(received) && record.is_some_and(|one| one.want == Want::Stopped && one.by > received.seq)
        };
        let stopped: Vec<NodeName> =
            planned.iter().filter(|one| is_stopped(&one.name)).map(|one| one.name.clone()).collect();
        let targets: Targets = planned
            .iter()
            .filter(|one| !stopped.contains(&one.name))
            .filter_map(|one| Some((one.name.clone(), one.least()?)))
            .collect();
        // Removed nodes are waited for as well.
        let targets: Targets = {
            let gone = planned.iter().filter(|one| one.least().is_none()).map(|one| (one.name.clone(), REMOVED));
            targets.into_iter().chain(gone).collect()
        };
        let mut changes: Vec<(NodeName, WantChange)> = planned.into_iter().filter_map(Planned::change).collect();
        changes.extend(stopped.into_iter().map(|name| (name, WantChange::Stopped)));
        let decision = self
            .supersede(received, None)
            .and(self.replace_waiting(received))
            .and(self.desire(received, ConfigChange::Set(Packed(config)), changes))
            .and(self.notify_warnings(&report));
        if targets.is_empty() {
            let done = answer::succeeded(&self.options.instance, &received.reqid, &received.request);
            return decision.and(self.complete(received, Outcome::Completed, done));
        }
        decision.and(self.wait(now, received, Goal::Ready, targets))
    }

    /// A change that is not made.
    pub(super) fn refuse_change(&self, received: &Received, error: String) -> Decision {
        let response = answer::failed(&self.options.instance, &received.reqid, &received.request, error);
        self.complete(received, Outcome::Rejected, response)
    }

    /// Nodes that were given up are tried again, and waited for like pending ones. A controller, which deploys again on
    /// each reconnect, is told immediately that they are pending.
    fn plan_same_configuration(&self, now: Now, received: &Received) -> Decision {
        let wanted = self.durable.nodes.iter().filter(|(_, record)| record.want == Want::Up);
        let (mut targets, mut retried) = (Targets::new(), Targets::new());
        for (name, record) in wanted {
            if record.given_up.is_some() {
                retried.push((name.clone(), record.incarnation.next()));
            } else if !self.is_ready(name, record.least) {
                targets.push((name.clone(), record.least));
            }
        }
        let decision = if retried.is_empty() {
            let resumed = match self.seen.winding_down {
                true => self.supersede(received, None),
                false => self.supersede_preflight(received),
            };
            resumed.and(self.replace_waiting(received)).and(self.end_hold(received))
        } else {
            let retries = retried.iter().map(|(name, _)| (name.clone(), WantChange::Retry)).collect();
            let superseded = self.supersede_preflight(received).and(self.supersede(received, Some(&retried)));
            superseded.and(self.replace_waiting(received)).and(self.desire(received, ConfigChange::Keep, retries))
        };
        targets.append(&mut retried);
        if targets.is_empty() {
            let done = answer::succeeded(&self.options.instance, &received.reqid, &received.request);
            return decision.and(self.complete(received, Outcome::Completed, done));
        }
        decision.and(self.wait(now, received, Goal::Kept, targets))
    }

    fn plan_restart(&self, now: Now, received: &Received, names: &BTreeSet<String>) -> Decision {
        let wanted = self
            .selected(names)
            .into_iter()
            .filter(|name| !names.is_empty() || self.durable.nodes.get(name).is_some_and(|r| r.want == Want::Up));
        let changes: Vec<_> = wanted
            .filter_map(|name| self.durable.nodes.get(&name).map(|record| self.anew(name.clone(), record)))
            .collect();
        if changes.is_empty() {
            let unknown = self.unknown_nodes(received);
            let outcome = if unknown.is_empty() { Outcome::Completed } else { Outcome::Rejected };
            return self.complete(received, outcome, answer::response(&received.reqid, &received.request, unknown));
        }
        self.start_anew(now, received, changes)
    }

    /// Running and starting nodes are left alone, stopped ones become wanted again, and given-up ones are retried.
    fn plan_start(&self, now: Now, received: &Received, names: &BTreeSet<String>) -> Decision {
        if let Some(refused) = self.refuse_unknown(received, names) {
            return refused;
        }
        let mut changes = Vec::new();
        let mut targets = Targets::new();
        for name in self.selected(names) {
            let Some(record) = self.durable.nodes.get(&name) else { continue };
            if record.want == Want::Up && record.life != Life::Down && !self.seen.winding_down {
                targets.push((name, record.least));
                continue;
            }
            let change = self.anew(name, record);
            targets.push((change.0.clone(), change.2));
            changes.push((change.0, change.1));
        }
        let decision = if changes.is_empty() {
            self.end_hold(received)
        } else {
            self.supersede(received, Some(&targets)).and(self.desire(received, ConfigChange::Keep, changes))
        };
        decision.and(self.wait(now, received, Goal::Restarted, targets))
    }

    pub(super) fn all_nodes(&self) -> Targets {
        let known = self.durable.nodes.iter().map(|(name, record)| (name.clone(), record.incarnation));
        known.chain(self.nameless_remains().map(|name| (name.clone(), Incarnation::default()))).collect()
    }

    /// Builds the change that gives this node a new process, by the running configuration and the current settings.
    fn anew(&self, name: NodeName, record: &NodeRecord) -> (NodeName, WantChange, Incarnation) {
        let least = record.incarnation.next();
        let spec = Packed(self.current_spec(&name).unwrap_or_else(|| record.spec.0.clone()));
        (name, WantChange::Up { spec, least }, least)
    }

    fn start_anew(&self, now: Now, received: &Received, changes: Vec<(NodeName, WantChange, Incarnation)>) -> Decision {
        let targets: Targets = changes.iter().map(|(name, _, least)| (name.clone(), *least)).collect();
        let changes = changes.into_iter().map(|(name, change, _)| (name, change)).collect();
        self.supersede(received, Some(&targets)).and(self.desire(received, ConfigChange::Keep, changes)).and(self.wait(
            now,
            received,
            Goal::Restarted,
            targets,
        ))
    }

    pub(super) fn desire(
        &self,
        received: &Received,
        config: ConfigChange,
        nodes: Vec<(NodeName, WantChange)>,
    ) -> Decision {
        let ours = self.options.instance.as_str();
        let message = match &config {
            ConfigChange::Keep => None,
            ConfigChange::Set(config) => {
                let here = config.0.nodes.iter().filter(|node| node.instance == ours).count();
                Some(format!(
                    "configuration {} is to run, with {here} nodes here (request {})",
                    config.0.id, received.seq
                ))
            }
            ConfigChange::Forget => Some(format!("standby: nodes stop, no configuration (request {})", received.seq)),
        };
        let changed = self
            .end_hold(received)
            .entry(Entry::DesiredChanged { by: received.seq, config, nodes })
            .effect(Effect::TellHead { instance: ours.to_owned() });
        match message {
            Some(msg) => changed.effect(Effect::Notify(Notification::NotifyLog {
                instance: ours.to_owned(),
                msg,
                node: String::new(),
            })),
            None => changed,
        }
    }

    pub(super) fn check(&self, config: &Configuration) -> validate::Report {
        let instance = &self.options.instance;
        let mut report = validate::check(
            config,
            &HostFacts { instance, cpus: self.options.cpus, agent_ports: &self.options.agent_ports },
        );
        let warning = match &self.options.profile {
            Profile::Zeek(options) => zeek::warning(config, Some(instance), options.version),
            Profile::Plain => None,
        };
        if let Profile::Zeek(options) = &self.options.profile {
            report.problems.splice(0..0, zeek::problem(options, config, Some(instance)));
            report.warnings.splice(0..0, zeek::unencrypted(options, config, instance));
        }
        // This warning concerns the whole configuration, so it comes first.
        report.warnings.splice(0..0, warning);
        report
    }

    /// Warnings about parts of a configuration that work but may not be intended.
    pub(super) fn notify_warnings(&self, report: &validate::Report) -> Decision {
        let warnings = &report.warnings;
        let told = warnings.iter().take(WARNINGS_TOLD).map(|warning| format!("warning: {warning}"));
        let more = warnings
            .len()
            .checked_sub(WARNINGS_TOLD + 1)
            .map(|more| format!("warning: {} more about this configuration; `config check` shows them", more + 1));
        told.chain(more).fold(Decision::default(), |decision, msg| {
            let instance = self.options.instance.to_string();
            decision.effect(Effect::Notify(Notification::NotifyLog { instance, msg, node: String::new() }))
        })
    }

    pub(super) fn wait(&self, now: Now, received: &Received, goal: Goal, targets: Targets) -> Decision {
        let by = now.boot.plus_ms(self.settles_within_ms(goal, &targets));
        let again = match goal {
            Goal::Down => {
                targets.iter().fold(Decision::default(), |all, (name, _)| all.and(self.stop_again(now, name)))
            }
            Goal::Ready | Goal::Restarted | Goal::Kept => Decision::default(),
        };
        again.entry(Entry::RequestWaits { of: received.seq, goal, targets }).note(Note::Settle { of: received.seq, by })
    }

    /// The longest that a change can take to settle, from the moment its step 1 is taken.
    pub(super) fn settles_within_ms(&self, goal: Goal, targets: &[(NodeName, Incarnation)]) -> u64 {
        match goal {
            Goal::Down => self.stop_deadline_ms(targets),
            Goal::Ready if targets.iter().all(|(_, least)| *least == REMOVED) => self.stop_deadline_ms(targets),
            // First its predecessor has to end, and its turn has to come.
            Goal::Ready | Goal::Restarted | Goal::Kept => {
                self.stop_deadline_ms(targets) + self.options.ready_timeout_ms
            }
        }
    }

    /// The longest stop timeout of these nodes, plus the stages' waits and a grace period.
    pub(super) fn stop_deadline_ms(&self, targets: &[(NodeName, Incarnation)]) -> u64 {
        let records = targets.iter().filter_map(|(name, _)| self.durable.nodes.get(name));
        let longest = records.map(|record| record.spec.0.stop_timeout_ms).max().unwrap_or(0);
        longest + 3 * self.options.stage_wait_ms + STOP_GRACE_MS
    }

    /// Earlier changes that wait for any of the same nodes (`None`: for any nodes) are answered now.
    pub(super) fn supersede(&self, by: &Received, targets: Option<&Targets>) -> Decision {
        let mut decision = match targets {
            None => self.supersede_preflight(by),
            Some(_) => Decision::default(),
        };
        for seq in self.agenda.facts.waits.waiting_for(targets.map(Vec::as_slice)) {
            let Some(one) = self.durable.unfinished.get(&seq).filter(|_| seq != by.seq) else { continue };
            if self.durable.waits_for_operator(seq) {
                continue;
            }
            let received = &one.received;
            decision = decision.and(self.superseded(received, by));
            if let Request::Shutdown { .. } = received.request {
                decision = decision.note(Note::NotWindingDown);
            }
        }
        decision
    }

    /// The answer to a superseded change.
    pub(super) fn superseded(&self, received: &Received, by: &Received) -> Decision {
        let error = if by.reqid.is_empty() {
            format!("superseded by request {}", by.seq)
        } else {
            format!("superseded by request {} (reqid {})", by.seq, by.reqid)
        };
        let response = answer::failed(&self.options.instance, &received.reqid, &received.request, error);
        self.complete(received, Outcome::Completed, response)
    }

    pub(super) fn refuse_unknown(&self, received: &Received, names: &BTreeSet<String>) -> Option<Decision> {
        let is_known = |name: &str| self.durable.nodes.get(name).is_some_and(|record| record.want != Want::Gone);
        self.refuse_but(received, names, is_known)
    }

    /// A failure that lists the unknown ones among `names`.
    pub(super) fn refuse_but(
        &self,
        received: &Received,
        names: &BTreeSet<String>,
        is_known: impl Fn(&str) -> bool,
    ) -> Option<Decision> {
        let unknown: Vec<&str> = names.iter().map(String::as_str).filter(|name| !is_known(name)).collect();
        if unknown.is_empty() {
            return None;
        }
        let error = format!("no such node on this host: {}; `nodes list` shows those there are", unknown.join(", "));
        let response = answer::failed(&self.options.instance, &received.reqid, &received.request, error);
        Some(self.complete(received, Outcome::Rejected, response))
    }

    /// Reports every problem: in one error where the API has one Result, else in one Result each.
    fn rejection(&self, received: &Received, problems: &[validate::Problem]) -> Response {
        let instance = &self.options.instance;
        let (reqid, request) = (&received.reqid, &received.request);
        if let Request::Deploy { .. } = request {
            let results = problems.iter().map(|problem| {
                let mut one = answer::result(instance, reqid, false);
                one.error = Some(problem.to_string());
                one.node = problem.node().map(str::to_owned);
                one
            });
            return answer::response(reqid, request, results.collect());
        }
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        answer::failed(instance, reqid, request, format!("invalid configuration: {}", all.join("; ")))
    }

    /// How to run a node of the running configuration under the current settings. `None`: it is in no configuration.
    pub(super) fn current_spec(&self, name: &NodeName) -> Option<LaunchSpec> {
        Some(self.launch_spec(self.current.shared.as_ref(), self.configured(name)?))
    }

    /// The node in the running configuration.
    pub(super) fn configured(&self, name: &NodeName) -> Option<&Node> {
        self.durable.desired.config.as_ref()?.0.nodes.get(*self.current.by_name.get(name)?)
    }

    /// Derived from the running configuration once, however many nodes need it.
    pub(super) fn current_configuration(&self) -> Current {
        let Some(config) = self.durable.desired.config.as_ref().map(|config| &config.0) else {
            return Current::default();
        };
        let names = config.nodes.iter().enumerate();
        let named = names.filter_map(|(index, node)| Some((NodeName::new(node.name.as_str()).ok()?, index)));
        // If two nodes have the same name, which no checked configuration allows, the first one counts.
        Current { shared: self.shared_files(config), by_name: named.rev().collect() }
    }

    pub(super) fn shared_files(&self, config: &Configuration) -> Option<zeek::SharedFiles> {
        match &self.options.profile {
            Profile::Plain => None,
            Profile::Zeek(options) => Some(zeek::SharedFiles::of(options, config)),
        }
    }

    /// How to run a node of the configuration that these files belong to.
    pub(super) fn launch_spec(&self, shared: Option<&zeek::SharedFiles>, node: &Node) -> LaunchSpec {
        let zeek::Recipe { args, env, files, secrets } = match (&self.options.profile, shared) {
            (Profile::Zeek(options), Some(shared)) => zeek::recipe(options, shared, node, &self.options.args),
            (Profile::Zeek(_) | Profile::Plain, _) => {
                let mut env = zeek::node_env(node);
                env.insert("CLUSTER_NODE".to_owned(), node.name.clone());
                zeek::Recipe { args: self.options.args.clone(), env, files: BTreeMap::new(), secrets: BTreeMap::new() }
            }
        };
        let ports = match (&self.options.profile, shared) {
            (Profile::Zeek(options), Some(shared)) => zeek::ports(options, shared, node),
            (Profile::Zeek(_) | Profile::Plain, _) => {
                [node.port, node.metrics_port].into_iter().flatten().map(|port| port.number).collect()
            }
        };
        let stop_timeout_ms = match node.role {
            ClusterRole::Logger | ClusterRole::Manager => self.options.stop_timeout_writers_ms,
            ClusterRole::Proxy | ClusterRole::Worker | ClusterRole::None => self.options.stop_timeout_ms,
        };
        LaunchSpec {
            program: self.options.program.clone(),
            args,
            env,
            role: node.role,
            ports,
            readiness: self.options.readiness,
            stop_timeout_ms,
            files,
            secrets,
            rights: Box::new(self.rights(node)),
        }
    }

    /// The rights of the node's role, plus those that the node itself requests.
    fn rights(&self, node: &Node) -> Rights {
        let granted = self.options.rights.get(&node.role).cloned().unwrap_or_default();
        Rights {
            captures: node.interface.is_some() && granted.user.is_some(),
            cpu: node.cpu_affinity.and_then(|cpu| u32::try_from(cpu).ok()),
            ..granted
        }
    }

    /// Whether the request `seq` has stopped waiting for this node. Depends on these two alone and not on the time: the
    /// targets of a request are counted, and looked at again when the node changes.
    pub(super) fn target_met(&self, seq: Seq, goal: Goal, name: &NodeName, least: Incarnation) -> bool {
        match goal {
            Goal::Ready if least == REMOVED => self.is_done_stopping(name),
            Goal::Ready | Goal::Restarted | Goal::Kept => {
                self.is_ready(name, least) || self.hopeless(name) || self.is_late(name)
            }
            Goal::Down if self.is_forced_stop(seq) => self.is_done_setting_aside(name),
            Goal::Down => self.is_done_stopping(name),
        }
    }

    /// Ready, in a process no older than `least`.
    pub(super) fn is_ready(&self, name: &NodeName, least: Incarnation) -> bool {
        self.durable
            .nodes
            .get(name)
            .is_some_and(|record| record.incarnation >= least && matches!(record.life, Life::Up { ready: true, .. }))
            && !self.has_left(name)
    }

    /// Given up, or not wanted any more: waiting cannot help.
    fn hopeless(&self, name: &NodeName) -> bool {
        self.durable.nodes.get(name).is_none_or(|record| record.given_up.is_some() || record.want != Want::Up)
    }

    pub(super) fn lives(&self, name: &NodeName, least: Incarnation) -> bool {
        self.durable
            .nodes
            .get(name)
            .is_some_and(|record| record.incarnation >= least && matches!(record.life, Life::Up { .. }))
            && !self.has_left(name)
    }

    /// Nodes whose output belongs in an answer that is due now: they run but did not become ready in time. The last
    /// output of ended nodes came with their exit.
    pub fn wants_outputs(&self, now: Now) -> Vec<NodeName> {
        let mut wanted = BTreeSet::new();
        for seq in self.agenda.requests_due(now.boot) {
            let Some(one) = self.durable.unfinished.get(&seq).filter(|one| self.is_due(now, one)) else { continue };
            if let (Request::Deploy { .. }, Stage::Waiting { goal: Goal::Ready | Goal::Kept, targets }) =
                (&one.received.request, &one.record.stage)
            {
                let late = targets.iter().filter(|(name, least)| *least != REMOVED && !self.is_ready(name, *least));
                wanted.extend(late.filter(|(name, least)| self.lives(name, *least)).map(|(name, _)| name.clone()));
            }
        }
        for name in self.agenda.nodes_due(now.boot) {
            if self.turns_late(now, &name) && !self.agenda.facts.waits.of(&name).is_empty() {
                wanted.insert(name);
            }
        }
        wanted.into_iter().take(OUTPUTS_LIMIT).collect()
    }
}

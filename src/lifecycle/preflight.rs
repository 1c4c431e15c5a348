//! The stage between accepting a configuration and planning it: a look at whether its nodes can run, before anything that runs
//! is ended.
//!
//! It takes place only where the change would end a process; where nothing runs there is nothing to protect. Its start and its
//! result are journaled. Which check is under way is known to this run alone: after a crash the request is still accepted and
//! the check begins again. Node commands go on beside it. A later configuration, standby or `shutdown --nodes` supersedes the
//! request at once, so there is never more than one.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::configuration::{Configuration, Node};
use crate::api::event::{DeployOptions, Request, Response};
use crate::api::ids::{NodeName, Seq};
use crate::api::launch::{LaunchSpec, Program};
use crate::api::preflight::{Check, Needs, Preflight, PreflightProblem, PreflightReport};
use crate::api::rights::Rights;
use crate::api::time::Now;
use crate::journal::entry::{Entry, Life, Outcome, Packed, Received};
use crate::zeek;

use super::decision::{Decision, Note};
use super::effect::Effect;
use super::plan::{Planned, PlannedChange};
use super::seen::Checking;
use super::wake::Wake;
use super::{Lifecycle, Profile, answer};

/// Whoever checks ends by itself when the time is over. If nothing is heard of it for this long after that, it is given up.
const GRACE_MS: u64 = 20_000;

/// The most programs that are run for one change.
const CHECKS: usize = 64;

impl Lifecycle {
    /// Begins the check of a change, if there has to be one. `config`: checked, hosts resolved.
    pub(super) fn begin_preflight(
        &self,
        now: Now,
        received: &Received,
        config: &Configuration,
        planned: &[Planned],
        how: &DeployOptions,
    ) -> Option<Decision> {
        let timeout_ms = self.options.preflight_ms?;
        if self.is_checking(received) || how.no_preflight || self.seen.winding_down || !self.ends_something(planned) {
            return None;
        }
        let order = self.preflight(config, planned, timeout_ms);
        let nodes: Vec<NodeName> = planned.iter().filter(|one| one.starts()).map(|one| one.name.clone()).collect();
        if nodes.is_empty() {
            return None;
        }
        let checking = Checking { of: received.seq, nodes: nodes.clone(), by: now.boot.plus_ms(timeout_ms + GRACE_MS) };
        let begun = self
            .supersede_preflight(received)
            .entry(Entry::PreflightBegun { of: received.seq, nodes })
            .note(Note::Checking { checking })
            .effect(Effect::Preflight { of: received.seq, order: Box::new(order) });
        Some(begun)
    }

    /// Whether this change is being checked, or was until now.
    pub(super) fn is_checking(&self, received: &Received) -> bool {
        self.seen.checking.as_ref().is_some_and(|checking| checking.of == received.seq)
    }

    /// Whether a process that runs would be ended.
    fn ends_something(&self, planned: &[Planned]) -> bool {
        let runs = |name: &NodeName| self.durable.nodes.get(name).is_some_and(|record| record.life != Life::Down);
        planned.iter().any(|one| !matches!(one.step, PlannedChange::Keep { .. }) && runs(&one.name))
    }

    /// A later change has taken the place of the one that is being checked.
    pub(super) fn supersede_preflight(&self, by: &Received) -> Decision {
        let Some(checking) = self.seen.checking.as_ref().filter(|checking| checking.of != by.seq) else {
            return Decision::default();
        };
        let Some(one) = self.durable.unfinished.get(&checking.of) else { return Decision::default() };
        self.superseded(&one.received, by).and(end(checking.of))
    }

    /// The check has ended: the change is planned, or refused. Late results of a superseded request are dropped.
    pub(super) fn preflight_ended(&self, now: Now, of: Seq, report: &PreflightReport) -> Decision {
        let checking = self.seen.checking.as_ref().filter(|checking| checking.of == of);
        let (Some(checking), Some(one)) = (checking, self.durable.unfinished.get(&of)) else {
            return Decision::default();
        };
        if self.seen.stopping {
            return Decision::default();
        }
        let received = &one.received;
        let ended = Decision::default().entry(Entry::PreflightEnded { of, report: Packed(report.clone()) });
        let followed = if report.problems.is_empty() {
            self.plan(now, received)
        } else {
            let response = self.preflight_failed(received, checking, report);
            self.complete(received, Outcome::Rejected, response)
        };
        ended.and(followed).note(Note::Checked)
    }

    /// Nothing was heard of the check.
    pub(super) fn preflight_overdue(&self, now: Now, wake: &Wake, seq: Seq) -> Option<Decision> {
        let checking = self.seen.checking.as_ref().filter(|checking| checking.of == seq)?;
        if !wake.due(checking.by) {
            return None;
        }
        let nodes = checking.nodes.iter().map(ToString::to_string).collect();
        let text = "the check before the change gave no result in time; `--no-preflight` makes the change without it";
        let problems = vec![PreflightProblem { nodes, text: text.to_owned() }];
        let report = PreflightReport { problems, ..PreflightReport::default() };
        Some(self.preflight_ended(now, seq, &report).effect(Effect::EndPreflight { of: seq }))
    }

    /// What `config check --host` looks at: all nodes of this host, as if each was to be started.
    pub fn preflight_of(&self, config: &Configuration) -> Result<Preflight, Vec<String>> {
        let report = self.check(config);
        if !report.problems.is_empty() {
            return Err(report.problems.iter().map(ToString::to_string).collect());
        }
        let resolved = crate::api::validate::resolve_hosts(config.clone(), &self.options.instance);
        let config = resolved.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let planned = self.plan_nodes(&config, true);
        Ok(self.preflight(&config, &planned, self.options.preflight_ms.unwrap_or(DEFAULT_MS)))
    }

    fn preflight(&self, config: &Configuration, planned: &[Planned], timeout_ms: u64) -> Preflight {
        let ours = self.options.instance.as_str();
        let here: BTreeMap<&str, &Node> =
            config.nodes.iter().filter(|node| node.instance == ours).map(|node| (node.name.as_str(), node)).collect();
        let mut checks: Vec<Check> = Vec::new();
        let (mut needs, mut skipped) = (Vec::new(), 0);
        for one in planned.iter().filter(|one| one.starts()) {
            let (Some(spec), Some(node)) = (one.spec(), here.get(one.name.as_str())) else { continue };
            let (spec, is_run) = self.check_spec(spec);
            let is_full = checks.len() >= CHECKS;
            match checks.iter_mut().find(|check| is_alike(&check.spec, &spec)) {
                Some(check) => check.nodes.push(one.name.clone()),
                None if is_full => skipped += 1,
                None => checks.push(Check { nodes: vec![one.name.clone()], spec, is_run }),
            }
            let ports = one.spec().map(|spec| spec.ports.clone()).unwrap_or_default();
            needs.push(Needs { node: one.name.clone(), interface: self.host_interface(node), ports });
        }
        let pinned = |rights: &Rights| rights.cpu;
        let known = self.durable.nodes.values();
        let node_cpus: BTreeSet<u32> = known
            .clone()
            .filter_map(|record| pinned(&record.spec.0.rights))
            .chain(planned.iter().filter_map(|one| pinned(&one.spec()?.rights)))
            .collect();
        let own_ports: BTreeSet<u16> =
            known.filter(|record| record.life != Life::Down).flat_map(|record| record.spec.0.ports.clone()).collect();
        Preflight {
            checks,
            needs,
            own_ports: own_ports.into_iter().collect(),
            node_cpus: node_cpus.into_iter().collect(),
            problems: self.fanout_clashes(here.values().copied()),
            skipped,
            timeout_ms,
        }
    }

    /// How the program is run to be checked, and whether it is.
    fn check_spec(&self, spec: &LaunchSpec) -> (LaunchSpec, bool) {
        match (&self.options.profile, &spec.program) {
            (Profile::Zeek(_), Program::Path(_)) => {
                let args = zeek::check_arguments(&spec.args);
                (LaunchSpec { args, ports: Vec::new(), ..spec.clone() }, true)
            }
            (Profile::Zeek(_) | Profile::Plain, _) => (spec.clone(), false),
        }
    }

    /// The interface of the host that the node opens. Other packet sources than the two that Zeek brings name other things.
    fn host_interface(&self, node: &Node) -> Option<String> {
        let Profile::Zeek(_) = &self.options.profile else { return None };
        let interface = node.interface.as_deref()?;
        match interface.split_once("::") {
            None => Some(interface.to_owned()),
            Some(("af_packet", name)) => Some(name.to_owned()),
            Some(_) => None,
        }
    }

    /// The kernel ties a fanout group to one interface: nodes with the same id on two of them cannot both run.
    fn fanout_clashes<'a>(&self, nodes: impl Iterator<Item = &'a Node>) -> Vec<PreflightProblem> {
        let Profile::Zeek(_) = &self.options.profile else { return Vec::new() };
        let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for node in nodes {
            let interface = node.interface.as_deref().and_then(|interface| interface.strip_prefix("af_packet::"));
            let id = node.options.iter().rfind(|option| option.name == "AF_Packet::fanout_id");
            if let (Some(interface), Some(id)) = (interface, id) {
                groups.entry(id.value.trim()).or_default().entry(interface).or_default().push(&node.name);
            }
        }
        let clashes = groups.into_iter().filter(|(_, interfaces)| interfaces.len() > 1);
        clashes
            .map(|(id, interfaces)| {
                let told: Vec<String> = interfaces
                    .iter()
                    .map(|(interface, nodes)| format!("{} on {interface}", nodes.join(", ")))
                    .collect();
                let text = format!(
                    "AF_Packet::fanout_id {id} is on several interfaces ({}), and a fanout group has one: give each interface \
                     an id of its own",
                    told.join("; ")
                );
                let nodes = interfaces.values().flatten().map(|node| (*node).to_owned()).collect();
                PreflightProblem { nodes, text }
            })
            .collect()
    }

    /// Every node that was to be started is answered: with what is wrong with it, or with why it was left alone.
    fn preflight_failed(&self, received: &Received, checking: &Checking, report: &PreflightReport) -> Response {
        let instance = &self.options.instance;
        let (reqid, request) = (&received.reqid, &received.request);
        let texts = |node: &NodeName| -> Vec<&str> {
            let is_its = |problem: &&PreflightProblem| problem.nodes.iter().any(|name| name == node.as_str());
            report.problems.iter().filter(is_its).map(|problem| problem.text.as_str()).collect()
        };
        if let Request::Deploy { .. } = request {
            let first = report.problems.iter().flat_map(|problem| &problem.nodes).next().cloned().unwrap_or_default();
            let results = checking.nodes.iter().map(|node| {
                let texts = texts(node);
                let error = match texts.is_empty() {
                    true => format!("left as it was: {first} could not run"),
                    false => format!("would not run, so nothing was changed: {}", texts.join("\n")),
                };
                answer::of_node(instance, reqid, node, Some(error))
            });
            return answer::response(reqid, request, results.collect());
        }
        let told = report.problems.iter().map(|problem| format!("{}: {}", problem.nodes.join(", "), problem.text));
        let error = format!("nothing was changed, since nodes would not run: {}", told.collect::<Vec<_>>().join("; "));
        answer::failed(instance, reqid, request, error)
    }
}

/// For `config check --host` where the stage is switched off.
const DEFAULT_MS: u64 = 60_000;

/// Two nodes of one role that load the same need one check. What tells them apart is their name alone.
fn is_alike(one: &LaunchSpec, other: &LaunchSpec) -> bool {
    let environment = |spec: &LaunchSpec| {
        let mut env = spec.env.clone();
        env.remove("CLUSTER_NODE");
        env.remove("ZCA_NODE");
        env
    };
    one.program == other.program
        && one.role == other.role
        && one.args == other.args
        && one.files == other.files
        && one.rights.user == other.rights.user
        && environment(one) == environment(other)
}

fn end(of: Seq) -> Decision {
    Decision::default().note(Note::Checked).effect(Effect::EndPreflight { of })
}

impl Planned {
    /// Whether a new process is to be started.
    fn starts(&self) -> bool {
        matches!(self.step, PlannedChange::Up { .. })
    }
}

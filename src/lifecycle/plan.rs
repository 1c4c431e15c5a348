//! What a configuration would change on this host: the plan that a deployment journals and carries out, and that
//! `config diff` shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::configuration::Configuration;
use crate::api::history;
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{LaunchSpec, Program};
use crate::api::plan::{Action, NodePlan, Plan, Step, StepAction};
use crate::api::validate::{self, Problem};
use crate::journal::entry::{Life, NodeRecord, Packed, Want, WantChange};

use super::{Lifecycle, stages};

/// Which nodes a configuration with another id replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployStrategy {
    /// Every node, as Zeek's own agent does.
    Replace,
    /// Nodes that would run differently: other arguments, environment, files (the cluster layout is one) or timeouts.
    Changed,
}

/// The plan for one node.
pub(super) struct Planned {
    pub name: NodeName,
    pub step: PlannedChange,
}

pub(super) enum PlannedChange {
    /// It runs as it should: nothing is journaled for it. `least` is the incarnation that it must have reached.
    Keep {
        spec: LaunchSpec,
        least: Incarnation,
    },
    /// A process of this kind, no older than `least`.
    Up {
        spec: LaunchSpec,
        least: Incarnation,
        was: Option<Was>,
    },
    Gone,
}

/// What a new process replaces.
pub(super) enum Was {
    Running { differences: Vec<String> },
    Down { why: &'static str },
}

impl Lifecycle {
    /// The plan for a checked configuration whose hosts are resolved. `force` replaces every running node.
    pub(super) fn plan_nodes(&self, config: &Configuration, force: bool) -> Vec<Planned> {
        let shared = self.shared_files(config);
        let mut planned = Vec::new();
        for node in config.nodes.iter().filter(|node| node.instance == self.options.instance.as_str()) {
            // A checked configuration has only valid names.
            let Ok(name) = NodeName::new(node.name.as_str()) else { continue };
            let spec = self.launch_spec(shared.as_ref(), node);
            let step = match self.durable.nodes.get(&name) {
                None => PlannedChange::Up { spec, least: self.first_incarnation(&name), was: None },
                Some(record) => self.plan_known(record, spec, force),
            };
            planned.push(Planned { name, step });
        }
        let kept: BTreeSet<&NodeName> = planned.iter().map(|one| &one.name).collect();
        let gone = self.durable.nodes.keys().filter(|name| !kept.contains(name));
        let gone: Vec<Planned> = gone.map(|name| Planned { name: name.clone(), step: PlannedChange::Gone }).collect();
        planned.extend(gone);
        planned
    }

    /// The incarnations of a node count from 1. If something may be left of an earlier node of that name, they continue
    /// after all of its incarnations, so that reports about the old one are not taken for reports about the new one.
    fn first_incarnation(&self, name: &NodeName) -> Incarnation {
        let left = self.seen.nodes.get(name).map(|node| node.newest);
        match left.or_else(|| self.seen.leaving.contains(name).then(Incarnation::default)) {
            Some(newest) => newest.max(self.durable.agent.newest_gone).next(),
            None => Incarnation(1),
        }
    }

    fn plan_known(&self, record: &NodeRecord, spec: LaunchSpec, force: bool) -> PlannedChange {
        let down = match (record.want, &record.life) {
            (Want::Stopped, _) => Some("stopped by command"),
            (Want::Gone, _) => Some("about to go"),
            (Want::Up, _) if record.given_up.is_some() => Some("failed"),
            (Want::Up, Life::Down) => Some("not running"),
            (Want::Up, Life::Intended | Life::Up { .. }) => None,
        };
        let mut differences = differences(&record.spec.0, &spec);
        let keeps = self.options.deploy_strategy == DeployStrategy::Changed && !force && !self.seen.winding_down;
        if keeps && down.is_none() && differences.is_empty() {
            return PlannedChange::Keep { spec, least: record.least };
        }
        if differences.is_empty() {
            differences.push(self.replaced_unchanged(force).to_owned());
        }
        let was = match down {
            Some(why) => Was::Down { why },
            None => Was::Running { differences },
        };
        PlannedChange::Up { spec, least: record.incarnation.next(), was: Some(was) }
    }

    /// Why a process is replaced although the new one runs the same.
    fn replaced_unchanged(&self, force: bool) -> &'static str {
        if force {
            "forced"
        } else if self.seen.winding_down {
            "all nodes are being stopped"
        } else {
            "another configuration id, and deploy_strategy is replace"
        }
    }

    /// Fills in missing addresses of instances from the running configuration, as a controller that deploys the file
    /// would. Also returns a message about each.
    fn with_running_hosts(&self, config: &Configuration) -> (Configuration, Vec<String>) {
        let mut config = config.clone();
        let mut taken = Vec::new();
        let running = self.durable.desired.config.as_ref().map(|running| &running.0);
        let ours = self.options.instance.as_str();
        let is_needed = config.nodes.iter().any(|node| node.instance != ours);
        for instance in config.instances.iter_mut().filter(|instance| is_needed && instance.host.is_unspecified()) {
            let known = running.and_then(|running| running.instance(&instance.name)).map(|known| known.host);
            if let Some(host) = known.filter(|host| !host.is_unspecified()) {
                let name = validate::shown(&instance.name);
                taken.push(format!("instance {name} has no address here; {host} was taken, which it has in what runs"));
                instance.host = host;
            }
        }
        (config, taken)
    }

    /// What deploying `config` would do now. Changes nothing.
    pub fn preview(&self, proposed: &Configuration, force: bool) -> Plan {
        let running = self.durable.desired.config.as_ref().map(|running| running.0.id.clone());
        let (config, taken) = self.with_running_hosts(proposed);
        let report = self.check(&config);
        let texts = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut plan = Plan {
            is_running: running.as_ref() == Some(&config.id) && !force,
            running,
            proposed: config.id.clone(),
            problems: texts(&report.problems),
            warnings: texts(&report.warnings).into_iter().chain(taken).collect(),
            ..Plan::default()
        };
        if !plan.problems.is_empty() {
            return plan;
        }
        if plan.is_running {
            plan.token = Some(self.token(proposed, force, &[]).text());
            plan.nodes = self.preview_same();
            return plan;
        }
        let config = match validate::resolve_hosts(config, &self.options.instance) {
            Ok(config) => config,
            Err(problems) => return Plan { problems: texts(&problems), ..plan },
        };
        let planned = self.plan_nodes(&config, force);
        plan.token = Some(self.token(proposed, force, &planned).text());
        plan.order = self.order(&planned);
        let before = self.durable.desired.config.as_ref();
        plan.differences = before.map(|before| history::differences(&before.0, &config)).unwrap_or_default();
        plan.nodes = planned.into_iter().map(preview_of).collect();
        plan.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        plan
    }

    /// The steps in which processes are stopped, and those in which new ones are started.
    fn order(&self, planned: &[Planned]) -> Vec<Step> {
        let mut steps: BTreeMap<(StepAction, usize), Vec<String>> = BTreeMap::new();
        for one in planned {
            let record = self.durable.nodes.get(&one.name);
            let ends = match (&one.step, record) {
                (PlannedChange::Keep { .. }, _) | (_, None) => None,
                (PlannedChange::Up { .. } | PlannedChange::Gone, Some(record)) => {
                    (record.life != Life::Down).then(|| stages::STAGES - stages::stage(record.spec.0.role))
                }
            };
            if let Some(step) = ends {
                steps.entry((StepAction::Stop, step)).or_default().push(one.name.to_string());
            }
            if let PlannedChange::Up { spec, .. } = &one.step {
                let step = stages::stage(spec.role);
                steps.entry((StepAction::Start, step)).or_default().push(one.name.to_string());
            }
        }
        let sorted = steps.into_iter().map(|((action, _), mut nodes)| {
            nodes.sort();
            Step { action, nodes }
        });
        sorted.collect()
    }

    /// The running configuration again: only nodes that were given up are tried again.
    fn preview_same(&self) -> Vec<NodePlan> {
        let nodes = self.durable.nodes.iter();
        nodes
            .map(|(name, record)| {
                let failed = record.want == Want::Up && record.given_up.is_some();
                let action = if failed { Action::Start } else { Action::Keep };
                let why = if failed { vec!["failed".to_owned()] } else { Vec::new() };
                NodePlan { node: name.to_string(), action, why }
            })
            .collect()
    }
}

impl Planned {
    /// What is journaled for this node. `None`: nothing changes.
    pub(super) fn change(self) -> Option<(NodeName, WantChange)> {
        let change = match self.step {
            PlannedChange::Keep { .. } => return None,
            PlannedChange::Up { spec, least, .. } => WantChange::Up { spec: Packed(spec), least },
            PlannedChange::Gone => WantChange::Gone,
        };
        Some((self.name, change))
    }

    /// The incarnation that has to be ready. `None`: the node is to be removed.
    pub(super) fn least(&self) -> Option<Incarnation> {
        match &self.step {
            PlannedChange::Keep { least, .. } | PlannedChange::Up { least, .. } => Some(*least),
            PlannedChange::Gone => None,
        }
    }
}

fn preview_of(planned: Planned) -> NodePlan {
    let (action, why) = match planned.step {
        PlannedChange::Keep { .. } => (Action::Keep, Vec::new()),
        PlannedChange::Up { was: None, .. } => (Action::Start, vec!["new".to_owned()]),
        PlannedChange::Up { was: Some(Was::Down { why }), .. } => (Action::Start, vec![why.to_owned()]),
        PlannedChange::Up { was: Some(Was::Running { differences }), .. } => (Action::Replace, differences),
        PlannedChange::Gone => (Action::Stop, vec!["not in the configuration".to_owned()]),
    };
    NodePlan { node: planned.name.to_string(), action, why }
}

/// How a process of `new` would differ, in words. Values are omitted: an environment holds secrets.
fn differences(old: &LaunchSpec, new: &LaunchSpec) -> Vec<String> {
    let LaunchSpec { program, args, env, role, ports, readiness, stop_timeout_ms, files, rights, secrets } = old;
    let mut found = Vec::new();
    if *program != new.program {
        found.push(format!("program {}", shown(&new.program)));
    }
    if *args != new.args {
        found.push("arguments".to_owned());
    }
    let names = |a: &LaunchSpec, b: &LaunchSpec| -> Vec<String> {
        a.env.iter().filter(|(name, value)| b.env.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect()
    };
    if *env != new.env {
        let mut names = [names(old, new), names(new, old)].concat();
        names.sort();
        names.dedup();
        found.push(format!("environment ({})", names.join(", ")));
    }
    if *secrets != new.secrets {
        found.push("keys".to_owned());
    }
    if *role != new.role {
        found.push(format!("role {}", new.role));
    }
    if *ports != new.ports {
        found.push("ports".to_owned());
    }
    if *readiness != new.readiness {
        found.push("when it counts as ready".to_owned());
    }
    if *stop_timeout_ms != new.stop_timeout_ms {
        found.push("stop timeout".to_owned());
    }
    if *rights != new.rights {
        found.push("user, rights, limits or CPU".to_owned());
    }
    let differs = |name: &&String| files.get(*name) != new.files.get(*name);
    let mut changed: Vec<&String> = files.keys().chain(new.files.keys()).filter(differs).collect();
    changed.sort();
    changed.dedup();
    found.extend(changed.into_iter().cloned());
    found
}

fn shown(program: &Program) -> &str {
    match program {
        Program::Path(path) => path,
        Program::Simulated => "simulated",
    }
}

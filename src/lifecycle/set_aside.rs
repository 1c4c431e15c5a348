//! Forced stops: the recovery for a node whose run directory is so damaged that nothing about the node can be done or
//! proven.
//!
//! Such a stop ends the processes that are proven to be the node's, and moves the run directory away, so that the next
//! start makes a new one. If a process is alive that may be the node's but is not proven to be, the directory stays and
//! the node is UNKNOWN (P7): the answer is a failure that names the obstacle.
//!
//! Only the request itself is journaled. While it waits for a node whose process is gone, and the supervisor has not
//! been told yet, the supervisor is told; so a restarted agent continues where it was.

use std::collections::BTreeSet;
use std::path::Path;

use crate::api::event::{Notification, Request};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::supervision::NodeOrder;
use crate::api::time::{BootTime, Now};
use crate::journal::entry::{ConfigChange, Goal, Received, Want, WantChange};

use super::Lifecycle;
use super::decision::{Decision, Note};
use super::durable::Targets;
use super::effect::Effect;
use super::seen::{NodeSeen, Obstacle, ProcessPhase, SetAside};

impl NodeSeen {
    pub(super) fn observe_set_aside(&mut self, path: Option<&Path>) {
        self.observe_cleared();
        self.set_aside = Some(SetAside::Done { path: path.map(|path| path.display().to_string()) });
    }

    pub(super) fn observe_not_set_aside(&mut self, reason: &str, now: BootTime) {
        self.phase = ProcessPhase::Clear;
        self.block(Obstacle::Lock, reason, now);
        self.set_aside = Some(SetAside::Failed);
    }
}

impl Lifecycle {
    /// Planned like any stop. Nodes that are in no configuration any more but may have left something are included.
    pub(super) fn plan_forced_stop(&self, now: Now, received: &Received, names: &BTreeSet<String>) -> Decision {
        let selected: Vec<NodeName> = names.iter().filter_map(|name| NodeName::new(name.as_str()).ok()).collect();
        let is_left = |name: &NodeName| self.seen.nodes.get(name).is_some_and(NodeSeen::may_be_left);
        let is_known = |name: &NodeName| self.durable.nodes.contains_key(name) || is_left(name);
        let known: BTreeSet<&str> = selected.iter().filter(|name| is_known(name)).map(NodeName::as_str).collect();
        if let Some(refused) = self.refuse_but(received, names, |name| known.contains(name)) {
            return refused;
        }
        let is_wanted = |name: &&NodeName| self.durable.nodes.get(*name).is_some_and(|one| one.want != Want::Gone);
        let changes = selected.iter().filter(is_wanted).map(|name| (name.clone(), WantChange::Stopped)).collect();
        let targets: Targets = selected.iter().map(|name| (name.clone(), Incarnation::default())).collect();
        let decision = self
            .supersede(received, Some(&targets))
            .and(self.desire(received, ConfigChange::Keep, changes))
            .and(self.wait(now, received, Goal::Down, targets));
        selected.into_iter().fold(decision, |all, node| all.note(Note::SetAside { node, progress: None }))
    }

    /// Whether this unfinished request is a forced stop.
    pub(super) fn is_forced_stop(&self, seq: Seq) -> bool {
        let request = self.durable.unfinished.get(&seq).map(|one| &one.received.request);
        matches!(request, Some(Request::StopNodes { force: true, .. }))
    }

    /// Whether some request waits for the directory to be set aside and that was not ordered yet. To be called once the
    /// node has no process.
    pub(super) fn is_to_be_set_aside(&self, name: &NodeName, node: &NodeSeen) -> bool {
        let waiting = || self.agenda.facts.waits.of(name).into_iter();
        node.set_aside.is_none() && self.copied().is_none() && waiting().any(|(seq, ..)| self.is_forced_stop(seq))
    }

    pub(super) fn order_set_aside(&self, name: &NodeName, incarnation: Incarnation) -> Decision {
        let timeout_ms = self.durable.nodes.get(name).map(|record| record.spec.0.stop_timeout_ms);
        let timeout_ms = timeout_ms.unwrap_or(self.options.stop_timeout_ms);
        Decision::default()
            .effect(Effect::Order { node: name.clone(), order: NodeOrder::SetAside { incarnation, timeout_ms } })
            .note(Note::SetAside { node: name.clone(), progress: Some(SetAside::Ordered) })
    }

    /// Nothing of it is left, and its run directory is out of the way.
    pub(super) fn is_set_aside(&self, name: &NodeName) -> bool {
        let progress = self.seen.nodes.get(name).and_then(|node| node.set_aside.as_ref());
        matches!(progress, Some(SetAside::Done { .. })) && self.is_down(name)
    }

    /// It was set aside, or that failed: waiting longer cannot help.
    pub(super) fn is_done_setting_aside(&self, name: &NodeName) -> bool {
        let node = self.seen.nodes.get(name);
        let has_failed = node.is_some_and(|node| node.set_aside == Some(SetAside::Failed));
        self.is_set_aside(name) || has_failed || !self.is_down(name) && self.is_done_stopping(name)
    }

    /// What an answer says about a stopped node, apart from the fact that it stopped.
    pub(super) fn told_of_stop(&self, received: &Received, name: &NodeName) -> Option<String> {
        let progress = self.seen.nodes.get(name).and_then(|node| node.set_aside.as_ref());
        let aside = progress.filter(|_| self.is_forced_stop(received.seq)).and_then(|progress| match progress {
            SetAside::Done { path: Some(path) } => Some(format!("its run directory was set aside as {path}")),
            SetAside::Done { path: None } => Some("it had no run directory any more".to_owned()),
            SetAside::Ordered | SetAside::Failed => None,
        });
        let told: Vec<String> = aside.into_iter().chain(self.only_promised(name)).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    pub(super) fn notify_set_aside(&self, name: &NodeName, path: Option<&Path>) -> Decision {
        let Some(path) = path else { return Decision::default() };
        let instance = self.options.instance.to_string();
        let msg = format!("the run directory of {name} was set aside as {}; nothing uses it any more", path.display());
        Decision::default().effect(Effect::Notify(Notification::NotifyLog { instance, msg, node: name.to_string() }))
    }
}

//! Whose turn it is: loggers, manager, proxies, workers start in this order and stop in reverse.
//!
//! Stages are soft. A stage is waited for until it is ready, and at most `stage_wait` after its own turn came; a node
//! that fails, backs off or is blocked holds up nobody. Inside a stage everything is parallel.

use crate::api::configuration::ClusterRole;
use crate::api::ids::NodeName;
use crate::api::time::BootTime;
use crate::journal::entry::{Life, NodeRecord, Want};

use super::Lifecycle;
use super::seen::{NodeSeen, Place};
use super::wake::Wake;

const STAGES: usize = 4;

fn stage(role: ClusterRole) -> usize {
    match role {
        ClusterRole::Logger => 0,
        ClusterRole::Manager => 1,
        ClusterRole::Proxy => 2,
        ClusterRole::Worker | ClusterRole::None => 3,
    }
}

impl Lifecycle {
    /// Gives their turn to the nodes of every stage that no earlier one holds back.
    pub(super) fn refresh_stages(&mut self, now: BootTime) {
        let mut held_back = false;
        for current in 0..STAGES {
            let mut holds = false;
            let names: Vec<NodeName> = self
                .durable
                .nodes
                .iter()
                .filter(|(_, record)| stage(record.spec.0.role) == current)
                .map(|(name, _)| name.clone())
                .collect();
            for name in names {
                let pending = self.is_starting(&name, now);
                let stage_wait_ms = self.options.stage_wait_ms;
                let node = self.seen.node(&name);
                if !pending {
                    node.eligible = None;
                } else if node.eligible.is_none() && !held_back {
                    node.eligible = Some(now);
                }
                holds |= pending && node.eligible.is_none_or(|since| now < since.plus_ms(stage_wait_ms));
            }
            held_back |= holds;
        }
    }

    /// When the next stage may stop waiting, if one waits.
    pub(super) fn wake_for_stages(&self, wake: &Wake) {
        for node in self.seen.nodes.values() {
            if let Some(since) = node.eligible {
                let _ = wake.due(since.plus_ms(self.options.stage_wait_ms));
            }
        }
    }

    /// Wanted up, not there yet, and nothing but its turn, its predecessor or its own start stands between.
    fn is_starting(&self, name: &NodeName, now: BootTime) -> bool {
        let Some(record) = self.durable.nodes.get(name) else { return false };
        let fallback = NodeSeen::default();
        let node = self.seen.nodes.get(name).unwrap_or(&fallback);
        let ready = record.incarnation >= record.least && matches!(record.life, Life::Up { ready: true, .. });
        self.wants_up(name, record)
            && !ready
            && record.given_up.is_none()
            && node.blocked.is_none()
            && record.next_start.is_none_or(|at| at <= now)
    }

    /// Whether this node is to be up now: wanted, and neither a shutdown of all nodes nor hold mode says otherwise.
    pub(super) fn wants_up(&self, name: &NodeName, record: &NodeRecord) -> bool {
        record.want == Want::Up && !self.seen.winding_down && !self.is_held(name)
    }

    /// In hold mode only what was found running is supervised.
    pub(super) fn is_held(&self, name: &NodeName) -> bool {
        self.durable.agent.hold.is_some() && !self.seen.nodes.get(name).is_some_and(|node| node.was_adopted)
    }

    /// Whether a process of this node is to end: not wanted, or older than what is wanted.
    pub(super) fn must_go(&self, record: &NodeRecord) -> bool {
        let alive = matches!(record.life, Life::Up { .. });
        let unwanted = record.want != Want::Up || record.incarnation < record.least || self.seen.winding_down;
        alive && unwanted && (self.durable.agent.hold.is_none() || self.seen.winding_down)
    }

    /// Whether the later stages have stopped, or had their `stage_wait` for it.
    pub(super) fn may_stop(&self, record: &NodeRecord, wake: &Wake) -> bool {
        let own = stage(record.spec.0.role);
        let mut free = true;
        for (name, other) in &self.durable.nodes {
            if stage(other.spec.0.role) <= own || !self.must_go(other) {
                continue;
            }
            let node = self.seen.nodes.get(name);
            if !node.is_some_and(|node| matches!(node.place, Place::Present { .. })) {
                // Nothing can be told to stop: its lock is held by who knows whom. It holds up nobody.
                continue;
            }
            let sent = node.and_then(|node| node.stop_sent);
            let waited = match sent {
                Some((incarnation, at)) if incarnation == other.incarnation => {
                    wake.due(at.plus_ms(self.options.stage_wait_ms))
                }
                Some(_) | None => false,
            };
            free &= waited;
        }
        free
    }
}

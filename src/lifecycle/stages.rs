//! The order of starts and stops: loggers, manager, proxies, workers start in this order and stop in reverse.
//!
//! Stages are soft. The next stage waits until a stage is ready, but at most `stage_wait` after the turn of that stage
//! came; a node that fails, backs off or is blocked delays no other. Inside a stage everything is parallel.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::configuration::ClusterRole;
use crate::api::ids::NodeName;
use crate::api::time::BootTime;
use crate::journal::entry::{Life, NodeRecord, Want};

use super::Lifecycle;
use super::seen::{NodeSeen, ProcessPhase};

pub(super) const STAGES: usize = 4;

/// The place of a role in the order of starts.
pub(super) fn stage(role: ClusterRole) -> usize {
    match role {
        ClusterRole::Logger => 0,
        ClusterRole::Manager => 1,
        ClusterRole::Proxy => 2,
        ClusterRole::Worker | ClusterRole::None => 3,
    }
}

/// What matters about one node for the order of starts and stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Of {
    pub stage: usize,
    pub is_starting: bool,
    pub leaving: Leaving,
}

/// Whether a node has a process that must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    Untold,
    /// It was told to stop at this time.
    Told(BootTime),
}

/// The nodes that are starting and the nodes that are ending, stage by stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stages {
    stages: [Stage; STAGES],
    of: BTreeMap<NodeName, Of>,
    /// When the turn of each starting node came.
    turns: BTreeMap<NodeName, BootTime>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stage {
    /// Starting nodes whose turn has not come.
    queued: BTreeSet<NodeName>,
    started: BTreeSet<(BootTime, NodeName)>,
    /// Nodes that must end and have not been told to.
    untold: BTreeSet<NodeName>,
    told: BTreeSet<(BootTime, NodeName)>,
    /// No later stage prevents this one from being stopped.
    may_stop: bool,
}

impl Stage {
    fn holds_back_starts(&self, now: BootTime, wait_ms: u64) -> bool {
        !self.queued.is_empty() || self.started.last().is_some_and(|(since, _)| now < since.plus_ms(wait_ms))
    }

    fn holds_back_stops(&self, now: BootTime, wait_ms: u64) -> bool {
        !self.untold.is_empty() || self.told.last().is_some_and(|(at, _)| now < at.plus_ms(wait_ms))
    }
}

impl Stages {
    /// Records the new state of a node.
    pub fn set(&mut self, name: &NodeName, of: Of) {
        let before = self.of.get(name).copied();
        if before == Some(of) {
            return;
        }
        if let Some(before) = before {
            self.remove(name, before);
        }
        if !of.is_starting {
            self.turns.remove(name);
        }
        let Some(stage) = self.stages.get_mut(of.stage) else { return };
        match (of.is_starting, self.turns.get(name)) {
            (true, Some(since)) => _ = stage.started.insert((*since, name.clone())),
            (true, None) => _ = stage.queued.insert(name.clone()),
            (false, _) => {}
        }
        match of.leaving {
            Leaving::No => {}
            Leaving::Untold => _ = stage.untold.insert(name.clone()),
            Leaving::Told(at) => _ = stage.told.insert((at, name.clone())),
        }
        if of.is_starting || of.leaving != Leaving::No {
            self.of.insert(name.clone(), of);
        } else {
            self.of.remove(name);
        }
    }

    fn remove(&mut self, name: &NodeName, of: Of) {
        let Some(stage) = self.stages.get_mut(of.stage) else { return };
        stage.queued.remove(name);
        if let Some(since) = self.turns.get(name) {
            stage.started.remove(&(*since, name.clone()));
        }
        stage.untold.remove(name);
        if let Leaving::Told(at) = of.leaving {
            stage.told.remove(&(at, name.clone()));
        }
    }

    /// Gives the nodes of every stage their turn if no earlier stage holds it back, and lets nodes be stopped if no
    /// later stage prevents that; nodes that may do something now are added to `look`.
    pub fn advance(&mut self, now: BootTime, wait_ms: u64, look: &mut BTreeSet<NodeName>) {
        let mut held_back = false;
        for stage in &mut self.stages {
            if !held_back {
                for name in std::mem::take(&mut stage.queued) {
                    self.turns.insert(name.clone(), now);
                    stage.started.insert((now, name.clone()));
                    look.insert(name);
                }
            }
            held_back |= stage.holds_back_starts(now, wait_ms);
        }
        let mut may_stop = true;
        for stage in self.stages.iter_mut().rev() {
            if may_stop && !stage.may_stop {
                look.extend(stage.untold.iter().cloned());
            }
            stage.may_stop = may_stop;
            may_stop &= !stage.holds_back_stops(now, wait_ms);
        }
    }

    /// When a stage that waits for another may stop waiting.
    pub fn wake_at(&self, now: BootTime, wait_ms: u64) -> Option<BootTime> {
        let mut times = BTreeSet::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let is_waited_for = self.stages.iter().skip(index + 1).any(|later| !later.queued.is_empty());
            let last = stage.started.last().filter(|_| is_waited_for);
            times.extend(last.map(|(since, _)| since.plus_ms(wait_ms)));
            let is_waited_for = self.stages.iter().take(index).any(|earlier| !earlier.untold.is_empty());
            let last = stage.told.last().filter(|_| is_waited_for);
            times.extend(last.map(|(at, _)| at.plus_ms(wait_ms)));
        }
        times.into_iter().find(|at| *at > now)
    }

    /// Keeps the times at which the turns of these nodes came.
    pub fn keep_turns(&mut self, of: &Self) {
        self.turns = of.turns.clone();
    }

    fn has_turn(&self, name: &NodeName) -> bool {
        self.turns.contains_key(name)
    }
}

impl Lifecycle {
    pub(super) fn stage_of(&self, name: &NodeName) -> usize {
        self.durable.nodes.get(name).map_or(STAGES - 1, |record| stage(record.spec.0.role))
    }

    /// Whether it is the turn of a node that is starting.
    pub(super) fn has_turn(&self, name: &NodeName) -> bool {
        self.agenda.facts.stages.has_turn(name)
    }

    /// Wanted up, not ready yet, and delayed only by its turn, its predecessor or its own start.
    pub(super) fn is_starting(&self, name: &NodeName, now: BootTime) -> bool {
        let Some(record) = self.durable.nodes.get(name) else { return false };
        let fallback = NodeSeen::default();
        let node = self.seen.nodes.get(name).unwrap_or(&fallback);
        let ready = record.incarnation >= record.least && matches!(record.life, Life::Up { ready: true, .. });
        self.wants_up(name, record)
            && !ready
            && record.given_up.is_none()
            && node.blocked.is_none()
            && self.next_try(name, record).is_none_or(|at| at <= now)
    }

    /// Whether this node should be up now: wanted, and prevented neither by a shutdown of all nodes or of the host nor by
    /// hold mode.
    pub(super) fn wants_up(&self, name: &NodeName, record: &NodeRecord) -> bool {
        record.want == Want::Up && !self.seen.winding_down && !self.seen.host_goes_down && !self.is_held(name)
    }

    /// In hold mode, and in a copied state directory, only adopted nodes are supervised.
    pub(super) fn is_held(&self, name: &NodeName) -> bool {
        (self.durable.agent.hold.is_some() || self.copied().is_some())
            && !self.seen.nodes.get(name).is_some_and(|node| node.was_adopted)
    }

    /// Whether a process of this node must end: not wanted, or older than what is wanted.
    pub(super) fn must_go(&self, record: &NodeRecord) -> bool {
        let alive = matches!(record.life, Life::Up { .. });
        let unwanted = record.want != Want::Up || record.incarnation < record.least || self.seen.winding_down;
        alive && unwanted && self.copied().is_none() && (self.durable.agent.hold.is_none() || self.seen.winding_down)
    }

    /// Whether the later stages have stopped, or their `stage_wait` for that is over.
    pub(super) fn may_stop(&self, record: &NodeRecord) -> bool {
        self.agenda.facts.stages.stages.get(stage(record.spec.0.role)).is_none_or(|stage| stage.may_stop)
    }

    /// Whether a process of this node delays the stop of earlier stages. A node whose lock an unknown process holds
    /// cannot be told to stop, and delays no other.
    pub(super) fn leaving(&self, name: &NodeName) -> Leaving {
        let (Some(record), Some(node)) = (self.durable.nodes.get(name), self.seen.nodes.get(name)) else {
            return Leaving::No;
        };
        match (node.phase, node.stop_sent) {
            (ProcessPhase::Present { .. }, _) if !self.must_go(record) => Leaving::No,
            (ProcessPhase::Present { .. }, Some((incarnation, at))) if incarnation == record.incarnation => {
                Leaving::Told(at)
            }
            (ProcessPhase::Present { .. }, Some(_) | None) => Leaving::Untold,
            (
                ProcessPhase::Unprobed
                | ProcessPhase::Clear
                | ProcessPhase::Preparing { .. }
                | ProcessPhase::Prepared { .. }
                | ProcessPhase::Launching { .. },
                _,
            ) => Leaving::No,
        }
    }
}

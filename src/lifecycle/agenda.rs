//! The work list: nodes, requests, questions and peers that changed, or whose time has come.
//!
//! The core is level-triggered: what it does depends on the current state, not on how that came about. It does not have
//! to look at everything for that. Code that changes a node or a request notes it. Before the next decision, the facts
//! that others depend on (whose turn it is, who holds a port, what a request still waits for) are updated for the noted
//! items, and everything that depends on a changed fact is noted too. An item that has nothing to do yet is deferred
//! until it changes or until the time that it named. [`Lifecycle::overlooked`] tests all this by looking at everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::ids::{NodeName, Seq};
use crate::api::time::{BootTime, Now};
use crate::journal::entry::Stage as Progress;

use super::durable::Changed;
use super::ports::Ports;
use super::stages::{self, Stages};
use super::waits::Waits;
use super::{ATTEMPTS, Lifecycle};

/// An item that is looked at separately and may have a wake-up time of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Request(Seq),
    Node(NodeName),
    /// A peer whose input was rejected.
    Peer(String),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Agenda {
    pub requests: BTreeSet<Seq>,
    /// What a request asks a node.
    pub questions: BTreeSet<(Seq, NodeName)>,
    pub peers: BTreeSet<String>,
    pub nodes: BTreeSet<NodeName>,
    /// There may now be a receiver for responses that nobody has received.
    pub unsent: bool,
    /// Nodes whose state may have to be reported.
    pub states: BTreeSet<NodeName>,
    pub facts: Facts,
    wakes: Wakes,
    /// When the agent's own duties and the stages have to be looked at.
    pub own_wake: Option<BootTime>,
    looks: u64,
}

/// Facts derived from single nodes and requests that others depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub stages: Stages,
    pub ports: Ports,
    pub waits: Waits,
    /// Requests whose step 1 has not been taken, in order.
    pub accepted: BTreeSet<Seq>,
    /// Requests that have crashed the agent too often.
    pub lost: BTreeSet<Seq>,
}

/// When deferred items are looked at again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wakes {
    by_time: BTreeSet<(BootTime, Item)>,
    of: BTreeMap<Item, BootTime>,
}

impl Wakes {
    fn set(&mut self, item: Item, at: Option<BootTime>) {
        let before = match at {
            Some(at) => self.of.insert(item.clone(), at),
            None => self.of.remove(&item),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, item.clone()));
        }
        if let Some(at) = at {
            self.by_time.insert((at, item));
        }
    }

    fn pop_due(&mut self, now: BootTime) -> Option<Item> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        let (_, item) = self.by_time.pop_first()?;
        self.of.remove(&item);
        Some(item)
    }
}

impl Agenda {
    pub fn new() -> Self {
        Self { unsent: true, ..Self::default() }
    }

    /// Counts one look at a node or a request.
    pub fn look(&mut self) {
        self.looks += 1;
    }

    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// The item has nothing to do yet; it is looked at again when it changes, or at this time.
    pub fn put_aside(&mut self, item: Item, until: Option<BootTime>) {
        match &item {
            Item::Request(seq) => _ = self.requests.remove(seq),
            Item::Node(name) => _ = self.nodes.remove(name),
            Item::Peer(peer) => _ = self.peers.remove(peer),
        }
        self.wakes.set(item, until);
    }

    /// The first time at which a deferred item, or anything else, has to be looked at.
    pub fn wake_at(&self) -> Option<BootTime> {
        let first = self.wakes.by_time.first().map(|(at, _)| *at);
        [first, self.own_wake].into_iter().flatten().min()
    }

    /// Nodes whose time to be looked at has come.
    pub fn nodes_due(&self, now: BootTime) -> BTreeSet<NodeName> {
        let due = self.wakes.by_time.iter().take_while(|(at, _)| *at <= now).filter_map(|(_, item)| match item {
            Item::Node(name) => Some(name.clone()),
            Item::Request(_) | Item::Peer(_) => None,
        });
        due.collect()
    }

    /// Requests whose time to be looked at has come.
    pub fn requests_due(&self, now: BootTime) -> BTreeSet<Seq> {
        let due = self.wakes.by_time.iter().take_while(|(at, _)| *at <= now).filter_map(|(_, item)| match item {
            Item::Request(seq) => Some(*seq),
            Item::Node(_) | Item::Peer(_) => None,
        });
        due.chain(self.requests.iter().copied()).collect()
    }
}

impl Lifecycle {
    /// How often nodes and requests were looked at since this run began: the measure of the core's work.
    pub fn looks(&self) -> u64 {
        self.agenda.looks()
    }

    /// Updates the facts for everything that changed, and notes what depends on them.
    pub(super) fn survey(&mut self, now: BootTime) {
        while let Some(item) = self.agenda.wakes.pop_due(now) {
            match item {
                Item::Request(seq) => _ = self.agenda.requests.insert(seq),
                // Reaching the time is a change: a fact may hold from then on.
                Item::Node(name) => self.seen.nodes.note(&name),
                Item::Peer(peer) => _ = self.agenda.peers.insert(peer),
            }
        }
        let Changed { all, config, mut nodes, requests, over } = self.durable.take_changed();
        if config {
            self.current = self.current_configuration();
        }
        for (seq, targets) in over {
            self.agenda.facts.waits.forget(seq, &targets);
        }
        nodes.append(&mut self.seen.nodes.take_noted());
        if std::mem::take(&mut self.seen.all_changed) || all {
            nodes.extend(self.durable.nodes.keys().chain(self.seen.told.keys()).cloned());
            nodes.extend(self.seen.nodes.names().cloned());
        }
        for seq in requests {
            self.survey_request(seq);
        }
        for name in nodes {
            self.survey_node(now, name);
        }
        let Agenda { facts, nodes, .. } = &mut self.agenda;
        facts.stages.advance(now, self.options.stage_wait_ms, nodes);
    }

    fn survey_request(&mut self, seq: Seq) {
        self.agenda.look();
        let facts = &mut self.agenda.facts;
        let Some(one) = self.durable.unfinished.get(&seq) else {
            facts.accepted.remove(&seq);
            facts.lost.remove(&seq);
            self.agenda.put_aside(Item::Request(seq), None);
            return;
        };
        if one.record.lost_attempts >= ATTEMPTS {
            facts.lost.insert(seq);
        }
        match &one.record.stage {
            // A dispatch changes nothing that must survive a restart, so it stays accepted until it is answered. A
            // request that waits for an operator is not begun.
            Progress::Accepted
                if self.seen.dispatches.contains_key(&seq)
                    || self.seen.adopting_state.contains(&seq)
                    || self.seen.checking.as_ref().is_some_and(|checking| checking.of == seq)
                    || self.durable.waits_for_operator(seq) =>
            {
                facts.accepted.remove(&seq);
            }
            Progress::Accepted => _ = facts.accepted.insert(seq),
            Progress::Waiting { goal, targets } => {
                facts.accepted.remove(&seq);
                if !facts.waits.knows(seq) {
                    let met: Vec<bool> =
                        targets.iter().map(|(name, least)| self.target_met(seq, *goal, name, *least)).collect();
                    for _ in targets {
                        self.agenda.look();
                    }
                    self.agenda.facts.waits.watch(seq, *goal, targets.iter().zip(met));
                }
            }
        }
        self.agenda.requests.insert(seq);
    }

    fn survey_node(&mut self, now: BootTime, name: NodeName) {
        self.agenda.look();
        if self.durable.nodes.contains_key(&name) {
            // Whatever its last order was, a node that is in no configuration any more is forgotten by order.
            self.seen.nodes.know(&name);
        }
        let facts = stages::Of {
            stage: self.stage_of(&name),
            is_starting: self.is_starting(&name, now),
            leaving: self.leaving(&name),
        };
        let ports = self.ports_until_gone(&name);
        self.agenda.facts.stages.set(&name, facts);
        let free = self.agenda.facts.ports.hold(&name, ports);
        self.agenda.nodes.extend(free);
        for (seq, goal, least) in self.agenda.facts.waits.of(&name) {
            self.agenda.look();
            let met = self.target_met(seq, goal, &name, least);
            if self.agenda.facts.waits.set(seq, &name, met) {
                self.agenda.requests.insert(seq);
            }
        }
        for of in self.seen.asking(&name) {
            self.agenda.questions.insert((of, name.clone()));
        }
        self.agenda.states.insert(name.clone());
        self.agenda.nodes.insert(name);
    }

    /// What a look at everything finds that the last step, which looked only at changes, missed. For tests: there must
    /// be nothing after any step.
    pub fn overlooked(&self, now: Now) -> Option<String> {
        if !self.seen.adopted {
            return None;
        }
        let mut whole = self.clone();
        whole.agenda = Agenda::new();
        // The time at which a turn came is in the past, and cannot be derived from the current state.
        whole.agenda.facts.stages.keep_turns(&self.agenda.facts.stages);
        whole.agenda.peers.extend(self.seen.rejections.keys().cloned());
        whole.agenda.questions.extend(whole.seen.all_questions());
        whole.seen.all_changed = true;
        whole.durable.note_all();
        whole.survey(now.boot);
        if let Some(decision) = whole.advance(now) {
            return Some(format!("it would do {decision:?}"));
        }
        if whole.agenda.facts != self.agenda.facts {
            return Some(format!("facts {:?} are {:?}", self.agenda.facts, whole.agenda.facts));
        }
        if whole.agenda.wakes != self.agenda.wakes {
            return Some(format!("wakes {:?} are {:?}", self.agenda.wakes, whole.agenda.wakes));
        }
        if whole.current != self.current {
            return Some("the running configuration is another".to_owned());
        }
        let told = whole.changes();
        (!told.is_empty()).then(|| format!("it would tell {told:?}"))
    }
}

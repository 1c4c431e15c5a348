//! What waiting requests still wait for, node by node. Targets are counted, so that progress of one node does not
//! require a look at all targets of a request.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::journal::entry::Goal;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waits {
    by_node: BTreeMap<NodeName, BTreeMap<Seq, Wait>>,
    /// The number of targets of each request that are not where they should be.
    open: BTreeMap<Seq, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    goal: Goal,
    least: Incarnation,
    met: bool,
}

impl Waits {
    pub fn knows(&self, seq: Seq) -> bool {
        self.open.contains_key(&seq)
    }

    /// The request waits for these targets, some of which have already met its goal.
    pub fn watch<'a>(
        &mut self,
        seq: Seq,
        goal: Goal,
        targets: impl Iterator<Item = (&'a (NodeName, Incarnation), bool)>,
    ) {
        let mut open = 0;
        for ((name, least), met) in targets {
            // A node that is named twice is waited for once.
            if let Entry::Vacant(place) = self.by_node.entry(name.clone()).or_default().entry(seq) {
                place.insert(Wait { goal, least: *least, met });
                open += usize::from(!met);
            }
        }
        self.open.insert(seq, open);
    }

    /// The request does not wait any more.
    pub fn forget(&mut self, seq: Seq, targets: &[(NodeName, Incarnation)]) {
        self.open.remove(&seq);
        for (name, _) in targets {
            if let Some(waits) = self.by_node.get_mut(name) {
                waits.remove(&seq);
                if waits.is_empty() {
                    self.by_node.remove(name);
                }
            }
        }
    }

    /// The requests that wait for this node, each with its goal and the lowest incarnation that it accepts.
    pub fn of(&self, name: &NodeName) -> Vec<(Seq, Goal, Incarnation)> {
        let waits = self.by_node.get(name).into_iter().flatten();
        waits.map(|(seq, wait)| (*seq, wait.goal, wait.least)).collect()
    }

    /// Records whether the node is where this request wants it; returns whether the request now has nothing left to
    /// wait for.
    pub fn set(&mut self, seq: Seq, name: &NodeName, met: bool) -> bool {
        let Some(wait) = self.by_node.get_mut(name).and_then(|waits| waits.get_mut(&seq)) else { return false };
        if wait.met == met {
            return false;
        }
        wait.met = met;
        let Some(open) = self.open.get_mut(&seq) else { return false };
        if met {
            *open = open.saturating_sub(1);
        } else {
            *open += 1;
        }
        *open == 0
    }

    /// Whether every target of the request is where it should be.
    pub fn is_met(&self, seq: Seq) -> bool {
        self.open.get(&seq) == Some(&0)
    }

    /// Requests that wait for any of these nodes (`None`: for any node), in order.
    pub fn waiting_for(&self, names: Option<&[(NodeName, Incarnation)]>) -> BTreeSet<Seq> {
        match names {
            None => self.open.keys().copied().collect(),
            Some(names) => {
                names.iter().filter_map(|(name, _)| self.by_node.get(name)).flat_map(BTreeMap::keys).copied().collect()
            }
        }
    }
}

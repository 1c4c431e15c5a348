//! Ports still held by nodes that are to end, and the nodes that wait for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::ids::NodeName;
use crate::journal::entry::NodeRecord;

use super::Lifecycle;

#[derive(Debug, Clone, Default)]
pub(super) struct Ports {
    /// For each port, the nodes that hold it and are to end.
    held: BTreeMap<u16, BTreeSet<NodeName>>,
    by: BTreeMap<NodeName, Vec<u16>>,
    /// Nodes that were not prepared because of the port. A node that stopped waiting is looked at once more than
    /// necessary.
    wanted: BTreeMap<u16, BTreeSet<NodeName>>,
}

/// The waiting nodes are not compared: they are found again by looking.
impl PartialEq for Ports {
    fn eq(&self, other: &Self) -> bool {
        self.held == other.held && self.by == other.by
    }
}

impl Eq for Ports {}

impl Ports {
    /// The node holds these ports until it is gone. Returns the nodes to look at because a port became free.
    pub fn hold(&mut self, node: &NodeName, ports: Vec<u16>) -> BTreeSet<NodeName> {
        let before = self.by.get(node).cloned().unwrap_or_default();
        if before == ports {
            return BTreeSet::new();
        }
        let mut free = BTreeSet::new();
        for port in &before {
            if let Some(holders) = self.held.get_mut(port) {
                holders.remove(node);
                if holders.is_empty() {
                    self.held.remove(port);
                }
            }
            free.extend(self.wanted.remove(port).into_iter().flatten());
        }
        for port in &ports {
            self.held.entry(*port).or_default().insert(node.clone());
        }
        match ports.is_empty() {
            true => self.by.remove(node),
            false => self.by.insert(node.clone(), ports),
        };
        free
    }

    /// One of these ports that another node holds.
    fn taken(&self, node: &NodeName, ports: &[u16]) -> Option<u16> {
        let has_another =
            |port: &&u16| self.held.get(port).is_some_and(|holders| holders.iter().any(|one| one != node));
        ports.iter().find(has_another).copied()
    }

    /// The node waits for this port.
    pub fn want(&mut self, node: &NodeName, port: u16) {
        self.wanted.entry(port).or_default().insert(node.clone());
    }
}

impl Lifecycle {
    /// The ports that a process of this node holds and that become free because it is to end.
    pub(super) fn ports_until_gone(&self, name: &NodeName) -> Vec<u16> {
        match (self.durable.nodes.get(name), self.seen.nodes.get(name)) {
            (Some(record), Some(node)) if self.must_go(record) => node.ports.clone(),
            (Some(_) | None, _) => Vec::new(),
        }
    }

    /// A port of this node that is still held by another node that is to end.
    pub(super) fn port_taken(&self, name: &NodeName, record: &NodeRecord) -> Option<u16> {
        self.agenda.facts.ports.taken(name, &record.spec.0.ports)
    }
}

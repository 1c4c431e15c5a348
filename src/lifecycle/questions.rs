//! The questions of a request to nodes, and their progress.

use std::collections::BTreeMap;

use crate::api::ids::{Incarnation, NodeName};

/// The progress of the question to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Questioned {
    NotYet,
    Asked {
        connection: u64,
    },
    /// Through its directory for questions.
    AskedInFiles {
        incarnation: Incarnation,
    },
    /// The value, or why there is none.
    Answered(std::result::Result<Option<String>, String>),
}

impl Questioned {
    pub fn is_answered(&self) -> bool {
        match self {
            Self::Answered(_) => true,
            Self::NotYet | Self::Asked { .. } | Self::AskedInFiles { .. } => false,
        }
    }
}

/// The questions of a request to nodes, and their progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dispatch {
    pub nodes: BTreeMap<NodeName, Questioned>,
    /// The node that is asked over each connection.
    asked: BTreeMap<u64, NodeName>,
    /// The number of nodes that have not answered.
    open: usize,
}

impl Dispatch {
    pub fn new(nodes: BTreeMap<NodeName, Questioned>) -> Self {
        let open = nodes.values().filter(|node| !node.is_answered()).count();
        Self { nodes, asked: BTreeMap::new(), open }
    }

    /// Nodes that have not answered.
    pub fn open(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(|(_, node)| !node.is_answered()).map(|(name, _)| name)
    }

    pub fn set(&mut self, node: &NodeName, state: Questioned) {
        let Some(before) = self.nodes.get_mut(node) else { return };
        if let Questioned::Asked { connection } = before {
            self.asked.remove(connection);
        }
        match (before.is_answered(), state.is_answered()) {
            (false, true) => self.open -= 1,
            (true, false) => self.open += 1,
            (true, true) | (false, false) => {}
        }
        if let Questioned::Asked { connection } = state {
            self.asked.insert(connection, node.clone());
        }
        *before = state;
    }

    /// The node that is asked over this connection.
    pub fn asked_over(&self, connection: u64) -> Option<&NodeName> {
        self.asked.get(&connection)
    }

    pub fn is_answered(&self) -> bool {
        self.open == 0
    }
}

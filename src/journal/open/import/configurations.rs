//! The history of configurations, from the entries of an import: what the records would say on the host that wrote them, but
//! that none of them runs here.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::event::Source;
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::time::Timestamp;
use crate::journal::format::entry::past::{Asked, NodesChanged, Past, PastRecord};
use crate::journal::format::entry::{ConfigChange, Entry, Numbered, WantChange};

/// Follows the entries in their order. Memory: the bounded history, a name for each node, and the sender of each request
/// without an outcome.
#[derive(Default)]
pub(super) struct Configurations {
    past: Past,
    /// The least incarnation that counts for each node.
    nodes: BTreeMap<NodeName, Incarnation>,
    requests: BTreeMap<Seq, (ReqId, Source)>,
}

impl Configurations {
    /// A request was accepted.
    pub(super) fn request(&mut self, numbered: &Numbered) {
        if let Entry::RequestReceived { reqid, source, .. } = &numbered.entry {
            self.requests.insert(numbered.seq, (reqid.clone(), source.clone()));
        }
    }

    /// A request has its outcome, and changes nothing any more.
    pub(super) fn completed(&mut self, of: Seq) {
        self.requests.remove(&of);
    }

    pub(super) fn follow(&mut self, numbered: &Numbered) {
        match &numbered.entry {
            Entry::DesiredChanged { by, config, nodes } => self.desired_changed(numbered, *by, config, nodes),
            Entry::ConfigurationKept { set, record } => self.past.keep(*set, record.as_ref().clone(), numbered.seq),
            Entry::Imported { .. } => self.past.end(numbered.at),
            Entry::NodeReady { node, incarnation }
                if self.nodes.get(node).is_some_and(|least| incarnation >= least) =>
            {
                self.past.node(node, Some(true));
            }
            Entry::NodeExited { node, .. } if self.nodes.contains_key(node) => self.past.node(node, Some(false)),
            _other => {}
        }
        self.past.settle(numbered.at);
    }

    fn desired_changed(
        &mut self,
        numbered: &Numbered,
        by: Seq,
        config: &ConfigChange,
        nodes: &[(NodeName, WantChange)],
    ) {
        let mut changed = NodesChanged::default();
        let mut waiting = BTreeSet::new();
        for (name, change) in nodes {
            match change {
                WantChange::Up { least, .. } => {
                    match self.nodes.insert(name.clone(), *least) {
                        Some(_) => changed.replaced += 1,
                        None => changed.started += 1,
                    }
                    waiting.insert(name);
                }
                WantChange::Stopped => _ = waiting.insert(name),
                WantChange::Gone => {
                    changed.removed += 1;
                    self.nodes.remove(name);
                    self.past.node(name, None);
                }
                WantChange::Retry => {}
            }
        }
        for name in waiting {
            self.past.node(name, Some(false));
        }
        match config {
            ConfigChange::Keep => {}
            ConfigChange::Forget => self.past.end(numbered.at),
            ConfigChange::Set(config) => {
                let nobody = || (ReqId::default(), Source { transport: String::new(), peer: String::new() });
                let (reqid, source) = self.requests.get(&by).cloned().unwrap_or_else(nobody);
                let asked = Asked { request: by, reqid, source };
                self.past.set(numbered.seq, numbered.at, asked, config.clone(), changed);
            }
        }
    }

    /// The history; nothing of it runs from `at` on.
    pub(super) fn ended(mut self, at: Timestamp) -> BTreeMap<Seq, PastRecord> {
        self.past.end(at);
        self.past.into_records()
    }
}

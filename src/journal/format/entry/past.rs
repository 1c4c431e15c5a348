//! The configurations that were to run on this host, the newest last: what `config history` lists and `deploy @-1` takes.
//!
//! They are records, so they survive the retention of the requests that brought them. When retention removes the newest entry
//! that states one, the agent states it again first ([`Entry::ConfigurationKept`](super::Entry::ConfigurationKept)), so an
//! export holds them as well. Bounded: [`KEPT`] configurations with [`KEPT_NODES`] nodes in total, but always the running one
//! and the newest two that reached ready.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{DesiredRecord, Packed, is_zero};
use crate::api::configuration::Configuration;
use crate::api::event::Source;
use crate::api::ids::{NodeName, ReqId, Seq};
use crate::api::time::Timestamp;

/// The most configurations that are kept.
pub const KEPT: usize = 16;
/// The most nodes that they have in total.
pub const KEPT_NODES: usize = 4096;
/// So many that reached ready are kept however large they are.
const KEPT_READY: usize = 2;

/// A configuration that was to run on this host, with who wanted it and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRecord {
    /// The request that wanted it.
    pub request: Seq,
    /// The request's reqid; empty if it had none or if it is not known.
    pub reqid: ReqId,
    /// Who asked; empty if that is not known.
    pub source: Source,
    /// When it became the desired state; 0 if that is not known.
    pub set_at: Timestamp,
    /// As it was to run: hosts resolved.
    pub config: Packed<Configuration>,
    /// Fields that were added later.
    pub extras: Packed<PastExtras>,
}

/// Like [`AgentExtras`](super::AgentExtras), for a configuration of the history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PastExtras {
    /// What it changed among the nodes of this host.
    #[serde(skip_serializing_if = "NodesChanged::is_nothing")]
    pub changed: NodesChanged,
    /// When all of its nodes here were ready for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// When it was replaced, or removed by standby or an import.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The newest entry that states it, if that is not the one that set it.
    #[serde(skip_serializing_if = "is_zero")]
    pub kept_in: Seq,
}

/// How many nodes of this host a configuration changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodesChanged {
    /// New ones.
    pub started: u32,
    /// Known ones that got another process.
    pub replaced: u32,
    /// Those that it no longer has.
    pub removed: u32,
}

impl NodesChanged {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Who wanted a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub request: Seq,
    /// Its reqid.
    pub reqid: ReqId,
    /// Who sent it.
    pub source: Source,
}

/// The history, and which of it has to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// By the entry that set each.
    records: BTreeMap<Seq, PastRecord>,
    /// The nodes of the running configuration that are not ready.
    unready: BTreeSet<NodeName>,
    /// The newest one runs.
    runs: bool,
    dirty: BTreeSet<Seq>,
}

impl Past {
    /// The history as stored. A running configuration that it lacks, set by an earlier release, is added.
    pub fn new(records: BTreeMap<Seq, PastRecord>, unready: BTreeSet<NodeName>, desired: &DesiredRecord) -> Self {
        let mut past = Self { records, unready, runs: false, dirty: BTreeSet::new() };
        let Some(config) = &desired.config else { return past };
        let newest = past.records.last_key_value();
        past.runs = newest.is_some_and(|(_, one)| one.extras.0.ended_at.is_none() && one.config == *config);
        if !past.runs {
            let key = newest.map_or(desired.by, |(newest, _)| newest.next().max(desired.by));
            let nobody = Source { transport: String::new(), peer: String::new() };
            let ready_at = past.unready.is_empty().then(Timestamp::default);
            let record = PastRecord {
                request: desired.by,
                reqid: ReqId::default(),
                source: nobody,
                set_at: Timestamp::default(),
                config: config.clone(),
                extras: Packed(PastExtras { ready_at, ..PastExtras::default() }),
            };
            past.put(key, record);
            past.runs = true;
        }
        past
    }

    /// The configuration that was set by this entry. One that runs already, and is set again, keeps its place.
    pub fn set(&mut self, seq: Seq, at: Timestamp, asked: Asked, config: Packed<Configuration>, changed: NodesChanged) {
        let mut extras = PastExtras { changed, ..PastExtras::default() };
        if let Some((known, running)) = self.running()
            && running.config == config
        {
            extras.ready_at = running.extras.0.ready_at;
            self.records.remove(&known);
            self.dirty.insert(known);
        } else {
            self.end(at);
        }
        let Asked { request, reqid, source } = asked;
        self.put(seq, PastRecord { request, reqid, source, set_at: at, config, extras: Packed(extras) });
        self.runs = true;
        self.trim();
    }

    /// Stated again by this entry.
    pub fn keep(&mut self, set: Seq, mut record: PastRecord, by: Seq) {
        record.extras.0.kept_in = by;
        let is_newest = self.records.keys().next_back().is_none_or(|newest| *newest <= set);
        if is_newest {
            self.runs = record.extras.0.ended_at.is_none();
        }
        self.put(set, record);
        self.trim();
    }

    /// No configuration is to run.
    pub fn end(&mut self, at: Timestamp) {
        if self.runs
            && let Some((seq, mut newest)) = self.records.pop_last()
        {
            newest.extras.0.ended_at = Some(at);
            self.put(seq, newest);
        }
        self.runs = false;
    }

    /// Whether a node of the running configuration is ready; `None`: it is not a node of it.
    pub fn node(&mut self, name: &NodeName, ready: Option<bool>) {
        if ready == Some(false) {
            self.unready.insert(name.clone());
        } else {
            self.unready.remove(name);
        }
    }

    /// After each entry: the running configuration has reached ready if no node is missing.
    pub fn settle(&mut self, at: Timestamp) {
        if !self.runs || !self.unready.is_empty() {
            return;
        }
        let Some((seq, newest)) = self.records.last_key_value().filter(|(_, one)| one.extras.0.ready_at.is_none())
        else {
            return;
        };
        let (seq, mut newest) = (*seq, newest.clone());
        newest.extras.0.ready_at = Some(at);
        self.put(seq, newest);
        self.trim();
    }

    /// All, by the entry that set each, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = (Seq, &PastRecord)> {
        self.records.iter().map(|(seq, record)| (*seq, record))
    }

    /// The running one.
    pub fn running(&self) -> Option<(Seq, &PastRecord)> {
        self.records().next_back().filter(|_| self.runs)
    }

    /// `@-back`: 0 is the running one, 1 the newest before it that reached ready, and so on. If none runs, 1 is the newest.
    pub fn back(&self, back: u32) -> Option<&PastRecord> {
        self.positions().find(|(place, _)| *place == Some(back)).map(|(_, record)| record)
    }

    /// All, newest first, each with what [`Self::back`] calls it; `None`: it has not reached ready, and another runs.
    pub fn positions(&self) -> impl Iterator<Item = (Option<u32>, &PastRecord)> {
        let mut next = 1;
        let running = self.running().map(|(seq, _)| seq);
        self.records().rev().map(move |(seq, record)| {
            if Some(seq) == running {
                return (Some(0), record);
            }
            let place = record.extras.0.ready_at.map(|_| next);
            next += u32::from(place.is_some());
            (place, record)
        })
    }

    /// Records that changed since the last call; `None`: to be removed.
    pub fn take_dirty(&mut self) -> Vec<(Seq, Option<PastRecord>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|seq| (seq, self.records.get(&seq).cloned())).collect()
    }

    /// As what is stored: the records alone.
    pub fn into_records(self) -> BTreeMap<Seq, PastRecord> {
        self.records
    }

    fn put(&mut self, seq: Seq, record: PastRecord) {
        self.records.insert(seq, record);
        self.dirty.insert(seq);
    }

    fn trim(&mut self) {
        let (mut count, mut nodes, mut ready) = (0, 0, 0);
        let running = self.running().map(|(seq, _)| seq);
        let mut gone = Vec::new();
        for (seq, record) in self.records.iter().rev() {
            let is_ready = record.extras.0.ready_at.is_some();
            count += 1;
            nodes += record.config.0.nodes.len();
            ready += usize::from(is_ready);
            let needed = Some(*seq) == running || is_ready && ready <= KEPT_READY;
            if !needed && (count > KEPT || nodes > KEPT_NODES) {
                gone.push(*seq);
            }
        }
        for seq in gone {
            self.records.remove(&seq);
            self.dirty.insert(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::{ClusterRole, Node};

    fn configuration(id: &str, nodes: usize) -> Packed<Configuration> {
        let node = |index: usize| Node {
            name: format!("w{index}"),
            instance: "a1".to_owned(),
            role: ClusterRole::Worker,
            port: None,
            scripts: Vec::new(),
            options: Vec::new(),
            interface: None,
            cpu_affinity: None,
            env: BTreeMap::new(),
            metrics_port: None,
        };
        Packed(Configuration {
            id: id.to_owned(),
            instances: Vec::new(),
            nodes: (0..nodes).map(node).collect(),
            ..Configuration::default()
        })
    }

    fn asked(seq: u64) -> Asked {
        let source = Source { transport: "control".to_owned(), peer: "uid=0 pid=1".to_owned() };
        Asked { request: Seq(seq), reqid: ReqId::default(), source }
    }

    fn set(past: &mut Past, seq: u64, id: &str, nodes: usize, becomes_ready: bool) {
        past.set(Seq(seq), Timestamp(seq), asked(seq), configuration(id, nodes), NodesChanged::default());
        let name = NodeName::new("w0").unwrap();
        past.node(&name, Some(false));
        past.settle(Timestamp(seq));
        if becomes_ready {
            past.node(&name, Some(true));
            past.settle(Timestamp(seq + 1));
        }
    }

    fn ids(past: &Past) -> Vec<(Option<u32>, &str)> {
        past.positions().map(|(place, record)| (place, record.config.0.id.as_str())).collect()
    }

    #[test]
    fn only_what_reached_ready_counts() {
        let mut past = Past::default();
        set(&mut past, 10, "a", 1, true);
        set(&mut past, 20, "b", 1, false);
        set(&mut past, 30, "c", 1, true);
        assert_eq!(ids(&past), [(Some(0), "c"), (None, "b"), (Some(1), "a")]);
        assert_eq!(past.back(1).unwrap().config.0.id, "a");
        assert_eq!(past.back(2), None);
        past.end(Timestamp(40));
        assert_eq!(ids(&past), [(Some(1), "c"), (None, "b"), (Some(2), "a")]);
        assert_eq!(past.back(0), None);
    }

    #[test]
    fn a_running_one_that_is_not_ready_is_the_running_one_all_the_same() {
        let mut past = Past::default();
        set(&mut past, 10, "a", 1, true);
        set(&mut past, 20, "b", 1, false);
        assert_eq!(ids(&past), [(Some(0), "b"), (Some(1), "a")]);
    }

    #[test]
    fn the_same_again_is_not_another_one() {
        let mut past = Past::default();
        set(&mut past, 10, "a", 1, true);
        set(&mut past, 20, "b", 1, true);
        set(&mut past, 30, "b", 1, false);
        assert_eq!(ids(&past), [(Some(0), "b"), (Some(1), "a")]);
        assert_eq!(past.running().unwrap().0, Seq(30));
    }

    #[test]
    fn it_is_bounded_and_keeps_the_running_and_the_one_before() {
        let mut past = Past::default();
        for seq in 1..=40 {
            set(&mut past, seq * 10, &seq.to_string(), 1, true);
        }
        assert_eq!(past.records().count(), KEPT);
        let mut large = Past::default();
        set(&mut large, 10, "a", 4000, true);
        set(&mut large, 20, "b", 4000, true);
        for seq in 3..30 {
            set(&mut large, seq * 10, &seq.to_string(), 4000, false);
        }
        assert_eq!(ids(&large), [(Some(0), "29"), (Some(1), "b"), (Some(2), "a")]);
        let removed = large.take_dirty().into_iter().filter(|(_, record)| record.is_none()).count();
        assert_eq!(removed, 26, "each that is gone is removed from the journal");
    }

    #[test]
    fn what_an_earlier_release_set_is_part_of_it() {
        let desired = DesiredRecord { by: Seq(7), config: Some(configuration("old", 1)), extras: Packed::default() };
        let mut past = Past::new(BTreeMap::new(), BTreeSet::new(), &desired);
        assert_eq!(ids(&past), [(Some(0), "old")]);
        assert_eq!(past.take_dirty().len(), 1);
        let again = Past::new(past.clone().into_records(), BTreeSet::new(), &desired);
        assert_eq!(again, past, "and only once");
    }
}

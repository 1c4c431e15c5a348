//! The [`Handle`] through which the core gives orders, and the place where they wait for a node's task.
//!
//! Promises: [`Handle::order`] never waits. The newest order of a kind replaces an older one that was not handled yet,
//! so nothing queues up however slow a node's disk or shim is, and one slow node delays no other.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};

use super::adopt::Known;
use super::check::Checker;
use super::crash::Keeper;
use super::files::{self, STATUS};
use super::job::{self, Job};
use super::orders::{NodeCgroups, Pending, Slot, SupervisorState, locked};
use super::process::{self, Lingering};
use super::task::NodeTask;
use super::{Context, Error, Options, aside, output};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ProcessId;
use crate::api::report::chain;
use crate::api::status::NodeOutputs;
use crate::api::supervision::{Finding, NodeEvent, NodeOrder};
use crate::tasks::{OnExit, Tasks, blocking};

/// The interface to all nodes. Cheap to clone; its methods can be called from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<SupervisorState>,
}

impl Handle {
    /// Opens what supervision needs. Neither starts nor looks for anything: see [`probe`](Self::probe).
    pub fn start(options: Options, events: mpsc::Sender<NodeEvent>, tasks: Tasks) -> Result<Self, Error> {
        let context = Arc::new(Context::open(options)?);
        let crashes = Keeper::start(&context.options.state_dir, context.options.crash.clone(), &tasks);
        Ok(Self {
            shared: Arc::new(SupervisorState {
                context,
                tasks,
                crashes,
                events,
                slots: Mutex::default(),
                cgroups: NodeCgroups::default(),
            }),
        })
    }

    /// A job of this host. There must not be two with the same directory.
    pub(crate) fn job(&self, options: job::Options) -> Job {
        Job::new(Arc::clone(&self.shared.context), options)
    }

    /// Runs nodes' programs to have their scripts checked.
    pub(crate) fn checker(&self) -> Checker {
        Checker::new(Arc::clone(&self.shared.context))
    }

    /// The cgroups of the nodes, as they come and go.
    pub fn cgroups(&self) -> NodeCgroups {
        self.shared.cgroups.clone()
    }

    /// The id of the current boot, as it is in every [`ProcessId`].
    pub fn boot_id(&self) -> &str {
        &self.shared.context.boot_id
    }

    /// Gives an order; the result is reported as an event. Never waits.
    pub fn order(&self, node: &NodeName, order: NodeOrder) {
        self.with_slot(node, |pending| pending.add(order));
    }

    /// Finds out what an earlier agent left of these nodes, and of all others that have a run directory. To be called
    /// once, before any order; adopted nodes report from then on. Takes 2 s at most, or 10 s if processes without a
    /// shim have to be ended.
    pub async fn probe(
        &self,
        known: Vec<(NodeName, Option<ProcessId>, Incarnation)>,
    ) -> Result<Vec<(NodeName, Finding)>, Error> {
        // One scan of /proc for all nodes, known or not.
        let context = Arc::clone(&self.shared.context);
        let lingering = blocking(move || process::lingering(&context.home)).await.map_err(Error::ListProcesses)?;
        let none = || Known { lingering: Some(Vec::new()), ..Known::default() };
        let names = self.list_run()?.into_iter().chain(lingering.iter().map(|one| one.node.clone()));
        let mut nodes: BTreeMap<NodeName, Known> = names.map(|node| (node, none())).collect();
        for (node, process, incarnation) in known {
            nodes.insert(node, Known { incarnation, process, ..none() });
        }
        for Lingering { node, pid } in lingering {
            let known = nodes.get_mut(&node).and_then(|known| known.lingering.as_mut());
            known.into_iter().for_each(|pids| pids.push(pid));
        }
        let mut answers = Vec::with_capacity(nodes.len());
        for (node, known) in nodes {
            let (reply, answer) = oneshot::channel();
            self.with_slot(&node, |pending| pending.probe = Some((known, reply)));
            answers.push((node, answer));
        }
        let mut findings = Vec::with_capacity(answers.len());
        for (node, answer) in answers {
            let reason = || "the task that looked for it died".to_owned();
            let finding = answer.await.unwrap_or_else(|_| Finding::Unprovable { reason: reason() });
            findings.push((node, finding));
        }
        Ok(findings)
    }

    /// The state directory is a copy of another: from now on nothing is signalled.
    pub fn spare_all(&self) {
        self.shared.context.is_copy.store(true, Ordering::Release);
    }

    /// The records of these nodes belong to another directory, of which this one is a copy: forgets them, also on disk.
    /// From now on this directory's own processes may be signalled. Running processes are not touched. Blocks.
    pub fn disown(&self, nodes: &[NodeName]) -> Result<(), String> {
        for node in nodes {
            files::remove(&self.shared.context.run_dir(node).join(STATUS)).map_err(|error| chain(&error))?;
            self.with_slot(node, |pending| pending.disown = true);
        }
        self.shared.context.is_copy.store(false, Ordering::Release);
        Ok(())
    }

    fn list_run(&self) -> Result<Vec<NodeName>, Error> {
        let path = &self.shared.context.run;
        let failed = |source| Error::ListRun { path: path.clone(), source };
        let mut nodes = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match name.to_str().map(NodeName::new) {
                Some(Ok(node)) => nodes.push(node),
                Some(Err(_)) | None if aside::has_name(&name) => {}
                Some(Err(_)) | None => tracing::warn!(?name, "not a node's run directory; left alone"),
            }
        }
        Ok(nodes)
    }

    /// Makes shims prove that they still answer: one that does not within 5 s is reported as silent. Costs a message
    /// per node, so it is called when states are requested, not periodically.
    pub fn ping(&self) {
        let slots: Vec<_> = locked(&self.shared.slots).values().cloned().collect();
        for slot in slots {
            locked(&slot.pending).ping = true;
            slot.wake.notify_one();
        }
    }

    /// The tail of a node's output, from its files, whether it runs or not. Blocks, so not for the runtime's threads.
    pub fn outputs(&self, node: &NodeName) -> NodeOutputs {
        output::tails(&self.shared.context.node_dir(node))
    }

    fn with_slot(&self, node: &NodeName, change: impl FnOnce(&mut Pending)) {
        let mut slots = locked(&self.shared.slots);
        let slot = slots.entry(node.clone()).or_insert_with(|| {
            let slot = Arc::new(Slot::default());
            let task = NodeTask::new(Arc::clone(&self.shared), Arc::clone(&slot), node.clone());
            // A panic would leave one node unsupervised until the agent restarts, so it justifies a restart.
            self.shared.tasks.spawn(format!("node {node}"), OnExit::FatalByPanic, |token| task.run(token));
            slot
        });
        change(&mut locked(&slot.pending));
        slot.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::ids::Seq;
    use crate::api::launch::{LaunchSpec, Program, Readiness};

    fn prepare(incarnation: u64) -> NodeOrder {
        let spec = LaunchSpec {
            program: Program::Simulated,
            args: Vec::new(),
            env: BTreeMap::new(),
            role: ClusterRole::Worker,
            ports: Vec::new(),
            readiness: Readiness::Checkin,
            stop_timeout_ms: 1,
            secrets: BTreeMap::new(),
            rights: Box::default(),
            files: BTreeMap::new(),
        };
        NodeOrder::Prepare { incarnation: Incarnation(incarnation), spec: Box::new(spec), by: Seq(1) }
    }

    /// The preparation and the order to forget that remain after these orders.
    fn left(orders: Vec<NodeOrder>) -> (Option<u64>, Option<u64>) {
        let mut pending = Pending::default();
        for order in orders {
            pending.add(order);
        }
        (pending.prepare.map(|order| order.incarnation.0), pending.forget.map(|forgotten| forgotten.0))
    }

    /// In any order and for any incarnation, the last order wins.
    #[test]
    fn forgetting_does_not_take_a_later_preparation_with_it() {
        let forget = |incarnation| NodeOrder::Forget { incarnation: Incarnation(incarnation) };
        assert_eq!(left(vec![forget(3), prepare(3)]), (Some(3), None));
        assert_eq!(left(vec![forget(3), prepare(4)]), (Some(4), None));
        assert_eq!(left(vec![forget(5), prepare(1)]), (Some(1), None), "a name that counts anew");
        assert_eq!(left(vec![prepare(3), forget(3)]), (None, Some(3)));
        assert_eq!(left(vec![prepare(3), forget(3), prepare(3)]), (Some(3), None));
        assert_eq!(left(vec![prepare(4), forget(3)]), (Some(4), None), "of another start");
    }
}

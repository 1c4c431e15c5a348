//! The orders that wait for a node's task: the newest of each kind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Notify, mpsc, oneshot};

use super::Context;
use super::adopt::Known;
use super::crash::Keeper;
use super::launch::Order;
use crate::api::ids::{Incarnation, NodeName};
use crate::api::supervision::{Finding, NodeEvent, NodeOrder};
use crate::tasks::Tasks;

/// Shared by the tasks of all nodes.
#[derive(Debug)]
pub(super) struct SupervisorState {
    pub(super) context: Arc<Context>,
    pub(super) tasks: Tasks,
    pub(super) crashes: Keeper,
    /// Bounded by its owner. If it is full, nodes' tasks wait and nothing is lost.
    pub(super) events: mpsc::Sender<NodeEvent>,
    pub(super) slots: Mutex<BTreeMap<NodeName, Arc<Slot>>>,
    pub(super) cgroups: NodeCgroups,
}

/// The numbers of the nodes' own cgroups, by which the kernel names them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct NodeCgroups(Arc<RwLock<BTreeMap<NodeName, u64>>>);

impl NodeCgroups {
    /// Whether this is the cgroup of a node of this agent.
    pub fn has(&self, id: u64) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().any(|known| *known == id)
    }

    pub(super) fn set(&self, node: &NodeName, id: Option<u64>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) => _ = known.insert(node.clone(), id),
            None => _ = known.remove(node),
        }
    }
}

/// Orders and questions that a node's task has not handled yet.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) pending: Mutex<Pending>,
    pub(super) wake: Notify,
}

/// The newest order of each kind.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) probe: Option<(Known, oneshot::Sender<Finding>)>,
    /// The records about the node belong to another directory.
    pub(super) disown: bool,
    pub(super) prepare: Option<Order>,
    pub(super) launch: Option<Incarnation>,
    pub(super) stop: Option<(Incarnation, u64)>,
    pub(super) clear: Option<Incarnation>,
    /// With the stop timeout.
    pub(super) set_aside: Option<(Incarnation, u64)>,
    pub(super) keep_crash: Option<Incarnation>,
    pub(super) acknowledge: Option<Incarnation>,
    pub(super) forget: Option<Incarnation>,
    pub(super) ping: bool,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        let Self { probe, disown, prepare, launch, stop, clear, set_aside, keep_crash, acknowledge, forget, ping } =
            self;
        probe.is_none()
            && !disown
            && prepare.is_none()
            && launch.is_none()
            && stop.is_none()
            && clear.is_none()
            && set_aside.is_none()
            && keep_crash.is_none()
            && acknowledge.is_none()
            && forget.is_none()
            && !ping
    }

    pub(super) fn add(&mut self, order: NodeOrder) {
        match order {
            NodeOrder::Prepare { incarnation, spec, by } => {
                self.prepare = Some(Order { incarnation, spec, by });
                // It comes after any order to forget, whatever its incarnation: a node that is being started again
                // stays. An older launch is over.
                self.forget = None;
                self.set_aside = None;
                self.launch = self.launch.filter(|launch| *launch >= incarnation);
            }
            NodeOrder::Launch { incarnation } => self.launch = Some(incarnation),
            NodeOrder::Stop { incarnation, timeout_ms } => {
                // Of two stop orders for the same incarnation the earlier deadline counts, as in the shim.
                let before = self.stop.filter(|(stopping, _)| *stopping == incarnation);
                self.stop = Some((incarnation, before.map_or(timeout_ms, |(_, before)| before.min(timeout_ms))));
            }
            NodeOrder::Clear { incarnation } => self.clear = Some(incarnation),
            NodeOrder::SetAside { incarnation, timeout_ms } => self.set_aside = Some((incarnation, timeout_ms)),
            NodeOrder::KeepCrash { incarnation } => self.keep_crash = Some(incarnation),
            NodeOrder::AcknowledgeExit { incarnation } => self.acknowledge = Some(incarnation),
            NodeOrder::Disown => self.disown = true,
            NodeOrder::Forget { incarnation } => {
                if self.prepare.as_ref().is_some_and(|prepare| prepare.incarnation > incarnation) {
                    return;
                }
                self.forget = Some(incarnation);
                self.prepare = None;
                self.launch = self.launch.filter(|launch| *launch > incarnation);
            }
        }
    }
}

/// Nothing under these locks can panic half way, so the data behind a poisoned lock is intact.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

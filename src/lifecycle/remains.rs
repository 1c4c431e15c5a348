//! What is left of nodes that are to be gone: what is waited for, what an answer says about it, and when to look again
//! (P15).
//!
//! A stop, a standby, a removal, a restart or a shutdown is not answered with success while anything is left of a node.
//! Three things can keep a node from being down although its own process has ended:
//!
//! - its shim has processes left that it could not end ([`NodeSeen::left`]): it keeps trying, and reports when they are
//!   gone;
//! - a process holds its lock, and there is no shim ([`Obstacle::Lock`]): looked for again every few seconds;
//! - its shim was of the first release, and holders of the lock are still being searched for
//!   ([`LimitedCleanup::pending`]).

use crate::api::event::Notification;
use crate::api::ids::{Incarnation, NodeName};
use crate::api::supervision::NodeOrder;
use crate::api::survivors::Survivors;
use crate::api::time::Now;
use crate::journal::entry::{Life, NodeRecord};

use super::Lifecycle;
use super::decision::{Decision, Note};
use super::effect::Effect;
use super::seen::{Left, LimitedCleanup, NodeSeen, Obstacle, ProcessPhase};

/// Why only holders of the lock could be searched for.
pub(super) const SHIM_GONE: &str = "its shim was gone before it";
const FIRST_SHIM: &str = "its shim is of the first release";

impl NodeSeen {
    /// Its shim reported what it could not end. A report after a stop order is the result of that order.
    pub(super) fn observe_left(&mut self, incarnation: Incarnation, survivors: &Survivors) {
        let after_stop = self.stop_sent.is_some_and(|(sent, _)| sent == incarnation);
        self.left = Some(Left { survivors: survivors.clone(), after_stop });
    }

    pub(super) fn observe_first_shim(&mut self) {
        self.limited_cleanup = Some(LimitedCleanup { why: FIRST_SHIM, pending: true });
    }

    /// Nobody holds its lock any more.
    pub(super) fn observe_cleared(&mut self) {
        self.observe_free();
        self.blocked = self.blocked.take().filter(|blocked| blocked.by == Obstacle::Port);
    }

    /// Nobody held its lock when it was checked.
    pub(super) fn observe_free(&mut self) {
        if let Some(limited) = &mut self.limited_cleanup {
            limited.pending = false;
        }
    }

    fn is_locked(&self) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.by != Obstacle::Port)
    }

    /// Whether any process of it may be left, apart from one that is under supervision.
    pub(super) fn may_be_left(&self) -> bool {
        self.is_unknown() || self.limited_cleanup.as_ref().is_some_and(|limited| limited.pending)
    }

    /// The same, but only if there is a reason to think so.
    pub(super) fn is_unknown(&self) -> bool {
        self.is_locked() || self.left.is_some()
    }

    /// What is left of it, for a message.
    pub(super) fn remains(&self) -> Option<String> {
        if let Some(left) = &self.left {
            return Some(left.to_string());
        }
        self.blocked
            .as_ref()
            .filter(|_| self.is_locked())
            .map(|blocked| format!("it may still run: {}", blocked.reason))
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it has ended, and processes that it left could not be ended: {}; end them by hand", self.survivors)
    }
}

impl Lifecycle {
    pub(super) fn notify_left(&self, name: &NodeName, survivors: &Survivors) -> Decision {
        let left = Left { survivors: survivors.clone(), after_stop: false };
        self.notify_error(name, &format!("{name}: {left}"))
    }

    pub(super) fn notify_first_shim(&self, name: &NodeName) -> Decision {
        self.notify_limited_cleanup(name, FIRST_SHIM)
    }

    pub(super) fn notify_limited_cleanup(&self, name: &NodeName, why: &str) -> Decision {
        let msg = format!("{name} has ended, and {}", only_holders(why));
        let instance = self.options.instance.to_string();
        Decision::default().effect(Effect::Notify(Notification::NotifyLog { instance, msg, node: name.to_string() }))
    }

    /// No process of this node is left or about to start. A mere preparation never becomes a process without an intent.
    pub(super) fn is_down(&self, name: &NodeName) -> bool {
        let no_process = |phase| match phase {
            ProcessPhase::Clear | ProcessPhase::Preparing { .. } | ProcessPhase::Prepared { .. } => true,
            ProcessPhase::Unprobed | ProcessPhase::Launching { .. } | ProcessPhase::Present { .. } => false,
        };
        self.durable.nodes.get(name).is_none_or(|record| record.life == Life::Down)
            && self.seen.nodes.get(name).is_none_or(|node| no_process(node.phase) && !node.may_be_left())
    }

    /// It is down, or was told to stop and could not be ended: waiting longer cannot help.
    pub(super) fn is_done_stopping(&self, name: &NodeName) -> bool {
        let tried = |node: &NodeSeen| node.left.as_ref().is_some_and(|left| left.after_stop);
        self.is_down(name) || self.seen.nodes.get(name).is_some_and(tried)
    }

    /// Its own process has ended, but something of it is left.
    pub(super) fn has_left(&self, name: &NodeName) -> bool {
        self.seen.nodes.get(name).is_some_and(|node| node.left.is_some())
    }

    /// Why this node, which should be down, is not.
    pub(super) fn why_not_down(&self, name: &NodeName) -> String {
        let remains = self.seen.nodes.get(name).and_then(NodeSeen::remains);
        let held = self.durable.agent.hold.is_some() && !self.seen.winding_down;
        if self.is_down(name) {
            return "it has ended, and its run directory was not set aside in time".to_owned();
        }
        let then = if held { "nothing is stopped in hold mode" } else { "it is being stopped" };
        remains.unwrap_or_else(|| match self.durable.nodes.get(name).map(|record| &record.life) {
            Some(Life::Up { process, .. }) => format!("still running (pid {}); {then}", process.pid),
            Some(Life::Intended | Life::Down) | None => format!("still running; {then}"),
        })
    }

    /// Nodes that may have left something although the journal does not know their names: they must be gone as well.
    pub(super) fn nameless_remains(&self) -> impl Iterator<Item = &NodeName> {
        let unknown = self.seen.nodes.names().filter(|name| !self.durable.nodes.contains_key(*name));
        unknown.filter(|name| self.seen.nodes.get(name).is_some_and(NodeSeen::may_be_left))
    }

    /// What is certain about a node that is down, if that is less than usual.
    pub(super) fn only_promised(&self, name: &NodeName) -> Option<String> {
        let limited = self.seen.nodes.get(name)?.limited_cleanup.as_ref()?;
        Some(only_holders(limited.why))
    }

    /// Orders again the end of what could not be ended before.
    pub(super) fn stop_again(&self, now: Now, name: &NodeName) -> Decision {
        let (Some(record), Some(node)) = (self.durable.nodes.get(name), self.seen.nodes.get(name)) else {
            return Decision::default();
        };
        match (node.phase, &node.left) {
            (ProcessPhase::Present { incarnation }, Some(_)) => self.order_stop(now, name, record, incarnation),
            (_, Some(_) | None) => Decision::default(),
        }
    }

    pub(super) fn order_stop(
        &self,
        now: Now,
        name: &NodeName,
        record: &NodeRecord,
        incarnation: Incarnation,
    ) -> Decision {
        let order = NodeOrder::Stop { incarnation, timeout_ms: record.spec.0.stop_timeout_ms };
        Decision::default().effect(Effect::Order { node: name.clone(), order }).note(Note::StopSent {
            node: name.clone(),
            incarnation,
            at: now.boot,
        })
    }

    /// Its lock is held and no shim is known: orders another search for it.
    pub(super) fn look_again(&self, now: Now, name: &NodeName, incarnation: Incarnation) -> Decision {
        let order = NodeOrder::Clear { incarnation };
        let again = Note::LookedAgain { node: name.clone(), at: now.boot };
        Decision::default().effect(Effect::Order { node: name.clone(), order }).note(again)
    }
}

fn only_holders(why: &str) -> String {
    format!("only processes that hold its lock could be looked for, since {why}")
}

//! Changes that stop nodes: standby, a stop of some, a shutdown with the nodes.

use std::collections::BTreeSet;

use crate::api::ids::Incarnation;
use crate::api::time::Now;
use crate::journal::entry::{ConfigChange, Goal, Outcome, Received, WantChange};

use super::decision::{Decision, Note};
use super::{Lifecycle, answer};

impl Lifecycle {
    /// All nodes are stopped, and the configuration is forgotten.
    pub(super) fn plan_standby(&self, now: Now, received: &Received) -> Decision {
        let targets = self.all_nodes();
        let known = targets.iter().filter(|(name, _)| self.durable.nodes.contains_key(name));
        let changes = known.map(|(name, _)| (name.clone(), WantChange::Gone)).collect();
        self.supersede(received, None)
            .and(self.replace_waiting(received))
            .and(self.desire(received, ConfigChange::Forget, changes))
            .and(self.wait(now, received, Goal::Down, targets))
    }

    /// With `force` everything that is left of the nodes is removed, including their run directories.
    pub(super) fn plan_stop(&self, now: Now, received: &Received, names: &BTreeSet<String>, force: bool) -> Decision {
        if force {
            return self.plan_forced_stop(now, received, names);
        }
        if let Some(refused) = self.refuse_unknown(received, names) {
            return refused;
        }
        let selected = self.selected(names);
        let changes = selected.iter().map(|name| (name.clone(), WantChange::Stopped)).collect();
        let targets = selected.into_iter().map(|name| (name, Incarnation::default())).collect();
        self.supersede(received, Some(&targets)).and(self.desire(received, ConfigChange::Keep, changes)).and(self.wait(
            now,
            received,
            Goal::Down,
            targets,
        ))
    }

    /// The desired state stays: the next run of the agent starts the nodes again.
    pub(super) fn plan_shutdown(&self, now: Now, received: &Received, nodes: bool) -> Decision {
        if !nodes {
            let done = answer::succeeded(&self.options.instance, &received.reqid, &received.request);
            return self
                .complete(received, Outcome::Completed, done)
                .and(self.stop("shutdown was requested; nodes run on"));
        }
        self.supersede(received, None).note(Note::WindingDown).and(self.wait(
            now,
            received,
            Goal::Down,
            self.all_nodes(),
        ))
    }
}

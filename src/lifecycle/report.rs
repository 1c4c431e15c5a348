//! What operators see of the nodes (`status`, `nodes list`).

use std::collections::BTreeMap;

use crate::api::ids::NodeName;
use crate::api::report::NodeReport;
use crate::api::status::NodeState;
use crate::api::time::Now;
use crate::journal::entry::{Life, Want};
use crate::zeek;

use super::seen::NodeSeen;
use super::{Lifecycle, Profile};

impl Lifecycle {
    /// The reason for hold mode, in which nothing is started or stopped.
    pub fn hold(&self) -> Option<&str> {
        self.durable.agent.hold.as_deref()
    }

    /// The id of the running configuration.
    pub fn configuration_id(&self) -> Option<&str> {
        self.durable.desired.config.as_ref().map(|config| config.0.id.as_str())
    }

    /// Whether every node has been looked for and requests are handled.
    pub fn is_serving(&self) -> bool {
        self.seen.adopted && !self.seen.stopping
    }

    /// How the agent and its nodes are, in a line for a service manager.
    pub(crate) fn condition(&self) -> String {
        let mut counts: BTreeMap<NodeState, usize> = BTreeMap::new();
        for (name, _) in self.durable.nodes.iter().filter(|(_, record)| record.want != Want::Gone) {
            *counts.entry(self.node_state(name)).or_default() += 1;
        }
        let number: usize = counts.values().sum();
        let counts: Vec<String> = counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
        let nodes = match number {
            0 => "no nodes".to_owned(),
            1 => format!("1 node: {}", counts.join(", ")),
            _ => format!("{number} nodes: {}", counts.join(", ")),
        };
        match self.hold() {
            Some(reason) => format!("on hold ({reason}); {nodes}"),
            None => format!("serving; {nodes}"),
        }
    }

    /// Where a node of the running configuration serves its own metrics.
    fn metrics_port(&self, name: &NodeName) -> Option<u16> {
        let node = self.configured(name)?;
        match &self.options.profile {
            Profile::Zeek(options) => zeek::metrics_port(options, node),
            Profile::Plain => node.metrics_port.map(|port| port.number),
        }
    }

    pub(crate) fn node_reports(&self, now: Now) -> Vec<NodeReport> {
        let mut reports = Vec::with_capacity(self.durable.nodes.len());
        for (name, record) in &self.durable.nodes {
            let fallback = NodeSeen::default();
            let node = self.seen.nodes.get(name).unwrap_or(&fallback);
            let (pid, up_ms) = match &record.life {
                Life::Up { process, since, .. } => (Some(process.pid), Some(now.boot.ms_since(*since))),
                Life::Down | Life::Intended => (None, None),
            };
            let window_ms = self.options.restart.window_ms;
            let note = if let Some(blocked) = &node.blocked {
                Some(blocked.reason.clone())
            } else if let Some(left) = &node.left {
                Some(left.to_string())
            } else if node.silent {
                Some("its shim does not answer".to_owned())
            } else if let Some(given_up) = &record.given_up {
                Some(node.given_up(given_up, record.incarnation))
            } else if self.is_held(name) && record.want == Want::Up && pid.is_none() {
                Some("not started in hold mode".to_owned())
            } else if let Some(early) = &node.early_exit {
                Some(format!("{}; see `nodes logs {name} --stderr`", early.what))
            } else if node.dropped > 0 {
                Some(format!("{} bytes of its output were dropped", node.dropped))
            } else if node.overdue {
                Some("has not checked in".to_owned())
            } else {
                None
            };
            reports.push(NodeReport {
                node: name.to_string(),
                role: record.spec.0.role,
                state: self.node_state(name),
                want: match record.want {
                    Want::Up => "up",
                    Want::Stopped => "stopped",
                    Want::Gone => "gone",
                }
                .to_owned(),
                pid,
                metrics_port: self.metrics_port(name),
                incarnation: record.incarnation.0,
                up_ms,
                deaths: record.deaths.iter().filter(|at| now.boot.ms_since(**at) <= window_ms).count() as u64,
                awaited_ms: node
                    .awaited
                    .filter(|awaited| awaited.by == record.by && record.want == Want::Up)
                    .map(|awaited| now.boot.ms_since(awaited.at)),
                late: self.is_pending_too_long(now, name),
                next_start_ms: record.next_start.and(self.next_try(name, record)).map(|at| at.ms_since(now.boot)),
                last_exit: record.last_exit.as_ref().map(ToString::to_string),
                note,
                dropped_bytes: node.dropped,
                shim: node.shim.clone(),
            });
        }
        reports
    }
}

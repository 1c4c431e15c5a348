//! What nodes use and capture, and the snapshot of the metrics page.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::api::figures::{Figures, NodeFigures, Usage};
use crate::api::report::NodeReport;
use crate::api::status::NodeState;
use crate::api::time::Now;
use crate::figures;
use crate::metrics::{MetricsAgent, Snapshot};
use crate::supervisor::SHIM_NAME;

use super::clock;
use super::service::{AgentService, blocking};

/// One reading of `/proc`.
struct Reading {
    at: Now,
    own: Option<Usage>,
    /// By the node's name.
    nodes: BTreeMap<String, Usage>,
}

impl AgentService {
    /// Processes of all nodes, and what those with a metrics port answer.
    pub(super) async fn node_figures(&self) -> Result<Figures, String> {
        let nodes = self.report().await.nodes;
        let asked = nodes.iter().map(|node| self.metrics_address(node)).collect();
        let (mut reading, answers) = tokio::join!(read(&nodes), figures::ask_all(asked));
        let nodes = nodes.into_iter().zip(answers).map(|(node, answer)| {
            let (captured, problem) = match answer {
                Some(Ok(captured)) => (Some(captured), None),
                Some(Err(problem)) => (None, Some(problem)),
                None => (None, None),
            };
            let usage = reading.as_mut().ok().and_then(|reading| reading.nodes.remove(&node.node));
            let NodeReport { node, role, state, pid, up_ms, .. } = node;
            NodeFigures { node, role, state, pid, up_ms, usage, captured, problem }
        });
        let nodes = nodes.collect();
        reading.map(|Reading { at, .. }| Figures { at: clock::rfc3339(at.wall), at_ms: at.boot.0 / 1000, nodes })
    }

    /// Where to ask a node that runs.
    fn metrics_address(&self, node: &NodeReport) -> Option<SocketAddr> {
        let port = node.metrics_port.filter(|_| node.state == NodeState::Running)?;
        let address = self.about.node_address.filter(|address| !address.is_unspecified());
        Some(SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port))
    }
}

impl MetricsAgent for AgentService {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let status = self.report().await;
        let Reading { at: _, own, nodes: usage } = read(&status.nodes).await?;
        let counts = self.tally.counts(|name| status.nodes.iter().any(|node| node.node == name));
        Ok(Snapshot {
            status,
            started: self.about.started_at,
            counts,
            own,
            usage,
            node_address: self.about.node_address,
        })
    }
}

async fn read(nodes: &[NodeReport]) -> Result<Reading, String> {
    let (names, pids): (Vec<String>, Vec<u32>) =
        nodes.iter().filter_map(|node| Some((node.node.clone(), node.pid?))).unzip();
    blocking("reading /proc", move || {
        let at = clock::now();
        let usage = figures::of_trees(&pids, SHIM_NAME).map_err(|error| format!("/proc cannot be read: {error}"))?;
        let nodes = names.into_iter().zip(usage).filter_map(|(name, usage)| Some((name, usage?))).collect();
        Ok(Reading { at, own: figures::of_self(), nodes })
    })
    .await
}

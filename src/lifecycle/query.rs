//! Requests that change nothing and are answered at once: welcome, get_nodes. They never wait for a change.

use std::collections::BTreeSet;

use crate::api::configuration::ClusterRole;
use crate::api::event::{Request, Response, ResultData};
use crate::api::ids::NodeName;
use crate::api::status::{ManagementRole, NodeState, NodeStatus};
use crate::journal::entry::{Life, Received, Want};

use super::{Lifecycle, answer};

impl Lifecycle {
    /// The answer to a request that neither changes anything nor asks a node; `None` for all others.
    pub(super) fn query(&self, received: &Received) -> Option<Response> {
        let (reqid, request) = (&received.reqid, &received.request);
        let instance = &self.options.instance;
        match request {
            Request::AgentWelcome {} => Some(answer::succeeded(instance, reqid, request)),
            Request::GetNodes {} => {
                let mut one = answer::result(instance, reqid, true);
                one.data = Some(ResultData::Nodes(self.node_statuses()));
                Some(answer::response(reqid, request, vec![one]))
            }
            Request::NodeDispatch { .. } => self.dispatch_at_once(received),
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentStandby {}
            | Request::Restart { .. }
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::ResumeWaiting { .. }
            | Request::DropWaiting { .. }
            | Request::Shutdown { .. }
            | Request::AdoptState {} => None,
        }
    }

    /// Those of the named nodes that are ours, or all of ours if no name is given. Unknown names are dropped, as Zeek
    /// does.
    pub(super) fn selected(&self, names: &BTreeSet<String>) -> Vec<NodeName> {
        self.durable
            .nodes
            .iter()
            .filter(|(name, record)| record.want != Want::Gone && (names.is_empty() || names.contains(name.as_str())))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Every node of this host, and the agent itself.
    fn node_statuses(&self) -> Vec<NodeStatus> {
        let nodes = self.durable.nodes.iter().map(|(name, record)| {
            let described = self.described(name);
            let pid = match &record.life {
                Life::Up { process, .. } => Some(process.pid),
                Life::Down | Life::Intended => None,
            };
            NodeStatus {
                node: name.to_string(),
                state: self.node_state(name),
                mgmt_role: ManagementRole::None,
                cluster_role: record.spec.0.role,
                pid,
                port: described.port,
                metrics_port: described.metrics_port,
            }
        });
        let agent = NodeStatus {
            node: self.options.instance.to_string(),
            state: NodeState::Running,
            mgmt_role: ManagementRole::Agent,
            cluster_role: ClusterRole::None,
            pid: Some(self.seen.pid),
            port: None,
            metrics_port: None,
        };
        nodes.chain(std::iter::once(agent)).collect()
    }
}

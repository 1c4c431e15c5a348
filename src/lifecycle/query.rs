//! Requests that change nothing: welcome, get_nodes, dispatch. They never wait for a change.

use std::collections::BTreeSet;

use crate::api::configuration::ClusterRole;
use crate::api::event::{Request, Response, ResultData};
use crate::api::ids::NodeName;
use crate::api::status::{ManagementRole, NodeState, NodeStatus};
use crate::journal::entry::{Life, Received, Want};

use super::{Lifecycle, answer};

impl Lifecycle {
    /// The answer to a request that changes nothing; `None` for those that do.
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
            Request::NodeDispatch { action, nodes } => {
                let results = self
                    .selected(nodes)
                    .into_iter()
                    .map(|name| answer::of_node(instance, reqid, &name, Some(self.dispatch_error(&name, action))))
                    .collect();
                Some(answer::response(reqid, request, results))
            }
            Request::SetConfiguration { .. }
            | Request::Deploy { .. }
            | Request::AgentStandby {}
            | Request::Restart { .. }
            | Request::StartNodes { .. }
            | Request::StopNodes { .. }
            | Request::Shutdown { .. } => None,
        }
    }

    /// The named nodes that are ours, or all of ours if none is named. Unknown names are dropped, as Zeek does.
    pub(super) fn selected(&self, names: &BTreeSet<String>) -> Vec<NodeName> {
        self.durable
            .nodes
            .iter()
            .filter(|(name, record)| record.want != Want::Gone && (names.is_empty() || names.contains(name.as_str())))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn dispatch_error(&self, name: &NodeName, action: &[String]) -> String {
        match action {
            [] => return "no dispatch arguments provided".to_owned(),
            [what, ..] if what != "get_id_value" => return format!("dispatch {what} unknown"),
            [_, _] => {}
            [_, ..] => return "get_id_value expects name of global identifier".to_owned(),
        }
        if self.node_state(name) == NodeState::Running {
            format!("no channel to node yet: {name} runs, but has no peering with this agent")
        } else {
            format!("cluster node {name} not in running state")
        }
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

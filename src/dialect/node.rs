//! `Management::Node::API`: what an agent and its nodes say to each other, all on one topic.
//!
//! A node dials the agent and says hello; the agent publishes dispatches to all nodes at once, and those named (all, if
//! none is) answer. Who may be believed is for the transport to know: nothing in the event proves its sender.

use std::collections::BTreeSet;

use crate::api::event::Result as ApiResult;
use crate::api::ids::ReqId;
use crate::broker::data::Data;

use super::record::{self, Mismatch};
use super::{DecodeError, Event, arguments, management, unknown};

pub(super) const MODULE: &str = "Management::Node::API::";

/// The topic of all of it. Our filter has to contain it before a node dials.
pub const TOPIC: &str = "zeek/management/node";

const HELLO: &str = "notify_node_hello";
const DISPATCH_REQUEST: &str = "node_dispatch_request";
const DISPATCH_RESPONSE: &str = "node_dispatch_response";

/// An event of `Management::Node::API`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// From a node: it is up and checks in. The name is empty if it was started without one.
    Hello {
        /// The node's name, as it was started.
        node: String,
    },
    /// From the agent.
    DispatchRequest {
        /// The agent's, which the response echoes.
        reqid: ReqId,
        /// What to do, and its arguments: `get_id_value` and an identifier.
        action: Vec<String>,
        /// Who is to answer; empty means all.
        nodes: BTreeSet<String>,
    },
    /// From a node. Its Result names the node and no instance.
    DispatchResponse {
        /// That of the dispatch.
        reqid: ReqId,
        /// The value, or why there is none.
        result: ApiResult,
    },
}

pub(super) fn decode(name: &str, event: &Event) -> Result<NodeEvent, DecodeError> {
    let wrong = |mismatch| DecodeError::Argument { event: event.name.clone(), mismatch };
    match name {
        HELLO => {
            let [node] = arguments(event)?;
            let node = record::string(node).map_err(|mismatch| wrong(mismatch.inside("node")))?;
            Ok(NodeEvent::Hello { node })
        }
        DISPATCH_REQUEST => {
            let [reqid, action, nodes] = arguments(event)?;
            let read = || -> Result<NodeEvent, Mismatch> {
                let reqid = record::reqid(reqid).map_err(|mismatch| mismatch.inside("reqid"))?;
                let action = record::strings(action).map_err(|mismatch| mismatch.inside("action"))?;
                let nodes = record::names(nodes).map_err(|mismatch| mismatch.inside("nodes"))?;
                Ok(NodeEvent::DispatchRequest { reqid, action, nodes })
            };
            read().map_err(wrong)
        }
        DISPATCH_RESPONSE => {
            let [reqid, result] = arguments(event)?;
            let read = || -> Result<NodeEvent, Mismatch> {
                let reqid = record::reqid(reqid).map_err(|mismatch| mismatch.inside("reqid"))?;
                let result = management::read_result(result).map_err(|mismatch| mismatch.inside("result"))?;
                Ok(NodeEvent::DispatchResponse { reqid, result })
            };
            read().map_err(wrong)
        }
        _ => Err(unknown(event)),
    }
}

/// The event to publish on [`TOPIC`].
pub fn encode(event: &NodeEvent) -> Event {
    let (name, args) = match event {
        NodeEvent::Hello { node } => (HELLO, vec![Data::string(node)]),
        NodeEvent::DispatchRequest { reqid, action, nodes } => (
            DISPATCH_REQUEST,
            vec![Data::string(reqid.as_str()), record::write_strings(action), record::write_names(nodes)],
        ),
        NodeEvent::DispatchResponse { reqid, result } => {
            (DISPATCH_RESPONSE, vec![Data::string(reqid.as_str()), management::write_result(result)])
        }
    };
    Event::new(format!("{MODULE}{name}"), args)
}

//! `Management::Agent::API`, the same from Zeek 5.0 to 9.x but for the records, which grew a metrics port with 7.0.

use crate::api::configuration::Node;
use crate::api::event::{Dialect, Notification, Request, Response, Result as ApiResult};
use crate::api::ids::ReqId;
use crate::api::status::NodeState;
use crate::broker::data::Data;

use super::record::{self, Mismatch, Record};
use super::{
    CHANGE, DecodeError, Decoded, ERROR, EncodeError, Event, HELLO, LOG, Local, Pair, Rejection, Shape, Whereabouts,
    arguments, decode_change, decode_note, decode_request, decode_response, encode_response, not_in,
    notification_event, unknown,
};

pub(super) const MODULE: &str = "Management::Agent::API::";
pub(super) const GET_NODES_RESPONSE: &str = "get_nodes_response";
const DIALECT: Dialect = Dialect::Management;

const DEPLOY: Pair = Pair { request: "deploy_request", arguments: 3, response: "deploy_response", shape: Shape::Many };
const GET_NODES: Pair =
    Pair { request: "get_nodes_request", arguments: 1, response: GET_NODES_RESPONSE, shape: Shape::One };
const DISPATCH: Pair =
    Pair { request: "node_dispatch_request", arguments: 3, response: "node_dispatch_response", shape: Shape::Many };
const WELCOME: Pair =
    Pair { request: "agent_welcome_request", arguments: 1, response: "agent_welcome_response", shape: Shape::One };
const STANDBY: Pair =
    Pair { request: "agent_standby_request", arguments: 1, response: "agent_standby_response", shape: Shape::One };
const RESTART: Pair =
    Pair { request: "restart_request", arguments: 2, response: "restart_response", shape: Shape::Many };
const PAIRS: [Pair; 6] = [DEPLOY, GET_NODES, DISPATCH, WELCOME, STANDBY, RESTART];

pub fn agent_topic(instance: &str) -> String {
    format!("zeek/management/agent/{instance}")
}

pub(super) fn decode(name: &str, event: &Event) -> Result<Decoded, Rejection> {
    let argument = |args: &[Data], index: usize, name: &str| -> Result<Data, Mismatch> {
        args.get(index).cloned().ok_or_else(|| Mismatch::missing(name))
    };
    if name == DEPLOY.request {
        return decode_request(DIALECT, &DEPLOY, event, |args| {
            let config = args.first().ok_or_else(|| Mismatch::missing("config"))?;
            let config = record::read_configuration(config, read_node).map_err(|mismatch| mismatch.inside("config"))?;
            let force = argument(args, 1, "force")?;
            let force = record::boolean(&force).map_err(|mismatch| mismatch.inside("force"))?;
            Ok(Request::Deploy { config, force, how: Box::default() })
        });
    }
    if name == DISPATCH.request {
        return decode_request(DIALECT, &DISPATCH, event, |args| {
            let action = argument(args, 0, "action")?;
            let action = record::strings(&action).map_err(|mismatch| mismatch.inside("action"))?;
            let nodes = argument(args, 1, "nodes")?;
            let nodes = record::names(&nodes).map_err(|mismatch| mismatch.inside("nodes"))?;
            Ok(Request::NodeDispatch { action, nodes })
        });
    }
    if name == RESTART.request {
        return decode_request(DIALECT, &RESTART, event, |args| {
            let nodes = argument(args, 0, "nodes")?;
            let nodes = record::names(&nodes).map_err(|mismatch| mismatch.inside("nodes"))?;
            Ok(Request::Restart { nodes })
        });
    }
    if name == GET_NODES.request {
        return decode_request(DIALECT, &GET_NODES, event, |_| Ok(Request::GetNodes {}));
    }
    if name == WELCOME.request {
        return decode_request(DIALECT, &WELCOME, event, |_| Ok(Request::AgentWelcome {}));
    }
    if name == STANDBY.request {
        return decode_request(DIALECT, &STANDBY, event, |_| Ok(Request::AgentStandby {}));
    }
    if let Some(pair) = PAIRS.iter().find(|pair| pair.response == name) {
        let response = decode_response(DIALECT, pair, event, read_result)?;
        return Ok(Decoded::Response { dialect: DIALECT, response });
    }
    let (notification, whereabouts) = match name {
        HELLO => read_hello(event)?,
        CHANGE => (decode_change(DIALECT, event, read_node_and_state, read_state)?, None),
        ERROR => {
            let (instance, msg, node) = decode_note(DIALECT, event)?;
            (Notification::NotifyError { instance, msg, node }, None)
        }
        LOG => {
            let (instance, msg, node) = decode_note(DIALECT, event)?;
            (Notification::NotifyLog { instance, msg, node }, None)
        }
        _ => return Err(Rejection::of(Some(DIALECT), unknown(event))),
    };
    Ok(Decoded::Notification { dialect: DIALECT, notification, whereabouts })
}

fn read_hello(event: &Event) -> Result<(Notification, Option<Whereabouts>), Rejection> {
    let reject = |error| Rejection::of(Some(DIALECT), error);
    let [instance, id, connecting, api_version] = arguments(event).map_err(reject)?;
    let read = || {
        let instance = record::string(instance).map_err(|mismatch| mismatch.inside("instance"))?;
        let id = record::string(id).map_err(|mismatch| mismatch.inside("id"))?;
        let connecting = record::boolean(connecting).map_err(|mismatch| mismatch.inside("connecting"))?;
        let api_version = record::count(api_version).map_err(|mismatch| mismatch.inside("api_version"))?;
        let whereabouts = Whereabouts::Endpoint { id, connecting };
        Ok((Notification::NotifyAgentHello { instance, api_version }, Some(whereabouts)))
    };
    read().map_err(|mismatch| reject(DecodeError::Argument { event: event.name.clone(), mismatch }))
}

pub(super) fn request(reqid: &ReqId, request: &Request) -> Result<Event, EncodeError> {
    let reqid = Data::string(reqid.as_str());
    let args = match request {
        Request::Deploy { config, force, how: _ } => {
            // Not a wish, and not applied by any agent: zeek-client fills in the same.
            let config = record::write_configuration(config, |node| write_node(node, NodeState::Running));
            vec![reqid, config, Data::Boolean(*force)]
        }
        Request::AgentWelcome {} | Request::AgentStandby {} | Request::GetNodes {} => vec![reqid],
        Request::Restart { nodes } => vec![reqid, record::write_names(nodes)],
        Request::NodeDispatch { action, nodes } => {
            vec![reqid, record::write_strings(action), record::write_names(nodes)]
        }
        Request::SetConfiguration { .. }
        | Request::StartNodes { .. }
        | Request::StopNodes { .. }
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. }
        | Request::AdoptState {} => return Err(not_in(DIALECT, request.event())),
    };
    Ok(Event::new(format!("{MODULE}{}", request.event()), args))
}

pub(super) fn response(response: &Response) -> Result<Event, EncodeError> {
    // Controllers cast the data of get_nodes to a vector and give up handling the event if there is none.
    let write = |result: &ApiResult| match (&result.data, response.event.as_str()) {
        (None, GET_NODES_RESPONSE) => write_result_with(result, Data::Vector(Vec::new())),
        _ => write_result(result),
    };
    encode_response(DIALECT, MODULE, &PAIRS, response, write)
}

pub(super) fn notification(notification: &Notification, local: &Local) -> Event {
    let args = match notification {
        Notification::NotifyAgentHello { instance, api_version } => vec![
            Data::string(instance),
            Data::string(&local.endpoint),
            Data::Boolean(local.connecting),
            Data::Count(*api_version),
        ],
        Notification::NotifyChange { instance, node, state, old, new } => {
            vec![Data::string(instance), write_node(node, *state), write_state(*old), write_state(*new)]
        }
        Notification::NotifyError { instance, msg, node } | Notification::NotifyLog { instance, msg, node } => {
            vec![Data::string(instance), Data::string(msg), Data::string(node)]
        }
    };
    Event::new(format!("{MODULE}{}", notification_event(notification)), args)
}

/// Node: name, instance, role, state, p?, scripts?, options?, interface?, cpu_affinity?, env; since 7.0 metrics_port?.
fn read_node_and_state(data: &Data) -> Result<(Node, NodeState), Mismatch> {
    let mut fields = Record::new(data, "Node", 10)?;
    let name = fields.field("name", record::string)?;
    let instance = fields.field("instance", record::string)?;
    let role = fields.field("role", record::read_role)?;
    let state = fields.field("state", read_state)?;
    let port = fields.optional("p", record::port)?.flatten();
    let mut node = Node {
        name,
        instance,
        role,
        port,
        scripts: Vec::new(),
        options: Vec::new(),
        interface: None,
        cpu_affinity: None,
        env: Default::default(),
        metrics_port: None,
    };
    record::read_node_rest(&mut fields, &mut node)?;
    node.metrics_port = fields.optional("metrics_port", record::port)?.flatten();
    Ok((node, state))
}

fn read_node(data: &Data) -> Result<Node, Mismatch> {
    read_node_and_state(data).map(|(node, _)| node)
}

/// With the metrics port always: a Zeek before 7.0 ignores it, a later one needs it.
fn write_node(node: &Node, state: NodeState) -> Data {
    let head = [
        Data::string(&node.name),
        Data::string(&node.instance),
        record::write_role(node.role),
        write_state(state),
        record::write_optional_port(node.port),
    ];
    let last = record::write_optional_port(node.metrics_port);
    Data::Vector(head.into_iter().chain(record::write_node_rest(node)).chain([last]).collect())
}

fn read_state(data: &Data) -> Result<NodeState, Mismatch> {
    match record::enum_name(data)? {
        "Management::PENDING" => Ok(NodeState::Pending),
        "Management::RUNNING" => Ok(NodeState::Running),
        "Management::STOPPED" => Ok(NodeState::Stopped),
        "Management::FAILED" => Ok(NodeState::Failed),
        "Management::CRASHED" => Ok(NodeState::Crashed),
        "Management::UNKNOWN" => Ok(NodeState::Unknown),
        other => Err(record::no_such("state", other)),
    }
}

fn write_state(state: NodeState) -> Data {
    Data::enum_value(match state {
        NodeState::Pending => "Management::PENDING",
        NodeState::Running => "Management::RUNNING",
        NodeState::Stopped => "Management::STOPPED",
        NodeState::Failed => "Management::FAILED",
        NodeState::Crashed => "Management::CRASHED",
        NodeState::Unknown => "Management::UNKNOWN",
    })
}

/// Result: reqid, success, instance?, data?, error?, node?.
pub(super) fn read_result(data: &Data) -> Result<ApiResult, Mismatch> {
    let mut fields = Record::new(data, "Result", 2)?;
    let reqid = fields.field("reqid", record::reqid)?;
    let success = fields.field("success", record::boolean)?;
    let instance = fields.optional("instance", record::string)?;
    let data = fields.optional("data", |data| record::read_result_data(data, read_state))?.flatten();
    let error = fields.optional("error", record::prose)?;
    let node = fields.optional("node", record::string)?;
    Ok(ApiResult { reqid, success, instance, data, error, node })
}

pub(super) fn write_result(result: &ApiResult) -> Data {
    write_result_with(result, record::write_result_data(result.data.as_ref(), write_state))
}

fn write_result_with(result: &ApiResult, data: Data) -> Data {
    Data::Vector(vec![
        Data::string(result.reqid.as_str()),
        Data::Boolean(result.success),
        record::write_text(result.instance.as_ref()),
        data,
        record::write_text(result.error.as_ref()),
        record::write_text(result.node.as_ref()),
    ])
}

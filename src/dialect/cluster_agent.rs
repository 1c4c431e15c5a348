//! `ClusterAgent::API`, the seed: as Zeek 4.1 and 4.2 speak it, with the records of `ClusterController::Types`.

use crate::api::configuration::{Node, Port, Protocol};
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

pub(super) const MODULE: &str = "ClusterAgent::API::";
const DIALECT: Dialect = Dialect::ClusterAgent;

const SET_CONFIGURATION: Pair = Pair {
    request: "set_configuration_request",
    arguments: 2,
    response: "set_configuration_response",
    shape: Shape::One,
};
const WELCOME: Pair =
    Pair { request: "agent_welcome_request", arguments: 1, response: "agent_welcome_response", shape: Shape::One };
const STANDBY: Pair =
    Pair { request: "agent_standby_request", arguments: 1, response: "agent_standby_response", shape: Shape::One };
const PAIRS: [Pair; 3] = [SET_CONFIGURATION, WELCOME, STANDBY];

pub fn agent_topic(instance: &str) -> String {
    format!("zeek/cluster-control/agent/{instance}")
}

pub(super) fn decode(name: &str, event: &Event) -> Result<Decoded, Rejection> {
    if name == SET_CONFIGURATION.request {
        return decode_request(DIALECT, &SET_CONFIGURATION, event, |args| {
            let config = args.first().ok_or_else(|| Mismatch::missing("config"))?;
            let config = record::read_configuration(config, read_node).map_err(|mismatch| mismatch.inside("config"))?;
            Ok(Request::SetConfiguration { config })
        });
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
    let [instance, host, api_version] = arguments(event).map_err(reject)?;
    let read = || {
        let instance = record::string(instance).map_err(|mismatch| mismatch.inside("instance"))?;
        let host = record::address(host).map_err(|mismatch| mismatch.inside("host"))?;
        let api_version = record::count(api_version).map_err(|mismatch| mismatch.inside("api_version"))?;
        Ok((Notification::NotifyAgentHello { instance, api_version }, Some(Whereabouts::Host(host))))
    };
    read().map_err(|mismatch| reject(DecodeError::Argument { event: event.name.clone(), mismatch }))
}

pub(super) fn request(reqid: &ReqId, request: &Request) -> Result<Event, EncodeError> {
    let reqid = Data::string(reqid.as_str());
    let args = match request {
        Request::SetConfiguration { config } => {
            // Not a wish, and not applied by any agent: zeek-client fills in the same.
            vec![reqid, record::write_configuration(config, |node| write_node(node, NodeState::Running))]
        }
        Request::AgentWelcome {} | Request::AgentStandby {} => vec![reqid],
        Request::Deploy { .. }
        | Request::GetNodes {}
        | Request::Restart { .. }
        | Request::NodeDispatch { .. }
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
    encode_response(DIALECT, MODULE, &PAIRS, response, write_result)
}

pub(super) fn notification(notification: &Notification, local: &Local) -> Event {
    let args = match notification {
        Notification::NotifyAgentHello { instance, api_version } => {
            vec![Data::string(instance), record::write_address(local.host), Data::Count(*api_version)]
        }
        Notification::NotifyChange { instance, node, state, old, new } => {
            vec![Data::string(instance), write_node(node, *state), write_state(*old), write_state(*new)]
        }
        Notification::NotifyError { instance, msg, node } | Notification::NotifyLog { instance, msg, node } => {
            vec![Data::string(instance), Data::string(msg), Data::string(node)]
        }
    };
    Event::new(format!("{MODULE}{}", notification_event(notification)), args)
}

/// Node: name, instance, p, role, state, scripts?, options?, interface?, cpu_affinity?, env.
fn read_node_and_state(data: &Data) -> Result<(Node, NodeState), Mismatch> {
    let mut fields = Record::new(data, "Node", 10)?;
    let name = fields.field("name", record::string)?;
    let instance = fields.field("instance", record::string)?;
    let port = fields.optional("p", record::port)?.flatten();
    let role = fields.field("role", record::read_role)?;
    let state = fields.field("state", read_state)?;
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
    Ok((node, state))
}

fn read_node(data: &Data) -> Result<Node, Mismatch> {
    read_node_and_state(data).map(|(node, _)| node)
}

fn write_node(node: &Node, state: NodeState) -> Data {
    // The port is no optional field here, and a Zeek that reads one which is not set aborts.
    let port = node.port.unwrap_or(Port { number: 0, protocol: Protocol::Unknown });
    let head = [
        Data::string(&node.name),
        Data::string(&node.instance),
        record::write_port(port),
        record::write_role(node.role),
        write_state(state),
    ];
    Data::Vector(head.into_iter().chain(record::write_node_rest(node)).collect())
}

fn read_state(data: &Data) -> Result<NodeState, Mismatch> {
    match record::enum_name(data)? {
        "ClusterController::Types::Running" => Ok(NodeState::Running),
        "ClusterController::Types::Stopped" => Ok(NodeState::Stopped),
        "ClusterController::Types::Failed" => Ok(NodeState::Failed),
        "ClusterController::Types::Crashed" => Ok(NodeState::Crashed),
        "ClusterController::Types::Unknown" => Ok(NodeState::Unknown),
        other => Err(record::no_such("state", other)),
    }
}

/// There is no PENDING.
fn write_state(state: NodeState) -> Data {
    Data::enum_value(match state {
        NodeState::Running => "ClusterController::Types::Running",
        NodeState::Stopped => "ClusterController::Types::Stopped",
        NodeState::Failed => "ClusterController::Types::Failed",
        NodeState::Crashed => "ClusterController::Types::Crashed",
        NodeState::Pending | NodeState::Unknown => "ClusterController::Types::Unknown",
    })
}

/// Result: reqid, instance (""), success, data?, error (""), node?.
fn read_result(data: &Data) -> Result<ApiResult, Mismatch> {
    let mut fields = Record::new(data, "Result", 3)?;
    let reqid = fields.field("reqid", record::reqid)?;
    let instance = fields.optional("instance", record::string)?.filter(|instance| !instance.is_empty());
    let success = fields.field("success", record::boolean)?;
    let data = fields.optional("data", |data| record::read_result_data(data, read_state))?.flatten();
    let error = fields.optional("error", record::prose)?.filter(|error| !error.is_empty());
    let node = fields.optional("node", record::string)?;
    Ok(ApiResult { reqid, success, instance, data, error, node })
}

fn write_result(result: &ApiResult) -> Data {
    Data::Vector(vec![
        Data::string(result.reqid.as_str()),
        Data::string(result.instance.as_deref().unwrap_or_default()),
        Data::Boolean(result.success),
        record::write_result_data(result.data.as_ref(), write_state),
        Data::string(result.error.as_deref().unwrap_or_default()),
        record::write_text(result.node.as_ref()),
    ])
}

//! The event APIs of Zeek's cluster agents on the wire, to and from the words of [`api`](crate::api).
//!
//! Two dialects carry requests, responses and notifications: [`cluster_agent`] (`ClusterAgent::API`, Zeek 4.1 and 4.2)
//! and [`management`] (`Management::Agent::API`, since Zeek 5.0); [`node`] is what agents and nodes say to each other.
//! Another release of Zeek with other records is another file here and no more.
//!
//! Promises: a request comes out canonical, ready for its digest; whatever cannot be read says where and why, and if the
//! reqid could be read, carries it for an answer; the same response gives the same bytes. Records are read short or long
//! where that is safe and written in the longest form any Zeek knows. Pure: decisions are `lifecycle`'s, connections the
//! transports'.

pub(crate) mod cluster_agent;
pub mod event;
pub(crate) mod management;
pub mod node;
mod record;

use std::net::IpAddr;

use crate::api::configuration::Node;
use crate::api::event::{Dialect, Notification, Request, Response, Result as ApiResult, ResultData};
use crate::api::ids::ReqId;
use crate::api::status::NodeState;
use crate::broker::data::Data;

pub use event::Event;
pub use record::Mismatch;

/// The version that both dialects give for themselves.
pub const API_VERSION: u64 = 1;

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Something is asked of an agent.
    Request {
        /// The dialect of the event's module.
        dialect: Dialect,
        /// Empty if the requester gave none.
        reqid: ReqId,
        /// In canonical form.
        request: Request,
    },
    /// An agent's answer.
    Response {
        /// The dialect of the event's module.
        dialect: Dialect,
        /// Its Results, in the order in which they came.
        response: Response,
    },
    /// An agent says something unasked.
    Notification {
        /// The dialect of the event's module.
        dialect: Dialect,
        /// What it says.
        notification: Notification,
        /// With a hello only.
        whereabouts: Option<Whereabouts>,
    },
    /// What agents and nodes say to each other.
    Node(node::NodeEvent),
}

/// Where an agent's hello says that it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// `ClusterAgent::API`: the agent's address.
    Host(IpAddr),
    /// `Management::Agent::API`: the agent's Broker endpoint, and whether it is the one who dials.
    Endpoint {
        /// The id in text form.
        id: String,
        /// The agent dials the controller.
        connecting: bool,
    },
}

/// What a connection knows of itself and a hello has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The local address of the peering.
    pub host: IpAddr,
    /// The very id used in the handshake, in text form.
    pub endpoint: String,
    /// A controller is configured, which this agent dials.
    pub connecting: bool,
}

/// Why an event cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No dialect has this event.
    #[error("there is no event {event:?} in the APIs of Zeek's cluster agents")]
    UnknownEvent {
        /// Its name, cut after 128 characters.
        event: String,
    },
    /// The event has more or fewer arguments than its declaration.
    #[error("{event} takes {expected} arguments and {found} were given")]
    ArgumentCount {
        /// The event's full name.
        event: String,
        /// How many its declaration has.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// An argument is not of its declared type, or its value is not acceptable.
    #[error("{event}: {mismatch}")]
    Argument {
        /// The event's full name.
        event: String,
        /// Which argument, where in it, and what is wrong.
        mismatch: Mismatch,
    },
}

/// An event that was refused, with what is needed to say so to whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Rejection {
    /// The dialect of the event's module.
    pub dialect: Option<Dialect>,
    /// If it was a request and could be read so far.
    pub reqid: Option<ReqId>,
    response_event: Option<&'static str>,
    /// What is wrong with the event.
    pub error: DecodeError,
}

impl Rejection {
    /// The failed response that answers a malformed request; `None` if it was none, or its reqid is unreadable.
    pub fn response(&self, instance: &str) -> Option<Response> {
        let (event, reqid) = (self.response_event?, self.reqid.clone()?);
        let result = ApiResult {
            reqid: reqid.clone(),
            success: false,
            instance: Some(instance.to_owned()),
            data: (event == management::GET_NODES_RESPONSE).then(|| ResultData::Nodes(Vec::new())),
            error: Some(self.to_string()),
            node: None,
        };
        Some(Response { event: event.to_owned(), reqid, results: vec![result] })
    }
}

/// Why something of ours has no form in a dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The event is none of this dialect's, for example an operator's command.
    #[error("the dialect {} has no event {event}", dialect.as_str())]
    NotInDialect {
        /// The dialect that was to be spoken.
        dialect: Dialect,
        /// The event's name without its module.
        event: String,
    },
    /// A response with one Result has none or several.
    #[error("{event} carries one Result and {found} are to be sent")]
    ResultCount {
        /// The event's name without its module.
        event: String,
        /// How many there are.
        found: usize,
    },
}

/// The topic on which the agent of an instance is spoken to and answers, compared in full and byte for byte.
pub fn agent_topic(dialect: Dialect, instance: &str) -> Option<String> {
    match dialect {
        Dialect::ClusterAgent => Some(cluster_agent::agent_topic(instance)),
        Dialect::Management => Some(management::agent_topic(instance)),
        Dialect::Operator => None,
    }
}

/// Understands an event of either dialect, or of a node.
pub fn decode(event: &Event) -> Result<Decoded, Rejection> {
    if let Some(name) = event.name.strip_prefix(cluster_agent::MODULE) {
        cluster_agent::decode(name, event)
    } else if let Some(name) = event.name.strip_prefix(management::MODULE) {
        management::decode(name, event)
    } else if let Some(name) = event.name.strip_prefix(node::MODULE) {
        node::decode(name, event).map(Decoded::Node).map_err(|error| Rejection::of(None, error))
    } else {
        Err(Rejection::of(None, unknown(event)))
    }
}

/// The event that asks `request` of an agent.
pub fn request(dialect: Dialect, reqid: &ReqId, request: &Request) -> Result<Event, EncodeError> {
    match dialect {
        Dialect::ClusterAgent => cluster_agent::request(reqid, request),
        Dialect::Management => management::request(reqid, request),
        Dialect::Operator => Err(not_in(dialect, request.event())),
    }
}

/// The event that answers, in the dialect of whoever asked.
pub fn response(dialect: Dialect, response: &Response) -> Result<Event, EncodeError> {
    match dialect {
        Dialect::ClusterAgent => cluster_agent::response(response),
        Dialect::Management => management::response(response),
        Dialect::Operator => Err(not_in(dialect, &response.event)),
    }
}

/// The event that tells controllers something unasked.
pub fn notification(dialect: Dialect, notification: &Notification, local: &Local) -> Result<Event, EncodeError> {
    match dialect {
        Dialect::ClusterAgent => Ok(cluster_agent::notification(notification, local)),
        Dialect::Management => Ok(management::notification(notification, local)),
        Dialect::Operator => Err(not_in(dialect, notification_event(notification))),
    }
}

const HELLO: &str = "notify_agent_hello";
const CHANGE: &str = "notify_change";
const ERROR: &str = "notify_error";
const LOG: &str = "notify_log";

/// The name without its module, the same in both dialects.
fn notification_event(notification: &Notification) -> &'static str {
    match notification {
        Notification::NotifyAgentHello { .. } => HELLO,
        Notification::NotifyChange { .. } => CHANGE,
        Notification::NotifyError { .. } => ERROR,
        Notification::NotifyLog { .. } => LOG,
    }
}

/// A request of a dialect and its answer.
struct Pair {
    request: &'static str,
    arguments: usize,
    response: &'static str,
    shape: Shape,
}

/// What a response carries beside its reqid.
#[derive(Clone, Copy)]
enum Shape {
    /// One Result.
    One,
    /// A vector of Results.
    Many,
}

fn not_in(dialect: Dialect, event: &str) -> EncodeError {
    EncodeError::NotInDialect { dialect, event: event.to_owned() }
}

fn unknown(event: &Event) -> DecodeError {
    // The name is a peer's; it goes into journal and log.
    DecodeError::UnknownEvent { event: event.name.chars().take(128).collect() }
}

impl Rejection {
    fn of(dialect: Option<Dialect>, error: DecodeError) -> Self {
        Self { dialect, reqid: None, response_event: None, error }
    }
}

/// The arguments of an event, exactly as many as it takes.
fn arguments<const N: usize>(event: &Event) -> Result<&[Data; N], DecodeError> {
    event.args.as_slice().try_into().map_err(|_| DecodeError::ArgumentCount {
        event: event.name.clone(),
        expected: N,
        found: event.args.len(),
    })
}

/// Reads a request's arguments, after its reqid, by `read`; makes the result canonical.
fn decode_request(
    dialect: Dialect,
    pair: &Pair,
    event: &Event,
    read: impl FnOnce(&[Data]) -> Result<Request, Mismatch>,
) -> Result<Decoded, Rejection> {
    let reject = |reqid, error| Rejection { dialect: Some(dialect), reqid, response_event: Some(pair.response), error };
    let wrong = |mismatch| DecodeError::Argument { event: event.name.clone(), mismatch };
    let reqid = event.args.first().map(|reqid| record::reqid(reqid).map_err(|mismatch| mismatch.inside("reqid")));
    if event.args.len() != pair.arguments {
        let error =
            DecodeError::ArgumentCount { event: event.name.clone(), expected: pair.arguments, found: event.args.len() };
        return Err(reject(reqid.and_then(Result::ok), error));
    }
    match reqid {
        Some(Ok(reqid)) => match read(event.args.get(1..).unwrap_or_default()) {
            Ok(request) => Ok(Decoded::Request { dialect, reqid, request: request.canonical() }),
            Err(mismatch) => Err(reject(Some(reqid), wrong(mismatch))),
        },
        Some(Err(mismatch)) => Err(reject(None, wrong(mismatch))),
        None => Err(reject(None, wrong(Mismatch::missing("reqid")))),
    }
}

/// Reads a response whose Results are read by `read`.
fn decode_response(
    dialect: Dialect,
    pair: &Pair,
    event: &Event,
    read: impl Fn(&Data) -> Result<ApiResult, Mismatch>,
) -> Result<Response, Rejection> {
    let reject = |error| Rejection::of(Some(dialect), error);
    let [reqid, results] = arguments(event).map_err(reject)?;
    let read = || {
        let reqid = record::reqid(reqid).map_err(|mismatch| mismatch.inside("reqid"))?;
        let results = match pair.shape {
            Shape::One => read(results).map(|result| vec![result]),
            Shape::Many => record::vector(results, read),
        };
        let results = results.map_err(|mismatch| mismatch.inside("result"))?;
        Ok(Response { event: pair.response.to_owned(), reqid, results })
    };
    read().map_err(|mismatch| reject(DecodeError::Argument { event: event.name.clone(), mismatch }))
}

/// Writes a response in the shape that its event has.
fn encode_response(
    dialect: Dialect,
    module: &str,
    pairs: &[Pair],
    response: &Response,
    write: impl Fn(&ApiResult) -> Data,
) -> Result<Event, EncodeError> {
    let pair =
        pairs.iter().find(|pair| pair.response == response.event).ok_or_else(|| not_in(dialect, &response.event))?;
    let results = match (pair.shape, response.results.as_slice()) {
        (Shape::One, [result]) => write(result),
        (Shape::One, results) => {
            return Err(EncodeError::ResultCount { event: response.event.clone(), found: results.len() });
        }
        (Shape::Many, results) => Data::Vector(results.iter().map(write).collect()),
    };
    let reqid = Data::string(response.reqid.as_str());
    Ok(Event::new(format!("{module}{}", pair.response), vec![reqid, results]))
}

/// Reads notify_change, in which the dialects differ by record and names only.
fn decode_change(
    dialect: Dialect,
    event: &Event,
    read_node: impl Fn(&Data) -> Result<(Node, NodeState), Mismatch>,
    read_state: impl Fn(&Data) -> Result<NodeState, Mismatch>,
) -> Result<Notification, Rejection> {
    let reject = |error| Rejection::of(Some(dialect), error);
    let [instance, node, old, new] = arguments(event).map_err(reject)?;
    let read = || {
        let instance = record::string(instance).map_err(|mismatch| mismatch.inside("instance"))?;
        let (node, state) = read_node(node).map_err(|mismatch| mismatch.inside("n"))?;
        let old = read_state(old).map_err(|mismatch| mismatch.inside("old"))?;
        let new = read_state(new).map_err(|mismatch| mismatch.inside("new"))?;
        Ok(Notification::NotifyChange { instance, node: Box::new(node), state, old, new })
    };
    read().map_err(|mismatch| reject(DecodeError::Argument { event: event.name.clone(), mismatch }))
}

/// Reads notify_error or notify_log, the same in both dialects.
fn decode_note(dialect: Dialect, event: &Event) -> Result<(String, String, String), Rejection> {
    let [instance, msg, node] = arguments(event).map_err(|error| Rejection::of(Some(dialect), error))?;
    let read = |data, name: &str| record::string(data).map_err(|mismatch| mismatch.inside(name));
    let prose = |data| record::prose(data).map_err(|mismatch| mismatch.inside("msg"));
    let all = || Ok((read(instance, "instance")?, prose(msg)?, read(node, "node")?));
    all()
        .map_err(|mismatch| Rejection::of(Some(dialect), DecodeError::Argument { event: event.name.clone(), mismatch }))
}

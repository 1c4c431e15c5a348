//! Results and responses, in the shapes of Zeek's API: one Result for some events, a vector for others.

use crate::api::event::{Request, Response, Result, ResultData};
use crate::api::ids::{InstanceName, NodeName, ReqId};

/// A Result of this instance, without anything optional.
pub(super) fn result(instance: &InstanceName, reqid: &ReqId, success: bool) -> Result {
    Result { reqid: reqid.clone(), success, instance: Some(instance.to_string()), data: None, error: None, node: None }
}

pub(super) fn succeeded(instance: &InstanceName, reqid: &ReqId, request: &Request) -> Response {
    response(reqid, request, vec![result(instance, reqid, true)])
}

/// One failed Result. For get_nodes it carries an empty vector of nodes, since a controller's cast would abort without.
pub(super) fn failed(instance: &InstanceName, reqid: &ReqId, request: &Request, error: String) -> Response {
    let mut one = result(instance, reqid, false);
    one.error = Some(error);
    if let Request::GetNodes {} = request {
        one.data = Some(ResultData::Nodes(Vec::new()));
    }
    response(reqid, request, vec![one])
}

pub(super) fn response(reqid: &ReqId, request: &Request, results: Vec<Result>) -> Response {
    Response { event: request.response_event().to_owned(), reqid: reqid.clone(), results }
}

/// The Result of one node.
pub(super) fn of_node(instance: &InstanceName, reqid: &ReqId, node: &NodeName, error: Option<String>) -> Result {
    let mut one = result(instance, reqid, error.is_none());
    one.node = Some(node.to_string());
    one.error = error;
    one
}

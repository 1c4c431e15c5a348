//! Results and responses, in the shapes of Zeek's API: one Result for some events, a vector for others.

use crate::api::event::{Request, Response, Result, ResultData};
use crate::api::ids::{InstanceName, NodeName, ReqId};

/// A Result of this instance, without optional fields.
pub(super) fn result(instance: &InstanceName, reqid: &ReqId, success: bool) -> Result {
    Result { reqid: reqid.clone(), success, instance: Some(instance.to_string()), data: None, error: None, node: None }
}

pub(super) fn succeeded(instance: &InstanceName, reqid: &ReqId, request: &Request) -> Response {
    response(reqid, request, vec![result(instance, reqid, true)])
}

/// One failed Result. For get_nodes it carries an empty vector of nodes, because a controller's cast would abort
/// otherwise.
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

/// The largest response that is stored, in bytes of MessagePack.
pub(super) const RESPONSE_LIMIT: usize = 1 << 20;
/// Marks the place where a text was shortened.
const CUT: &str = " [...]";

/// The response within its limit: first the nodes' outputs are shortened, keeping their ends, then the errors, keeping
/// their beginnings. The number of Results and their success do not change.
pub(super) fn bounded(mut response: Response) -> Response {
    for share in [4096, 1024, 256, 64, 0] {
        if size(&response) <= RESPONSE_LIMIT {
            return response;
        }
        for outputs in response.results.iter_mut().filter_map(|one| match &mut one.data {
            Some(ResultData::Outputs(outputs)) => Some(outputs),
            Some(ResultData::Nodes(_) | ResultData::Text(_)) | None => None,
        }) {
            keep_end(&mut outputs.stdout, share);
            keep_end(&mut outputs.stderr, share);
        }
    }
    for share in [RESPONSE_LIMIT / 2, 4096, 1024, 256, 64] {
        if size(&response) <= RESPONSE_LIMIT {
            return response;
        }
        for error in response.results.iter_mut().filter_map(|one| one.error.as_mut()) {
            keep_beginning(error, share);
        }
    }
    response
}

/// The approximate memory use of a response, without looking at every node of a list.
pub(super) fn weight(response: &Response) -> usize {
    let of_result = |one: &Result| {
        let data = match &one.data {
            None => 0,
            Some(ResultData::Text(text)) => text.len(),
            Some(ResultData::Outputs(outputs)) => outputs.stdout.len() + outputs.stderr.len(),
            Some(ResultData::Nodes(nodes)) => nodes.len() * 256,
        };
        size_of::<Result>() + data + one.error.as_ref().map_or(0, String::len)
    };
    size_of::<Response>() + response.results.iter().map(of_result).sum::<usize>()
}

fn size(response: &Response) -> usize {
    rmp_serde::to_vec_named(response).expect("a response has only types that MessagePack can carry").len()
}

fn keep_end(text: &mut String, limit: usize) {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.drain(..start);
}

fn keep_beginning(text: &mut String, limit: usize) {
    if text.len() <= limit {
        return;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(CUT);
}

/// The Result of one node.
pub(super) fn of_node(instance: &InstanceName, reqid: &ReqId, node: &NodeName, error: Option<String>) -> Result {
    let mut one = result(instance, reqid, error.is_none());
    one.node = Some(node.to_string());
    one.error = error;
    one
}

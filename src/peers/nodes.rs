//! Messages of nodes on the topic that they share with their agent.
//!
//! A dispatch's reqid names this run of the agent and the request that it serves, so answers are recognised without
//! stored state, and answers to an earlier run are not mistaken for them.

use crate::api::event::{Result as ApiResult, ResultData};
use crate::api::ids::{NodeName, ReqId, Seq};
use crate::broker::data::Data;
use crate::broker::wire::EndpointId;
use crate::dialect::event::unpack;
use crate::dialect::node::NodeEvent;
use crate::dialect::{self, Decoded};

/// The reqid of a dispatch for request `of`.
pub(super) fn reqid(local: EndpointId, of: Seq) -> ReqId {
    ReqId::new(format!("{local}/{}", of.0)).expect("a UUID and a number are short and printable")
}

fn request_of(local: EndpointId, reqid: &ReqId) -> Option<Seq> {
    let number = reqid.as_str().strip_prefix(&local.to_string())?.strip_prefix('/')?;
    number.parse().ok().map(Seq)
}

/// What a peer published on the nodes' topic, as far as it concerns an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// The peer is this node.
    Hello(NodeName),
    /// The value, or why there is none.
    Answer { of: Seq, answer: Result<Option<String>, String> },
    /// It cannot be understood: the event, and why.
    Rejected { event: String, error: String },
}

pub(super) fn read(local: EndpointId, data: Data) -> Vec<Said> {
    let events = unpack(data).events.into_iter();
    events
        .filter_map(|event| match event {
            Ok(event) => match dialect::decode(&event) {
                Ok(Decoded::Node(said)) => understand(local, said),
                // Other messages among nodes are not meant for an agent.
                Ok(Decoded::Request { .. } | Decoded::Response { .. } | Decoded::Notification { .. }) => None,
                Err(rejection) => {
                    let event = event.name.chars().take(128).collect();
                    Some(Said::Rejected { event, error: rejection.to_string() })
                }
            },
            Err(error) => Some(Said::Rejected { event: String::new(), error: error.to_string() }),
        })
        .collect()
}

fn understand(local: EndpointId, said: NodeEvent) -> Option<Said> {
    match said {
        NodeEvent::Hello { node } => Some(match NodeName::new(node.as_str()) {
            Ok(node) => Said::Hello(node),
            Err(error) => {
                let error = format!("a node's hello with a name that cannot be used: {error}");
                Said::Rejected { event: "notify_node_hello".to_owned(), error }
            }
        }),
        NodeEvent::DispatchResponse { reqid, result } => {
            let of = request_of(local, &reqid)?;
            Some(Said::Answer { of, answer: answer(result) })
        }
        NodeEvent::DispatchRequest { .. } => None,
    }
}

/// Longer values are not passed on: no stored response has room for them.
const VALUE_LIMIT: usize = 1 << 20;

fn answer(result: ApiResult) -> Result<Option<String>, String> {
    if !result.success {
        return Err(result.error.unwrap_or_else(|| "the node failed without giving a reason".to_owned()));
    }
    match result.data {
        None => Ok(None),
        Some(ResultData::Text(text)) if text.len() > VALUE_LIMIT => {
            Err(format!("the value has {} bytes, {VALUE_LIMIT} is the most", text.len()))
        }
        Some(ResultData::Text(text)) => Ok(Some(text)),
        Some(ResultData::Outputs(_) | ResultData::Nodes(_)) => {
            Err("the node answered with something else than a value".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::node;

    const LOCAL: EndpointId = EndpointId([0xab; 16]);

    fn result(success: bool, data: Option<ResultData>, error: Option<&str>) -> ApiResult {
        let error = error.map(str::to_owned);
        ApiResult { reqid: reqid(LOCAL, Seq(17)), success, instance: None, data, error, node: Some("w1".into()) }
    }

    fn said(event: &NodeEvent) -> Vec<Said> {
        read(LOCAL, node::encode(event).into_data())
    }

    #[test]
    fn answers_are_known_by_run_and_request() {
        let response = |reqid: ReqId, result| NodeEvent::DispatchResponse { reqid, result };
        let text = || Some(ResultData::Text("\"manager\"".into()));
        let of = Seq(17);
        let answer = Ok(Some("\"manager\"".to_owned()));
        let ours = reqid(LOCAL, of);
        assert_eq!(said(&response(ours.clone(), result(true, text(), None))), [Said::Answer { of, answer }]);
        let answer = Err("unknown id".to_owned());
        assert_eq!(said(&response(ours, result(false, None, Some("unknown id")))), [Said::Answer { of, answer }]);
        for other in
            [reqid(EndpointId([1; 16]), of), ReqId::new("17").unwrap(), ReqId::new(format!("{LOCAL}17")).unwrap()]
        {
            assert_eq!(said(&response(other, result(true, text(), None))), []);
        }
    }

    #[test]
    fn a_hello_has_a_name_that_can_be_one() {
        let hello = |name: &str| said(&NodeEvent::Hello { node: name.into() });
        assert_eq!(hello("w1"), [Said::Hello(NodeName::new("w1").unwrap())]);
        assert!(matches!(hello("").as_slice(), [Said::Rejected { .. }]));
        assert!(matches!(hello("../w1").as_slice(), [Said::Rejected { .. }]));
        let dispatch = NodeEvent::DispatchRequest { reqid: reqid(LOCAL, Seq(1)), action: vec![], nodes: [].into() };
        assert_eq!(said(&dispatch), []);
        assert!(matches!(read(LOCAL, Data::Count(1)).as_slice(), [Said::Rejected { .. }]));
    }
}

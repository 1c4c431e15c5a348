use zeek_cluster_agent::broker::binary::{Limits, decode};
use zeek_cluster_agent::broker::json;
use zeek_cluster_agent::dialect::{self, Decoded, Event, Local, Whereabouts, event};

/// The event that says what was understood.
pub fn encode(decoded: &Decoded) -> Event {
    match decoded {
        Decoded::Request { dialect, reqid, request } => {
            dialect::request(*dialect, reqid, request).expect("it came in this dialect")
        }
        Decoded::Response { dialect, response } => {
            dialect::response(*dialect, response).expect("it came in this dialect and shape")
        }
        Decoded::Notification { dialect, notification, whereabouts } => {
            let mut local = Local { host: [0, 0, 0, 0].into(), endpoint: String::new(), connecting: false };
            match whereabouts {
                Some(Whereabouts::Host(host)) => local.host = *host,
                Some(Whereabouts::Endpoint { id, connecting }) => {
                    local.endpoint.clone_from(id);
                    local.connecting = *connecting;
                }
                None => {}
            }
            dialect::notification(*dialect, notification, &local).expect("it came in this dialect")
        }
        Decoded::Node(event) => dialect::node::encode(event),
    }
}

/// What is understood is understood the same when we say it; what is not gives an error or an answer that can be sent.
pub fn holds(data: &[u8]) {
    let value = match data.first() {
        Some(b'{') => json::read_value(data, &json::Limits::default()).ok(),
        _ => decode(data, &Limits::default()).ok(),
    };
    let Some(value) = value else { return };
    for event in event::unpack(value).events.into_iter().flatten() {
        match dialect::decode(&event) {
            Ok(decoded) => {
                // Said once, what Zeek can say in several ways is said in ours.
                let ours = dialect::decode(&encode(&decoded)).expect("our own event");
                assert_eq!(dialect::decode(&encode(&ours)).as_ref(), Ok(&ours));
            }
            Err(rejection) => {
                assert!(!rejection.to_string().is_empty());
                if let (Some(dialect), Some(response)) = (rejection.dialect, rejection.response("a1")) {
                    dialect::response(dialect, &response).expect("a refusal can be sent");
                }
            }
        }
    }
}

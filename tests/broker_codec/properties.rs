//! Decode of encode is identity.

use proptest::prelude::*;
use zeek_cluster_agent::api::event::{Dialect, Notification, Response};
use zeek_cluster_agent::broker::wire::{EndpointId, Envelope, ErrorCode, Filter, HandshakeMessage, Kind};
use zeek_cluster_agent::broker::{binary, json};
use zeek_cluster_agent::dialect::{self, Decoded, Local, Whereabouts, event};

use super::generators::{broker_data, management_request, notification, reqid, result, seed_request};

fn topics() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab/".to_vec()), 0..5), 0..6)
}

fn handshake_message() -> impl Strategy<Value = HandshakeMessage> {
    let sender = any::<[u8; 16]>().prop_map(EndpointId);
    prop_oneof![
        (sender.clone(), any::<u8>(), any::<u8>()).prop_map(|(sender, min_version, max_version)| {
            HandshakeMessage::Hello { sender, min_version, max_version }
        }),
        Just(HandshakeMessage::Probe),
        (sender.clone(), any::<u8>()).prop_map(|(sender, version)| HandshakeMessage::VersionSelect { sender, version }),
        (sender, 0..41u8, ".{0,300}").prop_map(|(sender, code, description)| HandshakeMessage::DropConn {
            sender,
            code: ErrorCode(code),
            description
        }),
        topics().prop_map(|filter| HandshakeMessage::OriginatorSyn { filter }),
        topics().prop_map(|filter| HandshakeMessage::ResponderSynAck { filter }),
        Just(HandshakeMessage::OriginatorAck),
    ]
}

proptest! {
    #[test]
    fn values_survive_the_binary_encoding(data in broker_data(false)) {
        let bytes = binary::encode(&data);
        prop_assert_eq!(binary::decode(&bytes, &binary::Limits::default()), Ok(data));
        for length in 0..bytes.len() {
            let error = binary::decode(&bytes[..length], &binary::Limits::default()).unwrap_err();
            prop_assert!(error.problem.is_incomplete(), "{}", error);
        }
    }

    #[test]
    fn values_survive_json(data in broker_data(true), topic in ".{0,8}") {
        let limits = json::Limits::default();
        let text = json::write_value(&data).unwrap();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        // An escaped backslash before a slash is no escaped slash.
        let unescaped = text.replace(r"\\", "");
        let forbidden = ["\r", "\n", "\u{b}", r"\/"].into_iter().find(|piece| unescaped.contains(piece));
        prop_assert_eq!(forbidden, None);
        prop_assert_eq!(json::read_value(text.as_bytes(), &limits), Ok(data.clone()));
        let text = json::write_data_message(&topic, &data).unwrap();
        prop_assert_eq!(json::read_message(text.as_bytes(), &limits), Ok(json::Message::Data { topic, data }));
    }

    #[test]
    fn handshake_messages_survive(message in handshake_message()) {
        let frame = message.encode().unwrap();
        prop_assert_eq!(HandshakeMessage::decode(&frame[4..]), Ok(message));
    }

    #[test]
    fn envelopes_survive(
        sender: [u8; 16],
        receiver: [u8; 16],
        ttl: u16,
        kind in prop::sample::select(vec![Kind::Data, Kind::Command, Kind::RoutingUpdate, Kind::Ping, Kind::Pong]),
        topic: Vec<u8>,
        payload: Vec<u8>,
    ) {
        let (sender, receiver) = (EndpointId(sender), EndpointId(receiver));
        let envelope = Envelope { sender, receiver, kind, ttl, topic: &topic, payload: &payload };
        let frame = envelope.encode().unwrap();
        prop_assert_eq!(Envelope::decode(&frame[4..]), Ok(envelope));
    }

    #[test]
    fn filters_match_as_a_plain_search_does(topics in topics(), topic in "[ab/]{0,5}") {
        let expected = topics.iter().any(|entry| topic.as_bytes().starts_with(entry));
        prop_assert_eq!(Filter::new(topics).matches(topic), expected);
    }

    #[test]
    fn requests_survive_both_dialects(reqid in reqid(), modern in management_request(), seed in seed_request()) {
        for (dialect, request) in [(Dialect::Management, modern), (Dialect::ClusterAgent, seed)] {
            let event = dialect::request(dialect, &reqid, &request).unwrap();
            let unpacked = event::unpack(event.clone().into_data());
            prop_assert_eq!(unpacked.events, [Ok(event.clone())]);
            let expected = Decoded::Request { dialect, reqid: reqid.clone(), request: request.canonical() };
            prop_assert_eq!(dialect::decode(&event), Ok(expected));
        }
    }

    #[test]
    fn responses_survive_both_dialects(
        reqid in reqid(),
        modern in prop::collection::vec(result(false), 0..4),
        seed in result(true),
    ) {
        let response =
            |event: &str, results| Response { event: event.to_owned(), reqid: reqid.clone(), results };
        let many = ["deploy_response", "restart_response", "node_dispatch_response"]
            .map(|event| (Dialect::Management, response(event, modern.clone())));
        let one = ["set_configuration_response", "agent_welcome_response", "agent_standby_response"]
            .map(|event| (Dialect::ClusterAgent, response(event, vec![seed.clone()])));
        for (dialect, response) in many.into_iter().chain(one) {
            let event = dialect::response(dialect, &response).unwrap();
            prop_assert_eq!(dialect::decode(&event), Ok(Decoded::Response { dialect, response }));
        }
    }

    #[test]
    fn notifications_survive_both_dialects(modern in notification(false), seed in notification(true), host: std::net::IpAddr) {
        let host = zeek_cluster_agent::broker::data::Address::from(host).to_ip();
        let local = Local { host, endpoint: "e".into(), connecting: true };
        for (dialect, notification) in [(Dialect::Management, modern), (Dialect::ClusterAgent, seed)] {
            let event = dialect::notification(dialect, &notification, &local).unwrap();
            let whereabouts = match (&notification, dialect) {
                (Notification::NotifyAgentHello { .. }, Dialect::ClusterAgent) => Some(Whereabouts::Host(host)),
                (Notification::NotifyAgentHello { .. }, _) => {
                    Some(Whereabouts::Endpoint { id: "e".into(), connecting: true })
                }
                _ => None,
            };
            prop_assert_eq!(dialect::decode(&event), Ok(Decoded::Notification { dialect, notification, whereabouts }));
        }
    }
}

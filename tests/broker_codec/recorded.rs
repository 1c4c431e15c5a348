//! Recorded frames decode to what their files say and encode to the same bytes; recorded handshakes are what our state
//! machines would have said.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use zeek_cluster_agent::broker::binary;
use zeek_cluster_agent::broker::data::{Data, Set, Table};
use zeek_cluster_agent::broker::handshake::{ConnectionId, Handshake, Outcome, Registry};
use zeek_cluster_agent::broker::json::{self, Message};
use zeek_cluster_agent::broker::peering::{Options, Peering, Received};
use zeek_cluster_agent::broker::wire::{
    self, EndpointId, Envelope, Filter, Frame, FrameReader, HandshakeMessage, Kind,
};
use zeek_cluster_agent::dialect::{self, Decoded, Event, event};

const EVENTS: &str = include_str!("../data/vectors/broker-2.8.0-events.json");
const FRAMES: &str = include_str!("../data/vectors/broker-2.8.0-frames.json");
const MANAGEMENT: &str = include_str!("../data/vectors/zeek-8.0.10-management-transcript.json");
const WEBSOCKET: &str = include_str!("../data/vectors/zeek-8.0.10-websocket-transcript.json");

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key}"))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The whole frame and its payload, as the reader cuts it.
fn frame(value: &Value) -> (Vec<u8>, Vec<u8>) {
    let whole = hex(text(value, "frame_hex"));
    let mut reader = FrameReader::default();
    reader.feed(&whole);
    let Ok(Some(Frame::Payload(payload))) = reader.take() else { panic!("no frame: {value}") };
    assert_eq!(reader.pending(), 0);
    (whole, payload)
}

fn decode(payload: &[u8]) -> Data {
    let data = binary::decode(payload, &binary::Limits::default()).unwrap();
    assert_eq!(binary::encode(&data), payload, "{data:?}");
    data
}

/// A data message of a recording: decoded, and checked to encode to the same bytes.
fn data_message(value: &Value) -> (String, Data) {
    let (whole, payload) = frame(value);
    let envelope = Envelope::decode(&payload).unwrap();
    assert_eq!((envelope.kind, envelope.ttl), (Kind::Data, 16));
    assert_eq!(envelope.encode().unwrap(), whole);
    let topic = String::from_utf8(envelope.topic.to_vec()).unwrap();
    let data = decode(envelope.payload);
    assert_eq!(wire::data_frame(envelope.sender, envelope.receiver, &topic, &data).unwrap(), whole);
    (topic, data)
}

/// The informal rendering of `broker-2.8.0-events.json`.
fn informal(value: &Value) -> Data {
    let values = |list: &Value| list.as_array().unwrap().iter().map(informal).collect::<Vec<_>>();
    match value {
        Value::Null => Data::None,
        Value::Bool(value) => Data::Boolean(*value),
        Value::Number(number) => Data::Integer(number.as_i64().unwrap()),
        Value::String(text) => Data::string(text),
        Value::Array(_) => Data::Vector(values(value)),
        Value::Object(tagged) => {
            let (tag, value) = tagged.iter().next().unwrap();
            let text = value.as_str().unwrap_or_default();
            match tag.as_str() {
                "set" => Data::Set(Set::new(values(value)).unwrap()),
                "count" => Data::Count(value.as_u64().unwrap()),
                "address" => Data::Address(text.parse().unwrap()),
                "port" => Data::Port(text.parse().unwrap()),
                "enum" => Data::enum_value(text),
                other => panic!("unknown rendering {other}"),
            }
        }
    }
}

/// The informal rendering of the transcript's `decoded`; what it does not tell apart is not told apart here.
fn render(data: &Data) -> Value {
    let values = |list: &[Data]| Value::Array(list.iter().map(render).collect());
    let seconds = |ns: i64| serde_json::json!(ns as f64 / 1e9);
    match data {
        Data::None => Value::Null,
        Data::Boolean(value) => (*value).into(),
        Data::Count(value) => (*value).into(),
        Data::Integer(value) => (*value).into(),
        Data::Real(value) => serde_json::json!(value.0),
        Data::String(bytes) => String::from_utf8(bytes.clone()).unwrap().into(),
        Data::Address(address) => {
            let digits: String = address.0.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("addr:{digits}").into()
        }
        Data::Port(port) => format!("port:{}/{}", port.number, port.protocol.number()).into(),
        Data::Timestamp(ns) | Data::Timespan(ns) => seconds(*ns),
        Data::Enum(name) => format!("enum:{name}").into(),
        Data::Set(set) => serde_json::json!({"set": values(set.as_slice())}),
        Data::Table(table) => {
            let entries = table.as_slice().iter();
            serde_json::json!({"table": entries.map(|(k, v)| Value::Array(vec![render(k), render(v)])).collect::<Vec<_>>()})
        }
        Data::Vector(elements) => values(elements),
        Data::Subnet(subnet) => panic!("no subnet was recorded: {subnet}"),
    }
}

#[test]
fn every_value_of_broker_itself_decodes_to_its_json_and_encodes_to_its_bytes() {
    let limits = json::Limits::default();
    let mut types = BTreeSet::new();
    for vector in list(&parsed(FRAMES), "vectors") {
        let (topic, data) = data_message(vector);
        assert_eq!(topic, text(vector, "topic"));
        if let Some(event) = vector.get("event") {
            let unpacked = event::unpack(data).events;
            assert_eq!(unpacked.first().unwrap().as_ref().unwrap().name, *event);
            continue;
        }
        types.insert(data.type_name());
        let from_json = json::read_value(vector["json"].to_string().as_bytes(), &limits).unwrap();
        assert_eq!(data, from_json, "{}", vector["name"]);
        let written = json::write_value(&data).unwrap();
        assert_eq!(json::read_value(written.as_bytes(), &limits).unwrap(), data);
        // As a JSON text, what is written says the same as what was recorded; only the unit of timespans differs.
        if !matches!(data, Data::Timespan(_)) {
            assert_eq!(parsed(&written), vector["json"], "{}", vector["name"]);
        }
    }
    assert_eq!(types.len(), 15, "types without a vector: only {types:?} have one");
}

#[test]
fn every_event_of_both_dialects_has_a_vector_that_is_understood() {
    let mut seen = BTreeSet::new();
    for vector in list(&parsed(EVENTS), "events") {
        let (topic, data) = data_message(vector);
        assert_eq!(topic, text(vector, "topic"));
        let expected =
            Event { name: text(vector, "event").to_owned(), args: list(vector, "args").iter().map(informal).collect() };
        assert_eq!(expected.clone().into_data(), data, "{}", vector["event"]);
        let unpacked = event::unpack(data);
        assert_eq!(unpacked.events, [Ok(expected.clone())]);
        let decoded = dialect::decode(&expected).unwrap();
        assert_eq!(decode_again(&decoded), decoded);
        seen.insert(expected.name);
    }
    let mut expected: BTreeSet<String> = BTreeSet::new();
    for pair in ["set_configuration", "agent_welcome", "agent_standby"] {
        expected.extend(["request", "response"].map(|end| format!("ClusterAgent::API::{pair}_{end}")));
    }
    // Their arguments are those of the seed's, so the recording leaves them to the transcript.
    for pair in ["deploy", "get_nodes", "node_dispatch", "restart"] {
        expected.extend(["request", "response"].map(|end| format!("Management::Agent::API::{pair}_{end}")));
    }
    for end in ["agent_hello", "change", "error"] {
        expected.extend(["ClusterAgent", "Management::Agent"].map(|module| format!("{module}::API::notify_{end}")));
    }
    expected.insert("ClusterAgent::API::notify_log".into());
    for event in ["notify_node_hello", "node_dispatch_request", "node_dispatch_response"] {
        expected.insert(format!("Management::Node::API::{event}"));
    }
    assert_eq!(seen, expected);
}

/// What comes back when something decoded is encoded and decoded again.
fn decode_again(decoded: &Decoded) -> Decoded {
    let event = match decoded {
        Decoded::Request { dialect, reqid, request } => dialect::request(*dialect, reqid, request).unwrap(),
        Decoded::Response { dialect, response } => dialect::response(*dialect, response).unwrap(),
        Decoded::Notification { dialect, notification, whereabouts } => {
            let mut local = dialect::Local { host: [0, 0, 0, 0].into(), endpoint: String::new(), connecting: false };
            match whereabouts {
                Some(dialect::Whereabouts::Host(host)) => local.host = *host,
                Some(dialect::Whereabouts::Endpoint { id, connecting }) => {
                    (local.endpoint, local.connecting) = (id.clone(), *connecting);
                }
                None => {}
            }
            dialect::notification(*dialect, notification, &local).unwrap()
        }
        Decoded::Node(event) => dialect::node::encode(event),
    };
    dialect::decode(&event).unwrap()
}

/// The parts of Zeek's values that stand for nothing: metadata of events.
fn without_metadata(data: Data) -> Data {
    let events = event::unpack(data).events;
    events.into_iter().next().unwrap().unwrap().into_data()
}

#[test]
fn a_zeek_cluster_is_understood_and_answered_in_its_own_bytes() {
    let mut requests = BTreeSet::new();
    let mut data_messages = 0;
    for connection in list(&parsed(MANAGEMENT), "connections") {
        for recorded in list(connection, "frames") {
            let (whole, payload) = frame(recorded);
            let kind = text(recorded, "type");
            if let Ok(message) = HandshakeMessage::decode(&payload)
                && recorded.get("topic").is_none()
            {
                assert_eq!(message.name(), kind);
                assert_eq!(message.encode().unwrap(), whole);
                continue;
            }
            let envelope = Envelope::decode(&payload).unwrap();
            assert_eq!(envelope.encode().unwrap(), whole);
            assert_eq!(envelope.topic, text(recorded, "topic").as_bytes());
            match envelope.kind {
                Kind::Data => {
                    let (_, data) = data_message(recorded);
                    assert_eq!((kind, render(&data)), ("data", recorded["decoded"].clone()));
                    data_messages += 1;
                    let message = event::unpack(data.clone());
                    let Some(event) = message.events.first() else {
                        assert_eq!((kind, message.ignored), ("data", 1));
                        continue;
                    };
                    let event = event.as_ref().unwrap();
                    let Ok(decoded) = dialect::decode(event) else {
                        assert!(event.name.starts_with("SupervisorControl::"), "{}", event.name);
                        continue;
                    };
                    assert_eq!(decode_again(&decoded), decoded);
                    if let Decoded::Request { dialect, reqid, request } = &decoded {
                        requests.insert(request.event());
                        let again = dialect::request(*dialect, reqid, request).unwrap();
                        assert_eq!(again.into_data(), without_metadata(data));
                    } else if let Decoded::Response { dialect, response } = &decoded {
                        let again = dialect::response(*dialect, response).unwrap();
                        assert_eq!(again.into_data(), without_metadata(data));
                    }
                }
                Kind::RoutingUpdate => {
                    let topics = wire::decode_filter(envelope.payload).unwrap();
                    assert_eq!((kind, wire::encode_filter(&topics)), ("routing_update", envelope.payload.to_vec()));
                }
                Kind::Ping => assert_eq!(kind, "ping"),
                Kind::Pong => assert_eq!(kind, "pong"),
                Kind::Command => panic!("no command was recorded"),
            }
        }
    }
    assert!(data_messages > 50, "only {data_messages}");
    let expected = [
        "agent_standby_request",
        "agent_welcome_request",
        "deploy_request",
        "get_nodes_request",
        "node_dispatch_request",
        "restart_request",
    ];
    assert_eq!(Vec::from_iter(requests), expected);
}

/// One side of a recorded connection: who it is, what it wants, what it said.
struct Side {
    id: EndpointId,
    filter: Filter,
    handshake: Vec<u8>,
}

fn side(connection: &[Value], from: &str) -> Side {
    let mut side = Side { id: EndpointId::NIL, filter: Filter::default(), handshake: Vec::new() };
    for recorded in connection.iter().filter(|recorded| recorded["from"] == from) {
        let (whole, payload) = frame(recorded);
        let Ok(message) = HandshakeMessage::decode(&payload) else { break };
        match message {
            HandshakeMessage::Hello { sender, .. } | HandshakeMessage::VersionSelect { sender, .. } => side.id = sender,
            HandshakeMessage::OriginatorSyn { filter } | HandshakeMessage::ResponderSynAck { filter } => {
                side.filter = Filter::new(filter);
            }
            HandshakeMessage::Probe | HandshakeMessage::OriginatorAck => {}
            HandshakeMessage::DropConn { .. } => panic!("nothing was refused in a recording"),
        }
        side.handshake.extend(whole);
    }
    side
}

fn recorded_connections() -> Vec<Vec<Value>> {
    let transcript = parsed(MANAGEMENT);
    let mut connections: Vec<_> =
        list(&transcript, "connections").iter().map(|connection| list(connection, "frames").to_vec()).collect();
    connections.push(list(&parsed(FRAMES), "first_frames").to_vec());
    connections
}

/// Both ends are ours; each has to say what Zeek or Broker said in its place, byte for byte.
#[test]
fn recorded_handshakes_are_what_our_ends_say() {
    let now = Duration::ZERO;
    for (number, connection) in recorded_connections().iter().enumerate() {
        let (dialler, acceptor) = (side(connection, "connector"), side(connection, "listener"));
        let (mut dialling, mut from_dialler) =
            Handshake::dial(ConnectionId(1), dialler.id, dialler.filter.clone(), now);
        let (mut accepting, mut from_acceptor) =
            Handshake::accept(ConnectionId(1), acceptor.id, acceptor.filter.clone(), now);
        let (mut said_by_dialler, mut said_by_acceptor) = (from_dialler.clone(), from_acceptor.clone());
        let (mut dialler_peers, mut acceptor_peers) = (Registry::default(), Registry::default());
        let mut established = Vec::new();
        let mut deliver = |to: &mut Handshake, peers: &mut Registry, bytes: &[u8]| -> Vec<u8> {
            let mut reader = FrameReader::default();
            reader.feed(bytes);
            let mut answer = Vec::new();
            while let Some(Frame::Payload(payload)) = reader.take().unwrap() {
                let step = to.handle_frame(&payload, peers);
                answer.extend(step.send);
                match step.outcome {
                    Outcome::Wait => {}
                    Outcome::Established(peering) => established.push(peering),
                    other => panic!("connection {number}: {other:?}"),
                }
            }
            answer
        };
        while !from_dialler.is_empty() || !from_acceptor.is_empty() {
            let answer = deliver(&mut accepting, &mut acceptor_peers, &from_dialler);
            from_dialler = deliver(&mut dialling, &mut dialler_peers, &from_acceptor);
            from_acceptor = answer;
            said_by_dialler.extend(&from_dialler);
            said_by_acceptor.extend(&from_acceptor);
        }
        assert_eq!(said_by_dialler, dialler.handshake, "connection {number}, dialler");
        assert_eq!(said_by_acceptor, acceptor.handshake, "connection {number}, acceptor");
        assert_eq!(established.len(), 2);
        for peering in established {
            let (near, far) = if peering.local == dialler.id { (&dialler, &acceptor) } else { (&acceptor, &dialler) };
            assert_eq!((peering.local, peering.remote), (near.id, far.id));
            assert_eq!((&peering.local_filter, &peering.remote_filter), (&near.filter, &far.filter));
        }
    }
}

/// Our peering in the place of one end: it understands all that the other end said and answers pings as that end did.
#[test]
fn recorded_peerings_are_followed_to_the_end() {
    let now = Duration::ZERO;
    let mut farewells = 0;
    let last_frames = list(&parsed(FRAMES), "last_frames_on_unpeer").to_vec();
    let first_frames = list(&parsed(FRAMES), "first_frames").to_vec();
    let mut connections = recorded_connections();
    connections.push([first_frames, last_frames].concat());
    for connection in &connections {
        for (near, far) in [("connector", "listener"), ("listener", "connector")] {
            let (near_side, far_side) = (side(connection, near), side(connection, far));
            let established = zeek_cluster_agent::broker::handshake::Established {
                local: near_side.id,
                remote: far_side.id,
                role: zeek_cluster_agent::broker::handshake::Role::Responder,
                remote_filter: far_side.filter.clone(),
                local_filter: near_side.filter.clone(),
            };
            let (mut peering, update) = Peering::new(established, near_side.filter.clone(), Options::default(), now);
            assert_eq!(update, None);
            let pongs: Vec<_> = connection
                .iter()
                .filter(|recorded| recorded["from"] == near && text(recorded, "frame_hex").len() == 110)
                .map(|recorded| frame(recorded).0)
                .collect();
            for recorded in connection.iter().filter(|recorded| recorded["from"] == far) {
                let (_, payload) = frame(recorded);
                if HandshakeMessage::decode(&payload).is_ok() && payload.len() < 37
                    || matches!(recorded["type"].as_str(), Some("originator_syn" | "responder_syn_ack"))
                {
                    continue;
                }
                match peering.handle_frame(&payload, now) {
                    Received::Message(message) => assert!(message.directed || near_side.filter.matches(&message.topic)),
                    Received::Filter => {}
                    Received::Reply { frame, bye } => {
                        assert!(bye && pongs.contains(&frame), "{frame:02x?}");
                        farewells += 1;
                    }
                    // The other end's answer to a BYE that our end did not say here.
                    Received::Ignored(_) => {}
                    other => panic!("{other:?} of {recorded}"),
                }
            }
        }
    }
    assert!(farewells >= 6, "only {farewells}");
}

#[test]
fn websocket_conversations_decode_and_encode_to_equal_values() {
    let limits = json::Limits::default();
    let (mut subscriptions, mut acks, mut messages) = (0, 0, 0);
    for connection in list(&parsed(WEBSOCKET), "connections") {
        let texts = list(connection, "messages").iter().filter(|message| message["opcode"] == "text");
        for (number, message) in texts.enumerate() {
            let raw = text(message, "text");
            if number == 0 {
                let topics = json::read_subscriptions(raw.as_bytes(), &limits).unwrap();
                assert_eq!(topics, ["zeek/management/controller"]);
                assert_eq!(json::write_subscriptions(&topics), raw);
                subscriptions += 1;
                continue;
            }
            match json::read_message(raw.as_bytes(), &limits).unwrap() {
                Message::Data { topic, data } => {
                    let written = json::write_data_message(&topic, &data).unwrap();
                    assert_eq!(
                        json::read_message(written.as_bytes(), &limits),
                        Ok(Message::Data { topic, data: data.clone() })
                    );
                    assert_eq!(parsed(&written), parsed(raw));
                    if message["from"] == "server" {
                        assert_eq!(written, raw, "Zeek writes the same");
                    }
                    assert_eq!(event::unpack(data).events.len(), 1);
                    messages += 1;
                }
                Message::Ack { endpoint, version } => {
                    assert_eq!(json::write_ack(&endpoint, &version), raw);
                    acks += 1;
                }
                Message::Error { code, context } => panic!("no error was recorded: {code} {context}"),
            }
        }
    }
    assert_eq!((subscriptions, acks), (7, 7));
    assert!(messages >= 16, "only {messages}");
}

/// The examples of the protocol reference.
#[test]
fn the_examples_of_the_reference_hold() {
    let (a, b) = ("00112233-4455-6677-8899-aabbccddeeff", "a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90");
    let (a, b): (EndpointId, EndpointId) = (a.parse().unwrap(), b.parse().unwrap());
    let drop_conn = HandshakeMessage::DropConn {
        sender: b,
        code: wire::ErrorCode::REDUNDANT_CONNECTION,
        description: "redundant connection".into(),
    };
    assert_eq!(
        drop_conn.encode().unwrap(),
        hex("0000002b095a45454ba1b2c3d4e5f60718293a4b5c6d7e8f90271472656475 6e64616e7420636f6e6e656374696f6e"
            .replace(' ', "")
            .as_str())
    );
    let hello = Event::new(
        "Management::Agent::API::notify_agent_hello",
        vec![Data::string("a1"), Data::string(a.to_string()), Data::Boolean(true), Data::Count(1)],
    );
    let frame = wire::data_frame(a, EndpointId::NIL, "zeek/management/agent/a1", &hello.into_data()).unwrap();
    assert_eq!(frame.len(), 4 + 0xb6);
    let status = concat!(
        "0e070508776f726b65722d31",
        "0b134d616e6167656d656e743a3a52554e4e494e47",
        "0b104d616e6167656d656e743a3a4e4f4e45",
        "0b1253757065727669736f723a3a574f524b4552",
        "030000000000001267",
        "00",
        "0823290 1"
    );
    let status = decode(&hex(&status.replace(' ', "")));
    let Data::Vector(fields) = status else { panic!("no record") };
    assert_eq!((&fields[4], &fields[6]), (&Data::Integer(4711), &Data::Port("9001/tcp".parse().unwrap())));
    for (bytes, data) in [
        ("07000000000000000000 00ffff0a00000068", Data::Subnet("10.0.0.0/8".parse().unwrap())),
        ("0917979cfe53f76500", Data::Timestamp(1_700_000_000_500_000_000)),
        ("0a0000000059682f00", Data::Timespan(1_500_000_000)),
        ("0d0105016102 0000000000000001", Data::Table(Table::new(vec![(Data::string("a"), Data::Count(1))]).unwrap())),
        ("04fff0000000000000", Data::real(f64::INFINITY)),
    ] {
        assert_eq!(decode(&hex(&bytes.replace(' ', ""))), data);
    }
}

//! Record layouts by version of Zeek, names by dialect, shapes of responses, and errors that name the place.

use std::collections::BTreeSet;

use zeek_cluster_agent::api::configuration::{ClusterRole, Node, Port};
use zeek_cluster_agent::api::event::{Dialect, Notification, Request, Response, Result as ApiResult, ResultData};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::api::status::{ManagementRole, NodeOutputs, NodeState, NodeStatus};
use zeek_cluster_agent::broker::data::{Data, Set, Table};
use zeek_cluster_agent::dialect::{self, DecodeError, Decoded, EncodeError, Event, Local, Rejection};

fn text(text: &str) -> Data {
    Data::string(text)
}

fn vector(elements: impl IntoIterator<Item = Data>) -> Data {
    Data::Vector(elements.into_iter().collect())
}

fn set(elements: impl IntoIterator<Item = Data>) -> Data {
    Data::Set(elements.into_iter().collect::<Set>())
}

fn port(text: &str) -> Data {
    Data::Port(text.parse().unwrap())
}

/// A Node as Zeek 5.0 to 6.2 writes it: ten fields.
fn old_node() -> Vec<Data> {
    let role = Data::enum_value("Supervisor::WORKER");
    let state = Data::enum_value("Management::PENDING");
    let options = set([vector([text("x"), text("1")])]);
    let env = Data::Table(Table::new(vec![(text("A"), text("b"))]).unwrap());
    let scripts = vector([text("local")]);
    vec![text("w1"), text("a1"), role, state, Data::None, scripts, options, text("eth0"), Data::Integer(3), env]
}

fn deploy(nodes: impl IntoIterator<Item = Data>) -> Event {
    let instance = vector([text("a1"), Data::Address("127.0.0.1".parse().unwrap()), Data::None]);
    let config = vector([text("c1"), set([instance]), set(nodes)]);
    Event::new("Management::Agent::API::deploy_request", vec![text("r1"), config, Data::Boolean(false)])
}

fn nodes_of(event: &Event) -> Vec<Node> {
    match dialect::decode(event).unwrap() {
        Decoded::Request { request: Request::Deploy { config, .. }, .. } => config.nodes,
        other => panic!("{other:?}"),
    }
}

fn expected_node() -> Node {
    Node {
        name: "w1".into(),
        instance: "a1".into(),
        role: ClusterRole::Worker,
        port: None,
        scripts: vec!["local".into()],
        options: vec![zeek_cluster_agent::api::configuration::ScriptOption { name: "x".into(), value: "1".into() }],
        interface: Some("eth0".into()),
        cpu_affinity: Some(3),
        env: [("A".to_owned(), "b".to_owned())].into(),
        metrics_port: None,
    }
}

#[test]
fn nodes_of_every_release_are_read() {
    assert_eq!(nodes_of(&deploy([vector(old_node())])), [expected_node()]);
    let since_7 = [old_node(), vec![port("9000/tcp")]].concat();
    let expected = Node { metrics_port: Some(Port::tcp(9000)), ..expected_node() };
    assert_eq!(nodes_of(&deploy([vector(since_7.clone())])), std::slice::from_ref(&expected));
    let of_a_release_to_come = [since_7, vec![text("?"), Data::None]].concat();
    assert_eq!(nodes_of(&deploy([vector(of_a_release_to_come)])), [expected]);
    let mut unset = old_node();
    unset[5..].fill(Data::None);
    let bare = Node {
        scripts: vec![],
        options: vec![],
        interface: None,
        cpu_affinity: None,
        env: Default::default(),
        ..expected_node()
    };
    assert_eq!(nodes_of(&deploy([vector(unset)])), [bare]);
}

#[test]
fn no_port_is_none_whatever_zeek_writes() {
    for absent in [Data::None, port("0/?"), port("0/tcp")] {
        let mut node = old_node();
        node[4] = absent;
        assert_eq!(nodes_of(&deploy([vector(node)])), [expected_node()]);
    }
    let reqid = ReqId::new("r1").unwrap();
    let config = match dialect::decode(&deploy([vector(old_node())])).unwrap() {
        Decoded::Request { request: Request::Deploy { config, .. }, .. } => config,
        other => panic!("{other:?}"),
    };
    // The seed's port is no optional field: a Zeek that finds none there aborts.
    let event = dialect::request(Dialect::ClusterAgent, &reqid, &Request::SetConfiguration { config }).unwrap();
    let Data::Vector(fields) = &event.args[1] else { panic!("no record") };
    let Data::Set(nodes) = &fields[2] else { panic!("no set") };
    let Data::Vector(node) = &nodes.as_slice()[0] else { panic!("no record") };
    assert_eq!((node.len(), &node[2]), (10, &port("0/?")));
    assert_eq!(node[4], Data::enum_value("ClusterController::Types::Running"));
}

#[test]
fn requests_come_out_canonical() {
    // On the wire these sort by the names of their roles, in ours by the roles. The digest must not tell dialects apart.
    let node = |role: &str| {
        let mut node = old_node();
        node[2] = Data::enum_value(role);
        vector(node)
    };
    let event = deploy(["Supervisor::LOGGER", "Supervisor::NONE"].map(node));
    let nodes = nodes_of(&event);
    let roles: Vec<_> = nodes.iter().map(|node| node.role).collect();
    assert_eq!(roles, [ClusterRole::None, ClusterRole::Logger]);
    let Ok(Decoded::Request { reqid, request: Request::Deploy { config, .. }, .. }) = dialect::decode(&event) else {
        panic!("not read")
    };
    let request = Request::SetConfiguration { config };
    let event = dialect::request(Dialect::ClusterAgent, &reqid, &request).unwrap();
    assert_eq!(dialect::decode(&event), Ok(Decoded::Request { dialect: Dialect::ClusterAgent, reqid, request }));
}

fn rejection(event: &Event) -> Rejection {
    dialect::decode(event).unwrap_err()
}

#[test]
fn malformed_requests_say_what_is_wrong_where() {
    let with = |index: usize, value: Data| {
        let mut node = old_node();
        node[index] = value;
        deploy([vector(node)])
    };
    let prefix = "Management::Agent::API::deploy_request: config.nodes[0]";
    for (event, message) in [
        (with(0, Data::Count(1)), ".name is of type count where string is due"),
        (with(0, Data::String(vec![0xff])), ".name is a string that is not UTF-8"),
        (with(1, Data::None), ".instance is not set"),
        (with(2, Data::enum_value("WORKER")), ".role names the unknown role \"WORKER\""),
        (with(3, Data::enum_value("Management::STARTING")), ".state names the unknown state \"Management::STARTING\""),
        (with(4, Data::Count(80)), ".p is of type count where port is due"),
        (with(5, vector([text("a"), Data::None])), ".scripts[1] is of type none where string is due"),
        (with(6, set([text("x")])), ".options[0] is of type string where a record Option (vector) is due"),
        (with(8, Data::Count(1)), ".cpu_affinity is of type count where integer is due"),
        (with(9, set([])), ".env is of type set where table is due"),
        (deploy([vector(old_node().into_iter().take(9))]), " is a record Node of 9 fields, 10 are needed"),
    ] {
        let rejection = rejection(&event);
        assert_eq!(rejection.to_string(), format!("{prefix}{message}"));
        let response = rejection.response("a1").unwrap();
        assert_eq!((response.event.as_str(), response.reqid.as_str()), ("deploy_response", "r1"));
        assert!(!response.success());
        assert!(dialect::response(Dialect::Management, &response).is_ok());
    }
}

#[test]
fn arguments_are_counted_and_events_known() {
    let event = |name: &str, args: usize| Event::new(name, vec![text("r1"); args]);
    for (name, expected) in [
        ("ClusterAgent::API::set_configuration_request", 2),
        ("ClusterAgent::API::agent_welcome_request", 1),
        ("ClusterAgent::API::notify_agent_hello", 3),
        ("Management::Agent::API::deploy_request", 3),
        ("Management::Agent::API::node_dispatch_request", 3),
        ("Management::Agent::API::restart_request", 2),
        ("Management::Agent::API::get_nodes_request", 1),
        ("Management::Agent::API::agent_standby_request", 1),
        ("Management::Agent::API::deploy_response", 2),
        ("Management::Agent::API::notify_agent_hello", 4),
        ("Management::Agent::API::notify_change", 4),
        ("Management::Agent::API::notify_error", 3),
        ("Management::Node::API::notify_node_hello", 1),
        ("Management::Node::API::node_dispatch_request", 3),
        ("Management::Node::API::node_dispatch_response", 2),
    ] {
        for found in (0..6).filter(|found| *found != expected) {
            let rejection = rejection(&event(name, found));
            assert_eq!(rejection.error, DecodeError::ArgumentCount { event: name.into(), expected, found });
            let answered = rejection.response("a1").is_some();
            assert_eq!(answered, name.ends_with("_request") && !name.contains("Node::") && found > 0, "{name} {found}");
        }
    }
    for unknown in [
        "",
        "ping",
        "Management::Agent::API::set_configuration_request",
        "ClusterAgent::API::deploy_request",
        "Management::Controller::API::deploy_request",
        "ClusterAgent::API::",
    ] {
        let rejection = rejection(&event(unknown, 1));
        assert_eq!(rejection.error, DecodeError::UnknownEvent { event: unknown.into() });
        assert_eq!(rejection.response("a1"), None);
    }
}

#[test]
fn an_unreadable_reqid_cannot_be_answered() {
    let event = |reqid| Event::new("Management::Agent::API::get_nodes_request", vec![reqid]);
    for (reqid, message) in [
        (Data::Count(1), "reqid is of type count where string is due"),
        (text(&"r".repeat(257)), "reqid cannot be used: reqid has 257 bytes, 256 is the most"),
    ] {
        let rejection = rejection(&event(reqid));
        assert_eq!(rejection.to_string(), format!("Management::Agent::API::get_nodes_request: {message}"));
        assert_eq!((rejection.dialect, rejection.response("a1")), (Some(Dialect::Management), None));
    }
    let standby = Event::new("Management::Agent::API::agent_standby_request", vec![text("")]);
    assert!(matches!(dialect::decode(&standby), Ok(Decoded::Request { reqid, .. }) if reqid.is_empty()));
}

fn result(data: Option<ResultData>) -> ApiResult {
    ApiResult {
        reqid: ReqId::new("r1").unwrap(),
        success: true,
        instance: Some("a1".into()),
        data,
        error: None,
        node: None,
    }
}

fn response(event: &str, results: Vec<ApiResult>) -> Response {
    Response { event: event.into(), reqid: ReqId::new("r1").unwrap(), results }
}

#[test]
fn responses_have_the_shape_of_their_event_and_dialect() {
    let written = |dialect, event: &str, results| dialect::response(dialect, &response(event, results)).unwrap().args;
    let modern = vector([text("r1"), Data::Boolean(true), text("a1"), Data::None, Data::None, Data::None]);
    let seed = vector([text("r1"), text("a1"), Data::Boolean(true), Data::None, text(""), Data::None]);
    assert_eq!(
        written(Dialect::Management, "agent_welcome_response", vec![result(None)]),
        [text("r1"), modern.clone()]
    );
    assert_eq!(written(Dialect::ClusterAgent, "agent_welcome_response", vec![result(None)]), [text("r1"), seed]);
    assert_eq!(written(Dialect::Management, "restart_response", vec![result(None)]), [text("r1"), vector([modern])]);
    assert_eq!(written(Dialect::Management, "restart_response", vec![]), [text("r1"), vector([])]);
    // A controller's cast of absent data would abort.
    let failed = ApiResult { success: false, error: Some("no".into()), ..result(None) };
    let written = written(Dialect::Management, "get_nodes_response", vec![failed]);
    assert_eq!(written[1], vector([text("r1"), Data::Boolean(false), text("a1"), vector([]), text("no"), Data::None]));
    for (dialect, event, results, error) in [
        (Dialect::ClusterAgent, "deploy_response", 1, None),
        (Dialect::Management, "set_configuration_response", 1, None),
        (Dialect::Operator, "deploy_response", 1, None),
        (Dialect::Management, "get_nodes_response", 0, Some(0)),
        (Dialect::ClusterAgent, "agent_standby_response", 2, Some(2)),
    ] {
        let got = dialect::response(dialect, &response(event, vec![result(None); results])).unwrap_err();
        let event = event.to_owned();
        assert_eq!(
            got,
            match error {
                Some(found) => EncodeError::ResultCount { event, found },
                None => EncodeError::NotInDialect { dialect, event },
            }
        );
    }
}

#[test]
fn node_statuses_always_have_seven_fields_and_no_port_zero() {
    let status = NodeStatus {
        node: "w1".into(),
        state: NodeState::Pending,
        mgmt_role: ManagementRole::None,
        cluster_role: ClusterRole::Worker,
        pid: Some(4711),
        port: Some(Port::tcp(0)),
        metrics_port: None,
    };
    let event = dialect::response(
        Dialect::Management,
        &response("get_nodes_response", vec![result(Some(ResultData::Nodes(vec![status])))]),
    )
    .unwrap();
    let Data::Vector(fields) = &event.args[1] else { panic!("no record") };
    let expected = vector([
        text("w1"),
        Data::enum_value("Management::PENDING"),
        Data::enum_value("Management::NONE"),
        Data::enum_value("Supervisor::WORKER"),
        Data::Integer(4711),
        Data::None,
        Data::None,
    ]);
    assert_eq!(fields[3], vector([expected]));
}

#[test]
fn data_in_results_is_read_wrapped_or_not_and_short_or_long() {
    let wrap = |value| vector([vector([text("zeek::Broker::detail::DataVal"), value])]);
    let read = |data: Data| {
        let result = vector([text("r1"), Data::Boolean(true), text("a1"), data, Data::None, Data::None]);
        let event = Event::new("Management::Agent::API::get_nodes_response", vec![text("r1"), result]);
        match dialect::decode(&event).unwrap() {
            Decoded::Response { response, .. } => response.results.into_iter().next().unwrap().data,
            other => panic!("{other:?}"),
        }
    };
    let outputs = ResultData::Outputs(NodeOutputs { stdout: "out".into(), stderr: "err".into() });
    assert_eq!(read(vector([text("out"), text("err")])), Some(outputs.clone()));
    assert_eq!(read(wrap(vector([text("out"), text("err")]))), Some(outputs));
    assert_eq!(read(wrap(text("\"1.0 day\""))), Some(ResultData::Text("\"1.0 day\"".into())));
    assert_eq!(read(wrap(Data::None)), None);
    // What a node prints need not be text, and is worth having all the same.
    assert_eq!(read(Data::String(b"a\xff".to_vec())), Some(ResultData::Text("a\u{fffd}".into())));
    let before_7 = vec![
        text("w1"),
        Data::enum_value("Management::CRASHED"),
        Data::enum_value("Management::NODE"),
        Data::enum_value("Supervisor::WORKER"),
        Data::None,
        port("2200/tcp"),
    ];
    let since_7 = [before_7.clone(), vec![port("9000/tcp")]].concat();
    let status = |metrics_port| NodeStatus {
        node: "w1".into(),
        state: NodeState::Crashed,
        mgmt_role: ManagementRole::Node,
        cluster_role: ClusterRole::Worker,
        pid: None,
        port: Some(Port::tcp(2200)),
        metrics_port,
    };
    let expected = ResultData::Nodes(vec![status(None), status(Some(Port::tcp(9000)))]);
    assert_eq!(read(wrap(vector([vector(before_7), vector(since_7)]))), Some(expected));
    // Trailing fields that may be unset may be missing.
    let short = Event::new(
        "Management::Agent::API::agent_welcome_response",
        vec![text("r1"), vector([text("r1"), Data::Boolean(true)])],
    );
    let Ok(Decoded::Response { response, .. }) = dialect::decode(&short) else { panic!("not read") };
    assert_eq!(response.results, [ApiResult { instance: None, ..result(None) }]);
}

#[test]
fn the_seed_has_no_pending() {
    let local = Local { host: [192, 0, 2, 7].into(), endpoint: "e".into(), connecting: false };
    let change = Notification::NotifyChange {
        instance: "a1".into(),
        node: Box::new(expected_node()),
        state: NodeState::Pending,
        old: NodeState::Unknown,
        new: NodeState::Pending,
    };
    let seed = dialect::notification(Dialect::ClusterAgent, &change, &local).unwrap();
    assert_eq!(seed.args[2..], [(); 2].map(|()| Data::enum_value("ClusterController::Types::Unknown")));
    let modern = dialect::notification(Dialect::Management, &change, &local).unwrap();
    assert_eq!(modern.args[3], Data::enum_value("Management::PENDING"));
    let hello = Notification::NotifyAgentHello { instance: "a1".into(), api_version: dialect::API_VERSION };
    let seed = dialect::notification(Dialect::ClusterAgent, &hello, &local).unwrap();
    assert_eq!(seed.args, [text("a1"), Data::Address("192.0.2.7".parse().unwrap()), Data::Count(1)]);
    let modern = dialect::notification(Dialect::Management, &hello, &local).unwrap();
    assert_eq!(modern.args, [text("a1"), text("e"), Data::Boolean(false), Data::Count(1)]);
    assert!(dialect::notification(Dialect::Operator, &hello, &local).is_err());
}

#[test]
fn notes_carry_instance_message_and_node() {
    let local = Local { host: [0, 0, 0, 0].into(), endpoint: String::new(), connecting: true };
    let note = ("a1".to_owned(), "hello".to_owned(), String::new());
    let (instance, msg, node) = note.clone();
    let log = Notification::NotifyLog { instance, msg, node };
    let (instance, msg, node) = note;
    let error = Notification::NotifyError { instance, msg, node };
    for (dialect, module) in [(Dialect::ClusterAgent, "ClusterAgent"), (Dialect::Management, "Management::Agent")] {
        for (notification, name) in [(&log, "notify_log"), (&error, "notify_error")] {
            let event = dialect::notification(dialect, notification, &local).unwrap();
            let expected = Event::new(format!("{module}::API::{name}"), vec![text("a1"), text("hello"), text("")]);
            assert_eq!(event, expected);
        }
    }
}

#[test]
fn operator_commands_stay_on_the_control_socket() {
    let reqid = ReqId::new("r1").unwrap();
    for dialect in [Dialect::ClusterAgent, Dialect::Management, Dialect::Operator] {
        for request in [
            Request::StartNodes { nodes: BTreeSet::new() },
            Request::StopNodes { nodes: BTreeSet::new(), force: false },
            Request::Shutdown { nodes: true },
        ] {
            let event = request.event().to_owned();
            assert_eq!(dialect::request(dialect, &reqid, &request), Err(EncodeError::NotInDialect { dialect, event }));
        }
    }
    assert_eq!(dialect::agent_topic(Dialect::ClusterAgent, "a1").unwrap(), "zeek/cluster-control/agent/a1");
    assert_eq!(dialect::agent_topic(Dialect::Management, "a1").unwrap(), "zeek/management/agent/a1");
    assert_eq!(dialect::agent_topic(Dialect::Operator, "a1"), None);
}

//! Any WebSocket client can drive an agent: every request of both dialects, repeated and after kill -9; notifications; and
//! what happens to clients that send nonsense, too much, or nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request as Head;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, WebSocket, client::client_with_config};
use zeek_cluster_agent::api::audit::Kind;
use zeek_cluster_agent::api::configuration::Node;
use zeek_cluster_agent::api::event::{Dialect, Notification, Request, Response};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::broker::data::Data;
use zeek_cluster_agent::broker::json::{self, Limits};
use zeek_cluster_agent::dialect::event::{Event, unpack};
use zeek_cluster_agent::dialect::{self, Decoded, Whereabouts};

use crate::support::{AGENT, Host, PATIENCE, cluster, eventually, set};

const MANAGEMENT: &str = "zeek/management/agent/a1";
const CLUSTER_AGENT: &str = "zeek/cluster-control/agent/a1";
pub const BOTH: [&str; 2] = [MANAGEMENT, CLUSTER_AGENT];

fn host() -> Host {
    let mut host = Host::new();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0");
    host
}

/// Where the agent that was started last listens; `starts` is how many there were.
pub fn address(host: &Host, starts: usize) -> SocketAddr {
    eventually("the WebSocket listener", || {
        let log = host.read_log();
        let mut places = log.lines().filter_map(|line| line.split_once("are served at ws://"));
        let (_, place) = places.nth(starts - 1)?;
        place.split('/').next()?.parse().ok()
    })
}

pub struct Ws {
    socket: WebSocket<TcpStream>,
}

impl Ws {
    fn upgrade(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, String> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut head: Head = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            head.headers_mut().insert(*name, value.parse().unwrap());
        }
        match client_with_config(head, stream, None) {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn raw(address: SocketAddr) -> Self {
        Self::upgrade(address, "/v1/messages/json", &[]).unwrap()
    }

    pub fn connect(address: SocketAddr, topics: &[&str]) -> Self {
        let mut ws = Self::raw(address);
        ws.send(&json::write_subscriptions(topics));
        match json::read_message(ws.text().as_bytes(), &Limits::default()).unwrap() {
            json::Message::Ack { endpoint, version } => {
                assert_eq!((endpoint.len(), version.as_str()), (36, env!("CARGO_PKG_VERSION")));
            }
            other => panic!("{other:?}"),
        }
        ws
    }

    fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    fn publish(&mut self, topic: &str, event: Event) {
        self.send(&json::write_data_message(topic, &event.into_data()).unwrap());
    }

    pub fn ask(&mut self, dialect: Dialect, reqid: &str, request: &Request) {
        let event = dialect::request(dialect, &ReqId::new(reqid).unwrap(), request).unwrap();
        self.publish(&dialect::agent_topic(dialect, AGENT).unwrap(), event);
    }

    /// The next text.
    fn text(&mut self) -> String {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return text.as_str().to_owned(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code with which the server closes.
    fn close_code(&mut self) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => return frame.code.into(),
                Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads until `want` finds something.
    fn until<T>(&mut self, what: &str, mut want: impl FnMut(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if let Some(found) = want(&text) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        }
    }

    /// The response to a request, as it came and as it is understood.
    pub fn response(&mut self, reqid: &str) -> (String, Dialect, Response) {
        self.until(&format!("the response to {reqid}"), |text| match decoded(text)? {
            Decoded::Response { dialect, response } if response.reqid.as_str() == reqid => {
                Some((text.to_owned(), dialect, response))
            }
            Decoded::Response { .. } | Decoded::Request { .. } | Decoded::Notification { .. } | Decoded::Node(_) => {
                None
            }
        })
    }

    /// The next error message: code and context.
    fn error(&mut self) -> (String, String) {
        self.until("an error", |text| match json::read_message(text.as_bytes(), &Limits::default()).unwrap() {
            json::Message::Error { code, context } => Some((code, context)),
            json::Message::Data { .. } | json::Message::Ack { .. } => None,
        })
    }

    fn notification(&mut self, dialect: Dialect, want: impl Fn(&Notification) -> bool) -> Option<Whereabouts> {
        self.until("a notification", |text| match decoded(text)? {
            Decoded::Notification { dialect: of, notification, whereabouts }
                if of == dialect && want(&notification) =>
            {
                Some(whereabouts)
            }
            Decoded::Response { .. } | Decoded::Request { .. } | Decoded::Notification { .. } | Decoded::Node(_) => {
                None
            }
        })
    }
}

fn decoded(text: &str) -> Option<Decoded> {
    let limits = Limits { bytes: 32 << 20, values: 1 << 20, ..Limits::default() };
    match json::read_message(text.as_bytes(), &limits).unwrap() {
        json::Message::Data { topic, data } => {
            assert!(BOTH.contains(&topic.as_str()), "{topic}");
            let events = unpack(data).events;
            assert_eq!(events.len(), 1);
            Some(dialect::decode(events[0].as_ref().unwrap()).unwrap())
        }
        json::Message::Ack { .. } | json::Message::Error { .. } => None,
    }
}

/// Every request of both dialects, in an order in which each has something to do.
fn every_request() -> Vec<(Dialect, String, Request)> {
    let config = |id: &str| {
        let mut config = cluster(&[("manager:manager", ""), ("w1", "")]);
        config.id = id.to_owned();
        config
    };
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let action = vec!["get_id_value".to_owned(), "Cluster::node".to_owned()];
    let all = [
        Request::AgentWelcome {},
        set(config("one")),
        Request::Deploy { config: config("two"), force: false, how: Box::default() },
        Request::Deploy { config: config("two"), force: true, how: Box::default() },
        Request::GetNodes {},
        Request::Restart { nodes: named(&["w1"]) },
        Request::NodeDispatch { action, nodes: named(&[]) },
        Request::AgentStandby {},
    ];
    let mut requests = Vec::new();
    for dialect in [Dialect::ClusterAgent, Dialect::Management] {
        for (number, request) in all.iter().enumerate() {
            if dialect::request(dialect, &ReqId::default(), request).is_ok() {
                requests.push((dialect, format!("{}-{number}", dialect.as_str()), request.clone()));
            }
        }
    }
    assert_eq!(requests.len(), 3 + 7);
    requests
}

#[test]
fn every_request_of_both_dialects_is_answered_and_repeated_equal() {
    let mut host = host();
    // Dispatches have nobody to answer them here.
    host.set("ZCA_REQUEST_TIMEOUT", "5s");
    let agent = host.start();
    let mut ws = Ws::connect(address(&host, 1), &BOTH);
    let mut answers = BTreeMap::new();
    for (dialect, reqid, request) in every_request() {
        ws.ask(dialect, &reqid, &request);
        let (text, of, response) = ws.response(&reqid);
        assert_eq!((of, response.event.as_str()), (dialect, request.response_event()));
        if !matches!(request, Request::NodeDispatch { .. }) {
            assert!(response.success(), "{reqid}: {response:?}");
        }
        answers.insert(reqid, text);
    }

    let repeat = |mut ws: Ws| {
        for (dialect, reqid, request) in every_request() {
            ws.ask(dialect, &reqid, &request);
            assert_eq!(ws.response(&reqid).0, answers[&reqid]);
        }
    };
    repeat(Ws::connect(address(&host, 1), &BOTH));
    agent.kill();
    let _agent = host.start();
    repeat(Ws::connect(address(&host, 2), &BOTH));

    // Another request under a reqid that is taken is a conflict, and the rows say who asked.
    let mut ws = Ws::connect(address(&host, 2), &BOTH);
    ws.ask(Dialect::Management, "Management-0", &Request::GetNodes {});
    let (_, _, response) = ws.response("Management-0");
    assert!(response.results[0].error.as_deref().unwrap().starts_with("conflict: "), "{response:?}");
    let dump = host.command(&["journal", "dump", "--format", "json", "--reqid", "Management-0"]).output().unwrap();
    let dump = String::from_utf8(dump.stdout).unwrap();
    let rows: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["source"]["transport"], "websocket");
    assert!(rows[0]["source"]["peer"].as_str().unwrap().starts_with("127.0.0.1 port="));
    host.verify();
}

#[test]
fn a_response_goes_to_all_subscribers_and_waits_for_one_if_there_is_none() {
    let host = host();
    let _agent = host.start();
    let address = address(&host, 1);
    let mut silent = Ws::connect(address, &[]);
    silent.ask(Dialect::Management, "unheard", &Request::GetNodes {});
    eventually("the request to be journaled", || {
        let dump = host.command(&["journal", "dump", "--format", "json", "--reqid", "unheard"]).output().unwrap();
        String::from_utf8(dump.stdout).unwrap().contains("\"completed\"").then_some(())
    });
    let mut listener = Ws::connect(address, &["zeek/management/agent/"]);
    assert_eq!(listener.response("unheard").2.event, "get_nodes_response");

    // Both subscribers hear what one of them asked; a prefix of another agent's topic hears nothing.
    let mut asker = Ws::connect(address, &["zeek/management/agent/a1", "zeek/management/agent/a1"]);
    let mut other = Ws::connect(address, &["zeek/management/agent/a10", "zeek/cluster-control/agent/a1"]);
    asker.ask(Dialect::Management, "heard", &Request::GetNodes {});
    assert_eq!(asker.response("heard").0, listener.response("heard").0);
    other.ask(Dialect::ClusterAgent, "own", &Request::AgentWelcome {});
    assert_eq!(decoded(&other.text()).map(|event| matches!(event, Decoded::Response { .. })), Some(true));
}

#[test]
fn notifications_come_in_the_dialects_that_are_configured() {
    let mut host = host();
    host.set("ZCA_NOTIFY_DIALECTS", "Management ClusterAgent");
    let _agent = host.start();
    let mut ws = Ws::connect(address(&host, 1), &BOTH);
    let is_hello = |one: &Notification| matches!(one, Notification::NotifyAgentHello { instance, api_version: 1 } if instance == AGENT);
    let endpoint = ws.notification(Dialect::Management, is_hello);
    assert!(matches!(endpoint, Some(Whereabouts::Endpoint { id, connecting: false }) if id.len() == 36));
    let place = ws.notification(Dialect::ClusterAgent, is_hello);
    assert_eq!(place, Some(Whereabouts::Host("127.0.0.1".parse().unwrap())));

    let mut seed = Ws::connect(address(&host, 1), &[CLUSTER_AGENT]);
    ws.ask(
        Dialect::Management,
        "d",
        &Request::Deploy { config: cluster(&[("w1", "")]), force: false, how: Box::default() },
    );
    let is_up = |one: &Notification| matches!(one, Notification::NotifyChange { node, new: NodeState::Running, .. } if node.name == "w1");
    ws.notification(Dialect::Management, is_up);
    seed.notification(Dialect::ClusterAgent, is_up);
}

#[test]
fn bad_input_is_answered_and_costs_its_own_connection_at_most() {
    let host = host();
    let agent = host.start();
    let address = address(&host, 1);
    let mut good = Ws::connect(address, &BOTH);

    // The upgrade.
    let path = |path: &str, headers: &[(&'static str, &str)]| {
        let mut ws = Ws::upgrade(address, path, headers).unwrap();
        let (code, _) = ws.error();
        (code, ws.close_code())
    };
    assert_eq!(path("/v2/messages", &[]), ("invalid_uri".to_owned(), 1008));
    let named = path("/v1/messages/json", &[("X-Application-Name", "a b")]);
    assert_eq!(named, ("invalid_application_name".to_owned(), 1008));
    Ws::upgrade(address, "/v1/messages/json", &[("X-Application-Name", "zeek-client/1.5")]).unwrap();
    let from_a_page = Ws::upgrade(address, "/v1/messages/json", &[("Origin", "https://evil.example")]);
    assert!(from_a_page.err().unwrap().contains("403"));

    // The subscription.
    for (first, context) in [
        ("{\"a\":1}", "subscriptions not an array"),
        ("no json", "subscriptions not an array"),
        ("[1]", "individual subscription not a string"),
    ] {
        let mut ws = Ws::raw(address);
        ws.send(first);
        assert_eq!(ws.error(), ("deserialization_failed".to_owned(), context.to_owned()), "{first}");
        assert_eq!(ws.close_code(), 1008);
    }

    // Messages: the connection lives on.
    let mut ws = Ws::connect(address, &BOTH);
    let mut refused = |text: &str| {
        ws.send(text);
        let (code, context) = ws.error();
        (code, context)
    };
    let failed = "deserialization_failed";
    assert_eq!(refused("nonsense").0, failed);
    assert_eq!(refused("{}"), (failed.to_owned(), "no topic in top-level JSON object".to_owned()));
    assert_eq!(refused(&json::write_ack("x", "y")).0, failed);
    let (code, context) = refused(&"[".repeat(10_000));
    assert!(code == failed && context.contains("nested too deeply"), "{context}");
    let text = |topic: &str, name: &str, args: Vec<Data>| {
        json::write_data_message(topic, &Event::new(name, args).into_data()).unwrap()
    };
    let reqid = || Data::string("r1");
    for (name, args) in [
        ("Management::Agent::API::no_such_request", vec![reqid()]),
        ("global_event", vec![]),
        ("Management::Agent::API::agent_welcome_request", vec![]),
        ("Management::Agent::API::agent_welcome_request", vec![Data::Count(1)]),
        // On the wrong topic.
        ("ClusterAgent::API::agent_welcome_request", vec![reqid()]),
    ] {
        let (code, context) = refused(&text(MANAGEMENT, name, args));
        assert!(code == failed && context.starts_with("failed to create Zeek event: "), "{name}: {context}");
    }
    let (code, _) = refused(&json::write_data_message(MANAGEMENT, &Data::Count(3)).unwrap());
    assert_eq!(code, failed);
    // The topic of an agent whose name begins with ours.
    let elsewhere = text("zeek/management/agent/a10", "Management::Agent::API::agent_welcome_request", vec![reqid()]);
    assert_eq!(refused(&elsewhere).0, "broker_error");
    // A malformed request with a readable reqid gets a failed response, too.
    for args in [vec![reqid(), Data::Count(1)], vec![reqid(), Data::Count(1), Data::Boolean(false)]] {
        ws.publish(MANAGEMENT, Event::new("Management::Agent::API::deploy_request", args));
        assert_eq!(ws.error().0, failed);
        let (_, _, response) = ws.response("r1");
        assert!(!response.success() && response.event == "deploy_response", "{response:?}");
    }
    // None of it has used up the reqid.
    ws.ask(Dialect::Management, "r1", &Request::AgentWelcome {});
    assert!(ws.response("r1").2.success());

    // Frames.
    ws.socket.send(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(ws.close_code(), 1003);
    let mut ws = Ws::connect(address, &[]);
    let hundred_mb = 100_u64 << 20;
    ws.socket.get_mut().write_all(&[0x81, 0xff]).unwrap();
    ws.socket.get_mut().write_all(&hundred_mb.to_be_bytes()).unwrap();
    ws.socket.get_mut().write_all(&[0; 4]).unwrap();
    assert_eq!(ws.close_code(), 1009);
    let mut ws = Ws::connect(address, &[]);
    ws.socket.get_mut().write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]).unwrap();
    assert_eq!(ws.close_code(), 1007);

    // Everybody else is served, and rejected input is journaled with a bound.
    good.ask(Dialect::Management, "good", &Request::GetNodes {});
    assert!(good.response("good").2.success());
    assert!(host.rows(Kind::Request).len() < 40);
    println!("the agent's peak memory: {} KiB", peak_kib(agent.pid()));
    host.verify();
}

pub fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn idle_connections_and_clients_that_never_read_keep_nobody_out() {
    let host = host();
    let agent = host.start();
    let address = address(&host, 1);
    let mut early = Ws::connect(address, &BOTH);

    // A client that never reads: large responses are repeated until it is cut.
    let mut deaf = Ws::connect(address, &[MANAGEMENT]);
    let mut config = cluster(&[("w1", "")]);
    let node = |number: usize| Node {
        name: format!("{}-{number}", "n".repeat(100)),
        instance: "nowhere".to_owned(),
        ..config.nodes[0].clone()
    };
    let nodes: Vec<Node> = (0..2500).map(node).collect();
    config.nodes.extend(nodes);
    let request = Request::Deploy { config, force: false, how: Box::default() };
    let cut = || host.read_log().contains("its client does not read");
    for round in 0.. {
        early.ask(Dialect::Management, "large", &request);
        let (text, _, response) = early.response("large");
        assert!(!response.success() && text.len() > 100_000, "{} bytes", text.len());
        if cut() {
            println!("the deaf client was cut after {round} responses of {} bytes", text.len());
            break;
        }
        assert!(round < 2000, "the deaf client was never cut");
    }
    let ended = loop {
        match deaf.socket.read() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(!matches!(ended, WsError::Capacity(_)), "{ended}");

    // A thousand connections that say nothing.
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let idle: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(address).unwrap()).collect();
    early.ask(Dialect::Management, "early", &Request::GetNodes {});
    assert!(early.response("early").2.success());
    let mut late = Ws::connect(address, &BOTH);
    late.ask(Dialect::Management, "late", &Request::GetNodes {});
    assert!(late.response("late").2.success());
    let peak = peak_kib(agent.pid());
    println!("the agent's peak memory with {} idle connections: {peak} KiB", idle.len());
    assert!(peak < 512 << 10, "{peak} KiB");
    drop(idle);
}

#[test]
fn a_hundred_megabytes_are_refused_while_they_come() {
    let host = host();
    let agent = host.start();
    let address = address(&host, 1);
    let mut good = Ws::connect(address, &BOTH);
    good.ask(Dialect::Management, "before", &Request::GetNodes {});
    assert!(good.response("before").2.success());
    let before = peak_kib(agent.pid());

    const PART: usize = 1 << 20;
    let one_frame = [&[0x81, 0xff][..], &(100_u64 << 20).to_be_bytes(), &[0; 4]].concat();
    let part = |first: u8| [&[first, 0xff][..], &(PART as u64).to_be_bytes(), &[0; 4]].concat();
    for (what, first, next) in [("one frame", one_frame, Vec::new()), ("a hundred frames", part(0x01), part(0x00))] {
        let mut ws = Ws::connect(address, &[]);
        let mut stream = ws.socket.get_ref().try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let payload = vec![b'a'; PART];
            let (mut header, mut sent) = (first, 0_usize);
            // Refused, it may be cut off before its end.
            while sent < 100 * PART && stream.write_all(&header).and_then(|()| stream.write_all(&payload)).is_ok() {
                header.clone_from(&next);
                sent += PART;
            }
            sent
        });
        assert_eq!(ws.close_code(), 1009, "{what}");
        good.ask(Dialect::Management, what, &Request::GetNodes {});
        assert!(good.response(what).2.success(), "{what}");
        let sent = sender.join().unwrap();
        // More than a message may have, so the refusal is of what came, too.
        assert!(sent > 16 * PART, "{what}: {sent} bytes");
        let peak = peak_kib(agent.pid());
        println!("{what}: {} MiB sent; the agent's peak memory {before} KiB before, {peak} KiB after", sent / PART);
        assert!(peak < before + (48 << 10), "{what}: {before} KiB before, {peak} KiB after");
    }
    host.verify();
}

#[test]
fn a_full_house_says_so_and_serves_those_in_it() {
    let host = host();
    let agent = host.start();
    let address = address(&host, 1);
    let mut inside: Vec<Ws> = (0..256).map(|_| Ws::connect(address, &BOTH)).collect();

    // Whatever it would have asked for.
    let mut turned_away = 0;
    for _ in 0..20 {
        let mut said = String::new();
        let mut late = TcpStream::connect(address).unwrap();
        late.set_read_timeout(Some(PATIENCE)).unwrap();
        late.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{said:?}");
        turned_away += 1;
    }
    let asked = host.command(&["request", "get-nodes", "--via", &format!("ws://{address}")]).output().unwrap();
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    turned_away += 1;

    let first = &mut inside[0];
    first.ask(Dialect::Management, "inside", &Request::GetNodes {});
    assert!(first.response("inside").2.success());
    drop(inside.pop());
    let mut late = eventually("the place of one who left", || {
        let upgraded = Ws::upgrade(address, "/v1/messages/json", &[]).ok();
        turned_away += u64::from(upgraded.is_none());
        upgraded
    });
    late.send(&json::write_subscriptions(&BOTH));
    late.ask(Dialect::Management, "late", &Request::GetNodes {});
    assert!(late.response("late").2.success());

    // Nobody can fill the log, and nobody is left out of the count.
    drop((inside, late));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let log = host.read_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("turned away")).collect();
    assert!(lines.len() <= 3, "{lines:?}");
    let counted = lines.iter().map(|line| match line.split_once(" more WebSocket connections") {
        Some((before, _)) => before.split_whitespace().next_back().unwrap().parse::<u64>().unwrap(),
        None => line.matches("WebSocket connection turned away: 256 are open").count() as u64,
    });
    assert_eq!(counted.sum::<u64>(), turned_away, "{lines:?}");
}

#[test]
fn an_agent_that_stops_says_that_it_goes() {
    let host = host();
    let agent = host.start();
    let mut ws = Ws::connect(address(&host, 1), &BOTH);
    agent.signal(Signal::TERM);
    assert_eq!(ws.close_code(), 1001);
    assert!(agent.wait().success());
}

#[test]
fn the_command_line_asks_over_websocket_what_it_asks_over_the_control_socket() {
    let host = host();
    let _agent = host.start();
    let url = format!("ws://{}", address(&host, 1));
    let file = host.dir.path().join("cluster.ini");
    std::fs::write(&file, "[w1]\nrole = worker\n").unwrap();
    let run = |args: &[&str]| {
        let output = host.command(args).stderr(Stdio::piped()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let file = file.display().to_string();
    for request in [&["welcome"][..], &["deploy", &file], &["get-nodes"], &["restart", "w1"], &["standby"]] {
        let args: Vec<&str> =
            ["request"].iter().chain(request).chain(&["--reqid", request[0], "--json"]).copied().collect();
        let over_websocket = run(&args.iter().copied().chain(["--via", &url]).collect::<Vec<_>>());
        assert_eq!(over_websocket.0, 0, "{over_websocket:?}");
        assert_eq!(over_websocket.1, run(&args).1);
    }
    // The API of Zeek 4.2 has no place for metrics ports, which a file is filled up with.
    let (code, _, said) = run(&["request", "set-configuration", &file, "--via", &url]);
    assert!(code == 0 && said.contains("metrics ports"), "{code}: {said}");
    assert_eq!(run(&["request", "get-nodes", "--reqid", "welcome", "--via", &url]).0, 5);
    assert_eq!(run(&["request", "restart", "nobody", "--via", &url]).0, 1);
    assert_eq!(run(&["request", "get-nodes", "--via", "127.0.0.1:1"]).0, 2);
    assert_eq!(run(&["request", "get-nodes", "--via", "ws://127.0.0.1:1"]).0, 3);
    let status = run(&["status"]).1;
    assert!(!status.contains("every user of this host") && status.contains("who may ask    root"), "{status}");
}

/// Programs of others, from the Python package index, at the versions in tests/clients/requirements.txt.
#[test]
fn clients_of_others_drive_the_agent() {
    let Some(python) = std::env::var_os("ZCA_TEST_PYTHON") else {
        println!("not run: ZCA_TEST_PYTHON names no Python with tests/clients/requirements.txt; scripts/test sets it");
        return;
    };
    let mut host = host();
    host.set("ZCA_REQUEST_TIMEOUT", "5s");
    let drive = |address: SocketAddr| {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/drive.py");
        let url = format!("ws://{address}");
        let output = std::process::Command::new(&python).args([program, &url, AGENT]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let agent = host.start();
    let first = drive(address(&host, 1));
    assert_eq!(first.lines().count(), 9);
    for line in first.lines() {
        let Some(Decoded::Response { response, .. }) = decoded(line) else { panic!("{line}") };
        assert!(response.success() || response.event == "node_dispatch_response", "{response:?}");
    }
    assert_eq!(drive(address(&host, 1)), first);
    agent.kill();
    let _agent = host.start();
    assert_eq!(drive(address(&host, 2)), first);
}

#[test]
fn other_addresses_than_loopback_have_to_be_asked_for_twice() {
    let host = Host::new();
    let output = host.command(&["run", "--simulate-nodes", "--websocket", "0.0.0.0:0"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("flag --websocket") && said.contains("--insecure"), "{said}");
    assert!(!host.state_dir().exists());
}

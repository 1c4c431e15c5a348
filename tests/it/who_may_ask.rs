//! Who may ask: over Broker and WebSocket on loopback whoever the kernel says is a user that may, and nobody else, whatever
//! tricks are played with connections. Most of it needs root, who can be anybody; says so where there is none.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::audit::{Kind, RequestRow, RequestState, Row};
use zeek_cluster_agent::api::rights::User;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::settings::accounts;

use crate::broker::{CONTROLLER, config, port};
use crate::peers::{Peers, python};
use crate::support::{Agent, Host, Said, eventually, kill};

/// Users that every host has: one that stands for no user at all, one that is a stranger, whom nodes run as, and one whose
/// primary group is not its own.
const NOBODY: &str = "nobody";
const STRANGER: &str = "mail";
const NODES: &str = "daemon";
const MEMBER: &str = "games";
const GROUP: &str = "games";

fn user(name: &str) -> User {
    accounts::user(name).unwrap().unwrap_or_else(|| panic!("this host has no user {name}"))
}

/// A host with both listeners, and a copy of the binary where other users get to it; `None`, and a line that says so, where
/// there is no root.
fn host(test: &str) -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: {test} needs root");
        return None;
    }
    let mut host = Host::new();
    host.set("ZCA_LISTEN", "127.0.0.1:0").set("ZCA_WEBSOCKET", "127.0.0.1:0").set("ZCA_DISABLE_SSL", "true");
    host.set("ZCA_NODE_USER", NODES).set("SIM_NO_PEERING", "1");
    fs::set_permissions(host.dir.path(), Permissions::from_mode(0o711)).unwrap();
    let binary = host.dir.path().join("agent");
    fs::copy(&host.binary, &binary).unwrap();
    fs::set_permissions(&binary, Permissions::from_mode(0o755)).unwrap();
    host.binary = binary;
    Some(host)
}

/// One of the binary's commands, as somebody else.
fn run_as(host: &Host, name: &str, args: &[&str]) -> Said {
    let user = user(name);
    let mut command = host.command(args);
    command.uid(user.uid).gid(user.gid);
    Said::of(command)
}

fn peers_as(name: &str) -> Peers {
    let user = user(name);
    let mut peers = Peers::start();
    peers.ok("become", json!({"uid": user.uid, "gid": user.gid}));
    peers
}

/// Where WebSocket clients are served.
fn websocket(host: &Host) -> SocketAddr {
    let mark = "are served at ws://";
    eventually("the WebSocket listener", || {
        let log = host.read_log();
        log.lines().rev().find_map(|line| line.split_once(mark))?.1.split('/').next()?.parse().ok()
    })
}

fn dial(peers: &mut Peers, name: &str, port: u16, tls: &Value) -> Result<Value, String> {
    peers.ok("endpoint", json!({"name": name, "filter": CONTROLLER}));
    peers.order("dial", json!({"endpoint": name, "name": name, "port": port, "tls": tls}))
}

fn rejected(host: &Host) -> Vec<RequestRow> {
    let rows = host.rows(Kind::Request).into_iter().filter_map(|row| match row {
        Row::Request(row) if row.state == RequestState::Rejected => Some(*row),
        Row::Request(_) | Row::Event(_) | Row::Unreadable(_) => None,
    });
    rows.collect()
}

/// Requests that were taken in.
fn taken(host: &Host) -> usize {
    let is_taken = |row: &Row| matches!(row, Row::Request(row) if row.state != RequestState::Rejected);
    host.rows(Kind::Request).iter().filter(|row| is_taken(row)).count()
}

/// A deploy over WebSocket.
fn deploy_as(host: &Host, name: &str, reqid: &str) -> Said {
    let file = host.cluster_file("cluster.ini", &[("w1", "")]);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let url = format!("ws://{}", websocket(host));
    run_as(host, name, &["request", "deploy", &file, "--reqid", reqid, "--json", "--via", &url])
}

#[test]
fn strangers_are_refused_at_the_handshake_over_every_transport() {
    for (mode, tls) in [("true", Value::Null), ("false", json!({}))] {
        let Some(mut host) = host("strangers") else { return };
        host.set("ZCA_DISABLE_SSL", mode);
        let _agent = host.start();
        let port = port(&host);
        for name in [NOBODY, STRANGER] {
            let mut peers = peers_as(name);
            for _ in 0..3 {
                let refused = dial(&mut peers, "c", port, &tls).unwrap_err();
                assert!(refused.contains("refused: 3: ") && refused.contains(&user(name).uid.to_string()), "{refused}");
            }
            let refused = deploy_as(&host, name, "d");
            assert!(refused.code != 0 && refused.stderr.contains("uid"), "{refused:?}");
        }
        // Each of their connections is journaled, up to ten a minute, and each of them is told of once.
        let rows = eventually("the refusals in the journal", || Some(rejected(&host)).filter(|rows| rows.len() >= 8));
        assert_eq!((rows.len(), taken(&host)), (8, 0));
        for name in [NOBODY, STRANGER] {
            let uid = format!(" uid={}", user(name).uid);
            let of_it = rows.iter().filter(|row| row.source.peer.ends_with(&uid)).collect::<Vec<_>>();
            let over = |transport| of_it.iter().filter(|row| row.source.transport == transport).count();
            assert_eq!((over("broker"), over("websocket")), (3, 1), "{rows:?}");
            assert!(of_it.iter().all(|row| row.source.peer.starts_with("127.0.0.1 port=")), "{rows:?}");
        }
        assert_eq!(host.read_log().matches("refused a connection over").count(), 2, "{}", host.read_log());
        assert!(host.pids().is_empty() && host.status().peers.is_empty());
    }
}

/// What a client that speaks HTTP is told, by the standard's number and in words.
#[test]
fn a_websocket_client_that_may_not_ask_is_told_403() {
    let Some(host) = host("HTTP 403") else { return };
    let _agent = host.start();
    let stranger = user(STRANGER);
    let script = "import os, socket, sys\n\
                  uid, gid, port = map(int, sys.argv[1:])\n\
                  'localhost'.encode('idna'); os.setgroups([]); os.setgid(gid); os.setuid(uid)\n\
                  s = socket.create_connection(('127.0.0.1', port))\n\
                  s.sendall(b'GET /v1/messages/json HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'\n\
                  \x20         b'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n')\n\
                  print(s.makefile('rb').read().decode())\n";
    let port = websocket(&host).port().to_string();
    let ids = [stranger.uid.to_string(), stranger.gid.to_string()];
    let said = Said::of(python(&["-c", script, &ids[0], &ids[1], &port]));
    assert!(said.stdout.starts_with("HTTP/1.1 403 "), "{said:?}");
    assert!(said.stdout.contains("request_users allows root, daemon (the nodes' user)"), "{said:?}");
}

#[test]
fn root_members_of_the_control_group_and_the_nodes_user_are_served() {
    let Some(mut host) = host("members") else { return };
    host.set("ZCA_CONTROL_GROUP", GROUP);
    let _agent = host.start();
    let port = port(&host);
    for (number, name) in ["root", MEMBER, NODES].into_iter().enumerate() {
        let mut peers = peers_as(name);
        dial(&mut peers, "c", port, &Value::Null).unwrap();
        let welcome = peers.ask("c", "management", "agent_welcome", &format!("w{number}"), json!({}));
        assert_eq!(welcome[0]["success"], true, "{name}: {welcome}");
        let said = deploy_as(&host, name, &format!("d{number}"));
        assert_eq!(said.code, 0, "{name}: {said:?}");
        for reqid in [format!("w{number}"), format!("d{number}")] {
            let source = host.requests(&reqid)[0].source.clone();
            assert!(source.peer.ends_with(&format!(" uid={}", user(name).uid)), "{source:?}");
        }
        let status = host.status();
        assert_eq!((status.peers[0].uid, status.peers[0].may_ask), (Some(user(name).uid), true));
        peers.ok("leave", json!({"peering": "c"}));
        eventually("the peer to be gone", || host.status().peers.is_empty().then_some(()));
    }
    assert!(dial(&mut peers_as(STRANGER), "c", port, &Value::Null).is_err());
    // The start-up line and `status` say who they are.
    let who = "root, daemon (the nodes' user), members of games";
    assert!(host.read_log().contains(&format!("who may ask: {who}")), "{}", host.read_log());
    let status = host.run(&["status"]).stdout;
    assert!(status.contains(&format!("who may ask    {who}")), "{status}");
    assert!(!status.contains("authenticates nobody"), "{status}");
}

#[test]
fn with_a_strict_list_nodes_check_in_and_answer_and_are_asked_by_root_alone() {
    let Some(mut host) = host("a strict list") else { return };
    host.set("ZCA_REQUEST_USERS", "root").set("ZCA_CONTROL_GROUP", GROUP);
    let _agent = host.start();
    let port = port(&host);
    assert_eq!(host.status().may_ask, ["root"]);
    // Members of the control group may look and not ask.
    let said = run_as(&host, MEMBER, &["status", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = run_as(&host, MEMBER, &["request", "standby", "--reqid", "s"]);
    assert!(said.code == 1 && said.stderr.contains("request_users allows root"), "{said:?}");
    assert!(run_as(&host, MEMBER, &["journal", "prune", "--dry-run"]).code == 0);
    let said = run_as(&host, MEMBER, &["journal", "prune"]);
    assert!(said.code == 1 && said.stderr.contains("request_users allows root"), "{said:?}");
    for name in [MEMBER, NODES] {
        assert!(deploy_as(&host, name, "d").stderr.contains("request_users allows root"));
    }
    assert!(dial(&mut peers_as(MEMBER), "c", port, &Value::Null).is_err());

    let mut root = peers_as("root");
    dial(&mut root, "c", port, &Value::Null).unwrap();
    let silent = json!({"config": config("c1", &["w1"], &json!({"SIM_NOT_READY": "1"}))});
    root.begin("c", "management", "deploy", "d", silent);
    eventually("the node to be started", || (host.pids().len() == 1).then_some(()));
    // The nodes' user: its request is refused, with an answer and in the journal; as a node it is believed.
    let mut node = peers_as(NODES);
    node.ok("endpoint", json!({"name": "n", "filter": ["zeek/management/node", CONTROLLER[0]]}));
    node.ok("dial", json!({"endpoint": "n", "name": "n", "port": port}));
    let refused = node.ask("n", "management", "agent_standby", "s", json!({}));
    assert_eq!(refused[0]["success"], false);
    assert!(refused[0]["error"].as_str().unwrap().contains("request_users allows root"), "{refused}");
    node.ok("node_hello", json!({"peering": "n", "node": "w1"}));
    assert_eq!(root.answer("c", "management", "deploy", "d")[0]["success"], true);
    host.wait_state("w1", NodeState::Running);
    let asked = json!({"action": ["get_id_value", "x"]});
    root.begin("c", "management", "node_dispatch", "v", asked);
    let question = node.ok("node_dispatch", json!({"peering": "n"}));
    node.ok("node_answer", json!({"peering": "n", "node": "w1", "reqid": question["reqid"], "data": "1"}));
    assert_eq!(root.answer("c", "management", "node_dispatch", "v")[0]["data"], "1");
    // Of what the agent told others it heard nothing but what it was asked.
    let heard = node.ok("events", json!({"peering": "n"}));
    let heard: Vec<&str> = heard.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(!heard.iter().any(|event| event.contains("deploy_response") || event.contains("hello")), "{heard:?}");
    node.is_content("n");
    let status = host.status();
    let peer = status.peers.iter().find(|peer| peer.node.as_deref() == Some("w1"));
    let peer = peer.unwrap_or_else(|| panic!("{:?}", status.peers));
    assert_eq!((peer.uid, peer.may_ask, peer.subscribed.len()), (Some(user(NODES).uid), false, 0));
    let of_node = |row: &&RequestRow| row.source.peer.ends_with(&format!(" uid={}", user(NODES).uid));
    let rows = rejected(&host);
    let rows: Vec<&RequestRow> = rows.iter().filter(of_node).filter(|row| row.source.transport == "broker").collect();
    assert!(rows.len() == 1 && rows[0].error.as_ref().unwrap().contains("request_users"), "{rows:?}");
    assert_eq!((host.requests("s").len(), host.requests("d").len()), (0, 1));
    host.verify();
}

#[test]
fn a_controllers_port_that_somebody_else_listens_at_is_hung_up_on() {
    let Some(mut host) = host("a squatted port") else { return };
    let mut squatter = peers_as(STRANGER);
    squatter.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    let at = squatter.ok("listen", json!({"endpoint": "c"})).as_u64().unwrap();
    host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}"));
    let _agent = host.start();
    let problem = || host.status().controller.unwrap().problem;
    let uid = user(STRANGER).uid;
    eventually("the reason", || problem()?.contains(&format!("uid {uid} may not ask")).then_some(()));
    let failures = eventually("the agent to hang up", || {
        let failures = squatter.ok("failures", json!({"endpoint": "c"}));
        (!failures.as_array().unwrap().is_empty()).then_some(failures)
    });
    assert!(failures[0].as_str().unwrap().contains("closed") || failures[0].as_str().unwrap().contains("reset"));
    squatter.ok("stop_listening", json!({"endpoint": "c"}));

    // Nobody accepts: whose the port is cannot be known.
    let silent = TcpListener::bind(("127.0.0.1", u16::try_from(at).unwrap())).unwrap();
    eventually("the reason", || problem()?.contains("nobody has accepted the connection").then_some(()));
    drop(silent);
    let mut root = Peers::start();
    root.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    root.ok("listen", json!({"endpoint": "c", "port": at}));
    // It dials again after up to half a minute.
    root.ok("accepted", json!({"endpoint": "c", "name": "c", "patience": 60}));
    assert_eq!(root.ask("c", "management", "agent_welcome", "w", json!({}))[0]["success"], true);
    assert_eq!(host.status().peers[0].uid, Some(0));
}

/// Sends a whole conversation with a request in it, without waiting for a word, and closes; again and again, or once from the
/// port `source`, when it is told to go on. Everything that a server would need to act upon is in its buffer.
const HASTY: &str = r#"
import os, socket, struct, sys
sys.path.insert(0, os.getcwd())
from broker import wire
from broker.management import DIALECTS
uid, gid, port, count, source = map(int, sys.argv[1:6])
end = sys.argv[6]
os.setgroups([]); os.setgid(gid); os.setuid(uid)

# The smallest id leads the handshake, and need not know whom it leads.
own, topics = bytes(15) + b"\1", ["zeek/management/agent"]
handshake = [wire.hello(own), wire.version_select(own), wire.Message(wire.ORIGINATOR_SYN, filter=topics),
             wire.Message(wire.ORIGINATOR_ACK)]
request = DIALECTS["management"].request("agent_welcome", "hasty", {})
request = wire.data(own, DIALECTS["management"].agent_topic("a1"), request.value())
everything = b"".join(wire.frame(message.payload()) for message in [*handshake, request])
for number in range(count):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source:
        s.bind(("127.0.0.1", source))
    if end == "reset" or end == "both" and number % 2:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        s.connect(("127.0.0.1", port))
        if source:
            print("connected", flush=True)
            sys.stdin.readline()
        s.sendall(everything)
        heard = b""
        while end == "answered" and b"agent_welcome_response" not in heard:
            heard += s.recv(4096) or sys.exit(str(heard))
    except OSError:
        pass
    s.close()
"#;

/// How it ends: by a reset, in order, by turns, or in order when it has its answer.
fn hasty(name: &str, port: u16, count: usize, source: u16, end: &str) -> Child {
    let user = user(name);
    let numbers = [user.uid, user.gid, u32::from(port), u32::try_from(count).unwrap(), u32::from(source)];
    let numbers = numbers.map(|number| number.to_string());
    let args: Vec<&str> = ["-c", HASTY].into_iter().chain(numbers.iter().map(String::as_str)).chain([end]).collect();
    python(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_hasty_client_that_may_ask_is_served() {
    // What the two tests below send is understood when it comes from somebody else.
    let Some(host) = host("a hasty client") else { return };
    let _agent = host.start();
    let port = port(&host);
    let mut client = hasty("root", port, 1, free_port(), "answered");
    let mut word = [0; 10];
    client.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    drop(client.stdin.take());
    assert!(client.wait().unwrap().success());
    assert_eq!(host.requests("hasty").len(), 1);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_thousand_connections_that_close_at_once_are_nobodys() {
    let Some(host) = host("a thousand connections") else { return };
    let _agent = host.start();
    let port = port(&host);
    let clients: Vec<Child> = (0..4).map(|_| hasty(NOBODY, port, 250, 0, "both")).collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    // Whoever comes after them is served after them.
    assert_eq!(deploy_as(&host, "root", "after").code, 0);
    assert_eq!((host.requests("hasty").len(), taken(&host)), (0, 1));
    let rows = rejected(&host);
    assert!(!rows.is_empty() && rows.iter().all(|row| !row.source.peer.contains("uid=0")), "{rows:?}");
    println!("1000 connections, {} of them in the journal", rows.len());
    host.verify();
}

#[test]
fn a_closed_connection_is_not_taken_for_whoever_listens_at_its_port() {
    let Some(host) = host("a closed connection") else { return };
    let agent = host.start();
    let port = port(&host);
    for end in ["in order", "reset"] {
        // The agent is held up while its client connects, sends all there is to say, and is gone; root listens at its port.
        kill(agent.pid(), Signal::STOP, Some(&host.mark));
        let source = free_port();
        let mut client = hasty(NOBODY, port, 1, source, end);
        let mut word = [0; 10];
        client.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        let squatter = listener_beside(source);
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        kill(agent.pid(), Signal::CONT, Some(&host.mark));
        eventually("the refusal", || {
            let rows = rejected(&host);
            let of_it = rows.iter().find(|row| row.source.peer.contains(&format!("port={source}")))?;
            assert!(!of_it.source.peer.contains("uid="), "{of_it:?}");
            of_it.error.as_ref()?.contains("was closed before").then_some(())
        });
        drop(squatter);
    }
    assert_eq!(taken(&host), 0);
}

/// A listener of root's at a port that a connection has.
fn listener_beside(port: u16) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&listener, true).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    listen(&listener, 1).unwrap();
    listener
}

#[test]
fn all_of_loopback_and_the_hosts_own_address_are_known() {
    let Some(mut host) = host("the forms of loopback") else { return };
    // IPv4 clients come in IPv6's form there.
    host.set("ZCA_LISTEN", "[::]:0");
    let _agent = host.start();
    let port = port(&host);
    let own = own_address();
    let addresses = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"].into_iter().chain(own.as_deref());
    let mut peers =
        [("root", true), (NODES, true), (STRANGER, false)].map(|(name, served)| (name, served, peers_as(name)));
    for address in addresses {
        for (name, served, peers) in &mut peers {
            let (name, served) = (*name, *served);
            peers.ok("endpoint", json!({"name": address, "filter": CONTROLLER}));
            let order = json!({"endpoint": address, "name": address, "port": port, "host": address});
            let dialled = peers.order("dial", order);
            assert_eq!(dialled.is_ok(), served, "{name} at {address}: {dialled:?}");
        }
    }
    println!("own address: {own:?}");
}

/// Who is not at the very address that they connect to might be anybody, whatever the kernel knows: for them it takes a
/// certificate. A client of this host at one of its addresses that connects to another looks like one from elsewhere.
#[test]
fn who_comes_from_elsewhere_needs_a_certificate_or_an_open_door() {
    let Some(mut host) = host("somebody from elsewhere") else { return };
    let Some(own) = own_address() else {
        println!("NOT RUN: somebody from elsewhere needs an address that is not loopback");
        return;
    };
    let script = "import socket, sys\n\
                  s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), source_address=(sys.argv[2], 0))\n\
                  s.sendall(b'GET /v1/messages/json HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n'\n\
                  \x20         b'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n')\n\
                  print(s.recv(4096).decode())\n";
    let ask = |host: &Host| {
        let port = websocket(host).port().to_string();
        Said::of(python(&["-c", script, &port, &own])).stdout
    };
    let agent = host.start();
    let said = ask(&host);
    assert!(
        said.starts_with("HTTP/1.1 403 ") && said.contains("it is on another host, and shows no certificate"),
        "{said}"
    );
    assert!(said.contains("websocket_client_ca"), "what would help is said: {said}");
    let row = eventually("the refusal", || rejected(&host).pop());
    assert!(row.source.peer.starts_with(&format!("{own} port=")) && !row.source.peer.contains("uid="), "{row:?}");
    agent.kill();
    host.set("ZCA_WEBSOCKET_INSECURE", "true");
    let _agent = host.start();
    assert!(ask(&host).starts_with("HTTP/1.1 101 "));
}

/// Nodes that were started as somebody else than those that the settings speak of now.
#[test]
fn adopted_nodes_check_in_as_whoever_they_are() {
    let Some(mut host) = host("adopted nodes of another user") else { return };
    let agent = host.start();
    assert_eq!(deploy_as(&host, "root", "d").code, 0);
    let pids = host.pids();
    agent.kill();
    host.set("ZCA_NODE_USER", MEMBER).set("ZCA_REQUEST_USERS", "root");
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    for (name, served) in [(NODES, true), (MEMBER, true), (STRANGER, false)] {
        let mut peers = peers_as(name);
        let dialled = dial(&mut peers, "n", port(&host), &Value::Null);
        assert_eq!(dialled.is_ok(), served, "{name}: {dialled:?}");
        if served {
            assert_eq!(peers.ask("n", "management", "agent_welcome", name, json!({}))[0]["success"], false);
        }
    }
    let mut node = peers_as(NODES);
    dial(&mut node, "n", port(&host), &Value::Null).unwrap();
    node.ok("node_hello", json!({"peering": "n", "node": "w1"}));
    eventually("the node to be known", || {
        host.status().peers.iter().any(|peer| peer.node.as_deref() == Some("w1") && !peer.may_ask).then_some(())
    });
}

/// An address of this host that is not loopback, if it has one.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel only looks from where it would.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string())
}

#[test]
fn an_open_door_lets_in_everybody_and_is_warned_of() {
    let Some(mut host) = host("an open door") else { return };
    host.set("ZCA_BROKER_INSECURE", "true").set("ZCA_WEBSOCKET_INSECURE", "true");
    let _agent = host.start();
    let mut peers = peers_as(STRANGER);
    dial(&mut peers, "c", port(&host), &Value::Null).unwrap();
    assert_eq!(peers.ask("c", "management", "agent_welcome", "w", json!({}))[0]["success"], true);
    assert_eq!(deploy_as(&host, STRANGER, "d").code, 0);
    let status = host.status();
    for setting in ["broker_insecure", "websocket_insecure"] {
        let warned = status.warnings.iter().filter(|text| text.contains(setting)).count();
        let named = status.may_ask.iter().filter(|text| text.contains(setting)).count();
        assert_eq!((warned, named), (1, 1), "{setting}: {:?} {:?}", status.warnings, status.may_ask);
        assert!(host.read_log().contains(&format!("{setting} is set: every user of this host can deploy")));
    }
}

#[test]
fn no_connection_costs_a_look_through_proc() {
    let Some(host) = host("strace") else { return };
    let trace = host.dir.path().join("trace");
    let mut command = Command::new("strace");
    host.prepare(&mut command);
    command.args(["-f", "-qq", "-e", "trace=openat,open,socket,getdents64", "-o"]).arg(&trace);
    command.arg(&host.binary).args(host.run_args());
    let log = fs::File::create(host.dir.path().join("agent.log")).unwrap();
    let strace = Agent { child: command.stdout(Stdio::null()).stderr(log).spawn().expect("strace is installed") };
    let address = websocket(&host);
    eventually("the agent to serve", || TcpStream::connect(address).ok());
    let lines = || fs::read_to_string(&trace).unwrap_or_default();
    let asked = |text: &str| text.matches("NETLINK_SOCK_DIAG").count();
    // A start looks through /proc once, for what the run before left.
    eventually("the start to be over", || host.try_status().filter(|status| status.serving));
    // With what the agent asks of itself at its start.
    let before = eventually("the first connection to be asked about", || Some(lines()).filter(|text| asked(text) > 1));
    let (mut peers, port) = (Peers::start(), port(&host));
    for number in 0..20 {
        drop(TcpStream::connect(address).unwrap());
        dial(&mut peers, &format!("c{number}"), port, &Value::Null).unwrap();
    }
    let after = eventually("all to be asked about", || Some(lines()).filter(|text| asked(text) >= asked(&before) + 40));
    // A commit asks how long its own thread has waited for a CPU.
    let looks = |line: &&str| line.contains("\"/proc") && !line.contains("\"/proc/self/task/");
    let proc = |text: &str| text.lines().filter(looks).count();
    assert_eq!(asked(&after), asked(&before) + 40, "one question's socket for each connection");
    assert_eq!(proc(&after), proc(&before), "{after}");
    let agent = host.client().welcome().pid;
    kill(agent, Signal::TERM, Some(&host.mark));
    eventually("the traced agent's end", || (!crate::support::is_alive(agent)).then_some(()));
    strace.kill();
}

#[test]
fn whoever_cannot_be_listed_ends_the_start() {
    let host = Host::new();
    let said = host.run(&["run", "--simulate-nodes", "--request-users", "root,no-such-user-here"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("flag --request-users") && said.stderr.contains("no such user"), "{said:?}");
    let said = host.run(&["run", "--simulate-nodes", "--request-users", ","]);
    assert!(said.code == 2 && said.stderr.contains("nobody could ask"), "{said:?}");
    assert!(!Path::new(&host.state_dir()).exists());
}

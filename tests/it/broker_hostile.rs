//! Hostile Broker peers: messages cut at every byte, random mutations, lengths that lie, peers that never read, and
//! connections that stall. Memory stays bounded and nobody else is delayed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{CONTROLLER, host, port};
use crate::peers::Peers;
use crate::support::{AGENT, Agent, Host, PATIENCE, eventually};
use crate::websocket::peak_kib;

const MAGIC: [u8; 4] = *b"ZEEK";
/// Smaller than any id that an agent draws: this side leads the handshake.
const ID: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes(), payload].concat()
}

fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 128, "one byte holds it");
    [&[length], text.as_bytes()].concat()
}

/// hello, version_select, originator_syn, originator_ack: all that one side of a handshake says.
fn handshake(id: [u8; 16]) -> Vec<Vec<u8>> {
    vec![
        frame(&[&[6], MAGIC.as_slice(), &id, &[1, 1]].concat()),
        frame(&[&[8], MAGIC.as_slice(), &id, &[1]].concat()),
        frame(&[vec![10, 1], string("zeek/management/agent")].concat()),
        frame(&[12]),
    ]
}

/// An event of no arguments but a reqid, on the agent's topic.
fn request(id: [u8; 16], name: &str, reqid: &str) -> Vec<u8> {
    let count = |number: u64| [&[2], number.to_be_bytes().as_slice()].concat();
    let text = |text: &str| [vec![5], string(text)].concat();
    let topic = format!("zeek/management/agent/{AGENT}");
    let topic_length = u16::try_from(topic.len()).unwrap();
    let head = [id.as_slice(), &[0; 16], &[1, 0, 16], &topic_length.to_be_bytes(), topic.as_bytes()].concat();
    let event = [vec![0x0e, 2], text(name), vec![0x0e, 1], text(reqid)].concat();
    frame(&[head, vec![0x0e, 3], count(1), count(1), event].concat())
}

const WELCOME: &str = "Management::Agent::API::agent_welcome_request";

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says all of it and no more, and reads to the end. Being cut off meanwhile is as good.
fn say_and_leave(port: u16, bytes: &[u8]) {
    let mut stream = connect(port);
    let _ = stream.write_all(bytes);
    // The agent speaks first, once it knows whose the connection is: who closes their end before that is refused.
    stream.read_exact(&mut [0]).unwrap();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// An agent, its port, and a controller that behaves.
fn with_a_good_peer() -> (Host, Agent, u16, Peers) {
    let host = host();
    let agent = host.start();
    let port = port(&host);
    let mut peers = Peers::start();
    peers.controller("good", port);
    (host, agent, port, peers)
}

/// How long a good peer's request takes.
fn served(peers: &mut Peers, reqid: &str) -> Duration {
    let begun = Instant::now();
    let results = peers.ask("good", "management", "agent_welcome", reqid, json!({}));
    assert_eq!(results[0]["success"], true);
    begun.elapsed()
}

#[test]
fn what_is_cut_mutated_or_lies_about_its_length_costs_its_own_connection() {
    let (host, agent, port, mut peers) = with_a_good_peer();
    let before = peak_kib(agent.pid());

    let whole: Vec<u8> = [handshake(ID).concat(), request(ID, WELCOME, "whole")].concat();
    say_and_leave(port, &whole);
    eventually("the whole one to be taken", || (host.requests("whole").len() == 1).then_some(()));
    let cut: Vec<u8> = [handshake(ID).concat(), request(ID, WELCOME, "cut")].concat();
    for length in 0..cut.len() {
        say_and_leave(port, &cut[..length]);
    }
    assert!(host.requests("cut").is_empty());

    // Any byte, any value (xorshift64, Marsaglia 2003).
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice >> 1).unwrap() % sides
    };
    for _ in 0..1000 {
        let mut mutated = cut.clone();
        for _ in 0..=roll(4) {
            let at = roll(mutated.len());
            mutated[at] = u8::try_from(roll(256)).unwrap();
        }
        say_and_leave(port, &mutated);
    }

    // Lengths of up to 4 GiB, before and after the handshake; nested or counted beyond reason.
    let data = |payload: &[u8]| {
        let topic = b"zeek/management/node";
        frame(&[ID.as_slice(), &[0; 16], &[1, 0, 16, 0, 20], topic, payload].concat())
    };
    for bomb in [
        vec![0xff, 0xff, 0xff, 0xff],
        vec![0x7f, 0xff, 0xff, 0xfb, 6],
        data(&[0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        data(&[0x05, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        data(&[0x0e, 1].repeat(100_000)),
    ] {
        say_and_leave(port, &bomb);
        say_and_leave(port, &[handshake(ID).concat(), bomb].concat());
    }

    let took = served(&mut peers, "after");
    let rows = host.rows(zeek_cluster_agent::api::audit::Kind::Request).len();
    let after = peak_kib(agent.pid());
    println!("peak memory {before} KiB before, {after} KiB after; a good peer was answered in {took:?}; {rows} rows");
    assert!(after < before + (64 << 10), "memory grew");
    assert!(host.nodes().is_empty() && host.status().peers.len() == 1);
    host.verify();
}

#[test]
fn connections_that_stall_in_the_handshake_delay_nobody() {
    let (host, agent, port, mut peers) = with_a_good_peer();
    let before = peak_kib(agent.pid());
    let parts = handshake(ID);
    let stalled: Vec<TcpStream> = (0..500)
        .map(|number| {
            let mut stream = connect(port);
            // Some say nothing, some a part.
            let said = parts[0].get(..number % parts[0].len()).unwrap();
            // It may have lost its place to those that came after it.
            let _ = stream.write_all(said);
            stream
        })
        .collect();
    let took = served(&mut peers, "beside");
    peers.controller("new", port);
    let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    println!("beside {} stalled connections: answered in {took:?}, {open} descriptors open", stalled.len());
    println!("peak memory {before} KiB before, {} KiB after", peak_kib(agent.pid()));
    assert!(open < 400, "{open} descriptors");
    // Each is cut off after its ten seconds, without its doing anything.
    let begun = Instant::now();
    for mut stream in stalled {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    println!("the last was cut off after {:?}", begun.elapsed());
    assert_eq!(host.status().peers.len(), 2);
}

#[test]
fn a_peer_that_never_reads_is_cut_off() {
    let (host, agent, port, mut peers) = with_a_good_peer();
    peers.ok("endpoint", json!({"name": "deaf", "filter": CONTROLLER}));
    peers.ok("dial", json!({"endpoint": "deaf", "name": "deaf", "port": port, "deaf": true}));
    let before = peak_kib(agent.pid());
    // Answers of some hundred kilobytes: each node of another instance that has a problem is named.
    let node = |number: usize| json!({"name": format!("{}-{number}", "n".repeat(100)), "instance": "nowhere", "role": "WORKER"});
    let nodes: Vec<Value> = (0..1000).map(node).collect();
    let order = json!({"config": {"id": "c1", "instances": [{"name": AGENT}], "nodes": nodes}});
    let mut answers = 0;
    while !host.read_log().contains("does not read what it is sent") {
        peers.begin("good", "management", "deploy", "large", order.clone());
        // As long as the good one is served, what is queued for the deaf one grows.
        served(&mut peers, &format!("after-{answers}"));
        answers += 1;
        assert!(answers < 1000);
    }
    println!("cut off after {answers} answers; peak memory {before} KiB before, {} KiB after", peak_kib(agent.pid()));
    eventually("it to be gone", || (host.status().peers.len() == 1).then_some(()));
}

//! Peers that send the largest requests there are, as fast as they are taken, over each transport: they are served in turn or refused,
//! and nobody else waits for them (P10, P18).
//!
//! `ZCA_TEST_FLOOD_SECS` sets for how long; the latencies are printed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use zeek_cluster_agent::api::audit::{Kind, Row};
use zeek_cluster_agent::api::configuration::{Configuration, ScriptOption};
use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};

use crate::broker;
use crate::raw_peer::RawPeer;
use crate::support::{Agent, Host, cluster};
use crate::websocket::{BOTH, Ws, address};

const PEERS: usize = 16;
/// Of requests that one user may add to the journal within a minute, and at once.
const GROWTH: u64 = 64 << 20;
const RSS: u64 = 400 << 20;

/// A valid request near the limit: one node, with a great many options.
fn large(number: usize) -> Request {
    let mut config: Configuration = cluster(&[("w1", "")]);
    config.id = format!("flood-{number}");
    let filler = "x".repeat(1_000);
    let option = |index: usize| ScriptOption { name: format!("Flood::option_{index:05}"), value: filler.clone() };
    for node in &mut config.nodes {
        node.options = (0..3_700).map(option).collect();
    }
    Request::Deploy { config, force: true, how: Box::default() }
}

fn rss(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |text| text.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10)
}

fn bytes_on_disk(host: &Host) -> u64 {
    host.status().journal.bytes_on_disk
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Control,
    WebSocket,
    Broker,
}

/// One connection.
enum Peer {
    Control(Client),
    WebSocket(Ws),
    Broker(RawPeer),
}

impl Peer {
    fn connect(host: &Host, over: Over) -> Self {
        match over {
            Over::Control => Self::Control(host.client()),
            Over::WebSocket => Self::WebSocket(Ws::connect(address(host, 1), &BOTH)),
            Over::Broker => Self::Broker(RawPeer::connect(broker::port(host))),
        }
    }

    /// Whether it was answered, and not refused.
    fn ask(&mut self, reqid: &str, request: Request) -> bool {
        let response = match self {
            Self::Control(client) => {
                match client.request(reqid, request, Dialect::Management, None, within_ms(60_000)).unwrap() {
                    Answer::Response(_) => return true,
                    Answer::Refused(reason) => {
                        assert!(reason.starts_with("busy: "), "{reason}");
                        return false;
                    }
                }
            }
            Self::WebSocket(ws) => {
                ws.ask(Dialect::Management, reqid, &request);
                ws.response(reqid).2
            }
            Self::Broker(peer) => {
                peer.ask(reqid, &request);
                peer.response(reqid).1
            }
        };
        !is_refusal(&response)
    }
}

/// Over Broker and WebSocket that is a response, too.
fn is_refusal(response: &Response) -> bool {
    response.results.iter().any(|one| one.error.as_ref().is_some_and(|error| error.starts_with("busy: ")))
}

/// What a flood came to.
#[derive(Default)]
struct Flooded {
    answered: BTreeSet<String>,
    refused: usize,
}

/// Asks for the largest things until it is over.
fn flood(host: &Host, over: Over, peer: usize, is_over: &AtomicBool) -> Flooded {
    let mut flooded = Flooded::default();
    let mut connection = Peer::connect(host, over);
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let reqid = format!("flood-{peer}-{number}");
        match connection.ask(&reqid, large(peer * 1_000 + number)) {
            true => _ = flooded.answered.insert(reqid),
            false => flooded.refused += 1,
        }
    }
    flooded
}

/// How long each question of somebody else took, from asking to its answer.
fn ask_now_and_then(host: &Host, over: Over, lasting: Duration) -> Vec<Duration> {
    let begun = Instant::now();
    let (mut waits, mut connection) = (Vec::new(), Peer::connect(host, over));
    for number in 0.. {
        if begun.elapsed() >= lasting {
            break;
        }
        let asked = Instant::now();
        assert!(connection.ask(&format!("other-{over:?}-{number}"), Request::AgentWelcome {}));
        waits.push(asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    waits.sort_unstable();
    waits
}

fn latencies(waits: &[Duration]) -> String {
    let ms = |at: usize| waits[at].as_millis();
    format!("median {} ms, longest {} ms of {}", ms(waits.len() / 2), ms(waits.len() - 1), waits.len())
}

fn a_flood_is_bounded(over: Over) {
    let lasting = std::env::var("ZCA_TEST_FLOOD_SECS").map_or(4, |text| text.parse().unwrap());
    let lasting = Duration::from_secs(lasting);
    let mut host = broker::host();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0");
    host.set("ZCA_REQUEST_TIMEOUT", "2s").set("ZCA_READY_TIMEOUT", "2s");
    let mut agent = host.start();
    let before = bytes_on_disk(&host);
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let (flooded, beside, control) = std::thread::scope(|scope| {
        let (host, is_over) = (&host, &is_over);
        let floods: Vec<_> = (0..PEERS).map(|peer| scope.spawn(move || flood(host, over, peer, is_over))).collect();
        // Somebody else, meanwhile: over the same, and over the control socket, where the state is shown too.
        let beside = scope.spawn(move || ask_now_and_then(host, over, lasting));
        let shown = scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                host.status();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let control = ask_now_and_then(host, Over::Control, lasting);
        let beside = beside.join().unwrap();
        is_over.store(true, Ordering::Relaxed);
        shown.join().unwrap();
        let flooded: Vec<Flooded> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        (flooded, beside, control)
    });
    let (rss, grown) = (rss(&agent), bytes_on_disk(&host).saturating_sub(before));
    let answered: BTreeSet<String> = flooded.iter().flat_map(|one| one.answered.iter().cloned()).collect();
    let refused: usize = flooded.iter().map(|one| one.refused).sum();
    println!(
        "{PEERS} peers over {over:?} for {:.0} s: {} answered, {refused} refused; RSS at most {} MiB, {} MiB on disk; another peer: \
         {}; control socket: {}",
        begun.elapsed().as_secs_f64(),
        answered.len(),
        rss >> 20,
        grown >> 20,
        latencies(&beside),
        latencies(&control)
    );
    assert!(!answered.is_empty());
    assert_eq!(agent.child.try_wait().unwrap(), None, "{}", host.read_log());
    assert!(rss < RSS, "{} MiB", rss >> 20);
    let minutes = begun.elapsed().as_secs().div_ceil(60);
    // What is stored of a request is no more than it has; its node's record has it once more, until the next.
    assert!(grown < GROWTH * (1 + minutes) * 2, "{} MiB", grown >> 20);
    let rows = host.rows(Kind::Request).into_iter().filter_map(|row| match row {
        Row::Request(row) => (row.completed_at.is_some() || row.deadline_at.is_some()).then_some(row.reqid),
        Row::Event(_) | Row::Unreadable(_) => None,
    });
    let dumped: BTreeSet<String> = rows.collect();
    let missing: Vec<&String> = answered.difference(&dumped).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // There is a lot to be read.
    let report = host.client().verify(None, within_ms(120_000)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_flood_over_the_control_socket_is_bounded_and_keeps_nobody_waiting() {
    a_flood_is_bounded(Over::Control);
}

#[test]
fn a_flood_over_websocket_is_bounded_and_keeps_nobody_waiting() {
    a_flood_is_bounded(Over::WebSocket);
}

#[test]
fn a_flood_over_broker_is_bounded_and_keeps_nobody_waiting() {
    a_flood_is_bounded(Over::Broker);
}

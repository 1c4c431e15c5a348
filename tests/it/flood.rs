//! Peers that send the largest requests there are, as fast as they are taken: they are served in turn or refused, and nobody else
//! waits for them (P10, P18).
//!
//! `ZCA_TEST_FLOOD_SECS` sets for how long; the latencies are printed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use zeek_cluster_agent::api::audit::{Kind, Row};
use zeek_cluster_agent::api::configuration::{Configuration, ScriptOption};
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::control::client::{Answer, within_ms};

use crate::support::{Agent, Host, cluster};

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
    Request::Deploy { config, force: true }
}

fn rss(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |text| text.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10)
}

fn bytes_on_disk(host: &Host) -> u64 {
    host.status().journal.bytes_on_disk
}

#[test]
fn a_flood_of_large_requests_is_bounded_and_keeps_nobody_waiting() {
    let lasting = std::env::var("ZCA_TEST_FLOOD_SECS").map_or(6, |text| text.parse().unwrap());
    let lasting = Duration::from_secs(lasting);
    let mut host = Host::new();
    host.set("ZCA_REQUEST_TIMEOUT", "2s").set("ZCA_READY_TIMEOUT", "2s");
    let agent = host.start();
    let before = bytes_on_disk(&host);
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let (answered, refused, mut waits) = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..PEERS)
            .map(|peer| {
                let (host, is_over) = (&host, &is_over);
                scope.spawn(move || {
                    let (mut answered, mut refused) = (BTreeSet::new(), 0);
                    let mut client = host.client();
                    for number in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let reqid = format!("flood-{peer}-{number}");
                        let request = large(peer * 1_000 + number);
                        match client.request(&reqid, request, Dialect::Management, None, within_ms(60_000)).unwrap() {
                            Answer::Response(_) => _ = answered.insert(reqid),
                            Answer::Refused(reason) => {
                                assert!(reason.starts_with("busy: "), "{reason}");
                                refused += 1;
                            }
                        }
                    }
                    (answered, refused)
                })
            })
            .collect();
        // Somebody else, meanwhile.
        let mut waits = Vec::new();
        for number in 0.. {
            if begun.elapsed() >= lasting {
                break;
            }
            let asked = Instant::now();
            let said = host.ask(&format!("other-{number}"), Request::AgentWelcome {});
            assert!(said.success());
            host.status();
            waits.push(asked.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        is_over.store(true, Ordering::Relaxed);
        let (mut answered, mut refused) = (BTreeSet::new(), 0);
        for flood in floods {
            let (more, turned_away) = flood.join().unwrap();
            answered.extend(more);
            refused += turned_away;
        }
        (answered, refused, waits)
    });
    waits.sort_unstable();
    let (rss, grown) = (rss(&agent), bytes_on_disk(&host).saturating_sub(before));
    println!(
        "{PEERS} peers for {:.0} s: {} answered, {refused} refused; RSS at most {} MiB, {} MiB on disk; another peer's welcome and \
         status: median {} ms, longest {} ms of {}",
        begun.elapsed().as_secs_f64(),
        answered.len(),
        rss >> 20,
        grown >> 20,
        waits[waits.len() / 2].as_millis(),
        waits[waits.len() - 1].as_millis(),
        waits.len()
    );
    assert!(!answered.is_empty());
    assert!(rss < RSS, "{} MiB", rss >> 20);
    let minutes = begun.elapsed().as_secs().div_ceil(60);
    // What is stored of a request is no more than it has; its node's record has it once more, until the next.
    assert!(grown < GROWTH * (1 + minutes) * 2, "{} MiB", grown >> 20);
    let rows = host.rows(Kind::Request).into_iter().filter_map(|row| match row {
        Row::Request(row) => row.completed_at.is_some().then_some(row.reqid),
        Row::Event(_) | Row::Unreadable(_) => None,
    });
    let dumped: BTreeSet<String> = rows.collect();
    let missing: Vec<&String> = answered.difference(&dumped).collect();
    assert!(missing.is_empty(), "{missing:?}");
    host.verify();
}

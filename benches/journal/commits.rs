//! Requests a second, their latency, and what each costs the disk: our journal and agent beside other ways.
//!
//! A producer keeps so many items in flight; a committer takes whatever has gathered, at most as many as the agent takes
//! at once, commits it, and acknowledges. So batches form as they do in the agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::stores::{self, Item, STORES, Store};
use crate::support::agent::{self, Agent, Until, change, flood, welcome};
use crate::support::figures::{self, Sample, median};

/// The flag of a run of this program that is only counted: store, in flight, how many items, directory.
pub const COUNTED: &str = "--counted";

const ROUNDS: usize = 5;
/// How long each measurement of a round takes.
const SLICE: Duration = Duration::from_millis(400);
const IN_FLIGHT: [usize; 3] = [1, 8, 64];
/// What the agent takes at once.
const BATCH: usize = 256;
const AGENT: &str = "the whole agent";
const DUPLICATES: &str = "its duplicates";
const CHANGES: &str = "its changes";
/// Items of a counted run, for each in flight.
const COUNTED_ITEMS: usize = 200;

#[derive(Debug)]
struct Measured {
    sample: Sample,
    bytes: f64,
}

pub fn run(scratch: &Path) -> Result<()> {
    let agent = Agent::start(&scratch.join("agent"))?;
    let mut client = agent.client()?;
    let mut stores = BTreeMap::new();
    for name in STORES {
        stores.insert(name, stores::open(name, &scratch.join(name))?);
    }
    let mut fresh = (0_u64..).map(|number| format!("bench-request-{number:012}"));
    let known = "bench-known".to_owned();
    let mut changes = (0_u64..).map(|number| format!("bench-change-{number:012}"));
    let mut kept = std::iter::repeat(known.clone());
    let warm = Until::Lasted(SLICE);
    flood(&mut client, &mut std::iter::once(known).chain(&mut fresh), welcome, 8, warm)?;
    for store in stores.values_mut() {
        pump(store.as_mut(), &mut fresh, 8, warm)?;
    }

    let mut all: BTreeMap<(usize, &str), Vec<Measured>> = BTreeMap::new();
    let slice = Until::Lasted(SLICE);
    for _ in 0..ROUNDS {
        for window in IN_FLIGHT {
            let mut note = |name, pid, measure: &mut dyn FnMut() -> Result<Sample>| -> Result<()> {
                let before = figures::written(pid)?;
                let sample = measure()?;
                let bytes = (figures::written(pid)? - before) / sample.count.max(1) as f64;
                all.entry((window, name)).or_default().push(Measured { sample, bytes });
                Ok(())
            };
            for (name, store) in &mut stores {
                note(*name, std::process::id(), &mut || pump(store.as_mut(), &mut fresh, window, slice))?;
            }
            note(AGENT, agent.pid, &mut || flood(&mut client, &mut fresh, welcome, window, slice))?;
            note(DUPLICATES, agent.pid, &mut || flood(&mut client, &mut kept, welcome, window, slice))?;
            note(CHANGES, agent.pid, &mut || flood(&mut client, &mut changes, change, window, slice))?;
        }
    }
    drop((client, stores));
    agent.end()?;
    let syncs = count_syncs(scratch)?;

    println!(
        "\nrequests made durable (median of {ROUNDS} interleaved rounds of {SLICE:?}; one producer; at most {BATCH} a batch)"
    );
    println!("  x: against raw append of each record with an fdatasync of its own, same number in flight");
    println!("  syncs: fsync, fdatasync and msync for each request, in a run of its own under strace");
    println!("  bytes: /proc/PID/io write_bytes (whole pages) for each request");
    println!("  welcome requests, which change nothing; the changes are configurations without nodes");
    println!("  a duplicate's answer rests on a sync of long ago; those it shows are of the duplicates' own rows");
    println!(
        "{:>9}  {:<24} {:>10} {:>6} {:>9} {:>9} {:>7} {:>8}",
        "in flight", "", "per second", "x", "p50 ms", "p99 ms", "syncs", "bytes"
    );
    for window in IN_FLIGHT {
        let figure = |name: &str, part: fn(&Measured) -> f64| {
            median(all.get(&(window, name)).into_iter().flatten().map(part).collect())
        };
        let rate = |name| figure(name, |one| one.sample.per_second);
        for name in STORES.into_iter().chain([AGENT, DUPLICATES, CHANGES]) {
            println!(
                "{window:>9}  {name:<24} {:>10.0} {:>6.2} {:>9.3} {:>9.3} {:>7} {:>8.0}",
                rate(name),
                rate(name) / rate(STORES[0]),
                figure(name, |one| one.sample.p50_ms),
                figure(name, |one| one.sample.p99_ms),
                syncs.get(&(window, name)).map_or_else(|| "-".to_owned(), |syncs| format!("{syncs:.3}")),
                figure(name, |one| one.bytes),
            );
        }
        println!(
            "{:>9}  agent to journal alone {:.0} %, journal to redb {:.0} %, duplicate to new {:.1} x",
            "",
            100.0 * rate(AGENT) / rate("our journal"),
            100.0 * rate("our journal") / rate("redb"),
            rate(DUPLICATES) / rate(AGENT),
        );
    }
    Ok(())
}

/// Keeps `window` items in flight between a producer and the committer.
fn pump(
    store: &mut (dyn Store + Send),
    reqids: &mut impl Iterator<Item = String>,
    window: usize,
    until: Until,
) -> Result<Sample> {
    let (items, queued) = mpsc::sync_channel::<Item>(window);
    let (acks, acked) = mpsc::sync_channel::<usize>(window);
    thread::scope(|scope| {
        let committer = scope.spawn(move || -> Result<()> {
            while let Ok(first) = queued.recv() {
                let mut batch = vec![first];
                batch.extend(queued.try_iter().take(BATCH - 1));
                store.commit(&batch)?;
                if acks.send(batch.len()).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let begun = Instant::now();
        let mut flying = std::collections::VecDeque::new();
        let mut took = Vec::new();
        let mut sent = 0;
        let produced = (|| -> Result<()> {
            loop {
                while flying.len() < window && until.goes_on(begun, sent) {
                    let item = Item::welcome(reqids.next().context("no more reqids")?);
                    flying.push_back(Instant::now());
                    items.send(item).map_err(|_| anyhow!("the committer is gone"))?;
                    sent += 1;
                }
                if flying.is_empty() {
                    return Ok(());
                }
                let count = acked.recv().context("the committer is gone")?;
                took.extend(flying.drain(..count).map(|at: Instant| at.elapsed()));
            }
        })();
        let elapsed = begun.elapsed();
        drop((items, acked));
        committer.join().map_err(|_| anyhow!("the committer panicked"))??;
        produced?;
        Sample::of(took, elapsed)
    })
}

/// Syncs for each request. Nothing where there is no strace.
fn count_syncs(scratch: &Path) -> Result<BTreeMap<(usize, &'static str), f64>> {
    let mut counted = BTreeMap::new();
    if Command::new("strace").arg("-V").output().is_err() {
        println!("\nsyncs are not counted: strace is not installed");
        return Ok(counted);
    }
    let trace = scratch.join("trace");
    let program = std::env::current_exe()?;
    for window in IN_FLIGHT {
        let items = COUNTED_ITEMS * window;
        for (number, name) in STORES.into_iter().enumerate() {
            let count = |items: usize| -> Result<f64> {
                let dir = scratch.join(format!("counted-{number}-{window}-{items}"));
                let done = Command::new("strace")
                    .args(agent::STRACE)
                    .arg("-o")
                    .arg(&trace)
                    .arg(&program)
                    .args([COUNTED, name, &window.to_string(), &items.to_string()])
                    .arg(&dir)
                    .output()?;
                ensure!(done.status.success(), "counting {name}: {}", String::from_utf8_lossy(&done.stderr));
                Ok(agent::syncs(&trace)? as f64)
            };
            // Less what opening and closing take.
            let syncs = count(items)? - count(0)?;
            counted.insert((window, name), syncs / items as f64);
        }
        let agent = Agent::start_traced(&scratch.join(format!("counted-agent-{window}")), &trace)?;
        let mut client = agent.client()?;
        let mut fresh = (0_u64..).map(|number| format!("bench-request-{number:012}"));
        let mut kept = std::iter::repeat("bench-request-000000000000".to_owned());
        let mut changes = (0_u64..).map(|number| format!("bench-change-{number:012}"));
        let mut count = |name, flood: &mut dyn FnMut() -> Result<Sample>| -> Result<()> {
            let before = agent::syncs(&trace)?;
            flood()?;
            counted.insert((window, name), (agent::syncs(&trace)? - before) as f64 / items as f64);
            Ok(())
        };
        let until = Until::Sent(items);
        count(AGENT, &mut || flood(&mut client, &mut fresh, welcome, window, until))?;
        count(DUPLICATES, &mut || flood(&mut client, &mut kept, welcome, window, until))?;
        count(CHANGES, &mut || flood(&mut client, &mut changes, change, window, until))?;
        drop(client);
        agent.end()?;
    }
    Ok(counted)
}

/// A run that is only counted.
pub fn counted(arguments: &[String]) -> Result<()> {
    let [name, window, items, dir] = arguments else { anyhow::bail!("{COUNTED} store in-flight items directory") };
    let mut store = stores::open(name, Path::new(dir))?;
    let mut fresh = (0_u64..).map(|number| format!("bench-request-{number:012}"));
    pump(store.as_mut(), &mut fresh, window.parse()?, Until::Sent(items.parse()?))?;
    Ok(())
}

//! What a long history costs: opening, the first answer, memory, dump and verify; the dump beside sqlite3's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zeek_cluster_agent::control::client::within_ms;

use crate::stores::{Item, Ours, Store};
use crate::support::agent::{Agent, Until, flood, welcome};
use crate::support::figures::{median, memory_mib, mib, print_load, size};

const LENGTHS: [usize; 2] = [10_000, 100_000];
const MILLION: usize = 1_000_000;
const BATCH: usize = 256;
/// How often each command is run.
const RUNS: usize = 3;

pub fn run(scratch: &Path, million: bool) -> Result<()> {
    println!("\na long history (welcome requests; commands: median of {RUNS} runs, output to /dev/null)");
    for length in LENGTHS.into_iter().chain(million.then_some(MILLION)) {
        one(&scratch.join(format!("history-{length}")), length)?;
    }
    Ok(())
}

fn one(dir: &Path, length: usize) -> Result<()> {
    let state = dir.join("state");
    fs::create_dir_all(&state)?;
    let begun = Instant::now();
    let mut ours = Ours::open(&state)?;
    let mut number = 0;
    while number < length {
        let items: Vec<Item> =
            (number..length.min(number + BATCH)).map(|n| Item::welcome(format!("bench-request-{n:012}"))).collect();
        ours.commit(&items)?;
        number += items.len();
    }
    drop(ours);
    print_load()?;
    println!("{length} requests, written in {:.1} s", begun.elapsed().as_secs_f64());
    println!("  on disk: {:.1} MiB", mib(size(&state)? as f64));

    // Closed by its writer; then killed; each time opened by an agent.
    let mut agent = Agent::start(dir)?;
    for how in ["closed in order", "killed with SIGKILL"] {
        let mut client = agent.client()?;
        let open_ms = client.status(within_ms(60_000))?.journal.open_ms;
        let reqid = format!("first after {how}");
        let first = flood(&mut client, &mut std::iter::once(reqid), welcome, 1, Until::Sent(1))?;
        println!(
            "  {how}: journal open {open_ms:.0} ms, spawn to first served status {:.0} ms, first answer {:.1} ms, RSS \
             {:.0} MiB",
            agent.served_after.as_secs_f64() * 1e3,
            first.p50_ms,
            memory_mib(agent.pid, "VmRSS:")?
        );
        drop(client);
        agent.kill()?;
        agent = Agent::start(dir)?;
    }
    let rows = length as f64;
    let measure = |what: &str, args: &[&str]| -> Result<Duration> {
        let took = (0..RUNS).map(|_| agent.run(args)).collect::<Result<Vec<_>>>()?;
        let took = Duration::from_secs_f64(median(took.iter().map(Duration::as_secs_f64).collect()));
        println!(
            "  {what}: {:.0} rows/s ({:.2} s), agent's RSS {:.0} MiB, most so far {:.0} MiB",
            rows / took.as_secs_f64(),
            took.as_secs_f64(),
            memory_mib(agent.pid, "VmRSS:")?,
            memory_mib(agent.pid, "VmHWM:")?
        );
        Ok(took)
    };
    let dump = measure("journal dump, json, through the agent", &["journal", "dump", "--format", "json"])?;
    measure("journal dump, csv, through the agent", &["journal", "dump", "--format", "csv"])?;
    for (what, command) in [
        ("journal verify, through the agent", "verify"),
        ("journal stats, through the agent", "stats"),
        ("journal verify, once more", "verify"),
    ] {
        measure(what, &["journal", command])?;
    }
    beside_sqlite(&agent, dir, dump)?;
    agent.end()
}

/// The rows of the dump as a table of SQLite's, printed by sqlite3.
fn beside_sqlite(agent: &Agent, dir: &Path, ours: Duration) -> Result<()> {
    let dump = dir.join("dump.json");
    let done = crate::support::agent::command(&agent.dir, crate::support::agent::BINARY)
        .args(["journal", "dump", "--format", "json"])
        .stdout(fs::File::create(&dump)?)
        .status()?;
    ensure!(done.success(), "journal dump failed");
    let database = dir.join("dump.sqlite");
    let rows = fill(&database, &fs::read_to_string(&dump)?)?;
    let mut took = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let mut command = Command::new("sqlite3");
        command.arg("-json").arg(&database).arg("SELECT * FROM rows").stdout(Stdio::null());
        match command.status() {
            Ok(status) => ensure!(status.success(), "sqlite3 failed"),
            Err(error) => {
                println!("  sqlite3 -json: not measured, sqlite3 does not run ({error})");
                return Ok(());
            }
        }
        took.push(begun.elapsed().as_secs_f64());
    }
    let theirs = median(took);
    println!(
        "  sqlite3 -json over the same rows: {:.0} rows/s ({theirs:.2} s); journal dump takes {:.2} times as long",
        rows as f64 / theirs,
        ours.as_secs_f64() / theirs
    );
    Ok(())
}

fn fill(database: &Path, dump: &str) -> Result<usize> {
    const COLUMNS: [&str; 14] = [
        "seq",
        "reqid",
        "event",
        "dialect",
        "source",
        "received_at",
        "state",
        "attempts",
        "duplicates",
        "digest",
        "request",
        "completed_at",
        "duration_ms",
        "response",
    ];
    let mut connection = rusqlite::Connection::open(database)?;
    connection.execute_batch(&format!("CREATE TABLE rows ({})", COLUMNS.join(", ")))?;
    let transaction = connection.transaction()?;
    let mut rows = 0;
    {
        let places = ["?"; COLUMNS.len()].join(", ");
        let mut insert = transaction.prepare(&format!("INSERT INTO rows VALUES ({places})"))?;
        for line in dump.lines() {
            let row: serde_json::Value = serde_json::from_str(line)?;
            let values = COLUMNS.map(|column| match row.get(column) {
                Some(serde_json::Value::String(text)) => text.clone().into(),
                Some(serde_json::Value::Number(number)) => match number.as_i64() {
                    Some(number) => number.into(),
                    None => number.as_f64().unwrap_or(f64::NAN).into(),
                },
                None | Some(serde_json::Value::Null) => rusqlite::types::Value::Null,
                Some(nested) => nested.to_string().into(),
            });
            insert.execute(rusqlite::params_from_iter(values)).context("a row does not fit")?;
            rows += 1;
        }
    }
    transaction.commit()?;
    Ok(rows)
}

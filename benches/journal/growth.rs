//! What the files come to when far more is written than kept: half a million requests, of which ten thousand stay.

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use zeek_cluster_agent::control::client::{Error, within_ms};

use crate::support::agent::{Agent, Until, command, flood, welcome};
use crate::support::figures::{mib, print_load};

const REQUESTS: usize = 500_000;
const KEPT: usize = 10_000;
/// The files and what they hold are measured after each so many requests.
const STEP: usize = 10_000;
const TOLD_EVERY: usize = 100_000;
const IN_FLIGHT: usize = 64;

/// Files in bytes, and how many times as large they are as what they hold.
#[derive(Debug, Clone, Copy)]
struct Measured {
    size: f64,
    live: f64,
}

impl Measured {
    fn times(self) -> f64 {
        self.size / self.live
    }
}

pub fn run(scratch: &Path) -> Result<()> {
    println!(
        "\ngrowth: {REQUESTS} welcome requests through the agent, {IN_FLIGHT} in flight, retention of {KEPT} requests"
    );
    print_load()?;
    let dir = scratch.join("growth");
    let mut ours = command(&dir, crate::support::agent::BINARY);
    ours.env("ZCA_RETENTION_REQUESTS", KEPT.to_string());
    let agent = Agent::start_with(&dir, ours)?;
    let mut client = agent.client()?;
    let mut fresh = (0_u64..).map(|number| format!("bench-request-{number:012}"));
    let begun = Instant::now();
    let mut all = Vec::new();
    for sent in (STEP..=REQUESTS).step_by(STEP) {
        flood(&mut client, &mut fresh, welcome, IN_FLIGHT, Until::Sent(STEP))?;
        let stats = client.stats(within_ms(60_000))?;
        let live = stats.bytes_live.context("the journal is damaged")? as f64;
        let now = Measured { size: stats.bytes_on_disk as f64, live };
        all.push(now);
        if sent % TOLD_EVERY == 0 {
            println!(
                "  after {sent:>6}: {:>6.1} MiB on disk, {:>5.1} MiB live ({:.1} times), {:.0} s",
                mib(now.size),
                mib(now.live),
                now.times(),
                begun.elapsed().as_secs_f64()
            );
        }
    }
    let most = |part: fn(Measured) -> f64| all.iter().copied().map(part).fold(0.0, f64::max);
    println!(
        "  at most {:.1} MiB on disk, and {:.1} times what is live",
        mib(most(|one| one.size)),
        most(Measured::times)
    );
    let report = loop {
        match client.compact(true, within_ms(60_000)) {
            // Retention's own is under way.
            Err(Error::Agent { message, .. }) if message.contains("already") => thread::yield_now(),
            done => break done?,
        }
    };
    println!(
        "  `journal compact --force` under the agent: {:.1} MiB to {:.1} MiB in {:.0} ms",
        mib(report.bytes_before as f64),
        mib(report.bytes_after as f64),
        report.ms
    );
    let compactions = std::fs::read_to_string(dir.join("agent.log"))?.matches("the journal takes").count() / 2;
    println!("  compactions in all: {compactions}");
    drop(client);
    agent.end()
}

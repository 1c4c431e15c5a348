//! `cargo bench --bench agent`: what the agent costs, measured through the real binary.
//!
//! Requests against the disk's own limit (write and fdatasync, in the same rounds, on the same file system), then what
//! a host full of nodes costs: start, adoption, memory of the shims, their wake-ups. It prints what it measured and what
//! that is compared with; what it prints is about this machine at this moment. Everything it starts it ends, and its
//! directory is removed. With `-- --beside ADDR:PORT NAME` it measures the agent beside another one, see [`beside`].

#[path = "agent/beside.rs"]
mod beside;
#[allow(dead_code, reason = "shared by the benchmarks, of which each needs a part")]
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::api::report::StatusReport;
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::cluster_file;
use zeek_cluster_agent::control::client::{Client, within_ms};

use crate::support::agent::{BINARY, NAME, Until, flood};
use crate::support::figures::{Sample, field, median, ms};

/// Rounds of everything that is measured against the disk; results are medians.
const ROUNDS: usize = 5;
/// How long each measurement of a round takes.
const SLICE: Duration = Duration::from_millis(400);
const IN_FLIGHT: [usize; 3] = [1, 8, 64];
/// What the raw writer writes for each request: about as much as a welcome request is in the journal.
const RAW_RECORD: usize = 512;
/// The file that is overwritten: its blocks are there already, so a sync has no length or extents to write.
const RAW_SPACE: usize = 16 << 20;
/// How many nodes a host has, to see what grows with them; `ZCA_BENCH_NODES`, numbers with commas, has others.
const NODES: [usize; 3] = [100, 1_000, 4_096];
/// How often the agent is killed and started again over running nodes.
const RESTARTS: usize = 3;
const REST: Duration = Duration::from_secs(5);
/// For whatever has to happen, on a slow and busy machine, and so much more for each node.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_FOR_A_NODE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == "--beside") else {
        return support::main("agent", || support::in_scratch(run));
    };
    support::main("agent", || {
        let given = (arguments.get(at + 1), arguments.get(at + 2));
        let (Some(address), Some(name)) = given else { bail!("--beside needs ADDR:PORT and the agent's name") };
        let address = address.parse().with_context(|| format!("{address:?} is not ADDR:PORT"))?;
        support::in_scratch(|scratch| beside::run(scratch, address, name))
    })
}

fn run(scratch: &Path) -> Result<()> {
    requests(scratch)?;
    println!("\nnodes (simulated; median of {RESTARTS} kills of the agent with SIGKILL, each followed by a start)");
    let counts = match std::env::var("ZCA_BENCH_NODES") {
        Ok(text) => text.split(',').map(|count| Ok(count.trim().parse()?)).collect::<Result<Vec<usize>>>()?,
        Err(_) => NODES.to_vec(),
    };
    let (mut measured, mut figures) = (Vec::new(), Vec::new());
    for count in counts {
        if let Some(needed) = too_much_memory(count, figures.last())? {
            println!("{count} nodes: skipped, they would need {needed:.1} GiB more than this host has available");
            continue;
        }
        figures.push(many_nodes(scratch, count)?);
        measured.push(count);
    }
    print_growth(&measured, &figures);
    Ok(())
}

// Requests against the disk.

fn requests(scratch: &Path) -> Result<()> {
    let agent = Agent::start(scratch.join("requests"), 0)?;
    let mut client = agent.client()?;
    let mut growing = OpenOptions::new().create_new(true).append(true).open(scratch.join("growing"))?;
    let mut ready = OpenOptions::new().create_new(true).write(true).open(scratch.join("ready"))?;
    ready.write_all(&vec![0; RAW_SPACE])?;
    ready.sync_all()?;
    let mut fresh = (0_u64..).map(|number| format!("bench-{number}"));
    let known = "bench-known".to_owned();
    let mut kept = std::iter::repeat(known.clone());
    let welcome = |_: &str| (Request::AgentWelcome {}, Dialect::ClusterAgent);
    let slice = Until::Lasted(SLICE);
    // The duplicates' first, and a warm-up of everything.
    flood(&mut client, &mut std::iter::once(known).chain(&mut fresh), welcome, 8, slice)?;
    write_raw(&mut growing, 8, SLICE)?;

    let mut samples: BTreeMap<(usize, &str), Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for window in IN_FLIGHT {
            let mut note = |what, sample| samples.entry((window, what)).or_default().push(sample);
            note("append + fdatasync", write_raw(&mut growing, window, SLICE)?);
            ready.rewind()?;
            note("overwrite + fdatasync", write_raw(&mut ready, window, SLICE)?);
            note("welcome requests", flood(&mut client, &mut fresh, welcome, window, slice)?);
            note("their duplicates", flood(&mut client, &mut kept, welcome, window, slice)?);
        }
    }
    drop(client);
    agent.end()?;

    println!(
        "\nrequests through the control socket, one connection (median of {ROUNDS} interleaved rounds of {SLICE:?})"
    );
    println!(
        "compared with N records of {RAW_RECORD} bytes to a plain file and one fdatasync: to its end, and to blocks that it"
    );
    println!("has. The journal's file grows now and then, so its own limit lies between the two");
    println!("{:>9}  {:<22} {:>12} {:>10} {:>10}", "in flight", "", "per second", "p50 ms", "p99 ms");
    for ((window, what), all) in &samples {
        let pick = |part: fn(&Sample) -> f64| median(all.iter().map(part).collect());
        println!(
            "{window:>9}  {what:<22} {:>12.0} {:>10.3} {:>10.3}",
            pick(|sample| sample.per_second),
            pick(|sample| sample.p50_ms),
            pick(|sample| sample.p99_ms)
        );
    }
    Ok(())
}

/// What the disk takes at most: `window` records, one fdatasync, and again.
fn write_raw(file: &mut File, window: usize, lasting: Duration) -> Result<Sample> {
    let records = vec![0x5a; RAW_RECORD * window];
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < lasting {
        let written = Instant::now();
        if file.stream_position()? as usize + records.len() > RAW_SPACE {
            file.rewind()?;
        }
        file.write_all(&records)?;
        file.sync_data()?;
        took.extend(std::iter::repeat_n(written.elapsed(), window));
    }
    Sample::of(took, begun.elapsed())
}

// A host full of nodes.

/// Of node and shim: what is available less than before.
const MEMORY: &str = "memory of the host taken, a node";
const DEPLOYED: &str = "deploy: request to all nodes RUNNING";
const SERVED: &str = "agent over its nodes: spawn to first served status";
const ADOPTED: &str = "... to every node adopted, RUNNING, the same process";
const STATUS: &str = "status: asked to answered";
const STOPPED: &str = "shutdown --nodes: asked to all ended";

/// By how many GiB `count` nodes would exceed what is available, going by what each of fewer nodes took.
fn too_much_memory(count: usize, fewer: Option<&BTreeMap<&str, f64>>) -> Result<Option<f64>> {
    let Some(per_node) = fewer.and_then(|figures| figures.get(MEMORY)) else { return Ok(None) };
    let missing = per_node * count as f64 - available_kib()?;
    Ok((missing > 0.0).then_some(missing / f64::from(1 << 20)))
}

/// MemAvailable (proc_meminfo(5)).
fn available_kib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    line.trim().trim_end_matches(" kB").parse().context("MemAvailable is no number")
}

/// What grows with the nodes, in milliseconds, and the memory of each.
fn many_nodes(scratch: &Path, count: usize) -> Result<BTreeMap<&'static str, f64>> {
    let available = available_kib()?;
    let mut agent = Agent::start(scratch.join(format!("nodes-{count}")), count)?;
    println!("{count} nodes");
    print_figure("agent without nodes: spawn to first served status", &[ms(agent.served_after)], "ms");

    let begun = Instant::now();
    let deploy = Request::Deploy { config: cluster(count)?, force: false, how: Box::default() };
    agent.client()?.submit("bench-deploy", deploy, Dialect::Management, None)?;
    let running = |status: &StatusReport| {
        status.nodes.len() == count && status.nodes.iter().all(|node| node.state == NodeState::Running)
    };
    let before = agent.wait(running)?;
    let mut figures = BTreeMap::from([(DEPLOYED, ms(begun.elapsed()))]);
    print_figure(DEPLOYED, &[ms(begun.elapsed())], "ms");
    let begun = Instant::now();
    agent.client()?.status(within_ms(60_000))?;
    figures.insert(STATUS, ms(begun.elapsed()));

    let taken = (available - available_kib()?) / count as f64;
    figures.insert(MEMORY, taken);
    print_figure(MEMORY, &[taken], "KiB");

    let shims = agent.shims()?;
    ensure!(shims.len() == count, "{} shims for {count} nodes", shims.len());
    let mut pss = shims.iter().map(|pid| pss_kib(*pid)).collect::<Result<Vec<f64>>>()?;
    pss.sort_by(f64::total_cmp);
    print_figure("PSS of a shim (smaps_rollup)", &pss, "KiB");

    let switches = |shims: &[u32]| shims.iter().map(|pid| voluntary_switches(*pid)).sum::<Result<u64>>();
    let earlier = switches(&shims)?;
    sleep(REST);
    let woken = switches(&shims)? - earlier;
    println!("  voluntary context switches of all shims over {} s at rest: {woken}", REST.as_secs());

    let (mut served, mut adopted) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        agent.kill()?;
        agent = Agent::start(agent.dir.clone(), count)?;
        served.push(ms(agent.served_after));
        let after = agent.wait(running)?;
        adopted.push(ms(agent.started.elapsed()));
        let pids = |status: &StatusReport| status.nodes.iter().map(|node| node.pid).collect::<Vec<_>>();
        ensure!(pids(&before) == pids(&after), "nodes were replaced");
    }
    print_figure(SERVED, &served, "ms");
    print_figure(ADOPTED, &adopted, "ms");
    let begun = Instant::now();
    agent.end()?;
    let stopped = ms(begun.elapsed());
    print_figure(STOPPED, &[stopped], "ms");
    figures.extend([(SERVED, median(served)), (ADOPTED, median(adopted)), (STOPPED, stopped)]);
    Ok(figures)
}

/// The same times for each number of nodes, and what of them a node costs.
fn print_growth(counts: &[usize], figures: &[BTreeMap<&str, f64>]) {
    let head: String = counts.iter().map(|count| format!("{:>24}", format!("{count} nodes"))).collect();
    println!("\n{:<54}{head}", "ms in all (ms a node)");
    for what in [DEPLOYED, STATUS, SERVED, ADOPTED, STOPPED] {
        let figure = |(count, of): (&usize, &BTreeMap<&str, f64>)| {
            let all = of.get(what).copied().unwrap_or_default();
            format!("{:>24}", format!("{all:.0} ({:.2})", all / *count as f64))
        };
        let row: String = counts.iter().zip(figures).map(figure).collect();
        println!("{what:<54}{row}");
    }
}

/// Nodes of the least demanding role, so that all start at once.
fn cluster(count: usize) -> Result<zeek_cluster_agent::api::configuration::Configuration> {
    let mut text = format!("[instances]\n{NAME} = 127.0.0.1\n");
    for number in 0..count {
        text.push_str(&format!("[worker-{number:03}]\ninstance = {NAME}\nrole = worker\ninterface = lo\n"));
    }
    cluster_file::read(text.as_bytes(), "bench.ini", None, None).map_err(|error| anyhow::anyhow!("{error:?}"))
}

/// An agent in a directory of its own. Dropped: its nodes are stopped, itself ended.
struct Agent {
    dir: PathBuf,
    child: Option<Child>,
    started: Instant,
    served_after: Duration,
    patience: Duration,
}

impl Agent {
    fn start(dir: PathBuf, nodes: usize) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let log = OpenOptions::new().create(true).append(true).open(dir.join("agent.log"))?;
        let started = Instant::now();
        let child =
            command(&dir, &["run", "--simulate-nodes", "--listen", "off"]).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut agent = Self {
            dir,
            child: Some(child),
            started,
            served_after: Duration::ZERO,
            patience: PATIENCE + PATIENCE_FOR_A_NODE * u32::try_from(nodes)?,
        };
        agent.wait(|status| status.serving)?;
        agent.served_after = started.elapsed();
        Ok(agent)
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.dir.join("state/control.sock"), "bench")?)
    }

    /// Asks until the status is as wanted.
    fn wait(&mut self, holds: impl Fn(&StatusReport) -> bool) -> Result<StatusReport> {
        let begun = Instant::now();
        loop {
            if let Ok(mut client) = self.client() {
                let status = client.status(within_ms(60_000))?;
                if holds(&status) {
                    return Ok(status);
                }
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || begun.elapsed() > self.patience {
                let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
                bail!("the agent did not get where it should; its log:\n{log}");
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// This agent's shims: processes of that name that work in its run directory.
    fn shims(&self) -> Result<Vec<u32>> {
        let run = self.dir.join("state/run").canonicalize()?;
        let mut shims = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let is_shim = fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == "zca-shim");
            if is_shim && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&run)) {
                shims.push(pid);
            }
        }
        Ok(shims)
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops the nodes and the agent, and removes the directory.
    fn end(mut self) -> Result<()> {
        self.stop_all()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn stop_all(&mut self) -> Result<()> {
        let stopped = command(&self.dir, &["shutdown", "--nodes"]).stdout(Stdio::null()).output()?;
        ensure!(stopped.status.success(), "shutdown --nodes: {}", String::from_utf8_lossy(&stopped.stderr));
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Killed on purpose, with its nodes left to the next one, or ended in order: nothing to do.
        if self.child.is_some() {
            if let Err(error) = self.stop_all() {
                eprintln!("agent benchmark: processes may be left: {error:#}");
            }
            if let Err(error) = self.kill() {
                eprintln!("agent benchmark: {error:#}");
            }
        }
    }
}

/// Our binary, with nothing but our settings.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ZCA_STATE_DIR", dir.join("state"))
        .env("ZEEK_AGENT_NAME", NAME)
        .stdin(Stdio::null());
    command
}

// Reading and printing.

fn pss_kib(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    field(&text, "Pss:").with_context(|| format!("smaps_rollup of {pid} has no Pss"))
}

fn voluntary_switches(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let switches = field(&text, "voluntary_ctxt_switches:");
    Ok(switches.with_context(|| format!("the status of {pid} has no voluntary_ctxt_switches"))? as u64)
}

/// One value, or median and range.
fn print_figure(what: &str, values: &[f64], unit: &str) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values {
        [one] => println!("  {what}: {one:.0} {unit}"),
        several => println!("  {what}: {:.0} {unit} ({least:.0} to {most:.0})", median(several.to_vec())),
    }
}

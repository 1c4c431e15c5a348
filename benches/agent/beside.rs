//! `cargo bench --bench agent -- --beside ADDR NAME`: ours beside another agent that is already there, such as Zeek's.
//!
//! Both get the same welcome requests from the same client over plain Broker, in interleaved rounds, one agent under load at
//! a time. Where there are two CPUs or more, the client has one of them for itself and the agents have the others. Beside
//! them: a responder that does nothing, which is the client's own ceiling, and ours with its state directory in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use zeek_cluster_agent::api::event::{self, Response};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::broker::handshake::{ConnectionId, Handshake, Outcome, Registry};
use zeek_cluster_agent::broker::wire::{self, EndpointId, Filter, Frame, FrameReader};
use zeek_cluster_agent::dialect;

use crate::support::agent::{Agent, BINARY, NAME, Until, command, flood, syncs, traced, welcome};
use crate::support::caller::{self, DIALECT};
use crate::support::figures::{Sample, median, written};
use crate::support::over_broker::OverBroker;

/// Rounds of everything; results are medians.
const ROUNDS: usize = 5;
/// How long each measurement of a round takes.
const SLICE: Duration = Duration::from_millis(1_000);
const IN_FLIGHT: [usize; 3] = [1, 64, 1_024];
/// Requests whose syncs and bytes are counted, under strace.
const TRACED: usize = 20_000;
/// The history on which ours is measured at last, and for how long.
const HISTORY: usize = 1_000_000;
const SUSTAINED: Duration = Duration::from_secs(60);
/// Where files are in memory.
const IN_MEMORY: &str = "/dev/shm";
/// The kernel counts CPU time in these (`USER_HZ`, proc_pid_stat(5)).
const TICK_US: f64 = 10_000.0;

/// One of those that answer.
struct Subject {
    label: String,
    address: SocketAddr,
    name: String,
    /// Whose CPU time is counted, if anybody's.
    pid: Option<u32>,
}

/// Measures ours beside the agent called `name` at `address`.
pub fn run(scratch: &Path, address: SocketAddr, name: &str) -> Result<()> {
    let theirs = listener(address.port())?.with_context(|| format!("no process of this host listens at {address}"))?;
    let cpus = Cpus::split()?;
    cpus.pin_agent(theirs)?;
    let ours = start(&scratch.join("ours"), &cpus)?;
    let memory = tempfile::Builder::new().prefix("bench-").tempdir_in(IN_MEMORY).context("no files in memory")?;
    let in_memory = start(memory.path(), &cpus)?;
    let responder = respond(&cpus)?;
    let subject = |label: &str, agent: &Agent, address| Subject {
        label: label.to_owned(),
        address,
        name: NAME.to_owned(),
        pid: Some(agent.pid),
    };
    let subjects = [
        subject("ours", &ours.0, ours.1),
        Subject { label: "theirs".to_owned(), address, name: name.to_owned(), pid: Some(theirs) },
        subject("ours, in memory", &in_memory.0, in_memory.1),
        Subject { label: "client's ceiling".to_owned(), address: responder, name: NAME.to_owned(), pid: None },
    ];
    println!("\nwelcome requests over plain Broker, one client, {cpus}");
    println!("median of {ROUNDS} interleaved rounds of {SLICE:?}; theirs is {name} at {address}");
    cpus.pin_client()?;
    let measured = measure(&subjects);
    cpus.release_client()?;
    print(&subjects, &measured?)?;
    cpus.release_agent(theirs)?;
    in_memory.0.end()?;
    costs(&scratch.join("traced"), &cpus)?;
    sustained(ours.0, ours.1, &cpus)
}

type Measured = BTreeMap<(usize, usize), Vec<(Sample, f64)>>;

/// By window and subject: each round's sample, and the CPU time of a request in microseconds.
fn measure(subjects: &[Subject]) -> Result<Measured> {
    let mut reqids = (0_u64..).map(|number| format!("beside-{number:010}"));
    let mut measured = Measured::new();
    for round in 0..=ROUNDS {
        for window in IN_FLIGHT {
            for (index, subject) in subjects.iter().enumerate() {
                let one = load(subject, &mut reqids, window, SLICE)?;
                // The first round is a warm-up.
                if round > 0 {
                    measured.entry((window, index)).or_default().push(one);
                }
            }
        }
    }
    Ok(measured)
}

fn load(
    subject: &Subject,
    reqids: &mut impl Iterator<Item = String>,
    window: usize,
    lasting: Duration,
) -> Result<(Sample, f64)> {
    let mut caller = OverBroker::connect(subject.address, &subject.name).with_context(|| subject.label.clone())?;
    let before = subject.pid.map(cpu_us).transpose()?;
    let begun = Instant::now();
    let took = caller::flood(&mut caller, || reqids.next().unwrap_or_default(), window, lasting)
        .with_context(|| format!("{} with {window} in flight", subject.label))?;
    let sample = Sample::of(took, begun.elapsed())?;
    let cpu = match (subject.pid, before) {
        (Some(pid), Some(before)) => (cpu_us(pid)? - before) / sample.count as f64,
        _ => f64::NAN,
    };
    Ok((sample, cpu))
}

fn print(subjects: &[Subject], measured: &Measured) -> Result<()> {
    println!(
        "{:>9}  {:<16} {:>10} {:>9} {:>9} {:>14}",
        "in flight", "", "requests/s", "p50 ms", "p99 ms", "CPU us/request"
    );
    for window in IN_FLIGHT {
        let mut rates = Vec::new();
        for (index, subject) in subjects.iter().enumerate() {
            let all = measured.get(&(window, index)).context("nothing was measured")?;
            let pick = |part: fn(&(Sample, f64)) -> f64| median(all.iter().map(part).collect());
            let rate = pick(|(sample, _)| sample.per_second);
            rates.push(rate);
            let cpu = pick(|(_, cpu)| *cpu);
            println!(
                "{window:>9}  {:<16} {rate:>10.0} {:>9.3} {:>9.3} {:>14}",
                subject.label,
                pick(|(sample, _)| sample.p50_ms),
                pick(|(sample, _)| sample.p99_ms),
                if cpu.is_nan() { "-".to_owned() } else { format!("{cpu:.1}") },
            );
        }
        if let [ours, theirs, ..] = rates[..] {
            println!("{window:>9}  ours/theirs, ratio {:.2}", ours / theirs);
        }
    }
    Ok(())
}

/// What a request costs the disk.
fn costs(dir: &Path, cpus: &Cpus) -> Result<()> {
    let trace = dir.with_extension("trace");
    println!("\nsyncs and bytes of ours, counted over {TRACED} requests under strace");
    for window in IN_FLIGHT {
        let dir = dir.join(window.to_string());
        fs::create_dir_all(&dir)?;
        let (agent, _) = start_with(&dir, traced(&dir, &trace), cpus)?;
        let mut client = agent.client()?;
        let (synced, bytes) = (syncs(&trace)?, written(agent.pid)?);
        let mut reqids = (0_u64..).map(|number| format!("traced-{number}"));
        flood(&mut client, &mut reqids, welcome, window, Until::Sent(TRACED))?;
        let each = |count: f64| count / TRACED as f64;
        println!(
            "{window:>9} in flight: {:.3} syncs and {:.0} bytes a request",
            each((syncs(&trace)? - synced) as f64),
            each(written(agent.pid)? - bytes)
        );
        drop(client);
        agent.end()?;
    }
    Ok(())
}

/// Ours at length, over a long history.
fn sustained(agent: Agent, address: SocketAddr, cpus: &Cpus) -> Result<()> {
    let mut client = agent.client()?;
    let mut reqids = (0_u64..).map(|number| format!("history-{number}"));
    flood(&mut client, &mut reqids, welcome, 1_024, Until::Sent(HISTORY))?;
    drop(client);
    let subject = Subject { label: "ours, sustained".to_owned(), address, name: NAME.to_owned(), pid: Some(agent.pid) };
    let mut reqids = (0_u64..).map(|number| format!("lasting-{number:010}"));
    cpus.pin_client()?;
    let (sample, cpu) = load(&subject, &mut reqids, 64, SUSTAINED)?;
    cpus.release_client()?;
    println!(
        "\n{SUSTAINED:?} on a history of more than {HISTORY} requests, 64 in flight: {:.0} requests/s, p50 {:.3} ms, p99 {:.3} ms, \
         {cpu:.1} us of CPU a request",
        sample.per_second, sample.p50_ms, sample.p99_ms
    );
    agent.end()
}

fn start(dir: &Path, cpus: &Cpus) -> Result<(Agent, SocketAddr)> {
    start_with(dir, command(dir, BINARY), cpus)
}

fn start_with(dir: &Path, mut command: std::process::Command, cpus: &Cpus) -> Result<(Agent, SocketAddr)> {
    command.env("ZCA_LISTEN", "127.0.0.1:0").env("ZCA_DISABLE_SSL", "true");
    let agent = Agent::start_with(dir, command)?;
    let address = agent.address_in_log("Broker peers are accepted at ")?;
    cpus.pin_agent(agent.pid)?;
    Ok((agent, address))
}

// Who runs where.

/// The client's CPU, and those of the agents; the same where there is only one.
struct Cpus {
    all: CpuSet,
    client: CpuSet,
    agents: CpuSet,
    count: usize,
}

impl Cpus {
    fn split() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let numbers: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        let (mut client, mut agents) = (CpuSet::new(), CpuSet::new());
        match numbers.split_last() {
            Some((last, others)) if !others.is_empty() => {
                client.set(*last);
                others.iter().for_each(|cpu| agents.set(*cpu));
            }
            _ => (client, agents) = (all, all),
        }
        Ok(Self { all, client, agents, count: numbers.len() })
    }

    fn pin_client(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.client)?)
    }

    fn release_client(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }

    /// All threads that it has; those that it starts later inherit it.
    fn pin_agent(&self, pid: u32) -> Result<()> {
        pin(pid, &self.agents)
    }

    fn release_agent(&self, pid: u32) -> Result<()> {
        pin(pid, &self.all)
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            0 | 1 => f.write_str("client and agents on the only CPU"),
            count => write!(f, "the client on a CPU of its own, the agents on the other {}", count - 1),
        }
    }
}

fn pin(pid: u32, cpus: &CpuSet) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        sched_setaffinity(thread, cpus).with_context(|| format!("cannot pin process {pid}"))?;
    }
    Ok(())
}

/// CPU time of a process, in microseconds.
fn cpu_us(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
    let (_, rest) = text.rsplit_once(')').context("no name in its stat")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() * TICK_US)
}

/// The process that listens at this port.
fn listener(port: u16) -> Result<Option<u32>> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = words[..]
                && local.rsplit_once(':').is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port))
            {
                sockets.push(format!("socket:[{inode}]"));
            }
        }
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |descriptor: fs::DirEntry| {
            fs::read_link(descriptor.path())
                .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
        };
        if descriptors.flatten().any(holds) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

// A responder that does nothing.

/// Accepts Broker peers, one after the other, and answers each request at once with the same response but for its reqid. It
/// ends with this process.
fn respond(cpus: &Cpus) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let agents = cpus.agents;
    thread::Builder::new().name("responder".to_owned()).spawn(move || {
        let served = sched_setaffinity(None, &agents).map_err(anyhow::Error::from).and_then(|()| {
            for stream in listener.incoming() {
                serve(stream?)?;
            }
            Ok(())
        });
        if let Err(error) = served {
            eprintln!("agent benchmark: the responder ended: {error:#}");
        }
    })?;
    Ok(address)
}

/// As long as all that [`measure`] makes.
const MODEL: &str = "beside-0000000000";

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let local = EndpointId(uuid::Uuid::new_v4().into_bytes());
    let topic = dialect::agent_topic(DIALECT, NAME).context("the dialect has no topic")?;
    let (mut handshake, probe) =
        Handshake::accept(ConnectionId(1), local, Filter::new([topic.as_str()]), Duration::ZERO);
    let (mut registry, mut reader) = (Registry::default(), FrameReader::new(8 << 20));
    stream.write_all(&probe)?;
    let reqid = ReqId::new(MODEL)?;
    let instance = Some(NAME.to_owned());
    let result = event::Result { reqid: reqid.clone(), success: true, instance, data: None, error: None, node: None };
    let response = Response { event: "agent_welcome_response".to_owned(), reqid, results: vec![result] };
    let model = wire::data_frame(local, EndpointId::NIL, &topic, &dialect::response(DIALECT, &response)?.into_data())?;
    let at = model.windows(MODEL.len()).position(|part| part == MODEL.as_bytes()).context("no reqid in it")?;
    let (mut buffer, mut peered) = ([0; 64 << 10], false);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        reader.feed(buffer.get(..count).unwrap_or_default());
        let mut answers = Vec::new();
        while let Some(frame) = reader.take()? {
            let Frame::Payload(payload) = frame else { bail!("a frame that is too large") };
            if !peered {
                let step = handshake.handle_frame(&payload, &mut registry);
                answers.extend(step.send);
                match step.outcome {
                    Outcome::Wait => {}
                    Outcome::Established(_) => {
                        reader.established(8 << 20);
                        peered = true;
                    }
                    Outcome::Redundant(_) | Outcome::Failed(_) => bail!("no peering: {:?}", step.outcome),
                }
            } else if let Some(found) = payload.windows(7).position(|part| part == b"beside-") {
                let reqid = payload.get(found..found + MODEL.len()).context("a short reqid")?;
                let mut answer = model.clone();
                answer.get_mut(at..at + reqid.len()).context("a short model")?.copy_from_slice(reqid);
                answers.extend(answer);
            }
        }
        stream.write_all(&answers)?;
    }
}

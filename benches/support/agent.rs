//! The real binary in a directory of its own, and requests through its control socket.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zeek_cluster_agent::api::configuration::{Configuration, Instance, UNKNOWN_HOST};
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};

use super::figures::Sample;

pub const BINARY: &str = env!("CARGO_BIN_EXE_zeek-cluster-agent");
pub const NAME: &str = "bench";
/// For whatever has to happen, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// When to stop sending.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    Lasted(Duration),
    Sent(usize),
}

/// An agent over `dir/state`. Dropped: ended.
pub struct Agent {
    pub dir: PathBuf,
    child: Child,
    /// The agent itself, which may be a child of strace.
    pub pid: u32,
    pub served_after: Duration,
}

impl Agent {
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, command(dir, BINARY))
    }

    /// With a line in `trace` for each sync that it asks for.
    pub fn start_traced(dir: &Path, trace: &Path) -> Result<Self> {
        Self::start_with(dir, traced(dir, trace))
    }

    /// With what the caller has added to [`command`].
    pub fn start_with(dir: &Path, mut command: Command) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let log = OpenOptions::new().create(true).append(true).open(dir.join("agent.log"))?;
        let started = Instant::now();
        let mut child = command.args(["run", "--simulate-nodes"]).stdout(Stdio::null()).stderr(log).spawn()?;
        loop {
            if let Ok(mut client) = Client::connect(&socket(dir), "bench")
                && client.status(within_ms(10_000)).is_ok_and(|status| status.serving)
            {
                let pid = client.welcome().pid;
                return Ok(Self { dir: dir.to_owned(), child, pid, served_after: started.elapsed() });
            }
            if child.try_wait()?.is_some() || started.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("the agent does not serve:\n{}", fs::read_to_string(dir.join("agent.log")).unwrap_or_default());
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// The address behind `mark` in its log, where it says where it listens.
    pub fn address_in_log(&self, mark: &str) -> Result<SocketAddr> {
        let log = self.dir.join("agent.log");
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
            let place = text.lines().find_map(|line| line.split_once(mark)?.1.split(['/', ',']).next());
            if let Some(place) = place {
                return place.parse().with_context(|| format!("{place:?} is no address"));
            }
            ensure!(begun.elapsed() < PATIENCE, "the agent does not say where it listens; its log:\n{text}");
            sleep(Duration::from_millis(2));
        }
    }

    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&socket(&self.dir), "bench")?)
    }

    /// Runs one of the other commands, its output going nowhere; how long it took.
    pub fn run(&self, args: &[&str]) -> Result<Duration> {
        let begun = Instant::now();
        let done = command(&self.dir, BINARY).args(args).stdout(Stdio::null()).output()?;
        if !done.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(begun.elapsed())
    }

    /// As a power cut would, but for what the kernel still holds.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn end(mut self) -> Result<()> {
        self.run(&["shutdown"])?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended in order, most often; this is for the way out of an error.
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("benchmark: a process may be left: {error}");
        }
    }
}

/// One line for each call that makes something durable.
pub const STRACE: [&str; 5] = ["-f", "--seccomp-bpf", "-qq", "-e", "trace=fsync,fdatasync,msync"];

/// The agent's program, under strace.
pub fn traced(dir: &Path, trace: &Path) -> Command {
    let mut command = command(dir, "strace");
    command.args(STRACE).arg("-o").arg(trace).arg(BINARY);
    command
}

/// How many syncs a trace has.
pub fn syncs(trace: &Path) -> Result<usize> {
    let text = fs::read_to_string(trace).context("cannot read the trace")?;
    // An interrupted call has two lines, of which the second names it too.
    Ok(text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count())
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("state/control.sock")
}

/// A program with nothing but our settings.
pub fn command(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ZCA_STATE_DIR", dir.join("state"))
        .env("ZEEK_AGENT_NAME", NAME)
        .env("ZCA_LISTEN", "off")
        .stdin(Stdio::null());
    command
}

/// What a controller sends most.
pub fn welcome(_reqid: &str) -> (Request, Dialect) {
    (Request::AgentWelcome {}, Dialect::Management)
}

/// Another configuration each time, and nothing to run: what it costs is the journal's alone.
pub fn change(reqid: &str) -> (Request, Dialect) {
    let instance = Instance { name: NAME.to_owned(), host: UNKNOWN_HOST, listen_port: None };
    let config = Configuration { id: reqid.to_owned(), instances: vec![instance], ..Configuration::default() };
    (Request::SetConfiguration { config }, Dialect::ClusterAgent)
}

/// Keeps `window` requests in flight over one connection, then waits for the last. `request` gets the reqid.
pub fn flood(
    client: &mut Client,
    reqids: &mut impl Iterator<Item = String>,
    request: impl Fn(&str) -> (Request, Dialect),
    window: usize,
    until: Until,
) -> Result<Sample> {
    let begun = Instant::now();
    let mut flying: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut took = Vec::new();
    let mut sent = 0;
    loop {
        while flying.len() < window && until.goes_on(begun, sent) {
            let reqid = reqids.next().context("no more reqids")?;
            let (request, dialect) = request(&reqid);
            let at = Instant::now();
            let call = client.submit(&reqid, request, dialect, None)?;
            flying.push_back((call, at));
            sent += 1;
        }
        let Some((call, at)) = flying.pop_front() else { break };
        match client.answer(call, within_ms(30_000))? {
            Answer::Response(response) if response.success() => took.push(at.elapsed()),
            Answer::Response(response) => bail!("a request failed: {response:?}"),
            Answer::Refused(reason) => bail!("a request was refused: {reason}"),
        }
    }
    Sample::of(took, begun.elapsed())
}

impl Until {
    pub fn goes_on(self, begun: Instant, sent: usize) -> bool {
        match self {
            Self::Lasted(duration) => begun.elapsed() < duration,
            Self::Sent(count) => sent < count,
        }
    }
}

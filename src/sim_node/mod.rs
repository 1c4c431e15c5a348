//! A simulated node: this binary in place of Zeek, for the demo, tests and dry runs (`run --simulate-nodes`).
//!
//! By default it prints a line, checks in, and waits for SIGTERM; then it prints `terminating` and exits with 0. It
//! checks in as Zeek does, over Broker ([`peer`]), if it is told its agent's address and the agent requires no
//! certificate; else with READY=1 on its NOTIFY_SOCKET. The node's environment makes it misbehave:
//!
//! | variable | effect |
//! | --- | --- |
//! | `SIM_EXIT=CODE` | exits with this code instead of waiting |
//! | `SIM_EXIT_AFTER_MS=N` | waits this long before `SIM_EXIT` or `SIM_CRASH` (alone: then exits with 0) |
//! | `SIM_CRASH=SIGNAL` | kills itself with this signal (a number) instead of waiting |
//! | `SIM_NOT_READY=1` | never checks in, and has no peering |
//! | `SIM_READY_AFTER_MS=N` | checks in this much later |
//! | `SIM_NO_PEERING=1` | does not dial its agent, and sends READY=1 |
//! | `SIM_NO_HELLO=1` | dials its agent, but never says hello |
//! | `SIM_HELLO_AS=NAME` | says hello with this name |
//! | `SIM_NO_ANSWER=1` | answers no dispatch |
//! | `SIM_VALUE_BYTES=N` | answers every dispatch with a value of this many bytes |
//! | `SIM_DROP_PEERING_MS=N` | closes each of its peerings after this time, without a message |
//! | `SIM_IGNORE_TERM=1` | ignores SIGTERM |
//! | `SIM_FORK=N` | starts this many children, which sleep and ignore SIGTERM |
//! | `SIM_FORK_SESSION=1` | those children leave the node's process group |
//! | `SIM_FORK_DAEMON=1` | those children become daemons: a session, a fork, no open files |
//! | `SIM_FLOOD=BYTES` | writes this many bytes to standard output, then continues |
//! | `SIM_CLEAR_PDEATHSIG=1` | outlives its shim |
//! | `SIM_CLOSE_LOCK=1` | closes all inherited descriptors, including the lock's |
//! | `SIM_PORT=N` | listens on 127.0.0.1:N; exits with 1 if that port is taken |
//! | `SIM_METRICS_PORT=N` | serves a few of a Zeek node's metrics at 127.0.0.1:N; exits with 1 if that port is taken |
//! | `SIM_METRICS_HANG=1` | accepts connections there and never answers |
//! | `SIM_BUSY_MS=N` | uses the CPU for this long, then continues |
//! | `SIM_ONCE_FILE=PATH` | all of the above, except `SIM_PORT` and `SIM_METRICS_PORT`, only if that file does not exist; it is created |

mod metrics;
mod peer;

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::supervisor::simulated::{self, ARGUMENT, NAME};
use crate::tls::BrokerMode;

use peer::Peer;

/// The first argument of its child processes.
const CHILD_ARGUMENT: &str = "__node_child";
/// How its agent speaks Broker. Its other variables are those of Zeek nodes.
const TLS_VARIABLE: &str = "SIM_BROKER_TLS";
const TLS_OFF: &str = "off";
const TLS_ANONYMOUS: &str = "anonymous";

/// The environment by which simulated nodes peer with an agent in this Broker mode; `None` if they cannot.
pub fn environment(mode: BrokerMode) -> Option<(OsString, OsString)> {
    let value = match mode {
        BrokerMode::Plain => TLS_OFF,
        BrokerMode::Anonymous => TLS_ANONYMOUS,
        BrokerMode::Certificates => return None,
    };
    Some((TLS_VARIABLE.into(), value.into()))
}

/// Runs the process as a simulated node, or a child of one, if it was started as that.
pub fn hidden_mode(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    match args.into_iter().nth(1)?.to_str()? {
        ARGUMENT => Some(main()),
        CHILD_ARGUMENT => Some(child()),
        _ => None,
    }
}

/// The configured misbehaviour.
struct Behaviour {
    is_bad: bool,
}

impl Behaviour {
    fn read() -> Self {
        let is_bad = match env::var_os("SIM_ONCE_FILE") {
            None => true,
            Some(path) => OpenOptions::new().write(true).create_new(true).open(path).is_ok(),
        };
        Self { is_bad }
    }

    fn is_set(&self, name: &str) -> bool {
        self.is_bad && env::var(name).is_ok_and(|value| value == "1")
    }

    fn number(&self, name: &str) -> Option<u64> {
        if self.is_bad { number(name) } else { None }
    }

    fn text(&self, name: &str) -> Option<String> {
        if self.is_bad { env::var(name).ok() } else { None }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Runs as a simulated node.
fn main() -> ExitCode {
    // The kernel named it after the descriptor that it was executed through.
    if let Ok(name) = std::ffi::CString::new(NAME) {
        let _ = rustix::thread::set_name(&name);
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("simulated node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs as a child of a simulated node: sleeps until it is killed.
fn child() -> ExitCode {
    simulated::ignore(&[Signal::TERM]);
    if number("SIM_FORK_SESSION") == Some(1) {
        let _ = rustix::process::setsid();
    }
    if number("SIM_FORK_DAEMON") == Some(1) {
        return daemon();
    }
    loop {
        std::thread::park();
    }
}

/// Acts as a daemon at its start: a new session, another process, the end of this one. The new process has nothing open
/// that would identify it.
fn daemon() -> ExitCode {
    let _ = rustix::process::setsid();
    let nothing = simulated::close_all_but(&[]);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(CHILD_ARGUMENT).env("SIM_FORK_DAEMON", "2").current_dir("/");
    let again = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    ExitCode::from(u8::from(nothing.is_err() || again.is_err()))
}

fn run() -> io::Result<ExitCode> {
    let behaviour = Behaviour::read();
    if behaviour.is_set("SIM_CLEAR_PDEATHSIG") {
        rustix::process::set_parent_process_death_signal(None)?;
    }
    if behaviour.is_set("SIM_CLOSE_LOCK") {
        simulated::close_all_but(&[])?;
    }
    if behaviour.is_set("SIM_IGNORE_TERM") {
        simulated::ignore(&[Signal::TERM]);
    } else {
        simulated::block(&[Signal::TERM])?;
    }
    let name = env::var("CLUSTER_NODE").unwrap_or_else(|_| "without a name".into());
    say(format_args!("node {name} runs as pid {}", std::process::id()))?;

    let _port = match number("SIM_PORT").and_then(|port| u16::try_from(port).ok()) {
        None => None,
        Some(port) => match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => Some(listener),
            Err(error) => {
                eprintln!("cannot listen on 127.0.0.1:{port}: {error}");
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    if let Some(port) = number("SIM_METRICS_PORT").and_then(|port| u16::try_from(port).ok()) {
        metrics::serve(port, behaviour.is_set("SIM_METRICS_HANG"))?;
    }
    for _ in 0..behaviour.number("SIM_FORK").unwrap_or(0) {
        // Never waited for: they must outlive this process.
        Command::new("/proc/self/exe").arg0(NAME).arg(CHILD_ARGUMENT).spawn()?;
    }
    flood(behaviour.number("SIM_FLOOD").unwrap_or(0))?;
    if let Some(ms) = behaviour.number("SIM_BUSY_MS") {
        thread::Builder::new().name("busy".to_owned()).spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(ms) {
                std::hint::spin_loop();
            }
        })?;
    }

    let mut peer = Peer::of(&name, &behaviour)?;
    let started = Instant::now();
    let mut ready_at = match behaviour.is_set("SIM_NOT_READY") {
        true => None,
        false => Some(Duration::from_millis(behaviour.number("SIM_READY_AFTER_MS").unwrap_or(0))),
    };
    let names = ["SIM_EXIT", "SIM_CRASH", "SIM_EXIT_AFTER_MS"];
    let ends_at = names
        .iter()
        .any(|name| behaviour.number(name).is_some())
        .then(|| Duration::from_millis(behaviour.number("SIM_EXIT_AFTER_MS").unwrap_or(0)));
    loop {
        let elapsed = started.elapsed();
        if ready_at.is_some_and(|at| at <= elapsed) {
            ready_at = None;
            match peer.take() {
                // SIGTERM is blocked there too: this thread receives it.
                Some(peer) => drop(thread::Builder::new().name("peer".to_owned()).spawn(move || peer.run())?),
                None => notify_ready()?,
            }
        }
        if ends_at.is_some_and(|at| at <= elapsed) {
            return end(&behaviour);
        }
        let next = [ready_at, ends_at].into_iter().flatten().min();
        let wait = next.map(|at| at.saturating_sub(started.elapsed()));
        match simulated::wait_for_signal(&[Signal::TERM], wait) {
            Ok(None) => {}
            Ok(Some(_)) => {
                say("terminating")?;
                return Ok(ExitCode::SUCCESS);
            }
            // It was stopped and has continued.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn end(behaviour: &Behaviour) -> io::Result<ExitCode> {
    if let Some(signal) = behaviour.number("SIM_CRASH") {
        let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw).unwrap_or(Signal::KILL);
        // The first SEGV or BUS goes to a handler of Rust's, which finds no stack overflow, restores the default action
        // and waits for the faulting instruction to repeat.
        for _ in 0..2 {
            rustix::process::kill_process(rustix::process::getpid(), signal)?;
        }
    }
    let code = behaviour.number("SIM_EXIT").unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn say(text: impl std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

fn flood(bytes: u64) -> io::Result<()> {
    let line = [[b'x'; 79].as_slice(), b"\n"].concat();
    let mut stdout = io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let part = line.get(..usize::try_from(left).unwrap_or(line.len())).unwrap_or(&line);
        stdout.write_all(part)?;
        left -= part.len() as u64;
    }
    stdout.flush()
}

fn notify_ready() -> io::Result<()> {
    let Ok(address) = env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    match address.strip_prefix('@') {
        Some(name) => socket.send_to_addr(b"READY=1", &SocketAddr::from_abstract_name(name)?)?,
        None => socket.send_to(b"READY=1", address)?,
    };
    Ok(())
}

//! Runs a node's program once to have its scripts checked, where a sensor may be capturing beside it.
//!
//! The agent starts its own binary as `zca-check`, which starts the program: as the node's user without any capability, in a
//! scratch directory, at the lowest priority (SCHED_IDLE) for its first seconds, off the CPUs of nodes, bounded in memory,
//! processes and file size.
//! It is a subreaper, so whatever the program starts stays below it, and it ends when nothing of that is left.
//!
//! Promises: the check ends, with all its processes, when the program does, when a bound is reached, when the agent says so
//! (it closes `zca-check`'s standard input) and when the agent dies (which closes it, too). Never touches a node.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::launch::{NODE_PROGRAM, environment, find_program};
use super::shim::descendants;
use super::start_step::StartStep;
use super::{Context, create_private, node_files, ownership, process, rights, sys};
use crate::api::launch::{LaunchSpec, Program};
use crate::api::rights::{Limits, Rights, User};

/// The process name.
pub const NAME: &str = "zca-check";

/// Where checks run, in the state directory.
const DIRECTORY: &str = "preflight";
/// What the program may write to its outputs.
const OUTPUT: usize = 256 << 10;
/// What is told of that.
const TOLD: usize = 4 << 10;
/// The order's size: a layout of thousands of nodes is written to the directory and is no part of it.
const ORDER: u32 = 4 << 20;
/// What `zca-check` may write about the end.
const ENDED: u64 = 64 << 10;
/// Address space of each process.
const ADDRESS_SPACE: u64 = 8 << 30;
/// Memory of all processes together, and how many they may be.
const MEMORY: u64 = 1 << 30;
const PROCESSES: usize = 64;
/// The largest file that it may write.
const FILE: u64 = 16 << 20;
/// Between two looks at what it uses.
const LOOK: Duration = Duration::from_millis(50);
/// How long killed processes may take to be gone.
const KILL_TAKES: Duration = Duration::from_secs(5);

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: the program accepts its scripts.
    pub problem: Option<String>,
    /// CPU time of all its processes, in milliseconds.
    pub cpu_ms: u64,
}

impl Outcome {
    fn failed(problem: String) -> Self {
        Self { problem: Some(problem), cpu_ms: 0 }
    }
}

/// Runs checks; one at a time.
#[derive(Debug)]
pub struct Checker {
    context: Arc<Context>,
}

/// What `zca-check` is to run.
#[derive(Serialize, Deserialize)]
struct Order {
    program: Vec<u8>,
    argv: Vec<Vec<u8>>,
    env: Vec<(Vec<u8>, Vec<u8>)>,
    directory: Vec<u8>,
    rights: Rights,
    cpus: Vec<u32>,
    /// For how long at the lowest priority.
    idle_ms: u64,
}

/// How it ended, as `zca-check` tells.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    /// Why the program did not run, or which bound it reached.
    reason: Option<String>,
    /// Processes that could not be ended.
    left: Option<String>,
    cpu_ms: u64,
}

impl Checker {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The program of a node, where it was found.
    pub fn program(&self, spec: &LaunchSpec) -> Result<Option<PathBuf>, String> {
        let Program::Path(program) = &spec.program else { return Ok(None) };
        let env = environment(&self.context.options.environment, &spec.env);
        find_program(NODE_PROGRAM, program, env.get(OsStr::new("PATH"))).map(Some).map_err(String::from)
    }

    /// Runs the program of `spec` until it ends, or until `deadline`. Dropped: the check is ended.
    pub async fn run(&self, spec: LaunchSpec, node_cpus: Vec<u32>, deadline: Instant) -> Outcome {
        let context = Arc::clone(&self.context);
        let prepared = crate::tasks::blocking(move || prepare(&context, &spec, &node_cpus)).await;
        let order = match prepared {
            Ok(order) => order,
            Err(reason) => return Outcome::failed(reason),
        };
        let outcome = self.run_prepared(&order, deadline).await;
        outcome.unwrap_or_else(|error| {
            Outcome::failed(format!(
                "the check could not be run: {error}; `--no-preflight` makes the change without it"
            ))
        })
    }

    async fn run_prepared(&self, order: &Order, deadline: Instant) -> io::Result<Outcome> {
        let order = rmp_serde::to_vec_named(order).map_err(io::Error::other)?;
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", self.context.executable.as_raw_fd()));
        command.arg0(NAME).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it has no pipes"));
        };
        crate::crash_point!("during_preflight");
        stdin.write_all(&u32::try_from(order.len()).unwrap_or(u32::MAX).to_be_bytes()).await?;
        stdin.write_all(&order).await?;
        let mut said = Vec::new();
        let interrupted = tokio::select! {
            read = read_some(&mut stderr, &mut said) => match read? {
                true => None,
                false => Some(format!("it wrote more than {} KiB", OUTPUT >> 10)),
            },
            () = tokio::time::sleep_until(deadline.into()) => Some("it did not end in time".to_owned()),
        };
        // Ends it, if it has not ended.
        drop(stdin);
        let rest = async {
            let mut told = Vec::new();
            (&mut stdout).take(ENDED).read_to_end(&mut told).await?;
            child.wait().await?;
            Ok::<_, io::Error>(told)
        };
        let told = match tokio::time::timeout(2 * KILL_TAKES, rest).await {
            Ok(told) => told?,
            Err(_) => {
                child.start_kill()?;
                return Ok(Outcome::failed("it could not be ended in time".to_owned()));
            }
        };
        let ended: Ended =
            serde_json::from_slice(&told).map_err(|_| io::Error::other("it did not say how it ended"))?;
        Ok(judge(ended, interrupted, &said))
    }
}

/// Reads to the end, or up to the bound; whether it was the end.
async fn read_some(stderr: &mut tokio::process::ChildStderr, said: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stderr.read(&mut buffer).await? {
            0 => return Ok(true),
            count => said.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
        if said.len() > OUTPUT {
            said.truncate(OUTPUT);
            return Ok(false);
        }
    }
}

fn judge(ended: Ended, interrupted: Option<String>, said: &[u8]) -> Outcome {
    let Ended { code, signal, reason, left, cpu_ms } = ended;
    let mut problem = match (interrupted.or(reason), code, signal) {
        (Some(reason), _, _) => Some(format!("the check of its scripts was ended: {reason}")),
        (None, Some(0), _) => None,
        (None, Some(code), _) => Some(format!("the check of its scripts fails (exit code {code})")),
        (None, None, Some(signal)) => Some(format!("the check of its scripts was ended by signal {signal}")),
        (None, None, None) => Some("nobody knows how the check of its scripts ended".to_owned()),
    };
    if let Some(problem) = &mut problem {
        let words = String::from_utf8_lossy(said);
        let words = words.trim();
        let mut end = words.len().min(TOLD);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        if !words.is_empty() {
            problem.push_str(":\n");
            problem.push_str(words.get(..end).unwrap_or_default());
        }
    }
    if let Some(left) = left {
        let told = format!("the check of its scripts left processes that could not be ended: {left}");
        problem = Some(problem.map_or_else(|| told.clone(), |problem| format!("{problem}\n{told}")));
    }
    Outcome { problem, cpu_ms }
}

/// The scratch directory with the node's files, and the order.
fn prepare(context: &Context, spec: &LaunchSpec, node_cpus: &[u32]) -> Result<Order, String> {
    let Program::Path(program) = &spec.program else { return Err("simulated nodes have nothing to check".to_owned()) };
    let env = environment(&context.options.environment, &spec.env);
    let program = find_program(NODE_PROGRAM, program, env.get(OsStr::new("PATH"))).map_err(String::from)?;
    let directory = context.options.state_dir.join(DIRECTORY);
    let scratch = |error: io::Error| format!("cannot make its scratch directory {}: {error}", directory.display());
    empty(&directory).map_err(scratch)?;
    if let Some(user) = &spec.rights.user {
        ownership::give(&directory, user).map_err(scratch)?;
    }
    node_files::write(&directory, &spec.files)?;
    let argv = std::iter::once(program.clone().into_os_string().into_vec())
        .chain(spec.args.iter().map(|arg| arg.clone().into_bytes()));
    let bytes = |text: &OsString| text.as_bytes().to_vec();
    Ok(Order {
        argv: argv.collect(),
        program: program.into_os_string().into_vec(),
        env: env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        directory: directory.into_os_string().into_vec(),
        rights: Rights {
            user: spec.rights.user.clone().or_else(without_capabilities),
            captures: false,
            cpu: None,
            limits: Limits { core_bytes: Some(0), ..spec.rights.limits },
        },
        cpus: free_cpus(node_cpus),
        idle_ms: idle_ms(),
    })
}

/// A check takes half a second of CPU time. One that takes longer than this waits for a CPU that others keep busy, and goes on
/// with the usual priority: else no change could be made on a busy host.
const IDLE_MS: u64 = 2_000;

#[cfg(not(feature = "crash-points"))]
fn idle_ms() -> u64 {
    IDLE_MS
}

/// Tests run on busy machines.
#[cfg(feature = "crash-points")]
fn idle_ms() -> u64 {
    match std::env::var("ZCA_TEST_CHECK_PRIORITY").as_deref() {
        Ok("usual") => 0,
        Ok("lowest") => u64::MAX,
        Ok(_) | Err(_) => IDLE_MS,
    }
}

/// Whoever runs nodes as root gives them root's capabilities; a check gets none.
fn without_capabilities() -> Option<User> {
    process::own_uid().eq(&0).then(|| User { name: "root".to_owned(), uid: 0, gid: 0, groups: Vec::new() })
}

/// What an earlier check left is removed.
fn empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    create_private(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// The CPUs that this process may use and no node is pinned to; all that it may use, if none is left.
fn free_cpus(node_cpus: &[u32]) -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let ours: Vec<u32> =
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).filter_map(|cpu| cpu.try_into().ok()).collect();
    let free: Vec<u32> = ours.iter().copied().filter(|cpu| !node_cpus.contains(cpu)).collect();
    if free.is_empty() { ours } else { free }
}

/// Runs as `zca-check`, with the order on standard input.
pub(super) fn main() -> ExitCode {
    sys::ignore(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE]);
    // A group of its own: Ctrl-C at the agent's terminal is for the agent.
    let _ = rustix::process::setsid();
    if let Ok(name) = CString::new(NAME) {
        let _ = rustix::thread::set_name(&name);
    }
    let ended = match read_order().and_then(|order| supervise(&order)) {
        Ok(ended) => ended,
        Err(reason) => Ended { reason: Some(reason), ..Ended::default() },
    };
    let told = serde_json::to_vec(&ended).unwrap_or_default();
    match io::stdout().write_all(&told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_order() -> Result<Order, String> {
    let failed = |error: io::Error| format!("no order: {error}");
    let mut input = io::stdin().lock();
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(failed)?;
    let length = u32::from_be_bytes(length);
    if length > ORDER {
        return Err(format!("the order has {length} bytes, {ORDER} is the most"));
    }
    let mut order = Vec::new();
    input.take(length.into()).read_to_end(&mut order).map_err(failed)?;
    rmp_serde::from_slice(&order).map_err(|error| format!("the order: {error}"))
}

fn supervise(order: &Order) -> Result<Ended, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let signals = sys::shim_signals().map_err(|error| failed("cannot watch its children", &error))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| failed("cannot become the parent of orphans", &error))?;
    bound(order)?;
    let pid = start(order)?;
    let (status, reason) = watch(pid, &signals, Duration::from_millis(order.idle_ms));
    // What is killed needs a CPU to end on.
    take_usual_priority();
    let begun = Instant::now();
    while !descendants::kill_all() && begun.elapsed() < KILL_TAKES {
        std::thread::sleep(Duration::from_millis(5));
    }
    let left = descendants::reap().has_more.then(|| descendants::survivors().to_string());
    let (code, signal) = match status {
        Some(status) => (status.exit_status(), status.terminating_signal()),
        None => (None, None),
    };
    Ok(Ended { code, signal, reason, left, cpu_ms: children_cpu_ms() })
}

/// Priority, CPUs and limits, which the program inherits.
fn bound(order: &Order) -> Result<(), String> {
    sys::set_idle(None, order.idle_ms > 0).map_err(|error| format!("cannot take the lowest priority: {error}"))?;
    let mut set = CpuSet::new();
    for cpu in &order.cpus {
        set.set(usize::try_from(*cpu).unwrap_or(usize::MAX).min(CpuSet::MAX_CPU - 1));
    }
    if !order.cpus.is_empty() {
        // A CPU may have gone; then it runs where it may.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    for (resource, most) in [(Resource::As, ADDRESS_SPACE), (Resource::Fsize, FILE), (Resource::Core, 0)] {
        let before = rustix::process::getrlimit(resource);
        let most = before.maximum.map_or(most, |maximum| maximum.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("cannot limit it: {error}"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(())
}

fn start(order: &Order) -> Result<Pid, String> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| "a zero byte in its arguments".to_owned());
    let argv = order.argv.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
    let env = order
        .env
        .iter()
        .map(|(name, value)| text(&[name.as_slice(), b"=", value.as_slice()].concat()))
        .collect::<Result<Vec<_>, _>>()?;
    let directory = OsStr::from_bytes(&order.directory);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| format!("cannot use its directory {}: {error}", directory.display()))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let (failure, failure_end) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("cannot make a pipe: {error}"))?;
    let rights = rights::Prepared::new(&order.rights, None)?;
    let output = io::stderr();
    let path = text(&order.program)?;
    let program = sys::Program {
        path: &path,
        argv: &argv,
        env: &env,
        directory: directory.as_fd(),
        stdin: null.as_fd(),
        stdout: output.as_fd(),
        stderr: output.as_fd(),
        lock: null.as_fd(),
        rights: &rights,
        cgroup: None,
        failure: failure_end.as_fd(),
    };
    let pid = sys::spawn(&program).map_err(|error| format!("cannot fork: {error}"))?;
    drop(failure_end);
    // Whoever has to end a flood of processes must get ahead of it.
    let _ = sys::set_idle(None, false);
    match failed_step(failure) {
        None => Ok(pid),
        Some((step, error)) => Err(format!("{step}: {error} ({})", String::from_utf8_lossy(&order.program))),
    }
}

/// The step that kept the program from running. Waits until it runs.
fn failed_step(failure: OwnedFd) -> Option<(StartStep, io::Error)> {
    let mut reports = Vec::new();
    File::from(failure).take(256).read_to_end(&mut reports).ok()?;
    reports.chunks(StartStep::REPORT).filter_map(StartStep::parse).find(|(step, _)| !step.is_warning())
}

/// Waits for the end of the program; the reason, if something else ended the waiting.
fn watch(pid: Pid, signals: &OwnedFd, idle: Duration) -> (Option<rustix::process::WaitIdStatus>, Option<String>) {
    let look = Timespec { tv_sec: 0, tv_nsec: i64::try_from(LOOK.as_nanos()).unwrap_or(i64::MAX) };
    let input = io::stdin();
    let begun = Instant::now();
    loop {
        descendants::reap_others(pid);
        if begun.elapsed() > idle {
            take_usual_priority();
        }
        match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => return (Some(status), None),
            Ok(None) => {}
            Err(error) => return (None, Some(format!("cannot wait for it: {error}"))),
        }
        if let Some(reason) = too_much() {
            return (None, Some(reason));
        }
        let mut watched = [PollFd::new(&input, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let woken = rustix::event::poll(&mut watched, Some(&look));
        // Nothing comes after the order: this is its end.
        if woken.is_ok_and(|count| count > 0) && watched.first().is_some_and(|input| !input.revents().is_empty()) {
            return (None, Some("the agent ended it".to_owned()));
        }
        drain(signals);
    }
}

fn drain(signals: &OwnedFd) {
    let mut buffer = [0; 1024];
    while rustix::io::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Raises every thread below this process to the usual priority, as far as the kernel allows: an agent that is not root may not.
fn take_usual_priority() {
    let mut waiting = descendants::children_of(std::process::id());
    let mut left = 2 * PROCESSES;
    while let (Some(pid), 1..) = (waiting.pop(), left) {
        left -= 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = threads.filter_map(|thread| Pid::from_raw(thread.file_name().to_str()?.parse().ok()?));
        for thread in threads {
            let _ = sys::set_idle(Some(thread), false);
        }
        waiting.extend(descendants::children_of(pid));
    }
}

/// The bound that the processes have reached.
fn too_much() -> Option<String> {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let (mut count, mut memory) = (0, 0_u64);
    let mut waiting = descendants::children_of(std::process::id());
    while let Some(pid) = waiting.pop() {
        count += 1;
        if count > PROCESSES {
            return Some(format!("it started more than {PROCESSES} processes"));
        }
        let pages = fs::read_to_string(format!("/proc/{pid}/statm")).ok();
        let pages = pages.and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        memory = memory.saturating_add(pages.unwrap_or(0).saturating_mul(page));
        if memory > MEMORY {
            return Some(format!("it took more than {} MiB of memory", MEMORY >> 20));
        }
        waiting.extend(descendants::children_of(pid));
    }
    None
}

/// CPU time of all descendants that have been waited for: fields 16 and 17 of `/proc/self/stat`, in ticks of 10 ms.
fn children_cpu_ms() -> u64 {
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return 0 };
    // The name, which is in parentheses, may hold anything.
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    let ticks = fields.split_ascii_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>().saturating_mul(10)
}

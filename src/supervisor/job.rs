//! A job: a program other than a node that runs from time to time and ends by itself.
//!
//! The agent starts its own binary as `zca-job`, with the job's lock as standard input. That process takes on the job's
//! rights, keeps the lock open at a high number, and becomes the program; what the program starts inherits it. So a run
//! consists of the processes that have the lock open, whichever agent started it.
//!
//! Promises: no two runs at the same time, even after a kill -9 of the agent; only processes of the job's user that are
//! proven to have this lock open are signalled; a run as another user has that user's rights and none of root's. Leaves
//! to others when to run, and for how long. A run continues when its agent is killed: what it writes from then on fails
//! with EPIPE, without SIGPIPE. The next agent waits for it or ends it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, Mode, OFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::launch::{NODE_PROGRAM, check_executable, environment, find_program};
use super::process::{self, Holders, Proven};
use super::{Context, create_private, rights, start_step, sys};
use crate::api::launch::ExitCause;
use crate::api::rights::{OpenFiles, Rights, User};
use crate::regular_file;

/// The process name until it becomes the program.
pub const NAME: &str = "zca-job";
/// The exit code of a process that could not become the program; as in shells.
const NOT_EXECUTED: u8 = 127;

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(3);
/// How often to look again: a job can fork while it is being ended.
const ROUNDS: u32 = 3;
/// How long to wait for output written before the end, if something still has the pipe open.
const DRAIN: Duration = Duration::from_millis(200);
/// How much of standard error is kept, and shown of its last line.
const SAID: usize = 4 << 10;
const LAST_WORDS: usize = 300;

#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of its lock; created if missing.
    pub directory: PathBuf,
    /// A path, or a name to search for beside another program and in PATH.
    pub program: String,
    /// The setting that names it, for messages.
    pub setting: &'static str,
    pub beside: Option<String>,
    pub args: Vec<OsString>,
    /// The user to run as, if not the agent's.
    pub user: Option<User>,
    /// It gets PATH alone, instead of the agent's environment.
    pub clears_environment: bool,
}

#[derive(Debug)]
pub struct Job {
    context: Arc<Context>,
    options: Options,
}

/// The result of a start.
#[derive(Debug)]
pub enum Start {
    Begun(Box<Run>),
    /// Another run has not ended.
    Held,
    Impossible(String),
}

/// How `zca-job` is to become the program.
#[derive(Serialize, Deserialize)]
struct Order {
    rights: Rights,
    umask: Option<u32>,
    #[serde(default)]
    open_files: Option<OpenFiles>,
    /// Its standard output is what the program is to read from its standard input.
    #[serde(default)]
    has_input: bool,
}

impl Job {
    pub(super) fn new(context: Arc<Context>, options: Options) -> Self {
        Self { context, options }
    }

    /// Whether a run has not ended, whoever started it. Blocks.
    pub fn is_running(&self) -> io::Result<bool> {
        Ok(self.lock()?.is_none())
    }

    /// Starts a run. Blocks; must be called within a runtime.
    pub fn start(&self) -> Start {
        self.start_with(None)
    }

    /// The same, with this on its standard input: which has to fit into memory.
    pub fn start_with(&self, input: Option<&[u8]>) -> Start {
        let impossible = |error: io::Error| Start::Impossible(error.to_string());
        let mut env = environment(&self.context.options.environment, &BTreeMap::new());
        if self.options.clears_environment {
            env.retain(|name, _| name == "PATH");
        }
        let program = match self.find(env.get(OsStr::new("PATH"))) {
            Ok(program) => program,
            Err(reason) => return Start::Impossible(reason),
        };
        let lock = match self.lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => return Start::Held,
            Err(error) => return impossible(error),
        };
        let order = Order {
            rights: Rights { user: self.options.user.clone(), ..Rights::default() },
            umask: self.context.options.umask,
            open_files: self.context.options.open_files,
            has_input: input.is_some(),
        };
        let order = match serde_json::to_string(&order) {
            Ok(order) => order,
            Err(error) => return impossible(error.into()),
        };
        let stdout = match input.map(filled_file).transpose() {
            Ok(file) => file.map_or_else(Stdio::null, Stdio::from),
            Err(error) => return impossible(error),
        };
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", self.context.executable.as_raw_fd()));
        command
            .arg0(NAME)
            .arg(order)
            .arg(program)
            .args(&self.options.args)
            .env_clear()
            .envs(env)
            // Until it has changed to its user: see process::Run.
            .current_dir(&self.options.directory)
            .stdin(Stdio::from(OwnedFd::from(lock)))
            .stdout(stdout)
            .stderr(Stdio::piped());
        match tokio::process::Command::from(command).kill_on_drop(false).spawn() {
            Ok(mut child) => Start::Begun(Box::new(Run { stderr: child.stderr.take(), child, said: Vec::new() })),
            Err(error) => impossible(error),
        }
    }

    /// Waits at most a second for the end of the run; returns whether it ended. Blocks.
    pub fn wait_a_second(&self) -> io::Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(1);
        for process in self.holders()?.ours {
            process.wait_until(deadline);
        }
        let ended = !self.is_running()?;
        if !ended {
            // The holder is a process that /proc does not show.
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(ended)
    }

    /// Ends the run: TERM, after 3 s KILL. Blocks for 10 s at most; returns whether nothing is left.
    pub fn end(&self) -> io::Result<bool> {
        for round in 0..ROUNDS {
            let holders = self.holders()?;
            if let Some(strangers) = holders.strangers() {
                let lock = self.options.directory.join("lock");
                tracing::warn!(
                    "{} is held by {strangers}, and {} runs as uid {}: it was handed to them, they are not signalled",
                    lock.display(),
                    self.options.program,
                    self.uid()
                );
            }
            if holders.ours.is_empty() {
                break;
            }
            process::end(&holders.ours, if round == 0 { GRACE } else { Duration::ZERO })?;
        }
        Ok(!self.is_running()?)
    }

    fn holders(&self) -> io::Result<Holders> {
        let lock = self.open()?;
        let directory = File::open(&self.options.directory)?;
        Proven::by_lock(&lock, &process::Run { uid: Some(self.uid()), directory: &directory })
    }

    fn uid(&self) -> u32 {
        self.options.user.as_ref().map_or_else(process::own_uid, |user| user.uid)
    }

    fn find(&self, path: Option<&OsString>) -> Result<PathBuf, String> {
        let program = &self.options.program;
        if !program.contains('/')
            && let Some(beside) = &self.options.beside
            && let Ok(beside) = find_program(NODE_PROGRAM, beside, path)
        {
            // /usr/local/bin/zeek may be a link into the directory of a Zeek installation.
            let real = std::fs::canonicalize(&beside).unwrap_or_else(|_| beside.clone());
            let candidates = [beside, real].map(|other| other.with_file_name(program));
            if let Some(found) = candidates.into_iter().find(|candidate| check_executable(candidate).is_ok()) {
                return Ok(found);
            }
        }
        find_program(self.options.setting, program, path).map_err(String::from)
    }

    /// Opened for reading: it is passed to another user's process.
    fn open(&self) -> io::Result<File> {
        create_private(&self.options.directory)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular_file::check(rustix::fs::open(self.options.directory.join("lock"), flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// The lock, unless a run holds it.
    fn lock(&self) -> io::Result<Option<File>> {
        let lock = self.open()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file without a name that has these bytes in it. A pipe might not have room for all of them.
fn filled_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A run that this agent started. It continues when this is dropped.
#[derive(Debug)]
pub struct Run {
    child: tokio::process::Child,
    stderr: Option<tokio::process::ChildStderr>,
    said: Vec<u8>,
}

impl Run {
    /// Waits for its end. May be dropped and called again.
    pub async fn wait(&mut self) -> io::Result<ExitCause> {
        loop {
            let Self { child, stderr, said } = self;
            tokio::select! {
                () = read_some(stderr, said) => {}
                status = child.wait() => {
                    let status = status?;
                    let rest = async { while self.stderr.is_some() { read_some(&mut self.stderr, &mut self.said).await } };
                    // Processes that left the program's group may go on writing.
                    let _ = tokio::time::timeout(DRAIN, rest).await;
                    return Ok(cause(status));
                }
            }
        }
    }

    /// The last line that it wrote to standard error.
    pub fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.said);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().take(LAST_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

/// Waits for ever once the output has ended.
async fn read_some(stderr: &mut Option<tokio::process::ChildStderr>, said: &mut Vec<u8>) {
    let Some(pipe) = stderr else { return std::future::pending().await };
    let mut buffer = [0; SAID];
    match pipe.read(&mut buffer).await {
        Ok(0) | Err(_) => *stderr = None,
        Ok(count) => {
            said.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let surplus = said.len().saturating_sub(SAID);
            said.drain(..surplus);
        }
    }
}

fn cause(status: ExitStatus) -> ExitCause {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCause::Code(code),
        (None, Some(signal)) => ExitCause::Signal(signal),
        (None, None) => ExitCause::Lost,
    }
}

/// Runs as `zca-job ORDER PROGRAM ARGUMENTS…` and becomes the program.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Err(reason) = become_program(args);
    eprintln!("{reason}");
    ExitCode::from(NOT_EXECUTED)
}

fn become_program(mut args: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, String> {
    let order = args.next().and_then(|order| order.into_string().ok()).ok_or("no order")?;
    let order: Order = serde_json::from_str(&order).map_err(|error| format!("the order: {error}"))?;
    let program = args.next().ok_or("no program")?;
    let descriptors = |error: rustix::io::Errno| format!("cannot set up its descriptors: {error}");
    let lock = sys::duplicate_high(io::stdin().as_fd()).map_err(descriptors)?;
    sys::close_all_but(&[lock.as_fd()]).map_err(|error| format!("cannot set up its descriptors: {error}"))?;
    {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(descriptors)?;
        if order.has_input {
            rustix::stdio::dup2_stdin(io::stdout()).map_err(descriptors)?;
            rustix::stdio::dup2_stdout(&null).map_err(descriptors)?;
        } else {
            rustix::stdio::dup2_stdin(&null).map_err(descriptors)?;
        }
    }
    // A group of its own: Ctrl-C at the agent's terminal is for the agent.
    let _ = rustix::process::setsid();
    if let Some(mask) = order.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    let failed = |step: start_step::StartStep, error: rustix::io::Errno| format!("{step}: {error}");
    let rights = rights::Prepared::new(&order.rights, order.open_files)?;
    rights.take_on(|step, error| eprintln!("{}", failed(step, error))).map_err(|(step, error)| failed(step, error))?;
    std::env::set_current_dir("/").map_err(|error| format!("cannot work in /: {error}"))?;
    // When its agent ends, its standard error breaks, which must not end its work: like systemd's services, it gets an
    // error from write instead.
    sys::ignore(&[Signal::PIPE]);
    let shown = Path::new(&program).display().to_string();
    let text =
        |argument: OsString| CString::new(argument.into_vec()).map_err(|_| "a zero byte in an argument".to_owned());
    let argv = std::iter::once(program).chain(args).map(text).collect::<Result<Vec<_>, _>>()?;
    let error = argv.first().map(|path| sys::execute(path, &argv)).ok_or("no program")?;
    drop(lock);
    Err(format!("cannot execute {shown}: {error}"))
}

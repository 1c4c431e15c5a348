//! From the launch file to the node's process.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::super::cgroup::NodeCgroup;
use super::super::fault::Fault;
use super::super::files::{self, Launch};
use super::super::notify::NotifySocket;
use super::super::output::{FILE_LIMIT, Output};
use super::super::{process, rights, secrets, sys};
use super::HERE;
use super::clearing::Rule;
use super::streams::{Stream, Streams};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ProcessId;
use crate::api::report::chain;
use crate::crash_point;
use crate::crash_points;

/// The node from fork to reap.
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// The program, for messages.
    pub(super) program: String,
    pub(super) process: ProcessId,
    pub(super) exec: Exec,
    pub(super) stop: Stop,
    /// From TERM to KILL, unless a stop order says otherwise.
    pub(super) stop_timeout_ms: u64,
    /// Which holders of its lock belong to it.
    pub(super) rule: Rule,
}

/// Whether the node's program is running yet.
pub(super) enum Exec {
    /// The other end closes when it runs.
    Awaited(File),
    Done,
    Failed(Fault),
}

pub(super) enum Stop {
    None,
    /// TERM was sent; KILL is due.
    KillAt(Instant),
    Killed,
}

/// Forks the node. An error is the reason why it is not started.
pub(super) fn start(
    node: &NodeName,
    incarnation: Incarnation,
    lock: BorrowedFd<'_>,
    image: Option<&OwnedFd>,
    cgroup: Option<&NodeCgroup>,
    boot_id: &str,
    agent: u32,
) -> Result<(Running, Streams), String> {
    let launch: Launch = match files::read(Path::new(HERE)) {
        Ok(Some(launch)) => launch,
        Ok(None) => return Err("the launch file is gone from the run directory".into()),
        Err(error) => return Err(chain(&error)),
    };
    if launch.incarnation != incarnation || launch.node != *node {
        return Err(format!(
            "the launch file is for {} incarnation {}, this shim for {node} incarnation {incarnation}",
            launch.node, launch.incarnation
        ));
    }
    if let Some(mask) = launch.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    let notify = NotifySocket::bind(launch.spec.rights.user.as_ref().map(|user| user.uid))
        .map_err(|error| format!("cannot make its NOTIFY_SOCKET: {error}"))?;
    let directory = OsStr::from_bytes(&launch.directory);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| format!("cannot use its directory {}: {error}", directory.display()))?;

    let Image { program, path, argv, env } = Image::of(&launch, &notify, image)?;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("cannot make a pipe: {error}"));
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (failure, failure_end) = pipe()?;
    for end in [&stdout, &stderr, &failure] {
        rustix::io::ioctl_fionbio(end, true).map_err(|error| format!("cannot set up a pipe: {error}"))?;
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let stream = |pipe: OwnedFd, name| {
        let directory = directory.try_clone().map_err(|error| format!("cannot copy a descriptor: {error}"))?;
        Ok::<_, String>(Some(Stream {
            pipe: Some(File::from(pipe)),
            output: Output::new(directory, name, FILE_LIMIT),
            dropping: None,
        }))
    };
    let streams =
        Streams { stdout: stream(stdout, "stdout")?, stderr: stream(stderr, "stderr")?, notify: Some(notify) };

    let rights = rights::Prepared::new(&launch.spec.rights, launch.open_files)?;
    crash_point!("shim_before_fork", node.as_str());
    let image = sys::Program {
        path: &path,
        argv: &argv,
        env: &env,
        directory: directory.as_fd(),
        stdin: null.as_fd(),
        stdout: stdout_end.as_fd(),
        stderr: stderr_end.as_fd(),
        lock,
        rights: &rights,
        cgroup: cgroup.map(NodeCgroup::entrance),
        failure: failure_end.as_fd(),
    };
    let forked = crash_points::fault("fork", node.as_str()).and_then(|()| sys::spawn(&image));
    let pid = forked.map_err(|error| format!("cannot fork: {error}"))?;
    crash_point!("shim_after_fork", node.as_str());
    let pidfd = watch(pid)?;
    let raw = pid.as_raw_nonzero().get().unsigned_abs();
    let process = process::identify(raw, boot_id)
        // Unreadable only if /proc is hidden from us; then it never proves anything, which is safe.
        .unwrap_or_else(|_| ProcessId { boot_id: boot_id.to_owned(), pid: raw, start_time: 0 });
    let exec = Exec::Awaited(File::from(failure));
    let uid = launch.spec.rights.user.as_ref().map_or_else(process::own_uid, |user| user.uid);
    let (rule, stop_timeout_ms) = (Rule { uid, agent }, launch.spec.stop_timeout_ms);
    Ok((Running { pid, pidfd, program, process, exec, stop: Stop::None, stop_timeout_ms, rule }, streams))
}

/// The arguments of execve(2).
struct Image {
    /// The path, for messages.
    program: String,
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// `agent`: the agent's executable, for a simulated node. Without it, this is the agent's executable.
    fn of(launch: &Launch, notify: &NotifySocket, agent: Option<&OwnedFd>) -> Result<Self, String> {
        let simulated = || agent.map_or("/proc/self/exe".to_owned(), |fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let path = launch.program.as_ref().map_or_else(|| simulated().into_bytes(), |path| path.to_vec());
        let program = String::from_utf8_lossy(&path).into_owned();
        let text = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| format!("a zero byte in {:?}", bytes.escape_ascii().to_string()))
        };
        let argv = launch.argv.iter().map(|argument| text(argument)).collect::<Result<Vec<_>, _>>()?;
        let mut env = Vec::with_capacity(launch.env.len() + 1);
        for (name, value) in &launch.env {
            if name.as_slice() != b"NOTIFY_SOCKET" {
                env.push(text(&[name, b"=".as_slice(), value].concat())?);
            }
        }
        for (name, value) in secrets::read(&launch.spec.secrets)? {
            env.push(text(format!("{name}={value}").as_bytes())?);
        }
        env.push(text(&[b"NOTIFY_SOCKET=", notify.address()].concat())?);
        Ok(Self { program, path: text(&path)?, argv, env })
    }
}

/// Opens a pidfd for the node's process, which is not reaped yet. Without one its end would go unnoticed, so then it is
/// killed.
fn watch(pid: Pid) -> Result<OwnedFd, String> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
        // Out of descriptors or memory.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        format!("cannot watch its process: {error}")
    })
}

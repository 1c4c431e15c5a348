//! From a launch spec to a shim: takes the lock, binds the shim's socket, writes the launch file, and spawns the shim
//! once the intent is durable.
//!
//! Promises: nothing is prepared while the lock is held or the last known process is alive; the lock is handed over,
//! never unlocked. Between [`prepare`] and [`spawn`] no process runs: if the agent dies there, the lock is free again
//! and the next agent launches the same incarnation.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags};
use serde_bytes::ByteBuf;

use super::fault::Fault;
use super::files::{self, Durability, LOCK, Launch, SOCKET, STATUS};
use super::process::Live;
use super::protocol::WAITS;
use super::{Context, aside, channel_dir, create_private, node_files, ownership, ports, secrets, shim, simulated};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::{LaunchSpec, ProcessId, Program};
use crate::api::report::chain;
use crate::api::rights::Limits;
use crate::{crash_points, regular_file};

/// How long a lock may be held by a process that is just ending: an acknowledged shim, a killed node.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to take a lock.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Contains the one address at which Zeek listens (`base/frameworks/broker/main.zeek`, `default_listen_address`).
const LISTEN_ADDRESS: &str = "ZEEK_DEFAULT_LISTEN_ADDRESS";

/// Where programs are searched for if the agent has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A node's run directory, open: its socket is reached through the descriptor, however long the path is.
#[derive(Debug)]
pub struct RunDir {
    pub path: PathBuf,
    directory: File,
}

impl RunDir {
    /// `None` if there is none.
    pub fn open(path: PathBuf) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => Ok(Some(Self { path, directory: directory.into() })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create(path: PathBuf) -> io::Result<Self> {
        create_private(&path)?;
        Self::open(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The directory itself, for comparison.
    pub fn as_file(&self) -> &File {
        &self.directory
    }

    /// A path to the socket that fits into 108 bytes; valid while `self` lives.
    pub fn socket(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()).into()
    }

    /// The lock's file, not locked. Must not be written to: the node inherits the descriptor.
    pub fn open_lock(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular_file::check(rustix::fs::openat(&self.directory, LOCK, flags, Mode::from_raw_mode(0o600))?)
    }

    /// The lock, taken; `None` if it is held.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let lock = self.open_lock()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Like [`try_lock`](Self::try_lock), repeated for up to `patience`. Blocks.
    pub fn lock_within(&self, patience: Duration) -> io::Result<Option<File>> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(Some(lock));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            // flock cannot wait with a limit, so this is one of two places that poll.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK_AGAIN);
        }
    }
}

/// A prepared incarnation, for which only the shim has to be spawned.
#[derive(Debug)]
pub struct Prepared {
    pub incarnation: Incarnation,
    pub directory: RunDir,
    lock: OwnedFd,
    listener: UnixListener,
    /// The node is the agent's own executable, which its shim needs then.
    is_simulated: bool,
    /// For its scope.
    pub limits: Limits,
    pub stop_timeout: Duration,
}

#[derive(Debug)]
pub enum Preparation {
    Prepared(Prepared),
    /// Something of the node is still there, or holds its lock.
    Held,
    /// Its lock is unavailable, so nothing is known about its last process: why.
    Unprovable(String),
    /// A process listens on a port that it needs: which.
    PortTaken(String),
    /// It cannot be started: why.
    Impossible(Fault),
}

/// The incarnation to launch.
#[derive(Debug, Clone)]
pub struct Order {
    pub incarnation: Incarnation,
    pub spec: Box<LaunchSpec>,
    pub by: Seq,
}

/// Prepares one incarnation; `last` is the node's last known process. Blocks for at most [`PATIENCE`] while the lock is
/// held.
pub fn prepare(context: &Context, node: &NodeName, order: &Order, last: Option<&ProcessId>) -> Preparation {
    let path = context.run_dir(node);
    // This comes first: a fault of the new start says nothing about the previous process, which may still run.
    let directory = match free_run_dir(context, node, &path, last) {
        Ok(Ok(locked)) => locked,
        Ok(Err(held)) => return held,
        Err(reason) => return Preparation::Unprovable(reason),
    };
    match try_prepare(context, node, order, directory) {
        Ok(preparation) => preparation,
        Err(fault) => Preparation::Impossible(fault),
    }
}

/// The run directory with its lock, if nothing of the node is left.
fn free_run_dir(
    context: &Context,
    node: &NodeName,
    path: &Path,
    last: Option<&ProcessId>,
) -> Result<Result<(RunDir, File), Preparation>, String> {
    let cannot = |what: &'static str| {
        move |error: io::Error| format!("cannot {what} {}: {error}; {}", path.display(), aside::way_out(node))
    };
    let directory = RunDir::create(path.to_owned()).map_err(cannot("create or open its run directory"))?;
    let Some(lock) = directory.lock_within(PATIENCE).map_err(cannot("take the lock in"))? else {
        return Ok(Err(Preparation::Held));
    };
    if let Some(last) = last {
        let alive = Live::find(last, &context.boot_id)
            .map_err(|error| format!("cannot tell whether its last process {} is gone: {error}", last.pid))?;
        if alive.is_some() {
            return Ok(Err(Preparation::Held));
        }
    }
    Ok(Ok((directory, lock)))
}

fn try_prepare(
    context: &Context,
    node: &NodeName,
    order: &Order,
    (directory, lock): (RunDir, File),
) -> Result<Preparation, Fault> {
    let launch = resolve(context, node, order)?;
    // The shim reads them again: here it is only found out whether it can.
    secrets::read(&order.spec.secrets)?;
    let node_dir = context.node_dir(node);
    let created = crash_points::fault("prepare", node.as_str()).and_then(|()| create_private(&node_dir));
    created.map_err(|error| {
        Fault::of(format!("cannot create its working directory {}: {error}", node_dir.display()), &error)
    })?;
    if let Some(user) = &order.spec.rights.user {
        ownership::give(&node_dir, user).map_err(|error| {
            Fault::of(format!("cannot give {} to user {}: {error}", node_dir.display(), user.name), &error)
        })?;
    }
    let path = directory.path.clone();
    // Its own last process is gone, so whoever listens there is another program.
    let address = order.spec.env.get(LISTEN_ADDRESS).and_then(|address| address.parse().ok());
    match ports::taken(&order.spec.ports, address) {
        Ok(None) => {}
        Ok(Some(reason)) => return Ok(Preparation::PortTaken(reason)),
        // The node will find out by itself, with a less helpful message.
        Err(error) => tracing::warn!(%node, %error, "cannot tell whether its ports are free"),
    }
    // Nobody holds the lock, so nobody uses these, and the core looked for the node before it ordered another start.
    for stale in [STATUS, SOCKET] {
        files::remove(&path.join(stale)).map_err(|error| Fault::of(chain(&error), &error))?;
    }
    node_files::write(&node_dir, &order.spec.files)?;
    if let Some(channel) = order.spec.channel() {
        channel_dir::make(&node_dir, &channel.directory).map_err(|error| {
            let path = node_dir.join(&channel.directory);
            Fault::of(format!("cannot prepare the directory {} for questions to it: {error}", path.display()), &error)
        })?;
    }
    let listener = UnixListener::bind(directory.socket())
        .map_err(|error| Fault::of(format!("cannot bind the shim's socket in {}: {error}", path.display()), &error))?;
    files::write(&path, &launch, Durability::PowerCut).map_err(|error| Fault::of(chain(&error), &error))?;
    let is_simulated = launch.program.is_none();
    let (incarnation, lock) = (order.incarnation, lock.into());
    let (limits, stop_timeout) = (order.spec.rights.limits, Duration::from_millis(order.spec.stop_timeout_ms));
    Ok(Preparation::Prepared(Prepared { incarnation, directory, lock, listener, is_simulated, limits, stop_timeout }))
}

/// Spawns the shim of a prepared incarnation and passes the lock and the listener to it; this process closes its own.
pub fn spawn(context: &Context, node: &NodeName, prepared: Prepared) -> io::Result<(RunDir, tokio::process::Child)> {
    let Prepared { incarnation, directory, lock, listener, is_simulated, limits: _, stop_timeout: _ } = prepared;
    // Through the descriptor: the path may already lead to another release.
    let program = context.shim.as_ref().unwrap_or(&context.executable);
    let image = if is_simulated { Stdio::from(context.executable.try_clone()?) } else { Stdio::null() };
    let mut command = std::process::Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .arg0(shim::NAME)
        .arg(node.as_str())
        .arg(incarnation.to_string())
        .args(context.gives_scopes.then_some(WAITS))
        .current_dir(&directory.path)
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(OwnedFd::from(listener)))
        .stderr(image);
    crash_points::fault("spawn", node.as_str())?;
    let child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
    Ok((directory, child))
}

/// Works out everything that the shim needs.
fn resolve(context: &Context, node: &NodeName, order: &Order) -> Result<Launch, Fault> {
    let spec = &order.spec;
    let mut env = environment(&context.options.environment, &spec.env);
    env.extend(context.options.agent_address.iter().flat_map(|address| whereabouts(*address, node)));
    let program = match &spec.program {
        Program::Path(program) => Some(find_program(NODE_PROGRAM, program, env.get(OsStr::new("PATH")))?),
        Program::Simulated => {
            env.extend(context.options.simulated_env.iter().cloned());
            None
        }
    };
    let mut argv: Vec<ByteBuf> = match &program {
        Some(path) => vec![bytes(path.as_os_str())],
        None => vec![ByteBuf::from(simulated::NAME), ByteBuf::from(simulated::ARGUMENT)],
    };
    argv.extend(spec.args.iter().map(|argument| ByteBuf::from(argument.as_bytes())));
    let has_zero = |text: &[u8]| text.contains(&0);
    if argv.iter().any(|argument| has_zero(argument))
        || env.iter().any(|(name, value)| has_zero(name.as_bytes()) || has_zero(value.as_bytes()))
    {
        return Err("an argument or environment variable of it contains a zero byte".into());
    }
    Ok(Launch {
        node: node.clone(),
        incarnation: order.incarnation,
        by: order.by,
        spec: (**spec).clone(),
        program: program.as_ref().map(|path| bytes(path.as_os_str())),
        argv,
        env: env
            .into_iter()
            .map(|(name, value)| (ByteBuf::from(name.into_vec()), ByteBuf::from(value.into_vec())))
            .collect(),
        directory: bytes(context.node_dir(node).as_os_str()),
        umask: context.options.umask,
        open_files: context.options.open_files,
    })
}

fn bytes(text: &OsStr) -> ByteBuf {
    ByteBuf::from(text.as_bytes())
}

/// The agent's environment without the variables for the agent itself, overlaid with the node's own.
///
/// Zeek also takes its name and place in the cluster from variables: those of the agent would give a node another name
/// (`CLUSTER_NODE`) or another agent. A process with `ZEEK_MANAGEMENT_NODE` is part of Zeek's own management framework,
/// and not a node; one with `ZEEK_STEM` acts as a helper of Zeek's Supervisor (`src/supervisor/Supervisor.cc`), and one
/// with `ZEEKCTL_CHECK_CONFIG` neither listens nor dials. Keys of CURVE would be written into the launch file: they come from
/// files. `MALLOC_ARENA_MAX` was set by unit files for the agent's
/// memory.
pub(super) fn environment(
    agent: &[(OsString, OsString)],
    node: &BTreeMap<String, String>,
) -> BTreeMap<OsString, OsString> {
    const NAMES: [&[u8]; 10] = [
        b"NOTIFY_SOCKET",
        b"INVOCATION_ID",
        b"JOURNAL_STREAM",
        b"MALLOC_ARENA_MAX",
        b"CLUSTER_NODE",
        b"ZEEK_AGENT_ADDR",
        b"ZEEK_AGENT_PORT",
        b"ZEEK_MANAGEMENT_NODE",
        b"ZEEK_STEM",
        b"ZEEKCTL_CHECK_CONFIG",
    ];
    const PREFIXES: [&[u8]; 4] = [b"WATCHDOG_", b"LISTEN_", b"ZCA_", b"ZEEK_CLUSTER_BACKEND_ZEROMQ_CURVE_"];
    let is_ours = |name: &OsStr| {
        let name = name.as_bytes();
        NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let inherited = agent.iter().filter(|(name, _)| !is_ours(name)).cloned();
    inherited.chain(node.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

/// The variables by which a node finds its agent, as Zeek's `management/agent/config.zeek` reads them. They include the
/// node's name, so that an agent started from that node does not use the address as its own.
fn whereabouts(agent: SocketAddr, node: &NodeName) -> [(OsString, OsString); 3] {
    [
        ("ZEEK_AGENT_ADDR", agent.ip().to_string()),
        ("ZEEK_AGENT_PORT", format!("{}/tcp", agent.port())),
        ("ZCA_NODE", node.to_string()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
}

/// The name of the nodes' program in errors.
pub(super) const NODE_PROGRAM: &str = "node program";

/// The file to execute, as an absolute path. The error lists the places that were searched.
pub(super) fn find_program(what: &str, program: &str, path: Option<&OsString>) -> Result<PathBuf, Fault> {
    if program.is_empty() {
        return Err("no node program is set; set node_program in the settings or give --node-program".into());
    }
    if program.contains('/') {
        let path = std::path::absolute(program)
            .map_err(|error| Fault::of(format!("cannot run {what} {program}: {error}"), &error))?;
        return match check_executable(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(Fault::of(format!("cannot run {what} {}: {error}", path.display()), &error)),
        };
    }
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    let mut seen = None;
    for directory in std::env::split_paths(path).filter(|directory| directory.is_absolute()) {
        let candidate = directory.join(program);
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let fault = || Fault::of(format!("{}: {error}", candidate.display()), &error);
                let _ = seen.get_or_insert_with(fault);
            }
        }
    }
    let Fault { reason, is_lasting } = seen.unwrap_or_else(|| "no such file".into());
    let advice = if what == NODE_PROGRAM { "; set node_program to where it is (run --node-program PATH)" } else { "" };
    let reason = format!("cannot find {what} {program} in PATH ({}): {reason}{advice}", path.display());
    Err(Fault { reason, is_lasting })
}

pub(super) fn check_executable(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_meant_for_the_agent_is_not_passed_on() {
        let agent = [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_FDS",
            "LISTEN_PID",
            "LISTEN_FDNAMES",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "MALLOC_ARENA_MAX",
            "ZCA_STATE_DIR",
            "ZCA_CRASH_AT",
            "PATH",
            "HOME",
            "ZEEK_AGENT_NAME",
            "ZEEK_AGENT_ADDR",
            "ZEEK_AGENT_PORT",
            "ZEEK_MANAGEMENT_NODE",
            "ZEEK_STEM",
            "ZEEKCTL_CHECK_CONFIG",
            "CLUSTER_NODE",
            "NOTIFY_SOCKET_2",
        ]
        .map(|name| (OsString::from(name), OsString::from("agent")));
        let node =
            ["PATH", "ZCA_LOOKS_OURS", "ZEEK_AGENT_PORT"].map(|name| (name.to_owned(), "node".to_owned())).into();
        let env = environment(&agent, &node);
        let seen: Vec<_> = env.iter().map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap())).collect();
        assert_eq!(
            seen,
            [
                ("HOME", "agent"),
                ("NOTIFY_SOCKET_2", "agent"),
                ("PATH", "node"),
                ("ZCA_LOOKS_OURS", "node"),
                ("ZEEK_AGENT_NAME", "agent"),
                ("ZEEK_AGENT_PORT", "node"),
            ]
        );
    }

    #[test]
    fn a_program_is_found_or_the_reason_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("tool");
        let path = Some(directory.path().as_os_str().to_owned());
        let missing = find_program(NODE_PROGRAM, "tool", path.as_ref()).unwrap_err().reason;
        assert!(missing.contains(directory.path().to_str().unwrap()), "{missing}");
        std::fs::write(&place, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o644)).unwrap();
        let refused = find_program(NODE_PROGRAM, "tool", path.as_ref()).unwrap_err().reason;
        assert!(refused.contains("tool: Permission denied"), "{refused}");
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_program(NODE_PROGRAM, "tool", path.as_ref()).unwrap(), place);
        assert!(
            find_program(NODE_PROGRAM, directory.path().to_str().unwrap(), None)
                .unwrap_err()
                .reason
                .contains("not a regular file")
        );
        assert!(
            find_program(NODE_PROGRAM, "/nowhere/zeek", None)
                .unwrap_err()
                .reason
                .contains("/nowhere/zeek: No such file")
        );
        assert!(find_program(NODE_PROGRAM, "", None).is_err());
    }
}

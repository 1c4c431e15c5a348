//! The shim: the small process between agent and node. One per node, one thread, no runtime.
//!
//! Promises that the node runs as its launch file says, has only its shim as parent, and that its end is noticed,
//! recorded and offered until an agent acknowledges it. Works without an agent. Leaves all policy to the agent: the
//! shim starts one process once, and stops it when ordered to.
//!
//! Promises:
//! - While any process of this incarnation is alive (unless it closed its descriptors), the lock is held: by the shim,
//!   and by the node, which inherits it.
//! - The shim's death ends the node (PR_SET_PDEATHSIG), as far as the kernel allows.
//! - The node is never blocked by its output: the shim always reads, and drops what the disk does not accept.
//! - The rest of the node's process group is killed when the node has ended. The group's number is still reserved then,
//!   since the node remains a zombie until afterwards.
//! - The exit is reported when no descendant of the node and no holder of its lock is left: the shim is a subreaper, so
//!   descendants become its children whatever they left or closed ([`descendants`], [`clearing`]). Processes that
//!   cannot be ended are reported to the agent instead, and the shim stays for them.
//! - Where the agent says so, the fork waits until this process is in a scope of systemd ([`cgroup`](super::cgroup)), a
//!   few seconds at most. Then the node's processes are in a cgroup below it, and what is left there is killed with them.
//! - SIGTERM ends the node as a stop order does, and is remembered with its sender: it comes from a host that goes down
//!   or from somebody who stops the shim's scope. Then the shim does not wait for an agent, once the exit is on disk.
//! - An idle shim sleeps in poll without a timeout. There is a timeout only between a stop order's TERM and its KILL,
//!   and while the processes that a node left are being ended.
//!
//! It is started with the lock's descriptor as standard input and the listening socket as standard output, in the
//! node's run directory; see [`launch`](super::launch). For a simulated node, standard error is the agent's executable.
//! Later releases may start it with more arguments, which are ignored.

mod agent;
mod clearing;
pub(super) mod descendants;
mod log;
mod start;
mod streams;

use std::ffi::{CString, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::cgroup::NodeCgroup;
use super::fault::Fault;
use super::files::{self, Circumstances, Durability, Exit, Sender, Status};
use super::notify::Notification;
use super::protocol::{ToAgent, WAITS};
use super::{process, start_step, sys};
use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::{ExitCause, ProcessId};
use crate::api::report::chain;
use crate::crash_point;

use agent::Agent;
use clearing::{Clearing, ClearingProgress, Lock};
use log::Log;
use start::{Exec, Running, Stop, start};
use streams::{Stream, Streams};

pub use super::protocol::SHIM_NAME as NAME;

/// One read from a pipe: the default capacity of a pipe.
const READ_SIZE: usize = 64 << 10;
/// The most datagrams handled before other work gets its turn.
const NOTIFICATIONS: u32 = 64;

/// How long an agent may take to have this process put into a scope.
const SCOPE_TAKES: Duration = Duration::from_secs(5);

/// The run directory, which is the shim's working directory.
const HERE: &str = ".";

/// Runs as the shim `zca-shim NODE INCARNATION` and returns when the node's exit has been acknowledged.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    sys::ignore(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE]);
    // Fails only for a group leader, which a shim never is; it would work nevertheless.
    let _ = rustix::process::setsid();
    let name = CString::new(NAME).expect("the name has no zero byte");
    let _ = rustix::thread::set_name(&name);
    let (lock, listener, image) = match take_descriptors() {
        Ok(descriptors) => descriptors,
        // There is no way to report it: the agent sees the lock free and the socket closed.
        Err(_) => return ExitCode::FAILURE,
    };
    let mut log = Log::open();
    let node = args.next().and_then(|text| text.into_string().ok()).and_then(|text| NodeName::new(text).ok());
    let incarnation = args.next().and_then(|text| text.to_str().and_then(|text| text.parse().ok()));
    let (Some(node), Some(incarnation)) = (node, incarnation) else {
        log.line("not started as a shim is: zca-shim NODE INCARNATION in a run directory");
        return ExitCode::FAILURE;
    };
    let incarnation = Incarnation(incarnation);
    let boot_id = process::boot_id().unwrap_or_else(|error| {
        log.line(format_args!("cannot read this boot's id, the node's process will not be provable: {error}"));
        String::new()
    });
    let signals = subreap(&mut log);
    let began = Instant::now();
    let waits = args.next().is_some_and(|text| text == WAITS);
    let waiting = Waiting { until: began + SCOPE_TAKES, image, boot_id, agent: parent() };
    let lock = Lock::new(lock.into());
    let mut shim = Shim {
        node,
        incarnation,
        listener,
        agent: None,
        phase: Phase::Waiting(Box::new(waiting)),
        streams: Streams::default(),
        cgroup: None,
        ready: false,
        told_dropped: 0,
        began,
        log,
        lock,
        signals,
        terminated: None,
        is_recorded: false,
    };
    if !waits {
        shim.begin();
    }
    shim.run()
}

/// Makes this process the parent of the node's orphans; returns a descriptor that reports their ends. Without it, this
/// shim works like those of the first release, and says so to its agent.
fn subreap(log: &mut Log) -> Option<OwnedFd> {
    #[cfg(feature = "crash-points")]
    if std::env::var_os("ZCA_TEST_FIRST_SHIM").is_some() {
        return None;
    }
    let signals = sys::shim_signals().and_then(|signals| {
        Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map(|()| signals)?)
    });
    if let Err(error) = &signals {
        log.line(format_args!("cannot become the subreaper of the node's orphaned processes: {error}"));
    }
    signals.ok()
}

/// The agent that started this process, or the process that adopted this one.
fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get().unsigned_abs())
}

/// Lock, listener and, for a simulated node, the agent's executable, moved away from the standard streams, which become
/// /dev/null; everything else is closed.
fn take_descriptors() -> io::Result<(OwnedFd, UnixListener, Option<OwnedFd>)> {
    let lock = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let listener = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let is_image = rustix::fs::fstat(io::stderr())
        .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile);
    let image = is_image.then(|| rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)).transpose()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    let kept: Vec<_> = [lock.as_fd(), listener.as_fd()].into_iter().chain(image.as_ref().map(AsFd::as_fd)).collect();
    sys::close_all_but(&kept)?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    Ok((lock, listener, image))
}

/// Everything is ready for the fork, which is to happen in a scope.
struct Waiting {
    /// Then it is done without one.
    until: Instant,
    image: Option<OwnedFd>,
    boot_id: String,
    agent: u32,
}

enum Phase {
    Waiting(Box<Waiting>),
    Running(Running),
    /// The node has ended, but processes that it left have not.
    Clearing(Box<Clearing>),
    Exited {
        process: Option<ProcessId>,
        exit: Exit,
    },
}

impl Phase {
    fn failed(reason: String) -> Self {
        let (stdout, stderr) = (String::new(), String::new());
        let cause = ExitCause::NotStarted(reason);
        let circumstances = Circumstances::default();
        let exit = Exit { cause, ran_ms: 0, stdout, stderr, is_lasting: false, circumstances };
        Self::Exited { process: None, exit }
    }
}

struct Shim {
    node: NodeName,
    incarnation: Incarnation,
    listener: UnixListener,
    agent: Option<Agent>,
    phase: Phase,
    streams: Streams,
    /// Where the node's processes are, if this process is in a scope.
    cgroup: Option<NodeCgroup>,
    ready: bool,
    /// How many dropped bytes of its output were reported to an agent.
    told_dropped: u64,
    began: Instant,
    log: Log,
    /// Held until the process ends.
    lock: Lock,
    /// Reports children that ended, and SIGTERM. `None`: this is not a subreaper, and has only the node.
    signals: Option<OwnedFd>,
    /// Who sent SIGTERM first.
    terminated: Option<Sender>,
    /// The exit is on disk, and survives a power cut.
    is_recorded: bool,
}

/// The sources that poll can find ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
    Notify,
    Exec,
    Node,
    Signals,
    /// The scope ran out of memory.
    Memory,
    /// A process that holds the lock.
    Holder,
    Agent,
    Listener,
}

/// Whether to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    Leave,
}

impl Shim {
    fn run(&mut self) -> ExitCode {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let ready = match self.poll() {
                Ok(ready) => ready,
                Err(error) => {
                    // The only sane reaction is to exit, which ends the node, as with any death of a shim.
                    self.log.line(format_args!("poll failed, giving up: {error}"));
                    return ExitCode::FAILURE;
                }
            };
            self.begin_if_due();
            self.kill_if_due();
            for source in ready {
                let next = match source {
                    Source::Stdout | Source::Stderr => self.read_output(source, &mut buffer),
                    Source::Notify => self.read_notifications(&mut buffer),
                    Source::Exec => self.read_exec(),
                    Source::Node => self.node_exited(&mut buffer),
                    Source::Signals => self.take_signals(),
                    Source::Memory => self.note_memory(),
                    // Handled below.
                    Source::Holder => Next::Wait,
                    Source::Agent => self.serve_agent(&mut buffer),
                    Source::Listener => self.accept(),
                };
                match next {
                    Next::Wait => {}
                    Next::Leave => return ExitCode::SUCCESS,
                }
            }
            self.clear(&mut buffer);
            if self.may_leave_alone() {
                self.log.line("the exit is on disk, leaving without an acknowledgement");
                return ExitCode::SUCCESS;
            }
        }
    }

    /// Forks the node, in this process's scope if it has one.
    fn begin(&mut self) {
        let Phase::Waiting(waiting) = &self.phase else { return };
        match NodeCgroup::make() {
            Ok(cgroup) => self.cgroup = cgroup,
            Err(error) => self.log.line(format_args!("cannot make a cgroup for the node in its scope: {error}")),
        }
        let Waiting { image, boot_id, agent, .. } = &**waiting;
        let (lock, cgroup) = (self.lock.as_fd(), self.cgroup.as_ref());
        self.began = Instant::now();
        match start(&self.node, self.incarnation, lock, image.as_ref(), cgroup, boot_id, *agent) {
            Ok((running, streams)) => {
                self.streams = streams;
                self.phase = Phase::Running(running);
            }
            Err(reason) => {
                self.phase = Phase::failed(reason);
                self.settle();
            }
        }
    }

    fn begin_if_due(&mut self) {
        if let Phase::Waiting(waiting) = &self.phase
            && waiting.until <= Instant::now()
        {
            self.log.line("no word from an agent about a scope in time: starting the node where this process is");
            self.begin();
        }
    }

    fn note_memory(&mut self) -> Next {
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.note_memory();
        }
        Next::Wait
    }

    /// After SIGTERM nobody may be there to acknowledge the exit: the next agent reads it from the disk.
    fn may_leave_alone(&self) -> bool {
        let is_told = self.agent.as_ref().is_none_or(|agent| agent.backlog.is_empty());
        self.terminated.is_some() && self.is_recorded && is_told && matches!(self.phase, Phase::Exited { .. })
    }

    /// Sleeps until something is ready or a KILL is due.
    fn poll(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(7);
        let mut fds = Vec::with_capacity(7);
        let mut add = |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        };
        for (source, stream) in [(Source::Stdout, &self.streams.stdout), (Source::Stderr, &self.streams.stderr)] {
            if let Some(pipe) = stream.as_ref().and_then(|stream| stream.pipe.as_ref()) {
                add(source, pipe.as_fd(), PollFlags::IN);
            }
        }
        if let Some(notify) = &self.streams.notify {
            add(Source::Notify, notify.as_fd(), PollFlags::IN);
        }
        let mut deadline = None;
        match &self.phase {
            Phase::Waiting(waiting) => deadline = Some(waiting.until),
            Phase::Running(running) => {
                if let Exec::Awaited(failure) = &running.exec {
                    add(Source::Exec, failure.as_fd(), PollFlags::IN);
                }
                if let Stop::KillAt(at) = running.stop {
                    deadline = Some(at);
                }
                add(Source::Node, running.pidfd.as_fd(), PollFlags::IN);
            }
            Phase::Clearing(clearing) => {
                deadline = Some(clearing.wake);
                for holder in clearing.watched() {
                    add(Source::Holder, holder, PollFlags::IN);
                }
            }
            Phase::Exited { .. } => {}
        }
        if let Some(signals) = &self.signals {
            add(Source::Signals, signals.as_fd(), PollFlags::IN);
        }
        // Only while the node runs: afterwards nobody reads them.
        if let (Phase::Running(_), Some(memory)) =
            (&self.phase, self.cgroup.as_ref().and_then(NodeCgroup::memory_events))
        {
            add(Source::Memory, memory, PollFlags::PRI);
        }
        if let Some(agent) = &self.agent {
            let events = if agent.backlog.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            add(Source::Agent, agent.stream.as_fd(), events);
        }
        add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        loop {
            let timeout = deadline.map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| source).collect())
    }

    fn read_output(&mut self, source: Source, buffer: &mut [u8]) -> Next {
        let stream = match source {
            Source::Stdout => &mut self.streams.stdout,
            _ => &mut self.streams.stderr,
        };
        if let Some(stream) = stream {
            stream.read(buffer, &mut self.log);
            // The first time. Later losses are reported on request.
            if self.told_dropped == 0 && stream.dropping.is_some() {
                // Started is reported before this.
                self.read_exec();
                self.tell_dropped();
            }
        }
        Next::Wait
    }

    fn tell_dropped(&mut self) {
        let (bytes, reason) = self.streams.dropped();
        let reason = reason.filter(|_| self.told_dropped == 0).map(str::to_owned);
        self.told_dropped = bytes;
        self.tell(&ToAgent::Dropped { bytes, reason });
    }

    fn read_notifications(&mut self, buffer: &mut [u8]) -> Next {
        let Some(notify) = &self.streams.notify else { return Next::Wait };
        let mut became_ready = false;
        // Any process on the host can send there, faster than we read: the next poll returns for the rest.
        for _ in 0..NOTIFICATIONS {
            match notify.receive(buffer) {
                Ok(Some(Notification { is_ready, status })) => {
                    became_ready |= is_ready;
                    if let Some(status) = status {
                        self.log.line(format_args!("the node says: {status}"));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.log.line(format_args!("cannot read the NOTIFY_SOCKET any more: {error}"));
                    self.streams.notify = None;
                    break;
                }
            }
        }
        if became_ready && !self.ready && matches!(self.phase, Phase::Running(_)) {
            self.ready = true;
            // Started is reported before ready.
            self.read_exec();
            self.tell(&ToAgent::Ready {});
        }
        Next::Wait
    }

    /// Checks whether the program was executed.
    fn read_exec(&mut self) -> Next {
        let Phase::Running(running) = &mut self.phase else { return Next::Wait };
        if !matches!(running.exec, Exec::Awaited(_)) {
            return Next::Wait;
        }
        let mut report = [0; start_step::StartStep::REPORT];
        while let Exec::Awaited(failure) = &mut running.exec {
            match failure.read(&mut report) {
                Ok(0) => running.exec = Exec::Done,
                Ok(count) => match report.get(..count).and_then(start_step::StartStep::parse) {
                    Some((step, error)) if step.is_warning() => {
                        let warning = format!("{step}: {error}; the node runs without");
                        self.log.line(&warning);
                        if let Some(stderr) = &mut self.streams.stderr {
                            // In the place where Zeek's own supervisor writes it. If the disk does not accept it, that
                            // is counted.
                            let _ = stderr.output.write(format!("{NAME}: {warning}\n").as_bytes());
                        }
                    }
                    Some((start_step::StartStep::Execute, error)) => {
                        let reason = format!("cannot execute {}: {error}", running.program);
                        running.exec = Exec::Failed(Fault::of(reason, &error));
                    }
                    Some((step, error)) => {
                        let reason = format!("cannot run {}: {step}: {error}", running.program);
                        running.exec = Exec::Failed(Fault::of(reason, &error));
                    }
                    None => running.exec = Exec::Failed(format!("cannot execute {}", running.program).into()),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    running.exec =
                        Exec::Failed(format!("cannot tell whether {} runs: {error}", running.program).into());
                }
            }
        }
        if let Exec::Done = running.exec {
            let process = running.process.clone();
            if let Some(cgroup) = &mut self.cgroup {
                cgroup.watch_memory();
            }
            let scope = self.cgroup.as_ref().map(|cgroup| cgroup.scope.clone());
            let status = Status { incarnation: self.incarnation, process: Some(process.clone()), exit: None, scope };
            // Helps a later agent find the node if this shim is killed; not needed after a power cut.
            if let Err(error) = files::write(Path::new(HERE), &status, Durability::ProcessDeath) {
                self.log.line(chain(&error));
            }
            self.log.line(format_args!("incarnation {} runs as pid {}", self.incarnation, process.pid));
            let scope = self.cgroup.as_ref().map(|cgroup| cgroup.scope.clone());
            self.tell(&ToAgent::Started { process, scope });
        }
        Next::Wait
    }

    /// Descendants of the node that lost their parents have ended, or the node has; or SIGTERM came.
    fn take_signals(&mut self) -> Next {
        self.note_signals();
        match &self.phase {
            Phase::Running(running) => descendants::reap_others(running.pid),
            // Clearing does this itself.
            Phase::Clearing(_) => {}
            Phase::Waiting(_) | Phase::Exited { .. } => _ = descendants::reap(),
        }
        Next::Wait
    }

    /// Reads the signals that came. The first SIGTERM is a stop order.
    fn note_signals(&mut self) {
        let mut terminated = None;
        while let Some(received) = self.signals.as_ref().and_then(|signals| sys::next_signal(signals.as_fd())) {
            // The children that ended are found by other means.
            if received.signal == Signal::TERM.as_raw() {
                terminated = Some(Sender { pid: received.pid, uid: received.uid });
            }
        }
        let Some(sender) = terminated else { return };
        self.log.line(format_args!("SIGTERM from pid {} of uid {}", sender.pid, sender.uid));
        if self.terminated.is_none() {
            self.terminated = Some(sender);
            let timeout_ms = match &self.phase {
                Phase::Running(running) => running.stop_timeout_ms,
                Phase::Clearing(_) => duration_ms(clearing::GRACE),
                Phase::Waiting(_) => 0,
                Phase::Exited { .. } => return,
            };
            self.stop(timeout_ms);
        }
    }

    /// The node is a zombie: reaps it, and begins to end what it left.
    fn node_exited(&mut self, buffer: &mut [u8]) -> Next {
        self.read_exec();
        let Phase::Running(running) = &self.phase else { return Next::Wait };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let cause = match rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), look) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitCause::Code(code),
                (None, Some(signal)) => ExitCause::Signal(signal),
                (None, None) => return Next::Wait,
            },
            Ok(None) => return Next::Wait,
            Err(error) => {
                self.log.line(format_args!("cannot wait for the node: {error}"));
                ExitCause::Lost
            }
        };
        crash_point!("shim_after_exit", self.node.as_str());
        // Both may have been told at once.
        self.note_signals();
        let Phase::Running(running) = &self.phase else { return Next::Wait };
        let oom = cause == ExitCause::Signal(Signal::KILL.as_raw())
            && self.cgroup.as_mut().is_some_and(NodeCgroup::ran_out_of_memory);
        let circumstances = Circumstances { terminated: self.terminated, oom };
        let (pid, process, rule) = (running.pid, running.process.clone(), running.rule);
        let (cause, process, is_lasting) = match &running.exec {
            Exec::Failed(Fault { reason, is_lasting }) => (ExitCause::NotStarted(reason.clone()), None, *is_lasting),
            Exec::Awaited(_) | Exec::Done => (cause, Some(process), false),
        };
        let now = Instant::now();
        let (was_asked, kill_at) = match running.stop {
            Stop::None => (false, now + clearing::GRACE),
            Stop::KillAt(at) => (true, at.min(now + clearing::GRACE)),
            Stop::Killed => (true, now),
        };
        // The zombie reserves the number, so this is the node's group or nothing.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        self.read_notifications(buffer);
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let ran_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (stdout, stderr) = (String::new(), String::new());
        let exit = self.take_output(Exit { cause, ran_ms, stdout, stderr, is_lasting, circumstances }, buffer);
        self.streams.notify = None;
        if self.signals.is_none() {
            self.phase = Phase::Exited { process, exit };
            self.settle();
            return Next::Wait;
        }
        if !was_asked {
            descendants::signal_all(Signal::TERM, None);
        }
        self.phase = Phase::Clearing(Box::new(Clearing::new(process, exit, rule, kill_at)));
        if !self.clear(buffer) {
            self.log.line("the node has ended, and what it left is being ended");
            // If this shim is killed meanwhile, the node's end is known nevertheless.
            self.write_exit();
        }
        Next::Wait
    }

    /// Reads the rest of the pipes, and adds the node's last output to its exit.
    fn take_output(&mut self, exit: Exit, buffer: &mut [u8]) -> Exit {
        for stream in [&mut self.streams.stdout, &mut self.streams.stderr].into_iter().flatten() {
            stream.drain(buffer, &mut self.log);
        }
        let tail = |stream: &Option<Stream>| stream.as_ref().map(|stream| stream.output.tail()).unwrap_or_default();
        Exit { stdout: tail(&self.streams.stdout), stderr: tail(&self.streams.stderr), ..exit }
    }

    /// Continues to end what the node left, if it has ended; returns whether nothing is left.
    fn clear(&mut self, buffer: &mut [u8]) -> bool {
        let Phase::Clearing(clearing) = &mut self.phase else { return true };
        match clearing.step(&mut self.lock, self.cgroup.as_ref()) {
            ClearingProgress::Waits => false,
            ClearingProgress::Left(survivors) => {
                self.log.line(format_args!("could not be ended after the node: {survivors}"));
                self.tell(&ToAgent::Left { survivors });
                false
            }
            ClearingProgress::Done => {
                if let Some(Err(error)) = self.cgroup.as_ref().map(NodeCgroup::remove) {
                    // It goes with the scope.
                    self.log.line(format_args!("cannot remove the node's cgroup: {error}"));
                }
                let (process, exit) = (clearing.process.clone(), clearing.exit.clone());
                let exit = self.take_output(exit, buffer);
                self.phase = Phase::Exited { process, exit };
                self.settle();
                true
            }
        }
    }

    /// Makes the report durable and offers it.
    fn settle(&mut self) {
        let Phase::Exited { process, exit } = &self.phase else { return };
        let (process, exit) = (process.clone(), exit.clone());
        self.log.line(format_args!("incarnation {}: {} after {} ms", self.incarnation, exit.cause, exit.ran_ms));
        crash_point!("shim_before_status", self.node.as_str());
        self.write_exit();
        crash_point!("shim_after_status", self.node.as_str());
        self.tell(&ToAgent::Exited { process, exit });
    }

    fn write_exit(&mut self) {
        let (process, exit) = match &self.phase {
            Phase::Waiting(_) | Phase::Running(_) => return,
            Phase::Clearing(clearing) => (&clearing.process, &clearing.exit),
            Phase::Exited { process, exit } => (process, exit),
        };
        let (process, exit) = (process.clone(), Some(exit.clone()));
        let status = Status { incarnation: self.incarnation, process, exit, scope: None };
        if let Err(error) = files::write(Path::new(HERE), &status, Durability::PowerCut) {
            // The report is offered from memory nevertheless; only a power cut or a kill of this shim loses it.
            self.log.line(chain(&error));
            return;
        }
        self.is_recorded = true;
    }

    fn stop(&mut self, timeout_ms: u64) {
        let timeout = Duration::from_millis(timeout_ms);
        let running = match &mut self.phase {
            Phase::Running(running) => running,
            Phase::Clearing(clearing) => {
                clearing.hurry(timeout);
                return self.tell(&ToAgent::Stopping {});
            }
            Phase::Waiting(_) => {
                self.phase = Phase::failed("it was stopped before it was started".to_owned());
                return self.settle();
            }
            Phase::Exited { .. } => return,
        };
        let due = Instant::now().checked_add(timeout);
        match running.stop {
            Stop::None => {
                self.log.line(format_args!("stopping, KILL after {timeout_ms} ms"));
                if self.signals.is_some() {
                    // Processes outside its group first: they are found through the node while it is alive.
                    descendants::signal_all(Signal::TERM, Some(running.pid));
                }
                signal_all(running.pid, Signal::TERM);
                // Too far in the future to be represented: as good as never.
                running.stop = due.map_or(Stop::None, Stop::KillAt);
            }
            Stop::KillAt(at) => running.stop = Stop::KillAt(due.map_or(at, |due| at.min(due))),
            Stop::Killed => {}
        }
        self.tell(&ToAgent::Stopping {});
        self.kill_if_due();
    }

    fn kill_if_due(&mut self) {
        if let Phase::Running(running) = &mut self.phase
            && let Stop::KillAt(at) = running.stop
            && at <= Instant::now()
        {
            self.log.line("it did not end in time: KILL");
            signal_all(running.pid, Signal::KILL);
            running.stop = Stop::Killed;
        }
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Signals the node's group, or the node alone if it does not lead one yet.
fn signal_all(pid: Pid, signal: Signal) {
    if rustix::process::kill_process_group(pid, signal).is_err() {
        // Not reaped yet, so the number is still its own.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

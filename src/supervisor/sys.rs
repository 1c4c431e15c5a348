//! Kernel functions without a safe interface: fork with everything before the exec, signal dispositions, closing of
//! unknown descriptors, credentials of a datagram, who writes to a file. The only file of the project with `unsafe`.
//!
//! Each function is safe to call as described; the shim, which forks, has one thread.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::process::Pid;

use super::rights;
use super::start_step::StartStep;

/// Closes every descriptor from 3 up that is not in `keep`.
///
/// Only for a process whose descriptors are all known to the caller: any other owner would keep a closed descriptor.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut first = 3_u32;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors and touches no memory; the caller promises that nobody owns them.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The node's process: everything is prepared before the fork.
pub struct Program<'a> {
    pub path: &'a CStr,
    pub argv: &'a [CString],
    pub env: &'a [CString],
    pub directory: BorrowedFd<'a>,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// Stays open in the program, at a high number that shells and scripts do not use.
    pub lock: BorrowedFd<'a>,
    pub rights: &'a rights::Prepared,
    /// The file through which the program enters its cgroup, if it has one.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Close-on-exec: its end means that the program runs; five bytes are a failed step and errno.
    pub failure: BorrowedFd<'a>,
}

/// Forks and executes `program` in a session of its own, with default signals, an empty mask, and SIGKILL when this
/// process dies. Must be called from the only thread of the process.
pub fn spawn(program: &Program<'_>) -> io::Result<Pid> {
    let argv = pointers(program.argv);
    let env = pointers(program.env);
    let parent = rustix::process::getpid();
    // With all signals blocked, a TERM that arrives before the child has reset its dispositions stays pending: ignored
    // signals are not discarded while they are blocked.
    let before = set_mask(&full_mask())?;
    // SAFETY: this process has one thread, so all of its state is consistent in the child.
    let forked = unsafe { libc::fork() };
    match forked {
        0 => {
            let (step, error) = become_program(program, &argv, &env, parent);
            let _ = rustix::io::write(program.failure, &step.report(&error));
            // SAFETY: ends the child immediately, without running anything that the parent registered.
            unsafe { libc::_exit(127) }
        }
        -1 => {
            let error = io::Error::last_os_error();
            set_mask(&before)?;
            Err(error)
        }
        pid => {
            set_mask(&before)?;
            Ok(Pid::from_raw(pid).expect("fork returned neither 0 nor -1, so a process id"))
        }
    }
}

/// In the child; returns only if a step failed.
fn become_program(
    program: &Program<'_>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    parent: Pid,
) -> (StartStep, io::Error) {
    let prepared = (|| {
        rustix::process::setsid().map_err(|error| (StartStep::Session, error))?;
        rustix::process::fchdir(program.directory).map_err(|error| (StartStep::Directory, error))?;
        rustix::stdio::dup2_stdin(program.stdin).map_err(|error| (StartStep::Descriptors, error))?;
        rustix::stdio::dup2_stdout(program.stdout).map_err(|error| (StartStep::Descriptors, error))?;
        rustix::stdio::dup2_stderr(program.stderr).map_err(|error| (StartStep::Descriptors, error))?;
        let lock = duplicate_high(program.lock).map_err(|error| (StartStep::Descriptors, error))?;
        // It must stay open after this function and the exec.
        mem::forget(lock);
        reset_dispositions();
        let warn = |step: StartStep, error: rustix::io::Errno| {
            let _ = rustix::io::write(program.failure, &step.report(&error.into()));
        };
        // Before the change of user: only root may.
        if let Some(cgroup) = program.cgroup
            && let Err(error) = rustix::io::write(cgroup, b"0")
        {
            warn(StartStep::Cgroup, error);
        }
        program.rights.take_on(warn)?;
        // Last, because a change of user clears it.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(|error| (StartStep::ParentDeathSignal, error))?;
        if rustix::process::getppid() != Some(parent) {
            // The shim died before the call above: the signal would never come.
            return Err((StartStep::ParentDeathSignal, rustix::io::Errno::SRCH));
        }
        Ok(())
    })();
    if let Err((step, error)) = prepared {
        return (step, error.into());
    }
    if let Err(error) = set_mask(&empty_mask()) {
        return (StartStep::Execute, error);
    }
    // SAFETY: the path is a C string, both arrays end in null and point to C strings that outlive the call.
    unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    (StartStep::Execute, io::Error::last_os_error())
}

/// Becomes another program, with the environment and the signal dispositions of this process: std's `exec` would reset
/// SIGPIPE to its default. Returns only if that failed.
pub fn execute(path: &CStr, argv: &[CString]) -> io::Error {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let argv = pointers(argv);
    // SAFETY: the path is a C string, the array ends in null and points to C strings that outlive the call; libc keeps
    // `environ` as such an array, and nothing in a process with one thread changes it meanwhile.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), environ) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// A copy that survives the exec, outside of the numbers that scripts use explicitly (below 10) and shells internally
/// (10 and up, 255).
pub fn duplicate_high(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, 100).or_else(|_| rustix::io::fcntl_dupfd_cloexec(fd, 3))?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

/// Gives a thread the lowest priority there is (SCHED_IDLE), which what it starts inherits, or the usual one again. `None`:
/// the calling thread.
pub fn set_idle(thread: Option<Pid>, is_idle: bool) -> io::Result<()> {
    let thread = thread.map_or(0, |thread| thread.as_raw_nonzero().get());
    let policy = if is_idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    // SAFETY: all zero is a valid value of this struct of numbers, and the only one for these policies.
    let parameters: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: reads the struct.
    match unsafe { libc::sched_setscheduler(thread, policy, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn empty_mask() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset writes the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn full_mask() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset writes the whole set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Sets this thread's signal mask; returns the previous one.
fn set_mask(mask: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: reads one set and writes another.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, before.as_mut_ptr()) } {
        // SAFETY: written by the successful call.
        0 => Ok(unsafe { before.assume_init() }),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn reset_dispositions() {
    // Bypasses libc, which reserves two signals and would leave them ignored if the agent was started that way. All
    // zero is SIG_DFL without flags on every architecture; the kernel's struct is shorter than this.
    const DEFAULT: [u64; 8] = [0; 8];
    const SIGNAL_SET_SIZE: usize = 8;
    for signal in 1..=64 {
        // SAFETY: the kernel reads its struct from a longer array; SIG_DFL runs no code of ours. KILL and STOP are
        // refused, which does not matter.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                ptr::null_mut::<libc::c_void>(),
                SIGNAL_SET_SIZE,
            )
        };
    }
}

/// Ignores these signals from now on.
pub fn ignore(signals: &[rustix::process::Signal]) {
    for signal in signals {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
    }
}

/// Blocks these signals, so that [`wait_for_signal`] can receive them. For a process with one thread.
pub fn block(signals: &[rustix::process::Signal]) -> io::Result<()> {
    set_mask(&set_of(signals)).map(drop)
}

/// What a shim reacts to. SIGCHLD and SIGTERM are blocked from now on, and reported by the descriptor, which becomes
/// readable. For a process with one thread.
pub fn shim_signals() -> io::Result<OwnedFd> {
    let signals = [rustix::process::Signal::CHILD, rustix::process::Signal::TERM];
    // If the agent was started with SIGCHLD ignored, the kernel would reap our children by itself.
    // An ignored SIGTERM would not be reported.
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    block(&signals)?;
    // SAFETY: as above; a SIGTERM from now on is blocked, so it ends nothing.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) };
    let set = set_of(&signals);
    // SAFETY: reads the set; -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: just made, so nobody else owns it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// A signal that a descriptor of [`shim_signals`] reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub signal: i32,
    /// The sender's pid and real uid.
    pub pid: u32,
    pub uid: u32,
}

/// The next signal that the descriptor reports; `None` if there is none.
pub fn next_signal(signals: BorrowedFd<'_>) -> Option<Received> {
    let mut info = [0; mem::size_of::<libc::signalfd_siginfo>()];
    let length = rustix::io::read(signals, &mut info).ok()?;
    if length != info.len() {
        return None;
    }
    // SAFETY: the kernel filled in all of it, and every bit pattern is a valid signalfd_siginfo.
    let info: libc::signalfd_siginfo = unsafe { info.as_ptr().cast::<libc::signalfd_siginfo>().read_unaligned() };
    let signal = i32::try_from(info.ssi_signo).ok()?;
    Some(Received { signal, pid: info.ssi_pid, uid: info.ssi_uid })
}

/// Waits for one of these blocked signals; `None` after the timeout.
pub fn wait_for_signal(signals: &[rustix::process::Signal], timeout: Option<Duration>) -> io::Result<Option<i32>> {
    let set = set_of(signals);
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: reads the set and, if there is one, the timeout; a null info is allowed.
    match unsafe { libc::sigtimedwait(&set, ptr::null_mut(), timeout) } {
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
            error => Err(error),
        },
        signal => Ok(Some(signal)),
    }
}

fn set_of(signals: &[rustix::process::Signal]) -> libc::sigset_t {
    let mut set = empty_mask();
    for signal in signals {
        // SAFETY: changes the set, and refuses numbers that are no signals.
        unsafe { libc::sigaddset(&mut set, signal.as_raw()) };
    }
    set
}

/// A datagram with its sender's credentials, guaranteed by the kernel. Descriptors that came with it are already
/// closed: closing is all that BARRIER=1 asks for, and nothing else may pass any.
pub struct Datagram {
    pub length: usize,
    /// It was longer than the buffer.
    pub is_cut: bool,
    pub uid: Option<u32>,
}

/// Receives one datagram without waiting, from a socket with SO_PASSCRED.
///
/// Without rustix, because the sender may be in another pid namespace: its pid is 0 here, which rustix's type cannot
/// represent.
pub fn receive_with_credentials(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    #[repr(align(8))]
    struct Control([u8; 1024]);
    let mut control = Control([0; 1024]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message describes two live buffers with their lengths.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut uid = None;
    // SAFETY: the kernel filled in the control buffer and its length; the CMSG functions stay inside it, and each
    // payload is as long as its header says. Descriptors in it are new, so nobody else owns them.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            let payload = libc::CMSG_DATA(header);
            let size = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                for nth in 0..size / mem::size_of::<RawFd>() {
                    drop(OwnedFd::from_raw_fd(payload.cast::<RawFd>().add(nth).read_unaligned()));
                }
            } else if (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_CREDENTIALS
                && size >= mem::size_of::<libc::ucred>()
            {
                uid = Some(payload.cast::<libc::ucred>().read_unaligned().uid);
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(Datagram { length, is_cut: message.msg_flags & libc::MSG_TRUNC != 0, uid })
}

/// Whether any process has this file open for writing. `false` also where the kernel or the file system does not tell.
///
/// Asked by a read lease, which the kernel gives only for a file that nobody writes to, and which is given back at once. If
/// somebody opens the file in between, the kernel tells by a signal: by one that is ignored unless handled.
pub fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    let fcntl = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: a descriptor that is open, commands that take a number, and no memory.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    const F_SETSIG: libc::c_int = 10;
    fcntl(F_SETSIG, libc::SIGURG)?;
    match fcntl(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => fcntl(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(true),
            // Another user's file without CAP_LEASE; a file system without leases.
            Some(libc::EACCES | libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP) => Ok(false),
            _other => Err(error),
        },
    }
}

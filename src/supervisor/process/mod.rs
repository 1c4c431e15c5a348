//! Process identity: by boot, pid and start time. Proof that a process belongs to a node. Signals through pidfds, so
//! that a reused pid is never hit.
//!
//! Promise: [`Proven`] exists only for a process that was identified *after* its pidfd was opened, and that was shown
//! to belong to this very state directory: by its lock here, or as [`belongs`] says. Nothing else in the agent signals
//! a process.

mod belongs;
mod shims;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::api::launch::ProcessId;
use crate::api::survivors::Survivor;

pub use belongs::{Foreign, Home, Lingering, NodeHome, Owner, lingering};

/// The id of the current boot.
pub fn boot_id() -> io::Result<String> {
    #[cfg(feature = "crash-points")]
    if let Ok(id) = std::env::var("ZCA_TEST_BOOT_ID") {
        return Ok(id);
    }
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    start_time: u64,
}

fn parse_stat(stat: &str) -> Option<Stat> {
    // The name, in parentheses, may itself contain blanks and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22, counted from 1; the parent is field 4.
    let start_time = fields.nth(22 - 4 - 1)?.parse().ok()?;
    Some(Stat { state, parent, start_time })
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&String::from_utf8_lossy(&text)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The parent's pid.
pub fn parent(pid: u32) -> io::Result<u32> {
    Ok(stat(pid)?.parent)
}

/// Whether the process has ended and only waits to be reaped.
pub fn is_zombie(pid: u32) -> bool {
    stat(pid).is_ok_and(|stat| !is_alive(stat.state))
}

/// The pids that /proc shows.
pub fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Describes a process that could not be ended.
pub fn describe(pid: u32) -> Survivor {
    Survivor { pid, uid: real_uid(pid).ok(), command: name(pid) }
}

/// The identity of a process that cannot disappear meanwhile (a child not reaped yet).
pub fn identify(pid: u32, boot_id: &str) -> io::Result<ProcessId> {
    Ok(ProcessId { boot_id: boot_id.to_owned(), pid, start_time: stat(pid)?.start_time })
}

/// A live process with a recorded identity. Who owns it is a separate question ([`Live::owner`]): a copy of a state
/// directory has the same records. So it cannot be signalled.
#[derive(Debug)]
pub struct Live {
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Live {
    /// The process with this identity, if it is alive; a zombie is not.
    pub fn find(process: &ProcessId, boot_id: &str) -> io::Result<Option<Self>> {
        if process.boot_id != boot_id {
            return Ok(None);
        }
        let Some(live) = Self::pin(process.pid)? else {
            return Ok(None);
        };
        match stat(process.pid) {
            Ok(stat) if stat.start_time == process.start_time && is_alive(stat.state) => Ok(Some(live)),
            Ok(_) => Ok(None),
            // Gone by now; a live process that is hidden (hidepid) must not be taken for gone.
            Err(error) if is_gone(&error) && live.has_ended() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a pidfd for the process that has this number now.
    fn pin(pid: u32) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| pid.as_raw_nonzero().get() > 1)
        else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { pid, pidfd })),
            // EINVAL: a thread has this number now.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has_ended(&self) -> bool {
        wait_until(&self.pidfd, Instant::now())
    }

    /// Call only after a proof.
    fn proven(self) -> Proven {
        let Self { pid, pidfd } = self;
        Proven { pid, pidfd }
    }
}

/// A live process that is proven to belong to this state directory: the only thing that can be signalled.
#[derive(Debug)]
pub struct Proven {
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Proven {
    /// The process `pid`, if it is alive and a child of `parent`, or of this process.
    pub fn child_of(parent: Option<&Self>, pid: u32) -> io::Result<Option<Self>> {
        let Some(child) = Live::pin(pid)? else { return Ok(None) };
        let number = parent.map_or_else(std::process::id, |parent| parent.pid);
        let is_child = self::parent(pid).is_ok_and(|found| found == number);
        // Read before this check: while the parent was alive, nobody else had its pid. And the data read under the
        // child's number is the child's, as long as the child has not ended either.
        let is_current = !child.has_ended() && parent.is_none_or(|parent| !parent.wait_until(Instant::now()));
        Ok((is_child && is_current).then(|| child.proven()))
    }

    /// Processes that have `lock` open with the lock on it, except this process.
    pub fn by_lock(lock: &File, run: &Run<'_>) -> io::Result<Holders> {
        let lock = lock.metadata()?;
        let own = std::process::id();
        let mut holders = Holders::default();
        for entry in fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == own {
                continue;
            }
            match holds_lock(pid, lock.dev(), lock.ino()) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    holders.hidden += 1;
                    continue;
                }
                Err(_) => continue,
            }
            let Some(process) = Live::pin(pid)? else { continue };
            // Checked again after opening the pidfd: now it is this process, and not an earlier one with the same pid.
            // If it ends from now on and its pid is reused, the data read is another process's, but a signal reaches
            // nobody.
            if !holds_lock(pid, lock.dev(), lock.ino()).unwrap_or(false) {
                continue;
            }
            match real_uid(pid) {
                Ok(uid) if run.has(pid, uid) => holders.ours.push(process.proven()),
                Ok(uid) => holders.strangers.push(Stranger { pid, uid, name: name(pid) }),
                Err(error) if is_gone(&error) => {}
                Err(_) => holders.hidden += 1,
            }
        }
        Ok(holders)
    }

    /// Sends `signal`; a process that has ended meanwhile is not an error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end until `deadline` at most; returns whether it ended.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        wait_until(&self.pidfd, deadline)
    }
}

fn wait_until(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Readable when the process has ended.
impl AsFd for Proven {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Which processes the lock of one run proves.
///
/// The lock alone proves little if the agent is root and the run is not: a process with the descriptor can pass it to
/// any process that accepts descriptors (`SCM_RIGHTS` of unix(7): message buses and service managers do), or start a
/// program that becomes another user's. So a holder has to be a process that the run's own user could signal as well.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The real uid of the run's processes, if known.
    pub uid: Option<u32>,
    /// The directory of its lock. Only the agent's user can enter it, so a process of that user that works there is a
    /// shim, or a job that has not become its program yet.
    pub directory: &'a File,
}

impl Run<'_> {
    fn has(&self, pid: u32, uid: u32) -> bool {
        self.uid == Some(uid) || uid == own_uid() && self.is_working_directory_of(pid)
    }

    fn is_working_directory_of(&self, pid: u32) -> bool {
        let found = fs::metadata(format!("/proc/{pid}/cwd"));
        let own = self.directory.metadata();
        matches!((found, own), (Ok(found), Ok(own)) if (found.dev(), found.ino()) == (own.dev(), own.ino()))
    }
}

/// The holders of a lock.
#[derive(Debug, Default)]
pub struct Holders {
    pub ours: Vec<Proven>,
    /// These are never signalled.
    pub strangers: Vec<Stranger>,
    /// How many could not be inspected.
    pub hidden: usize,
}

impl Holders {
    /// The strangers, for a message; `None` if there are none.
    pub fn strangers(&self) -> Option<String> {
        let strangers: Vec<String> = self.strangers.iter().map(Stranger::to_string).collect();
        (!strangers.is_empty()).then(|| strangers.join(", "))
    }
}

/// A process that has a run's lock and does not belong to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub pid: u32,
    /// Its real uid.
    pub uid: u32,
    name: String,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({:?}, uid {})", self.pid, self.name, self.uid)
    }
}

/// The user of this agent's processes, unless another one is set.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The real uid: that user can signal the process (kill(2)), even while it runs a set-user-ID program.
fn real_uid(pid: u32) -> io::Result<u32> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    parse_real_uid(&String::from_utf8_lossy(&status)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_real_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().next()?.parse().ok()
}

fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

fn is_alive(state: char) -> bool {
    !matches!(state, 'Z' | 'X' | 'x')
}

/// No such process, in the two ways in which /proc reports it.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether one of the process's descriptors is this very file and carries a flock.
///
/// The file is compared through the descriptor rather than by the numbers in the `lock:` line, which differ from those
/// of stat on btrfs and overlayfs.
fn holds_lock(pid: u32, device: u64, inode: u64) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(entry) = entry else { continue };
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.dev() != device || metadata.ino() != inode {
            continue;
        }
        let Some(number) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if is_locked(pid, &number)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this descriptor carries a flock.
fn is_locked(pid: u32, descriptor: &str) -> io::Result<bool> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}"))?;
    Ok(info.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK")))
}

/// Ends these processes: TERM, and after `grace` KILL. Returns whether all are gone.
pub fn end(processes: &[Proven], grace: Duration) -> io::Result<bool> {
    for process in processes {
        process.signal(Signal::TERM)?;
    }
    let deadline = Instant::now() + grace;
    for process in processes {
        if !process.wait_until(deadline) {
            process.signal(Signal::KILL)?;
        }
    }
    let deadline = Instant::now() + KILL_TAKES;
    Ok(processes.iter().all(|process| process.wait_until(deadline)))
}

/// A killed process that has not ended after this is stuck in the kernel.
const KILL_TAKES: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use rustix::fs::FlockOperation;

    #[test]
    fn stat_is_read_behind_the_name() {
        let line = "77 (a) R 1) S 1 77 77 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1\n";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', parent: 1, start_time: 98765 }));
        assert_eq!(parse_stat("77 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_real_uid_is_the_first_of_four() {
        assert_eq!(parse_real_uid("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\n"), Some(1000));
        // The kernel escapes a line break in the name, so no line of a name can begin like this.
        assert_eq!(parse_real_uid("Name:\tx\\nUid:\t7\nUid:\t1\t2\t3\t4\n"), Some(1));
        for none in ["", "Uid:", "Uid:\t-1\t0", "Gid:\t0"] {
            assert_eq!(parse_real_uid(none), None, "{none:?}");
        }
        assert_eq!(real_uid(std::process::id()).unwrap(), rustix::process::getuid().as_raw());
    }

    #[test]
    fn a_process_is_proven_by_all_three_or_not_at_all() {
        let boot = boot_id().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let right = identify(child.id(), &boot).unwrap();
        assert!(Live::find(&right, &boot).unwrap().is_some());
        let late = ProcessId { start_time: right.start_time + 1, ..right.clone() };
        assert!(Live::find(&late, &boot).unwrap().is_none());
        let other_boot = ProcessId { boot_id: "another".into(), ..right.clone() };
        assert!(Live::find(&other_boot, &boot).unwrap().is_none());
        for pid in [0, 1, u32::MAX] {
            let foreign = ProcessId { pid, start_time: 0, ..right.clone() };
            assert!(Live::find(&foreign, &boot).unwrap().is_none(), "pid {pid}");
        }
        child.kill().unwrap();
        // Not reaped yet: a zombie, which counts as dead.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Live::find(&right, &boot).unwrap().is_some() {
            assert!(Instant::now() < deadline, "a killed process still counts as alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn holders_of_a_lock_are_found_and_mere_openers_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = File::create(&path).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let held = lock.as_fd().try_clone_to_owned().unwrap();
        let mut holder = Command::new("sleep").arg("60").stdin(Stdio::from(held)).spawn().unwrap();
        let opened = File::open(&path).unwrap();
        let mut opener = Command::new("sleep").arg("60").stdin(Stdio::from(opened)).spawn().unwrap();
        drop(lock);
        let probe = File::open(&path).unwrap();
        let elsewhere = File::open(directory.path()).unwrap();
        let run = Run { uid: Some(own_uid()), directory: &elsewhere };
        let found = Proven::by_lock(&probe, &run).unwrap();
        assert_eq!(found.ours.iter().map(|process| process.pid).collect::<Vec<_>>(), [holder.id()]);
        assert_eq!(found.strangers(), None);
        for uid in [Some(own_uid() + 1), None] {
            let other = Proven::by_lock(&probe, &Run { uid, directory: &elsewhere }).unwrap();
            assert!(other.ours.is_empty(), "another user's run");
            let stranger = format!("pid {} (\"sleep\", uid {})", holder.id(), own_uid());
            assert_eq!(other.strangers(), Some(stranger));
            // Its working directory stands for one that only the agent's user can enter.
            let here = File::open(std::env::current_dir().unwrap()).unwrap();
            assert_eq!(Proven::by_lock(&probe, &Run { uid, directory: &here }).unwrap().ours.len(), 1);
        }
        assert!(end(&found.ours, Duration::from_secs(10)).unwrap());
        assert!(Proven::by_lock(&probe, &run).unwrap().ours.is_empty());
        opener.kill().unwrap();
        opener.wait().unwrap();
        holder.wait().unwrap();
    }
}

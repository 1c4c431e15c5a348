//! The cgroups of a node whose shim is in a scope of its own (cgroup v2): the scope's, which has the limits and the shim,
//! and below it one for the processes of the node alone.
//!
//! What is in the lower one is the node's, whatever it did to its parents, groups and descriptors: it can be seen and
//! killed as a whole. Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Where the hierarchy is mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0x6367_7270;
/// The cgroup of the node's processes, below its scope.
const CHILD: &str = "node";
/// How scopes of nodes are called.
pub const SCOPE_PREFIX: &str = "zca-";
pub const SCOPE_SUFFIX: &str = ".scope";
/// A node that is killed so soon after the kernel ran out of memory is the process that it chose: a large one takes a
/// while to end.
const OOM_TAKES: Duration = Duration::from_secs(30);

/// Whether this host has one hierarchy, of version 2.
pub fn is_unified() -> bool {
    rustix::fs::statfs(MOUNT).is_ok_and(|found| u64::try_from(found.f_type) == Ok(MAGIC))
}

/// The path of a process's cgroup below the mount; `process` is a pid or `self`.
pub fn of_process(process: &str) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Whether this is the path of a node's scope.
pub fn is_scope(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.starts_with(SCOPE_PREFIX) && name.ends_with(SCOPE_SUFFIX)
}

/// The number by which the kernel knows the cgroup of the processes of a node in this scope; `None` if there is none.
pub fn id_of_node(scope: &str) -> Option<u64> {
    Some(fs::metadata(directory(scope).join(CHILD)).ok()?.ino())
}

fn directory(scope: &str) -> PathBuf {
    Path::new(MOUNT).join(scope.trim_start_matches('/'))
}

/// Kills what is left of a node in this scope without its shim. Returns whether nothing is.
pub fn kill_left(scope: &str) -> io::Result<bool> {
    if !is_scope(scope) {
        return Ok(true);
    }
    let directory = directory(scope).join(CHILD);
    match fs::metadata(&directory) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    kill(&directory)?;
    is_empty(&directory)
}

/// The cgroup of a node's processes, as its shim has it.
#[derive(Debug)]
pub struct NodeCgroup {
    /// The scope's path below the mount.
    pub scope: String,
    directory: PathBuf,
    /// Whoever writes to it becomes a member.
    entrance: File,
    /// Absent without the memory controller.
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Memory {
    events: File,
    kills: u64,
    /// When the kernel last killed a process for want of memory.
    last_kill: Option<Instant>,
}

impl NodeCgroup {
    /// Makes one below the scope that this process is in; `None` if it is in none.
    pub fn make() -> io::Result<Option<Self>> {
        if !is_unified() {
            return Ok(None);
        }
        let scope = of_process("self")?;
        if !is_scope(&scope) {
            return Ok(None);
        }
        let above = directory(&scope);
        let directory = above.join(CHILD);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let entrance = OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?;
        let mut cgroup = Self { scope, directory, entrance, memory: None };
        cgroup.watch_memory();
        Ok(Some(cgroup))
    }

    /// Begins to watch for processes that the kernel kills for want of memory. systemd may give the scope the memory
    /// controller a moment after the shim has entered it, so this is tried again.
    pub fn watch_memory(&mut self) {
        if self.memory.is_none() {
            let events = File::open(directory(&self.scope).join("memory.events")).ok();
            // The scope is new, so the count is that of this node.
            self.memory = events.map(|events| Memory { events, kills: 0, last_kill: None });
        }
    }

    /// Whoever writes `0` to it becomes a member.
    pub fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// Reports with an exception (POLLPRI) that the kernel has run out of memory in the scope.
    pub fn memory_events(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().map(|memory| memory.events.as_fd())
    }

    /// Notes whether the kernel has killed a process since the last call.
    pub fn note_memory(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.note();
        }
    }

    /// Whether a process that was just killed was killed for want of memory.
    pub fn ran_out_of_memory(&mut self) -> bool {
        self.watch_memory();
        let Some(memory) = &mut self.memory else { return false };
        memory.note();
        memory.last_kill.is_some_and(|at| at.elapsed() < OOM_TAKES)
    }

    /// Kills all of its processes.
    pub fn kill(&self) -> io::Result<()> {
        kill(&self.directory)
    }

    /// Whether none of its processes is alive.
    pub fn is_empty(&self) -> io::Result<bool> {
        is_empty(&self.directory)
    }

    /// Its processes, as they were a moment ago.
    pub fn pids(&self) -> Vec<u32> {
        pids(&self.directory)
    }

    /// Removes it, if it is empty.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.directory)
    }
}

impl Memory {
    fn note(&mut self) {
        let kills = self.count();
        if kills > self.kills {
            self.last_kill = Some(Instant::now());
        }
        self.kills = kills;
    }

    fn count(&mut self) -> u64 {
        let mut text = String::new();
        // Reading from the start is what makes the kernel report the next event.
        if self.events.seek(SeekFrom::Start(0)).and_then(|_| self.events.read_to_string(&mut text)).is_err() {
            return self.kills;
        }
        oom_kills(&text)
    }
}

/// The number of processes that the kernel killed for want of memory, from a file `memory.events`.
fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    match fs::read_to_string(directory.join("cgroup.events")) {
        Ok(text) => Ok(text.lines().any(|line| line == "populated 0")),
        // Somebody removed it, which only works when it is empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn pids(directory: &Path) -> Vec<u32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn kill(directory: &Path) -> io::Result<()> {
    match fs::write(directory.join("cgroup.kill"), "1") {
        // Before Linux 5.14: nothing that is frozen can fork.
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.exists() => {
            fs::write(directory.join("cgroup.freeze"), "1")?;
            for pid in pids(directory) {
                // A frozen process does not end before it is killed, so its number is its own.
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
            fs::write(directory.join("cgroup.freeze"), "0")
        }
        // Nothing can be in what is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_nodes_are_known_by_their_names() {
        for path in ["/zeek.slice/zca-0a1b2c3d-w1-3.scope", "zca-x.scope"] {
            assert!(is_scope(path), "{path}");
        }
        for path in
            ["", "/", "/zeek.slice", "/system.slice/zeek-cluster-agent.service", "/zca-1.scope/node", "/x-zca-1.scope"]
        {
            assert!(!is_scope(path), "{path}");
        }
        assert!(kill_left("/system.slice/cron.service").unwrap());
        assert_eq!(directory("/zeek.slice/zca-1.scope"), Path::new("/sys/fs/cgroup/zeek.slice/zca-1.scope"));
    }

    #[test]
    fn killed_processes_are_counted() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("low 0\noom_group_kill 7\n"), 0);
        assert_eq!(oom_kills("oom_kill x\n"), 0);
    }
}

//! The owner of a process: this state directory, or another one that has the same records.
//!
//! A copy of a state directory has all records of the original: processes with boot, pid and start time. What a copy
//! does not share is the files that these processes have open. So, in this order, and in the same boot, a process
//! belongs to a node of this directory if
//!
//! 1. it has this directory's `run/<node>/lock` open;
//! 2. it has a lock open that was deleted, and that was `run/<node>/lock` of this directory at that time: the directory
//!    was restored in place, or moved to another file system, or its `run` was removed;
//! 3. its parent, a shim, has such a lock open: a node may close what it inherited, or be hidden from inspection;
//! 4. its working directory is this directory's `nodes/<node>`, and neither it nor its parent has the lock of another
//!    directory.
//!
//! Device and inode numbers are compared at one moment and never stored: they do not last (a file system that is
//! mounted again may have another device number, and a new file the inode number of a removed one).

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Live, Proven, is_gone, name, own_uid, real_uid, stat, wait_until};
use crate::api::ids::NodeName;

/// How long a process that has nothing open is given to end, before it counts as a live process of another owner.
const ENDING_TAKES: Duration = Duration::from_millis(200);

/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

/// The present and former paths of a state directory, as far as they matter to processes that were started from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// Its canonical path, and the path from which it was moved, if it was.
    pub paths: Vec<PathBuf>,
    /// The agent knew it at one of these paths before this start. Otherwise it may be a copy that its path does not
    /// reveal.
    pub is_confirmed: bool,
}

impl Home {
    /// The node whose deleted lock in this directory has this path.
    fn node_of_lock(&self, path: &Path) -> Option<NodeName> {
        let rest = self.paths.iter().find_map(|home| path.strip_prefix(home).ok())?;
        let mut parts = rest.iter();
        if parts.next()? != "run" {
            return None;
        }
        let node = NodeName::new(parts.next()?.to_str()?).ok()?;
        (parts.next()? == super::super::files::LOCK && parts.next().is_none()).then_some(node)
    }
}

/// How processes of one node are recognised.
#[derive(Debug, Clone, Copy)]
pub struct NodeHome<'a> {
    pub home: &'a Home,
    pub node: &'a NodeName,
    /// The lock in the node's run directory, if there is one.
    pub lock: Option<&'a Metadata>,
    /// The node's working directory.
    pub directory: &'a Path,
}

/// The owner of a live process.
#[derive(Debug)]
pub enum Owner {
    Ours(Proven),
    Another(Foreign),
    /// The agent may not inspect it: why.
    Hidden(io::Error),
    /// It ended during the inspection.
    Gone,
}

/// A live process that is recorded here but belongs to another state directory. It cannot be signalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub pid: u32,
    name: String,
    /// The state directory that it belongs to, if that can be found out.
    pub state_dir: Option<PathBuf>,
    /// Its working directory is that of a node of ours.
    pub works_here: bool,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({:?})", self.pid, self.name)?;
        match &self.state_dir {
            Some(state_dir) => write!(f, " belongs to the state directory {}", state_dir.display()),
            None => f.write_str(" belongs to another state directory"),
        }
    }
}

/// The lock of the node that a process has open.
#[derive(Debug, PartialEq, Eq)]
enum Lock {
    Ours,
    /// Of this state directory.
    Another(PathBuf),
    None,
}

impl Live {
    /// Finds the owner of this process. The data belongs to it and not to a later process with the same number: it is
    /// still alive afterwards.
    pub fn owner(self, node: &NodeHome<'_>) -> Owner {
        let own_lock = node.lock_of(self.pid);
        let parent = stat(self.pid).map(|stat| stat.parent).unwrap_or(0);
        let parents_lock = if has_looks_of_a_shim(parent) { node.lock_of(parent) } else { Ok(Lock::None) };
        let works_here = node.is_working_directory_of(self.pid);
        // A process that is ending has nothing open any more and, a moment later, no working directory.
        if matches!((&own_lock, &parents_lock), (Ok(Lock::None), Ok(Lock::None))) {
            wait_until(&self.pidfd, Instant::now() + ENDING_TAKES);
        }
        let foreign_dir = match (&own_lock, &parents_lock) {
            (Ok(Lock::Another(dir)), _) | (_, Ok(Lock::Another(dir))) => Some(dir.clone()),
            (_, _) => None,
        };
        let name = name(self.pid);
        if self.has_ended() {
            return Owner::Gone;
        }
        let foreign = |state_dir, works_here| Owner::Another(Foreign { pid: self.pid, name, state_dir, works_here });
        match (own_lock, parents_lock, works_here, foreign_dir) {
            (Ok(Lock::Ours), _, _, _) | (_, Ok(Lock::Ours), _, _) => Owner::Ours(self.proven()),
            (_, _, works_here, Some(dir)) => foreign(Some(dir), works_here.unwrap_or(false)),
            (_, _, Ok(true), None) if node.directory_is_proof() => Owner::Ours(self.proven()),
            (Err(error), _, _, None) | (_, _, Err(error), None) => {
                if is_gone(&error) {
                    Owner::Gone
                } else {
                    Owner::Hidden(error)
                }
            }
            (Ok(Lock::Another(_) | Lock::None), _, Ok(works_here), None) => {
                foreign(node.state_dir_by_work(self.pid), works_here)
            }
        }
    }
}

impl NodeHome<'_> {
    fn lock_of(&self, pid: u32) -> io::Result<Lock> {
        let mut found = Lock::None;
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let Ok(entry) = entry else { continue };
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            // Sockets, pipes and similar files have no path.
            if !link.is_absolute() {
                continue;
            }
            let Ok(file) = fs::metadata(entry.path()) else { continue };
            match self.judge(&link, &file, pid) {
                Lock::Ours => return Ok(Lock::Ours),
                Lock::Another(dir) => found = Lock::Another(dir),
                Lock::None => {}
            }
        }
        Ok(found)
    }

    /// Classifies an open file. It is enough that it is open: any process that has a lock open can release it, and the
    /// process is already identified.
    fn judge(&self, link: &Path, file: &Metadata, pid: u32) -> Lock {
        if let Some(lock) = self.lock
            && (lock.dev(), lock.ino()) == (file.dev(), file.ino())
        {
            // With a second name it may belong to another directory as well: files can be "copied" as hard links.
            let is_proof = lock.nlink() == 1 || self.is_working_directory_of(pid).unwrap_or(false);
            return if is_proof { Lock::Ours } else { Lock::None };
        }
        let deleted = (file.nlink() == 0).then(|| without_name(link)).flatten();
        if let Some(path) = deleted
            && self.home.node_of_lock(path).as_ref() == Some(self.node)
        {
            return Lock::Ours;
        }
        match state_dir_of(deleted.unwrap_or(link), "run", self.node, Some(super::super::files::LOCK)) {
            Some(state_dir) => Lock::Another(state_dir.to_owned()),
            None => Lock::None,
        }
    }

    fn is_working_directory_of(&self, pid: u32) -> io::Result<bool> {
        let link = format!("/proc/{pid}/cwd");
        let found = fs::metadata(&link)?;
        if let Ok(own) = fs::metadata(self.directory)
            && (own.dev(), own.ino()) == (found.dev(), found.ino())
        {
            return Ok(true);
        }
        if found.nlink() != 0 {
            return Ok(false);
        }
        let link = fs::read_link(&link)?;
        let Some(path) = without_name(&link) else { return Ok(false) };
        let nodes = self.home.paths.iter().map(|home| home.join("nodes").join(self.node.as_str()));
        Ok(path == self.directory || nodes.into_iter().any(|own| path == own))
    }

    /// If the nodes' directory is outside of the state directory, nodes of a copy and of its original work in the same
    /// directory.
    fn directory_is_proof(&self) -> bool {
        let inside = |home: &PathBuf| fs::canonicalize(self.directory).is_ok_and(|own| own.starts_with(home));
        self.home.is_confirmed || self.home.paths.iter().any(inside)
    }

    fn state_dir_by_work(&self, pid: u32) -> Option<PathBuf> {
        let link = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let path = without_name(&link).unwrap_or(&link);
        state_dir_of(path, "nodes", self.node, None).map(Path::to_owned)
    }
}

/// `STATE` of a path `STATE/<kind>/<node>`, followed by `file` if there is one.
fn state_dir_of<'a>(path: &'a Path, kind: &str, node: &NodeName, file: Option<&str>) -> Option<&'a Path> {
    let directory = match file {
        Some(file) if path.file_name() == Some(OsStr::new(file)) => path.parent()?,
        Some(_) => return None,
        None => path,
    };
    let parent = directory.parent()?;
    let fits = directory.file_name() == Some(OsStr::new(node.as_str())) && parent.file_name() == Some(OsStr::new(kind));
    if fits { parent.parent() } else { None }
}

/// The path that a deleted file had.
fn without_name(link: &Path) -> Option<&Path> {
    let path = link.as_os_str().as_bytes().strip_suffix(DELETED)?;
    Some(Path::new(OsStr::from_bytes(path)))
}

/// A name alone proves nothing; it avoids inspecting other possible parents (init, a service manager, the agent).
pub(super) fn has_looks_of_a_shim(pid: u32) -> bool {
    pid > 1 && name(pid) == super::super::protocol::SHIM_NAME
}

/// A process that has a deleted lock of this directory open and locked, by its pid: to be checked again before use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lingering {
    pub node: NodeName,
    pub pid: u32,
}

/// Holders of deleted locks of this directory, for all nodes. Inspects every process once.
pub fn lingering(home: &Home) -> io::Result<Vec<Lingering>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        if let Some(node) = deleted_lock(pid, home) {
            found.push(Lingering { node, pid });
        }
    }
    Ok(found)
}

/// The node whose deleted lock this process has.
fn deleted_lock(pid: u32, home: &Home) -> Option<NodeName> {
    fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let node = home.node_of_lock(without_name(&link)?)?;
        let is_deleted = fs::metadata(entry.path()).is_ok_and(|file| file.nlink() == 0);
        let number = entry.file_name();
        let is_locked = || super::is_locked(pid, number.to_str()?).ok().filter(|is_locked| *is_locked);
        (is_deleted && is_locked().is_some()).then_some(node)
    })
}

impl Proven {
    /// The process with this number, if it has a deleted lock of this node and is the node's shim, a child of it, or a
    /// process that `uid`, the user of the node's processes, could signal as well (see [`Run`](super::Run)).
    pub fn by_deleted_lock(pid: u32, home: &Home, node: &NodeName, uid: Option<u32>) -> io::Result<Option<Self>> {
        let Some(process) = Live::pin(pid)? else { return Ok(None) };
        if deleted_lock(pid, home).as_ref() != Some(node) {
            return Ok(None);
        }
        let parent = stat(pid).map(|stat| stat.parent).unwrap_or(0);
        let is_ours = real_uid(pid).is_ok_and(|real| uid == Some(real))
            || is_shim_of(pid, home, node)
            || is_shim_of(parent, home, node) && deleted_lock(parent, home).as_ref() == Some(node);
        Ok((is_ours && !process.has_ended()).then(|| process.proven()))
    }
}

/// A process of the agent's user that works in the deleted run directory, which no other user could enter.
fn is_shim_of(pid: u32, home: &Home, node: &NodeName) -> bool {
    let works_there = || {
        let link = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let path = without_name(&link)?;
        home.paths.iter().any(|home| path == home.join("run").join(node.as_str())).then_some(())
    };
    pid > 1 && real_uid(pid).is_ok_and(|uid| uid == own_uid()) && works_there().is_some()
}

#[cfg(test)]
mod tests {
    use super::super::{boot_id, identify};
    use super::*;
    use rustix::fs::FlockOperation;
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::process::{Child, Command, Stdio};

    /// A process that has these files open and works there; killed at the end.
    struct Process(Child);

    impl Process {
        fn with(lock: Option<&File>, directory: &Path) -> Self {
            let stdin = lock.map_or_else(Stdio::null, |lock| Stdio::from(lock.try_clone().unwrap()));
            Self(Command::new("sleep").arg("60").current_dir(directory).stdin(stdin).spawn().unwrap())
        }

        /// Its owner in short: `ours`, or the other directory and whether it works here.
        fn owner(&self, node: &NodeHome<'_>) -> String {
            let boot = boot_id().unwrap();
            let live = Live::find(&identify(self.0.id(), &boot).unwrap(), &boot).unwrap().unwrap();
            match live.owner(node) {
                Owner::Ours(proven) => {
                    assert_eq!(proven.pid, self.0.id());
                    "ours".to_owned()
                }
                Owner::Another(Foreign { state_dir, works_here, .. }) => format!("{state_dir:?}, {works_here}"),
                Owner::Hidden(error) => format!("hidden: {error}"),
                Owner::Gone => "gone".to_owned(),
            }
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// Two state directories, `a` and `b`, in which `w` has its directories.
    struct Two {
        scratch: tempfile::TempDir,
        node: NodeName,
    }

    impl Two {
        fn new() -> Self {
            let two = Self { scratch: tempfile::tempdir().unwrap(), node: NodeName::new("w").unwrap() };
            for directory in ["a/run/w", "a/nodes/w", "b/run/w", "b/nodes/w", "shared/w"] {
                fs::create_dir_all(two.path(directory)).unwrap();
            }
            two
        }

        fn path(&self, name: &str) -> PathBuf {
            self.scratch.path().canonicalize().unwrap().join(name)
        }

        fn lock(&self, name: &str) -> File {
            let lock = File::create(self.path(name).join("run/w/lock")).unwrap();
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
            lock
        }

        fn home(&self, paths: &[&str], is_confirmed: bool) -> Home {
            Home { paths: paths.iter().map(|path| self.path(path)).collect(), is_confirmed }
        }

        /// The owner of the process, as seen by `a`.
        fn asked_by_a(&self, process: &Process) -> String {
            let home = self.home(&["a"], false);
            let lock = fs::metadata(self.path("a/run/w/lock")).ok();
            let directory = self.path("a/nodes/w");
            process.owner(&NodeHome { home: &home, node: &self.node, lock: lock.as_ref(), directory: &directory })
        }

        fn b(&self, works_here: bool) -> String {
            format!("{:?}, {works_here}", Some(self.path("b")))
        }
    }

    #[test]
    fn the_lock_tells_first_and_the_working_directory_where_there_is_none() {
        let two = Two::new();
        let (a, b) = (two.lock("a"), two.lock("b"));
        let elsewhere = two.path("shared");
        assert_eq!(two.asked_by_a(&Process::with(Some(&a), &elsewhere)), "ours");
        assert_eq!(two.asked_by_a(&Process::with(Some(&a), &two.path("b/nodes/w"))), "ours");
        assert_eq!(two.asked_by_a(&Process::with(Some(&b), &elsewhere)), two.b(false));
        assert_eq!(two.asked_by_a(&Process::with(Some(&b), &two.path("a/nodes/w"))), two.b(true));
        assert_eq!(two.asked_by_a(&Process::with(None, &two.path("a/nodes/w"))), "ours");
        assert_eq!(two.asked_by_a(&Process::with(None, &two.path("b/nodes/w"))), two.b(false));
        assert_eq!(two.asked_by_a(&Process::with(None, &elsewhere)), "None, false");
    }

    #[test]
    fn a_deleted_lock_is_ours_if_it_was_at_a_path_of_ours() {
        let two = Two::new();
        let (a, b) = (two.lock("a"), two.lock("b"));
        let (of_a, of_b) = (Process::with(Some(&a), &two.path("")), Process::with(Some(&b), &two.path("")));
        for name in ["a", "b"] {
            fs::remove_file(two.path(name).join("run/w/lock")).unwrap();
        }
        let new = two.lock("a");
        assert_eq!(two.asked_by_a(&of_a), "ours");
        assert_eq!(two.asked_by_a(&of_b), two.b(false));
        // Moved here from b.
        let home = two.home(&["a", "b"], true);
        let (lock, directory) = (new.metadata().unwrap(), two.path("a/nodes/w"));
        let node = NodeHome { home: &home, node: &two.node, lock: Some(&lock), directory: &directory };
        assert_eq!(of_b.owner(&node), "ours");
        let found: BTreeSet<u32> = lingering(&home).unwrap().into_iter().map(|one| one.pid).collect();
        // This process has them open as well, and is skipped.
        assert_eq!(found, [of_a.0.id(), of_b.0.id()].into());
        let by = |uid| Proven::by_deleted_lock(of_a.0.id(), &home, &two.node, uid).unwrap().is_some();
        assert!(by(Some(own_uid())));
        // A descriptor can be passed to any process: another user's run proves nothing about this one.
        assert!(!by(Some(own_uid() + 1)) && !by(None));
        let other = NodeName::new("other").unwrap();
        assert!(Proven::by_deleted_lock(of_a.0.id(), &home, &other, Some(own_uid())).unwrap().is_none());
        let unlocked = File::create(two.path("b/run/w/lock")).unwrap();
        let opener = Process::with(Some(&unlocked), &two.path(""));
        fs::remove_file(two.path("b/run/w/lock")).unwrap();
        assert!(!lingering(&home).unwrap().iter().any(|one| one.pid == opener.0.id()), "open, and not locked");
    }

    #[test]
    fn a_lock_with_a_second_name_proves_nothing() {
        let two = Two::new();
        let lock = two.lock("b");
        fs::hard_link(two.path("b/run/w/lock"), two.path("a/run/w/lock")).unwrap();
        let process = Process::with(Some(&lock), &two.path("b/nodes/w"));
        assert_eq!(two.asked_by_a(&process), two.b(false));
        assert_eq!(two.asked_by_a(&Process::with(Some(&lock), &two.path("a/nodes/w"))), "ours");
    }

    #[test]
    fn a_shared_working_directory_proves_nothing_to_what_may_be_a_copy() {
        let two = Two::new();
        let process = Process::with(None, &two.path("shared/w"));
        let directory = two.path("shared/w");
        for (is_confirmed, owner) in [(true, "ours"), (false, "None, true")] {
            let home = two.home(&["a"], is_confirmed);
            let node = NodeHome { home: &home, node: &two.node, lock: None, directory: &directory };
            assert_eq!(process.owner(&node), owner);
        }
    }

    #[test]
    fn paths_of_locks_are_read_whole() {
        let two = Two::new();
        let home = two.home(&["a"], true);
        let node = |path: &str| home.node_of_lock(&two.path(path)).map(|node| node.to_string());
        assert_eq!(node("a/run/w/lock").as_deref(), Some("w"));
        for other in
            ["a/run/lock", "a/run/w/lock/x", "a/run/w/status", "b/run/w/lock", "a/nodes/w/lock", "a/run/../lock"]
        {
            assert_eq!(node(other), None, "{other}");
        }
        assert_eq!(without_name(Path::new("/s/run/w/lock (deleted)")), Some(Path::new("/s/run/w/lock")));
        assert_eq!(without_name(Path::new("/s/run/w/lock")), None);
    }
}

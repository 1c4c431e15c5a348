//! Shims that are identified without their lock, when the lock is unavailable.
//!
//! A shim runs as the agent's user under the shim's name. That is no proof yet: a host may have shims of other state
//! directories. It belongs to a node if it is the parent of a process that is proven to be the node's, since a shim
//! runs one node and a node has no other parent; or if it works in the node's run directory, which only the agent's
//! user can enter.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::belongs::has_looks_of_a_shim;
use super::{Live, Proven, own_uid, real_uid, stat};

impl Proven {
    /// The shim of this process of a node, if it is still the parent.
    pub fn shim_of(node: &Self) -> Option<Self> {
        let parent = stat(node.pid).ok()?.parent;
        let shim = Live::pin(parent).ok().flatten().filter(|_| is_shim(parent))?;
        // Checked after opening the pidfd, and while the child is alive: so this process is the parent of that child.
        let is_parent = stat(node.pid).is_ok_and(|stat| stat.parent == parent);
        (is_parent && !node.wait_until(std::time::Instant::now()) && !shim.has_ended()).then(|| shim.proven())
    }

    /// The process with this number, if it is a shim that works in this run directory.
    pub fn shim_in(pid: u32, directory: &File) -> Option<Self> {
        if !works_in(pid, directory) {
            return None;
        }
        let shim = Live::pin(pid).ok().flatten()?;
        (is_shim(pid) && works_in(pid, directory) && !shim.has_ended()).then(|| shim.proven())
    }
}

fn is_shim(pid: u32) -> bool {
    has_looks_of_a_shim(pid) && real_uid(pid).is_ok_and(|uid| uid == own_uid())
}

fn works_in(pid: u32, directory: &File) -> bool {
    let found = fs::metadata(format!("/proc/{pid}/cwd"));
    let own = directory.metadata();
    matches!((found, own), (Ok(found), Ok(own)) if (found.dev(), found.ino()) == (own.dev(), own.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shim_is_known_by_its_name_with_its_directory_or_its_child() {
        let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here_file, elsewhere_file) = (File::open(here.path()).unwrap(), File::open(elsewhere.path()).unwrap());
        let shell = |name: &str| {
            // A shell that renames itself, as a shim does, and has a child.
            let script = format!("printf {name} > /proc/self/comm; sleep 60 & echo > ready; wait");
            let mut command = Command::new("sh");
            command.arg0("sh").args(["-c", &script]).current_dir(here.path());
            command.spawn().unwrap()
        };
        for (name, is_one) in [("zca-shim", true), ("sh", false)] {
            let mut process = shell(name);
            let ready = here.path().join("ready");
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            while !ready.exists() {
                assert!(std::time::Instant::now() < deadline, "the shell did not start");
                std::thread::yield_now();
            }
            fs::remove_file(ready).unwrap();
            let pid = process.id();
            assert_eq!(Proven::shim_in(pid, &here_file).map(|shim| shim.pid), is_one.then_some(pid), "{name}");
            assert!(Proven::shim_in(pid, &elsewhere_file).is_none(), "{name}: works somewhere else");
            let own = Proven::child_of(None, pid).unwrap().unwrap();
            let mut children = super::super::all_pids().filter_map(|one| Proven::child_of(Some(&own), one).unwrap());
            let child = children.next().unwrap();
            assert_eq!(Proven::shim_of(&child).map(|shim| shim.pid), is_one.then_some(pid), "{name}");
            child.signal(rustix::process::Signal::KILL).unwrap();
            own.signal(rustix::process::Signal::KILL).unwrap();
            process.wait().unwrap();
            assert!(Proven::shim_in(pid, &here_file).is_none(), "{name}: it has ended");
        }
    }
}

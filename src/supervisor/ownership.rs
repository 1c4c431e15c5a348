//! Gives a node's directory to its user, when the agent is root and the node is not.
//!
//! The parent directory belongs to the agent, so the agent knows what it opens; the content belongs to the node, which
//! may change it while the agent looks. So everything is opened without following links, and then inspected and changed
//! through the descriptor.
//!
//! Promise: only what belonged to the directory's own owner before is given away, and no file that has a second name
//! elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

use crate::api::rights::User;

/// The depth and the number of entries to which the search is limited: a node's directory has a few dozen entries.
const DEPTH: u32 = 32;
const THINGS: u64 = 1_000_000;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Gives the directory and its content to `user`, unless the directory already belongs to the user.
pub fn give(directory: &Path, user: &User) -> io::Result<()> {
    let fd = rustix::fs::open(directory, DIRECTORY, Mode::empty())?;
    let before = rustix::fs::fstat(&fd)?;
    if before.st_uid == user.uid && before.st_gid == user.gid {
        return Ok(());
    }
    let mut given = Giving { from: before.st_uid, user, left: THINGS };
    given.contents(fd.as_fd(), DEPTH)?;
    // Last, so that an interrupted attempt is repeated from the start.
    given.chown(fd.as_fd())
}

/// Gives a new file in a node's directory to the directory's owner, if this process is root and the owner is not.
pub fn give_new(directory: &OwnedFd, thing: impl AsFd) -> io::Result<()> {
    let owner = rustix::fs::fstat(directory)?;
    if rustix::process::geteuid().is_root() && owner.st_uid != 0 {
        rustix::fs::fchown(thing, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?;
    }
    Ok(())
}

struct Giving<'a> {
    from: u32,
    user: &'a User,
    left: u64,
}

impl Giving<'_> {
    fn contents(&mut self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| too_much("too many files"))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let thing = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                Ok(thing) => thing,
                // It was removed meanwhile.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let stat = rustix::fs::fstat(&thing)?;
            if !self.is_to_give(&stat) {
                continue;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let depth = depth.checked_sub(1).ok_or_else(|| too_much("too many directories in each other"))?;
                let inner: OwnedFd = rustix::fs::openat(&thing, c".", DIRECTORY, Mode::empty())?;
                self.contents(inner.as_fd(), depth)?;
            }
            self.chown(thing.as_fd())?;
        }
        Ok(())
    }

    fn is_to_give(&self, stat: &Stat) -> bool {
        let is_only_name = FileType::from_raw_mode(stat.st_mode) == FileType::Directory || stat.st_nlink == 1;
        stat.st_uid == self.from && is_only_name
    }

    fn chown(&self, thing: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.user.uid), Gid::from_raw(self.user.gid));
        Ok(rustix::fs::chownat(thing, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }
}

fn too_much(what: &str) -> io::Error {
    io::Error::other(format!("{what} in it; give it to the node's user by hand (chown -R)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn what_was_the_directorys_owners_is_given_and_nothing_beyond() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        fs::write(&outside, "").unwrap();
        let node = scratch.path().join("node");
        fs::create_dir_all(node.join("inner")).unwrap();
        fs::write(node.join("inner/file"), "").unwrap();
        fs::write(node.join("others"), "").unwrap();
        std::os::unix::fs::chown(node.join("others"), Some(1234), Some(1234)).unwrap();
        symlink(&outside, node.join("link")).unwrap();
        fs::hard_link(&outside, node.join("second-name")).unwrap();
        symlink(scratch.path(), node.join("inner/up")).unwrap();
        let user = User { name: "u".into(), uid: 65_500, gid: 65_501, groups: Vec::new() };
        give(&node, &user).unwrap();
        let owner = |path: &Path| {
            let metadata = fs::symlink_metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        for given in ["", "inner", "inner/file", "inner/up", "link"] {
            assert_eq!(owner(&node.join(given)), (65_500, 65_501), "{given:?}");
        }
        assert_eq!(owner(&node.join("others")), (1234, 1234));
        assert_eq!(owner(&outside).0, 0);
        assert_eq!(owner(scratch.path()).0, 0);
        // A directory that already belongs to the user is not searched again.
        fs::write(node.join("roots"), "").unwrap();
        give(&node, &user).unwrap();
        assert_eq!(owner(&node.join("roots")).0, 0);
        let opened = OwnedFd::from(fs::File::open(&node).unwrap());
        give_new(&opened, fs::File::open(node.join("roots")).unwrap()).unwrap();
        assert_eq!(owner(&node.join("roots")), (65_500, 65_501));
        let link = scratch.path().join("link-to-node");
        symlink(&node, &link).unwrap();
        assert!(give(&link, &user).is_err(), "the directory itself is no link");
    }
}

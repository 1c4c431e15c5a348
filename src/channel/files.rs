//! The files of one node's directory for questions. All of it blocks, for a moment.
//!
//! The directory belongs to the node, which may put anything there: nothing is followed, waited for, or read without a
//! limit.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::api::channel::REPLY_LIMIT;
use crate::regular_file;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const QUESTIONS: &str = "req";
const BESIDE: &str = "req.new";
/// Replies that nobody waited for any more; so many are removed at a time.
const LATE: usize = 1024;

/// An open directory for questions.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// The directory `name` in the node's own.
    pub fn open(node_dir: &Path, name: &str) -> io::Result<Self> {
        let node = rustix::fs::open(node_dir, DIRECTORY, Mode::empty())?;
        Ok(Self(rustix::fs::openat(&node, name, DIRECTORY, Mode::empty())?))
    }

    /// A descriptor that becomes readable when a reply is there.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        inotify::add_watch(&watch, path, WatchFlags::MOVED_TO)?;
        Ok(watch)
    }

    /// Removes late replies to earlier questions, and puts these in the place of the earlier ones.
    pub fn put(&self, questions: &str) -> io::Result<()> {
        for entry in Dir::read_from(&self.0)?.take(LATE) {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b"rep.") {
                self.remove(entry.file_name())?;
            }
        }
        self.remove(BESIDE)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(rustix::fs::openat(&self.0, BESIDE, flags, mode)?);
        // Whatever the umask is: nobody but the node's user enters the directory.
        rustix::fs::fchmod(&file, mode)?;
        file.write_all(questions.as_bytes())?;
        drop(file);
        Ok(rustix::fs::renameat(&self.0, BESIDE, &self.0, QUESTIONS)?)
    }

    /// The reply to this question, which is then removed. `None`: it is not there yet.
    pub fn take(&self, reqid: &str) -> io::Result<Option<Vec<u8>>> {
        let name = format!("rep.{reqid}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, &name, flags, Mode::empty()) {
            Ok(file) => regular_file::check(file)?,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        // One byte more than is taken, so that it is noticed.
        let limit = u64::try_from(REPLY_LIMIT).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes)?;
        self.remove(name.as_str())?;
        Ok(Some(bytes))
    }

    fn remove(&self, name: impl rustix::path::Arg) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            // A directory of that name is the node's own and in nobody's way.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

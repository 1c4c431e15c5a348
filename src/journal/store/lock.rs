//! The lock of a state directory: one agent, or one offline command, at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::regular_file;

/// The lock file's name in the state directory.
pub const FILE: &str = "agent.lock";

/// How often a held lock is tried again. Blocking until the holder ends is not possible: flock has no timeout.
const RETRY: Duration = Duration::from_millis(50);

/// Why the state directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, and did not end in time.
    #[error(
        "another agent{} uses the state directory {dir}: end it first (`shutdown`; its nodes run on), or give another --state-dir",
        holder(.pid)
    )]
    Held {
        /// The state directory.
        dir: String,
        /// Which process, according to the file; `None` if the file is unreadable.
        pid: Option<u32>,
    },
    /// The file cannot be opened or locked.
    #[error("locking {path} failed")]
    Io {
        /// The file's path.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The process that wrote this pid, as part of a sentence.
pub fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Held until dropped, or until the process ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock, waiting up to `wait` for a holder to end.
    pub fn acquire(state_dir: &Path, wait: Duration) -> Result<Self, LockError> {
        let path = state_dir.join(FILE);
        let failed = |source| LockError::Io { path: path.display().to_string(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = regular_file::open(&path, &mut options).map_err(failed)?;
        let deadline = Instant::now() + wait;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(LockError::Held { dir: state_dir.display().to_string(), pid: read_pid(&mut file) });
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        let mut write_pid = || {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        };
        // The pid only informs processes that find the lock held; a full disk must not prevent an agent from starting.
        if let Err(error) = write_pid() {
            tracing::debug!(%error, "the pid was not written to the lock file");
        }
        Ok(Self { _file: file })
    }
}

/// The pid that the holder wrote; `None` if it could not.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let error = StateLock::acquire(dir.path(), Duration::from_millis(60)).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())));
        drop(held);
        StateLock::acquire(dir.path(), Duration::ZERO).unwrap();
    }
}

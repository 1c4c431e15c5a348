//! The state directory: created with the permissions that nodes of another user and the control group need, and locked.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, Options};
use crate::api::rights::User;
use crate::journal::lock;
use crate::supervisor;

/// Takes the lock of the state directory; if it has to wait, it reports at once who holds the lock.
pub(super) fn lock_directory(dir: &Path, wait: Duration) -> Result<lock::StateLock, lock::LockError> {
    match lock::StateLock::acquire(dir, Duration::ZERO) {
        Err(lock::LockError::Held { dir: held, pid }) if !wait.is_zero() => {
            let who = lock::holder(&pid);
            tracing::warn!(
                "another agent{who} uses the state directory {held}; waiting up to {} s for it to end",
                wait.as_secs()
            );
            lock::StateLock::acquire(dir, wait)
        }
        other => other,
    }
}

/// Creates the state directory: accessible to the owner alone; traversable by the control group, whose members have to
/// reach the socket in it; or by everybody, if nodes run as another user. Its contents stay the owner's alone, except
/// those meant for the nodes' user or the group.
pub(super) fn make_state_dir(options: &Options) -> Result<(), Error> {
    let dir = &options.state_dir;
    let failed = |source| Error::StateDir { dir: dir.display().to_string(), source };
    let made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    // If a power cut removes a directory, it takes everything durable inside along.
    for parent in made.into_iter().filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    if let Some(group) = options.control.group {
        std::os::unix::fs::chown(dir, None, Some(group)).map_err(failed)?;
    }
    close_inside(dir).map_err(failed)?;
    match (&options.node_user, options.control.group) {
        (Some(user), _) => {
            open_to_pass(dir).map_err(failed)?;
            make_passable(&options.supervisor.node_dir).map_err(failed)?;
            make_log_queue(dir, user)
                .map_err(|source| Error::LogQueue { path: log_queue(dir).display().to_string(), source })
        }
        (None, Some(_)) => std::fs::set_permissions(dir, Permissions::from_mode(0o710)).map_err(failed),
        (None, None) => Ok(()),
    }
}

/// Where nodes put rotated logs. A node that runs as the agent's user creates it itself.
fn make_log_queue(state_dir: &Path, user: &User) -> io::Result<()> {
    let queue = log_queue(state_dir);
    make_passable(&state_dir.join(SPOOL))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&queue)?;
    supervisor::give(&queue, user)
}

const SPOOL: &str = "spool";

pub(super) fn log_queue(state_dir: &Path) -> PathBuf {
    state_dir.join(SPOOL).join("log-queue")
}

fn make_passable(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    open_to_pass(dir)
}

fn open_to_pass(dir: &Path) -> io::Result<()> {
    match std::fs::metadata(dir)?.permissions().mode() {
        mode if mode & 0o111 == 0o111 => Ok(()),
        mode => std::fs::set_permissions(dir, Permissions::from_mode(mode | 0o111)),
    }
}

/// Others may traverse the directory now, or soon; earlier releases created files in it trusting that nobody could.
fn close_inside(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A socket has its own permissions and need not be readable; the agent creates no links.
        let kind = entry.file_type()?;
        if PASSABLE.iter().any(|name| entry.file_name() == *name) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let closed = entry.metadata().and_then(|metadata| match metadata.permissions().mode() {
            mode if mode & 0o077 == 0 => Ok(()),
            mode => std::fs::set_permissions(entry.path(), Permissions::from_mode(mode & 0o700)),
        });
        match closed {
            // A file of another agent, whose lock has not been waited for yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed?,
        }
    }
    Ok(())
}

/// Entries of the state directory that node users must be able to traverse, and those that hold their old logs.
const PASSABLE: [&str; 3] = ["nodes", SPOOL, "logs"];

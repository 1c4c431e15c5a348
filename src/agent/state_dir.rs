//! The state directory as a whole: made, with the rights that nodes of another user and the control group need, and locked.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, Options};
use crate::api::rights::User;
use crate::journal::lock;
use crate::supervisor;

/// Takes the lock of the state directory, and says at once for whom it waits if it has to.
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

/// Makes the state directory: the owner's alone, or passable for the control group, whose members have to reach the socket in
/// it, or for everybody, if nodes run as somebody else. What is in it stays the owner's alone, but for what is theirs.
pub(super) fn make_state_dir(options: &Options) -> Result<(), Error> {
    let dir = &options.state_dir;
    let failed = |source| Error::StateDir { dir: dir.display().to_string(), source };
    let made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    // A directory that a power cut takes away takes with it what was durable inside.
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

/// Where nodes put rotated logs. A node that runs as the agent does makes it itself.
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

/// Others may pass now, or soon; earlier releases made files in the state directory trusting that nobody could.
fn close_inside(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A socket has its own rights, and needs no reading; no link is ours.
        let kind = entry.file_type()?;
        if PASSABLE.iter().any(|name| entry.file_name() == *name) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let closed = entry.metadata().and_then(|metadata| match metadata.permissions().mode() {
            mode if mode & 0o077 == 0 => Ok(()),
            mode => std::fs::set_permissions(entry.path(), Permissions::from_mode(mode & 0o700)),
        });
        match closed {
            // Another agent's, for whose lock nobody has waited yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed?,
        }
    }
    Ok(())
}

/// What nodes have something to do with, in the state directory, and the logs of which they are rid.
const PASSABLE: [&str; 3] = ["nodes", SPOOL, "logs"];

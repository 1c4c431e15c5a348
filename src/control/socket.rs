//! The control socket's file: replaces a stale socket, never one that a process listens on.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::address::Address;

/// Why the agent cannot listen on its control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A process listens there already.
    #[error(
        "{} is in use: an agent already listens there; stop it, or give this one another --control-socket",
        path.display()
    )]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another kind of file is in its place, and is left alone.
    #[error("{} is there and is not a socket; remove it, or choose another --control-socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused, for example because the directory is missing.
    #[error("cannot listen on the control socket {}; its directory has to exist and to be writable by the agent", path.display())]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The socket cannot be given to the control group.
    #[error("cannot give the control socket {} to group {group}; run the agent as root or as a member of that group", path.display())]
    Group {
        /// The socket's path.
        path: PathBuf,
        /// The group's number.
        group: u32,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The socket in the file system, removed when dropped if it is still ours.
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Binds it under a temporary name and renames it into place, so that it never appears with the wrong mode or
    /// group.
    pub(super) fn bind(path: &Path, group: Option<u32>) -> Result<(std::os::unix::net::UnixListener, Self), BindError> {
        let bind_error = |source| BindError::Bind { path: path.to_owned(), source };
        check_free(path)?;
        let name = path.file_name().ok_or_else(|| bind_error(io::ErrorKind::InvalidInput.into()))?;
        let mut new_name = std::ffi::OsString::from(".");
        new_name.push(name);
        new_name.push(format!(".{}", std::process::id()));
        let new_path = path.with_file_name(new_name);
        if let Err(error) = std::fs::remove_file(&new_path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(bind_error(error));
        }
        let address = Address::of(&new_path).map_err(bind_error)?;
        let listener = std::os::unix::net::UnixListener::bind(address.path()).map_err(bind_error)?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&new_path, None, Some(group)).map_err(|source| BindError::Group {
                path: path.to_owned(),
                group,
                source,
            })?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&new_path, std::fs::Permissions::from_mode(mode)).map_err(bind_error)?;
        let metadata = std::fs::symlink_metadata(&new_path).map_err(bind_error)?;
        std::fs::rename(&new_path, path).map_err(bind_error)?;
        Ok((listener, Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match std::fs::symlink_metadata(&self.path) {
            Ok(metadata) if metadata.dev() == self.device && metadata.ino() == self.inode => {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "cannot remove the control socket");
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Checks that nobody listens at `path`, and that no other kind of file is there.
fn check_free(path: &Path) -> Result<(), BindError> {
    let bind_error = |source| BindError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_error(error)),
    }
    let address = Address::of(path).map_err(bind_error)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        // Otherwise a listener with a full backlog would make us wait for it.
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| bind_error(errno.into()))?;
    let target = SocketAddrUnix::new(address.path()).map_err(|errno| bind_error(errno.into()))?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(BindError::InUse { path: path.to_owned() }),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(bind_error(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_takes_the_place_of_a_stale_one_and_of_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, file) = SocketFile::bind(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(SocketFile::bind(&path, None), Err(BindError::InUse { .. })));
        drop(file);
        assert!(!path.exists());

        let gid = rustix::process::getgid().as_raw();
        let (_listener, file) = SocketFile::bind(&path, Some(gid)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        // Now another agent's socket: not ours to remove.
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());

        let taken = scratch.path().join("file");
        std::fs::write(&taken, "data").unwrap();
        assert!(matches!(SocketFile::bind(&taken, None), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&taken).unwrap(), "data");
    }
}

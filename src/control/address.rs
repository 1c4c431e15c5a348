//! Socket paths of any length: an address holds 108 bytes, a path 4096.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The bytes of `sun_path` without the terminating zero.
const ADDRESS_LIMIT: usize = 107;

/// A path that fits into an address and names the same file, valid as long as this value lives.
pub(super) struct Address {
    path: PathBuf,
    /// Open only if `path` goes through it.
    _directory: Option<OwnedFd>,
}

impl Address {
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= ADDRESS_LIMIT {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "names no file"));
        };
        let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        if short.as_os_str().len() > ADDRESS_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's file name is too long"));
        }
        Ok(Self { path: short, _directory: Some(directory) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_below_a_long_path_can_be_bound_and_reached() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("control.sock");
        let _listener = UnixListener::bind(Address::of(&path).unwrap().path()).unwrap();
        UnixStream::connect(Address::of(&path).unwrap().path()).unwrap();
        assert!(path.exists());
    }

    #[test]
    fn a_file_name_that_no_address_can_hold_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(Address::of(&scratch.path().join("n".repeat(200))).is_err());
    }
}

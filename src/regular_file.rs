//! Opening files that must be regular files, in directories where their names may belong to something else.
//!
//! A state directory is restored, copied and repaired by hand, and a node's directory belongs to its node. Opening a
//! FIFO would wait for ever for its other end, and a symbolic link would make the agent write elsewhere. Nothing here
//! waits, follows a link, or changes anything but a regular file; the error says what was found and what to do.

use std::fs::{self, File, FileType, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The flags of open(2) that avoid waiting and following links.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;

/// Opens the file for reading. `NotFound` if it does not exist.
pub fn read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens the file for writing and truncates it; a missing file is created with this mode.
pub fn rewrite(path: &Path, mode: u32) -> io::Result<File> {
    // Truncated only once it is known to be a regular file.
    let file = open(path, OpenOptions::new().write(true).create(true).truncate(false).mode(mode))?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens the file with `options`, which must not truncate it.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match options.custom_flags(FLAGS).open(path) {
        Ok(file) => check(file),
        Err(error) => Err(match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => irregular(found.file_type()),
            Ok(_) | Err(_) => error,
        }),
    }
}

/// The same check for a file that was opened by other means with these flags.
pub fn check(file: impl Into<OwnedFd>) -> io::Result<File> {
    let file = File::from(file.into());
    let found = file.metadata()?.file_type();
    if found.is_file() { Ok(file) } else { Err(irregular(found)) }
}

fn irregular(found: FileType) -> io::Error {
    let what = if found.is_symlink() {
        "a symbolic link"
    } else if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {what}, and has to be a regular file; move it away or put the file back, and try again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |name: &str| scratch.path().join(name);
        fs::write(place("target"), "kept").unwrap();
        symlink(place("target"), place("link")).unwrap();
        symlink(place("nowhere"), place("dangling")).unwrap();
        fs::create_dir(place("directory")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _listener = UnixListener::bind(place("socket")).unwrap();
        for (name, what) in [
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("directory", "a directory"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
        ] {
            for opened in [
                read(&place(name)),
                rewrite(&place(name), 0o600),
                open(&place(name), OpenOptions::new().read(true).write(true).create(true).truncate(false)),
                open(&place(name), OpenOptions::new().append(true).create(true)),
            ] {
                let error = opened.unwrap_err();
                assert!(error.to_string().contains(what), "{name}: {error}");
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        }
        assert_eq!(fs::read(place("target")).unwrap(), b"kept");
        assert!(!place("nowhere").exists());
        assert_eq!(read(&place("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        rewrite(&place("target"), 0o600).unwrap();
        assert_eq!(fs::read(place("target")).unwrap(), b"");
    }
}

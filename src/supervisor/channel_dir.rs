//! The directory through which the agent asks a node: made before each launch, for the node's user alone.
//!
//! It is in the node's directory, so the node may have put anything there: no link is followed. What questions and
//! answers look like is not known here.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::ownership;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The file with the questions. Zeek's reader gives up on a file that is not there.
const QUESTIONS: &str = "req";
/// More files than this are left: no agent asks as much at once.
const LEFT_OVERS: usize = 4096;

/// Makes the directory and an empty file of questions in it, and removes what earlier processes left there.
pub fn make(node_dir: &Path, name: &str) -> io::Result<()> {
    // Names are ours, but a damaged launch file may contain others.
    if Path::new(name).file_name().is_none_or(|only| only != name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its name leads out of the node's directory"));
    }
    let parent = rustix::fs::open(node_dir, DIRECTORY, Mode::empty())?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())?;
    ownership::give_new(&parent, &directory)?;
    rustix::fs::fchmod(&directory, Mode::RWXU)?;
    let entries = Dir::read_from(&directory)?.take(LEFT_OVERS).collect::<Result<Vec<_>, _>>()?;
    for entry in entries.iter().filter(|entry| entry.file_name() != c"." && entry.file_name() != c"..") {
        match rustix::fs::unlinkat(&directory, entry.file_name(), AtFlags::empty()) {
            // A directory in there is the node's own and in nobody's way.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let questions = File::from(rustix::fs::openat(&directory, QUESTIONS, flags, mode)?);
    // Whatever the umask is: nobody but the node's user enters the directory.
    Ok(rustix::fs::fchmod(&questions, mode)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn it_is_private_and_empty_whatever_was_there() {
        let node = tempfile::tempdir().unwrap();
        let path = node.path().join("ask");
        for _ in 0..2 {
            make(node.path(), "ask").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(path.join("req")).unwrap().permissions().mode() & 0o777, 0o644);
            let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["req"]);
            fs::write(path.join("req"), "old").unwrap();
            fs::write(path.join("rep.1"), "old").unwrap();
            fs::create_dir_all(path.join("inner")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
            fs::remove_dir(path.join("inner")).unwrap();
        }
    }

    #[test]
    fn no_link_is_followed_and_no_name_leads_out() {
        let scratch = tempfile::tempdir().unwrap();
        let (outside, node) = (scratch.path().join("outside"), scratch.path().join("node"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&node).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, node.join("ask")).unwrap();
        assert!(make(&node, "ask").is_err());
        for name in ["..", "", "a/b", "../outside"] {
            assert!(make(&node, name).is_err(), "{name}");
        }
        assert!(outside.join("kept").exists());
    }
}

//! Files in a node's working directory (such as `cluster-layout.zeek`), written before each launch.
//!
//! Promises: called under the node's lock, so no process of the node reads while they change; each is replaced
//! completely or not at all. The directory belongs to the node, which may have put anything there: no link is followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::ownership;
use crate::api::launch::NodeFile;

/// The largest file that is read back. A layout of 4096 nodes has a tenth of that.
const SIZE_LIMIT: u64 = 8 << 20;

/// Makes sure that each of `files` is in `directory`. If only the digest is known, the existing file has to match it.
pub fn write(directory: &Path, files: &BTreeMap<String, NodeFile>) -> Result<(), String> {
    if files.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| format!("cannot open its working directory {}: {error}", directory.display()))?;
    for (name, file) in files {
        let path = directory.join(name);
        // Names are ours, but a damaged launch file may contain others.
        if Path::new(name).file_name().is_none_or(|only| only != name.as_str()) {
            return Err(format!("its file {name:?} has a name that leads out of its directory"));
        }
        match &file.content {
            Some(content) => {
                replace(&opened, name, content.as_bytes())
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            }
            None => {
                let there = read(&opened, name).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                if NodeFile::digest_of(&there) != file.digest {
                    return Err(format!(
                        "{} was changed, and nobody knows what it held: send the configuration again",
                        path.display()
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Writes aside and renames. It need not survive a power cut: no node does, and the next launch writes it again.
fn replace(directory: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    let aside = format!(".{name}.new");
    match rustix::fs::unlinkat(directory, &aside, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, &aside, flags, Mode::from_raw_mode(0o644))?);
    ownership::give_new(directory, &file)?;
    file.write_all(content)?;
    drop(file);
    Ok(rustix::fs::renameat(directory, &aside, directory, name)?)
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    // Does not wait for a writer of a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    file.take(SIZE_LIMIT).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn files(name: &str, file: NodeFile) -> BTreeMap<String, NodeFile> {
        BTreeMap::from([(name.to_owned(), file)])
    }

    #[test]
    fn content_is_written_anew_and_a_digest_alone_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layout");
        let file = NodeFile::new("new".into());
        for before in ["", "old and longer"] {
            fs::write(&path, before).unwrap();
            write(directory.path(), &files("layout", file.clone())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        }
        let unknown = NodeFile { content: None, ..file };
        write(directory.path(), &files("layout", unknown.clone())).unwrap();
        fs::write(&path, "changed").unwrap();
        let error = write(directory.path(), &files("layout", unknown.clone())).unwrap_err();
        assert!(error.ends_with("layout was changed, and nobody knows what it held: send the configuration again"));
        fs::remove_file(&path).unwrap();
        assert!(write(directory.path(), &files("layout", unknown)).unwrap_err().contains("cannot read"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left aside");
    }

    #[test]
    fn no_link_is_followed_and_no_name_leads_out() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        let inside = directory.path().join("node");
        fs::write(&outside, "mine").unwrap();
        fs::create_dir(&inside).unwrap();
        symlink(&outside, inside.join("layout")).unwrap();
        symlink(&outside, inside.join(".layout.new")).unwrap();
        write(&inside, &files("layout", NodeFile::new("node's".into()))).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
        assert!(!inside.join("layout").is_symlink());
        symlink(&outside, inside.join("link")).unwrap();
        let digest = NodeFile { content: None, ..NodeFile::new("mine".into()) };
        assert!(write(&inside, &files("link", digest)).unwrap_err().contains("cannot read"));
        for name in ["../outside", "/etc/passwd", "", ".", "..", "a/"] {
            assert!(
                write(&inside, &files(name, NodeFile::new("x".into()))).unwrap_err().contains("leads out"),
                "{name}"
            );
        }
    }
}

//! Reads a chunk of a node's output from its directory, across rotation: `stdout` is the newest file, `stdout.1` the
//! one before it, and so on.
//!
//! Blocking, and bounded: a chunk has at most [`CHUNK_LIMIT`] bytes. The directory belongs to the node, which may put
//! anything there, so only regular files are read and links are not followed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::message::{LogChunk, LogPosition, LogQuery, Stream};

/// The most bytes in one chunk.
pub const CHUNK_LIMIT: u64 = 1 << 20;
/// The most files of one stream that are searched.
const FILES_LIMIT: u32 = 16;

/// Why a node's output cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node has not written here yet.
    #[error("{} has no output of this node: it was never started here; `nodes list` shows the nodes of this host", path.display())]
    Absent {
        /// The node's directory.
        path: PathBuf,
    },
    /// A link, a pipe or a device is in the file's place.
    #[error("{} is not a regular file; remove it: the node's next start creates it again", path.display())]
    NotAFile {
        /// The file's path.
        path: PathBuf,
    },
    /// The file is a hard link, so it may be another user's.
    #[error(
        "{} is not read: the file has a second name (a hard link), so it may be another's; remove that name, or the file (the node's next start creates it again)",
        path.display()
    )]
    SecondName {
        /// The file's path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

struct Part {
    path: PathBuf,
    file: File,
    inode: u64,
    length: u64,
}

impl Part {
    fn read(&self, from: u64, most: u64) -> Result<Vec<u8>, Error> {
        let wanted = self.length.saturating_sub(from).min(most);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, from).map_err(|source| Error::Read { path: self.path.clone(), source })?;
        Ok(bytes)
    }
}

/// Reads what `query` asks for from the node's directory.
pub fn read(directory: &Path, query: &LogQuery) -> Result<LogChunk, Error> {
    let parts = open_parts(directory, query.stream)?;
    match query.from {
        None => tail(&parts, query.lines),
        Some(position) => go_on(&parts, position),
    }
}

/// The files of a stream, newest first; at least one.
fn open_parts(directory: &Path, stream: Stream) -> Result<Vec<Part>, Error> {
    let mut parts: Vec<Part> = Vec::new();
    for age in 0..FILES_LIMIT {
        let name = if age == 0 { stream.as_str().to_owned() } else { format!("{}.{age}", stream.as_str()) };
        let path = directory.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(rustix::io::Errno::NOENT) if age == 0 => continue,
            Err(rustix::io::Errno::NOENT) => break,
            Err(rustix::io::Errno::LOOP) => return Err(Error::NotAFile { path }),
            Err(errno) => return Err(Error::Read { path, source: errno.into() }),
        };
        let metadata = file.metadata().map_err(|source| Error::Read { path: path.clone(), source })?;
        if !metadata.is_file() {
            return Err(Error::NotAFile { path });
        }
        if metadata.nlink() > 1 {
            return Err(Error::SecondName { path });
        }
        // A rotation between two opens makes one file appear twice, under its old and its new name.
        if parts.iter().all(|part| part.inode != metadata.ino()) {
            parts.push(Part { path, file, inode: metadata.ino(), length: metadata.len() });
        }
    }
    if parts.is_empty() {
        return Err(Error::Absent { path: directory.to_owned() });
    }
    Ok(parts)
}

fn tail(parts: &[Part], lines: u64) -> Result<LogChunk, Error> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut next = None;
    for part in parts {
        next.get_or_insert(LogPosition { inode: part.inode, offset: part.length });
        let room = CHUNK_LIMIT.saturating_sub(bytes.len() as u64);
        let mut older = part.read(part.length.saturating_sub(room), room)?;
        older.append(&mut bytes);
        bytes = older;
        if bytes.len() as u64 >= CHUNK_LIMIT || line_ends(&bytes) > lines {
            break;
        }
    }
    let start = start_of_last(&bytes, lines);
    Ok(LogChunk {
        bytes: bytes.split_off(start),
        next: next.expect("a stream has at least one file"),
        end: true,
        gap: false,
    })
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Where the last `lines` lines begin; an unfinished line counts as one.
fn start_of_last(bytes: &[u8], lines: u64) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    let mut left = lines;
    for (at, byte) in bytes.iter().enumerate().rev().skip(1) {
        if *byte == b'\n' {
            left -= 1;
            if left == 0 {
                return at + 1;
            }
        }
    }
    0
}

fn go_on(parts: &[Part], position: LogPosition) -> Result<LogChunk, Error> {
    let found = parts.iter().position(|part| part.inode == position.inode && position.offset <= part.length);
    let (mut age, mut offset, gap) = match found {
        Some(age) => (age, position.offset, false),
        None => (parts.len().saturating_sub(1), 0, true),
    };
    loop {
        let part = parts.get(age).expect("age counts down from a file that is there");
        let bytes = part.read(offset, CHUNK_LIMIT)?;
        offset += bytes.len() as u64;
        if bytes.is_empty() && age > 0 {
            age -= 1;
            offset = 0;
            continue;
        }
        let end = age == 0 && offset >= part.length;
        return Ok(LogChunk { bytes, next: LogPosition { inode: part.inode, offset }, end, gap });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn query(from: Option<LogPosition>, lines: u64) -> LogQuery {
        LogQuery { stream: Stream::Stdout, from, lines }
    }

    fn append(path: &Path, text: &str) {
        fs::OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_come_from_older_files_too() {
        let scratch = tempfile::tempdir().unwrap();
        append(&scratch.path().join("stdout.1"), "one\ntwo\n");
        append(&scratch.path().join("stdout"), "three\nfour");
        let all = |lines| String::from_utf8(read(scratch.path(), &query(None, lines)).unwrap().bytes).unwrap();
        assert_eq!(all(0), "");
        assert_eq!(all(1), "four");
        assert_eq!(all(2), "three\nfour");
        assert_eq!(all(3), "two\nthree\nfour");
        assert_eq!(all(100), "one\ntwo\nthree\nfour");
    }

    #[test]
    fn following_survives_rotation_and_says_when_it_lost_something() {
        let scratch = tempfile::tempdir().unwrap();
        let (newest, older, oldest) =
            (scratch.path().join("stdout"), scratch.path().join("stdout.1"), scratch.path().join("stdout.2"));
        append(&newest, "one\n");
        let first = read(scratch.path(), &query(None, 10)).unwrap();
        append(&newest, "two\n");
        fs::rename(&newest, &older).unwrap();
        append(&newest, "three\n");
        let second = read(scratch.path(), &query(Some(first.next), 0)).unwrap();
        assert_eq!((second.bytes.as_slice(), second.end, second.gap), (b"two\n".as_slice(), false, false));
        let third = read(scratch.path(), &query(Some(second.next), 0)).unwrap();
        assert_eq!((third.bytes.as_slice(), third.end, third.gap), (b"three\n".as_slice(), true, false));

        fs::rename(&newest, &oldest).unwrap();
        fs::remove_file(&oldest).unwrap();
        append(&newest, "five\n");
        let fourth = read(scratch.path(), &query(Some(third.next), 0)).unwrap();
        assert!(fourth.gap);
    }

    #[test]
    fn links_and_absent_output_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(read(scratch.path(), &query(None, 1)), Err(Error::Absent { .. })));
        std::os::unix::fs::symlink("/etc/passwd", scratch.path().join("stdout")).unwrap();
        assert!(matches!(read(scratch.path(), &query(None, 1)), Err(Error::NotAFile { .. })));
    }
}

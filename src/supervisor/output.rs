//! A node's output on disk: `stdout` and `stderr` in its directory, rotated, never blocking the node.
//!
//! Promises: whatever the disk does, the node is not blocked, and bytes that could not be written are dropped and
//! counted. Three files of 10 MiB a stream at most: `stdout`, `stdout.1`, `stdout.2`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::ownership;
use crate::api::status::{self, NodeOutputs};

/// The size at which a file is rotated.
pub const FILE_LIMIT: u64 = 10 << 20;
/// Between two checks of where the file is.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The most bytes of a tail.
pub const TAIL_BYTES: u64 = 16 << 10;
pub const TAIL_LINES: usize = 100;
/// Where its lines are searched for: it leaves out the lines that a node repeats every second for some minutes while
/// its agent is away.
const WINDOW: u64 = 128 << 10;

/// One stream of one node.
#[derive(Debug)]
pub struct Output {
    directory: OwnedFd,
    name: &'static str,
    file: Option<File>,
    size: u64,
    limit: u64,
    /// Bytes of this incarnation that are in files: its tail must not show output of an earlier one.
    written: u64,
    /// When the place of the file was last checked.
    looked: Option<Instant>,
    /// Bytes that could not be written.
    pub dropped: u64,
}

impl Output {
    /// Does not fail: if a file cannot be opened now, this is tried again when there is something to write.
    pub fn new(directory: OwnedFd, name: &'static str, limit: u64) -> Self {
        let mut output = Self { directory, name, file: None, size: 0, limit, written: 0, looked: None, dropped: 0 };
        let _ = output.open();
        output
    }

    /// The directory belongs to the node: an existing file is written to only if it is a regular file of the
    /// directory's owner without a second name. A new file is given to that owner, whoever this process runs as.
    fn open(&mut self) -> io::Result<()> {
        let owner = rustix::fs::fstat(&self.directory)?;
        let euid = rustix::process::geteuid();
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        let file = match rustix::fs::openat(&self.directory, self.name, new, Mode::from_raw_mode(0o640)) {
            Ok(file) => {
                ownership::give_new(&self.directory, &file)?;
                file
            }
            Err(rustix::io::Errno::EXIST) => {
                let file = rustix::fs::openat(&self.directory, self.name, flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&file)?;
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
                let is_its = stat.st_uid == owner.st_uid || !euid.is_root() && stat.st_uid == euid.as_raw();
                if !is_file || !is_its {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "something else has its file's name"));
                }
                file
            }
            Err(error) => return Err(error.into()),
        };
        let file = File::from(file);
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Closes a file that was moved or removed, as programs that rotate logs do, so that later output goes to a file of
    /// the expected name. Called when there is something to write, and checks at most once a second.
    fn notice_move(&mut self) {
        let now = Instant::now();
        if self.looked.is_some_and(|at| now.duration_since(at) < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(now);
        let Some(own) = self.file.as_ref().and_then(|file| rustix::fs::fstat(file).ok()) else { return };
        match rustix::fs::statat(&self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) => {
                let size = u64::try_from(own.st_size).unwrap_or(0);
                // Truncated in place.
                if size < self.size {
                    self.written = 0;
                }
                self.size = size;
            }
            // Earlier output is no longer in any file of that name.
            Ok(_) | Err(rustix::io::Errno::NOENT) => {
                self.file = None;
                self.written = 0;
            }
            Err(_) => {}
        }
    }

    /// Takes all of `bytes`. The error says why some were dropped, for a log; they are already counted.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.notice_move();
        let mut left = bytes;
        let result = self.write_some(&mut left);
        self.dropped += left.len() as u64;
        result
    }

    fn write_some(&mut self, left: &mut &[u8]) -> io::Result<()> {
        while !left.is_empty() {
            if self.size >= self.limit {
                self.rotate()?;
            }
            if self.file.is_none()
                && let Err(error) = self.open()
            {
                match is_in_the_way(&error) {
                    true => self.rotate()?,
                    false => return Err(error),
                }
            }
            let Some(file) = &mut self.file else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let room = usize::try_from(self.limit.saturating_sub(self.size).max(1)).unwrap_or(usize::MAX);
            let part = left.get(..room).unwrap_or(left);
            match file.write(part) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *left = left.get(count..).unwrap_or_default();
                    self.size += count as u64;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let directory = self.directory.as_fd();
        let (first, second) = (numbered(self.name, 1), numbered(self.name, 2));
        match rustix::fs::renameat(directory, &first, directory, &second) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::renameat(directory, self.name, directory, &first) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.file = None;
        self.open()
    }

    /// The last lines of this incarnation's output.
    pub fn tail(&self) -> String {
        let mut bytes = Vec::new();
        for name in [numbered(self.name, 1), self.name.to_owned()] {
            let _ = open_to_read(&self.directory, name.as_ref()).and_then(|mut file| append_end(&mut file, &mut bytes));
        }
        let own = usize::try_from(self.written.min(WINDOW)).unwrap_or(0);
        last_lines(bytes.get(bytes.len().saturating_sub(own)..).unwrap_or_default())
    }
}

/// Whether opening failed because of what the node has put in place of its output: a link, a directory, a pipe, another
/// user's file. It is moved away like a full file.
fn is_in_the_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
        || matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO))
}

fn numbered(name: &str, number: u32) -> String {
    format!("{name}.{number}")
}

/// Opens a file of a node's directory. The directory belongs to the node, which may have put anything there: links are
/// not followed, and only regular files without a second name are read (reading a pipe would block).
fn open_to_read(directory: impl AsFd, name: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    match metadata.is_file() && metadata.nlink() == 1 {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file with one name")),
    }
}

/// Appends the last [`WINDOW`] of `file`.
fn append_end(file: &mut File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(WINDOW)))?;
    file.take(WINDOW).read_to_end(bytes).map(drop)
}

/// At most [`TAIL_LINES`] lines and [`TAIL_BYTES`] bytes of a node's own output; invalid UTF-8 is replaced.
fn last_lines(bytes: &[u8]) -> String {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').rev();
    let own = lines.filter(|line| !status::is_peering_noise(line)).take(TAIL_LINES);
    let mut left = TAIL_BYTES as usize;
    let mut kept: Vec<&[u8]> = Vec::new();
    for line in own {
        // The end of the first line, as with the end of a file.
        kept.push(line.get(line.len().saturating_sub(left)..).unwrap_or_default());
        left = left.saturating_sub(line.len());
        if left == 0 {
            break;
        }
    }
    kept.reverse();
    let mut text = String::from_utf8_lossy(&kept.concat()).into_owned();
    // A replacement is longer than the byte it replaces.
    let excess = text.len().saturating_sub(TAIL_BYTES as usize);
    let cut = (excess..=text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(0);
    text.drain(..cut);
    text
}

/// The tails of both streams of a node, from its directory, whichever incarnation wrote there last. Missing files are
/// empty output.
pub fn tails(directory: &Path) -> NodeOutputs {
    let tail = |name: &str| {
        let mut bytes = Vec::new();
        let file = open_to_read(rustix::fs::CWD, &directory.join(name));
        let _ = file.and_then(|mut file| append_end(&mut file, &mut bytes));
        last_lines(&bytes)
    };
    NodeOutputs { stdout: tail("stdout"), stderr: tail("stderr") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(directory: &Path, limit: u64) -> Output {
        Output::new(File::open(directory).unwrap().into(), "stdout", limit)
    }

    #[test]
    fn three_files_and_no_more_and_no_byte_out_of_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut stdout = output(directory.path(), 10);
        stdout.write(b"0123456789abcdefghijABCDEFGHIJxyz").unwrap();
        let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        assert_eq!(
            [read("stdout.3"), read("stdout.2"), read("stdout.1"), read("stdout")],
            ["", "abcdefghij", "ABCDEFGHIJ", "xyz"]
        );
        assert_eq!(stdout.tail(), "abcdefghijABCDEFGHIJxyz".split_at(10).1);
    }

    #[test]
    fn a_tail_shows_this_incarnation_only() {
        let directory = tempfile::tempdir().unwrap();
        output(directory.path(), 1000).write(b"said before\n").unwrap();
        let mut stdout = output(directory.path(), 1000);
        assert_eq!(stdout.tail(), "");
        stdout.write(b"said now\n").unwrap();
        assert_eq!(stdout.tail(), "said now\n");
        assert_eq!(tails(directory.path()).stdout, "said before\nsaid now\n");
    }

    #[test]
    fn a_tail_has_a_hundred_lines_and_no_more_bytes_than_promised() {
        let lines: String = (0..300).map(|n| format!("line {n}\n")).collect();
        let tail = last_lines(lines.as_bytes());
        assert_eq!((tail.lines().count(), tail.lines().next()), (100, Some("line 200")));
        let garbage = last_lines(&[0xff; 16 << 10]);
        assert!(garbage.len() <= 16 << 10 && garbage.chars().all(|c| c == '\u{fffd}'));
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("stdout");
        let moved = directory.path().join("rotated");
        let mut stdout = output(directory.path(), 1000);
        stdout.write(b"before\n").unwrap();
        let takes: [&dyn Fn(); 2] =
            [&|| std::fs::rename(&place, &moved).unwrap(), &|| std::fs::remove_file(&place).unwrap()];
        for take in takes {
            take();
            let begun = Instant::now();
            while !place.exists() {
                assert!(begun.elapsed() < Duration::from_secs(30), "what is written goes nowhere");
                stdout.write(b"x").unwrap();
            }
            stdout.write(b"after\n").unwrap();
            assert!(stdout.tail().ends_with("xafter\n") && !stdout.tail().contains("before"), "{}", stdout.tail());
            assert_eq!(std::fs::read_to_string(&place).unwrap(), stdout.tail());
        }
        assert!(std::fs::read_to_string(&moved).unwrap().starts_with("before\n"));
        assert_eq!(stdout.dropped, 0);
    }

    #[test]
    fn what_a_node_says_while_its_agent_is_away_does_not_push_out_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut stderr = Output::new(File::open(directory.path()).unwrap().into(), "stderr", FILE_LIMIT);
        stderr.write(b"the node's own words\n").unwrap();
        for second in 0..300 {
            let noise = format!(
                "error in /opt/zeek/share/zeek/base/frameworks/broker/log.zeek, line 81: Broker error \
                 (Broker::PEER_UNAVAILABLE): (invalid-node, *127.0.0.1:2151, \"{second}\")\n"
            );
            stderr.write(noise.as_bytes()).unwrap();
        }
        stderr.write(b"and its last\n").unwrap();
        assert_eq!(stderr.tail(), "the node's own words\nand its last\n");
        assert_eq!(tails(directory.path()).stderr, stderr.tail());
    }

    /// The agent, which may be root, reads from a directory that belongs to the node.
    #[test]
    fn no_link_is_followed_and_no_pipe_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "secret\n").unwrap();
        std::os::unix::fs::symlink(&secret, directory.path().join("stdout")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("stderr"), Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(tails(directory.path()), NodeOutputs::default());
        let mut stdout = output(directory.path(), 10);
        stdout.write(b"x").unwrap();
        let second_name = directory.path().join("stdout");
        std::fs::remove_file(&second_name).unwrap();
        std::fs::hard_link(&secret, &second_name).unwrap();
        let mut stdout = output(directory.path(), 10);
        stdout.write(b"y").unwrap();
        assert_eq!(std::fs::read(&second_name).unwrap(), b"y", "what was in the way is moved out of it");
        assert_eq!(std::fs::read(secret).unwrap(), b"secret\n");
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut stdout = output(directory.path(), 10);
        stdout.write(b"0123456789").unwrap();
        // A directory that blocks the rotation, and is not empty.
        std::fs::create_dir_all(directory.path().join("stdout.2/x")).unwrap();
        std::fs::write(directory.path().join("stdout.1"), "").unwrap();
        assert!(stdout.write(b"lost").is_err());
        assert_eq!(stdout.dropped, 4);
        std::fs::remove_dir_all(directory.path().join("stdout.2")).unwrap();
        stdout.write(b"kept").unwrap();
        assert_eq!(std::fs::read(directory.path().join("stdout")).unwrap(), b"kept");
    }
}

//! Expiry of archived logs (`archive_keep_time`, `archive_keep_size`): the oldest files of `archive_dir` are removed.
//!
//! Nothing outside that directory is touched: every step down is taken from an open directory, without following links and
//! without crossing into another file system, and what is removed is looked at once more right before. A file that was
//! written to lately, or that somebody has open for writing, stays. Memory is bounded: a step removes so many at most, and
//! the next one goes on.

use std::collections::BinaryHeap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::supervisor;

/// How deep directories may lie; archivers make one for each day.
const DEPTH: usize = 8;
/// Files that one step removes.
const STEP: usize = 4096;
/// A file that was written to this recently stays.
const SETTLED: Duration = Duration::from_secs(60);

/// What is kept. Both absent: everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Files that were last written to longer ago are removed.
    pub age: Option<Duration>,
    /// The oldest are removed until the rest takes up no more than this, in bytes on the disk.
    pub bytes: Option<u64>,
}

/// What a step did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    /// Files that were removed.
    pub files: u64,
    /// What they took up.
    pub bytes: u64,
    /// The first file or directory that could not be looked at or removed, and why.
    pub problem: Option<String>,
    /// There is more to remove.
    pub more: bool,
}

/// A file that could be removed. The oldest is the least; of two of one age, the one whose name comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// In nanoseconds since 1970.
    written: i128,
    /// The names of the directories down to it, and its own.
    path: Vec<CString>,
    bytes: u64,
    inode: u64,
}

/// Looks through the directory once and removes what is beyond the limits. Blocks. `Err`: the directory cannot be read.
pub(super) fn expire(directory: &Path, limits: Limits, now: SystemTime) -> io::Result<Expired> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(root) => root,
        // Nothing was archived yet.
        Err(Errno::NOENT) => return Ok(Expired::default()),
        Err(error) => return Err(error.into()),
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut found = Found { device: rustix::fs::fstat(&root)?.st_dev, ..Found::default() };
    found.walk(&root, &mut Vec::new());
    let Found { oldest, files, bytes: mut left, mut problem, .. } = found;
    let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    let too_old = limits.age.map(|age| nanos(now) - nanos(age));
    let settled = nanos(now) - nanos(SETTLED);
    let mut expired = Expired::default();
    let is_over = |left: u64, one: &Candidate| {
        let is_old = too_old.is_some_and(|limit| one.written < limit);
        is_old || limits.bytes.is_some_and(|most| left > most)
    };
    let looked_at = oldest.len();
    let mut handled = 0;
    for one in oldest.into_sorted_vec() {
        if one.written > settled || !is_over(left, &one) {
            break;
        }
        handled += 1;
        match remove(&root, &one) {
            Ok(true) => {
                expired.files += 1;
                expired.bytes += one.bytes;
                left = left.saturating_sub(one.bytes);
            }
            // Somebody writes to it, or it is another one by now.
            Ok(false) => {}
            Err(error) => {
                problem.get_or_insert_with(|| format!("{}: {error}", shown(&one.path)));
            }
        }
    }
    expired.problem = problem;
    expired.more = handled == looked_at && files > looked_at && expired.files > 0;
    Ok(expired)
}

fn shown(path: &[CString]) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// What there is below a directory.
#[derive(Default)]
struct Found {
    device: u64,
    /// At most [`STEP`] of them.
    oldest: BinaryHeap<Candidate>,
    files: usize,
    bytes: u64,
    problem: Option<String>,
}

impl Found {
    fn walk(&mut self, directory: &OwnedFd, path: &mut Vec<CString>) {
        if let Err(error) = self.list(directory, path) {
            self.problem.get_or_insert_with(|| format!("{}: {error}", shown(path)));
        }
    }

    fn list(&mut self, directory: &OwnedFd, path: &mut Vec<CString>) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match look(directory, name) {
                Ok(stat) => stat,
                // Moved or removed by somebody else.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if stat.st_dev != self.device {
                continue;
            }
            path.push(name.to_owned());
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => self.file(path, &stat),
                FileType::Directory if path.len() < DEPTH => match down(directory, name) {
                    Ok(below) => self.walk(&below, path),
                    Err(error) => _ = self.problem.get_or_insert_with(|| format!("{}: {error}", shown(path))),
                },
                _other => {}
            }
            path.pop();
        }
        Ok(())
    }

    fn file(&mut self, path: &[CString], stat: &Stat) {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let candidate = Candidate { written: written(stat), path: path.to_vec(), bytes, inode: stat.st_ino };
        if self.oldest.len() < STEP {
            self.oldest.push(candidate);
        } else if self.oldest.peek().is_some_and(|newest| candidate < *newest) {
            self.oldest.pop();
            self.oldest.push(candidate);
        }
    }
}

fn written(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn look(directory: impl AsFd, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn down(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Removes a file, if it is still the one that was found and nobody writes to it; and its directory, if that is empty then.
fn remove(root: &OwnedFd, one: &Candidate) -> io::Result<bool> {
    let Some((name, way)) = one.path.split_last() else { return Ok(false) };
    let mut directories = Vec::new();
    for part in way {
        let from = directories.last().unwrap_or(root);
        match down(from, part) {
            Ok(next) => directories.push(next),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    let directory = directories.last().unwrap_or(root);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    let is_same = stat.st_ino == one.inode && written(&stat) == one.written;
    if !is_same || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    if supervisor::is_open_for_writing(file.as_fd())? {
        return Ok(false);
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Of the directories that are left empty, up to the one that stays.
    for (depth, part) in way.iter().enumerate().rev() {
        let above = depth.checked_sub(1).and_then(|depth| directories.get(depth)).unwrap_or(root);
        if rustix::fs::unlinkat(above, part, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::symlink;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn file(path: &Path, days: u32, bytes: usize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; bytes]).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - DAY * days).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(names(&entry.path()).into_iter().map(|below| format!("{name}/{below}"))),
                false => found.push(name),
            }
        }
        found.sort();
        found
    }

    #[test]
    fn what_is_too_old_goes_and_empty_directories_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        file(&logs.join("2026-11-01/conn.log.gz"), 30, 10);
        file(&logs.join("2026-11-01/dns.log.gz"), 30, 10);
        file(&logs.join("2026-11-30/conn.log.gz"), 1, 10);
        file(&logs.join("old.log"), 8, 10);
        let week = Limits { age: Some(DAY * 7), bytes: None };
        let expired = expire(&logs, week, SystemTime::now()).unwrap();
        assert_eq!((expired.files, &expired.problem, expired.more), (3, &None, false));
        assert_eq!(names(&logs), ["2026-11-30/conn.log.gz"]);
        assert!(!logs.join("2026-11-01").exists(), "nothing is left in it");
        assert_eq!(expire(&logs, week, SystemTime::now()).unwrap(), Expired::default());
        assert_eq!(expire(&dir.path().join("nowhere"), week, SystemTime::now()).unwrap(), Expired::default());
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let dir = tempfile::tempdir().unwrap();
        for day in 1..=5 {
            file(&dir.path().join(format!("day-{day}/a.log")), day, 100_000);
        }
        let one = 512 * u64::try_from(rustix::fs::stat(dir.path().join("day-1/a.log")).unwrap().st_blocks).unwrap();
        let limits = Limits { age: None, bytes: Some(2 * one) };
        let expired = expire(dir.path(), limits, SystemTime::now()).unwrap();
        assert_eq!((expired.files, expired.bytes), (3, 3 * one));
        assert_eq!(names(dir.path()), ["day-1/a.log", "day-2/a.log"]);
    }

    #[test]
    fn what_is_written_and_what_lies_elsewhere_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, elsewhere) = (dir.path().join("logs"), dir.path().join("elsewhere"));
        file(&elsewhere.join("kept.log"), 100, 10);
        file(&logs.join("old.log"), 100, 10);
        file(&logs.join("open.log"), 99, 10);
        file(&logs.join("new.log"), 0, 10);
        symlink(&elsewhere, logs.join("way-out")).unwrap();
        symlink(elsewhere.join("kept.log"), logs.join("link.log")).unwrap();
        let writer = OpenOptions::new().append(true).open(logs.join("open.log")).unwrap();
        let nothing = Limits { age: Some(Duration::ZERO), bytes: Some(0) };
        let expired = expire(&logs, nothing, SystemTime::now()).unwrap();
        assert_eq!((expired.files, &expired.problem), (1, &None));
        assert_eq!(names(&logs), ["link.log", "new.log", "open.log", "way-out"]);
        assert_eq!(names(&elsewhere), ["kept.log"]);
        drop(writer);
        assert_eq!(expire(&logs, nothing, SystemTime::now()).unwrap().files, 1, "nobody writes to it any more");
        assert_eq!(names(&logs), ["link.log", "new.log", "way-out"]);
        // The directory itself may not be a link: whoever may change it could lead the agent elsewhere.
        let link = dir.path().join("link");
        symlink(&elsewhere, &link).unwrap();
        assert!(expire(&link, nothing, SystemTime::now()).is_err());
        assert_eq!(names(&elsewhere), ["kept.log"]);
    }

    #[test]
    fn a_step_is_bounded_and_the_next_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..STEP + 10 {
            file(&dir.path().join(format!("{number}.log")), 10, 0);
        }
        let day = Limits { age: Some(DAY), bytes: None };
        let first = expire(dir.path(), day, SystemTime::now()).unwrap();
        assert_eq!((first.files, first.more), (STEP as u64, true));
        let second = expire(dir.path(), day, SystemTime::now()).unwrap();
        assert_eq!((second.files, second.more), (10, false));
    }
}

//! Free space: how much is left, how much must be, and the ballast file that is released when none is.
//!
//! ```text
//! free space: ── request floor ── requests are refused ── fact floor ── the ballast is released, and of it the journal
//!             may use three quarters; then nothing is journaled
//! ```
//!
//! The last quarter is for opening the journal, which needs space too. When there is space for it again, the ballast is
//! recreated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfsMountFlags};

use super::location::Location;
use crate::regular_file;

pub(in crate::journal) const BALLAST: &str = "journal.ballast";

/// The free space of the journal's file system, and the limits that apply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    pub floors: Floors,
    /// The size of the ballast, if it was released. It was not for requests.
    pub released: u64,
    /// What the journal may still use of the ballast that was released.
    pub from_ballast: u64,
    pub read_only: bool,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// Below this, requests are refused.
    pub requests: u64,
    /// Below this, the ballast is released; without one nothing is journaled any more, facts and launches included.
    pub facts: u64,
    /// The size of the ballast file; 0: none.
    pub ballast: u64,
}

impl Space {
    pub fn refuses_requests(&self) -> bool {
        self.read_only || self.free < self.needed()
    }

    /// What has to be free for requests to be accepted.
    pub fn needed(&self) -> u64 {
        self.floors.requests.max(self.floors.facts).saturating_add(self.released)
    }

    pub fn refuses_facts(&self) -> bool {
        self.read_only || (self.free < self.floors.facts && self.from_ballast == 0)
    }
}

/// What has become of the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ballast {
    Kept,
    /// `used`: what the journal occupied then.
    Released {
        used: u64,
    },
    /// There was none when it was looked for.
    None,
}

/// Where the space for opening the journal came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum SpaceToOpen {
    Free,
    /// The ballast was released for it.
    Ballast,
}

/// Measures the space of one journal, and keeps its ballast.
#[derive(Debug)]
pub(in crate::journal) struct Gauge {
    state_dir: PathBuf,
    location: Location,
    floors: Floors,
    ballast: Ballast,
    reported: bool,
}

impl Gauge {
    /// For the journal of `state_dir`, in `location`.
    pub(in crate::journal) fn new(state_dir: &Path, location: Location, floors: Floors, opened: SpaceToOpen) -> Self {
        let ballast = match opened {
            SpaceToOpen::Ballast => Ballast::Released { used: used(&location.dir()).unwrap_or(0) },
            SpaceToOpen::Free if state_dir.join(BALLAST).exists() => Ballast::Kept,
            SpaceToOpen::Free => Ballast::None,
        };
        Self { state_dir: state_dir.to_owned(), location, floors, ballast, reported: false }
    }

    /// What has to stay free for facts.
    pub(in crate::journal) fn fact_floor(&self) -> u64 {
        self.floors.facts
    }

    pub(in crate::journal) fn measure(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(self.location.dir())?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let (released, from_ballast) = match self.ballast {
            Ballast::Kept | Ballast::None => (0, 0),
            Ballast::Released { used: before } => {
                let grown = used(&self.location.dir())?.saturating_sub(before);
                let to_open = self.floors.ballast / 4;
                let left = self.floors.ballast.saturating_sub(to_open + grown).min(free.saturating_sub(to_open));
                (self.floors.ballast, left)
            }
        };
        let read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        Ok(Space { free, floors: self.floors, released, from_ballast, read_only })
    }

    /// Measures, and releases or recreates the ballast, as the free space requires.
    pub(in crate::journal) fn tend(&mut self) -> io::Result<Space> {
        let space = self.measure()?;
        if space.read_only {
            return Ok(space);
        }
        if space.free < self.floors.facts && self.release()? {
            return self.measure();
        }
        self.make(space.free);
        Ok(space)
    }

    /// Releases the ballast; returns whether there was any.
    pub(in crate::journal) fn release(&mut self) -> io::Result<bool> {
        if self.ballast != Ballast::Kept {
            return Ok(false);
        }
        let before = used(&self.location.dir())?;
        let released = release_ballast(&self.state_dir)?;
        self.ballast = if released { Ballast::Released { used: before } } else { Ballast::None };
        if released {
            tracing::warn!(bytes = self.floors.ballast, "the disk is full: the journal's ballast file was released");
        }
        Ok(released)
    }

    /// Creates the ballast, if there is none and there is room for it above the limits.
    pub(in crate::journal) fn make(&mut self, free: u64) {
        let Floors { requests, facts, ballast } = self.floors;
        if self.ballast == Ballast::Kept || ballast == 0 || free < requests.max(facts).saturating_add(ballast) {
            return;
        }
        match create_ballast(&self.state_dir, ballast) {
            Ok(()) => {
                if matches!(self.ballast, Ballast::Released { .. }) {
                    tracing::info!(bytes = ballast, "there is space again: the journal's ballast file is made anew");
                }
                self.ballast = Ballast::Kept;
                self.reported = false;
            }
            Err(error) if !self.reported => {
                self.reported = true;
                tracing::warn!(%error, "the ballast file, kept to be released on a full disk, cannot be created");
            }
            Err(_) => {}
        }
    }
}

fn create_ballast(state_dir: &Path, bytes: u64) -> io::Result<()> {
    let path = state_dir.join(BALLAST);
    let file = regular_file::rewrite(&path, 0o600)?;
    // Allocated, not only declared: a sparse file would release nothing.
    if let Err(error) = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        fs::remove_file(&path)?;
        return Err(error.into());
    }
    Ok(())
}

/// Releases the ballast; returns whether there was any.
pub(in crate::journal) fn release_ballast(state_dir: &Path) -> io::Result<bool> {
    match fs::remove_file(state_dir.join(BALLAST)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What this user may still write to the file system of `dir`.
pub(in crate::journal) fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What the files below `dir` occupy.
pub(in crate::journal) fn used(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // sled renames and removes snapshots.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        bytes += if metadata.is_dir() { used(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn gauge(dir: &Path, floors: Floors) -> Gauge {
        let journal = dir.join("journal");
        fs::create_dir(&journal).unwrap();
        Gauge::new(dir, Location::new(&journal), floors, SpaceToOpen::Free)
    }

    #[test]
    fn ballast_occupies_space_until_it_is_released_and_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BALLAST);
        let mut gauge = gauge(dir.path(), Floors { requests: 0, facts: 0, ballast: MIB });
        gauge.tend().unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= MIB);
        gauge.floors.facts = u64::MAX;
        let space = gauge.tend().unwrap();
        assert!(!path.exists() && space.refuses_requests() && !space.refuses_facts(), "{space:?}");
        assert_eq!(space.from_ballast, MIB / 4 * 3);
        gauge.floors.facts = 0;
        let space = gauge.tend().unwrap();
        assert!(path.exists() && !space.refuses_requests(), "{space:?}");
    }

    #[test]
    fn what_was_released_is_used_up_by_the_journal_growing() {
        let dir = tempfile::tempdir().unwrap();
        let mut gauge = gauge(dir.path(), Floors { requests: 0, facts: 0, ballast: MIB });
        gauge.tend().unwrap();
        gauge.floors.facts = u64::MAX;
        gauge.tend().unwrap();
        fs::write(dir.path().join("journal/db"), vec![1; 700 << 10]).unwrap();
        let space = gauge.tend().unwrap();
        assert!(!space.refuses_facts() && space.from_ballast < MIB / 4, "{space:?}");
        fs::write(dir.path().join("journal/db"), vec![1; 800 << 10]).unwrap();
        assert!(gauge.tend().unwrap().refuses_facts());
    }

    #[test]
    fn no_ballast_where_it_would_eat_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let mut gauge = gauge(dir.path(), Floors { requests: u64::MAX, facts: 0, ballast: MIB });
        let space = gauge.tend().unwrap();
        assert!(!dir.path().join(BALLAST).exists());
        assert!(space.free > 0 && space.refuses_requests() && !space.refuses_facts());
    }

    #[test]
    fn without_ballast_nothing_is_journaled_below_the_floor_for_facts() {
        let dir = tempfile::tempdir().unwrap();
        let mut gauge = gauge(dir.path(), Floors { requests: 0, facts: u64::MAX, ballast: 0 });
        let space = gauge.tend().unwrap();
        assert!(space.refuses_requests() && space.refuses_facts());
    }
}

//! Free space: what is left, how much must be, and the ballast file that can be given back when nothing is.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FallocateFlags;

pub(super) const BALLAST: &str = "journal.ballast";

/// The free space of the journal's file system, and what it is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    /// Below this, requests are refused.
    pub request_floor: u64,
    /// Below this, nothing is journaled any more, facts and launches included.
    pub fact_floor: u64,
}

impl Space {
    pub fn refuses_requests(&self) -> bool {
        self.free < self.request_floor
    }

    pub fn refuses_facts(&self) -> bool {
        self.free < self.fact_floor
    }
}

pub(super) fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Creates the ballast file if there is none and room for it and for `floor` beside it.
pub(super) fn create_ballast(state_dir: &Path, bytes: u64, floor: u64) -> io::Result<()> {
    let path = state_dir.join(BALLAST);
    if bytes == 0 || path.exists() || free(state_dir)? < bytes.saturating_add(floor) {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    // Allocated, not only declared: a sparse file would give nothing back.
    if let Err(error) = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        fs::remove_file(&path)?;
        return Err(error.into());
    }
    Ok(())
}

/// Gives the ballast back; whether there was any.
pub(super) fn release_ballast(state_dir: &Path) -> io::Result<bool> {
    match fs::remove_file(state_dir.join(BALLAST)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the files below `dir` occupy.
pub(super) fn used(dir: &Path) -> io::Result<u64> {
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

    #[test]
    fn ballast_occupies_space_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        create_ballast(dir.path(), 1 << 20, 0).unwrap();
        let metadata = fs::metadata(dir.path().join(BALLAST)).unwrap();
        assert!(metadata.blocks() * 512 >= 1 << 20);
        assert!(release_ballast(dir.path()).unwrap());
        assert!(!release_ballast(dir.path()).unwrap());
    }

    #[test]
    fn no_ballast_where_it_would_eat_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        create_ballast(dir.path(), 1 << 20, u64::MAX).unwrap();
        assert!(!dir.path().join(BALLAST).exists());
        assert!(free(dir.path()).unwrap() > 0);
    }
}

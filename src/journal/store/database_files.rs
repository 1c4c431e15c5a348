//! The files that sled keeps in a database's directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::FileError;

/// Removes half-written snapshots: a kill or a full disk during an open leaves them, and sled reports damage at every
/// later open. Finished snapshots are never touched.
pub(in crate::journal) fn remove_unfinished_snapshots(dir: &Path) -> Result<(), FileError> {
    for file in snapshots(dir)? {
        if file.extension().is_some_and(|extension| extension == "generating") {
            tracing::info!(file = %file.display(), "removing a snapshot that an interrupted start left unfinished");
            fs::remove_file(file).map_err(FileError::at("removing an unfinished snapshot in", dir))?;
        }
    }
    Ok(())
}

/// sled's snapshots in `dir`. A copy without them is opened from its log alone.
pub(in crate::journal) fn snapshots(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = || FileError::at("listing", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// sled's settings file in `dir`. A copy without it is opened with the settings of this build.
pub(in crate::journal) fn settings_file(dir: &Path) -> PathBuf {
    dir.join("conf")
}

/// The file without which there is no database in `dir`.
pub(in crate::journal) fn main_file(dir: &Path) -> PathBuf {
    dir.join("db")
}

//! Compacting a journal that no agent has open.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use super::error::OpenError;
use super::opening;
use super::options::Options;
use crate::api::report::CompactReport;
use crate::journal::store::files::StateDir;
use crate::journal::store::lock::{LockError, StateLock};
use crate::journal::store::space::SpaceToOpen;
use crate::journal::write::compact::CompactError;

/// Why a journal that no agent has open was not compacted. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OfflineCompactError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Compact(#[from] CompactError),
}

/// Compacts the journal of a state directory that no agent uses, if it has outgrown what it holds, or if `force`. It is
/// opened in the same way as by a start.
pub fn offline(state_dir: &Path, options: &Options, force: bool) -> Result<CompactReport, OfflineCompactError> {
    let _lock = StateLock::acquire(state_dir, Duration::ZERO)?;
    let opened = opening::open::<Infallible>(&StateDir::new(state_dir), options, SpaceToOpen::Free)?;
    if !opened.condition.is_whole() {
        tracing::error!("{}", opened.condition);
    }
    Ok(opened.journal.compactor().compact(force)?)
}

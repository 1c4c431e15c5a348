//! The readable entries of a damaged journal, one by one, as from a stream.

use std::path::Path;

use super::{BYTES, Building, ENTRIES, ImportError};
use crate::api::ids::Seq;
use crate::journal::format::entry::Entry;
use crate::journal::format::versions;
use crate::journal::open::error::OpenError;
use crate::journal::open::inspect;
use crate::journal::open::options::Options;
use crate::journal::open::rebuild::{self, RebuildError};
use crate::journal::open::sources::Sources;
use crate::journal::store::files::StateDir;
use crate::journal::store::lock::{self, StateLock};
use crate::journal::store::watermark;
use crate::journal::tree::table::Whole;

impl From<RebuildError> for ImportError {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Batch(error) => error.into(),
            RebuildError::Storage(source) => OpenError::storage(Path::new(super::IMPORTING), source).into(),
        }
    }
}

impl Building {
    /// Imports every readable entry, and keeps track of the unreadable ones.
    pub(super) fn take_salvaged(
        &mut self,
        state_dir: &Path,
        options: &Options,
        dir: &Path,
        progress: &mut impl FnMut(Seq),
    ) -> Result<(), ImportError> {
        let (damaged, owner) =
            inspect::places(dir)?.ok_or_else(|| ImportError::NoJournal(dir.display().to_string()))?;
        let _lock = lock_owner(state_dir, &owner)?;
        let high = watermark::read(&StateDir::new(&owner))?.map_or(Seq(0), |mark| mark.high);
        let sources = Sources::open(&damaged, &StateDir::new(state_dir), options)?;
        let taken = self.take_from(&sources, high, progress);
        sources.discard()?;
        taken
    }

    fn take_from(&mut self, sources: &Sources, high: Seq, progress: &mut impl FnMut(Seq)) -> Result<(), ImportError> {
        let found = sources.format();
        if found > versions::CURRENT_FORMAT {
            return Err(ImportError::Newer { found });
        }
        let first = sources.first()?;
        self.state.history.first = first;
        let (missing, last) = sources.each_entry(first, high, |whole| {
            progress(whole.numbered.seq);
            self.take_over(whole)
        })?;
        self.write_batch()?;
        if self.entries == 0 {
            return Err(ImportError::NothingReads);
        }
        rebuild::keep_lost_requests(sources, &self.database, &mut self.state)?;
        self.newest_incarnation = self.newest_incarnation.max(sources.newest_incarnation()?);
        let newest = self.state.history.last;
        self.before = Some((newest, self.state.history.hash));
        self.noted = self.noted.max(last);
        // Those after the newest are reported with what is known about this directory's earlier journal.
        self.missing = missing.into_iter().filter(|(first, _)| *first < newest).collect();
        rebuild::without_removed(&mut self.missing, self.state.history.first);
        Ok(())
    }

    /// Like `take`, from a journal that may be incomplete.
    fn take_over(&mut self, whole: Whole) -> Result<(), ImportError> {
        self.first.get_or_insert(whole.numbered.seq);
        self.entries += 1;
        self.bytes += whole.stored.len();
        if let Entry::Pruned { upto, trimmed, .. } = &whole.numbered.entry {
            self.state.history.retention_came_to(*upto, *trimmed);
        }
        if whole.link.is_none() {
            self.older = Some(u32::from(whole.head.version));
        }
        self.follow(&whole.numbered)?;
        self.batch.push(whole);
        if self.batch.len() >= ENTRIES || self.bytes >= BYTES {
            self.write_batch()?;
        }
        Ok(())
    }
}

/// Prevents the directory's agent, if there is one, from writing while files are copied.
fn lock_owner(state_dir: &Path, owner: &Path) -> Result<Option<StateLock>, ImportError> {
    let is_ours = owner.canonicalize().is_ok_and(|owner| state_dir.canonicalize().is_ok_and(|ours| ours == owner));
    if is_ours || !owner.join(lock::FILE).exists() {
        return Ok(None);
    }
    super::lock(owner).map(Some)
}

//! What can be read of a damaged journal, from copies that are each opened in a different way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::copy::{COPY, CopyFailure, open_copy};
use super::error::OpenError;
use super::options::Options;
use crate::api::ids::{Incarnation, Seq};
use crate::api::report::chain;
use crate::journal::format::entry::{AgentRecord, NodeRecord};
use crate::journal::format::keys::{self, Family};
use crate::journal::format::versions::records::{HistoryRecord, Stored};
use crate::journal::store::database::Database;
use crate::journal::store::database_files;
use crate::journal::store::files::{self, StateDir};
use crate::journal::tree::recover;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{ReadError, Table, Whole};

/// Where no end is known, the search stops after this many numbers without an entry.
const GAP: u64 = 4096;

/// Copies of the damaged journal, each opened in a different way. What is unreadable in one may be readable in the
/// next.
pub(super) struct Sources {
    databases: Vec<Database>,
    dirs: Vec<PathBuf>,
}

impl Sources {
    pub(super) fn open(damaged: &Path, state_dir: &StateDir, options: &Options) -> Result<Self, OpenError> {
        let mut sources = Self { databases: Vec::new(), dirs: Vec::new() };
        let snapshots = database_files::snapshots(damaged)?;
        let settings = database_files::settings_file(damaged);
        sources.add(damaged, state_dir, "whole", options, &|_| true)?;
        if !snapshots.is_empty() {
            sources
                .add(damaged, state_dir, "log", options, &|path| !snapshots.iter().any(|snapshot| snapshot == path))?;
        }
        if sources.databases.is_empty() {
            let wanted = |path: &Path| path != settings && !snapshots.iter().any(|snapshot| snapshot == path);
            sources.add(damaged, state_dir, "bare", options, &wanted)?;
        }
        Ok(sources)
    }

    fn add(
        &mut self,
        damaged: &Path,
        state_dir: &StateDir,
        name: &str,
        options: &Options,
        wanted: &impl Fn(&Path) -> bool,
    ) -> Result<(), OpenError> {
        let dir = state_dir.join(format!("{COPY}{name}"));
        files::remove_dir(&dir)?;
        match open_copy(damaged, &dir, options, wanted) {
            Ok((database, _)) => self.databases.push(database),
            // A copy of a damaged file that keeps the store busy forever is as unreadable as one that fails.
            Err(CopyFailure::Storage(error)) if error.is_damage() || matches!(error, StorageError::Timeout(_)) => {
                tracing::warn!(copy = name, error = %chain(&error), "this copy of the damaged journal does not open");
            }
            Err(error) => return Err(error.into_error(&dir)),
        }
        self.dirs.push(dir);
        Ok(())
    }

    /// The newest format that a copy is of.
    pub(super) fn format(&self) -> u32 {
        self.databases.iter().filter_map(|database| recover::format(database).ok().flatten()).max().unwrap_or_default()
    }

    /// The oldest entry that retention has kept.
    pub(super) fn first(&self) -> Result<Seq, ReadError> {
        Ok(match self.record::<HistoryRecord>(keys::HISTORY)? {
            Found::Record(history) => history.first,
            Found::Absent | Found::Unreadable => HistoryRecord::default().first,
        })
    }

    /// Passes every readable entry to `each`, from `first` on. Returns the ranges of unreadable numbers between them,
    /// and the newest entry of which there is a trace.
    pub(super) fn each_entry<E: From<ReadError>>(
        &self,
        first: Seq,
        high: Seq,
        mut each: impl FnMut(Whole) -> Result<(), E>,
    ) -> Result<(Vec<(Seq, Seq)>, Seq), E> {
        let mut last = self.last(high);
        let mut missing: Vec<(Seq, Seq)> = Vec::new();
        let mut seq = first;
        while seq.0 <= last.0.saturating_add(GAP) {
            if let Some(whole) = self.entry(seq)? {
                // What seemed to be past the end was not: the numbers between are missing as well.
                if seq > last.next() {
                    missing.push((last.next(), Seq(seq.0 - 1)));
                }
                last = last.max(seq);
                each(whole)?;
            } else if seq <= last {
                match missing.last_mut() {
                    Some((_, end)) if end.next() == seq => *end = seq,
                    _ => missing.push((seq, seq)),
                }
            }
            seq = seq.next();
        }
        Ok((missing, last))
    }

    /// The newest incarnation of which there is a record.
    pub(super) fn newest_incarnation(&self) -> Result<Incarnation, ReadError> {
        let mut newest = match self.record::<AgentRecord>(keys::AGENT)? {
            Found::Record(agent) => agent.newest_gone,
            Found::Absent | Found::Unreadable => Incarnation::default(),
        };
        for key in self.keys(Family::Node) {
            if let Found::Record(node) = self.record::<NodeRecord>(&key)? {
                newest = newest.max(node.incarnation);
            }
        }
        Ok(newest)
    }

    fn entry(&self, seq: Seq) -> Result<Option<Whole>, ReadError> {
        for database in &self.databases {
            let read = database.get(&keys::entry(seq)).and_then(|value| match value {
                Some(value) => database.read_entry(seq, &value).map(Some),
                None => Ok(None),
            });
            match read {
                Ok(Some(whole)) => return Ok(Some(whole)),
                Ok(None) => {}
                Err(error) => only_damage(error)?,
            }
        }
        Ok(None)
    }

    pub(super) fn record<T: Stored>(&self, key: &[u8]) -> Result<Found<T>, ReadError> {
        let mut unreadable = false;
        for database in &self.databases {
            match database.record(key) {
                Ok(Some(record)) => return Ok(Found::Record(record)),
                // The later copies are of the same log: what is absent in the first is absent in all.
                Ok(None) => return Ok(Found::Absent),
                Err(error) => only_damage(error)?,
            }
            unreadable = true;
        }
        Ok(if unreadable { Found::Unreadable } else { Found::Absent })
    }

    /// The keys of a family, from each copy and from both ends as far as they are readable.
    pub(super) fn keys(&self, family: Family) -> BTreeSet<Vec<u8>> {
        let mut keys = BTreeSet::new();
        for database in &self.databases {
            keys.extend(database.range(family.range()).map_while(Result::ok).map(|(key, _)| key));
            let back = database.range(family.range()).rev().map_while(Result::ok).map(|(key, _)| key);
            for key in back {
                if !keys.insert(key) {
                    break;
                }
            }
        }
        keys
    }

    /// The newest entry of which there is a trace.
    fn last(&self, high: Seq) -> Seq {
        let plausible =
            |seq: Seq| seq.0 <= high.0.saturating_add(GAP) || self.entry(seq).is_ok_and(|entry| entry.is_some());
        self.databases
            .iter()
            .filter_map(|database| database.last().ok())
            .filter(|seq| plausible(*seq))
            .max()
            .unwrap_or_default()
            .max(high)
    }

    /// The newest readable entry; nothing of this is needed after that.
    pub(super) fn newest(self) -> Result<Seq, OpenError> {
        let newest = self.databases.iter().filter_map(|database| database.last().ok());
        let newest = newest.filter(|seq| self.entry(*seq).is_ok_and(|entry| entry.is_some())).max();
        self.discard()?;
        Ok(newest.unwrap_or_default())
    }

    pub(super) fn discard(mut self) -> Result<(), OpenError> {
        self.abandon();
        self.dirs.iter().try_for_each(|dir| files::remove_dir(dir))?;
        Ok(())
    }

    fn abandon(&mut self) {
        self.databases.drain(..).for_each(Database::abandon);
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Lets a salvage continue past damage, and past nothing else: what a device cannot read now it may read later, and
/// what a newer release wrote is never dropped.
fn only_damage(error: ReadError) -> Result<(), ReadError> {
    if error.is_damage() { Ok(()) } else { Err(error) }
}

/// What the copies contain of a record.
pub(super) enum Found<T> {
    Record(T),
    Absent,
    Unreadable,
}

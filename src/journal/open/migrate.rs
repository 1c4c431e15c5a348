//! Rewriting a journal of an older format, in place, when it is opened.
//!
//! Entry by entry, oldest first, in batches that are each durable before the next; the record of history says how far
//! it has come, so that after a kill the next start continues from there, and memory is that of one batch. The format's
//! version changes in the batch that holds the last step. Until then the earlier release would still accept the journal
//! as its own, which is why the side file names the new format before the first step.
//!
//! From format 1: each entry gets its place in the chain, and responses become payloads. The hashes are those of what
//! is found now; an entry says so, since they prove nothing about the time before.
//!
//! From format 2: entries stay as they are, with their hashes, and records are rewritten as they change. One batch
//! holds the entry that reports the migration and the format's version.

use std::time::Duration;

use super::clock;
use crate::api::ids::Seq;
use crate::crash_point;
use crate::journal::format::codec::{self, EncodeError};
use crate::journal::format::entry::{Entry, Numbered};
use crate::journal::format::keys;
use crate::journal::format::versions::{
    self,
    records::{FormatRecord, HistoryRecord},
    v2,
};
use crate::journal::store::database::Database;
use crate::journal::tree::batch::{Builder, State};
use crate::journal::tree::recover;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{Entries, ReadError, Table};
use crate::journal::write::progress::{Progress, ReportEvery};

/// A batch ends after this many entries, or …
const ENTRIES: usize = 256;
/// … this many bytes of bodies.
const BYTES: usize = 16 << 10;
const REPORT_EVERY: ReportEvery = ReportEvery { log: Duration::from_secs(10), terminal: Duration::from_secs(1) };

#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Migrates the journal from format `found` to this build's.
pub(super) fn migrate(database: &Database, found: u32) -> Result<(), MigrateError> {
    if found == versions::CURRENT_FORMAT {
        return Ok(());
    }
    let last = database.last()?;
    let history = if has_chain(found) {
        // What follows is not entries of an older format, but damage.
        recover::history(database)?
    } else {
        database.record::<HistoryRecord>(keys::HISTORY)?.unwrap_or_default()
    };
    let mut migration = Migration::new(database, found, history, last);
    let how = if has_chain(found) { "brought" } else { "rewritten" };
    tracing::info!(entries = last.0, "the journal is {how} from format {found} to {}", versions::CURRENT_FORMAT);
    for (seq, value) in Entries::new(database, migration.state.history.last.next(), last, false) {
        migration.take(database.read_entry(seq, &value?)?.numbered)?;
    }
    migration.finish()?;
    tracing::info!(entries = last.0, "the journal has format {} now", versions::CURRENT_FORMAT);
    Ok(())
}

/// Like [`migrate`], for a copy that is only read: adds no entry that the journal does not have, if it has a chain
/// whose newest hash somebody may note.
pub(super) fn migrate_copy(database: &Database, found: u32) -> Result<(), MigrateError> {
    if !has_chain(found) || found == versions::CURRENT_FORMAT {
        return migrate(database, found);
    }
    let last = database.last()?;
    Migration::new(database, found, HistoryRecord::default(), last).write(true)
}

/// Whether a journal of this format has its hashes already.
fn has_chain(format: u32) -> bool {
    format >= v2::FIRST_CHAINED_FORMAT
}

struct Migration<'a> {
    database: &'a Database,
    found: u32,
    state: State,
    batch: Vec<Numbered>,
    bytes: usize,
    /// The newest entry of the old format.
    last: Seq,
    progress: Progress,
}

impl<'a> Migration<'a> {
    fn new(database: &'a Database, found: u32, history: HistoryRecord, last: Seq) -> Self {
        Self {
            database,
            found,
            state: State { history, ..State::default() },
            batch: Vec::new(),
            bytes: 0,
            last,
            progress: Progress::new(REPORT_EVERY),
        }
    }

    fn take(&mut self, numbered: Numbered) -> Result<(), MigrateError> {
        let seq = numbered.seq;
        self.bytes += self.database.get(&keys::entry(seq))?.map_or(0, |value| stored_length(&value));
        self.batch.push(numbered);
        if self.batch.len() == ENTRIES || self.bytes >= BYTES {
            self.write(false)?;
            if self.progress.is_due() {
                tracing::info!("rewriting the journal: {seq} of {} entries", self.last);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), MigrateError> {
        let newest = self.batch.last().map_or(self.state.history.last, |one| one.seq);
        if newest > Seq(0) {
            let entry = Entry::FormatChanged { from: self.found, to: versions::CURRENT_FORMAT };
            self.batch.push(Numbered { seq: newest.next(), at: clock::now(), entry });
        }
        self.write(true)
    }

    fn write(&mut self, last_step: bool) -> Result<(), MigrateError> {
        let mut pieces = Vec::new();
        for numbered in &self.batch {
            // A body whose length has changed may need fewer pieces than before.
            let key = keys::entry(numbered.seq);
            let before = self.database.get(&key)?.map_or(0, |value| pieces_of(&value));
            pieces.extend((0..before).map(|index| keys::chunk(&key, index)));
        }
        let mut batch = Builder::new(&mut self.state);
        for piece in pieces {
            batch.remove(piece);
        }
        for numbered in &self.batch {
            batch.entry(numbered)?;
        }
        if last_step {
            batch.record(keys::FORMAT.to_vec(), &FormatRecord { version: versions::CURRENT_FORMAT })?;
        }
        let writes = batch.finish()?;
        crash_point!("before_migration_step");
        self.database.write(writes)?;
        crash_point!("after_migration_step");
        if last_step {
            crash_point!("after_migration");
        }
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn stored_length(value: &[u8]) -> usize {
    codec::head(value).map_or(0, |(head, _)| head.stored_length())
}

fn pieces_of(value: &[u8]) -> u32 {
    codec::head(value).map_or(0, |(head, _)| head.pieces())
}

//! Pruning a journal that no agent has open.

use std::path::Path;
use std::time::Duration;

use super::clock;
use super::condition::Condition;
use super::error::OpenError;
use super::options::Options;
use crate::journal::format::entry::{Entry, Numbered, Record, Removal, Sealed};
use crate::journal::store::database_files::main_file;
use crate::journal::store::files::StateDir;
use crate::journal::store::identity::{self, IdentityError};
use crate::journal::store::location;
use crate::journal::store::lock::{LockError, StateLock};
use crate::journal::tree::retention::{ClockTrust, Policy, RemovalStep};
use crate::journal::tree::table::ReadError;
use crate::journal::write::error::CommitError;
use crate::journal::write::writer::Journal;

#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("there is no journal in {0}; name an agent's state directory with --state-dir")]
    NoJournal(String),
    #[error("the journal is in use, and its agent does not answer at its control socket: its log says why")]
    InUse(#[source] LockError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An entry after the one that reports the loss would hide it from the next start.
    #[error("nothing was removed: {0}; start the agent first: it goes into hold mode and says what is lost")]
    Loss(Condition),
    #[error("the journal's oldest entries cannot be read; `journal verify` tells what is wrong")]
    Read(#[from] ReadError),
    #[error("the journal could not be written; what was removed by then stays removed")]
    Commit(#[from] CommitError),
}

/// Removes everything that `policy` does not keep, step by step, with an entry for each (its anchor). Returns the sum,
/// and whether the clock was trusted.
pub fn offline(state_dir: &Path, options: &Options, policy: &Policy) -> Result<(RemovalStep, ClockTrust), PruneError> {
    let location = StateDir::new(state_dir);
    let dir = location::found(&location).map_err(OpenError::from)?.dir(&location);
    if !main_file(&dir).exists() {
        return Err(PruneError::NoJournal(state_dir.display().to_string()));
    }
    let _lock = StateLock::acquire(state_dir, Duration::ZERO).map_err(PruneError::InUse)?;
    identity::read(state_dir)?;
    let opened = Journal::<()>::open(state_dir, options)?;
    if !opened.condition.is_whole() {
        return Err(PruneError::Loss(opened.condition));
    }
    let mut past = opened.recovered.past;
    let mut journal = opened.journal;
    let reader = journal.reader();
    let now = clock::now();
    let clock = reader.clock_trust(now)?;
    let mut sum = reader.preview_removal(policy, now)?.emptied();
    while let Some(step) = reader.next_removal(policy, now)? {
        let Removal { upto, hash, trimmed, entries, requests } = step.removal.clone();
        let last = journal.durable();
        let mut seq = last;
        let mut numbered = |entry| {
            seq = seq.next();
            Numbered { seq, at: clock::now(), entry }
        };
        // As a running agent does it.
        let stated = past.iter_mut().filter(|(set, record)| record.extras.0.kept_in.max(**set) <= upto);
        let (mut entries_of_step, mut records) = (Vec::new(), Vec::new());
        for (set, record) in stated {
            let kept = numbered(Entry::ConfigurationKept { set: *set, record: Box::new(record.clone()) });
            record.extras.0.kept_in = kept.seq;
            records.push(Record::Past(*set, Some(Box::new(record.clone()))));
            entries_of_step.push(kept);
        }
        entries_of_step.push(numbered(Entry::Pruned { upto, hash, trimmed, entries, requests }));
        drop(journal.stage(Sealed::new(last, entries_of_step, Vec::new())));
        drop(journal.commit(records)?);
        sum.add(&step);
    }
    Ok((sum, clock))
}

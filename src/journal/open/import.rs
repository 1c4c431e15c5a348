//! Importing a journal from a stream into a state directory that has none.
//!
//! Entries keep their numbers and their places in the chain, so heads that were noted before stay valid; index rows are
//! rebuilt by the code that makes them in a commit. The desired state is not part of history and is not imported:
//! requests without an outcome get one, and the newest entry says that all before it were imported, which puts the next
//! start into hold mode.
//!
//! ```text
//! stream ──checked, in batches──► journal.importing ──verified as a whole, then one rename──► journal.imported
//! journal.imported ──the side file written, then one rename──► journal
//! ```
//!
//! An interrupted import has changed nothing, or is finished by the next start. Memory is that of one batch and of
//! one number for each request without an outcome, of which there may be [`UNFINISHED_LIMIT`].
//!
//! What is readable of a damaged journal is imported in the same way ([`import_salvage`]), but may have gaps.

mod configurations;
mod salvaged;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::configurations::Configurations;
use super::clock;
use super::database_format;
use super::error::OpenError;
use super::options::Options;
use super::rebuild::{self, Pending};
use super::salvage;
use crate::api::head::Head;
use crate::api::ids::{Incarnation, Seq};
use crate::crash_point;
use crate::journal::format::codec::{self, DecodeError, Hash};
use crate::journal::format::entry::{AgentRecord, Entry, Numbered, Record};
use crate::journal::format::keys;
use crate::journal::format::subject::UnfinishedChange;
use crate::journal::format::versions;
use crate::journal::store::database::Database;
use crate::journal::store::database_files::{main_file, remove_unfinished_snapshots};
use crate::journal::store::files::{self, FileError, StateDir};
use crate::journal::store::location::{self, LocationError};
use crate::journal::store::lock::{LockError, StateLock};
use crate::journal::store::watermark::{self, WatermarkFile};
use crate::journal::tree::batch::{self, BatchError, Builder, State, Write};
use crate::journal::tree::export::{End, Frame, UnpackError, Unpacker};
use crate::journal::tree::recover;
use crate::journal::tree::rows;
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{ReadError, Table, Whole};
use crate::journal::tree::verify;

const IMPORTING: &str = "journal.importing";
const IMPORTED: &str = "journal.imported";

/// A batch ends after this many entries, or …
const ENTRIES: usize = 256;
/// … this many bytes of them.
const BYTES: usize = 256 << 10;
/// How much is read from the stream at once.
const READ: usize = 64 << 10;

/// The answer to a request without an outcome.
const EXPORTED: &str =
    "this request had no outcome when the agent's journal was exported, and was given up by the import";
const SALVAGED: &str =
    "this request has no outcome in what could be read of the agent's damaged journal, and was given up by its import";

/// An agent has far fewer.
const UNFINISHED_LIMIT: usize = 64 << 10;
/// Numbers without an entry. A journal may have lost many; retention visits each of them when it is old enough.
const GAPS_LIMIT: u64 = 16 << 20;
/// Retention removes a few hundred entries at once.
const REMOVED_LIMIT: u64 = 16 << 10;

/// Why nothing was imported. Whatever was written is removed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The lock is held by an agent or by another command.
    #[error("it is in use")]
    InUse(#[source] LockError),
    /// The lock's file cannot be used.
    #[error("the state directory cannot be locked")]
    Lock(#[source] LockError),
    /// The state directory has a history already, and an import does not add to one.
    #[error("{dir} holds a journal with entries already: import into another --state-dir, or move that journal away")]
    NotEmpty {
        /// The journal's directory.
        dir: String,
    },
    /// The source of the stream failed.
    #[error("the export cannot be read")]
    Input(#[source] io::Error),
    /// The stream is not an export, was altered, or ends early.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Its entries are of a format that only newer releases know.
    #[error("it comes from a journal of format {found}, and this release knows formats up to {known}: use a newer release", known = versions::CURRENT_FORMAT)]
    Newer {
        /// The format in its header.
        found: u32,
    },
    /// A frame is intact, but the entry in it is not.
    #[error("entry {seq} cannot be decoded")]
    Entry {
        /// The entry's number.
        seq: Seq,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The hash in one entry is not that of the one before.
    #[error(
        "entry {seq} does not continue entry {before}: one of them was altered, or is of another journal; export it again"
    )]
    Chain {
        /// The entry that does not continue.
        seq: Seq,
        /// The entry before it in the stream.
        before: Seq,
    },
    /// An entry that no agent would have written there: the stream was forged.
    #[error("entry {seq} {what}, which no agent writes: it was altered; export it again")]
    Impossible {
        /// The entry's number.
        seq: Seq,
        /// What is impossible about it, as a part of a sentence.
        what: &'static str,
    },
    /// The stream was cut and given another end, or altered.
    #[error("its end names another head than its newest entry has: it was altered; export it again")]
    Head,
    /// What a verification of the whole found; the first five.
    #[error("what it holds is not a whole journal, so export it again: {}", .0.join("; "))]
    Problems(Vec<String>),
    /// What was built does not open, or its directory cannot be created.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was built is unreadable.
    #[error("the journal that was built cannot be read")]
    Read(#[from] ReadError),
    /// An entry exceeds the limit.
    #[error("an entry cannot be stored")]
    Encode(#[from] codec::EncodeError),
    /// Nothing there looks like a journal. Holds the path.
    #[error("there is no journal in {0}; name a copy of a state directory, or a journal that was set aside")]
    NoJournal(String),
    /// Nothing could be salvaged, so there is nothing to import.
    #[error(
        "nothing of it can be recovered: its store does not open, or no entry in it is whole; try an older copy of it"
    )]
    NothingReads,
}

impl From<FileError> for ImportError {
    fn from(error: FileError) -> Self {
        Self::Open(error.into())
    }
}

impl From<LocationError> for ImportError {
    fn from(error: LocationError) -> Self {
        Self::Open(error.into())
    }
}

impl From<BatchError> for ImportError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Encode(error) => Self::Encode(error),
            BatchError::Read(error) => Self::Read(error),
        }
    }
}

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// How many were imported.
    pub entries: u64,
    /// The oldest of them.
    pub first: Seq,
    /// The newest entry that was imported, and its hash.
    pub exported_head: Head,
    /// Requests that had no outcome.
    pub abandoned: u64,
    /// The newest entry now.
    pub head: Head,
    /// Numbers whose entries are lost: first and last of each range.
    pub missing: Vec<(Seq, Seq)>,
    /// Problems that `verify` finds in what was salvaged. A stream with any is refused.
    pub problems: Vec<String>,
}

impl Imported {
    /// How much was recovered and what is lost, for people.
    pub fn summary(&self) -> String {
        rows::recovery_summary(self.entries, &self.missing)
    }
}

/// Imports a stream. `from`: what the journal records as its origin. `progress` is called with the newest entry now and
/// then. On an error nothing has changed.
pub fn import(
    state_dir: &Path,
    options: &Options,
    stream: &mut impl Read,
    from: &str,
    mut progress: impl FnMut(Seq),
) -> Result<Imported, ImportError> {
    build(state_dir, options, |building| {
        let (imported, problems) = building.run(from, EXPORTED, |building| building.read(stream, &mut progress))?;
        match problems.is_empty() {
            true => Ok(imported),
            false => Err(ImportError::Problems(problems.into_iter().take(5).collect())),
        }
    })
}

/// Imports what is readable of the damaged journal in `dir`, a state directory or a journal's directory that was moved
/// aside. Nothing may be writing to it; it is only copied. `progress` and errors as with [`import`].
pub fn import_salvage(
    state_dir: &Path,
    options: &Options,
    dir: &Path,
    mut progress: impl FnMut(Seq),
) -> Result<Imported, ImportError> {
    let from = dir.display().to_string();
    build(state_dir, options, |building| {
        let take = |building: &mut Building| building.take_salvaged(state_dir, options, dir, &mut progress);
        let (imported, problems) = building.run(&from, SALVAGED, take)?;
        Ok(Imported { problems, ..imported })
    })
}

/// Builds a journal under a temporary name, and moves it into place when it is complete.
fn build(
    state_dir: &Path,
    options: &Options,
    work: impl FnOnce(Building) -> Result<Imported, ImportError>,
) -> Result<Imported, ImportError> {
    files::ensure_dir(state_dir)?;
    let _lock = lock(state_dir)?;
    let state_dir = &StateDir::new(state_dir);
    salvage::finish_interrupted(state_dir)?;
    finish_interrupted(state_dir, options)?;
    refuse_entries(state_dir, options)?;
    let building = Building::begin(state_dir, options)?;
    let dir = building.dir.clone();
    match work(building) {
        Ok(imported) => {
            state_dir.rename("completing", &dir, &state_dir.join(IMPORTED))?;
            crash_point!("after_import_built");
            put_in_place(state_dir, options)?;
            Ok(imported)
        }
        Err(error) => {
            files::remove_dir(&dir)?;
            Err(error)
        }
    }
}

fn lock(state_dir: &Path) -> Result<StateLock, ImportError> {
    StateLock::acquire(state_dir, Duration::ZERO).map_err(|error| match error {
        LockError::Held { .. } => ImportError::InUse(error),
        LockError::Io { .. } => ImportError::Lock(error),
    })
}

/// Cleans up after an import that was killed, and moves a complete one into place.
pub(super) fn finish_interrupted(state_dir: &StateDir, options: &Options) -> Result<(), OpenError> {
    files::remove_dir(&state_dir.join(IMPORTING))?;
    match state_dir.join(IMPORTED).exists() {
        true => put_in_place(state_dir, options),
        false => Ok(()),
    }
}

/// The lock is held, so the journal that it replaces is still empty.
fn put_in_place(state_dir: &StateDir, options: &Options) -> Result<(), OpenError> {
    let complete = state_dir.join(IMPORTED);
    let database = Database::open(&complete, options.store()).map_err(|error| OpenError::storage(&complete, error))?;
    let history = recover::history(&database).map_err(|error| OpenError::read(&complete, error))?;
    drop(database);
    let known = watermark::read(state_dir)?;
    // Responses that were already sent elsewhere are not sent again.
    let sent = history.last;
    WatermarkFile::open(state_dir, known, history.last, Some(history.hash), None)
        .and_then(|mut side| side.set_sent_durably(state_dir, sent))?;
    crash_point!("after_import_marked");
    let dir = location::current(state_dir)?.dir(state_dir);
    files::remove_dir(&dir)?;
    Ok(state_dir.rename("putting in place", &complete, &dir)?)
}

/// Refuses a state directory whose journal has any entries.
fn refuse_entries(state_dir: &StateDir, options: &Options) -> Result<(), ImportError> {
    let known = watermark::read(state_dir)?;
    let dir = location::found(state_dir)?.dir(state_dir);
    if let Some(mark) = known
        && mark.format > versions::CURRENT_FORMAT
    {
        return Err(OpenError::newer_format(&dir, mark.format).into());
    }
    if !main_file(&dir).exists() {
        return Ok(());
    }
    let failed = |error| OpenError::storage(&dir, error);
    remove_unfinished_snapshots(&dir)?;
    let database = Database::open(&dir, options.store()).map_err(failed)?;
    for row in database.range(keys::everything()) {
        let (key, _) = row.map_err(|error| OpenError::read(&dir, error))?;
        if key != keys::FORMAT {
            return Err(ImportError::NotEmpty { dir: dir.display().to_string() });
        }
    }
    Ok(())
}

/// A journal under construction.
struct Building {
    dir: PathBuf,
    database: Database,
    /// How far this directory's earlier journal had come, if known: its numbers are not assigned again.
    noted: Seq,
    state: State,
    batch: Vec<Whole>,
    bytes: usize,
    before: Option<(Seq, Hash)>,
    first: Option<Seq>,
    entries: u64,
    gaps: u64,
    /// Requests without an outcome, and how many attempts each had.
    unfinished: BTreeMap<Seq, u32>,
    newest_incarnation: Incarnation,
    /// The configurations that were to run.
    configurations: Configurations,
    /// Ranges of lost numbers before the newest entry.
    missing: Vec<(Seq, Seq)>,
    /// The format of entries that only now got their place in the chain.
    older: Option<u32>,
}

impl Building {
    fn begin(state_dir: &StateDir, options: &Options) -> Result<Self, OpenError> {
        let dir = state_dir.join(IMPORTING);
        files::create_dir(&dir)?;
        let failed = |error| OpenError::storage(&dir, error);
        let database = Database::open(&dir, options.store()).map_err(failed)?;
        database_format::write(&database).map_err(failed)?;
        let known = watermark::read(state_dir)?;
        Ok(Self {
            database,
            noted: known.map_or(Seq(0), |mark| mark.high),
            dir,
            state: State::default(),
            batch: Vec::new(),
            bytes: 0,
            before: None,
            first: None,
            entries: 0,
            gaps: 0,
            unfinished: BTreeMap::new(),
            newest_incarnation: Incarnation::default(),
            configurations: Configurations::default(),
            missing: Vec::new(),
            older: None,
        })
    }

    /// Takes in all that `take` does, closes it, and gives what is wrong with it. `why`: of requests that are closed.
    fn run(
        mut self,
        from: &str,
        why: &str,
        take: impl FnOnce(&mut Self) -> Result<(), ImportError>,
    ) -> Result<(Imported, Vec<String>), ImportError> {
        take(&mut self)?;
        let (last, hash) = self.before.unwrap_or_default();
        let abandoned = self.unfinished.len() as u64;
        let missing = self.close(from, why)?;
        let report = verify::verify(&self.database, None, None)?;
        let head = Head { seq: self.state.history.last, hash: self.state.history.hash };
        let imported = Imported {
            entries: self.entries,
            first: self.first.unwrap_or_default(),
            exported_head: Head { seq: last, hash },
            abandoned,
            head,
            missing,
            problems: Vec::new(),
        };
        drop(self.database);
        files::sync_dir(&self.dir).map_err(FileError::at("syncing", &self.dir))?;
        Ok((imported, report.problems))
    }

    fn read(&mut self, stream: &mut impl Read, progress: &mut impl FnMut(Seq)) -> Result<(), ImportError> {
        let mut unpacker = Unpacker::default();
        let mut bytes = vec![0; READ];
        loop {
            let count = match stream.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ImportError::Input(error)),
            };
            unpacker.push(bytes.get(..count).unwrap_or_default());
            while let Some(frame) = unpacker.next()? {
                self.frame(frame)?;
            }
            if count == 0 {
                unpacker.finish()?;
                return Ok(());
            }
            if let Some((seq, _)) = self.before {
                progress(seq);
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), ImportError> {
        match frame {
            Frame::Header(header) if header.format > versions::CURRENT_FORMAT => {
                Err(ImportError::Newer { found: header.format })
            }
            Frame::Header(header) => {
                self.state.history.first = header.first;
                self.state.history.trimmed = header.trimmed;
                Ok(())
            }
            Frame::Entry { seq, value } => {
                let (numbered, link, head, stored) =
                    codec::decode_flat(seq, &value).map_err(|source| ImportError::Entry { seq, source })?;
                self.take(Whole { numbered, link, head, stored })
            }
            Frame::End(End { hash, .. }) => {
                let newest = self.before.map_or_else(Hash::default, |(_, hash)| hash);
                if hash != newest {
                    return Err(ImportError::Head);
                }
                self.write_batch()
            }
        }
    }

    fn take(&mut self, whole: Whole) -> Result<(), ImportError> {
        let seq = whole.numbered.seq;
        let impossible = |what| Err(ImportError::Impossible { seq, what });
        let Some(link) = whole.link else { return impossible("has no hash") };
        match self.before {
            Some((before, hash)) if before.next() == seq && hash != link.previous => {
                return Err(ImportError::Chain { seq, before });
            }
            _ => {}
        }
        let expected = self.before.map_or(self.state.history.first, |(before, _)| before.next());
        self.gaps = self.gaps.saturating_add(seq.0.saturating_sub(expected.0));
        if self.gaps > GAPS_LIMIT {
            return impossible("comes after more numbers without an entry");
        }
        self.before = Some((seq, link.hash));
        self.first.get_or_insert(seq);
        self.entries += 1;
        self.bytes += whole.stored.len();
        let removal = match &whole.numbered.entry {
            Entry::Pruned { upto, trimmed, .. } => Some((*upto, *trimmed)),
            _other => None,
        };
        self.follow(&whole.numbered)?;
        self.batch.push(whole);
        if let Some((upto, trimmed)) = removal {
            self.remove(seq, upto, trimmed)?;
        }
        if self.batch.len() >= ENTRIES || self.bytes >= BYTES {
            self.write_batch()?;
        }
        Ok(())
    }

    /// What retention removed while the stream was written may still be in it.
    fn remove(&mut self, seq: Seq, upto: Seq, trimmed: Seq) -> Result<(), ImportError> {
        if upto >= seq || trimmed >= seq {
            return Err(ImportError::Impossible { seq, what: "tells that later entries were removed" });
        }
        let history = &self.state.history;
        let removed = (upto.0 + 1).saturating_sub(history.first.0);
        let dropped = trimmed.0.saturating_sub(history.trimmed.0.max(history.first.0.saturating_sub(1)));
        if removed > REMOVED_LIMIT || dropped > REMOVED_LIMIT {
            return Err(ImportError::Impossible { seq, what: "tells that more entries were removed at once" });
        }
        self.write_batch()?;
        let mut batch = Builder::new(&mut self.state);
        batch.prune(&self.database, upto, trimmed)?;
        let writes = batch.finish_with_history()?;
        self.write(&writes)
    }

    /// Keeps track of what an import closes.
    fn follow(&mut self, numbered: &Numbered) -> Result<(), ImportError> {
        match numbered.entry.unfinished_change() {
            Some(UnfinishedChange::Received { .. }) => {
                self.configurations.request(numbered);
                self.unfinished.insert(numbered.seq, 0);
                if self.unfinished.len() > UNFINISHED_LIMIT {
                    let what = "is one more request without an outcome";
                    return Err(ImportError::Impossible { seq: numbered.seq, what });
                }
            }
            Some(UnfinishedChange::Begun { of, attempt }) => {
                if let Some(attempts) = self.unfinished.get_mut(&of) {
                    *attempts = attempt;
                }
            }
            Some(UnfinishedChange::Completed { of }) => {
                self.unfinished.remove(&of);
                self.configurations.completed(of);
            }
            None => {}
        }
        self.configurations.follow(numbered);
        if let Entry::LaunchIntended { incarnation, .. } | Entry::NodeAdopted { incarnation, .. } = &numbered.entry {
            self.newest_incarnation = self.newest_incarnation.max(*incarnation);
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), ImportError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let first = self.state.history.first;
        let mut batch = Builder::new(&mut self.state);
        for whole in &self.batch {
            batch.copied(whole)?;
            match &whole.numbered.entry {
                // Of requests that retention had removed, or that were lost before.
                Entry::RequestCompleted { of, .. }
                | Entry::DeadlineAnswered { of, .. }
                | Entry::DuplicateSeen { of, .. }
                    if *of < first => {}
                _other => batch.index(&self.database, &whole.numbered)?,
            }
        }
        let writes = batch.finish()?;
        self.batch.clear();
        self.bytes = 0;
        self.write(&writes)
    }

    fn write(&self, writes: &[Write]) -> Result<(), ImportError> {
        self.database.write(writes).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: StorageError) -> ImportError {
        OpenError::storage(&self.dir, error).into()
    }

    /// Gives every request an outcome, and records where the entries came from and which are lost; returns the lost
    /// ones.
    fn close(&mut self, from: &str, why: &str) -> Result<Vec<(Seq, Seq)>, ImportError> {
        let last = self.state.history.last;
        let mut missing = std::mem::take(&mut self.missing);
        missing.extend((self.noted > last).then_some((last.next(), self.noted)));
        let mut seq = last.max(self.noted);
        let unfinished = std::mem::take(&mut self.unfinished);
        let mut closing = Vec::new();
        for (of, attempts) in unfinished {
            let Some(Numbered { entry: Entry::RequestReceived { reqid, request, .. }, .. }) =
                self.database.entry(of)?
            else {
                continue;
            };
            seq = seq.next();
            let pending = Pending { reqid, request: request.0, attempts };
            closing.push(Numbered { seq, at: clock::now(), entry: rebuild::abandoned(of, pending, why) });
            if closing.len() == ENTRIES {
                self.append(&closing, &[])?;
                closing.clear();
            }
        }
        if let Some(from) = self.older {
            seq = seq.next();
            let entry = Entry::FormatChanged { from, to: versions::CURRENT_FORMAT };
            closing.push(Numbered { seq, at: clock::now(), entry });
        }
        let entry = Entry::Imported { from: from.to_owned(), entries: self.entries, missing: missing.clone() };
        closing.push(Numbered { seq: seq.next(), at: clock::now(), entry });
        // So that no incarnation of a name is used twice.
        let agent = AgentRecord { newest_gone: self.newest_incarnation, ..AgentRecord::default() };
        let past = std::mem::take(&mut self.configurations).ended(clock::now());
        let past = past.into_iter().map(|(seq, record)| Record::Past(seq, Some(Box::new(record))));
        let records: Vec<Record> = std::iter::once(Record::Agent(agent)).chain(past).collect();
        self.append(&closing, &records)?;
        Ok(missing)
    }

    fn append(&mut self, entries: &[Numbered], records: &[Record]) -> Result<(), ImportError> {
        let writes = batch::build(&self.database, &mut self.state, entries, records)?;
        self.write(&writes)
    }
}

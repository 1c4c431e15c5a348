//! Opening the journal: what is checked, in which order, and what each finding means (the table of failures, P11).
//!
//! Nothing here decides about nodes or requests. It reports a [`Condition`]; the agent makes hold mode of every one by which
//! something is missing. Such a condition is itself an entry, and as long as nothing was committed after it, each start
//! reports it again: a crash on the way into hold mode changes nothing.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::import;
use super::migrate::{self, MigrateError};
use super::probe;
use super::salvage;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::journal::format::entry::{AgentRecord, Entry, Numbered, Recovered};
use crate::journal::format::keys;
use crate::journal::format::versions::{self, records::FormatRecord};
use crate::journal::store::database::{self, Database, OpenOptions, Shared, StorageError};
use crate::journal::store::identity;
use crate::journal::store::location::{self, Place};
use crate::journal::store::space::{self, Floors, Gauge};
use crate::journal::store::watermark::{self, Mark, MarkFile};
use crate::journal::tree::batch::{Builder, State};
use crate::journal::tree::recover;
use crate::journal::tree::rows;
use crate::journal::tree::table::{ReadError, Table};
use crate::journal::write::writer::{Journal, Parts};
use crate::regular_file;

/// Its presence makes the next start read the whole journal.
const SUSPECT: &str = "journal.suspect";

/// `Entry::Salvaged::from` where nothing was set aside.
const FROM_ITSELF: &str = "journal";
const FROM_NOTHING: &str = "";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// sled's cache; real use can be several times as much.
    pub cache_capacity: u64,
    /// An open that takes longer is given up, and nothing is set aside for it. Copying and salvaging do not count.
    pub open_timeout: Duration,
    /// The size of the file that is kept to be given back on a full disk: opening needs space. 0: none.
    pub ballast_bytes: u64,
    /// Free space below which requests are refused.
    pub request_floor: u64,
    /// Free space below which the ballast is given back, and nothing is journaled without it.
    pub fact_floor: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_capacity: 32 << 20,
            open_timeout: Duration::from_secs(60),
            ballast_bytes: 16 << 20,
            request_floor: 256 << 20,
            fact_floor: 64 << 20,
        }
    }
}

impl Options {
    pub(in crate::journal) fn store(&self) -> OpenOptions {
        OpenOptions {
            cache_capacity: self.cache_capacity,
            timeout: self.open_timeout,
            lock_wait: Duration::from_secs(2),
        }
    }
}

/// What the journal was like when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There was none, and there should be none.
    Fresh,
    Intact,
    /// The directory is initialised, and its journal missing or empty.
    Missing,
    /// Entries that were durable are gone without a trace of damage: the newest should be `expected`.
    LostTail {
        expected: Seq,
        found: Seq,
    },
    /// It was damaged: set aside, and what could be read was taken over.
    Salvaged {
        aside: PathBuf,
        summary: String,
        /// All of it: every entry up to where it is known to have come, and what they sum up to.
        is_lossless: bool,
    },
    /// It was taken over from somewhere else, and says nothing about what this host should run.
    Imported {
        from: String,
        summary: String,
    },
}

impl Condition {
    /// Nothing is known to be missing.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Fresh | Self::Intact | Self::Salvaged { is_lossless: true, .. } => true,
            Self::Missing
            | Self::LostTail { .. }
            | Self::Salvaged { is_lossless: false, .. }
            | Self::Imported { .. } => false,
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fresh => f.write_str("the journal is new"),
            Self::Intact => f.write_str("the journal is intact"),
            Self::Missing => f.write_str("the journal is missing or empty, although this directory was in use"),
            Self::LostTail { expected, found } => {
                write!(f, "the journal has lost its newest entries: it ends at {found} and had come to {expected}")
            }
            Self::Salvaged { aside, summary, .. } => {
                write!(f, "the journal was damaged and is set aside at {}; {summary}", aside.display())
            }
            Self::Imported { from, summary } => {
                write!(f, "the journal was imported from {from}, without what this host is to run; {summary}")
            }
        }
    }
}

/// Why the journal did not open, by what the agent does then. Nothing was set aside.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Exit 78.
    #[error(
        "the journal in {dir} has format {found}, and this release knows formats up to {known}: run the newer release \
         again; nothing was touched"
    )]
    NewerFormat { dir: String, found: u32, known: u32 },
    /// Exit 78.
    #[error("the journal in {dir} holds a record of a newer release: run that release again; nothing was touched")]
    NewerRecord { dir: String, source: ReadError },
    /// Exit 1; nodes run on.
    #[error("the journal in {dir} cannot be opened: no space is left on its file system; free some space")]
    NoSpace { dir: String, source: StorageError },
    #[error("the journal in {dir} cannot be opened: its file system is read-only; remount it writable")]
    ReadOnly { dir: String, source: StorageError },
    #[error("the journal in {dir} is open in another process: end that first")]
    Locked { dir: String },
    #[error(
        "the journal in {dir} did not open in time and was left as it is; give it longer with journal_open_timeout"
    )]
    Timeout { dir: String, source: StorageError },
    #[error(
        "the journal in {dir} cannot be opened and was left as it is; the log of the system may say more of the disk"
    )]
    Storage { dir: String, source: StorageError },
    #[error("the journal in {dir} cannot be read and was left as it is; `journal verify` says what is wrong")]
    Read { dir: String, source: ReadError },
    /// The journal was compacted, and its files are not where they were put.
    #[error(
        "{pointer} says that the journal is {dir}, which does not exist; put it back, or remove {pointer} to begin \
         without its history; nothing was touched"
    )]
    PointsAtNothing { pointer: String, dir: String },
    #[error(
        "{pointer} does not say which directory is the journal: write its name into it as one line, `journal` or \
         `journal.NUMBER`; nothing was touched"
    )]
    PointerUnreadable { pointer: String },
    #[error("{pointer} is missing, and {dir} is there: put it back, with the line `{name}` in it; nothing was touched")]
    PointerMissing { pointer: String, dir: String, name: String },
    #[error(
        "the journal in {dir} is damaged and cannot be set aside: that is a mount point or a symbolic link; move the whole state directory there, with `{name}` as a plain \
         directory in it, and start the agent again"
    )]
    Apart { dir: String, name: String },
    #[error("{what} {path} failed")]
    Io { what: &'static str, path: String, source: io::Error },
}

impl OpenError {
    pub(in crate::journal) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match StorageError::from(source) {
            source @ StorageError::NoSpace(_) => Self::NoSpace { dir: path.display().to_string(), source },
            source @ StorageError::ReadOnly(_) => Self::ReadOnly { dir: path.display().to_string(), source },
            StorageError::Io(source) => Self::Io { what, path: path.display().to_string(), source },
            source => Self::Storage { dir: path.display().to_string(), source },
        }
    }

    pub(in crate::journal) fn storage(dir: &Path, source: StorageError) -> Self {
        let dir = dir.display().to_string();
        match source {
            StorageError::NoSpace(_) => Self::NoSpace { dir, source },
            StorageError::ReadOnly(_) => Self::ReadOnly { dir, source },
            StorageError::Locked => Self::Locked { dir },
            StorageError::Timeout(_) => Self::Timeout { dir, source },
            StorageError::Damaged(_)
            | StorageError::Panicked(_)
            | StorageError::Closed
            | StorageError::Undecided
            | StorageError::Io(_)
            | StorageError::Store(_) => Self::Storage { dir, source },
        }
    }

    pub(in crate::journal) fn read(dir: &Path, source: ReadError) -> Self {
        if source.is_newer() {
            return Self::NewerRecord { dir: dir.display().to_string(), source };
        }
        match source {
            ReadError::Storage { what, source } if !source.is_damage() => match source {
                StorageError::Io(_) | StorageError::Store(_) => {
                    Self::Read { dir: dir.display().to_string(), source: ReadError::Storage { what, source } }
                }
                source => Self::storage(dir, source),
            },
            source => Self::Read { dir: dir.display().to_string(), source },
        }
    }

    /// The file system is full: giving back the ballast may help.
    fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}

/// An open journal, and what a start takes in from it.
#[derive(Debug)]
pub struct Opened<E> {
    pub journal: Journal<E>,
    pub recovered: Recovered,
    pub condition: Condition,
}

impl<E> Journal<E> {
    /// Opens or creates the journal of a state directory, whose lock the caller holds and whose identity it has
    /// checked. Blocks for as long as it takes; on a damaged journal that includes copying and salvaging it.
    pub fn open(state_dir: &Path, options: &Options) -> Result<Opened<E>, OpenError> {
        let mut opened = match open(state_dir, options, false) {
            Err(error)
                if error.is_no_space()
                    && space::release_ballast(state_dir)
                        .map_err(OpenError::io("removing the ballast file in", state_dir))? =>
            {
                tracing::warn!("the file system of the journal is full; its ballast file was given back");
                open(state_dir, options, true)
            }
            done => done,
        }?;
        let journal: &mut Journal<E> = &mut opened.journal;
        journal.tend_space().map_err(OpenError::io("measuring the free space of", state_dir))?;
        // Of what is missing the files may still tell something.
        if opened.condition.is_whole() {
            journal.compactor().if_outgrown();
        }
        Ok(opened)
    }
}

/// A journal that was opened and read.
pub(in crate::journal) struct Usable {
    pub(in crate::journal) database: Database,
    pub(in crate::journal) recovered: Recovered,
    pub(in crate::journal) state: State,
}

/// `given_back`: the ballast was, for this.
pub(in crate::journal) fn open<E>(
    state_dir: &Path,
    options: &Options,
    given_back: bool,
) -> Result<Opened<E>, OpenError> {
    let started = Instant::now();
    let generation = location::current(state_dir)?;
    let dir = generation.dir(state_dir);
    let known = watermark::read(state_dir)
        .map_err(OpenError::io("reading the journal's side file journal.mark in", state_dir))?;
    if let Some(Mark { format, .. }) = known
        && format > versions::FORMAT
    {
        let dir = dir.display().to_string();
        return Err(OpenError::NewerFormat { dir, found: format, known: versions::FORMAT });
    }
    let rebuilt = salvage::finish_interrupted(state_dir)?;
    import::finish_interrupted(state_dir, options)?;
    location::found(state_dir)?;
    location::clear_up(state_dir)?;
    location::look_for_others(state_dir)?;
    if let Some(mark) = known
        && mark.format < versions::FORMAT
    {
        // From here on the release before must not touch it any more, however far the migration comes.
        MarkFile::open(state_dir, known, mark.high, mark.head, mark.extent)
            .and_then(|side| side.sync())
            .map_err(OpenError::io("writing the journal's side file journal.mark in", state_dir))?;
    }
    let existed = database::main_file(&dir).exists();
    let high = known.map_or(Seq(0), |mark| mark.high);
    let sent = known.map_or(Seq(0), |mark| mark.sent);
    let initialised = identity::exists(state_dir).map_err(OpenError::io("looking for the identity in", state_dir))?;
    let known = match known {
        // Before there is a journal: creating one is no single step, and what a power cut leaves of it is no damage.
        None if !existed && !initialised => MarkFile::open(state_dir, None, Seq(0), None, None)
            .and_then(|side| side.sync())
            .and_then(|()| watermark::read(state_dir))
            .map_err(OpenError::io("writing the journal's side file journal.mark in", state_dir))?,
        known => known,
    };
    // A start was killed, or lost power, before its first commit; or this is the first.
    let is_new = known.is_some_and(|mark| mark.high == Seq(0));
    let deep = suspect_path(state_dir).exists();

    // The side file still tells of the journal before.
    let cut_off = known.filter(|_| !rebuilt).map_or(Ok(0), |mark| mark.cut_off(&dir));
    let cut_off = cut_off.map_err(OpenError::io("measuring", &database::main_file(&dir)))?;
    let may_open = cut_off == 0 || may_open_shorter(state_dir, options, sent, high, cut_off)?;
    let in_place = if may_open { open_in_place(state_dir, &dir, options, sent, deep)? } else { None };
    let mut usable = match in_place {
        Some(usable) => usable,
        None => {
            salvage::salvage(state_dir, options, high, is_new)?;
            attempt(&dir, options, sent, false).map_err(|failure| failure.into_error(&dir))?
        }
    };
    if deep {
        fs::remove_file(suspect_path(state_dir)).map_err(OpenError::io("removing", &suspect_path(state_dir)))?;
    }

    let last = usable.recovered.last;
    let empty = last == Seq(0);
    let missing = empty && initialised && !(existed && is_new);
    if missing || last < high {
        let from = if missing { FROM_NOTHING } else { FROM_ITSELF };
        note_loss(&dir, &mut usable, from, high)?;
    }
    let condition =
        match newest_salvage(&usable.database, usable.recovered.last).map_err(|error| OpenError::read(&dir, error))? {
            Some(condition) => condition,
            None if empty => Condition::Fresh,
            None => Condition::Intact,
        };
    let last = usable.recovered.last;
    let head = (last > Seq(0)).then_some(usable.state.history.hash);
    let mark = usable
        .database
        .extent()
        .and_then(|extent| MarkFile::open(state_dir, known, last, head, extent))
        .map_err(OpenError::io("writing the journal's side file journal.mark in", state_dir))?;
    let floors = Floors { requests: options.request_floor, facts: options.fact_floor, ballast: options.ballast_bytes };
    let place = Place::new(&dir);
    let journal = Journal::new(Parts {
        gauge: Gauge::new(state_dir, place.clone(), floors, given_back),
        database: Shared::new(usable.database, place, options.store()),
        state_dir: state_dir.to_owned(),
        mark,
        state: usable.state,
        open_time: started.elapsed(),
    });
    Ok(Opened { journal, recovered: usable.recovered, condition })
}

/// Whether a journal may be opened whose file is shorter than it was: an open writes to it.
fn may_open_shorter(
    state_dir: &Path,
    options: &Options,
    sent: Seq,
    high: Seq,
    cut_off: u64,
) -> Result<bool, OpenError> {
    tracing::warn!("the journal's file is {cut_off} bytes shorter than it was; trying it on a copy first");
    let may_open = probe::loses_nothing(state_dir, options, sent, high)?;
    match may_open {
        true => tracing::info!("nothing that could be read is lost by opening it as it is"),
        false => tracing::error!("the journal is damaged: its file was cut"),
    }
    Ok(may_open)
}

/// `None`: it is damaged.
fn open_in_place(
    state_dir: &Path,
    dir: &Path,
    options: &Options,
    sent: Seq,
    deep: bool,
) -> Result<Option<Usable>, OpenError> {
    let first = match attempt(dir, options, sent, deep) {
        Ok(usable) => return Ok(Some(usable)),
        Err(Failure::Other(error)) => return Err(error),
        Err(Failure::Damage(first)) => first,
    };
    tracing::error!(error = %chain(&first), "the journal is damaged; trying it on a copy");
    // A damaged file fails again. What does not was a passing fault of this process, memory for example.
    Ok(match probe::opens(state_dir, options, sent, deep)? {
        true => attempt(dir, options, sent, deep).ok(),
        false => None,
    })
}

/// Why an attempt at opening ended.
pub(in crate::journal) enum Failure {
    Damage(ReadError),
    Other(OpenError),
}

impl Failure {
    fn into_error(self, dir: &Path) -> OpenError {
        match self {
            Self::Damage(source) => OpenError::read(dir, source),
            Self::Other(error) => error,
        }
    }

    fn storage(dir: &Path, source: StorageError) -> Self {
        if source.is_damage() {
            Self::Damage(ReadError::Storage { what: "the database".to_owned(), source })
        } else {
            Self::Other(OpenError::storage(dir, source))
        }
    }

    fn read(dir: &Path, source: ReadError) -> Self {
        if source.is_damage() { Self::Damage(source) } else { Self::Other(OpenError::read(dir, source)) }
    }
}

/// Opens the database in `dir` and reads what a start needs, or, with `deep`, everything.
pub(in crate::journal) fn attempt(dir: &Path, options: &Options, sent: Seq, deep: bool) -> Result<Usable, Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Failure::Other(OpenError::io("creating", dir)(error)))?;
    database::remove_unfinished_snapshots(dir)
        .map_err(|error| Failure::Other(OpenError::io("removing an unfinished snapshot in", dir)(error)))?;
    let database = Database::open(dir, options.store()).map_err(|error| Failure::storage(dir, error))?;
    match read(&database, sent, deep) {
        Ok((recovered, state)) => Ok(Usable { database, recovered, state }),
        Err(Unread::Newer { found }) => {
            let dir = dir.display().to_string();
            Err(Failure::Other(OpenError::NewerFormat { dir, found, known: versions::FORMAT }))
        }
        Err(Unread::Storage(error)) => {
            database.abandon();
            Err(Failure::storage(dir, error))
        }
        Err(Unread::Read(error)) => {
            database.abandon();
            Err(Failure::read(dir, error))
        }
    }
}

enum Unread {
    Newer { found: u32 },
    Storage(StorageError),
    Read(ReadError),
}

impl From<MigrateError> for Unread {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Read(error) => Self::Read(error),
            MigrateError::Storage(error) => Self::Storage(error),
            MigrateError::Encode(error) => Self::Storage(StorageError::Store(chain(&error))),
        }
    }
}

impl From<ReadError> for Unread {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

fn read(database: &Database, sent: Seq, deep: bool) -> Result<(Recovered, State), Unread> {
    match recover::format(database)? {
        None => write_format(database).map_err(Unread::Storage)?,
        Some(found) if found > versions::FORMAT => return Err(Unread::Newer { found }),
        Some(found) => migrate::migrate(database, found)?,
    }
    if deep {
        recover::read_everything(database)?;
    }
    Ok(recover::recover(database, sent)?)
}

pub(in crate::journal) fn write_format(database: &Database) -> Result<(), StorageError> {
    let mut state = State::default();
    let mut batch = Builder::new(&mut state);
    let written = batch
        .record(keys::FORMAT.to_vec(), &FormatRecord { version: versions::FORMAT })
        .and_then(|()| batch.finish())
        .expect("the format record is four bytes");
    database.write(written)
}

/// Makes the loss of everything after the newest entry an entry, so that no number is given out twice.
fn note_loss(dir: &Path, usable: &mut Usable, from: &str, high: Seq) -> Result<(), OpenError> {
    let last = usable.recovered.last;
    let missing = if high > last { vec![(last.next(), high)] } else { Vec::new() };
    let entry = Entry::Salvaged { from: from.to_owned(), recovered: last.0, missing };
    let numbered = Numbered { seq: last.max(high).next(), at: salvage::now(), entry };
    salvage::append(&usable.database, &mut usable.state, &numbered).map_err(|error| OpenError::storage(dir, error))?;
    usable.recovered.last = numbered.seq;
    Ok(())
}

/// The condition that the newest entry stands for, if it tells of a loss that nobody has acted on yet.
fn newest_salvage(table: &impl Table, last: Seq) -> Result<Option<Condition>, ReadError> {
    let mut newest = table.entry(last)?;
    while let Some(Numbered { entry: Entry::FormatChanged { .. }, seq, .. }) = newest {
        newest = table.entry(Seq(seq.0 - 1))?;
    }
    let (from, recovered, missing, seq) = match newest {
        Some(Numbered { entry: Entry::Salvaged { from, recovered, missing }, seq, .. }) => {
            (from, recovered, missing, seq)
        }
        Some(Numbered { entry: Entry::Imported { from, entries, missing }, .. }) => {
            return Ok(Some(Condition::Imported { from, summary: rows::recovery_summary(entries, &missing) }));
        }
        Some(_) | None => return Ok(None),
    };
    Ok(Some(match from.as_str() {
        FROM_NOTHING => Condition::Missing,
        FROM_ITSELF => Condition::LostTail { expected: Seq(seq.0 - 1), found: Seq(recovered) },
        aside => {
            let agent: Option<AgentRecord> = table.record(keys::AGENT)?;
            Condition::Salvaged {
                aside: PathBuf::from(aside),
                summary: rows::recovery_summary(recovered, &missing),
                is_lossless: agent.is_some_and(|agent| agent.extras.0.lossless_salvage == seq),
            }
        }
    }))
}

fn suspect_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SUSPECT)
}

/// Makes the next start read the whole journal, because a read met damage.
pub(in crate::journal) fn suspect(state_dir: &Path) -> io::Result<()> {
    regular_file::rewrite(&suspect_path(state_dir), 0o600)?;
    database::sync_dir(state_dir)
}

//! Opening the journal: what is checked, in which order, and what each finding means (the table of failures, P11).
//!
//! Nothing here decides about nodes or requests. It reports a [`Condition`]; the agent enters hold mode for each in
//! which something is missing. Such a condition is itself an entry, and as long as nothing was committed after it, each
//! start reports it again, so a crash on the way into hold mode changes nothing.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::attempt::{Failure, ReadDepth, Usable, attempt};
use super::clock;
use super::condition::{self, Condition};
use super::database_format;
use super::error::OpenError;
use super::import;
use super::options::Options;
use super::probe;
use super::rebuild::JournalAge;
use super::salvage;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::journal::format::entry::{Entry, Numbered, Recovered};
use crate::journal::format::versions;
use crate::journal::store::database_files::main_file;
use crate::journal::store::files::{FileError, StateDir};
use crate::journal::store::identity;
use crate::journal::store::location::{self, Location};
use crate::journal::store::shared::SharedDatabase;
use crate::journal::store::space::{self, Floors, Gauge, SpaceToOpen};
use crate::journal::store::watermark::{self, Watermark, WatermarkFile};
use crate::journal::write::writer::{Journal, Parts};

/// An open journal, and what a start loads from it.
#[derive(Debug)]
pub struct Opened<E> {
    /// Ready to be written.
    pub journal: Journal<E>,
    /// What the records say: the state to continue with.
    pub recovered: Recovered,
    /// Whether something is missing, and what.
    pub condition: Condition,
}

impl<E> Journal<E> {
    /// Opens or creates the journal of a state directory, whose lock the caller holds and whose identity it has
    /// checked. Blocks for as long as it takes; on a damaged journal that includes copying and salvaging it.
    pub fn open(state_dir: &Path, options: &Options) -> Result<Opened<E>, OpenError> {
        let in_dir = StateDir::new(state_dir);
        let mut opened = match open(&in_dir, options, SpaceToOpen::Free) {
            Err(error)
                if error.is_no_space()
                    && space::release_ballast(state_dir)
                        .map_err(FileError::at("removing the ballast file in", state_dir))? =>
            {
                tracing::warn!("the file system of the journal is full; its ballast file was released");
                open(&in_dir, options, SpaceToOpen::Ballast)
            }
            done => done,
        }?;
        let journal: &mut Journal<E> = &mut opened.journal;
        journal.tend_space().map_err(FileError::at("measuring the free space of", state_dir))?;
        // What is missing may still be recovered from the files.
        if opened.condition.is_whole() {
            journal.compactor().if_outgrown();
        }
        Ok(opened)
    }
}

/// Opens the journal of a state directory. `space`: whether the ballast was released for it.
pub(super) fn open<E>(state_dir: &StateDir, options: &Options, space: SpaceToOpen) -> Result<Opened<E>, OpenError> {
    let started = Instant::now();
    let opening = Opening::prepare(state_dir, options)?;
    let mut usable = opening.usable()?;
    opening.note_loss(&mut usable)?;
    let last = usable.recovered.last;
    let loss = condition::newest_loss(&usable.database, last).map_err(|error| OpenError::read(&opening.dir, error))?;
    let condition = loss.unwrap_or(if last == Seq(0) { Condition::Fresh } else { Condition::Intact });
    let head = (last > Seq(0)).then_some(usable.state.history.hash);
    let extent = usable.database.extent().map_err(FileError::at("measuring", &main_file(&opening.dir)))?;
    let mark = WatermarkFile::open(state_dir, opening.known, last, head, extent)?;
    let floors = Floors { requests: options.request_floor, facts: options.fact_floor, ballast: options.ballast_bytes };
    let location = Location::new(&opening.dir);
    let journal = Journal::new(Parts {
        gauge: Gauge::new(state_dir.path(), location.clone(), floors, space),
        database: SharedDatabase::new(usable.database, location, options.store()),
        state_dir: state_dir.clone(),
        mark,
        state: usable.state,
        open_time: started.elapsed(),
    });
    Ok(Opened { journal, recovered: usable.recovered, condition })
}

/// What is known of a journal before it is opened.
struct Opening<'a> {
    state_dir: &'a StateDir,
    options: &'a Options,
    /// The journal's directory, and whether there was a database in it.
    dir: PathBuf,
    existed: bool,
    initialised: bool,
    known: Option<Watermark>,
    age: JournalAge,
    /// By how much its file is shorter than it was.
    cut_off: u64,
}

impl<'a> Opening<'a> {
    /// Finishes what an earlier start, import or compaction began, and finds out what the side file says.
    fn prepare(state_dir: &'a StateDir, options: &'a Options) -> Result<Self, OpenError> {
        let dir = location::current(state_dir)?.dir(state_dir);
        let known = watermark::read(state_dir)?;
        if let Some(Watermark { format, .. }) = known
            && format > versions::CURRENT_FORMAT
        {
            return Err(OpenError::newer_format(&dir, format));
        }
        let rebuilt = salvage::finish_interrupted(state_dir)?;
        import::finish_interrupted(state_dir, options)?;
        location::settle(state_dir)?;
        if let Some(mark) = known
            && mark.format < versions::CURRENT_FORMAT
        {
            // From here on the earlier release must not touch it, however far the migration comes.
            WatermarkFile::write_durably(state_dir, known, mark.high, mark.head, mark.extent)?;
        }
        let existed = main_file(&dir).exists();
        let initialised = identity::exists(state_dir)?;
        let known = match known {
            // Before there is a journal: creating one is not atomic, and what a power cut leaves of it is not damage.
            None if !existed && !initialised => {
                WatermarkFile::write_durably(state_dir, None, Seq(0), None, None)?;
                watermark::read(state_dir)?
            }
            known => known,
        };
        // A start was killed, or lost power, before its first commit; or this is the first.
        let age = match known {
            Some(Watermark { high: Seq(0), .. }) => JournalAge::NeverCommitted,
            Some(_) | None => JournalAge::InUse,
        };
        // If the journal was just rebuilt, the side file still describes the one before.
        let cut_off = known.filter(|_| !rebuilt).map_or(Ok(0), |mark| mark.cut_off(&dir));
        let cut_off = cut_off.map_err(FileError::at("measuring", &main_file(&dir)))?;
        Ok(Self { state_dir, options, dir, existed, initialised, known, age, cut_off })
    }

    /// How far the journal had come.
    fn high(&self) -> Seq {
        self.known.map_or(Seq(0), |mark| mark.high)
    }

    /// Up to where responses had been sent.
    fn sent(&self) -> Seq {
        self.known.map_or(Seq(0), |mark| mark.sent)
    }

    /// Opens it in place, or salvages it where it is damaged.
    fn usable(&self) -> Result<Usable, OpenError> {
        let is_suspect = self.state_dir.is_suspect();
        let depth = if is_suspect { ReadDepth::Everything } else { ReadDepth::Startup };
        let may_open = self.cut_off == 0 || self.may_open_shorter()?;
        let in_place = if may_open { self.open_in_place(depth)? } else { None };
        let usable = match in_place {
            Some(usable) => usable,
            None => {
                salvage::salvage(self.state_dir, self.options, self.high(), self.age)?;
                let opened = attempt(&self.dir, self.options, self.sent(), ReadDepth::Startup);
                opened.map_err(|failure| failure.into_error(&self.dir))?
            }
        };
        if is_suspect {
            self.state_dir.clear_suspect()?;
        }
        Ok(usable)
    }

    /// Whether a journal may be opened whose file is shorter than it was: an open writes to it.
    fn may_open_shorter(&self) -> Result<bool, OpenError> {
        tracing::warn!("the journal's file is {} bytes shorter than it was; trying it on a copy first", self.cut_off);
        let may_open = probe::loses_nothing(self.state_dir, self.options, self.sent(), self.high())?;
        match may_open {
            true => tracing::info!("nothing that could be read is lost by opening it as it is"),
            false => tracing::error!("the journal is damaged: its file was cut"),
        }
        Ok(may_open)
    }

    /// `None`: it is damaged.
    fn open_in_place(&self, depth: ReadDepth) -> Result<Option<Usable>, OpenError> {
        let first = match attempt(&self.dir, self.options, self.sent(), depth) {
            Ok(usable) => return Ok(Some(usable)),
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::Damage(first)) => first,
        };
        tracing::error!(error = %chain(&first), "the journal is damaged; trying it on a copy");
        // A damaged file fails again. If it does not, it was a temporary fault of this process, memory for example.
        Ok(match probe::opens(self.state_dir, self.options, self.sent(), depth)? {
            true => attempt(&self.dir, self.options, self.sent(), depth).ok(),
            false => None,
        })
    }

    /// Records the loss of everything after the newest entry as an entry, so that no number is assigned twice.
    fn note_loss(&self, usable: &mut Usable) -> Result<(), OpenError> {
        let (last, high) = (usable.recovered.last, self.high());
        let never_committed = self.existed && self.age == JournalAge::NeverCommitted;
        let is_missing = last == Seq(0) && self.initialised && !never_committed;
        if !is_missing && last >= high {
            return Ok(());
        }
        let from = if is_missing { condition::FROM_NOTHING } else { condition::FROM_ITSELF };
        let missing = if high > last { vec![(last.next(), high)] } else { Vec::new() };
        let entry = Entry::Salvaged { from: from.to_owned(), recovered: last.0, missing };
        let numbered = Numbered { seq: last.max(high).next(), at: clock::now(), entry };
        database_format::append(&usable.database, &mut usable.state, &numbered)
            .map_err(|error| OpenError::storage(&self.dir, error))?;
        usable.recovered.last = numbered.seq;
        Ok(())
    }
}

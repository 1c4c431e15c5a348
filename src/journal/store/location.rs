//! Which directory is the journal's.
//!
//! It is `journal`, unless the pointer file next to it names another: each compaction makes one with the next number
//! (`journal.2`), which replaces the one before when the pointer is renamed; that is atomic and made durable.
//!
//! ```text
//! journal.current    the name of the directory, a line; a second one, `remove NAME`, while another is to be removed
//! before a copy      journal      remove journal.2
//! after it           journal.2    remove journal
//! then               journal.2
//! ```
//!
//! A start removes only what the pointer says.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxAttributes, StatxFlags};

use super::database_files::main_file;
use super::files::{self, FileError, StateDir};
use crate::crash_point;
use crate::regular_file;

/// The journal's directory inside the state directory, as long as it was never compacted.
const DIR: &str = "journal";
const POINTER: &str = "journal.current";
/// It is written under this name first.
const POINTER_NEW: &str = "journal.current.new";
const REMOVE: &str = "remove ";
/// Two names with the largest possible numbers.
const POINTER_LIMIT: u64 = 128;

/// Why the journal's location is unknown, or the pointer cannot be written. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
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
    #[error(transparent)]
    File(#[from] FileError),
}

/// A directory of the journal, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::journal) struct Generation(u64);

impl Generation {
    const FIRST: Self = Self(1);

    pub(in crate::journal) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub(in crate::journal) fn name(self) -> String {
        if self == Self::FIRST { DIR.to_owned() } else { format!("{DIR}.{}", self.0) }
    }

    fn parse(name: &str) -> Option<Self> {
        let number = match name.strip_prefix(DIR)? {
            "" => return Some(Self::FIRST),
            rest => rest.strip_prefix('.')?.parse().ok().map(Self)?,
        };
        // Only one spelling of each number is valid.
        (number > Self::FIRST && number.name() == name).then_some(number)
    }

    pub(in crate::journal) fn dir(self, state_dir: &StateDir) -> PathBuf {
        state_dir.join(self.name())
    }

    /// That of a journal's directory.
    pub(in crate::journal) fn of(dir: &Path) -> Option<Self> {
        Self::parse(dir.file_name()?.to_str()?)
    }

    /// In four bytes, 0 for one that is too large for them.
    pub(in crate::journal) fn tag(self) -> u32 {
        u32::try_from(self.0).unwrap_or_default()
    }

    pub(in crate::journal) fn tagged(tag: u32) -> Option<Self> {
        (tag > 0).then_some(Self(u64::from(tag)))
    }
}

/// What the pointer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pointer {
    current: Generation,
    /// An unfinished copy, or the journal that this one replaced.
    remove: Option<Generation>,
}

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let current = Generation::parse(lines.next()?)?;
        let remove = match lines.next() {
            Some(line) => Some(Generation::parse(line.strip_prefix(REMOVE)?)?),
            None => None,
        };
        (lines.next().is_none() && remove != Some(current)).then_some(Self { current, remove })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.current.name());
        if let Some(other) = self.remove {
            text.push_str(&format!("{REMOVE}{}\n", other.name()));
        }
        text
    }

    /// `None`: there is no pointer.
    fn read(state_dir: &StateDir) -> Result<Option<Self>, LocationError> {
        let path = state_dir.join(POINTER);
        let mut text = String::new();
        let read = regular_file::read(&path).and_then(|file| file.take(POINTER_LIMIT).read_to_string(&mut text));
        match read {
            Ok(_) => match Self::parse(&text) {
                Some(pointer) => Ok(Some(pointer)),
                None => Err(LocationError::PointerUnreadable { pointer: path.display().to_string() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(LocationError::PointerUnreadable { pointer: path.display().to_string() })
            }
            Err(error) => Err(FileError::at("reading", &path)(error).into()),
        }
    }

    /// Atomic, also across a power cut. A file that was not renamed is removed.
    fn write(&self, state_dir: &StateDir) -> io::Result<()> {
        let aside = state_dir.join(POINTER_NEW);
        let write = || {
            let mut file = regular_file::rewrite(&aside, 0o600)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            crash_point!("during_pointer_write");
            fs::rename(&aside, state_dir.join(POINTER))
        };
        write().inspect_err(|_| {
            if let Err(error) = fs::remove_file(&aside) {
                tracing::debug!(%error, "{} is written over by the next", aside.display());
            }
        })?;
        crash_point!("after_pointer_rename");
        files::sync_dir(state_dir.path())
    }
}

/// Where the journal is, or is to be.
pub(in crate::journal) fn current(state_dir: &StateDir) -> Result<Generation, LocationError> {
    Ok(Pointer::read(state_dir)?.map_or(Generation::FIRST, |pointer| pointer.current))
}

/// Like [`current`], but where a pointer names it, it has to exist: a compacted journal whose files cannot be found is
/// never replaced by a new one.
pub(in crate::journal) fn found(state_dir: &StateDir) -> Result<Generation, LocationError> {
    let Some(Pointer { current, .. }) = Pointer::read(state_dir)? else { return Ok(Generation::FIRST) };
    let dir = current.dir(state_dir);
    if !main_file(&dir).exists() {
        let (pointer, dir) = (state_dir.join(POINTER).display().to_string(), dir.display().to_string());
        return Err(LocationError::PointsAtNothing { pointer, dir });
    }
    Ok(current)
}

/// Whether a state directory has a journal, as far as can be seen without opening it.
pub fn is_there(state_dir: &Path) -> bool {
    state_dir.join(DIR).is_dir() || state_dir.join(POINTER).exists()
}

/// The state directory whose journal `dir` is, if there is one.
pub(in crate::journal) fn state_dir_of(dir: &Path) -> Option<&Path> {
    let generation = Generation::of(dir)?;
    dir.parent().filter(|parent| current(&StateDir::new(parent)).is_ok_and(|current| current == generation))
}

/// Whether a journal's directory is a mount or volume of its own, which cannot be renamed or removed, or a link, which
/// is not the directory itself.
pub(in crate::journal) fn is_apart(state_dir: &StateDir, dir: &Path) -> io::Result<bool> {
    let looked = |path: &Path| rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    let (own, above) = (looked(dir)?, looked(state_dir.path())?);
    let is_dir = FileType::from_raw_mode(own.stx_mode.into()) == FileType::Directory;
    let device = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor);
    // A bind mount is on the same device.
    Ok(!is_dir || own.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) || device(&own) != device(&above))
}

/// Records that a copy of `current` is about to be made, so that it is cleaned up whatever happens.
pub(in crate::journal) fn begin(state_dir: &StateDir, current: Generation) -> io::Result<()> {
    Pointer { current, remove: Some(current.next()) }.write(state_dir)
}

/// Makes the copy of `old` the journal from here on, durably.
pub(in crate::journal) fn replace(state_dir: &StateDir, old: Generation) -> io::Result<()> {
    Pointer { current: old.next(), remove: Some(old) }.write(state_dir)
}

/// Before the journal is opened: it has to be where the pointer says, and leftovers of a compaction are removed.
pub(in crate::journal) fn settle(state_dir: &StateDir) -> Result<(), LocationError> {
    found(state_dir)?;
    clear_up(state_dir)?;
    look_for_others(state_dir)
}

/// Removes the leftovers of a compaction, finished or not.
pub(in crate::journal) fn clear_up(state_dir: &StateDir) -> Result<(), LocationError> {
    let path = state_dir.join(POINTER);
    let Some(Pointer { current, remove: Some(other) }) = Pointer::read(state_dir)? else { return Ok(()) };
    // The process that wrote the pointer may have been killed before it was durable.
    state_dir.sync()?;
    files::remove_dir(&other.dir(state_dir))?;
    crash_point!("after_compaction");
    let settled = if current == Generation::FIRST {
        fs::remove_file(&path).and_then(|()| files::sync_dir(state_dir.path()))
    } else {
        Pointer { current, remove: None }.write(state_dir)
    };
    Ok(settled.map_err(FileError::at("writing", &path))?)
}

/// Warns about other journals in the directory, and refuses to create one if there is a journal that only lacks its
/// pointer.
fn look_for_others(state_dir: &StateDir) -> Result<(), LocationError> {
    let current = current(state_dir)?;
    for (name, path) in state_dir.list()? {
        let Some(other) = Generation::parse(&name) else { continue };
        if other == current {
            continue;
        }
        if !current.dir(state_dir).exists() {
            let (pointer, dir) = (state_dir.join(POINTER).display().to_string(), other.dir(state_dir));
            return Err(LocationError::PointerMissing { pointer, dir: dir.display().to_string(), name: other.name() });
        }
        tracing::warn!(
            "{} is a journal, and not this agent's, which is {}; it is left alone",
            path.display(),
            current.name()
        );
    }
    Ok(())
}

/// Where the open journal's files are, for all code that measures them.
#[derive(Debug, Clone)]
pub(in crate::journal) struct Location(Arc<Mutex<PathBuf>>);

impl Location {
    pub(in crate::journal) fn new(dir: &Path) -> Self {
        Self(Arc::new(Mutex::new(dir.to_owned())))
    }

    pub(in crate::journal) fn dir(&self) -> PathBuf {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::journal) fn moved(&self, dir: &Path) {
        dir.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_reads_as_it_was_written_and_nothing_else_does() {
        let second = Generation(2);
        for (pointer, text) in [
            (Pointer { current: second, remove: None }, "journal.2\n"),
            (Pointer { current: second, remove: Some(Generation::FIRST) }, "journal.2\nremove journal\n"),
            (Pointer { current: Generation(11), remove: Some(Generation(10)) }, "journal.11\nremove journal.10\n"),
        ] {
            assert_eq!(pointer.text(), text);
            assert_eq!(Pointer::parse(text), Some(pointer));
        }
        for wrong in [
            "",
            "\n",
            "journal",
            "journal.2",
            "journal.1\n",
            "journal.02\n",
            "journal.+2\n",
            "journal.2 \n",
            "journal.2/..\n",
            "/tmp/journal\n",
            "journal.ballast\n",
            "journal.2\njournal\n",
            "journal.2\nremove journal.2\n",
            "journal.2\nremove journal\n\n",
            "journal.99999999999999999999999\n",
        ] {
            assert_eq!(Pointer::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_compaction_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        let make = |name: &str| fs::create_dir(dir.path().join(name)).unwrap();
        let names = || {
            let names =
                fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        make("journal");
        make("journal.damaged-1");
        begin(&state_dir, Generation::FIRST).unwrap();
        make("journal.2");
        clear_up(&state_dir).unwrap();
        assert_eq!(names(), ["journal", "journal.damaged-1"], "killed during the copy");
        begin(&state_dir, Generation::FIRST).unwrap();
        make("journal.2");
        replace(&state_dir, Generation::FIRST).unwrap();
        clear_up(&state_dir).unwrap();
        assert_eq!(names(), ["journal.2", "journal.current", "journal.damaged-1"], "killed before the removal");
        make("journal");
        clear_up(&state_dir).unwrap();
        look_for_others(&state_dir).unwrap();
        assert_eq!(names(), ["journal", "journal.2", "journal.current", "journal.damaged-1"], "put there by somebody");
    }

    #[test]
    fn a_journal_without_its_pointer_is_not_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        fs::create_dir(state_dir.join("journal.4")).unwrap();
        let error = look_for_others(&state_dir).unwrap_err();
        assert!(matches!(&error, LocationError::PointerMissing { name, .. } if name == "journal.4"), "{error}");
    }

    #[test]
    fn a_pointer_that_names_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        assert_eq!(found(&state_dir).unwrap(), Generation::FIRST);
        fs::write(dir.path().join(POINTER), "journal.3\n").unwrap();
        assert_eq!(current(&state_dir).unwrap(), Generation(3));
        assert!(matches!(found(&state_dir), Err(LocationError::PointsAtNothing { .. })));
        for garbage in [b"journal.3".as_slice(), b"\xff\n", &[b'j'; 500]] {
            fs::write(dir.path().join(POINTER), garbage).unwrap();
            assert!(matches!(current(&state_dir), Err(LocationError::PointerUnreadable { .. })));
        }
    }
}

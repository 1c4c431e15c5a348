//! The side file: how far the journal had come, kept outside of it so that a lost tail is noticed.
//!
//! sled loses a torn or cut tail silently. After each commit the number of the newest durable entry is written here
//! with its hash, the length of the database's file, and how far responses have been sent. Not synced: after a power
//! cut it may be behind, which only makes it detect less; it is never ahead of what was durable.
//!
//! ```text
//! two slots of 112 bytes at 0 and 512, written alternately, the valid one with the higher generation counts:
//! magic "ZCAMARK1" · format u32 LE · directory u32 LE · generation u64 LE · high u64 LE · sent u64 LE
//!     · checksum 16 bytes · length u64 LE · hash of the newest entry 32 bytes · checksum 16 bytes
//! ```
//!
//! `directory` is the number of the journal's directory whose file has that `length`, 0 where neither is known.
//!
//! The first 64 bytes are those of format 1; from them its release knows that it must not touch this journal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::database_files::main_file;
use super::files::{FileError, StateDir, sync_dir};
use super::location::Generation;
use crate::api::ids::Seq;
use crate::journal::format::codec::Hash;
use crate::journal::format::versions;
use crate::regular_file;

pub(in crate::journal) const FILE: &str = "journal.mark";

const MAGIC: &[u8; 8] = b"ZCAMARK1";
/// The slot of format 1, with which every later one begins.
const FIRST: usize = 64;
const SLOT: usize = 112;
const SLOTS: [u64; 2] = [0, 512];
const BODY: usize = 40;
const LENGTH: usize = BODY + 16;
const HASHED: usize = FIRST + 32;

/// The length of the database's file, and in which of the journal's directories it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Extent {
    pub(in crate::journal) directory: Generation,
    pub(in crate::journal) length: u64,
}

impl Extent {
    /// Of a database in `dir`; `None` if its name is not that of a journal's directory.
    pub(in crate::journal) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let Some(directory) = Generation::of(dir) else { return Ok(None) };
        Ok(Some(Self { directory, length: main_file(dir).metadata()?.len() }))
    }
}

/// What the side file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) struct Watermark {
    /// The journal's format: lets an older release refuse before it opens anything.
    pub(in crate::journal) format: u32,
    generation: u64,
    /// The newest durable entry.
    pub(in crate::journal) high: Seq,
    /// The responses of completions up to here have been sent.
    pub(in crate::journal) sent: Seq,
    /// The hash of entry `high`, if it is known.
    pub(in crate::journal) head: Option<Hash>,
    /// When `high` was durable.
    pub(in crate::journal) extent: Option<Extent>,
}

impl Watermark {
    /// How many bytes shorter the database's file in `dir` is than it was. sled itself also truncates what it no longer
    /// needs, and in rare cases this is not noted here.
    pub(in crate::journal) fn cut_off(&self, dir: &Path) -> io::Result<u64> {
        let Some(was) = self.extent else { return Ok(0) };
        match Extent::of(dir) {
            Ok(Some(is)) if is.directory == was.directory => Ok(was.length.saturating_sub(is.length)),
            Ok(_) => Ok(0),
            // A missing journal is handled elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn encode(mark: &Watermark) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&mark.format.to_le_bytes());
    slot[16..24].copy_from_slice(&mark.generation.to_le_bytes());
    slot[24..32].copy_from_slice(&mark.high.0.to_le_bytes());
    slot[32..40].copy_from_slice(&mark.sent.0.to_le_bytes());
    if let Some(Extent { directory, .. }) = mark.extent {
        slot[12..16].copy_from_slice(&directory.tag().to_le_bytes());
    }
    let checksum = blake3::hash(&slot[..BODY]);
    slot[BODY..LENGTH].copy_from_slice(&checksum.as_bytes()[..16]);
    if let Some(head) = &mark.head {
        let length = mark.extent.map_or(0, |extent| extent.length);
        slot[LENGTH..FIRST].copy_from_slice(&length.to_le_bytes());
        slot[FIRST..HASHED].copy_from_slice(head);
        let checksum = blake3::hash(&slot[..HASHED]);
        slot[HASHED..].copy_from_slice(&checksum.as_bytes()[..16]);
    }
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<Watermark> {
    let (body, rest) = slot.split_at(BODY);
    let valid = body.starts_with(MAGIC) && rest.starts_with(&blake3::hash(body).as_bytes()[..16]);
    let (hashed, checksum) = slot.split_at(HASHED);
    let head = blake3::hash(hashed).as_bytes().starts_with(checksum).then(|| std::array::from_fn(|i| slot[FIRST + i]));
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| slot[at + index]));
    let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| slot[at + index]));
    let extent = || Some(Extent { directory: Generation::tagged(short(12))?, length: number(LENGTH) });
    valid.then(|| Watermark {
        format: short(8),
        generation: number(16),
        high: Seq(number(24)),
        sent: Seq(number(32)),
        head,
        extent: head.and_then(|_| extent()),
    })
}

/// The newest valid slot; `None` if the file is missing, or torn in both.
pub(in crate::journal) fn read(state_dir: &StateDir) -> Result<Option<Watermark>, FileError> {
    read_file(&state_dir.join(FILE))
        .map_err(FileError::at("reading the journal's side file journal.mark in", state_dir.path()))
}

fn read_file(path: &Path) -> io::Result<Option<Watermark>> {
    let file = match regular_file::read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest: Option<Watermark> = None;
    for at in SLOTS {
        let mut slot = [0; SLOT];
        // The last slot of format 1 is shorter.
        match file.read_exact_at(&mut slot[..FIRST], at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(error),
        }
        match file.read_exact_at(&mut slot[FIRST..], at + FIRST as u64) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Some(mark) = decode(&slot)
            && newest.is_none_or(|newest| newest.generation < mark.generation)
        {
            newest = Some(mark);
        }
    }
    Ok(newest)
}

fn writing(state_dir: &StateDir) -> impl FnOnce(io::Error) -> FileError {
    FileError::at("writing the journal's side file journal.mark in", state_dir.path())
}

/// The side file of a running journal.
#[derive(Debug)]
pub(in crate::journal) struct WatermarkFile {
    file: File,
    mark: Watermark,
}

impl WatermarkFile {
    /// Opens or creates it, and writes how far the journal has come: `extent` belongs to `high`.
    pub(in crate::journal) fn open(
        state_dir: &StateDir,
        known: Option<Watermark>,
        high: Seq,
        head: Option<Hash>,
        extent: Option<Extent>,
    ) -> Result<Self, FileError> {
        let (generation, sent) = known.map_or((0, Seq(0)), |known| (known.generation, known.sent));
        let mark = Watermark { format: versions::CURRENT_FORMAT, generation, high, sent: sent.min(high), head, extent };
        Self::create(state_dir, mark).map_err(writing(state_dir))
    }

    /// Like [`WatermarkFile::open`], but durably.
    pub(in crate::journal) fn write_durably(
        state_dir: &StateDir,
        known: Option<Watermark>,
        high: Seq,
        head: Option<Hash>,
        extent: Option<Extent>,
    ) -> Result<(), FileError> {
        Self::open(state_dir, known, high, head, extent)?.file.sync_all().map_err(writing(state_dir))
    }

    fn create(state_dir: &StateDir, mark: Watermark) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let created = !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = regular_file::open(&path, &mut options)?;
        let mut side = Self { file, mark };
        side.write()?;
        if created {
            side.file.sync_all()?;
            sync_dir(state_dir.path())?;
        }
        Ok(side)
    }

    pub(in crate::journal) fn set_high(&mut self, high: Seq, head: Hash, extent: Option<Extent>) -> io::Result<()> {
        self.mark.high = high;
        self.mark.head = Some(head);
        self.mark.extent = extent;
        self.write()
    }

    /// Never goes back.
    pub(in crate::journal) fn set_sent(&mut self, sent: Seq) -> io::Result<()> {
        if sent <= self.mark.sent {
            return Ok(());
        }
        self.mark.sent = sent;
        self.write()
    }

    pub(in crate::journal) fn set_sent_durably(&mut self, state_dir: &StateDir, sent: Seq) -> Result<(), FileError> {
        self.set_sent(sent).and_then(|()| self.file.sync_all()).map_err(writing(state_dir))
    }

    fn write(&mut self) -> io::Result<()> {
        // The largest number would be an impossible generation, not written by us.
        self.mark.generation = self.mark.generation.saturating_add(1);
        let slot = usize::from(self.mark.generation.is_multiple_of(2));
        self.file.write_all_at(&encode(&self.mark), SLOTS[slot])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        assert_eq!(read(&state_dir).unwrap(), None);
        let mut side = WatermarkFile::open(&state_dir, None, Seq(0), None, None).unwrap();
        for high in 1..=5 {
            side.set_high(Seq(high), [7; 32], None).unwrap();
        }
        side.set_sent(Seq(4)).unwrap();
        side.set_sent(Seq(3)).unwrap();
        let mark = read(&state_dir).unwrap().unwrap();
        assert_eq!((mark.high, mark.sent, mark.format), (Seq(5), Seq(4), versions::CURRENT_FORMAT));
        assert_eq!(mark.head, Some([7; 32]));
    }

    #[test]
    fn a_file_that_was_longer_is_noticed_in_its_own_directory_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        let journal = |name: &str, length| {
            let journal = dir.path().join(name);
            std::fs::create_dir_all(&journal).unwrap();
            File::create(main_file(&journal)).unwrap().set_len(length).unwrap();
            journal
        };
        let (first, second) = (journal("journal", 5000), journal("journal.2", 100));
        let mut side = WatermarkFile::open(&state_dir, None, Seq(0), None, None).unwrap();
        assert_eq!(read(&state_dir).unwrap().unwrap().cut_off(&first).unwrap(), 0, "nothing is known");
        side.set_high(Seq(1), [1; 32], Extent::of(&first).unwrap()).unwrap();
        let mark = read(&state_dir).unwrap().unwrap();
        for (length, missing) in [(6000, 0), (5000, 0), (4999, 1), (0, 5000)] {
            assert_eq!(mark.cut_off(&journal("journal", length)).unwrap(), missing);
        }
        assert_eq!(mark.cut_off(&second).unwrap(), 0, "another journal");
        assert_eq!(mark.cut_off(&dir.path().join("journal.3")).unwrap(), 0);
        std::fs::remove_file(main_file(&first)).unwrap();
        assert_eq!(mark.cut_off(&first).unwrap(), 0);
        // A slot of format 1 ends before the length.
        OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap().set_len(512 + 64).unwrap();
        assert_eq!(read(&state_dir).unwrap().unwrap().extent, None);
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path());
        let mut side = WatermarkFile::open(&state_dir, None, Seq(0), None, None).unwrap();
        side.set_high(Seq(1), [1; 32], None).unwrap();
        side.set_high(Seq(2), [2; 32], None).unwrap();
        let newest = SLOTS[usize::from(side.mark.generation.is_multiple_of(2))];
        for cut in 0..BODY as u64 + 16 {
            let torn = dir.path().join("torn");
            std::fs::create_dir_all(&torn).unwrap();
            std::fs::copy(dir.path().join(FILE), torn.join(FILE)).unwrap();
            let file = OpenOptions::new().write(true).open(torn.join(FILE)).unwrap();
            file.write_all_at(&[0xa5], newest + cut).unwrap();
            assert_eq!(read_file(&torn.join(FILE)).unwrap().unwrap().high, Seq(1), "byte {cut}");
        }
        let file = OpenOptions::new().write(true).open(dir.path().join(FILE)).unwrap();
        file.set_len(17).unwrap();
        assert_eq!(read(&state_dir).unwrap(), None);
    }
}

//! What a power cut leaves of a directory: what was synced for certain, of the rest anything.
//!
//! A write is certain once an fsync or fdatasync of its file, entered after it had returned, has returned itself. Of
//! every other write each sector of 512 bytes is there or not, by chance. Names are certain once their directory was synced; of
//! the changes after that, the first so many are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::trace::{Call, What};
use crate::random::Random;

const SECTOR: usize = 512;

/// A change to one file: entered, left, and what.
enum Change<'a> {
    Write { at: usize, data: &'a [u8] },
    Length(usize),
}

#[derive(Default)]
struct File<'a> {
    changes: Vec<(usize, usize, Change<'a>)>,
    /// As the process sees it.
    length: usize,
    /// Syncs that returned: entered.
    synced: Option<usize>,
}

enum Naming {
    Link(PathBuf, usize),
    Directory(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl Naming {
    /// The directory that this is a change of. Renames here stay in one directory.
    fn directory(&self) -> &Path {
        let (Self::Link(path, _) | Self::Directory(path) | Self::Rename(_, path) | Self::Unlink(path)) = self;
        path.parent().expect("below the root")
    }
}

/// Writes to `image` what may be left below `root` after a power cut at line `cut` of the trace.
pub fn leave(calls: &[Call], root: &Path, cut: usize, random: &mut Random, image: &Path) {
    let mut files: Vec<File<'_>> = Vec::new();
    let mut live: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut namings: Vec<(usize, Naming)> = Vec::new();
    let mut synced_dirs: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for Call { entered, left, what } in calls.iter().filter(|call| call.entered < cut) {
        let returned = *left < cut;
        match what {
            What::Create { path, truncate } if path.starts_with(root) => {
                let id = *live.entry(path.clone()).or_insert_with(|| {
                    files.push(File::default());
                    namings.push((*left, Naming::Link(path.clone(), files.len() - 1)));
                    files.len() - 1
                });
                if *truncate {
                    files[id].length = 0;
                    files[id].changes.push((*entered, *left, Change::Length(0)));
                }
            }
            What::MakeDir { path } if path.starts_with(root) => {
                namings.push((*left, Naming::Directory(path.clone())));
            }
            What::Write { path, at, data } => {
                let Some(file) = live.get(path).map(|id| &mut files[*id]) else { continue };
                let at = at.map_or(file.length, |at| at as usize);
                file.length = file.length.max(at + data.len());
                file.changes.push((*entered, *left, Change::Write { at, data }));
            }
            What::Truncate { path, length } => {
                let Some(file) = live.get(path).map(|id| &mut files[*id]) else { continue };
                file.length = *length as usize;
                file.changes.push((*entered, *left, Change::Length(file.length)));
            }
            What::Sync { path } if returned => match live.get(path) {
                Some(id) => files[*id].synced = files[*id].synced.max(Some(*entered)),
                None => {
                    synced_dirs.insert(path.clone(), *entered);
                }
            },
            What::Rename { from, to } => {
                if let Some(id) = live.remove(from) {
                    live.insert(to.clone(), id);
                    namings.push((*left, Naming::Rename(from.clone(), to.clone())));
                }
            }
            What::Unlink { path } => {
                if live.remove(path).is_some() {
                    namings.push((*left, Naming::Unlink(path.clone())));
                }
            }
            What::RemoveDir { path } if path.starts_with(root) => {
                namings.push((*left, Naming::Unlink(path.clone())));
            }
            What::Create { .. }
            | What::MakeDir { .. }
            | What::RemoveDir { .. }
            | What::Sync { .. }
            | What::Sent { .. } => {}
        }
    }
    for (path, id) in names(&namings, &synced_dirs, random) {
        let to = image.join(path.strip_prefix(root).expect("only what is below the root has a name"));
        match id {
            None => fs::create_dir_all(to).unwrap(),
            // In a directory that is lost itself.
            Some(_) if !to.parent().expect("it has a directory").is_dir() => {}
            Some(id) => fs::write(to, content(&files[id], random)).unwrap(),
        }
    }
}

/// The names that are left: files by number, directories without.
fn names(
    namings: &[(usize, Naming)],
    synced: &BTreeMap<PathBuf, usize>,
    random: &mut Random,
) -> BTreeMap<PathBuf, Option<usize>> {
    let mut pending: BTreeMap<&Path, usize> = BTreeMap::new();
    let certain = |left: usize, naming: &Naming| synced.get(naming.directory()).is_some_and(|at| left < *at);
    for (left, naming) in namings {
        if !certain(*left, naming) {
            *pending.entry(naming.directory()).or_default() += 1;
        }
    }
    for count in pending.values_mut() {
        *count = random.index(*count + 1);
    }
    let mut names = BTreeMap::new();
    for (left, naming) in namings {
        if !certain(*left, naming) {
            let kept = pending.get_mut(naming.directory()).expect("counted above");
            if *kept == 0 {
                continue;
            }
            *kept -= 1;
        }
        match naming {
            Naming::Link(path, id) => {
                names.insert(path.clone(), Some(*id));
            }
            Naming::Directory(path) => {
                names.insert(path.clone(), None);
            }
            Naming::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Naming::Unlink(path) => {
                names.remove(path);
            }
        }
    }
    names
}

fn content(file: &File<'_>, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for (_, left, change) in &file.changes {
        let certain = file.synced.is_some_and(|at| *left < at);
        // Whole, not at all, or in part.
        let fate = if certain { 0 } else { random.index(3) };
        match change {
            Change::Length(length) if fate != 1 => bytes.resize(*length, 0),
            Change::Write { at, data } if fate != 1 => {
                let mut from = 0;
                while from < data.len() {
                    // Sectors of the file, not of the write.
                    let to = data.len().min(from + SECTOR - (at + from) % SECTOR);
                    if fate == 0 || random.index(2) == 0 {
                        if bytes.len() < at + to {
                            bytes.resize(at + to, 0);
                        }
                        bytes[at + from..at + to].copy_from_slice(&data[from..to]);
                    }
                    from = to;
                }
            }
            Change::Length(_) | Change::Write { .. } => {}
        }
    }
    bytes
}

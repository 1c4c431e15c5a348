//! Tests on copies whether the journal opens, and what opening would destroy.
//!
//! Opening writes. sled 0.34 ends its log at a tear, zeroes the rest of that segment and every segment in which it
//! found no page, and replaces the snapshot. In an intact journal this removes nothing that is needed. In a damaged one
//! it may remove what a salvage could have read by opening the files in another way, and the next open may find less
//! than this one did. This happened only with truncated files, which lack pages that later ones depend on. A file that
//! is shorter than the side file says is therefore opened in place only when copies have shown that nothing is lost by
//! it.

use std::path::Path;

use super::attempt::{Failure, ReadDepth, Usable, attempt};
use super::copy::{COPY, copy_dir};
use super::error::OpenError;
use super::options::Options;
use super::sources::Sources;
use crate::api::ids::Seq;
use crate::crash_point;
use crate::journal::store::files::{StateDir, remove_dir};
use crate::journal::store::location;
use crate::journal::tree::verify;

/// Whether a copy of the journal opens.
pub(super) fn opens(state_dir: &StateDir, options: &Options, sent: Seq, depth: ReadDepth) -> Result<bool, OpenError> {
    let copy = state_dir.join(format!("{COPY}probe"));
    let opened = attempt_on_copy(&location::current(state_dir)?.dir(state_dir), &copy, options, sent, depth)?;
    let opens = opened.is_some();
    abandon(opened);
    remove_dir(&copy)?;
    Ok(opens)
}

/// Whether opening in place loses nothing readable: everything is readable and consistent, also after a second open,
/// and a salvage would not recover newer entries. `high`: how far the journal had come.
pub(super) fn loses_nothing(state_dir: &StateDir, options: &Options, sent: Seq, high: Seq) -> Result<bool, OpenError> {
    let journal = location::current(state_dir)?.dir(state_dir);
    let (copy, again) = (state_dir.join(format!("{COPY}probe")), state_dir.join(format!("{COPY}again")));
    let once = whole(attempt_on_copy(&journal, &copy, options, sent, ReadDepth::Everything)?, &journal)?;
    crash_point!("during_probe");
    let twice = match &once {
        Some(_) => whole(attempt_on_copy(&copy, &again, options, sent, ReadDepth::Everything)?, &journal)?,
        None => None,
    };
    let last = |usable: &Option<Usable>| usable.as_ref().map(|usable| usable.recovered.last);
    let (found, found_again) = (last(&once), last(&twice));
    abandon(once);
    abandon(twice);
    remove_dir(&copy)?;
    remove_dir(&again)?;
    match found {
        // sled treats it as an empty database: its index is gone, and opening would overwrite everything that is left.
        Some(Seq(0)) if high > Seq(0) => Ok(false),
        Some(found) if found_again == Some(found) => {
            Ok(found >= high || Sources::open(&journal, state_dir, options)?.newest()? <= found)
        }
        Some(_) | None => Ok(false),
    }
}

/// Copies `from` to `to` and opens that; `None`: it is damaged.
fn attempt_on_copy(
    from: &Path,
    to: &Path,
    options: &Options,
    sent: Seq,
    depth: ReadDepth,
) -> Result<Option<Usable>, OpenError> {
    remove_dir(to)?;
    copy_dir(from, to, &|_| true)?;
    match attempt(to, options, sent, depth) {
        Ok(usable) => Ok(Some(usable)),
        Err(Failure::Damage(_)) => Ok(None),
        Err(Failure::Other(error)) => Err(error),
    }
}

/// Only if nothing is wrong with it.
fn whole(opened: Option<Usable>, journal: &Path) -> Result<Option<Usable>, OpenError> {
    let Some(usable) = opened else { return Ok(None) };
    let report = verify::verify(&usable.database, None, None).map_err(|error| OpenError::read(journal, error))?;
    if report.problems.is_empty() {
        return Ok(Some(usable));
    }
    abandon(Some(usable));
    Ok(None)
}

fn abandon(opened: Option<Usable>) {
    if let Some(usable) = opened {
        usable.database.abandon();
    }
}

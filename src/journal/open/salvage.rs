//! Turns a damaged journal into a new one with everything readable.
//!
//! The damaged directory is only copied and renamed here; for what opening does to it see [`super::probe`]. An
//! interrupted salvage leaves either the directory as it was (the next start repeats it) or a finished
//! `journal.rebuilt-…` (the next start puts it in place):
//!
//! ```text
//! journal ──copy──► journal.copy-* ──read──► journal.rebuilding ──rename, when complete──► journal.rebuilt-T
//! journal ──rename──► journal.damaged-T
//! journal.rebuilt-T ──rename──► journal
//! ```
//!
//! Entries keep their numbers. The indexes are rebuilt from them by the code that makes them in a commit; only the
//! records that sum history up (agent, desired state, nodes, unfinished requests) are taken as they are. A request
//! whose outcome is lost gets one that says so, so that its requester does not wait forever (P3).

use super::clock;
use super::copy::COPY;
use super::database_format;
use super::error::OpenError;
use super::options::Options;
use super::rebuild::{JournalAge, Rebuild, RebuildError};
use super::sources::Sources;
use crate::api::ids::Seq;
use crate::api::report::chain;
use crate::crash_point;
use crate::journal::store::database::Database;
use crate::journal::store::files::{self, FileError, StateDir};
use crate::journal::store::location;
use crate::journal::tree::batch::BatchError;
use crate::journal::tree::rows;
use crate::journal::tree::storage_error::StorageError;

const REBUILDING: &str = "journal.rebuilding";
const REBUILT: &str = "journal.rebuilt-";
const DAMAGED: &str = "journal.damaged-";

/// Cleans up after a salvage or an inspection that was killed, and puts a finished journal in place; returns whether
/// there was one.
pub(super) fn finish_interrupted(state_dir: &StateDir) -> Result<bool, OpenError> {
    let mut finished = false;
    for (name, path) in state_dir.list()? {
        if name.starts_with(COPY) || name == REBUILDING {
            files::remove_dir(&path)?;
        } else if let Some(tag) = name.strip_prefix(REBUILT) {
            put_in_place(state_dir, tag)?;
            finished = true;
        }
    }
    Ok(finished)
}

fn put_in_place(state_dir: &StateDir, tag: &str) -> Result<(), OpenError> {
    let dir = location::current(state_dir)?.dir(state_dir);
    let rebuilt = state_dir.join(format!("{REBUILT}{tag}"));
    let aside = state_dir.join(format!("{DAMAGED}{tag}"));
    if dir.exists() && !aside.exists() {
        state_dir.rename("setting aside", &dir, &aside)?;
        crash_point!("during_salvage_swap");
    }
    Ok(state_dir.rename("putting in place", &rebuilt, &dir)?)
}

/// Builds a new journal from what is readable and replaces the damaged one with it. `high`: how far it had come, if
/// known.
pub(super) fn salvage(state_dir: &StateDir, options: &Options, high: Seq, age: JournalAge) -> Result<(), OpenError> {
    let current = location::current(state_dir)?;
    let damaged = current.dir(state_dir);
    if location::is_apart(state_dir, &damaged).map_err(OpenError::io("looking at", &damaged))? {
        return Err(OpenError::Apart { dir: damaged.display().to_string(), name: current.name() });
    }
    let sources = Sources::open(&damaged, state_dir, options)?;
    let rebuilding = state_dir.join(REBUILDING);
    files::remove_dir(&rebuilding)?;
    files::create_dir(&rebuilding)?;
    let failed = |error| OpenError::storage(&rebuilding, error);
    let database = Database::open(&rebuilding, options.store()).map_err(failed)?;
    database_format::write(&database).map_err(failed)?;

    let tag = tag(state_dir);
    let aside = state_dir.join(format!("{DAMAGED}{tag}"));
    let mut rebuild = Rebuild::new(&sources, &database);
    let missing = rebuild.run(&aside, high, age).map_err(|error| match error {
        RebuildError::Batch(BatchError::Read(source)) => OpenError::read(&damaged, source),
        RebuildError::Batch(BatchError::Encode(source)) => failed(StorageError::Store(chain(&source))),
        RebuildError::Storage(source) => failed(source),
    })?;
    let summary = rows::recovery_summary(rebuild.recovered, &missing);
    drop(database);
    crash_point!("during_salvage");
    files::sync_dir(&rebuilding).map_err(FileError::at("syncing", &rebuilding))?;
    state_dir.rename("completing", &rebuilding, &state_dir.join(format!("{REBUILT}{tag}")))?;
    crash_point!("after_salvage_built");
    put_in_place(state_dir, &tag)?;
    tracing::error!(aside = %aside.display(), "the damaged journal was set aside; {summary}");
    sources.discard()
}

/// A time and a number under which nothing was moved aside yet.
fn tag(state_dir: &StateDir) -> String {
    let stamp = jiff::Timestamp::from_microsecond(i64::try_from(clock::now().0).unwrap_or(i64::MAX))
        .map_or_else(|_| clock::now().0.to_string(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string());
    (1u32..)
        .map(|number| format!("{stamp}-{number}"))
        .find(|tag| !state_dir.join(format!("{DAMAGED}{tag}")).exists())
        .expect("a directory has fewer entries than there are numbers")
}

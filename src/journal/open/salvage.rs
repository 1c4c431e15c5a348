//! A damaged journal to a new one with all that reads.
//!
//! The damaged directory is only ever copied and renamed here; for what an open does to it see [`super::probe`]. A salvage
//! that is interrupted leaves either the directory as it was (the next start begins anew) or a finished
//! `journal.rebuilt-…` (the next start puts it in place):
//!
//! ```text
//! journal ──copy──► journal.copy-* ──read──► journal.rebuilding ──rename, when complete──► journal.rebuilt-T
//! journal ──rename──► journal.damaged-T
//! journal.rebuilt-T ──rename──► journal
//! ```
//!
//! Entries keep their numbers. The indexes are made anew from them by the code that makes them in a commit; only the
//! records that sum history up (agent, desired state, nodes, unfinished requests) are taken as they are. A request
//! whose outcome is lost gets one that says so, lest its requester waits for ever (P3).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::opening::{self, OpenError, Options};
use crate::api::event::{Request, Response, Result as ApiResult, ResultData};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::api::report::chain;
use crate::api::time::Timestamp;
use crate::crash_point;
use crate::journal::format::entry::{
    AgentRecord, Answer, DesiredRecord, Entry, NodeRecord, Numbered, Outcome, Packed, Record, Stage, UnfinishedRecord,
    WantChange,
};
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::{
    self,
    records::{HistoryRecord, OutcomeRecord, ReqidRecord, Stored},
};
use crate::journal::store::database::{self, Database, StorageError};
use crate::journal::store::location;
use crate::journal::tree::batch::{self, BatchError, Builder, State};
use crate::journal::tree::recover;
use crate::journal::tree::rows;
use crate::journal::tree::table::{ReadError, Table, Whole};

pub(in crate::journal) const COPY: &str = "journal.copy-";
const REBUILDING: &str = "journal.rebuilding";
const REBUILT: &str = "journal.rebuilt-";
const DAMAGED: &str = "journal.damaged-";

/// Entries in a batch of the new journal.
const BATCH: usize = 256;

/// What the requester of a request is told whose outcome is lost.
const LOST: &str = "the outcome of this request was lost when the agent's journal was damaged";

/// Where no end is known, looking stops after so many numbers without an entry.
const GAP: u64 = 4096;

/// The wall clock. Entries of the core bring their own time; these are written before there is a core.
pub(in crate::journal) fn now() -> Timestamp {
    let since = crate::crash_points::wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Writes one entry outside of a commit.
pub(in crate::journal) fn append(
    database: &Database,
    state: &mut State,
    numbered: &Numbered,
) -> Result<(), StorageError> {
    let mut batch = Builder::new(state);
    let writes =
        batch.entry(numbered).and_then(|()| batch.finish()).map_err(|error| StorageError::Store(chain(&error)))?;
    database.write(writes)
}

/// Clears up after a salvage or an inspection that was killed, and puts a finished journal in place: whether there was one.
pub(in crate::journal) fn finish_interrupted(state_dir: &Path) -> Result<bool, OpenError> {
    let mut finished = false;
    let listing = || OpenError::io("listing", state_dir);
    for entry in fs::read_dir(state_dir).map_err(listing())? {
        let entry = entry.map_err(listing())?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(COPY) || name == REBUILDING {
            remove(&entry.path())?;
        } else if let Some(tag) = name.strip_prefix(REBUILT) {
            put_in_place(state_dir, tag)?;
            finished = true;
        }
    }
    Ok(finished)
}

pub(in crate::journal) fn remove(dir: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::io("removing", dir)(error)),
        _ => Ok(()),
    }
}

fn put_in_place(state_dir: &Path, tag: &str) -> Result<(), OpenError> {
    let dir = location::current(state_dir)?.dir(state_dir);
    let rebuilt = state_dir.join(format!("{REBUILT}{tag}"));
    let aside = state_dir.join(format!("{DAMAGED}{tag}"));
    let sync = || database::sync_dir(state_dir).map_err(OpenError::io("syncing", state_dir));
    if dir.exists() && !aside.exists() {
        fs::rename(&dir, &aside).map_err(OpenError::io("setting aside", &dir))?;
        sync()?;
        crash_point!("during_salvage_swap");
    }
    fs::rename(&rebuilt, &dir).map_err(OpenError::io("putting in place", &rebuilt))?;
    sync()
}

/// Copies a journal's directory, or leaves nothing. `with` says which files.
pub(in crate::journal) fn copy_dir(from: &Path, to: &Path, with: &impl Fn(&Path) -> bool) -> Result<(), OpenError> {
    copy_files(from, to, with).inspect_err(|_| {
        if let Err(error) = remove(to) {
            tracing::warn!(error = %chain(&error), "an unfinished copy of the journal is removed by the next start");
        }
    })
}

fn copy_files(from: &Path, to: &Path, with: &impl Fn(&Path) -> bool) -> Result<(), OpenError> {
    DirBuilder::new().mode(0o700).create(to).map_err(OpenError::io("creating", to))?;
    for entry in fs::read_dir(from).map_err(OpenError::io("listing", from))? {
        let entry = entry.map_err(OpenError::io("listing", from))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(OpenError::io("looking at", &path))?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_files(&path, &target, with)?;
        } else if with(&path) {
            fs::copy(&path, &target).map_err(OpenError::io("copying", &path))?;
        }
    }
    Ok(())
}

/// Builds a new journal of what reads and puts it in the place of the damaged one. `high`: how far it had come, if that
/// is known. `is_new`: nothing was ever durable in it; then that nothing reads is no loss, and no entry says so.
pub(in crate::journal) fn salvage(
    state_dir: &Path,
    options: &Options,
    high: Seq,
    is_new: bool,
) -> Result<(), OpenError> {
    let current = location::current(state_dir)?;
    let damaged = current.dir(state_dir);
    if location::is_apart(state_dir, &damaged).map_err(OpenError::io("looking at", &damaged))? {
        return Err(OpenError::Apart { dir: damaged.display().to_string(), name: current.name() });
    }
    let sources = Sources::open(&damaged, state_dir, options)?;
    let rebuilding = state_dir.join(REBUILDING);
    remove(&rebuilding)?;
    DirBuilder::new().mode(0o700).create(&rebuilding).map_err(OpenError::io("creating", &rebuilding))?;
    let failed = |error| OpenError::storage(&rebuilding, error);
    let database = Database::open(&rebuilding, options.store()).map_err(failed)?;
    opening::write_format(&database).map_err(failed)?;

    let tag = tag(state_dir);
    let aside = state_dir.join(format!("{DAMAGED}{tag}"));
    let mut rebuild = Rebuild {
        sources: &sources,
        target: &database,
        state: State::default(),
        recovered: 0,
        older: None,
        sum: Sum::default(),
        has_lost_records: false,
    };
    let missing = rebuild.run(&aside, high, is_new).map_err(|error| match error {
        RebuildError::Batch(BatchError::Read(source)) => OpenError::read(&damaged, source),
        RebuildError::Batch(BatchError::Encode(source)) => failed(StorageError::Store(chain(&source))),
        RebuildError::Storage(source) => failed(source),
    })?;
    let summary = rows::recovery_summary(rebuild.recovered, &missing);
    drop(database);
    crash_point!("during_salvage");
    database::sync_dir(&rebuilding).map_err(OpenError::io("syncing", &rebuilding))?;
    let rebuilt = state_dir.join(format!("{REBUILT}{tag}"));
    fs::rename(&rebuilding, &rebuilt).map_err(OpenError::io("completing", &rebuilding))?;
    database::sync_dir(state_dir).map_err(OpenError::io("syncing", state_dir))?;
    crash_point!("after_salvage_built");
    put_in_place(state_dir, &tag)?;
    tracing::error!(aside = %aside.display(), "the damaged journal was set aside; {summary}");
    sources.discard()
}

/// A time and a number under which nothing is set aside yet.
fn tag(state_dir: &Path) -> String {
    let stamp = jiff::Timestamp::from_microsecond(i64::try_from(now().0).unwrap_or(i64::MAX))
        .map_or_else(|_| now().0.to_string(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string());
    (1u32..)
        .map(|number| format!("{stamp}-{number}"))
        .find(|tag| !state_dir.join(format!("{DAMAGED}{tag}")).exists())
        .expect("a directory has fewer entries than there are numbers")
}

/// Copies of the damaged journal that open, each in another way. Where one does not read, the next may.
pub(in crate::journal) struct Sources {
    databases: Vec<Database>,
    dirs: Vec<PathBuf>,
}

impl Sources {
    pub(in crate::journal) fn open(damaged: &Path, state_dir: &Path, options: &Options) -> Result<Self, OpenError> {
        let mut sources = Self { databases: Vec::new(), dirs: Vec::new() };
        let snapshots = database::snapshots(damaged).map_err(OpenError::io("listing", damaged))?;
        let settings = database::settings_file(damaged);
        sources.add(damaged, state_dir, "whole", options, &|_| true)?;
        if !snapshots.is_empty() {
            sources
                .add(damaged, state_dir, "log", options, &|path| !snapshots.iter().any(|snapshot| snapshot == path))?;
        }
        if sources.databases.is_empty() {
            let wanted = |path: &Path| path != settings && !snapshots.iter().any(|snapshot| snapshot == path);
            sources.add(damaged, state_dir, "bare", options, &wanted)?;
        }
        Ok(sources)
    }

    fn add(
        &mut self,
        damaged: &Path,
        state_dir: &Path,
        name: &str,
        options: &Options,
        with: &impl Fn(&Path) -> bool,
    ) -> Result<(), OpenError> {
        let dir = state_dir.join(format!("{COPY}{name}"));
        remove(&dir)?;
        copy_dir(damaged, &dir, with)?;
        database::remove_unfinished_snapshots(&dir).map_err(OpenError::io("clearing up in", &dir))?;
        match Database::open(&dir, options.store()) {
            Ok(database) => self.databases.push(database),
            // A copy of a damaged file that keeps the store busy for ever is as unreadable as one that fails.
            Err(error) if error.is_damage() || matches!(error, StorageError::Timeout(_)) => {
                tracing::warn!(copy = name, error = %chain(&error), "this copy of the damaged journal does not open");
            }
            Err(error) => return Err(OpenError::storage(&dir, error)),
        }
        self.dirs.push(dir);
        Ok(())
    }

    /// The newest format that a copy is of.
    pub(in crate::journal) fn format(&self) -> u32 {
        self.databases.iter().filter_map(|database| recover::format(database).ok().flatten()).max().unwrap_or_default()
    }

    /// The oldest entry that retention has left.
    pub(in crate::journal) fn first(&self) -> Result<Seq, ReadError> {
        Ok(match self.record::<HistoryRecord>(keys::HISTORY)? {
            Found::Record(history) => history.first,
            Found::Absent | Found::Unreadable => HistoryRecord::default().first,
        })
    }

    /// Hands every entry that reads to `each`, from `first` on. Returns the ranges of numbers between them that do not,
    /// and the newest entry of which there is a sign.
    pub(in crate::journal) fn each_entry<E: From<ReadError>>(
        &self,
        first: Seq,
        high: Seq,
        mut each: impl FnMut(Whole) -> Result<(), E>,
    ) -> Result<(Vec<(Seq, Seq)>, Seq), E> {
        let mut last = self.last(high);
        let mut missing: Vec<(Seq, Seq)> = Vec::new();
        let mut seq = first;
        while seq.0 <= last.0.saturating_add(GAP) {
            if let Some(whole) = self.entry(seq)? {
                // What was taken to lie behind the end was not: those between are missing as well.
                if seq > last.next() {
                    missing.push((last.next(), Seq(seq.0 - 1)));
                }
                last = last.max(seq);
                each(whole)?;
            } else if seq <= last {
                match missing.last_mut() {
                    Some((_, end)) if end.next() == seq => *end = seq,
                    _ => missing.push((seq, seq)),
                }
            }
            seq = seq.next();
        }
        Ok((missing, last))
    }

    /// The newest incarnation of which there is a record.
    pub(in crate::journal) fn newest_incarnation(&self) -> Result<Incarnation, ReadError> {
        let mut newest = match self.record::<AgentRecord>(keys::AGENT)? {
            Found::Record(agent) => agent.newest_gone,
            Found::Absent | Found::Unreadable => Incarnation::default(),
        };
        for key in self.keys(Family::Node) {
            if let Found::Record(node) = self.record::<NodeRecord>(&key)? {
                newest = newest.max(node.incarnation);
            }
        }
        Ok(newest)
    }

    /// Keeps the reqids of requests that are lost and whose outcome is not: they are still answered from it.
    pub(in crate::journal) fn keep_lost_requests(
        &self,
        target: &Database,
        state: &mut State,
    ) -> Result<(), RebuildError> {
        for key in self.keys(Family::Reqid) {
            if target.get(&key)?.is_some() {
                continue;
            }
            let Found::Record(record) = self.record::<ReqidRecord>(&key)? else { continue };
            if target.record::<OutcomeRecord>(&keys::outcome(record.seq))?.is_some() {
                let mut batch = Builder::new(state);
                batch.record(key, &record)?;
                target.write(batch.finish()?)?;
            }
        }
        Ok(())
    }

    fn entry(&self, seq: Seq) -> Result<Option<Whole>, ReadError> {
        for database in &self.databases {
            let read = database.get(&keys::entry(seq)).and_then(|value| match value {
                Some(value) => database.read_entry(seq, &value).map(Some),
                None => Ok(None),
            });
            match read {
                Ok(Some(whole)) => return Ok(Some(whole)),
                Ok(None) => {}
                Err(error) => only_damage(error)?,
            }
        }
        Ok(None)
    }

    fn record<T: Stored>(&self, key: &[u8]) -> Result<Found<T>, ReadError> {
        let mut unreadable = false;
        for database in &self.databases {
            match database.record(key) {
                Ok(Some(record)) => return Ok(Found::Record(record)),
                // The later copies are of the same log: what the first reads as absent is so.
                Ok(None) => return Ok(Found::Absent),
                Err(error) => only_damage(error)?,
            }
            unreadable = true;
        }
        Ok(if unreadable { Found::Unreadable } else { Found::Absent })
    }

    /// The keys of a family, from each copy and from both ends as far as they read.
    fn keys(&self, family: Family) -> BTreeSet<Vec<u8>> {
        let mut keys = BTreeSet::new();
        for database in &self.databases {
            keys.extend(database.range(family.range()).map_while(Result::ok).map(|(key, _)| key));
            let back = database.range(family.range()).rev().map_while(Result::ok).map(|(key, _)| key);
            for key in back {
                if !keys.insert(key) {
                    break;
                }
            }
        }
        keys
    }

    /// The newest entry of which there is a sign.
    fn last(&self, high: Seq) -> Seq {
        let plausible =
            |seq: Seq| seq.0 <= high.0.saturating_add(GAP) || self.entry(seq).is_ok_and(|entry| entry.is_some());
        self.databases
            .iter()
            .filter_map(|database| database.last().ok())
            .filter(|seq| plausible(*seq))
            .max()
            .unwrap_or_default()
            .max(high)
    }

    /// The newest entry that reads, then nothing of this is needed any more.
    pub(in crate::journal) fn newest(self) -> Result<Seq, OpenError> {
        let newest = self.databases.iter().filter_map(|database| database.last().ok());
        let newest = newest.filter(|seq| self.entry(*seq).is_ok_and(|entry| entry.is_some())).max();
        self.discard()?;
        Ok(newest.unwrap_or_default())
    }

    pub(in crate::journal) fn discard(mut self) -> Result<(), OpenError> {
        self.abandon();
        self.dirs.iter().try_for_each(|dir| remove(dir))
    }

    fn abandon(&mut self) {
        self.databases.drain(..).for_each(Database::abandon);
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Lets a salvage carry on past damage, and past nothing else: what a device does not deliver now it may deliver later,
/// and what a newer release wrote is never dropped.
fn only_damage(error: ReadError) -> Result<(), ReadError> {
    if error.is_damage() { Ok(()) } else { Err(error) }
}

enum Found<T> {
    Record(T),
    Absent,
    Unreadable,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::journal) enum RebuildError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ReadError> for RebuildError {
    fn from(error: ReadError) -> Self {
        Self::Batch(BatchError::Read(error))
    }
}

impl From<crate::journal::format::codec::EncodeError> for RebuildError {
    fn from(error: crate::journal::format::codec::EncodeError) -> Self {
        Self::Batch(BatchError::Encode(error))
    }
}

/// A request that the entries so far leave without an outcome.
pub(in crate::journal) struct Pending {
    pub(in crate::journal) reqid: ReqId,
    pub(in crate::journal) request: Request,
    pub(in crate::journal) attempts: u32,
}

/// What the entries tell of the records that sum them up: enough to see that one is missing, or was written over since.
#[derive(Default)]
struct Sum {
    /// The request that changed the desired state last.
    desired_by: Option<Seq>,
    /// Nodes that there have to be, with the newest incarnation that was to be launched.
    nodes: BTreeMap<NodeName, Incarnation>,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        if let Entry::DesiredChanged { by, nodes, .. } = entry {
            self.desired_by = Some(*by);
            for (name, change) in nodes {
                match change {
                    WantChange::Up { .. } => _ = self.nodes.entry(name.clone()).or_default(),
                    WantChange::Gone => _ = self.nodes.remove(name),
                    WantChange::Retry | WantChange::Stopped => {}
                }
            }
        }
        if let Entry::LaunchIntended { node, incarnation, .. } = entry
            && let Some(newest) = self.nodes.get_mut(node)
        {
            *newest = *incarnation;
        }
    }
}

struct Rebuild<'a> {
    sources: &'a Sources,
    target: &'a Database,
    state: State,
    recovered: u64,
    /// The format of entries that get their place in the chain only now.
    older: Option<u32>,
    sum: Sum,
    /// A record that sums history up does not read, or not as the entries tell.
    has_lost_records: bool,
}

impl Rebuild<'_> {
    /// Returns the ranges that are lost.
    fn run(&mut self, aside: &Path, high: Seq, is_new: bool) -> Result<Vec<(Seq, Seq)>, RebuildError> {
        let mut pending = BTreeMap::new();
        let (missing, last) = self.entries(high, &mut pending)?;
        self.sources.keep_lost_requests(self.target, &mut self.state)?;
        let mut records = self.records(&mut pending)?;
        if is_new && last == Seq(0) && records.is_empty() {
            return Ok(missing);
        }
        let mut closing = Vec::new();
        let mut seq = last;
        for (of, lost) in pending {
            seq = seq.next();
            closing.push(Numbered { seq, at: now(), entry: abandoned(of, lost, LOST) });
        }
        if let Some(from) = self.older {
            seq = seq.next();
            closing.push(Numbered { seq, at: now(), entry: Entry::FormatChanged { from, to: versions::FORMAT } });
        }
        if high > Seq(0)
            && missing.is_empty()
            && closing.len() == usize::from(self.older.is_some())
            && !self.has_lost_records
        {
            note_lossless(&mut records, seq.next());
        }
        let from = aside.display().to_string();
        let entry = Entry::Salvaged { from, recovered: self.recovered, missing: missing.clone() };
        closing.push(Numbered { seq: seq.next(), at: now(), entry });
        self.write(&closing, &records)?;
        Ok(missing)
    }

    /// Takes over every entry that reads.
    fn entries(
        &mut self,
        high: Seq,
        pending: &mut BTreeMap<Seq, Pending>,
    ) -> Result<(Vec<(Seq, Seq)>, Seq), RebuildError> {
        let sources = self.sources;
        let first = sources.first()?;
        self.state.history.first = first;
        let mut batch = Vec::new();
        let (mut missing, last) = sources.each_entry(first, high, |whole| {
            if let Entry::Pruned { upto, trimmed, .. } = &whole.numbered.entry {
                self.state.history.retention_came_to(*upto, *trimmed);
            }
            follow(pending, &whole.numbered);
            self.sum.add(&whole.numbered.entry);
            if whole.link.is_none() {
                self.older = Some(u32::from(whole.head.version));
            }
            self.recovered += 1;
            batch.push(whole);
            if batch.len() == BATCH {
                self.copy(&batch)?;
                batch.clear();
            }
            Ok::<(), RebuildError>(())
        })?;
        self.copy(&batch)?;
        without_removed(&mut missing, self.state.history.first);
        Ok((missing, last))
    }

    /// The records that sum history up. Requests that are known to be unfinished leave `pending`.
    fn records(&mut self, pending: &mut BTreeMap<Seq, Pending>) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        let mut lost = false;
        match self.sources.record::<AgentRecord>(keys::AGENT)? {
            Found::Record(agent) => records.push(Record::Agent(agent)),
            Found::Absent => {}
            Found::Unreadable => {
                lost = true;
                tracing::error!("the agent record of the damaged journal is lost");
            }
        }
        match self.sources.record::<DesiredRecord>(keys::DESIRED)? {
            Found::Record(desired) => {
                // Pages read that were written over since; what was wanted then is not what is wanted.
                lost |= self.sum.desired_by.is_some_and(|by| by != desired.by);
                records.push(Record::Desired(desired));
            }
            Found::Absent => lost |= self.sum.desired_by.is_some(),
            Found::Unreadable => {
                lost = true;
                tracing::error!("the running configuration of the damaged journal is lost");
            }
        }
        for key in self.sources.keys(Family::Node) {
            let name = match keys::parse(&key) {
                Some(Key::Node(name)) => std::str::from_utf8(name).ok().and_then(|name| NodeName::new(name).ok()),
                Some(_) | None => None,
            };
            match (name, self.sources.record::<NodeRecord>(&key)?) {
                (Some(name), Found::Record(node)) => {
                    lost |= self.sum.nodes.remove(&name).is_some_and(|newest| newest > node.incarnation);
                    records.push(Record::Node(name, Some(Box::new(node))));
                }
                (_, Found::Absent) => {}
                (None, Found::Record(_)) | (_, Found::Unreadable) => {
                    lost = true;
                    tracing::error!("{} of the damaged journal is lost", keys::describe(&key));
                }
            }
        }
        for (seq, request) in std::mem::take(pending) {
            let record = match self.sources.record::<UnfinishedRecord>(&keys::unfinished(seq))? {
                Found::Record(record) => record,
                Found::Unreadable => UnfinishedRecord {
                    lost_attempts: request.attempts,
                    stage: Stage::Accepted,
                    extras: Packed::default(),
                },
                Found::Absent => {
                    pending.insert(seq, request);
                    continue;
                }
            };
            records.push(Record::Unfinished(seq, Some(record)));
        }
        lost |= !self.sum.nodes.is_empty();
        let history = self.sources.record::<HistoryRecord>(keys::HISTORY)?;
        let newest = match history {
            Found::Record(history) => Some(history.last),
            Found::Absent | Found::Unreadable => None,
        };
        // Written with the newest entry: what is older than that may go for the records, too.
        self.has_lost_records = lost || newest != Some(self.state.history.last);
        Ok(records)
    }

    /// Takes entries over with their places in the chain, so that heads that were noted elsewhere keep their meaning.
    fn copy(&mut self, entries: &[Whole]) -> Result<(), RebuildError> {
        let mut batch = Builder::new(&mut self.state);
        for whole in entries {
            batch.copied(whole)?;
            batch.index(self.target, &whole.numbered)?;
        }
        let writes = batch.finish()?;
        if !writes.is_empty() {
            self.target.write(writes)?;
        }
        Ok(())
    }

    fn write(&mut self, entries: &[Numbered], records: &[Record]) -> Result<(), RebuildError> {
        if entries.is_empty() && records.is_empty() {
            return Ok(());
        }
        let writes = batch::build(self.target, &mut self.state, entries, records)?;
        Ok(self.target.write(writes)?)
    }
}

/// Has the agent's record say that the salvage with this number lost nothing.
fn note_lossless(records: &mut [Record], salvaged: Seq) {
    for record in records {
        if let Record::Agent(agent) = record {
            agent.extras.0.lossless_salvage = salvaged;
        }
    }
}

/// What retention had removed, all before `first`, is not lost.
pub(in crate::journal) fn without_removed(missing: &mut Vec<(Seq, Seq)>, first: Seq) {
    missing.retain_mut(|(from, to)| {
        *from = first.max(*from);
        *from <= *to
    });
}

/// Keeps `pending` to the requests without an outcome.
fn follow(pending: &mut BTreeMap<Seq, Pending>, numbered: &Numbered) {
    match &numbered.entry {
        Entry::RequestReceived { reqid, request, .. } => {
            let request = Pending { reqid: reqid.clone(), request: request.0.clone(), attempts: 0 };
            pending.insert(numbered.seq, request);
        }
        Entry::RequestBegun { of, attempt } => {
            if let Some(request) = pending.get_mut(of) {
                request.attempts = *attempt;
            }
        }
        Entry::RequestCompleted { of, .. } => {
            pending.remove(of);
        }
        Entry::AgentStarted { .. }
        | Entry::AgentStopped { .. }
        | Entry::AgentSettled
        | Entry::HoldEntered { .. }
        | Entry::HoldEnded { .. }
        | Entry::Salvaged { .. }
        | Entry::Imported { .. }
        | Entry::FormatChanged { .. }
        | Entry::Pruned { .. }
        | Entry::RequestAnswered { .. }
        | Entry::RequestConflicted { .. }
        | Entry::InputRejected { .. }
        | Entry::RequestWaits { .. }
        | Entry::DeadlineAnswered { .. }
        | Entry::DuplicateSeen { .. }
        | Entry::DesiredChanged { .. }
        | Entry::LaunchIntended { .. }
        | Entry::NodeStarted { .. }
        | Entry::NodeReady { .. }
        | Entry::NodeExited { .. }
        | Entry::NodeAdopted { .. }
        | Entry::NodeRetried { .. } => {}
    }
}

/// The outcome of a request that has none. `why`: what its requester is told.
pub(in crate::journal) fn abandoned(of: Seq, lost: Pending, why: &str) -> Entry {
    let data = match lost.request {
        // A controller casts the data of this one whether it succeeded or not.
        Request::GetNodes {} => Some(ResultData::Nodes(Vec::new())),
        Request::SetConfiguration { .. }
        | Request::Deploy { .. }
        | Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::Restart { .. }
        | Request::NodeDispatch { .. }
        | Request::StartNodes { .. }
        | Request::StopNodes { .. }
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. }
        | Request::AdoptState {} => None,
    };
    let result = ApiResult {
        reqid: lost.reqid.clone(),
        success: false,
        instance: None,
        data,
        error: Some(why.to_owned()),
        node: None,
    };
    let response =
        Response { event: lost.request.response_event().to_owned(), reqid: lost.reqid, results: vec![result] };
    Entry::RequestCompleted {
        of,
        outcome: Outcome::Abandoned,
        attempts: lost.attempts,
        response: Answer::Kept(response),
    }
}

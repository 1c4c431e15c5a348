//! A new journal from everything readable in a damaged one.

use std::collections::BTreeMap;
use std::path::Path;

use super::clock;
use super::sources::{Found, Sources};
use crate::api::event::{Request, Response, Result as ApiResult, ResultData};
use crate::api::ids::{Incarnation, NodeName, ReqId, Seq};
use crate::journal::format::codec::EncodeError;
use crate::journal::format::entry::past::PastRecord;
use crate::journal::format::entry::{
    AgentRecord, Answer, DesiredRecord, Entry, NodeRecord, Numbered, Outcome, Packed, Record, Stage, UnfinishedRecord,
    WantChange,
};
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::subject::UnfinishedChange;
use crate::journal::format::versions::{
    self,
    records::{HistoryRecord, OutcomeRecord, ReqidRecord},
};
use crate::journal::store::database::Database;
use crate::journal::tree::batch::{self, BatchError, Builder, State};
use crate::journal::tree::storage_error::StorageError;
use crate::journal::tree::table::{ReadError, Table, Whole};

/// Entries in a batch of the new journal.
const ENTRIES_PER_BATCH: usize = 256;

/// The answer to a request whose outcome is lost.
const LOST: &str = "the outcome of this request was lost when the agent's journal was damaged";

/// Why it could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
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

impl From<EncodeError> for RebuildError {
    fn from(error: EncodeError) -> Self {
        Self::Batch(BatchError::Encode(error))
    }
}

/// A request that the entries so far leave without an outcome.
pub(super) struct Pending {
    pub(super) reqid: ReqId,
    pub(super) request: Request,
    pub(super) attempts: u32,
}

/// What the entries say about the records that sum them up: enough to detect that one is missing or outdated.
#[derive(Default)]
struct Sum {
    /// The request that changed the desired state last.
    desired_by: Option<Seq>,
    /// Nodes that must exist, with the newest incarnation that was to be launched.
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

/// The new journal under construction.
pub(super) struct Rebuild<'a> {
    sources: &'a Sources,
    target: &'a Database,
    state: State,
    pub(super) recovered: u64,
    /// The format of entries that only now get their place in the chain.
    older: Option<u32>,
    sum: Sum,
    /// A record that sums history up is unreadable, or contradicts the entries.
    has_lost_records: bool,
}

/// What is known of the journal's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalAge {
    /// Nothing was ever durable in it; so if nothing is readable, nothing is lost, and no entry reports a loss.
    NeverCommitted,
    /// Something was, as far as is known.
    InUse,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(sources: &'a Sources, target: &'a Database) -> Self {
        Self {
            sources,
            target,
            state: State::default(),
            recovered: 0,
            older: None,
            sum: Sum::default(),
            has_lost_records: false,
        }
    }

    /// Returns the ranges that are lost.
    pub(super) fn run(&mut self, aside: &Path, high: Seq, age: JournalAge) -> Result<Vec<(Seq, Seq)>, RebuildError> {
        let mut pending = BTreeMap::new();
        let (missing, last) = self.entries(high, &mut pending)?;
        keep_lost_requests(self.sources, self.target, &mut self.state)?;
        let mut records = self.records(&mut pending)?;
        if age == JournalAge::NeverCommitted && last == Seq(0) && records.is_empty() {
            return Ok(missing);
        }
        let mut closing = Vec::new();
        let mut seq = last;
        for (of, lost) in pending {
            seq = seq.next();
            closing.push(Numbered { seq, at: clock::now(), entry: abandoned(of, lost, LOST) });
        }
        if let Some(from) = self.older {
            seq = seq.next();
            closing.push(Numbered {
                seq,
                at: clock::now(),
                entry: Entry::FormatChanged { from, to: versions::CURRENT_FORMAT },
            });
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
        closing.push(Numbered { seq: seq.next(), at: clock::now(), entry });
        self.write(&closing, &records)?;
        Ok(missing)
    }

    /// Copies every readable entry.
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
            if batch.len() == ENTRIES_PER_BATCH {
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
                // Outdated pages were readable; the desired state in them is not the current one.
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
        for key in self.sources.keys(Family::Past) {
            match (keys::parse(&key), self.sources.record::<PastRecord>(&key)?) {
                (Some(Key::Past(seq)), Found::Record(past)) => records.push(Record::Past(seq, Some(Box::new(past)))),
                (_, Found::Absent) => {}
                // Nothing runs differently without it.
                (_, Found::Record(_) | Found::Unreadable) => {
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
        // Written with the newest entry: if it is older than that, the records may be outdated, too.
        self.has_lost_records = lost || newest != Some(self.state.history.last);
        Ok(records)
    }

    /// Copies entries with their places in the chain, so that heads that were noted elsewhere stay valid.
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

/// Makes the agent's record say that the salvage with this number lost nothing.
fn note_lossless(records: &mut [Record], salvaged: Seq) {
    for record in records {
        if let Record::Agent(agent) = record {
            agent.extras.0.lossless_salvage = salvaged;
        }
    }
}

/// What retention had removed, all before `first`, is not lost.
pub(super) fn without_removed(missing: &mut Vec<(Seq, Seq)>, first: Seq) {
    missing.retain_mut(|(from, to)| {
        *from = first.max(*from);
        *from <= *to
    });
}

/// Limits `pending` to the requests without an outcome.
fn follow(pending: &mut BTreeMap<Seq, Pending>, numbered: &Numbered) {
    match numbered.entry.unfinished_change() {
        Some(UnfinishedChange::Received { reqid, request }) => {
            let request = Pending { reqid: reqid.clone(), request: request.clone(), attempts: 0 };
            pending.insert(numbered.seq, request);
        }
        Some(UnfinishedChange::Begun { of, attempt }) => {
            if let Some(request) = pending.get_mut(&of) {
                request.attempts = attempt;
            }
        }
        Some(UnfinishedChange::Completed { of }) => drop(pending.remove(&of)),
        None => {}
    }
}

/// The outcome of a request that has none. `why`: the error in its answer.
pub(super) fn abandoned(of: Seq, lost: Pending, why: &str) -> Entry {
    let data = match lost.request {
        // A controller casts the data of this response whether it succeeded or not.
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

/// Keeps the reqids of lost requests whose outcome survived: they are still answered with it.
pub(super) fn keep_lost_requests(sources: &Sources, target: &Database, state: &mut State) -> Result<(), RebuildError> {
    for key in sources.keys(Family::Reqid) {
        if target.get(&key)?.is_some() {
            continue;
        }
        let Found::Record(record) = sources.record::<ReqidRecord>(&key)? else { continue };
        if target.record::<OutcomeRecord>(&keys::outcome(record.seq))?.is_some() {
            let mut batch = Builder::new(state);
            batch.record(key, &record)?;
            target.write(batch.finish()?)?;
        }
    }
    Ok(())
}

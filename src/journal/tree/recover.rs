//! What a start loads: a table's rows to [`Recovered`].
//!
//! Reads what is unfinished, the nodes and the newest entries; how long the history is makes no difference.

use super::batch::{Pieces, State};
use super::table::{ReadError, Table, entry_seq};
use crate::api::event::{Dialect, Response};
use crate::api::ids::{NodeName, ReqId, Seq};
use crate::journal::format::codec;
use crate::journal::format::entry::past::PastRecord;
use crate::journal::format::entry::{
    AgentRecord, Answer, DesiredRecord, Entry, Known, Numbered, Received, Recovered, Stored as StoredAnswer,
    UnfinishedRecord,
};
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::kind;
use crate::journal::format::versions::records::{
    DeadlineRecord, FormatRecord, HistoryRecord, OutcomeRecord, ReqidRecord, Stored,
};

/// Responses published again after a crash are at most so many, the newest, and none is looked for further back than
/// `UNSENT_REACH` entries: without a usable side file all of history would qualify.
const UNSENT_LIMIT: usize = 256;
const UNSENT_REACH: u64 = 4096;

/// How many of the newest entries a start checks against the indexes.
const SPOT_CHECK: u64 = 256;

/// The format's version; `None` for a table without any row.
pub(in crate::journal) fn format(table: &impl Table) -> Result<Option<u32>, ReadError> {
    if let Some(FormatRecord { version }) = table.record(keys::FORMAT)? {
        return Ok(Some(version));
    }
    let any = table.range(keys::everything()).next().transpose()?;
    match any {
        None => Ok(None),
        Some(_) => Err(ReadError::Absent {
            what: keys::describe(keys::FORMAT),
            because: "the journal has other rows".to_owned(),
        }),
    }
}

/// Where history ends. The record and the entries are of one batch, so a difference between them is damage.
pub(in crate::journal) fn history(table: &impl Table) -> Result<HistoryRecord, ReadError> {
    let last = table.last()?;
    let absent = |what: String, because: String| Err(ReadError::Absent { what, because });
    match table.record::<HistoryRecord>(keys::HISTORY)? {
        Some(history) if history.last == last => Ok(history),
        Some(history) if history.last > last => {
            absent(format!("entry {}", history.last), format!("{} ends with it", keys::describe(keys::HISTORY)))
        }
        None if last == Seq(0) => Ok(HistoryRecord::default()),
        Some(_) | None => absent(keys::describe(keys::HISTORY), format!("there is an entry {last}")),
    }
}

/// Everything, and what commits build on. `sent`: responses of completions up to there have been sent.
pub(in crate::journal) fn recover(table: &impl Table, sent: Seq) -> Result<(Recovered, State), ReadError> {
    let mut pieces = Pieces::new();
    let history = history(table)?;
    let last = history.last;
    let mut recovered = Recovered { last, ..Recovered::default() };
    if let Some(value) = table.get(keys::AGENT)? {
        recovered.agent = read::<AgentRecord>(table, &mut pieces, keys::AGENT, &value)?;
    }
    if let Some(value) = table.get(keys::DESIRED)? {
        recovered.desired = read::<DesiredRecord>(table, &mut pieces, keys::DESIRED, &value)?;
    }
    for row in table.range(Family::Node.range()) {
        let (key, value) = row?;
        let record = read(table, &mut pieces, &key, &value)?;
        recovered.nodes.insert(node_name(&key)?, record);
    }
    for row in table.range(Family::Unfinished.range()) {
        let (key, value) = row?;
        let record: UnfinishedRecord = read(table, &mut pieces, &key, &value)?;
        let received = received(table, &key)?;
        recovered.unfinished.insert(received.seq, (received, record));
    }
    for row in table.range(Family::Past.range()) {
        let (key, value) = row?;
        let record: PastRecord = read(table, &mut pieces, &key, &value)?;
        if let Some(Key::Past(seq)) = keys::parse(&key) {
            recovered.past.insert(seq, record);
        }
    }
    // Rewritten as duplicates come in; those few whose sources are long enough for pieces have to be found.
    for row in table.range(Family::RecordChunk.range()) {
        let (key, _) = row?;
        if let Some(Key::RecordChunk(of, index)) = keys::parse(&key) {
            let count = pieces.entry(of.to_vec()).or_default();
            *count = (*count).max(index + 1);
        }
    }
    recovered.unsent = unsent(table, last, sent)?;
    spot_check(table, last)?;
    Ok((recovered, State { history, pieces }))
}

fn read<T: Stored>(table: &impl Table, pieces: &mut Pieces, key: &[u8], value: &[u8]) -> Result<T, ReadError> {
    let record = table.decode_record(key, value)?;
    if let Ok((head, _)) = codec::head(value)
        && head.pieces() > 0
    {
        pieces.insert(key.to_vec(), head.pieces());
    }
    Ok(record)
}

fn node_name(key: &[u8]) -> Result<NodeName, ReadError> {
    let malformed = || ReadError::Decode { what: keys::describe(key), source: codec::DecodeError::Malformed };
    let Some(Key::Node(name)) = keys::parse(key) else { return Err(malformed()) };
    let name = std::str::from_utf8(name).map_err(|_| malformed())?;
    NodeName::new(name).map_err(|_| malformed())
}

/// The request of an unfinished row.
fn received(table: &impl Table, unfinished: &[u8]) -> Result<Received, ReadError> {
    let absent =
        |what: String| ReadError::Absent { what, because: format!("{} stands for it", keys::describe(unfinished)) };
    let Some(Key::Unfinished(seq)) = keys::parse(unfinished) else {
        return Err(absent("a request".to_owned()));
    };
    match table.entry(seq)? {
        Some(Numbered { at, entry: Entry::RequestReceived { reqid, request, digest, dialect, source }, .. }) => {
            Ok(Received { seq, at, reqid, request: request.0, digest, dialect, source })
        }
        Some(_) | None => Err(absent(format!("request {seq}"))),
    }
}

fn dialect_of(table: &impl Table, request: Seq) -> Result<Option<Dialect>, ReadError> {
    Ok(match table.entry(request)? {
        Some(Numbered { entry: Entry::RequestReceived { dialect, .. }, .. }) => Some(dialect),
        Some(_) | None => None,
    })
}

/// Completions above `sent`, oldest first.
fn unsent(table: &impl Table, last: Seq, sent: Seq) -> Result<Vec<(Seq, Dialect, Response)>, ReadError> {
    let first = Seq(sent.0.max(last.0.saturating_sub(UNSENT_REACH)).saturating_add(1));
    let mut unsent = Vec::new();
    if first > last {
        return Ok(unsent);
    }
    for row in table.range(keys::entries(first, last)).rev() {
        if unsent.len() == UNSENT_LIMIT {
            break;
        }
        let (key, value) = row?;
        let seq = entry_seq(&key)?;
        let is_answer = [kind::REQUEST_COMPLETED, kind::REQUEST_ANSWERED, kind::DEADLINE_ANSWERED];
        if !is_answer.into_iter().any(|kind| is_kind(&value, kind)) {
            continue;
        }
        match table.decode_entry(seq, &value)?.entry {
            // A requester who got a deadline response gets no other.
            Entry::RequestCompleted { of, .. } if table.get(&keys::deadline(of))?.is_some() => {}
            Entry::RequestCompleted { of, response: Answer::Kept(response), .. }
            | Entry::DeadlineAnswered { of, response: Answer::Kept(response) } => {
                // Without its request (salvaged journals) nobody can say in which dialect it would go out.
                if let Some(dialect) = dialect_of(table, of)? {
                    unsent.push((seq, dialect, response));
                }
            }
            Entry::RequestAnswered { dialect, response: Answer::Kept(response), .. } => {
                unsent.push((seq, dialect, response));
            }
            _other => {}
        }
    }
    unsent.reverse();
    Ok(unsent)
}

/// Whether the newest requests are where their reqids point. Checking all requests is left to `verify`.
fn spot_check(table: &impl Table, last: Seq) -> Result<(), ReadError> {
    if last == Seq(0) {
        return Ok(());
    }
    let first = Seq(last.0.saturating_sub(SPOT_CHECK) + 1);
    for row in table.range(keys::entries(first, last)) {
        let (key, value) = row?;
        if !is_kind(&value, kind::REQUEST_RECEIVED) && !is_kind(&value, kind::REQUEST_ANSWERED) {
            continue;
        }
        let seq = entry_seq(&key)?;
        if let Entry::RequestReceived { reqid, .. } | Entry::RequestAnswered { reqid, .. } =
            table.decode_entry(seq, &value)?.entry
            && !reqid.is_empty()
            && table.record::<ReqidRecord>(&keys::reqid(&reqid))?.is_none()
        {
            return Err(ReadError::Absent {
                what: keys::describe(&keys::reqid(&reqid)),
                because: format!("request {seq} has it"),
            });
        }
    }
    Ok(())
}

fn is_kind(value: &[u8], kind: u8) -> bool {
    value.first() == Some(&kind)
}

/// What the journal knows of a reqid. An empty one is never known.
pub(in crate::journal) fn lookup(table: &impl Table, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
    if reqid.is_empty() {
        return Ok(None);
    }
    let Some(ReqidRecord { seq, digest }) = table.record(&keys::reqid(reqid))? else { return Ok(None) };
    let answered_at_once = table.get(&keys::entry(seq))?.filter(|value| is_kind(value, kind::REQUEST_ANSWERED));
    if let Some(value) = answered_at_once {
        let outcome = match table.decode_entry(seq, &value)? {
            Numbered { at, entry: Entry::RequestAnswered { response, .. }, .. } => {
                Some(StoredAnswer { seq, at, answer: response })
            }
            _other => None,
        };
        return Ok(Some(Known { seq, digest, deadline: None, outcome }));
    }
    // The outcome comes after the deadline response: read in the other order, a commit in between would make only the
    // outcome visible.
    let outcome = outcome(table, seq)?;
    Ok(Some(Known { seq, digest, deadline: deadline(table, seq)?, outcome }))
}

fn named_by(what: &str, of: Seq, request: Seq, because: &[u8]) -> ReadError {
    ReadError::Absent {
        what: format!("entry {of}, {what} of request {request}"),
        because: format!("{} names it", keys::describe(because)),
    }
}

/// The outcome of request `seq`, which changes something.
fn outcome(table: &impl Table, seq: Seq) -> Result<Option<StoredAnswer>, ReadError> {
    let key = keys::outcome(seq);
    let Some(OutcomeRecord { completed }) = table.record(&key)? else { return Ok(None) };
    match table.entry(completed)? {
        Some(Numbered { at, entry: Entry::RequestCompleted { response, .. }, .. }) => {
            Ok(Some(StoredAnswer { seq: completed, at, answer: response }))
        }
        Some(_) | None => Err(named_by("the outcome", completed, seq, &key)),
    }
}

/// The deadline response of request `seq`.
fn deadline(table: &impl Table, seq: Seq) -> Result<Option<StoredAnswer>, ReadError> {
    let key = keys::deadline(seq);
    let Some(DeadlineRecord { answered }) = table.record(&key)? else { return Ok(None) };
    match table.entry(answered)? {
        Some(Numbered { at, entry: Entry::DeadlineAnswered { response, .. }, .. }) => {
            Ok(Some(StoredAnswer { seq: answered, at, answer: response }))
        }
        Some(_) | None => Err(named_by("the answer at the deadline", answered, seq, &key)),
    }
}

/// Reads every row once. The first unreadable one is the error.
pub(in crate::journal) fn read_everything(table: &impl Table) -> Result<(), ReadError> {
    for row in table.range(keys::everything()) {
        let (key, value) = row?;
        match keys::parse(&key) {
            // Read together with the body that they are pieces of.
            Some(Key::EntryChunk(..) | Key::RecordChunk(..)) => {}
            Some(Key::Entry(seq)) => drop(table.decode_entry(seq, &value)?),
            Some(
                Key::Format
                | Key::Reqid(_)
                | Key::Outcome(_)
                | Key::Deadline(_)
                | Key::Unfinished(_)
                | Key::Duplicates(_)
                | Key::History
                | Key::Agent
                | Key::Desired
                | Key::Node(_)
                | Key::Past(_),
            ) => {
                let (head, body) = table.body(&key, &value)?;
                codec::check_record(&key, &head, &body)
                    .map_err(|source| ReadError::Decode { what: keys::describe(&key), source })?;
            }
            None => {
                let what = keys::describe(&key);
                return Err(ReadError::Decode { what, source: codec::DecodeError::Malformed });
            }
        }
    }
    Ok(())
}

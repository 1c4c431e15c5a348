//! Retention: what the journal may let go of, a step at a time, from the oldest on.
//!
//! A step is decided here and carried out by the commit that has its entry ([`Entry::Pruned`]). What is never let go of:
//! the newest entry, a request without an outcome and all that came after it, and the records that sum history up (the
//! running configuration is one), which are no history.
//!
//! [`Entry::Pruned`]: super::entry::Entry::Pruned

use super::batch;
use super::codec;
use super::entry::Removal;
use super::keys::{self, Family, Key};
use super::table::{Entries, ReadError, Table};
use super::versions::{kind, records::HistoryRecord};
use crate::api::ids::Seq;
use crate::api::time::Timestamp;

/// Entries removed in a step, and responses: so many that a commit with a step in it stays short.
const STEP: u64 = 200;
/// Entries looked at in a step for responses to drop.
const EXAMINED: u64 = 4096;

/// A clock that is so far past the newest entry is not believed: nothing is removed for its age.
const UNBELIEVABLE_MS: u64 = 30 * 86_400_000;

/// How much is kept; `None`: no limit of that sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Entries older than this go.
    pub age_ms: Option<u64>,
    /// Requests, conflicts and rejected input.
    pub requests: Option<u64>,
    /// Keys and values of entries.
    pub bytes: Option<u64>,
    /// The responses of get_nodes and node_dispatch go after this; their digests stay with their requests.
    pub reads_ms: Option<u64>,
}

impl Policy {
    /// A little more of everything. Who begins to remove when this is exceeded and ends when the policy is met does so
    /// seldom, and leaves few entries that tell of it.
    #[must_use]
    pub fn loosened(self) -> Self {
        let later = |ms: u64| ms.saturating_add((ms / 64).clamp(1, 3_600_000));
        let more = |count: u64| count.saturating_add((count / 64).max(1));
        Self {
            age_ms: self.age_ms.map(later),
            requests: self.requests.map(more),
            bytes: self.bytes.map(more),
            reads_ms: self.reads_ms.map(later),
        }
    }

    /// For a clock that is not believed.
    #[must_use]
    pub fn without_ages(self) -> Self {
        Self { age_ms: None, reads_ms: None, ..self }
    }

    /// Whether the oldest entry, of this time, goes while so much is there.
    fn lets_go(&self, requests: u64, bytes: u64, at: Timestamp, now: Timestamp) -> bool {
        self.requests.is_some_and(|most| requests > most)
            || self.bytes.is_some_and(|most| bytes > most)
            || self.age_ms.is_some_and(|most| age_ms(at, now) > most)
    }
}

/// 0 for what is of the future.
fn age_ms(at: Timestamp, now: Timestamp) -> u64 {
    now.0.saturating_sub(at.0) / 1000
}

/// One step, and what it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    pub removal: Removal,
    /// Responses dropped.
    pub responses: u64,
    /// Keys and values that go.
    pub bytes: u64,
}

/// The next step towards `policy`; `None`: it is met.
pub(super) fn next(table: &impl Table, policy: &Policy, now: Timestamp) -> Result<Option<Step>, ReadError> {
    let Some(history) = table.record::<HistoryRecord>(keys::HISTORY)? else { return Ok(None) };
    let Some(newest) = table.entry(history.last)? else { return Ok(None) };
    let believed = age_ms(newest.at, now) <= UNBELIEVABLE_MS;
    let policy = if believed { *policy } else { policy.without_ages() };
    let before_newest = Seq(history.last.0.saturating_sub(1));
    let mut step = Step {
        removal: Removal {
            upto: Seq(history.first.0.saturating_sub(1)),
            trimmed: history.trimmed,
            ..Removal::default()
        },
        ..Step::default()
    };
    remove(table, &policy, now, &history, before_newest, &mut step)?;
    let examined = match policy.reads_ms {
        Some(most) => trim(table, most, now, before_newest, &mut step)?,
        None => 0,
    };
    // A step that only says how far it has looked is one too, else the next would look at the same again.
    let gets_on = step.removal.entries > 0 || step.responses > 0 || examined == EXAMINED;
    Ok(gets_on.then_some(step))
}

fn remove(
    table: &impl Table,
    policy: &Policy,
    now: Timestamp,
    history: &HistoryRecord,
    before_newest: Seq,
    step: &mut Step,
) -> Result<(), ReadError> {
    let end = oldest_unfinished(table)?.map_or(before_newest, |seq| Seq(seq.0.saturating_sub(1)).min(before_newest));
    let (mut requests, mut bytes) = (history.requests, history.bytes);
    let mut hash = None;
    for (seq, value) in Entries::new(table, history.first, end, false) {
        let value = value?;
        let whole = table.read_entry(seq, &value)?;
        if step.removal.entries == STEP || !policy.lets_go(requests, bytes, whole.numbered.at, now) {
            hash = hash.or(whole.link.map(|link| link.previous));
            break;
        }
        let size = batch::stored_bytes(&keys::entry(seq), &value, &whole.head);
        let counted = u64::from(kind::is_request(whole.head.kind));
        requests = requests.saturating_sub(counted);
        bytes = bytes.saturating_sub(size);
        hash = whole.link.map(|link| link.hash);
        let Removal { upto, entries, requests: removed, .. } = &mut step.removal;
        *upto = seq;
        *entries += 1;
        *removed += counted;
        step.bytes += size;
    }
    step.removal.hash = hash.filter(|_| step.removal.upto > Seq(0)).unwrap_or_default();
    Ok(())
}

/// Returns how many entries were looked at.
fn trim(
    table: &impl Table,
    most_ms: u64,
    now: Timestamp,
    before_newest: Seq,
    step: &mut Step,
) -> Result<u64, ReadError> {
    let from = step.removal.trimmed.max(step.removal.upto).next();
    let mut examined = 0;
    for (seq, value) in Entries::new(table, from, before_newest, false) {
        if examined == EXAMINED || step.responses == STEP {
            break;
        }
        let value = value?;
        let whole = table.read_entry(seq, &value)?;
        if age_ms(whole.numbered.at, now) <= most_ms {
            break;
        }
        examined += 1;
        step.removal.trimmed = seq;
        if batch::is_reads_outcome(&whole.numbered.entry)
            && let Some(bare) = codec::without_payload(&whole.head, &whole.stored)
        {
            let key = keys::entry(seq);
            let left = batch::encoded_bytes(&key, &bare);
            step.responses += 1;
            step.bytes += batch::stored_bytes(&key, &value, &whole.head).saturating_sub(left);
        }
    }
    Ok(examined)
}

fn oldest_unfinished(table: &impl Table) -> Result<Option<Seq>, ReadError> {
    let first = table.range(Family::Unfinished.range()).next().transpose()?;
    Ok(first.and_then(|(key, _)| match keys::parse(&key) {
        Some(Key::Unfinished(seq)) => Some(seq),
        Some(_) | None => None,
    }))
}

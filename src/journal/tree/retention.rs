//! Retention: what the journal may remove, a step at a time, from the oldest on.
//!
//! A step is decided here and carried out by the commit that has its entry ([`Entry::Pruned`]). Never removed are the
//! newest entry, a request without an outcome and everything after it, and the records that sum history up (the
//! running configuration is one), which are not history.
//!
//! [`Entry::Pruned`]: crate::journal::format::entry::Entry::Pruned

use super::batch;
use super::table::{Entries, ReadError, Table};
use crate::api::ids::Seq;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::time::Timestamp;
use crate::journal::format::codec;
use crate::journal::format::entry::Removal;
use crate::journal::format::keys::{self, Family, Key};
use crate::journal::format::versions::{kind, records::HistoryRecord};

/// How much is done in one step.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Entries removed, and responses.
    removed: u64,
    /// Entries examined for responses to drop.
    examined: u64,
}

impl Limits {
    /// Small enough that a commit with a step in it stays short.
    const STEP: Self = Self { removed: 200, examined: 4096 };
    const NONE: Self = Self { removed: u64::MAX, examined: u64::MAX };
}

/// A clock that is this far past the newest entry, or that has left such a gap in history, is not trusted: nothing is
/// removed because of its age.
const DOUBTFUL_MS: u64 = 30 * 86_400_000;

/// How much is kept; `None`: no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Entries older than this are removed.
    pub age_ms: Option<u64>,
    /// Requests, conflicts and rejected input.
    pub requests: Option<u64>,
    /// Keys and values of entries.
    pub bytes: Option<u64>,
    /// The responses of get_nodes and node_dispatch are removed after this; their digests stay with their requests.
    pub reads_ms: Option<u64>,
}

impl Policy {
    /// A little more of everything. Removal that begins when this is exceeded and ends when the policy is met runs
    /// rarely, and adds few entries of its own.
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

    /// Whether the clock matters to it, and can be trusted.
    #[must_use]
    pub fn clock(&self, trust: ClockTrust) -> ClockTrust {
        if self.has_ages() { trust } else { ClockTrust::Trusted }
    }

    /// A requested policy; `None` if it is that of the settings.
    #[must_use]
    pub fn ordered(order: &PruneOrder) -> Option<Self> {
        let PruneOrder { older_than_ms, keep, dry_run: _ } = *order;
        let policy = Self { age_ms: older_than_ms, requests: keep, ..Self::default() };
        (policy != Self::default()).then_some(policy)
    }

    /// Whether anything is removed because of its age.
    pub fn has_ages(&self) -> bool {
        self.age_ms.is_some() || self.reads_ms.is_some()
    }

    /// For a clock that is not trusted.
    #[must_use]
    pub fn without_ages(self) -> Self {
        Self { age_ms: None, reads_ms: None, ..self }
    }

    /// Whether the oldest entry, of this time, is removed while this much is stored.
    fn removes(&self, requests: u64, bytes: u64, at: Timestamp, now: Timestamp) -> bool {
        self.requests.is_some_and(|most| requests > most)
            || self.bytes.is_some_and(|most| bytes > most)
            || self.age_ms.is_some_and(|most| age_ms(at, now) > most)
    }
}

/// 0 for times in the future.
fn age_ms(at: Timestamp, now: Timestamp) -> u64 {
    now.0.saturating_sub(at.0) / 1000
}

/// Whether what a policy does not keep is removed, or only reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Only reported.
    DryRun,
    /// Removed.
    Remove,
}

/// Whether the clock may make anything too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockTrust {
    /// It is consistent with the journal.
    Trusted,
    /// It may have been set far ahead: nothing is removed because of its age.
    Doubted,
}

/// One step, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemovalStep {
    /// What the entry of this step will say.
    pub removal: Removal,
    /// Responses dropped.
    pub responses: u64,
    /// Bytes of keys and values removed.
    pub bytes: u64,
    /// The request without an outcome that prevents further removal.
    pub held_by: Option<Seq>,
}

impl RemovalStep {
    /// Nothing yet of what this is a preview of.
    #[must_use]
    pub fn emptied(self) -> Self {
        Self { held_by: self.held_by, ..Self::default() }
    }

    /// Another step has been taken.
    pub fn add(&mut self, step: &Self) {
        self.removal.entries += step.removal.entries;
        self.removal.requests += step.removal.requests;
        self.removal.upto = step.removal.upto;
        self.responses += step.responses;
        self.bytes += step.bytes;
    }

    /// The report of `journal prune`.
    pub fn report(&self, mode: PruneMode, clock: ClockTrust) -> PruneReport {
        PruneReport {
            dry_run: mode == PruneMode::DryRun,
            entries: self.removal.entries,
            requests: self.removal.requests,
            responses: self.responses,
            bytes: self.bytes,
            upto: self.removal.upto.0,
            held_by: self.held_by.map(|seq| seq.0),
            clock_doubted: clock == ClockTrust::Doubted,
        }
    }
}

/// The next step towards `policy`; `None`: it is met.
pub(in crate::journal) fn next(
    table: &impl Table,
    policy: &Policy,
    now: Timestamp,
) -> Result<Option<RemovalStep>, ReadError> {
    let (step, examined) = step(table, policy, now, Limits::STEP)?;
    // A step that only records how far it has looked counts too, else the next would examine the same entries again.
    let gets_on = step.removal.entries > 0 || step.responses > 0 || examined == Limits::STEP.examined;
    Ok(gets_on.then_some(step))
}

/// The sum of all steps towards `policy`. Reads everything that would be removed.
pub(in crate::journal) fn preview(
    table: &impl Table,
    policy: &Policy,
    now: Timestamp,
) -> Result<RemovalStep, ReadError> {
    step(table, policy, now, Limits::NONE).map(|(step, _)| step)
}

/// Whether the clock is trusted to make anything too old. A clock that was set far ahead is detected at once in a run
/// that began before; in a run that began after, by a gap: nothing was journaled for a month before this month, so that
/// time may not really have passed. After a month with the new time it is trusted.
pub(in crate::journal) fn clock_trust(table: &impl Table, now: Timestamp) -> Result<ClockTrust, ReadError> {
    let Some(history) = table.record::<HistoryRecord>(keys::HISTORY)? else { return Ok(ClockTrust::Trusted) };
    let age_of = |from: Seq| -> Result<Option<(Seq, u64)>, ReadError> {
        let Some((seq, value)) = Entries::new(table, from, history.last, false).next() else { return Ok(None) };
        Ok(Some((seq, age_ms(table.decode_entry(seq, &value?)?.at, now))))
    };
    let Some((_, newest)) = age_of(history.last)? else { return Ok(ClockTrust::Trusted) };
    if newest > DOUBTFUL_MS {
        return Ok(ClockTrust::Doubted);
    }
    // The newest entry that is older than a month, by binary search: `old` is, `young` and all after it are not.
    let Some((mut old, mut age)) = age_of(history.first)?.filter(|(_, age)| *age > DOUBTFUL_MS) else {
        return Ok(ClockTrust::Trusted);
    };
    let mut young = history.last;
    while old.next() < young {
        let middle = Seq(old.0 + (young.0 - old.0) / 2);
        match age_of(middle)? {
            Some((seq, found)) if found > DOUBTFUL_MS && seq < young => (old, age) = (seq, found),
            Some(_) | None => young = middle,
        }
    }
    Ok(if age <= 2 * DOUBTFUL_MS { ClockTrust::Trusted } else { ClockTrust::Doubted })
}

/// One step, and how many entries it examined for responses to drop.
fn step(table: &impl Table, policy: &Policy, now: Timestamp, limits: Limits) -> Result<(RemovalStep, u64), ReadError> {
    let Some(history) = table.record::<HistoryRecord>(keys::HISTORY)? else { return Ok((RemovalStep::default(), 0)) };
    let is_doubted = policy.has_ages() && clock_trust(table, now)? == ClockTrust::Doubted;
    let policy = if is_doubted { policy.without_ages() } else { *policy };
    let before_newest = Seq(history.last.0.saturating_sub(1));
    let mut step = RemovalStep {
        removal: Removal {
            upto: Seq(history.first.0.saturating_sub(1)),
            trimmed: history.trimmed,
            ..Removal::default()
        },
        ..RemovalStep::default()
    };
    remove(table, &policy, now, &history, before_newest, limits, &mut step)?;
    let examined = match policy.reads_ms {
        // While there is more to remove, the next step may take what would be trimmed by this one.
        Some(most) if step.removal.entries < limits.removed => {
            trim(table, most, now, before_newest, limits, &mut step)?
        }
        Some(_) | None => 0,
    };
    Ok((step, examined))
}

fn remove(
    table: &impl Table,
    policy: &Policy,
    now: Timestamp,
    history: &HistoryRecord,
    before_newest: Seq,
    limits: Limits,
    step: &mut RemovalStep,
) -> Result<(), ReadError> {
    let unfinished = oldest_unfinished(table)?.filter(|seq| *seq <= before_newest);
    let end = unfinished.map_or(before_newest, |seq| Seq(seq.0.saturating_sub(1)));
    let (mut requests, mut bytes) = (history.requests, history.bytes);
    let mut hash = None;
    for (seq, value) in Entries::new(table, history.first, end, false) {
        let value = value?;
        let whole = table.read_entry(seq, &value)?;
        if step.removal.entries == limits.removed || !policy.removes(requests, bytes, whole.numbered.at, now) {
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
    if step.removal.upto.next() > end
        && let Some(seq) = unfinished
        && let Some(held) = table.entry(seq)?
        && policy.removes(requests, bytes, held.at, now)
    {
        step.held_by = Some(seq);
    }
    step.removal.hash = hash.filter(|_| step.removal.upto > Seq(0)).unwrap_or_default();
    Ok(())
}

/// Returns how many entries were examined.
fn trim(
    table: &impl Table,
    most_ms: u64,
    now: Timestamp,
    before_newest: Seq,
    limits: Limits,
    step: &mut RemovalStep,
) -> Result<u64, ReadError> {
    let from = step.removal.trimmed.max(step.removal.upto).next();
    let mut examined = 0;
    for (seq, value) in Entries::new(table, from, before_newest, false) {
        if examined == limits.examined || step.responses == limits.removed {
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

//! Rate limits for refusals: a refused peer may come back as often as it likes, and must fill neither log nor journal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refused peers that are counted individually; all others are counted together.
const COUNTED_SINGLY: usize = 1024;
const PERIOD: Duration = Duration::from_secs(60);
/// Refusals of each peer that are journaled per period; the rest are counted.
const JOURNALED: u32 = 10;

/// Who was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Uid(u32),
    /// Nothing better is known.
    Address(IpAddr),
    Others,
}

/// How to record a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// The first refusal of this peer, which is logged.
    pub is_first: bool,
    /// It is journaled; holds how many before it were not.
    pub journaled: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: BTreeSet<Who>,
    counts: BTreeMap<Who, Count>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    journaled: u32,
    more: u64,
}

impl Refusals {
    pub fn note(&self, who: Who, now: Instant) -> Note {
        // Each change is a single insertion or count, so a panic elsewhere leaves nothing half done.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let who = if state.told.contains(&who) || state.told.len() < COUNTED_SINGLY { who } else { Who::Others };
        let is_first = state.told.insert(who);
        let count = state.counts.entry(who).or_insert(Count { since: now, journaled: 0, more: 0 });
        if now.duration_since(count.since) >= PERIOD {
            (count.since, count.journaled) = (now, 0);
        }
        let journaled = if count.journaled < JOURNALED {
            count.journaled += 1;
            Some(std::mem::take(&mut count.more))
        } else {
            count.more += 1;
            None
        };
        Note { is_first, journaled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_journaled_ten_times_a_minute() {
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let notes: Vec<Note> = (0..1000).map(|_| refusals.note(Who::Uid(8), begun)).collect();
        assert_eq!(notes.iter().filter(|note| note.is_first).count(), 1);
        assert_eq!(notes.iter().filter(|note| note.journaled == Some(0)).count(), 10);
        assert_eq!(refusals.note(Who::Uid(9), begun), Note { is_first: true, journaled: Some(0) });
        let later = refusals.note(Who::Uid(8), begun + PERIOD);
        assert_eq!(later, Note { is_first: false, journaled: Some(990) });
    }

    #[test]
    fn a_crowd_takes_no_more_memory_than_its_first() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let told = (0..10_000).filter(|uid| refusals.note(Who::Uid(*uid), now).is_first).count();
        assert_eq!(told, COUNTED_SINGLY + 1, "with one line for all others");
        assert!(refusals.0.lock().unwrap().counts.len() <= COUNTED_SINGLY + 1);
    }
}

//! Statistics of the journal, from its rows: one walk, and memory that does not depend on its length.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::nodes::Nodes;
use super::page;
use crate::api::audit::{Filter, Kind, RequestRow, RequestState, Row};
use crate::api::head::Head;
use crate::api::ids::Seq;
use crate::api::stats::{EventStats, JournalStats, Latency};
use crate::journal::format::keys::{self, Key};
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::tree::table::{ReadError, Table};

/// The longest latency that is counted exactly, in microseconds: a year.
const LONGEST_US: u64 = 366 * 24 * 3600 * 1_000_000;

/// Everything except the size of the files and how long opening them took.
pub(in crate::journal) fn stats(table: &impl Table) -> Result<JournalStats, ReadError> {
    let last = match table.last() {
        Ok(last) => Some(last),
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error),
    };
    // Entries written meanwhile are left out, so that the walk ends.
    let filter = Filter { kind: Kind::All, to_seq: last, ..Filter::default() };
    let mut tally = Tally::default();
    let mut cursor = None;
    loop {
        let page = page::page(table, &filter, cursor)?;
        for row in &page.rows {
            tally.add(row);
        }
        if page.next.is_none() {
            break;
        }
        cursor = page.next;
    }
    let mut stats = tally.finish();
    stats.bytes_live = measure(table, &mut stats)?;
    stats.head = match table.record::<HistoryRecord>(keys::HISTORY) {
        Ok(history) => history
            .filter(|history| history.last > Seq(0))
            .map(|history| Head { seq: history.last, hash: history.hash }.to_string()),
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error),
    };
    Ok(stats)
}

/// Counts entries and bytes; `None` bytes if damage ends the walk.
fn measure(table: &impl Table, stats: &mut JournalStats) -> Result<Option<u64>, ReadError> {
    let mut bytes = 0;
    for row in table.range(keys::everything()) {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        bytes += (key.len() + value.len()) as u64;
        if let Some(Key::Entry(seq)) = keys::parse(&key) {
            stats.entries += 1;
            stats.first = if stats.entries == 1 { seq.0 } else { stats.first };
            stats.last = seq.0;
        }
    }
    Ok(Some(bytes))
}

#[derive(Default)]
struct Tally {
    stats: JournalStats,
    all: Latencies,
    latencies: BTreeMap<String, Latencies>,
    nodes: Nodes,
}

impl Tally {
    fn add(&mut self, row: &Row) {
        let at = match row {
            Row::Request(request) => {
                self.request(request);
                &request.received_at
            }
            Row::Event(event) => {
                self.nodes.add(event);
                *self.stats.events.entry(event.event.clone()).or_default() += 1;
                &event.at
            }
            Row::Unreadable(_) => {
                self.stats.unreadable += 1;
                return;
            }
        };
        self.stats.oldest.get_or_insert_with(|| at.clone());
        self.stats.newest = Some(at.clone());
    }

    fn request(&mut self, row: &RequestRow) {
        let stats = &mut self.stats;
        *stats.states.entry(row.state.as_str().to_owned()).or_default() += 1;
        *stats.sources.entry(row.source.transport.clone()).or_default() += 1;
        stats.duplicates += row.duplicates;
        stats.replays += u64::from(row.attempts.saturating_sub(1));
        let failed = u64::from(row.success == Some(false));
        stats.failed += failed;
        match row.state {
            RequestState::Accepted | RequestState::Handling => stats.unfinished += 1,
            RequestState::Completed | RequestState::Conflict | RequestState::Rejected | RequestState::Abandoned => {}
        }
        if row.dialect.is_empty() {
            // Its event's name is whatever the peer wrote, so names are not counted one by one.
            stats.malformed += 1;
            return;
        }
        let event = stats.requests.entry(row.event.clone()).or_default();
        event.count += 1;
        event.failed += failed;
        if row.state == RequestState::Completed
            && let Some(ms) = row.duration_ms
        {
            self.all.add(ms);
            self.latencies.entry(row.event.clone()).or_default().add(ms);
        }
    }

    fn finish(mut self) -> JournalStats {
        self.stats.latency = self.all.figures();
        self.stats.nodes = self.nodes.finish(self.stats.newest.as_deref());
        for (event, latencies) in self.latencies {
            let EventStats { latency, .. } = self.stats.requests.entry(event).or_default();
            *latency = latencies.figures();
        }
        self.stats
    }
}

struct Latencies {
    percentiles: Histogram<u64>,
    longest_ms: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        let percentiles = Histogram::new_with_bounds(1, LONGEST_US, 2).expect("1 to a year with two digits is a range");
        Self { percentiles, longest_ms: 0.0 }
    }
}

impl Latencies {
    /// If the clock was set back in between, the duration would be negative: it is left out.
    fn add(&mut self, ms: f64) {
        if ms >= 0.0 {
            self.percentiles.saturating_record((ms * 1000.0) as u64);
            self.longest_ms = self.longest_ms.max(ms);
        }
    }

    fn figures(&self) -> Option<Latency> {
        let ms = |us: u64| us as f64 / 1000.0;
        let quantile = |share: f64| ms(self.percentiles.value_at_quantile(share)).min(self.longest_ms);
        (!self.percentiles.is_empty()).then(|| Latency {
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
            max_ms: self.longest_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_a_percent() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.figures(), None);
        latencies.add(-5.0);
        assert_eq!(latencies.figures(), None);
        for ms in 1..=1000 {
            latencies.add(f64::from(ms));
        }
        let Latency { p50_ms, p90_ms, p99_ms, max_ms } = latencies.figures().unwrap();
        for (found, exact) in [(p50_ms, 500.0), (p90_ms, 900.0), (p99_ms, 990.0)] {
            assert!((found - exact).abs() <= exact / 100.0, "{found} for {exact}");
        }
        assert_eq!(max_ms, 1000.0);
    }

    #[test]
    fn the_longest_is_exact() {
        let mut latencies = Latencies::default();
        latencies.add(20_004.837);
        let figures = latencies.figures().unwrap();
        assert_eq!((figures.max_ms, figures.p99_ms), (20_004.837, 20_004.837));
    }
}

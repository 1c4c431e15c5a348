//! `journal stats`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::source::Source;
use super::{Context, WHOLE_MS, print_json};
use crate::api::stats::{JournalStats, Latency};
use crate::cli::flags::JournalFrom;
use crate::cli::outcome::{Exit, Outcome};
use crate::cli::output::{Cell, Column, Screen, Table, plain, size, span};
use crate::cli::progress::waiting;
use crate::control::client::within_ms;
use crate::terminal;

pub(super) fn run(context: &Context, from: &JournalFrom) -> Outcome {
    let mut source = Source::open(context, from)?;
    let stats = waiting("counting", || source.stats(within_ms(WHOLE_MS)))?;
    let screen = context.screen();
    if screen.json {
        print_json(&stats)?;
    } else {
        let mut out = terminal::out();
        print(&mut out, &screen, &stats)?;
        out.flush()?;
    }
    Ok(Exit::Done)
}

fn print(out: &mut impl Write, screen: &Screen, stats: &JournalStats) -> io::Result<()> {
    let mut line = |label: &str, text: String| writeln!(out, "{label:<11} {text}");
    line("entries", format!("{}, numbers {} to {}", stats.entries, stats.first, stats.last))?;
    if let Some(head) = &stats.head {
        line("head", plain(head))?;
    }
    if let (Some(oldest), Some(newest)) = (&stats.oldest, &stats.newest) {
        line("from", plain(&screen.precise_time(oldest)))?;
        line("to", plain(&screen.precise_time(newest)))?;
    }
    let states: Vec<String> = stats.states.iter().map(|(state, count)| format!("{count} {}", plain(state))).collect();
    line("requests", if states.is_empty() { "none".to_owned() } else { states.join(", ") })?;
    line("failed", stats.failed.to_string())?;
    line("unfinished", stats.unfinished.to_string())?;
    line("replays", stats.replays.to_string())?;
    line("duplicates", stats.duplicates.to_string())?;
    line("malformed", stats.malformed.to_string())?;
    if stats.unreadable > 0 {
        let text = format!("{}; `journal verify` says what is wrong", stats.unreadable);
        line("unreadable", screen.paint("31", &text))?;
    }
    let live = stats
        .bytes_live
        .map_or_else(|| "live unknown: it is damaged".to_owned(), |live| format!("{} live", size(live)));
    line("size", format!("{} on disk, {live}", size(stats.bytes_on_disk)))?;
    line("opened in", format!("{:.1} ms", stats.open_ms))?;
    requests(out, screen, stats)?;
    nodes(out, screen, stats)?;
    counts(out, screen, "SOURCE", "REQUESTS", &stats.sources)?;
    counts(out, screen, "EVENT", "COUNT", &stats.events)
}

const REQUESTS: [Column; 7] = [
    Column::text("REQUEST"),
    Column::number("COUNT"),
    Column::number("FAILED"),
    Column::number("P50 MS"),
    Column::number("P90 MS"),
    Column::number("P99 MS"),
    Column::number("MAX MS"),
];

fn requests(out: &mut impl Write, screen: &Screen, stats: &JournalStats) -> io::Result<()> {
    if stats.requests.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&REQUESTS, screen);
    for (event, figures) in &stats.requests {
        let mut cells = vec![Cell::new(event), Cell::new(figures.count.to_string())];
        cells.push(Cell::new(figures.failed.to_string()));
        cells.extend(latency_cells(figures.latency));
        table.row(out, cells)?;
    }
    if stats.requests.len() > 1 {
        let count: u64 = stats.requests.values().map(|figures| figures.count).sum();
        let failed: u64 = stats.requests.values().map(|figures| figures.failed).sum();
        let mut cells = vec![Cell::new("all"), Cell::new(count.to_string()), Cell::new(failed.to_string())];
        cells.extend(latency_cells(stats.latency));
        table.row(out, cells)?;
    }
    table.finish(out)
}

const NODES: [Column; 5] = [
    Column::text("NODE"),
    Column::number("STARTS"),
    Column::number("CRASHES"),
    Column::number("NOT RUNNING"),
    Column::long("CAUSES", 20),
];

fn nodes(out: &mut impl Write, screen: &Screen, stats: &JournalStats) -> io::Result<()> {
    if stats.nodes.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&NODES, screen);
    for (name, node) in &stats.nodes {
        let causes: Vec<String> = node.crashes.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        let crashes: u64 = node.crashes.values().sum();
        table.row(
            out,
            vec![
                Cell::new(name),
                Cell::new(node.starts.to_string()),
                Cell::new(crashes.to_string()),
                Cell::new(span(node.not_running_ms)),
                Cell::new(if causes.is_empty() { "-".to_owned() } else { causes.join(", ") }),
            ],
        )?;
    }
    table.finish(out)
}

fn latency_cells(latency: Option<Latency>) -> [Cell; 4] {
    match latency {
        None => [const { "-" }; 4].map(Cell::new),
        Some(Latency { p50_ms, p90_ms, p99_ms, max_ms }) => {
            [p50_ms, p90_ms, p99_ms, max_ms].map(|ms| Cell::new(format!("{ms:.1}")))
        }
    }
}

fn counts(
    out: &mut impl Write,
    screen: &Screen,
    what: &'static str,
    counted: &'static str,
    counts: &BTreeMap<String, u64>,
) -> io::Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let columns = [Column::text(what), Column::number(counted)];
    let mut table = Table::new(&columns, screen);
    for (name, count) in counts {
        table.row(out, vec![Cell::new(name), Cell::new(count.to_string())])?;
    }
    table.finish(out)
}

//! `journal`: reads it through the agent, or from its directory if none runs, or from a copy.

mod dump;
mod export;
mod prune;
mod rows;
mod source;
mod stats;
mod tail;

use std::io::Write;

use super::flags::{self, JournalFrom};
use super::outcome::{Exit, Failure, Outcome};
use super::output::{plain, size};
use super::progress::waiting;
use super::{Context, connect, print_json, time};
use crate::api::audit::Filter;
use crate::api::head::Anchor;
use crate::api::report::CompactReport;
use crate::control::client::within_ms;
use crate::terminal;

use rows::print_row;
use source::{More, Source};

/// For reading the whole journal.
const WHOLE_MS: u64 = 600_000;
/// For copying it while it is in use.
const COMPACT_MS: u64 = 3_600_000;

pub fn run(context: &Context, command: flags::Journal) -> Outcome {
    match command {
        flags::Journal::Dump(dump) => dump::run(context, &dump),
        flags::Journal::Tail(tail) => tail::run(context, &tail),
        flags::Journal::Show { reqid, from } => show(context, reqid, &from),
        flags::Journal::Prune(order) => prune::run(context, &order),
        flags::Journal::Stats { from } => stats::run(context, &from),
        flags::Journal::Compact { force } => compact(context, force),
        flags::Journal::Verify { anchor, from } => verify(context, anchor, &from),
        flags::Journal::Export { file, release, force, from } => {
            export::export(context, &file, export::How { force, for_release_1: release.is_some() }, &from)
        }
        flags::Journal::Import { salvage: Some(dir), .. } => export::import_salvage(context, &dir),
        flags::Journal::Import { file, salvage: None } => export::import(context, &file.unwrap_or_default()),
    }
}

fn show(context: &Context, reqid: String, from: &JournalFrom) -> Outcome {
    let mut source = Source::open(context, from)?;
    let filter = Filter { reqid: Some(reqid.clone()), ..Filter::default() };
    let screen = context.screen();
    let mut found = 0_usize;
    source.rows(&filter, |row| {
        if screen.json {
            print_json(&row)?;
        } else {
            let mut out = terminal::out();
            if found > 0 {
                writeln!(out)?;
            }
            print_row(&mut out, &screen, &row)?;
        }
        found += 1;
        Ok(More::Yes)
    })?;
    if found == 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!("the journal has no request with reqid {}; `journal dump` lists those that it has", plain(&reqid)),
        ));
    }
    Ok(Exit::Done)
}

fn compact(context: &Context, force: bool) -> Outcome {
    let report = source::compact(context, force, within_ms(COMPACT_MS))?;
    let screen = context.screen();
    if screen.json {
        print_json(&report)?;
        return Ok(Exit::Done);
    }
    let CompactReport { bytes_before, bytes_after, bytes_live, ms, .. } = report;
    let (before, after, live) = (size(bytes_before), size(bytes_after), size(bytes_live));
    let mut out = terminal::out();
    if report.compacted {
        writeln!(out, "{before} before, {after} now, {live} of it live; {:.1} s", ms / 1000.0)?;
    } else {
        writeln!(out, "{before}, {live} of it live: left as it is; --force compacts it anyway")?;
    }
    Ok(Exit::Done)
}

fn verify(context: &Context, anchor: Option<Anchor>, from: &JournalFrom) -> Outcome {
    let mut source = Source::open(context, from)?;
    let report = waiting("verifying", || source.verify(anchor, within_ms(WHOLE_MS)))?;
    if anchor.is_some() && report.anchor.is_none() && report.problems.is_empty() {
        let what = "the running agent is of a release that cannot compare its journal with a noted head; restart it with this one";
        return Err(Failure::new(Exit::Failed, what.to_owned()));
    }
    let screen = context.screen();
    let exit = if report.problems.is_empty() { Exit::Done } else { Exit::Failed };
    if screen.json {
        print_json(&report)?;
        return Ok(exit);
    }
    let mut out = terminal::out();
    for problem in &report.problems {
        writeln!(out, "{}: {}", screen.paint("31", "problem"), plain(problem))?;
    }
    for note in &report.notes {
        writeln!(out, "note: {}", plain(note))?;
    }
    let verdict = match exit {
        Exit::Done => screen.paint("32", "whole"),
        _ => screen.paint("31", &format!("{} problems", report.problems.len())),
    };
    writeln!(out, "{} entries, {} to {}: {verdict}", report.entries, report.first, report.last)?;
    if let Some(anchor) = &report.anchor {
        writeln!(out, "it continues {anchor}")?;
    }
    if !report.head.is_empty() {
        writeln!(out, "head {}", report.head)?;
    }
    Ok(exit)
}

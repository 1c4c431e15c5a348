//! `journal prune`.

use std::io::{self, Write};

use super::source::options;
use super::{Context, WHOLE_MS, connect, print_json};
use crate::api::prune::{PruneOrder, PruneReport};
use crate::cli::flags::Prune;
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::cli::output::size;
use crate::cli::progress::waiting;
use crate::cli::run::{journal_options, retention};
use crate::control::client::within_ms;
use crate::journal::retention::{Policy, PruneMode};
use crate::journal::{inspect, is_there, prune};
use crate::terminal;

const PRUNING: &str = "pruning";

pub(super) fn run(context: &Context, flags: &Prune) -> Outcome {
    let order =
        PruneOrder { older_than_ms: flags.older_than.map(|age| age.ms), keep: flags.keep, dry_run: flags.dry_run };
    let settings = context.settings()?;
    let report = match connect::find(&settings, &context.surroundings)? {
        Ok(mut client) => waiting(PRUNING, || client.prune(order, within_ms(WHOLE_MS))).map_err(connect::failed)?,
        Err(nobody) => {
            let mut places = connect::state_dirs(&settings, &context.surroundings).into_iter();
            let Some(directory) = places.find(|directory| is_there(directory)) else {
                return Err(nobody.into());
            };
            let failed = |error: &dyn std::error::Error| Failure::because(Exit::Failed, directory.display(), error);
            let policy = Policy::ordered(&order).unwrap_or_else(|| retention(&settings));
            let (sum, clock) = waiting(PRUNING, || {
                if order.dry_run {
                    let opened = inspect::state_dir(&directory, &options(&settings)).map_err(|error| failed(&error))?;
                    opened.preview_removal(&policy).map_err(|error| failed(&error))
                } else {
                    prune::offline(&directory, &journal_options(&settings), &policy).map_err(|error| failed(&error))
                }
            })?;
            sum.report(if order.dry_run { PruneMode::DryRun } else { PruneMode::Remove }, policy.clock(clock))
        }
    };
    let screen = context.screen();
    if screen.json {
        print_json(&report)?;
    } else {
        print(&mut terminal::out(), &report)?;
    }
    Ok(Exit::Done)
}

fn print(out: &mut impl Write, report: &PruneReport) -> io::Result<()> {
    let PruneReport { dry_run, entries, requests, responses, bytes, upto, held_by, clock_doubted } = report;
    let (go, free) = if *dry_run { ("would go", "would free") } else { ("are gone", "frees") };
    match (entries, responses) {
        (0, 0) => writeln!(out, "nothing {}", if *dry_run { "would go" } else { "was removed" })?,
        _ => {
            writeln!(out, "{entries} entries {go}, those up to {upto}; {requests} of them requests")?;
            if *responses > 0 {
                writeln!(out, "{responses} responses of get_nodes and get-id-value {go}, all but their digests")?;
            }
            writeln!(out, "that {free} {} for new entries; `journal compact` makes the files smaller", size(*bytes))?;
        }
    }
    if let Some(seq) = held_by {
        writeln!(out, "note: request {seq} has no outcome yet; it and what came after it stay")?;
    }
    if *clock_doubted {
        writeln!(
            out,
            "note: the clock is far ahead of what the journal has seen; nothing goes for its age (--keep goes by number)"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_goes_and_what_keeps_the_rest() {
        let report = PruneReport { entries: 3, requests: 2, bytes: 2048, upto: 7, ..PruneReport::default() };
        let text = |report: &PruneReport| {
            let mut out = Vec::new();
            print(&mut out, report).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(&report),
            "3 entries are gone, those up to 7; 2 of them requests\n\
             that frees 2.0 KiB for new entries; `journal compact` makes the files smaller\n"
        );
        let held = PruneReport { dry_run: true, held_by: Some(9), clock_doubted: true, ..PruneReport::default() };
        assert!(text(&held).starts_with("nothing would go\nnote: request 9 has no outcome yet"), "{}", text(&held));
    }
}

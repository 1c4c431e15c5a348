//! `journal dump`: flags to a filter, and the rows that it wants in the form that is wanted.

use jiff::ZonedDateTime;

use super::rows::{self, Printer};
use super::source::{More, Source};
use super::{Context, time};
use crate::api::audit::{Filter, Kind, RequestState};
use crate::api::ids::Seq;
use crate::cli::flags::{self, Dump, DumpFormat, Select};
use crate::cli::outcome::{Exit, Failure, Outcome};

/// The flags that say which rows, as what the journal is asked.
pub(super) fn filter(select: &Select, now: &ZonedDateTime) -> Result<Filter, Failure> {
    let moment = |flag: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match time::parse(text, now) {
            Ok(moment) => Ok(Some(moment)),
            Err(problem) => Err(Failure::new(Exit::Usage, format!("{flag}: {problem}"))),
        },
    };
    let state = select.state.map(|state| match state {
        flags::State::Accepted => RequestState::Accepted,
        flags::State::Handling => RequestState::Handling,
        flags::State::Completed => RequestState::Completed,
        flags::State::Conflict => RequestState::Conflict,
        flags::State::Rejected => RequestState::Rejected,
        flags::State::Abandoned => RequestState::Abandoned,
    });
    Ok(Filter {
        kind: match select.kind {
            flags::Kind::Request => Kind::Request,
            flags::Kind::Node => Kind::Node,
            flags::Kind::All => Kind::All,
        },
        since: moment("--since", &select.since)?,
        until: moment("--until", &select.until)?,
        reqid: select.reqid.clone(),
        event: select.event.clone(),
        state,
        source: select.source.clone(),
        failed: select.failed,
        node: select.node.clone(),
        ..Filter::default()
    })
}

pub(super) fn run(context: &Context, dump: &Dump) -> Outcome {
    let mut filter = filter(&dump.select, &ZonedDateTime::now())?;
    filter.from_seq = dump.from_seq.map(Seq);
    filter.to_seq = dump.to_seq.map(Seq);
    filter.reverse = dump.reverse;
    let mut source = Source::open(context, &dump.from)?;
    let screen = context.screen();
    let format = rows::form(dump.format, &screen);
    let mut printer = Printer::new(format, &screen, rows::out(format));
    match dump.last {
        // Nobody counts rows, so lines will do.
        None => {
            filter.as_lines = format == DumpFormat::Json;
            source.pages(&filter, |page| printer.page(&page).map(|()| More::Yes))?;
        }
        Some(0) => {}
        Some(last) => {
            // Found from the end, printed in order: nothing has to be kept meanwhile.
            let first = if dump.reverse { None } else { source.nth_newest(&filter, last)? };
            filter.from_seq = first.or(filter.from_seq);
            let mut left = last;
            source.rows(&filter, |row| {
                printer.print(&row)?;
                left -= 1;
                Ok(if left > 0 { More::Yes } else { More::No })
            })?;
        }
    }
    printer.flush()?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_filter() {
        use clap::Parser;
        let line = "zeek-cluster-agent journal dump --since 2026-11-22T08:31:00Z --state conflict --kind node --failed \
                    --event deploy";
        let cli = flags::Cli::try_parse_from(line.split_whitespace()).unwrap();
        let flags::Command::Journal(flags::Journal::Dump(dump)) = cli.command else { panic!("another command") };
        let found = filter(&dump.select, &ZonedDateTime::now()).unwrap();
        let expected = Filter {
            kind: Kind::Node,
            since: Some(crate::api::time::Timestamp(1_795_336_260_000_000)),
            state: Some(RequestState::Conflict),
            failed: true,
            event: Some("deploy".into()),
            ..Filter::default()
        };
        assert_eq!(found, expected);
        let bad = Select { since: Some("soon".into()), ..dump.select };
        assert!(matches!(filter(&bad, &ZonedDateTime::now()), Err(Failure::Said { exit: Exit::Usage, .. })));
    }
}

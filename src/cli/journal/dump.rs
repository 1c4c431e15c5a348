//! `journal dump`: flags to a filter, and the rows that it wants in the form that is wanted.

use jiff::ZonedDateTime;

use super::rows::Printer;
use super::source::{More, Source};
use super::{Context, time};
use crate::api::audit::{Filter, Kind, RequestState};
use crate::api::ids::Seq;
use crate::cli::flags::{self, Dump, DumpFormat};
use crate::cli::outcome::{Exit, Failure, Outcome};

fn filter(dump: &Dump, now: &ZonedDateTime) -> Result<Filter, Failure> {
    let moment = |flag: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match time::parse(text, now) {
            Ok(moment) => Ok(Some(moment)),
            Err(problem) => Err(Failure::new(Exit::Usage, format!("{flag}: {problem}"))),
        },
    };
    let state = dump.state.map(|state| match state {
        flags::State::Accepted => RequestState::Accepted,
        flags::State::Handling => RequestState::Handling,
        flags::State::Completed => RequestState::Completed,
        flags::State::Conflict => RequestState::Conflict,
        flags::State::Rejected => RequestState::Rejected,
        flags::State::Abandoned => RequestState::Abandoned,
    });
    Ok(Filter {
        kind: match dump.kind {
            flags::Kind::Request => Kind::Request,
            flags::Kind::Node => Kind::Node,
            flags::Kind::All => Kind::All,
        },
        since: moment("--since", &dump.since)?,
        until: moment("--until", &dump.until)?,
        reqid: dump.reqid.clone(),
        event: dump.event.clone(),
        state,
        source: dump.source.clone(),
        failed: dump.failed,
        node: dump.node.clone(),
        from_seq: dump.from_seq.map(Seq),
        to_seq: dump.to_seq.map(Seq),
        reverse: dump.reverse,
    })
}

pub(super) fn run(context: &Context, dump: &Dump) -> Outcome {
    let mut filter = filter(dump, &ZonedDateTime::now())?;
    let mut source = Source::open(context, &dump.from)?;
    let screen = context.screen();
    let format = match (dump.format, screen.json) {
        (Some(format), _) => format,
        (None, true) => DumpFormat::Json,
        (None, false) if screen.is_terminal => DumpFormat::Table,
        (None, false) => DumpFormat::Json,
    };
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printer = Printer::new(format, &screen, out);
    match dump.last {
        None => source.rows(&filter, |row| printer.print(&row).map(|()| More::Yes))?,
        Some(last) => {
            filter.reverse = true;
            let mut newest = Vec::new();
            source.rows(&filter, |row| {
                if newest.len() < last {
                    newest.push(row);
                }
                Ok(if newest.len() < last { More::Yes } else { More::No })
            })?;
            if !dump.reverse {
                newest.reverse();
            }
            for row in &newest {
                printer.print(row)?;
            }
        }
    }
    printer.finish()?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_filter() {
        use clap::Parser;
        let line = "zeek-cluster-agent journal dump --since 2026-11-22T08:31:00Z --state conflict --kind node --failed \
                    --from-seq 3 --reverse --event deploy";
        let cli = flags::Cli::try_parse_from(line.split_whitespace()).unwrap();
        let flags::Command::Journal(flags::Journal::Dump(dump)) = cli.command else { panic!("another command") };
        let found = filter(&dump, &ZonedDateTime::now()).unwrap();
        let expected = Filter {
            kind: Kind::Node,
            since: Some(crate::api::time::Timestamp(1_795_336_260_000_000)),
            state: Some(RequestState::Conflict),
            failed: true,
            from_seq: Some(Seq(3)),
            reverse: true,
            event: Some("deploy".into()),
            ..Filter::default()
        };
        assert_eq!(found, expected);
        let bad = Dump { since: Some("soon".into()), ..*dump };
        assert!(matches!(filter(&bad, &ZonedDateTime::now()), Err(Failure::Said { exit: Exit::Usage, .. })));
    }
}

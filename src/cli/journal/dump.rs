//! `journal dump`: flags to a filter, and the rows that it wants in the form that is wanted.

use jiff::ZonedDateTime;

use super::Context;
use super::rows::{self, Printer};
use super::source::{More, Source};
use super::time::{self, Bound};
use crate::api::audit::{Filter, Kind, RequestState};
use crate::api::ids::Seq;
use crate::api::source::divided;
use crate::cli::flags::{self, Dump, DumpFormat, Select};
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::journal;

/// The flags that say which rows, as what the journal is asked.
pub(super) fn filter(select: &Select, now: &ZonedDateTime) -> Result<Filter, Failure> {
    let moment = |flag: &str, text: &Option<String>, bound| match text {
        None => Ok(None),
        Some(text) => match time::parse(text, now, bound) {
            Ok(moment) => Ok(Some(moment)),
            Err(problem) => Err(Failure::new(Exit::Usage, format!("{flag}: {problem}"))),
        },
    };
    for event in &select.event {
        if let Err(nearest) = journal::check_event(event) {
            let what =
                format!("--event: nothing in the journal is called {event:?}; the most similar name is {nearest}");
            return Err(Failure::new(Exit::Usage, what));
        }
    }
    let state = |state: &flags::State| match state {
        flags::State::Accepted => RequestState::Accepted,
        flags::State::Handling => RequestState::Handling,
        flags::State::Completed => RequestState::Completed,
        flags::State::Conflict => RequestState::Conflict,
        flags::State::Rejected => RequestState::Rejected,
        flags::State::Abandoned => RequestState::Abandoned,
    };
    let mut filter = Filter {
        kind: match select.kind {
            Some(flags::Kind::Request) => Kind::Request,
            Some(flags::Kind::Node) => Kind::Node,
            Some(flags::Kind::All) => Kind::All,
            // What went wrong is a request or a node.
            None if select.failed => Kind::All,
            None => Kind::Request,
        },
        since: moment("--since", &select.since, Bound::Since)?,
        until: moment("--until", &select.until, Bound::Until)?,
        failed: select.failed,
        ..Filter::default()
    };
    let sources: Vec<String> = select.source.iter().map(|words| without_names(words)).collect();
    (filter.reqid, filter.one_of.reqids) = split(&select.reqid);
    (filter.event, filter.one_of.events) = split(&select.event);
    (filter.state, filter.one_of.states) = split(&select.state.iter().map(state).collect::<Vec<_>>());
    (filter.source, filter.one_of.sources) = split(&sources);
    (filter.node, filter.one_of.nodes) = split(&select.node);
    Ok(filter)
}

/// One value, or several of which one will do.
fn split<T: Clone>(values: &[T]) -> (Option<T>, Vec<T>) {
    match values {
        [one] => (Some(one.clone()), Vec::new()),
        several => (None, several.to_vec()),
    }
}

/// As a terminal shows a source, without the names beside users' numbers: `uid=0(root)`.
fn without_names(words: &str) -> String {
    let word = |word: &str| match word.split_once('(') {
        Some((uid, name)) if word.starts_with("uid=") && name.ends_with(')') => uid.to_owned(),
        Some(_) | None => word.to_owned(),
    };
    let (known, _) = divided(words);
    let subject = words.strip_prefix(known).unwrap_or_default();
    known.split(' ').map(word).collect::<Vec<_>>().join(" ") + subject
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
            // Found from the end, printed in order: no row has to be kept in memory.
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

    fn of(line: &str) -> Result<Filter, Failure> {
        use clap::Parser;
        let words = format!("zeek-cluster-agent journal dump {line}");
        let cli = flags::Cli::try_parse_from(words.split_whitespace()).unwrap();
        let flags::Command::Journal(flags::Journal::Dump(dump)) = cli.command else { panic!("another command") };
        filter(&dump.select, &ZonedDateTime::now())
    }

    #[test]
    fn filters_can_be_given_several_times() {
        let found =
            of("--event deploy --event standby --state conflict --state rejected --source uid=0(root)").unwrap();
        assert_eq!(found.one_of.events, ["deploy", "standby"]);
        assert_eq!(found.one_of.states, [RequestState::Conflict, RequestState::Rejected]);
        assert_eq!((found.event, found.source.as_deref()), (None, Some("uid=0")));
        assert_eq!(of("--failed").unwrap().kind, Kind::All);
        assert_eq!(of("--failed --kind request").unwrap().kind, Kind::Request);
    }

    #[test]
    fn an_event_that_there_is_not_is_refused_with_the_nearest() {
        let Err(Failure::Said { exit: Exit::Usage, message }) = of("--event deplyo") else { panic!("it was taken") };
        assert_eq!(message, "--event: nothing in the journal is called \"deplyo\"; the most similar name is deploy");
    }
}

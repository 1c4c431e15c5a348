//! `journal tail`: the newest rows, and with `--follow` what comes.
//!
//! Only what is durable is printed. A request that has no outcome when its turn comes is printed as it is then, and once
//! more when it has one. `--cursor-file` keeps both how far that came and which requests are still to be told of, so that
//! the next run goes on there: after a kill some rows may come twice, none is left out.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use jiff::ZonedDateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Context;
use super::dump::filter;
use super::rows::{self, Printer};
use super::source::{More, Source};
use crate::api::audit::{Filter, Kind, RequestState, Row};
use crate::api::ids::Seq;
use crate::cli::flags::Tail;
use crate::cli::outcome::{Exit, Failure, Outcome};
use crate::terminal::to_stderr;

/// Rows to begin with.
const LINES: usize = 10;
/// How often the agent is asked for more. Short for a person who waits, and next to no work for the agent.
const PAUSE: Duration = Duration::from_millis(250);
/// How often an agent that went away is looked for.
const ABSENCE: Duration = Duration::from_secs(1);
/// Unfinished requests that are looked up in one round; there are rarely more than a few.
const LOOKED_UP: usize = 64;
/// No cursor is longer: the numbers of as many requests as may be unfinished.
const CURSOR_LIMIT: u64 = 64 << 10;

pub(super) fn run(context: &Context, tail: &Tail) -> Outcome {
    let filter = filter(&tail.select, &ZonedDateTime::now())?;
    let cursor = tail.cursor_file.as_deref().map(read_cursor).transpose()?.flatten();
    let mut source = if tail.follow { Source::agent(context)? } else { Source::open(context, &tail.from)? };
    let screen = context.screen();
    let format = rows::form(tail.format, &screen);
    let mut printer = Printer::new(format, &screen, rows::out(format));
    let last = source.last()?;
    let cursor = match cursor {
        Some(cursor) if cursor.next > last.next() => {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "the cursor is at entry {} and the journal ends at {last}: it was kept for another journal, or this one \
                     has lost entries; remove the cursor file to start over",
                    cursor.next
                ),
            ));
        }
        // All since, or the newest of them.
        Some(cursor) => match tail.lines {
            None => cursor,
            Some(lines) => {
                let since = Filter { from_seq: Some(cursor.next), to_seq: Some(last), ..filter.clone() };
                Cursor { next: source.nth_newest(&since, lines)?.unwrap_or(last.next()), ..cursor }
            }
        },
        None => {
            let all = Filter { to_seq: Some(last), ..filter.clone() };
            let first = source.nth_newest(&all, tail.lines.unwrap_or(LINES))?;
            Cursor { next: first.unwrap_or(last.next()), unfinished: BTreeSet::new() }
        }
    };
    let mut follower = Follower { filter, cursor, kept: tail.cursor_file.clone() };
    follower.print(&mut source, &mut printer, last)?;
    if !tail.follow {
        return Ok(Exit::Done);
    }
    loop {
        sleep(PAUSE);
        let printed = source.last().and_then(|last| follower.print(&mut source, &mut printer, last));
        match printed {
            Ok(()) => {}
            Err(Failure::Said { exit: Exit::Unreachable, message }) => {
                to_stderr!("{message}; waiting for it");
                source = wait_for_agent(context)?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A stopped agent is usually started again soon.
fn wait_for_agent(context: &Context) -> Result<Source, Failure> {
    loop {
        sleep(ABSENCE);
        match Source::agent(context) {
            Ok(source) => return Ok(source),
            Err(Failure::Said { exit: Exit::Unreachable, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// How far it came. Written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// The first entry that was not looked at.
    next: Seq,
    /// Requests before it that had no outcome.
    unfinished: BTreeSet<Seq>,
}

struct Follower {
    filter: Filter,
    cursor: Cursor,
    kept: Option<PathBuf>,
}

impl Follower {
    /// Prints what there is up to entry `last`, and keeps how far that is.
    fn print<W: Write>(&mut self, source: &mut Source, printer: &mut Printer<'_, W>, last: Seq) -> Result<(), Failure> {
        let before = self.cursor.clone();
        self.finished(source, printer)?;
        if self.cursor.next <= last {
            self.tell_of_removed(source)?;
            let range = Filter { from_seq: Some(self.cursor.next), to_seq: Some(last), ..self.filter.clone() };
            // First: one that finishes meanwhile is then found with its outcome, below.
            for state in [RequestState::Accepted, RequestState::Handling] {
                let unfinished = Filter { state: Some(state), failed: false, ..range.clone() };
                source.rows(&unfinished, |row| {
                    if matches!(row, Row::Request(_)) {
                        self.cursor.unfinished.insert(row.seq());
                    }
                    Ok(More::Yes)
                })?;
            }
            source.rows(&range, |row| {
                if is_finished(&row) {
                    self.cursor.unfinished.remove(&row.seq());
                }
                printer.print(&row).map(|()| More::Yes)
            })?;
            self.cursor.next = last.next();
        }
        printer.flush()?;
        match &self.kept {
            Some(path) if self.cursor != before || !path.exists() => write_cursor(path, &self.cursor),
            Some(_) | None => Ok(()),
        }
    }

    /// What was removed since the cursor was kept is told of by an entry after it, which may lie after all that is printed
    /// this time: a removal can be read before it is durable.
    fn tell_of_removed(&self, source: &mut Source) -> Result<(), Failure> {
        let from = self.cursor.next;
        let removals =
            Filter { kind: Kind::All, event: Some("pruned".to_owned()), from_seq: Some(from), ..Filter::default() };
        let mut upto = 0;
        source.rows(&removals, |row| {
            if let Row::Event(row) = row {
                upto = row.detail.get("upto").and_then(Value::as_u64).unwrap_or_default().max(upto);
            }
            Ok(More::Yes)
        })?;
        if upto >= from.0 {
            to_stderr!("the entries {from} to {upto} were removed by retention before they could be printed");
        }
        Ok(())
    }

    /// Prints those that had no outcome and have one now.
    fn finished<W: Write>(&mut self, source: &mut Source, printer: &mut Printer<'_, W>) -> Result<(), Failure> {
        let asked: Vec<Seq> = self.cursor.unfinished.iter().copied().take(LOOKED_UP).collect();
        for seq in asked {
            let any = Filter { from_seq: Some(seq), to_seq: Some(seq), ..Filter::default() };
            let (mut done, mut found) = (true, false);
            source.rows(&any, |row| {
                (done, found) = (is_finished(&row), true);
                Ok(More::No)
            })?;
            if !found {
                to_stderr!("request {seq} was removed by retention before its outcome could be printed");
            }
            if done {
                self.cursor.unfinished.remove(&seq);
                let wanted = Filter { from_seq: Some(seq), to_seq: Some(seq), ..self.filter.clone() };
                source.rows(&wanted, |row| printer.print(&row).map(|()| More::Yes))?;
            }
        }
        Ok(())
    }
}

fn is_finished(row: &Row) -> bool {
    match row {
        Row::Request(row) => match row.state {
            RequestState::Accepted | RequestState::Handling => false,
            RequestState::Completed | RequestState::Conflict | RequestState::Rejected | RequestState::Abandoned => true,
        },
        Row::Event(_) | Row::Unreadable(_) => true,
    }
}

fn failed(what: &str, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::because(Exit::Failed, format!("{what} the cursor file {}", path.display()), error)
}

/// `None` if there is no such file yet.
fn read_cursor(path: &Path) -> Result<Option<Cursor>, Failure> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot look at", path, &error)),
    };
    if length > CURSOR_LIMIT {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} is not a cursor file ({length} bytes); give another, or remove it to start over",
                path.display()
            ),
        ));
    }
    let text = fs::read(path).map_err(|error| failed("cannot read", path, &error))?;
    let cursor = serde_json::from_slice(&text).map_err(|error| {
        let what = format!("the cursor file {} is damaged; remove it to start over", path.display());
        Failure::because(Exit::Failed, what, &error)
    })?;
    Ok(Some(cursor))
}

/// All of it or the one before, also after a power cut.
fn write_cursor(path: &Path, cursor: &Cursor) -> Result<(), Failure> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let text = serde_json::to_vec(cursor).expect("numbers are JSON");
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        fs::rename(&aside, path)
    };
    write().map_err(|error| failed("cannot write", path, &error))
}

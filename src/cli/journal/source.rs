//! Where the rows of a `journal` command come from: an agent, or a directory.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use super::{Context, connect};
use crate::api::audit::{Filter, Page, Row};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::head::Anchor;
use crate::api::ids::Seq;
use crate::api::report::{CompactReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::cli::flags::JournalFrom;
use crate::cli::outcome::{Exit, Failure};
use crate::cli::progress::waiting;
use crate::cli::run::{journal_options, set_up_log};
use crate::control::client::{Client, Deadline, within_ms};
use crate::journal::inspect::{self, Inspection, Opening};
use crate::journal::{self, Options};
use crate::settings::Settings;
use crate::terminal::to_stderr;

/// For one page; a filter that matches little makes the agent read much.
const PAGE_MS: u64 = 60_000;
/// What is read is a copy.
const OPENING: &str = "copying and opening the journal";

/// Where rows come from.
pub(super) enum Source {
    Agent(Box<Client>),
    Directory(Box<Inspection>),
}

impl Source {
    pub(super) fn open(context: &Context, from: &JournalFrom) -> Result<Self, Failure> {
        let settings = context.settings()?;
        if let Some(directory) = &from.dir {
            let opened = waiting(OPENING, || inspect::copied_dir(directory, &options(&settings)));
            return Self::directory(opened, directory);
        }
        let nobody = match connect::find(&settings, &context.surroundings)? {
            Ok(client) => return Ok(Self::Agent(Box::new(client))),
            Err(nobody) => nobody,
        };
        for directory in connect::state_dirs(&settings, &context.surroundings) {
            if journal::is_there(&directory) {
                let opened = waiting(OPENING, || inspect::state_dir(&directory, &options(&settings)));
                return Self::directory(opened, &directory);
            }
        }
        Err(nobody.into())
    }

    /// Through the agent or not at all.
    pub(super) fn agent(context: &Context) -> Result<Self, Failure> {
        Ok(Self::Agent(Box::new(connect::connect(context)?)))
    }

    fn directory(opened: Result<Inspection, inspect::InspectError>, directory: &Path) -> Result<Self, Failure> {
        let inspection = opened.map_err(|error| Failure::because(Exit::Failed, directory.display(), &error))?;
        match inspection.opening() {
            Opening::Whole => {}
            Opening::WithoutSnapshots => {
                to_stderr!("warning: the journal is damaged; it was read without its snapshots, rows may be missing");
            }
        }
        Ok(Self::Directory(Box::new(inspection)))
    }

    /// Releases before some part of a filter skip it, and would give rows that nobody asked for.
    fn check(filter: &Filter, page: &Page) -> Result<(), Failure> {
        if page.is_exact || !filter.needs_all() {
            return Ok(());
        }
        let what = "the running agent is of a release that does not know these filters; restart it with this one (its nodes run on), or give \
                    each filter once and none by source";
        Err(Failure::new(Exit::Failed, what))
    }

    pub(super) fn page(&mut self, filter: &Filter, cursor: Option<Seq>) -> Result<Page, Failure> {
        match self {
            Self::Agent(client) => client.page(filter, cursor, within_ms(PAGE_MS)).map_err(connect::failed),
            Self::Directory(inspection) => inspection
                .page(filter, cursor)
                .map_err(|error| Failure::because(Exit::Failed, "cannot read the journal", &error)),
        }
    }

    pub(super) fn verify(&mut self, anchor: Option<Anchor>, deadline: Deadline) -> Result<VerifyReport, Failure> {
        match self {
            Self::Agent(client) => client.verify(anchor, deadline).map_err(connect::failed),
            Self::Directory(inspection) => inspection
                .verify(anchor.as_ref())
                .map_err(|error| Failure::because(Exit::Failed, "cannot read the journal", &error)),
        }
    }

    /// A stretch of the journal as a stream, from `cursor` or its beginning on.
    pub(super) fn export(&mut self, cursor: Option<&ExportCursor>) -> Result<ExportChunk, Failure> {
        match self {
            Self::Agent(client) => client.export(cursor, within_ms(PAGE_MS)).map_err(connect::failed),
            Self::Directory(inspection) => inspection
                .export(cursor)
                .map_err(|error| Failure::because(Exit::Failed, "the journal cannot be exported", &error)),
        }
    }

    pub(super) fn stats(&mut self, deadline: Deadline) -> Result<JournalStats, Failure> {
        match self {
            Self::Agent(client) => client.stats(deadline).map_err(connect::failed),
            Self::Directory(inspection) => {
                inspection.stats().map_err(|error| Failure::because(Exit::Failed, "cannot read the journal", &error))
            }
        }
    }

    /// The newest durable entry.
    pub(super) fn last(&mut self) -> Result<Seq, Failure> {
        match self {
            Self::Agent(client) => {
                client.status(within_ms(PAGE_MS)).map(|status| Seq(status.journal.last)).map_err(connect::failed)
            }
            Self::Directory(inspection) => {
                inspection.last().map_err(|error| Failure::because(Exit::Failed, "cannot read the journal", &error))
            }
        }
    }

    /// Where the newest `count` rows that match begin; `None` if there is none of them.
    pub(super) fn nth_newest(&mut self, filter: &Filter, count: usize) -> Result<Option<Seq>, Failure> {
        let backwards = Filter { reverse: true, ..filter.clone() };
        let (mut first, mut found) = (None, 0);
        if count > 0 {
            self.rows(&backwards, |row| {
                first = Some(row.seq());
                found += 1;
                Ok(if found < count { More::Yes } else { More::No })
            })?;
        }
        Ok(first)
    }

    /// Hands every row that matches to `each`, until it wants no more.
    pub(super) fn rows(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(Row) -> Result<More, Failure>,
    ) -> Result<(), Failure> {
        self.pages(filter, |page| {
            for row in page.rows {
                if each(row)? == More::No {
                    return Ok(More::No);
                }
            }
            Ok(More::Yes)
        })
    }

    /// As [`Source::rows`], a page at a time.
    pub(super) fn pages(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(Page) -> Result<More, Failure>,
    ) -> Result<(), Failure> {
        if let Self::Agent(client) = self {
            return pages_of_agent(client, filter, each);
        }
        let mut cursor = None;
        loop {
            let page = self.page(filter, cursor)?;
            cursor = page.next;
            if each(page)? == More::No || cursor.is_none() {
                return Ok(());
            }
        }
    }
}

/// As [`Source::pages`]. Each page is asked for before the one before it is looked at, so that both sides work.
fn pages_of_agent(
    client: &mut Client,
    filter: &Filter,
    mut each: impl FnMut(Page) -> Result<More, Failure>,
) -> Result<(), Failure> {
    let mut asked = Some(client.ask_page(filter, None).map_err(connect::failed)?);
    while let Some(call) = asked {
        let page = client.take_page(call, within_ms(PAGE_MS)).map_err(connect::failed)?;
        Source::check(filter, &page)?;
        asked = page.next.map(|cursor| client.ask_page(filter, Some(cursor))).transpose().map_err(connect::failed)?;
        if each(page)? == More::No {
            return match asked {
                // Nobody else would take it.
                Some(call) => client.take_page(call, within_ms(PAGE_MS)).map(drop).map_err(connect::failed),
                None => Ok(()),
            };
        }
    }
    Ok(())
}

/// Has the agent compact its journal, or does so if none runs.
pub(super) fn compact(context: &Context, force: bool, deadline: Deadline) -> Result<CompactReport, Failure> {
    let settings = context.settings()?;
    let nobody = match connect::find(&settings, &context.surroundings)? {
        Ok(mut client) => {
            if std::io::stderr().is_terminal() {
                to_stderr!("the agent copies its journal beside its work; its log tells how far it is");
            }
            return waiting("compacting", || client.compact(force, deadline)).map_err(connect::failed);
        }
        Err(nobody) => nobody,
    };
    let directories = connect::state_dirs(&settings, &context.surroundings);
    let Some(directory) = directories.into_iter().find(|directory| journal::is_there(directory)) else {
        return Err(nobody.into());
    };
    let level = if std::io::stderr().is_terminal() { tracing::Level::INFO } else { tracing::Level::WARN };
    set_up_log(context, &settings, level)?;
    journal::compact_offline(&directory, &journal_options(&settings), force).map_err(|error| {
        Failure::because(Exit::Failed, format!("the journal of {} was not compacted", directory.display()), &error)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Yes,
    No,
}

pub(super) fn options(settings: &Settings) -> Options {
    Options {
        cache_capacity: settings.journal_cache.bytes,
        open_timeout: Duration::from_millis(settings.journal_open_timeout.ms),
        ..Options::default()
    }
}

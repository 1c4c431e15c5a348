//! The handle for reading the journal, concurrently with its writer or offline.

use std::sync::Arc;

use super::page;
use super::stats;
use crate::api::audit::{Filter, Page};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::head::Anchor;
use crate::api::ids::{ReqId, Seq};
use crate::api::report::VerifyReport;
use crate::api::stats::JournalStats;
use crate::api::time::Timestamp;
use crate::journal::format::codec::Hash;
use crate::journal::format::entry::{Known, Removal};
use crate::journal::format::keys;
use crate::journal::format::versions::records::HistoryRecord;
use crate::journal::store::database::Database;
use crate::journal::store::shared::SharedDatabase;
use crate::journal::tree::export::{self, ExportError};
use crate::journal::tree::recover;
use crate::journal::tree::retention::{self, ClockTrust, Policy, RemovalStep};
use crate::journal::tree::table::{ReadError, Table};
use crate::journal::tree::verify;

/// Reads while the journal is written to. Cheap to clone; every clone keeps the journal open.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<SharedDatabase>,
}

impl Reader {
    pub(in crate::journal) fn new(database: Arc<SharedDatabase>) -> Self {
        Self { database }
    }

    fn database(&self) -> Result<Arc<Database>, ReadError> {
        self.database.get().map_err(|source| ReadError::Storage { what: "the history".to_owned(), source })
    }

    /// The rows that match `filter`, from `cursor` (a page's `next`) or the beginning. Blocks on the disk.
    pub fn page(&self, filter: &Filter, cursor: Option<Seq>) -> Result<Page, ReadError> {
        page::page(self.database()?.as_ref(), filter, cursor)
    }

    /// The newest entry.
    pub fn last(&self) -> Result<Seq, ReadError> {
        self.database()?.last()
    }

    /// What is durable about a reqid; an empty one is never known.
    pub fn lookup(&self, reqid: &ReqId) -> Result<Option<Known>, ReadError> {
        recover::lookup(self.database()?.as_ref(), reqid)
    }

    /// Checks everything (see [`verify`]), and whether the journal continues `anchor`. Takes as long as reading the
    /// whole journal.
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<VerifyReport, ReadError> {
        verify::verify(self.database()?.as_ref(), None, anchor)
    }

    /// Everything except the size on disk and the time to open. Takes as long as reading the whole journal.
    pub fn stats(&self) -> Result<JournalStats, ReadError> {
        stats::stats(self.database()?.as_ref())
    }

    /// As [`Self::verify`], knowing how far the journal had come.
    pub(in crate::journal) fn verify_to(
        &self,
        noted: Option<(Seq, Option<Hash>)>,
        anchor: Option<&Anchor>,
    ) -> Result<VerifyReport, ReadError> {
        verify::verify(self.database()?.as_ref(), noted, anchor)
    }

    /// A chunk of the journal as a stream (see [`export`]), from `cursor` or the beginning on. Blocks on the disk.
    pub fn export(&self, cursor: Option<&ExportCursor>, now: Timestamp) -> Result<ExportChunk, ExportError> {
        export::chunk(self.database()?.as_ref(), cursor, now)
    }

    /// The next step of retention towards `policy`; `None`: there is nothing to remove. Blocks on the disk.
    pub fn next_removal(&self, policy: &Policy, now: Timestamp) -> Result<Option<RemovalStep>, ReadError> {
        retention::next(self.database()?.as_ref(), policy, now)
    }

    /// The sum of all steps towards `policy`. Blocks on the disk.
    pub fn preview_removal(&self, policy: &Policy, now: Timestamp) -> Result<RemovalStep, ReadError> {
        retention::preview(self.database()?.as_ref(), policy, now)
    }

    /// Whether the clock may make anything too old, as far as the journal can tell.
    pub fn clock_trust(&self, now: Timestamp) -> Result<ClockTrust, ReadError> {
        retention::clock_trust(self.database()?.as_ref(), now)
    }

    /// Whether a step that was decided is durable.
    pub fn is_removed(&self, removal: &Removal) -> Result<bool, ReadError> {
        let history = self.database()?.record::<HistoryRecord>(keys::HISTORY)?.unwrap_or_default();
        Ok(history.first > removal.upto && history.trimmed >= removal.trimmed)
    }

    /// Releases the database without waiting for a damaged one to close.
    pub(in crate::journal) fn abandon(self) {
        if let Some(database) = Arc::into_inner(self.database) {
            database.abandon();
        }
    }
}

//! What the control socket needs from the agent, in addition to what every transport does.

use std::future::Future;

use super::message::{LogChunk, LogQuery};
use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::Source;
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::figures::Figures;
use crate::api::head::Anchor;
use crate::api::history::{PastReport, Which};
use crate::api::ids::{NodeName, Seq};
use crate::api::plan::Plan;
use crate::api::preflight::HostReport;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{CompactReport, SettingReport, StatusReport, VerifyReport};
use crate::api::stats::JournalStats;
use crate::transport::Agent;

/// The other end of a connection, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The user that it runs as.
    pub uid: u32,
    /// That user's primary group.
    pub gid: u32,
    /// `None` if the peer is in another pid namespace.
    pub pid: Option<i32>,
}

impl Credentials {
    /// As the journal records it.
    pub(super) fn source(self) -> Source {
        let peer = match self.pid {
            Some(pid) => format!("uid={} pid={pid}", self.uid),
            None => format!("uid={}", self.uid),
        };
        Source { transport: "control".to_owned(), peer }
    }
}

/// The agent, as the control socket sees it. Methods that are not futures never wait.
pub trait ControlAgent: Agent {
    /// A node says, through the socket, that it is ready.
    fn check_in(&self, node: NodeName, credentials: Credentials) -> impl Future<Output = Result<(), String>> + Send;
    /// The state of the agent, its journal and its nodes.
    fn status(&self) -> impl Future<Output = StatusReport> + Send;
    /// What each node uses and captures.
    fn figures(&self) -> impl Future<Output = Result<Figures, String>> + Send;
    /// The page of the journal that begins at `cursor`, or at the first row.
    fn page(&self, filter: Filter, cursor: Option<Seq>) -> impl Future<Output = Result<Page, String>> + Send;
    /// Checks the journal, and whether it continues the head noted as `anchor`.
    fn verify(&self, anchor: Option<Anchor>) -> impl Future<Output = Result<VerifyReport, String>> + Send;
    /// A chunk of the journal as a stream, from `cursor` or from the beginning.
    fn export(&self, cursor: Option<Box<ExportCursor>>) -> impl Future<Output = Result<ExportChunk, String>> + Send;
    /// What it runs with.
    fn settings(&self) -> Vec<SettingReport>;
    /// Statistics of the journal.
    fn stats(&self) -> impl Future<Output = Result<JournalStats, String>> + Send;
    /// Removes the journal's oldest entries, or reports what would be removed.
    fn prune(&self, order: PruneOrder, who: Credentials) -> impl Future<Output = Result<PruneReport, String>> + Send;
    /// Compacts the journal's files.
    fn compact(&self, force: bool) -> impl Future<Output = Result<CompactReport, String>> + Send;
    /// What deploying this configuration would do.
    fn plan(&self, config: Configuration, force: bool) -> impl Future<Output = Result<Plan, String>> + Send;
    /// Whether the nodes of this configuration can run on this host.
    fn check_host(&self, config: Configuration) -> impl Future<Output = Result<HostReport, String>> + Send;
    /// The configurations that were to run here, newest first.
    fn config_history(&self) -> impl Future<Output = Result<Vec<PastReport>, String>> + Send;
    /// One of them.
    fn config_show(&self, which: Which) -> impl Future<Output = Result<(PastReport, Configuration), String>> + Send;
    /// [`super::logs::read`] does the reading.
    fn logs(&self, node: NodeName, query: LogQuery) -> impl Future<Output = Result<LogChunk, String>> + Send;
}

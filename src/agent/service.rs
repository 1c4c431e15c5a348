//! The agent as its transports see it: requests become inputs, queries go to the driver.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use crate::api::audit::{Filter, Page};
use crate::api::configuration::Configuration;
use crate::api::event::{Dialect, Incoming, Request, Route, Source};
use crate::api::export::{ExportChunk, ExportCursor};
use crate::api::figures::Figures;
use crate::api::head::Anchor;
use crate::api::history::{PastReport, Which};
use crate::api::ids::{NodeName, Seq};
use crate::api::plan::Plan;
use crate::api::preflight::HostReport;
use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::{
    ArchiveReport, CompactReport, EventsReport, JournalReport, KeepingReport, PeerReport, SettingReport, StatusReport,
    VerifyReport, WaitingRequest, chain,
};
use crate::api::stats::JournalStats;
use crate::api::time::{Now, Timestamp};
use crate::control::logs;
use crate::control::message::{LogChunk, LogQuery};
use crate::control::{self, ControlAgent, Credentials};
use crate::journal::entry::Received;
use crate::journal::{Compactor, Journal, Reader};
use crate::lifecycle::{Effect, Input, Lifecycle, Peers};
use crate::peers::{self, PeersAgent};
use crate::supervisor;
use crate::transport::{Agent, Refusal};
use crate::websocket;

use super::budget::{self, Asker, Budget, Full, Share, Shares};
use super::clock;
use super::driver::{Question, Refusing};
use super::effects::Topics;
use super::history;
use super::preflight::Preflights;
use super::retention::Order;
use super::tally::Tally;

/// Serves the transports: cheap calls that never block the driver.
pub(super) struct AgentService {
    /// How logs are archived, if they are.
    pub archive: Option<watch::Receiver<ArchiveReport>>,
    /// What becomes of logs beside that.
    pub keeping: Option<watch::Receiver<KeepingReport>>,
    /// How the last run of `event_command` failed, if it did; `None`: there is no such command.
    pub hook_failing: Option<watch::Receiver<Option<String>>>,
    pub inputs: mpsc::Sender<Input>,
    pub questions: mpsc::Sender<Question>,
    pub peers: watch::Sender<Peers>,
    pub control: control::Handle,
    pub websocket: Option<websocket::Handle>,
    pub broker: Option<peers::Handle>,
    pub reader: Reader,
    pub orders: mpsc::Sender<Order>,
    pub compactor: Compactor,
    pub refusing: Refusing,
    pub topics: Topics,
    pub supervisor: supervisor::Handle,
    pub preflights: Preflights,
    pub about: About,
    /// How many requests were refused, here or by the driver.
    pub refused: Arc<AtomicU64>,
    pub budget: Budget,
    pub shares: Shares,
    pub tally: Tally,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub name: String,
    pub state_dir: PathBuf,
    pub node_dir: PathBuf,
    pub started_at: Timestamp,
    pub warnings: Vec<String>,
    pub settings: Vec<SettingReport>,
    pub may_ask: Vec<String>,
    pub node_address: Option<IpAddr>,
}

impl AgentService {
    /// Sends the driver a query; `None` if the agent is shutting down.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Lifecycle, &Journal<Effect>, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |core, journal, now| {
            // The requester may be gone; then nobody misses the answer.
            let _ = answer.send(question(core, journal, now));
        });
        self.questions.send(question).await.ok()?;
        answered.await.ok()
    }

    /// Sends the driver something that it need not know at once. If the queue is full, the driver is overloaded and the
    /// loss is harmless: without the delivery mark a response is sent once more, and a dead route is found dead when
    /// used.
    fn tell(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(input)) = self.inputs.try_send(input) {
            tracing::warn!(?input, "the driver is busy; this was not noted");
        }
    }

    /// How the agent and its nodes are, as far as is known: no shim is asked.
    pub(super) async fn report(&self) -> StatusReport {
        let refused = self.refused.load(Ordering::Relaxed);
        let (about, refusing, broker) = (self.about.clone(), self.refusing.reason(), self.broker.clone());
        let report = self
            .ask(move |core, journal, now| StatusReport {
                peers: broker.map(|broker| known_peers(&broker, core)).unwrap_or_default(),
                ..status(&about, refused, refusing, core, journal, now)
            })
            .await;
        let broker =
            self.broker.as_ref().and_then(|broker| Some((broker.address()?.to_string(), broker.is_listening())));
        let (listen, listen_when_adopted) = match broker {
            Some((address, true)) => (Some(address), None),
            Some((address, false)) => (None, Some(address)),
            None => (None, None),
        };
        StatusReport {
            archive: self.archive.as_ref().map(|archive| archive.borrow().clone()),
            events: self.hook_failing.as_ref().map(|failing| EventsReport {
                failing: failing.borrow().clone(),
                ..report.as_ref().and_then(|report| report.events.clone()).unwrap_or_default()
            }),
            keeping: self.keeping.as_ref().map(|keeping| keeping.borrow().clone()),
            listen,
            listen_when_adopted,
            controller: self.broker.as_ref().and_then(peers::Handle::controller),
            ..report.unwrap_or_else(|| stopping(&self.about, refused))
        }
    }

    /// Room for a request, if there is any.
    fn share(&self, incoming: &Incoming) -> Result<Share, Full> {
        let bytes = budget::decoded_size(&incoming.request);
        match incoming.route.and_then(|route| self.shares.take_reserved(route.connection)) {
            Some(mut share) => {
                share.resize(bytes);
                Ok(share)
            }
            None => self.budget.try_take(&Asker::of(&incoming.source), bytes),
        }
    }

    fn look_for_peers(&self) {
        let subscribers = |dialect, topic: &str| {
            let over_websocket = self.websocket.as_ref().map_or(0, |websocket| websocket.subscribers(dialect));
            let over_broker = self.broker.as_ref().map_or(0, |broker| broker.hub().subscribers(dialect));
            self.control.subscribers(topic) + over_websocket + over_broker
        };
        self.peers.send_if_modified(|known| {
            let now = Peers {
                cluster_agent: subscribers(Dialect::ClusterAgent, &self.topics.cluster_agent),
                management: subscribers(Dialect::Management, &self.topics.management),
                nodes: self.broker.as_ref().map(peers::Handle::nodes).unwrap_or_default(),
            };
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

impl Agent for AgentService {
    fn request(&self, incoming: Incoming) -> Result<(), Refusal> {
        let refusal = |reason: &str| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(reqid = %incoming.reqid, event = incoming.request.event(), "request refused: {reason}");
            Refusal { reason: reason.to_owned() }
        };
        if let Request::GetNodes {} = incoming.request {
            // A shim that has stopped answering is detected by asking it; the next get_nodes shows it.
            self.supervisor.ping();
        }
        if let Some(reason) = self.refusing.everything() {
            return Err(refusal(&reason));
        }
        let route = incoming.route;
        match self.share(&incoming) {
            // The driver takes the share together with the request.
            Ok(share) => route.into_iter().zip([share]).for_each(|(route, share)| self.shares.put(route, share)),
            Err(full) => return Err(refusal(&full.to_string())),
        }
        let input = Input::Request { incoming: Box::new(incoming.clone()), known: None };
        let Err(error) = self.inputs.try_send(input) else { return Ok(()) };
        if let Some(route) = route {
            drop(self.shares.take(route));
        }
        match error {
            mpsc::error::TrySendError::Full(_) => Err(refusal("busy: too many requests at once; try again")),
            mpsc::error::TrySendError::Closed(_) => Err(refusal("the agent is stopping")),
        }
    }

    async fn room(&self, connection: u64, source: &Source, bytes: usize) {
        // Without room, the request is refused once it is decoded.
        if let Ok(share) = self.budget.take(&Asker::of(source), bytes).await {
            self.shares.reserve(connection, share);
        }
    }

    fn room_over(&self, connection: u64) {
        drop(self.shares.take_reserved(connection));
    }

    fn malformed(&self, source: Source, event: String, error: String) {
        self.tell(Input::Malformed { source, event, error });
    }

    fn delivered(&self, route: Route) {
        self.tell(Input::Delivered { route });
    }

    fn disconnected(&self, connection: u64) {
        self.room_over(connection);
        self.tell(Input::Disconnected { connection });
        self.look_for_peers();
    }

    fn subscribed(&self) {
        self.look_for_peers();
    }
}

impl ControlAgent for AgentService {
    async fn check_in(&self, node: NodeName, _: Credentials) -> Result<(), String> {
        let busy = || "the agent is busy or stopping; say it again".to_owned();
        let wanted = node.clone();
        let known = self.ask(move |core, _, _| core.durable().nodes.contains_key(&wanted)).await.ok_or_else(busy)?;
        if !known {
            return Err(format!("no such node on this host: {node}; `nodes list` shows those there are"));
        }
        self.inputs.try_send(Input::CheckedIn { node }).map_err(|_| busy())
    }

    async fn status(&self) -> StatusReport {
        self.supervisor.ping();
        self.report().await
    }

    async fn figures(&self) -> Result<Figures, String> {
        self.node_figures().await
    }

    async fn page(&self, filter: Filter, cursor: Option<Seq>) -> Result<Page, String> {
        let reader = self.reader.clone();
        blocking("reading the journal", move || reader.page(&filter, cursor).map_err(chained)).await
    }

    async fn verify(&self, anchor: Option<Anchor>) -> Result<VerifyReport, String> {
        let reader = self.reader.clone();
        blocking("verifying the journal", move || reader.verify(anchor.as_ref()).map_err(chained)).await
    }

    async fn export(&self, cursor: Option<Box<ExportCursor>>) -> Result<ExportChunk, String> {
        let reader = self.reader.clone();
        let now = clock::now().wall;
        blocking("exporting the journal", move || reader.export(cursor.as_deref(), now).map_err(chained)).await
    }

    fn settings(&self) -> Vec<SettingReport> {
        self.about.settings.clone()
    }

    async fn stats(&self) -> Result<JournalStats, String> {
        let Some(files) = self.ask(|_, journal, _| journal.stats()).await else {
            return Err("the agent is stopping".to_owned());
        };
        let reader = self.reader.clone();
        let stats = blocking("reading the journal", move || reader.stats().map_err(chained)).await?;
        Ok(JournalStats { bytes_on_disk: files.bytes_on_disk, open_ms: files.open_ms, ..stats })
    }

    async fn prune(&self, order: PruneOrder, who: Credentials) -> Result<PruneReport, String> {
        if let Some(reason) = self.refusing.everything() {
            return Err(reason);
        }
        if !order.dry_run {
            let PruneOrder { older_than_ms, keep, dry_run: _ } = order;
            tracing::info!(older_than_ms, keep, uid = who.uid, pid = who.pid, "the journal is pruned by command");
        }
        let (answer, answered) = oneshot::channel();
        let unread = "retention ended when it could not read the journal's oldest entries, or the agent is stopping; \
                      `journal verify` tells what is wrong";
        self.orders.send(Order { order, answer }).await.map_err(|_| unread.to_owned())?;
        answered.await.map_err(|_| unread.to_owned())?
    }

    async fn compact(&self, force: bool) -> Result<CompactReport, String> {
        let compactor = self.compactor.clone();
        let compact = move || {
            compactor.compact(force).map_err(|error| format!("the journal was not compacted: {}", chain(&error)))
        };
        blocking("compacting the journal", compact).await
    }

    async fn plan(&self, config: Configuration, force: bool) -> Result<Plan, String> {
        let plan = self.ask(move |core, _, _| core.preview(&config.canonical(), force)).await;
        plan.ok_or_else(|| "the agent is stopping".to_owned())
    }

    async fn check_host(&self, config: Configuration) -> Result<HostReport, String> {
        let order = self.ask(move |core, _, _| core.preflight_of(&config.canonical())).await;
        match order {
            None => Err("the agent is stopping".to_owned()),
            Some(Err(errors)) => Ok(HostReport { errors, ..HostReport::default() }),
            Some(Ok(order)) => {
                let report = self.preflights.check_host(order).await?;
                Ok(HostReport { errors: Vec::new(), report })
            }
        }
    }

    async fn config_history(&self) -> Result<Vec<PastReport>, String> {
        let past = self.ask(|core, _, _| history::list(core)).await;
        past.ok_or_else(|| "the agent is stopping".to_owned())
    }

    async fn config_show(&self, which: Which) -> Result<(PastReport, Configuration), String> {
        let shown = self.ask(move |core, _, _| history::show(core, &which)).await;
        shown.unwrap_or_else(|| Err("the agent is stopping".to_owned()))
    }

    async fn logs(&self, node: NodeName, query: LogQuery) -> Result<LogChunk, String> {
        let directory = self.about.node_dir.join(node.as_str());
        let read = move || logs::read(&directory, &query).map_err(chained);
        blocking("reading the node's output", read).await
    }
}

impl PeersAgent for AgentService {
    async fn answered(&self, of: Seq, connection: u64, answer: Result<Option<String>, String>) {
        // Waits for room: nobody would repeat it. If the agent is shutting down, its next run asks again.
        let _ = self.inputs.send(Input::NodeAnswered { of, connection, answer }).await;
    }
}

/// Runs `work` on a thread for blocking calls. `doing` names what failed if that thread panics.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(format!("{doing} failed: {error}")),
    }
}

fn chained(error: impl std::error::Error) -> String {
    chain(&error)
}

/// Peers, each with the node that it claims to be, if the core believes it.
fn known_peers(broker: &peers::Handle, core: &Lifecycle) -> Vec<PeerReport> {
    let known = |(connection, report): (u64, PeerReport)| {
        let node = report.node.and_then(|node| NodeName::new(node).ok());
        let node = node.filter(|node| core.channel(node) == Some(connection)).map(|node| node.to_string());
        PeerReport { node, ..report }
    };
    broker.peers().into_iter().map(known).collect()
}

fn status(
    about: &About,
    refused: u64,
    refusing: Option<String>,
    core: &Lifecycle,
    journal: &Journal<Effect>,
    now: Now,
) -> StatusReport {
    let stats = journal.stats();
    let (waiting, lost) = core.waiting_alerts();
    StatusReport {
        serving: core.is_serving(),
        events: Some(EventsReport { waiting: waiting as u64, lost, failing: None }),
        hold: core.copied().or(core.hold()).map(str::to_owned),
        is_copy: core.copied().is_some(),
        configuration: core.configuration_id().map(str::to_owned),
        journal: JournalReport {
            last: stats.last.0,
            commits: stats.commits,
            commit_ms_p99: stats.commit_ms_p99,
            open_ms: stats.open_ms,
            bytes_on_disk: stats.bytes_on_disk,
            free_bytes: journal.space().map_or(0, |space| space.free),
            refusing,
        },
        nodes: core.node_reports(now),
        // Durably accepted: whoever sees the number may rely on it.
        unfinished: core.durable().unfinished.range(..=stats.last).count() as u64,
        waiting_requests: core.waiting_requests().filter(|one| one.seq <= stats.last).map(waiting_request).collect(),
        ..stopping(about, refused)
    }
}

fn waiting_request(received: &Received) -> WaitingRequest {
    WaitingRequest {
        seq: received.seq.0,
        reqid: received.reqid.to_string(),
        event: received.request.event().to_owned(),
        accepted_at: clock::rfc3339(received.at),
        source: format!("{} {}", received.source.transport, received.source.peer),
    }
}

/// The report without the driver's part.
fn stopping(about: &About, refused: u64) -> StatusReport {
    StatusReport {
        name: about.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state_dir: about.state_dir.display().to_string(),
        started_at: clock::rfc3339(about.started_at),
        refused,
        may_ask: about.may_ask.clone(),
        warnings: about.warnings.clone(),
        ..StatusReport::default()
    }
}

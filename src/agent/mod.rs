//! Where all of it meets: open the journal, look for the nodes, resume, serve, drain.
//!
//! [`run`] is the agent's life. The order is the safety: the state directory is locked before anything is read, the nodes
//! are looked for before anything is started, the socket serves only when both are done.

mod archive;
mod budget;
mod clock;
mod copied;
mod driver;
mod effects;
mod hangs;
mod place;
mod retention;
mod service;

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::api::event::{Dialect, Incoming, Request, Response, Route, Source};
use crate::api::exit::Exit;
use crate::api::ids::ReqId;
use crate::api::report::SettingReport;
use crate::api::rights::User;
use crate::api::supervision::Finding;
use crate::control;
use crate::control::message::Welcome;
use crate::identify::{self, Gate};
use crate::journal::entry::Life;
use crate::journal::retention::Policy;
use crate::journal::{self, Condition, Journal, Opened, identity, lock};
use crate::lifecycle::{self, Effect, Input, Lifecycle, Peers};
use crate::peers;
use crate::sim_node;
use crate::supervisor;
use crate::tasks::{FatalExit, OnExit, Tasks};
use crate::websocket;

use archive::Archive;
use budget::{Budget, Shares};
use copied::BrokerOpen;
use driver::{Driver, Inbox, Refusing};
use effects::{OWN_CONNECTION, Performer};
use hangs::{Watched, hang};
use place::Place;
use retention::Retention;
use service::{About, AgentService};

pub use archive::Options as ArchiveOptions;
pub use effects::Topics;
pub use hangs::Hang;

/// Requests and marks that wait for the driver: several batches. Full: requests are refused as busy.
const INPUTS: usize = 2048;
/// Reports of nodes that wait for the driver. Full: the node's task waits, and with it that node's shim.
const EVENTS: usize = 256;
/// Questions (`status`) that wait for the driver. Full: whoever asks waits.
const QUESTIONS: usize = 64;
/// `journal prune`s that wait for each other. Full: whoever asks waits.
const ORDERS: usize = 4;

/// How long the nodes' tasks may take to end what they have begun.
const LEAVE_TAKING: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Options {
    pub state_dir: PathBuf,
    pub lifecycle: lifecycle::Options,
    pub journal: journal::Options,
    /// How much of the journal is kept.
    pub retention: Policy,
    /// `None`: rotated logs are left where they are.
    pub archive: Option<archive::Options>,
    pub supervisor: supervisor::Options,
    pub control: control::Options,
    /// Who may ask, over every transport.
    pub asking: identify::Options,
    /// The same in words, and whom the transports let in besides: one clause each.
    pub may_ask: Vec<String>,
    /// `None`: WebSocket clients are not served.
    pub websocket: Option<websocket::Options>,
    /// If nodes run as somebody else: who has to get through the state directory to the nodes' directories.
    pub node_user: Option<User>,
    /// `None`: the agent neither accepts Broker peers nor dials a controller.
    pub broker: Option<peers::Options>,
    /// How long another agent's hold of the state directory is waited for.
    pub lock_wait: Duration,
    /// A commit that waits longer for the disk ends the agent, as does a driver or a commit that hangs so long.
    pub commit_timeout: Duration,
    /// Shown by `status`.
    pub warnings: Vec<String>,
    /// What the options were made of, for whoever asks.
    pub settings: Vec<SettingReport>,
    /// Called when the agent serves, and when it begins to end.
    pub announce: fn(Announcement<'_>),
}

/// What the service manager is told.
#[derive(Debug, Clone, Copy)]
pub enum Announcement<'a> {
    Ready { status: &'a str },
    Stopping { status: &'a str },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the state directory {dir} cannot be created; give another --state-dir, or give this user the rights to it"
    )]
    StateDir { dir: String, source: io::Error },
    #[error(
        "nodes cannot be given {path}, into which they rotate their logs; it has to be a directory and not a link (to have \
         it on another disk, mount that there)"
    )]
    LogQueue { path: String, source: io::Error },
    #[error(transparent)]
    Lock(#[from] lock::LockError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(
        "the state directory {dir} is a copy of {original} made of hard links: what is written here is written there; nothing was \
         touched; run the agent on {original}, or make a copy that shares no files (cp -a)"
    )]
    SharedFiles { dir: String, original: String },
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    #[error(transparent)]
    Control(#[from] crate::control::BindError),
    #[error(transparent)]
    WebSocket(#[from] websocket::BindError),
    #[error(transparent)]
    Broker(#[from] peers::BindError),
    #[error("the agent cannot go on serving its clients and ends; its nodes run on")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    #[error("{what} failed")]
    System { what: &'static str, source: io::Error },
    #[error(transparent)]
    Driver(#[from] driver::Error),
    #[error(transparent)]
    Task(#[from] FatalExit),
    #[error(transparent)]
    Hang(#[from] Hang),
}

impl Error {
    /// Whether only another configuration or release can mend it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Identity(identity::IdentityError::Name { .. } | identity::IdentityError::Newer { .. })
            | Self::Journal(journal::OpenError::NewerFormat { .. } | journal::OpenError::NewerRecord { .. })
            | Self::Broker(peers::BindError::Tls(_)) => Exit::Configuration,
            Self::StateDir { .. }
            | Self::LogQueue { .. }
            | Self::Lock(_)
            | Self::Identity(_)
            | Self::SharedFiles { .. }
            | Self::Journal(_)
            | Self::Control(_)
            | Self::WebSocket(_)
            | Self::Broker(peers::BindError::Listen { .. })
            | Self::Serve(_)
            | Self::Supervisor(_)
            | Self::System { .. }
            | Self::Driver(_)
            | Self::Task(_)
            | Self::Hang(_) => Exit::Failed,
        }
    }
}

/// Runs the agent until it is asked to end. Nodes run on.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("zca-worker")
        .build()
        .map_err(|source| Error::System { what: "starting the runtime", source })?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let started = tokio::select! {
            started = start(&options, None) => started?,
            // Nothing of this run is journaled yet, so this is not taken for a crash by the next.
            signal = signals.end() => {
                tracing::info!("{signal} during the start: the agent ends, its nodes run on");
                return Ok(());
            }
        };
        let nodes = started.nodes;
        let agent = started.serve(&options)?;
        tracing::info!(
            "agent {} serves on {}, with {nodes} nodes from before; who may ask: {}",
            options.lifecycle.instance,
            options.control.path.display(),
            options.may_ask.join(", ")
        );
        (options.announce)(Announcement::Ready { status: "serving" });
        agent.until_end(&options, signals).await
    });
    // Blocking calls that still run (a page of a large journal) are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Stops all nodes of a state directory that no agent serves, and gives the answer a live agent would have given.
///
/// The same agent, without doors: the request is journaled, the nodes are adopted and stopped, the desired state stays.
pub fn shutdown_offline(options: Options, reqid: ReqId) -> Result<Response, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "starting the runtime", source })?;
    let outcome = runtime.block_on(async {
        let (answer, answered) = oneshot::channel();
        let peer = format!("uid={} pid={}", rustix::process::getuid().as_raw(), std::process::id());
        let incoming = Incoming {
            reqid,
            request: Request::Shutdown { nodes: true },
            dialect: Dialect::Operator,
            source: Source { transport: "offline".to_owned(), peer },
            route: Some(Route { connection: OWN_CONNECTION, call: 0 }),
        };
        let signals = Signals::listen()?;
        let started = start(&options, Some((incoming, answer))).await?;
        let agent = started.unserved()?;
        let stops = agent.stops.clone();
        // It ends by itself once the nodes are stopped; it is told to where that was refused.
        let answered = async move {
            let response = answered.await;
            let _ = stops.send("the request is answered".to_owned()).await;
            response
        };
        let (ended, answered) = tokio::join!(agent.until_end(&options, signals), answered);
        ended?;
        answered.map_err(|_| Error::System {
            what: "stopping the nodes",
            source: io::Error::other("the agent ended without an answer"),
        })
    });
    // A commit that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// An agent whose driver is ready and not yet running.
struct Started {
    driver: Driver,
    inbox: Inbox,
    inputs: mpsc::Sender<Input>,
    stops: mpsc::Sender<String>,
    questions: mpsc::Sender<driver::Question>,
    peers: watch::Sender<Peers>,
    exit: watch::Receiver<Option<String>>,
    commits: watch::Receiver<u64>,
    watched: Watched,
    tasks: Tasks,
    server: Option<(control::Server, control::Handle)>,
    websocket: Option<(websocket::Server, websocket::Handle)>,
    broker: Option<(peers::Server, peers::Handle)>,
    reader: journal::Reader,
    compactor: journal::Compactor,
    refusing: Refusing,
    refused: Arc<AtomicU64>,
    budget: Budget,
    shares: Shares,
    topics: Topics,
    supervisor: supervisor::Handle,
    /// Nodes that were found running.
    nodes: usize,
    /// The state directory is held for a copy of another.
    is_copy: bool,
    broker_open: BrokerOpen,
    /// To be shown by `status`, beside what the options have.
    warnings: Vec<String>,
    _lock: lock::StateLock,
}

/// Takes the lock of the state directory, and says at once for whom it waits if it has to.
fn lock_directory(dir: &Path, wait: Duration) -> Result<lock::StateLock, lock::LockError> {
    match lock::StateLock::acquire(dir, Duration::ZERO) {
        Err(lock::LockError::Held { dir: held, pid }) if !wait.is_zero() => {
            let who = lock::holder(&pid);
            tracing::warn!(
                "another agent{who} uses the state directory {held}; waiting up to {} s for it to end",
                wait.as_secs()
            );
            lock::StateLock::acquire(dir, wait)
        }
        other => other,
    }
}

/// Locks, opens, looks for the nodes, and takes in what an earlier run left unfinished.
async fn start(options: &Options, own: Option<(Incoming, oneshot::Sender<Response>)>) -> Result<Started, Error> {
    let name = &options.lifecycle.instance;
    make_state_dir(options)?;
    let lock = {
        let (dir, wait) = (options.state_dir.clone(), options.lock_wait);
        blocking("locking the state directory", move || lock_directory(&dir, wait)).await??
    };
    let place = match identity::check(&options.state_dir, name)? {
        Some(known) => Some(look_for_place(options, known).await?),
        None => None,
    };
    if let Some(original) = place.as_ref().and_then(Place::shares_files_with) {
        let dir = options.state_dir.display().to_string();
        return Err(Error::SharedFiles { dir, original: original.display().to_string() });
    }
    let opened = {
        let (dir, options) = (options.state_dir.clone(), options.journal.clone());
        blocking("opening the journal", move || Journal::<Effect>::open(&dir, &options)).await??
    };
    let Opened { journal, recovered, condition } = opened;
    let mut place = match place {
        Some(place) => place,
        None => look_for_place(options, identity::create(&options.state_dir, name)?).await?,
    };
    let hold = match &condition {
        Condition::Fresh | Condition::Intact => None,
        Condition::Salvaged { is_lossless: true, .. } => {
            tracing::warn!("{condition}; nothing was lost, so the agent goes on as before");
            None
        }
        Condition::Missing
        | Condition::LostTail { .. }
        | Condition::Salvaged { is_lossless: false, .. }
        | Condition::Imported { .. } => {
            tracing::error!("{condition}");
            Some(condition.to_string())
        }
    };

    let tasks = Tasks::new(tokio::runtime::Handle::current());
    let (events_tx, events) = mpsc::channel(EVENTS);
    let topics = Topics::of(name);
    let ids = Arc::new(AtomicU64::new(OWN_CONNECTION + 1));
    let gate = Gate::new(options.asking.clone());
    let warnings = match options.broker.is_some() || options.websocket.is_some() {
        true => blocking("asking the kernel about a connection", identify::works).await?.and_then(unasked),
        false => None,
    };
    // Zeek's endpoints have a fresh one for each run, too.
    let endpoint = uuid::Uuid::new_v4();
    let broker = match (&own, &options.broker) {
        (None, Some(options)) => {
            Some(peers::Server::bind(options, Arc::clone(&ids), name, endpoint.into_bytes(), gate.clone())?)
        }
        (Some(_), _) | (None, None) => None,
    };
    let mut supervision =
        supervisor::Options { home: place.home(), is_copy: place.is_copy(), ..options.supervisor.clone() };
    if let Some(address) = broker.as_ref().and_then(|(_, handle)| handle.listening()) {
        supervision.agent_address = Some(peers::reachable(address));
        let mode = options.broker.as_ref().map(|broker| broker.tls.mode());
        supervision.simulated_env = mode.and_then(sim_node::environment).into_iter().collect();
    }
    let supervisor = supervisor::Handle::start(supervision, events_tx, tasks.clone())?;
    let boot_id = supervisor.boot_id().to_owned();
    let websocket = match (&own, &options.websocket) {
        (None, Some(options)) => {
            let endpoint = endpoint.to_string();
            Some(websocket::Server::bind(options, Arc::clone(&ids), name, endpoint, gate.clone())?)
        }
        (Some(_), _) | (None, None) => None,
    };
    let server = match &own {
        Some(_) => None,
        None => {
            let welcome = Welcome {
                version: crate::control::message::VERSION,
                agent: name.to_string(),
                release: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                state_dir: options.state_dir.display().to_string(),
                request_timeout_ms: options.lifecycle.request_timeout_ms,
                stop_timeout_ms: options.lifecycle.longest_stop_ms(),
                ready_timeout_ms: options.lifecycle.longest_start_ms(),
            };
            Some(control::Server::bind(&options.control, ids, welcome, gate.clone())?)
        }
    };

    let known = recovered.nodes.iter().map(|(name, record)| {
        let process = match &record.life {
            Life::Up { process, .. } => Some(process.clone()),
            Life::Down | Life::Intended => None,
        };
        (name.clone(), process, record.incarnation)
    });
    let findings = supervisor.probe(known.collect()).await?;
    let (place, copied, findings) = blocking("writing down where the state directory is", move || {
        let copied = place.settle(&findings);
        (place, copied, findings)
    })
    .await?;
    let is_copy = copied.is_some();
    let (opening, broker_open) = BrokerOpen::new(!is_copy);
    let broker = match broker {
        // Peers would take this agent for the original's, whose name it has.
        Some((server, handle)) if is_copy => {
            tracing::warn!("no Broker peer is accepted or dialled while the state directory is held for a copy");
            Some((server.close(), handle))
        }
        other => other,
    };
    if is_copy {
        supervisor.spare_all();
    }
    let nodes = findings.iter().filter(|(_, finding)| matches!(finding, Finding::Adopted { .. })).count();
    // They may run as somebody else than those that are started from now on.
    gate.add_nodes(findings.iter().filter_map(|(_, finding)| user_of(finding)));

    let (exit_tx, exit) = watch::channel(None);
    let (commits_tx, commits) = watch::channel(0);
    let (own_request, own_answer) = own.unzip();
    let refused = Arc::new(AtomicU64::new(0));
    let performer = Performer {
        topics: topics.clone(),
        control: server.as_ref().map(|(_, handle)| handle.clone()),
        websocket: websocket.as_ref().map(|(_, handle)| handle.clone()),
        peers: broker.as_ref().map(|(_, handle)| handle.clone()),
        supervisor: supervisor.clone(),
        exit: exit_tx,
        refused: Arc::clone(&refused),
        own: Mutex::new(own_answer),
        place: Mutex::new(place),
        broker: opening,
    };
    let refusing = Refusing::default();
    let (reader, compactor) = (journal.reader(), journal.compactor());
    let core = Lifecycle::new(options.lifecycle.clone(), recovered);
    let (budget, shares) = (Budget::default(), Shares::default());
    let room = (budget.clone(), shares.clone());
    let commits_progress = journal.progress();
    let mut driver = Driver::new(core, journal, performer, refusing.clone(), commits_tx, room);
    let watched = Watched { commits: commits_progress, driver: driver.progress() };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut first = vec![Input::Started { boot_id, version, pid: std::process::id(), hold }];
    first.extend(copied.map(|reason| Input::Copied { reason }));
    first.extend(findings.into_iter().map(|(node, finding)| Input::Found { node, finding }));
    // Before `Adopted`: the agent that only stops nodes must not start any first.
    first.extend(own_request.map(|incoming| Input::Request { incoming: Box::new(incoming), known: None }));
    let begun = blocking("starting the driver", move || driver.begin(first).map(|()| driver));
    let driver = tokio::select! {
        begun = begun => begun??,
        hang = hang(&watched, options.commit_timeout) => return Err(hang.into()),
    };

    let (inputs, inputs_rx) = mpsc::channel(INPUTS);
    let (stops, stops_rx) = mpsc::channel(1);
    let (questions, questions_rx) = mpsc::channel(QUESTIONS);
    let (peers, peers_rx) = watch::channel(Peers::default());
    inputs.try_send(Input::Adopted).expect("the channel is new and empty");
    let inbox = Inbox { inputs: inputs_rx, events, stops: stops_rx, questions: questions_rx, peers: peers_rx };
    Ok(Started {
        driver,
        inbox,
        inputs,
        stops,
        questions,
        peers,
        exit,
        commits,
        watched,
        tasks,
        server,
        websocket,
        broker,
        reader,
        compactor,
        refusing,
        refused,
        budget,
        shares,
        topics,
        supervisor,
        nodes,
        is_copy,
        broker_open,
        warnings: warnings.into_iter().collect(),
        _lock: lock,
    })
}

async fn look_for_place(options: &Options, known: identity::Identity) -> Result<Place, Error> {
    let (what, dir) = ("looking where the state directory is", options.state_dir.clone());
    blocking(what, move || Place::look(&dir, known)).await?.map_err(|source| Error::System { what, source })
}

/// As whom a node was started that was found running.
fn user_of(finding: &Finding) -> Option<u32> {
    match finding {
        Finding::Adopted { spec, .. } => {
            let own = rustix::process::geteuid().as_raw();
            Some(spec.rights.user.as_ref().map_or(own, |user| user.uid))
        }
        Finding::Absent | Finding::Exited { .. } | Finding::Foreign { .. } | Finding::Unprovable { .. } => None,
    }
}

/// What it means where the kernel cannot be asked whose a connection is.
fn unasked(answer: Result<(), identify::Unidentified>) -> Option<String> {
    let error = answer.err()?;
    let warning = format!(
        "peers over Broker and WebSocket are refused unless they show a certificate, nodes too: a connection of the agent's \
         own was not known ({error}); the kernel needs the module tcp_diag, and the agent AF_NETLINK sockets"
    );
    tracing::warn!("{warning}");
    Some(warning)
}

/// A running agent.
struct Agent {
    driver: oneshot::Receiver<Result<(), driver::Error>>,
    inputs: mpsc::Sender<Input>,
    stops: mpsc::Sender<String>,
    exit: watch::Receiver<Option<String>>,
    watched: Watched,
    tasks: Tasks,
    server: tokio::task::JoinHandle<io::Result<()>>,
    stop_serving: CancellationToken,
    _lock: lock::StateLock,
}

impl Started {
    fn serve(mut self, options: &Options) -> Result<Agent, Error> {
        let stop = CancellationToken::new();
        let (server, control) = self.server.take().expect("an agent that serves has bound its socket");
        let (websocket_server, websocket) = self.websocket.take().unzip();
        let (broker_server, broker) = self.broker.take().unzip();
        let broker_open = self.broker_open.clone();
        let (orders, queued) = mpsc::channel(ORDERS);
        // A copy's log queue has the original's logs.
        let archive = options.archive.clone().filter(|_| !self.is_copy).map(|archive| {
            let user = options.node_user.clone();
            let (archive, report) =
                Archive::new(archive, &options.state_dir, user, &self.supervisor, self.inputs.clone());
            self.tasks.spawn("archival of logs", OnExit::FatalByPanic, |token| archive.run(token));
            report
        });
        let service = Arc::new(AgentService {
            archive,
            inputs: self.inputs.clone(),
            questions: self.questions.clone(),
            peers: self.peers.clone(),
            control,
            websocket,
            broker,
            reader: self.reader.clone(),
            orders,
            compactor: self.compactor.clone(),
            refusing: self.refusing.clone(),
            topics: self.topics.clone(),
            supervisor: self.supervisor.clone(),
            about: About {
                name: options.lifecycle.instance.to_string(),
                state_dir: options.state_dir.clone(),
                node_dir: options.supervisor.node_dir.clone(),
                started_at: clock::now().wall,
                warnings: options.warnings.iter().chain(&self.warnings).cloned().collect(),
                may_ask: options.may_ask.clone(),
                settings: options.settings.clone(),
            },
            refused: Arc::clone(&self.refused),
            budget: self.budget.clone(),
            shares: self.shares.clone(),
        });
        let retention = Retention {
            policy: options.retention,
            reader: self.reader.clone(),
            compactor: self.compactor.clone(),
            inputs: self.inputs.clone(),
            commits: self.commits.clone(),
            orders: queued,
        };
        self.tasks.spawn("retention", OnExit::FatalByPanic, |token| retention.run(token));
        let (control_stop, websocket_stop, broker_stop) = (stop.clone(), stop.clone(), stop.clone());
        let serving = tokio::spawn(async move {
            let websocket = async {
                match websocket_server {
                    Some(server) => server.run(Arc::clone(&service), websocket_stop).await,
                    None => Ok(()),
                }
            };
            let broker = async {
                match broker_server {
                    Some(server) if broker_open.until_open(&broker_stop).await => {
                        server.run(Arc::clone(&service), broker_stop).await
                    }
                    Some(_) | None => Ok(()),
                }
            };
            let control = server.run(Arc::clone(&service), control_stop);
            tokio::try_join!(control, websocket, broker).map(|((), (), ())| ())
        });
        self.drive(serving, stop)
    }

    fn unserved(self) -> Result<Agent, Error> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            stopped.cancelled().await;
            Ok(())
        });
        self.drive(serving, stop)
    }

    /// Starts the driver's thread.
    fn drive(
        self,
        server: tokio::task::JoinHandle<io::Result<()>>,
        stop_serving: CancellationToken,
    ) -> Result<Agent, Error> {
        let Self { driver, inbox, inputs, stops, exit, watched, tasks, _lock, .. } = self;
        let (ended, outcome) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|source| Error::System { what: "starting the driver's runtime", source })?;
        std::thread::Builder::new()
            .name("zca-driver".to_owned())
            .spawn(move || {
                // Nobody listens any more when the process is ending anyway.
                let _ = ended.send(runtime.block_on(driver.run(inbox)));
            })
            .map_err(|source| Error::System { what: "starting the driver's thread", source })?;
        Ok(Agent { driver: outcome, inputs, stops, exit, watched, tasks, server, stop_serving, _lock })
    }
}

impl Agent {
    /// Waits for a signal, a shutdown request or a failure, and ends in order: no more requests, the driver's last step,
    /// the connections' last frames, the journal. Nodes run on.
    async fn until_end(mut self, options: &Options, mut signals: Signals) -> Result<(), Error> {
        loop {
            let reason = tokio::select! {
                signal = signals.end() => signal,
                changed = self.exit.wait_for(Option::is_some) => match changed {
                    Ok(_) => break,
                    Err(_) => return Err(ended_early(self.driver.await)),
                },
                outcome = &mut self.driver => return Err(ended_early(outcome)),
                hang = hang(&self.watched, options.commit_timeout) => return Err(hang.into()),
                death = self.tasks.fatal() => return Err(death.into()),
                served = &mut self.server => return match served {
                    Ok(Ok(())) => Err(gone("the servers of the agent's clients ended by themselves")),
                    Ok(Err(error)) => Err(Error::Serve(error)),
                    Err(error) => Err(gone(&error.to_string())),
                },
            };
            tracing::info!(
                "{reason}: the agent ends, its nodes run on; `zeek-cluster-agent shutdown --nodes` stops them"
            );
            // Waits for room: this one must not be lost.
            if self.stops.send(reason.to_owned()).await.is_err() {
                return Err(ended_early(self.driver.await));
            }
        }
        (options.announce)(Announcement::Stopping { status: "stopping; nodes run on" });
        self.stop_serving.cancel();
        self.tasks.cancel();
        drop(self.inputs);
        if let Ok(Err(error)) = self.server.await {
            tracing::warn!(%error, "serving the agent's clients ended with an error");
        }
        if tokio::time::timeout(LEAVE_TAKING, self.tasks.finished()).await.is_err() {
            tracing::warn!("some nodes' tasks did not end in time; their shims go on alone");
        }
        match self.driver.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(gone("the driver panicked")),
        }
    }
}

/// The signals that end the agent, and the one that does not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let signal = |kind| signal(kind).map_err(|source| Error::System { what: "listening for signals", source });
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves when the agent is told to end; gives the signal's name.
    async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::info!("SIGHUP is ignored: settings are read at start"),
            }
        }
    }
}

/// The driver ends by itself only when something is wrong.
fn ended_early(outcome: Result<Result<(), driver::Error>, oneshot::error::RecvError>) -> Error {
    match outcome {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => gone("the driver ended by itself"),
        Err(_) => gone("the driver panicked"),
    }
}

fn gone(what: &str) -> Error {
    Error::System { what: "running the agent", source: io::Error::other(what.to_owned()) }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::System { what, source: io::Error::other(error) })
}

/// Makes the state directory: the owner's alone, or passable for the control group, whose members have to reach the socket in
/// it, or for everybody, if nodes run as somebody else. What is in it stays the owner's alone, but for what is theirs.
fn make_state_dir(options: &Options) -> Result<(), Error> {
    let dir = &options.state_dir;
    let failed = |source| Error::StateDir { dir: dir.display().to_string(), source };
    let made: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    // A directory that a power cut takes away takes with it what was durable inside.
    for parent in made.into_iter().filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    if let Some(group) = options.control.group {
        std::os::unix::fs::chown(dir, None, Some(group)).map_err(failed)?;
    }
    close_inside(dir).map_err(failed)?;
    match (&options.node_user, options.control.group) {
        (Some(user), _) => {
            open_to_pass(dir).map_err(failed)?;
            make_passable(&options.supervisor.node_dir).map_err(failed)?;
            make_log_queue(dir, user)
                .map_err(|source| Error::LogQueue { path: log_queue(dir).display().to_string(), source })
        }
        (None, Some(_)) => std::fs::set_permissions(dir, Permissions::from_mode(0o710)).map_err(failed),
        (None, None) => Ok(()),
    }
}

/// Where nodes put rotated logs. A node that runs as the agent does makes it itself.
fn make_log_queue(state_dir: &Path, user: &User) -> io::Result<()> {
    let queue = log_queue(state_dir);
    make_passable(&state_dir.join(SPOOL))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&queue)?;
    supervisor::give(&queue, user)
}

const SPOOL: &str = "spool";

fn log_queue(state_dir: &Path) -> PathBuf {
    state_dir.join(SPOOL).join("log-queue")
}

fn make_passable(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
    open_to_pass(dir)
}

fn open_to_pass(dir: &Path) -> io::Result<()> {
    match std::fs::metadata(dir)?.permissions().mode() {
        mode if mode & 0o111 == 0o111 => Ok(()),
        mode => std::fs::set_permissions(dir, Permissions::from_mode(mode | 0o111)),
    }
}

/// Others may pass now, or soon; earlier releases made files in the state directory trusting that nobody could.
fn close_inside(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A socket has its own rights, and needs no reading; no link is ours.
        let kind = entry.file_type()?;
        if PASSABLE.iter().any(|name| entry.file_name() == *name) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let closed = entry.metadata().and_then(|metadata| match metadata.permissions().mode() {
            mode if mode & 0o077 == 0 => Ok(()),
            mode => std::fs::set_permissions(entry.path(), Permissions::from_mode(mode & 0o700)),
        });
        match closed {
            // Another agent's, for whose lock nobody has waited yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed?,
        }
    }
    Ok(())
}

/// What nodes have something to do with, in the state directory, and the logs of which they are rid.
const PASSABLE: [&str; 3] = ["nodes", SPOOL, "logs"];

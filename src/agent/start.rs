//! The start: lock, open, look for the nodes, and take over what an earlier run left unfinished.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, Shares};
use super::copied::BrokerOpen;
use super::driver::{self, Driver, Inbox, Refusing};
use super::effects::{OWN_CONNECTION, Performer, Topics};
use super::hangs::{Watched, hang};
use super::hook::Told;
use super::place::Place;
use super::preflight::{self, Preflights};
use super::state_dir::{lock_directory, make_state_dir};
use super::tally::Tally;
use super::{Error, Options, blocking};
use crate::api::event::{Incoming, Response};
use crate::api::ids::{InstanceName, NodeName};
use crate::api::supervision::{Finding, NodeEvent};
use crate::channel::{self, Reply};
use crate::control;
use crate::control::message::Welcome;
use crate::identify::{self, Gate};
use crate::journal::entry::{Life, Recovered};
use crate::journal::{self, Condition, Journal, Opened, identity, lock};
use crate::lifecycle::{Effect, Input, Lifecycle, Peers};
use crate::tasks::{OnExit, Tasks};
use crate::{metrics, peers, sim_node, supervisor, websocket};

/// Requests and marks queued for the driver: several batches. Full: requests are refused as busy.
const INPUTS: usize = 2048;
/// Node events queued for the driver. Full: the node's task waits, and with it that node's shim.
const EVENTS: usize = 256;
/// Replies of nodes on their way to the driver. Full: the tasks that ask nodes wait.
const REPLIES: usize = 64;
/// Queries (`status`) queued for the driver. Full: the requester waits.
const QUESTIONS: usize = 64;

/// The request of an agent without transports, and where its answer goes.
pub(super) type OwnRequest = (Incoming, oneshot::Sender<Response>);

/// An agent whose driver is ready but not running yet.
pub(super) struct Started {
    pub driver: Driver,
    pub inbox: Inbox,
    pub senders: Senders,
    pub exit: watch::Receiver<Option<String>>,
    pub commits: watch::Receiver<u64>,
    pub watched: Watched,
    pub tasks: Tasks,
    pub transports: Transports,
    pub reader: journal::Reader,
    pub compactor: journal::Compactor,
    pub admission: Admission,
    pub topics: Topics,
    pub supervisor: supervisor::Handle,
    pub preflights: Preflights,
    /// Nodes that were found running.
    pub nodes: usize,
    /// The state directory is considered a copy of another.
    pub is_copy: bool,
    pub broker_open: BrokerOpen,
    /// Shown by `status` in addition to the options' warnings.
    pub warnings: Vec<String>,
    pub tally: Tally,
    /// What `event_command` is to be told.
    pub alerts: Option<mpsc::Receiver<Told>>,
    pub lock: lock::StateLock,
}

/// Where the driver's inputs are sent to.
pub(super) struct Senders {
    pub inputs: mpsc::Sender<Input>,
    pub stops: mpsc::Sender<String>,
    pub questions: mpsc::Sender<driver::Question>,
    pub peers: watch::Sender<Peers>,
}

impl Senders {
    /// New channels, together with the one for node events.
    fn new(events: mpsc::Receiver<NodeEvent>) -> (Self, Inbox) {
        let (inputs, inputs_rx) = mpsc::channel(INPUTS);
        let (stops, stops_rx) = mpsc::channel(1);
        let (questions, questions_rx) = mpsc::channel(QUESTIONS);
        let (peers, peers_rx) = watch::channel(Peers::default());
        inputs.try_send(Input::Adopted).expect("the channel is new and empty");
        let inbox = Inbox { inputs: inputs_rx, events, stops: stops_rx, questions: questions_rx, peers: peers_rx };
        (Self { inputs, stops, questions, peers }, inbox)
    }
}

/// What decides whether a request is accepted, and counts those that were not.
#[derive(Default)]
pub(super) struct Admission {
    pub refusing: Refusing,
    pub refused: Arc<AtomicU64>,
    pub budget: Budget,
    pub shares: Shares,
}

/// The agent's bound transports; none if it serves nobody.
#[derive(Default)]
pub(super) struct Transports {
    pub server: Option<(control::Server, control::Handle)>,
    pub websocket: Option<(websocket::Server, websocket::Handle)>,
    pub metrics: Option<metrics::Server>,
    pub broker: Option<(peers::Server, peers::Handle)>,
}

impl Transports {
    /// Peers would mistake the agent of a copy for the original's, since it has the same name.
    fn close_broker(&mut self) {
        if let Some((server, handle)) = self.broker.take() {
            tracing::warn!("no Broker peer is accepted or dialled while the state directory is held for a copy");
            self.broker = Some((server.close(), handle));
        }
    }
}

/// Locks, opens, looks for the nodes, and takes over what an earlier run left unfinished.
pub(super) async fn start(options: &Options, own: Option<OwnRequest>) -> Result<Started, Error> {
    let Directory { lock, opened, place } = open(options).await?;
    let Opened { journal, recovered, condition } = opened;
    let hold = reason_to_hold(&condition);

    let tasks = Tasks::new(tokio::runtime::Handle::current());
    let (events_tx, events) = mpsc::channel(EVENTS);
    let gate = Gate::new(options.asking.clone());
    let warnings = ask_the_kernel(options).await?;
    let (mut transports, supervisor) = bind(options, own.is_none(), &place, &gate, (events_tx, &tasks))?;
    let Found { place, copied, findings } = find_nodes(&supervisor, &recovered, place).await?;
    let is_copy = copied.is_some();
    let (opening, broker_open) = BrokerOpen::new(!is_copy);
    if is_copy {
        transports.close_broker();
        supervisor.spare_all();
    }
    let nodes = findings.iter().filter(|(_, finding)| matches!(finding, Finding::Adopted { .. })).count();
    // They may run as another user than nodes that are started from now on.
    gate.add_nodes(findings.iter().filter_map(|(_, finding)| user_of(finding)));

    let (exit_tx, exit) = watch::channel(None);
    let (replies, replied) = mpsc::channel(REPLIES);
    let (hook, alerts) = alerts(options, own.is_none() && !is_copy);
    let (own_request, own_answer) = own.unzip();
    let admission = Admission::default();
    let topics = Topics::of(&options.lifecycle.instance);
    let (checked, results) = mpsc::channel(REPLIES);
    let preflights = Preflights::new(&supervisor, tasks.clone(), checked, options.node_address);
    let performer = Performer {
        hook,
        preflights: preflights.clone(),
        topics: topics.clone(),
        control: transports.server.as_ref().map(|(_, handle)| handle.clone()),
        websocket: transports.websocket.as_ref().map(|(_, handle)| handle.clone()),
        peers: transports.broker.as_ref().map(|(_, handle)| handle.clone()),
        supervisor: supervisor.clone(),
        questions: channel::Handle::new(options.channel(), replies, tasks.clone()),
        exit: exit_tx,
        refused: Arc::clone(&admission.refused),
        own: Mutex::new(own_answer),
        place: Mutex::new(place),
        broker: opening,
    };
    let (reader, compactor) = (journal.reader(), journal.compactor());
    let (commits_tx, commits) = watch::channel(0);
    let committing = journal.progress();
    let core = Lifecycle::new(options.lifecycle.clone(), recovered).with_alerts(alerts.is_some());
    let tally = Tally::resume(&core);
    let room = (admission.budget.clone(), admission.shares.clone());
    let driver = Driver::new(core, journal, performer, admission.refusing.clone(), commits_tx, room, tally.clone());
    let watched = Watched { commits: committing, driver: driver.progress() };
    let first = first_inputs(supervisor.boot_id(), hold, copied, findings, own_request);
    let driver = begin(driver, first, &watched, options).await?;

    let (senders, inbox) = Senders::new(events);
    let inputs = senders.inputs.clone();
    tasks.spawn("replies of nodes", OnExit::FatalByPanic, |token| pass_on(replied, inputs, token));
    let inputs = senders.inputs.clone();
    tasks.spawn("results of checks", OnExit::FatalByPanic, |token| preflight::pass_on(results, inputs, token));
    Ok(Started {
        driver,
        inbox,
        senders,
        exit,
        commits,
        watched,
        tasks,
        transports,
        reader,
        compactor,
        admission,
        topics,
        supervisor,
        preflights,
        nodes,
        is_copy,
        broker_open,
        warnings: warnings.into_iter().collect(),
        tally,
        alerts,
        lock,
    })
}

/// Passes replies on to the driver, waiting for room: nobody would repeat them.
async fn pass_on(mut replied: mpsc::Receiver<Reply>, inputs: mpsc::Sender<Input>, token: CancellationToken) {
    loop {
        let reply = tokio::select! {
            () = token.cancelled() => return,
            reply = replied.recv() => reply,
        };
        let Some(Reply { of, node, incarnation, answer }) = reply else { return };
        if inputs.send(Input::NodeReplied { of, node, incarnation, answer }).await.is_err() {
            return;
        }
    }
}

/// The warning if peers over Broker or WebSocket cannot be identified.
async fn ask_the_kernel(options: &Options) -> Result<Option<String>, Error> {
    match options.broker.is_some() || options.websocket.is_some() {
        true => Ok(blocking("asking the kernel about a connection", identify::works).await?.and_then(unasked)),
        false => Ok(None),
    }
}

/// The way from the core to `event_command`. An agent that only stops its nodes tells nothing, and a copy must not speak for
/// its original.
fn alerts(options: &Options, tells: bool) -> (Option<mpsc::Sender<Told>>, Option<mpsc::Receiver<Told>>) {
    (tells && options.events.is_some()).then(|| mpsc::channel(1)).unzip()
}

/// The state directory, locked, with its journal.
struct Directory {
    lock: lock::StateLock,
    opened: Opened<Effect>,
    place: Place,
}

async fn open(options: &Options) -> Result<Directory, Error> {
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
    let place = match place {
        Some(place) => place,
        None => look_for_place(options, identity::create(&options.state_dir, name)?).await?,
    };
    Ok(Directory { lock, opened, place })
}

async fn look_for_place(options: &Options, known: identity::Identity) -> Result<Place, Error> {
    let (what, dir): (_, PathBuf) = ("looking where the state directory is", options.state_dir.clone());
    blocking(what, move || Place::look(&dir, known)).await?.map_err(|source| Error::System { what, source })
}

/// Why the desired state in the journal is in doubt, if it is.
fn reason_to_hold(condition: &Condition) -> Option<String> {
    match condition {
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
    }
}

/// Binds the listeners of an agent that `serves`, and starts the supervisor, which tells nodes where Broker is.
fn bind(
    options: &Options,
    serves: bool,
    place: &Place,
    gate: &Gate,
    (events, tasks): (mpsc::Sender<NodeEvent>, &Tasks),
) -> Result<(Transports, supervisor::Handle), Error> {
    let name = &options.lifecycle.instance;
    let ids = Arc::new(AtomicU64::new(OWN_CONNECTION + 1));
    // Zeek's endpoints also have a new one for each run.
    let endpoint = uuid::Uuid::new_v4();
    let mut transports = Transports::default();
    if let Some(options) = options.broker.as_ref().filter(|_| serves) {
        let bound = peers::Server::bind(options, Arc::clone(&ids), name, endpoint.into_bytes(), gate.clone())?;
        transports.broker = Some(bound);
    }
    let mut supervision = supervisor::Options {
        home: place.home(),
        is_copy: place.is_copy(),
        scopes: options.is_service.then(|| place.id().to_owned()),
        ..options.supervisor.clone()
    };
    if let Some(address) = transports.broker.as_ref().and_then(|(_, handle)| handle.address()) {
        supervision.agent_address = Some(peers::reachable(address));
        let mode = options.broker.as_ref().map(|broker| broker.tls.mode());
        supervision.simulated_env = mode.and_then(sim_node::environment).into_iter().collect();
    }
    let supervisor = supervisor::Handle::start(supervision, events, tasks.clone())?;
    let cgroups = supervisor.cgroups();
    gate.know_nodes(move |cgroup| cgroups.has(cgroup));
    if let Some(options) = options.websocket.as_ref().filter(|_| serves) {
        let endpoint = endpoint.to_string();
        let bound = websocket::Server::bind(options, Arc::clone(&ids), name, endpoint, gate.clone())?;
        transports.websocket = Some(bound);
    }
    if let Some(options) = options.metrics.as_ref().filter(|_| serves) {
        transports.metrics = Some(metrics::Server::bind(options)?);
    }
    if serves {
        let welcome = welcome(options, name);
        transports.server = Some(control::Server::bind(&options.control, ids, welcome, gate.clone())?);
    }
    Ok((transports, supervisor))
}

fn welcome(options: &Options, name: &InstanceName) -> Welcome {
    Welcome {
        version: crate::control::message::VERSION,
        agent: name.to_string(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state_dir: options.state_dir.display().to_string(),
        request_timeout_ms: options.lifecycle.request_timeout_ms,
        stop_timeout_ms: options.lifecycle.longest_stop_ms(),
        ready_timeout_ms: options.lifecycle.longest_start_ms(),
    }
}

/// What was found of the nodes, and from that of the state directory.
struct Found {
    place: Place,
    /// Why it is considered a copy of another.
    copied: Option<String>,
    findings: Vec<(NodeName, Finding)>,
}

async fn find_nodes(supervisor: &supervisor::Handle, recovered: &Recovered, mut place: Place) -> Result<Found, Error> {
    let known = recovered.nodes.iter().map(|(name, record)| {
        let process = match &record.life {
            Life::Up { process, .. } => Some(process.clone()),
            Life::Down | Life::Intended => None,
        };
        (name.clone(), process, record.incarnation)
    });
    let findings = supervisor.probe(known.collect()).await?;
    blocking("writing down where the state directory is", move || {
        let copied = place.settle(&findings);
        Found { place, copied, findings }
    })
    .await
}

/// The driver's first inputs.
fn first_inputs(
    boot_id: &str,
    hold: Option<String>,
    copied: Option<String>,
    findings: Vec<(NodeName, Finding)>,
    own: Option<Incoming>,
) -> Vec<Input> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut first = vec![Input::Started { boot_id: boot_id.to_owned(), version, pid: std::process::id(), hold }];
    first.extend(copied.map(|reason| Input::Copied { reason }));
    first.extend(findings.into_iter().map(|(node, finding)| Input::Found { node, finding }));
    // Before `Adopted`: the agent that only stops nodes must not start any first.
    first.extend(own.map(|incoming| Input::Request { incoming: Box::new(incoming), known: None }));
    first
}

async fn begin(mut driver: Driver, first: Vec<Input>, watched: &Watched, options: &Options) -> Result<Driver, Error> {
    let begun = blocking("starting the driver", move || driver.begin(first).map(|()| driver));
    tokio::select! {
        begun = begun => Ok(begun??),
        hang = hang(watched, options.commit_timeout) => Err(hang.into()),
    }
}

/// The user that a node found running was started as.
fn user_of(finding: &Finding) -> Option<u32> {
    match finding {
        Finding::Adopted { spec, .. } => {
            let own = rustix::process::geteuid().as_raw();
            Some(spec.rights.user.as_ref().map_or(own, |user| user.uid))
        }
        Finding::Absent | Finding::Exited { .. } | Finding::Foreign { .. } | Finding::Unprovable { .. } => None,
    }
}

/// The warning if the kernel cannot be asked who owns a connection.
fn unasked(answer: Result<(), identify::Unidentified>) -> Option<String> {
    let error = answer.err()?;
    let warning = format!(
        "peers over Broker and WebSocket are refused unless they show a certificate, nodes too: a connection of the agent's \
         own was not known ({error}); the kernel needs the module tcp_diag, and the agent AF_NETLINK sockets"
    );
    tracing::warn!("{warning}");
    Some(warning)
}

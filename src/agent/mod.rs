//! The top level: open the journal, find the nodes, resume, serve, drain.
//!
//! [`run`] is the agent's whole life. Safety depends on the order: the state directory is locked before anything is
//! read, the nodes are looked for before anything is started, and the socket serves only when both are done.

mod archive;
mod budget;
mod clock;
mod copied;
mod driver;
mod effects;
mod error;
mod expiry;
mod figures;
mod hangs;
mod history;
mod hook;
mod keeping;
mod manager;
mod place;
mod preflight;
mod retention;
mod running;
mod service;
mod signals;
mod start;
mod state_dir;
mod tally;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::api::event::{Dialect, Incoming, Request, Response, Route, Source};
use crate::api::ids::ReqId;
use crate::api::report::SettingReport;
use crate::api::rights::User;
use crate::control;
use crate::journal::retention::Policy;
use crate::{channel, identify, journal, lifecycle, metrics, peers, supervisor, websocket};

use effects::OWN_CONNECTION;
use signals::Signals;
use start::start;

pub use archive::Options as ArchiveOptions;
pub use error::Error;
pub use expiry::Limits as ArchiveLimits;
pub use hook::Options as EventOptions;
pub use manager::{Announcement, Manager};

#[derive(Debug, Clone)]
pub struct Options {
    pub state_dir: PathBuf,
    pub lifecycle: lifecycle::Options,
    pub journal: journal::Options,
    /// How much of the journal is kept.
    pub retention: Policy,
    /// `None`: rotated logs are left where they are.
    pub archive: Option<archive::Options>,
    /// Where archived logs are, whoever archives them.
    pub archive_dir: PathBuf,
    /// What is run for what an operator wants to be told of, if anything.
    pub events: Option<hook::Options>,
    /// What is kept of archived logs.
    pub archive_limits: expiry::Limits,
    pub supervisor: supervisor::Options,
    pub control: control::Options,
    /// Who may send requests, over every transport.
    pub asking: identify::Options,
    /// The same as text, and who else each transport admits: one clause each.
    pub may_ask: Vec<String>,
    /// `None`: WebSocket clients are not served.
    pub websocket: Option<websocket::Options>,
    /// `None`: no metrics are served.
    pub metrics: Option<metrics::Options>,
    /// The one address at which nodes serve their own metrics; `None`: at all of the host.
    pub node_address: Option<IpAddr>,
    /// If nodes run as another user: who must be able to traverse the state directory to the nodes' directories.
    pub node_user: Option<User>,
    /// `None`: the agent neither accepts Broker peers nor dials a controller.
    pub broker: Option<peers::Options>,
    /// How long to wait while another agent holds the state directory's lock.
    pub lock_wait: Duration,
    /// A commit that waits longer for the disk ends the agent, as does a driver or a commit that hangs this long.
    pub commit_timeout: Duration,
    /// Shown by `status`.
    pub warnings: Vec<String>,
    /// What the options were made from, for `settings` queries.
    pub settings: Vec<SettingReport>,
    /// The agent is a service of systemd: nodes get scopes of their own, if that is possible.
    pub is_service: bool,
    /// Who is told that the agent serves, how its nodes are, and that it ends.
    pub manager: Option<Manager>,
}

impl Options {
    /// How nodes are asked through files: an answer has to be there before the request's deadline.
    fn channel(&self) -> channel::Options {
        let deadline = Duration::from_millis(self.lifecycle.request_timeout_ms);
        channel::Options { node_dir: self.supervisor.node_dir.clone(), patience: deadline.mul_f64(0.85) }
    }
}

/// Runs the agent until it is asked to end. Nodes keep running.
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
            // Nothing of this run is journaled yet, so the next run does not take this for a crash.
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
        if let Some(manager) = &options.manager {
            (manager.announce)(Announcement::Ready { status: "serving" });
        }
        agent.until_end(&options, signals).await
    });
    // Blocking calls that still run (a page of a large journal) are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Stops all nodes of a state directory that has no running agent, and returns the answer that an agent would give.
///
/// The same agent without transports: the request is journaled, the nodes are adopted and stopped, and the desired
/// state stays.
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
        // It ends by itself once the nodes are stopped; if the request was refused, it has to be told to.
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

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::System { what, source: io::Error::other(error) })
}

//! A running agent: starts its servers and its driver, and ends them in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::error::gone;
use super::hangs::{Watched, hang};
use super::hook::Hook;
use super::keeping::Keeping;
use super::retention::Retention;
use super::service::{About, AgentService};
use super::signals::Signals;
use super::start::{Senders, Started};
use super::{Announcement, Error, Options, clock, driver, manager};
use crate::api::report::{ArchiveReport, KeepingReport};
use crate::journal::lock;
use crate::lifecycle::Input;
use crate::tasks::{OnExit, Tasks};

/// Queued `journal prune` calls. Full: the requester waits.
const ORDERS: usize = 4;

/// How long the nodes' tasks may take to finish what they have begun.
const LEAVE_TAKING: Duration = Duration::from_secs(10);

/// A running agent.
pub(super) struct Agent {
    driver: oneshot::Receiver<Result<(), driver::Error>>,
    inputs: mpsc::Sender<Input>,
    pub stops: mpsc::Sender<String>,
    exit: watch::Receiver<Option<String>>,
    watched: Watched,
    tasks: Tasks,
    server: tokio::task::JoinHandle<io::Result<()>>,
    stop_serving: CancellationToken,
    _lock: lock::StateLock,
}

impl Started {
    pub fn serve(mut self, options: &Options) -> Result<Agent, Error> {
        let stop = CancellationToken::new();
        let (server, control) = self.transports.server.take().expect("an agent that serves has bound its socket");
        let (websocket_server, websocket) = self.transports.websocket.take().unzip();
        let (broker_server, broker) = self.transports.broker.take().unzip();
        let broker_open = self.broker_open.clone();
        let (orders, queued) = mpsc::channel(ORDERS);
        let (archive, keeping) = self.look_after_logs(options);
        let hook_failing = self.start_hook(options);
        let impatient = self.report_to_manager(options);
        let service = Arc::new(AgentService {
            archive,
            keeping,
            hook_failing,
            inputs: self.senders.inputs.clone(),
            questions: self.senders.questions.clone(),
            peers: self.senders.peers.clone(),
            control,
            websocket,
            broker,
            reader: self.reader.clone(),
            orders,
            compactor: self.compactor.clone(),
            refusing: self.admission.refusing.clone(),
            topics: self.topics.clone(),
            supervisor: self.supervisor.clone(),
            preflights: self.preflights.clone(),
            about: About {
                name: options.lifecycle.instance.to_string(),
                state_dir: options.state_dir.clone(),
                node_dir: options.supervisor.node_dir.clone(),
                started_at: clock::now().wall,
                warnings: options.warnings.iter().chain(&self.warnings).cloned().chain(impatient).collect(),
                may_ask: options.may_ask.clone(),
                node_address: options.node_address,
                settings: options.settings.clone(),
            },
            refused: Arc::clone(&self.admission.refused),
            budget: self.admission.budget.clone(),
            shares: self.admission.shares.clone(),
            tally: self.tally.clone(),
        });
        let retention = Retention {
            policy: options.retention,
            reader: self.reader.clone(),
            compactor: self.compactor.clone(),
            inputs: self.senders.inputs.clone(),
            commits: self.commits.clone(),
            orders: queued,
        };
        self.tasks.spawn("retention", OnExit::FatalByPanic, |token| retention.run(token));
        let (control_stop, websocket_stop, broker_stop) = (stop.clone(), stop.clone(), stop.clone());
        let (metrics_server, metrics_stop) = (self.transports.metrics.take(), stop.clone());
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
            let metrics = async {
                match metrics_server {
                    Some(server) => server.run(Arc::clone(&service), metrics_stop).await,
                    None => Ok(()),
                }
            };
            let control = server.run(Arc::clone(&service), control_stop);
            tokio::try_join!(control, websocket, broker, metrics).map(|((), (), (), ())| ())
        });
        self.drive(serving, stop)
    }

    /// Starts what runs `event_command`, if there is one; gives how its last run failed.
    fn start_hook(&mut self, options: &Options) -> Option<watch::Receiver<Option<String>>> {
        self.alerts.take().zip(options.events.as_ref()).map(|(alerts, events)| {
            let name = options.lifecycle.instance.to_string();
            let inputs = self.senders.inputs.clone();
            let (hook, failing) = Hook::new(events, &options.state_dir, name, &self.supervisor, inputs, alerts);
            self.tasks.spawn("event_command", OnExit::FatalByPanic, |token| hook.run(token));
            failing
        })
    }

    /// Starts the archival and the expiry of logs, as far as they are wanted.
    fn look_after_logs(
        &self,
        options: &Options,
    ) -> (Option<watch::Receiver<ArchiveReport>>, Option<watch::Receiver<KeepingReport>>) {
        // A copy's log queue has the original's logs.
        let archive = options.archive.clone().filter(|_| !self.is_copy).map(|archive| {
            let user = options.node_user.clone();
            let (archive, report) =
                Archive::new(archive, &options.state_dir, user, &self.supervisor, self.senders.inputs.clone());
            self.tasks.spawn("archival of logs", OnExit::FatalByPanic, |token| archive.run(token));
            report
        });
        let archival = options.archive.as_ref().map(|archive| archive.interval);
        let (limits, inputs) = (options.archive_limits, self.senders.inputs.clone());
        let keeping = (!self.is_copy)
            .then(|| Keeping::new(&options.archive_dir, limits, &options.state_dir, archival, inputs))
            .flatten();
        let keeping = keeping.map(|(keeping, report)| {
            self.tasks.spawn("expiry of logs", OnExit::FatalByPanic, |token| keeping.run(token));
            report
        });
        (archive, keeping)
    }

    /// Starts the reports to the service manager, if there is one. Returns a warning if it is not patient enough.
    fn report_to_manager(&self, options: &Options) -> Option<String> {
        let manager = options.manager.as_ref()?;
        manager::report(manager, &self.tasks, self.commits.clone(), self.senders.questions.clone());
        let impatient = manager::impatient(manager, options.commit_timeout)?;
        tracing::warn!("{impatient}");
        Some(impatient)
    }

    pub fn unserved(self) -> Result<Agent, Error> {
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
        let Self { driver, inbox, senders, exit, watched, tasks, lock, .. } = self;
        let (ended, outcome) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|source| Error::System { what: "starting the driver's runtime", source })?;
        std::thread::Builder::new()
            .name("zca-driver".to_owned())
            .spawn(move || {
                // Nobody receives this if the process is ending anyway.
                let _ = ended.send(runtime.block_on(driver.run(inbox)));
            })
            .map_err(|source| Error::System { what: "starting the driver's thread", source })?;
        let Senders { inputs, stops, questions: _, peers: _ } = senders;
        Ok(Agent { driver: outcome, inputs, stops, exit, watched, tasks, server, stop_serving, _lock: lock })
    }
}

impl Agent {
    /// Waits for a signal, a shutdown request or a failure, and ends in order: no more requests, the driver's last
    /// step, the connections' last frames, the journal. Nodes keep running.
    pub async fn until_end(mut self, options: &Options, mut signals: Signals) -> Result<(), Error> {
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
            // Waits for room: this message must not be lost.
            if self.stops.send(reason.to_owned()).await.is_err() {
                return Err(ended_early(self.driver.await));
            }
        }
        if let Some(manager) = &options.manager {
            (manager.announce)(Announcement::Stopping { status: "stopping; nodes run on" });
        }
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

/// The driver ends unasked only when something is wrong.
fn ended_early(outcome: Result<Result<(), driver::Error>, oneshot::error::RecvError>) -> Error {
    match outcome {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => gone("the driver ended by itself"),
        Err(_) => gone("the driver panicked"),
    }
}

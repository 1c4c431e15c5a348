//! `event_command`: runs a program for what an operator wants to be told of, with one JSON object on its standard input.
//!
//! One run at a time, each for a limited time; what is left of it is ended, also what an agent that was killed left running. It gets
//! no environment but PATH, and no shell reads its arguments. However a run ends, the core learns of it and tells the next.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::alert::Alert;
use crate::api::launch::ExitCause;
use crate::api::rights::User;
use crate::lifecycle::Input;
use crate::supervisor::{self, job};
use crate::tasks::blocking;

use super::clock;

/// The directory of its lock, in the state directory.
const DIRECTORY: &str = "event-command";
#[derive(Debug, Clone)]
pub struct Options {
    /// A path, or a name to be looked up in PATH.
    pub program: String,
    pub args: Vec<String>,
    /// Whom it runs as, if not as the agent's user.
    pub user: Option<User>,
    /// A run that takes longer is ended.
    pub timeout: Duration,
}

/// Something to be told, and how many found no place since the last that was told.
#[derive(Debug)]
pub(super) struct Told {
    pub alert: Alert,
    pub lost: u64,
}

/// What the command gets.
#[derive(Serialize)]
struct Event<'a> {
    id: u64,
    at: String,
    agent: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reqid: &'a str,
    message: &'a str,
    lost: u64,
}

pub(super) struct Hook {
    job: Arc<job::Job>,
    agent: String,
    timeout: Duration,
    inputs: mpsc::Sender<Input>,
    alerts: mpsc::Receiver<Told>,
    /// How the last run failed, if it did.
    failing: watch::Sender<Option<String>>,
}

impl Hook {
    pub fn new(
        options: &Options,
        state_dir: &Path,
        agent: String,
        supervisor: &supervisor::Handle,
        inputs: mpsc::Sender<Input>,
        alerts: mpsc::Receiver<Told>,
    ) -> (Self, watch::Receiver<Option<String>>) {
        let job = supervisor.job(job::Options {
            directory: state_dir.join(DIRECTORY),
            program: options.program.clone(),
            setting: "event_command",
            beside: None,
            args: options.args.iter().map(Into::into).collect(),
            user: options.user.clone(),
            clears_environment: true,
        });
        let (failing, shown) = watch::channel(None);
        (Self { job: Arc::new(job), agent, timeout: options.timeout, inputs, alerts, failing }, shown)
    }

    pub async fn run(mut self, token: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = token.cancelled() => return,
                told = self.alerts.recv() => match told {
                    Some(told) => told,
                    None => return,
                },
            };
            let outcome = tokio::select! {
                () = token.cancelled() => {
                    // It is told again by the next agent.
                    self.end().await;
                    return;
                }
                outcome = self.tell(&told) => outcome,
            };
            let Told { alert, lost } = told;
            match &outcome {
                Ok(()) => tracing::debug!(id = alert.id.0, "event_command was told"),
                Err(reason) => tracing::error!(id = alert.id.0, "event_command failed: {reason}"),
            }
            self.failing.send_replace(outcome.as_ref().err().cloned());
            let outcome = outcome.err().unwrap_or_else(|| "exit code 0".to_owned());
            // Closed: the agent is shutting down, and the next one tells it again.
            let _ = self.inputs.send(Input::Told { id: alert.id, lost, outcome }).await;
        }
    }

    /// One run. `Err`: how it failed.
    async fn tell(&self, told: &Told) -> Result<(), String> {
        let Told { alert, lost } = told;
        let event = Event {
            id: alert.id.0,
            at: clock::rfc3339(alert.at),
            agent: &self.agent,
            kind: alert.kind.as_str(),
            node: &alert.node,
            reqid: &alert.reqid,
            message: &alert.message,
            lost: *lost,
        };
        let mut text = serde_json::to_vec(&event).map_err(|error| error.to_string())?;
        text.push(b'\n');
        // What an agent that was killed had begun.
        self.end().await;
        let job = Arc::clone(&self.job);
        let mut run = match blocking(move || job.start_with(Some(&text))).await {
            job::Start::Begun(run) => run,
            job::Start::Held => return Err("not started: what the run before has started cannot be ended".to_owned()),
            job::Start::Impossible(reason) => return Err(format!("not started: {reason}")),
        };
        let cause = tokio::time::timeout(self.timeout, run.wait()).await;
        // What it left behind belongs to the run, too.
        self.end().await;
        let words = run.last_words().map(|words| format!(": {words}")).unwrap_or_default();
        match cause {
            Ok(Ok(ExitCause::Code(0))) => Ok(()),
            Ok(Ok(cause)) => Err(format!("{cause}{words}")),
            Ok(Err(error)) => Err(format!("cannot be waited for: {error}")),
            Err(_) => {
                // Reap the process.
                let _ = tokio::time::timeout(Duration::from_secs(1), run.wait()).await;
                Err(format!("ended after {:.1} s (event_timeout){}", self.timeout.as_secs_f64(), words))
            }
        }
    }

    async fn end(&self) {
        let job = Arc::clone(&self.job);
        match blocking(move || if job.is_running()? { job.end() } else { Ok(true) }).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("a process of event_command cannot be ended"),
            Err(error) => tracing::warn!(%error, "cannot end what event_command left"),
        }
    }
}

//! Looks after rotated logs beside their archival: archived ones expire ([`expiry`]), and where nobody archives,
//! logs that pile up in the queue are told.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::alert::AlertKind;
use crate::api::report::{KeepingReport, chain};
use crate::lifecycle::Input;
use crate::tasks::blocking;

use super::expiry::{self, Expired, Limits};

/// The longest from one look to the next.
const EVERY: Duration = Duration::from_secs(600);
/// Logs that have waited for longer than this are archived by nobody.
const WAITED: Duration = Duration::from_secs(86_400);
/// Entries of the queue that are looked at; with more it is told in any case if these are old.
const LOOKS: usize = 1000;

pub(super) struct Keeping {
    pub directory: PathBuf,
    pub limits: Limits,
    /// The queue, if the agent does not archive it.
    pub unarchived: Option<PathBuf>,
    pub every: Duration,
    pub inputs: mpsc::Sender<Input>,
    pub report: watch::Sender<KeepingReport>,
}

impl Keeping {
    /// `None`: there is nothing to look after. `archival`: how often the agent archives, if it does.
    pub fn new(
        directory: &Path,
        limits: Limits,
        state_dir: &Path,
        archival: Option<Duration>,
        inputs: mpsc::Sender<Input>,
    ) -> Option<(Self, watch::Receiver<KeepingReport>)> {
        if limits == Limits::default() && archival.is_some() {
            return None;
        }
        let (report, shown) = watch::channel(KeepingReport::default());
        let keeping = Self {
            directory: directory.to_owned(),
            limits,
            unarchived: archival.is_none().then(|| super::state_dir::log_queue(state_dir)),
            every: archival.unwrap_or(EVERY).min(EVERY),
            inputs,
            report,
        };
        Some((keeping, shown))
    }

    pub async fn run(self, token: CancellationToken) {
        loop {
            let more = self.look().await;
            // What is left of a big step is not put off.
            let pause = if more { Duration::from_millis(100) } else { self.every };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether there is more to remove at once.
    async fn look(&self) -> bool {
        let (directory, limits) = (self.directory.clone(), self.limits);
        let expired = match limits == Limits::default() {
            true => Ok(Expired::default()),
            false => blocking(move || expiry::expire(&directory, limits, SystemTime::now())).await,
        };
        let (expired, problem) = match expired {
            Ok(expired) => {
                let problem = expired.problem.clone();
                (expired, problem)
            }
            Err(error) => (Expired::default(), Some(chain(&error))),
        };
        if expired.files > 0 {
            tracing::info!(files = expired.files, bytes = expired.bytes, "archived logs expired");
        }
        let waiting = match self.unarchived.clone() {
            Some(queue) => blocking(move || waits(&queue, SystemTime::now())).await,
            None => false,
        };
        let before = self.report.borrow().clone();
        let now = KeepingReport {
            removed_files: before.removed_files + expired.files,
            removed_bytes: before.removed_bytes + expired.bytes,
            problem: problem.map(|problem| self.told(&problem)),
            unarchived: self.unarchived.as_ref().filter(|_| waiting).map(|queue| queue.display().to_string()),
        };
        if let Some(problem) = now.problem.as_ref().filter(|problem| before.problem.as_ref() != Some(*problem)) {
            self.tell(problem.clone()).await;
        }
        if let Some(queue) = now.unarchived.as_ref().filter(|_| before.unarchived.is_none()) {
            let message = format!(
                "rotated logs have waited in {queue} for more than a day: archive_interval is 0, and nobody else takes them; set it, \
                 or move them yourself"
            );
            self.tell(message).await;
        }
        self.report.send_replace(now);
        expired.more
    }

    fn told(&self, problem: &str) -> String {
        format!("archived logs in {} do not all expire: {problem}", self.directory.display())
    }

    async fn tell(&self, message: String) {
        // Closed: the agent is shutting down, and the next one looks again.
        let _ = self.inputs.send(Input::Trouble { kind: AlertKind::ArchiveFailed, message }).await;
    }
}

/// Whether something in the queue has waited for too long. If the queue cannot be read, there is nothing to tell of it.
fn waits(queue: &Path, now: SystemTime) -> bool {
    let Ok(entries) = fs::read_dir(queue) else { return false };
    let is_old = |entry: io::Result<fs::DirEntry>| {
        let written = entry.and_then(|entry| entry.metadata()).and_then(|metadata| metadata.modified());
        written.is_ok_and(|written| now.duration_since(written).is_ok_and(|waited| waited > WAITED))
    };
    entries.take(LOOKS).any(is_old)
}

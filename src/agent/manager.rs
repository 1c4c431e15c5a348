//! What a service manager is told: that the agent serves, how its nodes are, that it is alive, that it ends.
//!
//! Promises: nothing waits for the manager, and without one nothing is done. The state of the nodes is looked at after
//! commits, at most once per [`PAUSE`]; life is reported by a task of the runtime, whatever the driver and the disk do,
//! since those have a watchdog of their own ([`hangs`](super::hangs)).

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::driver::Question;
use crate::tasks::{OnExit, Tasks, blocking};

/// The least time between two reports of how the nodes are.
const PAUSE: Duration = Duration::from_secs(1);
/// How many signs of life are due within the time after which the manager takes the agent for hung: one that comes late
/// on a busy host is not the last.
const SIGNS: u32 = 4;
/// The manager's patience in commits that may take as long as `commit_timeout` allows.
const COMMITS: u32 = 3;

/// A service manager to report to.
#[derive(Debug, Clone, Copy)]
pub struct Manager {
    /// Delivers a report. Blocks for a second at most.
    pub announce: fn(Announcement<'_>),
    /// After so long without a sign of life the manager ends the agent; `None`: never.
    pub watchdog: Option<Duration>,
}

/// What is reported to the service manager.
#[derive(Debug, Clone, Copy)]
pub enum Announcement<'a> {
    /// The agent serves, and its nodes are adopted.
    Ready {
        status: &'a str,
    },
    /// How the nodes are.
    Status {
        status: &'a str,
    },
    /// A sign of life.
    Alive,
    Stopping {
        status: &'a str,
    },
}

/// The warning if the manager is less patient than the agent is with its disk.
pub(super) fn impatient(manager: &Manager, commit_timeout: Duration) -> Option<String> {
    let watchdog = manager.watchdog?;
    let least = commit_timeout.saturating_mul(COMMITS);
    (watchdog < least).then(|| {
        format!(
            "the service manager takes the agent for hung after {} s, which is less than {COMMITS} times commit_timeout ({} s): \
             a slow disk may cause restarts; set WatchdogSec of its unit to {} s at least, or lower commit_timeout",
            watchdog.as_secs_f64(),
            commit_timeout.as_secs_f64(),
            least.as_secs_f64()
        )
    })
}

/// Starts to report, until the tasks are cancelled.
pub(super) fn report(
    manager: &Manager,
    tasks: &Tasks,
    commits: watch::Receiver<u64>,
    questions: mpsc::Sender<Question>,
) {
    let Manager { announce, watchdog } = *manager;
    tasks.spawn("reports of the nodes' state to the service manager", OnExit::FatalByPanic, |token| {
        report_status(token, announce, commits, questions)
    });
    if let Some(watchdog) = watchdog {
        tasks.spawn("signs of life to the service manager", OnExit::FatalByPanic, |token| {
            report_life(token, announce, watchdog / SIGNS)
        });
    }
}

async fn report_life(token: CancellationToken, announce: fn(Announcement<'_>), pause: Duration) {
    loop {
        blocking(move || announce(Announcement::Alive)).await;
        if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn report_status(
    token: CancellationToken,
    announce: fn(Announcement<'_>),
    mut commits: watch::Receiver<u64>,
    questions: mpsc::Sender<Question>,
) {
    let mut told = String::new();
    loop {
        let Some(Some(status)) = token.run_until_cancelled(ask(&questions)).await else { return };
        if status != told {
            told.clone_from(&status);
            blocking(move || announce(Announcement::Status { status: &status })).await;
        }
        let next = async {
            tokio::time::sleep(PAUSE).await;
            commits.changed().await
        };
        match token.run_until_cancelled(next).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// How the nodes are, in a line; `None` if the agent ends.
async fn ask(questions: &mpsc::Sender<Question>) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    let question: Question = Box::new(move |core, _, _| {
        // If the asking task was cancelled meanwhile, nobody misses the answer.
        let _ = answer.send(core.condition());
    });
    questions.send(question).await.ok()?;
    answered.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_has_to_be_more_patient_than_three_commits() {
        let manager = |secs| Manager { announce: |_| {}, watchdog: Some(Duration::from_secs(secs)) };
        let commit = Duration::from_secs(10);
        assert_eq!(impatient(&Manager { watchdog: None, ..manager(1) }, commit), None);
        assert_eq!(impatient(&manager(30), commit), None);
        let warning = impatient(&manager(20), commit).unwrap();
        assert!(warning.contains("after 20 s") && warning.contains("WatchdogSec of its unit to 30 s"), "{warning}");
    }
}

//! Retention in the background: checks periodically whether the journal exceeds what is to be kept, and has the driver
//! remove the excess, step by step. Then it compacts the files, which removal does not shrink.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::api::prune::{PruneOrder, PruneReport};
use crate::api::report::chain;
use crate::api::time::Now;
use crate::journal::retention::{ClockTrust, Policy, PruneMode, RemovalStep};
use crate::journal::{Compactor, ReadError, Reader};
use crate::lifecycle::Input;

use super::clock;

/// The shortest interval between checks. After a commit the oldest entries are read, which costs a few dozen reads; in
/// this time no rate of requests adds much to the journal.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest interval between checks, if there is no commit: entries get older all the same.
const IDLE: Duration = Duration::from_secs(600);

/// If the wall clock is this far from its value at the start plus the time since then, it is not trusted, and nothing
/// is removed for its age.
const JUMP_MS: u64 = 30 * 86_400_000;

pub(super) struct Retention {
    pub policy: Policy,
    pub reader: Reader,
    pub compactor: Compactor,
    pub inputs: mpsc::Sender<Input>,
    /// Changes with every commit.
    pub commits: watch::Receiver<u64>,
    pub orders: mpsc::Receiver<Order>,
}

/// `journal prune`: one at a time, and never during a retention run.
pub(super) struct Order {
    pub order: PruneOrder,
    pub answer: oneshot::Sender<Result<PruneReport, String>>,
}

/// Why a retention run ended early.
enum Ended {
    /// The agent is shutting down.
    Agent,
    Unread(ReadError),
}

impl Retention {
    pub async fn run(mut self, token: CancellationToken) {
        let started = clock::now();
        let mut was_suspect = None;
        loop {
            let awaited = async {
                tokio::time::sleep(PAUSE).await;
                // No more commits: the agent is shutting down, and the token says so.
                if let Ok(Err(_)) = tokio::time::timeout(IDLE, self.commits.changed()).await {
                    std::future::pending::<()>().await;
                }
            };
            let order = tokio::select! {
                () = token.cancelled() => return,
                Some(order) = self.orders.recv() => Some(order),
                () = awaited => None,
            };
            let is_suspect = has_jumped(started, clock::now()) || self.clock_is_suspect().await;
            if was_suspect != Some(is_suspect) && (is_suspect || was_suspect.is_some()) {
                report_clock(is_suspect);
            }
            was_suspect = Some(is_suspect);
            let working = async {
                match order {
                    Some(Order { order, answer }) => {
                        let report = self.execute(&order, is_suspect).await;
                        // The requester may be gone.
                        _ = answer.send(report.map_err(Ended::into_words));
                        Ok(())
                    }
                    None => self.run_once(is_suspect).await,
                }
            };
            let ended = tokio::select! {
                () = token.cancelled() => return,
                ended = working => ended,
            };
            match ended {
                Ok(()) => {}
                Err(Ended::Agent) => return,
                Err(Ended::Unread(error)) if error.is_passing() => {
                    tracing::debug!(error = %chain(&error), "retention waits for a disk that takes something in");
                }
                Err(Ended::Unread(error)) => {
                    let error = chain(&error);
                    tracing::error!(
                        "retention cannot read the journal's oldest entries, and removes nothing more in this run; \
                         `journal verify` tells what is wrong: {error}"
                    );
                    return;
                }
            }
        }
    }

    /// Whether the journal says that the clock is not to be trusted. A read error is left to the removing run, which
    /// reports it.
    async fn clock_is_suspect(&self) -> bool {
        matches!(self.read(|reader| reader.clock_trust(clock::now().wall)).await, Ok(ClockTrust::Doubted))
    }

    /// Does nothing until the journal is slightly over the limits; then removes all the excess.
    async fn run_once(&mut self, is_suspect: bool) -> Result<(), Ended> {
        let policy = if is_suspect { self.policy.without_ages() } else { self.policy };
        if self.next(policy.loosened()).await?.is_none() {
            return Ok(());
        }
        self.remove(policy, RemovalStep::default()).await.map(|_| ())
    }

    /// `journal prune`.
    async fn execute(&mut self, order: &PruneOrder, is_suspect: bool) -> Result<PruneReport, Ended> {
        let policy = Policy::ordered(order).unwrap_or(self.policy);
        let trust = policy.clock(if is_suspect { ClockTrust::Doubted } else { ClockTrust::Trusted });
        let policy = if is_suspect { policy.without_ages() } else { policy };
        let preview = self.read(move |reader| reader.preview_removal(&policy, clock::now().wall)).await?;
        if order.dry_run {
            return Ok(preview.report(PruneMode::DryRun, trust));
        }
        Ok(self.remove(policy, preview.emptied()).await?.report(PruneMode::Remove, trust))
    }

    /// Removes entries step by step until the policy is met, and reports the result; `sum` is what was removed before.
    async fn remove(&mut self, policy: Policy, mut sum: RemovalStep) -> Result<RemovalStep, Ended> {
        while let Some(step) = self.next(policy).await? {
            self.inputs.send(Input::Prune(step.removal.clone())).await.map_err(|_| Ended::Agent)?;
            while !self.is_done(&step).await? {
                self.commits.changed().await.map_err(|_| Ended::Agent)?;
            }
            sum.add(&step);
        }
        if sum.removal.entries == 0 && sum.responses == 0 {
            return Ok(sum);
        }
        tracing::info!(
            entries = sum.removal.entries,
            requests = sum.removal.requests,
            responses = sum.responses,
            bytes = sum.bytes,
            "retention: the journal's entries up to {} are removed",
            sum.removal.upto
        );
        let compactor = self.compactor.clone();
        Self::blocking(move || compactor.if_outgrown()).await?;
        Ok(sum)
    }

    async fn next(&self, policy: Policy) -> Result<Option<RemovalStep>, Ended> {
        self.read(move |reader| reader.next_removal(&policy, clock::now().wall)).await
    }

    async fn is_done(&self, step: &RemovalStep) -> Result<bool, Ended> {
        let removal = step.removal.clone();
        self.read(move |reader| reader.is_removed(&removal)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Ended> {
        let reader = self.reader.clone();
        Self::blocking(move || read(&reader)).await?.map_err(Ended::Unread)
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Ended> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Ended::Agent),
        }
    }
}

impl Ended {
    fn into_words(self) -> String {
        match self {
            Self::Agent => "the agent is stopping".to_owned(),
            Self::Unread(error) => chain(&error),
        }
    }
}

fn report_clock(is_suspect: bool) {
    if is_suspect {
        tracing::warn!(
            "the clock is more than 30 days from where the journal and this run have it: while that is so nothing is removed \
             from the journal for its age; put the clock right (a start trusts a time that has 30 days of history)"
        );
    } else {
        tracing::info!("the clock is trusted again: entries that are too old are removed from the journal");
    }
}

fn has_jumped(started: Now, now: Now) -> bool {
    let wall = i128::from(now.wall.0) - i128::from(started.wall.0);
    let boot = i128::from(now.boot.0) - i128::from(started.boot.0);
    (wall - boot).unsigned_abs() > u128::from(JUMP_MS) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::time::{BootTime, Timestamp};

    #[test]
    fn a_clock_that_is_set_by_a_year_is_noticed_in_both_directions() {
        const DAY: u64 = 86_400_000_000;
        let at = |wall, boot| Now { wall: Timestamp(wall * DAY), boot: BootTime(boot * DAY) };
        let started = at(20_000, 3);
        assert!(!has_jumped(started, at(20_400, 403)), "a year has really passed");
        assert!(!has_jumped(started, at(20_001, 3)));
        assert!(has_jumped(started, at(20_366, 4)));
        assert!(has_jumped(started, at(19_634, 4)));
    }
}

//! Retention in the background: looks now and then whether the journal is past what is to be kept, and has the driver
//! remove it, a step after the other. Then it sees to the files, which do not become smaller by that.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::report::chain;
use crate::api::time::Now;
use crate::journal::retention::{Policy, Step};
use crate::journal::{Compactor, ReadError, Reader};
use crate::lifecycle::Input;

use super::clock;

/// After a commit the oldest entries are looked at, which costs a few reads; not again before this, …
const PAUSE: Duration = Duration::from_secs(2);
/// … and without any commit after this: entries grow old by themselves.
const IDLE: Duration = Duration::from_secs(600);

/// A wall clock that has moved so much against the time since the start is not believed: nothing goes for its age.
const JUMP_MS: u64 = 30 * 86_400_000;

pub(super) struct Retention {
    pub policy: Policy,
    pub reader: Reader,
    pub compactor: Compactor,
    pub inputs: mpsc::Sender<Input>,
    /// Changes with every commit.
    pub commits: watch::Receiver<u64>,
}

/// Why a turn of retention ended before it was done.
enum Ended {
    /// The agent ends.
    Agent,
    Unread(ReadError),
}

impl Retention {
    pub async fn run(mut self, token: CancellationToken) {
        let started = clock::now();
        let mut jumped = false;
        loop {
            let awaited = async {
                tokio::time::sleep(PAUSE).await;
                // No more commits: the agent ends, and says so by the token.
                if let Ok(Err(_)) = tokio::time::timeout(IDLE, self.commits.changed()).await {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = awaited => {}
            }
            if !jumped && has_jumped(started, clock::now()) {
                jumped = true;
                tracing::warn!(
                    "the clock was set by more than 30 days: nothing is removed from the journal for its age in this run"
                );
                self.policy = self.policy.without_ages();
            }
            let ended = tokio::select! {
                () = token.cancelled() => return,
                ended = self.turn() => ended,
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

    /// Does nothing until a little more is there than is to be kept; then removes all that is.
    async fn turn(&mut self) -> Result<(), Ended> {
        if self.next(self.policy.loosened()).await?.is_none() {
            return Ok(());
        }
        let mut sum = Step::default();
        while let Some(step) = self.next(self.policy).await? {
            self.inputs.send(Input::Prune(step.removal.clone())).await.map_err(|_| Ended::Agent)?;
            while !self.is_done(&step).await? {
                self.commits.changed().await.map_err(|_| Ended::Agent)?;
            }
            sum.removal.entries += step.removal.entries;
            sum.removal.requests += step.removal.requests;
            sum.removal.upto = step.removal.upto;
            sum.responses += step.responses;
            sum.bytes += step.bytes;
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
        Self::blocking(move || compactor.if_outgrown()).await
    }

    async fn next(&self, policy: Policy) -> Result<Option<Step>, Ended> {
        self.read(move |reader| reader.next_removal(&policy, clock::now().wall)).await
    }

    async fn is_done(&self, step: &Step) -> Result<bool, Ended> {
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

//! The budget and the deadline of a frame that is being received.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use crate::broker::wire::FrameReader;

/// Bytes of long frames that all connections together may be receiving.
const RECEIVE_BYTES: usize = 64 << 20;
/// What a frame may take without a share of that budget, and the size of a share.
const SHARE: usize = 64 << 10;

/// The budget for long frames, shared by all connections.
pub(super) fn budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(RECEIVE_BYTES / SHARE))
}

/// A frame that arrives in parts: its share of the budget, and when it has to be complete.
pub(super) struct Receiving {
    budget: PollSemaphore,
    shares: Option<OwnedSemaphorePermit>,
    pub deadline: Option<Duration>,
}

impl Receiving {
    pub fn new(budget: &Arc<Semaphore>) -> Self {
        Self { budget: PollSemaphore::new(Arc::clone(budget)), shares: None, deadline: None }
    }

    pub fn needs_share(&self, reader: &FrameReader) -> bool {
        let held = self.shares.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        reader.pending() >= SHARE * (held + 1)
    }

    pub async fn take_share(&mut self) {
        // The budget is never closed.
        let Some(share) = poll_fn(|context| self.budget.poll_acquire(context)).await else { return };
        match &mut self.shares {
            Some(shares) => shares.merge(share),
            None => self.shares = Some(share),
        }
    }

    /// All complete frames have been taken; `whole`: there were any.
    pub fn taken(&mut self, reader: &FrameReader, whole: bool, deadline: Duration) {
        if whole {
            self.shares = None;
            self.deadline = None;
        }
        match reader.pending() {
            0 => self.deadline = None,
            _ => _ = self.deadline.get_or_insert(deadline),
        }
    }
}

//! Counts a connection's bytes: large messages share one budget over all connections, and each has a deadline.
//!
//! The WebSocket layer buffers a message until it is complete. The bounds are set here: a limit on the request's head,
//! a share of the budget for each [`SHARE`] beyond the first, and a deadline from a message's first byte to its last.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::PollSemaphore;

use super::limits::HEAD_LIMIT;
use super::wire::Wire;

/// What a message may take without a share of the budget, and the size of a share.
const SHARE: usize = 64 << 10;
/// The size of a client's control frame without its payload.
const CONTROL_HEADER: usize = 6;

pub(super) struct Metered {
    wire: Wire,
    budget: PollSemaphore,
    shares: Option<OwnedSemaphorePermit>,
    /// Bytes of the message that is being received.
    unfinished: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    in_head: bool,
}

/// The budget for this many bytes.
pub(super) fn budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / SHARE))
}

impl Metered {
    pub fn new(wire: Wire, budget: Arc<Semaphore>, limit: Duration) -> Self {
        Self {
            wire,
            budget: PollSemaphore::new(budget),
            shares: None,
            unfinished: 0,
            deadline: None,
            limit,
            in_head: true,
        }
    }

    /// The head, or a data message, is complete.
    pub fn settle(&mut self) {
        self.in_head = false;
        self.unfinished = 0;
        self.deadline = None;
        self.shares = None;
    }

    /// A control frame was received. It may have come between the frames of a message, which stays unfinished.
    pub fn settle_control(&mut self, payload: usize) {
        self.unfinished = self.unfinished.saturating_sub(payload + CONTROL_HEADER);
        if self.unfinished == 0 {
            self.settle();
        }
    }

    /// The connection itself, for what comes after the last message.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn shares_needed(&self) -> bool {
        let held = self.shares.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.unfinished >= SHARE * (held + 1)
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if this.in_head && this.unfinished > HEAD_LIMIT {
            return Poll::Ready(Err(io::Error::other("the head of the request is too long")));
        }
        while this.shares_needed() {
            let Some(share) = ready!(this.budget.poll_acquire(cx)) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            match &mut this.shares {
                Some(shares) => shares.merge(share),
                None => this.shares = Some(share),
            }
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.wire).poll_read(cx, buf))?;
        this.unfinished += buf.filled().len().saturating_sub(before);
        if this.deadline.is_none() {
            this.deadline = Some(Box::pin(sleep(this.limit)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

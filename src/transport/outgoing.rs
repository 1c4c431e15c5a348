//! The bounded queue of outgoing messages of one connection.
//!
//! Bounded by messages and by bytes. The agent never waits for a connection: one that has left too much unread is cut.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::api::event::Route;

/// An outgoing message.
pub struct Queued<M> {
    pub message: M,
    /// The request whose response this is.
    pub route: Option<Route>,
    /// Its share of the queue's bytes, given back when it has been written.
    pub share: OwnedSemaphorePermit,
}

/// How much may wait for one connection.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub messages: usize,
    pub kib: u32,
}

/// How one connection's other end is named in the log.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    pub transport: &'static str,
    /// What the transport calls the other end.
    pub other: &'static str,
}

/// The sending end of the queue.
pub struct Outgoing<M> {
    connection: u64,
    names: Names,
    queue: mpsc::Sender<Queued<M>>,
    room: Arc<Semaphore>,
    cut: CancellationToken,
}

impl<M> Clone for Outgoing<M> {
    fn clone(&self) -> Self {
        let Self { connection, names, queue, room, cut } = self;
        Self { connection: *connection, names: *names, queue: queue.clone(), room: Arc::clone(room), cut: cut.clone() }
    }
}

impl<M> Outgoing<M> {
    pub fn new(connection: u64, names: Names, capacity: Capacity) -> (Self, mpsc::Receiver<Queued<M>>) {
        let (queue, queued) = mpsc::channel(capacity.messages);
        let room = Arc::new(Semaphore::new(capacity.kib as usize));
        (Self { connection, names, queue, room, cut: CancellationToken::new() }, queued)
    }

    /// Cancelled when the connection has to end, whatever is still queued.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Queues a message of `bytes` bytes, or cuts the connection if too much is queued. `true`: it was queued.
    pub fn offer(&self, message: M, bytes: usize, route: Option<Route>) -> bool {
        let Ok(share) = Arc::clone(&self.room).try_acquire_many_owned(kib(bytes)) else {
            return self.overflow();
        };
        match self.queue.try_send(Queued { message, route, share }) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => self.overflow(),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Queues a message, waiting for room. For answers to the connection's own calls: from a peer that does not read,
    /// nothing more is read.
    pub async fn push(&self, message: M, bytes: usize) {
        let Ok(share) = Arc::clone(&self.room).acquire_many_owned(kib(bytes)).await else { return };
        // A closed queue means that its reader is gone, and so is the connection.
        let _ = self.queue.send(Queued { message, route: None, share }).await;
    }

    fn overflow(&self) -> bool {
        if !self.cut.is_cancelled() {
            let Names { transport, other } = self.names;
            tracing::warn!(
                connection = self.connection,
                "{transport} connection cut: its {other} does not read what it is sent"
            );
            self.cut.cancel();
        }
        false
    }
}

/// Bytes in units of the budget, KiB.
pub fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { transport: "test", other: "peer" };

    #[test]
    fn a_connection_that_leaves_too_much_unread_is_cut() {
        let (outgoing, mut queued) = Outgoing::new(1, NAMES, Capacity { messages: 2, kib: 4 });
        assert!(outgoing.offer("first", 4096, None));
        assert!(!outgoing.offer("beyond the bytes", 1, None));
        assert!(outgoing.cut().is_cancelled());
        drop(queued.try_recv().unwrap());
        assert!(outgoing.offer("room again", 1, None) && outgoing.offer("and again", 1, None));
        assert!(!outgoing.offer("beyond the messages", 1, None));
        drop(queued);
        assert!(!outgoing.offer("nobody reads", 1, None));
    }
}

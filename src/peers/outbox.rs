//! The bytes that wait to be written to one peer, and which responses are delivered once they are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::api::event::Route;
use crate::transport::outgoing::Queued;

/// If more than this is waiting, nothing is taken from the queue, and nothing more is read that would need an answer.
const FULL: usize = 64 << 10;

/// The end of a message in the stream.
struct MessageEnd {
    end: u64,
    route: Option<Route>,
    /// Its share of the queue's bytes, given back when it has been written.
    _share: OwnedSemaphorePermit,
}

#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    start: usize,
    written: u64,
    ends: VecDeque<MessageEnd>,
    /// When bytes began to wait, or the socket last took some.
    since: Duration,
}

impl Outbox {
    pub fn push(&mut self, frame: &[u8], now: Duration) {
        if self.is_empty() {
            self.since = now;
        }
        self.bytes.extend_from_slice(frame);
    }

    pub fn push_queued(&mut self, queued: Queued<Arc<[u8]>>, now: Duration) {
        self.push(&queued.message, now);
        let end = self.written + self.waiting().len() as u64;
        self.ends.push_back(MessageEnd { end, route: queued.route, _share: queued.share });
    }

    /// The bytes to write next.
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.waiting().len() >= FULL
    }

    /// When the peer counts as stalled, if the socket takes no byte until then; `None` if nothing waits.
    pub fn stalls(&self, limit: Duration) -> Option<Duration> {
        (!self.is_empty()).then(|| self.since.saturating_add(limit))
    }

    /// The socket took this many bytes. Returns the requests whose responses are now written.
    pub fn took(&mut self, count: usize, now: Duration) -> Vec<Route> {
        self.start += count;
        self.written += count as u64;
        self.since = now;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
            if self.bytes.capacity() > FULL {
                self.bytes = Vec::new();
            }
        } else if self.start >= FULL {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let mut gone = Vec::new();
        while self.ends.front().is_some_and(|message| message.end <= self.written) {
            gone.extend(self.ends.pop_front().and_then(|message| message.route));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[test]
    fn responses_have_left_with_their_last_byte() {
        let room = Arc::new(Semaphore::new(10));
        let route = Route { connection: 1, call: 2 };
        let mut outbox = Outbox::default();
        outbox.push(b"pong", Duration::ZERO);
        let share = Arc::clone(&room).try_acquire_many_owned(3).unwrap();
        outbox.push_queued(Queued { message: Arc::from(*b"answer"), share, route: Some(route) }, Duration::ZERO);
        outbox.push(b"ping", Duration::ZERO);
        assert_eq!((outbox.waiting(), room.available_permits()), (b"ponganswerping".as_slice(), 7));
        assert_eq!(outbox.took(9, Duration::from_secs(1)), []);
        assert_eq!(outbox.took(1, Duration::from_secs(2)), [route]);
        assert_eq!((outbox.waiting(), room.available_permits()), (b"ping".as_slice(), 10));
        assert_eq!(outbox.stalls(Duration::from_secs(5)), Some(Duration::from_secs(7)));
        assert_eq!(outbox.took(4, Duration::from_secs(3)), []);
        assert_eq!((outbox.is_empty(), outbox.stalls(Duration::from_secs(5))), (true, None));
    }

    #[test]
    fn what_is_long_is_not_kept_after_it_was_taken() {
        let mut outbox = Outbox::default();
        outbox.push(&[1; 3 * FULL], Duration::ZERO);
        assert!(outbox.is_full());
        for _ in 0..3 {
            outbox.took(FULL, Duration::ZERO);
        }
        assert!(outbox.is_empty() && outbox.bytes.capacity() == 0);
    }
}

//! The watch over commits: a disk that does not answer ends the agent, and a machine without time for it does not.

use std::time::Duration;

use tokio::sync::watch;

use crate::journal::{Disk, Waiting};

/// How often the watch looks at one wait before it believes it. A process that was stopped, or got no CPU, looks once
/// afterwards, however long that was.
const LOOKS: u32 = 20;

/// Resolves when a commit has kept waiting for the disk for longer than `limit`. `commits` is odd while one is under way:
/// without any, nothing is looked at.
pub async fn slow_disk(mut commits: watch::Receiver<u64>, disk: Disk, limit: Duration) {
    let mut watch = Watch::default();
    loop {
        let is_under_way = !commits.borrow_and_update().is_multiple_of(2);
        if !is_under_way {
            if commits.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        // The next commit begins as soon as this one ends, so a change alone says little.
        tokio::time::sleep(limit / LOOKS).await;
        if watch.is_over(disk.waiting(), limit) {
            return;
        }
    }
}

/// The wait that was seen last, and how often.
#[derive(Debug, Default)]
struct Watch {
    call: Option<u64>,
    looks: u32,
}

impl Watch {
    /// Takes in what is seen now; whether it has been enough.
    fn is_over(&mut self, seen: Option<Waiting>, limit: Duration) -> bool {
        let Some(Waiting { call, lasting }) = seen else {
            *self = Self::default();
            return false;
        };
        if self.call != Some(call) {
            *self = Self { call: Some(call), looks: 0 };
        }
        self.looks += 1;
        self.looks >= LOOKS && lasting > limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_if_it_is_one_is_long_and_was_watched() {
        let limit = Duration::from_secs(10);
        let seen = |call, secs| Some(Waiting { call, lasting: Duration::from_secs(secs) });
        let mut watch = Watch::default();
        // The process was stopped: one look, and a long time ago.
        assert!(!watch.is_over(seen(1, 3_600), limit));
        // Many commits, each of them in time.
        assert!((2..100).all(|call| !watch.is_over(seen(call, 9), limit)));
        assert!(!watch.is_over(None, limit));
        // A thread that computes, or waits for a CPU, does not wait for the disk.
        assert!((0..100).all(|_| !watch.is_over(seen(100, 5), limit)));
        // A disk that does not answer.
        let mut watch = Watch::default();
        let looks = (1..).find(|half_seconds| watch.is_over(seen(101, half_seconds / 2), limit));
        assert_eq!(looks, Some(22), "11 s of one call");
    }
}

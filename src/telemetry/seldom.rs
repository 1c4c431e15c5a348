//! Log lines about what others can make happen thousands of times a second.

use std::future::pending;
use std::time::{Duration, Instant};

/// When to say that something happened: at once the first time, and then as a count, no more often than once a period.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    pub fn new(every: Duration) -> Self {
        Self { every, said: None, unsaid: 0 }
    }

    /// It happened: `true` if that is to be said now, else it is counted.
    pub fn happened(&mut self, now: Instant) -> bool {
        let is_quiet = self.unsaid > 0 || self.said.is_some_and(|said| now.duration_since(said) < self.every);
        if is_quiet {
            self.unsaid += 1;
        } else {
            self.said = Some(now);
        }
        !is_quiet
    }

    /// Waits until a count is to be said; for ever as long as there is none. May be dropped at any time.
    pub async fn due(&self) {
        match self.said {
            Some(said) if self.unsaid > 0 => tokio::time::sleep_until((said + self.every).into()).await,
            Some(_) | None => pending().await,
        }
    }

    /// How often it happened since something was said, which is said now; `None`: never.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if self.unsaid == 0 {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_rest_are_counted() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut seldom = Seldom::new(Duration::from_secs(30));
        assert_eq!(seldom.take(at(0)), None);
        assert!(seldom.happened(at(0)));
        assert_eq!(seldom.take(at(1)), None);
        for second in 1..=30 {
            // Also after its period, as long as nobody has taken the count.
            assert!(!seldom.happened(at(second)));
        }
        assert_eq!(seldom.take(at(31)), Some(30));
        // The count was a line, too.
        assert!(!seldom.happened(at(60)));
        assert_eq!(seldom.take(at(61)), Some(1));
        assert_eq!(seldom.take(at(91)), None);
        assert!(seldom.happened(at(91)));
    }

    #[test]
    fn a_count_is_due_a_period_after_the_last_line() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let every = Duration::from_millis(50);
            let mut seldom = Seldom::new(every);
            let begun = Instant::now();
            assert!(seldom.happened(begun));
            let nothing_due = tokio::time::timeout(every * 2, seldom.due()).await;
            assert!(nothing_due.is_err());
            let said = Instant::now();
            assert!(seldom.happened(said));
            assert!(!seldom.happened(said));
            seldom.due().await;
            assert!(said.elapsed() >= every);
        });
    }
}

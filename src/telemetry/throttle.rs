//! Rate limits for log messages about events that others can cause thousands of times a second.

use std::future::pending;
use std::time::{Duration, Instant};

/// Logs the first event at once and then only a count of the events since, at most one line per interval.
#[derive(Debug)]
pub struct LogThrottle {
    interval: Duration,
    last_line: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    pub fn new(interval: Duration) -> Self {
        Self { interval, last_line: None, suppressed: 0 }
    }

    /// Records one event. `true`: log it now; otherwise it was added to the count.
    pub fn should_log(&mut self, now: Instant) -> bool {
        let is_suppressed =
            self.suppressed > 0 || self.last_line.is_some_and(|last| now.duration_since(last) < self.interval);
        if is_suppressed {
            self.suppressed += 1;
        } else {
            self.last_line = Some(now);
        }
        !is_suppressed
    }

    /// Resolves when a count is due; never while there is none. Cancel safe.
    pub async fn due(&self) {
        match self.last_line {
            Some(last) if self.suppressed > 0 => tokio::time::sleep_until((last + self.interval).into()).await,
            Some(_) | None => pending().await,
        }
    }

    /// The number of events since the last line, to be logged now; `None` if there were none.
    pub fn take_suppressed(&mut self, now: Instant) -> Option<u64> {
        if self.suppressed == 0 {
            return None;
        }
        self.last_line = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_logged_and_the_rest_are_counted() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut throttle = LogThrottle::new(Duration::from_secs(30));
        assert_eq!(throttle.take_suppressed(at(0)), None);
        assert!(throttle.should_log(at(0)));
        assert_eq!(throttle.take_suppressed(at(1)), None);
        for second in 1..=30 {
            // Still false after the interval, as long as the count has not been reported.
            assert!(!throttle.should_log(at(second)));
        }
        assert_eq!(throttle.take_suppressed(at(31)), Some(30));
        // The reported count was a log line, too, so the interval starts again.
        assert!(!throttle.should_log(at(60)));
        assert_eq!(throttle.take_suppressed(at(61)), Some(1));
        assert_eq!(throttle.take_suppressed(at(91)), None);
        assert!(throttle.should_log(at(91)));
    }

    #[test]
    fn a_count_is_due_an_interval_after_the_last_line() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let interval = Duration::from_millis(50);
            let mut throttle = LogThrottle::new(interval);
            let begun = Instant::now();
            assert!(throttle.should_log(begun));
            let nothing_due = tokio::time::timeout(interval * 2, throttle.due()).await;
            assert!(nothing_due.is_err());
            let logged = Instant::now();
            assert!(throttle.should_log(logged));
            assert!(!throttle.should_log(logged));
            throttle.due().await;
            assert!(logged.elapsed() >= interval);
        });
    }
}

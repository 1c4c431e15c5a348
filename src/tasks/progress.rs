//! Detects whether a thread makes progress. A thread that hangs is distinguished from one that has nothing to do, from
//! one that gets no CPU, and from a process that was stopped as a whole.
//!
//! The thread only counts its pieces of work ([`Progress::during`]), which is cheap. The watcher
//! ([`Progress::stalled`]) checks periodically whether one piece still lasts, and reads from the kernel what the thread
//! did meanwhile.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often the watcher looks at one piece of work before it counts as stalled. A process that was stopped, or got no
/// CPU, looks once afterwards, however long that was.
const LOOKS: u32 = 20;

/// The progress of one kind of work. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Odd while a piece of work is in progress.
    pieces: AtomicU64,
    /// The thread that does it.
    thread: AtomicI32,
    /// The watcher sleeps until there is work.
    asleep: AtomicBool,
    begun: Notify,
}

/// Which time of a piece of work counts towards its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Waiting for anything: a thread that computes is no sign of a disk that does not answer.
    Waits,
    /// Also computing: a thread in an endless loop makes no progress either. Never the time in the queue for a CPU.
    WaitsAndWork,
}

/// A piece of work has taken longer than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// The kernel shows the thread as waiting for a device.
    pub for_device: bool,
}

impl Progress {
    /// Does a piece of work on this thread while it is watched. Pieces do not nest.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        self.0.pieces.fetch_add(1, Ordering::SeqCst);
        // Also on a panic.
        let _over = Over(&self.0);
        if self.0.asleep.load(Ordering::SeqCst) && self.0.asleep.swap(false, Ordering::SeqCst) {
            self.0.begun.notify_one();
        }
        work()
    }

    /// The current piece of work, if any.
    fn piece(&self) -> Option<u64> {
        let pieces = self.0.pieces.load(Ordering::SeqCst);
        (!pieces.is_multiple_of(2)).then_some(pieces)
    }

    /// Resolves when a piece of work takes longer than `limit`. While `beside` is working, no time counts: this work
    /// may be waiting for it.
    pub async fn stalled(&self, limit: Duration, counted: Counted, beside: Option<&Self>) -> Stalled {
        let pace = limit / LOOKS;
        let mut watch = Watch { pace, limit, counted, seen: None };
        loop {
            let Some(piece) = self.piece() else {
                self.wait_for_work().await;
                continue;
            };
            let look = Look { piece, at: Instant::now(), thread: Thread::read(self.0.thread.load(Ordering::Relaxed)) };
            let is_excused = beside.is_some_and(|other| other.piece().is_some());
            if let Some(stalled) = watch.takes_in(look, is_excused) {
                return stalled;
            }
            tokio::time::sleep(pace).await;
        }
    }

    async fn wait_for_work(&self) {
        let begun = self.0.begun.notified();
        self.0.asleep.store(true, Ordering::SeqCst);
        // Work that began before `asleep` was set has not woken us.
        if self.piece().is_none() {
            begun.await;
        }
        self.0.asleep.store(false, Ordering::SeqCst);
    }
}

struct Over<'a>(&'a Inner);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.pieces.fetch_add(1, Ordering::SeqCst);
    }
}

/// The kernel's information about a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    doing: Doing,
    /// Its time on a CPU and in the queue for one; `None` if the kernel does not count them.
    times: Option<(Duration, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It is on a CPU, or ready to run.
    Computes,
    Waits,
    WaitsForDevice,
    /// Stopped by a signal or a debugger.
    Stopped,
}

impl Thread {
    fn read(thread: i32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).ok();
        // proc_pid_stat(5): the state follows the name, which ends with the last parenthesis.
        let state = read("stat").and_then(|text| text.rsplit_once(") ")?.1.chars().next());
        let doing = match state {
            Some('R') => Doing::Computes,
            Some('T' | 't') => Doing::Stopped,
            Some('D') => Doing::WaitsForDevice,
            Some(_) | None => Doing::Waits,
        };
        let times = read("schedstat").and_then(|text| {
            let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
            let (ran, queued) = (fields.next()?.ok()?, fields.next()?.ok()?);
            Some((Duration::from_nanos(ran), Duration::from_nanos(queued)))
        });
        Self { doing, times }
    }
}

#[derive(Debug, Clone, Copy)]
struct Look {
    piece: u64,
    at: Instant,
    thread: Thread,
}

#[derive(Debug)]
struct Watch {
    pace: Duration,
    limit: Duration,
    counted: Counted,
    /// The last look, and the time counted so far for its piece of work.
    seen: Option<(Look, Duration)>,
}

impl Watch {
    fn takes_in(&mut self, look: Look, is_excused: bool) -> Option<Stalled> {
        let counted = match self.seen {
            Some((before, counted)) if before.piece == look.piece => match is_excused {
                true => counted,
                false => counted + self.between(&before, &look),
            },
            Some(_) | None => Duration::ZERO,
        };
        self.seen = Some((look, counted));
        (counted > self.limit).then_some(Stalled { for_device: look.thread.doing == Doing::WaitsForDevice })
    }

    /// The part of the time between two looks that counts: at most the planned pause.
    fn between(&self, before: &Look, now: &Look) -> Duration {
        let passed = now.at.saturating_duration_since(before.at).min(self.pace);
        let times = now.thread.times.zip(before.thread.times);
        let (ran, queued) = times.map_or((Duration::ZERO, Duration::ZERO), |(now, before)| {
            (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
        });
        match (now.thread.doing, self.counted) {
            (Doing::Stopped, _) | (Doing::Computes, Counted::Waits) => Duration::ZERO,
            // The current time in the queue is not yet accounted.
            (Doing::Computes, Counted::WaitsAndWork) => ran.min(passed),
            (Doing::Waits | Doing::WaitsForDevice, Counted::Waits) => passed.saturating_sub(ran + queued),
            (Doing::Waits | Doing::WaitsForDevice, Counted::WaitsAndWork) => passed.saturating_sub(queued),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const PACE: Duration = Duration::from_millis(500);

    fn watch(counted: Counted) -> Watch {
        Watch { pace: PACE, limit: LIMIT, counted, seen: None }
    }

    /// How many looks, at most 100, it takes until one piece of work counts as stalled. They are `apart`; in between,
    /// the thread has run and waited for a CPU for these times.
    fn looks(counted: Counted, apart: Duration, doing: Doing, ran: Duration, queued: Duration) -> Option<u32> {
        let (begun, mut watch) = (Instant::now(), watch(counted));
        (0..100).find(|number| {
            let thread = Thread { doing, times: Some((ran * *number, queued * *number)) };
            watch.takes_in(Look { piece: 1, at: begun + apart * *number, thread }, false).is_some()
        })
    }

    #[test]
    fn a_wait_counts_and_so_does_an_endless_loop_where_it_should() {
        let none = Duration::ZERO;
        for counted in [Counted::Waits, Counted::WaitsAndWork] {
            assert_eq!(looks(counted, PACE, Doing::Waits, none, none), Some(21));
            assert_eq!(looks(counted, PACE, Doing::WaitsForDevice, none, none), Some(21));
            assert_eq!(looks(counted, PACE, Doing::Stopped, none, none), None);
            // It is always in the queue for a CPU.
            assert_eq!(looks(counted, PACE, Doing::Waits, none, PACE), None);
            assert_eq!(looks(counted, PACE, Doing::Computes, none, none), None);
        }
        assert_eq!(looks(Counted::Waits, PACE, Doing::Computes, PACE, none), None);
        assert_eq!(looks(Counted::WaitsAndWork, PACE, Doing::Computes, PACE, none), Some(21));
        assert_eq!(looks(Counted::WaitsAndWork, PACE, Doing::Computes, PACE / 2, PACE / 2), Some(41));
    }

    #[test]
    fn a_process_that_stood_still_looks_once_and_work_that_goes_on_never_counts() {
        assert_eq!(looks(Counted::Waits, LIMIT * 100, Doing::Waits, Duration::ZERO, Duration::ZERO), Some(21));
        let (begun, mut watch) = (Instant::now(), watch(Counted::Waits));
        let thread = Thread { doing: Doing::Waits, times: None };
        let mut takes_in = |piece, secs, is_excused| {
            watch.takes_in(Look { piece, at: begun + Duration::from_secs(secs), thread }, is_excused)
        };
        assert!((0..1_000).all(|piece| takes_in(piece, piece, false).is_none()));
        // Work that waits for other work in progress.
        assert!((1_000..2_000).all(|secs| takes_in(1, secs, true).is_none()));
        assert_eq!((2_000..3_000).find(|secs| takes_in(1, *secs, false).is_some()), Some(2_020));
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_seen_and_idle_ones_are_not_looked_at() {
        let progress = Progress::default();
        let limit = Duration::from_millis(100);
        let mut stalled = Box::pin(progress.stalled(limit, Counted::WaitsAndWork, None));
        assert!(tokio::time::timeout(limit * 3, &mut stalled).await.is_err());
        assert!(progress.0.asleep.load(Ordering::SeqCst));
        let (go_on, told) = mpsc::channel::<()>();
        let at_work = progress.clone();
        let thread = std::thread::spawn(move || at_work.during(|| told.recv().is_ok()));
        assert_eq!(stalled.await, Stalled { for_device: false });
        go_on.send(()).unwrap();
        assert!(thread.join().unwrap());
        assert_eq!(progress.piece(), None);
    }

    #[test]
    fn the_kernel_tells_a_thread_that_computes_from_one_that_waits() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        let seen = Thread::read(own);
        assert_eq!(seen.doing, Doing::Computes);
        let (before, _) = seen.times.expect("this kernel counts");
        while Thread::read(own).times.unwrap().0 < before + Duration::from_millis(50) {}
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            ended.recv().unwrap();
        });
        let thread = told.recv().unwrap();
        // Until the thread has reached its wait.
        while Thread::read(thread).doing != Doing::Waits {
            std::thread::yield_now();
        }
        end.send(()).unwrap();
        other.join().unwrap();
    }
}

//! For how long the disk has kept the journal waiting: the time in one call that writes and syncs, without what its thread spent
//! computing or waiting for a CPU. A slow disk is told from a busy machine by it.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The call under way, if there is one. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    calls: u64,
    under_way: Option<Call>,
}

#[derive(Debug)]
struct Call {
    since: Instant,
    thread: i32,
    /// What its thread had spent on and waiting for a CPU when it began.
    busy: Duration,
}

/// A wait for the disk, which is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which call it is.
    pub call: u64,
    pub lasting: Duration,
}

impl Disk {
    /// Runs what writes and syncs.
    pub fn call<T>(&self, run: impl FnOnce() -> T) -> T {
        {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let call = Call { since: Instant::now(), thread, busy: busy(thread).unwrap_or_default() };
            let mut state = self.state();
            state.calls += 1;
            state.under_way = Some(call);
        }
        // Also where it panics.
        let _over = Over(self);
        run()
    }

    /// How long the call under way has waited for the disk.
    pub fn waiting(&self) -> Option<Waiting> {
        let state = self.state();
        let Call { since, thread, busy: before } = state.under_way.as_ref()?;
        let busy = busy(*thread).map_or(Duration::ZERO, |now| now.saturating_sub(*before));
        Some(Waiting { call: state.calls, lasting: since.elapsed().saturating_sub(busy) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Over<'a>(&'a Disk);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().under_way = None;
    }
}

/// Time on a CPU and time in the queue for one (sched-stats.rst: `/proc/PID/task/TID/schedstat`). `None` where the kernel does
/// not count: then all of a call counts as waiting for the disk.
fn busy(thread: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (running, queued) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(Duration::from_nanos(running.saturating_add(queued)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the watch sees of a call that does this.
    fn seen(work: impl FnOnce(&dyn Fn() -> Duration) + Send + 'static) -> Duration {
        let disk = Disk::default();
        let watch = disk.clone();
        let waited = move || watch.waiting().expect("under way").lasting;
        std::thread::spawn(move || {
            disk.call(|| work(&waited));
            assert_eq!(disk.waiting(), None, "it is over");
        })
        .join()
        .map(|()| Duration::ZERO)
        .unwrap()
    }

    #[test]
    fn a_call_that_waits_is_told_from_one_that_computes() {
        seen(|waited| {
            // Until it has computed for a while, whatever share of a CPU it gets.
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let computed = || busy(thread).expect("this kernel counts");
            let (begun, before) = (Instant::now(), computed());
            while computed() - before < Duration::from_millis(200) {
                std::hint::black_box(begun.elapsed());
            }
            let waited = waited();
            assert!(waited < begun.elapsed() / 2, "{waited:?} of {:?}", begun.elapsed());
        });
        seen(|waited| {
            std::thread::sleep(Duration::from_millis(200));
            let waited = waited();
            assert!(waited >= Duration::from_millis(100), "{waited:?}");
        });
    }
}

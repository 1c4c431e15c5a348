//! Restart policy: deaths so far in, delay or giving up out.

use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ExitCause;
use crate::api::time::BootTime;
use crate::journal::entry::{NodeRecord, Verdict};

use super::durable::PROPER_LIFE_MS;

/// The settings of the policy; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartOptions {
    pub backoff_min_ms: u64,
    pub backoff_max_ms: u64,
    /// More deaths than this within `window_ms`: FAILED.
    pub max_restarts: u32,
    pub window_ms: u64,
    /// Exit codes that mean "do not try again".
    pub permanent_exit_codes: Vec<i32>,
    /// A FAILED node is tried again after this long; 0: never.
    pub failed_retry_ms: u64,
}

impl Default for RestartOptions {
    fn default() -> Self {
        Self {
            backoff_min_ms: 1_000,
            backoff_max_ms: 60_000,
            max_restarts: 10,
            window_ms: 600_000,
            permanent_exit_codes: Vec::new(),
            failed_retry_ms: 300_000,
        }
    }
}

/// What follows from an exit that nobody asked for. `record` is as it was before the exit.
///
/// The first death after a proper life (or after none) restarts at once; each further one doubles the delay.
pub(super) fn verdict(
    options: &RestartOptions,
    name: &NodeName,
    incarnation: Incarnation,
    record: &NodeRecord,
    cause: &ExitCause,
    ran_ms: Option<u64>,
    now: BootTime,
) -> Verdict {
    match cause {
        ExitCause::NotStarted(reason) => return Verdict::GiveUp { reason: reason.clone() },
        ExitCause::Code(code) if options.permanent_exit_codes.contains(code) => {
            return Verdict::GiveUp { reason: format!("exit code {code}, which the settings call permanent") };
        }
        ExitCause::HostRestarted => return Verdict::RestartAt(now),
        ExitCause::Code(_) | ExitCause::Signal(_) | ExitCause::Lost => {}
    }
    let recent = 1 + record.deaths.iter().filter(|at| now.ms_since(**at) <= options.window_ms).count();
    if recent > options.max_restarts as usize {
        let minutes = options.window_ms / 60_000;
        return Verdict::GiveUp {
            reason: format!("{recent} deaths within {minutes} min, the last by {cause}; not tried again for now"),
        };
    }
    let streak = if ran_ms.is_some_and(|ms| ms >= PROPER_LIFE_MS) { 1 } else { record.streak + 1 };
    Verdict::RestartAt(now.plus_ms(delay_ms(options, name, incarnation, streak)))
}

/// 0, then the minimum, doubled with each death in a row up to the maximum, less up to a fifth so that nodes that died
/// together do not come back together. The jitter is a hash, not a draw: the same history gives the same delays.
fn delay_ms(options: &RestartOptions, name: &NodeName, incarnation: Incarnation, streak: u32) -> u64 {
    let Some(doublings) = streak.checked_sub(2) else { return 0 };
    let full = options.backoff_min_ms.saturating_mul(1 << doublings.min(32)).min(options.backoff_max_ms);
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_str().as_bytes());
    hasher.update(&incarnation.0.to_be_bytes());
    let [byte, ..] = *hasher.finalize().as_bytes();
    full - full / 5 * u64::from(byte) / 255
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::node_record;

    fn delays(options: &RestartOptions, deaths: u32) -> Vec<u64> {
        let name = NodeName::new("w1").unwrap();
        (1..=deaths).map(|streak| delay_ms(options, &name, Incarnation(u64::from(streak)), streak)).collect()
    }

    #[test]
    fn first_restart_is_at_once_then_delays_grow_to_the_maximum() {
        let options = RestartOptions::default();
        let delays = delays(&options, 10);
        assert_eq!(delays[0], 0);
        for (index, delay) in delays.iter().enumerate().skip(1) {
            let full = (1000u64 << (index - 1)).min(60_000);
            assert!(*delay <= full && *delay >= full - full / 5, "death {index}: {delay} of {full}");
        }
    }

    #[test]
    fn too_many_deaths_in_the_window_give_up_and_older_ones_do_not_count() {
        let options = RestartOptions::default();
        let name = NodeName::new("w1").unwrap();
        let now = BootTime(3_600_000_000);
        let mut record = node_record();
        record.deaths = vec![BootTime(now.0 - 1_000_000); 10];
        let recent = verdict(&options, &name, Incarnation(11), &record, &ExitCause::Signal(11), Some(5), now);
        assert!(matches!(recent, Verdict::GiveUp { .. }), "{recent:?}");
        record.deaths = vec![BootTime(now.0 - 601_000_000); 10];
        let old = verdict(&options, &name, Incarnation(11), &record, &ExitCause::Signal(11), Some(5), now);
        assert!(matches!(old, Verdict::RestartAt(_)), "{old:?}");
    }

    #[test]
    fn what_can_not_start_is_given_up_at_once() {
        let options = RestartOptions { permanent_exit_codes: vec![3], ..RestartOptions::default() };
        let name = NodeName::new("w1").unwrap();
        let record = node_record();
        for (cause, gives_up) in [
            (ExitCause::NotStarted("no such file".into()), true),
            (ExitCause::Code(3), true),
            (ExitCause::Code(1), false),
            (ExitCause::Code(0), false),
            (ExitCause::Lost, false),
            (ExitCause::HostRestarted, false),
        ] {
            let verdict = verdict(&options, &name, Incarnation(1), &record, &cause, Some(5), BootTime(7));
            assert_eq!(matches!(verdict, Verdict::GiveUp { .. }), gives_up, "{cause:?}: {verdict:?}");
        }
    }
}

//! Restart policy: from the deaths so far to a delay or to giving up.

use crate::api::ids::{Incarnation, NodeName};
use crate::api::launch::ExitCause;
use crate::api::time::BootTime;
use crate::journal::entry::{NodeRecord, Verdict};

use super::durable::PROPER_LIFE_MS;

/// The settings of the policy; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartOptions {
    /// The pause before the second restart in a row. The first restart is immediate, and each further pause is twice as
    /// long.
    pub backoff_min_ms: u64,
    /// No pause is longer than this.
    pub backoff_max_ms: u64,
    /// More deaths than this within `window_ms`: FAILED.
    pub max_restarts: u32,
    /// How far back deaths count.
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

/// Tries after which a fault that needs outside help makes the agent give up, and the pauses between them. A package
/// upgrade or a fix of permissions takes seconds.
const TRIES: u32 = 3;
const PAUSES_MS: [u64; 2] = [3_000, 6_000];
/// When a node that could not be launched is tried again, if the settings say that FAILED nodes never are. They mean
/// nodes that end; the agent is not notified when the cause of a failed launch is removed.
const LAUNCH_RETRY_MS: u64 = 300_000;

/// An unrequested end.
pub(super) struct End<'a> {
    pub incarnation: Incarnation,
    pub cause: &'a ExitCause,
    pub ran_ms: Option<u64>,
    /// How many ends in a row, including this one, would repeat unless somebody acts.
    pub lasting: u32,
}

/// Decides what follows from an unrequested exit. `record` is as it was before the exit.
///
/// The first death after a proper life (or after none) causes an immediate restart; each further one doubles the delay.
/// So does each failed start, but failed starts do not count towards `max_restarts`.
pub(super) fn verdict(
    options: &RestartOptions,
    name: &NodeName,
    record: &NodeRecord,
    end: &End<'_>,
    now: BootTime,
) -> Verdict {
    let End { incarnation, cause, ran_ms, lasting } = *end;
    if lasting > 0 {
        let Some(pause) = pause_ms(lasting) else { return Verdict::GiveUp { reason: lasting_reason(cause) } };
        return Verdict::RestartAt(now.plus_ms(pause));
    }
    match cause {
        ExitCause::NotStarted(_) => {
            return Verdict::RestartAt(now.plus_ms(delay_ms(options, name, incarnation, record.streak + 1)));
        }
        ExitCause::HostRestarted | ExitCause::HostShutdown => return Verdict::RestartAt(now),
        ExitCause::Code(_)
        | ExitCause::Signal(_)
        | ExitCause::Lost
        | ExitCause::Terminated { .. }
        | ExitCause::OutOfMemory => {}
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

/// The pause before the next try after this many lasting failures; `None`: no further try.
pub(super) fn pause_ms(lasting: u32) -> Option<u64> {
    let index = usize::try_from(lasting).ok()?.checked_sub(1)?;
    PAUSES_MS.get(index).copied()
}

fn lasting_reason(cause: &ExitCause) -> String {
    match cause {
        ExitCause::NotStarted(reason) => format!("{reason} (tried {TRIES} times)"),
        ExitCause::Code(_) => format!("{cause}, which the settings call permanent ({TRIES} times)"),
        ExitCause::Signal(_)
        | ExitCause::Lost
        | ExitCause::HostRestarted
        | ExitCause::HostShutdown
        | ExitCause::Terminated { .. }
        | ExitCause::OutOfMemory => cause.to_string(),
    }
}

/// When a node that was given up is tried again; `None`: never.
pub(super) fn failed_retry_ms(options: &RestartOptions, last: Option<&ExitCause>) -> Option<u64> {
    match last {
        Some(ExitCause::NotStarted(_)) if options.failed_retry_ms == 0 => Some(LAUNCH_RETRY_MS),
        Some(_) | None => Some(options.failed_retry_ms).filter(|retry_ms| *retry_ms > 0),
    }
}

/// 0, then the minimum, doubled with each death in a row up to the maximum, less up to a fifth so that nodes that died
/// together do not restart together. The jitter is a hash, not random: the same history gives the same delays.
pub(super) fn delay_ms(options: &RestartOptions, name: &NodeName, incarnation: Incarnation, streak: u32) -> u64 {
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

    fn end(cause: &ExitCause, lasting: u32) -> End<'_> {
        End { incarnation: Incarnation(11), cause, ran_ms: Some(5), lasting }
    }

    #[test]
    fn too_many_deaths_in_the_window_give_up_and_older_ones_do_not_count() {
        let options = RestartOptions::default();
        let name = NodeName::new("w1").unwrap();
        let now = BootTime(3_600_000_000);
        let mut record = node_record();
        record.deaths = vec![BootTime(now.0 - 1_000_000); 10];
        let recent = verdict(&options, &name, &record, &end(&ExitCause::Signal(11), 0), now);
        assert!(matches!(recent, Verdict::GiveUp { .. }), "{recent:?}");
        // Failed starts do not count as deaths.
        let unstarted = verdict(&options, &name, &record, &end(&ExitCause::NotStarted("ENOSPC".into()), 0), now);
        assert!(matches!(unstarted, Verdict::RestartAt(_)), "{unstarted:?}");
        record.deaths = vec![BootTime(now.0 - 601_000_000); 10];
        let old = verdict(&options, &name, &record, &end(&ExitCause::Signal(11), 0), now);
        assert!(matches!(old, Verdict::RestartAt(_)), "{old:?}");
    }

    #[test]
    fn what_lasts_is_given_up_after_three_tries_in_ten_seconds() {
        let options = RestartOptions { permanent_exit_codes: vec![3], ..RestartOptions::default() };
        let name = NodeName::new("w1").unwrap();
        let record = node_record();
        for cause in [ExitCause::NotStarted("permission denied".into()), ExitCause::Code(3)] {
            let mut now = BootTime(7);
            let mut tries = 1;
            while let Verdict::RestartAt(at) = verdict(&options, &name, &record, &end(&cause, tries), now) {
                (now, tries) = (at, tries + 1);
            }
            assert_eq!(tries, 3, "{cause:?}");
            assert!(now <= BootTime(7).plus_ms(10_000), "{cause:?}: {now:?}");
        }
        for cause in [ExitCause::Code(1), ExitCause::Code(0), ExitCause::Lost, ExitCause::HostRestarted] {
            let verdict = verdict(&options, &name, &record, &end(&cause, 0), BootTime(7));
            assert!(matches!(verdict, Verdict::RestartAt(_)), "{cause:?}: {verdict:?}");
        }
    }

    #[test]
    fn never_to_retry_does_not_hold_for_what_could_not_be_launched() {
        let never = RestartOptions { failed_retry_ms: 0, ..RestartOptions::default() };
        assert_eq!(failed_retry_ms(&never, Some(&ExitCause::Code(3))), None);
        assert_eq!(failed_retry_ms(&never, Some(&ExitCause::NotStarted("EACCES".into()))), Some(300_000));
        let soon = RestartOptions { failed_retry_ms: 7, ..RestartOptions::default() };
        assert_eq!(failed_retry_ms(&soon, Some(&ExitCause::NotStarted("EACCES".into()))), Some(7));
    }
}

//! Hold mode: the desired state is in doubt. Nothing is started or stopped until somebody states what they want *now*.
//!
//! Entered because the journal has lost something, or after five early deaths in one boot. Ended by a configuration,
//! standby or `nodes` command that is accepted after that. Changes that were accepted before and have done nothing yet
//! wait, even after hold mode ends, because the journal may have lost their outcome. An operator resumes or drops each,
//! or a later configuration or standby supersedes all that came before it, since changes are serial in the order of
//! their arrival.
//!
//! Boots in quick succession are not a reason for hold mode, but the nodes may cause them: starts are then spread out.

use crate::api::event::{Request, ResultData};
use crate::api::ids::Seq;
use crate::api::time::{BootTime, Now, Timestamp};
use crate::journal::entry::{Entry, Outcome, Received};

use super::decision::{Decision, Note};
use super::durable::{BOOTS_KEPT, Unfinished};
use super::wake::Wake;
use super::{EARLY_DEATHS, Lifecycle, answer};

/// Starts are spread out if the last [`BOOTS_KEPT`] boots were seen within this …
const BOOTS_WITHIN_MS: u64 = 600_000;
/// … for as long after the boot …
const SPREAD_UNTIL_MS: u64 = 600_000;
/// … and so far apart.
const SPREAD_MS: u64 = 2_000;

impl Lifecycle {
    /// Why this start enters hold mode, if it does. `told`: what is wrong with the journal.
    pub(super) fn hold_reason(&self, boot_id: &str, told: Option<&str>) -> Option<String> {
        let agent = &self.durable.agent;
        if let Some(reason) = told {
            return Some(reason.to_owned());
        }
        match &agent.hold {
            // Entered by a release that did not note when. Entered again, for a number that identifies older requests.
            Some(reason) if agent.extras.0.held_before == Seq::default() => Some(reason.clone()),
            Some(_) => None,
            None => {
                let deaths = if agent.boot_id == boot_id { agent.unsettled_starts } else { 0 };
                let early = format!("the agent died {deaths} times in a row within 60 s of its start");
                (deaths >= EARLY_DEATHS).then_some(early)
            }
        }
    }

    pub(super) fn enter_hold(&self, reason: String) -> Decision {
        let waiting = self.durable.unfinished.values().filter(|one| super::durable::waits_in_hold(one)).count();
        let requests = match waiting {
            0 => String::new(),
            1 => "; 1 request from before waits (`requests list`)".to_owned(),
            _ => format!("; {waiting} requests from before wait (`requests list`)"),
        };
        let message = format!(
            "hold mode: {reason}; running nodes are supervised, nothing else is started or stopped until a configuration, \
             standby or nodes command{requests}"
        );
        Decision::default().entry(Entry::HoldEntered { reason }).and(self.notify_trouble(&message))
    }

    /// Somebody said what they want: the agent may start and stop nodes again.
    pub(super) fn end_hold(&self, received: &Received) -> Decision {
        match self.durable.agent.hold {
            Some(_) => Decision::default().entry(Entry::HoldEnded { by: received.seq }),
            None => Decision::default(),
        }
    }

    /// A configuration or standby supersedes every waiting change that arrived before it.
    pub(super) fn replace_waiting(&self, by: &Received) -> Decision {
        self.waiting_for_operator()
            .filter(|(seq, _)| *seq < by.seq)
            .map(|(_, one)| self.superseded(&one.received, by))
            .fold(Decision::default(), Decision::and)
    }

    /// Requests that were accepted before hold mode and wait for an operator, oldest first.
    pub fn waiting_requests(&self) -> impl Iterator<Item = &Received> {
        self.waiting_for_operator().map(|(_, one)| &one.received)
    }

    fn waiting_for_operator(&self) -> impl Iterator<Item = (Seq, &Unfinished)> {
        let before = self.durable.agent.extras.0.held_before;
        let older = self.durable.unfinished.range(..before).map(|(seq, one)| (*seq, one));
        older.filter(|(seq, _)| self.durable.waits_for_operator(*seq))
    }

    /// The operator says that the request is still wanted: it is handled as if it arrived now.
    pub(super) fn plan_resume(&self, now: Now, received: &Received, name: &str) -> Decision {
        let one = match self.waiting_by_name(name) {
            Ok(one) => one,
            Err(error) => return self.refuse_operator(received, error),
        };
        if let Request::ResumeWaiting { .. } | Request::DropWaiting { .. } = one.received.request {
            let error =
                format!("request {name} is itself a command about another request; drop it and give the command again");
            return self.refuse_operator(received, error);
        }
        let attempt = one.record.lost_attempts + 1;
        let message = format!("{} goes on; `journal show` tells how it ends", described(one));
        Decision::default()
            .entry(Entry::RequestBegun { of: one.received.seq, attempt })
            .note(self.deadline(now, one.received.seq))
            .and(self.plan(now, &one.received))
            .and(self.report_done(received, message))
    }

    /// The operator says that the request is not wanted any more: its requester is informed.
    pub(super) fn plan_drop(&self, received: &Received, name: &str) -> Decision {
        let one = match self.waiting_by_name(name) {
            Ok(one) => one,
            Err(error) => return self.refuse_operator(received, error),
        };
        let error =
            format!("dropped by an operator (request {}) while it waited in hold mode; nothing was done", received.seq);
        let dropped = answer::failed(&self.options.instance, &one.received.reqid, &one.received.request, error);
        self.complete(&one.received, Outcome::Rejected, dropped)
            .and(self.report_done(received, format!("{} is dropped", described(one))))
    }

    /// Finds a request by its reqid, or by `#` and its number in the journal, the only name of one without a reqid.
    fn waiting_by_name(&self, name: &str) -> Result<&Unfinished, String> {
        let by_reqid = |one: &Unfinished| !name.is_empty() && one.received.reqid.as_str() == name;
        let number = name.strip_prefix('#').and_then(|number| number.parse().ok()).map(Seq);
        let found = self.waiting_for_operator().find(|(_, one)| by_reqid(one));
        let found = found.or_else(|| self.waiting_for_operator().find(|(seq, _)| Some(*seq) == number));
        found.map(|(_, one)| one).ok_or_else(|| {
            format!("no request {name:?} waits since before hold mode; `requests list` shows those that do")
        })
    }

    fn refuse_operator(&self, received: &Received, error: String) -> Decision {
        let response = answer::failed(&self.options.instance, &received.reqid, &received.request, error);
        self.complete(received, Outcome::Rejected, response)
    }

    fn report_done(&self, received: &Received, message: String) -> Decision {
        let mut done = answer::result(&self.options.instance, &received.reqid, true);
        done.data = Some(ResultData::Text(message));
        let response = answer::response(&received.reqid, &received.request, vec![done]);
        self.complete(received, Outcome::Completed, response)
    }

    /// Whether this boot is the last of several within ten minutes.
    pub(super) fn boots_too_often(&self, now: Timestamp, boot_id: &str) -> bool {
        let agent = &self.durable.agent;
        let known = &agent.extras.0.boots;
        // Of the newest boots, including this one.
        let (newest, others) =
            if agent.boot_id == boot_id { (known.last().copied(), BOOTS_KEPT) } else { (Some(now), BOOTS_KEPT - 1) };
        let oldest = known.len().checked_sub(others).and_then(|index| known.get(index));
        match (newest, oldest) {
            (Some(newest), Some(oldest)) => newest.0.saturating_sub(oldest.0) <= BOOTS_WITHIN_MS * 1_000,
            (None, _) | (_, None) => false,
        }
    }

    pub(super) fn spread_starts(&self) -> Decision {
        let message = format!(
            "this host booted {BOOTS_KEPT} times within {} minutes: for the first {} minutes after the boot nodes are started \
             {} s apart",
            BOOTS_WITHIN_MS / 60_000,
            SPREAD_UNTIL_MS / 60_000,
            SPREAD_MS / 1_000
        );
        self.notify_trouble(&message).note(Note::SpreadingStarts)
    }

    /// Whether enough time has passed since the last start, where starts are spread out.
    pub(super) fn may_start_another(&self, now: BootTime, wake: &Wake) -> bool {
        let end = BootTime::default().plus_ms(SPREAD_UNTIL_MS);
        let spread = self.seen.spreading_starts && now < end;
        !spread || self.seen.last_start.is_none_or(|at| wake.due(at.plus_ms(SPREAD_MS).min(end)))
    }
}

/// The request as part of a sentence.
fn described(one: &Unfinished) -> String {
    let event = one.received.request.event();
    let seq = one.received.seq;
    if one.received.reqid.is_empty() {
        format!("{event} #{seq}")
    } else {
        format!("{event} #{seq} (reqid {})", one.received.reqid)
    }
}

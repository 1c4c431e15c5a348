//! Entries of version 1, as release 0.1 wrote them: read only. `migrations/0001_initial/FORMAT.md` describes the bytes,
//! its `entries/` hold samples.
//!
//! A body is the entry's time followed by its fields in the order of the table below; the kind says which entry it is.
//! Enums inside are stored by position.

use super::{from_bytes, kind::*};
use crate::api::event::Response;
use crate::api::ids::Seq;
use crate::api::time::Timestamp;
use crate::journal::format::entry::{Answer, Entry, Outcome, Packed};

macro_rules! entry_table {
    ($($kind:ident => $variant:ident ($($field:ident),*);)*) => {
        /// `None`: no entry of this version has this kind.
        pub(in crate::journal) fn decode_entry(
            kind: u8,
            body: &[u8],
        ) -> Option<Result<(Timestamp, Entry), bincode::Error>> {
            match kind {
                $($kind => Some(from_bytes(body).map(|(at, $($field,)*)| (at, Entry::$variant { $($field),* }))),)*
                REQUEST_COMPLETED => Some(from_bytes(body).map(completed)),
                _ => None,
            }
        }

        pub(in crate::journal) fn is_entry(kind: u8) -> bool {
            matches!(kind, REQUEST_COMPLETED $(| $kind)*)
        }
    };
}

fn completed(fields: (Timestamp, Seq, Outcome, u32, Packed<Response>)) -> (Timestamp, Entry) {
    let (at, of, outcome, attempts, response) = fields;
    (at, Entry::RequestCompleted { of, outcome, attempts, response: Answer::Kept(response.0) })
}

entry_table! {
    AGENT_STARTED => AgentStarted(boot_id, version, pid);
    AGENT_STOPPED => AgentStopped(reason);
    AGENT_SETTLED => AgentSettled();
    HOLD_ENTERED => HoldEntered(reason);
    HOLD_ENDED => HoldEnded(by);
    SALVAGED => Salvaged(from, recovered, missing);
    REQUEST_RECEIVED => RequestReceived(reqid, request, digest, dialect, source);
    REQUEST_CONFLICTED => RequestConflicted(reqid, first, request, digest, dialect, source, response);
    INPUT_REJECTED => InputRejected(source, event, error, suppressed);
    REQUEST_BEGUN => RequestBegun(of, attempt);
    DUPLICATE_SEEN => DuplicateSeen(of, source);
    REQUEST_WAITS => RequestWaits(of, goal, targets);
    DESIRED_CHANGED => DesiredChanged(by, config, nodes);
    LAUNCH_INTENDED => LaunchIntended(node, incarnation, by);
    NODE_STARTED => NodeStarted(node, incarnation, process);
    NODE_READY => NodeReady(node, incarnation);
    NODE_EXITED => NodeExited(node, incarnation, cause, asked, process, ran_ms, when, verdict);
    NODE_ADOPTED => NodeAdopted(node, incarnation, process, spec);
    NODE_RETRIED => NodeRetried(node);
}

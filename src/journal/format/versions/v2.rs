//! Entries of version 2. `migrations/0002_chain/FORMAT.md` describes the bytes, its `entries/` hold samples; later
//! kinds of the same version are described in the `FORMAT.md` of their format.
//!
//! As in version 1, a body is the entry's time followed by its fields in the order of the table below, and enums inside
//! are stored by position: they grow only at the end. A response is not part of the body. It is the entry's *payload*,
//! of which the entry's hash covers only the digest, so that retention can drop it without breaking the chain.

use super::{BODY_LIMIT, from_bytes, kind::*, to_bytes};
use crate::api::event::Response;
use crate::api::time::Timestamp;
use crate::journal::format::entry::{Answer, Digest, Entry};

pub(in crate::journal) const VERSION: u8 = 2;
/// The first format with such entries, and with the chain.
pub(in crate::journal) const FIRST_CHAINED_FORMAT: u32 = 2;

/// An entry split into its parts for storing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::journal) struct Parts {
    pub(in crate::journal) body: Vec<u8>,
    pub(in crate::journal) payload: Option<Payload>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::journal) enum Payload {
    Bytes(Vec<u8>),
    Dropped { digest: Digest, length: u32 },
}

fn payload(answer: &Answer) -> Result<Payload, bincode::Error> {
    match answer {
        Answer::Kept(response) => {
            let bytes = rmp_serde::to_vec_named(response).map_err(<bincode::Error as serde::ser::Error>::custom)?;
            if bytes.len() as u64 > BODY_LIMIT {
                return Err(Box::new(bincode::ErrorKind::SizeLimit));
            }
            Ok(Payload::Bytes(bytes))
        }
        Answer::Dropped { digest, length } => Ok(Payload::Dropped { digest: *digest, length: *length }),
    }
}

fn answer(payload: Option<Payload>) -> Result<Answer, bincode::Error> {
    match payload {
        Some(Payload::Bytes(bytes)) => {
            let response: Response =
                rmp_serde::from_slice(&bytes).map_err(<bincode::Error as serde::de::Error>::custom)?;
            Ok(Answer::Kept(response))
        }
        Some(Payload::Dropped { digest, length }) => Ok(Answer::Dropped { digest, length }),
        None => Err(<bincode::Error as serde::de::Error>::custom("it has no response")),
    }
}

fn none<T>(payload: &Option<Payload>, value: T) -> Result<T, bincode::Error> {
    match payload {
        None => Ok(value),
        Some(_) => Err(<bincode::Error as serde::de::Error>::custom("it has a response, and should have none")),
    }
}

macro_rules! entry_table {
    (
        plain { $($kind:ident => $variant:ident ($($field:ident),*);)* }
        with_response { $($answered_kind:ident => $answered:ident ($($answered_field:ident),*);)* }
    ) => {
        /// Every kind of entry.
        #[cfg(test)]
        pub(in crate::journal) const ENTRY_KINDS: &[u8] = &[$($kind,)* $($answered_kind),*];

        pub(in crate::journal) fn entry_kind(entry: &Entry) -> u8 {
            match entry {
                $(Entry::$variant { .. } => $kind,)*
                $(Entry::$answered { .. } => $answered_kind,)*
            }
        }

        pub(in crate::journal) fn is_entry(kind: u8) -> bool {
            matches!(kind, $($kind)|* $(| $answered_kind)*)
        }

        pub(in crate::journal) fn encode_entry(at: Timestamp, entry: &Entry) -> Result<Parts, bincode::Error> {
            match entry {
                $(Entry::$variant { $($field),* } => {
                    Ok(Parts { body: to_bytes(&(at, $($field,)*))?, payload: None })
                })*
                $(Entry::$answered { $($answered_field,)* response } => {
                    Ok(Parts { body: to_bytes(&(at, $($answered_field,)*))?, payload: Some(payload(response)?) })
                })*
            }
        }

        /// `None`: no entry of this version has this kind.
        pub(in crate::journal) fn decode_entry(
            kind: u8,
            body: &[u8],
            payload: Option<Payload>,
        ) -> Option<Result<(Timestamp, Entry), bincode::Error>> {
            match kind {
                $($kind => Some(
                    from_bytes(body)
                        .and_then(|fields| none(&payload, fields))
                        .map(|(at, $($field,)*)| (at, Entry::$variant { $($field),* })),
                ),)*
                $($answered_kind => Some(from_bytes(body).and_then(|(at, $($answered_field,)*)| {
                    let response = answer(payload)?;
                    Ok((at, Entry::$answered { $($answered_field,)* response }))
                })),)*
                _ => None,
            }
        }
    };
}

// The fields stand in their order on disk.
entry_table! {
    plain {
        AGENT_STARTED => AgentStarted(boot_id, version, pid);
        AGENT_STOPPED => AgentStopped(reason);
        AGENT_SETTLED => AgentSettled();
        HOLD_ENTERED => HoldEntered(reason);
        HOLD_ENDED => HoldEnded(by);
        SALVAGED => Salvaged(from, recovered, missing);
        FORMAT_CHANGED => FormatChanged(from, to);
        IMPORTED => Imported(from, entries, missing);
        PRUNED => Pruned(upto, hash, trimmed, entries, requests);
        TROUBLE_SEEN => TroubleSeen(what, message);
        EVENT_TOLD => EventTold(of, lost, outcome);
        REQUEST_RECEIVED => RequestReceived(reqid, request, digest, dialect, source);
        REQUEST_CONFLICTED => RequestConflicted(reqid, first, request, digest, dialect, source, response);
        INPUT_REJECTED => InputRejected(source, event, error, suppressed);
        REQUEST_BEGUN => RequestBegun(of, attempt);
        DUPLICATE_SEEN => DuplicateSeen(of, source);
        REQUEST_WAITS => RequestWaits(of, goal, targets);
        PREFLIGHT_BEGUN => PreflightBegun(of, nodes);
        PREFLIGHT_ENDED => PreflightEnded(of, report);
        DESIRED_CHANGED => DesiredChanged(by, config, nodes);
        CONFIGURATION_KEPT => ConfigurationKept(set, record);
        LAUNCH_INTENDED => LaunchIntended(node, incarnation, by);
        NODE_STARTED => NodeStarted(node, incarnation, process);
        NODE_READY => NodeReady(node, incarnation);
        NODE_EXITED => NodeExited(node, incarnation, cause, asked, process, ran_ms, when, verdict);
        NODE_ADOPTED => NodeAdopted(node, incarnation, process, spec);
        NODE_RETRIED => NodeRetried(node);
    }
    with_response {
        REQUEST_ANSWERED => RequestAnswered(reqid, request, digest, dialect, source);
        REQUEST_COMPLETED => RequestCompleted(of, outcome, attempts);
        DEADLINE_ANSWERED => DeadlineAnswered(of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_entries_and_records_are_apart() {
        assert!(ENTRY_KINDS.iter().all(|kind| *kind < FIRST_RECORD && is_entry(*kind)));
        let mut unique = ENTRY_KINDS.to_vec();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ENTRY_KINDS.len());
    }
}

//! The life of a request: received, then duplicate, conflict, rejected or accepted; begun; answered.
//!
//! What the requests of each family do is in `change` and `query`; this file only ensures that each reqid gets one
//! outcome (P3 to P6).

use std::sync::Arc;

use crate::api::event::{Dialect, Incoming, Request, Response, Route, Source};
use crate::api::ids::Seq;
use crate::api::time::{Now, Timestamp};
use crate::journal::entry::{Answer, Digest, Entry, Known, Outcome, Packed, Received, UnfinishedRecord, digest};

use super::agenda::Item;
use super::decision::{Answered, Decision, Note};
use super::effect::Effect;
use super::seen::Rejections;
use super::wake::Wake;
use super::{ATTEMPTS, Lifecycle, UNFINISHED_LIMIT, answer};

/// Rejected input is journaled at most this often per peer and minute; the rest is only counted.
const REJECTIONS_JOURNALED: u32 = 10;
pub(super) const REJECTION_WINDOW_MS: u64 = 60_000;
/// The most peers whose rejections are counted separately; further peers share one count.
const REJECTING_PEERS: usize = 1024;

impl Lifecycle {
    /// Classifies an incoming request. A duplicate gives two decisions: its answer depends on the stored outcome alone
    /// and does not wait for the duplicate's own entry.
    pub(super) fn receive(&self, now: Now, incoming: &Incoming, known: Option<&Known>) -> Vec<Decision> {
        if self.seen.stopping {
            return vec![refuse(incoming.route, "the agent is stopping")];
        }
        let digest = digest(&incoming.request);
        match self.known(&incoming.reqid, known) {
            Some(known) if known.digest != digest => vec![self.conflict(incoming, digest, known.seq)],
            Some(known) => self.duplicate(now, incoming, &known),
            None => vec![self.accept(now, incoming, digest)],
        }
    }

    /// A new request. If it changes nothing, it is journaled together with its answer; a change waits until its entry
    /// is durable, so that a request that crashes the agent is identified afterwards.
    fn accept(&self, now: Now, incoming: &Incoming, digest: Digest) -> Decision {
        if self.durable.unfinished.len() >= UNFINISHED_LIMIT {
            return refuse(incoming.route, "busy: too many requests wait for their outcome");
        }
        let seq = self.durable.last.next();
        let received = Received {
            seq,
            at: now.wall,
            reqid: incoming.reqid.clone(),
            request: incoming.request.clone(),
            digest,
            dialect: incoming.dialect,
            source: incoming.source.clone(),
        };
        let (route, dialect, until_deadline) = (incoming.route, incoming.dialect, incoming.source.has_deadline());
        let waits = Decision::default().note(Note::Wait { of: seq, route, dialect, until_deadline });
        match self.query(&received) {
            Some(response) => {
                let answered = waits.and(answer_at_once(&received, response));
                let welcomed = matches!(incoming.request, Request::AgentWelcome {});
                if welcomed { answered.note(Note::Welcomed) } else { answered }
            }
            None => {
                let entry = Entry::RequestReceived {
                    reqid: received.reqid,
                    request: Packed(received.request),
                    digest,
                    dialect: received.dialect,
                    source: received.source,
                };
                let waits = waits.entry(entry);
                let waits = if until_deadline { waits.note(self.deadline(now, seq)) } else { waits };
                match &incoming.request {
                    Request::NodeDispatch { .. } => waits.note(self.settles_in_time(now, seq)),
                    Request::SetConfiguration { .. }
                    | Request::Deploy { .. }
                    | Request::AgentWelcome {}
                    | Request::AgentStandby {}
                    | Request::GetNodes {}
                    | Request::Restart { .. }
                    | Request::StartNodes { .. }
                    | Request::StopNodes { .. }
                    | Request::ResumeWaiting { .. }
                    | Request::DropWaiting { .. }
                    | Request::AdoptState {}
                    | Request::Shutdown { .. } => waits,
                }
            }
        }
    }

    pub(super) fn deadline(&self, now: Now, of: Seq) -> Note {
        Note::Deadline { of, at: now.boot.plus_ms(self.options.request_timeout_ms) }
    }

    /// A request that only asks nodes has its outcome by the deadline, whoever asks.
    pub(super) fn settles_in_time(&self, now: Now, of: Seq) -> Note {
        Note::Settle { of, by: now.boot.plus_ms(self.options.request_timeout_ms) }
    }

    /// Input that is not a request: journaled as an entry while it is rare, as a count when it is not (P10).
    pub(super) fn reject_input(&self, now: Now, source: &Source, event: &str, error: &str) -> Decision {
        let peer = self.rejecting_peer(source);
        let known = self.seen.rejections.get(&peer);
        let fresh = Rejections::default();
        let rejections = known.unwrap_or(&fresh);
        let same_minute = known.is_some() && now.boot.ms_since(rejections.since) < REJECTION_WINDOW_MS;
        let journaled = !same_minute || rejections.journaled < REJECTIONS_JOURNALED;
        let noted = Decision::default().note(Note::Rejected { peer, at: now.boot, journaled });
        if !journaled {
            return noted;
        }
        noted.entry(Entry::InputRejected {
            source: source.clone(),
            event: clipped(event, 256),
            error: clipped(error, 1024),
            suppressed: rejections.suppressed,
        })
    }

    /// The peer that a rejection counts for: one user on the control socket; one address on the network, and within it
    /// one user if known. The pid and port do not matter.
    fn rejecting_peer(&self, source: &Source) -> String {
        let mut words = source.peer.split_whitespace();
        let who = words.next().unwrap_or_default();
        // After the port, and before any text that the peer may have chosen.
        let user = words.nth(1).filter(|word| word.starts_with("uid=")).unwrap_or_default();
        let peer = format!("{} {who} {user}", source.transport);
        if self.seen.rejections.contains_key(&peer) || self.seen.rejections.len() < REJECTING_PEERS {
            peer
        } else {
            "others".to_owned()
        }
    }

    pub(super) fn advance_requests(&mut self, now: Now) -> Option<Decision> {
        self.abandon()
            .or_else(|| self.begin(now))
            .or_else(|| self.question())
            .or_else(|| self.finish(now))
            .or_else(|| self.publish_unsent())
            .or_else(|| self.count_rejections(now))
    }

    /// P6: a request that crashed the agent three times is not tried a fourth time.
    fn abandon(&self) -> Option<Decision> {
        let one = self.durable.unfinished.get(self.agenda.facts.lost.first()?)?;
        let received = &one.received;
        let error = format!("abandoned after {ATTEMPTS} attempts, each of which ended with the agent's death");
        let response = answer::failed(&self.options.instance, &received.reqid, &received.request, error);
        Some(complete(received, Some(&one.record), 0, Outcome::Abandoned, response))
    }

    /// Takes step 1 of the earliest durable request that has not begun.
    fn begin(&self, now: Now) -> Option<Decision> {
        if self.seen.stopping {
            return None;
        }
        let one = self.durable.unfinished.get(self.agenda.facts.accepted.first()?)?;
        if one.received.seq > self.seen.durable {
            return None;
        }
        let begun = Entry::RequestBegun { of: one.received.seq, attempt: one.record.lost_attempts + 1 };
        Some(Decision::default().entry(begun).and(self.plan(now, &one.received)))
    }

    /// Answers waiting changes whose goal is met or whose deadline has come, and dispatches that are complete.
    fn finish(&mut self, now: Now) -> Option<Decision> {
        while let Some(seq) = self.agenda.requests.first().copied() {
            self.agenda.look();
            let wake = Wake::new(now.boot);
            let decision = self.settle(now, &wake, seq).or_else(|| self.finish_dispatch(now, &wake, seq));
            if decision.is_some() {
                return decision;
            }
            self.agenda.put_aside(Item::Request(seq), wake.next());
        }
        None
    }

    pub(super) fn complete(&self, received: &Received, outcome: Outcome, response: Response) -> Decision {
        let record = self.durable.unfinished.get(&received.seq).map(|one| &one.record);
        complete(received, record, 1, outcome, response)
    }

    /// P6: responses that nobody received go to the current subscribers of their topic.
    fn publish_unsent(&mut self) -> Option<Decision> {
        if !std::mem::take(&mut self.agenda.unsent) {
            return None;
        }
        let mut published = Decision::default();
        let mut keys = Vec::new();
        for (key, unsent) in &self.seen.unsent {
            if !unsent.routes.is_empty() || !self.seen.peers.hear(unsent.dialect) {
                continue;
            }
            keys.push(*key);
            let response = Arc::clone(&unsent.response);
            published = published.effect(Effect::Publish { dialect: unsent.dialect, response });
        }
        (!keys.is_empty()).then(|| published.note(Note::Published { keys }))
    }

    fn count_rejections(&mut self, now: Now) -> Option<Decision> {
        while let Some(peer) = self.agenda.peers.first().cloned() {
            self.agenda.look();
            let wake = Wake::new(now.boot);
            let decision = self.count_rejections_of(&peer, &wake);
            if decision.is_some() {
                return decision;
            }
            self.agenda.put_aside(Item::Peer(peer), wake.next());
        }
        None
    }

    /// The minute of a peer is over: rejections that were only counted become one entry, and the peer is forgotten.
    fn count_rejections_of(&self, peer: &str, wake: &Wake) -> Option<Decision> {
        let rejections = self.seen.rejections.get(peer)?;
        if !wake.due(rejections.since.plus_ms(REJECTION_WINDOW_MS)) {
            return None;
        }
        let counted = Decision::default().note(Note::RejectionsCounted { peer: peer.to_owned() });
        let suppressed = rejections.suppressed;
        if suppressed == 0 {
            return Some(counted);
        }
        let (transport, who) = peer.split_once(' ').unwrap_or((peer, ""));
        let source = Source { transport: transport.to_owned(), peer: who.to_owned() };
        let error = format!("{suppressed} more inputs of this peer were rejected within a minute");
        Some(counted.entry(Entry::InputRejected { source, event: String::new(), error, suppressed }))
    }
}

/// Request and outcome in one entry, and the response to waiting requesters.
fn answer_at_once(received: &Received, response: Response) -> Decision {
    let response = answer::bounded(response);
    let entry = Entry::RequestAnswered {
        reqid: received.reqid.clone(),
        request: Packed(received.request.clone()),
        digest: received.digest,
        dialect: received.dialect,
        source: received.source.clone(),
        response: Answer::Kept(response.clone()),
    };
    Decision::default().entry(entry).note(answered(received, response, false))
}

/// The request has its outcome: the entry, and the response to waiting requesters.
/// `more`: attempts in addition to those that were lost.
fn complete(
    received: &Received,
    record: Option<&UnfinishedRecord>,
    more: u32,
    outcome: Outcome,
    response: Response,
) -> Decision {
    let response = answer::bounded(response);
    // A crash while it was being abandoned does not count as an attempt.
    let attempts = (record.map_or(0, |record| record.lost_attempts) + more).min(ATTEMPTS);
    let told_at_deadline = record.is_some_and(|record| record.extras.0.deadline.is_some());
    Decision::default()
        .entry(Entry::RequestCompleted {
            of: received.seq,
            outcome,
            attempts,
            response: Answer::Kept(response.clone()),
        })
        .note(answered(received, response, told_at_deadline))
}

fn answered(received: &Received, response: Response, told_at_deadline: bool) -> Note {
    let (of, digest, dialect) = (received.seq, received.digest, received.dialect);
    Note::Answered(Answered { of, digest, response, dialect, told_at_deadline })
}

/// Responds on the connection if there is one, else to the topic.
pub(super) fn respond(
    route: Option<Route>,
    dialect: Dialect,
    response: Response,
    stored_at: Option<Timestamp>,
) -> Decision {
    let response = Arc::new(response);
    Decision::default().effect(match route {
        Some(route) => Effect::Respond { route, dialect, response, stored_at },
        None => Effect::Publish { dialect, response },
    })
}

/// Without a route nobody can be told: a network peer times out, and its reqid is still unused.
pub(super) fn refuse(route: Option<Route>, reason: &str) -> Decision {
    match route {
        Some(route) => Decision::default().effect(Effect::Refuse { route, reason: reason.to_owned() }),
        None => Decision::default(),
    }
}

/// At most `limit` bytes of a peer's text, cut between characters.
fn clipped(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

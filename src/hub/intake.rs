//! Handles what is published on the agent's topics: requests go to the agent, what cannot be understood is rejected.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Asked, Hub, Wire};
use crate::api::event::{Dialect, Incoming, Request, Route, Source};
use crate::api::ids::ReqId;
use crate::broker::data::Data;
use crate::broker::json::ErrorCode;
use crate::dialect::event::{Event, unpack};
use crate::dialect::{self, Decoded, Rejection};
use crate::transport::{Agent, Refusal, request};

/// Unanswered requests of one connection.
const PENDING_LIMIT: usize = 1024;
/// Events in one message. Zeek batches log records, never requests.
const EVENTS_LIMIT: usize = 256;

/// A connection that published something.
pub struct Publisher<'a, A: Agent> {
    pub id: u64,
    pub source: &'a Source,
    pub agent: &'a A,
}

impl<W: Wire> Hub<W> {
    /// Records input of a connection that is not a request.
    pub fn reject<A: Agent>(&self, from: &Publisher<'_, A>, event: String, mut error: String) {
        tracing::debug!(connection = from.id, event, error, "bad input over {}", from.source.transport);
        if let Some(connection) = self.connections().get_mut(&from.id) {
            match connection.rejections.next(Instant::now()) {
                None => return,
                Some(0) => {}
                Some(more) => error = format!("{error} ({more} more of this connection were not told)"),
            }
        }
        from.agent.malformed(from.source.clone(), event, error);
    }

    /// Handles data that was published on the agent's topic of this dialect. Returns the immediate answers to the
    /// publisher.
    pub fn take<A: Agent>(&self, from: &Publisher<'_, A>, of_topic: Dialect, data: Data) -> Vec<W::Message> {
        let mut answers = Vec::new();
        let events = unpack(data).events;
        if events.len() > EVENTS_LIMIT {
            let problem = format!("a message of {} events, {EVENTS_LIMIT} is the most", events.len());
            return self.no_event(from, String::new(), &problem).into_iter().collect();
        }
        for event in events {
            match event {
                Ok(event) => answers.extend(self.take_event(from, of_topic, &event)),
                Err(error) => answers.extend(self.no_event(from, String::new(), &error.to_string())),
            }
        }
        answers
    }

    /// The same for a connection that may not send requests: each is rejected with this reason.
    pub fn turn_down<A: Agent>(
        &self,
        from: &Publisher<'_, A>,
        of_topic: Dialect,
        data: Data,
        reason: &str,
    ) -> Vec<W::Message> {
        let mut answers = Vec::new();
        for event in unpack(data).events.into_iter().take(EVENTS_LIMIT) {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    answers.extend(self.no_event(from, String::new(), &error.to_string()));
                    continue;
                }
            };
            match dialect::decode(&event) {
                Ok(Decoded::Request { dialect, reqid, request }) => {
                    self.reject(from, event.name, format!("refused: {reason}"));
                    let asked = Asked { dialect, reqid, response_event: request.response_event() };
                    let response = self.failed(&asked, reason);
                    answers.extend(self.response(dialect, &response).map(|(_, message)| message));
                }
                Ok(Decoded::Response { .. } | Decoded::Notification { .. } | Decoded::Node(_)) => {
                    tracing::debug!(connection = from.id, event = event.name, "an event that asks for nothing");
                }
                Err(rejection) => answers.extend(self.rejected(from, of_topic, &event, &rejection)),
            }
        }
        answers
    }

    fn take_event<A: Agent>(&self, from: &Publisher<'_, A>, of_topic: Dialect, event: &Event) -> Vec<W::Message> {
        match dialect::decode(event) {
            Ok(Decoded::Request { dialect, .. }) if dialect != of_topic => {
                let right = self.topic(dialect).unwrap_or_default();
                let problem = format!("{} belongs on the topic {right}", event.name);
                self.no_event(from, event.name.clone(), &problem).into_iter().collect()
            }
            Ok(Decoded::Request { dialect, reqid, request }) => self.request(from, dialect, reqid, request),
            // Messages of agents and nodes are published here, too, and are not meant for an agent.
            Ok(Decoded::Response { .. } | Decoded::Notification { .. } | Decoded::Node(_)) => {
                tracing::debug!(connection = from.id, event = event.name, "an event that asks for nothing");
                Vec::new()
            }
            Err(rejection) => self.rejected(from, of_topic, event, &rejection),
        }
    }

    /// Hands a request to the agent; returns messages if it was not accepted.
    fn request<A: Agent>(
        &self,
        from: &Publisher<'_, A>,
        dialect: Dialect,
        reqid: ReqId,
        request: Request,
    ) -> Vec<W::Message> {
        let route = Route { connection: from.id, call: self.0.calls.fetch_add(1, Ordering::Relaxed) };
        let asked = Asked { dialect, reqid: reqid.clone(), response_event: request.response_event() };
        {
            let mut connections = self.connections();
            // Cut in the meantime: nothing can be sent back, and nothing was accepted.
            let Some(connection) = connections.get_mut(&from.id) else { return Vec::new() };
            if connection.pending.len() >= PENDING_LIMIT {
                let response = self.failed(&asked, "busy: too many requests of this connection wait");
                return self.response(dialect, &response).map(|(_, message)| message).into_iter().collect();
            }
            connection.pending.insert(route.call, asked);
        }
        let accepted = match request::check_size(&request) {
            Ok(()) => {
                let source = from.source.clone();
                from.agent.request(Incoming { reqid, request, dialect, source, route: Some(route) })
            }
            Err(reason) => {
                from.agent.malformed(from.source.clone(), request.event().to_owned(), reason.clone());
                Err(Refusal { reason })
            }
        };
        if let Err(Refusal { reason }) = accepted {
            self.refuse(route, &reason);
        }
        Vec::new()
    }

    /// Rejects an event that cannot be understood: an error for its sender, and a failed response if it was a request
    /// with a readable reqid.
    fn rejected<A: Agent>(
        &self,
        from: &Publisher<'_, A>,
        dialect: Dialect,
        event: &Event,
        rejection: &Rejection,
    ) -> Vec<W::Message> {
        let name = event.name.chars().take(128).collect();
        let mut answers: Vec<W::Message> = self.no_event(from, name, &rejection.to_string()).into_iter().collect();
        if rejection.dialect == Some(dialect)
            && let Some(response) = rejection.response(self.0.options.instance.as_str())
            && let Some((topic, message)) = self.response(dialect, &response)
            && self.connections().get(&from.id).is_some_and(|connection| connection.wants(topic))
        {
            answers.push(message);
        }
        answers
    }

    fn no_event<A: Agent>(&self, from: &Publisher<'_, A>, event: String, error: &str) -> Option<W::Message> {
        // Zeek's wording first, then ours.
        let context = format!("failed to create Zeek event: {error}");
        let message = self.0.wire.error(ErrorCode::DeserializationFailed, &context);
        self.reject(from, event, context);
        message
    }
}

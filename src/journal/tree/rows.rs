//! Entries to the rows that people and programs read, and which rows a filter wants. Pure.

mod describe;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::api::audit::{EventRow, Filter, Kind, RequestRow, RequestState, Row, Sighting};
use crate::api::event::{Request, Response, Source};
use crate::api::ids::{NodeName, Seq};
use crate::api::time::Timestamp;
use crate::api::words::nearest;
use crate::journal::format::entry::{Answer, Digest, Entry, Numbered, Outcome, Received, Stage, UnfinishedRecord};
use crate::journal::format::versions::records::DuplicatesRecord;
use crate::journal::format::versions::{kind, v2};

pub(in crate::journal) use describe::recovery_summary;
use describe::{Description, describe};

/// What became of a request, from the rows other than its entry.
#[derive(Debug, Default)]
pub(in crate::journal) struct Fate {
    /// When, how, in how many attempts, and the response.
    pub(in crate::journal) outcome: Option<(Timestamp, Outcome, u32, Answer)>,
    pub(in crate::journal) unfinished: Option<UnfinishedRecord>,
    /// The deadline response, and when it was given.
    pub(in crate::journal) deadline: Option<(Timestamp, Answer)>,
    pub(in crate::journal) duplicates: DuplicatesRecord,
}

/// RFC 3339, UTC, microseconds.
pub(in crate::journal) fn time(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|microseconds| jiff::Timestamp::from_microsecond(microseconds).ok())
        .map_or_else(|| format!("{} us", at.0), |time| format!("{time:.6}"))
}

pub(in crate::journal) fn hex(digest: &Digest) -> String {
    HEXLOWER.encode(digest)
}

/// The event's arguments as a flat object.
fn arguments(request: &Request) -> Value {
    match serde_json::to_value(request) {
        // An enum's JSON is its variant's name around the fields.
        Ok(Value::Object(tagged)) => tagged.into_iter().next().map_or(Value::Null, |(_, fields)| fields),
        Ok(other) => other,
        Err(error) => json!({ "unprintable": error.to_string() }),
    }
}

fn first_error(response: &Response) -> Option<String> {
    response.results.iter().find_map(|result| result.error.clone())
}

fn sightings(seen: &[(Timestamp, Source)]) -> Vec<Sighting> {
    seen.iter().map(|(at, source)| Sighting { at: time(*at), source: source.clone() }).collect()
}

/// Whether entries of this kind are rows at all in this view; the others are folded into the rows of their requests.
/// Kinds that this release does not know are kept, to be shown as unreadable.
pub(in crate::journal) fn wanted_kind(wanted: Kind, stored: u8) -> bool {
    let request = kind::is_request(stored);
    let folded = matches!(
        stored,
        kind::REQUEST_BEGUN
            | kind::REQUEST_WAITS
            | kind::REQUEST_COMPLETED
            | kind::DUPLICATE_SEEN
            | kind::DEADLINE_ANSWERED
    );
    let node = (kind::FIRST_OF_NODES..=kind::LAST_OF_NODES).contains(&stored);
    if !v2::is_entry(stored) {
        return true;
    }
    match wanted {
        Kind::Request => request,
        Kind::Node => node,
        Kind::All => !folded,
    }
}

/// Whether the filter can match this entry, as far as can be known without its fate.
pub(in crate::journal) fn may_match(filter: &Filter, numbered: &Numbered) -> bool {
    if filter.since.is_some_and(|since| numbered.at < since) || filter.until.is_some_and(|until| numbered.at >= until) {
        return false;
    }
    let has_reqid = |wanted: &String| numbered.entry.reqid().is_some_and(|reqid| reqid.as_str() == wanted);
    let is_event = |wanted: &String| same_event(wanted, event_name(&numbered.entry));
    any(filter.reqid.as_ref(), &filter.one_of.reqids, has_reqid)
        && any(filter.event.as_ref(), &filter.one_of.events, is_event)
}

/// Whether `holds` for what the filter names, and for one of those of which one will do.
fn any<T>(one: Option<&T>, one_of: &[T], holds: impl Fn(&T) -> bool) -> bool {
    one.is_none_or(&holds) && (one_of.is_empty() || one_of.iter().any(holds))
}

/// The event of requests, and everything else that has a row.
const EVENTS: [&str; 34] = [
    "set_configuration_request",
    "deploy_request",
    "agent_welcome_request",
    "agent_standby_request",
    "get_nodes_request",
    "restart_request",
    "node_dispatch_request",
    "start_nodes_request",
    "stop_nodes_request",
    "resume_waiting_request",
    "drop_waiting_request",
    "shutdown_request",
    "adopt_state_request",
    "agent_started",
    "agent_stopped",
    "agent_settled",
    "hold_entered",
    "hold_ended",
    "salvaged",
    "imported",
    "format_changed",
    "pruned",
    "trouble_seen",
    "event_told",
    "preflight_begun",
    "preflight_ended",
    "desired_changed",
    "configuration_kept",
    "launch_intended",
    "node_started",
    "node_ready",
    "node_exited",
    "node_adopted",
    "node_retried",
];

/// Whether a row can have an event that [`Filter::event`] means by `word`, and if not, the most similar name. Input
/// that was not a request may have had any name; it cannot be searched for by name.
pub fn check_event(word: &str) -> Result<(), String> {
    if EVENTS.iter().any(|event| same_event(word, event)) {
        return Ok(());
    }
    let words = EVENTS.iter().map(|event| event.strip_suffix("_request").unwrap_or(event));
    let words = words.flat_map(|word| [word, word.strip_prefix("agent_").unwrap_or(word)]);
    Err(nearest(word, words).unwrap_or_default().to_owned())
}

/// `_request` and the `agent_` in front may be left out: the command line's words are `welcome` and `standby`.
fn same_event(wanted: &str, name: &str) -> bool {
    let short = name.strip_suffix("_request").unwrap_or(name);
    wanted == name || wanted == short || short.strip_prefix("agent_") == Some(wanted)
}

/// The event of a request; the entry's name in snake case for everything else.
pub(in crate::journal) fn event_name(entry: &Entry) -> &str {
    match entry {
        Entry::RequestReceived { request, .. }
        | Entry::RequestAnswered { request, .. }
        | Entry::RequestConflicted { request, .. } => request.0.event(),
        Entry::InputRejected { event, .. } => event,
        Entry::AgentStarted { .. } => "agent_started",
        Entry::AgentStopped { .. } => "agent_stopped",
        Entry::AgentSettled => "agent_settled",
        Entry::HoldEntered { .. } => "hold_entered",
        Entry::HoldEnded { .. } => "hold_ended",
        Entry::Salvaged { .. } => "salvaged",
        Entry::Imported { .. } => "imported",
        Entry::FormatChanged { .. } => "format_changed",
        Entry::Pruned { .. } => "pruned",
        Entry::TroubleSeen { .. } => "trouble_seen",
        Entry::EventTold { .. } => "event_told",
        Entry::RequestBegun { .. } => "request_begun",
        Entry::RequestWaits { .. } => "request_waits",
        Entry::DeadlineAnswered { .. } => "deadline_answered",
        Entry::RequestCompleted { .. } => "request_completed",
        Entry::DuplicateSeen { .. } => "duplicate_seen",
        Entry::PreflightBegun { .. } => "preflight_begun",
        Entry::PreflightEnded { .. } => "preflight_ended",
        Entry::DesiredChanged { .. } => "desired_changed",
        Entry::ConfigurationKept { .. } => "configuration_kept",
        Entry::LaunchIntended { .. } => "launch_intended",
        Entry::NodeStarted { .. } => "node_started",
        Entry::NodeReady { .. } => "node_ready",
        Entry::NodeExited { .. } => "node_exited",
        Entry::NodeAdopted { .. } => "node_adopted",
        Entry::NodeRetried { .. } => "node_retried",
    }
}

/// Whether a row that names these nodes concerns the node that the filter asks for, if it asks for one.
fn names<'a>(filter: &Filter, nodes: impl FnOnce() -> Vec<&'a str>) -> bool {
    if filter.node.is_none() && filter.one_of.nodes.is_empty() {
        return true;
    }
    let nodes = nodes();
    any(filter.node.as_ref(), &filter.one_of.nodes, |node| nodes.contains(&node.as_str()))
}

/// Whether the filter matches a finished row, apart from the nodes that it names.
fn matches(filter: &Filter, row: &Row) -> bool {
    match row {
        Row::Request(row) => {
            let has_source = |words: &String| row.source.is_named_by(words);
            any(filter.state.as_ref(), &filter.one_of.states, |state| row.state == *state)
                && (!filter.failed || row.success == Some(false))
                && any(filter.source.as_ref(), &filter.one_of.sources, has_source)
        }
        Row::Event(row) => {
            let unasked_exit = || row.event == "node_exited" && row.detail.get("asked") == Some(&Value::Bool(false));
            let of_requests = filter.state.is_some()
                || filter.source.is_some()
                || !(filter.one_of.states.is_empty() && filter.one_of.sources.is_empty());
            !of_requests && (!filter.failed || unasked_exit())
        }
        Row::Unreadable(_) => true,
    }
}

/// The nodes that a request and its response name.
fn nodes_of<'a>(request: &'a Request, response: Option<&'a Response>) -> Vec<&'a str> {
    let mut named: Vec<&str> = match request {
        Request::SetConfiguration { config } | Request::Deploy { config, .. } => {
            config.nodes.iter().map(|node| node.name.as_str()).collect()
        }
        Request::Restart { nodes }
        | Request::NodeDispatch { nodes, .. }
        | Request::StartNodes { nodes }
        | Request::StopNodes { nodes, .. } => nodes.iter().map(String::as_str).collect(),
        Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::GetNodes {}
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. }
        | Request::AdoptState {} => Vec::new(),
    };
    let results = response.map_or(&[][..], |response| &response.results);
    named.extend(results.iter().filter_map(|result| result.node.as_deref()));
    named
}

/// Which part of a request was not done because there is no such node here, even if every Result says ok. A controller
/// sends all its agents the names of all nodes, so some belong to other hosts; a requester over the control socket
/// means this host.
fn unserved(request: &Request, response: &Response, source: &Source) -> Option<String> {
    let missing = response.unanswered(request);
    let is_broadcast = source.transport != "control";
    if missing.is_empty()
        || is_broadcast && (!response.results.is_empty() || matches!(request, Request::NodeDispatch { .. }))
    {
        return None;
    }
    Some(format!("this host has no node called {}", missing.join(", ")))
}

/// The row of an entry, if the filter matches it. `fate` is only used for requests.
pub(in crate::journal) fn row(filter: &Filter, numbered: Numbered, fate: Fate) -> Option<Row> {
    let Numbered { seq, at, entry } = numbered;
    let row = match entry {
        Entry::RequestAnswered { reqid, request, digest, dialect, source, response } => {
            let fate = Fate { outcome: Some((at, Outcome::Completed, 1, response)), ..fate };
            request_row(filter, Received { seq, at, reqid, request: request.0, digest, dialect, source }, fate)?
        }
        Entry::RequestReceived { reqid, request, digest, dialect, source } => {
            request_row(filter, Received { seq, at, reqid, request: request.0, digest, dialect, source }, fate)?
        }
        Entry::RequestConflicted { reqid, first: _, request, digest, dialect, source, response } => {
            if !names(filter, || nodes_of(&request.0, None)) {
                return None;
            }
            Row::Request(Box::new(RequestRow {
                reqid: reqid.into(),
                dialect: dialect.as_str().to_owned(),
                digest: hex(&digest),
                request: arguments(&request.0),
                error: first_error(&response.0),
                response: Some(response.0),
                ..refused(seq, at, source, request.0.event().to_owned(), RequestState::Conflict)
            }))
        }
        Entry::InputRejected { source, event, error, suppressed } => {
            if !names(filter, Vec::new) {
                return None;
            }
            let error = match suppressed {
                0 => error,
                count => format!("{error} (and {count} more from this peer that were not recorded)"),
            };
            Row::Request(Box::new(RequestRow {
                error: Some(error),
                ..refused(seq, at, source, event, RequestState::Rejected)
            }))
        }
        entry => {
            let event = event_name(&entry).to_owned();
            let node = entry.node().map(|node| node.as_str().to_owned());
            let Description { incarnation, detail, summary, named } = describe(entry);
            if !names(filter, || named.iter().map(NodeName::as_str).chain(node.as_deref()).collect()) {
                return None;
            }
            let incarnation = incarnation.map(|incarnation| incarnation.0);
            Row::Event(Box::new(EventRow { seq, at: time(at), event, node, incarnation, detail, summary }))
        }
    };
    matches(filter, &row).then_some(row)
}

/// The row of a request that was accepted, if the filter matches the nodes that it names.
fn request_row(filter: &Filter, received: Received, fate: Fate) -> Option<Row> {
    let Received { seq, at, reqid, request, digest, dialect, source } = received;
    let (state, attempts) = match (&fate.outcome, &fate.unfinished) {
        (Some((_, Outcome::Completed, attempts, _)), _) => (RequestState::Completed, *attempts),
        (Some((_, Outcome::Rejected, attempts, _)), _) => (RequestState::Rejected, *attempts),
        (Some((_, Outcome::Abandoned, attempts, _)), _) => (RequestState::Abandoned, *attempts),
        (None, None) => (RequestState::Accepted, 0),
        (None, Some(UnfinishedRecord { lost_attempts, stage: Stage::Accepted, .. })) => {
            (RequestState::Accepted, *lost_attempts)
        }
        (None, Some(UnfinishedRecord { lost_attempts, stage: Stage::Waiting { .. }, .. })) => {
            (RequestState::Handling, *lost_attempts + 1)
        }
    };
    let completed_at = fate.outcome.as_ref().map(|(at, ..)| *at);
    let answer = fate.outcome.map(|(_, _, _, answer)| answer);
    let (response, dropped) = match answer {
        Some(Answer::Kept(response)) => (Some(response), None),
        Some(Answer::Dropped { digest, .. }) => (None, Some(hex(&digest))),
        None => (None, None),
    };
    if !names(filter, || nodes_of(&request, response.as_ref())) {
        return None;
    }
    let unserved = response.as_ref().and_then(|response| unserved(&request, response, &source));
    Some(Row::Request(Box::new(RequestRow {
        seq,
        reqid: reqid.into(),
        event: request.event().to_owned(),
        dialect: dialect.as_str().to_owned(),
        source,
        received_at: time(at),
        state,
        attempts,
        duplicates: fate.duplicates.count,
        duplicates_first: sightings(&fate.duplicates.first),
        duplicates_last: sightings(&fate.duplicates.last),
        digest: hex(&digest),
        request: arguments(&request),
        completed_at: completed_at.map(time),
        // The clock may have been set back in between.
        duration_ms: completed_at.map(|end| end.0.saturating_sub(at.0) as f64 / 1000.0),
        success: response.as_ref().map(|response| unserved.is_none() && response.success()),
        error: response
            .as_ref()
            .filter(|_| matches!(state, RequestState::Rejected | RequestState::Abandoned))
            .and_then(first_error)
            .or(unserved),
        response,
        response_digest: dropped,
        deadline_at: fate.deadline.as_ref().map(|(at, _)| time(*at)),
        settled_at: fate.deadline.as_ref().and(completed_at).map(time),
        deadline_response: fate.deadline.and_then(|(_, answer)| answer.into_kept()),
    })))
}

/// The row of input that was refused and answered on arrival.
fn refused(seq: Seq, at: Timestamp, source: Source, event: String, state: RequestState) -> RequestRow {
    RequestRow {
        seq,
        reqid: String::new(),
        event,
        dialect: String::new(),
        source,
        received_at: time(at),
        state,
        attempts: 0,
        duplicates: 0,
        duplicates_first: Vec::new(),
        duplicates_last: Vec::new(),
        digest: String::new(),
        request: json!({}),
        completed_at: Some(time(at)),
        duration_ms: Some(0.0),
        success: Some(false),
        error: None,
        response: None,
        response_digest: None,
        deadline_at: None,
        deadline_response: None,
        settled_at: None,
    }
}

/// The row shown in place of an unreadable entry.
pub(in crate::journal) fn unreadable(seq: Seq, why: String) -> Row {
    Row::Unreadable(crate::api::audit::Unreadable { seq, unreadable: why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::event::Result as Answered;
    use crate::api::ids::ReqId;

    fn response(nodes: &[&str]) -> Response {
        let result = |node: &&str| Answered {
            reqid: ReqId::default(),
            success: true,
            instance: None,
            data: None,
            error: None,
            node: Some((*node).to_owned()),
        };
        let results = nodes.iter().map(result).collect();
        Response { event: "restart_response".to_owned(), reqid: ReqId::default(), results }
    }

    #[test]
    fn a_restart_of_what_is_not_here_is_no_success() {
        let of = |named: &[&str], answered: &[&str], transport: &str| {
            let request = Request::Restart { nodes: named.iter().map(|name| (*name).to_owned()).collect() };
            let source = Source { transport: transport.to_owned(), peer: String::new() };
            unserved(&request, &response(answered), &source)
        };
        let missing = Some("this host has no node called w9".to_owned());
        assert_eq!(of(&["w9"], &[], "control"), missing);
        assert_eq!(of(&["w1", "w9"], &["w1"], "control"), missing);
        assert_eq!(of(&["w1"], &["w1"], "control"), None);
        assert_eq!(of(&[], &[], "control"), None);
        // A controller names the nodes of all hosts; that this host has none of them is reported all the same.
        assert_eq!(of(&["w1", "w9"], &["w1"], "broker"), None);
        assert_eq!(of(&["w9"], &[], "broker"), missing);
    }
}

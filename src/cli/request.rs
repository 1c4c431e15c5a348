//! `request`: sends a request as a controller would, and prints the response. Operators' node commands go the same way.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use super::config::Text;
use super::flags::{self, Asking, Sending};
use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Screen, Table, plain, state_cell};
use super::waiting::{self, Waiting};
use super::{Context, connect, print_json};
use crate::api::configuration::{ClusterBackend, Configuration};
use crate::api::event::{DeployOptions, Dialect, Request, Response, Result as ApiResult, ResultData};
use crate::api::history::Which;
use crate::api::ids::{InstanceName, ReqId};
use crate::api::report::chain;
use crate::api::status::NodeStatus;
use crate::control::client::{Client, Deadline, Error};
use crate::terminal::{self, to_stderr};
use crate::tls;
use crate::websocket::client as websocket;

/// Whose texts are values that somebody asked for. Others' say something about a success.
const DISPATCH_RESPONSE: &str = "node_dispatch_response";

/// Why a configuration of the history cannot be deployed over WebSocket.
const ONLY_HERE: &str = "a configuration of the history has no place in that API, so it cannot be deployed with --via; print it \
                         with `config show` on its host, and deploy the file";

/// A request with how to send it.
pub struct Call {
    pub request: Request,
    pub dialect: Dialect,
    pub sending: Sending,
}

pub fn run(context: &Context, command: flags::Request) -> Outcome {
    let (request, dialect, asking) = match command {
        flags::Request::SetConfiguration { file, asking } => {
            let (mut way, config) = with_file(context, &file, &asking)?;
            let request = Request::SetConfiguration { config };
            return way.send(context, Call { request, dialect: Dialect::ClusterAgent, sending: asking.sending });
        }
        flags::Request::Deploy { file, force, if_plan, no_preflight, asking } => {
            let back = file.to_str().and_then(Which::parse_back);
            let (mut way, config) = match back {
                None => with_file(context, &file, &asking)?,
                Some(_) if asking.via.is_some() => return Err(Failure::new(Exit::Usage, ONLY_HERE.to_owned())),
                // The agent takes it from its history.
                Some(_) => (Way::open(context, &asking)?, Configuration::default()),
            };
            let how = Box::new(DeployOptions { back, if_plan, no_preflight });
            let request = Request::Deploy { config, force, how };
            return way.send(context, Call { request, dialect: Dialect::Management, sending: asking.sending });
        }
        flags::Request::Welcome { asking } => (Request::AgentWelcome {}, Dialect::ClusterAgent, asking),
        flags::Request::Standby { asking } => (Request::AgentStandby {}, Dialect::ClusterAgent, asking),
        flags::Request::GetNodes { asking } => (Request::GetNodes {}, Dialect::Management, asking),
        flags::Request::Restart { nodes, asking } => {
            (Request::Restart { nodes: nodes.into_iter().collect() }, Dialect::Management, asking)
        }
        flags::Request::GetIdValue { id, nodes, asking } => {
            let action = vec!["get_id_value".to_owned(), id];
            let nodes = nodes.into_iter().collect();
            (Request::NodeDispatch { action, nodes }, Dialect::Management, asking)
        }
    };
    let mut way = Way::open(context, &asking)?;
    way.send(context, Call { request, dialect, sending: asking.sending })
}

/// A question to these nodes, or to all if none is named.
pub fn question(action: Vec<String>, nodes: Vec<String>, sending: Sending) -> Call {
    let nodes = nodes.into_iter().collect();
    Call { request: Request::NodeDispatch { action, nodes }, dialect: Dialect::Management, sending }
}

/// Connects to the control socket and sends.
pub fn send(context: &Context, call: Call) -> Outcome {
    let deadline = waiting::deadline(call.sending.timeout);
    let mut client = connect::connect_by(context, deadline)?;
    finish(context, &mut client, call, deadline)
}

/// How a request gets to the agent.
struct Way {
    /// Until when to wait, if `--timeout` was given.
    deadline: Deadline,
    over: Over,
}

enum Over {
    Control(Box<Client>),
    WebSocket(Box<websocket::Client>),
}

impl Way {
    fn open(context: &Context, asking: &Asking) -> Result<Self, Failure> {
        let Asking { via, ca, certificate, key, sending } = asking;
        let deadline = waiting::deadline(sending.timeout);
        let tls = tls::ClientOptions { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
        let over = match via {
            None => Over::Control(Box::new(connect::connect_by(context, deadline)?)),
            Some(url) => match websocket::Client::connect(url, &tls, deadline) {
                Ok(client) => Over::WebSocket(Box::new(client)),
                Err(error @ (websocket::Error::Url { .. } | websocket::Error::Tls(_))) => {
                    return Err(Failure::new(Exit::Usage, chain(&error)));
                }
                Err(error @ websocket::Error::Refused { .. }) => {
                    return Err(Failure::new(Exit::Failed, chain(&error)));
                }
                Err(error) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Err(Failure::because(Exit::Timeout, connect::NOTHING_ASKED, &error));
                }
                Err(error) => return Err(Failure::new(Exit::Unreachable, chain(&error))),
            },
        };
        Ok(Self { deadline, over })
    }

    /// The name of the agent that it leads to.
    fn agent(&self) -> &str {
        match &self.over {
            Over::Control(client) => &client.welcome().agent,
            Over::WebSocket(client) => client.agent(),
        }
    }

    fn send(&mut self, context: &Context, call: Call) -> Outcome {
        match &mut self.over {
            Over::Control(client) => finish(context, client, call, self.deadline),
            Over::WebSocket(client) => {
                let named = named_nodes(&call.request);
                let response = exchange_over_websocket(context, client, call, self.deadline)?;
                show(context, &response, &named)
            }
        }
    }
}

/// A file without instances means the connected agent's nodes.
fn with_file(context: &Context, file: &std::path::Path, asking: &Asking) -> Result<(Way, Configuration), Failure> {
    let text = Text::read_cluster_file(file)?;
    let way = Way::open(context, asking)?;
    let ours = InstanceName::new(way.agent().to_owned())
        .map_err(|error| Failure::because(Exit::Failed, "the agent's name cannot be used", &error))?;
    let config = text.configuration(&ours)?;
    Ok((way, config))
}

/// Sends, and returns the answer with the nodes that were named.
pub fn ask(context: &Context, call: Call) -> Result<(Response, BTreeSet<String>), Failure> {
    let deadline = waiting::deadline(call.sending.timeout);
    let mut client = connect::connect_by(context, deadline)?;
    let named = named_nodes(&call.request);
    Ok((exchange(&mut client, call, deadline)?, named))
}

/// Sends over a connection, prints the answer, and judges it.
pub fn finish(context: &Context, client: &mut Client, call: Call, deadline: Deadline) -> Outcome {
    let named = named_nodes(&call.request);
    let response = exchange(client, call, deadline)?;
    show(context, &response, &named)
}

/// Prints a response, and judges it.
pub fn show(context: &Context, response: &Response, named: &BTreeSet<String>) -> Outcome {
    let screen = context.screen();
    if screen.json {
        print_json(response)?;
    } else {
        print_text(&screen, response)?;
    }
    Ok(verdict(response, named))
}

/// The reqid that was given, or a fresh one, which is printed so that the request can be repeated.
pub fn reqid(given: Option<String>) -> String {
    given.unwrap_or_else(|| {
        let fresh = uuid::Uuid::new_v4().to_string();
        to_stderr!("reqid: {fresh}");
        fresh
    })
}

/// Sends and waits for the response.
fn exchange(client: &mut Client, call: Call, deadline: Deadline) -> Result<Response, Failure> {
    let Call { request, dialect, sending } = call;
    let reqid = reqid(sending.reqid);
    let waiting = Waiting::new(&request, &reqid, client.welcome(), deadline);
    match client.submit(&reqid, request, dialect, None) {
        Ok(call) => waiting.until_answered(client, call),
        Err(Error::Closed | Error::Connection(_)) => Err(waiting::went_away(&waiting::again(&reqid))),
        Err(error) => Err(connect::failed(error)),
    }
}

/// The same over WebSocket. How long the agent may take is not said there, so this host's settings are used instead.
fn exchange_over_websocket(
    context: &Context,
    client: &mut websocket::Client,
    call: Call,
    deadline: Deadline,
) -> Result<Response, Failure> {
    let Call { request, dialect, sending } = call;
    let settings = context.settings()?;
    let text = reqid(sending.reqid);
    let reqid = ReqId::new(text).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let begun = Instant::now();
    let stop = settings.stop_timeout.ms.max(settings.stop_timeout_manager_logger.ms);
    let stop = stop.saturating_add(3 * settings.stage_wait.ms);
    let longest = Duration::from_millis(waiting::ends_within_ms(&request, stop, settings.request_timeout.ms));
    let deadline = deadline.or_else(|| begun.checked_add(longest.saturating_add(2 * waiting::GRACE)));
    let is_whole = websocket::Client::carries(dialect, &reqid, &request);
    if !is_whole.map_err(|error| Failure::new(Exit::Failed, chain(&error)))? {
        let api = dialect.as_str();
        if backend_of(&request).is_some() {
            to_stderr!(
                "warning: cluster_backend has no place in Zeek's {api} API and is not sent: the agents' settings decide; ask over \
                 the control socket to send it"
            );
        } else {
            to_stderr!("warning: metrics ports have no place in the {api} API and are not sent; `deploy` sends them");
        }
    }
    let again = waiting::again_elsewhere(reqid.as_str());
    match client.request(dialect, &reqid, &request, deadline) {
        Ok(response) => Ok(response),
        Err(websocket::Error::TimedOut) => Err(waiting::no_answer(begun.elapsed().as_secs_f64(), &again)),
        Err(websocket::Error::Closed(_) | websocket::Error::Connection(_)) => Err(waiting::went_away(&again)),
        Err(error) => Err(Failure::new(Exit::Failed, chain(&error))),
    }
}

/// The cluster backend that a request's configuration names.
fn backend_of(request: &Request) -> Option<ClusterBackend> {
    let (Request::SetConfiguration { config } | Request::Deploy { config, .. }) = request else { return None };
    config.cluster_backend
}

fn named_nodes(request: &Request) -> BTreeSet<String> {
    match request {
        Request::Restart { nodes }
        | Request::NodeDispatch { nodes, .. }
        | Request::StartNodes { nodes }
        | Request::StopNodes { nodes, .. } => nodes.clone(),
        Request::SetConfiguration { .. }
        | Request::Deploy { .. }
        | Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::GetNodes {}
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. }
        | Request::AdoptState {} => BTreeSet::new(),
    }
}

/// The exit code of a response. The agent drops names that it does not know, so their absence is what tells.
pub fn verdict(response: &Response, named: &BTreeSet<String>) -> Exit {
    let is_conflict = |result: &ApiResult| result.error.as_deref().is_some_and(|error| error.starts_with("conflict: "));
    if response.results.iter().any(is_conflict) {
        return Exit::Conflict;
    }
    // A failure of the request as a whole says nothing about names.
    if response.results.iter().any(|result| !result.success && result.node.is_none()) {
        return Exit::Failed;
    }
    let answered: BTreeSet<&str> = response.results.iter().filter_map(|result| result.node.as_deref()).collect();
    let unknown: Vec<String> =
        named.iter().filter(|name| !answered.contains(name.as_str())).map(|n| plain(n)).collect();
    if !unknown.is_empty() {
        to_stderr!("zeek-cluster-agent: this host has no node called {}", unknown.join(", "));
        return Exit::Failed;
    }
    if response.success() { Exit::Done } else { Exit::Failed }
}

const NODES: [Column; 6] = [
    Column::text("NODE"),
    Column::text("STATE"),
    Column::text("ROLE"),
    Column::number("PID"),
    Column::number("PORT"),
    Column::number("METRICS"),
];

pub fn print_text(screen: &Screen, response: &Response) -> Result<(), Failure> {
    let mut out = terminal::out();
    if response.results.is_empty() {
        writeln!(out, "nothing to do: no node of this host is concerned")?;
    }
    for result in &response.results {
        let node = result.node.as_deref().map(plain);
        match (result.success, &result.data) {
            (true, Some(ResultData::Nodes(nodes))) => print_nodes(&mut out, screen, nodes)?,
            (true, Some(ResultData::Text(text))) if response.event != DISPATCH_RESPONSE => {
                let ok = screen.paint("32", "ok");
                writeln!(out, "{ok}{}: {}", node.map_or_else(String::new, |node| format!(" {node}")), plain(text))?;
            }
            (true, Some(ResultData::Text(text))) => {
                writeln!(out, "{}{}", node.map_or_else(String::new, |node| format!("{node}: ")), plain(text))?;
            }
            (true, Some(ResultData::Outputs(_)) | None) => {
                let ok = screen.paint("32", "ok");
                writeln!(out, "{}", node.map_or_else(|| ok.clone(), |node| format!("{ok} {node}")))?;
            }
            (false, data) => {
                let failed = screen.paint("31", "failed");
                let error = result.error.as_deref().unwrap_or("no reason given");
                let mut lines = error.lines().map(plain);
                let first = lines.next().unwrap_or_default();
                writeln!(out, "{failed} {}{first}", node.map_or_else(String::new, |node| format!("{node}: ")))?;
                for line in lines {
                    writeln!(out, "  {line}")?;
                }
                if let Some(ResultData::Outputs(outputs)) = data {
                    print_output(&mut out, "stdout", &outputs.stdout)?;
                    print_output(&mut out, "stderr", &outputs.stderr)?;
                }
            }
        }
    }
    Ok(())
}

fn print_output(out: &mut impl Write, stream: &str, text: &str) -> std::io::Result<()> {
    for line in text.lines() {
        writeln!(out, "  {stream}: {}", plain(line))?;
    }
    Ok(())
}

fn print_nodes(out: &mut impl Write, screen: &Screen, nodes: &[NodeStatus]) -> std::io::Result<()> {
    let mut table = Table::new(&NODES, screen);
    for node in nodes {
        let number = |port: Option<crate::api::configuration::Port>| match port {
            Some(port) => Cell::new(port.number.to_string()),
            None => Cell::new("-"),
        };
        table.row(
            out,
            vec![
                Cell::new(&node.node),
                state_cell(node.state),
                Cell::new(node.cluster_role.as_str()),
                Cell::new(node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
                number(node.port),
                number(node.metrics_port),
            ],
        )?;
    }
    table.finish(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(results: &[(bool, Option<&str>, Option<&str>)]) -> Response {
        let result = |(success, node, error): &(bool, Option<&str>, Option<&str>)| ApiResult {
            reqid: ReqId::default(),
            success: *success,
            instance: None,
            data: None,
            error: error.map(str::to_owned),
            node: node.map(str::to_owned),
        };
        Response {
            event: "restart_response".into(),
            reqid: ReqId::default(),
            results: results.iter().map(result).collect(),
        }
    }

    #[test]
    fn verdicts_follow_the_contract() {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let none = named(&[]);
        assert_eq!(verdict(&response(&[]), &none), Exit::Done);
        assert_eq!(verdict(&response(&[(true, Some("w1"), None)]), &none), Exit::Done);
        assert_eq!(
            verdict(&response(&[(true, Some("w1"), None), (false, Some("w2"), Some("x"))]), &none),
            Exit::Failed
        );
        assert_eq!(verdict(&response(&[(false, None, Some("conflict: taken"))]), &named(&["w9"])), Exit::Conflict);
        assert_eq!(verdict(&response(&[(true, Some("w1"), None)]), &named(&["w1", "w9"])), Exit::Failed);
        assert_eq!(verdict(&response(&[]), &named(&["w9"])), Exit::Failed);
        assert_eq!(verdict(&response(&[(false, None, Some("superseded"))]), &named(&["w1"])), Exit::Failed);
    }

    #[test]
    fn the_json_of_a_response_is_the_contract() {
        let json = serde_json::to_string(&response(&[(false, None, Some("e"))])).unwrap();
        assert_eq!(
            json,
            r#"{"event":"restart_response","reqid":"","results":[{"reqid":"","success":false,"instance":null,"data":null,"error":"e","node":null}]}"#
        );
    }
}

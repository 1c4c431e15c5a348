//! `nodes`, `shutdown` and `notify`: looking after the nodes of this host.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::{Nodes, NodesChange, Notify, Sending, Shutdown, Which};
use super::outcome::{Exit, Failure, Outcome};
use super::request::question;
use super::request::{self, Call};
use super::{Context, connect, crash, netstats, run as agent, status, top, waiting};
use crate::api::event::{Dialect, Request};
use crate::api::ids::{NodeName, ReqId};
use crate::api::report::chain;
use crate::control::client::{self, Client, Deadline, within_ms};
use crate::control::logs;
use crate::control::message::{LogChunk, LogQuery, Stream};
use crate::telemetry::systemd::Notifier;
use crate::terminal::{self, to_stderr};

/// How often a followed log is looked at; nothing on the agent's side runs in between.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);
const ANSWER_MS: u64 = 30_000;

pub fn run(context: &Context, command: Nodes) -> Outcome {
    match command {
        Nodes::List { wide } => status::list(context, wide),
        Nodes::Top { interval, samples } => top::run(context, Duration::from_millis(interval), samples),
        Nodes::Start(change) => ask_to_change(context, change, |client, which, deadline| {
            Ok(Request::StartNodes { nodes: named(client, which, deadline)? })
        }),
        Nodes::Stop { change, force } => ask_to_change(context, change, |client, which, deadline| {
            Ok(Request::StopNodes { nodes: named(client, which, deadline)?, force })
        }),
        // None named: all that are not stopped by command.
        Nodes::Restart(change) => ask_to_change(context, change, |_, which, _| {
            Ok(Request::Restart { nodes: which.nodes.into_iter().collect() })
        }),
        Nodes::Logs { node, follow, stderr, lines } => {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            show_logs(context, &node, stream, lines, follow)
        }
        Nodes::Print { id, nodes, sending } => {
            request::send(context, question(vec!["get_id_value".to_owned(), id], nodes, sending))
        }
        Nodes::Netstats { nodes, sending } => netstats::run(context, nodes, sending),
        Nodes::Crash { node, bundle } => crash::run(context, &node, bundle.as_deref()),
    }
}

/// Sends what `request` makes of the nodes that were named. One timeout bounds all of it.
fn ask_to_change(
    context: &Context,
    change: NodesChange,
    request: impl FnOnce(&mut Client, Which, Deadline) -> Result<Request, Failure>,
) -> Outcome {
    let NodesChange { which, sending } = change;
    let deadline = waiting::deadline(sending.timeout);
    let mut client = connect::connect_by(context, deadline)?;
    let request = request(&mut client, which, deadline)?;
    request::finish(context, &mut client, Call { request, dialect: Dialect::Operator, sending }, deadline)
}

/// The nodes that were named, or all that the agent has.
fn named(client: &mut Client, which: Which, deadline: Deadline) -> Result<BTreeSet<String>, Failure> {
    if !which.all {
        return Ok(which.nodes.into_iter().collect());
    }
    let report = status::ask_by(client, deadline)?;
    let nodes: BTreeSet<String> = report.nodes.into_iter().map(|node| node.node).collect();
    match nodes.is_empty() {
        true => Err(Failure::new(
            Exit::Failed,
            "this host has no nodes; deploy a configuration first (`request deploy FILE`)",
        )),
        false => Ok(nodes),
    }
}

/// Where a node's output is read: through the agent, or from its directory if none runs.
enum LogSource {
    Agent(Box<Client>),
    Directory(PathBuf),
}

impl LogSource {
    fn read(&mut self, node: &NodeName, query: LogQuery) -> Result<LogChunk, Failure> {
        match self {
            Self::Agent(client) => client.logs(node.as_str(), query, within_ms(ANSWER_MS)).map_err(connect::failed),
            Self::Directory(directory) => {
                logs::read(directory, &query).map_err(|error| Failure::new(Exit::Failed, chain(&error)))
            }
        }
    }
}

fn show_logs(context: &Context, node: &str, stream: Stream, lines: u64, follow: bool) -> Outcome {
    let node = NodeName::new(node).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let settings = context.settings()?;
    let mut source = match connect::find(&settings, &context.surroundings)? {
        Ok(client) => LogSource::Agent(Box::new(client)),
        Err(nobody) => {
            let directory = settings.node_dir.join(node.as_str());
            if !directory.is_dir() {
                return Err(nobody.into());
            }
            LogSource::Directory(directory)
        }
    };
    let mut out = terminal::out();
    let mut query = LogQuery { stream, from: None, lines };
    loop {
        let chunk = source.read(&node, query)?;
        if chunk.gap {
            to_stderr!("zeek-cluster-agent: some output was rotated away before it could be shown");
        }
        out.write_all(&chunk.bytes)?;
        out.flush()?;
        if chunk.end {
            if !follow {
                return Ok(Exit::Done);
            }
            std::thread::sleep(FOLLOW_PAUSE);
        }
        query.from = Some(chunk.next);
    }
}

/// How often an agent that goes away before it has answered is asked again, or found to be gone.
const SHUTDOWNS: usize = 3;

pub fn shutdown(context: &Context, flags: &Shutdown) -> Outcome {
    // One request, however often it is sent.
    let reqid = request::reqid(flags.sending.reqid.clone());
    let sending = Sending { reqid: Some(reqid), ..flags.sending.clone() };
    let mut settings = context.settings()?;
    let deadline = waiting::deadline(flags.sending.timeout);
    let mut attempt = 1;
    loop {
        let mut client = match connect::find_by(&settings, &context.surroundings, deadline)? {
            Ok(client) => client,
            Err(_) if flags.nodes => {
                let reqid = ReqId::new(sending.reqid.unwrap_or_default());
                let reqid = reqid.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
                let response = agent::stop_nodes(context, &mut settings, reqid)?;
                return request::show(context, &response, &BTreeSet::new());
            }
            Err(nobody) => return Err(nobody.into()),
        };
        match ask_to_end(context, &mut client, flags.nodes, &sending, deadline) {
            // The agent was killed just now. Its nodes have to end anyway, with or without another agent.
            Err(Failure::Said { exit: Exit::Unreachable, .. }) if flags.nodes && attempt < SHUTDOWNS => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn ask_to_end(context: &Context, client: &mut Client, nodes: bool, sending: &Sending, deadline: Deadline) -> Outcome {
    let request = Request::Shutdown { nodes };
    let call = Call { request, dialect: Dialect::Operator, sending: sending.clone() };
    let outcome = request::finish(context, client, call, deadline)?;
    if outcome == Exit::Done {
        wait_for_end(client)?;
    }
    Ok(outcome)
}

/// The connection ends with the agent.
fn wait_for_end(client: &mut Client) -> Result<(), Failure> {
    match client.next_publication(within_ms(ANSWER_MS)) {
        Err(client::Error::Closed | client::Error::Connection(_)) => Ok(()),
        Err(client::Error::TimedOut) => Err(Failure::new(
            Exit::Timeout,
            "the agent has agreed to end and is still there; its log says what it waits for",
        )),
        Ok(_) => Err(connect::failed(client::Error::Mismatch)),
        Err(error) => Err(connect::failed(error)),
    }
}

/// A node's own command: through the socket that its environment names, else through the agent's.
pub fn notify(context: &Context, flags: &Notify) -> Outcome {
    if let Some(socket) = context.surroundings.variable("NOTIFY_SOCKET") {
        let sent = Notifier::to(socket).and_then(|notifier| notifier.ready("ready"));
        return match sent {
            Ok(()) => Ok(Exit::Done),
            Err(error) => Err(Failure::because(
                Exit::Unreachable,
                format!("readiness cannot be reported to the NOTIFY_SOCKET {socket}"),
                &error,
            )),
        };
    }
    let Some(node) = &flags.node else {
        let message =
            "it is not known which node is ready: neither NOTIFY_SOCKET nor CLUSTER_NODE is set; give --node NODE";
        return Err(Failure::new(Exit::Usage, message));
    };
    connect::connect(context)?.notify_ready(node, within_ms(ANSWER_MS)).map_err(connect::failed)?;
    Ok(Exit::Done)
}

//! `status` and `nodes list`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use super::connect::{self, SOON};
use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Screen, Table, plain, size, span, state_cell};
use super::{Context, print_json, top};
use crate::api::figures::{Captured, NodeFigures, Usage};
use crate::api::report::{ArchiveReport, ArchiveState, EventsReport, NodeReport, PeerReport, StatusReport};
use crate::api::status::NodeState;
use crate::control::client::{Client, Deadline};
use crate::terminal::{self, to_stderr};

pub fn run(context: &Context) -> Outcome {
    let report = ask(&mut connect::connect(context)?)?;
    let screen = context.screen();
    if screen.json {
        let looping = report.nodes.iter().filter(|node| node.is_crash_looping()).map(|node| node.node.as_str());
        print_json(&Judged { crash_loops: looping.collect(), report: &report })?;
    } else {
        let mut out = terminal::out();
        print_report(&mut out, &screen, &report)?;
        out.flush()?;
    }
    Ok(if report.serving { Exit::Done } else { Exit::Failed })
}

/// A report with what it comes to.
#[derive(Serialize)]
struct Judged<'a> {
    #[serde(flatten)]
    report: &'a StatusReport,
    /// Nodes that are started again and again.
    crash_loops: Vec<&'a str>,
}

pub fn ask(client: &mut Client) -> Result<StatusReport, Failure> {
    ask_by(client, None)
}

/// As [`ask`], waiting until `deadline` at most.
pub fn ask_by(client: &mut Client, deadline: Deadline) -> Result<StatusReport, Failure> {
    let usual = Instant::now().checked_add(SOON);
    client.status(usual.into_iter().chain(deadline).min()).map_err(connect::failed)
}

/// A node with what it uses.
#[derive(Serialize)]
struct Wide<'a> {
    #[serde(flatten)]
    node: &'a NodeReport,
    usage: Option<Usage>,
    captured: Option<Captured>,
    /// Why its metrics port said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

impl<'a> Wide<'a> {
    fn of(node: &'a NodeReport, figures: Option<&'a NodeFigures>) -> Self {
        // Those of another process would be no figures of this one.
        let figures = figures.filter(|figures| figures.pid == node.pid);
        Self {
            node,
            usage: figures.and_then(|figures| figures.usage),
            captured: figures.and_then(|figures| figures.captured),
            problem: figures.and_then(|figures| figures.problem.as_deref()),
        }
    }
}

pub fn list(context: &Context, wide: bool) -> Outcome {
    let mut client = connect::connect(context)?;
    let report = ask(&mut client)?;
    let figures = if wide { Some(top::ask(&mut client)?.nodes) } else { None };
    let screen = context.screen();
    if screen.json {
        match &figures {
            None => print_json(&report.nodes)?,
            Some(figures) => {
                let of = |node: &str| figures.iter().find(|one: &&NodeFigures| one.node == node);
                let nodes: Vec<Wide<'_>> = report.nodes.iter().map(|node| Wide::of(node, of(&node.node))).collect();
                print_json(&nodes)?;
            }
        }
        return Ok(Exit::Done);
    }
    let mut out = terminal::out();
    if report.nodes.is_empty() {
        to_stderr!("no nodes: {}", no_nodes(&report));
    }
    print_nodes(&mut out, &screen, &report.nodes, figures.as_deref())?;
    out.flush()?;
    Ok(Exit::Done)
}

fn no_nodes(report: &StatusReport) -> &'static str {
    match report.configuration {
        Some(_) => "the configuration has none for this host",
        None => "no configuration runs",
    }
}

/// How many of the unfinished requests do nothing before an operator says so.
fn waiting(report: &StatusReport) -> String {
    let wait = match report.waiting_requests.len() {
        0 => return String::new(),
        1 => "1 of them waits".to_owned(),
        count => format!("{count} of them wait"),
    };
    format!(" ({wait} since before hold mode: `requests list`)")
}

fn print_report(out: &mut impl Write, screen: &Screen, report: &StatusReport) -> std::io::Result<()> {
    let state = match (&report.hold, report.serving) {
        (_, false) => screen.paint("33", "starting"),
        (Some(_), true) => screen.paint("33", "serving, on hold"),
        (None, true) => screen.paint("32", "serving"),
    };
    let name = screen.paint("1", &plain(&report.name));
    writeln!(out, "{name}: {state}, pid {}, release {}", report.pid, plain(&report.version))?;
    let mut line = |label: &str, text: String| writeln!(out, "{}", screen.labelled(label, 14, &text));
    line("since", plain(&screen.precise_time(&report.started_at)))?;
    line("directory", plain(&report.state_dir))?;
    if let Some(reason) = &report.hold {
        // A copy's says by itself what ends it.
        let until = if report.is_copy {
            ""
        } else {
            "; nothing is started or stopped until a configuration, standby or `nodes` command"
        };
        line("on hold", format!("{}{until}", plain(reason)))?;
    }
    line("configuration", report.configuration.as_deref().map_or_else(|| "none".to_owned(), plain))?;
    line("nodes", summary(&report.nodes).unwrap_or_else(|| no_nodes(report).to_owned()))?;
    for node in report.nodes.iter().filter(|node| node.is_crash_looping()) {
        let last =
            node.last_exit.as_ref().map(|exit| format!(", the last time by {}", plain(exit))).unwrap_or_default();
        let name = plain(&node.node);
        let told = format!("{name} ended {} times in a row{last}; `nodes crash {name} last` says more", node.deaths);
        line("crash loop", screen.paint("31", &told))?;
    }
    line("requests", format!("{} unfinished{}, {} refused", report.unfinished, waiting(report), report.refused))?;
    let journal = &report.journal;
    line(
        "journal",
        format!(
            "{} entries, {} on disk, {} free, commits p99 {:.1} ms",
            journal.last,
            size(journal.bytes_on_disk),
            size(journal.free_bytes),
            journal.commit_ms_p99
        ),
    )?;
    if let Some(reason) = &journal.refusing {
        line("refusing", screen.paint("31", &plain(reason)))?;
    }
    if !report.may_ask.is_empty() {
        line("who may ask", plain(&report.may_ask.join(", ")))?;
    }
    if let Some(listen) = &report.listen {
        line("listens at", plain(listen))?;
    }
    if let Some(listen) = &report.listen_when_adopted {
        line("listens at", format!("no address while held; {} after `state adopt`", plain(listen)))?;
    }
    if let Some(controller) = &report.controller {
        let problem = controller.problem.as_ref().filter(|_| controller.state != "connected");
        let state = match problem {
            Some(problem) => screen.paint("33", &format!("{}: {}", plain(&controller.state), plain(problem))),
            None => plain(&controller.state),
        };
        line("controller", format!("{}, {state}", plain(&controller.address)))?;
    }
    if let Some(archive) = &report.archive {
        line("archival", archival(screen, archive))?;
    }
    for (label, text) in kept_and_told(screen, report) {
        line(label, text)?;
    }
    for warning in &report.warnings {
        line("warning", screen.paint("33", &plain(warning)))?;
    }
    if !report.nodes.is_empty() {
        writeln!(out)?;
        print_nodes(out, screen, &report.nodes, None)?;
    }
    if !report.peers.is_empty() {
        writeln!(out)?;
        print_peers(out, screen, &report.peers)?;
    }
    Ok(())
}

const PEERS: [Column; 6] = [
    Column::text("PEER"),
    Column::text("ADDRESS"),
    Column::text("DIRECTION"),
    Column::number("UP"),
    Column::text("TLS"),
    Column::text("ENDPOINT"),
];

fn print_peers(out: &mut impl Write, screen: &Screen, peers: &[PeerReport]) -> std::io::Result<()> {
    let mut table = Table::new(&PEERS, screen);
    for peer in peers {
        // What hears the agent is a controller, or something that acts as one.
        let what = match (&peer.node, peer.subscribed.is_empty()) {
            (Some(node), _) => format!("node {node}"),
            (None, false) => format!("subscriber ({})", peer.subscribed.join(", ")),
            (None, true) => "neither node nor subscriber".to_owned(),
        };
        let cells = [what, peer.address.clone(), peer.direction.clone(), span(peer.since_ms), peer.tls.clone()];
        let cells = cells.iter().chain([&peer.endpoint]).map(Cell::new).collect();
        table.row(out, cells)?;
    }
    table.finish(out)
}

fn archival(screen: &Screen, archive: &ArchiveReport) -> String {
    let last = archive.last.as_ref().map(|last| {
        let at = plain(&screen.precise_time(&last.started_at));
        let words = last.last_words.as_ref().map(|words| format!(": {}", plain(words))).unwrap_or_default();
        let took = last.duration_ms.map(|ms| format!(", took {}", span(ms))).unwrap_or_default();
        let result = plain(&last.result);
        match last.state {
            ArchiveState::Running => format!("runs since {at}"),
            ArchiveState::Ok => format!("{at}: {result}{took}"),
            ArchiveState::Failed => screen.paint("31", &format!("failed at {at}: {result}{took}{words}")),
            ArchiveState::Interrupted => screen.paint("33", &format!("{at}: {result}")),
        }
    });
    let last = last.unwrap_or_else(|| "no log was rotated yet".to_owned());
    match &archive.next_at {
        Some(next) => format!("{last}; next at {}", plain(&screen.precise_time(next))),
        None => last,
    }
}

/// What becomes of logs beside their archival, and how `event_command` does, as lines of the page.
fn kept_and_told(screen: &Screen, report: &StatusReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(keeping) = &report.keeping {
        if keeping.removed_files > 0 {
            let text = format!("{} files removed, {}", keeping.removed_files, size(keeping.removed_bytes));
            lines.push(("log expiry", text));
        }
        if let Some(problem) = &keeping.problem {
            lines.push(("log expiry", screen.paint("31", &plain(problem))));
        }
        if let Some(queue) = &keeping.unarchived {
            let queue = plain(queue);
            let told = format!("rotated logs have waited in {queue} for more than a day, and nobody archives them");
            lines.push(("log queue", screen.paint("33", &told)));
        }
    }
    if let Some(EventsReport { waiting, lost, failing }) = &report.events {
        let lost = if *lost > 0 { format!(", {lost} more had no place") } else { String::new() };
        let told = match failing {
            Some(failing) => screen.paint("31", &format!("failed: {}; {waiting} wait{lost}", plain(failing))),
            None => format!("{waiting} wait{lost}"),
        };
        lines.push(("event command", told));
    }
    lines
}

/// For example `3 RUNNING, 1 CRASHED`.
fn summary(nodes: &[NodeReport]) -> Option<String> {
    use NodeState::{Crashed, Failed, Pending, Running, Stopped, Unknown};
    let counts = [Running, Pending, Stopped, Crashed, Failed, Unknown].into_iter().filter_map(|state| {
        let count = nodes.iter().filter(|node| node.state == state).count();
        (count > 0).then(|| format!("{count} {state}"))
    });
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() { None } else { Some(counts.join(", ")) }
}

const NODES: [Column; 8] = [
    Column::text("NODE"),
    Column::text("ROLE"),
    Column::text("STATE"),
    Column::number("PID"),
    Column::number("UP"),
    Column::number("INCARNATION"),
    Column::number("DEATHS"),
    Column::long("NOTE", 20),
];
/// Behind DEATHS, in the wide form.
const SHIM: Column = Column::text("SHIM");

fn print_nodes(
    out: &mut impl Write,
    screen: &Screen,
    nodes: &[NodeReport],
    figures: Option<&[NodeFigures]>,
) -> std::io::Result<()> {
    let [before @ .., last] = NODES;
    let wide = figures.map_or(&[][..], |_| &top::WIDE);
    let shim = figures.map(|_| &SHIM);
    let columns: Vec<Column> = before.iter().chain(shim).chain(wide).chain([&last]).copied().collect();
    let by_name: BTreeMap<&str, &NodeFigures> =
        figures.unwrap_or_default().iter().map(|one| (one.node.as_str(), one)).collect();
    let mut table = Table::new(&columns, screen);
    for node in nodes {
        let mut cells = vec![
            Cell::new(&node.node),
            Cell::new(node.role.as_str()),
            state_cell(node.state),
            Cell::new(node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
            Cell::new(node.up_ms.map_or_else(|| "-".to_owned(), span)),
            Cell::new(node.incarnation.to_string()),
            Cell::new(node.deaths.to_string()),
        ];
        if figures.is_some() {
            cells.push(Cell::new(node.shim.as_deref().unwrap_or("-")));
            match by_name.get(node.node.as_str()) {
                Some(figures) => cells.extend(top::wide(figures)),
                None => cells.extend(wide.iter().map(|_| Cell::new("-"))),
            }
        }
        cells.push(Cell::new(note(node)));
        table.row(out, cells)?;
    }
    table.finish(out)?;
    match figures {
        Some(figures) => top::print_problems(out, screen, figures),
        None => Ok(()),
    }
}

fn note(node: &NodeReport) -> String {
    let mut parts = Vec::new();
    if let Some(note) = &node.note {
        parts.push(note.clone());
    }
    if node.want != "up" && node.state != NodeState::Stopped {
        parts.push(format!("wanted {}", node.want));
    }
    if let Some(ms) = node.next_start_ms {
        parts.push(format!("next start in {}", span(ms)));
    }
    // "not started: " and the note, for example, would say the same twice.
    let is_said = |exit: &String| node.note.as_ref().is_some_and(|note| exit.ends_with(note.as_str()));
    if let Some(exit) = node.last_exit.as_ref().filter(|exit| node.state != NodeState::Running && !is_said(exit)) {
        parts.push(format!("last exit: {exit}"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::report::{ControllerReport, JournalReport, WaitingRequest};

    fn node(name: &str, state: NodeState) -> NodeReport {
        NodeReport {
            node: name.into(),
            role: ClusterRole::Worker,
            state,
            want: "up".into(),
            pid: (state == NodeState::Running).then_some(4711),
            incarnation: 2,
            up_ms: (state == NodeState::Running).then_some(61_000),
            deaths: 1,
            awaited_ms: None,
            late: false,
            metrics_port: None,
            next_start_ms: (state == NodeState::Crashed).then_some(3000),
            last_exit: Some("signal 9".into()),
            note: None,
            dropped_bytes: 0,
            shim: None,
        }
    }

    #[test]
    fn a_report_reads_as_a_page() {
        let report = StatusReport {
            name: "agent-1".into(),
            version: "0.1.0".into(),
            pid: 99,
            state_dir: "/s".into(),
            started_at: "2026-11-22T08:31:00Z".into(),
            serving: true,
            hold: Some("five early deaths".into()),
            is_copy: false,
            configuration: Some("c1".into()),
            journal: JournalReport {
                last: 18,
                commits: 5,
                commit_ms_p99: 1.55,
                open_ms: 2.5,
                bytes_on_disk: 4096,
                free_bytes: 1 << 40,
                refusing: Some("the disk is full".into()),
            },
            nodes: vec![node("w1", NodeState::Running), node("w2", NodeState::Crashed)],
            unfinished: 1,
            waiting_requests: vec![WaitingRequest {
                seq: 13,
                reqid: "r".into(),
                event: "agent_standby_request".into(),
                accepted_at: "2026-11-22T08:30:00Z".into(),
                source: "control uid=0 pid=7".into(),
            }],
            refused: 2,
            may_ask: vec!["root".into(), "members of ops".into()],
            listen: Some("127.0.0.1:2151".into()),
            listen_when_adopted: None,
            controller: Some(ControllerReport {
                address: "192.0.2.1:2150".into(),
                state: "connecting".into(),
                problem: Some("Connection refused".into()),
            }),
            peers: vec![PeerReport {
                direction: "accepted".into(),
                address: "127.0.0.1:40000".into(),
                uid: Some(995),
                may_ask: false,
                tls: "TLSv1.2, anonymous".into(),
                endpoint: "00112233-4455-6677-8899-aabbccddeeff".into(),
                subscribed: Vec::new(),
                node: Some("w1".into()),
                since_ms: 61_000,
            }],
            archive: None,
            keeping: None,
            events: None,
            warnings: vec!["nodes run as root\x1b[2J".into()],
        };
        let screen = Screen::of_tests();
        let mut out = Vec::new();
        print_report(&mut out, &screen, &report).unwrap();
        let expected = "\
agent-1: serving, on hold, pid 99, release 0.1.0
  since          2026-11-22T08:31:00Z
  directory      /s
  on hold        five early deaths; nothing is started or stopped until a configuration, standby or `nodes` command
  configuration  c1
  nodes          1 RUNNING, 1 CRASHED
  requests       1 unfinished (1 of them waits since before hold mode: `requests list`), 2 refused
  journal        18 entries, 4.0 KiB on disk, 1.0 TiB free, commits p99 1.6 ms
  refusing       the disk is full
  who may ask    root, members of ops
  listens at     127.0.0.1:2151
  controller     192.0.2.1:2150, connecting: Connection refused
  warning        nodes run as root\\u{1b}[2J

NODE  ROLE    STATE     PID         UP  INCARNATION  DEATHS  NOTE
w1    worker  RUNNING  4711  1 min 1 s            2       1
w2    worker  CRASHED     -          -            2       1  next start in 3.0 s; last exit: signal 9

PEER     ADDRESS          DIRECTION         UP  TLS                 ENDPOINT
node w1  127.0.0.1:40000  accepted   1 min 1 s  TLSv1.2, anonymous  00112233-4455-6677-8899-aabbccddeeff
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

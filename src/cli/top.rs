//! `nodes top` and `nodes list --wide`: what each node uses and captures.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::outcome::{Exit, Failure, Outcome};
use super::output::{Cell, Column, Screen, Table, plain, size, span, state_cell};
use super::{Context, connect, print_json};
use crate::api::figures::{Figures, NodeFigures};
use crate::control::client::{Client, within_ms};
use crate::terminal;

/// Metrics ports that do not answer are waited for a second each, 64 at a time.
const ANSWER_MS: u64 = 60_000;
/// How many nodes without an answer are told one by one.
const TOLD: usize = 5;

const TOP: [Column; 12] = [
    Column::name("NODE", 12),
    Column::text("ROLE").yields(3),
    Column::text("STATE"),
    Column::number("PID").yields(4),
    Column::number("CPU%"),
    Column::number("TIME").yields(1),
    Column::number("RSS"),
    Column::number("THREADS").yields(2),
    Column::number("FDS").yields(2),
    Column::number("PKT/S"),
    Column::number("DROPPED"),
    Column::number("LAG").yields(1),
];

/// Samples until it is ended, on a terminal; else one, or as many as are wanted.
pub fn run(context: &Context, interval: Duration, samples: Option<u32>) -> Outcome {
    let screen = context.screen();
    let mut client = connect::connect(context)?;
    let refreshes = screen.is_terminal && !screen.json;
    let samples = samples.or((!refreshes).then_some(1));
    let mut before = None;
    let mut taken = 0;
    loop {
        let begun = Instant::now();
        let now = ask(&mut client)?;
        if screen.json {
            print_json(&now)?;
        } else {
            if refreshes && samples != Some(1) {
                terminal::clear();
            }
            let mut out = terminal::out();
            print(&mut out, &screen, &now, before.as_ref())?;
            out.flush()?;
        }
        before = Some(now);
        taken += 1;
        if samples.is_some_and(|samples| taken >= samples) {
            return Ok(Exit::Done);
        }
        std::thread::sleep(interval.saturating_sub(begun.elapsed()));
    }
}

pub fn ask(client: &mut Client) -> Result<Figures, Failure> {
    client.figures(within_ms(ANSWER_MS)).map_err(connect::failed)
}

/// How much of something there was in a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Rates {
    /// Of one CPU.
    cpu: Option<f64>,
    packets: Option<f64>,
}

/// Since the sample before, or over the life of the node's process if that was not in it.
fn rates(now: &NodeFigures, at_ms: u64, before: Option<(&NodeFigures, u64)>) -> Rates {
    let since = before.filter(|(before, at)| before.pid == now.pid && at_ms > *at);
    let (seconds, earlier) = match since {
        Some((earlier, at)) => ((at_ms - at) as f64 / 1e3, Some(earlier)),
        None => (now.up_ms.unwrap_or(0) as f64 / 1e3, None),
    };
    if seconds <= 0.0 {
        return Rates::default();
    }
    let used = |node: &NodeFigures| node.usage.map(|usage| usage.cpu_seconds);
    let received = |node: &NodeFigures| node.captured.and_then(|captured| captured.received);
    let more = |value: &dyn Fn(&NodeFigures) -> Option<f64>| {
        let difference = value(now)? - earlier.and_then(value).unwrap_or(0.0);
        Some(difference.max(0.0) / seconds)
    };
    Rates { cpu: more(&used), packets: more(&received) }
}

/// Busiest first.
fn print(out: &mut impl Write, screen: &Screen, now: &Figures, before: Option<&Figures>) -> std::io::Result<()> {
    let earlier: BTreeMap<&str, &NodeFigures> =
        before.iter().flat_map(|before| &before.nodes).map(|node| (node.node.as_str(), node)).collect();
    let at_ms = before.map_or(0, |before| before.at_ms);
    let mut rows: Vec<(&NodeFigures, Rates)> = now
        .nodes
        .iter()
        .map(|node| (node, rates(node, now.at_ms, earlier.get(node.node.as_str()).map(|one| (*one, at_ms)))))
        .collect();
    rows.sort_by(|(_, one), (_, other)| other.cpu.unwrap_or(0.0).total_cmp(&one.cpu.unwrap_or(0.0)));
    let time = screen.precise_time(&now.at);
    let running = now.nodes.iter().filter(|node| node.usage.is_some()).count();
    let cpu: f64 = rows.iter().filter_map(|(_, rates)| rates.cpu).sum();
    let rss: u64 = now.nodes.iter().filter_map(|node| node.usage).map(|usage| usage.rss_bytes).sum();
    let count = now.nodes.len();
    writeln!(out, "{}: {running} of {count} nodes up, {:.1} CPUs, {} resident", plain(&time), cpu, size(rss))?;
    let mut table = Table::new(&TOP, screen);
    for (node, rates) in rows {
        let mut cells = vec![
            Cell::new(&node.node),
            Cell::new(node.role.as_str()),
            state_cell(node.state),
            or_dash(node.pid.map(|pid| pid.to_string())),
        ];
        cells.extend(figures(node, rates));
        table.row(out, cells)?;
    }
    table.finish(out)?;
    print_problems(out, screen, &now.nodes)
}

/// The cells from CPU% to LAG.
fn figures(node: &NodeFigures, rates: Rates) -> [Cell; 8] {
    let (usage, captured) = (node.usage, node.captured);
    [
        or_dash(rates.cpu.map(|cpu| format!("{:.1}", cpu * 100.0))),
        or_dash(usage.map(|usage| span((usage.cpu_seconds * 1e3) as u64))),
        or_dash(usage.map(|usage| size(usage.rss_bytes))),
        or_dash(usage.map(|usage| usage.threads.to_string())),
        or_dash(usage.and_then(|usage| usage.descriptors).map(|count| count.to_string())),
        or_dash(rates.packets.map(|packets| format!("{packets:.0}"))),
        or_dash(captured.and_then(|captured| captured.dropped).map(|dropped| format!("{dropped:.0}"))),
        or_dash(captured.and_then(|captured| captured.lag_seconds).map(|lag| format!("{lag:.3} s"))),
    ]
}

/// The same without a sample before, for `nodes list --wide`.
pub fn wide(node: &NodeFigures) -> [Cell; 8] {
    figures(node, rates(node, 0, None))
}

/// The columns of [`wide`].
pub const WIDE: [Column; 8] = [TOP[4], TOP[5], TOP[6], TOP[7], TOP[8], TOP[9], TOP[10], TOP[11]];

fn or_dash(text: Option<String>) -> Cell {
    Cell::new(text.unwrap_or_else(|| "-".to_owned()))
}

/// Nodes whose metrics port did not answer.
pub fn print_problems(out: &mut impl Write, screen: &Screen, nodes: &[NodeFigures]) -> std::io::Result<()> {
    let silent: Vec<(&str, &str)> =
        nodes.iter().filter_map(|node| Some((node.node.as_str(), node.problem.as_deref()?))).collect();
    for (node, problem) in silent.iter().take(TOLD) {
        writeln!(out, "{}", screen.paint("33", &plain(&format!("{node}: {problem}"))))?;
    }
    match silent.len().saturating_sub(TOLD) {
        0 => Ok(()),
        more => writeln!(out, "{}", screen.paint("33", &format!("and {more} more whose metrics port does not answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::figures::{Captured, Usage};
    use crate::api::status::NodeState;

    fn node(name: &str, cpu_seconds: f64, received: f64) -> NodeFigures {
        NodeFigures {
            node: name.into(),
            role: ClusterRole::Worker,
            state: NodeState::Running,
            pid: Some(7),
            up_ms: Some(10_000),
            usage: Some(Usage { processes: 1, cpu_seconds, rss_bytes: 3 << 20, threads: 4, descriptors: Some(9) }),
            captured: Some(Captured { received: Some(received), dropped: Some(5.0), lag_seconds: Some(0.25) }),
            problem: None,
        }
    }

    #[test]
    fn rates_are_of_the_time_since_the_sample_before_or_of_a_whole_life() {
        let (before, now) = (node("w1", 3.0, 1000.0), node("w1", 4.0, 1600.0));
        assert_eq!(rates(&now, 7_000, Some((&before, 5_000))), Rates { cpu: Some(0.5), packets: Some(300.0) });
        assert_eq!(rates(&now, 7_000, None), Rates { cpu: Some(0.4), packets: Some(160.0) });
        let another = NodeFigures { pid: Some(8), ..before.clone() };
        assert_eq!(rates(&now, 7_000, Some((&another, 5_000))), rates(&now, 7_000, None), "it was started again");
        assert_eq!(rates(&now, 5_000, Some((&before, 5_000))), rates(&now, 7_000, None), "no time passed");
        let down = NodeFigures { pid: None, up_ms: None, usage: None, captured: None, ..now };
        assert_eq!(rates(&down, 7_000, None), Rates::default());
    }

    #[test]
    fn the_busiest_comes_first_and_who_does_not_answer_is_named() {
        let silent = NodeFigures {
            captured: None,
            problem: Some("its metrics port 127.0.0.1:9991 has not answered within 1 s".into()),
            ..node("w1", 1.0, 0.0)
        };
        let down =
            NodeFigures { pid: None, usage: None, captured: None, state: NodeState::Stopped, ..node("w3", 0.0, 0.0) };
        let nodes = vec![silent, node("w2", 5.0, 500.0), down];
        let now = Figures { at: "2026-12-01T10:00:00.000000Z".into(), at_ms: 1, nodes };
        let mut text = Vec::new();
        print(&mut text, &Screen::of_tests(), &now, None).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(": 2 of 3 nodes up, 0.6 CPUs, 6.0 MiB resident"), "{text}");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(lines[2]),
            ["w2", "worker", "RUNNING", "7", "50.0", "5.0", "s", "3.0", "MiB", "4", "9", "50", "5", "0.250", "s"],
            "{text}"
        );
        assert_eq!(words(lines[3])[..5], ["w1", "worker", "RUNNING", "7", "10.0"], "{text}");
        assert!(lines[4].starts_with("w3"), "{text}");
        assert_eq!(lines[5], "w1: its metrics port 127.0.0.1:9991 has not answered within 1 s", "{text}");
    }
}

//! What the core's work costs, in looks and entries: it grows with the nodes that something happens to, and not with those that
//! there are (P18). The figures are printed; times are `benches/agent.rs`'s.

use super::*;

/// What one phase took.
#[derive(Debug)]
struct Cost {
    phase: &'static str,
    looks: u64,
    entries: usize,
}

struct Meter {
    bench: Bench,
    nodes: Vec<String>,
    costs: Vec<Cost>,
}

impl Meter {
    fn new(count: usize) -> Self {
        let mut bench = Bench::new();
        // Looking at everything after each step is what is not to be measured.
        bench.is_checked = false;
        let first = ["logger", "manager", "proxy"].map(str::to_owned);
        let nodes = first.into_iter().chain((0..).map(|number| format!("w{number:04}"))).take(count).collect();
        Self { bench, nodes, costs: Vec::new() }
    }

    fn phase(&mut self, phase: &'static str, run: impl FnOnce(&mut Bench, &[String])) {
        let (before, entries) = (self.bench.core.looks(), self.bench.journal.entries().len());
        let starts = self.bench.starts;
        run(&mut self.bench, &self.nodes);
        // Another core begins with none.
        let before = if self.bench.starts == starts { before } else { 0 };
        let looks = self.bench.core.looks() - before;
        let entries = self.bench.journal.entries().len() - entries;
        println!(
            "{:>5} nodes, {phase:<24} {:>6.2} looks and {:>5.2} entries a node",
            self.nodes.len(),
            looks as f64 / self.nodes.len() as f64,
            entries as f64 / self.nodes.len() as f64,
        );
        self.costs.push(Cost { phase, looks, entries });
    }
}

/// Everything that is ready gets its turn, stage by stage.
fn settle(bench: &mut Bench, nodes: &[String]) {
    for _ in 0..4 {
        let later = bench.pass(1_000);
        bench.execute(later);
    }
    for node in nodes {
        bench.ready(node);
    }
}

fn borrowed(nodes: &[String]) -> Vec<&str> {
    nodes.iter().map(String::as_str).collect()
}

#[expect(clippy::too_many_lines, reason = "a list of phases, one after the other")]
fn costs(count: usize) -> Vec<Cost> {
    let mut meter = Meter::new(count);
    meter.phase("deploy, program missing", |bench, nodes| {
        let mut effects = bench.ask("first", set("c1", &borrowed(nodes)));
        let mut tries = 0;
        for _ in 0..4 {
            while !effects.is_empty() {
                for effect in std::mem::take(&mut effects) {
                    let Effect::Order { node, order: NodeOrder::Prepare { incarnation, .. } } = effect else {
                        continue;
                    };
                    tries += 1;
                    let missing = exited(ExitCause::NotStarted("no such file".into()));
                    effects.extend(bench.report(node.as_str(), incarnation, missing));
                }
            }
            effects = bench.pass(1_000);
        }
        assert!(tries >= 2 * nodes.len(), "at once and after a second: {tries}");
    });
    meter.phase("deploy", |bench, nodes| {
        let effects = bench.ask("second", set("c2", &borrowed(nodes)));
        bench.execute(effects);
        settle(bench, nodes);
        assert!(nodes.iter().all(|node| bench.state(node) == NodeState::Running));
    });
    meter.phase("get_nodes", |bench, nodes| {
        let answer = only_response(&bench.ask("nodes", Request::GetNodes {}));
        let Some(ResultData::Nodes(all)) = &answer.results[0].data else { panic!("{answer:?}") };
        assert_eq!(all.len(), nodes.len() + 1);
    });
    meter.phase("replaced by another", |bench, nodes| {
        let effects = bench.ask("third", set("c3", &borrowed(nodes)));
        bench.execute(effects);
        settle(bench, nodes);
        assert!(bench.core.durable().unfinished.is_empty());
        assert!(nodes.iter().all(|node| bench.state(node) == NodeState::Running));
    });
    meter.phase("peerings, a dispatch", |bench, nodes| {
        let mut peers = Peers::default();
        let all: Vec<(u64, &String)> = (100..).zip(nodes).collect();
        // Who watches peerings sees some at a time.
        for some in all.chunks(50) {
            peers.nodes.extend(some.iter().map(|(connection, node)| (*connection, name(node))));
            bench.give(Input::Peers(peers.clone()));
        }
        let action = vec!["get_id_value".to_owned(), "x".to_owned()];
        let effects = bench.ask("ask", Request::NodeDispatch { action, nodes: BTreeSet::new() });
        let mut last = Vec::new();
        for effect in effects {
            if let Effect::Dispatch { of, connection, .. } = effect {
                last = bench.give(Input::NodeAnswered { of, connection, answer: Ok(Some("1".into())) });
            }
        }
        assert_eq!(only_response(&last).results.len(), nodes.len());
    });
    meter.phase("exit of each", |bench, nodes| {
        for node in nodes {
            let incarnation = bench.incarnation(node);
            let effects = bench.report(node, incarnation, exited(ExitCause::Signal(11)));
            bench.execute(effects);
            bench.ready(node);
        }
        settle(bench, nodes);
    });
    meter.phase("killed, all adopted", |bench, nodes| {
        let found: Vec<(&str, Finding)> = nodes.iter().map(|node| (node.as_str(), adopted(bench, node))).collect();
        let effects = bench.crash(found);
        bench.execute(effects);
        settle(bench, nodes);
        assert!(nodes.iter().all(|node| bench.state(node) == NodeState::Running));
    });
    meter.phase("standby", |bench, nodes| {
        let effects = bench.ask("standby", Request::AgentStandby {});
        bench.execute(effects);
        for _ in 0..4 {
            let later = bench.pass(1_000);
            bench.execute(later);
        }
        assert!(bench.core.durable().nodes.is_empty(), "of {}", nodes.len());
        assert!(bench.core.durable().unfinished.is_empty());
    });
    assert_eq!(meter.bench.core.overlooked(meter.bench.now), None);
    meter.costs
}

#[test]
fn what_is_looked_at_and_journaled_grows_no_faster_than_nodes() {
    const FEW: usize = 100;
    /// For each node of a phase, from its request to its end.
    const LOOKS: u64 = 48;
    const TIMES: usize = 10;
    for (few, more) in costs(FEW).into_iter().zip(costs(TIMES * FEW)) {
        assert_eq!(few.phase, more.phase);
        assert!(few.looks <= LOOKS * FEW as u64, "{few:?}");
        assert!(more.looks <= few.looks * TIMES as u64, "{few:?}, and with {TIMES} times the nodes {more:?}");
        assert!(more.entries <= few.entries * TIMES, "{few:?}, and with {TIMES} times the nodes {more:?}");
    }
}

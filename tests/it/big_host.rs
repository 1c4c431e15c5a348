//! A host with more nodes than a batch has inputs, or a queue has places: everything works as with a handful (P18).
//!
//! `ZCA_TEST_BIG_HOST` sets how many nodes there are; the times are printed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Agent, Host, cluster, errors, is_alive, kill, set};

/// More than there are inputs in a batch and events in the nodes' queue: what counts them meets its end.
const NODES: usize = 300;

struct BigHost {
    host: Host,
    nodes: usize,
}

impl BigHost {
    fn new() -> Self {
        let nodes = std::env::var("ZCA_TEST_BIG_HOST").map_or(NODES, |text| text.parse().unwrap());
        let mut host = Host::new();
        // What is counted here are nodes; how fast they start is the machine's affair.
        host.set("ZCA_REQUEST_TIMEOUT", "300");
        Self { host, nodes }
    }

    fn configuration(&self) -> Request {
        let names: Vec<String> = (0..self.nodes).map(|number| format!("w{number:04}")).collect();
        let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        set(cluster(&nodes))
    }

    /// Waits for something, asking the agent nothing but what `check` does.
    fn eventually<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        let patience = Duration::from_secs(60) + Duration::from_millis(200) * u32::try_from(self.nodes).unwrap();
        loop {
            if let Some(found) = check() {
                println!("{} nodes: {what} after {:.2} s", self.nodes, begun.elapsed().as_secs_f64());
                return found;
            }
            assert!(begun.elapsed() < patience, "waited {patience:?} in vain for {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts an agent and asks it nothing: a question would wake what has fallen asleep.
    fn start_unasked(&self) -> Agent {
        let before = self.starts();
        let agent = self.host.spawn();
        self.eventually("an agent that serves", || (self.starts() > before).then_some(()));
        agent
    }

    fn starts(&self) -> usize {
        self.host.read_log().matches(" serves on ").count()
    }

    fn wait_running(&self) {
        let running = || {
            let nodes = self.host.nodes();
            let all = nodes.len() == self.nodes && nodes.values().all(|node| node.state == NodeState::Running);
            all.then_some(())
        };
        self.eventually("all nodes RUNNING", running);
    }

    /// Waits until nothing that this test started is left but the agent.
    fn wait_none_left(&self, agent: Option<&Agent>) {
        let left = || self.host.processes(&self.host.mark).into_iter().any(|pid| Some(pid) != agent.map(Agent::pid));
        self.eventually("no node and no shim left", || (!left()).then_some(()));
    }
}

#[test]
fn a_host_full_of_nodes_is_deployed_adopted_watched_and_stopped() {
    let big = BigHost::new();
    let agent = big.start_unasked();
    let begun = Instant::now();
    let answer = big.host.ask_until_answered("deploy", &big.configuration());
    println!("{} nodes: deployed after {:.2} s", big.nodes, begun.elapsed().as_secs_f64());
    assert!(answer.success(), "{}", errors(&answer));
    let before = big.host.pids();
    assert_eq!(before.len(), big.nodes);
    agent.kill();

    let agent = big.start_unasked();
    // Of the first node, and of the last: neither is noticed by a question.
    for node in [before.keys().next().unwrap(), before.keys().last().unwrap()] {
        kill(before[node], Signal::KILL, Some(&big.host.mark));
        let again = || big.host.node_processes(node).into_iter().find(|pid| *pid != before[node] && is_alive(*pid));
        big.eventually("another process of a killed node", again);
    }
    big.wait_running();
    let after = big.host.pids();
    assert_eq!(before.iter().filter(|(node, pid)| after[*node] != **pid).count(), 2, "the others were adopted");
    let exits = big.host.events("node_exited");
    assert_eq!(exits.len(), 2, "{exits:?}");
    agent.kill();

    // Nobody serves: the command stops the nodes by itself.
    let said = big.host.run(&["shutdown", "--nodes"]);
    assert_eq!(said.code, 0, "{said:?}");
    big.wait_none_left(None);

    // They are still wanted.
    let agent = big.start_unasked();
    big.wait_running();
    let standby = big.host.ask_until_answered("standby", &Request::AgentStandby {});
    assert!(standby.success(), "{}", errors(&standby));
    big.wait_none_left(Some(&agent));
    big.host.verify();
    drop(agent);
}

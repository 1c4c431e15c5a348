//! Random kills of agent, shims and nodes, while copies of the live directory are made and run beside it: no process of the
//! original is signalled by a copy, and no node runs twice (P7, P16).
//!
//! `ZCA_TEST_PLACE_SECS` is how long (8 s if it is not set), `ZCA_TEST_PLACE_SEED` which history.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use zeek_cluster_agent::control::client::Client;

use crate::random::Random;
use crate::support::{Agent, BINARY, Host, PATIENCE, cluster, errors, eventually, is_alive, kill, set};

const NODES: [&str; 4] = ["w1", "w2", "w3", "w4"];

/// Another history each time, unless the environment says which.
fn random() -> Random {
    let seed = std::env::var("ZCA_TEST_PLACE_SEED").ok().map(|text| text.parse().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed: u64 = seed.unwrap_or(now.as_nanos() as u64);
    println!("ZCA_TEST_PLACE_SEED={seed}");
    Random::new(seed)
}

struct History {
    host: Host,
    agent: Option<Agent>,
    random: Random,
    /// Processes that this test killed, or whose shim it killed.
    killed: BTreeSet<u32>,
    kills: BTreeMap<&'static str, u32>,
    looks: u64,
    /// Times that a hold was ended.
    deploys: u32,
}

impl History {
    fn begin() -> Self {
        let mut host = Host::new();
        host.set("ZCA_MAX_RESTARTS", "60").set("ZCA_RESTART_WINDOW", "1s").set("ZCA_BACKOFF_MAX", "0.1");
        host.set("ZCA_BACKOFF_MIN", "0.1");
        let agent = host.start();
        let answer = host.ask("deploy", set(cluster(&NODES.map(|node| (node, "")))));
        assert!(answer.success(), "{}", errors(&answer));
        host.wait_all_running(NODES.len());
        let (killed, kills) = (BTreeSet::new(), BTreeMap::new());
        Self { host, agent: Some(agent), random: random(), killed, kills, looks: 0, deploys: 0 }
    }

    fn count(&mut self, what: &'static str) {
        *self.kills.entry(what).or_default() += 1;
    }

    /// One process of each node at most, whatever happens.
    fn look(&mut self) {
        self.looks += 1;
        for node in NODES {
            let found = self.host.node_processes(node);
            // What is on its way out is no second one: it is nobody's to be started beside.
            let alive: Vec<u32> = found.into_iter().filter(|pid| is_alive(*pid)).collect();
            assert!(alive.len() <= 1, "{node} runs twice: {alive:?}");
        }
    }

    fn kill_agent(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        if self.random.index(2) == 0 {
            self.count("agent, SIGKILL");
            agent.kill();
        } else {
            // An end in order: five early deaths in a row would make the next start hold.
            self.count("agent, SIGTERM");
            agent.signal(Signal::TERM);
            agent.wait();
        }
    }

    /// Nodes that are killed while the agent holds are not started again: then there is nothing left to kill. So whoever starts
    /// it ends the hold, as an operator would.
    fn start_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        self.agent = Some(self.host.start());
        let status = self.host.status();
        assert!(!status.is_copy, "{:?}", status.hold);
        if status.hold.is_some() {
            self.deploys += 1;
            let answer =
                self.host.ask(&format!("deploy-{}", self.deploys), set(cluster(&NODES.map(|node| (node, "")))));
            assert!(answer.success(), "{}", errors(&answer));
            assert_eq!(self.host.status().hold, None);
        }
    }

    fn kill_node(&mut self) {
        let node = NODES[self.random.index(NODES.len())];
        for pid in self.host.node_processes(node) {
            self.count("node");
            self.killed.insert(pid);
            kill(pid, Signal::KILL, Some(&self.host.mark));
        }
    }

    /// Its node goes with it.
    fn kill_shim(&mut self) {
        let shims = self.host.shims();
        if shims.is_empty() {
            return;
        }
        let shim = shims[self.random.index(shims.len())];
        let Ok(run) = fs::read_link(format!("/proc/{shim}/cwd")) else { return };
        let Some(node) = run.file_name().and_then(|name| name.to_str()) else { return };
        self.killed.extend(self.host.node_processes(node));
        // It may be the shim's child, on its way to become the node: until then it looks like its shim.
        self.killed.insert(shim);
        self.count("shim");
        kill(shim, Signal::KILL, Some(&format!("ZCA_STATE_DIR={}", self.host.state_dir().display())));
        // Forked by it since it was looked at.
        self.killed.extend(self.host.node_processes(node));
    }

    /// A copy is made while the original is in use, and run: every signal that it sends is counted.
    fn copy(&mut self) {
        let copy = Host::new();
        let trace = copy.dir.path().join("signals");
        let done = Command::new("cp").arg("-a").arg(self.host.state_dir()).arg(copy.state_dir()).output().unwrap();
        drop(done);
        let traced = |args: &[&str]| {
            let mut command = Command::new("strace");
            copy.prepare(&mut command);
            command.args(["-f", "-qq", "-e", "trace=kill,tkill,tgkill,pidfd_send_signal", "-o"]).arg(&trace);
            command.arg(BINARY).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let code = if self.random.index(2) == 0 {
            self.count("copy, offline stop");
            wait(traced(&["shutdown", "--nodes"]))
        } else {
            self.count("copy, agent");
            let child = traced(&["run", "--simulate-nodes"]);
            self.run_copy(&copy, child)
        };
        let signals = fs::read_to_string(&trace).unwrap();
        let sent: Vec<&str> =
            signals.lines().filter(|line| line.contains("kill(") || line.contains("send_signal(")).collect();
        assert!(sent.is_empty(), "a copy has sent signals: {sent:?}");
        assert!(copy.shims().is_empty() && copy.processes(&copy.mark).is_empty(), "a copy has started something");
        assert!(code.is_some(), "it was killed");
    }

    /// Kills go on beside it; then it is ended in order.
    fn run_copy(&mut self, copy: &Host, mut child: Child) -> Option<i32> {
        let begun = Instant::now();
        loop {
            // A journal that was copied while it was written may be one that no agent can open.
            if child.try_wait().unwrap().is_some() {
                return wait(child);
            }
            assert!(begun.elapsed() < 4 * PATIENCE, "the copy neither serves nor ends");
            let client = Client::connect(&copy.socket(), "test").ok();
            if let Some(pid) = client.map(|client| client.welcome().pid) {
                let status = eventually("the copy to serve", || {
                    let status = copy.try_status()?;
                    status.serving.then_some(status)
                });
                assert!(status.is_copy, "{:?}", status.hold);
                assert!(!copy.ask("standby", zeek_cluster_agent::api::event::Request::AgentStandby {}).success());
                self.kill_something();
                kill(pid, Signal::TERM, Some(&copy.mark));
                return wait(child);
            }
            self.kill_something();
            self.look();
        }
    }

    fn kill_something(&mut self) {
        match self.random.index(4) {
            0 => self.kill_node(),
            1 => self.kill_shim(),
            2 => {
                self.kill_agent();
                self.start_agent();
            }
            _ => {}
        }
    }

    /// Every process that ended was killed by this test.
    fn settle(mut self) {
        self.start_agent();
        self.host.wait_all_running(NODES.len());
        self.look();
        let host = &self.host;
        let mut started = BTreeMap::new();
        for (node, incarnation, detail) in host.events("node_started") {
            started.insert((node, incarnation), detail.to_string());
        }
        let exits = host.events("node_exited");
        println!(
            "{} exits, {} looks for a second process, {} holds ended, {:?}",
            exits.len(),
            self.looks,
            self.deploys,
            self.kills
        );
        for (node, incarnation, detail) in &exits {
            let process =
                format!("{} {detail}", started.get(&(node.clone(), *incarnation)).cloned().unwrap_or_default());
            let known = self.killed.iter().any(|pid| process.contains(&format!("\"pid\":{pid},")));
            assert!(
                known || !process.contains("\"pid\":"),
                "{node} {incarnation} was ended by somebody else: {process}"
            );
        }
        host.verify();
    }
}

fn wait(mut child: Child) -> Option<i32> {
    eventually("a copy's end", || child.try_wait().unwrap()).code()
}

#[test]
fn copies_beside_random_kills_signal_nothing_and_no_node_runs_twice() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: no strace on this host");
        return;
    }
    let seconds = std::env::var("ZCA_TEST_PLACE_SECS").map_or(8, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut history = History::begin();
    while Instant::now() < end {
        match history.random.index(8) {
            0 | 1 => history.kill_node(),
            2 => history.kill_shim(),
            3 => history.kill_agent(),
            4 | 5 => history.copy(),
            _ => history.start_agent(),
        }
        history.look();
    }
    history.settle();
}

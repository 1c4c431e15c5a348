//! The supervisor on real processes: each test drives it directly, with the real binary as shims and simulated nodes, and
//! expects what the core would get to see.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::mpsc;
use zeek_cluster_agent::api::configuration::ClusterRole;
use zeek_cluster_agent::api::ids::{Incarnation, NodeName, Seq};
use zeek_cluster_agent::api::launch::{ExitCause, LaunchSpec, ProcessId, Program, Readiness};
use zeek_cluster_agent::api::rights::Rights;
use zeek_cluster_agent::api::supervision::{Finding, NodeEvent, NodeHappening, NodeOrder};
use zeek_cluster_agent::supervisor::{Handle, Options};
use zeek_cluster_agent::tasks::Tasks;

/// Long enough for a loaded machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(30);

/// A scratch host. Whatever was started on it is killed at the end.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run_dir(&self, name: &str) -> PathBuf {
        self.path().join("run").join(name)
    }

    fn agent(&self) -> Agent {
        self.agent_with(|_| {})
    }

    fn agent_with(&self, change: impl FnOnce(&mut Options)) -> Agent {
        let mut options = Options::new(self.path());
        options.executable = env!("CARGO_BIN_EXE_zeek-cluster-agent").into();
        change(&mut options);
        let tasks = Tasks::new(tokio::runtime::Handle::current());
        let (events_in, events) = mpsc::channel(64);
        let handle = Handle::start(options, events_in, tasks.clone()).unwrap();
        Agent { handle, events, tasks, seen: Vec::new() }
    }

    /// All processes that work somewhere in the scratch directory: shims, nodes, their children.
    fn processes(&self) -> Vec<u32> {
        let is_ours =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.path()));
        all_pids().into_iter().filter(is_ours).collect()
    }

    fn named(&self, name: &str) -> Vec<u32> {
        let comm = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        self.processes().into_iter().filter(|pid| comm(pid).trim_end() == name && is_alive(*pid)).collect()
    }

    fn shims(&self) -> Vec<u32> {
        self.named("zca-shim")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Shims first: they would only record the end of their nodes.
        for pid in self.shims().into_iter().chain(self.processes()) {
            kill(pid, rustix::process::Signal::KILL);
        }
    }
}

fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// One run of the agent's supervisor.
struct Agent {
    handle: Handle,
    events: mpsc::Receiver<NodeEvent>,
    tasks: Tasks,
    seen: Vec<NodeEvent>,
}

impl Agent {
    /// Ends without a word to any shim, as a killed agent does.
    async fn die(self) -> Vec<NodeEvent> {
        let Self { handle, events, tasks, seen } = self;
        tasks.cancel();
        drop((handle, events));
        tasks.finished().await;
        seen
    }

    /// The next event, apart from introductions of shims.
    async fn next(&mut self) -> NodeEvent {
        loop {
            let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("no event came after {:#?}", self.seen)).unwrap();
            self.seen.push(event.clone());
            if !matches!(event.what, NodeHappening::Shim { .. }) {
                return event;
            }
        }
    }

    /// The next event, which has to be about this incarnation.
    async fn expect(&mut self, node: &NodeName, incarnation: u64) -> NodeHappening {
        let event = self.next().await;
        assert_eq!((&event.node, event.incarnation), (node, Incarnation(incarnation)), "{event:?}");
        event.what
    }

    async fn started(&mut self, node: &NodeName, incarnation: u64) -> ProcessId {
        match self.expect(node, incarnation).await {
            NodeHappening::Started { process } => process,
            other => panic!("expected a start, got {other:?}"),
        }
    }

    async fn exited(&mut self, node: &NodeName, incarnation: u64) -> (ExitCause, Option<ProcessId>, String, String) {
        match self.expect(node, incarnation).await {
            NodeHappening::Exited { cause, process, stdout, stderr, .. } => (cause, process, stdout, stderr),
            other => panic!("expected an exit, got {other:?}"),
        }
    }

    async fn ready(&mut self, node: &NodeName, incarnation: u64) {
        assert_eq!(self.expect(node, incarnation).await, NodeHappening::Ready);
    }

    async fn prepare(&mut self, node: &NodeName, incarnation: u64, spec: &LaunchSpec) -> NodeHappening {
        let spec = Box::new(spec.clone());
        self.handle.order(node, NodeOrder::Prepare { incarnation: Incarnation(incarnation), spec, by: Seq(1) });
        self.expect(node, incarnation).await
    }

    async fn launch(&mut self, node: &NodeName, incarnation: u64, spec: &LaunchSpec) -> ProcessId {
        assert_eq!(self.prepare(node, incarnation, spec).await, NodeHappening::Prepared);
        self.handle.order(node, NodeOrder::Launch { incarnation: Incarnation(incarnation) });
        self.started(node, incarnation).await
    }

    fn stop(&self, node: &NodeName, incarnation: u64, timeout_ms: u64) {
        self.handle.order(node, NodeOrder::Stop { incarnation: Incarnation(incarnation), timeout_ms });
    }

    fn acknowledge(&self, node: &NodeName, incarnation: u64) {
        self.handle.order(node, NodeOrder::AcknowledgeExit { incarnation: Incarnation(incarnation) });
    }

    async fn probe(&self, node: &NodeName, process: Option<&ProcessId>, incarnation: u64) -> Finding {
        let known = vec![(node.clone(), process.cloned(), Incarnation(incarnation))];
        let findings = tokio::time::timeout(DEADLINE, self.handle.probe(known)).await.unwrap().unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.into_iter().next().unwrap().1
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || std::future::ready(condition().then_some(()))).await;
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn spec(program: Program, env: &[(&str, &str)]) -> LaunchSpec {
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let readiness = Readiness::Checkin;
    let role = ClusterRole::Worker;
    let files = BTreeMap::new();
    let rights = Box::<Rights>::default();
    LaunchSpec {
        program,
        args: Vec::new(),
        env,
        role,
        ports: Vec::new(),
        readiness,
        stop_timeout_ms: 10_000,
        secrets: BTreeMap::new(),
        rights,
        files,
    }
}

fn simulated(env: &[(&str, &str)]) -> LaunchSpec {
    spec(Program::Simulated, env)
}

/// A shell script as node program.
fn script(host: &Host, text: &str) -> LaunchSpec {
    let path = host.path().join("node.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    spec(Program::Path(path.to_str().unwrap().into()), &[])
}

#[tokio::test]
async fn a_node_starts_gets_ready_stops_and_leaves_nothing() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let process = agent.launch(&w1, 1, &simulated(&[("CLUSTER_NODE", "w1")])).await;
    agent.ready(&w1, 1).await;
    assert!(is_alive(process.pid));
    assert_eq!(process.boot_id, agent.handle.boot_id());
    agent.stop(&w1, 1, 10_000);
    let (cause, exited, stdout, stderr) = agent.exited(&w1, 1).await;
    assert_eq!((cause, exited), (ExitCause::Code(0), Some(process.clone())));
    assert_eq!(stdout, format!("node w1 runs as pid {}\nterminating\n", process.pid));
    assert_eq!(stderr, "");
    assert_eq!(host.shims().len(), 1, "it stays until the exit is acknowledged");
    assert!(host.run_dir("w1").join("status").exists());
    agent.acknowledge(&w1, 1);
    until_true("the shim is gone", || host.shims().is_empty()).await;
    assert!(!host.run_dir("w1").join("status").exists());
    agent.handle.order(&w1, NodeOrder::Forget { incarnation: Incarnation(1) });
    until_true("the run directory is gone", || !host.run_dir("w1").exists()).await;
    assert_eq!(agent.expect(&w1, 0).await, NodeHappening::Forgotten);
    agent.launch(&w1, 2, &simulated(&[])).await;
    agent.ready(&w1, 2).await;
    agent.handle.order(&w1, NodeOrder::Forget { incarnation: Incarnation(1) });
    agent.stop(&w1, 2, 10_000);
    agent.exited(&w1, 2).await;
    assert!(host.run_dir("w1").exists(), "a late order is about what was before");
    assert!(host.path().join("nodes/w1/stdout").exists(), "what a node wrote is never deleted");
}

#[tokio::test]
async fn exits_are_told_with_code_or_signal_and_the_tail_of_this_incarnation() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    for (incarnation, code) in [(1, 0), (2, 3), (3, 255)] {
        agent.launch(&w1, incarnation, &simulated(&[("SIM_NOT_READY", "1"), ("SIM_EXIT", &code.to_string())])).await;
        let (cause, process, stdout, _) = agent.exited(&w1, incarnation).await;
        assert_eq!(cause, ExitCause::Code(code));
        assert_eq!(stdout, format!("node without a name runs as pid {}\n", process.unwrap().pid));
        agent.acknowledge(&w1, incarnation);
    }
    for (incarnation, signal) in [(4, 9), (5, 6), (6, 15)] {
        let spec = simulated(&[("SIM_NOT_READY", "1"), ("SIM_CRASH", &signal.to_string())]);
        agent.launch(&w1, incarnation, &spec).await;
        if signal == 15 {
            // It waits for TERM, and takes its own for one.
            assert_eq!(agent.exited(&w1, incarnation).await.0, ExitCause::Code(0));
        } else {
            assert_eq!(agent.exited(&w1, incarnation).await.0, ExitCause::Signal(signal));
        }
        agent.acknowledge(&w1, incarnation);
    }
}

#[tokio::test]
async fn a_node_that_ignores_term_is_killed_when_its_time_is_over() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    agent.launch(&w1, 1, &simulated(&[("SIM_IGNORE_TERM", "1")])).await;
    agent.ready(&w1, 1).await;
    let asked = Instant::now();
    agent.stop(&w1, 1, 300);
    agent.stop(&w1, 1, 600_000);
    assert_eq!(agent.exited(&w1, 1).await.0, ExitCause::Signal(9));
    assert!(asked.elapsed() >= Duration::from_millis(300), "it had its time");
}

#[tokio::test]
async fn a_stop_is_finished_by_the_shim_when_the_agent_is_gone() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let process = agent.launch(&w1, 1, &simulated(&[("SIM_IGNORE_TERM", "1")])).await;
    agent.ready(&w1, 1).await;
    agent.stop(&w1, 1, 500);
    let log = host.run_dir("w1").join("shim.log");
    until_true("the shim has the order", || fs::read_to_string(&log).unwrap().contains("stopping")).await;
    agent.die().await;
    until_true("the node is gone", || !is_alive(process.pid)).await;
    let agent = host.agent();
    match agent.probe(&w1, Some(&process), 1).await {
        Finding::Exited { cause: ExitCause::Signal(9), .. } => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn children_of_a_node_are_gone_when_its_exit_is_told() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    agent.launch(&w1, 1, &simulated(&[("SIM_FORK", "5")])).await;
    agent.ready(&w1, 1).await;
    until_true("node and children run", || host.named("zca-node").len() + host.named("exe").len() == 6).await;
    agent.stop(&w1, 1, 10_000);
    assert_eq!(agent.exited(&w1, 1).await.0, ExitCause::Code(0));
    until_true("the killed children have ended", || host.processes().len() == host.shims().len()).await;
}

/// A child in a session of its own, and a daemon that has nothing open that it could be found by. Both ignore TERM.
#[tokio::test]
async fn what_left_the_group_is_gone_when_the_exit_is_told() {
    for (how, by_itself) in
        [("SIM_FORK_SESSION", false), ("SIM_FORK_DAEMON", false), ("SIM_FORK_SESSION", true), ("SIM_FORK_DAEMON", true)]
    {
        let (host, w1) = (Host::new(), node("w1"));
        let mut agent = host.agent();
        let process = agent.launch(&w1, 1, &simulated(&[("SIM_FORK", "1"), (how, "1"), ("CLUSTER_NODE", "w1")])).await;
        agent.ready(&w1, 1).await;
        let shim = host.shims()[0];
        let mut child = 0;
        until_true("the child has left", || {
            let mut others = all_pids().into_iter().filter(|pid| is_child_of(*pid, &[shim, process.pid]));
            child = others.find(|pid| *pid != process.pid && has_settled(*pid, how)).unwrap_or(0);
            child != 0
        })
        .await;
        match by_itself {
            true => kill(process.pid, rustix::process::Signal::KILL),
            false => agent.stop(&w1, 1, 10_000),
        }
        agent.exited(&w1, 1).await;
        assert!(!is_alive(child), "{how}, by itself: {by_itself}");
        agent.acknowledge(&w1, 1);
        agent.launch(&w1, 2, &simulated(&[])).await;
    }
}

fn is_child_of(pid: u32, parents: &[u32]) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent.is_some_and(|parent| parents.contains(&parent))
}

/// Whether a child of the node has done what the variable wants of it.
fn has_settled(pid: u32, how: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has = |line: &[u8]| environment.split(|byte| *byte == 0).any(|one| one == line);
    let id = rustix::process::Pid::from_raw(pid.try_into().unwrap());
    match how {
        "SIM_FORK_DAEMON" => {
            has(b"SIM_FORK_DAEMON=2") && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|open| open.count() == 3)
        }
        _ => has(b"SIM_FORK_SESSION=1") && rustix::process::getsid(id).ok() == id,
    }
}

#[tokio::test]
async fn what_left_the_group_is_asked_to_end_before_it_is_killed() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let daemon = "trap 'echo ended > daemon; exit' TERM; echo began > daemon; while :; do sleep 0.05; done";
    agent.launch(&w1, 1, &script(&host, &format!("setsid sh -c \"{daemon}\" &\nexec sleep 1000"))).await;
    let said = host.path().join("nodes/w1/daemon");
    until_true("the daemon runs", || fs::read_to_string(&said).is_ok_and(|text| text == "began\n")).await;
    agent.stop(&w1, 1, 30_000);
    assert_eq!(agent.exited(&w1, 1).await.0, ExitCause::Signal(15));
    assert_eq!(fs::read_to_string(&said).unwrap(), "ended\n");
}

#[tokio::test]
async fn orphans_that_end_are_reaped_and_not_taken_for_the_node() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let orphans = "for n in 1 2 3 4 5; do (sh -c 'exit 3' &); done; echo made > made; exec sleep 1000";
    let process = agent.launch(&w1, 1, &script(&host, orphans)).await;
    until_true("the orphans were made", || host.path().join("nodes/w1/made").exists()).await;
    let shim = host.shims()[0];
    let children = || all_pids().into_iter().filter(|pid| is_child_of(*pid, &[shim])).collect::<Vec<_>>();
    until_true("the node is the shim's only child", || children() == [process.pid]).await;
    agent.stop(&w1, 1, 10_000);
    assert_eq!(agent.exited(&w1, 1).await, (ExitCause::Signal(15), Some(process), String::new(), String::new()));
}

/// Each starts the next one and ends, as fast as a script can, in sessions of their own.
#[tokio::test]
async fn processes_that_fork_for_ever_are_gone_when_the_exit_is_told() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let count = host.path().join("nodes/w1/count");
    let again =
        "if [ \"$1\" = again ]; then echo >> count; \"$0\" again & exit; fi\nsetsid \"$0\" again &\nexec sleep 1000";
    agent.launch(&w1, 1, &script(&host, again)).await;
    let size = || fs::metadata(&count).map_or(0, |file| file.len());
    until_true("they fork", || size() >= 20).await;
    agent.stop(&w1, 1, 10_000);
    assert_eq!(agent.exited(&w1, 1).await.0, ExitCause::Signal(15));
    let before = size();
    assert!(host.processes().iter().all(|pid| host.shims().contains(pid)), "{:?}", host.processes());
    // Nothing may happen here: an acknowledgement gives it the time to.
    agent.acknowledge(&w1, 1);
    until_true("the shim is gone", || host.shims().is_empty()).await;
    assert_eq!(size(), before);
}

#[tokio::test]
async fn a_flood_of_output_neither_blocks_the_node_nor_fills_the_disk() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    agent.launch(&w1, 1, &simulated(&[("SIM_FLOOD", "50000000")])).await;
    agent.ready(&w1, 1).await;
    let sizes = || -> Vec<u64> {
        let names = ["stdout", "stdout.1", "stdout.2", "stdout.3"];
        names.map(|name| fs::metadata(host.path().join("nodes/w1").join(name)).map_or(0, |file| file.len())).into()
    };
    until_true("all is written or rotated away", || sizes()[0] > 0 && sizes()[1] == 10 << 20).await;
    assert!(sizes().iter().all(|size| *size <= 10 << 20), "{:?}", sizes());
    assert_eq!(sizes()[3], 0);
    agent.stop(&w1, 1, 10_000);
    let (_, _, stdout, _) = agent.exited(&w1, 1).await;
    assert_eq!(stdout.lines().count(), 100);
    assert!(stdout.ends_with("terminating\n"));
}

#[tokio::test]
async fn output_goes_nowhere_rather_than_block_when_it_cannot_be_written() {
    let (host, w1) = (Host::new(), node("w1"));
    // In the way, and cannot be moved out of it.
    for directory in ["stdout", "stdout.1", "stdout.2/full"] {
        fs::create_dir_all(host.path().join("nodes/w1").join(directory)).unwrap();
    }
    let mut agent = host.agent();
    agent.launch(&w1, 1, &simulated(&[("SIM_FLOOD", "5000000")])).await;
    let NodeHappening::Dropped { bytes, .. } = agent.expect(&w1, 1).await else { panic!("{:?}", agent.seen) };
    assert!(bytes > 0);
    agent.ready(&w1, 1).await;
    // Whoever asks is told how much it is by then.
    agent.handle.ping();
    let NodeHappening::Dropped { bytes, reason: None } = agent.expect(&w1, 1).await else { panic!("{:?}", agent.seen) };
    assert!(bytes > 5_000_000, "{bytes}: all of it, and the line before");
    let log = fs::read_to_string(host.run_dir("w1").join("shim.log")).unwrap();
    assert!(log.contains("output is being dropped"), "{log}");
}

#[tokio::test]
async fn what_cannot_be_executed_is_told_with_the_reason() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let missing = spec(Program::Path("/nowhere/zeek".into()), &[]);
    match agent.prepare(&w1, 1, &missing).await {
        NodeHappening::Exited { cause: ExitCause::NotStarted(reason), is_lasting, .. } => {
            assert!(reason.contains("/nowhere/zeek"), "{reason}");
            assert!(!is_lasting, "it may come back");
        }
        other => panic!("{other:?}"),
    }
    let broken = host.path().join("broken");
    fs::write(&broken, "no program at all").unwrap();
    fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let broken_spec = spec(Program::Path(broken.to_str().unwrap().into()), &[]);
    assert_eq!(agent.prepare(&w1, 2, &broken_spec).await, NodeHappening::Prepared);
    agent.handle.order(&w1, NodeOrder::Launch { incarnation: Incarnation(2) });
    let NodeHappening::Exited { cause, process, is_lasting, .. } = agent.expect(&w1, 2).await else {
        panic!("no exit")
    };
    assert!(is_lasting, "it stays what it is");
    let expected = format!("cannot execute {}: Exec format error (os error 8)", broken.display());
    assert_eq!((cause, process), (ExitCause::NotStarted(expected), None));
    agent.acknowledge(&w1, 2);
    agent.launch(&w1, 3, &simulated(&[])).await;
}

#[tokio::test]
async fn orders_may_come_twice() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let one = Incarnation(1);
    let spec = simulated(&[]);
    assert_eq!(agent.prepare(&w1, 1, &spec).await, NodeHappening::Prepared);
    assert_eq!(agent.prepare(&w1, 1, &spec).await, NodeHappening::Prepared);
    agent.handle.order(&w1, NodeOrder::Launch { incarnation: one });
    agent.handle.order(&w1, NodeOrder::Launch { incarnation: one });
    let process = agent.started(&w1, 1).await;
    agent.ready(&w1, 1).await;
    agent.handle.order(&w1, NodeOrder::Launch { incarnation: one });
    agent.handle.order(&w1, NodeOrder::Prepare { incarnation: one, spec: Box::new(spec.clone()), by: Seq(1) });
    agent.stop(&w1, 1, 10_000);
    agent.stop(&w1, 1, 10_000);
    assert_eq!(agent.exited(&w1, 1).await.1, Some(process));
    agent.acknowledge(&w1, 1);
    agent.acknowledge(&w1, 1);
    agent.stop(&w1, 1, 10_000);
    agent.launch(&w1, 2, &spec).await;
    agent.ready(&w1, 2).await;
    agent.stop(&w1, 1, 10_000);
    let other = node("w2");
    agent.launch(&other, 1, &spec).await;
    agent.ready(&other, 1).await;
    assert_eq!(host.shims().len(), 2);
}

#[tokio::test]
async fn a_second_agent_adopts_what_the_first_left_and_hears_of_its_end_once() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut first = host.agent();
    let spec = simulated(&[("SIM_IGNORE_TERM", "0"), ("CLUSTER_NODE", "w1")]);
    let process = first.launch(&w1, 7, &spec).await;
    first.ready(&w1, 7).await;
    first.die().await;
    let mut second = host.agent();
    let asked = Instant::now();
    let finding = second.probe(&w1, Some(&process), 7).await;
    println!("adopted in {:?}", asked.elapsed());
    let expected = Finding::Adopted {
        incarnation: Incarnation(7),
        process: Some(process.clone()),
        ready: true,
        spec: Box::new(spec),
    };
    assert_eq!(finding, expected);
    second.stop(&w1, 7, 10_000);
    assert_eq!(second.exited(&w1, 7).await.0, ExitCause::Code(0));
    second.die().await;
    // Not acknowledged: offered again, also to an agent that lost its journal.
    let third = host.agent();
    let findings = third.handle.probe(Vec::new()).await.unwrap();
    match findings.as_slice() {
        [
            (
                name,
                Finding::Exited {
                    incarnation: Incarnation(7),
                    process: Some(exited),
                    cause: ExitCause::Code(0),
                    stdout,
                    ..
                },
            ),
        ] => {
            assert_eq!((name, exited), (&w1, &process));
            assert!(stdout.ends_with("terminating\n"));
        }
        other => panic!("{other:?}"),
    }
    third.acknowledge(&w1, 7);
    until_true("the shim is gone", || host.shims().is_empty()).await;
    third.die().await;
    assert_eq!(host.agent().probe(&w1, Some(&process), 7).await, Finding::Absent);
}

#[tokio::test]
async fn readiness_reached_while_no_agent_runs_is_not_lost() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut first = host.agent();
    let process = first.launch(&w1, 1, &simulated(&[("SIM_READY_AFTER_MS", "200")])).await;
    first.die().await;
    // Somewhere around the 200 ms: either it was ready by then, or it is told.
    let mut second = host.agent();
    match second.probe(&w1, Some(&process), 1).await {
        Finding::Adopted { ready: true, .. } => {}
        Finding::Adopted { ready: false, .. } => second.ready(&w1, 1).await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_died_while_no_agent_ran_is_reported_with_its_signal() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut first = host.agent();
    let process = first.launch(&w1, 1, &simulated(&[])).await;
    first.ready(&w1, 1).await;
    first.die().await;
    kill(process.pid, rustix::process::Signal::ABORT);
    until_true("the node is gone", || !is_alive(process.pid)).await;
    let shims = host.shims();
    let mut second = host.agent();
    match second.probe(&w1, Some(&process), 1).await {
        Finding::Exited { process: Some(exited), cause: ExitCause::Signal(6), .. } => assert_eq!(exited, process),
        other => panic!("{other:?}"),
    }
    second.acknowledge(&w1, 1);
    second.launch(&w1, 2, &simulated(&[])).await;
    assert!(!shims.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn the_report_of_a_shim_that_is_gone_itself_counts() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut first = host.agent();
    let process = first.launch(&w1, 1, &simulated(&[("SIM_EXIT", "4")])).await;
    first.ready(&w1, 1).await;
    assert_eq!(first.exited(&w1, 1).await.0, ExitCause::Code(4));
    first.die().await;
    for shim in host.shims() {
        kill(shim, rustix::process::Signal::KILL);
    }
    until_true("the shim is gone", || host.shims().is_empty()).await;
    let mut second = host.agent();
    match second.probe(&w1, Some(&process), 1).await {
        Finding::Exited { cause: ExitCause::Code(4), .. } => {}
        other => panic!("{other:?}"),
    }
    second.acknowledge(&w1, 1);
    until_true("the report is removed", || !host.run_dir("w1").join("status").exists()).await;
    second.launch(&w1, 2, &simulated(&[])).await;
}

/// Kills the node's shim, with or without the agent there to see it, and expects one `Lost` and an empty port.
async fn shim_is_killed(spec_of: impl Fn(&Host, u16) -> LaunchSpec, with_agent: bool) {
    let (host, w1) = (Host::new(), node("w1"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = spec_of(&host, port);
    let mut agent = host.agent();
    let process = agent.launch(&w1, 1, &spec).await;
    agent.ready(&w1, 1).await;
    let shims = host.shims();
    assert_eq!(shims.len(), 1);
    if with_agent {
        kill(shims[0], rustix::process::Signal::KILL);
        let (cause, lost, stdout, _) = agent.exited(&w1, 1).await;
        assert_eq!((cause, lost), (ExitCause::Lost, Some(process.clone())));
        assert!(stdout.contains("runs as pid"));
    } else {
        agent.die().await;
        kill(shims[0], rustix::process::Signal::KILL);
        agent = host.agent();
        match agent.probe(&w1, Some(&process), 1).await {
            Finding::Exited { process: Some(lost), cause: ExitCause::Lost, .. } => assert_eq!(lost, process),
            other => panic!("{other:?}"),
        }
    }
    assert!(!is_alive(process.pid));
    agent.acknowledge(&w1, 1);
    // A second one on the same port would exit with 1.
    agent.launch(&w1, 2, &spec).await;
    agent.ready(&w1, 2).await;
    assert_eq!(host.shims().len(), 1);
    let exits = agent.seen.iter().filter(|event| matches!(event.what, NodeHappening::Exited { .. })).count();
    assert_eq!(exits, usize::from(with_agent), "{:#?}", agent.seen);
}

fn outliving(_: &Host, port: u16) -> LaunchSpec {
    simulated(&[("SIM_CLEAR_PDEATHSIG", "1"), ("SIM_PORT", &port.to_string())])
}

/// The program's parent is a shell: the signal of the shim's death reaches that alone.
fn wrapped(host: &Host, port: u16) -> LaunchSpec {
    let mut spec = script(host, &format!("{} __node\nexit $?", env!("CARGO_BIN_EXE_zeek-cluster-agent")));
    spec.env.insert("SIM_PORT".into(), port.to_string());
    spec
}

#[tokio::test]
async fn a_killed_shim_takes_its_node_along() {
    shim_is_killed(|_, port| simulated(&[("SIM_PORT", &port.to_string())]), true).await;
    shim_is_killed(|_, port| simulated(&[("SIM_PORT", &port.to_string())]), false).await;
}

#[tokio::test]
async fn a_node_that_outlives_its_killed_shim_is_ended_by_proof() {
    shim_is_killed(outliving, true).await;
}

#[tokio::test]
async fn a_node_that_outlives_its_killed_shim_is_ended_by_proof_at_the_next_start() {
    shim_is_killed(outliving, false).await;
}

#[tokio::test]
async fn a_wrapped_node_that_outlives_its_killed_shim_is_ended_by_proof() {
    shim_is_killed(wrapped, true).await;
}

#[tokio::test]
async fn a_wrapped_node_that_outlives_its_killed_shim_is_ended_by_proof_at_the_next_start() {
    shim_is_killed(wrapped, false).await;
}

#[tokio::test]
async fn a_node_that_closed_the_lock_is_ended_by_its_identity() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let spec = simulated(&[("SIM_CLOSE_LOCK", "1"), ("SIM_CLEAR_PDEATHSIG", "1")]);
    let process = agent.launch(&w1, 1, &spec).await;
    agent.ready(&w1, 1).await;
    agent.die().await;
    kill(host.shims()[0], rustix::process::Signal::KILL);
    until_true("the shim is gone", || host.shims().is_empty()).await;
    assert!(is_alive(process.pid));
    let agent = host.agent();
    match agent.probe(&w1, Some(&process), 1).await {
        Finding::Exited { process: Some(lost), cause: ExitCause::Lost, .. } => assert_eq!(lost, process),
        other => panic!("{other:?}"),
    }
    assert!(!is_alive(process.pid));
}

/// In a process of its own: what another test forks has this test's lock until it executes something, and would be taken
/// for the node's.
#[test]
fn a_lock_held_by_who_knows_whom_blocks_and_nobody_is_signalled() {
    const ALONE: &str = "ZCA_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let test = "a_lock_held_by_who_knows_whom_blocks_and_nobody_is_signalled";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(a_lock_is_held());
}

async fn a_lock_is_held() {
    let (host, w1) = (Host::new(), node("w1"));
    fs::create_dir_all(host.run_dir("w1")).unwrap();
    let lock = fs::File::create(host.run_dir("w1").join("lock")).unwrap();
    // Held by this test, which the supervisor does not look at, as it is the agent's own process.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut agent = host.agent();
    match agent.probe(&w1, None, 3).await {
        Finding::Unprovable { reason } => assert!(reason.contains("run/w1/lock"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match agent.prepare(&w1, 4, &simulated(&[])).await {
        NodeHappening::Blocked { reason } => assert!(reason.contains("run/w1/lock"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(lock);
    agent.launch(&w1, 4, &simulated(&[])).await;
}

#[tokio::test]
async fn a_forged_record_leads_to_no_signal() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut first = host.agent();
    let process = first.launch(&w1, 1, &simulated(&[])).await;
    first.ready(&w1, 1).await;
    first.die().await;
    kill(host.shims()[0], rustix::process::Signal::KILL);
    until_true("shim and node are gone", || host.processes().iter().all(|pid| !is_alive(*pid))).await;
    // The pid is somebody else's now: another start time, another boot, or both. Start times are in ticks of 10 ms, in which
    // no kernel comes round to the same pid.
    let mut foreign = loop {
        let mut foreign = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        if start_time(foreign.id()) != process.start_time {
            break foreign;
        }
        foreign.kill().unwrap();
        foreign.wait().unwrap();
    };
    let reused = ProcessId { pid: foreign.id(), ..process.clone() };
    let boot = ProcessId { boot_id: "0b5c2a5e-0000-4000-8000-000000000000".into(), ..reused.clone() };
    let status = host.run_dir("w1").join("status");
    for forged in [reused, boot] {
        forge_status(&status, &forged);
        for recorded in [None, Some(&forged)] {
            let agent = host.agent();
            let finding = agent.probe(&w1, recorded, 1).await;
            assert!(!matches!(finding, Finding::Adopted { .. } | Finding::Unprovable { .. }), "{finding:?}");
            agent.die().await;
            assert_eq!(foreign.try_wait().unwrap(), None, "a foreign process was ended");
        }
    }
    foreign.kill().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&foreign.wait().unwrap()), Some(9));
}

/// proc_pid_stat(5): field 22, the 20th behind the name.
fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(22 - 3).unwrap().parse().unwrap()
}

/// Writes a status file as a shim does, checksum and all.
fn forge_status(path: &Path, process: &ProcessId) {
    let body = serde_json::json!({"incarnation": 1, "process": process, "exit": null});
    let body = rmp_serde::to_vec_named(&body).unwrap();
    let mut bytes = b"zca-stat".to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    let checksum = blake3::hash(&bytes);
    bytes.extend(checksum.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_stopped_shim_is_silent_and_never_harmed() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let process = agent.launch(&w1, 1, &simulated(&[])).await;
    agent.ready(&w1, 1).await;
    let shim = host.shims()[0];
    kill(shim, rustix::process::Signal::STOP);
    agent.handle.ping();
    let asked = Instant::now();
    assert_eq!(agent.expect(&w1, 1).await, NodeHappening::Silent);
    assert!(asked.elapsed() >= Duration::from_secs(4));
    agent.die().await;
    // To the next agent it is as silent, and still there.
    let mut agent = host.agent();
    match agent.probe(&w1, Some(&process), 1).await {
        Finding::Adopted { incarnation: Incarnation(1), process: Some(adopted), .. } => assert_eq!(adopted, process),
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.expect(&w1, 1).await, NodeHappening::Silent);
    assert!(is_alive(shim) && is_alive(process.pid));
    agent.stop(&w1, 1, 10_000);
    kill(shim, rustix::process::Signal::CONT);
    assert_eq!(agent.expect(&w1, 1).await, NodeHappening::Responsive);
    loop {
        match agent.expect(&w1, 1).await {
            NodeHappening::Ready => {}
            NodeHappening::Exited { cause: ExitCause::Code(0), .. } => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_node_has_its_environment_its_lock_and_default_signals_and_nothing_else() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent_with(|options| {
        let agent = [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "LISTEN_FDS",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "MALLOC_ARENA_MAX",
            "ZCA_STATE_DIR",
            "CLUSTER_NODE",
            "ZEEK_AGENT_PORT",
            "ZEEK_MANAGEMENT_NODE",
            "KEPT",
        ];
        options.environment = agent.map(|name| (OsString::from(name), OsString::from("agent"))).into();
    });
    let process = agent.launch(&w1, 1, &simulated(&[("CLUSTER_NODE", "w1")])).await;
    agent.ready(&w1, 1).await;
    let proc = PathBuf::from(format!("/proc/{}", process.pid));
    let env = fs::read_to_string(proc.join("environ")).unwrap();
    let env: BTreeMap<_, _> = env.split_terminator('\0').filter_map(|pair| pair.split_once('=')).collect();
    assert_eq!(env.keys().copied().collect::<Vec<_>>(), ["CLUSTER_NODE", "KEPT", "NOTIFY_SOCKET"]);
    assert!(env["NOTIFY_SOCKET"].starts_with('@') && env["CLUSTER_NODE"] == "w1");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), host.path().join("nodes/w1").canonicalize().unwrap());

    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir(proc.join("fd")).unwrap() {
        files.push(fs::read_link(entry.unwrap().path()).unwrap().display().to_string());
    }
    files.sort();
    let lock = host.run_dir("w1").join("lock").canonicalize().unwrap().display().to_string();
    files.retain(|file| !file.starts_with("pipe:"));
    assert_eq!(files, ["/dev/null".to_owned(), lock]);

    let status = fs::read_to_string(proc.join("status")).unwrap();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // A Rust program ignores SIGPIPE (13) by itself, and this one blocks TERM (15) to wait for it.
    assert_eq!(mask("SigIgn:"), 1 << 12);
    assert_eq!(mask("SigBlk:") & !(1 << 14), 0);
    let id = rustix::process::Pid::from_raw(process.pid.try_into().unwrap());
    assert_eq!(rustix::process::getsid(id).unwrap(), id.unwrap());

    let shim = host.shims()[0];
    let mut of_shim: Vec<String> = Vec::new();
    for entry in fs::read_dir(format!("/proc/{shim}/fd")).unwrap() {
        of_shim.push(fs::read_link(entry.unwrap().path()).unwrap().display().to_string());
    }
    of_shim.retain(|file| !file.contains(':'));
    of_shim.sort();
    println!("a shim has open: {of_shim:?}");
    assert_eq!(of_shim.iter().filter(|file| **file == "/dev/null").count(), 3);
    let cmdline = fs::read_to_string(format!("/proc/{shim}/cmdline")).unwrap();
    assert_eq!(cmdline, "zca-shim\0w1\x001\0");
}

#[tokio::test]
async fn a_term_to_everything_at_once_lets_the_node_finish() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let process = agent.launch(&w1, 1, &simulated(&[])).await;
    agent.ready(&w1, 1).await;
    for pid in [host.shims()[0], process.pid] {
        for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            // HUP and INT are for the shim alone: the node has its own session.
            if pid != process.pid || signal == rustix::process::Signal::TERM {
                kill(pid, signal);
            }
        }
    }
    let (cause, _, stdout, _) = agent.exited(&w1, 1).await;
    let (pid, uid) = (std::process::id(), rustix::process::getuid().as_raw());
    assert_eq!(cause, ExitCause::Terminated { pid, uid });
    assert!(stdout.ends_with("terminating\n"));
}

#[tokio::test]
async fn a_node_that_exits_at_once_is_told_as_started_and_exited() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    for incarnation in 1..=10 {
        let process = agent.launch(&w1, incarnation, &script(&host, "exit 7")).await;
        let (cause, exited, _, _) = agent.exited(&w1, incarnation).await;
        assert_eq!((cause, exited), (ExitCause::Code(7), Some(process)));
        agent.acknowledge(&w1, incarnation);
    }
}

#[tokio::test]
async fn a_script_has_default_signals() {
    let (host, w1) = (Host::new(), node("w1"));
    let mut agent = host.agent();
    let spec = script(&host, "sed -n '/^SigBlk/p; /^SigIgn/p; /^SigCgt/p' /proc/self/status; exit 0");
    agent.launch(&w1, 1, &spec).await;
    let (cause, _, stdout, _) = agent.exited(&w1, 1).await;
    assert_eq!(cause, ExitCause::Code(0));
    let expected = ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "SigCgt:\t0000000000000000"];
    assert_eq!(stdout.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn strangers_in_the_run_directory_and_long_names_are_fine() {
    let host = Host::new();
    fs::create_dir_all(host.path().join("run/not a node")).unwrap();
    fs::write(host.path().join("run/stray-file"), "").unwrap();
    let long = node(&"w".repeat(128));
    let mut agent = host.agent();
    let findings = agent.handle.probe(Vec::new()).await.unwrap();
    println!("{findings:?}");
    agent.launch(&long, 1, &simulated(&[])).await;
    agent.ready(&long, 1).await;
}

#[tokio::test]
async fn an_executable_that_was_replaced_and_deleted_still_makes_shims() {
    let (host, w1) = (Host::new(), node("w1"));
    let copy = host.path().join("agent");
    fs::copy(env!("CARGO_BIN_EXE_zeek-cluster-agent"), &copy).unwrap();
    let mut agent = host.agent_with(|options| options.executable = copy.clone());
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, "another release").unwrap();
    agent.launch(&w1, 1, &simulated(&[])).await;
    agent.ready(&w1, 1).await;
}

#[tokio::test]
async fn shims_at_rest_do_nothing_and_are_small() {
    let host = Host::new();
    let mut agent = host.agent();
    let names: Vec<_> = (0..20).map(|n| node(&format!("w{n}"))).collect();
    for name in &names {
        let spec = Box::new(simulated(&[]));
        agent.handle.order(name, NodeOrder::Prepare { incarnation: Incarnation(1), spec, by: Seq(1) });
    }
    let mut ready = 0;
    while ready < names.len() {
        let NodeEvent { node, incarnation, what } = agent.next().await;
        match what {
            NodeHappening::Prepared => agent.handle.order(&node, NodeOrder::Launch { incarnation }),
            NodeHappening::Started { .. } => {}
            NodeHappening::Ready => ready += 1,
            other => panic!("{other:?}"),
        }
    }
    let shims = host.shims();
    assert_eq!(shims.len(), names.len());
    let switches = || -> Vec<String> {
        let of = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
        };
        shims.iter().map(of).collect()
    };
    let sleeps = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ");
    until_true("all shims sleep", || shims.iter().all(sleeps)).await;
    let before = switches();
    // Nothing may happen here, so there is no condition to wait for.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(before, switches());
    let pss: u64 = shims
        .iter()
        .map(|pid| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        })
        .sum();
    println!("PSS per shim, of {}: {} kB", shims.len(), pss / shims.len() as u64);
}

/// Crashes of shims and agents at named places. The crash points read the environment, so each history runs in a process
/// of its own: this test binary again, with one ignored test.
#[cfg(feature = "crash-points")]
mod crash {
    use super::*;

    const SHIM: [&str; 7] = [
        "shim_before_fork",
        "shim_after_fork",
        "shim_after_exit",
        "shim_before_status",
        "shim_after_status",
        "shim_before_ack",
        "shim_after_ack",
    ];
    const AGENT: [&str; 3] = ["agent_after_prepare", "agent_before_spawn", "agent_after_spawn"];

    fn history(host: &Host, point: Option<&str>, agent_dies: bool) -> std::process::ExitStatus {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "crash::history_in_its_own_process", "--ignored", "--nocapture"])
            .env("TEST_HOST", host.path())
            .env("TEST_AGENT_DIES", if agent_dies { "1" } else { "0" })
            .env_remove("ZCA_CRASH_AT");
        if let Some(point) = point {
            command.env("ZCA_CRASH_AT", point).env("ZCA_CRASH_ONCE", host.path().join("crashed"));
        }
        command.status().unwrap()
    }

    #[test]
    fn shims_that_crash_anywhere_leave_one_node_and_one_outcome_per_launch() {
        for point in SHIM {
            for agent_dies in [false, true] {
                let host = Host::new();
                println!("--- {point}, agent dies: {agent_dies}");
                assert!(history(&host, Some(point), agent_dies).success(), "{point}, agent dies: {agent_dies}");
                assert!(host.path().join("crashed").exists(), "{point} was never passed");
            }
        }
    }

    #[test]
    fn agents_that_crash_around_a_launch_start_it_once() {
        for point in AGENT {
            let host = Host::new();
            println!("--- {point}");
            let killed = std::os::unix::process::ExitStatusExt::signal(&history(&host, Some(point), false));
            assert_eq!(killed, Some(9), "{point}");
            assert!(history(&host, None, false).success(), "{point}");
        }
    }

    /// What the core would remember: the newest incarnation and how far it came.
    #[derive(Debug, Default)]
    struct Journal {
        incarnation: u64,
        process: Option<ProcessId>,
        exits: Vec<(u64, ExitCause)>,
    }

    impl Journal {
        /// Takes in what happened; a second exit of an incarnation is dropped, as the core does.
        fn exited(&mut self, incarnation: u64, cause: ExitCause) {
            if self.exits.iter().all(|(known, _)| *known != incarnation) {
                self.exits.push((incarnation, cause));
            }
            self.process = None;
        }
    }

    /// What a finding, or else the next event, tells: which incarnation, and what happened to it.
    async fn next(
        found: Option<Finding>,
        agent: &mut Agent,
        journal: &mut Journal,
        node: &NodeName,
    ) -> Option<(u64, NodeHappening)> {
        match found {
            Some(Finding::Absent) => {
                // An intent without a fact: the same incarnation again, if there never was a process.
                match journal.process.take() {
                    Some(_) => journal.exited(journal.incarnation, ExitCause::Lost),
                    None => prepare(agent, node, journal.incarnation),
                }
                None
            }
            Some(Finding::Adopted { incarnation, process, ready, .. }) => {
                journal.incarnation = incarnation.0;
                journal.process = process;
                ready.then_some((incarnation.0, NodeHappening::Ready))
            }
            Some(Finding::Exited { incarnation, process, cause, stdout, stderr, is_lasting }) => {
                Some((incarnation.0, NodeHappening::Exited { cause, process, stdout, stderr, is_lasting }))
            }
            Some(Finding::Unprovable { reason } | Finding::Foreign { reason, .. }) => panic!("{reason}"),
            None => {
                let event = agent.next().await;
                Some((event.incarnation.0, event.what))
            }
        }
    }

    /// After the exit was acknowledged.
    async fn nothing_is_left(run: &Path) {
        until_true("the report is gone", || !run.join("status").exists()).await;
        let lock = fs::File::open(run.join("lock")).unwrap();
        until_true("the lock is free", || {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        })
        .await;
    }

    /// A small core: gets the node ready, stops it, sees it gone; whatever dies on the way.
    #[tokio::test]
    #[ignore = "run by the tests above, in a process of its own"]
    async fn history_in_its_own_process() {
        let path = PathBuf::from(std::env::var_os("TEST_HOST").unwrap());
        let agent_dies = std::env::var("TEST_AGENT_DIES").unwrap() == "1";
        let w1 = node("w1");
        let start = || {
            let mut options = Options::new(&path);
            options.executable = env!("CARGO_BIN_EXE_zeek-cluster-agent").into();
            let tasks = Tasks::new(tokio::runtime::Handle::current());
            let (events_in, events) = mpsc::channel(64);
            let handle = Handle::start(options, events_in, tasks.clone()).unwrap();
            Agent { handle, events, tasks, seen: Vec::new() }
        };
        let mut journal = Journal::default();
        let mut was_ready = 0;
        let mut is_stopping = false;
        let mut agent = start();
        // An agent before this one, in another process, may have died over incarnation 1.
        let mut found = Some(agent.probe(&w1, None, 1).await);
        if let Some(Finding::Absent) = found {
            journal.incarnation = 1;
            prepare(&agent, &w1, 1);
            found = None;
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "not done: {journal:?}");
            let mut dies = false;
            let what = next(found.take(), &mut agent, &mut journal, &w1).await;
            match what {
                None => {}
                Some((incarnation, NodeHappening::Prepared)) => {
                    agent.handle.order(&w1, NodeOrder::Launch { incarnation: Incarnation(incarnation) });
                    dies = true;
                }
                Some((_, NodeHappening::Started { process })) => journal.process = Some(process),
                Some((incarnation, NodeHappening::Ready)) => {
                    was_ready = was_ready.max(incarnation);
                    is_stopping = true;
                    agent.stop(&w1, incarnation, 10_000);
                    dies = true;
                }
                Some((incarnation, NodeHappening::Exited { cause, .. })) => {
                    assert!(!matches!(cause, ExitCause::Code(1)), "two of it at once: the port was taken");
                    journal.exited(incarnation, cause);
                    agent.acknowledge(&w1, incarnation);
                    dies = true;
                }
                Some((_, other)) => panic!("{other:?}"),
            }
            // Let the order be taken before the agent dies of it.
            if dies && agent_dies {
                tokio::task::yield_now().await;
                let mut wait = tokio::time::interval(Duration::from_millis(5));
                wait.tick().await;
                wait.tick().await;
                agent.die().await;
                agent = start();
                found = Some(agent.probe(&w1, journal.process.as_ref(), journal.incarnation).await);
                let is_told = journal.exits.iter().any(|(known, _)| *known == journal.incarnation);
                if is_told {
                    // Known already: acknowledged once more, taken in not again.
                    if let Some(Finding::Exited { incarnation, .. }) = found.take() {
                        agent.handle.order(&w1, NodeOrder::AcknowledgeExit { incarnation });
                    }
                }
            }
            let is_over = journal.exits.iter().any(|(known, _)| *known == journal.incarnation);
            if is_over && is_stopping && was_ready > 0 {
                break;
            }
            if is_over && found.is_none() {
                journal.incarnation += 1;
                prepare(&agent, &w1, journal.incarnation);
            }
        }
        nothing_is_left(&path.join("run/w1")).await;
        println!("{:?}", journal.exits);
    }

    fn prepare(agent: &Agent, w1: &NodeName, incarnation: u64) {
        let spec = simulated(&[("SIM_CLEAR_PDEATHSIG", "1"), ("SIM_PORT", &port().to_string())]);
        let spec = Box::new(spec);
        agent.handle.order(w1, NodeOrder::Prepare { incarnation: Incarnation(incarnation), spec, by: Seq(1) });
    }

    /// One port for the life of this process.
    fn port() -> u16 {
        static PORT: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
        *PORT.get_or_init(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
    }
}

/// What a host that goes down does to a shim, and `systemctl stop` of its scope.
mod terminated {
    use super::*;

    fn own_sender() -> ExitCause {
        ExitCause::Terminated { pid: std::process::id(), uid: rustix::process::getuid().as_raw() }
    }

    #[tokio::test]
    async fn a_shim_ends_its_node_tells_by_whom_and_leaves_with_the_exit_on_disk() {
        let (host, w1) = (Host::new(), node("w1"));
        let mut agent = host.agent();
        let process = agent.launch(&w1, 1, &simulated(&[("SIM_FORK", "2")])).await;
        agent.ready(&w1, 1).await;
        kill(host.shims()[0], rustix::process::Signal::TERM);
        let (cause, ended, stdout, _) = agent.exited(&w1, 1).await;
        assert_eq!((cause, ended), (own_sender(), Some(process.clone())));
        assert!(stdout.contains("terminating"), "it was given the time to flush: {stdout}");
        until_true("nothing of it is left", || host.processes().is_empty()).await;
        // The exit was not acknowledged: another agent finds it.
        agent.die().await;
        let mut agent = host.agent();
        match agent.probe(&w1, Some(&process), 1).await {
            Finding::Exited { cause, process: ended, .. } => assert_eq!((cause, ended), (own_sender(), Some(process))),
            other => panic!("{other:?}"),
        }
        agent.acknowledge(&w1, 1);
        until_true("the report is gone", || !host.run_dir("w1").join("status").exists()).await;
        agent.launch(&w1, 2, &simulated(&[])).await;
        agent.ready(&w1, 2).await;
    }

    #[tokio::test]
    async fn a_node_that_ignores_it_is_killed_when_its_stop_timeout_is_over() {
        let (host, w1) = (Host::new(), node("w1"));
        let mut agent = host.agent();
        let spec = LaunchSpec { stop_timeout_ms: 300, ..simulated(&[("SIM_IGNORE_TERM", "1")]) };
        agent.launch(&w1, 1, &spec).await;
        agent.ready(&w1, 1).await;
        agent.die().await;
        kill(host.shims()[0], rustix::process::Signal::TERM);
        until_true("nothing of it is left", || host.processes().is_empty()).await;
    }

    /// An exit that no agent has acknowledged keeps no host from going down.
    #[tokio::test]
    async fn a_shim_that_waits_for_an_agent_leaves_when_told() {
        let (host, w1) = (Host::new(), node("w1"));
        let mut agent = host.agent();
        let process = agent.launch(&w1, 1, &simulated(&[("SIM_EXIT", "3"), ("SIM_EXIT_AFTER_MS", "100")])).await;
        agent.die().await;
        until_true("the node is reaped", || !Path::new(&format!("/proc/{}", process.pid)).exists()).await;
        let shim = host.shims()[0];
        kill(shim, rustix::process::Signal::TERM);
        until_true("the shim has left", || !is_alive(shim)).await;
        // It ended by itself, before that.
        let agent = host.agent();
        match agent.probe(&w1, Some(&process), 1).await {
            Finding::Exited { cause: ExitCause::Code(3), .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

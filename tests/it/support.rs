//! A host for one test: a directory of its own, agents run in it through the real binary, and nothing left afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
#[cfg(feature = "crash-points")]
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use zeek_cluster_agent::api::audit::{Filter, Kind, RequestRow, Row};
use zeek_cluster_agent::api::configuration::Configuration;
use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::api::report::{NodeReport, StatusReport};
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::cluster_file;
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};

pub const BINARY: &str = env!("CARGO_BIN_EXE_zeek-cluster-agent");
pub const AGENT: &str = "a1";

/// How long a condition may take before the test fails. Generous: CI has two cores and runs tests beside each other.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` gives something.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A scratch state directory. Dropped: the agent is killed, every process of its nodes is ended, the directory removed.
pub struct Host {
    pub dir: tempfile::TempDir,
    /// In the environment of every process of this test's nodes, and of nobody else.
    pub mark: String,
    settings: BTreeMap<String, String>,
    args: Vec<String>,
    pub binary: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("zca-it-").tempdir().unwrap();
        let mark = format!("SIM_TEST={}", dir.path().display());
        // Small floors: a CI machine may have little space.
        let settings = [
            ("ZCA_SPACE_FLOOR_REQUESTS", "1MiB"),
            ("ZCA_SPACE_FLOOR_FACTS", "1MiB"),
            ("ZCA_BALLAST_SIZE", "0B"),
            ("ZCA_LISTEN", "off"),
        ];
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { dir, mark, settings, args: vec!["--simulate-nodes".to_owned()], binary: BINARY.into() }
    }

    /// A setting for agents started from now on, by its environment variable.
    pub fn set(&mut self, variable: &str, value: &str) -> &mut Self {
        self.settings.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Without that setting again.
    pub fn unset(&mut self, variable: &str) -> &mut Self {
        self.settings.remove(variable);
        self
    }

    /// Runs this program as nodes.
    pub fn run_program(&mut self, program: &Path) -> &mut Self {
        self.args = vec!["--node-program".to_owned(), program.display().to_string()];
        self
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("control.sock")
    }

    /// One of the binary's commands, for this host.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command);
        command.args(args);
        command
    }

    /// The same through a program that runs it, such as strace.
    pub fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("ZCA_STATE_DIR", self.state_dir())
            .env("ZEEK_AGENT_NAME", AGENT)
            .env("SIM_TEST", self.dir.path())
            .envs(&self.settings)
            .stdin(Stdio::null());
    }

    /// Runs one of the binary's commands to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.command(args))
    }

    /// The same, which has to succeed; gives what it printed as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}; the agent's log:\n{}", self.read_log());
        said.json()
    }

    /// Starts one of the binary's commands; [`Said::wait`] collects it.
    pub fn begin(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A file beside the state directory; gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A cluster file of these nodes, as in [`cluster`].
    pub fn cluster_file(&self, name: &str, nodes: &[(&str, &str)]) -> String {
        self.file(name, &cluster_text(nodes))
    }

    pub fn run_args(&self) -> Vec<&str> {
        std::iter::once("run").chain(self.args.iter().map(String::as_str)).collect()
    }

    /// Where agents log to.
    pub fn log(&self) -> Stdio {
        OpenOptions::new().create(true).append(true).open(self.dir.path().join("agent.log")).unwrap().into()
    }

    pub fn read_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// Starts an agent and does not wait for it.
    pub fn spawn(&self) -> Agent {
        let mut command = self.command(&self.run_args());
        // A group of its own, as a shell gives it: Ctrl-C goes to all of it.
        let child = command.process_group(0).stdout(Stdio::null()).stderr(self.log()).spawn().unwrap();
        Agent { child }
    }

    /// Starts an agent that serves.
    pub fn start(&self) -> Agent {
        let mut agent = self.spawn();
        self.wait_served(&mut agent);
        agent
    }

    pub fn wait_served(&self, agent: &mut Agent) {
        eventually("the agent to serve", || {
            if let Some(status) = agent.child.try_wait().unwrap() {
                panic!("the agent ended with {status}; its log:\n{}", self.read_log());
            }
            let mut client = Client::connect(&self.socket(), "test").ok()?;
            (client.welcome().pid == agent.pid() && client.status(within_ms(5_000)).ok()?.serving).then_some(())
        });
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket(), "test")
            .unwrap_or_else(|error| panic!("{error}; the agent's log:\n{}", self.read_log()))
    }

    /// Sends a request and waits for its response.
    pub fn ask(&self, reqid: &str, request: Request) -> Response {
        let dialect = dialect(&request);
        match self.client().request(reqid, request, dialect, None, within_ms(30_000)) {
            Ok(Answer::Response(response)) => response,
            other => panic!("{other:?}; the agent's log:\n{}", self.read_log()),
        }
    }

    /// The same request until it is answered, through whatever happens to the agent meanwhile.
    pub fn ask_until_answered(&self, reqid: &str, request: &Request) -> Response {
        eventually("an answer", || {
            let mut client = Client::connect(&self.socket(), "test").ok()?;
            match client.request(reqid, request.clone(), dialect(request), None, within_ms(30_000)) {
                Ok(Answer::Response(response)) => Some(response),
                Ok(Answer::Refused(_)) | Err(_) => None,
            }
        })
    }

    pub fn status(&self) -> StatusReport {
        self.client().status(within_ms(10_000)).unwrap()
    }

    /// `None`: no agent answers.
    pub fn try_status(&self) -> Option<StatusReport> {
        Client::connect(&self.socket(), "test").ok()?.status(within_ms(10_000)).ok()
    }

    pub fn nodes(&self) -> BTreeMap<String, NodeReport> {
        self.status().nodes.into_iter().map(|node| (node.node.clone(), node)).collect()
    }

    pub fn pids(&self) -> BTreeMap<String, u32> {
        self.nodes().into_iter().filter_map(|(name, node)| Some((name, node.pid?))).collect()
    }

    pub fn wait_state(&self, node: &str, state: NodeState) -> NodeReport {
        eventually(&format!("{node} to be {state}"), || {
            let report = self.nodes().remove(node)?;
            (report.state == state).then_some(report)
        })
    }

    pub fn wait_all_running(&self, count: usize) {
        eventually(&format!("{count} nodes RUNNING"), || {
            let nodes = self.nodes();
            (nodes.len() == count && nodes.values().all(|node| node.state == NodeState::Running)).then_some(())
        });
    }

    /// Rows of the live journal.
    pub fn rows(&self, kind: Kind) -> Vec<Row> {
        let filter = Filter { kind, ..Filter::default() };
        let (mut rows, mut cursor, mut client) = (Vec::new(), None, self.client());
        loop {
            let page = client.page(&filter, cursor, within_ms(10_000)).unwrap();
            rows.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                return rows;
            }
        }
    }

    pub fn requests(&self, reqid: &str) -> Vec<RequestRow> {
        let rows = self.rows(Kind::Request).into_iter().filter_map(|row| match row {
            Row::Request(row) => (row.reqid == reqid).then_some(*row),
            Row::Event(_) | Row::Unreadable(_) => None,
        });
        rows.collect()
    }

    /// Node rows of this event, such as `node_exited`.
    pub fn events(&self, event: &str) -> Vec<(String, u64, Value)> {
        let rows = self.rows(Kind::All).into_iter().filter_map(|row| match row {
            Row::Event(row) if row.event == event => {
                Some((row.node.clone().unwrap_or_default(), row.incarnation.unwrap_or_default(), row.detail))
            }
            Row::Request(_) | Row::Event(_) | Row::Unreadable(_) => None,
        });
        rows.collect()
    }

    pub fn verify(&self) {
        let report = self.client().verify(None, within_ms(10_000)).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }

    /// Pids of live processes with this text among their environment's lines, besides this test's mark.
    pub fn processes(&self, line: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // Dead ones, and zombies, have no environment.
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let has = |wanted: &str| environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes());
            if has(&self.mark) && has(line) {
                found.push(pid);
            }
        }
        found
    }

    /// Live processes of a node; its shim, which has the agent's environment, is not among them.
    pub fn node_processes(&self, node: &str) -> Vec<u32> {
        self.processes(&format!("CLUSTER_NODE={node}"))
    }

    /// Live shims.
    pub fn shims(&self) -> Vec<u32> {
        let is_shim =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "zca-shim");
        self.processes(&format!("ZCA_STATE_DIR={}", self.state_dir().display())).into_iter().filter(is_shim).collect()
    }

    pub fn shim_of(&self, node: &str) -> u32 {
        let run = self.state_dir().join("run").join(node);
        let run = run.canonicalize().unwrap();
        let is_its = |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == run);
        let shims: Vec<u32> = self.shims().into_iter().filter(is_its).collect();
        assert_eq!(shims.len(), 1, "shims of {node}");
        shims[0]
    }
}

impl Host {
    /// Ends all that runs on it, so that a file system that is mounted in it can be unmounted.
    pub fn end_all(&self) {
        // Everything that carries this test's mark was started by it. Several rounds: what dies may have started more.
        let begun = Instant::now();
        let mut executed = BTreeSet::new();
        loop {
            let left = self.processes(&self.mark);
            // In the middle of an exec a process has no environment, so it may be one of ours that a look overlooks.
            let new = being_executed().into_iter().filter(|pid| executed.insert(*pid)).count();
            if (left.is_empty() && new == 0) || begun.elapsed() > PATIENCE {
                break;
            }
            for pid in left {
                kill(pid, Signal::KILL, Some(&self.mark));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_all();
        if std::thread::panicking() {
            eprintln!("the agents' log:\n{}", self.read_log());
        }
    }
}

/// Processes in the middle of an exec: alive, with a program, and without an environment for now. Kernel threads have no
/// program, and zombies have ended.
fn being_executed() -> BTreeSet<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_empty = |pid: &u32| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.is_empty());
    pids.filter(|pid| is_empty(pid) && fs::read_link(format!("/proc/{pid}/exe")).is_ok() && is_alive(*pid)).collect()
}

/// Signals a process through a descriptor, after checking by its environment that it is the one that is meant.
pub fn kill(pid: u32, signal: Signal, mark: Option<&str>) {
    let Some(process) = open(pid) else { return };
    if let Some(mark) = mark {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if !environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
            return;
        }
    }
    // Gone in the meantime is as good.
    let _ = pidfd_send_signal(&process, signal);
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

/// An agent's process, killed when dropped.
pub struct Agent {
    pub child: Child,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Signals its process group, as a terminal does. The group is its own while it is our unreaped child.
    pub fn signal_group(&mut self, signal: Signal) {
        assert!(self.child.try_wait().unwrap().is_none(), "it has ended");
        let group = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, signal).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal, None);
    }

    /// Its exit code, if it has ended.
    pub fn exited(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap()?;
        Some(status.code().unwrap_or_else(|| panic!("it ended with {status}")))
    }

    /// Waits for it to end by itself.
    pub fn wait(mut self) -> ExitStatus {
        eventually("the agent to end", || self.child.try_wait().unwrap())
    }

    /// Waits until it has killed itself at a crash point.
    #[cfg(feature = "crash-points")]
    pub fn wait_crashed(self, host: &Host) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(9), "it ended with {status}, not at the crash point:\n{}", host.read_log());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An agent that has to end by itself: its exit code and what it logged.
pub fn run_to_end(host: &Host, more: &[&str]) -> Said {
    let args: Vec<&str> = host.run_args().into_iter().chain(more.iter().copied()).collect();
    let mut command = host.command(&args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    // Two times the agent's own wait for the directory.
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > 2 * PATIENCE {
            child.kill().unwrap();
            panic!("it does not end: {:?}", Said::wait(child));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Said::wait(child)
}

/// What a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Whether this is the answer that came first, and says so.
    pub fn is_stored_answer(&self, first: &Self) -> bool {
        (self.code, &self.stdout) == (first.code, &first.stdout) && self.stderr.starts_with("stored answer of ")
    }

    pub fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    pub fn wait(child: Child) -> Self {
        Self::from(child.wait_with_output().unwrap())
    }

    fn from(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or_else(|| panic!("ended with {}", output.status));
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One JSON object a line.
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A configuration of these nodes (`name` or `name:role`), with lines for their sections.
pub fn cluster(nodes: &[(&str, &str)]) -> Configuration {
    cluster_file::read(cluster_text(nodes).as_bytes(), "test.ini", None, None).unwrap()
}

fn cluster_text(nodes: &[(&str, &str)]) -> String {
    let mut text = format!("[instances]\n{AGENT} = 127.0.0.1\n");
    for (node, lines) in nodes {
        let (name, role) = node.split_once(':').unwrap_or((node, "worker"));
        text.push_str(&format!("[{name}]\ninstance = {AGENT}\nrole = {role}\n{lines}\n"));
    }
    text
}

pub fn set(config: Configuration) -> Request {
    Request::SetConfiguration { config }
}

/// A dialect that has this request.
pub fn dialect(request: &Request) -> Dialect {
    match request {
        Request::StartNodes { .. }
        | Request::StopNodes { .. }
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. }
        | Request::AdoptState {} => Dialect::Operator,
        Request::SetConfiguration { .. } => Dialect::ClusterAgent,
        Request::Deploy { .. }
        | Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::GetNodes {}
        | Request::Restart { .. }
        | Request::NodeDispatch { .. } => Dialect::Management,
    }
}

/// The errors of a response, joined.
pub fn errors(response: &Response) -> String {
    let errors: Vec<&str> = response.results.iter().filter_map(|result| result.error.as_deref()).collect();
    errors.join("; ")
}

/// Directories and files below `from`, as they lie there; no sockets.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else if path.is_file() {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Kills the agent while the request `waiting` has no outcome: the deployment of these nodes, of which one never gets ready.
pub fn kill_while_one_waits(host: &Host, agent: Agent, nodes: &[(&str, &str)]) {
    let silent = host.cluster_file("silent.ini", nodes);
    let waiting = host.begin(&["request", "deploy", &silent, "--reqid", "waiting", "--timeout", "600"]);
    eventually("the request to wait", || {
        host.requests("waiting").iter().any(|row| row.state.as_str() == "handling").then_some(())
    });
    agent.kill();
    drop(Said::wait(waiting));
}

//! `demo`: the main job, shown on simulated nodes with the commands that anybody would type.
//!
//! Everything happens in a directory of its own, which is removed at the end together with the processes in it. What the
//! demo claims it checks: it fails if a node was replaced or an answer differs.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::terminal;

const CLUSTER: &str = "\
[instances]
demo = 127.0.0.1

[manager]
instance = demo
role = manager

[logger]
instance = demo
role = logger

[worker-1]
instance = demo
role = worker
interface = lo

[worker-2]
instance = demo
role = worker
interface = lo
env = SIM_READY_AFTER_MS=2500
";

/// How long anything in the demo may take.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Demo {
    program: PathBuf,
    dir: PathBuf,
    agent: Option<Child>,
}

/// Runs the demo on `program`, this binary.
pub fn run(program: &Path) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("zeek-cluster-agent-demo-{}", std::process::id()));
    std::fs::create_dir(&dir).with_context(|| format!("cannot make the demo's directory {}", dir.display()))?;
    let mut demo = Demo { program: program.to_owned(), dir, agent: None };
    let outcome = demo.tell();
    let cleaned = demo.clean_up();
    outcome.and(cleaned)
}

impl Demo {
    fn tell(&mut self) -> Result<()> {
        let file = self.dir.join("cluster.ini");
        std::fs::write(&file, CLUSTER).context("cannot write the demo's cluster file")?;
        say("An agent starts. Its nodes are simulated: this binary, pretending to be Zeek.")?;
        self.start_agent()?;

        say("A configuration of four nodes is deployed. worker-2 takes 2.5 s to get ready; meanwhile ...")?;
        let mut deploy = self
            .command(["request", "set-configuration", "cluster.ini", "--reqid", "demo-1"], true)?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot send the request")?;
        self.wait_for("three nodes RUNNING and one on its way", |nodes| {
            count(nodes, "RUNNING") == 3 && nodes.iter().filter(|one| one["pid"].is_u64()).count() == 4
        })?;
        let before = self.pids()?;
        self.show(["nodes", "list"])?;

        say("... the agent is killed with SIGKILL, in the middle of the request.")?;
        let mut agent = self.agent.take().context("the agent is not running")?;
        let pid = agent.id();
        agent.kill().context("cannot kill the agent")?;
        agent.wait().context("cannot wait for the agent")?;
        let unanswered = deploy.wait().context("cannot wait for the request")?;
        ensure!(!unanswered.success(), "the request was answered before the agent was killed");
        writeln!(
            terminal::out(),
            "  agent {pid} is dead; its client was told that the request is still being handled"
        )?;
        for (node, pid) in &before {
            ensure!(Path::new(&format!("/proc/{pid}")).exists(), "{node} (pid {pid}) died with the agent");
        }
        writeln!(terminal::out(), "  its nodes are not: {}", list(&before))?;

        say("It is started again. It adopts the nodes and goes on with the request.")?;
        self.start_agent()?;
        self.wait_for("all nodes RUNNING", |nodes| count(nodes, "RUNNING") == 4)?;
        self.show(["nodes", "list"])?;
        let after = self.pids()?;
        ensure!(before == after, "nodes were replaced: {} became {}", list(&before), list(&after));
        writeln!(terminal::out(), "  the same processes as before: {}", list(&after))?;

        say("The request is sent again with its reqid: the answer comes from the journal, nothing is done twice.")?;
        let repeat = ["--json", "request", "set-configuration", "cluster.ini", "--reqid", "demo-1"];
        let first = self.show(repeat)?;
        let second = self.show(repeat)?;
        ensure!(first == second, "the two answers differ");
        ensure!(self.pids()? == before, "the repeated request replaced nodes");
        writeln!(terminal::out(), "  the two answers are equal, byte for byte")?;

        say("The same reqid for something else is a conflict.")?;
        let conflict = self.command(["request", "standby", "--reqid", "demo-1"], true)?.status()?;
        ensure!(conflict.code() == Some(5), "a conflict has exit code 5, not {:?}", conflict.code());
        writeln!(terminal::out(), "  exit code 5")?;

        say("A node crashes and is restarted.")?;
        let (node, victim) = before.iter().find(|(node, _)| node == "worker-1").context("no worker-1")?.clone();
        crash(&node, victim)?;
        self.wait_for("worker-1 RUNNING again", |nodes| {
            nodes.iter().any(|one| {
                one["node"] == node.as_str()
                    && one["state"] == "RUNNING"
                    && one["incarnation"].as_u64() > Some(0)
                    && one["last_exit"].is_string()
            })
        })?;
        self.show(["nodes", "list"])?;

        say("What happened, from the journal.")?;
        self.show(["journal", "dump", "--format", "table", "--kind", "all"])?;
        self.show(["journal", "verify"])?;
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        let agent = self
            .command(["run", "--simulate-nodes", "--name", "demo", "--listen", "off"], true)?
            .stdout(Stdio::null())
            .stderr(std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("agent.log"))?)
            .spawn()
            .context("cannot start the agent")?;
        writeln!(terminal::out(), "  (pid {}, log in agent.log)", agent.id())?;
        self.agent = Some(agent);
        let begun = Instant::now();
        loop {
            if self.command(["status"], false)?.output()?.status.success() {
                return Ok(());
            }
            if let Some(status) = self.agent.as_mut().and_then(|agent| agent.try_wait().ok().flatten()) {
                let log = std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
                bail!("the agent ended with {status} before it served; its log:\n{log}");
            }
            ensure!(begun.elapsed() < TIMEOUT, "the agent does not serve in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One of this binary's commands, in the demo's directory. `shown` prints what a person would have typed.
    fn command<const N: usize>(&self, args: [&str; N], shown: bool) -> Result<Command> {
        if shown {
            say_command(&args)?;
        }
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.dir).env("ZCA_STATE_DIR", self.dir.join("state")).env_remove("ZCA_CONFIG");
        command.env_remove("STATE_DIRECTORY").env("ZCA_CONTROL_SOCKET", self.dir.join("state").join("control.sock"));
        Ok(command)
    }

    /// Runs a command that has to succeed, and shows what it prints.
    fn show<const N: usize>(&self, args: [&str; N]) -> Result<Vec<u8>> {
        let Output { status, stdout, stderr } = self.command(args, true)?.output()?;
        terminal::out().write_all(&stdout)?;
        if !status.success() {
            bail!("{} ended with {status}: {}", args.join(" "), String::from_utf8_lossy(&stderr));
        }
        Ok(stdout)
    }

    fn nodes(&self) -> Result<Vec<Value>> {
        let output = self.command(["--json", "nodes", "list"], false)?.output()?;
        ensure!(output.status.success(), "nodes list failed: {}", String::from_utf8_lossy(&output.stderr));
        let nodes: Value = serde_json::from_slice(&output.stdout).context("nodes list --json is not JSON")?;
        Ok(nodes.as_array().context("nodes list --json is not an array")?.clone())
    }

    fn pids(&self) -> Result<Vec<(String, u64)>> {
        let nodes = self.nodes()?;
        Ok(nodes.iter().filter_map(|one| Some((one["node"].as_str()?.to_owned(), one["pid"].as_u64()?))).collect())
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let nodes = self.nodes()?;
            if holds(&nodes) {
                return Ok(());
            }
            ensure!(begun.elapsed() < TIMEOUT, "{what} did not come in time; nodes: {}", Value::Array(nodes));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the nodes and the agent, and removes the directory.
    fn clean_up(&mut self) -> Result<()> {
        say("Clean-up: the nodes are stopped with the agent.")?;
        let stopped = self.command(["shutdown", "--nodes"], true)?.output()?;
        if let Some(mut agent) = self.agent.take() {
            agent.wait()?;
        }
        if !stopped.status.success() {
            bail!(
                "the nodes could not be stopped, {} is left as it is: {}",
                self.dir.display(),
                String::from_utf8_lossy(&stopped.stderr)
            );
        }
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        writeln!(terminal::out(), "  done; nothing is left behind")?;
        Ok(())
    }
}

/// Crashes a simulated node of ours: the descriptor is opened first, then what it refers to is looked at.
fn crash(node: &str, pid: u64) -> Result<()> {
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a node without a pid")?;
    let process = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).context("the node is gone")?;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).context("the node is gone")?;
    let ours = format!("CLUSTER_NODE={node}");
    ensure!(environment.split(|byte| *byte == 0).any(|one| one == ours.as_bytes()), "pid {pid} is not {node}");
    rustix::process::pidfd_send_signal(&process, rustix::process::Signal::ABORT).context("cannot crash the node")
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(terminal::out(), "\n{text}")?)
}

fn say_command<S: AsRef<OsStr>>(args: &[S]) -> Result<()> {
    let words: Vec<String> = args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect();
    Ok(writeln!(terminal::out(), "$ zeek-cluster-agent {}", words.join(" "))?)
}

fn count(nodes: &[Value], state: &str) -> usize {
    nodes.iter().filter(|one| one["state"] == state).count()
}

fn list(pids: &[(String, u64)]) -> String {
    let all: Vec<String> = pids.iter().map(|(node, pid)| format!("{node} {pid}")).collect();
    all.join(", ")
}

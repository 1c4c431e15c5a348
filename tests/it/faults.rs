//! System calls of a running agent that fail, as those of a broken or full disk do.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::{Agent, eventually, kill};

/// Which of a thread's calls fail.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Each,
    /// That with this number.
    Nth(u32),
}

/// Makes calls fail as long as it lasts.
pub struct Faults(Child);

impl Faults {
    /// `calls` that concern one of these paths, which need not exist yet, fail with `error`.
    pub fn begin(agent: &Agent, paths: &[PathBuf], calls: &str, error: &str, which: Which) -> Self {
        let when = match which {
            Which::Each => String::new(),
            Which::Nth(number) => format!(":when={number}"),
        };
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &agent.pid().to_string()]);
        for path in paths {
            strace.arg("-P").arg(path);
        }
        strace.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:error={error}{when}")]);
        let child = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
        let status = format!("/proc/{}/status", agent.pid());
        eventually("strace to be attached", || {
            let status = fs::read_to_string(&status).unwrap();
            status.lines().any(|line| line == format!("TracerPid:\t{}", child.id())).then_some(())
        });
        Self(child)
    }

    pub fn end(mut self) {
        kill(self.0.id(), Signal::TERM, None);
        self.0.wait().unwrap();
    }
}

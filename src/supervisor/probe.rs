//! Asks a program for its version, before any node is run with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::launch::{NODE_PROGRAM, environment, find_program};

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most output that is read.
const OUTPUT_LIMIT: usize = 64 << 10;

/// What `program` prints when it is run with `args` in the environment of nodes. Blocks, for ten seconds at most.
/// Processes that it started and did not wait for are ended with it.
pub fn output(agent: &[(OsString, OsString)], program: &str, args: &[&str]) -> Result<String, String> {
    ask(agent, program, args, PATIENCE)
}

fn ask(agent: &[(OsString, OsString)], program: &str, args: &[&str], patience: Duration) -> Result<String, String> {
    let env = environment(agent, &BTreeMap::new());
    let path = find_program(NODE_PROGRAM, program, env.get(OsStr::new("PATH")))?;
    let shown = format!("{} {}", path.display(), args.join(" "));
    let failed = |error: io::Error| format!("{shown}: {error}");
    let mut command = Command::new(&path);
    command.args(args).env_clear().envs(&env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // In its own group, to be ended as a whole: the program may be a script that waits for another one.
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    let heard = listen(&mut child, Instant::now() + patience);
    // It is not reaped yet, so the number still identifies its group.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    let status = child.wait().map_err(failed)?;
    match heard {
        Ok(Some(text)) if status.success() => Ok(String::from_utf8_lossy(&text).into_owned()),
        Ok(Some(_)) => Err(format!("{shown}: {status}")),
        Ok(None) => Err(format!("{shown}: no answer within {} s", patience.as_secs())),
        Err(error) => Err(failed(error)),
    }
}

/// What it prints until it ends; `None` if it does not end in time. Something that it started may keep its output open
/// longer.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdout = child.stdout.take();
    if let Some(stdout) = &stdout {
        rustix::io::ioctl_fionbio(stdout, true)?;
    }
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        read_some(&mut stdout, &mut text)?;
        if has_ended {
            return Ok(Some(text));
        }
    }
}

/// Reads what is available, without waiting.
fn read_some(stdout: &mut Option<ChildStdout>, text: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while let Some(pipe) = stdout {
        match pipe.read(&mut buffer) {
            Ok(0) => *stdout = None,
            Ok(count) => {
                text.extend_from_slice(buffer.get(..count).unwrap_or_default());
                if text.len() >= OUTPUT_LIMIT {
                    text.truncate(OUTPUT_LIMIT);
                    *stdout = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_answers_or_the_reason_is_told() {
        let agent = [("PATH", "/usr/bin:/bin"), ("CLUSTER_NODE", "other"), ("KEPT", "1")];
        let agent = agent.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let ask = |script: &str| output(&agent, "sh", &["-c", script]);
        assert_eq!(ask("echo $KEPT$CLUSTER_NODE").unwrap(), "1\n");
        assert!(ask("exit 3").unwrap_err().contains("exit status: 3"));
        assert!(output(&agent, "no-such-program", &[]).unwrap_err().contains("cannot find node program"));
    }

    #[test]
    fn what_a_program_started_is_ended_with_it_whether_it_hangs_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let agent = [(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
        for (name, script) in [("hangs", "wait"), ("ends", "echo 8.0.10")] {
            let pid = directory.path().join(name);
            let script = format!("sleep 1000 & echo $! > {}; {script}", pid.display());
            let answer = ask(&agent, "sh", &["-c", &script], Duration::from_secs(if name == "ends" { 30 } else { 2 }));
            match name {
                "ends" => assert_eq!(answer.unwrap(), "8.0.10\n"),
                _ => assert!(answer.unwrap_err().contains("no answer within")),
            }
            let pid = std::fs::read_to_string(pid).unwrap();
            let stat = format!("/proc/{}/stat", pid.trim());
            let begun = Instant::now();
            // Killed, and not ours to reap.
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
                assert!(begun.elapsed() < Duration::from_secs(30), "{name}: what it started runs on");
                std::thread::yield_now();
            }
        }
    }
}

//! Asks a program what it is, before any node is run with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::launch::{NODE_PROGRAM, environment, find_program};

/// How long a program may take to say something about itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of it.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// What `program` prints when it is run with `args`, in the environment that nodes get. Blocks, for ten seconds at most; not
/// to be called from a runtime.
pub fn output(agent: &[(OsString, OsString)], program: &str, args: &[&str]) -> Result<String, String> {
    let env = environment(agent, &BTreeMap::new());
    let path = find_program(NODE_PROGRAM, program, env.get(OsStr::new("PATH")))?;
    let shown = format!("{} {}", path.display(), args.join(" "));
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut command = tokio::process::Command::new(&path);
        command.args(args).env_clear().envs(&env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let mut text = Vec::new();
        let stdout = child.stdout.take();
        let answer = async {
            if let Some(stdout) = stdout {
                stdout.take(OUTPUT_LIMIT).read_to_end(&mut text).await?;
            }
            child.wait().await
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(status)) if status.success() => Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(Ok(status)) => Err(format!("{shown}: {status}")),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(format!("{shown}: no answer within {} s", PATIENCE.as_secs())),
        }
    })
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
}

//! `--timeout` bounds a command as a whole, whatever it asks for on the way.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Served, program};

/// Far more than the timeout, and less than the 30 s that are waited for an answer without one.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn the_question_for_all_nodes_is_within_the_timeout() {
    let served = Served::start();
    served.fake.is_mute.store(true, Ordering::Release);
    for verb in ["start", "stop"] {
        let mut command = program(&["nodes", verb, "--all", "--timeout", "0.2", "--state-dir"]);
        command.arg(served.scratch.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("nodes {verb} --all waits on after its timeout");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("the agent did not answer in time"), "{said}");
    }
    assert!(served.fake.incoming.lock().unwrap().is_empty(), "nothing was asked for");
}

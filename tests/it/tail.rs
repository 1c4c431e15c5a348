//! `journal tail`: with an agent, without one, and through its end.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::{Host, Said, eventually};

/// A command that follows, with its output in a file. Dropped: it is ended.
struct Following {
    child: Child,
    output: std::path::PathBuf,
}

impl Following {
    fn begin(host: &Host, args: &[&str]) -> Self {
        let output = host.dir.path().join("followed");
        let child = host.command(args).stdout(File::create(&output).unwrap()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, output }
    }

    /// Waits for the reqids that were printed to be these.
    fn wait_for(&self, expected: &[&str]) {
        eventually(&format!("{expected:?}"), || {
            let text = fs::read_to_string(&self.output).unwrap();
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let rows: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (reqids(&rows) == expected).then_some(())
        });
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reqids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["reqid"].as_str().unwrap_or("-").to_owned()).collect()
}

fn welcome(host: &Host, reqid: &str) {
    assert_eq!(host.run(&["request", "welcome", "--reqid", reqid]).code, 0);
}

fn welcomes(host: &Host, count: usize) {
    for number in 0..count {
        welcome(host, &format!("w-{number}"));
    }
}

fn since(host: &Host, cursor: &Path, more: &[&str]) -> Vec<Value> {
    let cursor = cursor.display().to_string();
    let args = ["journal", "tail", "--cursor-file", &cursor];
    host.run(&args.iter().chain(more).copied().collect::<Vec<_>>()).lines()
}

#[test]
fn the_newest_are_shown_with_an_agent_and_without() {
    let host = Host::new();
    let agent = host.start();
    welcomes(&host, 12);
    let numbers = |from: usize| (from..12).map(|number| format!("w-{number}")).collect::<Vec<_>>();
    let tail = |more: &[&str]| host.run(&["journal", "tail"].iter().chain(more).copied().collect::<Vec<_>>());
    assert_eq!(reqids(&tail(&[]).lines()), numbers(2), "the newest ten");
    assert_eq!(reqids(&tail(&["-n", "3"]).lines()), numbers(9));
    assert_eq!(reqids(&tail(&["-n", "0"]).lines()), [""; 0]);
    assert_eq!(reqids(&tail(&["-n", "5", "--reqid", "w-4"]).lines()), ["w-4"], "the newest that match");
    assert!(tail(&["-n", "2", "--format", "table"]).stdout.starts_with("SEQ"));
    agent.kill();
    assert_eq!(reqids(&tail(&["-n", "3"]).lines()), numbers(9), "from the directory");
    let said = tail(&["-f"]);
    assert!(said.code == 3 && said.stderr.contains("no agent answers"), "{said:?}");
}

#[test]
fn a_cursor_goes_on_through_restarts_and_tells_outcomes_later() {
    let host = Host::new();
    let agent = host.start();
    welcomes(&host, 4);
    let cursor = host.dir.path().join("cursor");
    assert_eq!(reqids(&since(&host, &cursor, &["-n", "2"])), ["w-2", "w-3"]);
    assert_eq!(reqids(&since(&host, &cursor, &[])), [""; 0], "nothing since");
    // Seen unfinished by one run, finished by the next, with no agent there.
    let slow = host.cluster_file("slow.ini", &[("w1", "env = SIM_READY_AFTER_MS=1500")]);
    let asking = host.begin(&["request", "set-configuration", &slow, "--reqid", "slow"]);
    let early = eventually("the request", || Some(since(&host, &cursor, &[])).filter(|rows| !rows.is_empty()));
    assert!(early[0]["reqid"] == "slow" && early[0]["success"].is_null(), "{early:?}");
    assert_eq!(Said::wait(asking).code, 0);
    agent.kill();
    let late = since(&host, &cursor, &[]);
    assert_eq!(
        (late.len(), &late[0]["state"], &late[0]["success"]),
        (1, &json!("completed"), &json!(true)),
        "{late:?}"
    );
    assert_eq!(since(&host, &cursor, &[]).len(), 0, "told once");

    let args = ["journal", "tail", "--cursor-file", &cursor.display().to_string()];
    fs::write(&cursor, r#"{"next":100000,"unfinished":[]}"#).unwrap();
    let said = host.run(&args);
    assert!(said.code == 1 && said.stderr.contains("another journal"), "{said:?}");
    fs::write(&cursor, "next").unwrap();
    assert_eq!(host.run(&args).code, 1);
}

#[test]
fn what_comes_is_followed_through_the_death_of_the_agent() {
    let host = Host::new();
    let agent = host.start();
    welcomes(&host, 3);
    let following = Following::begin(&host, &["journal", "tail", "-f", "-n", "1", "--event", "welcome"]);
    following.wait_for(&["w-2"]);
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "other"]).code, 0);
    welcome(&host, "live");
    following.wait_for(&["w-2", "live"]);
    agent.kill();
    let _agent = host.start();
    welcome(&host, "after");
    following.wait_for(&["w-2", "live", "after"]);
}

#[test]
fn who_follows_and_is_killed_goes_on_from_its_cursor_and_leaves_nothing_out() {
    let host = Host::new();
    let _agent = host.start();
    let cursor = host.dir.path().join("cursor");
    let file = cursor.display().to_string();
    let args = &["journal", "tail", "-f", "--cursor-file", &file][..];
    let mut printed = std::collections::BTreeSet::new();
    for round in 0..4 {
        let following = Following::begin(&host, args);
        let before = printed.clone();
        for number in 0..6 {
            welcome(&host, &format!("k-{round}-{number}"));
        }
        // Killed somewhere in between, wherever that is.
        eventually("some to be printed", || {
            let text = fs::read_to_string(&following.output).unwrap();
            printed.extend(text.lines().filter_map(|line| {
                let row: Value = serde_json::from_str(line).ok()?;
                Some(row["reqid"].as_str()?.to_owned())
            }));
            (printed.len() > before.len()).then_some(())
        });
        drop(following);
    }
    printed.extend(reqids(&since(&host, &cursor, &[])));
    let all: std::collections::BTreeSet<String> =
        (0..4).flat_map(|round| (0..6).map(move |number| format!("k-{round}-{number}"))).collect();
    assert!(printed.is_superset(&all), "{:?} are missing", all.difference(&printed).collect::<Vec<_>>());
    assert_eq!(since(&host, &cursor, &[]).len(), 0);
}

#[test]
fn what_retention_removed_beneath_a_cursor_is_told() {
    let mut host = Host::new();
    let agent = host.start();
    welcomes(&host, 3);
    let cursor = host.dir.path().join("cursor");
    assert_eq!(since(&host, &cursor, &[]).len(), 3);
    agent.kill();
    host.set("ZCA_RETENTION_REQUESTS", "5");
    let _agent = host.start();
    for number in 0..30 {
        welcome(&host, &format!("x-{number}"));
    }
    let oldest = eventually("retention", || {
        let rows = host.run(&["journal", "dump"]).lines();
        (rows.len() <= 6).then(|| rows[0]["seq"].as_u64().unwrap())
    });
    let said = host.run(&["journal", "tail", "--cursor-file", &cursor.display().to_string()]);
    assert_eq!(said.code, 0, "{said:?}");
    let rows = said.lines();
    assert!(rows[0]["seq"].as_u64().unwrap() >= oldest, "{rows:?}");
    assert!(said.stderr.contains("were removed by retention before they could be printed"), "{said:?}");
    let again = host.run(&["journal", "tail", "--cursor-file", &cursor.display().to_string()]);
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""), "told once");
}

#[test]
fn a_closed_pipe_is_success() {
    let host = Host::new();
    let _agent = host.start();
    welcomes(&host, 2);
    for args in [&["journal", "tail"][..], &["journal", "tail", "-f"]] {
        let mut child = host.begin(args);
        drop(child.stdout.take());
        // Noticed with the first row that has nobody to read it.
        let status = eventually("its end", || {
            assert_eq!(host.run(&["request", "welcome"]).code, 0);
            child.try_wait().unwrap()
        });
        assert_eq!(status.code(), Some(0), "{args:?}");
        assert_eq!(Said::wait(child).stderr, "");
    }
}

//! The journal of a released format, brought to this one by the real binary and killed on the way at every named point.
//!
//! `migrations/*/database.tgz` is a state directory that an agent of that release left when it was killed.

#![cfg(feature = "crash-points")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::control::client::Client;

use crate::support::{Agent, Host, Said, errors, eventually};

/// What a released format's fixture is like.
#[derive(Clone, Copy)]
struct Fixture {
    folder: &'static str,
    entries: u64,
    /// The request with the reqid `welcome-1`.
    welcome: u64,
    /// The newest entry with its hash, noted when it was written.
    head: Option<&'static str>,
}

const FIRST: Fixture = Fixture { folder: "0001_initial", entries: 100, welcome: 2, head: None };
const SECOND: Fixture = Fixture {
    folder: "0002_chain",
    entries: 95,
    welcome: 29,
    head: Some("95:1fcc3a1c786e7a95ab172ce8829e4f2fb9bc62cb15d5534620c6d69f4c93bf53"),
};

/// The format that this build writes.
const FORMAT: u32 = 3;

fn folder(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(format)
}

/// A host with the state directory of a fixture.
fn host_of(format: &str) -> Host {
    let mut host = Host::new();
    host.set("ZEEK_AGENT_NAME", "sensor-1");
    fs::create_dir(host.state_dir()).unwrap();
    let archive = folder(format).join("database.tgz");
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(host.state_dir()).status().unwrap();
    assert!(done.success());
    host
}

/// The old entries as this build reads them from the directory, and as that release printed them.
fn assert_reads_as_written(host: &Host, fixture: Fixture, when: &str) {
    let entries = fixture.entries.to_string();
    let said = host.run(&["journal", "dump", "--kind", "all", "--format", "json", "--to-seq", &entries]);
    assert_eq!(said.code, 0, "{when}: {said:?}");
    let written = fs::read_to_string(folder(fixture.folder).join("database.jsonl")).unwrap();
    assert_eq!(said.stdout, written, "{when}");
}

/// The formats that the valid slots of the side file name.
fn marked_formats(host: &Host) -> Vec<u32> {
    let mark = fs::read(host.state_dir().join("journal.mark")).unwrap();
    let slots = [0, 512].into_iter().filter_map(|at| mark.get(at..at + 64));
    let newest = slots
        .filter(|slot| slot.starts_with(b"ZCAMARK1") && blake3::hash(&slot[..40]).as_bytes()[..16] == slot[40..56])
        .max_by_key(|slot| u64::from_le_bytes(slot[16..24].try_into().unwrap()));
    newest.map(|slot| u32::from_le_bytes(slot[8..12].try_into().unwrap())).into_iter().collect()
}

/// Starts an agent for which there is no space whenever it calls this for the journal, and waits for its end.
fn without_space(host: &Host, call: &str) -> ExitStatus {
    let mut strace = Command::new("strace");
    host.prepare(&mut strace);
    strace.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(host.state_dir().join("journal/db"));
    strace.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=ENOSPC")]);
    strace.arg(&host.binary).args(host.run_args());
    let log = fs::OpenOptions::new().create(true).append(true).open(host.dir.path().join("agent.log")).unwrap();
    let child = strace.stdout(Stdio::null()).stderr(log).spawn().expect("strace is installed");
    Agent { child }.wait()
}

#[test]
fn a_migration_that_finds_the_disk_full_ends_the_start_and_is_carried_on_when_there_is_space() {
    let host = host_of(FIRST.folder);
    // When the database is opened, and when a step of the migration is to be made durable.
    for (call, begun) in [("pwrite64", 0), ("fdatasync", 1), ("fdatasync", 2)] {
        let status = without_space(&host, call);
        let log = host.read_log();
        assert_eq!(status.code(), Some(1), "{call}: {log}");
        assert!(log.contains("no space is left"), "{log}");
        assert_eq!(log.matches("is rewritten from").count(), begun, "{log}");
        assert_eq!(log.matches("has format 3 now").count(), 0, "{log}");
        assert_reads_as_written(&host, FIRST, call);
    }
    let _agent = host.start();
    finished(&host, FIRST, "after all");
}

/// Lets `run` die at `point`, looks at what it left, and lets the next one finish.
fn killed_at(fixture: Fixture, point: &str) {
    let mut host = host_of(fixture.folder);
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let mut agent = host.spawn();
    eventually(&format!("the crash at {point}"), || once.exists().then_some(()));
    eventually("the agent's end", || agent.child.try_wait().unwrap());
    assert_eq!(marked_formats(&host), [FORMAT], "{point}: the release before would open what is half rewritten");
    assert_reads_as_written(&host, fixture, point);
    let _agent = host.start();
    finished(&host, fixture, point);
}

/// What has to hold once an agent of this build serves.
fn finished(host: &Host, fixture: Fixture, when: &str) {
    let report = host.json(&["journal", "verify", "--json"]);
    assert_eq!(report["problems"], Value::Array(Vec::new()), "{when}");
    let changes = host.events("format_changed");
    assert_eq!(changes.len(), 1, "{when}: one change of format, whatever happened on the way: {changes:?}");
    if let Some(noted) = fixture.head {
        let said = host.run(&["journal", "verify", "--anchor", noted]);
        assert!(said.code == 0 && said.stdout.contains(&format!("it continues {noted}")), "{when}: {said:?}");
        assert!(!said.stdout.contains("were computed on"), "{when}: the hashes are of before: {said:?}");
    }
    // A request of the old release is a duplicate of itself, and answered from its journal.
    let answer = host.ask("welcome-1", Request::AgentWelcome {});
    assert!(answer.success(), "{when}: {}", errors(&answer));
    // The one that was under way when that agent was killed has an outcome.
    let rows = host.requests("restart-2");
    assert_eq!(rows.len(), 1, "{when}");
    // The head noted now is continued by what comes after it.
    let head = report["head"].as_str().unwrap().to_owned();
    host.ask("after", Request::GetNodes {});
    // A duplicate's own entry rides in a later commit than its answer.
    let rows = host.requests("welcome-1");
    assert_eq!((rows.len(), rows[0].seq.0, rows[0].duplicates), (1, fixture.welcome, 21), "{when}");
    let said: Said = host.run(&["journal", "verify", "--anchor", &head]);
    assert!(said.code == 0 && said.stdout.contains(&format!("it continues {head}")), "{when}: {said:?}");
}

#[test]
fn a_journal_of_the_first_format_is_rewritten_once_and_goes_on() {
    let host = host_of(FIRST.folder);
    // Looked at before an agent runs: a copy is rewritten, the directory is not.
    assert_reads_as_written(&host, FIRST, "before");
    assert_eq!(host.run(&["journal", "tail", "-n", "3"]).lines().len(), 3);
    let figures = host.json(&["journal", "stats", "--json"]);
    assert_eq!((&figures["unfinished"], &figures["unreadable"]), (&1.into(), &0.into()), "{figures}");
    assert_eq!(host.run(&["journal", "verify"]).code, 0);
    let exported = host.dir.path().join("exported").display().to_string();
    let said = host.run(&["journal", "export", &exported]);
    assert!(said.code == 0 && said.stdout.contains("101 entries, 1 to 101"), "the change of format, too: {said:?}");
    assert_eq!(marked_formats(&host), [1]);
    let agent = host.start();
    finished(&host, FIRST, "at once");
    assert!(host.read_log().contains("rewritten from format 1 to 3"), "{}", host.read_log());
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.events("format_changed").len(), 1);
    host.verify();
}

/// Its entries keep their hashes, so that a head noted before is continued.
#[test]
fn a_journal_of_the_second_format_keeps_its_entries_and_goes_on() {
    let host = host_of(SECOND.folder);
    assert_reads_as_written(&host, SECOND, "before");
    // A copy that is read has no entry of its own: its head may be noted.
    let head = SECOND.head.unwrap();
    assert_eq!(host.json(&["journal", "verify", "--json"])["head"], head);
    assert_eq!(marked_formats(&host), [2]);
    let agent = host.start();
    finished(&host, SECOND, "at once");
    assert!(host.read_log().contains("brought from format 2 to 3"), "{}", host.read_log());
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.events("format_changed").len(), 1);
    eventually("an outcome of the restart that was under way", || {
        host.requests("restart-2")[0].completed_at.is_some().then_some(())
    });
    host.verify();
}

macro_rules! killed_at {
    ($($name:ident $fixture:ident $point:literal)*) => {
        mod killed {
            $(#[test] fn $name() { super::killed_at(super::$fixture, $point); })*
        }
    };
}

killed_at! {
    before_the_first_step FIRST "before_migration_step:1"
    after_the_first_step FIRST "after_migration_step:1"
    before_the_last_step FIRST "before_migration_step:2"
    after_the_last_step FIRST "after_migration"
    before_the_only_step SECOND "before_migration_step:1"
    after_the_only_step SECOND "after_migration"
}

/// Killed after each step, again and again, it still comes to an end: each start begins where the last one was killed.
#[test]
fn a_migration_that_is_killed_at_every_step_comes_to_an_end() {
    let mut host = host_of(FIRST.folder);
    for starts in 1.. {
        assert!(starts < 20, "it does not get on");
        host.set("ZCA_CRASH_AT", "after_migration_step");
        let mut agent = host.spawn();
        let died = eventually("the agent to die or serve", || match agent.child.try_wait().unwrap() {
            Some(_) => Some(true),
            None => Client::connect(&host.socket(), "test").ok().map(|_| false),
        });
        if !died {
            assert!(starts > 2, "there was more than one step to die after");
            finished(&host, FIRST, "in the end");
            return;
        }
        // The command that reads would die in its own copy as well.
        host.set("ZCA_CRASH_AT", "none");
        assert_reads_as_written(&host, FIRST, &format!("after start {starts}"));
    }
}

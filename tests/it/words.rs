//! What somebody is told for whom something does not work: what, to what, why, and what to do about it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Host, Said, cluster, eventually, set};

/// Holds what was said against `tests/data/words`, with this test's directory, user and processes by their names.
pub fn same_as(host: &Host, name: &str, text: &str, names: &[(String, &str)]) {
    let mut text = text.replace(&host.dir.path().display().to_string(), "DIR");
    for (value, name) in names {
        text = text.replace(value.as_str(), name);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/words").join(name);
    if std::env::var_os("ZCA_TEST_WRITES_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} is another; this was said:\n{text}", path.display());
}

#[test]
fn no_agent_no_rights_and_an_agent_that_is_stopped_are_told_apart() {
    let host = Host::new();
    let said = host.run(&["status"]);
    assert_eq!(said.code, 3);
    same_as(&host, "no-agent.txt", &said.stderr, &[]);
    let agent = host.start();
    if rustix::process::getuid().is_root() {
        let mut status = host.command(&["status"]);
        // Nobody, who does not get into the test's directory.
        status.uid(65534).gid(65534).current_dir("/").env("HOME", "/");
        let said = Said::of(status);
        assert_eq!(said.code, 3);
        same_as(&host, "no-rights.txt", &said.stderr, &[]);
    } else {
        eprintln!("skipped: only root can be somebody else");
    }
    agent.signal(Signal::STOP);
    let said = host.run(&["nodes", "list"]);
    assert_eq!(said.code, 3);
    same_as(&host, "stopped-agent.txt", &said.stderr, &[]);
    agent.signal(Signal::CONT);
}

#[test]
fn a_node_program_that_is_not_there_is_named_with_its_setting_and_path_once() {
    let mut host = Host::new();
    host.run_program(Path::new("zeek")).set("PATH", "/nonexistent/bin:/nonexistent/sbin");
    let _agent = host.start();
    let file = host.cluster_file("c.ini", &[("w1", "")]);
    host.run(&["request", "deploy", &file, "--reqid", "r", "--timeout", "2"]);
    let said = host.run(&["nodes", "list"]);
    let note = said
        .stdout
        .lines()
        .find_map(|line| line.split_once("cannot find"))
        .map(|(_, note)| format!("cannot find{note}\n"));
    let note = note.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(note.matches("/nonexistent/bin").count(), 1, "{note}");
    let said = host.run(&["status"]);
    let warning =
        said.stdout.lines().find(|line| line.contains("version of Zeek")).unwrap_or_else(|| panic!("{said:?}"));
    let cause = note.split("; next start").next().unwrap();
    same_as(&host, "no-zeek.txt", &format!("{}\n{}\n", cause.trim_end(), warning.trim()), &[]);
}

#[test]
fn a_second_agent_says_at_once_for_whom_it_waits() {
    let host = Host::new();
    let first = host.start();
    let second = host.spawn();
    let expected =
        format!("another agent (pid {}) uses the state directory {}", first.pid(), host.state_dir().display());
    eventually("it to say so", || {
        host.read_log().contains(&format!("{expected}; waiting up to 30 s for it to end")).then_some(())
    });
    // It is the next one.
    let mut second = second;
    first.kill();
    host.wait_served(&mut second);
}

#[test]
fn nodes_are_stopped_although_the_agent_is_killed_at_that_moment() {
    let mut host = Host::new();
    host.set("ZCA_STOP_TIMEOUT", "3s");
    let agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "env = SIM_IGNORE_TERM=1")]))).success());
    let shutdown = host.begin(&["shutdown", "--nodes", "--reqid", "s"]);
    // It waits for the node, which takes its time.
    eventually("it to be asked", || {
        host.requests("s").iter().any(|row| row.state.as_str() == "handling").then_some(())
    });
    agent.kill();
    let said = Said::wait(shutdown);
    assert_eq!((said.code, said.stdout.as_str()), (0, "ok\n"), "{said:?}");
    assert_eq!(host.node_processes("w1"), Vec::<u32>::new());
}

#[test]
fn what_is_not_there_is_a_failure_and_what_is_there_is_not_overwritten() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let said = host.run(&["nodes", "crash", "nosuch"]);
    assert_eq!(said.code, 1, "{said:?}");
    same_as(&host, "crash-of-nobody.txt", &said.stderr, &[]);
    assert_eq!(host.run(&["nodes", "crash", "w1"]).code, 0);
    let said = host.run(&["nodes", "logs", "nosuch"]);
    assert_eq!(said.code, 1, "{said:?}");
    same_as(&host, "logs-of-nobody.txt", &said.stderr, &[]);

    let said = host.run(&["journal", "show", "nosuch"]);
    assert_eq!(said.code, 1, "{said:?}");
    same_as(&host, "show-of-nothing.txt", &said.stderr, &[]);
    std::fs::create_dir(host.dir.path().join("empty")).unwrap();
    let empty = host.dir.path().join("empty").display().to_string();
    let said = host.run(&["journal", "dump", "--dir", &empty]);
    assert_eq!(said.code, 1, "{said:?}");
    same_as(&host, "dump-of-nothing.txt", &said.stderr, &[]);

    let file = host.file("kept", "what was there");
    let said = host.run(&["journal", "export", &file]);
    assert_eq!(said.code, 1, "{said:?}");
    same_as(&host, "export-over-a-file.txt", &said.stderr, &[]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "what was there");
    assert_eq!(host.run(&["journal", "export", &file, "--force"]).code, 0);
    assert_ne!(std::fs::read(&file).unwrap(), b"what was there");
}

/// On a terminal of its own, where the answer is typed.
fn on_a_terminal(host: &Host, args: &[&str], typed: &str) -> Said {
    let mut script = Command::new("script");
    host.prepare(&mut script);
    let line = format!("exec {} {}", host.binary.display(), args.join(" "));
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    Said::wait(child)
}

#[test]
fn an_export_over_a_file_is_asked_for_on_a_terminal() {
    let host = Host::new();
    let agent = host.start();
    let file = host.file("kept", "what was there");
    for typed in ["n\n", "\n", "yess\n", "nonsense\n"] {
        let said = on_a_terminal(&host, &["journal", "export", &file], typed);
        assert_eq!(said.code, 1, "{typed:?}: {said:?}");
        assert!(said.stdout.contains(&format!("{file} already exists; overwrite it? [y/N]")), "{said:?}");
        assert!(said.stdout.contains("was left as it is"), "{said:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "what was there", "{typed:?}");
    }
    // A name that nothing has is not asked about, nor is anything with --force.
    let other = host.dir.path().join("new").display().to_string();
    let said = on_a_terminal(&host, &["journal", "export", &other], "n\n");
    assert!(said.code == 0 && !said.stdout.contains("overwrite"), "{said:?}");
    let said = on_a_terminal(&host, &["journal", "export", &file, "--force"], "n\n");
    assert!(said.code == 0 && !said.stdout.contains("overwrite"), "{said:?}");
    for typed in ["y\n", "YES\n"] {
        std::fs::write(&file, "what was there").unwrap();
        let said = on_a_terminal(&host, &["journal", "export", &file], typed);
        assert_eq!(said.code, 0, "{typed:?}: {said:?}");
        assert!(std::fs::read(&file).unwrap().starts_with(b"ZCAEXPRT"), "{typed:?}");
    }
    agent.kill();
}

#[test]
fn all_nodes_are_stopped_and_started_by_one_command() {
    let host = Host::new();
    let _agent = host.start();
    assert_eq!(host.run(&["nodes", "stop", "--all"]).code, 1, "there is none yet");
    assert!(host.ask("r", set(cluster(&[("w1", ""), ("w2", "")]))).success());
    let before = host.pids();
    assert_eq!(host.run(&["nodes", "restart", "--all"]).code, 0);
    host.wait_all_running(2);
    let after = host.pids();
    assert!(before.iter().all(|(node, pid)| after[node] != *pid), "{before:?} {after:?}");
    assert_eq!(host.run(&["nodes", "stop", "--all"]).code, 0);
    assert!(host.pids().is_empty(), "{:?}", host.nodes());
    assert_eq!(host.run(&["nodes", "start", "--all"]).code, 0);
    host.wait_all_running(2);
    assert_eq!(host.run(&["nodes", "stop", "w1", "--all"]).code, 2);
}

#[test]
fn settings_are_those_of_the_running_agent() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "90s");
    let agent = host.start();
    host.set("ZCA_READY_TIMEOUT", "10s");
    let value = |args: &[&str]| {
        let settings = host.json(&[args, &["--json"]].concat());
        let found = settings.as_array().unwrap().iter().find(|one| one["key"] == "ready_timeout").unwrap().clone();
        found["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(value(&["settings"]), "90s");
    assert_eq!(value(&["settings", "--local"]), "10s");
    let said = host.run(&["settings"]);
    let pid = agent.pid().to_string();
    assert_eq!(said.stderr, format!("settings of the running agent a1 (pid {pid}); --local shows this command's\n"));
    agent.kill();
    assert_eq!(value(&["settings"]), "10s");
    assert!(host.run(&["settings"]).stderr.starts_with("no agent runs"));
}

#[test]
fn a_crash_loop_is_told() {
    let mut host = Host::new();
    host.set("ZCA_BACKOFF_MIN", "10ms").set("ZCA_BACKOFF_MAX", "10ms");
    let _agent = host.start();
    host.ask("r", set(cluster(&[("good", ""), ("bad", "env = SIM_EXIT=3")])));
    let report = eventually("three deaths", || {
        let report = host.json(&["status", "--json"]);
        report["crash_loops"].as_array().is_some_and(|nodes| !nodes.is_empty()).then_some(report)
    });
    assert_eq!(report["crash_loops"], serde_json::json!(["bad"]));
    let said = host.run(&["status"]);
    // The agent serves.
    assert_eq!(said.code, 0);
    let line = said
        .stdout
        .lines()
        .find(|line| line.trim_start().starts_with("crash loop"))
        .unwrap_or_else(|| panic!("{said:?}"));
    assert!(
        line.contains("bad ended ")
            && line.contains("exit code 3")
            && line.ends_with("`nodes crash bad last` says more"),
        "{line}"
    );
}

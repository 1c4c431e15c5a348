//! `event_command`: what an operator wants to be told of reaches it at least once, whatever happens to the agent; and whatever
//! it does stops nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::small::{MIB, Small, fill};
use crate::support::{Agent, Host, cluster, eventually, is_alive, kill, set};

/// A host whose event command is this script. What the script leaves is in its own directory.
fn host(script: &str) -> Host {
    let mut host = Host::new();
    let path = host.file("hook.sh", &format!("#!/bin/sh\ncd \"${{0%/*}}\" || exit 99\n{script}"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_EVENT_COMMAND", &format!("{path} first second"));
    if rustix::process::geteuid().is_root() {
        host.set("ZCA_EVENT_USER", "root");
    }
    host
}

/// Appends what it was told.
const RECORD: &str = "cat >> told\n";

fn told(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(host.dir.path().join("told")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn wait_told(host: &Host, kind: &str) -> Value {
    eventually(&format!("{kind} to be told"), || told(host).into_iter().find(|one| one["kind"] == kind))
}

fn crash(host: &Host, node: &str) {
    let report = host.wait_state(node, NodeState::Running);
    kill(report.pid.unwrap(), Signal::KILL, Some(&host.mark));
    eventually("its end", || (host.pids().get(node) != report.pid.as_ref()).then_some(()));
}

fn waiting(host: &Host) -> u64 {
    host.status().events.unwrap().waiting
}

fn deploy(host: &Host, nodes: &[(&str, &str)]) -> Agent {
    let agent = host.start();
    host.ask("r", set(cluster(nodes)));
    agent
}

#[test]
fn a_crash_a_giving_up_a_refusal_and_a_hold_are_told_with_the_numbers_of_their_entries() {
    let mut host = host(&format!("env > environment; echo \"$@\" > arguments\n{RECORD}"));
    host.set("ZCA_BACKOFF_MIN", "1ms").set("ZCA_BACKOFF_MAX", "1ms").set("ZCA_MAX_RESTARTS", "2");
    let agent = deploy(&host, &[("w1", ""), ("w2", "")]);
    crash(&host, "w1");
    let first = wait_told(&host, "crash");
    assert_eq!((first["agent"].as_str(), first["node"].as_str()), (Some("a1"), Some("w1")));
    assert!(first["message"].as_str().unwrap().contains("signal 9"), "{first}");
    assert_eq!(first["lost"], 0);
    let exits = host.json(&["journal", "dump", "--kind", "node", "--event", "node_exited", "--format", "json"]);
    assert_eq!(first["id"], exits["seq"], "{exits:#}");
    assert_eq!(fs::read_to_string(host.dir.path().join("arguments")).unwrap(), "first second\n");
    let environment = fs::read_to_string(host.dir.path().join("environment")).unwrap();
    assert!(
        environment.contains("PATH=") && !environment.contains("SIM_TEST") && !environment.contains("ZCA_"),
        "{environment}"
    );
    let refused = host.file("bad.ini", "[instances]\na1 = 127.0.0.1\n[w1]\ninstance = nobody\nrole = worker\n");
    let mut config = cluster(&[("w1", "")]);
    config.nodes[0].instance = "nobody".into();
    drop(refused);
    assert!(!host.ask("bad", Request::Deploy { config, force: false, how: Default::default() }).success());
    let refusal = wait_told(&host, "change_refused");
    assert_eq!(refusal["reqid"], "bad", "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("nobody"), "{refusal}");
    for _ in 0..2 {
        crash(&host, "w2");
    }
    eventually("w2 to be given up", || {
        let node = host.nodes().remove("w2")?;
        if let Some(pid) = node.pid {
            kill(pid, Signal::KILL, Some(&host.mark));
        }
        (node.state == NodeState::Failed).then_some(())
    });
    let given_up = wait_told(&host, "given_up");
    assert_eq!(given_up["node"], "w2");
    agent.kill();
    fs::remove_dir_all(host.state_dir().join("journal")).unwrap();
    let _agent = host.start();
    let hold = wait_told(&host, "hold");
    assert!(!hold["message"].as_str().unwrap().is_empty());
    eventually("nothing to wait", || (waiting(&host) == 0).then_some(()));
    assert!(!host.run(&["status", "--check"]).stdout.contains("event_command"));
    host.verify();
}

#[test]
fn what_was_not_told_before_a_kill_is_told_after_it() {
    // Hangs until it may go on.
    let host = host(&format!("echo $$ >> begun; while [ ! -e go ]; do sleep 0.05; done\n{RECORD}"));
    let agent = deploy(&host, &[("w1", "")]);
    crash(&host, "w1");
    crash(&host, "w1");
    let begun = || fs::read_to_string(host.dir.path().join("begun")).unwrap_or_default();
    let first = eventually("the first run", || begun().lines().next().and_then(|pid| pid.parse().ok()));
    eventually("both to wait", || (waiting(&host) == 2).then_some(()));
    agent.kill();
    assert!(is_alive(first), "a run outlives its agent");
    let agent = host.start();
    eventually("the old run to be ended", || (!is_alive(first)).then_some(()));
    host.file("go", "");
    eventually("both to be told", || (waiting(&host) == 0).then_some(()));
    let ids = || -> Vec<u64> { told(&host).iter().map(|one| one["id"].as_u64().unwrap()).collect() };
    let exits: Vec<u64> = {
        let said = host.run(&["journal", "dump", "--kind", "node", "--event", "node_exited", "--format", "json"]);
        said.lines().iter().map(|row| row["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(), exits, "each once, in order, under the numbers of the entries");
    // What was told is not told again.
    agent.kill();
    let _agent = host.start();
    crash(&host, "w1");
    eventually("the third", || (ids().len() == 3).then_some(()));
    assert_eq!(ids()[..2], exits[..]);
    eventually("its end to be journaled", || (host.events("event_told").len() == 3).then_some(()));
    host.verify();
}

#[test]
fn a_command_that_hangs_forks_floods_or_fails_is_ended_and_told_and_stops_nothing() {
    let script = "n=$(cat count 2>/dev/null || echo 0); echo $((n + 1)) > count\n\
                  case $n in\n\
                  0) sleep 1000 & echo $! > child; sleep 1000 ;;\n\
                  1) (trap '' TERM; setsid sleep 1000) & echo $! > daemon; exit 0 ;;\n\
                  2) yes flood | head -c 10000000 >&2; yes flood | head -c 10000000; exit 0 ;;\n\
                  3) echo 'no network' >&2; exit 7 ;;\n\
                  *) cat >> told ;;\n\
                  esac\n";
    let mut host = host(script);
    host.set("ZCA_EVENT_TIMEOUT", "1s");
    let _agent = deploy(&host, &[("w1", "")]);
    crash(&host, "w1");
    let outcomes = |count: usize| -> Vec<String> {
        let entries = eventually("runs to end", || {
            let entries = host.events("event_told");
            (entries.len() >= count).then_some(entries)
        });
        entries.iter().map(|(_, _, detail)| detail["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(outcomes(1), ["ended after 1.0 s (event_timeout)"]);
    let pid = |file: &str| -> u32 { fs::read_to_string(host.dir.path().join(file)).unwrap().trim().parse().unwrap() };
    assert!(!is_alive(pid("child")), "what it started was ended with it");
    assert!(host.run(&["status", "--check"]).stdout.contains("event_command fails: ended after 1.0 s"));
    crash(&host, "w1");
    assert_eq!(outcomes(2)[1], "exit code 0");
    assert!(!is_alive(pid("daemon")), "what it left behind was ended");
    crash(&host, "w1");
    assert_eq!(outcomes(3)[2], "exit code 0", "nobody reads for ever");
    crash(&host, "w1");
    assert_eq!(outcomes(4)[3], "exit code 7: no network");
    assert_eq!(host.run(&["request", "welcome"]).code, 0);
    assert!(host.run(&["status"]).stdout.contains("failed: exit code 7: no network"));
    assert!(host.read_log().contains("event_command failed: exit code 7: no network"));
    crash(&host, "w1");
    wait_told(&host, "crash");
    eventually("it to be well again", || {
        (!host.run(&["status", "--check"]).stdout.contains("event_command")).then_some(())
    });
}

#[test]
fn more_than_there_is_place_for_is_counted() {
    let mut host = host(&format!("while [ ! -e go ]; do sleep 0.05; done\n{RECORD}"));
    host.set("ZCA_EVENT_TIMEOUT", "1h");
    let _agent = deploy(&host, &[("w1", "")]);
    for number in 0..70 {
        let mut config = cluster(&[("w1", "")]);
        config.nodes[0].instance = "nobody".into();
        assert!(
            !host
                .ask(&format!("bad-{number}"), Request::Deploy { config, force: false, how: Default::default() })
                .success()
        );
    }
    let events = host.status().events.unwrap();
    assert_eq!((events.waiting, events.lost), (64, 6));
    host.file("go", "");
    eventually("all to be told", || (waiting(&host) == 0).then_some(()));
    let told = told(&host);
    assert_eq!(told.len(), 64);
    assert_eq!(told.iter().map(|one| one["lost"].as_u64().unwrap()).sum::<u64>(), 6, "{told:?}");
    assert_eq!(host.status().events.unwrap().lost, 0);
}

#[test]
fn a_full_disk_and_an_archival_that_fails_are_told() {
    let mut host = host(RECORD);
    let Some(small) = Small::mount(host.state_dir(), "64m") else { return };
    let path = host.file("archiver.sh", "#!/bin/sh\necho broken >&2\nexit 1\n");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    host.set("ZCA_ARCHIVE_COMMAND", &path).set("ZCA_ARCHIVE_INTERVAL", "50ms");
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "24MiB").set("ZCA_SPACE_FLOOR_FACTS", "4MiB");
    let _agent = deploy(&host, &[("w1", "")]);
    let queue = host.state_dir().join("spool/log-queue");
    fs::create_dir_all(&queue).unwrap();
    fs::write(queue.join("conn__1__.log"), "log").unwrap();
    let archival = wait_told(&host, "archive_failed");
    assert!(archival["message"].as_str().unwrap().contains("broken"), "{archival}");
    fill(&host.state_dir(), 16 * MIB);
    // A request looks at the space.
    let full = eventually("the full disk to be told", || {
        host.run(&["request", "welcome"]);
        told(&host).into_iter().find(|one| one["kind"] == "disk_full")
    });
    assert!(full["message"].as_str().unwrap().contains("no space"), "{full}");
    drop(small);
}

#[test]
fn as_root_it_runs_only_if_root_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be asked to run it as root");
        return;
    }
    let mut host = host(RECORD);
    host.unset("ZCA_EVENT_USER").set("ZCA_NODE_USER", "");
    let said = crate::support::run_to_end(&host, &[]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(
        said.stderr.contains("`event_user` is not set, and without a node_user event_command would run as root"),
        "{said:?}"
    );
    // Nobody's user, in whose place it may write.
    let told = host.dir.path().join("told");
    fs::write(&told, "").unwrap();
    fs::set_permissions(&told, Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(host.dir.path(), Permissions::from_mode(0o711)).unwrap();
    host.set("ZCA_EVENT_USER", "nobody");
    let path = host.file("hook.sh", &format!("#!/bin/sh\ncd \"${{0%/*}}\" || exit 99\nid -un >> told\n{RECORD}"));
    drop(path);
    let _agent = deploy(&host, &[("w1", "")]);
    crash(&host, "w1");
    eventually("it to run", || fs::read_to_string(&told).unwrap().starts_with("nobody\n{").then_some(()));
}

const EVENT: &str = r#"{"id":17,"at":"2026-12-01T10:00:00.000000Z","agent":"a1","kind":"crash","node":"w1","message":"w1 ended:\nsignal 9","lost":0}"#;

fn example(name: &str, argument: &str, environment: &[(&str, &str)]) -> Option<std::process::Output> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("share/event-command").join(name);
    let mut command = Command::new(path);
    command.arg(argument).envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(EVENT.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let missing = output.status.code() == Some(127);
    if missing {
        eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    (!missing).then_some(output)
}

#[test]
fn the_example_for_mail_writes_one() {
    let dir = tempfile::tempdir().unwrap();
    let sent = dir.path().join("sent");
    let sendmail = dir.path().join("sendmail");
    fs::write(&sendmail, format!("#!/bin/sh\ncat > {}\n", sent.display())).unwrap();
    fs::set_permissions(&sendmail, Permissions::from_mode(0o755)).unwrap();
    if Command::new("jq").arg("--version").output().is_err() {
        eprintln!("SKIPPED: jq is not installed");
        return;
    }
    let Some(output) = example("mail.sh", "noc@example.org", &[("SENDMAIL", sendmail.to_str().unwrap())]) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let mail = fs::read_to_string(sent).unwrap();
    let head =
        "To: noc@example.org\nSubject: Zeek agent a1: crash w1\nX-Zeek-Agent-Event: 17\n\nw1 ended: signal 9\n\n";
    assert!(mail.starts_with(head), "{mail}");
    let (_, rest) = mail.split_once("\n\n{").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&format!("{{{rest}")).unwrap()["id"], 17);
}

#[test]
fn the_example_for_a_webhook_posts_what_it_got() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\"lost\":0}") {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0, "{got:?}");
            got.extend_from_slice(&part[..count]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8(got).unwrap()
    });
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: curl is not installed");
        return;
    }
    let Some(output) = example("webhook.sh", &url, &[("no_proxy", "*")]) else { return };
    assert!(output.status.success(), "{output:?}");
    let got = server.join().unwrap();
    assert!(got.starts_with("POST /hook HTTP/1.1\r\n") && got.ends_with(EVENT), "{got}");
}

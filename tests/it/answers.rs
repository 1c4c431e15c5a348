//! A change has an outcome, for which the control socket waits, and what is told at the deadline of those who do not wait.

use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::audit::RequestState;
use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::api::status::NodeState;

use crate::broker;
use crate::peers::Peers;
use crate::support::{Host, Said, cluster, eventually, kill};
use crate::websocket::{BOTH, Ws, address};

/// An agent that is asked over everything, and whose deadline comes soon.
fn host() -> Host {
    let mut host = broker::host();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0").set("ZCA_REQUEST_TIMEOUT", "1s");
    host
}

fn deploy(nodes: &[(&str, &str)]) -> Request {
    Request::Deploy { config: cluster(nodes), force: false, how: Box::default() }
}

/// Over a WebSocket connection of its own: the text as it came.
fn over_websocket(host: &Host, starts: usize, reqid: &str, request: &Request) -> (String, Response) {
    let mut ws = Ws::connect(address(host, starts), &BOTH);
    ws.ask(Dialect::Management, reqid, request);
    let (text, _, response) = ws.response(reqid);
    (text, response)
}

fn timed_out(response: &Response) -> bool {
    response.results.iter().any(|one| one.error.as_deref() == Some("request timed out"))
}

/// Field note: a deploy that succeeded was stored as failed for ever.
#[test]
fn a_node_that_takes_its_time_is_waited_for_and_controllers_keep_what_they_were_told() {
    let mut host = host();
    let agent = host.start();
    let file = host.cluster_file("slow.ini", &[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    let request = deploy(&[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    let waiting = host.begin(&["request", "deploy", &file, "--reqid", "x"]);
    // Of those who cannot wait each is told by the deadline.
    let (text, told) = over_websocket(&host, 1, "x", &request);
    assert!(timed_out(&told) && told.results.len() == 3, "{told:?}");
    let pending = told.results.iter().find(|one| one.node.as_deref() == Some("w1")).unwrap();
    let reason = "not ready yet (it runs and has not checked in); supervision goes on";
    assert_eq!(pending.error.as_deref(), Some(reason));
    let mut peers = Peers::start();
    let port = broker::keep_port(&mut host);
    let config = broker::config("c-broker", &["w1", "w2"], &json!({"SIM_NOT_READY": "1"}));
    // Another configuration, whose deadline is its own; the first is superseded by it.
    peers.controller("c", port);
    let over_broker = |peers: &mut Peers| {
        peers.ask("c", "management", "deploy", "b", json!({"config": config.clone(), "force": false}))
    };
    let told_over_broker = over_broker(&mut peers);
    assert_eq!(told_over_broker[0]["error"], "request timed out", "{told_over_broker}");
    let superseded = Said::wait(waiting);
    assert!(superseded.code == 1 && superseded.stdout.contains("superseded by request"), "{superseded:?}");

    // Patience is the client's alone.
    let wait = |timeout: &str| {
        let mut args = vec!["--json", "request", "deploy", &file, "--reqid", "y"];
        args.extend(["--timeout", timeout]);
        host.run(&args)
    };
    let impatient = wait("1");
    assert_eq!((impatient.code, impatient.stdout.as_str()), (4, ""), "{impatient:?}");
    assert!(impatient.stderr.contains("still starting: w1 (PENDING, "), "{impatient:?}");
    assert!(
        impatient.stderr.contains("; ask again with --reqid y") && !impatient.stderr.contains("w2"),
        "{impatient:?}"
    );
    assert_eq!(host.requests("y")[0].state, RequestState::Handling);
    let (_, early) = over_websocket(&host, 1, "y", &request);
    assert!(timed_out(&early));
    // The node is ready, and the outcome is the truth.
    assert_eq!(host.run(&["notify", "--ready", "--node", "w1"]).code, 0);
    let outcome = host.run(&["--json", "request", "deploy", &file, "--reqid", "y"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let row = host.requests("y").remove(0);
    assert_eq!((row.state, row.success), (RequestState::Completed, Some(true)));
    assert!(row.deadline_at.is_some() && row.settled_at == row.completed_at, "{row:?}");
    assert_eq!(row.deadline_response.as_ref(), Some(&early));
    let shown: Value = host.json(&["journal", "show", "y", "--json"]);
    assert_eq!(shown["deadline_response"]["results"][0]["error"], "request timed out", "{shown}");

    // After kill -9, after others have gone by retention.
    agent.kill();
    let _agent = host.start();
    for number in 0..5 {
        host.ask(&format!("other-{number}"), Request::GetNodes {});
    }
    let mut peers = Peers::start();
    peers.controller("c", port);
    assert_eq!(over_broker(&mut peers), told_over_broker);
    assert_eq!(over_websocket(&host, 2, "x", &request).0, text, "byte for byte");
    assert_eq!(over_websocket(&host, 2, "y", &request).1, early);
    let again = host.run(&["--json", "request", "deploy", &file, "--reqid", "y"]);
    assert!(again.code == 0 && again.stdout == outcome.stdout && again.stderr.starts_with("stored answer of "));
    // When that was is said as other times are, and taken where a time is asked for, in any zone.
    for zone in ["America/New_York", "Asia/Kolkata", "UTC"] {
        let in_zone = |args: &[&str]| {
            let mut command = host.command(args);
            command.env("TZ", zone);
            Said::of(command)
        };
        let again = in_zone(&["request", "deploy", &file, "--reqid", "y"]);
        let at =
            again.stderr.trim().strip_prefix("stored answer of ").unwrap_or_else(|| panic!("{again:?}")).to_owned();
        assert!(at.rsplit(':').next().unwrap().contains(['+', '-']) || at.contains('+'), "{zone}: {at}");
        let until = in_zone(&["journal", "dump", "--until", &at, "--reqid", "y", "--format", "json"]);
        let since = in_zone(&["journal", "dump", "--since", &at, "--reqid", "y", "--format", "json"]);
        // It was asked for before it was answered, and the second that is printed begins before that.
        let found = until.lines().len() + since.lines().len();
        assert_eq!(found, 1, "{zone}: {at}: {until:?} {since:?}");
    }
    assert!(host.run(&["--json", "request", "deploy", &file, "--reqid", "x"]).is_stored_answer(&Said {
        stdout: host.run(&["--json", "request", "deploy", &file, "--reqid", "x"]).stdout,
        ..superseded
    }));
    host.verify();
    // Both answers go at once, with their request.
    host.json(&["journal", "prune", "--keep", "1", "--json"]);
    assert!(host.requests("x").is_empty() && host.requests("y").is_empty());
    host.verify();
}

#[test]
fn the_command_line_waits_until_a_slow_node_is_ready_and_shows_it_on_a_terminal() {
    let mut host = Host::new();
    host.set("ZCA_REQUEST_TIMEOUT", "500ms");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "env = SIM_READY_AFTER_MS=3000"), ("w2", "")]);
    let begun = Instant::now();
    let mut script = Command::new("script");
    host.prepare(&mut script);
    let asked = format!("{} request deploy {file} --reqid x", host.binary.display());
    script.args(["-qec", &asked, "/dev/null"]);
    let said = Said::of(script);
    println!("ready after {:?}", begun.elapsed());
    assert_eq!(said.code, 0, "{said:?}");
    let shown = said.stdout.replace('\r', "");
    let pending = shown.find("w1 PENDING").unwrap_or_else(|| panic!("{said:?}"));
    assert!(shown[pending..].contains("w1"), "{said:?}");
    assert_eq!(host.nodes()["w1"].state, NodeState::Running);
    // The same configuration again while all is there is done at once, and told once.
    let again = host.run(&["request", "deploy", &file, "--reqid", "again"]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{again:?}");
}

/// Field note: `ok` was said while all was on its way.
#[test]
fn the_same_configuration_again_is_not_ok_before_its_nodes_are_ready() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "3s");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "env = SIM_NOT_READY=1")]);
    let first = host.begin(&["--json", "request", "deploy", &file, "--reqid", "one"]);
    eventually("the first to wait", || {
        host.requests("one").iter().any(|row| row.state == RequestState::Handling).then_some(())
    });
    let second = host.run(&["--json", "request", "deploy", &file, "--reqid", "two"]);
    let first = Said::wait(first);
    for said in [&first, &second] {
        assert_eq!(said.code, 1, "{said:?}");
        let result = &said.json()["results"][0];
        let error = result["error"].as_str().unwrap();
        assert!(error.starts_with("not ready within 3 s ("), "{said:?}");
        assert_eq!(result["node"], "w1");
    }
}

#[test]
fn an_agent_that_says_nothing_is_waited_for_no_longer_than_was_said() {
    let host = Host::new();
    let mut agent = host.start();
    kill(agent.pid(), Signal::STOP, Some(&host.mark));
    for args in [
        &["request", "get-nodes", "--reqid", "g", "--timeout", "1"][..],
        &["nodes", "restart", "--all", "--timeout", "1"],
        &["shutdown", "--nodes", "--timeout", "1"],
    ] {
        let begun = Instant::now();
        let said = host.run(args);
        println!("{args:?} gave up after {:?}", begun.elapsed());
        assert_eq!(said.code, 4, "{args:?}: {said:?}");
        assert!(said.stderr.contains("nothing was asked"), "{args:?}: {said:?}");
    }
    kill(agent.pid(), Signal::CONT, Some(&host.mark));
    host.wait_served(&mut agent);
}

#[test]
fn what_failed_is_never_ok_in_the_journal() {
    let host = Host::new();
    let _agent = host.start();
    let said = host.run(&["request", "restart", "nosuch", "--reqid", "r"]);
    assert!(said.code == 1 && said.stdout.contains("nosuch: no such node on this host"), "{said:?}");
    let row = host.requests("r").remove(0);
    assert_eq!((row.state, row.success), (RequestState::Rejected, Some(false)), "{row:?}");
    let failed = host.run(&["journal", "dump", "--failed", "--format", "json"]).lines();
    assert_eq!(failed.iter().filter(|row| row["reqid"] == "r").count(), 1, "{failed:?}");
    assert_eq!(host.json(&["journal", "stats", "--json"])["failed"], 1);
}

/// Killed before and after what is told at the deadline is durable: it is told once, and the outcome still comes.
#[cfg(feature = "crash-points")]
fn killed_around_the_deadline(point: &str) {
    let mut host = host();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let mut agent = host.start();
    let request = deploy(&[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    let mut ws = Ws::connect(address(&host, 1), &BOTH);
    ws.ask(Dialect::Management, "x", &request);
    eventually(&format!("the crash at {point}"), || once.exists().then_some(()));
    eventually("the agent's end", || agent.child.try_wait().unwrap());
    let agent = host.start();
    let (text, told) = over_websocket(&host, 2, "x", &request);
    assert!(timed_out(&told), "{point}: {told:?}");
    assert_eq!(host.run(&["notify", "--ready", "--node", "w1"]).code, 0);
    let outcome = host.ask("x", request.clone());
    assert!(outcome.success(), "{point}: {outcome:?}");
    agent.kill();
    let _agent = host.start();
    assert_eq!(over_websocket(&host, 3, "x", &request).0, text, "{point}");
    assert_eq!(host.ask("x", request), outcome, "{point}");
    let row = host.requests("x").remove(0);
    assert_eq!((row.state, row.deadline_response), (RequestState::Completed, Some(told)), "{point}");
    host.verify();
}

#[cfg(feature = "crash-points")]
#[test]
fn killed_before_the_deadline_is_durable() {
    killed_around_the_deadline("before_deadline");
}

#[cfg(feature = "crash-points")]
#[test]
fn killed_after_the_deadline_is_durable() {
    killed_around_the_deadline("after_deadline");
}

/// What release 1 imports: without what was told at deadlines, and whole.
#[test]
fn an_export_for_release_1_leaves_out_what_that_does_not_know_and_is_whole() {
    let mut host = host();
    host.set("ZCA_READY_TIMEOUT", "2s");
    let _agent = host.start();
    let request = deploy(&[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    let (_, told) = over_websocket(&host, 1, "x", &request);
    assert!(timed_out(&told));
    let outcome = host.ask("x", request.clone());
    let file = host.dir.path().join("for-1").display().to_string();
    let exported = host.json(&["journal", "export", &file, "--for", "1", "--json"]);
    assert_eq!(exported["left_out"], 1, "{exported}");
    let other = Host::new();
    let imported = other.json(&["journal", "import", &file, "--json"]);
    assert_eq!(imported["problems"], json!([]), "{imported}");
    assert_eq!(imported["exported_head"], exported["head"], "{imported}");
    let rows = other.run(&["journal", "dump", "--format", "json", "--kind", "all"]).lines();
    let of = |reqid: &str| rows.iter().find(|row| row["reqid"] == reqid).unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(of("x")["response"], serde_json::to_value(&outcome).unwrap());
    assert!(of("x").get("deadline_response").is_none());
    let note = rows.iter().rfind(|row| row["event"] == "imported" && row["summary"].to_string().contains("release 1"));
    assert!(note.is_some(), "{rows:?}");
}

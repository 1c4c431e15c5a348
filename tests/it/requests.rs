//! What a requester sees: one outcome for each reqid (P2 to P5), desired state that is met or told about, and what
//! reaches somebody who only listens.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::{Notification, Request, Response};
use zeek_cluster_agent::api::status::NodeState;
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};
use zeek_cluster_agent::control::message::Publication;

use crate::support::{Host, Said, cluster, dialect, errors, eventually, kill, set};

const TWO: &[(&str, &str)] = &[("logger:logger", ""), ("w1", "")];

/// The rows of a reqid, as `journal dump` prints them.
fn dump(host: &Host, reqid: &str) -> Vec<Value> {
    host.run(&["journal", "dump", "--reqid", reqid, "--format", "json"]).lines()
}

#[test]
fn a_repeated_request_gets_the_same_bytes_and_another_one_a_conflict() {
    let host = Host::new();
    let agent = host.start();
    let file = host.cluster_file("a.ini", TWO);
    let ask = ["--json", "request", "set-configuration", &file, "--reqid", "x"];
    let first = host.run(&ask);
    assert_eq!((first.code, first.stderr.as_str()), (0, ""), "{first:?}");
    assert_eq!(
        first.json(),
        json!({"event": "set_configuration_response", "reqid": "x", "results": [
            {"reqid": "x", "success": true, "instance": "a1", "data": null, "error": null, "node": null}
        ]})
    );
    let keys = r#"{"event":"set_configuration_response","reqid":"x","results":[{"reqid":"x","success":true,"instance""#;
    assert!(first.stdout.replace([' ', '\n'], "").starts_with(keys), "fields in the order of the API: {first:?}");
    let pids = host.pids();
    let again = host.run(&ask);
    assert!(again.is_stored_answer(&first), "{again:?}");

    let other = host.cluster_file("b.ini", &[("w9", "")]);
    let conflict = host.run(&["--json", "request", "set-configuration", &other, "--reqid", "x"]);
    assert_eq!(conflict.code, 5, "{conflict:?}");
    let error = conflict.json()["results"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("conflict: "), "{error}");
    // Another event with the same reqid is one, too.
    assert_eq!(host.run(&["request", "welcome", "--reqid", "x"]).code, 5);

    let rows = dump(&host, "x");
    let states: Vec<&str> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["completed", "conflict", "conflict"], "{rows:?}");
    assert_eq!((&rows[0]["duplicates"], &rows[0]["success"]), (&json!(1), &json!(true)));
    assert!(rows[1]["error"].as_str().unwrap().starts_with("conflict: "), "{rows:?}");
    assert!(host.run(&ask).is_stored_answer(&first), "the first outcome stays");
    assert_eq!(host.pids(), pids);

    agent.kill();
    let _agent = host.start();
    assert!(host.run(&ask).is_stored_answer(&first), "another answer after a crash");
    assert_eq!(host.run(&["request", "set-configuration", &other, "--reqid", "x"]).code, 5);
    assert_eq!(host.pids(), pids);
    assert!(host.nodes().values().all(|node| node.deaths == 0));
    host.verify();
}

#[test]
fn a_duplicate_during_handling_gets_the_same_bytes() {
    let host = Host::new();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "env = SIM_READY_AFTER_MS=1500")]);
    let ask = ["--json", "request", "set-configuration", &file, "--reqid", "d"];
    let first = host.begin(&ask);
    eventually("the request to be handled", || (host.status().unfinished == 1).then_some(()));
    let second = host.begin(&ask);
    eventually("the duplicate to be noted", || (dump(&host, "d").first()?["duplicates"] == json!(1)).then_some(()));
    assert_eq!(host.status().unfinished, 1, "it was answered before the duplicate came: the test proves nothing");
    let (first, second) = (Said::wait(first), Said::wait(second));
    assert_eq!((first.code, first.stderr.as_str()), (0, ""), "{first:?}");
    assert_eq!(first, second);
    let rows = dump(&host, "d");
    assert_eq!((rows.len(), &rows[0]["attempts"]), (1, &json!(1)), "{rows:?}");
    assert!(rows[0]["duplicates_first"][0]["source"]["peer"].as_str().unwrap().starts_with("uid="));
    assert_eq!(host.events("node_started").len(), 1);
}

fn pid_of(response: &Value, node: &str) -> u64 {
    let nodes = response["results"][0]["data"].as_array().unwrap();
    nodes.iter().find(|one| one["node"] == node).unwrap()["pid"].as_u64().unwrap()
}

#[test]
fn a_repeated_read_shows_what_was_then() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("r", set(cluster(TWO))).success());
    let ask = ["--json", "request", "get-nodes", "--reqid", "g"];
    let first = host.run(&ask);
    assert_eq!(first.code, 0, "{first:?}");
    let old = pid_of(&first.json(), "w1");
    assert_eq!(old, u64::from(host.pids()["w1"]));
    let restarted = host.json(&["--json", "request", "restart", "w1"]);
    assert_eq!((&restarted["results"][0]["node"], restarted["results"].as_array().unwrap().len()), (&json!("w1"), 1));
    let new = host.pids()["w1"];
    assert_ne!(u64::from(new), old);
    let again = host.run(&ask);
    assert!(again.is_stored_answer(&first), "{again:?}");
    assert_eq!(pid_of(&host.json(&["--json", "request", "get-nodes"]), "w1"), u64::from(new));
    agent.kill();
    let agent = host.start();
    assert!(host.run(&ask).is_stored_answer(&first), "after kill -9");
    // And after a clean stop.
    assert_eq!(host.run(&["shutdown"]).code, 0);
    assert_eq!(agent.wait().code(), Some(0));
    let _agent = host.start();
    assert!(host.run(&ask).is_stored_answer(&first), "after a clean stop");
    assert_eq!(host.pids()["w1"], new);
}

#[test]
fn the_same_file_is_the_same_configuration_unless_forced() {
    let host = Host::new();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", TWO);
    for command in ["set-configuration", "deploy"] {
        let before = host.pids();
        let said = host.run(&["--json", "request", command, &file]);
        assert_eq!(said.code, 0, "{said:?}");
        host.wait_all_running(2);
        if !before.is_empty() {
            assert_eq!(host.pids(), before, "{command} restarted something");
            assert_eq!(said.json()["results"].as_array().unwrap().len(), 1, "one Result where nothing is to be done");
        }
    }
    let before = host.pids();
    let forced = host.json(&["--json", "request", "deploy", &file, "--force"]);
    let mut named: Vec<&str> =
        forced["results"].as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ["logger", "w1"], "one Result for each node");
    let after = host.pids();
    assert!(before.iter().all(|(node, pid)| after[node] != *pid), "{before:?} {after:?}");
    // A running configuration whose nodes failed is another matter; a stopped one stays stopped.
    assert_eq!(host.run(&["nodes", "stop", "w1"]).code, 0);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    assert_eq!(host.nodes()["w1"].state, NodeState::Stopped);
}

#[test]
fn a_file_without_this_instance_changes_nothing() {
    let host = Host::new();
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(TWO))).success());
    let pids = host.pids();
    let file = host.file("b.ini", "[instances]\nb2 = 10.0.0.2\n[w1]\ninstance = b2\nrole = worker\n");
    for (command, count) in [("set-configuration", 1), ("deploy", 1)] {
        let said = host.run(&["--json", "request", command, &file, "--reqid", command]);
        assert_eq!(said.code, 1, "{said:?}");
        let results = said.json()["results"].as_array().unwrap().clone();
        assert_eq!(results.len(), count);
        assert!(results[0]["error"].as_str().unwrap().contains("a1"), "{results:?}");
        assert_eq!(dump(&host, command)[0]["state"], "rejected");
        let again = host.run(&["--json", "request", command, &file, "--reqid", command]);
        assert!(again.is_stored_answer(&said), "it binds its reqid: {again:?}");
    }
    assert_eq!(host.pids(), pids);
    assert_eq!(host.events("node_exited").len(), 0);
}

#[test]
fn a_logger_that_never_gets_ready_is_named_in_time_and_holds_up_nobody() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "2s");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("logger:logger", "env = SIM_NOT_READY=1"), ("w1", ""), ("w2", "")]);
    let begun = Instant::now();
    let said = host.run(&["request", "set-configuration", &file, "--reqid", "x"]);
    println!("answered after {:?}", begun.elapsed());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("logger: not ready within 2 s (it runs and has not checked in)"), "{said:?}");
    assert!(!said.stdout.contains("w1") && !said.stdout.contains("w2"), "{said:?}");
    let states = host.nodes().into_values().map(|node| node.state);
    assert_eq!(states.collect::<Vec<_>>(), [NodeState::Pending, NodeState::Running, NodeState::Running]);
    // Once it says that it is ready, it runs; the answer stays what it was.
    assert_eq!(host.run(&["notify", "--ready", "--node", "logger"]).code, 0);
    host.wait_state("logger", NodeState::Running);
    let again = host.run(&["request", "set-configuration", &file, "--reqid", "x"]);
    assert!(again.is_stored_answer(&said), "{again:?}");
}

#[test]
fn deploy_that_settles_answers_for_each_node_with_output() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "2s");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    let said = host.run(&["--json", "request", "deploy", &file]);
    assert_eq!(said.code, 1, "{said:?}");
    let results = said.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 2, "{said:?}");
    let of = |name: &str| results.iter().find(|one| one["node"] == name).unwrap();
    assert_eq!((&of("w2")["success"], &of("w2")["data"]), (&json!(true), &Value::Null));
    assert_eq!(of("w1")["success"], json!(false));
    let stdout = of("w1")["data"]["stdout"].as_str().unwrap_or_default();
    assert!(stdout.contains("node w1 runs as pid"), "pending nodes are answered with their output: {said:?}");
}

#[test]
fn a_client_that_gave_up_gets_the_answer_later() {
    let mut host = Host::new();
    host.set("ZCA_STOP_TIMEOUT", "3s");
    let _agent = host.start();
    assert!(host.ask("r", set(cluster(&[("w1", "env = SIM_IGNORE_TERM=1")]))).success());
    let said = host.run(&["request", "standby", "--reqid", "s", "--timeout", "0.2"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("still stopping: w1 (RUNNING); ask again with --reqid s"), "{said:?}");
    assert_eq!(said.stdout, "");
    let said = host.run(&["--json", "request", "standby", "--reqid", "s"]);
    assert_eq!((said.code, &said.json()["results"][0]["success"]), (0, &json!(true)));
    assert_eq!(host.node_processes("w1"), [0_u32; 0]);
    let rows = dump(&host, "s");
    assert_eq!((rows.len(), &rows[0]["attempts"], &rows[0]["duplicates"]), (1, &json!(1), &json!(1)));
}

#[test]
fn names_and_channels_that_are_not_there() {
    let mut host = Host::new();
    host.set("ZCA_REQUEST_TIMEOUT", "1s");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", ""), ("w2", "env = SIM_NOT_READY=1")]);
    assert_eq!(host.run(&["request", "set-configuration", &file, "--timeout", "0.5"]).code, 4);
    host.wait_state("w1", NodeState::Running);
    let said = host.run(&["--json", "request", "get-id-value", "Log::x", "--reqid", "i"]);
    assert_eq!(said.code, 1, "{said:?}");
    let errors: Vec<String> = said.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{}: {}", one["node"].as_str().unwrap(), one["error"].as_str().unwrap()))
        .collect();
    assert!(errors[0].starts_with("w1: request timed out: w1 runs, but has no peering"), "{errors:?}");
    assert!(errors[1].starts_with("w2: ") && errors[1].contains("not in running state"), "{errors:?}");
    assert_eq!(dump(&host, "i")[0]["event"], "node_dispatch_request");

    let pids = host.pids();
    for args in [
        &["request", "restart", "nobody"][..],
        &["nodes", "start", "nobody"],
        &["nodes", "stop", "nobody", "w1"],
        &["nodes", "restart", "nobody"],
        &["request", "get-id-value", "x", "--nodes", "nobody"],
    ] {
        let said = host.run(args);
        assert_eq!(said.code, 1, "{args:?}: {said:?}");
        assert!(format!("{}{}", said.stdout, said.stderr).contains("nobody"), "{args:?}: {said:?}");
    }
    assert_eq!(host.pids(), pids);
}

#[test]
fn without_a_reqid_there_is_no_memory() {
    let host = Host::new();
    let _agent = host.start();
    // On the wire; the command line takes an empty one for a mistake.
    assert_eq!(host.run(&["request", "standby", "--reqid", ""]).code, 2);
    let first = host.ask("", Request::AgentStandby {});
    assert!(first.success() && first.reqid.is_empty(), "{first:?}");
    // Another request with no reqid is no conflict.
    assert!(host.ask("", Request::GetNodes {}).success());
    assert!(host.ask("", Request::AgentStandby {}).success());
    let rows = host.run(&["journal", "dump", "--event", "agent_standby"]).lines();
    assert_eq!(rows.len(), 2, "each was handled: {rows:?}");
    assert!(rows.iter().all(|row| row["duplicates"] == json!(0) && row["state"] == "completed"), "{rows:?}");
}

#[test]
fn a_later_change_supersedes_one_that_waits() {
    let host = Host::new();
    let _agent = host.start();
    let waits = host.cluster_file("a.ini", &[("w1", "env = SIM_NOT_READY=1")]);
    let first = host.begin(&["request", "set-configuration", &waits, "--reqid", "first"]);
    eventually("it to wait", || (host.nodes().get("w1")?.state == NodeState::Pending).then_some(()));
    let second = host.cluster_file("b.ini", &[("w1", "")]);
    let second = host.run(&["request", "set-configuration", &second, "--reqid", "second"]);
    assert_eq!(second.code, 0, "{second:?}");
    let first = Said::wait(first);
    assert_eq!(first.code, 1, "{first:?}");
    assert!(first.stdout.contains("superseded by request"), "{first:?}");
    assert!(first.stdout.contains("second"), "{first:?}");
}

#[test]
fn standby_stops_everything_and_forgets_it() {
    let host = Host::new();
    let agent = host.start();
    let file = host.cluster_file("a.ini", TWO);
    assert_eq!(host.run(&["request", "set-configuration", &file]).code, 0);
    assert_eq!(host.run(&["request", "standby"]).code, 0);
    for node in ["logger", "w1"] {
        assert_eq!(host.node_processes(node), [0_u32; 0]);
    }
    let left = |host: &Host| {
        let response = host.json(&["--json", "request", "get-nodes"]);
        let nodes = response["results"][0]["data"].as_array().unwrap().clone();
        nodes.iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(left(&host), ["a1"], "the agent itself");
    assert_eq!(host.status().configuration, None);
    agent.kill();
    let _agent = host.start();
    assert_eq!((left(&host), host.status().configuration), (vec!["a1".to_owned()], None));
    assert_eq!(host.run(&["request", "set-configuration", &file]).code, 0);
    host.wait_all_running(2);
}

/// Who connects and listens to everything.
fn listen(host: &Host) -> Client {
    let mut client = host.client();
    client.subscribe(&[""], within_ms(10_000)).unwrap();
    client
}

/// The first publication for which `wanted` gives something.
fn hear<T>(client: &mut Client, what: &str, mut wanted: impl FnMut(&str, &Publication) -> Option<T>) -> T {
    let deadline = within_ms(30_000);
    loop {
        let (topic, publication) =
            client.next_publication(deadline).unwrap_or_else(|error| panic!("waiting for {what}: {error}"));
        if let Some(found) = wanted(&topic, &publication) {
            return found;
        }
    }
}

#[test]
fn who_listens_hears_of_the_agent_of_changes_and_of_trouble() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "300ms");
    let _agent = host.start();
    let mut client = listen(&host);
    hear(&mut client, "the hello", |topic, publication| match publication {
        Publication::Notification(Notification::NotifyAgentHello { instance, .. }) => {
            assert_eq!((topic, instance.as_str()), ("zeek/management/agent/a1", "a1"));
            Some(())
        }
        _ => None,
    });
    let changed = |client: &mut Client, wanted_old: NodeState, wanted_new: NodeState| {
        hear(client, &format!("{wanted_old} -> {wanted_new}"), |_, publication| match publication {
            Publication::Notification(Notification::NotifyChange { node, state, old, new, .. }) => {
                assert_eq!(node.name, "w1");
                assert_eq!(state, new);
                ((*old, *new) == (wanted_old, wanted_new)).then_some(())
            }
            _ => None,
        });
    };
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    changed(&mut client, NodeState::Pending, NodeState::Running);
    kill(host.pids()["w1"], Signal::ABORT, Some(&host.mark));
    hear(&mut client, "the crash", |_, publication| match publication {
        Publication::Notification(Notification::NotifyChange { node, old: NodeState::Running, new, .. }) => {
            assert_eq!(node.name, "w1");
            assert!(matches!(new, NodeState::Crashed | NodeState::Pending), "{new}");
            Some(())
        }
        _ => None,
    });
    host.wait_all_running(1);
    let never = set(cluster(&[("w2", "env = SIM_NOT_READY=1")]));
    host.client().submit("never", never.clone(), dialect(&never), None).unwrap();
    hear(&mut client, "the error", |_, publication| match publication {
        Publication::Notification(Notification::NotifyError { node, msg, .. }) => {
            assert_eq!(node, "w2");
            assert!(msg.contains("not checked in"), "{msg}");
            Some(())
        }
        _ => None,
    });
}

/// A response with this reqid that was published unasked.
fn published(client: &mut Client, reqid: &str) -> Response {
    hear(client, "the response", |_, publication| match publication {
        Publication::Response(response) if response.reqid.as_str() == reqid => Some(response.clone()),
        Publication::Response(_) | Publication::Notification(_) => None,
    })
}

#[test]
fn an_answer_that_nobody_waited_for_reaches_who_listens() {
    let host = Host::new();
    let agent = host.start();
    let request = set(cluster(&[("w1", "env = SIM_READY_AFTER_MS=1000")]));
    let mut client = host.client();
    client.submit("lonely", request.clone(), dialect(&request), None).unwrap();
    eventually("it to be handled", || (host.status().unfinished == 1).then_some(()));
    drop(client);
    agent.kill();
    let _agent = host.start();
    let mut client = listen(&host);
    let response = published(&mut client, "lonely");
    assert!(response.success(), "{}", errors(&response));
    assert_eq!(host.ask("lonely", request), response);
}

#[cfg(feature = "crash-points")]
#[test]
fn an_answer_stored_and_not_sent_before_a_crash_is_published_unasked() {
    let mut host = Host::new();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CRASH_AT", "before_response_sent").set("ZCA_CRASH_ONCE", &once.display().to_string());
    let agent = host.start();
    let request = set(cluster(&[("w1", "")]));
    let mut client = host.client();
    client.submit("stored", request.clone(), dialect(&request), None).unwrap();
    agent.wait_crashed(&host);
    let pids = host.node_processes("w1");
    let agent = host.start();
    let rows = dump(&host, "stored");
    assert_eq!(rows[0]["state"], "completed", "it was stored before the crash: {rows:?}");
    let mut client = listen(&host);
    let response = published(&mut client, "stored");
    assert!(response.success());
    assert_eq!(host.ask("stored", request), response);
    assert_eq!(host.node_processes("w1"), pids);
    drop(client);
    // Delivered: not once more after the next start.
    assert_eq!(host.run(&["shutdown"]).code, 0);
    assert_eq!(agent.wait().code(), Some(0));
    let _agent = host.start();
    let mut client = listen(&host);
    assert!(host.ask("after", Request::AgentWelcome {}).success());
    host.ask("change", set(cluster(&[("w1", ""), ("w2", "")])));
    hear(&mut client, "the change", |_, publication| match publication {
        // The answer to the shutdown neither: it left before the agent did.
        Publication::Response(response) => panic!("published again: {response:?}"),
        Publication::Notification(Notification::NotifyChange { .. }) => Some(()),
        Publication::Notification(_) => None,
    });
}

#[test]
fn what_the_socket_does_not_take_is_told_to_the_caller_alone() {
    let host = Host::new();
    let _agent = host.start();
    let long = "r".repeat(257);
    let said = host.run(&["request", "welcome", "--reqid", &long]);
    assert!(matches!(said.code, 1 | 2), "{said:?}");
    assert!(said.stderr.contains("256"), "{said:?}");
    let mut client = host.client();
    // An operator's request in a controller's dialect.
    let stop = Request::StopNodes { nodes: ["w1".to_owned()].into(), force: false };
    let answer =
        client.request("q", stop, zeek_cluster_agent::api::event::Dialect::Management, None, within_ms(10_000));
    assert!(answer.unwrap_err().to_string().contains("dialect"));
    // The connection goes on.
    let welcome = Request::AgentWelcome {};
    let answer = client.request("w", welcome.clone(), dialect(&welcome), None, within_ms(10_000)).unwrap();
    assert!(matches!(answer, Answer::Response(response) if response.success()));
}

//! A disk that is full, or read-only: requests are refused with the reason, nodes are not affected and still supervised,
//! and the agent comes out of it by itself. On small file systems of the tests' own, and with system calls that fail.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::control::client::{Answer, within_ms};

use crate::faults::{Faults, Which};
use crate::small::{MIB, Small, fill};
use crate::support::{Agent, Host, cluster, errors, eventually, is_alive, kill, run_to_end, set};

const TWO: &[(&str, &str)] = &[("w1", ""), ("w2", "")];

fn deployed(host: &Host) -> (Agent, BTreeMap<String, u32>) {
    let agent = host.start();
    let answer = host.ask("first", set(cluster(TWO)));
    assert!(answer.success(), "{}", errors(&answer));
    let pids = host.pids();
    (agent, pids)
}

/// As [`deployed`], on a small file system that the agent may fill to the end.
fn deployed_without_floors(host: &mut Host) -> Option<(Small, Agent, BTreeMap<String, u32>)> {
    let small = Small::mount(host.state_dir(), "64m")?;
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "0B").set("ZCA_SPACE_FLOOR_FACTS", "0B");
    let (agent, pids) = deployed(host);
    Some((small, agent, pids))
}

/// A request that takes much space, and none of the nodes' time.
pub fn large() -> Request {
    Request::NodeDispatch {
        action: vec!["get_id_value".into(), "x".repeat(60_000)],
        nodes: ["nobody".to_owned()].into(),
    }
}

/// Sends large requests, eight at a time so that they share commits, until the agent refuses them. Gives what was answered,
/// and the reqids of those that wait without an answer.
fn until_refused(host: &Host) -> (Vec<(String, Response)>, Vec<String>) {
    let (mut answered, mut waiting) = (Vec::new(), Vec::new());
    for round in 0..200 {
        let mut client = host.client();
        let reqids = (0..8).map(|number| format!("large-{round}-{number}"));
        let calls: Vec<(String, u64)> = reqids
            .map(|reqid| {
                let call = client.submit(&reqid, large(), Dialect::Management, None).unwrap();
                (reqid, call)
            })
            .collect();
        let mut refused = false;
        for (reqid, call) in calls {
            match client.answer(call, within_ms(if refused || !waiting.is_empty() { 100 } else { 3_000 })) {
                Ok(Answer::Response(response)) => answered.push((reqid, response)),
                Ok(Answer::Refused(reason)) => {
                    assert!(reason.contains("no space"), "{reason}");
                    refused = true;
                }
                Err(_) => waiting.push(reqid),
            }
        }
        if refused || !waiting.is_empty() {
            return (answered, waiting);
        }
    }
    panic!("the disk does not get full");
}

fn check_refusing(host: &Host, why: &str) {
    let said = host.run(&["request", "get-nodes", "--reqid", "not-used-up"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("refused: ") && said.stderr.contains(why), "{said:?}");
    let status = host.json(&["status", "--json"]);
    assert!(status["journal"]["refusing"].as_str().is_some_and(|told| told.contains(why)), "{status}");
    assert!(status["refused"].as_u64().unwrap() > 0, "refusals are counted: {status}");
    assert!(host.run(&["status"]).stdout.contains(why));
}

/// Until requests are taken in again; gives how long that took.
fn recovered(host: &Host) -> Duration {
    let begun = Instant::now();
    eventually("requests to be taken in again", || {
        (host.run(&["request", "get-nodes", "--reqid", "not-used-up"]).code == 0).then_some(())
    });
    begun.elapsed()
}

/// Exits of nodes, by node.
fn exits(host: &Host, node: &str) -> usize {
    host.events("node_exited").iter().filter(|(name, ..)| name == node).count()
}

#[test]
fn a_commit_that_does_not_fit_waits_and_is_written_when_there_is_space_without_a_restart() {
    let mut host = Host::new();
    // Dropped after the host: its nodes hold the mount.
    let Some((small, agent, pids)) = deployed_without_floors(&mut host) else { return };
    // Somebody else takes what is free but for some requests' worth.
    let filler = fill(&small.0, 4 * MIB);
    let (answered, waiting) = until_refused(&host);
    assert!(!answered.is_empty(), "some went in before the disk was full");
    assert!(!waiting.is_empty(), "some were in the commit that failed");
    fill(&small.0, 0);
    check_refusing(&host, "no space");
    assert_eq!(host.pids(), pids, "nodes untouched");
    // What ends meanwhile is found out, and told of, as soon as it can be.
    kill(pids["w1"], Signal::KILL, Some(&host.mark));
    eventually("w1 to be gone", || (!is_alive(pids["w1"])).then_some(()));

    fs::remove_file(filler).unwrap();
    let took = recovered(&host);
    assert_eq!(host.client().welcome().pid, agent.pid(), "the same process");
    println!("taken in again {} ms after there was space", took.as_millis());
    let again = eventually("w1 again", || host.pids().get("w1").copied().filter(|pid| *pid != pids["w1"]));
    assert!(is_alive(again));
    assert_eq!(host.pids()["w2"], pids["w2"]);
    assert_eq!(exits(&host, "w1"), 1);
    for (reqid, response) in &answered {
        assert_eq!(&host.ask(reqid, large()), response, "{reqid}");
    }
    for reqid in &waiting {
        host.ask(reqid, large());
        let rows = host.requests(reqid);
        assert_eq!((rows.len(), rows[0].attempts), (1, 1), "{reqid}: taken in before, and once");
    }
    let live = host.json(&["journal", "verify", "--json"]);
    agent.kill();
    let said = host.run(&["journal", "verify", "--anchor", live["head"].as_str().unwrap()]);
    assert_eq!(said.code, 0, "{said:?}");
    let agent = host.start();
    assert_eq!(host.status().hold, None, "nothing that was durable is missing");
    agent.kill();
    host.end_all();
    drop(small);
}

#[test]
fn a_kill_on_a_full_disk_loses_nothing_that_was_answered() {
    let mut host = Host::new();
    let Some((small, agent, pids)) = deployed_without_floors(&mut host) else { return };
    let filler = fill(&small.0, 4 * MIB);
    let (answered, _) = until_refused(&host);
    fill(&small.0, 0);
    agent.kill();
    // What a service manager sees, again and again.
    for _ in 0..2 {
        let said = run_to_end(&host, &[]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("no space") && said.stderr.contains("journal"), "{said:?}");
        assert!(pids.values().all(|pid| is_alive(*pid)), "nodes untouched");
    }
    fs::remove_file(filler).unwrap();
    let agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(host.status().hold, None, "nothing that was durable is missing");
    for (reqid, response) in &answered {
        assert_eq!(&host.ask(reqid, large()), response, "{reqid}");
    }
    host.verify();
    drop(agent);
    host.end_all();
    drop(small);
}

#[test]
fn the_ballast_lets_nodes_be_supervised_on_a_full_disk_and_is_made_anew() {
    let mut host = Host::new();
    let Some(small) = Small::mount(host.state_dir(), "64m") else { return };
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "4MiB").set("ZCA_SPACE_FLOOR_FACTS", "2MiB").set("ZCA_BALLAST_SIZE", "8MiB");
    let ballast = host.state_dir().join("journal.ballast");
    let (agent, pids) = deployed(&host);
    assert!(ballast.exists());
    let filler = fill(&small.0, 0);
    eventually("the ballast to be given back", || {
        // Whatever happens has the agent look.
        host.status();
        (!ballast.exists()).then_some(())
    });
    kill(pids["w1"], Signal::KILL, Some(&host.mark));
    let second = eventually("w1 again", || host.pids().get("w1").copied().filter(|pid| *pid != pids["w1"]));
    assert_eq!(exits(&host, "w1"), 1, "and it is journaled");
    check_refusing(&host, "no space");
    // Somebody else takes what was given back.
    fill(&small.0, MIB);
    eventually("that to be noticed", || {
        let said = host.run(&["request", "set-configuration", &host.cluster_file("a.ini", TWO), "--reqid", "first"]);
        // As long as facts are journaled, what is stored is answered.
        (said.code == 1).then_some(())
    });
    kill(second, Signal::KILL, Some(&host.mark));
    eventually("it to be gone", || (!is_alive(second)).then_some(()));
    check_refusing(&host, "no space");
    assert_eq!(host.pids()["w2"], pids["w2"]);

    fs::remove_file(filler).unwrap();
    recovered(&host);
    eventually("w1 once more", || host.pids().get("w1").copied().filter(|pid| *pid != second));
    eventually("the ballast", || ballast.exists().then_some(()));
    assert_eq!(host.client().welcome().pid, agent.pid(), "the same process");
    host.verify();
    drop(agent);
    host.end_all();
    drop(small);
}

#[test]
fn a_refusal_is_a_failed_result_in_the_dialect_of_who_asks() {
    let mut host = Host::new();
    let Some(small) = Small::mount(host.state_dir(), "64m") else { return };
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "16MiB")
        .set("ZCA_SPACE_FLOOR_FACTS", "8MiB")
        .set("ZCA_WEBSOCKET", "127.0.0.1:0");
    let (agent, pids) = deployed(&host);
    let url = eventually("the WebSocket listener", || {
        let log = host.read_log();
        let (_, place) = log.split_once("are served at ")?;
        Some(place.split(['/', ' ', '\n']).take(3).collect::<Vec<_>>().join("/"))
    });
    let file = host.cluster_file("a.ini", TWO);
    for left in [12 * MIB, 4 * MIB] {
        let filler = fill(&small.0, left);
        eventually("requests to be refused", || (host.run(&["request", "get-nodes"]).code == 1).then_some(()));
        for (args, event) in [
            (&["set-configuration", &file][..], "set_configuration_response"),
            (&["deploy", &file], "deploy_response"),
            (&["get-nodes"], "get_nodes_response"),
        ] {
            let args = [&["request"], args, &["--reqid", "refused", "--json", "--via", &url]].concat();
            let said = host.run(&args);
            assert_eq!(said.code, 1, "{said:?}");
            let response = said.json();
            assert_eq!((&response["event"], &response["reqid"]), (&event.into(), &"refused".into()), "{said:?}");
            let result = &response["results"][0];
            assert_eq!(result["success"], false, "{said:?}");
            assert!(result["error"].as_str().is_some_and(|error| error.contains("no space")), "{said:?}");
        }
        fs::remove_file(filler).unwrap();
        recovered(&host);
    }
    assert_eq!(host.pids(), pids);
    assert_eq!(host.requests("refused").len(), 0, "not journaled");
    drop(agent);
    host.end_all();
    drop(small);
}

#[test]
fn an_import_that_does_not_fit_leaves_nothing_and_an_export_neither() {
    let host = Host::new();
    let agent = host.start();
    for number in 0..100 {
        host.ask(&format!("l-{number}"), large());
    }
    let file = host.dir.path().join("exported").display().to_string();
    let told = host.json(&["journal", "export", &file, "--json"]);
    agent.kill();

    let other = Host::new();
    let Some(small) = Small::mount(other.state_dir(), "32m") else { return };
    let filler = fill(&small.0, 4 * MIB);
    let said = other.run(&["journal", "import", &file]);
    assert!(said.code == 1 && said.stderr.contains("no space"), "{said:?}");
    let left: Vec<_> = fs::read_dir(other.state_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the lock and the filler: {left:?}");
    let too_small = other.state_dir().join("copy").display().to_string();
    let said = host.run(&["journal", "export", &too_small]);
    assert!(said.code == 1 && said.stderr.contains("No space left"), "{said:?}");
    assert!(!other.state_dir().join("copy").exists() && !other.state_dir().join("copy.partial").exists());
    fs::remove_file(filler).unwrap();
    let imported = other.json(&["journal", "import", &file, "--json"]);
    assert_eq!(imported["exported_head"], told["head"]);
    let agent = other.start();
    other.verify();
    drop(agent);
    other.end_all();
    drop(small);
}

#[test]
fn whoever_wants_the_agent_to_end_does_not_have_to_make_space_first() {
    let mut host = Host::new();
    let Some((small, agent, pids)) = deployed_without_floors(&mut host) else { return };
    let filler = fill(&small.0, 2 * MIB);
    until_refused(&host);
    fill(&small.0, 0);
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(1), "its end is not journaled");
    assert!(host.read_log().contains("no space"), "{}", host.read_log());
    fs::remove_file(filler).unwrap();
    let agent = host.start();
    assert_eq!(host.pids(), pids);
    host.verify();
    drop(agent);
    host.end_all();
    drop(small);
}

/// As after the kernel has made a file system read-only under open files.
fn failing(host: &Host, agent: &Agent, error: &str) -> Faults {
    Faults::begin(agent, &[host.state_dir().join("journal/db")], "pwrite64,fdatasync", error, Which::Each)
}

#[test]
fn a_disk_that_turns_read_only_is_waited_for_without_a_restart() {
    for (error, why) in [("EROFS", "read-only"), ("ENOSPC", "no space")] {
        let host = Host::new();
        let (agent, pids) = deployed(&host);
        let failing = failing(&host, &agent, error);
        let mut client = host.client();
        let call = client.submit("caught", Request::GetNodes {}, Dialect::Management, None).unwrap();
        eventually("requests to be refused", || {
            (host.run(&["request", "get-nodes", "--reqid", "not-used-up"]).code == 1).then_some(())
        });
        check_refusing(&host, why);
        assert_eq!(host.pids(), pids, "nodes untouched");
        failing.end();
        let answer = client.answer(call, within_ms(30_000)).unwrap();
        let Answer::Response(caught) = answer else { panic!("{answer:?}") };
        recovered(&host);
        assert_eq!(host.client().welcome().pid, agent.pid(), "{error}: the same process");
        assert_eq!(host.ask("caught", Request::GetNodes {}), caught);
        assert_eq!(host.pids(), pids);
        host.verify();
        agent.kill();
        let _agent = host.start();
        assert_eq!(host.status().hold, None);
        host.verify();
    }
}

#[test]
fn a_file_system_that_the_kernel_makes_read_only_is_said_to_be_so_and_loses_nothing() {
    let host = Host::new();
    let Some(mounted) = Small::ext4(host.state_dir(), &host.dir.path().join("image")) else { return };
    let (agent, pids) = deployed(&host);
    let answered: Vec<(String, Response)> = (0..10)
        .map(|number| {
            let reqid = format!("before-{number}");
            let response = host.ask(&reqid, Request::GetNodes {});
            (reqid, response)
        })
        .collect();
    mounted.abort();
    let mut client = host.client();
    let call = client.submit("caught", Request::GetNodes {}, Dialect::Management, None).unwrap();
    eventually("requests to be refused", || {
        (host.run(&["request", "get-nodes", "--reqid", "not-used-up"]).code == 1).then_some(())
    });
    check_refusing(&host, "read-only");
    assert!(client.answer(call, within_ms(100)).is_err(), "it is not durable");
    assert_eq!(host.pids(), pids, "nodes untouched");
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(1));
    assert!(pids.values().all(|pid| is_alive(*pid)), "nodes untouched");

    // No kernel makes such a file system writable without mounting it anew, and for that everybody has to leave it.
    eventually("everybody to leave", || {
        let left = host.processes(&host.mark);
        left.iter().for_each(|pid| kill(*pid, Signal::KILL, Some(&host.mark)));
        left.is_empty().then_some(())
    });
    mounted.again();
    let said = host.run(&["journal", "verify"]);
    assert_eq!(said.code, 0, "{said:?}");
    let agent = host.start();
    assert_eq!(host.status().hold, None);
    for (reqid, response) in &answered {
        assert_eq!(&host.ask(reqid, Request::GetNodes {}), response, "{reqid}");
    }
    host.wait_all_running(2);
    host.verify();
    drop(agent);
    host.end_all();
    drop(mounted);
}

#[test]
fn an_error_of_the_disk_itself_ends_the_agent_and_nodes_run_on() {
    let host = Host::new();
    let (agent, pids) = deployed(&host);
    let failing = failing(&host, &agent, "EIO");
    let mut client = host.client();
    client.submit("caught", Request::GetNodes {}, Dialect::Management, None).unwrap();
    assert_eq!(agent.wait().code(), Some(1));
    failing.end();
    assert!(host.read_log().contains("Input/output error"), "{}", host.read_log());
    assert!(pids.values().all(|pid| is_alive(*pid)));
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(host.status().hold, None);
    host.verify();
}

#[test]
fn a_full_disk_refuses_requests_with_the_reason_keeps_nodes_and_recovers_by_itself() {
    let mut host = Host::new();
    // Dropped after the host: declared before what uses it ends.
    let Some(small) = Small::mount(host.state_dir(), "64m") else { return };
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "16MiB").set("ZCA_SPACE_FLOOR_FACTS", "8MiB");
    let (mut agent, pids) = deployed(&host);
    let answer = host.ask("first", set(cluster(TWO)));
    for (left, what) in [(12 * MIB, "below the floor for requests"), (4 * MIB, "below the floor for facts")] {
        let filler = fill(&small.0, left);
        let file = host.cluster_file("b.ini", &[("w9", "")]);
        eventually("requests to be refused", || {
            let said = host.run(&["request", "get-nodes"]);
            (said.code == 1).then(|| {
                assert!(said.stderr.contains("refused: no space"), "{what}: {said:?}");
                assert!(said.stderr.contains("MiB"), "{what}: {said:?}");
            })
        });
        // What is stored is still answered while requests alone are refused.
        if left > 8 * MIB {
            let again = host.ask("first", set(cluster(TWO)));
            assert_eq!(again, answer);
        }
        let said = host.run(&["request", "set-configuration", &file, "--reqid", "full"]);
        assert_eq!(said.code, 1, "{what}: {said:?}");
        assert!(said.stderr.contains("refused: no space"), "{what}: {said:?}");
        let status = host.json(&["status", "--json"]);
        assert!(status["journal"]["refusing"].as_str().is_some_and(|why| why.contains("no space")), "{what}: {status}");
        assert!(status["refused"].as_u64().unwrap() > 0, "refusals are counted: {status}");
        assert_eq!(host.pids(), pids, "{what}");
        // Whoever wants the agent to end does not have to make space first.
        agent.signal(Signal::TERM);
        assert_eq!(agent.wait().code(), Some(0), "{what}");
        agent = host.start();
        assert_eq!(host.pids(), pids, "{what}");
        fs::remove_file(filler).unwrap();
        eventually("requests to be taken in again", || {
            let said = host.run(&["request", "get-nodes", "--reqid", &format!("fine-{left}")]);
            (said.code == 0).then_some(())
        });
        assert_eq!(host.pids(), pids);
    }
    // The refused reqid was not used up.
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "full"]).code, 0);
    host.verify();

    // Full to the last byte with nobody there; nodes write what they like.
    agent.kill();
    let filler = fill(&small.0, 0);
    let said = run_to_end(&host, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("no space") && said.stderr.contains("journal"), "{said:?}");
    assert!(pids.values().all(|pid| is_alive(*pid)), "nodes untouched");
    fs::remove_file(filler).unwrap();
    let agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(host.status().hold, None);
    host.verify();

    // With a ballast file there is something to give back.
    agent.kill();
    host.set("ZCA_BALLAST_SIZE", "4MiB").set("ZCA_SPACE_FLOOR_REQUESTS", "1MiB").set("ZCA_SPACE_FLOOR_FACTS", "1MiB");
    let agent = host.start();
    let ballast = host.state_dir().join("journal.ballast");
    assert!(ballast.exists());
    agent.kill();
    fill(&small.0, 0);
    let _agent = host.start();
    assert!(!ballast.exists(), "given back");
    assert_eq!(host.pids(), pids);
    // It is not for requests.
    check_refusing(&host, "no space");
    kill(pids["w1"], Signal::KILL, Some(&host.mark));
    eventually("w1 again", || host.pids().get("w1").copied().filter(|pid| *pid != pids["w1"]));
    drop(_agent);
    // Its nodes hold the mount; they go first.
    host.end_all();
    drop(small);
}

#[test]
fn a_read_only_disk_ends_the_start_with_its_name_and_leaves_nodes_alone() {
    let host = Host::new();
    let (agent, pids) = deployed(&host);
    agent.kill();
    let journal = host.state_dir().join("journal");
    let Some(read_only) = Small::read_only(journal.clone()) else { return };
    let said = run_to_end(&host, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("read-only") && said.stderr.contains(&journal.display().to_string()), "{said:?}");
    assert!(pids.values().all(|pid| is_alive(*pid)));
    drop(read_only);
    let agent = host.start();
    assert_eq!(host.pids(), pids);
    assert_eq!(host.status().hold, None, "it was never taken for damage");
    agent.kill();

    // The whole directory.
    let Some(read_only) = Small::read_only(host.state_dir()) else { return };
    let said = run_to_end(&host, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    let told = &said.stderr;
    assert!(told.contains("Read-only") && told.contains(&host.state_dir().display().to_string()), "{said:?}");
    assert!(pids.values().all(|pid| is_alive(*pid)));
    drop(read_only);
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
}

//! Hold mode, through the real binary: what was asked before it does nothing until somebody says so.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::journal::{Journal, Options};

use crate::support::{Agent, Host, cluster, errors, eventually, is_alive, set};

const TWO: &[(&str, &str)] = &[("w1", ""), ("w2", "")];

/// The newest entry of a journal whose file is zeros from `at` on, and nothing beside it that knows better.
fn newest(state_dir: &Path, at: u64) -> u64 {
    let scratch = tempfile::tempdir().unwrap();
    let journal = scratch.path().join("journal");
    fs::create_dir(&journal).unwrap();
    for entry in fs::read_dir(state_dir.join("journal")).unwrap().map(Result::unwrap) {
        // A snapshot tells of what is cut off here.
        if entry.path().is_file() && !entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::copy(entry.path(), journal.join(entry.file_name())).unwrap();
        }
    }
    zero(&journal, at);
    let options = Options { ballast_bytes: 0, request_floor: 0, fact_floor: 0, ..Options::default() };
    Journal::<()>::open(scratch.path(), &options).unwrap().recovered.last.0
}

fn zero(journal: &Path, at: u64) {
    let file = OpenOptions::new().write(true).open(journal.join("db")).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0; usize::try_from(length - at).unwrap()], at).unwrap();
}

/// Zeros the tail of the journal so that entry `last` is the newest that is left.
fn lose_after(state_dir: &Path, last: u64) {
    let journal = state_dir.join("journal");
    let (mut low, mut high) = (0, fs::metadata(journal.join("db")).unwrap().len());
    while high - low > 1 {
        let middle = low.midpoint(high);
        if newest(state_dir, middle) <= last { low = middle } else { high = middle }
    }
    assert_eq!(newest(state_dir, low), last, "its acceptance was durable before it was acted upon");
    zero(&journal, low);
}

/// Deploy, standby, deploy; the agent is killed, and its journal forgets what came after the standby's acceptance.
fn lost_tail() -> (Host, Agent) {
    let host = Host::new();
    let agent = host.start();
    for (reqid, request) in [
        ("first", set(cluster(TWO))),
        ("standby", Request::AgentStandby {}),
        ("second", set(cluster(&[("w1", ""), ("w2", ""), ("w3", "")]))),
    ] {
        let answer = host.ask(reqid, request);
        assert!(answer.success(), "{}", errors(&answer));
    }
    let standby = host.requests("standby")[0].seq.0;
    let pids = host.pids();
    assert_eq!(pids.len(), 3);
    agent.kill();
    lose_after(&host.state_dir(), standby);
    let agent = host.start();
    let entered = host.events("hold_entered");
    assert!(entered[0].2.to_string().contains("has lost its newest entries"), "{entered:?}");
    assert_eq!(host.events("hold_ended"), [], "nothing that was asked before ends it");
    assert!(host.status().hold.is_some());
    assert!(pids.values().all(|pid| is_alive(*pid)), "all nodes run on");
    assert_eq!(host.pids(), pids, "and are known");
    assert_eq!(host.events("node_exited"), [], "nothing was stopped");
    (host, agent)
}

fn waiting(host: &Host) -> Vec<Value> {
    let listed = host.json(&["requests", "list", "--json"]);
    let status = host.json(&["status", "--json"]);
    let listed = listed.as_array().unwrap().clone();
    let told = status.get("waiting_requests").map_or_else(Vec::new, |told| told.as_array().unwrap().clone());
    assert_eq!(told, listed, "status tells the same");
    listed
}

#[test]
fn a_standby_from_before_the_loss_waits_and_a_new_configuration_takes_its_place() {
    let (host, agent) = lost_tail();
    let pids = host.pids();
    let [standby] = waiting(&host).try_into().unwrap();
    assert_eq!((&standby["reqid"], &standby["event"]), (&json!("standby"), &json!("agent_standby_request")));
    // It does so through any number of starts.
    agent.kill();
    let agent = host.start();
    assert_eq!(waiting(&host), std::slice::from_ref(&standby));
    agent.signal(rustix::process::Signal::TERM);
    agent.wait();
    let _agent = host.start();
    assert_eq!(waiting(&host), [standby]);
    assert_eq!(host.pids(), pids);
    let text = host.run(&["status"]).stdout;
    assert!(text.contains("1 of them waits since before hold mode") && text.contains("requests list"), "{text}");

    let answer = host.ask("third", set(cluster(&[("w1", ""), ("w2", ""), ("w3", "")])));
    assert!(answer.success(), "{}", errors(&answer));
    assert_eq!(host.status().hold, None);
    assert_eq!(waiting(&host), [] as [Value; 0]);
    let answer = host.ask("standby", Request::AgentStandby {});
    assert!(errors(&answer).contains("superseded by request"), "{}", errors(&answer));
    assert_eq!(host.pids().len(), 3);
    host.verify();
}

#[test]
fn a_waiting_standby_can_be_resumed() {
    let (host, _agent) = lost_tail();
    let pids = host.pids();
    let said = host.run(&["requests", "resume", "standbyx"]);
    assert!(said.code == 1 && said.stdout.contains("requests list"), "{said:?}");
    let said = host.run(&["requests", "resume", "standby", "--reqid", "resume"]);
    assert_eq!(said.code, 0, "{said:?}");
    eventually("all nodes to be stopped", || pids.values().all(|pid| !is_alive(*pid)).then_some(()));
    let answer = host.ask("standby", Request::AgentStandby {});
    assert!(answer.success(), "{}", errors(&answer));
    assert_eq!(host.status().hold, None);
    assert_eq!(waiting(&host), [] as [Value; 0]);
    let rows = host.requests("resume");
    assert_eq!(rows[0].event, "resume_waiting_request", "who resumed it is in the journal");
    host.verify();
}

#[test]
fn a_waiting_standby_can_be_dropped_and_hold_mode_stays() {
    let (host, agent) = lost_tail();
    let pids = host.pids();
    let seq = waiting(&host)[0]["seq"].as_u64().unwrap();
    let said = host.run(&["requests", "drop", &format!("#{seq}"), "--reqid", "drop"]);
    assert_eq!(said.code, 0, "{said:?}");
    let answer = host.ask("standby", Request::AgentStandby {});
    assert!(errors(&answer).contains("dropped by an operator"), "{}", errors(&answer));
    assert_eq!(waiting(&host), [] as [Value; 0]);
    assert!(host.status().hold.is_some(), "nobody has said what is to run");
    agent.kill();
    let _agent = host.start();
    assert!(host.status().hold.is_some());
    assert_eq!(host.pids(), pids);
    // Nothing waits under that name any more, and the same answer comes for the same reqid.
    assert_eq!(host.run(&["requests", "drop", "standby"]).code, 1);
    assert_eq!(host.run(&["requests", "drop", &format!("#{seq}"), "--reqid", "drop"]).code, 0);
    host.verify();
}

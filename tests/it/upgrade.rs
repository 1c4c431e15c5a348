//! A change that release 1 had accepted and not finished when it was killed: the agent that comes after it brings the journal to its
//! own format, and everybody gets the true answer, and the same one ever after.
//!
//! `tests/data/release-1/unfinished.tgz` is the state directory that such an agent left, and `answers.json` what it had said of an
//! earlier change. `ZCA_TEST_RELEASE_1` names a binary of that release: then it is run instead, its nodes are there to be adopted, and
//! what it leaves is written to `ZCA_TEST_RELEASE_1_LEAVES`, a directory, if that is set.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use zeek_cluster_agent::api::audit::RequestState;
use zeek_cluster_agent::api::event::{Dialect, Request, Response};

use crate::broker;
use crate::raw_peer::RawPeer;
use crate::support::{BINARY, Host, cluster, errors, eventually};
use crate::websocket::{BOTH, Ws, address};

/// Told at its deadline, which was its outcome in that release.
const TIMED_OUT: &str = "timed-out";
/// Under way when that agent was killed.
const UNFINISHED: &str = "unfinished";

fn change(id: &str) -> Request {
    let mut config = cluster(&[("w1", "env = SIM_NOT_READY=1"), ("w2", "")]);
    config.id = id.to_owned();
    Request::Deploy { config, force: false, how: Box::default() }
}

fn port(host: &Host, starts: usize) -> u16 {
    eventually("the Broker listener", || {
        let log = host.read_log();
        let mut places = log.lines().filter_map(|line| line.split_once("Broker peers are accepted at "));
        let (_, place) = places.nth(starts - 1)?;
        Some(place.split(',').next()?.parse::<SocketAddr>().ok()?.port())
    })
}

/// What is answered over both: as it was sent.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    websocket: String,
    broker: Vec<u8>,
}

fn told(host: &Host, starts: usize, reqid: &str, request: &Request) -> (Told, Response) {
    let mut ws = Ws::connect(address(host, starts), &BOTH);
    ws.ask(Dialect::Management, reqid, request);
    let (websocket, _, response) = ws.response(reqid);
    let mut peer = RawPeer::connect(port(host, starts));
    peer.ask(reqid, request);
    let (broker, over_broker) = peer.response(reqid);
    assert_eq!(over_broker, response, "one answer over both");
    (Told { websocket, broker }, response)
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/release-1")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn host() -> Host {
    let mut host = broker::host();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0");
    host
}

/// A host on which release 1 was killed, how often agents were started on it, and what it had answered about [`TIMED_OUT`].
fn left_by_release_1() -> (Host, usize, Value) {
    let mut host = host();
    let Some(binary) = std::env::var_os("ZCA_TEST_RELEASE_1") else {
        fs::create_dir(host.state_dir()).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(data().join("unfinished.tgz")).arg("-C").arg(host.state_dir());
        assert!(tar.status().unwrap().success());
        let answers = fs::read_to_string(data().join("answers.json")).unwrap();
        return (host, 0, serde_json::from_str(&answers).unwrap());
    };
    host.binary = binary.into();
    host.set("ZCA_REQUEST_TIMEOUT", "1s");
    let agent = host.spawn();
    let (answer, response) = told(&host, 1, TIMED_OUT, &change("first"));
    assert!(errors(&response).contains("request timed out"), "{response:?}");
    agent.kill();
    host.set("ZCA_REQUEST_TIMEOUT", "1h");
    let agent = host.spawn();
    let mut ws = Ws::connect(address(&host, 2), &BOTH);
    ws.ask(Dialect::Management, UNFINISHED, &change("second"));
    eventually("the request to be under way", || {
        let said = host.run(&["journal", "dump", "--kind", "all", "--format", "json"]);
        let begun = said.stdout.lines().any(|line| line.contains("\"launch_intended\"") && line.contains("\"w2\""));
        (begun && said.stdout.contains(UNFINISHED)).then_some(())
    });
    agent.kill();
    let answers = json!({"websocket": answer.websocket, "broker_hex": hex(&answer.broker)});
    if let Some(leaves) = std::env::var_os("ZCA_TEST_RELEASE_1_LEAVES") {
        let leaves = PathBuf::from(leaves);
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "-czf"]).arg(leaves.join("unfinished.tgz")).arg("-C").arg(host.state_dir());
        assert!(tar.args(["IDENTITY", "journal", "journal.mark"]).status().unwrap().success());
        fs::write(leaves.join("answers.json"), format!("{answers:#}\n")).unwrap();
    }
    host.binary = BINARY.into();
    (host, 2, answers)
}

#[test]
fn a_change_that_release_1_left_unfinished_gets_its_true_answers_and_keeps_them() {
    let (mut host, before, answers) = left_by_release_1();
    host.set("ZCA_REQUEST_TIMEOUT", "1s");
    let mut starts = before + 1;
    let agent = host.start();
    assert!(host.read_log().contains("brought from format 2 to 3"), "{}", host.read_log());
    // What that release had answered is answered as it did.
    let is_as_before = |starts| {
        let (again, _) = told(&host, starts, TIMED_OUT, &change("first"));
        assert_eq!(again.websocket, answers["websocket"].as_str().unwrap());
        assert_eq!(hex(&again.broker), answers["broker_hex"].as_str().unwrap());
    };
    is_as_before(starts);
    // What it had not is under way still: those with a deadline are told so.
    let unfinished = change("second");
    let (at_deadline, response) = told(&host, starts, UNFINISHED, &unfinished);
    let pending = response.results.iter().find(|one| one.node.as_deref() == Some("w1")).unwrap();
    let reason = "not ready yet (it runs and has not checked in); supervision goes on";
    assert_eq!(pending.error.as_deref(), Some(reason), "{response:?}");
    assert_eq!(host.requests(UNFINISHED)[0].state, RequestState::Handling);

    agent.kill();
    starts += 1;
    let agent = host.start();
    is_as_before(starts);
    assert_eq!(told(&host, starts, UNFINISHED, &unfinished).0, at_deadline, "after kill -9");
    // The other is gone by retention; what is under way never goes.
    host.json(&["journal", "prune", "--keep", "0", "--json"]);
    assert!(host.requests(TIMED_OUT).is_empty());
    assert_eq!(told(&host, starts, UNFINISHED, &unfinished).0, at_deadline, "after retention of the other");

    // The outcome is the truth, for who waits for it.
    assert_eq!(host.run(&["notify", "--ready", "--node", "w1"]).code, 0);
    let outcome = host.ask(UNFINISHED, unfinished.clone());
    assert!(outcome.success(), "{}", errors(&outcome));
    assert_eq!(told(&host, starts, UNFINISHED, &unfinished).0, at_deadline, "beside its outcome");
    let row = host.requests(UNFINISHED).remove(0);
    assert_eq!((row.state, row.deadline_response.as_ref()), (RequestState::Completed, Some(&response)), "{row:?}");
    agent.kill();
    starts += 1;
    let _agent = host.start();
    for number in 0..3 {
        host.ask(&format!("other-{number}"), Request::GetNodes {});
    }
    assert_eq!(told(&host, starts, UNFINISHED, &unfinished).0, at_deadline, "after kill -9, with its outcome");
    assert_eq!(host.ask(UNFINISHED, unfinished), outcome);
    host.verify();
}

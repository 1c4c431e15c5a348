//! What is refused says so, and what is not taken is kept: shortage of space, and subscribers of one topic.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use zeek_cluster_agent::api::event::{Dialect, Request};
use zeek_cluster_agent::control::client::{Answer, Error, within_ms};
use zeek_cluster_agent::control::message::Publication;

use crate::support::{AGENT, Agent, BINARY, Host, cluster, errors, eventually, set};

#[test]
fn without_any_space_requests_are_refused_at_once_and_the_agent_still_ends() {
    let mut host = Host::new();
    host.set("ZCA_SPACE_FLOOR_REQUESTS", "1000000000GiB").set("ZCA_SPACE_FLOOR_FACTS", "1000000000GiB");
    let agent = host.start();
    let mut client = host.client();
    for reqid in ["one", "two", "three"] {
        let answer = client.request(reqid, Request::GetNodes {}, Dialect::Management, None, within_ms(10_000));
        let Ok(Answer::Refused(reason)) = answer else { panic!("{reqid}: {answer:?}") };
        assert!(reason.starts_with("no space: "), "{reason}");
    }
    eventually("the refusals to be counted", || (host.status().refused == 3).then_some(()));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
}

#[test]
fn control_connections_without_a_place_are_told_so_and_counted_in_the_log() {
    const MOST: usize = 256;
    let host = Host::new();
    let agent = host.start();
    let connect = || UnixStream::connect(host.socket()).unwrap();
    let inside: Vec<UnixStream> = (0..MOST).map(|_| connect()).collect();
    // Which of them the agent knows of is seen by who is not let in.
    let told = |mut stream: UnixStream| {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).contains("256 control connections are open")
    };
    let turned_away = (0..50).filter(|_| told(connect())).count();
    assert_eq!(turned_away, 50);
    let said = host.run(&["status"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains("256 control connections are open, which is the most; try again later"), "{said:?}");
    drop(inside);
    eventually("a place", || (host.run(&["status"]).code == 0).then_some(()));
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let log = host.read_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("turned away")).collect();
    assert!((1..=3).contains(&lines.len()), "{lines:?}");
    let more = lines.iter().filter_map(|line| line.split_once(" more control connections were turned away"));
    let more: usize = more.map(|(before, _)| before.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert!(more >= 50, "50 and whoever asked meanwhile, less the first: {lines:?}");
}

/// Each node takes the agent some descriptors. Its nodes get what it was started with.
#[test]
fn more_nodes_than_the_soft_limit_of_open_files_has_room_for() {
    const FEW: u64 = 96;
    let mut host = Host::new();
    host.set("ZCA_REQUEST_TIMEOUT", "60");
    let mut command = Command::new("sh");
    host.prepare(&mut command);
    let lowered = format!("ulimit -S -n {FEW} && exec \"$0\" \"$@\"");
    command.args(["-c", &lowered, BINARY]).args(host.run_args()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent = Agent { child: command.spawn().unwrap() };
    host.wait_served(&mut agent);
    let names: Vec<String> = (0..FEW).map(|number| format!("w{number:02}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let answer = host.ask_until_answered("r", &set(cluster(&nodes)));
    assert!(answer.success(), "{}", errors(&answer));
    let soft = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(soft(host.pids()["w00"]), FEW.to_string());
    assert_ne!(soft(agent.pid()), FEW.to_string());
}

#[test]
fn an_undelivered_response_waits_for_a_peer_of_its_own_topic() {
    let host = Host::new();
    let _agent = host.start();
    let mut asker = host.client();
    asker.submit("lost", Request::Restart { nodes: Default::default() }, Dialect::ClusterAgent, None).unwrap();
    // Half of a frame: the connection ends before its answer can be read.
    drop(asker);
    let mut other = host.client();
    other.subscribe(&[&format!("zeek/management/agent/{AGENT}")], within_ms(5_000)).unwrap();
    // Its hello shows that the subscription has been acted on.
    other.next_publication(within_ms(10_000)).unwrap();
    eventually("the request's outcome", || {
        host.requests("lost").first().and_then(|row| row.completed_at.clone()).map(drop)
    });
    let nothing = other.next_publication(within_ms(200));
    assert!(matches!(nothing, Err(Error::TimedOut)), "{nothing:?}");
    let mut own = host.client();
    own.subscribe(&[&format!("zeek/cluster-control/agent/{AGENT}")], within_ms(5_000)).unwrap();
    let deadline = within_ms(Duration::from_secs(10).as_millis() as u64);
    loop {
        match own.next_publication(deadline).expect("the response") {
            (_, Publication::Response(response)) => return assert_eq!(response.reqid.as_str(), "lost"),
            (_, Publication::Notification(_)) => {}
        }
    }
}

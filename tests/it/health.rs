//! Nodes that cannot start or do not stay: what is said about them, and that nobody else waits.

use std::net::TcpListener;
use std::time::Instant;

use zeek_cluster_agent::api::event::{Request, Response};
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Host, cluster, errors};

fn deploy(nodes: &[(&str, &str)]) -> Request {
    Request::Deploy { config: cluster(nodes), force: false, how: Box::default() }
}

fn error_of<'a>(response: &'a Response, node: &str) -> &'a str {
    let result = response.results.iter().find(|result| result.node.as_deref() == Some(node));
    result.and_then(|result| result.error.as_deref()).unwrap_or_else(|| panic!("no error of {node}: {response:?}"))
}

#[test]
fn a_port_in_use_is_waited_for_and_whoever_has_it_is_named() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = squatter.local_addr().unwrap().port();
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "2s");
    let _agent = host.start();
    let begun = Instant::now();
    let answer = host.ask("r", deploy(&[("logger:logger", &format!("port = {port}")), ("w1", ""), ("w2", "")]));
    let named = format!("port {port}/tcp is taken by ");
    let occupant = format!("(pid {}, uid {})", std::process::id(), rustix::process::geteuid().as_raw());
    let said = error_of(&answer, "logger");
    assert!(said.starts_with(&named) && said.ends_with(&occupant), "{said}");
    let nodes = host.nodes();
    assert_eq!(nodes["logger"].state, NodeState::Pending);
    assert_eq!(nodes["logger"].note.as_deref(), Some(said));
    for worker in ["w1", "w2"] {
        assert_eq!(nodes[worker].state, NodeState::Running, "{worker} waited for a port of another");
        let up_ms = nodes[worker].up_ms.unwrap();
        println!("{worker} was up {} ms after the request", begun.elapsed().as_millis() - u128::from(up_ms));
    }
    let told = host.read_log().matches("logger is not started: port").count();
    assert_eq!(told, 1, "{}", host.read_log());
    drop(squatter);
    let freed = Instant::now();
    let report = host.wait_state("logger", NodeState::Running);
    println!("the logger ran {} ms after its port was free", freed.elapsed().as_millis());
    assert_eq!((report.incarnation, report.deaths), (1, 0), "nothing was launched while the port was taken");
}

#[test]
fn an_early_exit_with_code_1_is_told_with_its_last_words() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = squatter.local_addr().unwrap().port();
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "2s");
    let _agent = host.start();
    // A port that the configuration does not name, as a script could open one.
    let answer = host.ask("r", deploy(&[("w1", &format!("env = SIM_PORT={port}")), ("w2", "")]));
    let words = format!("cannot listen on 127.0.0.1:{port}");
    let said = error_of(&answer, "w1");
    assert!(said.contains("ended with code 1 within 2 s of its start") && said.contains(&words), "{said}");
    let outputs = answer.results.iter().find(|result| result.node.as_deref() == Some("w1")).unwrap();
    assert!(format!("{:?}", outputs.data).contains(&words), "{outputs:?}");
    assert!(host.nodes()["w1"].note.as_deref().unwrap().contains(&words));
    let told = host.read_log().lines().any(|line| line.contains("w1 ended with code 1") && line.contains(&words));
    assert!(told, "{}", host.read_log());
    drop(squatter);
    let report = host.wait_state("w1", NodeState::Running);
    assert_eq!(report.note, None, "{}", errors(&answer));
}

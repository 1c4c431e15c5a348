//! A controller's request, and SIGKILL at each point between its arrival and its answer: the agent dials the controller again, and
//! what was accepted is answered there, unasked, once.

#![cfg(feature = "crash-points")]

use serde_json::json;

use crate::broker::{CONTROLLER, config, host};
use crate::peers::Peers;
use crate::support::eventually;

fn crash(point: &str) {
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    let at = peers.ok("listen", json!({"endpoint": "c"}));
    let mut host = host();
    let once = host.dir.path().join("crashed");
    host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}")).set("ZCA_LISTEN", "off");
    host.set("ZCA_CRASH_AT", point).set("ZCA_CRASH_ONCE", &once.display().to_string());
    let agent = host.start();
    peers.ok("accepted", json!({"endpoint": "c", "name": "before", "count": 1}));
    let deploy = || json!({"config": config("c1", &["w1", "w2"], &json!({}))});
    peers.begin("before", "management", "deploy", "d", deploy());
    agent.wait_crashed(&host);

    let _agent = host.start();
    peers.ok("accepted", json!({"endpoint": "c", "name": "after", "count": 2}));
    if point == "before_accept" {
        // Nobody has ever heard of it: that is why controllers repeat what was not answered.
        peers.begin("after", "management", "deploy", "d", deploy());
    }
    let first = peers.answer("after", "management", "deploy", "d");
    let nodes: Vec<_> = first.as_array().unwrap().iter().map(|one| (&one["node"], &one["success"])).collect();
    assert_eq!(nodes, [(&json!("w1"), &json!(true)), (&json!("w2"), &json!(true))], "{point}");
    let pids = host.pids();
    peers.begin("after", "management", "deploy", "d", deploy());
    // In order, so what it leads to is there when this is answered.
    peers.ask("after", "management", "agent_welcome", "w", json!({}));
    let events = peers.ok("events", json!({"peering": "after"}));
    let is_it = |event: &&serde_json::Value| event["event"].as_str().unwrap().ends_with("::deploy_response");
    let answers: Vec<_> = events.as_array().unwrap().iter().filter(is_it).map(|event| &event["args"]).collect();
    assert_eq!(answers.len(), 2, "{point}: {answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{point}: {answers:?}");

    assert_eq!((host.requests("d").len(), host.pids()), (1, pids), "{point}");
    eventually("one process for each node", || {
        ["w1", "w2"].iter().all(|node| host.node_processes(node).len() == 1).then_some(())
    });
    peers.is_content("after");
    host.verify();
}

macro_rules! crashes {
    ($($name:ident)*) => {
        $(#[test] fn $name() { crash(stringify!($name)); })*
    };
}

crashes! {
    before_accept after_accept
    before_plan after_plan
    before_outcome after_outcome
    before_response_sent after_response_sent
}

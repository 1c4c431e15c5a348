//! What a real Zeek controller said to a real agent, said to ours: it gives the answers that the real one gave, field for
//! field, but for ids that each draws, pids, and the order of Results, which is arbitrary there.

use serde_json::{Value, json};

use crate::broker::{host, port};
use crate::peers::Peers;
use crate::support::eventually;

const RECORDED: &str = include_str!("../data/vectors/zeek-8.0.10-management-transcript.json");
const INSTANCE: &str = "instance-1";

/// The payload of a recorded frame, without its length.
fn payload(frame: &Value) -> &str {
    &frame["frame_hex"].as_str().unwrap()[8..]
}

/// The arguments, without what is different in each run.
fn comparable(event: &str, args: &Value) -> Value {
    let mut args = args.clone();
    match event.rsplit("::").next().unwrap() {
        "get_nodes_response" => {
            // The real one lists the controller, too, which ran under the same Supervisor.
            let statuses = args[1][3].as_array_mut().unwrap();
            statuses.retain(|status| status[0] != "controller");
            statuses.iter_mut().for_each(|status| status[4] = Value::Null);
            statuses.sort_by_key(|status| status[0].to_string());
        }
        "deploy_response" | "restart_response" => {
            args[1].as_array_mut().unwrap().sort_by_key(|result| result[5].to_string());
        }
        // Receivers ignore it; the real agent has the reqid of its own question there.
        "node_dispatch_response" => {
            args[1].as_array_mut().unwrap().iter_mut().for_each(|result| result[0] = Value::Null)
        }
        _ => {}
    }
    args
}

#[test]
fn the_recorded_conversation_gets_the_recorded_answers() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let frames = recorded["connections"][0]["frames"].as_array().unwrap();
    let mut host = host();
    host.set("ZEEK_AGENT_NAME", INSTANCE);
    let _agent = host.start();
    let port = port(&host);
    let mut peers = Peers::start();
    // The controller's id is the sender of what it says.
    let id = &payload(frames.iter().find(|frame| frame["type"] == "version_select").unwrap())[10..42];
    let filter = ["zeek/management/agent", "zeek/management/controller", "zeek/supervisor"];
    peers.ok("endpoint", json!({"name": "c", "filter": filter, "id": id}));
    peers.ok("dial", json!({"endpoint": "c", "name": "c", "port": port}));
    peers.ok("endpoint", json!({"name": "n", "filter": ["zeek/management/node"]}));
    peers.ok("dial", json!({"endpoint": "n", "name": "n", "port": port}));

    let (mut asked, mut answered) = (0, 0);
    for frame in frames.iter().filter(|frame| frame["type"] == "data") {
        let said = peers.ok("describe", json!({"hex": payload(frame)}));
        let Some(event) = said["event"].as_str() else {
            // The directed message with which Zeek announces a log.
            peers.ok("frame", json!({"peering": "c", "hex": payload(frame)}));
            continue;
        };
        if frame["from"] == "listener" {
            peers.ok("frame", json!({"peering": "c", "hex": payload(frame)}));
            asked += 1;
            if event.ends_with("::node_dispatch_request") {
                let node = said["args"][2]["set"][0].as_str().unwrap();
                peers.ok("node_hello", json!({"peering": "n", "node": node}));
                let question = peers.ok("node_dispatch", json!({"peering": "n"}));
                assert_eq!(question["action"], said["args"][1]);
                let answer = json!({"peering": "n", "node": node, "reqid": question["reqid"], "data": "\"1.0 day\""});
                peers.ok("node_answer", answer);
            }
        } else if event.ends_with("_response") {
            let ours = eventually(&format!("{event} {}", said["args"][0]), || {
                let events = peers.ok("events", json!({"peering": "c"}));
                let is_it = |one: &&Value| one["event"] == event && one["args"][0] == said["args"][0];
                events.as_array().unwrap().iter().find(is_it).cloned()
            });
            assert_eq!(ours["topic"], said["topic"]);
            assert_eq!(comparable(event, &ours["args"]), comparable(event, &said["args"]), "{event}");
            answered += 1;
        }
    }
    assert_eq!((asked, answered), (7, 7));
    peers.is_content("c");
}

//! `journal stats`: the same figures with an agent, without one, and from a copy.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Host, eventually};

#[test]
fn the_journal_is_told_in_figures() {
    let host = Host::new();
    let mut agent = host.start();
    for reqid in ["w-1", "w-2", "w-2", "w-2"] {
        assert_eq!(host.run(&["request", "welcome", "--reqid", reqid]).code, 0);
    }
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "w-1"]).code, 5, "a conflict");
    let elsewhere = host.file("else.ini", "[instances]\nb2 = 10.0.0.2\n[w1]\ninstance = b2\nrole = worker\n");
    assert_eq!(host.run(&["request", "set-configuration", &elsewhere, "--reqid", "elsewhere"]).code, 1);
    // A request whose handling is cut short once.
    let slow = host.cluster_file("slow.ini", &[("w1", "env = SIM_READY_AFTER_MS=1000")]);
    let mut asking = host.begin(&["request", "set-configuration", &slow, "--reqid", "slow"]);
    eventually("its node", || host.pids().get("w1").copied());
    agent.kill();
    agent = host.start();
    asking.wait().unwrap();
    eventually("its outcome", || host.requests("slow")[0].success);

    let live = host.json(&["journal", "stats", "--json"]);
    assert_eq!(live["states"], json!({"completed": 3, "conflict": 1, "rejected": 1}), "{live:#}");
    assert_eq!(live["requests"]["agent_welcome_request"]["count"], json!(2), "{live:#}");
    assert_eq!(live["requests"]["get_nodes_request"]["count"], json!(1), "the conflict: {live:#}");
    assert_eq!(live["requests"]["get_nodes_request"]["latency"], Value::Null, "{live:#}");
    assert_eq!(live["requests"]["set_configuration_request"]["count"], json!(2), "{live:#}");
    assert_eq!(live["requests"]["set_configuration_request"]["failed"], json!(1), "{live:#}");
    assert_eq!(live["failed"], json!(2), "{live:#}");
    assert_eq!(live["sources"], json!({"control": 5}), "{live:#}");
    assert_eq!((&live["duplicates"], &live["replays"], &live["unfinished"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(live["events"]["agent_started"], json!(2), "{live:#}");
    assert_eq!(live["nodes"]["w1"]["starts"], json!(1), "{live:#}");
    assert_eq!(live["nodes"]["w1"]["crashes"], json!({}), "{live:#}");
    assert!(live["nodes"]["w1"]["not_running_ms"].as_u64().unwrap() >= 990, "{live:#}");
    assert_eq!((&live["malformed"], &live["unreadable"]), (&json!(0), &json!(0)));
    let slowest = live["requests"]["set_configuration_request"]["latency"]["max_ms"].as_f64().unwrap();
    assert!(slowest >= 1000.0 * 0.99, "{live:#}");
    assert_eq!(live["latency"]["max_ms"].as_f64(), Some(slowest), "{live:#}");
    let number = |stats: &Value, field: &str| stats[field].as_u64().unwrap_or_else(|| panic!("{field}: {stats:#}"));
    assert_eq!(number(&live, "entries"), number(&live, "last"), "gapless from 1");
    assert!(
        number(&live, "bytes_live") > 0 && number(&live, "bytes_on_disk") > number(&live, "bytes_live"),
        "{live:#}"
    );
    assert!(live["open_ms"].as_f64().unwrap() > 0.0, "{live:#}");
    assert!(live["oldest"].as_str() < live["newest"].as_str(), "{live:#}");
    let verified = host.json(&["journal", "verify", "--json"]);
    assert!(verified["head"].is_string() && live["head"] == verified["head"], "{verified:#} {live:#}");
    let text = host.run(&["journal", "stats"]).stdout;
    assert!(text.contains("3 completed, 1 conflict, 1 rejected"), "{text}");
    assert!(text.contains("set_configuration_request"), "{text}");

    agent.kill();
    // What says how files lie differs; what was journaled does not.
    let told = |stats: &Value| {
        let mut stats = stats.clone();
        for field in ["bytes_on_disk", "open_ms"] {
            stats.as_object_mut().unwrap().remove(field);
        }
        stats
    };
    let offline = host.json(&["journal", "stats", "--json"]);
    assert_eq!(told(&offline), told(&live));
    assert!(number(&offline, "bytes_on_disk") > 0 && offline["open_ms"].as_f64().unwrap() > 0.0, "{offline:#}");
    let copy = host.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let from = host.state_dir().join("journal");
    let said = std::process::Command::new("cp").arg("-r").arg(&from).arg(&copy).status().unwrap();
    assert!(said.success());
    let copied = host.json(&["journal", "stats", "--json", "--dir", &copy.display().to_string()]);
    assert_eq!(told(&copied), told(&live));
}

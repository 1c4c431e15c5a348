//! What a new configuration does to the nodes that run: shown before, journaled, carried out.

use serde_json::{Value, json};

use crate::support::Host;

/// Node, action and reasons, as `config diff` shows them.
fn diff(host: &Host, file: &str, more: &[&str]) -> Vec<(String, String, Vec<String>)> {
    let plan = host.json(&[&["config", "diff", file, "--json"], more].concat());
    let nodes: Vec<Value> = plan["nodes"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let why = |node: &Value| node["why"].as_array().unwrap().iter().map(text).collect();
    nodes.iter().map(|node| (text(&node["node"]), text(&node["action"]), why(node))).collect()
}

#[test]
fn unchanged_nodes_run_on_where_that_is_the_strategy() {
    for (strategy, w1) in [("changed", "keep"), ("replace", "replace")] {
        let mut host = Host::new();
        host.set("ZCA_DEPLOY_STRATEGY", strategy);
        let agent = host.start();
        let first = host.cluster_file("a.ini", &[("w1", ""), ("w2", ""), ("w3", "")]);
        let new = |name: &str| (name.to_owned(), "start".to_owned(), vec!["new".to_owned()]);
        assert_eq!(diff(&host, &first, &[]), ["w1", "w2", "w3"].map(new));
        assert_eq!(host.run(&["request", "deploy", &first]).code, 0);
        let before = host.pids();

        let second = host.cluster_file("b.ini", &[("w1", ""), ("w2", "env = A=secret"), ("w4", "")]);
        let said = host.run(&["config", "diff", &second]);
        assert!(said.code == 0 && !said.stdout.contains("secret"), "{said:?}");
        assert!(said.stdout.contains("would take the place of"), "{said:?}");
        let plan = diff(&host, &second, &[]);
        let actions: Vec<_> = plan.iter().map(|(node, action, _)| (node.as_str(), action.as_str())).collect();
        assert_eq!(actions, [("w1", w1), ("w2", "replace"), ("w3", "stop"), ("w4", "start")]);
        assert_eq!(plan[1].2, ["environment (A)"]);
        assert_eq!(diff(&host, &second, &["--force"])[0].1, "replace");

        // As it was shown, and the journal has it before.
        let said = host.run(&["request", "deploy", &second]);
        assert_eq!(said.code, 0, "{said:?}");
        let after = host.pids();
        assert_eq!((after["w1"] == before["w1"], after["w2"] == before["w2"]), (w1 == "keep", false));
        assert_eq!(after.keys().collect::<Vec<_>>(), ["w1", "w2", "w4"]);
        let planned = host.events("desired_changed").pop().unwrap().2;
        let mut expected = json!({"w2": "up", "w3": "gone", "w4": "up"});
        if w1 == "replace" {
            expected["w1"] = json!("up");
        }
        assert_eq!(planned["nodes"], expected);
        let plan = host.json(&["config", "diff", &second, "--json"]);
        assert_eq!(plan["is_running"], true);

        // A crash changes nothing about it.
        agent.kill();
        let _agent = host.start();
        assert_eq!(host.pids(), after);
        host.verify();
    }
}

#[test]
fn a_configuration_that_would_be_rejected_has_no_plan() {
    let host = Host::new();
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("m:manager", "port = 2200"), ("l:logger", "port = 2200")]);
    let said = host.run(&["config", "diff", &file]);
    assert!(said.code == 78 && said.stdout.is_empty() && said.stderr.contains("2200"), "{said:?}");
}

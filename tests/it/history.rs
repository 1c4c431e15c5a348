//! The configurations that ran here: listed, shown, compared and deployed again.

use serde_json::{Value, json};

use crate::support::Host;

/// Deploys three configurations: w1 alone, then w1 and w2, then w2 and w3.
fn three(host: &Host) {
    let files = [
        host.cluster_file("a.ini", &[("w1", "interface = eth0")]),
        host.cluster_file("b.ini", &[("w1", "interface = eth1\nenv = A=secret"), ("w2", "")]),
        host.cluster_file("c.ini", &[("w2", ""), ("w3", "")]),
    ];
    for (file, reqid) in files.iter().zip(["a", "b", "c"]) {
        let said = host.run(&["request", "deploy", file, "--reqid", reqid]);
        assert_eq!(said.code, 0, "{said:?}");
    }
}

fn history(host: &Host) -> Vec<Value> {
    host.json(&["config", "history", "--json"]).as_array().unwrap().clone()
}

/// Place and reqid of each, newest first.
fn places(host: &Host) -> Vec<(Value, String)> {
    let all = history(host);
    all.iter().map(|one| (one["back"].clone(), one["reqid"].as_str().unwrap().to_owned())).collect()
}

fn place(back: u32, reqid: &str) -> (Value, String) {
    (json!(back), reqid.to_owned())
}

fn nodes(host: &Host) -> Vec<String> {
    host.pids().into_keys().collect()
}

#[test]
fn what_ran_is_listed_and_runs_again_by_one_command() {
    let host = Host::new();
    let agent = host.start();
    assert_eq!(history(&host), Vec::<Value>::new());
    let none = host.run(&["config", "show"]);
    assert!(none.code == 1 && none.stderr.contains("no configuration runs on this host"), "{none:?}");
    let none = host.run(&["request", "deploy", "@-1"]);
    assert!(none.code == 1 && none.stdout.contains("no configuration @-1 in the history"), "{none:?}");

    three(&host);
    assert_eq!(places(&host), [place(0, "c"), place(1, "b"), place(2, "a")]);
    let newest = &history(&host)[0];
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(newest["source"]["transport"], "control");
    assert!(newest["source"]["peer"].as_str().unwrap().starts_with(&format!("uid={uid} ")), "{newest}");
    let counts = ["nodes", "started", "replaced", "removed"].map(|key| newest[key].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1, 1]);
    assert!(newest["set_at"].is_string() && newest["ready_at"].is_string() && newest["ended_at"].is_null());
    let table = host.run(&["config", "history"]);
    assert!(table.code == 0 && table.stdout.lines().count() == 4, "{table:?}");
    assert!(table.stdout.contains("@-1") && table.stdout.contains("was ready"), "{table:?}");
    assert!(table.stdout.contains("2 here: 1 started, 1 replaced, 1 removed"), "{table:?}");

    // Shown as a file that says the same.
    let shown = host.run(&["config", "show", "@-1"]);
    assert!(shown.code == 0 && shown.stdout.contains("[w1]") && shown.stdout.contains("eth1"), "{shown:?}");
    let shown = host.json(&["config", "show", "@-1", "--json"]);
    let id = history(&host)[1]["id"].as_str().unwrap().to_owned();
    assert_eq!((&shown["id"], shown["nodes"].as_array().unwrap().len()), (&json!(id), 2));
    assert_eq!(host.json(&["config", "show", &id, "--json"]), shown);
    let unknown = host.run(&["config", "show", "@-9"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("no configuration @-9"), "{unknown:?}");

    // Old and new values; those of variables may be secrets.
    let said = host.run(&["config", "diff", "@-2", "@-1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("node w1: interface: eth0 -> eth1\n"), "{said:?}");
    assert!(said.stdout.contains("node w2: new\n") && !said.stdout.contains("secret"), "{said:?}");
    let said = host.run(&["config", "diff", "@-1"]);
    assert!(said.stdout.contains("node w3: gone\n") && said.stdout.contains("node w1: new\n"), "{said:?}");
    assert!(said.stdout.contains("stop: w2 w3\nstart: w1 w2\n"), "{said:?}");

    // Back, and what repeats the request gets the same answer, whatever ran meanwhile.
    let said = host.run(&["request", "deploy", "@-1", "--reqid", "back"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(nodes(&host), ["w1", "w2"]);
    assert_eq!(places(&host)[..2], [place(0, "back"), place(1, "c")]);
    let again = host.run(&["request", "deploy", "@-1", "--reqid", "back"]);
    assert_eq!((again.code, &again.stdout), (0, &said.stdout), "{again:?}");
    assert_eq!(nodes(&host), ["w1", "w2"]);
    assert_eq!(host.run(&["request", "deploy", "@-2", "--reqid", "back"]).code, 5);
    let over = host.run(&["request", "deploy", "@-1", "--via", "ws://127.0.0.1:1"]);
    assert!(over.code == 2 && over.stderr.contains("has no place in that API"), "{over:?}");

    // Nothing runs: there is no @0, and @-1 is what ran.
    assert_eq!(host.run(&["request", "standby"]).code, 0);
    assert_eq!(places(&host)[..2], [place(1, "back"), place(2, "c")]);
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.run(&["request", "deploy", "@-1"]).code, 0);
    assert_eq!(nodes(&host), ["w1", "w2"]);
    host.verify();
}

#[test]
fn what_never_was_ready_is_listed_and_has_no_place() {
    let mut host = Host::new();
    host.set("ZCA_READY_TIMEOUT", "1s");
    let _agent = host.start();
    let good = host.cluster_file("good.ini", &[("w1", "")]);
    let bad = host.cluster_file("bad.ini", &[("w1", ""), ("w2", "env = SIM_NOT_READY=1")]);
    assert_eq!(host.run(&["request", "deploy", &good, "--reqid", "good"]).code, 0);
    assert_eq!(host.run(&["request", "deploy", &bad, "--reqid", "bad"]).code, 1);
    assert_eq!(places(&host), [place(0, "bad"), place(1, "good")]);
    let table = host.run(&["config", "history"]);
    assert!(table.stdout.contains("not ready yet"), "{table:?}");
    assert_eq!(host.run(&["request", "deploy", "@-1", "--reqid", "back"]).code, 0);
    assert_eq!(places(&host), [place(0, "back"), (Value::Null, "bad".to_owned()), place(1, "good")]);
    assert_eq!(nodes(&host), ["w1"]);
}

#[test]
fn the_history_outlives_retention_and_an_import() {
    let host = Host::new();
    let agent = host.start();
    three(&host);
    let before = places(&host);
    for _ in 0..8 {
        assert_eq!(host.run(&["request", "get-nodes"]).code, 0);
    }
    let pruned = host.json(&["journal", "prune", "--keep", "2", "--json"]);
    assert!(pruned["requests"].as_u64().unwrap() >= 8, "{pruned}");
    assert!(["a", "b", "c"].iter().all(|reqid| host.requests(reqid).is_empty()), "their requests are gone");
    assert_eq!(places(&host), before);
    let kept: Vec<u64> = host.events("configuration_kept").iter().map(|row| row.2["set"].as_u64().unwrap()).collect();
    assert_eq!(kept.len(), 3, "each is stated again before it goes");
    agent.kill();
    let agent = host.start();
    assert_eq!(places(&host), before);
    host.verify();

    let file = host.dir.path().join("exported").display().to_string();
    host.json(&["journal", "export", &file, "--json"]);
    drop(agent);
    let other = Host::new();
    other.json(&["journal", "import", &file, "--json"]);
    let _agent = other.start();
    let there = places(&other);
    assert_eq!(there, [place(1, "c"), place(2, "b"), place(3, "a")], "nothing runs here, and what ran is known");
    let gone = other.run(&["config", "show", "@0"]);
    assert!(gone.code == 1 && gone.stderr.contains("no @0"), "{gone:?}");
    assert_eq!(nodes(&other), Vec::<String>::new());
    let said = other.run(&["request", "deploy", "@-2"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(nodes(&other), ["w1", "w2"]);
    other.verify();

    // Also where retention had removed nothing.
    let whole = Host::new();
    let agent = whole.start();
    three(&whole);
    let file = whole.dir.path().join("exported").display().to_string();
    whole.json(&["journal", "export", &file, "--json"]);
    drop(agent);
    let third = Host::new();
    third.json(&["journal", "import", &file, "--json"]);
    let _agent = third.start();
    let listed = history(&third);
    assert_eq!(places(&third), [place(1, "c"), place(2, "b"), place(3, "a")]);
    let counts = ["nodes", "started", "replaced", "removed"].map(|key| listed[0][key].as_u64().unwrap());
    assert_eq!((listed[0]["source"]["transport"].as_str(), counts), (Some("control"), [2, 1, 1, 1]));
}

/// What was shown is done, or nothing is.
#[test]
fn a_plan_is_carried_out_as_shown_or_not_at_all() {
    let mut host = Host::new();
    host.set("ZCA_DEPLOY_STRATEGY", "changed");
    let agent = host.start();
    three(&host);
    let file = host.cluster_file("d.ini", &[("w2", "env = A=1"), ("w3", "")]);
    let shown = host.json(&["config", "diff", &file, "--json"]);
    let token = shown["token"].as_str().unwrap().to_owned();
    assert_eq!(shown["order"], json!([{"action": "stop", "nodes": ["w2"]}, {"action": "start", "nodes": ["w2"]}]));
    let text = host.run(&["config", "diff", &file]);
    assert!(text.stdout.ends_with(&format!("plan {token}\n")), "{text:?}");

    let deploy = |file: &str, token: &str, more: &[&str]| {
        host.run(&[&["request", "deploy", file, "--if-plan", token], more].concat())
    };
    // Another file, another way to do it.
    let other = host.cluster_file("e.ini", &[("w3", "")]);
    for (file, more) in [(&other, &[][..]), (&file, &["--force"])] {
        let said = deploy(file, &token, more);
        assert!(said.code == 1 && said.stdout.contains("stale plan: this is another configuration"), "{said:?}");
    }
    let said = deploy(&file, "nonsense", &[]);
    assert!(said.code == 1 && said.stdout.contains("no plan's token"), "{said:?}");

    // A node that dies and comes back makes no plan stale, and neither does another run of the agent.
    let before = host.pids();
    let w3 = before["w3"];
    assert_eq!(host.run(&["nodes", "restart", "w2"]).code, 0);
    agent.kill();
    let agent = host.start();
    assert_eq!(host.json(&["config", "diff", &file, "--json"])["token"], json!(token));

    // What is to run is another: told, and nothing is touched.
    assert_eq!(host.run(&["nodes", "stop", "w3"]).code, 0);
    let pids = host.pids();
    let said = deploy(&file, &token, &[]);
    assert!(said.code == 1 && said.stdout.contains("stale plan: what is to run here was changed"), "{said:?}");
    assert_eq!(host.pids(), pids);
    assert_eq!(host.run(&["nodes", "start", "w3"]).code, 0);
    assert_ne!(host.pids()["w3"], w3);

    // As it was shown.
    let said = deploy(&file, &token, &["--reqid", "planned"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(deploy(&file, &token, &["--reqid", "planned"]).code, 0, "the same again is answered from the journal");
    let said = deploy(&file, &token, &[]);
    assert!(said.code == 1 && said.stdout.contains("stale plan: what is to run here was changed"), "{said:?}");

    // Of the history as well.
    let token = host.json(&["config", "diff", "@-1", "--json"])["token"].as_str().unwrap().to_owned();
    assert_eq!(deploy("@-1", &token, &[]).code, 0);

    // Settings decide how nodes are run.
    let token = host.json(&["config", "diff", &file, "--json"])["token"].as_str().unwrap().to_owned();
    agent.kill();
    let mut host = host;
    host.set("ZCA_STOP_TIMEOUT", "7s");
    let _agent = host.start();
    let said = host.run(&["request", "deploy", &file, "--if-plan", &token]);
    assert!(said.code == 1 && said.stdout.contains("nodes would be run in another way"), "{said:?}");
}

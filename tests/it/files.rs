//! Cluster files on their way to a real agent.

use serde_json::json;

use crate::support::{AGENT, Host};

/// The command line looks names up: what is sent and journaled holds addresses.
#[test]
fn a_host_name_is_an_address_in_the_journal() {
    let mut host = Host::new();
    host.set("RES_OPTIONS", "timeout:1 attempts:1");
    let _agent = host.start();
    let text = format!("[instances]\n{AGENT} = LocalHost\n[w1]\nrole = worker\ninstance = {AGENT}\n");
    let file = host.file("named.ini", &text);
    let said = host.run(&["request", "deploy", &file]);
    assert_eq!(said.code, 0, "{said:?}");
    let dumped = host.run(&["journal", "dump", "--kind", "all", "--json"]).stdout.to_ascii_lowercase();
    assert!(dumped.contains("127.0.0.1") && !dumped.contains("localhost"), "{dumped}");

    let file = host.file("unknown.ini", &text.replace("[w1]", "b = no-such-host.invalid\n[w1]"));
    let accepted = host.events("request_accepted").len();
    for command in [["request", "deploy", &file], ["config", "diff", &file], ["config", "check", &file]] {
        let said = host.run(&command);
        let place = "[instances] b: the address of \"no-such-host.invalid\" cannot be found";
        assert!(said.code == 78 && said.stderr.contains(place), "{said:?}");
    }
    assert_eq!(host.events("request_accepted").len(), accepted, "nothing was sent");
}

/// A node could wait for ever for a port that its own agent listens on.
#[test]
fn a_port_of_the_agent_is_refused_at_once() {
    let mut host = Host::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    host.set("ZCA_WEBSOCKET", &format!("127.0.0.1:{port}"));
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("m:manager", &format!("port = {port}"))]);
    let expected =
        format!("node m: port {port}/tcp is one that the agent of this host listens on: give the node another");
    let said = host.run(&["request", "deploy", &file]);
    assert!(said.code == 1 && said.stdout.contains(&expected) | said.stderr.contains(&expected), "{said:?}");
    assert!(host.events("desired_changed").is_empty(), "no node was wanted");
    for command in ["check", "diff"] {
        let said = host.run(&["config", command, &file]);
        assert!(said.code == 78 && said.stderr.contains(&expected), "{said:?}");
    }
}

/// Why a node is replaced is always said, and a file without addresses is compared with what runs.
#[test]
fn a_difference_has_a_reason_and_addresses() {
    let host = Host::new();
    let _agent = host.start();
    let of = |address: &str| {
        format!(
            "[instances]\n{AGENT}{}\nb{}\n[w1]\nrole = worker\ninstance = {AGENT}\n[w2]\nrole = worker\ninstance = b\n",
            if address.is_empty() { "" } else { " = 127.0.0.1" },
            if address.is_empty() { String::new() } else { format!(" = {address}") },
        )
    };
    let file = host.file("a.ini", &of("192.0.2.8"));
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    let names = host.file("b.ini", &of(""));
    let said = host.run(&["config", "diff", &names]);
    assert!(said.code == 0 && said.stdout.contains("would take the place of"), "{said:?}");
    assert!(said.stderr.contains("instance b has no address here; 192.0.2.8 was taken"), "{said:?}");
    let why = |file: &str, more: &[&str]| {
        let plan = host.json(&[&["config", "diff", file, "--json"], more].concat());
        (plan["nodes"][0]["action"].clone(), plan["nodes"][0]["why"].clone())
    };
    let id = "another configuration id, and deploy_strategy is replace";
    assert_eq!(why(&names, &[]), (json!("replace"), json!([id])));
    assert_eq!(why(&file, &["--force"]), (json!("replace"), json!(["forced"])));
    assert_eq!(why(&file, &[]), (json!("keep"), json!([])));
}

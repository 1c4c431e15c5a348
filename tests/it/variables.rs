//! The variables of Zeek's management framework: an agent reads them as Zeek's does, and not those that it tells its nodes.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::peers::Peers;
use crate::support::{Host, Said, cluster, eventually, set};

/// An address of the loopback network that no other test run has, with Zeek's usual port.
fn own_address() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("127.{a}.{b}.{c}")
}

fn setting(shown: &Value, key: &str) -> (Value, String) {
    let found = shown.as_array().unwrap().iter().find(|one| one["key"] == key).unwrap();
    (found["value"].clone(), found["source"].as_str().unwrap().to_owned())
}

#[test]
fn an_agent_listens_and_dials_where_zeeks_variables_say() {
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "controller", "filter": ["zeek/management/agent"]}));
    let port = peers.ok("listen", json!({"endpoint": "controller"}));
    let mut host = Host::new();
    // A controller that listens everywhere is on this host, as for Zeek's own agent.
    host.set("ZCA_LISTEN", "").set("ZCA_DISABLE_SSL", "true");
    host.set("ZEEK_AGENT_ADDR", &own_address()).set("ZEEK_CONTROLLER_ADDR", "0.0.0.0");
    host.set("ZEEK_CONTROLLER_PORT", &format!("{port}/tcp"));
    let _agent = host.start();
    assert_eq!(host.status().listen, Some(format!("{}:2151", own_address())));
    peers.ok("accepted", json!({"endpoint": "controller", "name": "agent"}));
    let report = host.status().controller.unwrap();
    assert_eq!((report.address, report.state), (format!("127.0.0.1:{port}"), "connected".to_owned()));
    let shown = host.json(&["settings", "--json"]);
    let both = "environment ZEEK_CONTROLLER_ADDR and ZEEK_CONTROLLER_PORT".to_owned();
    assert_eq!(setting(&shown, "controller"), (format!("127.0.0.1:{port}").into(), both));
    assert_eq!(setting(&shown, "listen").1, "environment ZEEK_AGENT_ADDR");

    // What a node was told of its agent is no address for an agent that somebody starts from there.
    assert!(host.ask("r", set(cluster(&[("w1", "")]))).success());
    let pid = host.pids()["w1"];
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let told: BTreeMap<&str, &str> =
        environment.split_terminator('\0').filter_map(|pair| pair.split_once('=')).collect();
    assert_eq!((told["ZEEK_AGENT_ADDR"], told["ZEEK_AGENT_PORT"]), (own_address().as_str(), "2151/tcp"));
    let mut command = host.command(&["settings", "--json"]);
    command.env_clear().envs(&told);
    let said = Said::of(command);
    assert_eq!(setting(&said.json(), "listen"), ("127.0.0.1:2151".into(), "default".to_owned()));
    assert!(said.stderr.contains("this is the environment of the node w1"), "{said:?}");
}

#[test]
fn flags_and_our_variables_come_first_and_what_is_no_port_is_exit_78() {
    let mut host = Host::new();
    host.set("ZCA_LISTEN", "").set("ZEEK_AGENT_ADDR", "192.0.2.1").set("ZEEK_AGENT_PORT", "3000/tcp");
    host.set("ZEEK_CONTROLLER_ADDR", "controller.example.org");
    let file = host.file("agent.toml", "listen = \"127.0.0.1:1\"\ncontroller = \"192.0.2.9:1\"\n");
    host.set("ZCA_CONFIG", &file);
    let shown = host.json(&["settings", "--json"]);
    let both = "environment ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT".to_owned();
    assert_eq!(setting(&shown, "listen"), ("192.0.2.1:3000".into(), both));
    let dialled = ("controller.example.org:2150".into(), "environment ZEEK_CONTROLLER_ADDR".to_owned());
    assert_eq!(setting(&shown, "controller"), dialled);
    host.set("ZCA_LISTEN", "off").set("ZCA_CONTROLLER", "off");
    {
        let _agent = host.start();
        let status = host.status();
        assert_eq!((status.listen, status.controller), (None, None));
    }
    host.set("ZCA_LISTEN", "").set("ZEEK_AGENT_PORT", "3000/udp");
    let said = host.run(&host.run_args());
    assert_eq!(said.code, 78, "{said:?}");
    let expected = "ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT: setting `listen` has the port \"3000/udp\"";
    assert!(said.stderr.contains(expected), "{said:?}");
    let flag = [&host.run_args()[..], &["--listen", "127.0.0.1:0"]].concat();
    let mut agent = crate::support::Agent { child: host.begin(&flag) };
    eventually("the agent to listen where the flag says", || {
        assert!(agent.child.try_wait().unwrap().is_none(), "the agent has ended");
        let status = zeek_cluster_agent::control::client::Client::connect(&host.socket(), "test").ok()?;
        drop(status);
        host.status().listen.filter(|address| address.starts_with("127.0.0.1:"))
    });
}

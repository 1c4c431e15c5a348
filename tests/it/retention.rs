//! Retention through the real binary: the journal of a busy agent stays as small as the settings say, and whole.

use serde_json::Value;
use zeek_cluster_agent::api::event::Request;

use crate::support::{Host, cluster, errors, eventually, set};

#[test]
fn a_busy_agent_keeps_to_the_limit_and_its_journal_is_whole() {
    let mut host = Host::new();
    host.set("ZCA_RETENTION_REQUESTS", "50");
    let agent = host.start();
    let deployed = host.ask("deploy", set(cluster(&[("w1", "")])));
    assert!(deployed.success(), "{}", errors(&deployed));
    let pids = host.pids();
    let noted = host.json(&["journal", "verify", "--json"])["head"].as_str().unwrap().to_owned();
    for number in 0..300 {
        assert!(host.ask(&format!("r{number}"), Request::GetNodes {}).success());
    }
    let last = host.json(&["journal", "verify", "--json"])["head"].as_str().unwrap().to_owned();
    let report = eventually("retention to come to its end", || {
        let report = host.json(&["journal", "verify", "--json"]);
        (report["first"].as_u64().unwrap() > 250).then_some(report)
    });
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert!(host.read_log().contains("retention: the journal's entries up to"), "{}", host.read_log());
    assert!(host.requests("r299").len() == 1 && host.requests("r0").is_empty() && host.requests("deploy").is_empty());
    // Nothing proves what a head stood for that is gone; the one of then is continued.
    let said = host.run(&["journal", "verify", "--anchor", &last]);
    assert!(said.code == 0 && said.stdout.contains(&format!("it continues {last}")), "{said:?}");
    let said = host.run(&["journal", "verify", "--anchor", &noted]);
    assert!(said.code == 1 && said.stdout.contains("retention has removed it"), "{said:?}");
    // A reqid that is older than what is kept is a new one.
    assert!(host.ask("r0", Request::GetNodes {}).success());
    assert_eq!(host.requests("r0").len(), 1);

    // The running configuration is no history: it outlives the request that brought it, and the agent.
    agent.kill();
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    host.verify();
    let status = host.json(&["status", "--json"]);
    assert!(status["configuration"].is_string() && status["hold"].is_null(), "{status}");
}

//! Retention through the real binary: the journal of a busy agent stays as small as the settings say, and whole.

use rustix::process::Signal;
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

#[test]
fn prune_shows_what_would_go_and_removes_it_with_and_without_an_agent() {
    let host = Host::new();
    let agent = host.start();
    assert!(host.ask("deploy", set(cluster(&[("w1", "")]))).success());
    let pids = host.pids();
    for number in 0..30 {
        assert!(host.ask(&format!("r{number}"), Request::GetNodes {}).success());
    }
    let prune = |host: &Host, flags: &[&str]| host.json(&[&["journal", "prune", "--json"], flags].concat());
    let requests = |host: &Host| host.json(&["journal", "stats", "--json"])["states"]["completed"].as_u64().unwrap();

    // Nothing is that old; nothing is over the settings' limits.
    for flags in [&["--older-than", "1h"][..], &[]] {
        let report = prune(&host, flags);
        assert_eq!((&report["entries"], &report["clock_doubted"]), (&Value::from(0), &Value::from(false)), "{report}");
    }
    let shown = prune(&host, &["--keep", "20", "--dry-run"]);
    assert_eq!((&shown["requests"], &shown["dry_run"]), (&Value::from(11), &Value::from(true)), "{shown}");
    assert_eq!(requests(&host), 31, "a dry run removes nothing");
    let gone = prune(&host, &["--keep", "20"]);
    for figure in ["entries", "requests", "bytes", "upto"] {
        assert_eq!(gone[figure], shown[figure], "{figure}: {gone}");
    }
    assert_eq!(requests(&host), 20);
    let text = host.run(&["journal", "prune", "--keep", "20"]);
    assert!(text.code == 0 && text.stdout.contains("nothing was removed"), "{text:?}");
    assert_eq!(events(&host, "pruned"), 1, "what goes is an entry");
    host.verify();

    // The same without an agent, and the next one takes its node over as if nothing had been.
    agent.signal(Signal::TERM);
    agent.wait();
    let shown = prune(&host, &["--keep", "5", "--dry-run"]);
    assert_eq!(shown["requests"], Value::from(15), "{shown}");
    assert_eq!(requests(&host), 20, "a dry run removes nothing");
    let gone = prune(&host, &["--keep", "5"]);
    assert_eq!((&gone["upto"], &gone["bytes"]), (&shown["upto"], &shown["bytes"]));
    assert_eq!((requests(&host), events(&host, "pruned")), (5, 2));
    assert_eq!(host.json(&["journal", "verify", "--json"])["problems"], Value::Array(Vec::new()));
    let _agent = host.start();
    assert_eq!(host.pids(), pids);
    assert!(host.requests("r10").is_empty() && host.requests("r29").len() == 1);
    let status = host.json(&["status", "--json"]);
    assert!(status["configuration"].is_string() && status["hold"].is_null(), "{status}");
}

fn events(host: &Host, event: &str) -> u64 {
    host.json(&["journal", "stats", "--json"])["events"][event].as_u64().unwrap_or(0)
}

//! A wall clock that jumps a year back and a year ahead, under a running agent and before a start: nothing goes from the
//! journal, duplicates are answered, the chain is whole, nothing took less than no time.

#![cfg(feature = "crash-points")]

use std::fs;

use serde_json::Value;
use zeek_cluster_agent::api::event::{Request, Response};

use crate::support::{Host, cluster, eventually, set};

const YEAR: i64 = 365 * 86_400;

/// Removes nothing, by its age or otherwise; whether the clock is doubted.
fn prunes_nothing(host: &Host, flags: &[&str]) -> bool {
    let report = host.json(&[&["journal", "prune", "--json"], flags].concat());
    assert_eq!((&report["entries"], &report["responses"]), (&Value::from(0), &Value::from(0)), "{report}");
    report["clock_doubted"].as_bool().unwrap()
}

#[test]
fn a_clock_that_jumps_by_years_costs_nothing() {
    let mut host = Host::new();
    let clock = host.dir.path().join("clock").display().to_string();
    host.set("ZCA_CLOCK_OFFSET", &clock);
    let jump = |seconds: i64| fs::write(&clock, seconds.to_string()).unwrap();
    let asked = |host: &Host, name: &str| host.ask(name, Request::GetNodes {});

    let agent = host.start();
    let deployed = host.ask("deploy", set(cluster(&[("w1", "")])));
    assert!(deployed.success());
    let answers: Vec<_> = (0..5).map(|number| asked(&host, &format!("now{number}"))).collect();

    // A year back, while a request waits for its node.
    let slow = set(cluster(&[("w1", ""), ("w2", "SIM_READY_AFTER_MS=1500")]));
    std::thread::scope(|scope| {
        let answered = scope.spawn(|| host.ask("slow", slow));
        eventually("the request to wait", || (host.requests("slow").len() == 1).then_some(()));
        jump(-YEAR);
        assert!(answered.join().unwrap().success());
    });
    let row = host.json(&["journal", "show", "slow", "--json"]);
    assert_eq!((&row["state"], &row["duration_ms"]), (&Value::from("completed"), &Value::from(0.0)), "{row}");
    for number in 0..5 {
        asked(&host, &format!("back{number}"));
    }
    // What is a year in the future is not old; what is of today is neither.
    prunes_nothing(&host, &["--older-than", "1h"]);
    prunes_nothing(&host, &[]);

    // A year ahead: all is a year old or two, and the clock is not believed.
    jump(YEAR);
    asked(&host, "ahead");
    assert!(prunes_nothing(&host, &["--older-than", "1h"]));
    eventually("the warning", || {
        host.read_log().contains("nothing is removed from the journal for its age").then_some(())
    });
    all_is_there(&host, &answers);

    // It stands there at a start, too, whose own entries are of now.
    agent.kill();
    let agent = host.start();
    for _ in 0..2 {
        asked(&host, "ahead2");
        assert!(prunes_nothing(&host, &[]), "a start with a wrong clock believes it");
    }
    assert!(prunes_nothing(&host, &["--older-than", "1h", "--dry-run"]));
    all_is_there(&host, &answers);
    // What goes by number does not ask the clock.
    let report = host.json(&["journal", "prune", "--keep", "5", "--dry-run", "--json"]);
    assert!(report["entries"].as_u64().unwrap() > 0 && report["clock_doubted"] == false, "{report}");

    // And is put right.
    agent.kill();
    jump(0);
    let _agent = host.start();
    prunes_nothing(&host, &[]);
    all_is_there(&host, &answers);
    let stats = host.json(&["journal", "stats", "--json"]);
    assert!(stats["latency"]["p50_ms"].as_f64().unwrap() >= 0.0, "{stats}");
}

fn all_is_there(host: &Host, answers: &[Response]) {
    host.verify();
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(host.ask(&format!("now{number}"), Request::GetNodes {}), *answer, "a duplicate has another answer");
    }
    let received_at = |name: &str| {
        let row = host.json(&["journal", "show", name, "--json"]);
        assert!(row["duration_ms"].as_f64().unwrap() >= 0.0, "{row}");
        row["received_at"].as_str().unwrap().to_owned()
    };
    // Rows keep the times that they were given, and their order.
    assert!(received_at("back0") < received_at("now0"));
    assert!(received_at("deploy") < received_at("now0"));
}

//! `nodes top` and `nodes list --wide`: what nodes use is what `/proc` says, and a node that does not answer is named.
//!
//! `ZCA_TEST_BIG_HOST` sets how many nodes the big one has; the times are printed.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use zeek_cluster_agent::api::event::Request;

use crate::support::{Host, cluster, eventually, set};

/// User and system time of a process, with what its ended children used, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

fn node<'a>(figures: &'a Value, name: &str) -> &'a Value {
    let nodes = figures["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == name).unwrap_or_else(|| panic!("{name}: {figures}"))
}

fn with_metrics(port: u16, more: &str) -> String {
    format!("metrics_port = {port}\nenv = SIM_METRICS_PORT={port} {more}")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn top_says_what_proc_says_and_what_the_nodes_say() {
    let host = Host::new();
    let _agent = host.start();
    let mut config = cluster(&[
        ("busy", "env = SIM_BUSY_MS=600000"),
        ("talks", &with_metrics(free_port(), "SIM_FORK=3")),
        ("w3", ""),
    ]);
    config.nodes.iter_mut().filter(|node| node.name != "talks").for_each(|node| node.metrics_port = None);
    assert!(host.ask("r", set(config)).success());
    host.wait_all_running(3);
    assert_eq!(host.run(&["nodes", "stop", "w3"]).code, 0);
    let pids = host.pids();
    // What top says lies between what /proc says before and after.
    let (mut first, mut last) = (None, None);
    eventually("two seconds of CPU", || {
        let before = cpu_seconds(pids["busy"]);
        let figures = host.json(&["nodes", "top", "--json"]);
        let told = node(&figures, "busy")["usage"]["cpu_seconds"].as_f64().unwrap();
        let after = cpu_seconds(pids["busy"]);
        assert!(before <= told && told <= after, "{before} <= {told} <= {after}");
        let at = figures["at_ms"].as_u64().unwrap();
        first.get_or_insert((at, told));
        last = Some((at, told));
        (told >= 2.0).then_some(())
    });
    let ((from, less), (to, more)) = (first.unwrap(), last.unwrap());
    println!("{:.1} % of a CPU between the first and the last look", (more - less) * 1e5 / (to - from) as f64);

    let figures = host.json(&["nodes", "top", "--json"]);
    let talks = node(&figures, "talks");
    assert_eq!(talks["usage"]["processes"], 4, "with its children: {figures:#}");
    assert!(
        talks["usage"]["rss_bytes"].as_u64() > node(&figures, "busy")["usage"]["rss_bytes"].as_u64(),
        "{figures:#}"
    );
    assert!(talks["usage"]["descriptors"].as_u64().unwrap() >= 3, "{figures:#}");
    assert!(talks["captured"]["received"].as_f64().unwrap() > 0.0, "{figures:#}");
    assert_eq!(talks["captured"]["lag_seconds"], 0.25);
    assert!(node(&figures, "busy")["captured"].is_null(), "it has no metrics port: {figures:#}");
    assert!(node(&figures, "w3")["usage"].is_null() && node(&figures, "w3")["pid"].is_null(), "{figures:#}");

    let text = host.run(&["nodes", "top"]);
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(lines[0].contains(": 2 of 3 nodes up, "), "{text:?}");
    assert!(lines[2].starts_with("busy "), "the busiest first: {text:?}");
    // Between two looks: of this time alone.
    let twice = host.run(&["nodes", "top", "-n", "2", "--interval", "0.5"]);
    let busy: Vec<f64> = twice
        .stdout
        .lines()
        .filter(|line| line.starts_with("busy "))
        .map(|line| line.split_whitespace().nth(4).unwrap().parse().unwrap())
        .collect();
    assert_eq!(busy.len(), 2, "{twice:?}");
    assert!(busy.iter().all(|percent| *percent > 0.0), "{twice:?}");

    let wide = host.json(&["nodes", "list", "--wide", "--json"]);
    let talks = wide.as_array().unwrap().iter().find(|node| node["node"] == "talks").unwrap();
    assert_eq!((&talks["state"], &talks["usage"]["processes"]), (&"RUNNING".into(), &4.into()), "{wide:#}");
    let wide = host.run(&["nodes", "list", "--wide"]);
    assert!(wide.stdout.lines().next().unwrap().contains("CPU%") && wide.stdout.contains("0.250 s"), "{wide:?}");
    assert!(!host.run(&["nodes", "list"]).stdout.contains("CPU%"));
}

#[test]
fn a_node_that_does_not_answer_is_named_and_keeps_nobody_waiting() {
    let host = Host::new();
    let _agent = host.start();
    let (hangs, talks, nobody) = (free_port(), free_port(), free_port());
    let config = cluster(&[
        ("hangs", &with_metrics(hangs, "SIM_METRICS_HANG=1")),
        ("talks", &with_metrics(talks, "")),
        ("w3", &format!("metrics_port = {nobody}")),
    ]);
    assert!(host.ask("r", set(config)).success());
    host.wait_all_running(3);
    let figures = host.json(&["nodes", "top", "--json"]);
    let problem = node(&figures, "hangs")["problem"].as_str().unwrap();
    assert_eq!(problem, format!("its metrics port 127.0.0.1:{hangs} has not answered within 1 s"));
    assert!(node(&figures, "w3")["problem"].as_str().unwrap().contains("refused"), "{figures:#}");
    assert!(node(&figures, "talks")["captured"]["received"].is_number(), "{figures:#}");
    let text = host.run(&["nodes", "top"]);
    assert!(text.stdout.contains(&format!("\nhangs: {problem}\n")), "{text:?}");
}

#[test]
fn a_big_host_is_looked_at_in_little_time() {
    let count = std::env::var("ZCA_TEST_BIG_HOST").map_or(40, |text| text.parse().unwrap());
    let host = Host::new();
    let _agent = host.start();
    let names: Vec<String> = (0..count).map(|number| format!("w{number:04}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let mut config = cluster(&nodes);
    config.nodes.iter_mut().for_each(|node| node.metrics_port = None);
    assert!(host.ask_until_answered("r", &Request::Deploy { config, force: false, how: Default::default() }).success());
    let mut took: Vec<Duration> = (0..10)
        .map(|_| {
            let begun = Instant::now();
            let figures = host.json(&["nodes", "top", "--json"]);
            let with_usage =
                figures["nodes"].as_array().unwrap().iter().filter(|node| node["usage"].is_object()).count();
            assert_eq!(with_usage, usize::try_from(count).unwrap());
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    println!(
        "{count} nodes: the whole command took {:.0} ms (median of 10; the longest {:.0} ms)",
        took[5].as_secs_f64() * 1e3,
        took[9].as_secs_f64() * 1e3
    );
}

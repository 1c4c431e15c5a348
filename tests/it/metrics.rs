//! The metrics page: equal to `status`, found by Prometheus, and unharmed by whoever else reaches it.
//!
//! `ZCA_TEST_BIG_HOST` sets how many nodes the page of a big host has; the times are printed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{Agent, Host, Said, cluster, eventually, kill, set};
use crate::tls::certificates::Authority;

fn serving() -> (Host, Agent, SocketAddr) {
    let mut host = Host::new();
    host.set("ZCA_METRICS", "127.0.0.1:0");
    let agent = host.start();
    let address = address(&host, "http");
    (host, agent, address)
}

fn address(host: &Host, scheme: &str) -> SocketAddr {
    let mark = format!("metrics are served at {scheme}://");
    eventually("the metrics listener", || {
        let log = host.read_log();
        let (_, place) = log.lines().find_map(|line| line.split_once(mark.as_str()))?;
        place.split('/').next()?.parse().ok()
    })
}

/// Sends these bytes and reads until the end: nothing, if the agent closes without an answer.
fn send(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The agent may have had enough before everything is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let answer = send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

/// Samples of the page, by their names with labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    assert!(page.ends_with("# EOF\n"), "{page}");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found.is_ok()
}

/// What `status` says, under the names of the page.
fn expected(host: &Host) -> BTreeMap<String, f64> {
    let status = host.status();
    let flag = |value: bool| f64::from(u8::from(value));
    let mut expected = BTreeMap::from([
        ("zca_serving".to_owned(), flag(status.serving)),
        ("zca_hold".to_owned(), flag(status.hold.is_some())),
        ("zca_journal_last_entry".to_owned(), status.journal.last as f64),
        ("zca_journal_refusing".to_owned(), flag(status.journal.refusing.is_some())),
        ("zca_requests_unfinished".to_owned(), status.unfinished as f64),
        ("zca_requests_refused_total".to_owned(), status.refused as f64),
        ("zca_broker_peers".to_owned(), status.peers.len() as f64),
    ]);
    for state in NodeState::ALL {
        let count = status.nodes.iter().filter(|node| node.state == state).count();
        expected.insert(format!("zca_nodes{{state=\"{state}\"}}"), count as f64);
    }
    for node in status.nodes {
        let labels = format!("{{node=\"{}\",role=\"{}\"}}", node.node, node.role);
        expected.insert(format!("zca_node_running{labels}"), flag(node.state == NodeState::Running));
        expected.insert(format!("zca_node_wanted{labels}"), flag(node.want == "up"));
        expected.insert(format!("zca_node_starts_total{labels}"), node.incarnation as f64);
    }
    expected
}

#[test]
fn the_page_says_what_status_says_and_counts_what_happened() {
    let (host, _agent, address) = serving();
    let nodes = [("logger:logger", ""), ("w1", ""), ("w2", "env = SIM_EXIT=3"), ("w3", "env = SIM_FORK=2")];
    let file = host.cluster_file("c.ini", &nodes);
    host.run(&["request", "deploy", &file, "--reqid", "r", "--timeout", "1"]);
    for node in ["logger", "w1", "w3"] {
        host.wait_state(node, NodeState::Running);
    }
    assert_eq!(host.run(&["nodes", "stop", "w2"]).code, 0);
    assert_eq!(host.run(&["request", "welcome", "--reqid", "w"]).code, 0);
    assert_eq!(host.run(&["request", "welcome", "--reqid", "w"]).code, 0);
    assert_eq!(host.run(&["request", "get-nodes", "--reqid", "w"]).code, 5);
    let page = eventually("a page between two changes", || {
        let before = expected(&host);
        let page = samples(&get(address, "/metrics"));
        (before == expected(&host)).then(|| {
            for (name, value) in before {
                assert_eq!(page.get(&name), Some(&value), "{name}: {page:#?}");
            }
            page
        })
    });
    assert_eq!(page["zca_requests_total{event=\"agent_welcome_request\",outcome=\"success\"}"], 1.0);
    assert_eq!(page["zca_requests_total{event=\"get_nodes_request\",outcome=\"conflict\"}"], 1.0);
    assert_eq!(page["zca_requests_duplicate_total"], 1.0);
    assert_eq!(page["zca_request_duration_seconds_count{event=\"stop_nodes_request\"}"], 1.0);
    assert!(page["zca_node_crashes_total{node=\"w2\",role=\"worker\"}"] >= 1.0, "{page:#?}");
    assert_eq!(page["zca_node_crashes_total{node=\"w1\",role=\"worker\"}"], 0.0);
    assert_eq!(page["zca_node_processes{node=\"w3\",role=\"worker\"}"], 3.0, "with what it started");
    assert_eq!(page["zca_node_processes{node=\"w1\",role=\"worker\"}"], 1.0);
    assert!(!page.contains_key("zca_node_processes{node=\"w2\",role=\"worker\"}"), "it is down");
    assert!(page["zca_node_resident_memory_bytes{node=\"w1\",role=\"worker\"}"] > 100_000.0);
    assert!(page["zca_process_resident_memory_bytes"] > 1_000_000.0);
    assert_eq!(page["zca_well"], 1.0);
    let info = page.keys().find(|name| name.starts_with("zca_agent_info{")).unwrap();
    assert!(info.contains("name=\"a1\"") && info.contains(env!("CARGO_PKG_VERSION")), "{info}");
}

#[test]
fn other_methods_and_paths_and_heads_without_end_are_refused() {
    let (host, _agent, address) = serving();
    for method in ["POST", "HEAD", "PUT", "OPTIONS", "DELETE"] {
        let answer =
            send(address, format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer:?}");
        assert!(answer.to_lowercase().contains("allow: get\r\n"), "{method}: {answer:?}");
    }
    let answer = send(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer:?}");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = send(address, long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let answer = send(address, many.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let answer = send(address, b"\x16\x03\x01 no HTTP at all\r\n\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    assert!(get(address, "/metrics?from=somewhere").contains("zca_serving 1.0"));
    assert_eq!(host.run(&["request", "welcome"]).code, 0);
}

#[test]
fn who_does_not_read_or_comes_a_thousand_times_harms_nobody() {
    let (host, _agent, address) = serving();
    raise_open_files();
    let names: Vec<String> = (0..20).map(|number| format!("w{number:02}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    host.ask("r", set(cluster(&nodes)));
    host.wait_all_running(nodes.len());
    // Two ask and never read; two send half a head; the others send nothing. All of them stay.
    let mut open = Vec::new();
    for number in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        let sent = match number {
            0 | 1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
            2 | 3 => stream.write_all(b"GET /metrics HT"),
            _ => Ok(()),
        };
        // Who was turned away may be gone already.
        drop(sent);
        open.push(stream);
    }
    assert!(open.len() >= 900, "{}", open.len());
    let begun = Instant::now();
    assert_eq!(host.run(&["request", "welcome"]).code, 0);
    assert!(host.run(&["status"]).code == 0);
    println!("1,000 connections: a request and status took {:.2} s", begun.elapsed().as_secs_f64());
    // The others still hold their ends.
    eventually("a place", || {
        let answer = send(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 503 "),
            "{answer}"
        );
        answer.contains("# EOF").then_some(())
    });
    println!("a page after {:.2} s", begun.elapsed().as_secs_f64());
    assert!(host.read_log().contains("metrics connection turned away: 8 are open"), "{}", host.read_log());
    drop(open);
    host.verify();
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(4096, |most| most.min(4096));
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).unwrap();
    }
}

#[test]
fn anywhere_but_here_it_is_for_clients_with_certificates_alone() {
    let mut host = Host::new();
    host.set("ZCA_METRICS", "0.0.0.0:0");
    let said = crate::support::run_to_end(&host, &[]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(
        said.stderr.contains("environment ZCA_METRICS: `metrics` is 0.0.0.0:0, not a loopback address"),
        "{said:?}"
    );
    host.set("ZCA_METRICS_CLIENT_CA", "/nowhere.pem");
    let said = crate::support::run_to_end(&host, &[]);
    assert_eq!(said.code, 78);
    assert!(said.stderr.contains("`metrics_client_ca`: is of no use without metrics_certificate"), "{said:?}");

    let dir = host.dir.path().to_owned();
    let authority = Authority::new("Test authority");
    let (ca, own) = (authority.write(&dir), authority.issue(&dir, "agent", None));
    let client = authority.issue(&dir, "prometheus", None);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    host.set("ZCA_METRICS_CERTIFICATE", &text(&own.certificate)).set("ZCA_METRICS_KEY", &text(&own.key));
    host.set("ZCA_METRICS_CLIENT_CA", &text(&ca));
    let _agent = host.start();
    let port = address(&host, "https").port();
    if !is_installed("curl") {
        return;
    }
    let curl = |more: &[&str]| {
        let mut command = Command::new("curl");
        // The certificate names the agent, not its address.
        command.args(["--silent", "--show-error", "--insecure", &format!("https://127.0.0.1:{port}/metrics")]);
        command.args(more).stdin(Stdio::null());
        command.output().unwrap()
    };
    let without = curl(&[]);
    assert!(!without.status.success() && without.stdout.is_empty(), "{without:?}");
    let with = curl(&["--cert", &text(&client.certificate), "--key", &text(&client.key)]);
    assert!(with.status.success(), "{with:?}");
    assert!(String::from_utf8(with.stdout).unwrap().contains("zca_serving 1.0"));
    let plain = send(([127, 0, 0, 1], port).into(), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!plain.contains("zca_"), "{plain}");
}

/// Ports that nobody had a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Ends with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_finds_the_agent_and_its_nodes_and_reads_what_status_says() {
    let (host, agent, address) = serving();
    let [own, w1, w2] = free_ports();
    let env = |port| format!("metrics_port = {port}\nenv = SIM_METRICS_PORT={port}");
    let mut config = cluster(&[("w1", &env(w1)), ("w2", &env(w2)), ("w3", "")]);
    // A cluster file gives every node one.
    config.nodes.iter_mut().filter(|node| node.name == "w3").for_each(|node| node.metrics_port = None);
    let answer = host.ask("r", set(config));
    assert!(answer.success(), "{answer:?}");
    host.wait_all_running(3);
    let list: Value = serde_json::from_str(&get(address, "/services.json")).unwrap();
    let node = |name: &str, port: u16| {
        json!({"targets": [format!("127.0.0.1:{port}")],
               "labels": {"zeek_agent": "a1", "zeek_node": name, "zeek_role": "worker"}})
    };
    let expected = json!([
        {"targets": [address.to_string()], "labels": {"zeek_agent": "a1"}}, node("w1", w1), node("w2", w2)]);
    assert_eq!(list, expected);
    if !is_installed("prometheus") {
        return;
    }
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("share/prometheus/prometheus.yml")).unwrap();
    let text = text.replace("127.0.0.1:2152", &address.to_string()).replace("15s", "1s").replace("30s", "1s");
    fs::copy("share/prometheus/rules.yml", host.dir.path().join("rules.yml")).unwrap();
    let file = host.file("prometheus.yml", &text);
    let log = fs::File::create(host.dir.path().join("prometheus.log")).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={file}")).arg(format!("--web.listen-address=127.0.0.1:{own}"));
    command.arg(format!("--storage.tsdb.path={}", host.dir.path().join("tsdb").display())).current_dir(host.dir.path());
    let _prometheus = Prometheus(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let query = |expression: &str| -> Option<Vec<Value>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        TcpStream::connect(("127.0.0.1", own)).ok()?;
        let answer = send(
            ([127, 0, 0, 1], own).into(),
            format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes(),
        );
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(body["data"]["result"].as_array()?.clone())
    };
    eventually("three targets that are up", || {
        let up = query("up == 1")?;
        (up.len() == 3).then_some(())
    });
    // Killed once: what is read changes with it.
    kill(host.pids()["w3"], Signal::KILL, Some(&host.mark));
    eventually("Prometheus to say what status says", || {
        let status = host.nodes();
        let starts = query("zca_node_starts_total")?;
        let told: BTreeMap<&str, u64> = starts
            .iter()
            .filter_map(|one| {
                assert_eq!(one["metric"]["zeek_agent"], "a1");
                let value: f64 = one["value"][1].as_str()?.parse().ok()?;
                Some((one["metric"]["node"].as_str()?, value as u64))
            })
            .collect();
        let expected: BTreeMap<&str, u64> =
            status.iter().map(|(name, node)| (name.as_str(), node.incarnation)).collect();
        (told == expected && expected["w3"] == 2).then_some(())
    });
    let crashes = eventually("the crash", || query("zca_node_crashes_total == 1"));
    assert_eq!(crashes[0]["metric"]["node"], "w3");
    let packets = query("zeek_net_received_packets_total").unwrap();
    assert_eq!(packets.len(), 2, "{packets:?}");
    drop(agent);
}

#[test]
fn the_example_rules_and_settings_are_what_prometheus_takes() {
    if !is_installed("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("share/prometheus/rules.yml", "rules.yml"),
        ("share/prometheus/prometheus.yml", "prometheus.yml"),
        ("tests/data/prometheus/rules-test.yml", "rules-test.yml"),
    ] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(from), dir.path().join(to)).unwrap();
    }
    for args in
        [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules-test.yml"]]
    {
        let mut command = Command::new("promtool");
        command.args(args).current_dir(dir.path()).stdin(Stdio::null());
        let said = Said::of(command);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
    }
    // Every metric that a rule uses is one.
    let rules = fs::read_to_string(dir.path().join("rules.yml")).unwrap();
    let known = include_str!("../../docs/METRICS.md");
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let used: Vec<&str> = rules.split(|byte| !is_name(byte)).filter(|word| word.starts_with("zca_")).collect();
    assert!(used.len() > 5, "{used:?}");
    for name in used {
        assert!(known.contains(&format!("`{name}`")), "{name} is no metric");
    }
}

/// The agent's resident memory, in KiB.
fn resident(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_page_of_a_big_host_costs_its_time_and_leaves_nothing_behind() {
    let count = std::env::var("ZCA_TEST_BIG_HOST").map_or(40, |text| text.parse().unwrap());
    let (host, agent, address) = serving();
    let names: Vec<String> = (0..count).map(|number| format!("w{number:04}")).collect();
    let nodes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let answer =
        host.ask_until_answered("r", &Request::Deploy { config: cluster(&nodes), force: false, how: Box::default() });
    assert!(answer.success(), "{answer:?}");
    let scrape = || {
        let begun = Instant::now();
        let page = get(address, "/metrics");
        (begun.elapsed(), page)
    };
    let (_, page) = scrape();
    assert_eq!(samples(&page)["zca_nodes{state=\"RUNNING\"}"], f64::from(count));
    // What grows to its size has done so after some of them.
    for _ in 0..20 {
        scrape();
    }
    let before = resident(&agent);
    let scrapes = (40_000 / count as usize).max(100);
    let mut took: Vec<Duration> = (0..scrapes).map(|_| scrape().0).collect();
    took.sort_unstable();
    let after = resident(&agent);
    println!(
        "{count} nodes: a page of {} bytes took {:.1} ms (median of {scrapes}; the longest {:.1} ms); resident {before} KiB before, \
         {after} KiB after",
        page.len(),
        took[scrapes / 2].as_secs_f64() * 1e3,
        took[scrapes - 1].as_secs_f64() * 1e3
    );
    // The allocator may keep some of what was freed, and not as much as all the pages.
    let pages = (scrapes * page.len()) as u64 / 1024;
    assert!(after < before + pages / 2, "{before} KiB became {after} KiB after {pages} KiB of pages");
}

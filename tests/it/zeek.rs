//! Zeek nodes, with a stand-in that refuses what Zeek refuses at its start (`tests/stand-in/zeek`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use zeek_cluster_agent::api::status::NodeState;

use crate::support::{AGENT, Host, Said, eventually, kill};

/// A small cluster of one host, with a node that takes no part in it.
const CLUSTER: &[(&str, &str)] = &[
    ("manager:manager", "port = 2200\nmetrics_port = 9000"),
    ("logger:logger", "port = 2201"),
    ("proxy:proxy", "port = 2202"),
    ("w1", "interface = lo\nscripts = policy/tuning/json-logs\noptions = Site::name=mine"),
    ("tap:none", "interface = lo"),
];

fn stand_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-in/zeek")
}

/// The agent's scripts, the first and one of the others of which every node loads last.
const SCRIPTS: [&str; 3] = ["zeek-cluster-agent-logs", "zeek-cluster-agent-node", "zeek-cluster-agent-channel"];
/// The backend's script and our endpoints for it, which come first.
const ZEROMQ: [&str; 2] = ["policy/frameworks/cluster/backend/zeromq", "zeek-cluster-agent-zeromq"];

/// A host whose nodes are this release of Zeek. Its agent does not listen for Broker peers: nodes check in by running its
/// program.
fn host(version: &str) -> Host {
    let mut host = Host::new();
    host.run_program(&stand_in()).set("STAND_IN_VERSION", version).set("ZCA_LISTEN", "off");
    host
}

/// What a node was given: its arguments and its environment, a line each.
fn given(host: &Host, node: &str) -> Vec<String> {
    let path = host.state_dir().join("nodes").join(node).join("given");
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The arguments before our scripts, which come last.
fn arguments(host: &Host, node: &str) -> Vec<String> {
    let mut all: Vec<String> =
        given(host, node).iter().filter_map(|line| line.strip_prefix("argument ").map(str::to_owned)).collect();
    let last = all.pop().unwrap();
    assert!(SCRIPTS[1..].contains(&last.as_str()), "{last}");
    assert_eq!(all.pop().unwrap(), SCRIPTS[0]);
    all
}

#[test]
fn every_release_starts_what_the_agent_prepares() {
    for version in ["5.0.9", "6.0.9", "7.0.4", "8.0.10", "8.1.1", "8.2.2", "9.0.0"] {
        let mut host = host(version);
        // Of a shell in which somebody works with Zeek's own framework.
        host.set("CLUSTER_NODE", "other").set("ZEEK_MANAGEMENT_NODE", "1").set("ZEEK_AGENT_PORT", "2151");
        let _agent = host.start();
        let file = host.cluster_file("a.ini", CLUSTER);
        let said = host.run(&["request", "deploy", &file]);
        assert_eq!(said.code, 0, "Zeek {version}: {said:?}\n{}", host.read_log());
        host.wait_all_running(CLUSTER.len());
        let mut expected = vec!["-i", "lo", "policy/tuning/json-logs", "Site::name=mine"];
        if ["8.1.1", "8.2.2", "9.0.0"].contains(&version) {
            expected.splice(2..2, ZEROMQ);
        }
        assert_eq!(arguments(&host, "w1"), expected, "Zeek {version}");
        assert_eq!(arguments(&host, "tap"), ["-i", "lo"]);
        assert!(!given(&host, "tap").iter().any(|line| line.starts_with("CLUSTER_NODE=")));
        assert!(host.read_log().contains(&format!("nodes are Zeek {}", &version[..3])), "{}", host.read_log());
    }
}

#[test]
fn the_backend_is_chosen_by_the_settings_and_before_them_by_the_configuration() {
    const BROKER: &str = "policy/frameworks/cluster/backend/broker";
    const CONNECT: [&str; 2] = ["policy/frameworks/cluster/backend/zeromq/connect", "zeek-cluster-agent-zeromq"];
    let nodes = [("manager:manager", "port = 2200"), ("w1", "")];
    for (version, setting, own, expected) in [
        ("9.0.0", "broker", "", &[BROKER][..]),
        ("9.0.0", "auto", "broker", &[BROKER]),
        ("9.0.0", "broker", "zeromq", &ZEROMQ),
        ("8.0.10", "auto", "", &[]),
        ("8.0.10", "zeromq", "", &CONNECT),
        ("8.0.10", "zeromq", "broker", &[]),
    ] {
        let mut host = host(version);
        host.set("ZCA_CLUSTER_BACKEND", setting);
        let _agent = host.start();
        let file = host.cluster_file("a.ini", &nodes);
        if !own.is_empty() {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, format!("{text}[zeek-cluster-agent]\ncluster_backend = {own}\n")).unwrap();
        }
        let said = host.run(&["request", "deploy", &file]);
        assert_eq!(said.code, 0, "{version} {setting} {own}: {said:?}\n{}", host.read_log());
        assert_eq!(arguments(&host, "w1"), expected, "{version} {setting} {own}");
    }
}

#[test]
fn a_zeek_without_zeromq_refuses_a_configuration_that_asks_for_it() {
    let host = host("7.0.4");
    let _agent = host.start();
    let config = host.file(
        "a.json",
        &format!(
            r#"{{"cluster_backend": "zeromq", "instances": [{{"name": "{AGENT}", "host": "127.0.0.1"}}], "nodes":
               [{{"name": "m", "instance": "{AGENT}", "role": "manager"}}]}}"#
        ),
    );
    for command in [&["request", "deploy"][..], &["config", "diff"]] {
        let said = host.run(&[command, &[config.as_str()]].concat());
        let told = "the nodes here are Zeek 7.0: it is supported from Zeek 8.0 on; use cluster_backend = broker";
        assert!(said.code != 0 && format!("{said:?}").contains(told), "{said:?}");
    }
    assert_eq!(host.nodes().len(), 0);
}

/// Only the manager's two ports and the loggers' are needed, and all of them where the configuration says.
#[test]
fn from_broker_to_zeromq_and_back_is_one_deploy() {
    let mut host = host("9.0.0");
    host.set("ZCA_DEPLOY_STRATEGY", "changed");
    let _agent = host.start();
    let nodes = [("manager:manager", "port = 2200"), ("logger:logger", "port = 2201"), ("proxy:proxy", "port = 2202")];
    let zeromq = host.cluster_file("zeromq.ini", &nodes);
    let text = fs::read_to_string(&zeromq).unwrap();
    let broker = host.file("broker.ini", &format!("{text}[zeek-cluster-agent]\ncluster_backend = broker\n"));
    for (file, layout) in [(&broker, "$p=2202/tcp"), (&zeromq, ""), (&broker, "$p=2202/tcp")] {
        let before = host.nodes();
        let diff = host.json(&["config", "diff", file, "--json"]);
        if !before.is_empty() {
            let replaced = diff["nodes"].as_array().unwrap();
            assert!(replaced.iter().all(|node| node["action"] == "replace"), "{diff}");
            assert!(diff.to_string().contains("arguments") && diff.to_string().contains("ports"), "{diff}");
        }
        assert_eq!(host.run(&["request", "deploy", file]).code, 0, "{}", host.read_log());
        let written = fs::read_to_string(host.state_dir().join("nodes/proxy/cluster-layout.zeek")).unwrap();
        assert!(written.contains("$p=2201/tcp") && written.contains(layout), "{written}");
        assert_eq!(written.contains("2202"), !layout.is_empty(), "{written}");
    }
    let text = fs::read_to_string(&zeromq).unwrap();
    let ini = host.run(&["config", "convert", &broker, "--to", "ini"]);
    assert!(ini.stdout.contains("[zeek-cluster-agent]\ncluster_backend = broker\n") && !text.contains("backend"));
    assert!(ini.stderr.contains("zeek-client takes its section for a node"), "{ini:?}");
}

/// The other rules of a launch are met in the tests around this one; here is where nodes find the agent, on two hosts of which
/// one has IPv6, with and without a logger.
#[test]
fn nodes_are_told_their_agent_in_zeeks_form_and_have_a_layout_of_all_hosts() {
    for (listen, address) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "::1")] {
        let mut host = host("7.0.4");
        // The stand-in speaks no Broker.
        host.set("ZCA_LISTEN", listen).set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "100ms");
        host.set("ZEEK_AGENT_PORT", "1").set("ZEEK_AGENT_ADDR", "192.0.2.1");
        let _agent = host.start();
        let nodes = "[instances]\na1 = [2001:db8::1]\na2 = 192.0.2.2\n[m]\ninstance = a1\nrole = manager\nport = 2200\n\
                     [w1]\ninstance = a1\nrole = worker\n[w2]\ninstance = a2\nrole = worker\n";
        for loggers in ["", "[l]\ninstance = a2\nrole = logger\nport = 2201\n"] {
            let file = host.file("a.ini", &format!("{nodes}{loggers}"));
            let said = host.run(&["request", "deploy", &file]);
            assert_eq!(said.code, 0, "{listen}: {said:?}\n{}", host.read_log());
            let port = host.status().listen.unwrap().rsplit_once(':').unwrap().1.to_owned();
            for node in ["m", "w1"] {
                let given = given(&host, node);
                for line in [format!("ZEEK_AGENT_ADDR={address}"), format!("ZEEK_AGENT_PORT={port}/tcp")] {
                    assert!(given.contains(&line), "{node} lacks {line}: {given:#?}");
                }
                let layout = fs::read_to_string(host.state_dir().join("nodes").join(node).join("cluster-layout.zeek"));
                let layout = layout.unwrap();
                assert_eq!(layout.contains("manager_is_logger = F"), !loggers.is_empty(), "{layout}");
                for member in
                    ["$ip=[2001:db8::1], $p=2200/tcp", "[\"w2\"] = [$node_type=Cluster::WORKER, $ip=192.0.2.2"]
                {
                    assert!(layout.contains(member), "{layout}");
                }
            }
        }
    }
}

/// Zeek's own node script needs Zeek's own variables, and a word that keeps it from ending a node without a Supervisor.
#[test]
fn the_scripts_of_zeeks_management_framework_can_take_the_place_of_ours() {
    let mut host = host("7.0.4");
    host.set("ZCA_NODE_SCRIPTS", "management").set("ZCA_READY", "alive").set("ZCA_ALIVE_SECS", "100ms");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("w1", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    let (given, state) = (given(&host, "w1"), host.state_dir().display().to_string());
    for line in [
        "argument policy/frameworks/management/node".to_owned(),
        format!("ZEEK_MANAGEMENT_SPOOL_DIR={state}/spool"),
        format!("ZEEK_MANAGEMENT_STATE_DIR={state}"),
    ] {
        assert!(given.contains(&line), "{given:#?}");
    }
    assert!(!host.state_dir().join("nodes/w1/zeek-cluster-agent-node.zeek").exists());
}

/// By the grammar of Zeek's own formatter. It knows the syntax, not the names.
#[test]
fn our_scripts_parse() {
    let Some(python) = std::env::var_os("ZCA_TEST_PYTHON") else {
        println!("not run: ZCA_TEST_PYTHON names no Python with tests/clients/requirements.txt; scripts/test sets it");
        return;
    };
    let parse = |script: &Path| {
        let mut command = Command::new(Path::new(&python).with_file_name("zeek-script"));
        command.arg("parse").arg(script);
        Said::of(command)
    };
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("share/zeek");
    let mut count = 0;
    for entry in fs::read_dir(scripts).unwrap() {
        let said = parse(&entry.unwrap().path());
        assert!(said.code == 0 && !said.stdout.contains("[error"), "{said:?}");
        count += 1;
    }
    assert_eq!(count, SCRIPTS.len());
    let broken = tempfile::NamedTempFile::new().unwrap();
    fs::write(broken.path(), "event zeek_init() { print 1 }").unwrap();
    assert_ne!(parse(broken.path()).code, 0);
}

#[test]
fn settings_reach_the_nodes() {
    let mut host = host("8.0.10");
    let bin = stand_in().display().to_string();
    let config = host.file(
        "agent.toml",
        &format!(
            "node_program = {bin:?}\nnode_args = [\"-p\", \"site\"]\nnode_args_worker = [\"-B\", \"main-loop\"]\n\
             zeek_local = true\nzeek_checksums = false\nzeek_path = [\"/site/scripts\"]\nzeek_listen_address = \"127.0.0.1\"\n"
        ),
    );
    host.set("ZCA_CONFIG", &config).set("ZEEKPATH", "/usr/share/zeek");
    let _agent = host.start();
    let file = host.cluster_file("a.ini", &[("manager:manager", "port = 2200"), ("w1", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    assert_eq!(arguments(&host, "w1"), ["-i", "lo", "-C", "-p", "site", "-B", "main-loop", "local"]);
    assert_eq!(arguments(&host, "manager"), ["-C", "-p", "site", "local"]);
    let given = given(&host, "w1");
    for line in ["ZEEKPATH=.:/site/scripts:/usr/share/zeek", "ZEEK_DEFAULT_LISTEN_ADDRESS=127.0.0.1"] {
        assert!(given.iter().any(|one| one == line), "{given:#?}");
    }
}

/// Nodes that run are left alone; whichever starts next starts as the new release needs it.
#[test]
fn an_upgrade_of_zeek_reaches_each_node_with_its_next_start() {
    let mut host = host("8.0.10");
    let agent = host.start();
    let file =
        host.cluster_file("a.ini", &[("m:manager", "port = 2200"), ("w1", "interface = lo"), ("w2", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    host.wait_all_running(3);
    let before = host.pids();
    agent.kill();

    host.set("STAND_IN_VERSION", "8.1.1");
    let _agent = host.start();
    host.wait_all_running(3);
    assert_eq!(host.pids(), before);
    kill(before["w1"], Signal::KILL, None);
    eventually("w1 to run again", || {
        let report = host.nodes().remove("w1")?;
        (report.state == NodeState::Running && report.pid != Some(before["w1"])).then_some(())
    });
    assert_eq!(arguments(&host, "w1"), ["-i", "lo", ZEROMQ[0], ZEROMQ[1]]);
    assert_eq!((arguments(&host, "w2"), host.pids()["w2"]), (vec!["-i".to_owned(), "lo".to_owned()], before["w2"]));
    host.verify();
}

#[test]
fn a_layout_follows_the_configuration_and_is_written_at_each_start() {
    let host = host("8.0.10");
    let _agent = host.start();
    let layout = host.state_dir().join("nodes/w1/cluster-layout.zeek");
    let file = host.cluster_file("a.ini", &[("w1", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    let alone = fs::read_to_string(&layout).unwrap();
    assert!(!alone.contains("manager"), "{alone}");
    fs::write(&layout, "what somebody wrote").unwrap();
    assert_eq!(host.run(&["nodes", "restart", "w1"]).code, 0);
    assert_eq!(fs::read_to_string(&layout).unwrap(), alone);
    let file = host.cluster_file("b.ini", &[("manager:manager", "port = 2200"), ("w1", "interface = lo")]);
    assert_eq!(host.run(&["request", "deploy", &file]).code, 0);
    let both = fs::read_to_string(&layout).unwrap();
    assert!(both.contains("[\"manager\"] = [$node_type=Cluster::MANAGER, $ip=127.0.0.1, $p=2200/tcp"), "{both}");
}

#[test]
fn a_zeek_that_cannot_be_asked_is_said_so_and_one_that_is_none_is_not_prepared() {
    let mut host = host("8.0.10");
    let program = host.file("zeek", "#!/bin/sh\nexit 3\n");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.run_program(Path::new(&program));
    let agent = host.start();
    let warnings = host.status().warnings.join("\n");
    assert!(warnings.contains("cannot tell the version of Zeek") && warnings.contains("exit status: 3"), "{warnings}");
    agent.kill();
    host.set("ZCA_NODE_PROFILE", "plain");
    let _agent = host.start();
    assert!(!host.status().warnings.join("\n").contains("Zeek"), "{:?}", host.status().warnings);
}

/// In the log and on the wire when it is deployed, at each start with it, in the plan, and before an agent gets to see it.
#[test]
fn a_metrics_port_that_zeek_does_not_know_is_said_to_have_no_effect() {
    let told =
        "metrics_port of logger and 3 more nodes has no effect: the nodes here are Zeek 6.0, and Zeek has it since 7.0";
    for (version, expected) in [("6.0.4", true), ("7.0.4", false)] {
        let mut host = host(version);
        // Commands beside the agent read it, too.
        host.set("ZCA_NODE_PROGRAM", &stand_in().display().to_string());
        let file = host.cluster_file("a.ini", CLUSTER);
        let mut agent = host.start();
        let check = || host.run(&["config", "check", &file]);
        let said = check();
        assert_eq!((said.code, said.stderr.contains(told)), (0, expected), "{version}: {said:?}");
        let json = host.json(&["config", "check", &file, "--json"]);
        assert_eq!(json["warnings"].to_string().contains(told), expected, "{version}: {json}");
        let said = host.run(&["config", "diff", &file]);
        assert_eq!((said.code, said.stderr.contains(told)), (0, expected), "{version}: {said:?}");
        assert_eq!(host.run(&["request", "deploy", &file]).code, 0, "{}", host.read_log());
        let times = || host.read_log().matches(&format!("warning: configuration: {told}")).count();
        assert_eq!(times(), usize::from(expected), "{version}: {}", host.read_log());
        agent.kill();
        agent = host.start();
        assert_eq!(times(), 2 * usize::from(expected), "{version}: {}", host.read_log());
        drop(agent);
        // Where Zeek cannot be asked nothing is known, and nothing said.
        host.set("ZCA_NODE_PROGRAM", "/nonexistent/zeek");
        assert!(!host.run(&["config", "check", &file]).stderr.contains("no effect"));
    }
}

/// The port is somebody else's, which is a reason to wait only for a Zeek that would bind it.
#[test]
fn a_metrics_port_that_zeek_does_not_know_is_not_waited_for() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (version, code) in [("6.0.4", 0), ("7.0.4", 1)] {
        let mut host = host(version);
        host.set("ZCA_READY_TIMEOUT", "4s");
        let _agent = host.start();
        let file = host.cluster_file("a.ini", &[("w1", &format!("metrics_port = {port}"))]);
        let said = host.run(&["request", "deploy", &file]);
        assert_eq!(said.code, code, "Zeek {version}: {said:?}");
        assert_eq!(host.read_log().contains(&format!("port {port}")), code == 1, "{version}: {}", host.read_log());
    }
}

#[test]
fn nodes_that_could_never_check_in_are_warned_of() {
    for (scripts, listen, ready, expected) in [
        ("own", "off", "checkin", None),
        ("management", "127.0.0.1:0", "checkin", None),
        (
            "management",
            "off",
            "checkin",
            Some("the agent does not listen for it; set listen, or set ready = \"alive\""),
        ),
        ("none", "127.0.0.1:0", "checkin", Some("no script that checks in")),
        ("none", "off", "alive", None),
    ] {
        let mut host = host("8.0.10");
        host.set("ZCA_NODE_SCRIPTS", scripts).set("ZCA_LISTEN", listen).set("ZCA_READY", ready);
        let _agent = host.start();
        let warnings = host.status().warnings;
        let found = warnings.iter().find(|warning| warning.contains("check"));
        assert_eq!(found.is_some(), expected.is_some(), "{scripts}, {listen}, {ready}: {warnings:?}");
        assert!(found.is_none_or(|found| found.contains(expected.unwrap_or_default())), "{warnings:?}");
    }
}

/// The tests above say something only if the stand-in refuses what Zeek does.
#[test]
fn the_stand_in_refuses_what_zeek_refuses() {
    let layout = |directory: &Path, text: &str| fs::write(directory.join("cluster-layout.zeek"), text).unwrap();
    let good = "redef Cluster::nodes = {\n\t[\"w1\"] = [$node_type=Cluster::WORKER, $ip=127.0.0.1, $metrics_port=1/tcp],\n};\n";
    let logger = good.replace("WORKER", "LOGGER");
    let broken = good.replace("],\n}", "]\n}");
    let backend = "policy/frameworks/cluster/backend/broker";
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
    let address = good.replace("127.0.0.1", "2001:db8::1");
    let field = good.replace("$metrics_port=1/tcp", "$interface=\"eth0\"");
    let port = good.replace("1/tcp", "1");
    let zeromq = "policy/frameworks/cluster/backend/zeromq";
    let connect = "policy/frameworks/cluster/backend/zeromq/connect";
    let member: &[(&str, &str)] = &[("CLUSTER_NODE", "w1")];
    let cases: [Case; 24] = [
        ("8.0.1", "", &[("CLUSTER_NODE", "w1")], &[], "can't find cluster-layout"),
        ("8.0.1", good, &[("CLUSTER_NODE", "w1"), ("ZEEKPATH", "/nowhere")], &[], "can't find cluster-layout"),
        ("8.0.1", good, &[("CLUSTER_NODE", "w2")], &[], "w2 is not in Cluster::nodes"),
        ("8.0.1", &broken, &[("CLUSTER_NODE", "w1")], &[], "syntax error"),
        ("8.0.1", &address, &[("CLUSTER_NODE", "w1")], &[], "syntax error"),
        ("8.0.1", &port, &[("CLUSTER_NODE", "w1")], &[], "syntax error"),
        ("8.0.1", &field, &[("CLUSTER_NODE", "w1")], &[], "no such field in record (interface)"),
        ("8.0.1", &logger, &[("CLUSTER_NODE", "w1")], &[], "there is a logger"),
        ("6.0.1", good, &[("CLUSTER_NODE", "w1")], &[], "no such field"),
        ("8.1.0", good, &[("CLUSTER_NODE", "w1")], &[], "no cluster backend"),
        ("8.0.1", good, &[("CLUSTER_NODE", "w1")], &[backend], "can't find policy"),
        ("7.0.1", good, member, &[zeromq], "can't find policy"),
        ("8.0.1", "", &[], &["zeek-cluster-agent-channel"], "can't find zeek-cluster-agent-channel"),
        ("8.1.0", good, member, &["policy/tuning/json-logs"], "no cluster backend"),
        ("9.1.0", good, member, &[connect], "can't find policy"),
        ("9.0.0", good, member, &[zeromq, "zeek-cluster-agent-zeromq"], "can't find zeek-cluster-agent-zeromq"),
        ("9.0.0", good, member, &["zeek-cluster-agent-zeromq", zeromq], "can't find zeek-cluster-agent-zeromq"),
        ("8.0.1", "", &[], &["zeek-cluster-agent-node"], "can't find zeek-cluster-agent-node"),
        ("8.0.1", "", &[], &["policy/frameworks/management/node"], "errors occurred while initializing"),
        ("8.0.1", "", &[], &["/nowhere/script.zeek"], "can't find /nowhere"),
        ("8.0.1", "", &[("ZEEK_AGENT_PORT", "2151")], &[], "not a port"),
        ("8.0.1", "", &[("ZEEK_AGENT_PORT", "x/tcp")], &[], "not a port"),
        ("8.0.1", "", &[("ZEEK_AGENT_PORT", "2151/udp")], &[], "not a port"),
        ("8.0.1", "", &[("ZEEK_MANAGEMENT_NODE", "1")], &[], "ZEEK_MANAGEMENT_NODE"),
    ];
    for (version, text, env, args, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        if !text.is_empty() {
            layout(directory.path(), text);
        }
        let mut command = Command::new(stand_in());
        command.current_dir(directory.path()).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("STAND_IN_VERSION", version).envs(env.iter().copied()).args(args);
        let said = Said::of(command);
        assert!(said.code == 1 && said.stderr.contains(expected), "{version} {env:?} {args:?}: {said:?}");
    }
}

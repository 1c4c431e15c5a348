//! Every example of `node.cfg` and `zeek.conf` in Zeek's manual (`doc/cluster-setup.rst`, `cluster/pf_ring.rst`, `quickstart.rst`,
//! `tutorial/invoking-zeekctl.rst`, `advanced/deployment/systemd.rst`, 9.1-dev), through the program.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use zeek_cluster_agent::api::configuration::Node;
use zeek_cluster_agent::cluster_file::{self, Foreign};

use super::repository;

/// A node in a line.
fn line(node: &Node) -> String {
    let mut text = format!("{} of {}: {}", node.name, node.instance, node.role.as_str());
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            write!(text, ", {key} {value}").unwrap();
        }
    };
    add("port", node.port.map(|port| port.to_string()));
    add("metrics", node.metrics_port.map(|port| port.to_string()));
    add("interface", node.interface.clone());
    add("cpu", node.cpu_affinity.map(|cpu| cpu.to_string()));
    add("scripts", Some(node.scripts.join(" ")));
    let options = node.options.iter().map(|option| format!("{}={}", option.name, option.value));
    add("options", Some(options.collect::<Vec<_>>().join(" ")));
    let env = node.env.iter().map(|(name, value)| format!("{name}={value}"));
    add("env", Some(env.collect::<Vec<_>>().join(" ")));
    text
}

/// What becomes of a file, and what is said of it.
fn converted(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zeek-cluster-agent"));
    command.env_clear().env("HOME", "/nonexistent").env("ZEEK_AGENT_NAME", "agent-1");
    let output = command.current_dir(path.parent().unwrap()).args(["config", "convert", "--to", "json", name]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    let config = cluster_file::read(&output.stdout, name, None, None).unwrap();
    let mut text = format!("== {name}\n{}", String::from_utf8(output.stderr).unwrap());
    for instance in &config.instances {
        writeln!(text, "instance {} at {}", instance.name, instance.host).unwrap();
    }
    for node in &config.nodes {
        writeln!(text, "{}", line(node)).unwrap();
    }
    text
}

#[test]
fn every_example_of_the_manual_becomes_what_it_says() {
    let directory = repository("tests/data/manual");
    let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut examples: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind != "txt")).collect();
    examples.sort();
    assert_eq!(examples.len(), 17);
    let mut all = Vec::new();
    for path in examples {
        let kind =
            if path.extension().is_some_and(|kind| kind == "cfg") { Foreign::NodeCfg } else { Foreign::ZeekConf };
        assert_eq!(Foreign::of(&fs::read(&path).unwrap()), Some(kind), "{}", path.display());
        all.push(converted(&path));
    }
    let expected = fs::read_to_string(directory.join("expected.txt")).unwrap_or_default();
    let all = all.join("\n");
    assert!(all == expected, "tests/data/manual/expected.txt would be:\n{all}");
}

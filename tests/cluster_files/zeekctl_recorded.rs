//! zeekctl beside us: 2,500 generated `node.cfg`, and what zeekctl 2.6's own reader and plugins made of each, as recorded
//! in tests/data/zeekctl/. What differs is in docs/CLUSTER_FILES.md.
//!
//! `recorded.txt` has a line for each file: a digest of its text, so that a changed generator is noticed, and one of its
//! meaning, or `refused`. `recorded-meanings.txt` has the meaning of the first ones in full. `ZCA_WRITE_NODE_CFGS=FILE` has
//! the test write the texts as lines of JSON, for whoever records again; hosts stood for what [`addresses`] says, and
//! zeekctl ran on the manager's host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use zeek_cluster_agent::api::configuration::{Configuration, Node};
use zeek_cluster_agent::cluster_file::hosts::Addresses;
use zeek_cluster_agent::cluster_file::{self, FileError, Foreign, Kind, Known};

use super::dice::Dice;
use super::{ours, repository};

const FILES: usize = 2500;

fn data(name: &str) -> String {
    fs::read_to_string(repository("tests/data/zeekctl").join(name)).unwrap()
}

fn digest(text: &str, length: usize) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..length].to_owned()
}

fn addresses() -> Addresses {
    let known = [("sensor-a", "192.0.2.11"), ("sensor-b", "192.0.2.12")];
    let mut addresses: Addresses =
        known.iter().map(|(name, address)| ((*name).to_owned(), Ok(address.parse().unwrap()))).collect();
    addresses.insert("nowhere".to_owned(), Err("no such host".to_owned()));
    addresses
}

/// A node in a line: name, type, the first node of its host, interface, CPU, environment, scripts, options.
fn line(node: &Node, config: &Configuration) -> String {
    let host = |name: &str| {
        let host = config.instance(name).unwrap().host;
        if host.is_unspecified() { name.to_owned() } else { host.to_string() }
    };
    let beside = config.nodes.iter().filter(|other| host(&other.instance) == host(&node.instance));
    let first = beside.map(|other| other.name.as_str()).min().unwrap();
    let pairs = |pairs: Vec<(String, String)>| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    };
    let env = pairs(node.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect());
    let options = pairs(node.options.iter().map(|option| (option.name.clone(), option.value.clone())).collect());
    // zeekctl's word for a node outside of any cluster.
    let role = if node.role.as_str() == "none" { "standalone" } else { node.role.as_str() };
    let cpu = node.cpu_affinity.map(|cpu| cpu.to_string()).unwrap_or_default();
    let interface = node.interface.as_deref().unwrap_or_default();
    assert_eq!(node.scripts[0], "local");
    let scripts = node.scripts[1..].join(",");
    format!("{}|{role}|{first}|{interface}|{cpu}|{env}|{scripts}|{options}\n", node.name)
}

fn meaning(config: &Configuration) -> String {
    let mut text = String::new();
    for node in &config.nodes {
        write!(text, "{}", line(node, config)).unwrap();
    }
    text
}

fn read(text: &str) -> Result<Configuration, Vec<FileError>> {
    let known = Known { ours: Some(&ours()), addresses: &addresses() };
    cluster_file::read_as(text.as_bytes(), "f", Kind::Foreign(Foreign::NodeCfg), &known)
        .map(|reading| reading.configuration)
}

/// The difference, as docs/CLUSTER_FILES.md calls it, that a message of ours tells of.
fn difference(error: &str) -> Option<&'static str> {
    let differences = [
        ("which is indented; begin every key at the left edge", "continued values"),
        ("is expanded by a shell under zeekctl", "shell"),
        ("is more than one word", "shell"),
        ("a quote is not closed", "shell"),
        ("is more than a name", "several interfaces"),
        ("has no interface to share", "no interface"),
        ("give the node another name", "names of nodes"),
    ];
    differences.iter().find(|(words, _)| error.contains(words)).map(|(_, name)| *name)
}

#[test]
fn generated_node_cfgs_mean_to_us_what_they_mean_to_zeekctl() {
    let mut dice = Dice::new(17);
    let texts: Vec<String> = (0..FILES).map(|_| node_cfg_text(&mut dice)).collect();
    if let Some(path) = std::env::var_os("ZCA_WRITE_NODE_CFGS") {
        let lines: String = texts.iter().map(|text| format!("{}\n", serde_json::Value::from(text.as_str()))).collect();
        fs::write(path, lines).unwrap();
    }
    let (recorded, meanings) = (data("recorded.txt"), data("recorded-meanings.txt"));
    let meanings: Vec<&str> = meanings.split("==\n").skip(1).collect();
    assert_eq!((recorded.lines().count(), meanings.len()), (FILES, 100));
    let (mut read_by_both, mut refused_by_both) = (0, 0);
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, (text, recorded)) in texts.iter().zip(recorded.lines()).enumerate() {
        let (of_text, theirs) = recorded.split_once(' ').unwrap();
        assert_eq!(digest(text, 8), of_text, "the generator has changed: record again");
        match (read(text), theirs) {
            (Err(_), "refused") => refused_by_both += 1,
            (Ok(config), "refused") => {
                let has = |role: &str| config.nodes.iter().any(|node| node.role.as_str() == role);
                let name = if !has("manager") || !has("proxy") {
                    "no manager, no proxy"
                } else if text.contains("nowhere") {
                    "one host"
                } else {
                    panic!("zeekctl refuses this, and we take it for {}\n{text}", meaning(&config));
                };
                *met.entry(name).or_default() += 1;
            }
            (Ok(config), theirs) => {
                let ours = meaning(&config);
                if let Some(theirs) = meanings.get(index) {
                    assert_eq!(&ours, theirs, "{text}");
                }
                assert_eq!(digest(&ours, 12), theirs, "zeekctl takes this otherwise than for {ours}\n{text}");
                read_by_both += 1;
            }
            (Err(errors), _) => {
                for error in errors {
                    let name = difference(&error.to_string());
                    let name = name.unwrap_or_else(|| panic!("zeekctl reads this and we refuse it: {error}\n{text}"));
                    *met.entry(name).or_default() += 1;
                }
            }
        }
    }
    println!("{FILES} files: read by both {read_by_both}, refused by both {refused_by_both}; differences {met:?}");
    assert!(read_by_both > FILES / 4 && refused_by_both > FILES / 5, "{read_by_both} read, {refused_by_both} refused");
    let listed = fs::read_to_string(repository("docs/CLUSTER_FILES.md")).unwrap();
    let rows: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    for name in met.keys() {
        assert!(rows.contains(name), "{name:?} is not in the table of docs/CLUSTER_FILES.md");
    }
    assert_eq!(met.len(), 7, "each difference is met: {met:?}");
}

/// A `node.cfg` with much that is odd.
fn node_cfg_text(dice: &mut Dice) -> String {
    let mut file = Text { hosts: usize::MAX, dice, lines: Vec::new() };
    file.hosts = file.dice.below(4);
    if file.dice.once_in(4) {
        file.lines.push("[DEFAULT]".to_owned());
        file.item("nic", "eth0");
        if file.dice.once_in(2) {
            file.item("env_vars", "FROM=default");
        }
    }
    if file.dice.once_in(12) {
        file.section("zeek", "standalone");
    } else {
        for (name, of) in [("manager", 12), ("proxy-1", 12), ("logger-1", 2)] {
            if !file.dice.once_in(of) {
                let kind = name.split('-').next().unwrap();
                file.section(name, kind);
            }
        }
        for index in 0..file.dice.below(4) {
            let name =
                file.dice.mostly(&["worker-1", "worker-2", "worker-3"], 25, &["Worker-1", "w 1", "worker-1-2", "x/y"]);
            let name = if file.dice.once_in(20) { name.to_owned() } else { format!("{name}{index}") };
            file.section(&name, "worker");
        }
        if file.dice.once_in(25) {
            file.section("again", "manager");
        }
    }
    file.lines.join("\n")
}

struct Text<'a> {
    dice: &'a mut Dice,
    lines: Vec<String>,
    /// Which of the kinds of hosts the file is about.
    hosts: usize,
}

impl Text<'_> {
    fn item(&mut self, key: &str, value: &str) {
        let key = if self.dice.once_in(12) { key.to_uppercase() } else { key.to_owned() };
        let line = match self.dice.below(160) {
            0..100 => format!("{key}={value}"),
            100..130 => format!("{key} = {value}"),
            130..145 => format!("{key}: {value}"),
            145 => key,
            146 => format!("={value}"),
            147 => format!("{key}={value} # inline"),
            148 => format!(" {key}={value}"),
            _ => format!("{key}={value}  "),
        };
        self.lines.push(line);
        if self.dice.once_in(12) {
            let line = self.dice.pick(&["", "# comment", "; type=worker", "  # indented"]);
            self.lines.push(line.to_owned());
        }
    }

    fn section(&mut self, name: &str, kind: &str) {
        self.lines.push(format!("[{name}]"));
        let odd = ["Worker", "chief", "", "%(nic)s", "standalone"];
        let kind = self.dice.mostly(&[kind], 60, &odd);
        self.item("type", kind);
        let hosts: &[&str] = match self.hosts {
            0 => &["localhost"],
            1 => &["192.0.2.11", "192.0.2.12", "sensor-a"],
            2 => &["sensor-a", "SENSOR-A", "sensor-b"],
            _ => &["127.0.0.1", "localhost", "::1"],
        };
        let host = self.dice.mostly(hosts, 40, &["nowhere", "localhost", "", "2001:db8::1", "a b"]);
        if !self.dice.once_in(60) {
            self.item("host", host);
        }
        let balanced = kind == "worker" && self.dice.once_in(2) || self.dice.once_in(40);
        if kind == "worker" || self.dice.once_in(12) {
            let interface = self.dice.mostly(
                &["eth0", "eth1", "%(nic)s", "zc:7", "dna0"],
                14,
                &["eth0 -i eth1", "af_packet::eth0", ""],
            );
            if !interface.contains("(nic)") || self.lines.iter().any(|line| line.starts_with("nic")) {
                self.item("interface", interface);
            }
        }
        if balanced {
            self.balance();
        }
        for _ in 0..self.dice.below(3) {
            self.extra();
        }
    }

    fn balance(&mut self) {
        let procs = self.dice.mostly(&["1", "2", "3", "+2"], 30, &["0", "-1", "x", "", "1.0"]);
        let method = self.dice.mostly(&["af_packet", "pf_ring", "myricom", "custom", "interfaces"], 30, &["magic", ""]);
        if !self.dice.once_in(40) {
            self.item("lb_procs", procs);
        }
        if !self.dice.once_in(40) {
            self.item("lb_method", method);
        }
        if method == "interfaces" || self.dice.once_in(30) {
            let usual = match procs {
                "1" => "eth4",
                "3" => "eth4,eth5 , eth6",
                _ => "eth4, eth5",
            };
            let listed = self.dice.mostly(&[usual], 20, &["eth4", "", "eth4,eth5,"]);
            self.item("lb_interfaces", listed);
        }
        if method == "af_packet" && self.dice.once_in(2) {
            let key = self.dice.pick(&["af_packet_fanout_id", "af_packet.fanout_id", "af_packet_buffer_size"]);
            self.item(key, "42");
        }
    }

    fn extra(&mut self) {
        let before = self.lines.iter().rposition(|line| line.starts_with('[')).unwrap_or(0);
        let (key, value) = match self.dice.below(5) {
            0 | 1 => ("pin_cpus", self.dice.mostly(&["0", "1,2", "3, 4 ,5", "+1"], 14, &["", "-1", "a", "1,,2"])),
            2 | 3 => {
                let usual = ["A=1", "A=1, B = 2", "Q=\"two words\"", "S='x'", "E=", "F=%%Y", "SNF_FLAGS=0x2"];
                ("env_vars", self.dice.mostly(&usual, 14, &["A", "=1", "H=$HOME", "W=a b", "O=\"x", "P=%Y"]))
            }
            _ => match self.dice.below(4) {
                0 => ("aux_scripts", "site/a b.zeek"),
                1 => ("zone_id", "eth0"),
                2 => ("plugin.key", "1"),
                _ => ("ether", "00:11"),
            },
        };
        let again = self.lines[before..].iter().any(|line| line.to_lowercase().starts_with(key));
        if again && !self.dice.once_in(10) {
            return;
        }
        self.item(key, value);
        if self.dice.once_in(60) {
            self.lines.push("  goes on".to_owned());
        }
    }
}

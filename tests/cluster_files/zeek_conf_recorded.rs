//! Zeek's systemd generator beside us: 2,500 generated `zeek.conf`, and the nodes that Zeek 9.1-dev's `zeek-systemd-generator`
//! and `zeek-cluster-layout-generator` made of each, as recorded in tests/data/zeek-conf/recorded.txt: a line for each file,
//! with a digest of its text, so that a changed generator of texts is noticed, and one of its meaning, or `refused`. What
//! differs is in docs/CLUSTER_FILES.md. `ZCA_WRITE_ZEEK_CONFS=FILE` has the test write the texts as lines of JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use zeek_cluster_agent::api::configuration::{Configuration, Node};
use zeek_cluster_agent::cluster_file::{self, Foreign, Reading};

use super::dice::Dice;
use super::{ours, repository};

const FILES: usize = 2500;

fn digest(text: &str, length: usize) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..length].to_owned()
}

/// A node in a line: name, role, ports, interface, CPU, environment, scripts, options.
fn line(node: &Node) -> String {
    let port = |port: Option<zeek_cluster_agent::api::configuration::Port>| {
        port.map(|port| port.number.to_string()).unwrap_or_default()
    };
    let env: Vec<String> = node.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut options: Vec<String> =
        node.options.iter().map(|option| format!("{}={}", option.name, option.value)).collect();
    options.sort();
    // For all but workers, the generator has no single CPU: see limits in the documents.
    let is_worker = node.role.as_str() == "worker";
    let cpu = node.cpu_affinity.filter(|_| is_worker).map(|cpu| cpu.to_string()).unwrap_or_default();
    let interface = node.interface.as_deref().unwrap_or_default();
    let (port, metrics) = (port(node.port), port(node.metrics_port));
    let (name, role, env) = (&node.name, node.role.as_str(), env.join(","));
    let (scripts, options) = (node.scripts.join(","), options.join(","));
    format!("{name}|{role}|{port}|{metrics}|{interface}|{cpu}|{env}|{scripts}|{options}\n")
}

fn meaning(config: &Configuration) -> String {
    let mut text = String::new();
    for node in &config.nodes {
        write!(text, "{}", line(node)).unwrap();
    }
    text
}

/// The difference, as docs/CLUSTER_FILES.md calls it, that lets us read what the generator refuses.
fn leniency(text: &str, reading: &Reading) -> Result<&'static str, String> {
    let warned = |words: &str| reading.warnings.iter().any(|warning| warning.to_string().contains(words));
    if warned("is one of 2 interfaces, which Zeek takes in sections only") {
        Ok("interface again")
    } else if warned("is no option of this section") {
        Ok("unknown options")
    } else if text.lines().any(|line| line.starts_with("cluster_address") && line.ends_with("::1")) {
        Ok("address without brackets")
    } else {
        Err(format!("the generator refuses this, and we take it for {}\n{text}", meaning(&reading.configuration)))
    }
}

fn strictness(text: &str, error: &str) -> Result<&'static str, String> {
    let differences = [
        ("a quote is not closed", "open quotes"),
        ("is no port", "ports"),
        ("interface: is missing for these workers", "empty interface"),
    ];
    let found = differences.iter().find(|(words, _)| error.contains(words)).map(|(_, name)| *name);
    found.ok_or_else(|| format!("the generator reads this and we refuse it: {error}\n{text}"))
}

#[test]
fn generated_zeek_confs_mean_to_us_what_they_mean_to_zeeks_generator() {
    let mut dice = Dice::new(18);
    let texts: Vec<String> = (0..FILES).map(|_| zeek_conf_text(&mut dice)).collect();
    if let Some(path) = std::env::var_os("ZCA_WRITE_ZEEK_CONFS") {
        let lines: String = texts.iter().map(|text| format!("{}\n", serde_json::Value::from(text.as_str()))).collect();
        fs::write(path, lines).unwrap();
    }
    let recorded = fs::read_to_string(repository("tests/data/zeek-conf/recorded.txt")).unwrap();
    assert_eq!(recorded.lines().count(), FILES);
    let (mut read_by_both, mut refused_by_both) = (0, 0);
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unlike = Vec::new();
    let mut meet = |name: Result<&'static str, String>| match name {
        Ok(name) => *met.entry(name).or_default() += 1,
        Err(how) => unlike.push(how),
    };
    for (text, recorded) in texts.iter().zip(recorded.lines()) {
        let (of_text, theirs) = recorded.split_once(' ').unwrap();
        assert_eq!(digest(text, 8), of_text, "the generator of texts has changed: record again");
        let ours = cluster_file::read_foreign(text.as_bytes(), "zeek.conf", Foreign::ZeekConf, Some(&ours()));
        match (ours, theirs) {
            (Err(_), "refused") => refused_by_both += 1,
            (Ok(reading), "refused") => meet(leniency(text, &reading)),
            (Ok(mut reading), theirs) => {
                if reading.warnings.iter().any(|warning| warning.place.ends_with("metrics_port")) {
                    meet(Ok("no metrics"));
                    reading.configuration.nodes.iter_mut().for_each(|node| node.metrics_port = None);
                }
                let ours = meaning(&reading.configuration);
                if digest(&ours, 12) == theirs {
                    read_by_both += 1;
                } else {
                    meet(Err(format!("the generator takes this otherwise than for {ours}\n{text}")));
                }
            }
            (Err(errors), _) => {
                for error in errors {
                    meet(strictness(text, &error.to_string()));
                }
            }
        }
    }
    unlike.truncate(5);
    assert!(unlike.is_empty(), "{}", unlike.join("\n==\n"));
    println!("{FILES} files: read by both {read_by_both}, refused by both {refused_by_both}; differences {met:?}");
    assert!(read_by_both > FILES / 3 && refused_by_both > FILES / 6, "{read_by_both} read, {refused_by_both} refused");
    let listed = fs::read_to_string(repository("docs/CLUSTER_FILES.md")).unwrap();
    let rows: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    for name in met.keys() {
        assert!(rows.contains(name), "{name:?} is not in the table of docs/CLUSTER_FILES.md");
    }
    assert_eq!(met.len(), 7, "each difference is met: {met:?}");
}

/// A `zeek.conf` with much that is odd.
fn zeek_conf_text(dice: &mut Dice) -> String {
    let mut file = Text { dice, lines: Vec::new() };
    if file.dice.once_in(3) {
        file.zeek();
        file.interface("eth0");
        if file.dice.once_in(12) {
            file.interface("eth1");
        }
    } else {
        if !file.dice.once_in(8) {
            file.lines.push("[zeek]".to_owned());
            file.zeek();
        }
        for name in ["eth1", "b-2", "c_3"] {
            if file.dice.once_in(2) {
                let name = file.dice.mostly(&[name], 30, &["eth!a", "e f", "ETH", ""]);
                let header = if name.is_empty() { "[interface]".to_owned() } else { format!("[interface {name}]") };
                file.lines.push(header);
                file.interface(name);
            }
        }
        if file.dice.once_in(20) {
            file.lines.push("[other]".to_owned());
            file.item("x", "1");
        }
    }
    let ending = file.dice.mostly(&["\n"], 10, &["\r\n"]);
    file.lines.join(ending)
}

struct Text<'a> {
    dice: &'a mut Dice,
    lines: Vec<String>,
}

impl Text<'_> {
    fn item(&mut self, key: &str, value: &str) {
        let line = match self.dice.below(120) {
            0 => format!(" {key} = {value}"),
            1 => key.to_owned(),
            2 => format!("{key} ="),
            3..30 => format!("{key}={value}"),
            _ => format!("{key} = {value}"),
        };
        self.lines.push(line);
        match self.dice.below(40) {
            0..4 => self.lines.push("# comment = 1".to_owned()),
            4..6 => self.lines.push(String::new()),
            6 => self.lines.push("  goes=on".to_owned()),
            _ => {}
        }
    }

    fn some(&mut self, of: usize, key: &str, usual: &[&str], odd: &[&str]) {
        if self.dice.once_in(of) {
            let value = self.dice.mostly(usual, 14, odd).to_owned();
            self.item(key, &value);
        }
    }

    fn zeek(&mut self) {
        let wrong = ["many", "-1", "1.0", "+1"];
        if !self.dice.once_in(8) {
            let value = self.dice.mostly(&["1"], 12, &["0", "2", "yes"]).to_owned();
            self.item("manager", &value);
        }
        self.some(2, "loggers", &["1", "2", "0"], &wrong);
        self.some(2, "proxies", &["1", "3", "0"], &wrong);
        self.some(5, "args", &["local", "site/a Site::x=T", "local \"b c\""], &["", "-C local", "\"open"]);
        self.some(6, "manager_args", &["policy/x", "M::y=1"], &[""]);
        self.some(6, "logger_args", &["policy/l a/b"], &["'open"]);
        self.some(6, "env", &["A=1", "T=\\${x}"], &["", "nothing", "B=${worker_index}"]);
        self.some(6, "proxy_env", &["P=2", "A=own"], &["none"]);
        self.some(6, "port", &["3000"], &["x"]);
        self.some(6, "metrics_port", &["9100"], &["1"]);
        self.some(6, "cluster_address", &["192.0.2.7", "[2001:db8::1]"], &["::1", "host", ""]);
        self.some(6, "cluster_node_prefix", &["lab", "x-1"], &["", "Bad", "a.b"]);
        self.some(8, "cluster_backend_args", &["frameworks/cluster/backend/zeromq"], &[""]);
        self.some(8, "manager_memory_max", &["4G", "1000", "7T"], &["4GB", "-1", "G"]);
        self.some(8, "logger_nice", &["-20", "19", " 0"], &["20", "x"]);
        self.some(8, "proxy_cpu_set", &["1,2", "0-4:2"], &["1-", "x", "4:2"]);
        self.some(8, "user", &["zeek"], &["root"]);
        self.some(10, "archiver", &["1", "0"], &["/bin/true"]);
        self.some(14, "ext_path", &["/opt"], &[""]);
        self.some(30, "no_such_option", &["1"], &["2"]);
    }

    fn interface(&mut self, name: &str) {
        let device = format!("af_packet::{name}");
        if !self.dice.once_in(25) {
            let usual = [&*device, "napatech::${worker_index0}", "eth${host_worker_index}", "lo"];
            let odd = ["", "x::${nothing}", "${worker_cpu}", "n${open", "l\\${it}"];
            let value = self.dice.mostly(&usual, 14, &odd).to_owned();
            self.item("interface", &value);
        }
        if !self.dice.once_in(25) {
            let value = self.dice.mostly(&["1", "2", "3"], 14, &["0", "-1", "x", "2 "]).to_owned();
            self.item("workers", &value);
        }
        self.some(3, "workers_cpu_list", &["4-7", "0-8:2,11", "3", "1,1,2"], &["7-4", "a,b", "", "1,"]);
        self.some(4, "worker_args", &["AF_Packet::fanout_id=42", "w/x y"], &["-C"]);
        if self.dice.once_in(4) {
            self.item("worker_env", "");
            for _ in 0..self.dice.below(3) {
                let usual = ["  I=${worker_index}/${host_worker_index0}", "  L=a,b:c", "\tA=worker"];
                let line =
                    self.dice.mostly(&usual, 12, &["  C=${worker_cpu}", "  nothing", "  S=${interface_section_name}"]);
                self.lines.push(line.to_owned());
            }
        }
        self.some(8, "worker_nice", &["5"], &["-21", ""]);
        self.some(8, "worker_memory_max", &["2G"], &["2g", ""]);
        self.some(8, "worker_numa_policy", &["local", "default"], &["near"]);
        self.some(60, "loggers", &["7"], &["1"]);
    }
}

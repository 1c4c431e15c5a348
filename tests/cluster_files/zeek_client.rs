//! zeek-client itself beside us: 2,500 generated cluster files mean the same to both, but for the differences that
//! docs/CLUSTER_FILES.md lists, and what we write it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::Value;
use zeek_cluster_agent::api::configuration::{ClusterRole, Configuration, Instance, Node, Port};
use zeek_cluster_agent::api::ids::InstanceName;
use zeek_cluster_agent::cluster_file::{self, AGENT_PORT, Format, Reading};

use super::dice::Dice;
use super::repository;

/// How many files are generated; `ZCA_TEST_CLUSTER_FILES` says how many more.
const FILES: usize = 2500;

fn files() -> usize {
    std::env::var("ZCA_TEST_CLUSTER_FILES").map_or(FILES, |number| number.parse().unwrap())
}

/// Where nodes without an instance are: `agent-` and what zeek_client.py gives as the host's name.
fn here() -> InstanceName {
    InstanceName::new("agent-here").unwrap()
}

fn python() -> Option<OsString> {
    let python = std::env::var_os("ZCA_TEST_PYTHON");
    if python.is_none() {
        println!("not run: ZCA_TEST_PYTHON names no Python with tests/clients/requirements.txt; scripts/test sets it");
    }
    python
}

/// What zeek-client makes of each text.
fn asked(python: &OsString, texts: &[String]) -> Vec<Value> {
    let program = repository("tests/clients/zeek_client.py");
    let mut command = Command::new(python);
    let mut child = command.arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut into, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let lines: String = texts.iter().map(|text| format!("{}\n", Value::from(text.as_str()))).collect();
    let writer = std::thread::spawn(move || into.write_all(lines.as_bytes()).unwrap());
    let answers: Vec<Value> = from.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(answers.len(), texts.len());
    answers
}

/// The configuration that zeek-client would send. It has no id of its own, and a controller gives out the ports.
fn configuration(answer: &Value) -> Configuration {
    let list = |key: &str| answer[key].as_array().unwrap().iter();
    let port = |value: &Value| value.as_u64().map(|number| Port::tcp(u16::try_from(number).unwrap()));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let instances = list("instances").map(|instance| Instance {
        name: text(&instance["name"]).unwrap(),
        host: text(&instance["host"]).unwrap().parse().unwrap(),
        listen_port: port(&instance["port"]),
    });
    let nodes = list("nodes").map(|node| Node {
        name: text(&node["name"]).unwrap(),
        instance: text(&node["instance"]).unwrap(),
        role: serde_json::from_value::<ClusterRole>(Value::from(node["role"].as_str().unwrap().to_ascii_lowercase()))
            .unwrap(),
        port: port(&node["port"]),
        scripts: node["scripts"].as_array().into_iter().flatten().filter_map(text).collect(),
        options: Vec::new(),
        interface: text(&node["interface"]),
        cpu_affinity: node["cpu_affinity"].as_i64(),
        env: node["env"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v).unwrap())).collect(),
        metrics_port: port(&node["metrics_port"]),
    });
    Configuration { id: String::new(), instances: instances.collect(), nodes: nodes.collect(), cluster_backend: None }
        .canonical()
}

/// Without the ports that the other does not have: they were given out.
fn without_given_ports(config: &mut Configuration, other: &Configuration) {
    for node in &mut config.nodes {
        if let Some(other) = other.nodes.iter().find(|other| other.name == node.name) {
            node.port = node.port.filter(|_| other.port.is_some());
            node.metrics_port = node.metrics_port.filter(|_| other.metrics_port.is_some());
        }
    }
}

/// Each difference that docs/CLUSTER_FILES.md lists, and how often it was met.
#[derive(Default)]
struct Differences {
    met: BTreeMap<&'static str, usize>,
}

impl Differences {
    fn meet(&mut self, name: &'static str) {
        *self.met.entry(name).or_default() += 1;
    }

    fn compare(&mut self, text: &str, theirs: &Value) -> Outcome {
        let ours = cluster_file::read_with_warnings(text.as_bytes(), "f", Some(Format::Ini), Some(&here()));
        match (ours, theirs["refused"].as_str()) {
            (Err(_), Some(_)) => return Outcome::BothRefuse,
            (Ok(ours), None) => self.same_meaning(text, ours, configuration(theirs)),
            (Ok(ours), Some(why)) => self.only_we_read(text, &ours, why),
            (Err(errors), None) => {
                for error in errors {
                    self.only_they_read(text, &error.to_string());
                }
            }
        }
        if theirs["refused"].is_string() { Outcome::OneRefuses } else { Outcome::Read }
    }

    fn same_meaning(&mut self, text: &str, ours: Reading, theirs: Configuration) {
        let (mut ours, mut theirs) = (ours.configuration, theirs);
        for node in &mut ours.nodes {
            if !node.scripts.is_sorted() {
                self.meet("order of scripts");
                node.scripts.sort();
            }
            if !node.options.is_empty() {
                self.meet("options");
                node.options.clear();
            }
        }
        if text.contains("[instances]") {
            for instance in &mut ours.instances {
                if instance.name.to_lowercase() != instance.name {
                    self.meet("case of instances");
                    instance.name = instance.name.to_lowercase();
                }
            }
            let names: BTreeSet<String> = ours.instances.iter().map(|instance| instance.name.clone()).collect();
            if theirs.instances.iter().any(|instance| !names.contains(&instance.name)) && text.contains("[DEFAULT]") {
                self.meet("DEFAULT and instances");
                theirs.instances.retain(|instance| names.contains(&instance.name));
            }
        }
        ours.id = String::new();
        without_given_ports(&mut ours, &theirs);
        assert_eq!(ours.canonical(), theirs.canonical(), "{text}");
    }

    fn only_we_read(&mut self, text: &str, ours: &Reading, why: &str) {
        let defaults = text.contains("[DEFAULT]") && text.contains("[instances]");
        let no_address = why.contains("does not appear to be an IPv4 or IPv6 address");
        let alone = |i: &Instance| i.listen_port.is_none() && !i.host.is_unspecified();
        let name = if why.contains("should be <host>:<port>") && !defaults
            || no_address && ours.configuration.instances.iter().any(alone)
        {
            "host alone"
        } else if no_address && !ours.unresolved.is_empty() {
            "host names"
        } else if why.contains("in section 'instances' already exists") {
            "case of instances"
        } else if why.starts_with("MissingSectionHeaderError") && text.starts_with('\u{feff}') {
            "byte order mark"
        } else if defaults {
            "DEFAULT and instances"
        } else {
            panic!("zeek-client refuses this: {why}\n{text}\nand we take it for {ours:?}");
        };
        self.meet(name);
    }

    fn only_they_read(&mut self, text: &str, error: &str) {
        let name = if error.contains("which is indented; begin every key at the left edge") {
            "indented lines"
        } else if error.contains("] options: ") {
            "options"
        } else if error.contains("instance name is empty") {
            "empty instance"
        } else if error.contains("give the node another name")
            || error.contains("give the instance another name")
            || error.contains("looks like a section without its ]")
        {
            "names"
        } else if error.contains("is neither an IP address nor a host name") && error.contains('%') {
            "zones"
        } else if error.contains("is not a whole number") && error.contains("99999999999999999999") {
            "large numbers"
        } else {
            panic!("zeek-client reads this and we refuse it: {error}\n{text}");
        };
        self.meet(name);
    }
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Read,
    BothRefuse,
    OneRefuses,
}

#[test]
fn generated_cluster_files_mean_to_us_what_they_mean_to_zeek_client() {
    let Some(python) = python() else { return };
    let mut dice = Dice::new(15);
    let files = files();
    let texts: Vec<String> = (0..files).map(|_| cluster_file_text(&mut dice)).collect();
    let mut differences = Differences::default();
    let (mut read, mut both_refuse) = (0, 0);
    for (text, answer) in texts.iter().zip(asked(&python, &texts)) {
        match differences.compare(text, &answer) {
            Outcome::Read => read += 1,
            Outcome::BothRefuse => both_refuse += 1,
            Outcome::OneRefuses => {}
        }
    }
    println!("{files} files: zeek-client reads {read}, both refuse {both_refuse}; differences {:?}", differences.met);
    assert!(read > files * 2 / 5 && both_refuse > files / 5, "{read} read, {both_refuse} refused by both");
    let listed = fs::read_to_string(repository("docs/CLUSTER_FILES.md")).unwrap();
    let rows: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    for name in differences.met.keys() {
        assert!(rows.contains(name), "{name:?} is not in the table of docs/CLUSTER_FILES.md");
    }
    assert_eq!(differences.met.len(), 12, "each difference is met: {:?}", differences.met);
}

/// Whatever we read, we write so that zeek-client reads it, with the same meaning but for what a warning names.
#[test]
fn what_is_written_as_ini_is_read_by_zeek_client() {
    let Some(python) = python() else { return };
    let mut dice = Dice::new(16);
    let mut written = Vec::new();
    while written.len() < 500 {
        let text = cluster_file_text(&mut dice);
        let Ok(reading) = cluster_file::read_with_warnings(text.as_bytes(), "f", Some(Format::Ini), Some(&here()))
        else {
            continue;
        };
        let Ok(ini) = cluster_file::write(&reading.configuration, Format::Ini) else { continue };
        written.push((reading.configuration, ini));
    }
    let texts: Vec<String> = written.iter().map(|(_, text)| text.clone()).collect();
    let mut told = 0;
    for ((config, text), answer) in written.into_iter().zip(asked(&python, &texts)) {
        assert!(answer["refused"].is_null(), "{answer}\n{text}");
        let losses = cluster_file::losses(&config);
        let tells = |what: &str| losses.iter().any(|loss| loss.starts_with(what));
        told += losses.len();
        let mut expected = config.clone();
        expected.id = String::new();
        for node in &mut expected.nodes {
            assert!(node.options.is_empty() || tells("options of "), "{losses:?}");
            node.options.clear();
            assert!(node.scripts.is_sorted() || tells("the order of the scripts of "), "{losses:?}");
            node.scripts.sort();
        }
        for instance in &mut expected.instances {
            let lower = instance.name.to_lowercase();
            assert!(instance.name == lower || tells("the name of "), "{losses:?}");
            instance.name = lower;
            if !instance.host.is_unspecified() && instance.listen_port.is_none() {
                assert!(tells("the port of "), "{losses:?}");
                instance.listen_port = Some(Port::tcp(AGENT_PORT));
            }
        }
        assert_eq!(configuration(&answer), expected.canonical(), "{text}");
    }
    assert!(told > 50, "{told}");
}

/// A cluster file with much that is odd, of which about half can be read.
fn cluster_file_text(dice: &mut Dice) -> String {
    let mut file = Text { dice, lines: Vec::new() };
    file.whole();
    let ending = file.dice.mostly(&["\n"], 8, &["\r\n", "\r"]);
    let mark = if file.dice.once_in(150) { "\u{feff}" } else { "" };
    format!("{mark}{}", file.lines.join(ending))
}

struct Text<'a> {
    dice: &'a mut Dice,
    lines: Vec<String>,
}

impl Text<'_> {
    fn whole(&mut self) {
        if self.dice.once_in(60) {
            self.lines.push("stray = 1".to_owned());
        }
        let (listed, inherited) = (self.dice.once_in(2), self.dice.once_in(3));
        if inherited && (!listed || self.dice.once_in(4)) {
            self.defaults();
        }
        if listed {
            self.instances();
        }
        for index in 0..self.dice.below(5) {
            self.node(index, listed);
        }
        if self.dice.once_in(25) {
            self.defaults();
        }
    }

    fn noise(&mut self) {
        if self.dice.once_in(6) {
            let line = self.dice.pick(&["", "  ", "# a comment", "; another = one", "  # indented", "\t; too"]);
            self.lines.push(line.to_owned());
        }
    }

    fn header(&mut self, name: &str) {
        let header = match self.dice.below(90) {
            0 => format!("[{name}] # of it"),
            1 => format!("  [{name}]"),
            2 => format!("[{name}"),
            _ => format!("[{name}]"),
        };
        self.lines.push(header);
    }

    fn item(&mut self, key: &str, value: &str) {
        let key = match self.dice.below(12) {
            0 => key.to_uppercase(),
            1 => format!("{}{}", key[..1].to_uppercase(), &key[1..]),
            _ => key.to_owned(),
        };
        let line = match self.dice.below(160) {
            0..20 => format!("{key} = {value}"),
            20..40 => format!("{key}={value}"),
            40..48 => format!("{key}: {value}"),
            48..52 => format!("{key} : {value}  "),
            52..54 => format!("{key}\t=\t{value}\t"),
            54 => format!("{key} = {value} # inline"),
            55 => format!("{key} = {value} ; inline"),
            56 => format!(" {key} = {value}"),
            57 => key,
            58 => format!("{key} ="),
            59 => format!("= {value}"),
            _ => format!("{key} = {value}"),
        };
        self.lines.push(line);
        self.noise();
    }

    fn defaults(&mut self) {
        self.header("DEFAULT");
        self.item("nic", "eth0");
        if self.dice.once_in(2) {
            self.item("where", "%(nic)s-%(role)s");
        }
        if self.dice.once_in(4) {
            self.item("env", "FROM=default");
        }
        if self.dice.once_in(12) {
            let odd = self.dice.pick(&["%", "%(none)s", "%(self)s", "%%", "%(nic)"]);
            self.item("self", odd);
        }
    }

    fn instances(&mut self) {
        self.header("instances");
        for name in ["agent-a", "agent-b", "agent-c"] {
            let value = self.dice.mostly(
                &["", "192.0.2.1:2151", "192.0.2.2:2152", "[2001:db8::1]:2151", "2001:db8::2:2151", "[ ::1 ] : +2_151"],
                16,
                &[
                    "192.0.2.1",
                    "[2001:db8::1]",
                    "sensor.example.com:2151",
                    "sensor",
                    "192.0.2.1:0",
                    "192.0.2.1:70000",
                    "192.0.2.1:x",
                    ":2151",
                    "192.0.2.300:2151",
                    "192.0.2.1:",
                    "fe80::1%%eth0:2151",
                    "%(agent-a)s",
                    "192.0.2.9%(port)s",
                    "010.0.0.1:2151",
                ],
            );
            let name = if self.dice.once_in(30) { self.dice.pick(&["a b", "Agent-A", "x%y", "[b"]) } else { name };
            if value.is_empty() && !self.dice.once_in(6) {
                self.lines.push(name.to_owned());
            } else {
                self.item(name, value);
            }
        }
    }

    fn node(&mut self, index: usize, listed: bool) {
        let name = self.dice.mostly(
            &["manager", "logger-1", "proxy_1", "worker-1", "Worker-2", "w.3"],
            20,
            &["a b", ".hidden", "x/y", "[n]", "wörker", "n%d", "-w"],
        );
        let name = if self.dice.once_in(15) { name.to_owned() } else { format!("{name}{index}") };
        self.header(&name);
        self.noise();
        let role = self.dice.mostly(
            &["worker", "MANAGER", "proxy", "Logger", "none", "Supervisor::WORKER", "x.y.Proxy"],
            25,
            &["boss", "", "%(name)s", "worker, proxy", "Supervisor::"],
        );
        let key = self.dice.mostly(&["role"], 4, &["type"]);
        self.item(key, role);
        if listed != self.dice.once_in(40) {
            let instance = self.dice.mostly(&["agent-a", "agent-b"], 30, &["Agent-B", "", "a b", "agent-%%"]);
            self.item("instance", instance);
        }
        let mut keys = BTreeSet::new();
        for _ in 0..self.dice.below(6) {
            self.key_of_node(&mut keys);
        }
    }

    fn key_of_node(&mut self, keys: &mut BTreeSet<&'static str>) {
        let dice = &mut *self.dice;
        let (key, value) = match dice.below(10) {
            0 => (
                "port",
                dice.mostly(&["2200", " +2_201", "65535", "0080"], 16, &["0", "65536", "-1", "x", "1.0", "2__2"]),
            ),
            1 => ("metrics_port", dice.mostly(&["9000", "9_001"], 16, &["0", "99999", "", "%(port)s"])),
            2 => {
                let usual = ["local", "a b", "b a", "\"with blank\" x", "'a \"b'", "site\\ x"];
                ("scripts", dice.mostly(&usual, 16, &["\"open", "tail\\", "''", "100%", "%(nic)s.zeek"]))
            }
            3 | 4 => {
                ("interface", dice.mostly(&["eth0", "af_packet::eth1", "af_packet::%(nic)s"], 14, &["", "%(x", "%%"]))
            }
            5 => ("cpu_affinity", dice.mostly(&["0", "-3", "1_0"], 14, &["first", "", "99999999999999999999"])),
            6 | 7 => {
                let usual = ["A=1", "A=1 B=\"two words\"", "F=%%Y-%%m", "X=a=b", "N=%(nic)s", "E="];
                ("env", dice.mostly(&usual, 16, &["A", "A=%Y", "\"A=1", "=1", "A=%(role)s", "A=%()s"]))
            }
            8 => ("state", dice.pick(&["RUNNING", "PENDING", "100%%"])),
            _ => dice_extra(dice),
        };
        let refers = value.contains("(nic)") && !self.lines.iter().any(|line| line.starts_with("nic"));
        if !(keys.insert(key) && !refers || self.dice.once_in(12)) {
            return;
        }
        self.item(key, value);
        if dice_goes_on(self.dice, key) {
            let more = self.dice.pick(&["  more=1", "\tB=2 C=3", "    ", "  # not this", "   \"x y=z\""]);
            self.lines.push(more.to_owned());
        }
    }
}

fn dice_extra(dice: &mut Dice) -> (&'static str, &'static str) {
    let value = dice.mostly(&["Site::x=T", "why not", "%%"], 6, &["%", "%(", "%(nic)s"]);
    (dice.mostly(&["options", "comment", "nic"], 8, &["cpu_afinity", "hóst"]), value)
}

/// Lists go on in further lines; anything else seldom.
fn dice_goes_on(dice: &mut Dice, key: &str) -> bool {
    if matches!(key, "env" | "scripts") { dice.once_in(5) } else { dice.once_in(100) }
}

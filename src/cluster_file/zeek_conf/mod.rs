//! Zeek's `zeek.conf`, from which its systemd generator makes units: one host, a manager, numbers of loggers and proxies,
//! and workers for each interface.
//!
//! Names and ports are those that the generator gives (ports from 27760, metrics from 9991), so that whoever moves keeps
//! them. What is about the host and not about the cluster (users, memory, niceness, the archiver) is left out with a warning.
//! A cluster of several hosts is a [`directory`] of such files.
//!
//! Source: Zeek 9.0, `doc/advanced/deployment/systemd.rst`, and in `tools/systemd-generator/src/` `zeek-cluster-config.cc`,
//! `zeek-systemd-generator.cc` and `zeek-cluster-layout-generator.cc`.

pub mod directory;
mod limits;
mod sections;
mod syntax;

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::draft::{self, Draft, DraftInstance, DraftNode};
use super::findings::{Findings, quoted};
use super::hosts::Host;
use super::ini::{INHERITED_LIMIT, words};
use crate::api::configuration::{ClusterRole, Port, ScriptOption};
use crate::api::ids::{InstanceName, NAME_LIMIT};
use crate::api::validate::NODE_LIMIT;
use sections::Interface;
use syntax::{Item, Section};

/// The generator's defaults: the first port, and the first metrics port.
const PORT: u16 = 27760;
const METRICS_PORT: u16 = 9991;
/// What nodes load if the file names no arguments.
const DEFAULT_ARGS: &str = "local";

/// Options about the host or its services, which no cluster file has a place for.
const LEFT_OUT: [&str; 10] = [
    "user",
    "group",
    "base_dir",
    "path",
    "ext_path",
    "ext_zeek_path",
    "cluster_layout",
    "archiver",
    "restart_interval_sec",
    "metrics_address",
];

/// Whether a text is a `zeek.conf`: the names of its sections are no names of nodes, and cluster files begin with a section.
pub fn is_zeek_conf(text: &str) -> bool {
    const KEYS: [&str; 5] = ["manager", "loggers", "proxies", "workers", "cluster_backend_args"];
    let sections = syntax::read(text, &mut Findings::new(""));
    sections.iter().any(|section| {
        let has_key = section.items.iter().any(|item| KEYS.contains(&item.key.as_str()));
        section.name.starts_with("interface ") || (matches!(section.name.as_str(), "" | "zeek") && has_key)
    })
}

/// Reads one host's file for the agent at hand. `file` is what it is called: Zeek takes `HOST.zeek.conf` for that host's
/// part of a cluster, whose nodes have its name before theirs.
pub fn read(text: &str, file: &str, ours: Option<&InstanceName>, findings: &mut Findings) -> Option<Draft> {
    let host = host_of(file);
    let mut part = read_part(text, host.as_deref(), findings)?;
    part.word_on_backend(findings);
    if part.managers == 0 && !part.nodes.is_empty() {
        let problem =
            "has no manager: it is one host's part of a cluster, and only that host's nodes are read".to_owned();
        let advice = "convert the directory of all hosts' files, or add the others' nodes to what this becomes";
        findings.warning(None, "", problem, advice);
    }
    let instances = part.address.take().zip(ours).map(|((address, line, place), ours)| {
        for node in &mut part.nodes {
            node.instance = Some(ours.to_string());
        }
        vec![DraftInstance { name: ours.to_string(), host: address, listen_port: None, line, place }]
    });
    Some(Draft { instances, nodes: part.nodes, ..Draft::default() })
}

/// The host that a file's name says it is for.
pub fn host_of(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?.strip_suffix(".zeek.conf")?;
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let goes_on = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    (begins && goes_on).then(|| name.to_owned())
}

/// What one file says: a host and its nodes.
pub struct Part {
    pub nodes: Vec<DraftNode>,
    /// Where it says that the host is, and where it says so.
    pub address: Option<(Host, Option<usize>, String)>,
    pub managers: usize,
    is_broker: bool,
}

impl Part {
    pub fn word_on_backend(&self, findings: &mut Findings) {
        if !self.is_broker {
            let problem = "has ZeroMQ or another backend between its nodes, and here it is Broker".to_owned();
            findings.warning(None, "", problem, "nothing is to be done if no script of yours depends on it");
        }
    }
}

/// Reads one host's file. `host` is the host's name, if the file's name says it.
pub fn read_part(text: &str, host: Option<&str>, findings: &mut Findings) -> Option<Part> {
    let sections = sections::sort_out(syntax::read(text, findings), findings);
    let (zeek, interfaces) = (&sections.zeek, &sections.interfaces);
    let mut reader = Reader { findings, prefix: String::new(), nodes: Vec::new(), bytes: 0 };
    reader.known_options(zeek, &OF_ZEEK);
    for interface in interfaces {
        reader.known_options(&interface.section, &OF_WORKERS);
    }
    reader.prefix = reader.read_prefix(zeek, host);
    let common = Common { zeek, args: reader.args(zeek, "args", DEFAULT_ARGS), env: reader.env(zeek, "env") };
    let manager = reader.count(zeek, "manager").unwrap_or(0);
    if manager > 1 {
        reader.error(zeek, "manager", "there is one manager or none", "give 1 or 0");
    }
    reader.nodes_of(zeek, &common, ClusterRole::Manager, manager.min(1))?;
    let loggers = reader.count(zeek, "loggers").unwrap_or(0);
    reader.nodes_of(zeek, &common, ClusterRole::Logger, loggers)?;
    let proxies = reader.count(zeek, "proxies").unwrap_or(0);
    reader.nodes_of(zeek, &common, ClusterRole::Proxy, proxies)?;
    let mut on_host = 0;
    for interface in interfaces {
        reader.workers(interface, &common, &mut on_host)?;
    }
    let (first, metrics) =
        (reader.first_port(zeek, &["port", "cluster_port"]), reader.first_port(zeek, &["metrics_port"]));
    reader.ports(first.unwrap_or(PORT), metrics.unwrap_or(METRICS_PORT), zeek);
    let address = reader.address(zeek);
    let backend = item(zeek, "cluster_backend_args").map(|item| item.values.join(" ")).unwrap_or_default();
    let is_broker = backend.contains("cluster/backend/broker");
    Some(Part { nodes: reader.nodes, address, managers: manager, is_broker })
}

const OF_WORKERS: [&str; 5] = ["interface", "workers", "worker_args", "worker_env", "workers_cpu_list"];
const OF_ZEEK: [&str; 18] = [
    "args",
    "manager_args",
    "logger_args",
    "proxy_args",
    "env",
    "manager_env",
    "logger_env",
    "proxy_env",
    "manager",
    "loggers",
    "proxies",
    "cluster_backend_args",
    "cluster_node_prefix",
    "port",
    "cluster_port",
    "address",
    "cluster_address",
    "metrics_port",
];

/// What every node of the file has.
struct Common<'a> {
    zeek: &'a Section,
    args: Args,
    env: BTreeMap<String, String>,
}

/// What `${…}` stands for, as far as there is something.
type Variables<'a> = [(&'a str, Option<String>)];

#[derive(Default, Clone)]
struct Args {
    scripts: Vec<String>,
    options: Vec<ScriptOption>,
}

struct Reader<'a, 'f> {
    findings: &'a mut Findings<'f>,
    /// Comes before the name of each node.
    prefix: String,
    nodes: Vec<DraftNode>,
    /// What the nodes so far hold, to stop in time.
    bytes: usize,
}

fn item<'s>(section: &'s Section, key: &str) -> Option<&'s Item> {
    section.items.iter().find(|item| item.key == key)
}

/// An option's only value, if it is not empty.
fn value<'s>(section: &'s Section, key: &str) -> Option<&'s str> {
    item(section, key)?.values.first().map(String::as_str).filter(|value| !value.is_empty())
}

impl Reader<'_, '_> {
    fn error(&mut self, section: &Section, key: &str, problem: &str, advice: &str) {
        let line = item(section, key).map_or(section.line.max(1), |item| item.line);
        self.findings.error(Some(line), &section.place(key), problem.to_owned(), advice);
    }

    fn warning(&mut self, section: &Section, key: &str, problem: &str, advice: &str) {
        let line = item(section, key).map_or(section.line.max(1), |item| item.line);
        self.findings.warning(Some(line), &section.place(key), problem.to_owned(), advice);
    }

    /// A word on options that mean nothing here, or not what they say.
    fn known_options(&mut self, section: &Section, known: &[&str]) {
        for item in &section.items {
            let key = item.key.as_str();
            let is_list = key.ends_with("args") || key.ends_with("env");
            let is_left_out = LEFT_OUT.contains(&key) || key.starts_with("archiver_");
            if item.values.len() > 1 && !is_list && (is_left_out || limits::is_limit(key) || known.contains(&key)) {
                self.error(section, key, "goes on in another line", "give one value");
            } else if is_left_out {
                let advice = "see to it in the settings of the agent, or of the host";
                self.warning(section, key, "has no place in a cluster file and is left out", advice);
            } else if limits::is_limit(key) {
                limits::check(section, item, self.findings);
            } else if !known.contains(&key) {
                self.warning(section, key, "is no option of this section", "it has no effect");
            }
        }
    }

    /// What comes before the names of a host's nodes. An empty option is none.
    fn read_prefix(&mut self, zeek: &Section, host: Option<&str>) -> String {
        const KEY: &str = "cluster_node_prefix";
        let prefix = item(zeek, KEY).and_then(|item| item.values.first()).map(String::as_str).or(host);
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        match prefix.filter(|prefix| !prefix.is_empty()) {
            Some(prefix) if prefix.chars().all(is_good) => format!("{prefix}-"),
            Some(prefix) => {
                let problem = format!("{} cannot begin a node's name", quoted(prefix));
                self.error(zeek, KEY, &problem, "give one of a-z, 0-9, - and _, or none");
                String::new()
            }
            None => String::new(),
        }
    }

    fn count(&mut self, section: &Section, key: &str) -> Option<usize> {
        let text = item(section, key)?.values.first()?;
        let count = text.parse::<usize>().ok().filter(|_| !text.starts_with('+'));
        if count.is_none() {
            self.error(
                section,
                key,
                &format!("{} is not a number of nodes", quoted(text)),
                "give a whole number from 0",
            );
        }
        count
    }

    /// The first of a row of ports. An empty metrics port is 0, as it is to the generator.
    fn first_port(&mut self, section: &Section, keys: &[&str]) -> Option<u16> {
        let key = keys.iter().find(|key| item(section, key).is_some())?;
        let of_metrics = *key == "metrics_port";
        let port = match value(section, key) {
            Some(text) => text.parse().ok().filter(|port| *port != 0 || of_metrics),
            None => of_metrics.then_some(0),
        };
        if port.is_none() {
            self.error(section, key, "is no port", draft::PORTS);
        }
        port
    }

    /// Words with a = are options, words with a - in front are Zeek's switches, all others are scripts.
    fn args(&mut self, section: &Section, key: &str, default: &str) -> Args {
        let text = item(section, key).map(|item| item.values.join(" ")).filter(|text| !text.is_empty());
        let mut args = Args::default();
        let words = match words::split(text.as_deref().unwrap_or(default)) {
            Ok(words) => words,
            Err(error) => {
                self.error(section, key, &error.to_string(), "close the quote");
                return args;
            }
        };
        for word in words {
            if word.starts_with('-') {
                let problem = format!("{} is a switch, and cluster files have scripts and options only", quoted(&word));
                self.warning(section, key, &problem, "give it in node_args of the agent's settings");
            } else if let Some((name, value)) = word.split_once('=') {
                args.options.push(ScriptOption { name: name.to_owned(), value: value.to_owned() });
            } else {
                args.scripts.push(word);
            }
        }
        args
    }

    /// `NAME=value`, one a line.
    fn env(&mut self, section: &Section, key: &str) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        let lines = item(section, key).into_iter().flat_map(|item| &item.values).filter(|line| !line.is_empty());
        for line in lines {
            if let Some((name, value)) = line.split_once('=') {
                env.insert(name.to_owned(), value.to_owned());
            } else {
                self.error(section, key, &format!("{} has no =", quoted(line)), "write NAME=value, one a line");
            }
        }
        env
    }

    /// The manager, loggers or proxies.
    fn nodes_of(&mut self, zeek: &Section, common: &Common, role: ClusterRole, count: usize) -> Option<()> {
        let args = self.args(zeek, &format!("{role}_args"), "");
        let key = format!("{role}_env");
        let env = self.env(zeek, &key);
        if count == 0 {
            return Some(());
        }
        let cpu = limits::single_cpu(zeek, role);
        self.room_for(count, common, &args, &env, "")?;
        let Some(env) = self.fill_env(common, (zeek, &key), &env, &[]) else { return Some(()) };
        for index in 1..=count {
            // There is one in the whole cluster, and its name is the same everywhere.
            let prefix = if role == ClusterRole::Manager { "" } else { self.prefix.as_str() };
            let number = if role == ClusterRole::Manager { String::new() } else { format!("-{index}") };
            let name = format!("{prefix}{role}{number}");
            let node = self.node(zeek, common, role, name, &args, env.clone());
            self.nodes.extend(node.map(|node| DraftNode { cpu_affinity: cpu, ..node }));
        }
        Some(())
    }

    /// Whether that many nodes more are still a configuration. Said before anything is copied for each.
    fn room_for(
        &mut self,
        count: usize,
        common: &Common,
        args: &Args,
        env: &BTreeMap<String, String>,
        interface: &str,
    ) -> Option<()> {
        if draft::too_many(self.nodes.len().saturating_add(count), self.findings) {
            return None;
        }
        let words = |args: &Args| {
            let options = args.options.iter().map(|option| option.name.len() + option.value.len());
            args.scripts.iter().map(String::len).chain(options).sum::<usize>()
        };
        let pairs =
            |env: &BTreeMap<String, String>| env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let each = words(&common.args) + words(args) + pairs(&common.env) + pairs(env) + interface.len();
        self.bytes = self.bytes.saturating_add(each.saturating_mul(count));
        if self.bytes > INHERITED_LIMIT {
            let problem = format!("says {} bytes for its nodes, {INHERITED_LIMIT} is the most", self.bytes);
            self.findings.error(None, "", problem, "shorten what many nodes share");
            return None;
        }
        Some(())
    }

    fn node(
        &mut self,
        section: &Section,
        common: &Common,
        role: ClusterRole,
        name: String,
        args: &Args,
        env: BTreeMap<String, String>,
    ) -> Option<DraftNode> {
        let place = if section.name.is_empty() { name.clone() } else { format!("[{}]", section.name) };
        if !draft::node_name(&name, section.line.max(1), &place, self.findings) {
            return None;
        }
        Some(DraftNode {
            line: section.line.max(1),
            place,
            name,
            instance: None,
            role,
            port: None,
            // The generator has a role's arguments before those of all.
            scripts: args.scripts.iter().chain(&common.args.scripts).cloned().collect(),
            options: args.options.iter().chain(&common.args.options).cloned().collect(),
            interface: None,
            cpu_affinity: None,
            env,
            metrics_port: None,
        })
    }

    /// The workers of one interface.
    fn workers(&mut self, interface: &Interface, common: &Common, on_host: &mut usize) -> Option<()> {
        let (section, named) = (&interface.section, interface.name.as_str());
        let count = self.count(section, "workers");
        let args = self.args(section, "worker_args", "");
        let env = self.env(section, "worker_env");
        let cpus = self.cpus(section);
        let interface = value(section, "interface");
        let Some((interface, count)) = interface.zip(count) else {
            // Without sections, an empty interface stands for none.
            let is_none = section.name.is_empty() && item(section, "interface").is_some() && count.unwrap_or(0) == 0;
            if interface.is_none() && !is_none && (count.is_some() || !section.name.is_empty()) {
                let line =
                    item(section, "interface").or(item(section, "workers")).map_or(section.line, |item| item.line);
                let problem = "is missing for these workers".to_owned();
                self.findings.error(Some(line), &section.place("interface"), problem, "name the interface");
            } else if interface.is_some() && item(section, "workers").is_none() {
                let line = item(section, "interface").map_or(section.line, |item| item.line);
                let problem = "is missing for this interface".to_owned();
                self.findings.error(Some(line), &section.place("workers"), problem, "say how many workers share it");
            }
            return Some(());
        };
        if named.len() > NAME_LIMIT {
            self.error(section, "interface", "has a name too long for a node", "shorten it");
            return Some(());
        }
        self.room_for(count, common, &args, &env, interface)?;
        for index in 1..=count {
            *on_host += 1;
            let cpu = cpus.get((*on_host - 1) % cpus.len().max(1)).copied();
            let variables = [
                ("worker_index", Some(index.to_string())),
                ("worker_index0", Some((index - 1).to_string())),
                ("host_worker_index", Some(on_host.to_string())),
                ("host_worker_index0", Some((*on_host - 1).to_string())),
                ("worker_cpu", cpu.map(|cpu| cpu.to_string())),
                ("interface_section_name", (!named.is_empty()).then(|| named.to_owned())),
            ];
            let filled = self.fill_env(common, (section, "worker_env"), &env, &variables);
            let Some(filled) = filled else { return Some(()) };
            let between = if named.is_empty() { "" } else { "-" };
            let name = format!("{}worker{between}{named}-{index}", self.prefix);
            let Some(interface) = self.fill_in(section, "interface", interface, &variables) else { return Some(()) };
            let node = self.node(section, common, ClusterRole::Worker, name, &args, filled);
            self.nodes.extend(node.map(|node| DraftNode { interface: Some(interface), cpu_affinity: cpu, ..node }));
        }
        Some(())
    }

    /// The environment of all nodes and then `env`, which `place` is about, filled in.
    fn fill_env(
        &mut self,
        common: &Common,
        place: (&Section, &str),
        env: &BTreeMap<String, String>,
        variables: &Variables,
    ) -> Option<BTreeMap<String, String>> {
        let mut filled = BTreeMap::new();
        let (section, key) = place;
        for (section, key, env) in [(common.zeek, "env", &common.env), (section, key, env)] {
            for (name, text) in env {
                filled.insert(name.clone(), self.fill_in(section, key, text, variables)?);
            }
        }
        Some(filled)
    }

    /// `text` with its `${variable}`s filled in; `\${` stands for itself.
    fn fill_in(&mut self, section: &Section, key: &str, text: &str, variables: &Variables) -> Option<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('\\') {
                filled.extend([before, "${"]);
                rest = after;
                continue;
            }
            filled.push_str(before);
            let named = after.split_once('}');
            let known = named.and_then(|(name, _)| variables.iter().find(|(known, _)| *known == name));
            let (Some((_, after)), Some((_, Some(value)))) = (named, known) else {
                let problem = format!("{} has a variable that is not known here", quoted(text));
                let names: Vec<&str> =
                    variables.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect();
                let advice = match names.is_empty() {
                    true => "only workers have variables; write \\${ for one that stands for itself".to_owned(),
                    false => format!("there are {}", names.join(", ")),
                };
                self.error(section, key, &problem, &advice);
                return None;
            };
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    }

    /// The CPUs that are dealt out to the workers in turn.
    fn cpus(&mut self, section: &Section) -> Vec<i64> {
        const KEY: &str = "workers_cpu_list";
        let Some(text) = value(section, KEY) else { return Vec::new() };
        match limits::cpus(text) {
            Some(cpus) if cpus.len() > NODE_LIMIT => {
                self.error(section, KEY, "names more CPUs than there can be workers", "shorten it");
            }
            Some(cpus) => return cpus,
            None => self.error(section, KEY, &format!("{} is not a list of CPUs", quoted(text)), limits::CPU_LISTS),
        }
        Vec::new()
    }

    /// Gives each node the port that the generator would.
    fn ports(&mut self, first: u16, metrics: u16, zeek: &Section) {
        if metrics == 0 {
            self.warning(zeek, "metrics_port", "is 0, and each node gets a metrics port here", "it can stay unused");
        }
        let (mut next, mut next_metrics) = (Some(first), Some(metrics).filter(|port| *port != 0));
        for node in &mut self.nodes {
            if node.role != ClusterRole::Worker {
                node.port = next.map(Port::tcp);
                next = next.and_then(|port| port.checked_add(1));
            }
            node.metrics_port = next_metrics.map(Port::tcp);
            next_metrics = next_metrics.and_then(|port| port.checked_add(1));
        }
    }

    /// The host's address, if it is given, with its place.
    fn address(&mut self, zeek: &Section) -> Option<(Host, Option<usize>, String)> {
        let key = if item(zeek, "address").is_some() { "address" } else { "cluster_address" };
        let text = item(zeek, key)?.values.first().map(String::as_str).unwrap_or_default();
        let host = text.trim_matches(['[', ']']).parse::<IpAddr>();
        let Ok(host) = host else {
            self.error(zeek, key, "is no IP address", "give the host's address, in brackets if it is IPv6");
            return None;
        };
        let line = item(zeek, key).map(|item| item.line);
        Some((Host::Address(host), line, zeek.place(key)))
    }
}

//! Zeek's `zeek.conf`, from which its systemd generator makes units: one host, a manager, numbers of loggers and proxies,
//! and workers for each interface.
//!
//! Names and ports are those that the generator gives (ports from 27760, metrics from 9991), so that whoever moves keeps
//! them. What is about the host and not about the cluster (users, memory, niceness, the archiver) is left out with a warning.
//! A cluster of several hosts has several such files, each of which is read by itself.
//!
//! Source: Zeek 9.0, `doc/advanced/deployment/systemd.rst`, and in `tools/systemd-generator/src/` `zeek-cluster-config.cc`,
//! `zeek-systemd-generator.cc` and `zeek-cluster-layout-generator.cc`.

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
use syntax::{Item, Section};

/// The generator's defaults: the first port, and the first metrics port.
const PORT: u16 = 27760;
const METRICS_PORT: u16 = 9991;
/// What nodes load if the file names no arguments.
const DEFAULT_ARGS: &str = "local";

/// Options about the host or its services, which no cluster file has a place for.
const LEFT_OUT: [&str; 9] = [
    "user",
    "group",
    "base_dir",
    "path",
    "ext_path",
    "ext_zeek_path",
    "cluster_layout",
    "archiver",
    "restart_interval_sec",
];
/// Endings of more of them.
const LEFT_OUT_ENDINGS: [&str; 4] = ["_nice", "_memory_max", "_numa_policy", "_cpu_set"];

/// Whether a text is a `zeek.conf`: the names of its sections are no names of nodes, and cluster files begin with a section.
pub fn is_zeek_conf(text: &str) -> bool {
    const KEYS: [&str; 5] = ["manager", "loggers", "proxies", "workers", "cluster_backend_args"];
    let sections = syntax::read(text, &mut Findings::new(""));
    sections.iter().any(|section| {
        let has_key = section.items.iter().any(|item| KEYS.contains(&item.key.as_str()));
        section.name.starts_with("interface ") || (matches!(section.name.as_str(), "" | "zeek") && has_key)
    })
}

pub fn read(text: &str, ours: Option<&InstanceName>, findings: &mut Findings) -> Option<Draft> {
    let sections = syntax::read(text, findings);
    let mut reader = Reader { findings, prefix: String::new(), nodes: Vec::new(), bytes: 0 };
    let empty = Section::default();
    let is_plain = matches!(sections.as_slice(), [only] if only.name.is_empty());
    let zeek = sections.iter().find(|section| is_plain || section.name == "zeek").unwrap_or(&empty);
    reader.unknown_sections(&sections, is_plain);
    reader.prefix = reader.read_prefix(zeek);
    let common = Common { args: reader.args(zeek, "args", DEFAULT_ARGS), env: reader.env(zeek, "env") };
    let manager = reader.count(zeek, "manager").unwrap_or(0);
    if manager > 1 {
        reader.error(zeek, "manager", "there is one manager or none", "give 1 or 0");
    }
    reader.nodes_of(zeek, &common, ClusterRole::Manager, manager.min(1))?;
    let loggers = reader.count(zeek, "loggers").unwrap_or(0);
    reader.nodes_of(zeek, &common, ClusterRole::Logger, loggers)?;
    let proxies = reader.count(zeek, "proxies").unwrap_or(0);
    reader.nodes_of(zeek, &common, ClusterRole::Proxy, proxies)?;
    let interfaces = sections.iter().filter(|section| is_plain || section.name.starts_with("interface "));
    let mut on_host = 0;
    for section in interfaces {
        reader.workers(section, &common, is_plain, &mut on_host)?;
    }
    reader.backend(zeek);
    if manager == 0 && !reader.nodes.is_empty() {
        let problem =
            "has no manager: it is one host's part of a cluster, and only that host's nodes are read".to_owned();
        reader.findings.warning(None, "", problem, "add those of the other hosts' files to what it becomes");
    }
    let (first, metrics) =
        (reader.first_port(zeek, &["port", "cluster_port"]), reader.first_port(zeek, &["metrics_port"]));
    reader.ports(first.unwrap_or(PORT), metrics.unwrap_or(METRICS_PORT), zeek);
    let instances = reader.instance(zeek, ours);
    Some(Draft { id: None, instances, nodes: reader.nodes })
}

/// What every node of the file has.
struct Common {
    args: Args,
    env: BTreeMap<String, String>,
}

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
        let line = item(section, key).map_or(section.line, |item| item.line);
        self.findings.error(Some(line), &section.place(key), problem.to_owned(), advice);
    }

    fn warning(&mut self, section: &Section, key: &str, problem: &str, advice: &str) {
        let line = item(section, key).map_or(section.line, |item| item.line);
        self.findings.warning(Some(line), &section.place(key), problem.to_owned(), advice);
    }

    /// A word on sections and options that mean nothing here.
    fn unknown_sections(&mut self, sections: &[Section], is_plain: bool) {
        for section in sections {
            let is_interface = section.name.starts_with("interface ");
            if !is_plain && section.name.is_empty() {
                let advice = "move them into [zeek]";
                self.findings.error(None, "", "has options outside of its sections".to_owned(), advice);
                continue;
            }
            if !is_plain && !is_interface && section.name != "zeek" {
                let place = section.place("");
                let problem = "is no section of a zeek.conf".to_owned();
                self.findings.warning(Some(section.line), place.trim_end(), problem, "it has no effect");
                continue;
            }
            let of_workers = ["interface", "workers", "worker_args", "worker_env", "workers_cpu_list"];
            let of_zeek = [
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
            for item in &section.items {
                let key = item.key.as_str();
                let left_out = LEFT_OUT.contains(&key)
                    || key.starts_with("archiver_")
                    || LEFT_OUT_ENDINGS.iter().any(|ending| key.ends_with(ending));
                let known = (of_workers.contains(&key) && (is_plain || is_interface))
                    || (of_zeek.contains(&key) && !is_interface);
                if left_out {
                    let advice = "see to it in the settings of the agent, or of the host";
                    self.warning(section, key, "has no place in a cluster file and is left out", advice);
                } else if !known {
                    self.warning(section, key, "is no option of this section", "it has no effect");
                } else if item.values.len() > 1 && !key.ends_with("args") && !key.ends_with("env") {
                    self.error(section, key, "goes on in another line", "give one value");
                }
            }
        }
    }

    fn read_prefix(&mut self, zeek: &Section) -> String {
        value(zeek, "cluster_node_prefix").map(|prefix| format!("{prefix}-")).unwrap_or_default()
    }

    fn count(&mut self, section: &Section, key: &str) -> Option<usize> {
        let text = item(section, key)?.values.first()?;
        let count = text.parse::<usize>().ok();
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

    fn first_port(&mut self, section: &Section, keys: &[&str]) -> Option<u16> {
        let key = keys.iter().find(|key| value(section, key).is_some())?;
        let port = value(section, key)?.parse().ok().filter(|port| *port != 0 || *key == "metrics_port");
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
        if count == 0 {
            return Some(());
        }
        let args = self.args(zeek, &format!("{role}_args"), "");
        let env = self.env(zeek, &format!("{role}_env"));
        self.room_for(count, common, &args, &env, "")?;
        for index in 1..=count {
            let name = if role == ClusterRole::Manager { "manager".to_owned() } else { format!("{role}-{index}") };
            let node = self.node(zeek, common, role, &name, &args, env.clone());
            self.nodes.extend(node);
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
        name: &str,
        args: &Args,
        env: BTreeMap<String, String>,
    ) -> Option<DraftNode> {
        let name = format!("{}{name}", self.prefix);
        let place = if section.name.is_empty() { name.clone() } else { format!("[{}]", section.name) };
        if !draft::node_name(&name, section.line.max(1), &place, self.findings) {
            return None;
        }
        let mut all = common.env.clone();
        all.extend(env);
        Some(DraftNode {
            line: section.line.max(1),
            place,
            name,
            instance: None,
            role,
            port: None,
            scripts: common.args.scripts.iter().chain(&args.scripts).cloned().collect(),
            options: common.args.options.iter().chain(&args.options).cloned().collect(),
            interface: None,
            cpu_affinity: None,
            env: all,
            metrics_port: None,
        })
    }

    /// The workers of one interface.
    fn workers(&mut self, section: &Section, common: &Common, is_plain: bool, on_host: &mut usize) -> Option<()> {
        let count = self.count(section, "workers");
        let Some(interface) = value(section, "interface") else {
            if !is_plain || count.is_some() {
                self.error(section, "interface", "is missing for these workers", "name the interface");
            }
            return Some(());
        };
        let Some(count) = count else {
            if item(section, "workers").is_none() {
                self.error(section, "workers", "is missing for this interface", "say how many workers share it");
            }
            return Some(());
        };
        let named = section.name.strip_prefix("interface ").unwrap_or_default();
        if named.len() > NAME_LIMIT {
            self.error(section, "", "has a name too long for a node", "shorten it");
            return Some(());
        }
        let args = self.args(section, "worker_args", "");
        let env = self.env(section, "worker_env");
        let cpus = self.cpus(section);
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
            let mut filled = BTreeMap::new();
            for (name, text) in &env {
                let Some(text) = self.fill_in(section, "worker_env", text, &variables) else { return Some(()) };
                filled.insert(name.clone(), text);
            }
            let name = if named.is_empty() { format!("worker-{index}") } else { format!("worker-{named}-{index}") };
            let Some(interface) = self.fill_in(section, "interface", interface, &variables) else { return Some(()) };
            let node = self.node(section, common, ClusterRole::Worker, &name, &args, filled);
            self.nodes.extend(node.map(|node| DraftNode { interface: Some(interface), cpu_affinity: cpu, ..node }));
        }
        Some(())
    }

    /// `text` with its `${variable}`s filled in; `\${` stands for itself.
    fn fill_in(
        &mut self,
        section: &Section,
        key: &str,
        text: &str,
        variables: &[(&str, Option<String>)],
    ) -> Option<String> {
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
                self.error(section, key, &problem, &format!("there are {}", names.join(", ")));
                return None;
            };
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    }

    /// `4-7,9` or `0-30:2`: numbers, ranges, ranges with a step.
    fn cpus(&mut self, section: &Section) -> Vec<i64> {
        const KEY: &str = "workers_cpu_list";
        let Some(text) = value(section, KEY) else { return Vec::new() };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (last, step) = last.split_once(':').unwrap_or((last, "1"));
            let numbers = (first.parse::<u32>(), last.parse::<u32>(), step.parse::<usize>());
            let (Ok(first), Ok(last), Ok(step @ 1..)) = numbers else {
                self.error(
                    section,
                    KEY,
                    &format!("{} is not a list of CPUs", quoted(text)),
                    "give 0-3, 0-6:2 or 1,2,5",
                );
                return Vec::new();
            };
            cpus.extend((first..=last).step_by(step).take(NODE_LIMIT + 1).map(i64::from));
            if cpus.len() > NODE_LIMIT {
                self.error(section, KEY, "names more CPUs than there can be workers", "shorten it");
                return Vec::new();
            }
        }
        cpus
    }

    fn backend(&mut self, zeek: &Section) {
        let text = item(zeek, "cluster_backend_args").map(|item| item.values.join(" ")).unwrap_or_default();
        if !text.contains("cluster/backend/broker") {
            let problem = "has ZeroMQ or another backend between its nodes, and here it is Broker".to_owned();
            self.findings.warning(None, "", problem, "nothing is to be done if no script of yours depends on it");
        }
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

    /// The one instance, if its address is given. None: it is the agent's at hand.
    fn instance(&mut self, zeek: &Section, ours: Option<&InstanceName>) -> Option<Vec<DraftInstance>> {
        let key = if value(zeek, "address").is_some() { "address" } else { "cluster_address" };
        let host = value(zeek, key)?.trim_matches(['[', ']']).parse::<IpAddr>();
        let Ok(host) = host else {
            self.error(zeek, key, "is no IP address", "give the host's address, in brackets if it is IPv6");
            return None;
        };
        let ours = ours?;
        for node in &mut self.nodes {
            node.instance = Some(ours.to_string());
        }
        let line = item(zeek, key).map_or(zeek.line, |item| item.line);
        let (host, place) = (Host::Address(host), zeek.place(key));
        Some(vec![DraftInstance { name: ours.to_string(), host, listen_port: None, line, place }])
    }
}

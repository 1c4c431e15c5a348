//! Checks a configuration as a whole and reports every problem at once.
//!
//! A configuration is untrusted text until it has been here: names become directories and topics, environment values
//! become a process's environment, scripts and options its command line. What passes can be planned and launched without
//! further looks at it. Problems reject the configuration; warnings do not. Reading files and filling in ports is
//! left to the cluster files; a controller fills ports in before it asks.

mod advice;
mod prefixes;
mod texts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::configuration::{ClusterRole, Configuration, Instance, Node, Protocol};
use super::ids::{InstanceName, NodeName};

use texts::{Unfit, bad_port, bad_text, is_zeek_identifier, option_text};

/// The most nodes of a configuration, and the most instances.
pub const NODE_LIMIT: usize = 4096;
/// The longest configuration id, in bytes.
pub const ID_LIMIT: usize = 256;
/// The longest path of a script and the longest name of an interface or an option, in bytes (Linux PATH_MAX).
pub const TEXT_LIMIT: usize = 4096;
/// The longest `NAME=value`, in bytes: Linux refuses an exec with a longer string (MAX_ARG_STRLEN, its NUL counted).
pub const PAIR_LIMIT: usize = 128 * 1024 - 1;
/// The most that a node's environment, options and scripts may add up to, in bytes. Linux gives arguments and
/// environment together a quarter of the stack limit, 2 MiB as it is usually set, and the agent's own come on top.
pub const NODE_TEXT_LIMIT: usize = 1024 * 1024;
/// The most problems, and the most warnings, that one report lists. A rejected configuration's answer is stored, and
/// stored answers are limited.
pub const LISTED_LIMIT: usize = 1000;

/// Set by the agent for every node; what a configuration says of them has no effect.
const OURS_IN_ENV: [&str; 2] = ["CLUSTER_NODE", "NOTIFY_SOCKET"];

/// What there is to know of the host that the check runs on.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts<'a> {
    /// The name of this agent's instance.
    pub instance: &'a InstanceName,
    /// How many CPUs this host has, numbered from 0.
    pub cpus: u32,
    /// Ports that this agent listens on, so that no node of this host can.
    pub agent_ports: &'a [u16],
}

/// What a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The configuration as a whole.
    Configuration,
    /// One instance, by its name as the configuration has it, shortened if it is long.
    Instance(String),
    /// One node, by its name as the configuration has it, shortened if it is long.
    Node(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("configuration"),
            Self::Instance(name) => write!(f, "instance {name}"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// One thing that is wrong or doubtful. Its text is one line, bounded in length, whatever the configuration holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {text}")]
pub struct Problem {
    /// What it is about.
    pub subject: Subject,
    /// What is wrong with it, and what to do.
    pub text: String,
}

impl Problem {
    /// The node it concerns, if it concerns one.
    pub fn node(&self) -> Option<&str> {
        match &self.subject {
            Subject::Node(name) => Some(name),
            Subject::Configuration | Subject::Instance(_) => None,
        }
    }

    /// The instance it concerns, if it concerns one.
    pub fn instance(&self) -> Option<&str> {
        match &self.subject {
            Subject::Instance(name) => Some(name),
            Subject::Configuration | Subject::Node(_) => None,
        }
    }
}

/// All that a check has found, sorted: the configuration, instances, nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Why the configuration cannot run. Empty: it can.
    pub problems: Vec<Problem>,
    /// What will work and may not be meant.
    pub warnings: Vec<Problem>,
}

impl Report {
    /// Whether there are no problems; warnings do not count.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }
}

/// The problems in one line, for the error of a rejected request. Nothing for a valid configuration.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Checks `config` for running on the host of `facts`: everything that [`check_anywhere`] does, and whether this instance
/// can run its part.
pub fn check(config: &Configuration, facts: &HostFacts) -> Report {
    let mut check = Check::new(config);
    check.everywhere();
    check.here(facts);
    check.report()
}

/// Checks what holds on every host of the cluster, for a file that is not (yet) meant for a certain agent, and what is
/// valid and seldom meant.
pub fn check_anywhere(config: &Configuration) -> Report {
    let mut check = Check::new(config);
    check.everywhere();
    if config.instances.is_empty() && config.nodes.is_empty() {
        let text = "is empty, and agents refuse it: give it nodes, or list the instances whose nodes are all to stop";
        check.problems.push(Subject::Configuration, text.to_owned());
    }
    let mut report = check.report();
    report.warnings.extend(advice::advice(config));
    report
}

/// Gives this agent's instance an address if the configuration has none for it. Host 0.0.0.0 stands for "not known".
///
/// If every node is ours, nothing has to be reached across the network and our own instance becomes 127.0.0.1. With
/// nodes elsewhere, an instance without an address has no place in the cluster's layout: a problem for each such
/// instance. Instances without nodes are not part of the layout and may stay unknown.
pub fn resolve_hosts(config: Configuration, ours: &InstanceName) -> Result<Configuration, Vec<Problem>> {
    let problems = unknown_hosts(&config, ours);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config = config;
    if config.nodes.iter().all(|node| node.instance == ours.as_str()) {
        let ours = config.instances.iter_mut().filter(|instance| instance.name == ours.as_str());
        for instance in ours.filter(|instance| instance.host.is_unspecified()) {
            instance.host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        }
    }
    Ok(config.canonical())
}

fn unknown_hosts(config: &Configuration, ours: &InstanceName) -> Vec<Problem> {
    let with_nodes: BTreeSet<&str> = config.nodes.iter().map(|node| node.instance.as_str()).collect();
    let all_ours = with_nodes.iter().all(|name| *name == ours.as_str());
    let unknown = config.instances.iter().filter(|instance| instance.host.is_unspecified());
    let unknown = unknown.filter(|instance| with_nodes.contains(instance.name.as_str()));
    unknown
        .filter(|instance| !(all_ours && instance.name == ours.as_str()))
        .map(|instance| Problem {
            subject: Subject::Instance(shown(&instance.name)),
            text: format!(
                "has nodes and no address (host {}), and nodes of other instances have to reach it: give its address in \
                 the instances of the configuration",
                instance.host
            ),
        })
        .collect()
}

/// What of a node of this host is in the way of the agent itself.
pub fn agent_ports<'a>(node: &'a Node, agent_ports: &'a [u16]) -> impl Iterator<Item = Problem> + 'a {
    let ports = [("port", node.port), ("metrics_port", node.metrics_port)].into_iter();
    let taken = ports.filter_map(|(what, port)| Some((what, port.filter(|port| agent_ports.contains(&port.number))?)));
    taken.map(|(what, port)| Problem {
        subject: Subject::Node(shown(&node.name)),
        text: format!("{what} {port} is one that the agent of this host listens on: give the node another"),
    })
}

/// A text as it may stand in a message: short, on one line.
pub fn shown(text: &str) -> String {
    const SHOWN: usize = 128;
    let mut short: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// A list that stops growing at [`LISTED_LIMIT`] and then only counts.
#[derive(Default)]
struct Listed {
    problems: Vec<Problem>,
    more: usize,
}

impl Listed {
    fn push(&mut self, subject: Subject, text: String) {
        if self.problems.len() < LISTED_LIMIT {
            self.problems.push(Problem { subject, text });
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self, what: &str) -> Vec<Problem> {
        self.problems.sort_by(|a, b| a.subject.cmp(&b.subject));
        if self.more > 0 {
            let text = format!("{} more {what} are not listed; correct these first", self.more);
            self.problems.push(Problem { subject: Subject::Configuration, text });
        }
        self.problems
    }
}

/// Where ports collide: the address of an instance, or the instance itself while its address is not known.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Host<'a> {
    Address(IpAddr),
    Instance(&'a str),
}

struct Check<'a> {
    config: &'a Configuration,
    problems: Listed,
    warnings: Listed,
}

impl<'a> Check<'a> {
    fn new(config: &'a Configuration) -> Self {
        Self { config, problems: Listed::default(), warnings: Listed::default() }
    }

    fn report(self) -> Report {
        Report { problems: self.problems.finish("problems"), warnings: self.warnings.finish("warnings") }
    }

    fn everywhere(&mut self) {
        let config = self.config;
        self.configuration();
        for instance in &config.instances {
            self.instance(instance);
        }
        for node in &config.nodes {
            self.node(node);
        }
        self.names();
        self.prefixes();
        self.port_conflicts();
    }

    fn here(&mut self, facts: &HostFacts) {
        let config = self.config;
        let ours = facts.instance.as_str();
        if config.instance(ours).is_none() {
            self.problems.push(
                Subject::Configuration,
                format!("does not list this instance, {ours}: add it to the instances, or send this to another agent"),
            );
        }
        for problem in unknown_hosts(config, facts.instance) {
            self.problems.push(problem.subject, problem.text);
        }
        for node in config.nodes.iter().filter(|node| node.instance == ours) {
            for problem in agent_ports(node, facts.agent_ports) {
                self.problems.push(problem.subject, problem.text);
            }
            if let Some(cpu) = node.cpu_affinity.filter(|cpu| *cpu >= i64::from(facts.cpus)) {
                self.warnings.push(
                    Subject::Node(shown(&node.name)),
                    format!(
                        "cpu_affinity {cpu}: this host has {} CPUs, numbered from 0; it will run unpinned",
                        facts.cpus
                    ),
                );
            }
        }
    }

    fn configuration(&mut self) {
        let config = self.config;
        // Empty ids would make any two configurations the same one, and the second would be taken as running already.
        if config.id.is_empty() {
            self.problems.push(Subject::Configuration, "has no id: give every configuration its own".to_owned());
        } else if config.id.len() > ID_LIMIT {
            let text = format!("id has {} bytes, {ID_LIMIT} is the most", config.id.len());
            self.problems.push(Subject::Configuration, text);
        } else if config.id.chars().any(char::is_control) {
            let text = format!("id {:?} holds a control character", shown(&config.id));
            self.problems.push(Subject::Configuration, text);
        }
        for (what, count) in [("instances", config.instances.len()), ("nodes", config.nodes.len())] {
            if count > NODE_LIMIT {
                self.problems.push(Subject::Configuration, format!("has {count} {what}, {NODE_LIMIT} is the most"));
            }
        }
        let managers = config.nodes.iter().filter(|node| node.role == ClusterRole::Manager).count();
        if managers > 1 {
            let text = format!("has {managers} managers: the other nodes of a Zeek cluster follow one of them");
            self.warnings.push(Subject::Configuration, text);
        }
    }

    /// Names that repeat, each reported once; names of both kinds; nodes of instances that are not there.
    fn names(&mut self) {
        let config = self.config;
        let mut instances: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in &config.instances {
            *instances.entry(&instance.name).or_default() += 1;
        }
        let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &config.nodes {
            *nodes.entry(&node.name).or_default() += 1;
        }
        for (name, count) in instances.iter().filter(|(_, count)| **count > 1) {
            let text = format!("is listed {count} times: a name stands for one instance");
            self.problems.push(Subject::Instance(shown(name)), text);
        }
        for (name, count) in &nodes {
            if *count > 1 {
                let text = format!("is listed {count} times: a name stands for one node");
                self.problems.push(Subject::Node(shown(name)), text);
            }
            if instances.contains_key(name) {
                let text = "has the name of an instance: answers could not tell them apart".to_owned();
                self.problems.push(Subject::Node(shown(name)), text);
            }
        }
        for node in config.nodes.iter().filter(|node| !instances.contains_key(node.instance.as_str())) {
            let text = format!("instance {:?} is not among the instances of the configuration", shown(&node.instance));
            self.problems.push(Subject::Node(shown(&node.name)), text);
        }
    }

    /// Names that Zeek's agents would mistake for each other.
    fn prefixes(&mut self) {
        for (name, beginning) in prefixes::pairs(self.config) {
            let text = format!(
                "its name begins with that of instance {}, and so does its Broker topic: agents that do not compare \
                 topics in full, as Zeek's, act upon its requests, too",
                shown(beginning)
            );
            self.warnings.push(Subject::Instance(shown(name)), text);
        }
    }

    fn instance(&mut self, instance: &Instance) {
        let subject = || Subject::Instance(shown(&instance.name));
        if let Err(error) = InstanceName::new(instance.name.as_str()) {
            self.problems.push(subject(), error.to_string());
        }
        if let Some(text) = instance.listen_port.and_then(|port| bad_port("listen_port", port)) {
            self.problems.push(subject(), text);
        }
        if instance.host.is_multicast() || instance.host == IpAddr::V4(Ipv4Addr::BROADCAST) {
            self.problems.push(subject(), format!("host {} is not the address of one host", instance.host));
        }
    }

    fn node(&mut self, node: &Node) {
        let subject = || Subject::Node(shown(&node.name));
        if let Err(error) = NodeName::new(node.name.as_str()) {
            self.problems.push(subject(), error.to_string());
        }
        match node.role {
            ClusterRole::Manager | ClusterRole::Logger | ClusterRole::Proxy => {
                if node.port.is_none() {
                    let text = format!("has no port: a {} needs one that the other nodes can reach", node.role);
                    self.problems.push(subject(), text);
                }
            }
            ClusterRole::Worker => {}
            // Zeek knows the role and its supervisor starts such a node, but has no type of cluster node for it.
            ClusterRole::None => {
                let text = "has role none: it runs by itself and takes no part in the cluster".to_owned();
                self.warnings.push(subject(), text);
            }
        }
        for (what, port) in [("port", node.port), ("metrics_port", node.metrics_port)] {
            if let Some(text) = port.and_then(|port| bad_port(what, port)) {
                self.problems.push(subject(), text);
            }
        }
        if let Some(cpu) = node.cpu_affinity.filter(|cpu| *cpu < 0) {
            self.problems.push(subject(), format!("cpu_affinity {cpu} is negative: CPUs are numbered from 0"));
        }
        if let Some(text) = node.interface.as_deref().and_then(|interface| bad_text("interface", interface)) {
            self.problems.push(subject(), text);
        }
        self.scripts(node);
        self.options(node);
        self.env(node);
        let texts = node.scripts.iter().map(String::len).sum::<usize>()
            + node.options.iter().map(|option| option.name.len() + option.value.len() + 2).sum::<usize>()
            + node.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        if texts > NODE_TEXT_LIMIT {
            let text = format!("scripts, options and env add up to {texts} bytes, {NODE_TEXT_LIMIT} is the most");
            self.problems.push(subject(), text);
        }
    }

    fn scripts(&mut self, node: &Node) {
        for script in &node.scripts {
            let subject = Subject::Node(shown(&node.name));
            if let Some(text) = bad_text("script", script) {
                self.problems.push(subject, text);
            } else if script.starts_with('-') {
                let text = format!("script {:?}: Zeek would take it for an option; give its whole path", shown(script));
                self.problems.push(subject, text);
            } else if script.contains('=') {
                let text =
                    format!("script {:?}: Zeek takes what has a = for a redefinition of a variable", shown(script));
                self.warnings.push(subject, text);
            }
        }
    }

    fn options(&mut self, node: &Node) {
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for option in &node.options {
            let subject = || Subject::Node(shown(&node.name));
            let name = shown(&option.name);
            if option.name.len() > TEXT_LIMIT || !is_zeek_identifier(&option.name) {
                let text = format!("option {name:?} is not a Zeek identifier, such as Module::name");
                self.problems.push(subject(), text);
            }
            // An empty value is fine: so an option that is a string becomes the empty one.
            if option.value.chars().any(char::is_control) {
                self.problems.push(subject(), format!("the value of option {name:?} holds a control character"));
            }
            match option_text(&option.value) {
                Ok(()) => {}
                Err(Unfit::Broken(why)) => self.problems.push(subject(), format!("the value of option {name:?} {why}")),
                Err(Unfit::Cut(character)) => {
                    let why = "Zeek ends the value there, unless the variable is a string";
                    self.warnings.push(subject(), format!("the value of option {name:?} holds {character}: {why}"));
                }
            }
            if option.name.len() + 1 + option.value.len() > PAIR_LIMIT {
                self.problems.push(subject(), format!("option {name:?} is longer than {PAIR_LIMIT} bytes"));
            }
            if values.insert(&option.name, &option.value).is_some_and(|other| other != option.value) {
                self.problems.push(subject(), format!("option {name:?} is given two values"));
            }
        }
    }

    fn env(&mut self, node: &Node) {
        for (name, value) in &node.env {
            let subject = || Subject::Node(shown(&node.name));
            if name.is_empty() {
                self.problems.push(subject(), "env has a variable without a name".to_owned());
            }
            if let Some(character) = name.chars().find(|c| matches!(c, '=' | '\0')) {
                let text = format!("env name {:?} contains {character:?}, which no name can", shown(name));
                self.problems.push(subject(), text);
            }
            if value.contains('\0') {
                let text = format!("the value of env {:?} contains a NUL, where it would end", shown(name));
                self.problems.push(subject(), text);
            }
            if name.len() + 1 + value.len() > PAIR_LIMIT {
                self.problems.push(subject(), format!("env {:?} is longer than {PAIR_LIMIT} bytes", shown(name)));
            }
            if OURS_IN_ENV.contains(&name.as_str()) {
                self.warnings.push(subject(), format!("env {name} has no effect: the agent sets it for every node"));
            }
        }
    }

    /// Every TCP port of a host, agents' and nodes', for Broker and for metrics, has one user. Instances that share an
    /// address share a host.
    fn port_conflicts(&mut self) {
        let config = self.config;
        let mut hosts: BTreeMap<&str, IpAddr> = BTreeMap::new();
        for instance in config.instances.iter().filter(|instance| !instance.host.is_unspecified()) {
            hosts.entry(&instance.name).or_insert(instance.host.to_canonical());
        }
        let host = |name: &'a str| hosts.get(name).map_or(Host::Instance(name), |address| Host::Address(*address));

        let mut users: BTreeMap<(Host, u16), (Subject, &str)> = BTreeMap::new();
        let instances = config.instances.iter().map(|instance| {
            let subject = Subject::Instance(shown(&instance.name));
            (subject, instance.name.as_str(), [("listen_port", instance.listen_port), ("", None)])
        });
        let nodes = config.nodes.iter().map(|node| {
            let subject = Subject::Node(shown(&node.name));
            (subject, node.instance.as_str(), [("port", node.port), ("metrics_port", node.metrics_port)])
        });
        for (subject, instance, ports) in instances.chain(nodes) {
            for (what, port) in ports {
                let Some(port) = port.filter(|port| port.protocol == Protocol::Tcp && port.number != 0) else {
                    continue;
                };
                let key = (host(instance), port.number);
                let Some((other, other_what)) = users.get(&key) else {
                    users.insert(key, (subject.clone(), what));
                    continue;
                };
                let place = match &key.0 {
                    Host::Address(address) => format!("on host {address}"),
                    Host::Instance(name) => format!("on instance {}", shown(name)),
                };
                let other = if *other == subject { "its own".to_owned() } else { format!("{other}'s") };
                let text = format!("{what} {port} is also {other} {other_what} {place}: give it another");
                self.problems.push(subject.clone(), text);
            }
        }
    }
}

#[cfg(test)]
mod tests;

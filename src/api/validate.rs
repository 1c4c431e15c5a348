//! Checks a configuration as a whole and reports every problem at once.
//!
//! A configuration is untrusted text until it has been here: names become directories and topics, environment values
//! become a process's environment, scripts and options its command line. What passes can be planned and launched without
//! further looks at it. Problems reject the configuration; warnings do not. Reading files and filling in ports is
//! left to the cluster files; a controller fills ports in before it asks.

mod advice;
mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::configuration::{ClusterRole, Configuration, Instance, Node, Port, Protocol};
use super::ids::{InstanceName, NodeName};

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

fn bad_port(what: &str, port: Port) -> Option<String> {
    if port.number == 0 {
        return Some(format!("{what} {port} is no port: give one from 1 to 65535, or none"));
    }
    match port.protocol {
        Protocol::Tcp => None,
        Protocol::Unknown | Protocol::Udp | Protocol::Icmp => Some(format!("{what} {port} is not a TCP port")),
    }
}

fn bad_text(what: &str, text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(format!("{what} is empty: name one, or leave it out"));
    }
    if text.len() > TEXT_LIMIT {
        return Some(format!("{what} has {} bytes, {TEXT_LIMIT} is the most", text.len()));
    }
    let control = text.chars().any(char::is_control);
    control.then(|| format!("{what} {:?} holds a control character", shown(text)))
}

/// What is wrong with the value of an option.
enum Unfit {
    /// No variable can take it.
    Broken(&'static str),
    /// The rest from this character on is lost for all variables but strings.
    Cut(char),
}

/// Whether Zeek takes all of a value: it reads `redef name = value;`, with quotes around the value if the variable is a string
/// and has none (`src/scan.l`). An open quote or escape would take in what comes behind.
fn option_text(value: &str) -> Result<(), Unfit> {
    let (mut is_quoted, mut is_escaped, mut cut) = (false, false, None);
    for character in value.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' | '#' if !is_quoted => cut = cut.or(Some(character)),
            _ => {}
        }
    }
    if is_escaped {
        return Err(Unfit::Broken("ends in a \\ that escapes nothing: write \\\\ for one that stands for itself"));
    }
    if is_quoted {
        return Err(Unfit::Broken("has a quote that is not closed: write \\\" for one that stands for itself"));
    }
    cut.map_or(Ok(()), |character| Err(Unfit::Cut(character)))
}

/// Whether a global of Zeek can have this name: parts of ASCII letters, digits and `_`, joined by `::`.
fn is_zeek_identifier(text: &str) -> bool {
    text.split("::").all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::configuration::{ScriptOption, UNKNOWN_HOST};
    use super::*;

    fn instance(name: &str, host: [u8; 4]) -> Instance {
        Instance { name: name.to_owned(), host: IpAddr::from(host), listen_port: None }
    }

    fn node(name: &str, instance: &str, role: ClusterRole, port: Option<u16>) -> Node {
        Node {
            name: name.to_owned(),
            instance: instance.to_owned(),
            role,
            port: port.map(Port::tcp),
            scripts: Vec::new(),
            options: Vec::new(),
            interface: None,
            cpu_affinity: None,
            env: BTreeMap::new(),
            metrics_port: None,
        }
    }

    /// Two hosts, nothing wrong with it.
    fn good() -> Configuration {
        Configuration {
            id: "c-1".to_owned(),
            instances: vec![instance("here", [192, 0, 2, 1]), instance("there", [192, 0, 2, 2])],
            nodes: vec![
                node("manager", "here", ClusterRole::Manager, Some(2200)),
                node("worker-1", "here", ClusterRole::Worker, None),
                node("worker-2", "there", ClusterRole::Worker, None),
            ],
        }
    }

    fn checked(config: &Configuration) -> Report {
        let ours = InstanceName::new("here").unwrap();
        check(config, &HostFacts { instance: &ours, cpus: 4, agent_ports: &[2151] })
    }

    fn problems(config: &Configuration) -> Vec<String> {
        checked(config).problems.iter().map(ToString::to_string).collect()
    }

    /// The only problem after `change`.
    #[track_caller]
    fn problem(change: impl FnOnce(&mut Configuration)) -> String {
        let mut config = good();
        change(&mut config);
        let mut problems = problems(&config);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.remove(0)
    }

    /// The only warning after `change`, which is no problem.
    #[track_caller]
    fn warning(change: impl FnOnce(&mut Configuration)) -> String {
        let mut config = good();
        change(&mut config);
        let report = checked(&config);
        assert_eq!((report.problems.len(), report.warnings.len()), (0, 1), "{report:?}");
        report.warnings[0].to_string()
    }

    #[test]
    fn a_good_configuration_passes() {
        assert_eq!(checked(&good()), Report::default());
        assert!(checked(&good()).is_valid());
    }

    #[test]
    fn every_problem_is_reported_at_once_and_names_its_subject() {
        let mut config = good();
        config.id.clear();
        config.instances.push(instance("there", [192, 0, 2, 3]));
        config.nodes[0].name = "here".to_owned();
        config.nodes[1].name = "worker-2".to_owned();
        config.nodes[2].instance = "nowhere".to_owned();
        config.nodes.push(node("../etc", "here", ClusterRole::Proxy, None));
        let report = checked(&config);
        let found: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        let expected = [
            "configuration: has no id: give every configuration its own",
            "instance there: is listed 2 times: a name stands for one instance",
            "node ../etc: node name \"../etc\" contains '/', which is not allowed in a name",
            "node ../etc: has no port: a proxy needs one that the other nodes can reach",
            "node here: has the name of an instance: answers could not tell them apart",
            "node worker-2: is listed 2 times: a name stands for one node",
            "node worker-2: instance \"nowhere\" is not among the instances of the configuration",
        ];
        assert_eq!(found, expected);
        assert_eq!(report.to_string(), expected.join("; "));
        assert_eq!(report.problems[1].instance(), Some("there"));
        assert_eq!(report.problems[2].node(), Some("../etc"));
    }

    #[test]
    fn a_configuration_that_does_not_list_this_instance_is_refused_only_here() {
        let mut config = good();
        config.instances[0].name = "elsewhere".to_owned();
        config.nodes[0].instance = "elsewhere".to_owned();
        config.nodes[1].instance = "elsewhere".to_owned();
        let expected =
            "configuration: does not list this instance, here: add it to the instances, or send this to another agent";
        assert_eq!(problems(&config), [expected]);
        assert!(check_anywhere(&config).is_valid());
        let nobody = Configuration { id: "c".to_owned(), ..Configuration::default() };
        assert_eq!(problems(&nobody), [expected]);
    }

    #[test]
    fn ports_collide_on_a_host_and_not_between_hosts() {
        let mut config = good();
        config.nodes[2].port = Some(Port::tcp(2200));
        assert!(checked(&config).is_valid(), "another host");
        let same_host = |config: &mut Configuration| {
            config.instances[1].host = "::ffff:192.0.2.1".parse().unwrap();
            config.nodes[2].port = Some(Port::tcp(2200));
        };
        assert_eq!(
            problem(same_host),
            "node worker-2: port 2200/tcp is also node manager's port on host 192.0.2.1: give it another"
        );
        assert_eq!(
            problem(|config| config.nodes[0].metrics_port = Some(Port::tcp(2200))),
            "node manager: metrics_port 2200/tcp is also its own port on host 192.0.2.1: give it another"
        );
        assert_eq!(
            problem(|config| config.instances[0].listen_port = Some(Port::tcp(2200))),
            "node manager: port 2200/tcp is also instance here's listen_port on host 192.0.2.1: give it another"
        );
        let mut unknown = good();
        for instance in &mut unknown.instances {
            instance.host = UNKNOWN_HOST;
            instance.listen_port = Some(Port::tcp(2151));
        }
        assert!(check_anywhere(&unknown).is_valid(), "hosts that are not known need not be one");
        unknown.nodes[1].metrics_port = Some(Port::tcp(2151));
        assert_eq!(check_anywhere(&unknown).problems.len(), 1);
    }

    #[test]
    fn ports_are_tcp_and_there_where_needed() {
        let udp = Port { number: 53, protocol: Protocol::Udp };
        let none = Port { number: 0, protocol: Protocol::Unknown };
        assert_eq!(problem(|c| c.nodes[0].port = Some(udp)), "node manager: port 53/udp is not a TCP port");
        let expected = "node worker-1: metrics_port 0/unknown is no port: give one from 1 to 65535, or none";
        assert_eq!(problem(|c| c.nodes[1].metrics_port = Some(none)), expected);
        let expected = "instance there: listen_port 53/udp is not a TCP port";
        assert_eq!(problem(|c| c.instances[1].listen_port = Some(udp)), expected);
        for role in [ClusterRole::Logger, ClusterRole::Proxy, ClusterRole::Manager] {
            let change = |c: &mut Configuration| (c.nodes[0].role, c.nodes[0].port) = (role, None);
            assert!(problem(change).contains("has no port"), "{role}");
        }
    }

    #[test]
    fn cpus_that_this_host_lacks_are_a_warning_for_its_own_nodes() {
        let expected = "node worker-1: cpu_affinity 4: this host has 4 CPUs, numbered from 0; it will run unpinned";
        assert_eq!(warning(|c| c.nodes[1].cpu_affinity = Some(4)), expected);
        let mut config = good();
        config.nodes[1].cpu_affinity = Some(3);
        config.nodes[2].cpu_affinity = Some(i64::MAX);
        assert_eq!(checked(&config), Report::default());
        let expected = "node worker-2: cpu_affinity -1 is negative: CPUs are numbered from 0";
        assert_eq!(problem(|c| c.nodes[2].cpu_affinity = Some(-1)), expected);
    }

    #[test]
    fn environments_that_no_process_can_have() {
        let env = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            move |config: &mut Configuration| drop(config.nodes[1].env.insert(name, value))
        };
        assert_eq!(problem(env("", "x")), "node worker-1: env has a variable without a name");
        assert_eq!(problem(env("A=B", "x")), "node worker-1: env name \"A=B\" contains '=', which no name can");
        assert_eq!(problem(env("A\0", "x")), "node worker-1: env name \"A\u{fffd}\" contains '\\0', which no name can");
        assert!(problem(env("A", "x\0y")).contains("contains a NUL"));
        assert!(problem(env("A", &"x".repeat(PAIR_LIMIT - 1))).contains("is longer than 131071 bytes"));
        assert!(checked(&good()).is_valid());
        for name in ["CLUSTER_NODE", "NOTIFY_SOCKET"] {
            let expected = format!("node worker-1: env {name} has no effect: the agent sets it for every node");
            assert_eq!(warning(env(name, "x")), expected);
        }
    }

    #[test]
    fn interfaces_scripts_and_options_that_zeek_could_not_take() {
        assert!(problem(|c| c.nodes[1].interface = Some(String::new())).contains("interface is empty"));
        assert!(problem(|c| c.nodes[1].interface = Some("a\nb".to_owned())).contains("holds a control character"));
        let script = |script: &str| {
            let script = script.to_owned();
            move |config: &mut Configuration| config.nodes[1].scripts.push(script)
        };
        assert!(problem(script("")).contains("script is empty"));
        assert!(problem(script("a\x1b[m")).contains("holds a control character"));
        assert!(problem(script("-e")).contains("Zeek would take it for an option"));
        assert!(problem(script(&"x".repeat(TEXT_LIMIT + 1))).contains("script has 4097 bytes"));
        assert!(warning(script("a=b.zeek")).contains("redefinition"));

        let options = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ScriptOption { name: (*name).into(), value: (*value).into() };
            let options: Vec<_> = pairs.iter().map(pair).collect();
            move |config: &mut Configuration| config.nodes[1].options = options
        };
        for name in ["", "a b", "1a", "a::", "::a", "a:b", "a:::b", "é", "a=b", "a\0"] {
            assert!(problem(options(&[(name, "1")])).contains("is not a Zeek identifier"), "{name:?}");
        }
        assert!(problem(options(&[("a", "1\n2")])).contains("holds a control character"));
        assert!(problem(options(&[("a", "1"), ("a", "2")])).contains("is given two values"));
        assert!(problem(options(&[("a", "say \"hi")])).contains("a quote that is not closed"));
        assert!(problem(options(&[("a", "C:\\")])).contains("escapes nothing"));
        for (value, character) in [("1; redef b = 2", ';'), ("1 # one", '#')] {
            assert!(warning(options(&[("a", value)])).contains(&format!("holds {character}: Zeek ends the value")));
        }
        let mut config = good();
        options(&[("Site::local_nets", "{10.0.0.0/8}"), ("_x1", ""), ("a::b::C9", "T"), ("s", "\"a;b #\\\"c\"")])(
            &mut config,
        );
        assert_eq!(checked(&config), Report::default());
    }

    #[test]
    fn roles_that_are_unusual_are_warnings() {
        assert!(warning(|c| c.nodes[1].role = ClusterRole::None).contains("runs by itself"));
        let second = node("m2", "there", ClusterRole::Manager, Some(2200));
        assert_eq!(
            warning(|c| c.nodes.push(second)),
            "configuration: has 2 managers: the other nodes of a Zeek cluster follow one of them"
        );
    }

    #[test]
    fn a_name_that_begins_with_another_is_a_warning() {
        let text = warning(|c| c.instances.push(instance("here-2", [192, 0, 2, 3])));
        assert!(text.starts_with("instance here-2: its name begins with that of instance here, "), "{text}");
    }

    #[test]
    fn a_report_stays_small_whatever_the_configuration() {
        let mut config = good();
        for number in 0..5000 {
            let name = format!("{number}-{}", "/".repeat(10_000));
            config.nodes.push(node(&name, &name, ClusterRole::Proxy, None));
        }
        let report = checked(&config);
        assert_eq!(report.problems.len(), LISTED_LIMIT + 1);
        assert!(report.problems[0].to_string().contains("has 5003 nodes, 4096 is the most"), "{}", report.problems[0]);
        assert!(report.to_string().len() < 512 * 1024, "{}", report.to_string().len());
        assert!(!report.to_string().contains('\n'));
    }

    #[test]
    fn our_unknown_host_becomes_loopback_if_every_node_is_ours() {
        let ours = InstanceName::new("here").unwrap();
        let mut config = good();
        config.instances[0].host = UNKNOWN_HOST;
        config.instances[1].host = UNKNOWN_HOST;
        let errors = resolve_hosts(config.clone(), &ours).unwrap_err();
        let named: Vec<_> = errors.iter().filter_map(Problem::instance).collect();
        assert_eq!(named, ["here", "there"]);
        assert_eq!(checked(&config).problems, errors);

        config.nodes.pop();
        assert_eq!(checked(&config), Report::default());
        let resolved = resolve_hosts(config.clone(), &ours).unwrap();
        let hosts: Vec<_> = resolved.instances.iter().map(|instance| instance.host.to_string()).collect();
        assert_eq!(hosts, ["127.0.0.1", "0.0.0.0"], "an instance without nodes may stay unknown");

        let resolved = resolve_hosts(good(), &ours).unwrap();
        assert_eq!(resolved, good().canonical(), "what is known stays");
    }
}

//! A configuration to INI text that zeek-client reads, laid out as it lays it out, and what it would not see of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::super::WriteError;
use super::syntax::is_blank;
use super::{BACKEND, CLUSTER, DEFAULT, INSTANCES, words};
use crate::api::configuration::{Configuration, Instance, Node, Port, UNKNOWN_HOST};

/// The port that Zeek's agents and this one listen on if nothing else is said
/// (`Management::Agent::default_port`). zeek-client takes no address without a port.
pub const AGENT_PORT: u16 = 2151;

/// The text, and what of the configuration it could not take.
pub fn write(config: &Configuration) -> (String, Vec<WriteError>) {
    let mut writer =
        Writer { text: String::new(), errors: Vec::new(), instances: BTreeSet::new(), nodes: BTreeSet::new() };
    // Without instances and with nodes the section has to be there, or reading would make the list up from the nodes.
    if !config.instances.is_empty() || !config.nodes.is_empty() {
        writer.line(format_args!("[{INSTANCES}]"));
    }
    for instance in &config.instances {
        writer.instance(instance);
    }
    if let Some(backend) = config.cluster_backend {
        writer.line(format_args!("\n[{CLUSTER}]\n{BACKEND} = {backend}"));
    }
    for node in &config.nodes {
        writer.node(node);
    }
    (writer.text, writer.errors)
}

struct Writer<'a> {
    text: String,
    errors: Vec<WriteError>,
    /// The names written so far: in INI they cannot repeat, and zeek-client has those of instances in lower case.
    instances: BTreeSet<String>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Writer<'a> {
    fn line(&mut self, line: std::fmt::Arguments) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }

    fn refuse(&mut self, place: String, why: &'static str) {
        self.errors.push(WriteError::NotInIni { place, why });
    }

    fn instance(&mut self, instance: &'a Instance) {
        let name = &instance.name;
        let again = (!self.instances.insert(name.to_lowercase()))
            .then_some("another instance has the name, in this or another case");
        if let Some(why) = unfit_name(name).or_else(|| unfit_key(name)).or(again) {
            self.refuse(format!("instance {name:?}"), why);
        }
        let host = match instance.host {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        match instance.listen_port {
            Some(Port { number, .. }) => self.line(format_args!("{name} = {host}:{number}")),
            None if instance.host == UNKNOWN_HOST => self.line(format_args!("{name}")),
            None => self.line(format_args!("{name} = {host}:{AGENT_PORT}")),
        }
    }

    fn node(&mut self, node: &'a Node) {
        let name = &node.name;
        let taken =
            matches!(name.as_str(), INSTANCES | DEFAULT | CLUSTER).then_some("a section of that name is not a node");
        let again = (!self.nodes.insert(name)).then_some("another node has the name");
        if let Some(why) = unfit_name(name).or(taken).or(again) {
            self.refuse(format!("node {name:?}"), why);
        }
        self.line(format_args!("\n[{name}]"));
        self.value(node, "instance", &node.instance);
        self.value(node, "role", &node.role.as_str().to_ascii_uppercase());
        self.port(node, "port", node.port);
        let scripts: Vec<String> = node.scripts.iter().map(|script| words::quote(script)).collect();
        self.words(node, "scripts", &scripts);
        let options = node.options.iter().map(|option| (&option.name, &option.value));
        let options = self.pairs(node, "options", options);
        self.words(node, "options", &options);
        if let Some(interface) = &node.interface {
            self.value(node, "interface", interface);
        }
        if let Some(cpu) = node.cpu_affinity {
            self.value(node, "cpu_affinity", &cpu.to_string());
        }
        let env = self.pairs(node, "env", node.env.iter());
        self.words(node, "env", &env);
        self.port(node, "metrics_port", node.metrics_port);
    }

    fn port(&mut self, node: &Node, key: &str, port: Option<Port>) {
        if let Some(port) = port {
            self.value(node, key, &port.number.to_string());
        }
    }

    fn pairs<'p>(
        &mut self,
        node: &Node,
        key: &str,
        pairs: impl Iterator<Item = (&'p String, &'p String)>,
    ) -> Vec<String> {
        let mut words = Vec::new();
        for (name, value) in pairs {
            if name.contains('=') {
                self.refuse(format!("node {:?}: {key} {name:?}", node.name), "a name ends at the first =");
            }
            let name = if name.is_empty() { String::new() } else { words::quote(name) };
            let value = if value.is_empty() { String::new() } else { words::quote(value) };
            words.push(format!("{name}={value}"));
        }
        words
    }

    /// A list, whose words are quoted so that they may hold anything but a carriage return.
    fn words(&mut self, node: &Node, key: &str, words: &[String]) {
        if words.is_empty() {
            return;
        }
        let value = words.join(" ");
        if value.contains('\r') {
            self.refuse(format!("node {:?}: {key}", node.name), "it holds a carriage return");
        }
        self.line(format_args!("{key} = {}", value.replace('%', "%%").replace('\n', "\n\t")));
    }

    fn value(&mut self, node: &Node, key: &str, value: &str) {
        if value.contains(['\n', '\r']) {
            self.refuse(format!("node {:?}: {key}", node.name), "it holds a line break");
        } else if value.trim_matches(is_blank) != value {
            self.refuse(format!("node {:?}: {key}", node.name), "blanks around a value are lost");
        }
        self.line(format_args!("{key} = {}", value.replace('%', "%%")));
    }
}

/// What zeek-client does not see, or sees otherwise, in the INI file that `config` becomes. One line for each kind.
pub fn losses(config: &Configuration) -> Vec<String> {
    let mut losses = Vec::new();
    let mut add = |what: &str, who: Vec<&str>, how: &str| {
        if !who.is_empty() {
            losses.push(format!("{what} of {}: {how}", listed(&who)));
        }
    };
    let nodes = |has: fn(&Node) -> bool| {
        config.nodes.iter().filter(|node| has(node)).map(|node| node.name.as_str()).collect::<Vec<_>>()
    };
    let instances = |has: fn(&Instance) -> bool| {
        config.instances.iter().filter(|instance| has(instance)).map(|instance| instance.name.as_str()).collect()
    };
    let how = "zeek-client does not know this key and would leave it out; put them into a script, if it is to deploy this file";
    add("options", nodes(|node| !node.options.is_empty()), how);
    let how = "zeek-client sorts scripts by name; load them in order from one script, if it is to deploy this file";
    add("the order of the scripts", nodes(|node| !node.scripts.is_sorted()), how);
    let how = "zeek-client reads instance names in lower case, but not where nodes refer to them; rename the agent, if it is \
               to deploy this file";
    add("the name", instances(|instance| instance.name.chars().any(char::is_uppercase)), how);
    let how = format!(
        "zeek-client takes no address without a port, so {AGENT_PORT} was added, the port of agents by default; correct it \
         if the agent listens elsewhere"
    );
    add("the port", instances(|instance| instance.host != UNKNOWN_HOST && instance.listen_port.is_none()), &how);
    if let Some(backend) = config.cluster_backend {
        losses.push(format!(
            "cluster_backend = {backend}: zeek-client takes its section for a node; remove it and use the agents' setting \
             cluster_backend, if zeek-client is to deploy this file"
        ));
    }
    losses
}

/// The first of some names, and how many there are more.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let first: Vec<&str> = names.iter().take(SHOWN).copied().collect();
    match names.len().saturating_sub(SHOWN) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn unfit_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    (name.contains(['\n', '\r'])).then_some("it holds a line break")
}

/// Why a name cannot stand at the start of a line.
fn unfit_key(name: &str) -> Option<&'static str> {
    if name.starts_with(['#', ';', '[']) {
        return Some("a line that begins so is a comment or a section");
    }
    if name.contains(['=', ':']) {
        return Some("a name ends at the first = or :");
    }
    (name.trim_matches(is_blank) != name).then_some("blanks around a name are lost")
}

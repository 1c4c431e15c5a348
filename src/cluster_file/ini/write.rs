//! A configuration to INI text, laid out as zeek-client lays it out.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::super::WriteError;
use super::syntax::is_blank;
use super::{DEFAULT, INSTANCES, words};
use crate::api::configuration::{Configuration, Instance, Node, Port};

/// The text, and what of the configuration it could not take.
pub fn write(config: &Configuration) -> (String, Vec<WriteError>) {
    let mut writer = Writer { text: String::new(), errors: Vec::new() };
    // Without instances and with nodes the section has to be there, or reading would make the list up from the nodes.
    if !config.instances.is_empty() || !config.nodes.is_empty() {
        writer.line(format_args!("[{INSTANCES}]"));
    }
    for instance in &config.instances {
        writer.instance(instance);
    }
    for node in &config.nodes {
        writer.node(node);
    }
    (writer.text, writer.errors)
}

struct Writer {
    text: String,
    errors: Vec<WriteError>,
}

impl Writer {
    fn line(&mut self, line: std::fmt::Arguments) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }

    fn refuse(&mut self, place: String, why: &'static str) {
        self.errors.push(WriteError::NotInIni { place, why });
    }

    fn instance(&mut self, instance: &Instance) {
        let name = &instance.name;
        if let Some(why) = unfit_name(name).or_else(|| unfit_key(name)) {
            self.refuse(format!("instance {name:?}"), why);
        }
        let host = match instance.host {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        match instance.listen_port {
            Some(Port { number, .. }) => self.line(format_args!("{name} = {host}:{number}")),
            None if instance.host == crate::api::configuration::UNKNOWN_HOST => self.line(format_args!("{name}")),
            None => self.line(format_args!("{name} = {host}")),
        }
    }

    fn node(&mut self, node: &Node) {
        let name = &node.name;
        let taken = matches!(name.as_str(), INSTANCES | DEFAULT).then_some("a section of that name is not a node");
        if let Some(why) = unfit_name(name).or(taken) {
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

    fn pairs<'a>(
        &mut self,
        node: &Node,
        key: &str,
        pairs: impl Iterator<Item = (&'a String, &'a String)>,
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

    fn words(&mut self, node: &Node, key: &str, words: &[String]) {
        if !words.is_empty() {
            self.value(node, key, &words.join(" "));
        }
    }

    fn value(&mut self, node: &Node, key: &str, value: &str) {
        if let Some(why) = unfit_value(value) {
            self.refuse(format!("node {:?}: {key}", node.name), why);
        }
        self.line(format_args!("{key} = {}", value.replace('\n', "\n\t")));
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

/// Why a value would not come back as it is: readers drop blanks around each line, and lines that are comments.
fn unfit_value(value: &str) -> Option<&'static str> {
    if value.contains('\r') {
        return Some("it holds a carriage return");
    }
    if value.trim_matches(is_blank) != value || value.split('\n').any(|line| line.trim_matches(is_blank) != line) {
        return Some("blanks around a line are lost");
    }
    let comment = value.split('\n').skip(1).any(|line| line.starts_with(['#', ';']));
    comment.then_some("one of its lines would be a comment")
}

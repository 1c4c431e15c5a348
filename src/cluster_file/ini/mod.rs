//! zeek-client's INI file: an `[instances]` section, and a section for each node.

pub mod syntax;
pub mod words;
mod write;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::draft::{self, Draft, DraftNode, PORTS, ROLES};
use super::findings::{Findings, bare, quoted};
use crate::api::configuration::{Instance, Port, ScriptOption, UNKNOWN_HOST};
use syntax::{Item, Section};

pub use write::write;

/// The section that lists instances. Every other one is a node.
pub const INSTANCES: &str = "instances";
/// The section whose keys every node inherits.
pub const DEFAULT: &str = "DEFAULT";

const KEYS: [&str; 11] = [
    "instance",
    "role",
    "type",
    "port",
    "scripts",
    "options",
    "interface",
    "cpu_affinity",
    "env",
    "metrics_port",
    // Read and without effect: a controller decides what runs.
    "state",
];

/// The most bytes that all nodes together may inherit: every one has a copy.
pub const INHERITED_LIMIT: usize = super::SIZE_LIMIT;

pub fn read(text: &str, findings: &mut Findings) -> Option<Draft> {
    let file = syntax::read(text, findings);
    let mut draft = Draft::default();
    let nodes = file.sections.iter().filter(|section| section.name != INSTANCES);
    let count = nodes.clone().count();
    if draft::too_many(count, findings) {
        return None;
    }
    let defaults = inherited(&file.defaults, count, findings)?;
    for section in &file.sections {
        if section.name == INSTANCES {
            draft.instances.get_or_insert_default().extend(read_instances(section, findings));
        }
    }
    for section in nodes {
        draft.nodes.extend(read_node(section, &defaults, findings));
    }
    Some(draft)
}

/// The keys that every node has if it does not say otherwise. None: too much to copy for each.
fn inherited<'a>(items: &'a [Item], nodes: usize, findings: &mut Findings) -> Option<BTreeMap<&'a str, &'a Item>> {
    let known = known_keys(DEFAULT, items, findings);
    let bytes: usize = known.values().map(|item| item.value.as_ref().map_or(0, String::len)).sum();
    if bytes.saturating_mul(nodes) > INHERITED_LIMIT {
        let problem = format!("{nodes} nodes inherit {bytes} bytes each, {INHERITED_LIMIT} in all is the most");
        findings.error(items.first().map(|item| item.line), "[DEFAULT]", problem, "shorten the values there");
        return None;
    }
    Some(known)
}

/// The items of a node's section by key, after a word on each that has no value or no meaning.
fn known_keys<'a>(section: &str, items: &'a [Item], findings: &mut Findings) -> BTreeMap<&'a str, &'a Item> {
    let mut known = BTreeMap::new();
    for item in items {
        let place = place(section, &item.key);
        if item.value.is_none() {
            let advice = "write key = value, or put a # before the line";
            findings.error(Some(item.line), &place, "has no value".to_owned(), advice);
        } else if !KEYS.contains(&item.key.as_str()) {
            findings.warning(Some(item.line), &place, "is not a key of a node".to_owned(), "it has no effect");
        } else {
            known.insert(item.key.as_str(), item);
        }
    }
    known
}

pub fn place(section: &str, key: &str) -> String {
    format!("[{}] {}", bare(section), bare(key))
}

fn read_instances(section: &Section, findings: &mut Findings) -> Vec<Instance> {
    let mut instances = Vec::new();
    for item in &section.items {
        let place = place(INSTANCES, &item.key);
        let good = draft::instance_name(&item.key, item.line, &place, findings);
        let endpoint = match item.value.as_deref() {
            None | Some("") => Some((UNKNOWN_HOST, None)),
            Some(value) => read_endpoint(value, item.line, &place, findings),
        };
        if let Some((host, listen_port)) = endpoint.filter(|_| good) {
            instances.push(Instance { name: item.key.clone(), host, listen_port });
        }
    }
    instances
}

/// `host:port`, where the host may be IPv6 with or without brackets; or a host alone, IPv6 in brackets then.
fn read_endpoint(value: &str, line: usize, place: &str, findings: &mut Findings) -> Option<(IpAddr, Option<Port>)> {
    if let Ok(host) = value.parse::<Ipv4Addr>() {
        return Some((IpAddr::V4(host), None));
    }
    let bracketed = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(Ok(host)) = bracketed.map(str::parse::<Ipv6Addr>) {
        return Some((IpAddr::V6(host), None));
    }
    let (host, port) = match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.is_empty() => (host, port),
        Some(_) | None => {
            let advice = "write address:port for an agent that the controller connects to, else only the name";
            findings.error(Some(line), place, format!("{} is not an address with a port", quoted(value)), advice);
            return None;
        }
    };
    let host = host.trim_matches(['[', ']', ' ']);
    let address = host.parse::<IpAddr>();
    if address.is_err() {
        let problem = format!("{} is not an IP address", quoted(host));
        findings.error(
            Some(line),
            place,
            problem,
            "give the host's IPv4 or IPv6 address: Zeek takes no host names here",
        );
    }
    let port = read_port(port, line, place, findings);
    Some((address.ok()?, Some(port?)))
}

fn read_port(text: &str, line: usize, place: &str, findings: &mut Findings) -> Option<Port> {
    let number = read_number(text);
    let port = number.and_then(draft::tcp);
    if port.is_none() {
        let problem = match number {
            Some(number) => format!("port {number} is out of range"),
            None => format!("{} is not a whole number", quoted(text)),
        };
        findings.error(Some(line), place, problem, PORTS);
    }
    port
}

/// A whole number as Python's `int()` takes it: blanks around, a sign, single underscores between digits.
pub fn read_number(text: &str) -> Option<i64> {
    let text = text.trim_matches(syntax::is_blank);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// The keys of one node: its own before inherited ones.
struct NodeKeys<'a> {
    section: &'a Section,
    own: BTreeMap<&'a str, &'a Item>,
    defaults: &'a BTreeMap<&'a str, &'a Item>,
}

impl<'a> NodeKeys<'a> {
    fn get(&self, key: &str) -> Option<(&'a str, usize, String)> {
        let own = self.own.get(key).map(|item| (item, self.section.name.as_str()));
        let (item, section) = own.or_else(|| Some((self.defaults.get(key)?, DEFAULT)))?;
        Some((item.value.as_deref()?, item.line, place(section, key)))
    }

    /// A value of one line. An indented line below it, meant as the next key, would have become part of it.
    fn single(&self, key: &str, findings: &mut Findings) -> Option<(&'a str, usize, String)> {
        let (text, line, place) = self.get(key)?;
        if let Some((_, below)) = text.split_once('\n') {
            let problem = format!("goes on with {}, which is indented", quoted(below.trim_start()));
            findings.error(Some(line), &place, problem, "begin every key at the left edge");
            return None;
        }
        Some((text, line, place))
    }

    fn port(&self, key: &str, findings: &mut Findings) -> Option<Port> {
        let (text, line, place) = self.single(key, findings)?;
        read_port(text, line, &place, findings)
    }

    fn words(&self, key: &str, findings: &mut Findings) -> Vec<String> {
        let Some((text, line, place)) = self.get(key) else { return Vec::new() };
        words::split(text).unwrap_or_else(|error| {
            findings.error(
                Some(line),
                &place,
                error.to_string(),
                "close the quote, or write the quote or \\ as \\\" or \\\\",
            );
            Vec::new()
        })
    }

    /// `name=value` words.
    fn pairs(&self, key: &str, findings: &mut Findings) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for word in self.words(key, findings) {
            if let Some((name, value)) = word.split_once('=') {
                pairs.push((name.to_owned(), value.to_owned()));
            } else if let Some((_, line, place)) = self.get(key) {
                let advice = "write name=value, with quotes around a value that holds blanks";
                findings.error(Some(line), &place, format!("{} has no =", quoted(&word)), advice);
            }
        }
        pairs
    }
}

fn read_node(section: &Section, defaults: &BTreeMap<&str, &Item>, findings: &mut Findings) -> Option<DraftNode> {
    let here = format!("[{}]", bare(&section.name));
    let named = draft::node_name(&section.name, section.line, &here, findings);
    let keys = NodeKeys { section, own: known_keys(&section.name, &section.items, findings), defaults };

    for (key, advice) in [("state", "it has no effect"), ("type", "role is used, and type has no effect")] {
        let Some(item) = keys.own.get(key) else { continue };
        if key == "state" || keys.get("role").is_some() {
            let place = place(&section.name, key);
            findings.warning(Some(item.line), &place, "is not used".to_owned(), advice);
        }
    }
    let role_key = if keys.get("role").is_some() { "role" } else { "type" };
    let role = if keys.get(role_key).is_some() {
        keys.single(role_key, findings).and_then(|(text, line, place)| {
            let role = draft::role(text);
            if let Err(advice) = role {
                findings.error(Some(line), &place, format!("{} is not a role", quoted(text)), advice);
            }
            role.ok()
        })
    } else {
        findings.error(Some(section.line), &here, "has no role".to_owned(), ROLES);
        None
    };
    if let Some((name, line, place)) = keys.single("instance", findings) {
        draft::instance_name(name, line, &place, findings);
    }
    let instance = keys.get("instance").map(|(name, _, _)| name.to_owned());
    let cpu_affinity = keys.single("cpu_affinity", findings).and_then(|(text, line, place)| {
        let number = read_number(text);
        if number.is_none() {
            let problem = format!("{} is not a whole number", quoted(text));
            findings.error(Some(line), &place, problem, "give the number of a CPU, counted from 0");
        }
        number
    });
    let mut env = BTreeMap::new();
    for (name, value) in keys.pairs("env", findings) {
        let again = env.insert(name.clone(), value).is_some();
        if let Some((_, line, place)) = keys.get("env").filter(|_| again) {
            let problem = format!("{} is given twice", quoted(&name));
            findings.warning(Some(line), &place, problem, "the last one counts");
        }
    }
    let options = keys.pairs("options", findings).into_iter();
    let options = options.map(|(name, value)| ScriptOption { name, value }).collect();
    let scripts = keys.words("scripts", findings);
    let interface = keys.single("interface", findings).map(|(text, _, _)| text.to_owned());
    let port = keys.port("port", findings);
    let metrics_port = keys.port("metrics_port", findings);
    // Only now, so that all that is wrong with the node has been said.
    let role = role.filter(|_| named)?;
    Some(DraftNode {
        line: section.line,
        place: here,
        name: section.name.clone(),
        instance,
        role,
        port,
        scripts,
        options,
        interface,
        cpu_affinity,
        env,
        metrics_port,
    })
}

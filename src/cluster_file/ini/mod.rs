//! zeek-client's INI file: an `[instances]` section, and a section for each node.

pub mod interpolate;
pub mod syntax;
pub mod words;
mod write;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::draft::{self, Draft, DraftInstance, DraftNode, PORTS, ROLES};
use super::findings::{Findings, bare, quoted};
use super::hosts::{HOSTS, Host};
use crate::api::configuration::{ClusterBackend, ClusterRole, Port, ScriptOption};
use interpolate::{Budget, Scope, Value, referred_to};
use syntax::{Item, Section};

pub use write::{AGENT_PORT, losses, write};

/// The section that lists instances. Every other one is a node.
pub const INSTANCES: &str = "instances";
/// The section of what concerns the whole cluster. zeek-client does not know it.
pub const CLUSTER: &str = "zeek-cluster-agent";
/// The one key of that section.
pub const BACKEND: &str = "cluster_backend";
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
    let nodes = file.sections.iter().filter(|section| section.name != INSTANCES && section.name != CLUSTER);
    let count = nodes.clone().count();
    if draft::too_many(count, findings) || !can_inherit(&file.defaults, count, findings) {
        return None;
    }
    let all = || file.defaults.iter().chain(file.sections.iter().flat_map(|section| &section.items));
    let referred_to = referred_to(all());
    unknown_keys(DEFAULT, &file.defaults, &referred_to, findings);
    let mut budget = Budget::default();
    for section in &file.sections {
        if section.name == INSTANCES {
            let instances = read_instances(section, &file.defaults, &mut budget, findings);
            draft.instances.get_or_insert_default().extend(instances);
        } else if section.name == CLUSTER {
            draft.cluster_backend = read_backend(section, &mut budget, findings);
        }
    }
    for section in nodes {
        unknown_keys(&section.name, &section.items, &referred_to, findings);
        let values = Scope::new(&section.name, &section.items, &file.defaults).values(&mut budget, findings);
        draft.nodes.extend(read_node(&NodeKeys { section, values }, findings));
    }
    Some(draft)
}

/// The cluster's backend. The section inherits nothing.
fn read_backend(section: &Section, budget: &mut Budget, findings: &mut Findings) -> Option<ClusterBackend> {
    let scope = Scope::new(CLUSTER, &section.items, &[]);
    let mut backend = None;
    for item in &section.items {
        let place = place(CLUSTER, &item.key);
        if item.key != BACKEND {
            findings.warning(Some(item.line), &place, "is not a key of this section".to_owned(), "it has no effect");
        } else if let Some(text) = scope.value(item, CLUSTER, budget, findings).text.as_deref() {
            backend = draft::backend(text, Some(item.line), &place, findings);
        }
    }
    backend
}

/// Whether what every node has, if it does not say otherwise, can be copied for each.
fn can_inherit(items: &[Item], nodes: usize, findings: &mut Findings) -> bool {
    let known = items.iter().filter(|item| KEYS.contains(&item.key.as_str()));
    let bytes: usize = known.map(|item| item.value.as_ref().map_or(0, String::len)).sum();
    let fits = bytes.saturating_mul(nodes) <= INHERITED_LIMIT;
    if !fits {
        let problem = format!("{nodes} nodes inherit {bytes} bytes each, {INHERITED_LIMIT} in all is the most");
        findings.error(items.first().map(|item| item.line), "[DEFAULT]", problem, "shorten the values there");
    }
    fits
}

/// A word on each key of a node that has no meaning or no value.
fn unknown_keys(section: &str, items: &[Item], referred_to: &BTreeSet<String>, findings: &mut Findings) {
    for item in items {
        let (place, key) = (place(section, &item.key), item.key.as_str());
        if !KEYS.contains(&key) && !referred_to.contains(key) {
            findings.warning(Some(item.line), &place, "is not a key of a node".to_owned(), "it has no effect");
        } else if item.value.is_none() {
            let advice = "it counts as not given; write key = value";
            findings.warning(Some(item.line), &place, "has no value".to_owned(), advice);
        }
    }
}

pub fn place(section: &str, key: &str) -> String {
    format!("[{}] {}", bare(section), bare(key))
}

fn read_instances(
    section: &Section,
    defaults: &[Item],
    budget: &mut Budget,
    findings: &mut Findings,
) -> Vec<DraftInstance> {
    let mut instances = Vec::new();
    let scope = Scope::new(INSTANCES, &section.items, defaults);
    for item in &section.items {
        let place = place(INSTANCES, &item.key);
        let good = draft::instance_name(&item.key, item.line, &place, findings);
        let value = scope.value(item, INSTANCES, budget, findings);
        let endpoint = match value.text.as_deref() {
            None | Some("") => Some((Host::Unknown, None)),
            Some(text) => read_endpoint(text, item.line, &place, findings),
        };
        if let Some((host, listen_port)) = endpoint.filter(|_| good) {
            instances.push(DraftInstance { name: item.key.clone(), host, listen_port, line: Some(item.line), place });
        }
    }
    instances
}

/// `host:port`, where the host may be IPv6 with or without brackets; or a host alone, IPv6 in brackets then.
fn read_endpoint(value: &str, line: usize, place: &str, findings: &mut Findings) -> Option<(Host, Option<Port>)> {
    if let Some(host) = Host::read(value).filter(|_| value.starts_with('[') || !value.contains(':')) {
        return Some((host, None));
    }
    let (host, port) = match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.is_empty() => (host, port),
        Some(_) | None => {
            let problem = format!("{} is neither a host nor a host with a port", quoted(value));
            let advice = "write host:port for an agent that the controller connects to, else only the name";
            findings.error(Some(line), place, problem, advice);
            return None;
        }
    };
    let text = host.trim_matches(['[', ']', ' ']);
    let host = Host::read(text);
    if host.is_none() {
        let problem = format!("{} is neither an IP address nor a host name", quoted(text));
        findings.error(Some(line), place, problem, HOSTS);
    }
    let port = read_port(port, line, place, findings);
    Some((host?, Some(port?)))
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
    values: BTreeMap<Cow<'a, str>, Value<'a>>,
}

impl NodeKeys<'_> {
    fn get(&self, key: &str) -> Option<(&str, usize, String)> {
        let value = self.values.get(key)?;
        Some((value.text.as_deref()?, value.line, value.place(key)))
    }

    /// Whether the file gives the key a value, good or not.
    fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.text.is_some() || value.is_broken)
    }

    /// A value of one line. An indented line below it, meant as the next key, would have become part of it.
    fn single(&self, key: &str, findings: &mut Findings) -> Option<(&str, usize, String)> {
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

fn read_node(keys: &NodeKeys, findings: &mut Findings) -> Option<DraftNode> {
    let section = keys.section;
    let here = format!("[{}]", bare(&section.name));
    let named = draft::node_name(&section.name, section.line, &here, findings);
    for (key, advice) in [("state", "it has no effect"), ("type", "role is used, and type has no effect")] {
        let Some(item) = section.items.iter().find(|item| item.key == key) else { continue };
        if key == "state" || keys.has("role") {
            let place = place(&section.name, key);
            findings.warning(Some(item.line), &place, "is not used".to_owned(), advice);
        }
    }
    let role = read_role(keys, &here, findings);
    let instance = read_instance(keys, findings);
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

/// The role, by either of its two keys.
fn read_role(keys: &NodeKeys, here: &str, findings: &mut Findings) -> Option<ClusterRole> {
    let key = if keys.has("role") { "role" } else { "type" };
    if !keys.has(key) {
        findings.error(Some(keys.section.line), here, "has no role".to_owned(), ROLES);
    }
    let (text, line, place) = keys.single(key, findings)?;
    let role = draft::role(text);
    if let Err(advice) = role {
        findings.error(Some(line), &place, format!("{} is not a role", quoted(text)), advice);
    }
    role.ok()
}

/// The instance that the node names: none, or a text that has been said to be none.
fn read_instance(keys: &NodeKeys, findings: &mut Findings) -> Option<String> {
    let value = keys.values.get("instance")?;
    let text = value.text.as_deref().unwrap_or_default();
    if !value.is_broken && (text.is_empty() || keys.single("instance", findings).is_some()) {
        draft::instance_name(text, value.line, &value.place("instance"), findings);
    }
    Some(text.to_owned())
}

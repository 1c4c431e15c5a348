//! zeekctl's `node.cfg`: a section for each node, which stands for several with load balancing.
//!
//! Hosts become instances: all on one host are this agent's; else a host's instance is `agent-` and its address or name.
//! `standalone` becomes a node of role none. What zeekctl makes of `lb_method` itself is in [`balance`]. zeekctl's other
//! files (`zeekctl.cfg`, `networks.cfg`) are not read: what they set for all nodes belongs into `node_args` and `local.zeek`.
//!
//! Source: zeekctl 2.6, `ZeekControl/config.py` (`_read_nodes`, `_check_node`, `_check_nodestore`), `ZeekControl/node.py`,
//! and the plugins beside them. The text itself is read as Python's configparser does with interpolation, except that a
//! value which refers to another (`%(key)s`) has to be written out.

mod balance;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{self, Draft, DraftNode};
use super::findings::{Findings, bare, quoted};
use super::ini::syntax::{self, Item, Section};
use super::ini::{DEFAULT, INHERITED_LIMIT, INSTANCES, place, read_number, words};
use crate::api::configuration::{ClusterRole, Instance, UNKNOWN_HOST};
use crate::api::ids::InstanceName;
use crate::api::validate::NODE_LIMIT;
use balance::Balance;

/// Keys with a meaning here. Those of the AF_PACKET plugin are in [`balance`].
const KEYS: [&str; 9] =
    ["type", "host", "interface", "lb_procs", "lb_method", "lb_interfaces", "pin_cpus", "env_vars", "aux_scripts"];

/// Keys of zeekctl that say nothing about the cluster, and what to do instead.
const WITHOUT_EQUIVALENT: [(&str, &str); 4] = [
    ("zone_id", "give the hosts addresses that need no zone"),
    ("zeekbase", "set node_program in the settings of the host's agent"),
    ("ether", "zeekctl does not use it either"),
    ("count", "zeekctl sets it itself"),
];

/// A node on a host, by what the file calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    /// Whichever host reads the file.
    Local,
    Address(IpAddr),
    Name(String),
}

impl Host {
    fn read(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => Self::Local,
            Ok(address) => Self::Address(address),
            Err(_) if text.eq_ignore_ascii_case("localhost") => Self::Local,
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    /// As part of an instance's name, where a colon would end it.
    fn label(&self) -> String {
        match self {
            Self::Local => "localhost".to_owned(),
            Self::Address(address) => address.to_string().replace(':', "-"),
            Self::Name(name) => name.replace(':', "-"),
        }
    }
}

/// Whether a text that is not JSON is a `node.cfg`: nodes with hosts, which no cluster file has, and nothing of
/// zeek-client's own.
pub fn is_node_cfg(text: &str) -> bool {
    let file = syntax::read(text, &mut Findings::new(""));
    let items = || file.sections.iter().flat_map(|section| &section.items).chain(&file.defaults);
    let has = |keys: &[&str]| items().any(|item| keys.contains(&item.key.as_str()));
    has(&["host"]) && !has(&["instance", "role"]) && !file.sections.iter().any(|section| section.name == INSTANCES)
}

pub fn read(text: &str, ours: Option<&InstanceName>, findings: &mut Findings) -> Option<Draft> {
    let file = syntax::read(text, findings);
    if draft::too_many(file.sections.len(), findings) {
        return None;
    }
    let defaults = known_keys(DEFAULT, &file.defaults, findings);
    let sections: Vec<Keys> = file
        .sections
        .iter()
        .map(|section| Keys { section, own: known_keys(&section.name, &section.items, findings), defaults: &defaults })
        .collect();
    if !fits(&sections, findings) {
        return None;
    }
    let mut balance = Balance::default();
    let mut nodes = Vec::new();
    for keys in &sections {
        nodes.extend(read_section(keys, &mut balance, findings).unwrap_or_default());
    }
    let standalone = sections.iter().find(|keys| keys.is_standalone()).filter(|_| sections.len() > 1);
    if let Some(keys) = standalone {
        let advice = "remove it or the others: a standalone node is the only one of its file";
        findings.error(Some(keys.section.line), &keys.here(), "is not alone".to_owned(), advice);
    }
    let instances = name_instances(&mut nodes, ours, findings);
    Some(Draft { id: None, instances, nodes: nodes.into_iter().map(|(node, _)| node).collect() })
}

/// The keys of a section, each by its one spelling, after a word on those without a meaning.
fn known_keys<'a>(section: &str, items: &'a [Item], findings: &mut Findings) -> BTreeMap<String, &'a Item> {
    let mut known = BTreeMap::new();
    for item in items {
        let (key, place) = (item.key.replace('.', "_"), place(section, &item.key));
        if item.value.is_none() {
            let advice = "write key=value, or put a # before the line";
            findings.error(Some(item.line), &place, "has no value".to_owned(), advice);
        } else if KEYS.contains(&key.as_str()) || balance::af_packet_option(&key).is_some() {
            known.insert(key, item);
        } else if let Some((_, advice)) = WITHOUT_EQUIVALENT.iter().find(|(name, _)| *name == key) {
            findings.warning(Some(item.line), &place, "has no equivalent here and is left out".to_owned(), advice);
        } else {
            let problem = "is no key that zeekctl itself knows, and is left out".to_owned();
            findings.warning(Some(item.line), &place, problem, "see to what its plugin did in scripts or options");
        }
    }
    known
}

/// Whether all nodes together stay within what a configuration can be. Said before anything is copied for each.
fn fits(sections: &[Keys], findings: &mut Findings) -> bool {
    let (mut nodes, mut bytes) = (0_usize, 0_usize);
    for keys in sections {
        let processes = keys.processes_at_least_one();
        nodes = nodes.saturating_add(processes);
        bytes = bytes.saturating_add(keys.bytes().saturating_mul(processes));
    }
    if draft::too_many(nodes, findings) {
        return false;
    }
    if bytes > INHERITED_LIMIT {
        let problem = format!("says {bytes} bytes for its {nodes} nodes, {INHERITED_LIMIT} is the most");
        findings.error(None, "", problem, "shorten the values that many nodes share");
    }
    bytes <= INHERITED_LIMIT
}

/// A value, where it stands, and what messages call that place.
struct Value<'a> {
    text: Cow<'a, str>,
    line: usize,
    place: String,
}

impl Value<'_> {
    fn error(&self, problem: String, advice: &str, findings: &mut Findings) {
        findings.error(Some(self.line), &self.place, problem, advice);
    }

    fn warning(&self, problem: String, advice: &str, findings: &mut Findings) {
        findings.warning(Some(self.line), &self.place, problem, advice);
    }

    /// A value as zeekctl's shell takes it, in words.
    fn words(&self, text: &str, findings: &mut Findings) -> Vec<String> {
        let literal = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
        if literal.is_none_or(|inside| inside.contains('\'')) && text.contains(['$', '`']) {
            let problem = format!("{} is expanded by a shell under zeekctl", quoted(text));
            self.error(problem, "write out what it stands for", findings);
            return Vec::new();
        }
        words::split(text).unwrap_or_else(|error| {
            self.error(error.to_string(), "close the quote, or write a \\ before it", findings);
            Vec::new()
        })
    }
}

/// The keys of one section: its own before inherited ones.
struct Keys<'a> {
    section: &'a Section,
    own: BTreeMap<String, &'a Item>,
    defaults: &'a BTreeMap<String, &'a Item>,
}

impl<'a> Keys<'a> {
    fn here(&self) -> String {
        format!("[{}]", bare(&self.section.name))
    }

    fn raw(&self, key: &str) -> Option<(&'a Item, &'a str)> {
        let own = self.own.get(key).map(|item| (*item, self.section.name.as_str()));
        own.or_else(|| Some((*self.defaults.get(key)?, DEFAULT)))
    }

    /// The value of a key; an empty one counts as not given, as it does for zeekctl.
    fn get(&self, key: &str, findings: &mut Findings) -> Option<Value<'a>> {
        let (item, section) = self.raw(key)?;
        let text = item.value.as_deref().filter(|text| !text.is_empty())?;
        let mut value = Value { text: Cow::Borrowed(text), line: item.line, place: place(section, &item.key) };
        if text.replace("%%", "").contains('%') {
            let problem = format!("{} refers to another value", quoted(text));
            value.error(problem, "write it out, and a % that stands for itself as %%", findings);
            return None;
        }
        if text.contains('%') {
            value.text = Cow::Owned(text.replace("%%", "%"));
        }
        Some(value)
    }

    /// A value of one line. An indented line below it, meant as the next key, would have become part of it.
    fn single(&self, key: &str, findings: &mut Findings) -> Option<Value<'a>> {
        let value = self.get(key, findings)?;
        if let Some((_, below)) = value.text.split_once('\n') {
            let problem = format!("goes on with {}, which is indented", quoted(below.trim_start()));
            value.error(problem, "begin every key at the left edge", findings);
            return None;
        }
        Some(value)
    }

    fn is_standalone(&self) -> bool {
        self.raw("type").is_some_and(|(item, _)| item.value.as_deref() == Some("standalone"))
    }

    /// How many processes the section stands for, as far as that can be read without a word on what is wrong.
    fn processes_at_least_one(&self) -> usize {
        let text = self.raw("lb_procs").and_then(|(item, _)| item.value.as_deref());
        let number = text.and_then(read_number).and_then(|number| usize::try_from(number).ok());
        number.unwrap_or(1).clamp(1, NODE_LIMIT + 1)
    }

    fn bytes(&self) -> usize {
        let bytes = |item: &&Item| item.value.as_ref().map_or(0, String::len);
        self.own.values().chain(self.defaults.values()).map(bytes).sum::<usize>() + self.section.name.len()
    }
}

/// The nodes that one section stands for, with their host. None: something about it is wrong, and has been said.
fn read_section(keys: &Keys, balance: &mut Balance, findings: &mut Findings) -> Option<Vec<(DraftNode, Host)>> {
    let (section, here) = (keys.section, keys.here());
    let named = draft::node_name(&section.name, section.line, &here, findings);
    let role = read_type(keys, findings);
    let host = keys.single("host", findings).map(|value| Host::read(&value.text));
    if keys.raw("host").is_none() {
        let advice = "give the address of the host that it runs on";
        findings.error(Some(section.line), &here, "has no host".to_owned(), advice);
    }
    let env = read_env(keys, findings);
    let scripts = keys.get("aux_scripts", findings).map_or_else(Vec::new, |value| {
        let text = value.text.clone();
        value.words(&text, findings)
    });
    let interface = keys.single("interface", findings);
    if let Some(value) = interface.as_ref().filter(|value| value.text.contains(char::is_whitespace)) {
        let problem = format!("{} is more than a name", quoted(&value.text));
        value.error(problem, "give one interface, and each further one a worker of its own", findings);
    }
    let (role, host) = (role.filter(|_| named)?, host?);
    let node = DraftNode {
        line: section.line,
        place: here,
        name: section.name.clone(),
        instance: None,
        role,
        port: None,
        scripts,
        options: Vec::new(),
        interface: interface.map(|value| value.text.into_owned()),
        cpu_affinity: None,
        env,
        metrics_port: None,
    };
    let nodes = balance.expand(keys, node, &host, findings)?;
    Some(nodes.into_iter().map(|node| (node, host.clone())).collect())
}

fn read_type(keys: &Keys, findings: &mut Findings) -> Option<ClusterRole> {
    const TYPES: &str = "give manager, logger, proxy, worker or standalone";
    let Some(value) = keys.single("type", findings) else {
        if keys.raw("type").is_none() {
            findings.error(Some(keys.section.line), &keys.here(), "has no type".to_owned(), TYPES);
        }
        return None;
    };
    match &*value.text {
        "standalone" => Some(ClusterRole::None),
        "manager" => Some(ClusterRole::Manager),
        "logger" => Some(ClusterRole::Logger),
        "proxy" => Some(ClusterRole::Proxy),
        "worker" => Some(ClusterRole::Worker),
        other => {
            value.error(format!("{} is not a type of node", quoted(other)), TYPES, findings);
            None
        }
    }
}

/// `A=1,B=2`: values as a shell takes them, and no way to write a comma in one.
fn read_env(keys: &Keys, findings: &mut Findings) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(value) = keys.get("env_vars", findings) else { return env };
    for pair in value.text.split(',') {
        let Some((name, text)) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            let problem = format!("{} is not a variable and its value", quoted(pair.trim()));
            value.error(problem, "write NAME=value,NAME=value", findings);
            continue;
        };
        let text = text.trim();
        match value.words(text, findings).as_slice() {
            [word] => drop(env.insert(name.trim().to_owned(), word.clone())),
            [] => drop(env.insert(name.trim().to_owned(), String::new())),
            [..] => {
                let problem = format!("the value {} is more than one word", quoted(text));
                value.error(problem, "put it in quotes", findings);
            }
        }
    }
    env
}

/// Gives every node an instance. None: they are the agent's at hand, which needs no list.
fn name_instances(
    nodes: &mut [(DraftNode, Host)],
    ours: Option<&InstanceName>,
    findings: &mut Findings,
) -> Option<Vec<Instance>> {
    let hosts: BTreeSet<Host> = nodes.iter().map(|(_, host)| host.clone()).collect();
    if hosts.len() <= 1 {
        let (Some(Host::Address(host)), Some(ours)) = (hosts.into_iter().next(), ours) else { return None };
        for (node, _) in nodes {
            node.instance = Some(ours.to_string());
        }
        return Some(vec![Instance { name: ours.to_string(), host, listen_port: None }]);
    }
    let name = |host: &Host| format!("agent-{}", host.label());
    let mut checked = BTreeSet::new();
    for (node, host) in nodes.iter_mut() {
        node.instance = Some(name(host));
        if !checked.insert(host.clone()) {
            continue;
        }
        draft::instance_name(&name(host), node.line, &node.place, findings);
        match host {
            Host::Local => {
                let problem = "runs on localhost, and other nodes run on other hosts".to_owned();
                findings.error(Some(node.line), &node.place, problem, "give the host's address");
            }
            Host::Name(text) => {
                let problem = format!("host {} is a name, and Zeek's cluster takes addresses only", quoted(text));
                let advice = format!("give {} its address in the instances", bare(&name(host)));
                findings.warning(Some(node.line), &node.place, problem, &advice);
            }
            Host::Address(_) => {}
        }
    }
    let problem = format!("its {} hosts became instances named agent-HOST", hosts.len());
    findings.warning(None, "", problem, "rename those whose agents have other names");
    let address = |host: &Host| match host {
        Host::Address(address) => *address,
        Host::Local | Host::Name(_) => UNKNOWN_HOST,
    };
    Some(hosts.iter().map(|host| Instance { name: name(host), host: address(host), listen_port: None }).collect())
}

//! zeekctl's `node.cfg`: a section for each node, which stands for several with load balancing.
//!
//! Hosts become instances: all on one host are this agent's; else a host's instance is `agent-` and its address or name.
//! `standalone` becomes a node of role none. Every node loads `local.zeek`, as zeekctl has it do (SitePolicyScripts), before
//! its own scripts. What zeekctl makes of `lb_method` itself is in [`balance`]. zeekctl's other files (`zeekctl.cfg`,
//! `networks.cfg`) are not read: what they set for all nodes belongs into `node_args` and `local.zeek`.
//!
//! Source: zeekctl 2.6, `ZeekControl/config.py` (`_read_nodes`, `_check_node`, `_check_nodestore`), `ZeekControl/node.py`,
//! and the plugins beside them. The text itself is read as Python's configparser does with interpolation.

mod balance;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{self, Draft, DraftInstance, DraftNode};
use super::findings::{Findings, bare, quoted};
use super::hosts::{self, HOSTS};
use super::ini::interpolate::{self, Budget, Scope, referred_to};
use super::ini::syntax::{self, Item, Section};
use super::ini::{DEFAULT, INHERITED_LIMIT, INSTANCES, place, read_number, words};
use crate::api::configuration::ClusterRole;
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

/// What every node loads before its own scripts: zeekctl's default of SitePolicyScripts.
const SITE_SCRIPT: &str = "local";

/// A node on a host, by what the file calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    /// Whichever host reads the file.
    Local,
    Address(IpAddr),
    /// In lower case, since host names have none.
    Name(String),
}

impl Host {
    /// None: the text can be no host.
    fn read(text: &str) -> Option<Self> {
        match hosts::Host::read(text)? {
            hosts::Host::Address(address) if address.is_loopback() => Some(Self::Local),
            hosts::Host::Name(name) if name == "localhost" => Some(Self::Local),
            hosts::Host::Address(address) => Some(Self::Address(address)),
            hosts::Host::Name(name) => Some(Self::Name(name)),
            hosts::Host::Unknown => None,
        }
    }

    /// As part of an instance's name, where a colon would end it.
    fn label(&self) -> String {
        match self {
            Self::Local => "localhost".to_owned(),
            Self::Address(address) => address.to_string().replace(':', "-"),
            Self::Name(name) => name.trim_end_matches('.').to_owned(),
        }
    }

    fn of_instance(&self) -> hosts::Host {
        match self {
            Self::Local => hosts::Host::Unknown,
            Self::Address(address) => hosts::Host::Address(*address),
            Self::Name(name) => hosts::Host::Name(name.clone()),
        }
    }
}

/// Whether a text that is not JSON is a `node.cfg`. A zeek-client file may say `type`, too, and have a stray `host`; so it
/// takes a key that zeekctl alone has, or a host in every section, and nothing of zeek-client's own.
pub fn is_node_cfg(text: &str) -> bool {
    const OF_CLUSTER_FILES: [&str; 8] =
        ["instance", "role", "port", "scripts", "options", "cpu_affinity", "env", "metrics_port"];
    const OF_ZEEKCTL: [&str; 7] =
        ["lb_procs", "lb_method", "lb_interfaces", "pin_cpus", "env_vars", "aux_scripts", "zone_id"];
    let file = syntax::read(text, &mut Findings::new(""));
    let items = || file.sections.iter().flat_map(|section| &section.items).chain(&file.defaults);
    let has = |keys: &[&str]| items().any(|item| keys.contains(&item.key.as_str()));
    if file.sections.is_empty() || has(&OF_CLUSTER_FILES) || file.sections.iter().any(|it| it.name == INSTANCES) {
        return false;
    }
    let has_host = |items: &[Item]| items.iter().any(|item| item.key == "host");
    let is_standalone = |item: &Item| item.key == "type" && item.value.as_deref() == Some("standalone");
    let is_zeekctls = has(&OF_ZEEKCTL) || items().any(is_standalone);
    let everywhere = has_host(&file.defaults) || file.sections.iter().all(|section| has_host(&section.items));
    has(&["host"]) && (is_zeekctls || everywhere)
}

pub fn read(text: &str, ours: Option<&InstanceName>, findings: &mut Findings) -> Option<Draft> {
    let file = syntax::read(text, findings);
    if draft::too_many(file.sections.len(), findings) {
        return None;
    }
    let all = || file.defaults.iter().chain(file.sections.iter().flat_map(|section| &section.items));
    let referred_to = referred_to(all());
    unknown_keys(DEFAULT, &file.defaults, &referred_to, findings);
    let mut budget = Budget::default();
    let mut sections = Vec::new();
    for section in &file.sections {
        unknown_keys(&section.name, &section.items, &referred_to, findings);
        let values = Scope::new(&section.name, &section.items, &file.defaults).values(&mut budget, findings);
        // Both spellings are one key to zeekctl.
        let values = values.into_iter().map(|(key, value)| (key.replace('.', "_"), value)).collect();
        sections.push(Keys { section, values });
    }
    if !fits(&sections, findings) {
        return None;
    }
    let mut balance = Balance::default();
    let mut nodes = Vec::new();
    for keys in &sections {
        nodes.extend(read_section(keys, &mut balance, findings).unwrap_or_default());
    }
    alone_of_its_kind(&nodes, file.sections.is_empty(), findings);
    let standalone = sections.iter().find(|keys| keys.is_standalone()).filter(|_| sections.len() > 1);
    if let Some(keys) = standalone {
        let advice = "remove it or the others: a standalone node is the only one of its file";
        findings.error(Some(keys.section.line), &keys.here(), "is not alone".to_owned(), advice);
    }
    let instances = name_instances(&mut nodes, ours, findings);
    Some(Draft { instances, nodes: nodes.into_iter().map(|(node, _)| node).collect(), ..Draft::default() })
}

/// What zeekctl refuses of the nodes as a whole: none at all, two managers, names that differ in their case alone.
fn alone_of_its_kind(nodes: &[(DraftNode, Host)], is_empty: bool, findings: &mut Findings) {
    if is_empty {
        findings.error(None, "", "has no nodes".to_owned(), "give each node a section with its type and host");
    }
    let mut names: BTreeMap<String, &DraftNode> = BTreeMap::new();
    let mut manager: Option<&DraftNode> = None;
    for (node, _) in nodes {
        if let Some(first) = names.get(&node.name.to_lowercase()) {
            let problem = format!("makes a node {}, and so does line {}", quoted(&node.name), first.line);
            findings.error(Some(node.line), &node.place, problem, "rename one; zeekctl does not tell case apart");
        } else {
            names.insert(node.name.to_lowercase(), node);
        }
        if node.role != ClusterRole::Manager {
            continue;
        }
        if let Some(first) = manager {
            let problem = format!("is a second manager, after the one at line {}", first.line);
            findings.error(Some(node.line), &node.place, problem, "keep one of them");
        }
        manager = manager.or(Some(node));
    }
}

/// A word on each key of a section that has no value or no meaning.
fn unknown_keys(section: &str, items: &[Item], referred_to: &BTreeSet<String>, findings: &mut Findings) {
    for item in items {
        let (key, place) = (item.key.replace('.', "_"), place(section, &item.key));
        let is_known = KEYS.contains(&key.as_str()) || balance::af_packet_option(&key).is_some();
        if item.value.is_none() {
            let advice = "write key=value, or put a # before the line";
            findings.error(Some(item.line), &place, "has no value".to_owned(), advice);
        } else if is_known {
            // Said where it is read.
        } else if let Some((_, advice)) = WITHOUT_EQUIVALENT.iter().find(|(name, _)| *name == key) {
            findings.warning(Some(item.line), &place, "has no equivalent here and is left out".to_owned(), advice);
        } else if !referred_to.contains(&item.key) {
            let problem = "is no key that zeekctl itself knows, and is left out".to_owned();
            findings.warning(Some(item.line), &place, problem, "see to what its plugin did in scripts or options");
        }
    }
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

/// The keys of one section, each by its one spelling: its own before inherited ones.
struct Keys<'a> {
    section: &'a Section,
    values: BTreeMap<String, interpolate::Value<'a>>,
}

impl<'a> Keys<'a> {
    fn here(&self) -> String {
        format!("[{}]", bare(&self.section.name))
    }

    /// Whether the file gives the key a value, good or not. An empty one counts as not given, as it does for zeekctl.
    fn has(&self, key: &str) -> bool {
        self.values
            .get(key)
            .is_some_and(|value| value.is_broken || value.text.as_deref().is_some_and(|it| !it.is_empty()))
    }

    fn get(&self, key: &str) -> Option<Value<'_>> {
        let value = self.values.get(key)?;
        let text = value.text.as_deref().filter(|text| !text.is_empty())?;
        Some(Value { text: Cow::Borrowed(text), line: value.line, place: value.place(key) })
    }

    /// A value of one line. An indented line below it, meant as the next key, would have become part of it.
    fn single(&self, key: &str, findings: &mut Findings) -> Option<Value<'_>> {
        let value = self.get(key)?;
        if let Some((_, below)) = value.text.split_once('\n') {
            let problem = format!("goes on with {}, which is indented", quoted(below.trim_start()));
            value.error(problem, "begin every key at the left edge", findings);
            return None;
        }
        Some(value)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(|value| value.text.as_deref())
    }

    fn is_standalone(&self) -> bool {
        self.text("type") == Some("standalone")
    }

    /// How many processes the section stands for, as far as that can be read without a word on what is wrong.
    fn processes_at_least_one(&self) -> usize {
        let number = self.text("lb_procs").and_then(read_number).and_then(|number| usize::try_from(number).ok());
        number.unwrap_or(1).clamp(1, NODE_LIMIT + 1)
    }

    fn bytes(&self) -> usize {
        let bytes = |value: &interpolate::Value| value.text.as_ref().map_or(0, |text| text.len());
        self.values.values().map(bytes).sum::<usize>() + self.section.name.len()
    }
}

/// The nodes that one section stands for, with their host. None: something about it is wrong, and has been said.
fn read_section(keys: &Keys, balance: &mut Balance, findings: &mut Findings) -> Option<Vec<(DraftNode, Host)>> {
    let (section, here) = (keys.section, keys.here());
    let named = draft::node_name(&section.name, section.line, &here, findings);
    let role = read_type(keys, findings);
    let host = keys.single("host", findings).and_then(|value| {
        let host = Host::read(&value.text);
        if host.is_none() {
            let problem = format!("{} is neither an IP address nor a host name", quoted(&value.text));
            value.error(problem, HOSTS, findings);
        }
        host
    });
    if !keys.has("host") {
        let advice = "give the address of the host that it runs on";
        findings.error(Some(section.line), &here, "has no host".to_owned(), advice);
    }
    let env = read_env(keys, findings);
    let mut scripts = vec![SITE_SCRIPT.to_owned()];
    if let Some(value) = keys.get("aux_scripts") {
        scripts.extend(value.words(&value.text, findings));
    }
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
        if !keys.has("type") {
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
    let Some(value) = keys.get("env_vars") else { return env };
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
) -> Option<Vec<DraftInstance>> {
    place_local_nodes(nodes, findings);
    let hosts: BTreeSet<Host> = nodes.iter().map(|(_, host)| host.clone()).collect();
    if hosts.len() <= 1 {
        let (Some(host @ Host::Address(_)), Some(ours)) = (hosts.into_iter().next(), ours) else { return None };
        let (line, place) = nodes.first().map(|(node, _)| (Some(node.line), node.place.clone())).unwrap_or_default();
        for (node, _) in nodes {
            node.instance = Some(ours.to_string());
        }
        let host = host.of_instance();
        return Some(vec![DraftInstance { name: ours.to_string(), host, listen_port: None, line, place }]);
    }
    let mut instances: BTreeMap<Host, DraftInstance> = BTreeMap::new();
    for (node, host) in nodes.iter_mut() {
        let name = format!("agent-{}", host.label());
        node.instance = Some(name.clone());
        if instances.contains_key(host) {
            continue;
        }
        draft::instance_name(&name, node.line, &node.place, findings);
        if *host == Host::Local {
            let problem = "runs on localhost, and other nodes run on other hosts".to_owned();
            findings.error(Some(node.line), &node.place, problem, "give the host's address");
        }
        let (line, place) = (Some(node.line), node.place.clone());
        let instance = DraftInstance { name, host: host.of_instance(), listen_port: None, line, place };
        instances.insert(host.clone(), instance);
    }
    let problem = format!("its {} hosts became instances named agent-HOST", hosts.len());
    findings.warning(None, "", problem, "rename those whose agents have other names");
    Some(instances.into_values().collect())
}

/// zeekctl runs on the manager's host, so that is where localhost is if the manager has an address.
fn place_local_nodes(nodes: &mut [(DraftNode, Host)], findings: &mut Findings) {
    let manager = nodes.iter().find(|(node, _)| node.role == ClusterRole::Manager).map(|(_, host)| host.clone());
    let Some(manager) = manager.filter(|host| *host != Host::Local) else { return };
    for (node, host) in nodes.iter_mut().filter(|(_, host)| *host == Host::Local) {
        let problem = "runs on localhost, which to zeekctl is the manager's host".to_owned();
        findings.warning(Some(node.line), &node.place, problem, "it is taken for that one");
        *host = manager.clone();
    }
}

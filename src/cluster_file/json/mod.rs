//! The JSON that `zeek-client get-config --as-json` prints: `id`, `instances` and `nodes`, ports as numbers, what is not
//! set left out or null.
//!
//! Read with some lenience, so that a configuration can be copied out of `journal dump`, too: ports also as text
//! (`"2200/tcp"`) or as an object, `listen_port` for an instance's `port`, roles in any case.

mod tree;
mod write;

use std::collections::BTreeMap;

use super::draft::{self, Draft, DraftInstance, DraftNode, PORTS, ROLES};
use super::findings::{Findings, bare, quoted};
use super::hosts::{HOSTS, Host};
use crate::api::configuration::{ClusterRole, Port, ScriptOption};
use tree::{Located, Value};

pub use write::{content, write};

const TOP_KEYS: &[&str] = &["id", "instances", "nodes", "cluster_backend"];
const INSTANCE_KEYS: &[&str] = &["name", "host", "port", "listen_port"];
const NODE_KEYS: &[&str] = &[
    "name",
    "instance",
    "role",
    // Read and without effect: a controller decides what runs.
    "state",
    "port",
    "scripts",
    "options",
    "interface",
    "cpu_affinity",
    "env",
    "metrics_port",
];

pub fn read(text: &str, findings: &mut Findings) -> Option<Draft> {
    let root = tree::read(text, findings)?;
    let mut reader = Reader { findings };
    let fields = reader.object(&root, String::new(), TOP_KEYS)?;
    let id = fields.get("id").and_then(|id| reader.text(id, &fields.place("id"))).filter(|id| !id.is_empty());
    let cluster_backend = fields.get("cluster_backend").and_then(|found| {
        let backend = reader.text(found, "cluster_backend")?;
        draft::backend(&backend, Some(found.line), "cluster_backend", reader.findings)
    });
    let instances = fields.get("instances").map(|list| {
        let items = reader.list(list, "instances");
        items.iter().enumerate().filter_map(|(index, item)| reader.instance(index, item)).collect()
    });
    let Some(nodes) = fields.get("nodes") else {
        let problem = "has no list of nodes".to_owned();
        reader.findings.error(Some(root.line), "nodes", problem, "give \"nodes\": [], if no node is to run");
        return None;
    };
    let nodes = reader.list(nodes, "nodes");
    if draft::too_many(nodes.len(), reader.findings) {
        return None;
    }
    let nodes = nodes.iter().enumerate().filter_map(|(index, node)| reader.node(index, node)).collect();
    Some(Draft { id, instances, nodes, cluster_backend })
}

/// The entries of an object that are set, and the path to it.
struct Fields<'t> {
    path: String,
    line: usize,
    entries: &'t [(String, Located)],
}

impl<'t> Fields<'t> {
    fn get(&self, key: &str) -> Option<&'t Located> {
        let (_, value) = self.entries.iter().find(|(name, _)| name == key)?;
        (!matches!(value.value, Value::Null)).then_some(value)
    }

    fn place(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

struct Reader<'a, 'f> {
    findings: &'a mut Findings<'f>,
}

impl Reader<'_, '_> {
    fn wrong(&mut self, found: &Located, place: &str, advice: &str) {
        self.findings.error(Some(found.line), place, format!("is {}", found.value.describe()), advice);
    }

    fn object<'t>(&mut self, found: &'t Located, path: String, known: &[&str]) -> Option<Fields<'t>> {
        let Value::Object(entries) = &found.value else {
            self.wrong(found, &path, "give an object in braces");
            return None;
        };
        let fields = Fields { path, line: found.line, entries };
        for (key, value) in entries.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let place = fields.place(&bare(key));
            self.findings.warning(Some(value.line), &place, "is not a known key".to_owned(), "it has no effect");
        }
        Some(fields)
    }

    fn list<'t>(&mut self, found: &'t Located, place: &str) -> &'t [Located] {
        if let Value::List(items) = &found.value {
            return items;
        }
        self.wrong(found, place, "give a list in brackets");
        &[]
    }

    fn text(&mut self, found: &Located, place: &str) -> Option<String> {
        if let Value::Text(text) = &found.value {
            return Some(text.clone());
        }
        self.wrong(found, place, "give a text in quotes");
        None
    }

    /// A text that has to be there.
    fn needed(&mut self, fields: &Fields, key: &str, advice: &str) -> Option<String> {
        let place = fields.place(key);
        if let Some(found) = fields.get(key) {
            return self.text(found, &place);
        }
        self.findings.error(Some(fields.line), &place, "is missing".to_owned(), advice);
        None
    }

    fn port(&mut self, fields: &Fields, key: &str) -> Option<Port> {
        let found = fields.get(key)?;
        let number = match &found.value {
            Value::Number(number) => number.as_i64(),
            Value::Text(text) => text.strip_suffix("/tcp").unwrap_or(text).parse().ok(),
            Value::Object(entries) => {
                let entry = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, found)| &found.value);
                match (entry("number"), entry("protocol")) {
                    (Some(Value::Number(number)), Some(Value::Text(protocol))) if protocol == "tcp" => number.as_i64(),
                    _ => None,
                }
            }
            Value::Null | Value::Bool(_) | Value::List(_) => None,
        };
        let port = number.and_then(draft::tcp);
        if port.is_none() {
            self.wrong(found, &fields.place(key), PORTS);
        }
        port
    }

    fn instance(&mut self, index: usize, found: &Located) -> Option<DraftInstance> {
        let fields = self.object(found, format!("instances[{index}]"), INSTANCE_KEYS)?;
        let name = self.needed(&fields, "name", "give the name of the agent there");
        let named = name.filter(|name| draft::instance_name(name, fields.line, &fields.place("name"), self.findings));
        let host = match fields.get("host") {
            None => Some(Host::Unknown),
            Some(host) => self.host(host, &fields.place("host")),
        };
        let port = self.port(&fields, "port");
        let listen_port = self.port(&fields, "listen_port");
        if port.is_some() && listen_port.is_some() && port != listen_port {
            let problem = "and port are different".to_owned();
            self.findings.error(Some(fields.line), &fields.place("listen_port"), problem, "give one of the two");
        }
        let line = Some(fields.get("host").map_or(fields.line, |host| host.line));
        let place = fields.place("host");
        Some(DraftInstance { name: named?, host: host?, listen_port: port.or(listen_port), line, place })
    }

    fn host(&mut self, found: &Located, place: &str) -> Option<Host> {
        let text = self.text(found, place)?;
        let host = Host::read(&text);
        if host.is_none() {
            let problem = format!("{} is neither an IP address nor a host name", quoted(&text));
            self.findings.error(Some(found.line), place, problem, HOSTS);
        }
        host
    }

    fn node(&mut self, index: usize, found: &Located) -> Option<DraftNode> {
        let fields = self.object(found, format!("nodes[{index}]"), NODE_KEYS)?;
        if let Some(state) = fields.get("state") {
            let place = fields.place("state");
            self.findings.warning(Some(state.line), &place, "is not used".to_owned(), "it has no effect");
        }
        let name = self.needed(&fields, "name", "give the name of the node");
        let named = name.filter(|name| draft::node_name(name, fields.line, &fields.place("name"), self.findings));
        let role = self.needed(&fields, "role", ROLES).and_then(|role| self.role(&fields, &role));
        let instance = fields.get("instance").and_then(|instance| {
            let place = fields.place("instance");
            let name = self.text(instance, &place)?;
            draft::instance_name(&name, instance.line, &place, self.findings);
            Some(name)
        });
        let cpu_affinity = fields.get("cpu_affinity").and_then(|cpu| {
            let number = if let Value::Number(number) = &cpu.value { number.as_i64() } else { None };
            if number.is_none() {
                self.wrong(cpu, &fields.place("cpu_affinity"), "give the number of a CPU, counted from 0");
            }
            number
        });
        let port = self.port(&fields, "port");
        let scripts = self.scripts(&fields);
        let options = self.options(&fields);
        let interface = fields.get("interface").and_then(|text| self.text(text, &fields.place("interface")));
        let env = self.env(&fields);
        let metrics_port = self.port(&fields, "metrics_port");
        // Only now, so that all that is wrong with the node has been said.
        let (name, role) = (named?, role?);
        Some(DraftNode {
            line: found.line,
            place: fields.path,
            name,
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

    fn role(&mut self, fields: &Fields, text: &str) -> Option<ClusterRole> {
        let role = draft::role(text);
        if let Err(advice) = role {
            let line = fields.get("role").map_or(fields.line, |role| role.line);
            let problem = format!("{} is not a role", quoted(text));
            self.findings.error(Some(line), &fields.place("role"), problem, advice);
        }
        role.ok()
    }

    fn scripts(&mut self, fields: &Fields) -> Vec<String> {
        let Some(list) = fields.get("scripts") else { return Vec::new() };
        let place = fields.place("scripts");
        let items = self.list(list, &place).iter().enumerate();
        items.filter_map(|(index, script)| self.text(script, &format!("{place}[{index}]"))).collect()
    }

    fn options(&mut self, fields: &Fields) -> Vec<ScriptOption> {
        let Some(list) = fields.get("options") else { return Vec::new() };
        let place = fields.place("options");
        let mut options = Vec::new();
        for (index, option) in self.list(list, &place).iter().enumerate() {
            let Some(option) = self.object(option, format!("{place}[{index}]"), &["name", "value"]) else { continue };
            let name = self.needed(&option, "name", "give the name of a Zeek option");
            let value = self.needed(&option, "value", "give its value as a text");
            if let (Some(name), Some(value)) = (name, value) {
                options.push(ScriptOption { name, value });
            }
        }
        options
    }

    fn env(&mut self, fields: &Fields) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        let Some(found) = fields.get("env") else { return env };
        let place = fields.place("env");
        let Value::Object(entries) = &found.value else {
            self.wrong(found, &place, "give an object of names and values");
            return env;
        };
        for (name, value) in entries {
            if let Some(value) = self.text(value, &format!("{place}.{}", bare(name))) {
                env.insert(name.clone(), value);
            }
        }
        env
    }
}

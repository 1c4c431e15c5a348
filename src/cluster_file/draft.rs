//! A configuration as far as its file says it, and the step to a complete one, the same for both formats.

use std::collections::{BTreeMap, BTreeSet};

use super::content_id;
use super::findings::{Findings, bare, quoted};
use super::hosts::{Addresses, Host};
use super::{Known, ports};
use crate::api::configuration::{
    ClusterBackend, ClusterRole, Configuration, Instance, Node, Port, ScriptOption, UNKNOWN_HOST,
};
use crate::api::ids::{InstanceName, NodeName};
use crate::api::validate::NODE_LIMIT;

/// What a file says.
#[derive(Default)]
pub struct Draft {
    pub id: Option<String>,
    /// None: the file has no list of instances, so the nodes' own words make one.
    pub instances: Option<Vec<DraftInstance>>,
    pub nodes: Vec<DraftNode>,
    pub cluster_backend: Option<ClusterBackend>,
}

pub struct DraftInstance {
    pub name: String,
    pub host: Host,
    pub listen_port: Option<Port>,
    pub line: Option<usize>,
    pub place: String,
}

#[derive(Clone)]
pub struct DraftNode {
    pub line: usize,
    /// How the file's format refers to it: `[worker-1]`, `nodes[3]`.
    pub place: String,
    pub name: String,
    pub instance: Option<String>,
    pub role: ClusterRole,
    pub port: Option<Port>,
    pub scripts: Vec<String>,
    pub options: Vec<ScriptOption>,
    pub interface: Option<String>,
    pub cpu_affinity: Option<i64>,
    pub env: BTreeMap<String, String>,
    pub metrics_port: Option<Port>,
}

impl Draft {
    /// Fills in instances, ports and id. None if that cannot be done, and `findings` say why.
    pub fn finish(self, known: &Known, findings: &mut Findings) -> Option<Configuration> {
        let default = self.default_instance(known.ours, findings)?;
        let nodes: Vec<Node> = self.nodes.into_iter().map(|node| node.finish(&default)).collect();
        let instances = self.instances.map(|instances| {
            instances.into_iter().map(|instance| instance.finish(known.addresses, findings)).collect()
        });
        let instances = instances.unwrap_or_else(|| {
            let names: BTreeSet<&str> = nodes.iter().map(|node| node.instance.as_str()).collect();
            let instance = |name: &str| Instance { name: name.to_owned(), host: UNKNOWN_HOST, listen_port: None };
            names.into_iter().map(instance).collect()
        });
        let cluster_backend = self.cluster_backend;
        let mut config = Configuration { id: String::new(), instances, nodes, cluster_backend }.canonical();
        if let Err(ports::NoneLeft { node }) = ports::assign(&mut config) {
            let problem = format!("no port is left for node {}", bare(&node));
            findings.error(None, "", problem, "name fewer ports in the file");
            return None;
        }
        // Nodes of one name (an error, found later) may have changed places by their ports.
        let mut config = config.canonical();
        config.id = self.id.unwrap_or_else(|| content_id(&config));
        Some(config)
    }

    /// The instance of nodes that name none. Either all name one or none does, and then there is no list of instances.
    fn default_instance(&self, ours: Option<&InstanceName>, findings: &mut Findings) -> Option<String> {
        let without: Vec<&DraftNode> = self.nodes.iter().filter(|node| node.instance.is_none()).collect();
        let problem = if without.is_empty() {
            return Some(String::new());
        } else if self.instances.is_some() {
            "names no instance, and the file has a list of instances"
        } else if without.len() < self.nodes.len() {
            "names no instance, and other nodes do"
        } else if let Some(ours) = ours {
            return Some(ours.as_str().to_owned());
        } else {
            "names no instance, and there is no agent at hand to take its name"
        };
        for node in without {
            findings.error(Some(node.line), &node.place, problem.to_owned(), "give it the name of an instance");
        }
        None
    }
}

/// Says so if a file has more nodes than a configuration can; called before they are read.
pub fn too_many(nodes: usize, findings: &mut Findings) -> bool {
    if nodes > NODE_LIMIT {
        let problem = format!("has {nodes} nodes, {NODE_LIMIT} is the most");
        findings.error(None, "", problem, "make it several clusters");
    }
    nodes > NODE_LIMIT
}

impl DraftInstance {
    /// A name without an address leaves the address unknown, and `findings` say so.
    fn finish(self, addresses: &Addresses, findings: &mut Findings) -> Instance {
        let host = match &self.host {
            Host::Unknown => UNKNOWN_HOST,
            Host::Address(address) => *address,
            Host::Name(name) => match addresses.get(name) {
                Some(Ok(address)) => *address,
                Some(Err(why)) => {
                    let problem = format!("the address of {} cannot be found: {why}", quoted(name));
                    let advice = "correct the name, or give the host's address";
                    findings.error(self.line, &self.place, problem, advice);
                    UNKNOWN_HOST
                }
                None => {
                    findings.unresolved(name);
                    UNKNOWN_HOST
                }
            },
        };
        Instance { name: self.name, host, listen_port: self.listen_port }
    }
}

impl DraftNode {
    fn finish(self, default_instance: &str) -> Node {
        Node {
            name: self.name,
            instance: self.instance.unwrap_or_else(|| default_instance.to_owned()),
            role: self.role,
            port: self.port,
            scripts: self.scripts,
            options: self.options,
            interface: self.interface,
            cpu_affinity: self.cpu_affinity,
            env: self.env,
            metrics_port: self.metrics_port,
        }
    }
}

/// A role by its name in any case, with or without the module before it, as zeek-client takes it.
pub fn role(text: &str) -> Result<ClusterRole, &'static str> {
    let name = text.rsplit_once("::").map_or(text, |(_, name)| name);
    let name = name.rsplit_once('.').map_or(name, |(_, name)| name);
    match name.to_ascii_uppercase().as_str() {
        "NONE" => Ok(ClusterRole::None),
        "LOGGER" => Ok(ClusterRole::Logger),
        "MANAGER" => Ok(ClusterRole::Manager),
        "PROXY" => Ok(ClusterRole::Proxy),
        "WORKER" => Ok(ClusterRole::Worker),
        _ => Err(ROLES),
    }
}

/// A cluster backend by its name; `findings` say so if there is none of that name.
pub fn backend(text: &str, line: Option<usize>, place: &str, findings: &mut Findings) -> Option<ClusterBackend> {
    let backend = ClusterBackend::of(text);
    if backend.is_none() {
        findings.error(line, place, format!("{} is not a cluster backend", quoted(text)), "give broker or zeromq");
    }
    backend
}

/// What to do about a role that is missing or wrong.
pub const ROLES: &str = "give manager, logger, proxy, worker or none";
/// What to do about a port that is wrong.
pub const PORTS: &str = "give a TCP port from 1 to 65535";

pub fn tcp(number: i64) -> Option<Port> {
    u16::try_from(number).ok().filter(|number| *number != 0).map(Port::tcp)
}

/// Says so where a name cannot be one; true if it can.
pub fn instance_name(name: &str, line: usize, place: &str, findings: &mut Findings) -> bool {
    let checked = InstanceName::new(name);
    if let Err(error) = &checked {
        findings.error(Some(line), place, error.to_string(), "give the instance another name");
    }
    checked.is_ok()
}

pub fn node_name(name: &str, line: usize, place: &str, findings: &mut Findings) -> bool {
    let checked = NodeName::new(name);
    if let Err(error) = &checked {
        findings.error(Some(line), place, error.to_string(), "give the node another name");
    }
    checked.is_ok()
}

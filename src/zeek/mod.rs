//! How a Zeek node is run without Zeek's Supervisor: its arguments, its environment, its files.
//!
//! A pure function of the configuration, the node and the settings ([`Options`]). Sources are named where they matter;
//! `tests/data/zeek/` has the result for each release from 5.0 to 9.0.

mod endpoints;
mod layout;
mod version;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::api::configuration::{ClusterBackend, ClusterRole, Configuration, Node};
use crate::api::ids::InstanceName;
use crate::api::launch::{CHANNEL_DIRECTORY, CHANNEL_VARIABLE, DOORBELL_VARIABLE, NodeFile};
use crate::api::validate::{Problem, Subject, shown};

use endpoints::Endpoints;
pub use layout::NAME as LAYOUT;
pub use version::Version;

/// Selects Broker as the cluster backend.
const BROKER_BACKEND: &str = "policy/frameworks/cluster/backend/broker";
/// Zeek's own node script, and what prevents it from calling the Supervisor (`management/log.zeek`), which would end a
/// node that has none.
const MANAGEMENT: [&str; 2] = ["policy/frameworks/management/node", "Management::Log::level=Management::Log::ERROR"];
/// Our scripts, by the name under which they are loaded. Zeek searches the node's directory first.
const LOGS: &str = "zeek-cluster-agent-logs";
const NODE: &str = "zeek-cluster-agent-node";
const CHANNEL: &str = "zeek-cluster-agent-channel";
const LOGS_TEXT: &str = include_str!("../../share/zeek/zeek-cluster-agent-logs.zeek");
const NODE_TEXT: &str = include_str!("../../share/zeek/zeek-cluster-agent-node.zeek");
const CHANNEL_TEXT: &str = include_str!("../../share/zeek/zeek-cluster-agent-channel.zeek");

/// The one address at which a node listens (`Telemetry::metrics_address`, `Broker::default_listen_address`).
const LISTEN_ADDRESS: &str = "ZEEK_DEFAULT_LISTEN_ADDRESS";

/// The settings that concern Zeek.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub version: Version,
    /// Whether nodes verify packet checksums (without `-C`).
    pub checksums: bool,
    /// Whether nodes load the site's `local.zeek`.
    pub local: bool,
    /// Additional arguments for the nodes of a role.
    pub args: BTreeMap<ClusterRole, Vec<String>>,
    /// ZEEKPATH of every node. `None`: not set, and Zeek's default begins with the working directory.
    pub path: Option<String>,
    /// The one address at which nodes listen, for Broker and metrics. `None`: all.
    pub listen_address: Option<IpAddr>,
    pub scripts: NodeScripts,
    /// How the nodes of a cluster talk to each other where the configuration does not say so. `None`: as the version
    /// prefers it.
    pub backend: Option<ClusterBackend>,
    /// The directory with the keys of clusters on ZeroMQ. `None`: nothing is encrypted.
    pub keys: Option<String>,
    /// The agent's own program, which nodes run to say that they are ready.
    pub program: String,
    pub state_dir: String,
}

/// Which scripts nodes load for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeScripts {
    /// Our scripts: check-in, questions, log rotation.
    Own,
    /// Zeek's own node script, and our log rotation.
    Management,
    None,
}

/// Files that all nodes of a configuration share; built once, however many nodes there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFiles {
    backend: ClusterBackend,
    /// With ZeroMQ only.
    endpoints: Option<Endpoints>,
    layout: NodeFile,
    zeromq: Option<NodeFile>,
    logs: NodeFile,
    node: NodeFile,
    channel: NodeFile,
}

impl SharedFiles {
    pub fn of(options: &Options, config: &Configuration) -> Self {
        let backend = options.backend_of(config);
        let endpoints = match backend {
            ClusterBackend::Broker => None,
            ClusterBackend::ZeroMq => Some(Endpoints::of(config)),
        };
        let zeromq = endpoints.as_ref().and_then(|endpoints| endpoints.script(options.listen_address));
        Self {
            backend,
            layout: NodeFile::new(layout::layout(config, options.version, endpoints.as_ref())),
            endpoints,
            zeromq: zeromq.map(NodeFile::new),
            logs: NodeFile::new(LOGS_TEXT.to_owned()),
            node: NodeFile::new(NODE_TEXT.to_owned()),
            channel: NodeFile::new(CHANNEL_TEXT.to_owned()),
        }
    }
}

impl Options {
    /// How the nodes of this configuration talk to each other.
    pub fn backend_of(&self, config: &Configuration) -> ClusterBackend {
        config.cluster_backend.or(self.backend).unwrap_or_else(|| self.version.default_backend())
    }

    /// Whether the agent asks nodes through files, and not over Broker.
    fn has_channel(&self, backend: ClusterBackend) -> bool {
        backend == ClusterBackend::ZeroMq || self.version.default_backend() == ClusterBackend::ZeroMq
    }
}

/// What is specific to one node. The caller adds the program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub args: Vec<String>,
    /// Overlaid on what the agent passes on; includes the configuration's own variables.
    pub env: BTreeMap<String, String>,
    /// Files of its working directory, by name.
    pub files: BTreeMap<String, NodeFile>,
    /// Variables whose values are in these files.
    pub secrets: BTreeMap<String, String>,
}

/// How to run `node` of the configuration that the `shared` files belong to; `args` are those of every node.
///
/// The order of the arguments is Zeek's loading order: later ones may redefine earlier ones.
pub fn recipe(options: &Options, shared: &SharedFiles, node: &Node, args: &[String]) -> Recipe {
    let is_member = node.role != ClusterRole::None;
    let secrets = match (&options.keys, &shared.endpoints) {
        (Some(keys), Some(endpoints)) if is_member => curve(keys, !endpoints.ports(node).is_empty()),
        (Some(_) | None, Some(_) | None) => BTreeMap::new(),
    };
    let mut list = Vec::new();
    if let Some(interface) = &node.interface {
        list.extend(["-i".to_owned(), interface.clone()]);
    }
    if !options.checksums {
        list.push("-C".to_owned());
    }
    let mut env = node_env(node);
    let mut files = BTreeMap::new();
    // First, so that whatever else is loaded finds the backend chosen.
    if is_member && shared.backend == ClusterBackend::ZeroMq {
        list.push(options.version.zeromq_script().to_owned());
        if let Some(file) = &shared.zeromq {
            list.push(endpoints::NAME.to_owned());
            files.insert(format!("{}.zeek", endpoints::NAME), file.clone());
        }
    }
    list.extend(args.iter().chain(options.args.get(&node.role).into_iter().flatten()).cloned());
    if is_member && shared.backend == ClusterBackend::Broker && options.version.needs_backend() {
        list.push(BROKER_BACKEND.to_owned());
    }
    if options.local {
        list.push("local".to_owned());
    }
    list.extend(node.scripts.iter().cloned());
    list.extend(node.options.iter().map(|option| format!("{}={}", option.name, option.value)));

    if is_member {
        env.insert("CLUSTER_NODE".to_owned(), node.name.clone());
        files.insert(LAYOUT.to_owned(), shared.layout.clone());
    } else {
        env.remove("CLUSTER_NODE");
    }
    if let Some(path) = env.get("ZEEKPATH").or(options.path.as_ref()) {
        let path = with_working_directory(path);
        env.insert("ZEEKPATH".to_owned(), path);
    }
    if let Some(address) = options.listen_address {
        env.entry(LISTEN_ADDRESS.to_owned()).or_insert_with(|| address.to_string());
    }
    match options.scripts {
        NodeScripts::None => return Recipe { args: list, env, files, secrets },
        NodeScripts::Own => {
            let has_channel = options.has_channel(shared.backend);
            let (name, file) = if has_channel { (CHANNEL, &shared.channel) } else { (NODE, &shared.node) };
            list.extend([LOGS.to_owned(), name.to_owned()]);
            files.insert(format!("{name}.zeek"), file.clone());
            env.insert("ZCA_PROGRAM".to_owned(), options.program.clone());
            // The name under which it checks in; not every node has one in the cluster.
            env.insert("ZCA_NODE".to_owned(), node.name.clone());
            if has_channel {
                env.insert(CHANNEL_VARIABLE.to_owned(), CHANNEL_DIRECTORY.to_owned());
                if let Some(port) = metrics_port(options, node) {
                    let address = doorbell(env.get(LISTEN_ADDRESS), port);
                    env.insert(DOORBELL_VARIABLE.to_owned(), address.to_string());
                }
            }
        }
        NodeScripts::Management => {
            list.push(LOGS.to_owned());
            list.extend(MANAGEMENT.map(str::to_owned));
            let spool = format!("{}/spool", options.state_dir);
            env.insert("ZEEK_MANAGEMENT_SPOOL_DIR".to_owned(), spool);
            env.insert("ZEEK_MANAGEMENT_STATE_DIR".to_owned(), options.state_dir.clone());
        }
    }
    files.insert(format!("{LOGS}.zeek"), shared.logs.clone());
    env.insert("ZCA_LOG_QUEUE".to_owned(), format!("{}/spool/log-queue", options.state_dir));
    Recipe { args: list, env, files, secrets }
}

/// The keys of a node: whoever accepts connections of others has the server's secret one as well.
///
/// Source: `policy/frameworks/cluster/backend/zeromq`, Zeek 8.2 and later.
fn curve(keys: &str, accepts: bool) -> BTreeMap<String, String> {
    const KEYS: [(&str, &str); 4] = [
        ("CLIENT_PUBLICKEY", "client.public"),
        ("CLIENT_SECRETKEY", "client.secret"),
        ("SERVER_PUBLICKEY", "server.public"),
        ("SERVER_SECRETKEY", "server.secret"),
    ];
    let is_needed = |(name, _): &(&str, &str)| accepts || *name != "SERVER_SECRETKEY";
    let named = KEYS.into_iter().filter(is_needed);
    named.map(|(name, file)| (format!("ZEEK_CLUSTER_BACKEND_ZEROMQ_CURVE_{name}"), format!("{keys}/{file}"))).collect()
}

/// A node's own variables. How the agent asks it is never a matter of the configuration.
pub fn node_env(node: &Node) -> BTreeMap<String, String> {
    let mut env = node.env.clone();
    for ours in [CHANNEL_VARIABLE, DOORBELL_VARIABLE] {
        env.remove(ours);
    }
    env
}

/// The arguments with which a node's scripts are checked (`zeek -a`): no interface is opened, no port is bound, and the file
/// that tells how far a running node is stays as it is.
pub fn check_arguments(args: &[String]) -> Vec<String> {
    let mut list = vec!["-a".to_owned()];
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-i" | "-U" => _ = rest.next(),
            _ => list.push(arg.clone()),
        }
    }
    // Zeek 8.0 binds the port of a node that is only checked.
    list.push("Telemetry::metrics_port=0/unknown".to_owned());
    list
}

/// The ports that `node` of these files' configuration binds, including its metrics port if Zeek finds one in the layout.
pub fn ports(options: &Options, shared: &SharedFiles, node: &Node) -> Vec<u16> {
    let cluster = match &shared.endpoints {
        None => node.port.into_iter().map(|port| port.number).collect(),
        Some(endpoints) => endpoints.ports(node),
    };
    cluster.into_iter().chain(metrics_port(options, node)).collect()
}

/// The port at which `node` serves its metrics, if Zeek finds one in the layout.
pub fn metrics_port(options: &Options, node: &Node) -> Option<u16> {
    let is_in_layout = options.version.has_metrics_port() && node.role != ClusterRole::None;
    node.metrics_port.filter(|_| is_in_layout).map(|port| port.number)
}

/// Where a metrics port of this host is reached, if the node listens at this one address.
fn doorbell(listen: Option<&String>, port: u16) -> SocketAddr {
    let address = match listen.and_then(|text| text.parse().ok()) {
        Some(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        Some(address) if !address.is_unspecified() => address,
        Some(_) | None => Ipv4Addr::LOCALHOST.into(),
    };
    SocketAddr::new(address, port)
}

/// Why the nodes of one instance (or all) cannot run with this Zeek: the configuration asks for what it does not have.
pub fn problem(options: &Options, config: &Configuration, instance: Option<&InstanceName>) -> Option<Problem> {
    let is_meant = |node: &&Node| instance.is_none_or(|instance| node.instance == instance.as_str());
    let mut members = config.nodes.iter().filter(is_meant).filter(|node| node.role != ClusterRole::None);
    let lacks = options.backend_of(config) == ClusterBackend::ZeroMq && options.version < Version::ZEROMQ;
    (lacks && members.next().is_some()).then(|| Problem {
        subject: Subject::Configuration,
        text: format!(
            "the cluster backend is zeromq, and the nodes here are Zeek {}: it is supported from Zeek {} on; use \
             cluster_backend = broker",
            options.version,
            Version::ZEROMQ
        ),
    })
}

/// What anybody who reaches the ports of the nodes of one instance could do, because nothing is encrypted between hosts.
pub fn unencrypted(options: &Options, config: &Configuration, instance: &InstanceName) -> Option<Problem> {
    let members = || config.nodes.iter().filter(|node| node.role != ClusterRole::None);
    let (mut ours, mut others) = (members(), members());
    let spans =
        ours.any(|node| node.instance == instance.as_str()) && others.any(|node| node.instance != instance.as_str());
    if !spans || options.keys.is_some() || options.backend_of(config) == ClusterBackend::Broker {
        return None;
    }
    let advice = if options.version < Version::CURVE {
        format!("Zeek encrypts it from {} on; until then keep its ports away from others", Version::CURVE)
    } else {
        "set zeromq_keys (`zeek keys` makes them)".to_owned()
    };
    let text = format!(
        "nodes of several hosts talk over ZeroMQ without keys: everybody who reaches their ports can read along and take part; \
         {advice}"
    );
    Some(Problem { subject: Subject::Configuration, text })
}

/// The parts of `config` that have no effect with this version: for the nodes of one instance, or for all.
pub fn warning(config: &Configuration, instance: Option<&InstanceName>, version: Version) -> Option<Problem> {
    if version.has_metrics_port() {
        return None;
    }
    let is_meant = |node: &&Node| instance.is_none_or(|instance| node.instance == instance.as_str());
    let is_member = |node: &&Node| node.role != ClusterRole::None;
    let mut nodes = config.nodes.iter().filter(is_meant).filter(is_member).filter(|node| node.metrics_port.is_some());
    let first = nodes.next()?;
    let more = match nodes.count() {
        0 => String::new(),
        1 => " and one more node".to_owned(),
        more => format!(" and {more} more nodes"),
    };
    let text = format!(
        "metrics_port of {}{more} has no effect: the nodes here are Zeek {version}, and Zeek has it since {}",
        shown(&first.name),
        Version::METRICS_PORT
    );
    Some(Problem { subject: Subject::Configuration, text })
}

/// A search path that begins with the working directory, which holds a node's own files. Zeek's default path does, but
/// a path that is set replaces it.
fn with_working_directory(path: &str) -> String {
    match path {
        "" => ".".to_owned(),
        path if path == "." || path.starts_with(".:") => path.to_owned(),
        path => format!(".:{path}"),
    }
}

#[cfg(test)]
mod tests;

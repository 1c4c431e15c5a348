//! The agent's settings: each resolved from flag over environment over file over default, each remembering which it was.
//!
//! One table at the end of this file declares them all; `docs/SETTINGS.md` shows the same table, and a test compares the
//! two. Everything that is wrong is reported at once. What a value leads to is not known here: components get their own
//! options.

pub mod accounts;
pub(crate) mod file;
mod listening;
mod per_role;
mod users;
pub(crate) mod value;
mod zeek;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use file::File;
pub(crate) use per_role::PerRole;
pub(crate) use users::RequestUsers;
pub(crate) use value::{
    Address, ClusterBackend, Dialects, ExitCodes, Group, LogFormat, LogLevel, NodeProfile, NodeScripts,
    OptionalAddress, OptionalPath, ProgramName, Ready, Secret, Setting, Size, Span, Strategy, Switch, UserName,
};

use crate::api::ids::InstanceName;
use crate::api::launch::{Program, Readiness};
use crate::api::words;
use zeek::Pair;

/// The state directory of an agent that runs as root.
pub(crate) const SYSTEM_STATE_DIR: &str = "/var/lib/zeek-cluster-agent";
/// The control socket's name in the state directory.
pub(crate) const SOCKET_NAME: &str = "control.sock";

/// The user whom packages of Zeek make for it.
const ZEEK_USER: &str = "zeek";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(String),
    Environment(&'static str),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Deref for Set<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Something wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{}{}: {problem}", path.display(), line.map_or_else(String::new, |line| format!(":{line}")))]
    File { path: PathBuf, line: Option<usize>, problem: String },
    #[error("{}:{line}: unknown setting `{key}`; the nearest known one is `{nearest}`", path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, nearest: &'static str },
    #[error("{}`{key}` {problem}", place(origin))]
    Value { key: &'static str, origin: Origin, problem: String },
    /// A user or group that the name service does not know now. It may later: at boot it may not be up yet.
    #[error("{}`{key}` {problem}", place(origin))]
    Unknown { key: &'static str, origin: Origin, problem: String },
}

fn place(origin: &Origin) -> String {
    match origin {
        Origin::File { .. } => format!("{origin}: "),
        Origin::Flag(_) | Origin::Environment(_) => format!("{origin}: setting "),
        Origin::Default => "setting ".to_owned(),
    }
}

/// Everything that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub Vec<Problem>);

impl Problems {
    /// The command line alone is to blame.
    pub fn only_flags(&self) -> bool {
        self.0.iter().all(|problem| matches!(problem, Problem::Value { origin: Origin::Flag(_), .. }))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Flags that were given: a setting's key and the text.
pub(crate) type Flags = Vec<(&'static str, String)>;

/// What of the process and its host goes into the settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub environment: BTreeMap<String, String>,
    pub is_root: bool,
    pub hostname: String,
    /// The host has a user for Zeek.
    pub has_zeek_user: bool,
}

impl Surroundings {
    pub fn here() -> Self {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        Self {
            environment: std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect(),
            is_root: rustix::process::geteuid().is_root(),
            has_zeek_user: matches!(accounts::user(ZEEK_USER), Ok(Some(_))),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The state directory of an agent that a user runs without being root, if the user has a home.
    pub fn own_state_dir(&self) -> Option<PathBuf> {
        let base = match self.variable("XDG_STATE_HOME").map(PathBuf::from) {
            Some(base) if base.is_absolute() => base,
            Some(_) | None => PathBuf::from(self.variable("HOME")?).join(".local/state"),
        };
        Some(base.join("zeek-cluster-agent"))
    }

    /// The directory that a service manager made for this service, the first one if there are several.
    pub fn handed_state_dir(&self) -> Option<PathBuf> {
        let first = self.variable("STATE_DIRECTORY")?.split(':').next().map(PathBuf::from);
        first.filter(|path| path.is_absolute())
    }

    fn state_dir(&self) -> PathBuf {
        if let Some(handed) = self.handed_state_dir() {
            return handed;
        }
        let own = if self.is_root { None } else { self.own_state_dir() };
        own.unwrap_or_else(|| PathBuf::from(SYSTEM_STATE_DIR))
    }

    /// Whom nodes run as unless the settings say so.
    fn node_user(&self) -> UserName {
        UserName((self.is_root && self.has_zeek_user).then(|| ZEEK_USER.to_owned()))
    }

    fn agent_name(&self) -> InstanceName {
        InstanceName::new(format!("agent-{}", self.hostname))
            .or_else(|_| InstanceName::new("agent-localhost"))
            .expect("agent-localhost is a good name")
    }
}

/// One row of the table of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub name: &'static str,
    pub variable: &'static str,
    /// Variables of Zeek's own that are read if that is not set.
    pub zeek: &'static [&'static str],
    pub kind: &'static str,
    /// In words where it depends on the host.
    pub default: &'static str,
    pub doc: &'static [&'static str],
}

/// A setting as `settings` prints it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub key: &'static str,
    pub value: String,
    pub json: Value,
    pub origin: Origin,
}

struct Layers<'a> {
    flags: &'a Flags,
    surroundings: &'a Surroundings,
    path: PathBuf,
    items: BTreeMap<String, file::Item<'a>>,
    problems: Vec<Problem>,
}

impl Layers<'_> {
    /// The value of the highest layer that has one. A bad value is a problem, and the default stands in for it until all
    /// problems are found.
    fn pick<T: Setting>(
        &mut self,
        key: &'static str,
        variable: &'static str,
        zeek: Option<&Pair>,
        default: T,
    ) -> Set<T> {
        let (read, origin) = if let Some((_, text)) = self.flags.iter().find(|(flag, _)| *flag == key) {
            (T::parse(text), Origin::Flag(format!("--{}", key.replace('_', "-"))))
        } else if let Some(text) = self.surroundings.variable(variable) {
            (T::parse(text), Origin::Environment(variable))
        } else if let Some((text, variables)) = zeek.and_then(|pair| pair.read(self.surroundings)) {
            (text.and_then(|text| T::parse(&text)), Origin::Environment(variables))
        } else if let Some(item) = self.items.get(key) {
            (T::from_toml(&item.value), Origin::File { path: self.path.clone(), line: item.line })
        } else {
            return Set { value: default, origin: Origin::Default };
        };
        match read {
            Ok(value) => Set { value, origin },
            Err(problem) => {
                self.problems.push(Problem::Value { key, origin, problem });
                Set { value: default, origin: Origin::Default }
            }
        }
    }
}

fn nearest(key: &str) -> &'static str {
    words::nearest(key, KEYS.iter().map(|known| known.name)).expect("there are settings")
}

impl Settings {
    /// Resolves every setting, or says everything that is wrong.
    pub fn resolve(flags: &Flags, surroundings: &Surroundings, file: Option<&File>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let (path, items) = match file {
            None => (PathBuf::new(), BTreeMap::new()),
            Some(file) => match file.items() {
                Ok(items) => (file.path.clone(), items),
                Err(problem) => return Err(Problems(vec![problem])),
            },
        };
        for (key, item) in &items {
            if KEYS.iter().all(|known| known.name != key) {
                let (path, line) = (path.clone(), item.line);
                problems.push(Problem::UnknownKey { path, line, key: key.clone(), nearest: nearest(key) });
            }
        }
        let mut layers = Layers { flags, surroundings, path, items, problems };
        let settings = Self::pick_all(&mut layers);
        let mut problems = layers.problems;
        problems.extend(settings.contradictions());
        if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
    }

    fn contradictions(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut unless = |holds: bool, key, origin: &Origin, problem: String| {
            if !holds {
                found.push(Problem::Value { key, origin: origin.clone(), problem });
            }
        };
        for (span, key) in [
            (&self.request_timeout, "request_timeout"),
            (&self.commit_timeout, "commit_timeout"),
            (&self.journal_open_timeout, "journal_open_timeout"),
            (&self.ready_timeout, "ready_timeout"),
            (&self.event_timeout, "event_timeout"),
            (&self.restart_window, "restart_window"),
            (&self.backoff_min, "backoff_min"),
        ] {
            unless(span.ms > 0, key, &span.origin, "is 0, which leaves no time at all".to_owned());
        }
        unless(
            self.backoff_min.ms <= self.backoff_max.ms,
            "backoff_max",
            &self.backoff_max.origin,
            format!("is {}, less than backoff_min ({})", *self.backoff_max, *self.backoff_min),
        );
        unless(
            self.space_floor_facts.bytes <= self.space_floor_requests.bytes,
            "space_floor_facts",
            &self.space_floor_facts.origin,
            format!(
                "is {}, more than space_floor_requests ({}): facts have to go on when requests are refused",
                *self.space_floor_facts, *self.space_floor_requests
            ),
        );
        unless(
            self.journal_cache.bytes >= Size::mib(1).bytes,
            "journal_cache",
            &self.journal_cache.origin,
            format!("is {}, at least 1MiB is needed", *self.journal_cache),
        );
        found
    }

    /// Variables that look like settings and are none, and those that mean something else here.
    pub fn strange_variables(surroundings: &Surroundings) -> Vec<String> {
        let of_node = surroundings.node();
        let known = |name: &str| {
            let is_setting = name == CONFIG_VARIABLE || KEYS.iter().any(|key| key.variable == name);
            is_setting || (of_node.is_some() && zeek::NODE_VARIABLES.contains(&name))
        };
        let strange = surroundings.environment.keys().filter(|name| name.starts_with("ZCA_") && !known(name));
        let strange = strange.map(|name| {
            let key = name.strip_prefix("ZCA_").unwrap_or(name).to_ascii_lowercase();
            format!("environment {name} is no setting; the nearest one is `{}`", nearest(&key))
        });
        let of_node = of_node.map(|node| {
            format!(
                "this is the environment of the node {node}: its ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT say where that \
                 node's agent is, and are not read"
            )
        });
        of_node.into_iter().chain(strange).collect()
    }

    /// What a node is run with.
    pub fn program(&self) -> Program {
        if *self.simulate_nodes { Program::Simulated } else { Program::Path(self.node_program.0.clone()) }
    }

    /// Whether nodes are to be prepared as Zeek is.
    pub fn nodes_are_zeek(&self) -> bool {
        let called_zeek = Path::new(&self.node_program.0).file_name().is_some_and(|name| name == "zeek");
        match *self.node_profile {
            _ if *self.simulate_nodes => false,
            NodeProfile::Auto => called_zeek,
            NodeProfile::Zeek => true,
            NodeProfile::Plain => false,
        }
    }

    pub fn readiness(&self) -> Readiness {
        match *self.ready {
            Ready::Checkin => Readiness::Checkin,
            Ready::Alive => Readiness::Alive { after_ms: self.alive_secs.ms },
        }
    }

    /// The number of the control group, as `look_up` finds it.
    pub fn control_gid(&self, look_up: impl Fn(&str) -> Result<u32, String>) -> Result<Option<u32>, Problem> {
        let Some(group) = &self.control_group.0 else { return Ok(None) };
        look_up(group).map(Some).map_err(|what| Problem::Unknown {
            key: "control_group",
            origin: self.control_group.origin.clone(),
            problem: format!("is {what}"),
        })
    }

    /// The agent's address was given explicitly: clients then look nowhere else.
    pub fn names_agent(&self) -> bool {
        self.control_socket.origin != Origin::Default || self.state_dir.origin != Origin::Default
    }
}

/// Names another settings file than [`file::DEFAULT_PATH`].
pub(crate) const CONFIG_VARIABLE: &str = "ZCA_CONFIG";

macro_rules! settings {
    (
        $surroundings:ident;
        $(
            $(#[doc = $doc:literal])*
            $key:ident: $type:ty, $variable:literal $(or $zeek:ident)?, $default:literal => $value:expr;
        )*
    ) => {
        /// Every setting, in the order of the table.
        pub(crate) const KEYS: &[Key] = &[$(Key {
            name: stringify!($key),
            variable: $variable,
            zeek: settings!(@variables $($zeek)?),
            kind: <$type as Setting>::TYPE,
            default: $default,
            doc: &[$($doc),*],
        }),*];

        /// Resolved settings.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct Settings {
            $($(#[doc = $doc])* pub $key: Set<$type>,)*
        }

        impl Settings {
            fn pick_all(layers: &mut Layers<'_>) -> Self {
                let $surroundings = layers.surroundings;
                $(let $key = layers.pick::<$type>(stringify!($key), $variable, settings!(@pair $($zeek)?), $value);)*
                Self { $($key),* }
            }

            /// Every effective value and where it comes from.
            pub fn shown(&self) -> Vec<Shown> {
                vec![$(Shown {
                    key: stringify!($key),
                    value: self.$key.show(),
                    json: self.$key.json(),
                    origin: self.$key.origin.clone(),
                }),*]
            }
        }
    };
    (@variables) => { &[] };
    (@variables $zeek:ident) => { zeek::$zeek.variables };
    (@pair) => { None };
    (@pair $zeek:ident) => { Some(&zeek::$zeek) };
}

settings! {
    surroundings;

    /// The agent's name, which is its instance's. A state directory belongs to one name.
    name: InstanceName, "ZEEK_AGENT_NAME", "`agent-` and the hostname" => surroundings.agent_name();
    /// Where the journal, the nodes' directories and the control socket are. Not on NFS.
    state_dir: PathBuf, "ZCA_STATE_DIR",
        "`$STATE_DIRECTORY`, else as root `/var/lib/zeek-cluster-agent`, else `$XDG_STATE_HOME/zeek-cluster-agent`" => surroundings.state_dir();
    /// Where the nodes' working directories are. Never deleted by the agent.
    node_dir: PathBuf, "ZCA_NODE_DIR", "`nodes` in state_dir" => state_dir.value.join("nodes");
    /// The socket for the command line.
    control_socket: PathBuf, "ZCA_CONTROL_SOCKET", "`control.sock` in state_dir" => state_dir.value.join(SOCKET_NAME);
    /// Members of this group may use the control socket: to look, and to ask, which is everything the agent can do, unless
    /// request_users names others.
    control_group: Group, "ZCA_CONTROL_GROUP", "" => Group::default();
    /// Who may ask the agent for something, on this host: over the control socket, Broker and WebSocket. `["root"]` is strict.
    request_users: RequestUsers, "ZCA_REQUEST_USERS",
        "`root`, the agent's own user, members of control_group, node_user" => RequestUsers::default();
    /// Where to serve WebSocket clients, with port 0 at a free port. Any address but loopback needs websocket_certificate.
    websocket: Address, "ZCA_WEBSOCKET", "off" => Address::Off;
    /// Let everybody who reaches the WebSocket listener ask for anything; serve it without TLS at any address.
    websocket_insecure: bool, "ZCA_WEBSOCKET_INSECURE", "false" => false;
    /// Serve WebSocket clients over TLS with this certificate (PEM, then those between it and the root). Read at the start.
    websocket_certificate: OptionalPath, "ZCA_WEBSOCKET_CERTIFICATE", "" => OptionalPath::default();
    /// The private key of websocket_certificate (PEM, without passphrase). Unset: in the certificate's file.
    websocket_key: OptionalPath, "ZCA_WEBSOCKET_KEY", "" => OptionalPath::default();
    /// Only clients with a certificate of these authorities (PEM) are served; its subject is the journal's source.
    websocket_client_ca: OptionalPath, "ZCA_WEBSOCKET_CLIENT_CA", "" => OptionalPath::default();
    /// Where to serve metrics (`/metrics`, and `/services.json` for Prometheus), with port 0 at a free port. Any address but
    /// loopback needs metrics_certificate and metrics_client_ca.
    metrics: Address, "ZCA_METRICS", "off" => Address::Off;
    /// Serve metrics over TLS with this certificate (PEM, then those between it and the root). Read at the start.
    metrics_certificate: OptionalPath, "ZCA_METRICS_CERTIFICATE", "" => OptionalPath::default();
    /// The private key of metrics_certificate (PEM, without passphrase). Unset: in the certificate's file.
    metrics_key: OptionalPath, "ZCA_METRICS_KEY", "" => OptionalPath::default();
    /// Only clients with a certificate of these authorities (PEM) see metrics.
    metrics_client_ca: OptionalPath, "ZCA_METRICS_CLIENT_CA", "" => OptionalPath::default();
    /// In which of Zeek's event APIs the agent says what nobody asked for: Management, ClusterAgent, or both.
    notify_dialects: Dialects, "ZCA_NOTIFY_DIALECTS", "[\"Management\"]" => Dialects::default();
    /// Where to accept Broker peers: nodes, and controllers that connect to their agents. With port 0 at a free port.
    listen: Address, "ZCA_LISTEN" or AGENT, "127.0.0.1:2151" => Address::At { host: "127.0.0.1".to_owned(), port: 2151 };
    /// The controller to connect to.
    controller: Address, "ZCA_CONTROLLER" or CONTROLLER, "off" => Address::Off;
    /// Let everybody who reaches the Broker listener ask for anything, and whoever answers at the address of controller.
    broker_insecure: bool, "ZCA_BROKER_INSECURE", "false" => false;
    /// Speak Broker without TLS, as all of its peers must then (`Broker::disable_ssl`).
    disable_ssl: bool, "ZCA_DISABLE_SSL", "false" => false;
    /// The agent's certificate for Broker, PEM, its own first. Without certificates TLS encrypts and authenticates nobody.
    broker_certificate: OptionalPath, "ZCA_BROKER_CERTIFICATE", "" => OptionalPath::default();
    /// The certificate's private key, PEM.
    broker_key: OptionalPath, "ZCA_BROKER_KEY", "" => OptionalPath::default();
    /// What the private key is encrypted with. Has no flag: everybody could read it in `ps`.
    broker_passphrase: Secret, "ZCA_BROKER_PASSPHRASE", "" => Secret::default();
    /// Authorities whose certificates peers may have: one file, PEM.
    broker_cafile: OptionalPath, "ZCA_BROKER_CAFILE", "" => OptionalPath::default();
    /// The same as a directory, as `openssl rehash` makes it.
    broker_capath: OptionalPath, "ZCA_BROKER_CAPATH", "" => OptionalPath::default();

    /// What runs as a node.
    node_program: ProgramName, "ZCA_NODE_PROGRAM", "zeek" => ProgramName("zeek".to_owned());
    /// Arguments of every node.
    node_args: Vec<String>, "ZCA_NODE_ARGS", "[]" => Vec::new();
    /// Arguments of managers, after those of every node.
    node_args_manager: Vec<String>, "ZCA_NODE_ARGS_MANAGER", "[]" => Vec::new();
    /// Arguments of loggers, after those of every node.
    node_args_logger: Vec<String>, "ZCA_NODE_ARGS_LOGGER", "[]" => Vec::new();
    /// Arguments of proxies, after those of every node.
    node_args_proxy: Vec<String>, "ZCA_NODE_ARGS_PROXY", "[]" => Vec::new();
    /// Arguments of workers, after those of every node.
    node_args_worker: Vec<String>, "ZCA_NODE_ARGS_WORKER", "[]" => Vec::new();
    /// What nodes are prepared for: Zeek (cluster layout, interface, scripts, options), or nothing. With auto it is Zeek if
    /// node_program is called zeek.
    node_profile: NodeProfile, "ZCA_NODE_PROFILE", "auto" => NodeProfile::Auto;
    /// What Zeek nodes load to work with the agent: its own scripts, those of Zeek's management framework, or none.
    node_scripts: NodeScripts, "ZCA_NODE_SCRIPTS", "own" => NodeScripts::Own;
    /// How the nodes of a cluster talk to each other, unless the configuration says so. With auto it is ZeroMQ from Zeek 8.1
    /// on, and Broker before.
    cluster_backend: ClusterBackend, "ZCA_CLUSTER_BACKEND", "auto" => ClusterBackend::Auto;
    /// The directory with the keys of clusters on ZeroMQ, as `zeek keys` makes it; unset: nothing is encrypted. Needs Zeek 8.2.
    zeromq_keys: OptionalPath, "ZCA_ZEROMQ_KEYS", "" => OptionalPath::default();
    /// Load the site's local.zeek in every node, before the scripts of the configuration.
    zeek_local: bool, "ZCA_ZEEK_LOCAL", "false" => false;
    /// Let Zeek check the checksums of packets; false is its -C.
    zeek_checksums: bool, "ZCA_ZEEK_CHECKSUMS", "true" => true;
    /// Directories where Zeek looks for scripts before its own.
    zeek_path: Vec<String>, "ZCA_ZEEK_PATH", "[]" => Vec::new();
    /// The one address at which Zeek nodes listen, for each other and for metrics; unset: at all of the host.
    zeek_listen_address: OptionalAddress, "ZCA_ZEEK_LISTEN_ADDRESS", "" => OptionalAddress::default();
    /// Run this binary's own simulated nodes instead of node_program: for dry runs and tests.
    simulate_nodes: bool, "ZCA_SIMULATE_NODES", "false" => false;
    /// Whom nodes run as when the agent is root. Nodes with an interface keep CAP_NET_RAW and CAP_NET_ADMIN.
    node_user: UserName, "ZCA_NODE_USER", "as root `zeek` if this host has that user, else none" => surroundings.node_user();
    /// Their group, instead of the primary one of node_user.
    node_group: Group, "ZCA_NODE_GROUP", "" => Group::default();
    /// How many files a node may have open (RLIMIT_NOFILE); else as many as the agent when it was started.
    node_open_files: PerRole, "ZCA_NODE_OPEN_FILES", "[]" => PerRole::default();
    /// How large a core file of a node may get, in bytes (RLIMIT_CORE); 0 is none.
    node_core: PerRole, "ZCA_NODE_CORE", "[]" => PerRole::default();
    /// How much memory a node may have, in bytes (MemoryMax of its scope). Needs systemd and cgroup v2.
    node_memory_max: PerRole, "ZCA_NODE_MEMORY_MAX", "[]" => PerRole::default();
    /// A node's share of CPU time where it is short, from 1 to 10000 (CPUWeight of its scope); everything else has 100. Needs
    /// systemd and cgroup v2.
    node_cpu_weight: PerRole, "ZCA_NODE_CPU_WEIGHT", "[]" => PerRole::default();
    /// A node's niceness, from 0 to 19.
    node_nice: PerRole, "ZCA_NODE_NICE", "[]" => PerRole::default();
    /// When a node is ready: when it checks in, or when it has run for alive_secs.
    ready: Ready, "ZCA_READY", "checkin" => Ready::Checkin;
    /// How long a node has to run to be ready with `ready = "alive"`.
    alive_secs: Span, "ZCA_ALIVE_SECS", "1s" => Span::seconds(1);
    /// A node that is not ready by then stays PENDING, the controller is told, and a change waits for it no longer.
    ready_timeout: Span, "ZCA_READY_TIMEOUT", "1min" => Span::seconds(60);
    /// From SIGTERM to SIGKILL for proxies and workers.
    stop_timeout: Span, "ZCA_STOP_TIMEOUT", "10s" => Span::seconds(10);
    /// From SIGTERM to SIGKILL for loggers and managers, which have more to write.
    stop_timeout_manager_logger: Span, "ZCA_STOP_TIMEOUT_MANAGER_LOGGER", "15s" => Span::seconds(15);
    /// How long a stage of the start (loggers, manager, proxies, workers) waits for the one before it.
    stage_wait: Span, "ZCA_STAGE_WAIT", "1s" => Span::seconds(1);

    /// Which nodes a new configuration replaces: all, as Zeek's own agent does, or those that would run differently.
    deploy_strategy: Strategy, "ZCA_DEPLOY_STRATEGY", "replace" => Strategy::Replace;

    /// Before a change ends nodes that run, find out whether the new ones can: their scripts with `zeek -a`, interfaces, ports.
    preflight: Switch, "ZCA_PREFLIGHT", "on" => Switch::On;
    /// How long that may take in all.
    preflight_timeout: Span, "ZCA_PREFLIGHT_TIMEOUT", "1min" => Span::seconds(60);

    /// How many crash bundles of a node are kept; 0 makes none.
    crash_keep: u32, "ZCA_CRASH_KEEP", "10" => 10;
    /// How long a crash bundle is kept.
    crash_keep_time: Span, "ZCA_CRASH_KEEP_TIME", "30d" => Span::days(30);
    /// How often rotated logs are archived, if there are any; 0 is never.
    archive_interval: Span, "ZCA_ARCHIVE_INTERVAL", "1h" => Span::seconds(3600);
    /// What archives them. It is run as `COMMAND -1 QUEUE ARCHIVE_DIR`, as Zeek's agent runs it, as node_user if there is one. A
    /// name is looked for beside node_program, then in PATH.
    archive_command: ProgramName, "ZCA_ARCHIVE_COMMAND", "zeek-archiver" => ProgramName("zeek-archiver".to_owned());
    /// Where archived logs go.
    archive_dir: PathBuf, "ZCA_ARCHIVE_DIR", "`logs` in state_dir" => state_dir.value.join("logs");
    /// A run of archive_command that takes longer is ended: SIGTERM, after 3 s SIGKILL. What it had not done waits for the next.
    archive_timeout: Span, "ZCA_ARCHIVE_TIMEOUT", "1h" => Span::seconds(3600);
    /// Archived logs that were last written to longer ago are removed; 0 keeps them.
    archive_keep_time: Span, "ZCA_ARCHIVE_KEEP_TIME", "0" => Span::seconds(0);
    /// When archived logs take up more space than this, the oldest are removed; 0 is without a limit.
    archive_keep_size: Size, "ZCA_ARCHIVE_KEEP_SIZE", "0" => Size::mib(0);

    /// What to run for what an operator wants to be told of: program and arguments. It gets one JSON object on its standard input.
    event_command: Vec<String>, "ZCA_EVENT_COMMAND", "[]" => Vec::new();
    /// Whom event_command runs as when the agent is root. Root only if that is named here.
    event_user: UserName, "ZCA_EVENT_USER", "as root `node_user`" => UserName(None);
    /// A run of event_command that takes longer is ended: SIGTERM, after 3 s SIGKILL.
    event_timeout: Span, "ZCA_EVENT_TIMEOUT", "30s" => Span::seconds(30);

    /// More exits than this within restart_window make a node FAILED.
    max_restarts: u32, "ZCA_MAX_RESTARTS", "10" => 10;
    /// The time in which max_restarts are counted.
    restart_window: Span, "ZCA_RESTART_WINDOW", "10min" => Span::seconds(600);
    /// The pause before a node's second restart; it doubles from there.
    backoff_min: Span, "ZCA_BACKOFF_MIN", "1s" => Span::seconds(1);
    /// The longest pause before a restart.
    backoff_max: Span, "ZCA_BACKOFF_MAX", "1min" => Span::seconds(60);
    /// When a FAILED node is tried again; 0 is never, but for one that cannot be started (5 min).
    failed_retry: Span, "ZCA_FAILED_RETRY", "5min" => Span::seconds(300);
    /// Exit codes that make a node FAILED after three of them in a row.
    permanent_exit_codes: ExitCodes, "ZCA_PERMANENT_EXIT_CODES", "[]" => ExitCodes::default();

    /// Who asks over Broker or WebSocket is told by then how far a change is. Controllers give up after 10 s.
    request_timeout: Span, "ZCA_REQUEST_TIMEOUT", "7s" => Span::seconds(7);
    /// A commit of the journal that waits longer for the disk ends the agent, as does a thread of it that hangs so long; its nodes run on.
    commit_timeout: Span, "ZCA_COMMIT_TIMEOUT", "10s" => Span::seconds(10);
    /// The longest that opening the journal may take.
    journal_open_timeout: Span, "ZCA_JOURNAL_OPEN_TIMEOUT", "1min" => Span::seconds(60);
    /// The journal's cache; its real use of memory can be several times as much.
    journal_cache: Size, "ZCA_JOURNAL_CACHE", "32MiB" => Size::mib(32);
    /// Entries older than this are removed; 0 is never.
    retention_age: Span, "ZCA_RETENTION_AGE", "90d" => Span::days(90);
    /// So many requests are kept in the journal; 0 is without a limit.
    retention_requests: u32, "ZCA_RETENTION_REQUESTS", "1000000" => 1_000_000;
    /// So much is kept in the journal, in bytes of entries; its files are some times as large. 0 is without a limit.
    retention_size: Size, "ZCA_RETENTION_SIZE", "1GiB" => Size::mib(1024);
    /// After this, of the responses of get_nodes and node_dispatch only a digest is kept; 0 is never.
    retention_reads: Span, "ZCA_RETENTION_READS", "1d" => Span::days(1);
    /// With less free space, new requests are refused.
    space_floor_requests: Size, "ZCA_SPACE_FLOOR_REQUESTS", "256MiB" => Size::mib(256);
    /// With less free space, the ballast is released; when that is used up, nothing more is journaled and no node launched.
    space_floor_facts: Size, "ZCA_SPACE_FLOOR_FACTS", "64MiB" => Size::mib(64);
    /// A file that is released below `space_floor_facts`, so that facts are journaled still; 0 is none.
    ballast_size: Size, "ZCA_BALLAST_SIZE", "16MiB" => Size::mib(16);

    /// The form of the log on stderr.
    log_format: LogFormat, "ZCA_LOG_FORMAT", "text" => LogFormat::Text;
    /// The least level that is logged; -v and -q shift it, RUST_LOG replaces it.
    log_level: LogLevel, "ZCA_LOG_LEVEL", "info" => LogLevel::Info;
}

#[cfg(test)]
mod tests;

//! The raw command line: what may be written, and nothing about what it leads to.

mod journal;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::api::exit::Exit;
use crate::settings::value::{Setting, Span};

pub use journal::{Dump, DumpFormat, Journal, JournalFrom, Kind, Prune, Select, State, Tail};

/// For the end of help pages.
fn exit_codes() -> String {
    let codes = Exit::ALL.map(|exit| format!("{} {}", exit.code(), exit.meaning()));
    format!("Exit codes: {}.", codes.join("; "))
}

/// Crash-safe host agent for Zeek clusters.
///
/// Journals every request before handling it, answers each reqid once, and keeps this host's nodes running across its own
/// death. `run` is the agent; the other commands talk to it, or read what it left.
#[derive(Debug, Parser)]
#[command(name = "zeek-cluster-agent", version, after_help = exit_codes(), max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Settings file [default: /etc/zeek-cluster-agent.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's state directory
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<String>,
    /// The agent's control socket
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub control_socket: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log less
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Colours
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent
    Run(Run),
    /// Send a request as a controller would, and print the response
    #[command(subcommand, after_help = exit_codes())]
    Request(Request),
    /// Requests that wait since before hold mode: list them, take them up, or drop them
    #[command(subcommand, after_help = exit_codes())]
    Requests(Requests),
    /// Look after this host's nodes
    #[command(subcommand)]
    Nodes(Nodes),
    /// How the agent and its nodes are; 0 once the agent serves
    #[command(after_help = exit_codes())]
    Status {
        /// Only whether all is well: 0 if it is; 1, and why in one line, if it is not
        #[arg(long)]
        check: bool,
    },
    /// End the agent; its nodes run on unless --nodes is given
    #[command(after_help = exit_codes())]
    Shutdown(Shutdown),
    /// Look after the state directory
    #[command(subcommand, after_help = exit_codes())]
    State(StateDir),
    /// Tell that a node is ready, from inside the node
    Notify(Notify),
    /// Every setting in effect and where it comes from: the running agent's, or without one this command's
    Settings {
        /// This command's, also if an agent runs
        #[arg(long)]
        local: bool,
    },
    /// Read the journal: through the agent, or from its directory if none runs
    #[command(subcommand)]
    Journal(Journal),
    /// Check and convert cluster files
    #[command(subcommand)]
    Config(Config),
    /// What the nodes of a cluster need beside a configuration
    #[command(subcommand)]
    Zeek(Zeek),
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual pages (roff), or write each to a file
    Man {
        /// Write them to this directory, one for each command
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// What could stand in the place of the last of these words; asked by the scripts of `completions`
    #[command(hide = true)]
    Complete {
        #[arg(long = "for", value_enum)]
        script: Script,
        /// The words behind the program's name
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Show, on simulated nodes, what the agent does
    Demo,
}

#[derive(Debug, Subcommand)]
pub enum Zeek {
    /// Make the keys with which the nodes of a cluster on ZeroMQ encrypt what they say and recognise each other
    Keys {
        /// Where to: a directory without keys, which is made if it is not there
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Script {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The agent's name, which is its instance's [environment: ZEEK_AGENT_NAME]
    #[arg(long)]
    pub name: Option<String>,
    /// Where to serve WebSocket clients
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub websocket: Option<String>,
    /// Let everybody who reaches the WebSocket listener ask for anything, at any address and without TLS
    #[arg(long = "websocket-insecure", visible_alias = "insecure")]
    pub websocket_insecure: bool,
    /// Who may ask, on this host: users by name or number, divided by commas [default: root, the agent's own user, members of
    /// control_group, node_user]
    #[arg(long, value_name = "USERS")]
    pub request_users: Option<String>,
    /// Let everybody who reaches the Broker listener ask for anything
    #[arg(long)]
    pub broker_insecure: bool,
    /// Where to accept Broker peers [environment: ZCA_LISTEN, or ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT]
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub listen: Option<String>,
    /// The controller to connect to [environment: ZCA_CONTROLLER, or ZEEK_CONTROLLER_ADDR and ZEEK_CONTROLLER_PORT]
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub controller: Option<String>,
    /// What runs as a node
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub node_program: Option<String>,
    /// Run simulated nodes instead of Zeek
    #[arg(long)]
    pub simulate_nodes: bool,
    /// The form of the log on stderr: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// How a request is sent.
#[derive(Debug, Clone, Args)]
pub struct Sending {
    /// The request's identifier; the same one gets the same answer again [default: a fresh UUID]
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reqid: Option<String>,
    /// How long to wait for the outcome; it changes nothing for the agent [default: as long as it takes at most]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub timeout: Option<u64>,
}

/// How a controller's request is sent.
#[derive(Debug, Clone, Args)]
pub struct Asking {
    #[command(flatten)]
    pub sending: Sending,
    /// Ask over WebSocket, as any client could, instead of the control socket: ws://HOST:PORT, or wss:// for TLS
    #[arg(long, value_name = "URL")]
    pub via: Option<String>,
    /// Believe a wss:// server whose certificate comes from these authorities (PEM) [default: the system's]
    #[arg(long, value_name = "FILE", requires = "via")]
    pub ca: Option<PathBuf>,
    /// Show this certificate (PEM) to a wss:// server
    #[arg(long, value_name = "FILE", requires = "via")]
    pub certificate: Option<PathBuf>,
    /// The private key of --certificate (PEM, without passphrase) [default: in the certificate's file]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
}

/// Milliseconds.
fn span(text: &str) -> Result<Span, String> {
    Span::parse(text)
}

fn seconds(text: &str) -> Result<u64, String> {
    const MOST: f64 = 86_400.0;
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(seconds > 0.0 && seconds <= MOST) {
        return Err("more than 0 and at most 86400 seconds are possible".to_owned());
    }
    Ok(((seconds * 1000.0).ceil() as u64).max(1))
}

#[derive(Debug, Subcommand)]
pub enum Request {
    /// Make this host run exactly the file's nodes of this instance
    SetConfiguration {
        /// Cluster file (INI or JSON); - is standard input
        file: PathBuf,
        #[command(flatten)]
        asking: Asking,
    },
    /// Make this host run exactly the file's nodes of this instance, answered node by node
    Deploy {
        /// Cluster file (INI or JSON); - is standard input; @-1 is the configuration that ran before (config history)
        file: PathBuf,
        /// Restart nodes even if this configuration already runs
        #[arg(long)]
        force: bool,
        /// Do what `config diff` showed, or nothing: exit code 1 if that plan is stale
        #[arg(long, value_name = "TOKEN", conflicts_with = "via")]
        if_plan: Option<String>,
        /// Do not find out first whether the nodes can run (setting: preflight)
        #[arg(long, conflicts_with = "via")]
        no_preflight: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Acknowledge that the agent is part of the cluster
    Welcome {
        #[command(flatten)]
        asking: Asking,
    },
    /// Stop all nodes and forget the configuration
    Standby {
        #[command(flatten)]
        asking: Asking,
    },
    /// The state of every node, and of the agent
    GetNodes {
        #[command(flatten)]
        asking: Asking,
    },
    /// Restart nodes of this host
    Restart {
        /// Which; none named: all that are not stopped by command
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        asking: Asking,
    },
    /// Ask nodes for the value of a global variable
    GetIdValue {
        /// The variable's name
        id: String,
        /// Which nodes, divided by commas; none named: all
        #[arg(long, value_delimiter = ',', value_name = "NODES")]
        nodes: Vec<String>,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Debug, Subcommand)]
pub enum Requests {
    /// What waits, oldest first
    List,
    /// Take a request up as if it was made now; this ends hold mode if the request does
    Resume(Word),
    /// Answer a request as dropped; nothing else is done
    Drop(Word),
}

#[derive(Debug, Args)]
pub struct Word {
    /// The waiting request's reqid, or # and its number in the list
    #[arg(value_name = "REQID|#NUMBER")]
    pub request: String,
    #[command(flatten)]
    pub sending: Sending,
}

#[derive(Debug, Subcommand)]
pub enum Nodes {
    /// This host's nodes and how they are
    List {
        /// Also the release of each node's shim, what each uses, and what it captures where its metrics port says so
        #[arg(long)]
        wide: bool,
    },
    /// What nodes use, busiest first, and what they capture; again and again on a terminal, else once
    Top {
        /// From one look to the next
        #[arg(long, value_name = "SECS", value_parser = seconds, default_value = "2")]
        interval: u64,
        /// How many looks [default: on a terminal until it is ended, else one]
        #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..))]
        samples: Option<u32>,
    },
    /// Start nodes that were stopped by command, or try failed ones again now
    Start(NodesChange),
    /// Stop nodes until they are started or a new configuration comes
    Stop {
        #[command(flatten)]
        change: NodesChange,
        /// Also end what is left of a node whose run directory is damaged, as far as that is proven to be the node's, and set the directory aside
        #[arg(long)]
        force: bool,
    },
    /// Restart nodes
    Restart(NodesChange),
    /// What a node wrote
    Logs {
        #[arg(value_name = "NODE")]
        node: String,
        /// Go on as it writes more
        #[arg(short, long)]
        follow: bool,
        /// Its standard error instead of its standard output
        #[arg(long)]
        stderr: bool,
        /// How many of the last lines
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u64,
    },
    /// Print the value of a global variable of nodes, as JSON
    Print {
        /// The variable's name, with its module: Cluster::node
        #[arg(value_name = "ID")]
        id: String,
        /// Which nodes; none named: all
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        sending: Sending,
    },
    /// Packets that nodes received and dropped, and how far each is behind
    Netstats {
        /// Which nodes; none named: all
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        sending: Sending,
    },
    /// What was kept of a node's crashes: all of them, or one in full
    Crash {
        #[arg(value_name = "NODE")]
        node: String,
        /// The one to show, by its name in the list; the newest is `last`
        #[arg(value_name = "BUNDLE")]
        bundle: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct NodesChange {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub sending: Sending,
}

#[derive(Debug, Args)]
pub struct Which {
    #[arg(required_unless_present = "all", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// All nodes of this host (restart: but those that are stopped by command)
    #[arg(long, conflicts_with = "nodes")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Shutdown {
    /// Stop the nodes, too, even if no agent runs; the next `run` starts them again
    #[arg(long)]
    pub nodes: bool,
    #[command(flatten)]
    pub sending: Sending,
}

#[derive(Debug, Subcommand)]
pub enum StateDir {
    /// Make a state directory that is held for a copy of another one of its own
    ///
    /// A copy has the original's nodes on record. It does nothing to them, and nothing else, until this says that it is not
    /// to take the original's place but to be a directory beside it. The original's nodes run on untouched; nodes that the
    /// copy's configuration wants are started from it.
    Adopt {
        #[command(flatten)]
        sending: Sending,
    },
}

#[derive(Debug, Args)]
pub struct Notify {
    /// The node is ready
    #[arg(long, required = true)]
    pub ready: bool,
    /// Which node, where NOTIFY_SOCKET is not set
    #[arg(long, value_name = "NODE", env = "CLUSTER_NODE")]
    pub node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check a cluster file; 78 if it is not valid
    Check {
        /// Cluster file (INI or JSON), zeekctl's node.cfg, or zeek.conf; - is standard input
        file: PathBuf,
        /// Have the agent find out whether the nodes can run on its host: scripts, interfaces, ports; 1 if they cannot
        #[arg(long)]
        host: bool,
    },
    /// List the configurations that were to run on this host, newest first
    History,
    /// Print a configuration of this host's history as a cluster file
    Show {
        /// @0 is the running one, @-1 the one before; or an id
        #[arg(value_name = "@-N|ID", default_value = "@0")]
        which: String,
        /// The format
        #[arg(long, value_enum, default_value_t = ConfigFormat::Ini)]
        to: ConfigFormat,
    },
    /// Show what deploying a cluster file would do to this host's nodes, and in which order; 78 if it is not valid
    ///
    /// With two arguments, only the values are compared in which the second differs from the first.
    #[command(override_usage = "zeek-cluster-agent config diff [OPTIONS] [FROM] TO")]
    Diff {
        /// Cluster file (INI or JSON), zeekctl's node.cfg, or zeek.conf; - is standard input; @-1 is the configuration that
        /// ran before, @0 the running one
        #[arg(value_name = "FILE|@-N", required = true, num_args = 1..=2)]
        files: Vec<PathBuf>,
        /// As deploy --force would
        #[arg(long)]
        force: bool,
    },
    /// Print a cluster file in another format, with ports and instances filled in
    Convert {
        /// Cluster file (INI or JSON), zeekctl's node.cfg, or zeek.conf; - is standard input
        file: PathBuf,
        #[arg(long, value_enum)]
        to: ConfigFormat,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConfigFormat {
    Json,
    Ini,
}

#[cfg(test)]
mod tests;

//! The raw command line: what may be written, and nothing about what it leads to.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::api::head::Anchor;
use crate::settings::value::{Setting, Span};

const EXIT_CODES: &str = "Exit codes: 0 done; 1 the request or a node failed; 2 usage; 3 agent not reachable; \
4 timeout (still being handled: ask again with the same --reqid); 5 conflict (the reqid is taken by another request); \
78 bad configuration or settings.";

/// Crash-safe host agent for Zeek clusters.
///
/// Journals every request before handling it, answers each reqid once, and keeps this host's nodes running across its own
/// death. `run` is the agent; the other commands talk to it, or read what it left.
#[derive(Debug, Parser)]
#[command(name = "zeek-cluster-agent", version, after_help = EXIT_CODES, max_term_width = 110)]
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
    #[command(subcommand, after_help = EXIT_CODES)]
    Request(Request),
    /// Requests that wait since before hold mode: list them, take them up, or drop them
    #[command(subcommand, after_help = EXIT_CODES)]
    Requests(Requests),
    /// Look after this host's nodes
    #[command(subcommand)]
    Nodes(Nodes),
    /// How the agent and its nodes are; 0 once the agent serves
    #[command(after_help = EXIT_CODES)]
    Status,
    /// End the agent; its nodes run on unless --nodes is given
    #[command(after_help = EXIT_CODES)]
    Shutdown(Shutdown),
    /// Look after the state directory
    #[command(subcommand, after_help = EXIT_CODES)]
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
        /// Cluster file (INI or JSON); - is standard input
        file: PathBuf,
        /// Restart nodes even if this configuration already runs
        #[arg(long)]
        force: bool,
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
    List,
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

#[derive(Debug, Args)]
pub struct Prune {
    /// Remove what is older: 30d, 12h, 45min
    #[arg(long, value_name = "D", value_parser = span)]
    pub older_than: Option<Span>,
    /// Keep so many requests, the newest; conflicts and rejected ones count
    #[arg(long, value_name = "N")]
    pub keep: Option<u64>,
    /// Remove nothing; tell what would go, and what that would free
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum Journal {
    /// Print requests and what became of them
    Dump(Box<Dump>),
    /// Print the newest, and with -f what comes; a request that was unfinished is printed again with its outcome
    Tail(Box<Tail>),
    /// Everything about one request
    Show {
        reqid: String,
        #[command(flatten)]
        from: JournalFrom,
    },
    /// Remove the oldest entries, but no request without an outcome; the running configuration is no history, and stays
    ///
    /// Without --older-than and --keep, what retention would remove by the settings. A reqid that is gone is new again.
    Prune(Prune),
    /// How much there is, by event, source and outcome; how long requests took; how large it is
    Stats {
        #[command(flatten)]
        from: JournalFrom,
    },
    /// Make the journal's files small if they have outgrown what they hold: 16 MiB, and 6 times that
    ///
    /// Everything is copied into fresh files, which then take the place of the old ones; entries and hashes stay as they are.
    /// A running agent does it beside its work, and by itself at its start and when old entries have been removed.
    Compact {
        /// In any case
        #[arg(long)]
        force: bool,
    },
    /// Prove that no entry was altered, removed or moved; 1 if one was
    ///
    /// Every entry holds the hash of the one before it. Note the head that this prints somewhere else: with --anchor it
    /// proves later that the journal of then was not rewritten.
    Verify {
        /// A head noted earlier, SEQ:HASH or HASH: prove that this journal continues it
        #[arg(long, value_name = "HASH")]
        anchor: Option<Anchor>,
        #[command(flatten)]
        from: JournalFrom,
    },
    /// Write the whole journal to one file, with a live agent or without
    ///
    /// The file proves by its checksums and hashes that it is whole; docs/EXPORT.md describes it. Note the head that this
    /// prints: after an import, `journal verify --anchor` holds the journal against it.
    Export {
        /// Where to; - is standard output
        file: PathBuf,
        /// Overwrite FILE if there is one
        #[arg(long)]
        force: bool,
        /// For `journal import` of this earlier release (1): without what it does not know, and with hashes of its own
        #[arg(long = "for", value_name = "RELEASE", value_parser = clap::value_parser!(u8).range(1..=1))]
        release: Option<u8>,
        #[command(flatten)]
        from: JournalFrom,
    },
    /// Take in an export into a state directory whose journal is empty; the agent must not run
    ///
    /// Entries keep their hashes. Requests without an outcome are closed as abandoned, and what the host is to run does not
    /// come along: the next start is on hold until a configuration, a standby or a nodes command.
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Import {
        /// An export; - is standard input
        #[arg(group = "what")]
        file: Option<PathBuf>,
        /// Take what reads of a damaged journal instead: a copy of a state directory, or a journal that was set aside
        /// (journal.damaged-…)
        #[arg(long, value_name = "DIR", group = "what")]
        salvage: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Args)]
pub struct JournalFrom {
    /// Read this copy of a state directory instead
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Which rows.
#[derive(Debug, Args)]
pub struct Select {
    /// From this time on: as it is printed, `17:06`, `2h` (ago), `yesterday`, `yesterday 18:00`
    ///
    /// RFC 3339 and local dates and times are understood, too. A time of day is the last one, of today or yesterday.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Filters that are given several times let through what matches one of them
    #[arg(long, value_name = "ID")]
    pub reqid: Vec<String>,
    /// An event's name, with or without `agent_` and `_request`
    #[arg(long)]
    pub event: Vec<String>,
    #[arg(long, value_enum)]
    pub state: Vec<State>,
    /// Words of the source: `uid=0`, `websocket`, an address
    #[arg(long)]
    pub source: Vec<String>,
    /// What failed, conflicted or was rejected or abandoned; exits of nodes that nobody asked for
    #[arg(long)]
    pub failed: bool,
    /// What concerns this node
    #[arg(long)]
    pub node: Vec<String>,
    /// Requests, what happened to nodes, or all with the agent's own starts and stops [default: request; with --failed all]
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub from: JournalFrom,
    /// [default: table on a terminal, else json, which is one object a line]
    #[arg(long, value_enum)]
    pub format: Option<DumpFormat>,
    #[command(flatten)]
    pub select: Select,
    /// Only the newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Newest first
    #[arg(long)]
    pub reverse: bool,
    #[arg(long, value_name = "SEQ")]
    pub from_seq: Option<u64>,
    #[arg(long, value_name = "SEQ")]
    pub to_seq: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    pub from: JournalFrom,
    /// [default: table on a terminal, else json, which is one object a line]
    #[arg(long, value_enum)]
    pub format: Option<DumpFormat>,
    #[command(flatten)]
    pub select: Select,
    /// Begin with the newest N [default: 10; with a cursor file that exists, all since]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Go on with what comes, through the agent's ends and starts
    #[arg(short, long, conflicts_with = "dir")]
    pub follow: bool,
    /// Begin where this file says, and keep in it how far it came
    #[arg(long, value_name = "FILE")]
    pub cursor_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    Table,
    Json,
    Csv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Accepted,
    Handling,
    Completed,
    Conflict,
    Rejected,
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Request,
    Node,
    All,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check a cluster file; 78 if it is not valid
    Check {
        /// Cluster file (INI or JSON), zeekctl's node.cfg, or zeek.conf; - is standard input
        file: PathBuf,
    },
    /// Show what deploying a cluster file would do to this host's nodes; 78 if it is not valid
    Diff {
        /// Cluster file (INI or JSON), zeekctl's node.cfg, or zeek.conf; - is standard input
        file: PathBuf,
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
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_of_the_contract_parse() {
        for line in [
            "run --config f --state-dir d --name n --control-socket s --websocket off --listen 1.2.3.4:5 \
             --controller off --node-program p --simulate-nodes --log-format json",
            "run --websocket 127.0.0.1:0 --insecure",
            "request set-configuration - --reqid r --timeout 2.5 --json --via ws://127.0.0.1:1",
            "request deploy f --force --reqid r",
            "request welcome --timeout 1",
            "request standby",
            "request get-nodes --reqid g",
            "request restart w1 w2",
            "request restart",
            "request get-id-value x --nodes a,b",
            "requests list --json",
            "requests resume r --reqid s",
            "requests drop #17",
            "nodes list",
            "nodes start a b",
            "nodes start --all",
            "nodes restart --all --reqid r",
            "nodes stop a",
            "nodes stop a --force",
            "nodes restart a --reqid r",
            "nodes logs a -f --stderr",
            "nodes crash a",
            "nodes crash a last --json",
            "status --json",
            "shutdown --nodes",
            "state adopt --reqid r",
            "notify --ready",
            "settings -v -q --color never",
            "journal dump --format csv --since 2h --until yesterday --reqid r --event e --state conflict --source s \
             --failed --node n -n 3 --reverse --from-seq 1 --to-seq 2 --kind all --dir d",
            "journal show r --dir d",
            "journal verify",
            "journal export - --dir d",
            "journal import f",
            "config check f",
            "config convert f --to ini",
            "config diff f --force",
            "completions bash",
            "man",
            "man --dir d",
            "complete --for bash -- nodes --js",
            "demo",
        ] {
            let words = std::iter::once("zeek-cluster-agent").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "",
            "nodes start",
            "nodes stop a --all",
            "notify",
            "request deploy",
            "request welcome --timeout 0",
            "frobnicate",
        ] {
            let words = std::iter::once("zeek-cluster-agent").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line:?} was accepted");
        }
    }

    #[test]
    fn exit_codes_are_told_where_they_matter() {
        for path in [&[][..], &["request"], &["status"], &["shutdown"]] {
            let mut command = Cli::command();
            let mut here = &mut command;
            for name in path {
                here = here.find_subcommand_mut(name).unwrap();
            }
            assert!(here.render_help().to_string().contains("5 conflict"), "{path:?}");
        }
    }

    #[test]
    fn timeouts_are_seconds_with_fractions() {
        assert_eq!(seconds("2.5"), Ok(2500));
        assert_eq!(seconds("0.0001"), Ok(1));
        for bad in ["0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}

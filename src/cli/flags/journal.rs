//! The flags of `journal`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::span;
use crate::api::head::Anchor;
use crate::settings::value::Span;

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

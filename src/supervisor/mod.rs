//! Supervision, the mechanism: runs the host's nodes under shims, finds again what an earlier agent left running.
//!
//! Answers for [`NodeOrder`](crate::api::supervision::NodeOrder)s in, [`NodeEvent`](crate::api::supervision::NodeEvent)s
//! out, and for design section 4 as far as it is about processes. Promises: a node is never started while a process of it
//! may live; a process that is not proven ours is never signalled; no end goes unreported. Leaves to the core: all policy
//! (what to start and when, restarts, deadlines of readiness), and to the journal: what happened.
//!
//! ```text
//!   agent                                            one per node
//!   Handle ─order→ Slot ─→ task ──launch──────────→  shim ──fork──→ node
//!     ↑                     │ ↑   run/<name>/lock     │ ↑ pipes, pidfd, NOTIFY_SOCKET
//!   NodeEvent ←─────────────┘ └── run/<name>/socket ──┘ └→ run/<name>/status, nodes/<name>/stdout
//! ```
//!
//! - [`shim`] is the process between agent and node, and ends what the node leaves; [`protocol`] what it says to the agent; [`files`] what both write down;
//!   [`sys`] what needs `unsafe`; [`output`] and [`notify`] its ears.
//! - [`launch`] takes the lock and spawns shims, unless [`ports`] are taken; [`adopt`] finds out what is left of a node; [`process`] proves.
//! - [`set_aside`] has a damaged run directory out of the way, once nothing of its node is left.
//! - [`rights`] is what a process takes on before it becomes a node; [`ownership`] makes the node's directory its user's.
//! - [`node_files`] writes what a node finds in its directory; [`probe`] asks a program what it is.
//! - [`crash`] keeps what is left of a node that ended unasked; [`job`] runs a program now and then, and never twice at once.
//! - [`task`] is the event loop per node, [`handle`] the way to all of them.
//! - [`simulated`] is what a stand-in for Zeek is started as, and what it needs of the kernel.

mod adopt;
mod aside;
pub(crate) mod crash;
mod fault;
mod files;
mod handle;
pub(crate) mod job;
mod launch;
mod link;
mod node_files;
mod notify;
mod orders;
pub(crate) mod output;
mod ownership;
mod ports;
pub(crate) mod probe;
mod process;
mod protocol;
mod rights;
mod set_aside;
mod shim;
pub(crate) mod simulated;
mod start_step;
mod sys;
mod task;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use handle::Handle;
pub use ownership::give;
pub use process::{Home, boot_id};
pub use shim::NAME as SHIM_NAME;

use crate::api::ids::NodeName;
use crate::api::rights::OpenFiles;

/// What the supervisor has to know of its host.
#[derive(Debug, Clone)]
pub struct Options {
    /// Holds `run/<name>/`. Absolute.
    pub state_dir: PathBuf,
    /// Holds the nodes' working directories. Absolute.
    pub node_dir: PathBuf,
    /// Where the state directory is and was. Without paths: where it is now.
    pub home: Home,
    /// The state directory is a copy of another: nothing is signalled until [`Handle::disown`].
    pub is_copy: bool,
    /// What shims execute; opened once, so that an upgrade may replace the file.
    pub executable: PathBuf,
    /// What nodes inherit, before anything is taken away or laid over.
    pub environment: Vec<(OsString, OsString)>,
    pub(crate) crash: crash::Options,
    /// The nodes' file mode creation mask; the agent's own if there is none.
    pub umask: Option<u32>,
    /// The nodes' limit, where they are given no other; the agent's own if there is none.
    pub open_files: Option<OpenFiles>,
    /// Where nodes reach this run of the agent over Broker. Not part of what a node is launched with: it may be another in
    /// the next run.
    pub agent_address: Option<SocketAddr>,
    /// What simulated nodes are told beside that.
    pub simulated_env: Vec<(OsString, OsString)>,
}

impl Options {
    /// The defaults below `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let state_dir = state_dir.into();
        Self {
            node_dir: state_dir.join("nodes"),
            state_dir,
            home: Home::default(),
            is_copy: false,
            executable: "/proc/self/exe".into(),
            environment: std::env::vars_os().collect(),
            crash: crash::Options { keep: 10, keep_for: Duration::from_secs(30 * 24 * 3600), space_floor: 0 },
            umask: None,
            open_files: None,
            agent_address: None,
            simulated_env: Vec::new(),
        }
    }
}

/// Why there is no supervision at all. What concerns one node is a [`NodeEvent`](crate::api::supervision::NodeEvent).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's executable cannot be opened.
    #[error("cannot open the agent's own executable {path}, from which shims are started; install it there again")]
    Executable {
        /// As [`Options::executable`] has it.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The id of this boot cannot be read, without which no process can be told from its successor.
    #[error("cannot read this boot's id; is /proc mounted?")]
    BootId(#[source] io::Error),
    /// `run/` or the nodes' directory cannot be made.
    #[error("cannot create the directory {path}; the agent needs the rights to do so")]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The state directory has no canonical path.
    #[error("cannot tell where the state directory {path} is")]
    Home {
        /// As [`Options::state_dir`] has it.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It cannot be found out which nodes there were.
    #[error("cannot list the nodes' run directories in {path}")]
    ListRun {
        /// The `run` directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It cannot be found out which processes there are.
    #[error("cannot look through /proc for processes of nodes; is it mounted?")]
    ListProcesses(#[source] io::Error),
}

/// What all nodes' tasks share and none changes.
#[derive(Debug)]
struct Context {
    options: Options,
    executable: File,
    boot_id: String,
    run: PathBuf,
    home: Home,
    /// See [`Handle::spare_all`].
    is_copy: AtomicBool,
}

impl Context {
    fn open(options: Options) -> Result<Self, Error> {
        let executable = File::open(&options.executable)
            .map_err(|source| Error::Executable { path: options.executable.clone(), source })?;
        let boot_id = process::boot_id().map_err(Error::BootId)?;
        let run = options.state_dir.join("run");
        for path in [&run, &options.node_dir] {
            create_private(path).map_err(|source| Error::CreateDirectory { path: path.clone(), source })?;
        }
        let mut home = options.home.clone();
        if home.paths.is_empty() {
            let path = fs::canonicalize(&options.state_dir);
            home.paths.push(path.map_err(|source| Error::Home { path: options.state_dir.clone(), source })?);
        }
        let is_copy = AtomicBool::new(options.is_copy);
        Ok(Self { options, executable, boot_id, run, home, is_copy })
    }

    /// Whether nothing may be signalled: what is on record may be another directory's.
    fn is_copy(&self) -> bool {
        self.is_copy.load(Ordering::Acquire)
    }

    fn run_dir(&self, node: &NodeName) -> PathBuf {
        self.run.join(node.as_str())
    }

    fn node_dir(&self, node: &NodeName) -> PathBuf {
        self.options.node_dir.join(node.as_str())
    }
}

/// Creates a directory, and those above it, for this user alone: environments and output are in there.
fn create_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Runs the process as a shim or a job, if it was started as one. To be called first in `main`, while there is one thread and nothing
/// was done.
pub fn hidden_mode(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    match args.next()?.to_str()? {
        shim::NAME => Some(shim::main(args)),
        job::NAME => Some(job::main(args)),
        _ => None,
    }
}

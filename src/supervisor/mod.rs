//! Supervision, the mechanism: runs the host's nodes under shims, and finds those that an earlier agent left running.
//!
//! Takes [`NodeOrder`](crate::api::supervision::NodeOrder)s and gives
//! [`NodeEvent`](crate::api::supervision::NodeEvent)s; implements design section 4 as far as it is about processes.
//! Promises: a node is never started while a process of it may be alive; a process that is not proven ours is never
//! signalled; no end goes unreported. Leaves to the core all policy (what to start and when, restarts, deadlines of
//! readiness), and to the journal the history.
//!
//! ```text
//!   agent                                            one per node
//!   Handle ─order→ Slot ─→ task ──launch──────────→  shim ──fork──→ node
//!     ↑                     │ ↑   run/<name>/lock     │ ↑ pipes, pidfd, NOTIFY_SOCKET
//!   NodeEvent ←─────────────┘ └── run/<name>/socket ──┘ └→ run/<name>/status, nodes/<name>/stdout
//! ```
//!
//! - [`shim`] is the process between agent and node, and ends what the node leaves; [`protocol`] is what it says to the
//!   agent; [`files`] are what both write; [`sys`] is what needs `unsafe`; [`output`] and [`notify`] receive what the
//!   node says.
//! - [`launch`] takes the lock and spawns shims, unless [`ports`] are taken; [`adopt`] finds what is left of a node;
//!   [`process`] proves identities.
//! - [`set_aside`] moves a damaged run directory away once nothing of its node is left.
//! - [`systemd`] has each shim put into a scope, where there is systemd; [`cgroup`] is what a shim makes of it.
//! - [`rights`] are what a process takes on before it becomes a node; [`ownership`] gives the node's directory to its
//!   user.
//! - [`node_files`] writes files into a node's directory; [`probe`] asks a program for its version.
//! - [`crash`] keeps what is left of a node after an unrequested end; [`job`] runs a program from time to time, and
//!   never twice at once.
//! - [`task`] is the event loop per node, [`handle`] the interface to all of them.
//! - [`simulated`] has the name and argument of a simulated node, and what it needs of the kernel.

mod adopt;
mod aside;
mod cgroup;
mod channel_dir;
pub mod check;
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
pub(crate) mod ports;
pub(crate) mod probe;
mod process;
mod protocol;
mod rights;
mod secrets;
mod set_aside;
mod shim;
pub(crate) mod simulated;
mod start_step;
mod sys;
mod systemd;
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
pub use orders::NodeCgroups;
pub use ownership::give;
pub use process::{Home, boot_id};
pub use shim::NAME as SHIM_NAME;
pub(crate) use sys::is_open_for_writing;

use crate::api::ids::NodeName;
use crate::api::rights::OpenFiles;
use crate::regular_file;

use systemd::Systemd;

/// What the supervisor needs to know about its host.
#[derive(Debug, Clone)]
pub struct Options {
    /// Holds `run/<name>/`. Absolute.
    pub state_dir: PathBuf,
    /// Holds the nodes' working directories. Absolute.
    pub node_dir: PathBuf,
    /// The present and former paths of the state directory. Without paths: the present one.
    pub home: Home,
    /// The state directory is a copy of another: nothing is signalled until [`Handle::disown`].
    pub is_copy: bool,
    /// The agent's own executable: it runs jobs and simulated nodes. Opened once, so that an upgrade may replace the
    /// file.
    pub executable: PathBuf,
    /// The executable of shims, opened once as well; `None`: `zca-shim` beside the agent's own, or the agent's own if
    /// there is none.
    pub shim: Option<PathBuf>,
    /// systemd runs this agent: each node is to have a scope of its own, if that is possible. The state directory's id,
    /// by which those of several agents differ.
    pub scopes: Option<String>,
    /// The environment that nodes inherit, before variables are removed or overlaid.
    pub environment: Vec<(OsString, OsString)>,
    pub(crate) crash: crash::Options,
    /// The nodes' file mode creation mask; `None`: that of the agent.
    pub umask: Option<u32>,
    /// The nodes' limit, unless they have their own; `None`: that of the agent.
    pub open_files: Option<OpenFiles>,
    /// Where nodes reach this run of the agent over Broker. Not part of a node's launch spec: it may differ in the next
    /// run.
    pub agent_address: Option<SocketAddr>,
    /// Additional environment of simulated nodes.
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
            shim: None,
            scopes: None,
            environment: std::env::vars_os().collect(),
            crash: crash::Options { keep: 10, keep_for: Duration::from_secs(30 * 24 * 3600), space_floor: 0 },
            umask: None,
            open_files: None,
            agent_address: None,
            simulated_env: Vec::new(),
        }
    }
}

/// Why supervision is impossible as a whole. Faults of one node are [`NodeEvent`](crate::api::supervision::NodeEvent)s.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's executable cannot be opened.
    #[error("cannot open the agent's own executable {path}, from which shims are started; install it there again")]
    Executable {
        /// See [`Options::executable`].
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// There is an executable for shims, and it cannot be used.
    #[error("cannot open {path}, from which shims are started; install it again, in the agent's release")]
    Shim {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The id of this boot cannot be read. Without it, no process can be distinguished from a later one with the same
    /// pid.
    #[error("cannot read this boot's id; is /proc mounted?")]
    BootId(#[source] io::Error),
    /// `run/` or the nodes' directory cannot be created.
    #[error("cannot create the directory {path}; the agent needs the rights to do so")]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The state directory has no canonical path.
    #[error("cannot tell where the state directory {path} is")]
    Home {
        /// See [`Options::state_dir`].
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The list of nodes cannot be read.
    #[error("cannot list the nodes' run directories in {path}")]
    ListRun {
        /// The `run` directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The list of processes cannot be read.
    #[error("cannot look through /proc for processes of nodes; is it mounted?")]
    ListProcesses(#[source] io::Error),
}

/// Shared by all nodes' tasks and changed by none.
#[derive(Debug)]
struct Context {
    options: Options,
    executable: File,
    /// The program of shims; `None`: the agent's own executable.
    shim: Option<File>,
    /// The host's service manager, if it is systemd and runs this agent.
    systemd: Option<Systemd>,
    /// It gives nodes scopes.
    gives_scopes: bool,
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
        let shim = open_shim(&options)?;
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
        let systemd = options.scopes.as_deref().filter(|_| Systemd::is_here()).map(Systemd::new);
        let gives_scopes = options.scopes.is_some() && gives_scopes();
        Ok(Self { options, executable, shim, systemd, gives_scopes, boot_id, run, home, is_copy })
    }

    /// Whether nothing may be signalled: the records may belong to another directory.
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

/// Opens the program of shims, unless the agent's own executable has to do.
fn open_shim(options: &Options) -> Result<Option<File>, Error> {
    let path = match &options.shim {
        Some(path) => path.clone(),
        None => {
            let own = fs::read_link(&options.executable).unwrap_or_else(|_| options.executable.clone());
            own.with_file_name(shim::NAME)
        }
    };
    match File::open(&path).and_then(regular_file::check) {
        Ok(shim) => Ok(Some(shim)),
        Err(error) if options.shim.is_none() && error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!("{} is missing, so shims are the agent's own program and need more memory", path.display());
            Ok(None)
        }
        Err(source) => Err(Error::Shim { path, source }),
    }
}

/// Whether nodes get scopes on this host; if not, the log says why.
fn gives_scopes() -> bool {
    match Systemd::obstacle() {
        None => true,
        Some(obstacle) => {
            tracing::info!(
                "nodes run in the agent's own cgroup, without scopes of systemd ({obstacle}): node_memory_max and node_cpu_weight have no \
                 effect"
            );
            false
        }
    }
}

/// Creates a directory and its parents for this user alone: they will hold environments and output.
fn create_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Runs the process as a shim or a job, if it was started as one. Must be called first in `main`, while there is one
/// thread and before anything else is done.
pub fn hidden_mode(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    match args.next()?.to_str()? {
        shim::NAME => Some(shim::main(args)),
        job::NAME => Some(job::main(args)),
        check::NAME => Some(check::main()),
        _ => None,
    }
}

//! What the core orders of the supervisor, and what the supervisor reports back.

use std::path::PathBuf;

use super::ids::{Incarnation, NodeName, Seq};
use super::launch::{ExitCause, LaunchSpec, ProcessId};
use super::survivors::Survivors;

/// An order about one node. Each may be given twice and then does no more than once: the incarnation says which start
/// is meant. The newest order of a kind replaces an older one, so none ever waits in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeOrder {
    /// Take the lock, bind the shim's socket, write the launch file. Answered by `Prepared`, `Blocked`, `PortTaken` or
    /// `Exited` with [`ExitCause::NotStarted`].
    Prepare {
        /// The start that is meant.
        incarnation: Incarnation,
        /// How to run it.
        spec: Box<LaunchSpec>,
        /// The entry that wanted this start.
        by: Seq,
    },
    /// Spawn the shim of the prepared incarnation; its intent is durable. Answered by `Started` or `Exited`.
    Launch {
        /// The start that is meant.
        incarnation: Incarnation,
    },
    /// TERM, after `timeout_ms` KILL, to the node and what descends from it; the shim sees to it. Answered by `Exited` when
    /// nothing is left, by `Left` when something could not be ended. Given again, it is tried again.
    Stop {
        /// The start that is meant.
        incarnation: Incarnation,
        /// Milliseconds from TERM to KILL.
        timeout_ms: u64,
    },
    /// Nothing of this node is wanted, and something may have its lock: look again, and end what is provably the node's.
    /// Answered by `Cleared`, after an `Exited` if the end of this incarnation was not told before, or by `Blocked`.
    Clear {
        /// The last start on record.
        incarnation: Incarnation,
    },
    /// Have nothing left of this node, whatever is wrong with its run directory: end what is provably the node's, TERM and after
    /// `timeout_ms` KILL, then move the directory to where nothing looks. Answered by `SetAside`, after an `Exited` if the end
    /// of this incarnation was not told before, or by `NotSetAside`.
    SetAside {
        /// The last start on record.
        incarnation: Incarnation,
        /// Milliseconds from TERM to KILL.
        timeout_ms: u64,
    },
    /// This incarnation ended unasked: keep a crash bundle of it.
    KeepCrash {
        /// The start that ended.
        incarnation: Incarnation,
    },
    /// The exit of this incarnation is durable: the shim may go.
    AcknowledgeExit {
        /// The start that ended.
        incarnation: Incarnation,
    },
    /// What is on record of it is another state directory's: forget that.
    Disown,
    /// The node was removed: delete its run directory.
    Forget {
        /// The last start on record.
        incarnation: Incarnation,
    },
}

/// What became known about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// The node's name.
    pub node: NodeName,
    /// The start that it is about.
    pub incarnation: Incarnation,
    /// What happened.
    pub what: NodeHappening,
}

/// What can happen to one start of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeHappening {
    /// As [`NodeOrder::Prepare`] ordered: lock, socket and launch file are there.
    Prepared,
    /// Nothing was started because something that is not proven ours holds the node's lock.
    Blocked {
        /// Who holds the lock, as far as it is known.
        reason: String,
    },
    /// Nothing was started because another process listens on a port that the node needs.
    PortTaken {
        /// Which port, and who listens there.
        reason: String,
    },
    /// The node's program runs.
    Started {
        /// The node's own process, not its shim.
        process: ProcessId,
    },
    /// Its shim has introduced itself. Shims of the first release have no release to tell.
    Shim {
        /// The shim's release.
        release: String,
    },
    /// READY=1 on its NOTIFY_SOCKET.
    Ready,
    /// The process is gone and reaped, or proven gone; with the tail of its output.
    Exited {
        /// How it ended.
        cause: ExitCause,
        /// The process that ended; `None` if it never ran or is not on record.
        process: Option<ProcessId>,
        /// The last of its standard output.
        stdout: String,
        /// The last of its standard error.
        stderr: String,
        /// It was not started, and that will not pass by itself: rights, or a file that is no program.
        is_lasting: bool,
    },
    /// The node itself has ended, and these processes that it left could not be ended. `Exited` comes when they are gone.
    Left {
        /// The processes that are left.
        survivors: Survivors,
    },
    /// Its shim is of the first release, which ends the node's process group alone. Comes before `Exited`; what else has the
    /// node's lock is looked for when that shim has gone, and `Cleared` or `Blocked` tells what came of it.
    HoldersOnly,
    /// Nobody has the node's lock.
    Cleared,
    /// Nothing of it is left, and its run directory is out of the way.
    SetAside {
        /// Its path now; `None`: there was no run directory.
        path: Option<PathBuf>,
    },
    /// Its run directory is where it was; something that is not proven ours may hold it.
    NotSetAside {
        /// Who holds it, or what failed.
        reason: String,
    },
    /// So many bytes of this incarnation's output could not be written. With a reason when it begins.
    Dropped {
        /// The total for this incarnation.
        bytes: u64,
        /// Why the first of them could not be; `None` in later reports.
        reason: Option<String>,
    },
    /// Nothing of it is left, as was ordered.
    Forgotten,
    /// The shim has not answered for 5 s, or answers again.
    Silent,
    /// The shim answers again.
    Responsive,
}

/// What is left of a node from an earlier run of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// No process of it is left, and no exit report either.
    Absent,
    /// Its shim answered and is connected again; `process` is `None` while the shim has not forked yet.
    Adopted {
        /// Which start of the node runs.
        incarnation: Incarnation,
        /// The node's own process.
        process: Option<ProcessId>,
        /// It has told its shim that it is ready.
        ready: bool,
        /// How it was started.
        spec: Box<LaunchSpec>,
    },
    /// It ended and its shim left, or offers, a report nobody has acknowledged.
    Exited {
        /// Which start of the node ended.
        incarnation: Incarnation,
        /// The process that ended; `None` if it never ran.
        process: Option<ProcessId>,
        /// How it ended.
        cause: ExitCause,
        /// The last of its standard output.
        stdout: String,
        /// The last of its standard error.
        stderr: String,
        /// As in [`NodeHappening::Exited`].
        is_lasting: bool,
    },
    /// A process that is on record for it lives and belongs to another state directory, of which this one is a copy.
    Foreign {
        /// The foreign process.
        pid: u32,
        /// How that was found out, and what to do.
        reason: String,
        /// That directory, if it could be found out.
        state_dir: Option<PathBuf>,
        /// The process works in the directory in which ours would.
        works_here: bool,
    },
    /// The lock is held by a process that could not be proven ours: it is left alone.
    Unprovable {
        /// Who holds the lock, as far as it is known, and what to do.
        reason: String,
    },
}

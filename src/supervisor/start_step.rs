//! The steps between a fork and the exec of the program, and how the child reports one that failed.

use std::io;

/// A failed step before the program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStep {
    Session,
    Directory,
    Descriptors,
    OomScore,
    Affinity,
    Limits,
    User,
    Capabilities,
    ParentDeathSignal,
    Execute,
    Cgroup,
    Nice,
}

impl StartStep {
    const ALL: [Self; 12] = [
        Self::Session,
        Self::Directory,
        Self::Descriptors,
        Self::OomScore,
        Self::Affinity,
        Self::Limits,
        Self::User,
        Self::Capabilities,
        Self::ParentDeathSignal,
        Self::Execute,
        Self::Cgroup,
        Self::Nice,
    ];
    /// The length of a report.
    pub const REPORT: usize = 5;

    /// Whether the program runs nevertheless.
    pub fn is_warning(self) -> bool {
        matches!(self, Self::OomScore | Self::Affinity | Self::Cgroup | Self::Nice)
    }

    pub(super) fn report(self, error: &io::Error) -> [u8; Self::REPORT] {
        let [a, b, c, d] = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
        [self as u8, a, b, c, d]
    }

    /// Reads one report that the child wrote on `failure`.
    pub fn parse(bytes: &[u8]) -> Option<(Self, io::Error)> {
        let (step, errno) = bytes.split_first()?;
        let step = *Self::ALL.get(usize::from(*step))?;
        Some((step, io::Error::from_raw_os_error(i32::from_ne_bytes(errno.try_into().ok()?))))
    }
}

impl std::fmt::Display for StartStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Session => "cannot give it a session of its own",
            Self::Directory => "cannot go to its directory",
            Self::Descriptors => "cannot set up its descriptors",
            Self::OomScore => "cannot set oom_score_adj to 0",
            Self::Affinity => "cannot pin it to its CPU",
            Self::Limits => "cannot set its limits (node_open_files, node_core)",
            Self::User => "cannot become its user",
            Self::Capabilities => {
                "cannot leave it with just its capabilities (does the agent have them itself, and CAP_SETPCAP?)"
            }
            Self::ParentDeathSignal => "cannot tie its life to its shim's",
            Self::Execute => "cannot execute it",
            Self::Cgroup => "cannot enter its cgroup, so a stop finds its processes by their parents alone",
            Self::Nice => "cannot set node_nice",
        })
    }
}

//! The exit codes of all commands, in one place. Scripts and the service manager rely on the numbers.

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done.
    Done,
    /// The request or a node failed.
    Failed,
    /// The command line has a mistake.
    Usage,
    /// No agent answers.
    Unreachable,
    /// The answer did not come in time.
    Timeout,
    /// The reqid belongs to another request.
    Conflict,
    /// A cluster file or a setting has a mistake, or another release wrote the state directory: what does not change by trying
    /// again, so the service manager does not either (`EX_CONFIG` of sysexits.h).
    Configuration,
}

impl Exit {
    /// All of them, by their numbers.
    pub const ALL: [Self; 7] =
        [Self::Done, Self::Failed, Self::Usage, Self::Unreachable, Self::Timeout, Self::Conflict, Self::Configuration];

    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Timeout => 4,
            Self::Conflict => 5,
            Self::Configuration => 78,
        }
    }

    /// What it means, for the help pages.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "the request or a node failed",
            Self::Usage => "usage",
            Self::Unreachable => "agent not reachable",
            Self::Timeout => "timeout (still being handled: ask again with the same --reqid)",
            Self::Conflict => "conflict (the reqid is taken by another request)",
            Self::Configuration => "bad configuration or settings",
        }
    }
}

//! How a command ends: its exit code, and what it says on stderr if it could not do what it was told.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use crate::api::report::chain;
use crate::settings::Problem;
use crate::terminal::to_stderr;

pub use crate::api::exit::Exit;

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// With this message on stderr.
    Said { exit: Exit, message: String },
    /// Standard output does not take more. A closed pipe is a reader that has seen enough, and no failure.
    Output(io::Error),
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Said { exit, message: message.into() }
    }

    /// With an error and its causes.
    pub fn because(exit: Exit, what: impl Display, error: &dyn std::error::Error) -> Self {
        Self::new(exit, format!("{what}: {}", chain(error)))
    }
}

/// Only a name that the name service may know later is worth another start.
impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem {
            Problem::Unknown { .. } => Exit::Failed,
            Problem::File { .. } | Problem::UnknownKey { .. } | Problem::Value { .. } => Exit::Configuration,
        };
        Self::new(exit, problem.to_string())
    }
}

/// Only writing to standard output is passed on as it is.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

pub type Outcome = Result<Exit, Failure>;

/// The exit code of an outcome, after saying on stderr what there is to say.
pub fn conclude(outcome: Result<ExitCode, Failure>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(failure) => exit_of(failure).into(),
    }
}

fn exit_of(failure: Failure) -> Exit {
    match failure {
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Failure::Output(error) => {
            to_stderr!("zeek-cluster-agent: cannot write to standard output: {error}");
            Exit::Failed
        }
        Failure::Said { exit, message } => {
            to_stderr!("zeek-cluster-agent: {message}");
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_success_and_other_trouble_is_not() {
        assert_eq!(exit_of(Failure::Output(io::ErrorKind::BrokenPipe.into())), Exit::Done);
        assert_eq!(exit_of(Failure::Output(io::ErrorKind::StorageFull.into())), Exit::Failed);
        assert_eq!(exit_of(Failure::new(Exit::Conflict, "x")), Exit::Conflict);
    }
}

//! Why a node was not started, and whether trying again may help.
//!
//! Nearly every fault is temporary: a program that is being replaced, a shortage of descriptors, memory or space, a
//! file system that is not mounted. The exceptions are permissions and a file that is not a program: somebody has to
//! fix them.

use std::error::Error;
use std::io;

use rustix::io::Errno;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: String,
    /// It stays until somebody fixes it.
    pub is_lasting: bool,
}

impl Fault {
    /// Classifies `error` and the errors that caused it.
    pub fn of(reason: String, error: &(dyn Error + 'static)) -> Self {
        Self { reason, is_lasting: is_lasting(error) }
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self { reason, is_lasting: false }
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.reason
    }
}

fn lasts(error: Errno) -> bool {
    [Errno::ACCESS, Errno::PERM, Errno::NOEXEC].contains(&error)
}

fn is_lasting(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error).is_some_and(lasts);
        }
        if let Some(errno) = error.downcast_ref::<Errno>() {
            return lasts(*errno);
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_files_that_are_no_programs_last_and_everything_else_passes() {
        use Errno as E;
        let all = [
            (E::MFILE, false),
            (E::NFILE, false),
            (E::NOMEM, false),
            (E::AGAIN, false),
            (E::NOSPC, false),
            (E::IO, false),
            (E::STALE, false),
            (E::TXTBSY, false),
            (E::NOENT, false),
            (E::ACCESS, true),
            (E::PERM, true),
            (E::NOEXEC, true),
        ];
        for (errno, lasting) in all {
            let behind =
                super::super::files::FileError::Io { operation: "write", path: "/run/x".into(), source: errno.into() };
            assert_eq!(Fault::of(String::new(), &behind).is_lasting, lasting, "{errno}");
            assert_eq!(Fault::of(String::new(), &errno).is_lasting, lasting, "{errno}");
        }
        let invalid = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        assert!(!Fault::of(String::new(), &invalid).is_lasting);
    }
}

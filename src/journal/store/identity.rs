//! `IDENTITY`: which agent a state directory belongs to, and its path. Written after the directory's journal was first
//! opened, and again when the directory was moved, is found to be a copy, or stops being one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{FileError, StateDir, sync_dir};
use crate::api::ids::InstanceName;
use crate::regular_file;

/// The file's name in the state directory.
pub const FILE: &str = "IDENTITY";

/// The newest layout of a state directory that this build knows.
pub const IDENTITY_FORMAT: u32 = 1;

/// No IDENTITY is longer; a file that is was not written by an agent. The first release has the same limit.
const LIMIT: u64 = 4096;
/// The length to which a reason is cut, so that it fits.
const REASON_LIMIT: usize = 1024;

/// What `IDENTITY` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The layout of the state directory: see [`IDENTITY_FORMAT`].
    pub format: u32,
    /// The agent whose directory it is.
    pub name: InstanceName,
    /// Random, made with the directory: tells two directories of one name apart.
    pub id: String,
    /// Its canonical path at the newest start. The first release neither writes nor keeps one. Also `None` if the path
    /// is not valid text, or too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why it is considered a copy of another directory, until an operator declares it a directory of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<String>,
}

impl Identity {
    /// The identity of a new directory.
    pub fn new(name: &InstanceName, path: Option<&Path>) -> Self {
        let identity = Self { format: IDENTITY_FORMAT, name: name.clone(), id: fresh_id(), path: None, copied: None };
        Self { path: path.and_then(|path| identity.path_to_record(path)), ..identity }
    }

    /// The path as it is recorded, if it can be.
    pub fn path_to_record(&self, path: &Path) -> Option<String> {
        let path = path.to_str()?.to_owned();
        // Quoting at most doubles a text, except for control characters, which take six bytes each.
        let longest = Self { path: Some(path.clone()), copied: Some("\\".repeat(REASON_LIMIT)), ..self.clone() };
        (longest.to_text().len() as u64 <= LIMIT).then_some(path)
    }

    /// The reason as it is stored.
    pub fn reason_to_keep(reason: &str) -> String {
        let mut kept = String::new();
        for c in reason.chars().map(|c| if c.is_control() { '?' } else { c }) {
            if kept.len() + c.len_utf8() > REASON_LIMIT {
                break;
            }
            kept.push(c);
        }
        kept
    }

    fn to_text(&self) -> String {
        toml::to_string(self).expect("a number and a few texts are TOML")
    }
}

/// Tells two directories of one name apart.
pub fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Why a state directory is not this agent's, or its owner is unknown.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Exit 78.
    #[error(
        "the state directory {dir} belongs to agent {found}, not to {wanted}: give --name {found}, or another \
         --state-dir; nothing was touched"
    )]
    Name {
        /// The state directory.
        dir: String,
        /// The agent that it belongs to.
        found: InstanceName,
        /// The name that the agent was started with.
        wanted: InstanceName,
    },
    /// Exit 78.
    #[error(
        "the state directory {dir} has format {found}, and this release knows formats up to {IDENTITY_FORMAT}: run the newer \
         release again; nothing was touched"
    )]
    Newer {
        /// The state directory.
        dir: String,
        /// The format of its layout.
        found: u32,
    },
    /// The file was edited by hand, or damaged.
    #[error(
        "{path} is not readable as an agent's identity ({problem}): restore it from a backup, or remove it and start the agent with the --name that this directory had: that writes \
         it again, and the journal stays"
    )]
    Malformed {
        /// The file's path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file cannot be read or written.
    #[error("{what} {path} failed")]
    Io {
        /// What was being done, as the beginning of a sentence.
        what: &'static str,
        /// To which file.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.display().to_string();
    move |source| IdentityError::Io { what, path, source }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Whether the directory is initialised, whatever the file says.
pub(in crate::journal) fn exists(state_dir: &StateDir) -> Result<bool, FileError> {
    path(state_dir.path()).try_exists().map_err(FileError::at("looking for the identity in", state_dir.path()))
}

/// The directory's identity; `None` if it has none yet.
pub fn read(state_dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = path(state_dir);
    let malformed = |problem: String| IdentityError::Malformed { path: path.display().to_string(), problem };
    let length = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("looking at", &path)(error)),
    };
    if length > LIMIT {
        return Err(malformed(format!("it has {length} bytes")));
    }
    let mut bytes = Vec::new();
    let read = regular_file::read(&path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes));
    read.map_err(failed("reading", &path))?;
    let text = String::from_utf8(bytes).map_err(|_| malformed("it is not text".to_owned()))?;
    // The format first: a newer one may encode the rest differently.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = toml::from_str(&text).map_err(|error| malformed(error.message().to_owned()))?;
    if format > IDENTITY_FORMAT {
        return Err(IdentityError::Newer { dir: state_dir.display().to_string(), found: format });
    }
    toml::from_str(&text).map(Some).map_err(|error| malformed(error.message().to_owned()))
}

/// Like [`read`], but the directory has to belong to `name`.
pub fn check(state_dir: &Path, name: &InstanceName) -> Result<Option<Identity>, IdentityError> {
    match read(state_dir)? {
        Some(identity) if identity.name != *name => Err(IdentityError::Name {
            dir: state_dir.display().to_string(),
            found: identity.name,
            wanted: name.clone(),
        }),
        known => Ok(known),
    }
}

/// Assigns the directory to `name`, durably. From here on a missing journal is a loss and not a first start.
pub fn create(state_dir: &Path, name: &InstanceName) -> Result<Identity, IdentityError> {
    let identity = Identity::new(name, fs::canonicalize(state_dir).ok().as_deref());
    write(state_dir, &identity)?;
    Ok(identity)
}

/// Replaces the directory's identity, durably.
pub fn write(state_dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let text = identity.to_text();
    let aside = state_dir.join("IDENTITY.new");
    let write = || -> io::Result<()> {
        let mut file: File = regular_file::rewrite(&aside, 0o644)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path(state_dir))?;
        sync_dir(state_dir)
    };
    write().map_err(failed("writing", &path(state_dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> InstanceName {
        InstanceName::new(text).unwrap()
    }

    #[test]
    fn a_directory_belongs_to_the_first_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path(), &name("a")).unwrap(), None);
        let created = create(dir.path(), &name("a")).unwrap();
        assert_eq!(check(dir.path(), &name("a")).unwrap(), Some(created));
        let error = check(dir.path(), &name("b")).unwrap_err();
        assert!(matches!(&error, IdentityError::Name { .. }), "{error}");
        assert!(error.to_string().contains("belongs to agent a, not to b"), "{error}");
    }

    #[test]
    fn a_path_and_a_reason_are_kept_as_far_as_the_first_release_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let identity = create(dir.path(), &name("a")).unwrap();
        assert_eq!(identity.path.as_deref(), dir.path().canonicalize().unwrap().to_str());
        let long = format!("/{}", "x".repeat(1900));
        let path = identity.path_to_record(Path::new(&long));
        assert_eq!(path.as_ref(), Some(&long));
        let copied = Some(Identity::reason_to_keep(&"\\\u{9b}ä".repeat(1000)));
        let longest = Identity { path, copied, ..identity.clone() };
        write(dir.path(), &longest).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(longest));
        assert!(fs::metadata(dir.path().join(FILE)).unwrap().len() <= LIMIT);
        assert_eq!(identity.path_to_record(Path::new(&"\u{1}".repeat(1000))), None);
        // In the first release's format.
        fs::write(super::path(dir.path()), "format = 1\nname = \"a\"\nid = \"1\"\n").unwrap();
        let first = read(dir.path()).unwrap().unwrap();
        assert_eq!((first.path, first.copied), (None, None));
    }

    #[test]
    fn a_newer_format_is_told_even_if_the_rest_is_strange() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), "format = 2\nnames = []\n").unwrap();
        assert!(matches!(read(dir.path()), Err(IdentityError::Newer { found: 2, .. })));
    }

    #[test]
    fn what_is_no_identity_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(5000);
        for bad in ["", "format = 1", "format = 1\nname = \"../x\"\nid = \"1\"", "\u{0}", &long] {
            fs::write(path(dir.path()), bad).unwrap();
            assert!(matches!(read(dir.path()), Err(IdentityError::Malformed { .. })), "{bad:?}");
        }
        fs::write(path(dir.path()), [0xff, 0xfe]).unwrap();
        assert!(matches!(read(dir.path()), Err(IdentityError::Malformed { .. })));
    }
}

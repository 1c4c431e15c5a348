//! Each state directory belongs to one place: a copy must not take the original's processes for its own.
//!
//! Two things reveal a copy. The directory's `IDENTITY` holds the path where it used to be, and another directory with
//! the same id is there now. Or a process that is on record here is alive and belongs to another directory
//! ([`Finding::Foreign`]). `IDENTITY` keeps marking the directory as a copy, whatever becomes of the original, until an
//! operator says otherwise.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::api::ids::NodeName;
use crate::api::report::chain;
use crate::api::supervision::Finding;
use crate::journal::identity::{self, Identity};
use crate::journal::lock;
use crate::supervisor::{self, Home};

/// What a directory's recorded path says about it.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The directory is at its recorded path, or that path leads to it.
    Here,
    /// No path is recorded.
    Unrecorded,
    /// It was at this path, and is not there any more.
    MovedFrom(PathBuf),
    /// Another directory of the same id is at this path.
    CopyOf(PathBuf),
    /// The recorded path cannot be inspected.
    Unseen,
}

/// The state directory of one run of the agent.
#[derive(Debug)]
pub(super) struct Place {
    state_dir: PathBuf,
    path: PathBuf,
    identity: Identity,
    found: Found,
    /// Processes that belong to other directories, as of the last look.
    foreign: Vec<(NodeName, Foreigner)>,
}

#[derive(Debug, Clone)]
struct Foreigner {
    pid: u32,
    reason: String,
    state_dir: Option<PathBuf>,
    works_here: bool,
}

impl Place {
    /// Compares where the directory is with where it was. Only reads.
    pub fn look(state_dir: &Path, identity: Identity) -> io::Result<Self> {
        let path = fs::canonicalize(state_dir)?;
        let found = match &identity.path {
            None => Found::Unrecorded,
            Some(recorded) => compare(Path::new(recorded), &path, &identity)?,
        };
        Ok(Self { state_dir: state_dir.to_owned(), path, identity, found, foreign: Vec::new() })
    }

    /// What names of this agent's are told apart by.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// What identifies this directory's processes.
    pub fn home(&self) -> Home {
        let mut paths = vec![self.path.clone()];
        let is_confirmed = match &self.found {
            Found::Here => true,
            Found::MovedFrom(before) => {
                paths.push(before.clone());
                true
            }
            Found::Unrecorded | Found::CopyOf(_) | Found::Unseen => false,
        };
        Home { paths, is_confirmed }
    }

    /// Known to be a copy before any process was examined: none may be signalled.
    pub fn is_copy(&self) -> bool {
        self.identity.copied.is_some() || matches!(self.found, Found::CopyOf(_))
    }

    /// The original, if this copy's files are hard links to its files: opening the journal here would write to the
    /// original's.
    pub fn shares_files_with(&self) -> Option<&Path> {
        let Found::CopyOf(original) = &self.found else { return None };
        let has_second_name = |file: &str| fs::metadata(self.state_dir.join(file)).is_ok_and(|file| file.nlink() > 1);
        [lock::FILE, identity::FILE].into_iter().any(has_second_name).then_some(original.as_path())
    }

    /// Takes what was found of the nodes, and records where the directory is, or that it is a copy; if so, returns
    /// why.
    pub fn settle(&mut self, findings: &[(NodeName, Finding)]) -> Option<String> {
        self.foreign = findings.iter().filter_map(foreigner).collect();
        let reason = self.reason().map(|reason| Identity::reason_to_keep(&reason));
        let copied = reason.or_else(|| self.identity.copied.clone());
        let path = match (&copied, &self.found) {
            // The recorded path keeps identifying it.
            (Some(_), _) | (None, Found::Here | Found::CopyOf(_) | Found::Unseen) => self.identity.path.clone(),
            (None, Found::Unrecorded | Found::MovedFrom(_)) => self.identity.path_to_record(&self.path),
        };
        if let (None, Found::MovedFrom(before)) = (&copied, &self.found) {
            tracing::info!("the state directory was at {} and is at {} now", before.display(), self.path.display());
        }
        let identity = Identity { path, copied, ..self.identity.clone() };
        if identity != self.identity {
            match identity::write(&self.state_dir, &identity) {
                Ok(()) => self.identity = identity.clone(),
                // The next start finds the same, and this one acts on what it found.
                Err(error) => tracing::warn!("where the state directory is was not written down: {}", chain(&error)),
            }
        }
        identity.copied
    }

    /// Why the directory is a copy, as far as can be seen now, and what to do.
    fn reason(&self) -> Option<String> {
        let known = match &self.found {
            Found::CopyOf(original) => Some(original.clone()),
            Found::Here | Found::Unrecorded | Found::MovedFrom(_) | Found::Unseen => None,
        };
        let original = known.or_else(|| self.foreign.iter().find_map(|(_, foreigner)| foreigner.state_dir.clone()));
        let original = match (&original, self.foreign.is_empty()) {
            (Some(original), _) => original.display().to_string(),
            (None, false) => "another state directory, which could not be found out".to_owned(),
            (None, true) => return None,
        };
        let named = self.foreign.iter().take(PROCESSES_NAMED);
        let mut processes: Vec<String> =
            named.map(|(node, one)| format!("process {} is its {node}", one.pid)).collect();
        let more = self.foreign.len().saturating_sub(PROCESSES_NAMED);
        if more > 0 {
            processes.push(format!("{more} more run"));
        }
        let processes = if processes.is_empty() { String::new() } else { format!(" ({})", processes.join(", ")) };
        Some(format!(
            "this state directory, {}, is a copy of {original}{processes}; nothing is started, stopped or signalled from it: \
             run the agent on the original, or make this a directory of its own with `zeek-cluster-agent state adopt`",
            self.path.display()
        ))
    }

    /// Makes this directory independent: what is on record for `nodes` is the original's and is forgotten, and if the
    /// original still exists, the two have different ids from here on. May be repeated. Blocks.
    pub fn adopt(&mut self, supervisor: &supervisor::Handle, nodes: &[NodeName]) -> Result<String, String> {
        let mut shared = self.foreign.iter().filter(|(_, foreigner)| foreigner.works_here);
        if let Some((node, Foreigner { reason, .. })) = shared.next() {
            return Err(format!(
                "{node}: {reason}, and works in the directory in which {node} would run here: set node_dir to another \
                 directory, start the agent again and repeat this; nothing was changed"
            ));
        }
        supervisor.disown(nodes)?;
        let id = if self.may_original_be_there() { identity::fresh_id() } else { self.identity.id.clone() };
        let path = self.identity.path_to_record(&self.path);
        let identity = Identity { id, path, copied: None, ..self.identity.clone() };
        identity::write(&self.state_dir, &identity).map_err(|error| chain(&error))?;
        self.identity = identity;
        self.found = Found::Here;
        self.foreign.clear();
        Ok(format!("{} is a state directory of its own now", self.path.display()))
    }

    fn may_original_be_there(&self) -> bool {
        let recorded = self.identity.path.as_ref().map(PathBuf::from);
        let named = self.foreign.iter().filter_map(|(_, foreigner)| foreigner.state_dir.clone());
        let candidates: Vec<PathBuf> = recorded.into_iter().chain(named).collect();
        let is_there = |candidate: &PathBuf| match compare(candidate, &self.path, &self.identity) {
            Ok(Found::CopyOf(_) | Found::Unseen | Found::Unrecorded) | Err(_) => true,
            Ok(Found::Here | Found::MovedFrom(_)) => false,
        };
        candidates.is_empty() || candidates.iter().any(is_there)
    }
}

/// The most processes that a reason names; all say the same.
const PROCESSES_NAMED: usize = 3;

fn foreigner((node, finding): &(NodeName, Finding)) -> Option<(NodeName, Foreigner)> {
    match finding {
        Finding::Foreign { pid, reason, state_dir, works_here } => {
            let (reason, state_dir) = (reason.clone(), state_dir.clone());
            Some((node.clone(), Foreigner { pid: *pid, reason, state_dir, works_here: *works_here }))
        }
        Finding::Absent | Finding::Adopted { .. } | Finding::Exited { .. } | Finding::Unprovable { .. } => None,
    }
}

/// What is at the recorded path, seen from the directory at `path`.
fn compare(recorded: &Path, path: &Path, identity: &Identity) -> io::Result<Found> {
    if recorded == path {
        return Ok(Found::Here);
    }
    let own = fs::metadata(path)?;
    let other = match fs::metadata(recorded) {
        Ok(other) => other,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Found::MovedFrom(recorded.to_owned()));
        }
        Err(error) => {
            tracing::warn!(
                "{} cannot be looked at, where this state directory was before: {error}",
                recorded.display()
            );
            return Ok(Found::Unseen);
        }
    };
    // Both are read at the same moment; device and inode numbers are never stored.
    if (own.dev(), own.ino()) == (other.dev(), other.ino()) {
        return Ok(Found::Here);
    }
    Ok(match identity::read(recorded) {
        Ok(Some(other)) if other.id == identity.id => Found::CopyOf(recorded.to_owned()),
        Ok(_) => Found::MovedFrom(recorded.to_owned()),
        Err(error) => {
            tracing::warn!("what is at {} now does not read: {}", recorded.display(), chain(&error));
            Found::Unseen
        }
    })
}

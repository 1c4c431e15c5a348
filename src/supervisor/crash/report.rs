//! The file of a crash bundle, and the list of bundles.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Crash, mask};
use crate::api::ids::NodeName;
use crate::api::launch::ExitCause;
use crate::regular_file;

pub(super) const REPORT: &str = "crash.json";
pub(super) const CORE: &str = "core";

/// The limit of one argument or variable, and of all of them together.
const TEXT_LIMIT: usize = 4 << 10;
const TEXTS_LIMIT: usize = 128 << 10;
/// The longest file that is read back: arguments, environment and output with every character escaped are far smaller.
const FILE_LIMIT: u64 = 4 << 20;

/// `crash.json` of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// The name of its directory.
    pub bundle: String,
    pub node: String,
    pub incarnation: u64,
    /// How it ended.
    pub cause: String,
    /// When the agent noticed it (RFC 3339).
    pub noticed_at: String,
    /// Absent if nobody saw its end.
    pub ran_ms: Option<u64>,
    pub pid: Option<u32>,
    pub program: String,
    /// Including argument 0. Values that look like secrets are masked, here and in the environment.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub directory: String,
    /// The user it ran as, if not the agent's.
    pub user: Option<String>,
    /// `/proc/PID/limits`, soon after its start.
    pub limits: Option<String>,
    pub core: Option<Core>,
    /// Where this host's kernel puts cores (core(5)).
    pub core_pattern: String,
    /// The agent's release.
    pub release: String,
    /// The last of its output.
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    pub file: String,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("node {node} has no crash bundle {bundle}; without a name, all that it has are listed")]
    Absent { node: NodeName, bundle: String },
    #[error("crash bundles are their owner's alone: {} is read by root or the agent's user", path.display())]
    Forbidden { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is damaged; the other bundles of the node can be read", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}

pub(super) fn of(crash: &Crash, bundle: String, core: Option<Core>) -> CrashReport {
    let launch = crash.launch.as_ref().map(|(launch, _)| launch);
    let argv = launch.map_or(&[][..], |launch| &launch.argv);
    let variables = launch.map_or(&[][..], |launch| &launch.env);
    let mut room = TEXTS_LIMIT;
    let argv: Vec<String> = argv.iter().map(text).collect();
    let arguments = mask::arguments(argv.iter().map(String::as_str));
    let arguments = arguments.map_while(|argument| fit(argument, &mut room)).collect();
    let mut room = TEXTS_LIMIT;
    let environment = variables.iter().map_while(|(name, value)| {
        let (name, value) = (text(name), text(value));
        let value = fit(mask::variable(&name, &value), &mut room)?;
        Some((fit(name, &mut room)?, value))
    });
    let core_pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    CrashReport {
        bundle,
        node: crash.node.to_string(),
        incarnation: crash.incarnation.0,
        cause: crash.exit.cause.to_string(),
        noticed_at: format!("{:.6}", crash.noticed),
        ran_ms: (crash.exit.cause != ExitCause::Lost).then_some(crash.exit.ran_ms),
        pid: crash.process.as_ref().map(|process| process.pid),
        program: launch.and_then(|launch| launch.program.as_ref()).map_or_else(String::new, text),
        arguments,
        environment: environment.collect(),
        directory: crash.directory.display().to_string(),
        user: launch.and_then(|launch| launch.spec.rights.user.as_ref()).map(|user| user.name.clone()),
        limits: crash.limits.clone(),
        core,
        core_pattern: core_pattern.trim().to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        stdout: crash.exit.stdout.clone(),
        stderr: crash.exit.stderr.clone(),
    }
}

fn text(bytes: &ByteBuf) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Truncates text that is too long; `None` if there is no room left.
fn fit(mut text: String, room: &mut usize) -> Option<String> {
    if text.len() > TEXT_LIMIT {
        let cut = (0..=TEXT_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    *room = room.checked_sub(text.len())?;
    Some(text)
}

/// The names of a node's bundles, newest first; those of the same second are ordered by incarnation.
pub(super) fn bundles(of_node: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(of_node) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        names.extend(name.to_str().filter(|name| parts(name).is_some()).map(str::to_owned));
    }
    names.sort_by_cached_key(|name| std::cmp::Reverse(parts(name).map(|(time, number)| (time.to_owned(), number))));
    Ok(names)
}

/// Time and incarnation, if it is a bundle's name.
fn parts(name: &str) -> Option<(&str, u64)> {
    let (time, incarnation) = name.split_once('-')?;
    let is_time = time.starts_with(|c: char| c.is_ascii_digit()) && time.chars().all(|c| c.is_ascii_alphanumeric());
    Some((time, incarnation.parse().ok()?)).filter(|_| is_time)
}

fn unread(path: &Path, source: io::Error) -> ReadError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ReadError::Forbidden { path },
        _ => ReadError::Io { path, source },
    }
}

/// A node's bundles in the state directory, newest first, and errors for those that could not be read.
pub fn list(state_dir: &Path, node: &NodeName) -> Result<(Vec<CrashReport>, Vec<ReadError>), ReadError> {
    let of_node = state_dir.join(super::DIRECTORY).join(node.as_str());
    let names = bundles(&of_node).map_err(|source| unread(&of_node, source))?;
    let (mut reports, mut damaged) = (Vec::new(), Vec::new());
    for name in names {
        match read_report(&of_node, &name) {
            Ok(report) => reports.push(report),
            // Removed meanwhile.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            // The others are useful without it.
            Err(error) => damaged.push(error),
        }
    }
    Ok((reports, damaged))
}

/// One of them; `last` is the newest.
pub fn read(state_dir: &Path, node: &NodeName, bundle: &str) -> Result<CrashReport, ReadError> {
    let of_node = state_dir.join(super::DIRECTORY).join(node.as_str());
    let names = bundles(&of_node).map_err(|source| unread(&of_node, source))?;
    let name = match bundle {
        "last" => names.first(),
        bundle => names.iter().find(|name| *name == bundle),
    };
    let absent = || ReadError::Absent { node: node.clone(), bundle: bundle.to_owned() };
    read_report(&of_node, name.ok_or_else(absent)?)
}

fn read_report(of_node: &Path, name: &str) -> Result<CrashReport, ReadError> {
    let path = of_node.join(name).join(REPORT);
    let mut bytes = Vec::new();
    regular_file::read(&path)
        .and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes))
        .map_err(|source| unread(&path, source))?;
    let report: CrashReport = serde_json::from_slice(&bytes).map_err(|source| ReadError::Damaged { path, source })?;
    // Only the newest keeps it.
    let core = report.core.filter(|core| Path::new(&core.file).exists());
    Ok(CrashReport { core, ..report })
}

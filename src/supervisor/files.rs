//! The two files of a run directory that must survive anything: `launch` (the agent tells the shim what to run) and
//! `status` (the shim tells any later agent what runs, or how it ended).
//!
//! A file is magic, version, length, body, checksum:
//!
//! ```text
//! 8 bytes   magic: "zca-lnch" or "zca-stat"
//! 4 bytes   version, big endian; 1
//! 4 bytes   length of the body, big endian
//! n bytes   body: MessagePack with field names, so that fields can be added within a version
//! 32 bytes  BLAKE3 of everything before
//! ```
//!
//! Written aside, synced, renamed, the directory synced: a reader sees the old file or the new one. A reader does not
//! trust a file that it cannot verify, and never signals a process because of it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::{ExitCause, LaunchSpec, ProcessId};
use crate::api::rights::OpenFiles;
use crate::regular_file;

/// The files' names in a run directory.
pub const LOCK: &str = "lock";
pub const SOCKET: &str = "socket";
pub const LAUNCH: &str = "launch";
pub const STATUS: &str = "status";
pub const SHIM_LOG: &str = "shim.log";

const VERSION: u32 = 1;
const HEADER: usize = 16;
const CHECKSUM: usize = 32;
/// Environment and arguments can have 2 MiB on Linux; an exit's output tail is far smaller.
const BODY_LIMIT: u32 = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} has format version {found}, this release knows {VERSION}: a newer release wrote it; run that one")]
    Newer { path: PathBuf, found: u32 },
    #[error("{path} is damaged: {what}; it is not used")]
    Damaged { path: PathBuf, what: &'static str },
}

/// A kind of file: its magic and its body.
pub trait Checked: Serialize + DeserializeOwned {
    const MAGIC: &'static [u8; 8];
    const NAME: &'static str;
}

/// Everything that the shim needs to run the node, resolved: what it executes, with which arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub node: NodeName,
    pub incarnation: Incarnation,
    /// The request that wanted it.
    pub by: Seq,
    /// As the core gave it, for an agent that has lost its journal.
    pub spec: LaunchSpec,
    /// `None`: the agent's executable, which the shim was given or is itself, as a simulated node.
    pub program: Option<ByteBuf>,
    pub argv: Vec<ByteBuf>,
    /// Complete except for NOTIFY_SOCKET, which the shim adds.
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// The node's working directory, which also holds its output.
    pub directory: ByteBuf,
    /// The file mode creation mask of the node and its output; `None`: that of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// How many files the node may have open, unless its rights say so; `None`: as many as the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<OpenFiles>,
}

impl Checked for Launch {
    const MAGIC: &'static [u8; 8] = b"zca-lnch";
    const NAME: &'static str = LAUNCH;
}

/// What the shim knows about its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub incarnation: Incarnation,
    pub process: Option<ProcessId>,
    /// `None`: it runs, or its shim was killed.
    pub exit: Option<Exit>,
    /// The scope that it runs in, as a path in the cgroup hierarchy, if it has one. Added in the second release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl Checked for Status {
    const MAGIC: &'static [u8; 8] = b"zca-stat";
    const NAME: &'static str = STATUS;
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub cause: ExitCause,
    pub ran_ms: u64,
    /// The tail of this incarnation's output.
    pub stdout: String,
    pub stderr: String,
    /// It was not started, and trying again will not help.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_lasting: bool,
    /// What its shim knows beyond that. Added in the second release.
    #[serde(default, skip_serializing_if = "Circumstances::is_default")]
    pub circumstances: Circumstances,
}

/// Why it ended, as far as its cause does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    /// Its shim was sent SIGTERM before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Sender>,
    /// The kernel killed a process of its cgroup for want of memory, the node itself included.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oom: bool,
}

impl Circumstances {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who sent a signal, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Its pid; 0 if it is in a pid namespace that this process does not see.
    pub pid: u32,
    /// Its real uid.
    pub uid: u32,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Whether a write has to survive a power cut, or only the death of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    PowerCut,
    ProcessDeath,
}

fn encode<T: Checked>(value: &T) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(value).expect("both files have only types that MessagePack can carry");
    let length = u32::try_from(body.len()).expect("a body is far smaller than 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + body.len() + CHECKSUM);
    bytes.extend_from_slice(T::MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

fn decode<T: Checked>(path: &Path, bytes: &[u8]) -> Result<T, FileError> {
    let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
    let (covered, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(|| damaged("it is cut short"))?;
    let (magic, rest) = covered.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    let (length, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    if magic != T::MAGIC {
        return Err(damaged("it does not begin as such a file does"));
    }
    // The position of the checksum depends on the version, so the version is checked first.
    let found = u32::from_be_bytes(*version);
    if found > VERSION {
        return Err(FileError::Newer { path: path.to_owned(), found });
    }
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(body.len()) {
        return Err(damaged("its length is not the one it names"));
    }
    if blake3::hash(covered).as_bytes() != checksum {
        return Err(damaged("its checksum does not match"));
    }
    rmp_serde::from_slice(body).map_err(|_| damaged("its body does not decode"))
}

/// Reads the file of this kind in `directory`; `None` if there is none.
pub fn read<T: Checked>(directory: &Path) -> Result<Option<T>, FileError> {
    let path = directory.join(T::NAME);
    let failed = |operation| {
        let path = path.clone();
        move |source| FileError::Io { operation, path, source }
    };
    let file = match regular_file::read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
    };
    let limit = u64::from(BODY_LIMIT) + (HEADER + CHECKSUM) as u64;
    let size = file.metadata().map_err(failed("inspect"))?.len();
    if size > limit {
        return Err(FileError::Damaged { path, what: "it is far too long" });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // Limited again: the size may have changed.
    file.take(limit).read_to_end(&mut bytes).map_err(failed("read"))?;
    decode(&path, &bytes).map(Some)
}

/// Replaces the file of this kind in `directory`.
pub fn write<T: Checked>(directory: &Path, value: &T, durability: Durability) -> Result<(), FileError> {
    let path = directory.join(T::NAME);
    let aside = directory.join([T::NAME, ".new"].concat());
    let bytes = encode(value);
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Io { operation, path, source }
    };
    // 0600: an environment holds secrets.
    let mut file = regular_file::rewrite(&aside, 0o600).map_err(failed("create", &aside))?;
    file.write_all(&bytes).map_err(failed("write", &aside))?;
    match durability {
        Durability::PowerCut => file.sync_all().map_err(failed("sync", &aside))?,
        Durability::ProcessDeath => {}
    }
    drop(file);
    fs::rename(&aside, &path).map_err(failed("rename to", &path))?;
    match durability {
        Durability::PowerCut => sync_directory(directory).map_err(failed("sync", directory)),
        Durability::ProcessDeath => Ok(()),
    }
}

/// Makes the creation and removal of names in `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file if it exists.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FileError::Io { operation: "remove", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::configuration::ClusterRole;
    use crate::api::launch::{Program, Readiness};

    fn status() -> Status {
        Status {
            incarnation: Incarnation(3),
            process: Some(ProcessId { boot_id: "b".into(), pid: 77, start_time: 1234 }),
            exit: Some(Exit {
                cause: ExitCause::Signal(9),
                ran_ms: 5,
                stdout: "out\n".into(),
                stderr: String::new(),
                is_lasting: false,
                circumstances: Circumstances::default(),
            }),
            scope: None,
        }
    }

    pub(in crate::supervisor) fn launch() -> Launch {
        Launch {
            node: NodeName::new("w1").unwrap(),
            incarnation: Incarnation(3),
            by: Seq(17),
            spec: LaunchSpec {
                program: Program::Path("zeek".into()),
                args: vec!["-C".into()],
                env: [("A".to_owned(), "b".to_owned())].into(),
                role: ClusterRole::Worker,
                ports: vec![2200],
                readiness: Readiness::Alive { after_ms: 1000 },
                stop_timeout_ms: 10_000,
                secrets: std::collections::BTreeMap::new(),
                rights: Box::default(),
                files: Default::default(),
            },
            program: Some(ByteBuf::from("/bin/zeek")),
            argv: vec![ByteBuf::from("/bin/zeek"), ByteBuf::from("-C")],
            env: vec![(ByteBuf::from("A"), ByteBuf::from("b"))],
            directory: ByteBuf::from("/n/w1"),
            umask: None,
            open_files: None,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Existing files must stay readable: change the version, not these bytes.
    #[test]
    fn golden_bytes() {
        assert_eq!(hex(&encode(&status())), include_str!("golden/status.hex").trim_end());
        assert_eq!(hex(&encode(&launch())), include_str!("golden/launch.hex").trim_end());
    }

    #[test]
    fn written_then_read_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read::<Status>(directory.path()).unwrap().is_none());
        write(directory.path(), &status(), Durability::PowerCut).unwrap();
        write(directory.path(), &launch(), Durability::ProcessDeath).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(status()));
        assert_eq!(read(directory.path()).unwrap(), Some(launch()));
    }

    #[test]
    fn any_flipped_or_missing_byte_is_noticed() {
        let whole = encode(&status());
        let path = Path::new("status");
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x20;
            assert!(decode::<Status>(path, &bytes).is_err(), "byte {place}");
            assert!(decode::<Status>(path, &whole[..place]).is_err(), "cut at {place}");
        }
        assert!(decode::<Launch>(path, &whole).is_err(), "another kind of file");
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = encode(&status());
        bytes[11] = 2;
        assert!(matches!(decode::<Status>(Path::new("status"), &bytes), Err(FileError::Newer { found: 2, .. })));
    }
}

//! Cluster files: a configuration as an operator writes it down.
//!
//! Two formats, both zeek-client's: the INI file that it deploys, and the JSON that `zeek-client get-config --as-json`
//! prints. Reading fills in what a controller would: ports ([`ports`]), instances that only nodes name, and an id. All of
//! it is a pure function of the text and of the name given for "this agent", so the same file is the same configuration.
//! Errors come all at once, each with its line. No text makes a reader panic, or use memory out of proportion to
//! [`SIZE_LIMIT`].
//!
//! A file of another tool that also says which nodes there are ([`Foreign`]) is read into the same configuration.
//!
//! Whether the configuration makes sense as a whole (names that repeat, ports that collide) is for
//! [`validate`](crate::api::validate); where a file lies and how it gets here is the command line's.
//!
//! Where that differs from zeek-client, zeekctl and Zeek's systemd generator is in docs/CLUSTER_FILES.md, with reasons.

mod draft;
mod findings;
pub mod hosts;
mod ini;
mod json;
pub mod ports;
mod zeek_conf;
mod zeekctl;

use std::collections::BTreeSet;

use crate::api::configuration::{Configuration, Port, Protocol};
use crate::api::ids::InstanceName;

pub use findings::FileError;
pub use zeek_conf::directory::is_host_file;

pub use ini::{AGENT_PORT, losses};

use findings::Findings;
use hosts::Addresses;

/// The largest file, read or written, in bytes; a request holds no more either.
pub const SIZE_LIMIT: usize = 4 * 1024 * 1024;
/// The most errors, and the most warnings, that reading reports one by one.
pub const LISTED_LIMIT: usize = 100;

/// The formats that are read and written, both zeek-client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Sections of keys and values, as Python's configparser reads them.
    Ini,
    /// What `zeek-client get-config --as-json` prints.
    Json,
}

impl Format {
    /// The format that `text` is in: JSON if it begins with a brace, which no INI file can.
    pub fn of(text: &[u8]) -> Self {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => Self::Json,
            Some(_) | None => Self::Ini,
        }
    }
}

/// A file that is not zeek-client's. It is read, with a warning for whatever has no equivalent here, and never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// zeekctl's `node.cfg`.
    NodeCfg,
    /// The `zeek.conf` of Zeek's systemd generator.
    ZeekConf,
}

impl Foreign {
    /// Whether `text` is such a file. They look like INI cluster files: what tells them apart are their keys.
    pub fn of(text: &[u8]) -> Option<Self> {
        if text.len() > SIZE_LIMIT || Format::of(text) != Format::Ini {
            return None;
        }
        let text = std::str::from_utf8(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)).ok()?;
        if zeekctl::is_node_cfg(text) {
            return Some(Self::NodeCfg);
        }
        zeek_conf::is_zeek_conf(text).then_some(Self::ZeekConf)
    }
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NodeCfg => f.write_str("zeekctl's node.cfg"),
            Self::ZeekConf => f.write_str("a zeek.conf of Zeek's systemd generator"),
        }
    }
}

/// A configuration and what its file says that has no effect (an unknown key, say).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Canonical, with an id and with ports.
    pub configuration: Configuration,
    /// What the file says that has no effect or may not be meant.
    pub warnings: Vec<FileError>,
    /// Names of hosts that are not among those [`Known`]. Their instances have no address yet: look the names up and
    /// read the file again.
    pub unresolved: BTreeSet<String>,
}

/// What a file does not say itself.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The agent whose nodes they are if the file names no instance at all.
    pub ours: Option<&'a InstanceName>,
    /// What host names stand for.
    pub addresses: &'a Addresses,
}

/// How a text is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As a cluster file; without a format, by what it looks like.
    Cluster(Option<Format>),
    /// As a file of another tool.
    Foreign(Foreign),
}

/// Reads a file into a canonical configuration with an id and with ports. `name` is what errors call the file.
pub fn read_as(text: &[u8], name: &str, kind: Kind, known: &Known) -> Result<Reading, Vec<FileError>> {
    let mut findings = Findings::new(name);
    let configuration = plain_text(text, &mut findings).and_then(|plain| {
        let draft = match kind {
            Kind::Cluster(format) => match format.unwrap_or_else(|| Format::of(text)) {
                Format::Ini => ini::read(plain, &mut findings),
                Format::Json => json::read(plain, &mut findings),
            },
            Kind::Foreign(Foreign::NodeCfg) => zeekctl::read(plain, known.ours, &mut findings),
            Kind::Foreign(Foreign::ZeekConf) => zeek_conf::read(plain, name, known.ours, &mut findings),
        }?;
        draft.finish(known, &mut findings)
    });
    findings.finish(configuration)
}

/// One host's file of a cluster's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    /// Its path; it ends in `HOST.zeek.conf`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads the files of a directory of `HOST.zeek.conf`, called `name`.
pub fn read_directory(files: &[HostFile], name: &str, known: &Known) -> Result<Reading, Vec<FileError>> {
    let mut findings = Findings::new(name);
    let configuration = zeek_conf::directory::read(files, &mut findings).and_then(|draft| {
        findings.go_on_with(name);
        draft.finish(known, &mut findings)
    });
    findings.finish(configuration)
}

/// Reads a cluster file that needs nothing looked up: a host name in it is an error, too.
pub fn read(
    text: &[u8],
    name: &str,
    format: Option<Format>,
    ours: Option<&InstanceName>,
) -> Result<Configuration, Vec<FileError>> {
    let reading = read_with_warnings(text, name, format, ours)?;
    if reading.unresolved.is_empty() {
        return Ok(reading.configuration);
    }
    let mut findings = Findings::new(name);
    for host in reading.unresolved {
        let problem = format!("host {} is a name, and nothing looks it up here", findings::quoted(&host));
        findings.error(None, "", problem, "give its address");
    }
    Err(findings.finish(None).expect_err("there is no configuration"))
}

/// Reads a cluster file with nothing known of host names.
pub fn read_with_warnings(
    text: &[u8],
    name: &str,
    format: Option<Format>,
    ours: Option<&InstanceName>,
) -> Result<Reading, Vec<FileError>> {
    read_as(text, name, Kind::Cluster(format), &Known { ours, addresses: &Addresses::new() })
}

/// Like [`read_with_warnings`], for a file of another tool.
pub fn read_foreign(
    text: &[u8],
    name: &str,
    foreign: Foreign,
    ours: Option<&InstanceName>,
) -> Result<Reading, Vec<FileError>> {
    read_as(text, name, Kind::Foreign(foreign), &Known { ours, addresses: &Addresses::new() })
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn plain_text<'a>(text: &'a [u8], findings: &mut Findings) -> Option<&'a str> {
    if text.len() > SIZE_LIMIT {
        let problem = format!("has {} bytes, {SIZE_LIMIT} is the most", text.len());
        findings.error(None, "", problem, "split the cluster, or check that this is a cluster file");
        return None;
    }
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            findings.error(Some(line), "", "is not UTF-8 text".to_owned(), "save it in UTF-8");
            None
        }
    }
}

/// Why a configuration cannot be written in a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A port is not a TCP port, or is 0.
    #[error("{place} is {port}, and cluster files have TCP ports only: correct it first")]
    NotTcp {
        /// Whose port, and which.
        place: String,
        /// The port as it is.
        port: Port,
    },
    /// An INI file has no way to say it.
    #[error("{place} cannot be written in an INI file: {why}; write JSON instead")]
    NotInIni {
        /// Whose value, and which.
        place: String,
        /// What about it cannot be written.
        why: &'static str,
    },
    /// The text is longer than [`SIZE_LIMIT`].
    #[error("the file would have {bytes} bytes, and {SIZE_LIMIT} is the most that a reader takes")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
}

/// Writes `config` so that [`read`] gives it back: equal, if its ports are all there and it is canonical. An INI file has
/// no place for an id; reading it gives the one that its content leads to ([`content_id`]). Nor has it one for an address
/// without a port: it gets [`AGENT_PORT`]. What zeek-client does not see in it is in [`losses`].
pub fn write(config: &Configuration, format: Format) -> Result<String, Vec<WriteError>> {
    let mut errors = not_tcp(config);
    let text = match format {
        Format::Ini => {
            let (text, more) = ini::write(config);
            errors.extend(more);
            text
        }
        Format::Json => json::write(config),
    };
    if text.len() > SIZE_LIMIT {
        errors.push(WriteError::TooLarge { bytes: text.len() });
    }
    if errors.is_empty() { Ok(text) } else { Err(errors) }
}

fn not_tcp(config: &Configuration) -> Vec<WriteError> {
    let instances = config.instances.iter().map(|i| (format!("instance {}: port", i.name), i.listen_port));
    let ports = config.nodes.iter().map(|n| (format!("node {}: port", n.name), n.port));
    let metrics = config.nodes.iter().map(|n| (format!("node {}: metrics_port", n.name), n.metrics_port));
    let ports = instances.chain(ports).chain(metrics).filter_map(|(place, port)| Some((place, port?)));
    let odd = ports.filter(|(_, port)| port.protocol != Protocol::Tcp || port.number == 0);
    odd.map(|(place, port)| WriteError::NotTcp { place, port }).collect()
}

/// The id of a configuration that comes without one: `file-` and the first 32 hexadecimal digits of the BLAKE3 of its
/// canonical JSON, which is what [`write()`] gives in compact form (keys sorted, no blanks) and without the id.
///
/// Operators compare these ids across hosts and releases, so the form stays as it is.
pub fn content_id(config: &Configuration) -> String {
    let digest = blake3::hash(json::content(&config.clone().canonical()).as_bytes());
    let hex = digest.to_hex();
    format!("file-{}", hex.as_str().get(..32).expect("a BLAKE3 digest has 64 hexadecimal digits"))
}

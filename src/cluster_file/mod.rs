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
//! # What differs from zeek-client
//! INI files that zeek-client reads mean the same here, with these exceptions, each for a reason:
//! - The case of instance names is kept, and `%` is an ordinary character. zeek-client folds names to lower case, and
//!   fails over a `%` that is no reference to another key.
//! - Scripts keep their order, since Zeek loads them in order. zeek-client sorts them.
//! - `[DEFAULT]` is for nodes only. zeek-client takes its keys for instances, too.
//! - An instance may have an address without a port (`name = 192.0.2.1`, `name = [2001:db8::1]`), and a node may have
//!   `options` (`options = Site::x=T "Site::text=two words"`): what a configuration holds and zeek-client's INI cannot say.
//! - Only values that are lists (scripts, options, env) may go on in indented lines; anywhere else that is an error, since
//!   it is a key that slipped to the right.
//! - Without any instance, nodes belong to the agent that the caller names. zeek-client makes up `agent-<hostname>`.

mod draft;
mod findings;
mod ini;
mod json;
pub mod ports;
mod zeek_conf;
mod zeekctl;

use crate::api::configuration::{Configuration, Port, Protocol};
use crate::api::ids::InstanceName;

pub use findings::FileError;

use findings::Findings;

/// The largest file, read or written, in bytes; a request holds no more either.
pub const SIZE_LIMIT: usize = 4 * 1024 * 1024;
/// The most errors, and the most warnings, that reading reports one by one.
pub const LISTED_LIMIT: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Ini,
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
    pub configuration: Configuration,
    pub warnings: Vec<FileError>,
}

/// Reads a cluster file into a canonical configuration with an id and with ports.
///
/// `name` is what errors call the file. Without a `format`, it is told by the text. `ours` is the agent whose nodes they
/// are if the file names no instance at all.
pub fn read(
    text: &[u8],
    name: &str,
    format: Option<Format>,
    ours: Option<&InstanceName>,
) -> Result<Configuration, Vec<FileError>> {
    read_with_warnings(text, name, format, ours).map(|reading| reading.configuration)
}

/// Like [`read`], for whoever has a person to show the warnings to.
pub fn read_with_warnings(
    text: &[u8],
    name: &str,
    format: Option<Format>,
    ours: Option<&InstanceName>,
) -> Result<Reading, Vec<FileError>> {
    let mut findings = Findings::new(name);
    let configuration = plain_text(text, &mut findings).and_then(|plain| {
        let draft = match format.unwrap_or_else(|| Format::of(text)) {
            Format::Ini => ini::read(plain, &mut findings),
            Format::Json => json::read(plain, &mut findings),
        }?;
        draft.finish(ours, &mut findings)
    });
    findings.finish(configuration)
}

/// Like [`read_with_warnings`], for a file of another tool.
pub fn read_foreign(
    text: &[u8],
    name: &str,
    foreign: Foreign,
    ours: Option<&InstanceName>,
) -> Result<Reading, Vec<FileError>> {
    let mut findings = Findings::new(name);
    let configuration = plain_text(text, &mut findings).and_then(|plain| {
        let draft = match foreign {
            Foreign::NodeCfg => zeekctl::read(plain, ours, &mut findings),
            Foreign::ZeekConf => zeek_conf::read(plain, ours, &mut findings),
        }?;
        draft.finish(ours, &mut findings)
    });
    findings.finish(configuration)
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
    #[error("{place} is {port}, and cluster files have TCP ports only: correct it first")]
    NotTcp { place: String, port: Port },
    #[error("{place} cannot be written in an INI file: {why}; write JSON instead")]
    NotInIni { place: String, why: &'static str },
    #[error("the file would have {bytes} bytes, and {SIZE_LIMIT} is the most that a reader takes")]
    TooLarge { bytes: usize },
}

/// Writes `config` so that [`read`] gives it back: equal, if its ports are all there and it is canonical. An INI file has
/// no place for an id; reading it gives the one that its content leads to ([`content_id`]).
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

//! The types that settings have: how each is written in the environment and on the command line, in the file, and when
//! it is shown.

mod lists;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use toml::de::DeValue;

use crate::api::ids::InstanceName;

pub use lists::{Dialects, ExitCodes};

/// A type of setting. Errors complete the sentence "`key` …".
pub trait Setting: Sized {
    /// What may be written, for people.
    const TYPE: &'static str;
    /// From the environment or the command line.
    fn parse(text: &str) -> Result<Self, String>;
    /// From the settings file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::parse(text),
            other => Err(unfit::<Self>(other)),
        }
    }
    /// As it could be written.
    fn show(&self) -> String;
    fn json(&self) -> Value {
        Value::String(self.show())
    }
}

pub(super) fn unfit<T: Setting>(value: &DeValue<'_>) -> String {
    format!("has the TOML type {}, expected {}", value.type_str(), T::TYPE)
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        DeValue::String(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

/// A length of time, in milliseconds; at most 3650 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub ms: u64,
}

impl Span {
    pub const fn seconds(seconds: u64) -> Self {
        Self { ms: seconds * 1000 }
    }

    pub const fn days(days: u64) -> Self {
        Self::seconds(days * 86_400)
    }

    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.ms)
    }

    fn from_seconds(seconds: f64) -> Result<Self, String> {
        const MOST: f64 = 3650.0 * 86_400.0;
        if !(0.0..=MOST).contains(&seconds) {
            return Err(format!("is {seconds} seconds; 0 to 3650 days are possible"));
        }
        Ok(Self { ms: (seconds * 1000.0).round() as u64 })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ms {
            0 => f.write_str("0"),
            ms if ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            ms if ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            ms if ms.is_multiple_of(60_000) => write!(f, "{}min", ms / 60_000),
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl Setting for Span {
    const TYPE: &'static str = "a time: seconds, or a number with ms, s, min, h or d";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unit_at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor = match unit.trim() {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(format!("is {text:?}, expected {}", Self::TYPE)),
        };
        let number: f64 = number.parse().map_err(|_| format!("is {text:?}, expected {}", Self::TYPE))?;
        Self::from_seconds(number * factor)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::parse(text),
            DeValue::Float(number) => Self::parse(&number.as_str().replace('_', "")),
            DeValue::Integer(_) => match integer(value) {
                Some(seconds) => Self::from_seconds(seconds as f64),
                None => Err(unfit::<Self>(value)),
            },
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                Err(unfit::<Self>(value))
            }
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    pub bytes: u64,
}

impl Size {
    pub const fn mib(mib: u64) -> Self {
        Self { bytes: mib << 20 }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            0 => f.write_str("0"),
            bytes if bytes.is_multiple_of(1 << 30) => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes.is_multiple_of(1 << 20) => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl Setting for Size {
    const TYPE: &'static str = "a size: bytes, or a number with KiB, MiB or GiB";

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            _ => return Err(format!("is {text:?}, expected {}", Self::TYPE)),
        };
        let number: u64 = number.parse().map_err(|_| format!("is {text:?}, expected {}", Self::TYPE))?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| format!("is {text:?}, which is too much"))?;
        Ok(Self { bytes })
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::parse(text),
            other => match integer(other).and_then(|bytes| u64::try_from(bytes).ok()) {
                Some(bytes) => Ok(Self { bytes }),
                None => Err(unfit::<Self>(other)),
            },
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const TYPE: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("is {text:?}, expected {}", Self::TYPE))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        integer(value).and_then(|number| Self::try_from(number).ok()).ok_or_else(|| unfit::<Self>(value))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Value {
        json!(self)
    }
}

impl Setting for bool {
    const TYPE: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(format!("is {text:?}, expected {}", Self::TYPE)),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Boolean(truth) => Ok(*truth),
            other => Err(unfit::<Self>(other)),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Value {
        json!(self)
    }
}

impl Setting for InstanceName {
    const TYPE: &'static str = "a name: at most 128 bytes, no blank, no `/`, no dot in front";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| format!("cannot be used: {error}"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    const TYPE: &'static str = "a path";

    /// Absolute from here on: the agent and its nodes work in other directories.
    fn parse(text: &str) -> Result<Self, String> {
        std::path::absolute(text).map_err(|error| format!("is {text:?}, which is no path: {error}"))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// A file that need not be there; none unless set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionalPath(pub Option<PathBuf>);

impl Setting for OptionalPath {
    const TYPE: &'static str = PathBuf::TYPE;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(if text.is_empty() { None } else { Some(PathBuf::parse(text)?) }))
    }

    fn show(&self) -> String {
        self.0.as_ref().map(PathBuf::show).unwrap_or_default()
    }

    fn json(&self) -> Value {
        self.0.as_ref().map_or(Value::Null, Setting::json)
    }
}

/// An IP address; none unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalAddress(pub Option<IpAddr>);

impl Setting for OptionalAddress {
    const TYPE: &'static str = "an IP address";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text.is_empty() => Ok(Self(None)),
            Ok(address) => Ok(Self(Some(address))),
            Err(_) => Err(format!("is {text:?}, expected {}", Self::TYPE)),
        }
    }

    fn show(&self) -> String {
        self.0.map(|address| address.to_string()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        self.0.map_or(Value::Null, |address| json!(address))
    }
}

/// A program: a path, or a name to be looked up in PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramName(pub String);

impl Setting for ProgramName {
    const TYPE: &'static str = "a path, or a name to be looked up in PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if !text.contains('/') {
            return Ok(Self(text.to_owned()));
        }
        Ok(Self(PathBuf::parse(text)?.display().to_string()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A group of this host, by name or number; none unless set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group(pub Option<String>);

impl Setting for Group {
    const TYPE: &'static str = "a group's name or number";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(Some(text.to_owned())))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::parse(text),
            other => match integer(other) {
                Some(gid) => Ok(Self(Some(gid.to_string()))),
                None => Err(unfit::<Self>(other)),
            },
        }
    }

    fn show(&self) -> String {
        self.0.clone().unwrap_or_default()
    }

    fn json(&self) -> Value {
        json!(self.0)
    }
}

/// A user of this host, by name or number; none unless set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserName(pub Option<String>);

impl Setting for UserName {
    const TYPE: &'static str = "a user's name or number";

    fn parse(text: &str) -> Result<Self, String> {
        Group::parse(text).map(|group| Self(group.0))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match Group::from_toml(value) {
            Ok(group) => Ok(Self(group.0)),
            Err(_) => Err(unfit::<Self>(value)),
        }
    }

    fn show(&self) -> String {
        self.0.clone().unwrap_or_default()
    }

    fn json(&self) -> Value {
        json!(self.0)
    }
}

/// Something that is never shown; none unless set.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub Option<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Setting for Secret {
    const TYPE: &'static str = "a text that is never shown";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(Some(text.to_owned()).filter(|text| !text.is_empty())))
    }

    fn show(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |_| "(set)".to_owned())
    }
}

/// Where a network transport listens or connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Off,
    At { host: String, port: u16 },
}

impl Setting for Address {
    const TYPE: &'static str = "ADDR:PORT, or off";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let unfit = || format!("is {text:?}, expected {}", Self::TYPE);
        let (host, port) = text.rsplit_once(':').ok_or_else(unfit)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(unfit());
        }
        Ok(Self::At { host: host.to_owned(), port: port.parse().map_err(|_| unfit())? })
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::At { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::At { host, port } => format!("{host}:{port}"),
        }
    }
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])* $name:ident = $type:literal { $($variant:ident = $text:literal),* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),* }

        impl Setting for $name {
            const TYPE: &'static str = $type;

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("is {text:?}, expected {}", Self::TYPE)),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $text.to_owned()),* }
            }
        }
    )*};
}

choices! {
    Switch = "on or off" { On = "on", Off = "off" }
    /// Which nodes a new configuration replaces.
    Strategy = "replace or changed" { Replace = "replace", Changed = "changed" }
    /// What nodes are prepared for.
    NodeProfile = "auto, zeek or plain" { Auto = "auto", Zeek = "zeek", Plain = "plain" }
    /// Which scripts Zeek nodes load for the agent's sake.
    NodeScripts = "own, management or none" { Own = "own", Management = "management", None = "none" }
    /// How the nodes of a cluster talk to each other.
    ClusterBackend = "auto, broker or zeromq" { Auto = "auto", Broker = "broker", ZeroMq = "zeromq" }
    /// When a node that runs counts as ready.
    Ready = "checkin or alive" { Checkin = "checkin", Alive = "alive" }
    LogFormat = "text or json" { Text = "text", Json = "json" }
    LogLevel = "error, warn, info, debug or trace" {
        Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace"
    }
}

//! Hosts as a file names them: by an address, or by a name that the command line has to resolve.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// What became of looking up host names, each in lower case: an address, or why there is none.
pub type Addresses = BTreeMap<String, Result<IpAddr, String>>;

/// The longest host name, in bytes (RFC 1035, 2.3.4).
const NAME_LIMIT: usize = 253;
/// The longest part of it between dots.
const LABEL_LIMIT: usize = 63;

/// What to do about a host that is neither.
pub const HOSTS: &str = "give the host's IPv4 or IPv6 address, or its name";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    /// The file does not say where it is.
    Unknown,
    Address(IpAddr),
    /// In lower case, since host names have none.
    Name(String),
}

impl Host {
    /// An address, IPv6 also in brackets, or a name.
    pub fn read(text: &str) -> Option<Self> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(inside) = bracketed {
            return inside.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        text.parse().map(Self::Address).ok().or_else(|| is_name(text).then(|| Self::Name(text.to_ascii_lowercase())))
    }
}

/// Whether a text can be a host's name. Digits alone, or digits after the last dot, would be a mistyped address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=LABEL_LIMIT).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
    };
    let last = text.rsplit_once('.').map_or(text, |(_, last)| last);
    text.len() <= NAME_LIMIT && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let address = |text: &str| Some(Host::Address(text.parse().unwrap()));
        let name = |text: &str| Some(Host::Name(text.to_owned()));
        let long = "a".repeat(64);
        let cases: [(&str, Option<Host>); 15] = [
            ("192.0.2.1", address("192.0.2.1")),
            ("::1", address("::1")),
            ("[::1]", address("::1")),
            ("[192.0.2.1]", None),
            ("Sensor-A.example.com", name("sensor-a.example.com")),
            ("sensor_a.", name("sensor_a.")),
            ("localhost", name("localhost")),
            ("2sensors", name("2sensors")),
            ("192.0.2", None),
            ("192.0.2.1.1", None),
            ("2151", None),
            ("a..b", None),
            ("-a", None),
            ("a b", None),
            (&long, None),
        ];
        for (text, expected) in cases {
            assert_eq!(Host::read(text), expected, "{text:?}");
        }
    }
}

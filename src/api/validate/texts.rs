//! What single ports, texts and values have to be.

use super::{TEXT_LIMIT, shown};
use crate::api::configuration::{Port, Protocol};

pub(super) fn bad_port(what: &str, port: Port) -> Option<String> {
    if port.number == 0 {
        return Some(format!("{what} {port} is no port: give one from 1 to 65535, or none"));
    }
    match port.protocol {
        Protocol::Tcp => None,
        Protocol::Unknown | Protocol::Udp | Protocol::Icmp => Some(format!("{what} {port} is not a TCP port")),
    }
}

pub(super) fn bad_text(what: &str, text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(format!("{what} is empty: name one, or leave it out"));
    }
    if text.len() > TEXT_LIMIT {
        return Some(format!("{what} has {} bytes, {TEXT_LIMIT} is the most", text.len()));
    }
    let control = text.chars().any(char::is_control);
    control.then(|| format!("{what} {:?} holds a control character", shown(text)))
}

/// What is wrong with the value of an option.
pub(super) enum Unfit {
    /// No variable can take it.
    Broken(&'static str),
    /// The rest from this character on is lost for all variables but strings.
    Cut(char),
}

/// Whether Zeek takes all of a value: it reads `redef name = value;`, with quotes around the value if the variable is a string
/// and has none (`src/scan.l`). An open quote or escape would take in what comes behind.
pub(super) fn option_text(value: &str) -> Result<(), Unfit> {
    let (mut is_quoted, mut is_escaped, mut cut) = (false, false, None);
    for character in value.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' | '#' if !is_quoted => cut = cut.or(Some(character)),
            _ => {}
        }
    }
    if is_escaped {
        return Err(Unfit::Broken("ends in a \\ that escapes nothing: write \\\\ for one that stands for itself"));
    }
    if is_quoted {
        return Err(Unfit::Broken("has a quote that is not closed: write \\\" for one that stands for itself"));
    }
    cut.map_or(Ok(()), |character| Err(Unfit::Cut(character)))
}

/// Whether a global of Zeek can have this name: parts of ASCII letters, digits and `_`, joined by `::`.
pub(super) fn is_zeek_identifier(text: &str) -> bool {
    text.split("::").all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

//! Where data goes, how it may look there, and texts that depend on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use jiff::tz::TimeZone;

use super::time;
use crate::api::event::Source;
use crate::settings::accounts;
use crate::telemetry::Color;
use crate::terminal::{fold, painted};

/// Where data goes and how it may look.
pub struct Screen {
    pub json: bool,
    pub is_terminal: bool,
    pub color: bool,
    /// Columns of the terminal; nothing is cut where there is none.
    pub width: Option<usize>,
    /// Local time, where people read.
    zone: Option<TimeZone>,
    /// Users that were looked up.
    users: RefCell<BTreeMap<u32, Option<String>>>,
}

impl Screen {
    pub fn stdout(json: bool, color: Color) -> Self {
        let stdout = io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let is_terminal = stdout.is_terminal();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|columns| is_terminal && *columns > 0);
        let zone = is_terminal.then(TimeZone::system);
        Self { json, is_terminal, color: color.wanted(&stdout), width, zone, users: RefCell::default() }
    }

    #[cfg(test)]
    pub fn of_tests() -> Self {
        let users = RefCell::default();
        Self { json: false, is_terminal: false, color: false, width: None, zone: None, users }
    }

    /// A line of a page, with what it is about before it; on a terminal folded between words.
    pub fn labelled(&self, label: &str, width: usize, text: &str) -> String {
        let line = format!("  {label:<width$} {text}");
        match self.width {
            Some(columns) => fold(&line, columns, width + 3),
            None => line,
        }
    }

    /// A moment in RFC 3339, in a table: local on a terminal.
    pub fn time(&self, text: &str) -> String {
        match &self.zone {
            Some(zone) => time::show(text, zone, false),
            None => time::to_the_second(text),
        }
    }

    /// The same as precise as it is known.
    pub fn precise_time(&self, text: &str) -> String {
        self.zone.as_ref().map_or_else(|| text.to_owned(), |zone| time::show(text, zone, true))
    }

    /// Who sent something; on a terminal with users' names beside their numbers.
    pub fn source(&self, source: &Source) -> String {
        let Source { transport, peer } = source;
        if !self.is_terminal {
            return format!("{transport} {peer}");
        }
        let named = |word: &str| match word.strip_prefix("uid=").and_then(|uid| uid.parse().ok()) {
            Some(uid) => self.user(uid).map_or_else(|| word.to_owned(), |name| format!("uid={uid}({name})")),
            None => word.to_owned(),
        };
        let (known, _) = source.parts();
        let subject = peer.strip_prefix(known).unwrap_or_default();
        let known: Vec<String> = known.split(' ').map(named).collect();
        format!("{transport} {}{subject}", known.join(" "))
    }

    fn user(&self, uid: u32) -> Option<String> {
        let mut users = self.users.borrow_mut();
        // A number says enough where the name service does not.
        users.entry(uid).or_insert_with(|| accounts::name_of(uid).ok().flatten()).clone()
    }

    /// `text` in the colour of an SGR code, if colours are wanted.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !code.is_empty() { painted(code, text) } else { text.to_owned() }
    }
}

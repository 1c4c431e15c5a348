//! The shape of the settings file: TOML, one table, `key = value`. Keeps the line of each key, for messages.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// The settings file of a host.
pub const DEFAULT_PATH: &str = "/etc/zeek-cluster-agent.toml";

/// A file that was read; keys and types are still unchecked.
#[derive(Debug, Clone)]
pub struct File {
    pub path: PathBuf,
    text: String,
}

/// One key of a file.
pub(super) struct Item<'a> {
    pub line: usize,
    pub value: DeValue<'a>,
}

impl File {
    /// `Ok(None)`: there is none, which is fine unless it was asked for (`required`).
    pub fn read(path: &Path, required: bool) -> Result<Option<Self>, Problem> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(Self { path: path.to_owned(), text })),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(None),
            Err(error) => Err(Problem::File { path: path.to_owned(), line: None, problem: error.to_string() }),
        }
    }

    #[cfg(test)]
    pub(super) fn of(path: &str, text: &str) -> Self {
        Self { path: PathBuf::from(path), text: text.to_owned() }
    }

    pub(super) fn items(&self) -> Result<BTreeMap<String, Item<'_>>, Problem> {
        let table = DeTable::parse(&self.text).map_err(|error| Problem::File {
            path: self.path.clone(),
            line: error.span().map(|span| self.line(span.start)),
            problem: error.message().to_owned(),
        })?;
        let item = |(key, value): (Spanned<_>, Spanned<_>)| {
            let line = self.line(key.span().start);
            let key: std::borrow::Cow<'_, str> = key.into_inner();
            (key.into_owned(), Item { line, value: value.into_inner() })
        };
        Ok(table.into_inner().into_iter().map(item).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }
}

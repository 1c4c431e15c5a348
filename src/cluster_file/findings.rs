//! What reading a file brings up: errors and warnings, each with its place, what is wrong and what to do.

use std::collections::BTreeSet;
use std::fmt;

use super::{LISTED_LIMIT, Reading};
use crate::api::configuration::Configuration;

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// What the caller calls the file: its path, or `standard input`.
    pub file: String,
    /// From 1. None: it is about the file as a whole.
    pub line: Option<usize>,
    /// The section and key of an INI file (`[worker-1] port`), the path in a JSON file (`nodes[3].port`), or empty.
    pub place: String,
    /// What is wrong, without place and advice.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.place.is_empty() {
            write!(f, ": {}", self.place)?;
        }
        write!(f, ": {}; {}", self.problem, self.advice)
    }
}

/// Gathers errors and warnings while a file is read. Of a file that is wrong on every line it keeps the first.
pub struct Findings<'a> {
    file: &'a str,
    errors: Vec<FileError>,
    warnings: Vec<FileError>,
    more_errors: usize,
    more_warnings: usize,
    unresolved: BTreeSet<String>,
}

impl<'a> Findings<'a> {
    pub fn new(file: &'a str) -> Self {
        Self {
            file,
            errors: Vec::new(),
            warnings: Vec::new(),
            more_errors: 0,
            more_warnings: 0,
            unresolved: BTreeSet::new(),
        }
    }

    pub fn error(&mut self, line: Option<usize>, place: &str, problem: String, advice: &str) {
        let same = |e: &FileError| e.line == line && e.place == place && e.problem == problem && e.file == self.file;
        // What a hundred nodes inherit is wrong once.
        if self.errors.iter().any(same) {
            return;
        }
        if self.errors.len() < LISTED_LIMIT {
            self.errors.push(finding(self.file, line, place, problem, advice));
        } else {
            self.more_errors += 1;
        }
    }

    pub fn warning(&mut self, line: Option<usize>, place: &str, problem: String, advice: &str) {
        if self.warnings.len() < LISTED_LIMIT {
            self.warnings.push(finding(self.file, line, place, problem, advice));
        } else {
            self.more_warnings += 1;
        }
    }

    /// A host's name that has to be resolved.
    pub fn unresolved(&mut self, name: &str) {
        self.unresolved.insert(name.to_owned());
    }

    #[cfg(test)]
    pub fn errors(&self) -> &[FileError] {
        &self.errors
    }

    #[cfg(test)]
    pub fn warnings(&self) -> &[FileError] {
        &self.warnings
    }

    /// What follows is about another file.
    pub fn go_on_with(&mut self, file: &'a str) {
        self.file = file;
    }

    /// The reading, if there were no errors; else these, in the order of the file.
    pub fn finish(mut self, configuration: Option<Configuration>) -> Result<Reading, Vec<FileError>> {
        let by_line = |a: &FileError, b: &FileError| (&a.file, a.line).cmp(&(&b.file, b.line));
        self.errors.sort_by(by_line);
        self.warnings.sort_by(by_line);
        if self.more_errors > 0 {
            let problem = format!("{} more errors are not listed", self.more_errors);
            self.errors.push(finding(self.file, None, "", problem, "correct these first"));
        }
        if self.more_warnings > 0 {
            let problem = format!("{} more warnings are not listed", self.more_warnings);
            self.warnings.push(finding(self.file, None, "", problem, "see to these first"));
        }
        match configuration {
            Some(configuration) if self.errors.is_empty() => {
                Ok(Reading { configuration, warnings: self.warnings, unresolved: self.unresolved })
            }
            Some(_) | None => Err(self.errors),
        }
    }
}

fn finding(file: &str, line: Option<usize>, place: &str, problem: String, advice: &str) -> FileError {
    FileError { file: file.to_owned(), line, place: place.to_owned(), problem, advice: advice.to_owned() }
}

/// A text of the file as it may stand in a message: quoted, short, on one line.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let short: String = text.chars().take(SHOWN).collect();
    let rest = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
    format!("{short:?}{rest}")
}

/// Like [`quoted`], for a name inside a place, where quotes would be in the way.
pub fn bare(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut short: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

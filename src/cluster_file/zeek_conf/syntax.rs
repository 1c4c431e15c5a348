//! The text of a `zeek.conf`: options, in sections or not, whose values go on in indented lines.
//!
//! Source: `parse_ini_like` in Zeek 9.0, `tools/systemd-generator/src/zeek-cluster-config.cc`. Unlike there, a wrong line does
//! not end the reading.

use std::collections::BTreeMap;

use super::super::findings::{Findings, bare, quoted};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// In lower case, as it counts.
    pub key: String,
    pub line: usize,
    /// The value, and each line that carries it on.
    pub values: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Empty: before any section.
    pub name: String,
    /// That of its header, or of its first option if it has none. 0: there is no such section.
    pub line: usize,
    pub items: Vec<Item>,
}

impl Section {
    pub fn place(&self, key: &str) -> String {
        if self.name.is_empty() { bare(key) } else { format!("[{}] {}", bare(&self.name), bare(key)) }
    }
}

/// Whether an option is about the workers of one interface.
pub fn is_of_workers(key: &str) -> bool {
    key == "interface" || key == "workers" || key.starts_with("worker_") || key.starts_with("workers_")
}

/// The sections that say something. Outside of sections, options of workers may come again after another `interface`.
pub fn read(text: &str, findings: &mut Findings) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut current = Section::default();
    let mut keys: BTreeMap<String, usize> = BTreeMap::new();
    // Whether an indented line would carry something on.
    let mut is_open = false;
    for (index, line) in text.split('\n').enumerate() {
        let (number, line) = (index + 1, line.trim_end());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|name| !name.is_empty());
        if let Some(name) = header {
            if let Some(first) = names.insert(name.to_owned(), number) {
                let problem = format!("the section is there already, at line {first}");
                findings.error(Some(number), &format!("[{}]", bare(name)), problem, "join the two");
            }
            let next = Section { name: name.to_owned(), line: number, items: Vec::new() };
            sections.push(std::mem::replace(&mut current, next));
            keys.clear();
            is_open = false;
        } else if line.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && let Some((key, value)) = line.split_once('=')
        {
            let key = key.trim().to_ascii_lowercase();
            if key == "interface" && current.name.is_empty() && has_interface(&current) {
                keys.retain(|key, _| !is_of_workers(key));
            }
            if current.line == 0 {
                current.line = number;
            }
            if let Some(first) = keys.insert(key.clone(), number) {
                let problem = format!("the option is there already, at line {first}");
                findings.error(Some(number), &current.place(&key), problem, "remove one of the two");
            }
            current.items.push(Item { key, line: number, values: vec![value.trim().to_owned()] });
            is_open = true;
        } else if let Some(item) = current.items.last_mut().filter(|_| is_open && line.starts_with(char::is_whitespace))
        {
            item.values.push(line.trim_start().to_owned());
        } else {
            let problem = format!("{} is neither an option nor a section", quoted(line));
            findings.error(Some(number), "", problem, "write key = value, [section], or a # at its start");
        }
    }
    sections.push(current);
    sections.retain(|section| !section.name.is_empty() || !section.items.is_empty());
    sections
}

fn has_interface(section: &Section) -> bool {
    section.items.iter().any(|item| item.key == "interface")
}

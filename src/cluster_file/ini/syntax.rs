//! INI text to sections and items, line by line, as Python's configparser reads it for zeek-client: keys without a value
//! allowed, `=` and `:` both separate, `#` and `;` begin a comment at the start of a line only, an indented line carries
//! the value before it on, names may not repeat.
//!
//! Checked against CPython 3.11's `configparser.ConfigParser(allow_no_value=True)`, whose interpolation is in
//! [`interpolate`](super::interpolate). Unlike it, a wrong line does not end the reading.

use std::collections::{BTreeMap, BTreeSet};

use super::super::findings::{Findings, bare, quoted};
use super::{DEFAULT, INSTANCES};

#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    pub key: String,
    pub line: usize,
    /// None: the line has no separator.
    pub value: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub line: usize,
    pub items: Vec<Item>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ini {
    /// The items of `[DEFAULT]`.
    pub defaults: Vec<Item>,
    pub sections: Vec<Section>,
}

/// A blank as Python's `str.strip` takes it.
pub fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Where the lines being read belong.
enum Scope {
    /// Before the first section.
    Start { reported: bool },
    /// In a section, with the keys that it has so far.
    Section { section: Section, keys: BTreeMap<String, usize> },
}

struct Reader<'a, 'f> {
    findings: &'a mut Findings<'f>,
    ini: Ini,
    scope: Scope,
    /// The keys of all `[DEFAULT]` sections, which is the one section that may come again.
    default_keys: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    /// Whether the last item can be carried on by an indented line.
    open: bool,
    /// How far the line was indented that began the item or section.
    indent: usize,
}

pub fn read(text: &str, findings: &mut Findings) -> Ini {
    let mut reader = Reader {
        findings,
        ini: Ini::default(),
        scope: Scope::Start { reported: false },
        default_keys: BTreeMap::new(),
        names: BTreeMap::new(),
        open: false,
        indent: 0,
    };
    for (index, line) in lines(text).enumerate() {
        reader.line(index + 1, line);
    }
    reader.end_section();
    reader.finish()
}

/// The lines of a text with any of the three kinds of line ends.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

impl Reader<'_, '_> {
    fn line(&mut self, number: usize, line: &str) {
        let text = line.trim_matches(is_blank);
        if text.starts_with(['#', ';']) {
            return;
        }
        if text.is_empty() {
            // Inside a value, an empty line is part of it if more of the value follows.
            if let Some(Item { value: Some(value), .. }) = self.open_item() {
                value.push('\n');
            }
            return;
        }
        let indent = line.chars().take_while(|c| is_blank(*c)).count();
        if indent > self.indent && self.open_item().is_some() {
            self.carry_on(number, text);
            return;
        }
        self.indent = indent;
        if let Some(name) = header(text) {
            self.section(number, name);
        } else {
            self.item(number, text);
        }
    }

    /// The item that an indented line would carry on.
    fn open_item(&mut self) -> Option<&mut Item> {
        match &mut self.scope {
            Scope::Section { section, .. } if self.open => section.items.last_mut(),
            Scope::Section { .. } | Scope::Start { .. } => None,
        }
    }

    fn carry_on(&mut self, number: usize, text: &str) {
        let Some(item) = self.open_item() else { return };
        if let Some(value) = &mut item.value {
            value.push('\n');
            value.push_str(text);
            return;
        }
        let key = bare(&item.key);
        let problem = format!("an indented line carries on the one before it, and {key} there has no value");
        self.findings.error(Some(number), &bare(text), problem, "begin the line at its left edge");
    }

    fn section(&mut self, number: usize, name: &str) {
        self.end_section();
        self.open = false;
        let keys = if name == DEFAULT { std::mem::take(&mut self.default_keys) } else { BTreeMap::new() };
        if name != DEFAULT {
            if let Some(first) = self.names.get(name) {
                let problem = format!("the section is there already, at line {first}");
                self.findings.error(Some(number), &format!("[{}]", bare(name)), problem, "rename it or join the two");
            } else {
                self.names.insert(name.to_owned(), number);
            }
        }
        let section = Section { name: name.to_owned(), line: number, items: Vec::new() };
        self.scope = Scope::Section { section, keys };
    }

    fn item(&mut self, number: usize, text: &str) {
        let (key, value) = match text.find(['=', ':']) {
            Some(at) => {
                let (key, rest) = text.split_at(at);
                let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
                (key.trim_end_matches(is_blank), Some(value.trim_matches(is_blank).to_owned()))
            }
            None => (text, None),
        };
        let (section, keys) = match &mut self.scope {
            Scope::Section { section, keys } => (section, keys),
            Scope::Start { reported } => {
                if !*reported {
                    let problem = format!("{} comes before the first section", quoted(text));
                    self.findings.error(Some(number), "", problem, "begin with [instances] or with a node's [name]");
                }
                *reported = true;
                return;
            }
        };
        if key.is_empty() {
            self.open = false;
            let place = format!("[{}]", bare(&section.name));
            self.findings.error(Some(number), &place, format!("{} has no key", quoted(text)), "write key = value");
            return;
        }
        // Names of instances are names; keys of nodes are words that zeek-client takes in any case.
        let key = if section.name == INSTANCES { key.to_owned() } else { key.to_lowercase() };
        if section.name == INSTANCES && key.starts_with('[') {
            let problem = format!("{} looks like a section without its ]", quoted(text));
            self.findings.error(Some(number), "[instances]", problem, "close the bracket; no name can begin with one");
        }
        if let Some(first) = keys.get(&key) {
            let place = format!("[{}] {}", bare(&section.name), bare(&key));
            let problem = format!("the key is there already, at line {first}");
            self.findings.error(Some(number), &place, problem, "remove one of the two");
        } else {
            keys.insert(key.clone(), number);
        }
        section.items.push(Item { key, line: number, value });
        self.open = true;
    }

    fn end_section(&mut self) {
        let scope = std::mem::replace(&mut self.scope, Scope::Start { reported: true });
        let Scope::Section { mut section, keys } = scope else { return };
        for value in section.items.iter_mut().filter_map(|item| item.value.as_mut()) {
            *value = value.trim_end_matches(is_blank).to_owned();
        }
        if section.name == DEFAULT {
            self.default_keys = keys;
            self.ini.defaults.append(&mut section.items);
        } else {
            self.ini.sections.push(section);
        }
    }

    /// Drops repeated items, which have been reported, so that they are not reported again later.
    fn finish(self) -> Ini {
        let mut ini = self.ini;
        let mut names = BTreeSet::new();
        ini.sections.retain(|section| names.insert(section.name.clone()));
        ini
    }
}

/// The name in a section's header: what stands between the first bracket, which begins the line, and the last.
fn header(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Items = Vec<(String, Option<String>)>;

    fn sections(text: &str) -> Vec<(String, Items)> {
        let mut findings = Findings::new("f");
        let ini = read(text, &mut findings);
        assert_eq!(findings.finish(None), Err(Vec::new()), "{text:?}");
        let items = |items: Vec<Item>| items.into_iter().map(|item| (item.key, item.value)).collect();
        let defaults = ("DEFAULT".to_owned(), items(ini.defaults));
        std::iter::once(defaults).chain(ini.sections.into_iter().map(|s| (s.name, items(s.items)))).collect()
    }

    fn value(text: &str) -> Option<String> {
        sections(text).into_iter().last().and_then(|(_, items)| items.into_iter().next()).and_then(|(_, value)| value)
    }

    fn errors(text: &str) -> Vec<String> {
        let mut findings = Findings::new("f");
        read(text, &mut findings);
        findings.finish(None).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_as_configparser_sees_them() {
        let cases: [(&str, Option<&str>); 15] = [
            ("[s]\nk = v", Some("v")),
            ("[s]\nk:v", Some("v")),
            ("[s]\nk : v = w", Some("v = w")),
            ("[s]\nk", None),
            ("[s]\nk =", Some("")),
            ("[s]\nk = v # not a comment ; at all", Some("v # not a comment ; at all")),
            ("[s]\n# comment\nk = v\n; comment", Some("v")),
            ("[s]\nk = a\n  b\n\tc", Some("a\nb\nc")),
            ("[s]\nk = a\n\n  b\n\n", Some("a\n\nb")),
            ("[s]\nk = a\n  # comment\n  b", Some("a\nb")),
            ("[s]\nk =\n  [t]\n  x = y", Some("\n[t]\nx = y")),
            ("[s]\r\nk = v\r\n", Some("v")),
            ("[s]\rk = 100%(x)s\r", Some("100%(x)s")),
            ("[s] and more ] trailing\nk = v", Some("v")),
            ("  [s]\n  k = a\n   b", Some("a\nb")),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn instance_names_keep_their_case_and_node_keys_do_not() {
        let found = sections("[instances]\nHost-A\n[n]\nRole = worker\n[DEFAULT]\nPORT = 1");
        let keys: Vec<_> = found.iter().flat_map(|(_, items)| items.iter().map(|(key, _)| key.as_str())).collect();
        assert_eq!(keys, ["port", "Host-A", "role"]);
    }

    #[test]
    fn every_wrong_line_is_named() {
        let text = "x = 1\n[s]\n= v\nk = 1\nK = 2\n[s]\n[instances]\na\n  b\n[node";
        let found = errors(text);
        let lines: Vec<_> = found.iter().map(|error| error.split(':').nth(1).unwrap_or_default()).collect();
        assert_eq!(lines, ["1", "3", "5", "6", "9", "10"], "{found:#?}");
    }
}

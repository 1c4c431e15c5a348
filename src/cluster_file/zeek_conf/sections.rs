//! Which of a file's sections is which: `[zeek]`, interfaces, or a file without sections, whose options are both.

use std::collections::BTreeMap;

use super::super::findings::{Findings, quoted};
use super::syntax::{Section, is_of_workers};

/// The sections of a file by what they are about.
#[derive(Default)]
pub struct Sections {
    pub zeek: Section,
    pub interfaces: Vec<Interface>,
}

/// What one interface's workers have in common.
pub struct Interface {
    pub section: Section,
    /// Comes into the workers' names. Empty: this is the only interface of a file without sections.
    pub name: String,
}

/// Sorts the sections out, with a word on those that are neither.
pub fn sort_out(sections: Vec<Section>, findings: &mut Findings) -> Sections {
    if let [only] = sections.as_slice()
        && only.name.is_empty()
    {
        return plain(only, findings);
    }
    let mut sorted = Sections::default();
    for section in sections {
        let place = section.place("");
        let place = place.trim_end();
        if section.name.is_empty() {
            let problem = "has options outside of its sections".to_owned();
            findings.error(Some(section.line), "", problem, "move them into [zeek]");
        } else if section.name == "zeek" {
            sorted.zeek = section;
        } else if section.name.starts_with("interface") {
            match section.name.strip_prefix("interface ").filter(|name| is_name(name)) {
                Some(name) => sorted.interfaces.push(Interface { name: name.to_owned(), section }),
                None => {
                    let problem = "has no name that could be part of a node's".to_owned();
                    let advice = "write [interface NAME] with a NAME of a-z, 0-9, - and _";
                    findings.error(Some(section.line), place, problem, advice);
                }
            }
        } else {
            let problem = "is no section of a zeek.conf".to_owned();
            findings.warning(Some(section.line), place, problem, "it has no effect");
        }
    }
    sorted
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

/// A file without sections. Each `interface` after the first begins another one, with the options of workers that follow.
fn plain(section: &Section, findings: &mut Findings) -> Sections {
    let like = |line| Section { name: String::new(), line, items: Vec::new() };
    let mut sorted = Sections { zeek: like(section.line), interfaces: Vec::new() };
    let mut current = like(section.line);
    for item in &section.items {
        if !is_of_workers(&item.key) {
            sorted.zeek.items.push(item.clone());
            continue;
        }
        if item.key == "interface" && current.items.iter().any(|item| item.key == "interface") {
            sorted.interfaces.push(Interface { section: current, name: String::new() });
            current = like(item.line);
        }
        current.items.push(item.clone());
    }
    if !current.items.is_empty() {
        sorted.interfaces.push(Interface { section: current, name: String::new() });
    }
    if sorted.interfaces.len() > 1 {
        name_all(&mut sorted.interfaces, findings);
    }
    sorted
}

/// Workers of several interfaces have their interface's name in theirs.
fn name_all(interfaces: &mut [Interface], findings: &mut Findings) {
    let count = interfaces.len();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for interface in interfaces {
        let Some(item) = interface.section.items.iter().find(|item| item.key == "interface") else { continue };
        let text = item.values.first().map(String::as_str).unwrap_or_default();
        let device = text.rsplit_once("::").map_or(text, |(_, device)| device);
        let device = device.split_once("${").map_or(device, |(before, _)| before).to_ascii_lowercase();
        let name: String = device.chars().map(|c| if is_name(&c.to_string()) { c } else { '-' }).collect();
        let name = if name.is_empty() { "interface".to_owned() } else { name };
        let times = names.entry(name.clone()).or_default();
        *times += 1;
        interface.name = if *times == 1 { name } else { format!("{name}-{times}") };
        let problem = format!("is one of {count} interfaces, which Zeek takes in sections only");
        let advice = format!("{} is read as that of [interface {}]", quoted(text), interface.name);
        findings.warning(Some(item.line), "interface", problem, &advice);
    }
}

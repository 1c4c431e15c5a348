//! The keys of a `zeek.conf` that limit processes: memory, niceness, CPUs, NUMA policy. Nodes have no such limits yet, so
//! each is checked as Zeek's generator checks it and then named as without effect; a single CPU is what `cpu_affinity` says.

use super::super::findings::{Findings, quoted};
use super::syntax::{Item, Section};
use crate::api::configuration::ClusterRole;
use crate::api::validate::NODE_LIMIT;

/// What a key limits, by the end of its name.
const KINDS: [(&str, Limit); 5] = [
    ("_memory_max", Limit::Memory),
    ("_nice", Limit::Nice),
    ("_cpu_set", Limit::Cpus),
    ("worker_numa_policy", Limit::Numa),
    ("workers_numa_policy", Limit::Numa),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Memory,
    Nice,
    Cpus,
    Numa,
}

/// Whether a key is one of them. Those of the archiver are not, as no node is one.
pub fn is_limit(key: &str) -> bool {
    kind(key).is_some()
}

fn kind(key: &str) -> Option<Limit> {
    let role = ["manager_", "logger_", "proxy_", "worker_", "workers_"].iter().any(|role| key.starts_with(role));
    KINDS.iter().find(|(ending, _)| role && key.ends_with(ending)).map(|(_, limit)| *limit)
}

/// A word on the limit that `item` sets: what is wrong with it, or that it has no effect.
pub fn check(section: &Section, item: &Item, findings: &mut Findings) {
    let text = item.values.first().map(String::as_str).unwrap_or_default();
    let Some(limit) = kind(&item.key) else { return };
    let may_be_empty = limit == Limit::Cpus || (section.name.is_empty() && !item.key.starts_with("worker"));
    if text.is_empty() && may_be_empty {
        return;
    }
    let place = section.place(&item.key);
    let mut wrong = |what: &str, advice: &str| {
        findings.error(Some(item.line), &place, format!("{} is {what}", quoted(text)), advice);
    };
    let advice = match limit {
        Limit::Memory if !is_memory(text) => {
            return wrong("no amount of memory", "give bytes, or a number with K, M, G or T behind it");
        }
        Limit::Nice if !text.parse().is_ok_and(|nice| (-20..=19).contains(&nice)) => {
            return wrong("no niceness", "give a whole number from -20 to 19");
        }
        Limit::Numa if !matches!(text, "local" | "default") => return wrong("no NUMA policy", "give local or default"),
        Limit::Cpus => match cpus(text) {
            None => return wrong("not a list of CPUs", CPU_LISTS),
            Some(cpus) if cpus.len() == 1 => return,
            Some(_) => "these nodes may run on every CPU; pin each to one with cpu_affinity",
        },
        Limit::Memory => "these nodes may take as much memory as the agent's unit",
        Limit::Nice => "these nodes have the agent's niceness",
        Limit::Numa => "these nodes have the agent's NUMA policy",
    };
    findings.warning(Some(item.line), &place, "has no effect here yet".to_owned(), advice);
}

/// The one CPU that the nodes of a role may run on, if the file names one.
pub fn single_cpu(zeek: &Section, role: ClusterRole) -> Option<i64> {
    let key = format!("{role}_cpu_set");
    let text = zeek.items.iter().find(|item| item.key == key)?.values.first()?;
    match cpus(text)?.as_slice() {
        [cpu] => Some(*cpu),
        [] | [_, ..] => None,
    }
}

/// As systemd's MemoryMax= has it, without what Zeek's generator refuses.
fn is_memory(text: &str) -> bool {
    let digits = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(text);
    !text.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What to do about a list of CPUs that is none.
pub const CPU_LISTS: &str = "give 0-3, 0-6:2 or 1,2,5";

/// `4-7,9` or `0-30:2`: numbers, ranges, ranges with a step. More than there can be workers are not all listed.
pub fn cpus(text: &str) -> Option<Vec<i64>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (last, step) = last.split_once(':').unwrap_or((last, "1"));
        let (first, last, step) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?, step.parse::<usize>().ok()?);
        if step == 0 || last < first || part.split_once(':').is_some_and(|(range, _)| !range.contains('-')) {
            return None;
        }
        if cpus.len() <= NODE_LIMIT {
            cpus.extend((first..=last).step_by(step).take(NODE_LIMIT + 1).map(i64::from));
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_as_the_generator_takes_them() {
        assert_eq!(cpus("0-8:2,10-20:3"), Some(vec![0, 2, 4, 6, 8, 10, 13, 16, 19]));
        assert_eq!(cpus("4"), Some(vec![4]));
        for wrong in ["", "a", "4-", "7-4", "1:2", "0-4:0", "1,,2", "-1"] {
            assert_eq!(cpus(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn limits_are_checked_and_named() {
        let said = |key: &str, value: &str| {
            let item = Item { key: key.to_owned(), line: 3, values: vec![value.to_owned()] };
            let mut findings = Findings::new("f");
            check(&Section::default(), &item, &mut findings);
            let errors = findings.errors();
            errors.first().map_or_else(|| findings.warnings().len().to_string(), |error| error.problem.clone())
        };
        for (key, value) in [
            ("manager_memory_max", "4G"),
            ("worker_memory_max", "1234"),
            ("logger_nice", "-20"),
            ("worker_numa_policy", "local"),
            ("proxy_cpu_set", "1,2"),
        ] {
            assert_eq!(said(key, value), "1", "{key}={value}");
        }
        for (key, value) in [("manager_cpu_set", "7"), ("manager_nice", ""), ("archiver_nice", "x"), ("user", "x")] {
            assert_eq!(said(key, value), "0", "{key}={value}");
        }
        for (key, value, problem) in [
            ("manager_memory_max", "4GB", "\"4GB\" is no amount of memory"),
            ("worker_nice", "20", "\"20\" is no niceness"),
            ("workers_numa_policy", "near", "\"near\" is no NUMA policy"),
            ("worker_memory_max", "", "\"\" is no amount of memory"),
            ("logger_cpu_set", "1-", "\"1-\" is not a list of CPUs"),
        ] {
            assert_eq!(said(key, value), problem);
        }
    }
}

//! What a cluster file asks of this very host and does not find here: ports, interfaces, scripts. For `config check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::zeek;
use crate::api::configuration::{Configuration, Node};
use crate::api::validate::{self, Problem, shown};
use crate::settings::Settings;

/// Why this host's nodes cannot run, in words.
pub fn problems(settings: &Settings, config: &Configuration) -> Vec<String> {
    let ports = settings.agent_ports();
    let problems = ours(settings, config).flat_map(|node| validate::agent_ports(node, &ports));
    problems.map(|problem: Problem| problem.to_string()).collect()
}

/// What of this host's nodes may fail, in words.
pub fn warnings(settings: &Settings, config: &Configuration) -> Vec<String> {
    let nodes: Vec<&Node> = ours(settings, config).collect();
    let mut warnings: Vec<String> = ephemeral_ports(&nodes).into_iter().collect();
    if settings.nodes_are_zeek() && !nodes.is_empty() {
        warnings.extend(missing_interfaces(&nodes));
        warnings.extend(missing_scripts(settings, &nodes));
    }
    warnings
}

/// The nodes that this host's agent would run.
fn ours<'a>(settings: &'a Settings, config: &'a Configuration) -> impl Iterator<Item = &'a Node> {
    config.nodes.iter().filter(|node| node.instance == settings.name.as_str())
}

/// Ports that the kernel gives to outgoing connections: while one has such a port, a node cannot listen on it.
fn ephemeral_ports(nodes: &[&Node]) -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let range = read("ip_local_port_range");
    let mut numbers = range.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (first, last) = (numbers.next()?, numbers.next()?);
    let reserved = read("ip_local_reserved_ports");
    let mut ports: Vec<u16> =
        nodes.iter().flat_map(|node| [node.port, node.metrics_port]).flatten().map(|p| p.number).collect();
    ports.retain(|port| (first..=last).contains(port) && !is_listed(&reserved, *port));
    ports.sort_unstable();
    ports.dedup();
    let lowest = ports.first()?;
    let which = match ports.len() {
        1 => format!("port {lowest} is"),
        count => format!("{count} ports, {lowest} the first, are"),
    };
    Some(format!(
        "{which} among {first} to {last}, from which this host's kernel takes ports for outgoing connections, so that a node \
         may find its port in use; choose ports below {first}, or reserve them (sysctl net.ipv4.ip_local_reserved_ports)"
    ))
}

/// Whether a list such as `1,8000-8010` has a port.
fn is_listed(list: &str, port: u16) -> bool {
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}

/// Interfaces of the kernel that are not there. What other packet sources take for a name is theirs.
fn missing_interfaces(nodes: &[&Node]) -> Vec<String> {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let Some(interface) = node.interface.as_deref() else { continue };
        let device = interface.strip_prefix("af_packet::").unwrap_or(interface);
        let is_kernels =
            !device.is_empty() && !device.contains([':', '/', '@', '{']) && device != ".." && device != ".";
        if is_kernels && !Path::new("/sys/class/net").join(device).exists() {
            missing.entry(device).or_default().push(&node.name);
        }
    }
    let text = |(device, nodes): (&str, Vec<&str>)| {
        let device = shown(device);
        format!("this host has no interface {device}, which {} captures; see `ip link`", some(&nodes))
    };
    missing.into_iter().map(text).collect()
}

/// Scripts that are not there: as a path, or anywhere in Zeek's path if that is known.
fn missing_scripts(settings: &Settings, nodes: &[&Node]) -> Vec<String> {
    let search = zeek::search_path(settings);
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for script in &node.scripts {
            let is_there = match (Path::new(script).is_absolute(), &search) {
                (true, _) => is_script(Path::new(script)),
                (false, Some(search)) => search.iter().any(|directory| is_script(&directory.join(script))),
                // Where Zeek would look is not known.
                (false, None) => true,
            };
            if !is_there {
                missing.entry(script).or_default().push(&node.name);
            }
        }
    }
    let searched = search.unwrap_or_default();
    let text = |(script, nodes): (&str, Vec<&str>)| {
        let place =
            if script.starts_with('/') { "is not there".to_owned() } else { format!("is not in {}", list(&searched)) };
        format!("script {} {place}; {} would end at once without it", shown(script), some(&nodes))
    };
    missing.into_iter().map(text).collect()
}

/// Whether Zeek would load something by this path.
fn is_script(path: &Path) -> bool {
    let with_ending = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        Path::new(&name).is_file()
    };
    path.is_file() || with_ending(".zeek") || path.join("__load__.zeek").is_file()
}

fn list(directories: &[PathBuf]) -> String {
    directories.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(":")
}

/// The first of some nodes, and how many more there are.
fn some(nodes: &[&str]) -> String {
    match nodes {
        [] => String::new(),
        [one] => shown(one),
        [first, rest @ ..] => format!("{} (and {} more nodes)", shown(first), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_found_in_their_list() {
        let list = "2200,8000-8010\n";
        for (port, expected) in [(2200, true), (8005, true), (8011, false), (22, false)] {
            assert_eq!(is_listed(list, port), expected, "{port}");
        }
        assert!(!is_listed("", 1));
    }
}

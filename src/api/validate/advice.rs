//! What is valid and seldom meant: packets seen twice or not at all, nodes that wait for each other and never start. Said by
//! `config check`, before anything runs.

use std::collections::BTreeMap;

use super::{Listed, Problem, Subject, shown};
use crate::api::configuration::{ClusterRole, Configuration, Node};

/// Zeek's own `AF_Packet::fanout_id`.
const FANOUT_ID: &str = "23";

/// What there is to say of `config`, whichever host it is for.
pub fn advice(config: &Configuration) -> Vec<Problem> {
    let mut listed = Listed::default();
    without_manager(config, &mut listed);
    without_address(config, &mut listed);
    for node in &config.nodes {
        odd_interface(node, &mut listed);
    }
    let mut hosts: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
    for node in &config.nodes {
        hosts.entry(host(config, node)).or_default().push(node);
    }
    for nodes in hosts.values() {
        shared_fanout_ids(nodes, &mut listed);
        shared_interfaces(nodes, &mut listed);
    }
    listed.finish("warnings")
}

/// Where a node runs: instances with one address are one host.
fn host(config: &Configuration, node: &Node) -> String {
    let address = config.instance(&node.instance).map(|instance| instance.host).filter(|host| !host.is_unspecified());
    address.map_or_else(|| format!("instance {}", node.instance), |address| address.to_canonical().to_string())
}

fn without_manager(config: &Configuration, listed: &mut Listed) {
    let has = |role: ClusterRole| config.nodes.iter().any(|node| node.role == role);
    if has(ClusterRole::Manager) {
        return;
    }
    let waiting = [ClusterRole::Worker, ClusterRole::Proxy, ClusterRole::Logger].into_iter().find(|role| has(*role));
    if let Some(role) = waiting {
        let text = format!(
            "has {role}s and no manager: they wait for one and take no part in a cluster; add a node with role manager"
        );
        listed.push(Subject::Configuration, text);
    }
}

/// Where several instances have nodes, each needs an address that the others reach.
fn without_address(config: &Configuration, listed: &mut Listed) {
    let has_nodes = |name: &str| config.nodes.iter().any(|node| node.instance == name);
    let with_nodes: Vec<_> = config.instances.iter().filter(|instance| has_nodes(&instance.name)).collect();
    if with_nodes.len() < 2 {
        return;
    }
    for instance in with_nodes.iter().filter(|instance| instance.host.is_unspecified()) {
        let text =
            "has nodes and no address: a controller fills it in, and `request deploy` refuses the file; give its \
                    address if no controller is to deploy it"
                .to_owned();
        listed.push(Subject::Instance(shown(&instance.name)), text);
    }
}

/// A comment behind a value is part of it.
fn odd_interface(node: &Node, listed: &mut Listed) {
    let Some(interface) = node.interface.as_deref() else { return };
    if interface.contains(|c: char| c.is_whitespace() || matches!(c, '#' | ';')) {
        let text = format!(
            "interface {:?} holds a blank, # or ;, and no interface is called so: give the name alone, and a comment a line \
             of its own",
            shown(interface)
        );
        listed.push(Subject::Node(shown(&node.name)), text);
    }
}

/// The kernel lets one interface join a fanout group.
fn shared_fanout_ids(nodes: &[&Node], listed: &mut Listed) {
    let mut groups: BTreeMap<&str, Vec<(&str, &Node)>> = BTreeMap::new();
    for node in nodes {
        let Some(device) = node.interface.as_deref().and_then(|name| name.strip_prefix("af_packet::")) else {
            continue;
        };
        let option = |name: &str| {
            let found = node.options.iter().rev().find(|option| option.name == name);
            found.map(|option| option.value.trim())
        };
        if option("AF_Packet::enable_fanout") == Some("F") {
            continue;
        }
        let group = groups.entry(option("AF_Packet::fanout_id").unwrap_or(FANOUT_ID)).or_default();
        if group.iter().all(|(other, _)| *other != device) {
            group.push((device, node));
        }
    }
    for (id, group) in groups {
        let Some(((first, other), rest)) = group.split_first() else { continue };
        for (device, node) in rest {
            let text = format!(
                "captures {} with AF_PACKET fanout id {}, and {} captures {} with it: the kernel refuses the second \
                 interface (EINVAL); give the workers of each interface an AF_Packet::fanout_id of their own",
                shown(device),
                shown(id),
                shown(&other.name),
                shown(first)
            );
            listed.push(Subject::Node(shown(&node.name)), text);
        }
    }
}

/// Two workers on a plain interface both see all of it.
fn shared_interfaces(nodes: &[&Node], listed: &mut Listed) {
    let mut devices: BTreeMap<&str, &Node> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.role == ClusterRole::Worker) {
        let Some(device) = node.interface.as_deref().filter(|name| !name.contains("::")) else { continue };
        // PF_RING's and Myricom's libpcap share an interface out by themselves.
        if node.env.keys().any(|name| name.starts_with("PCAP_PF_RING_") || name.starts_with("SNF_")) {
            continue;
        }
        if let Some(first) = devices.get(device) {
            let text = format!(
                "captures {} as {} does, and each sees every packet: connections are logged twice; share the interface out \
                 (af_packet::{}), or give it to one worker",
                shown(device),
                shown(&first.name),
                shown(device)
            );
            listed.push(Subject::Node(shown(&node.name)), text);
        } else {
            devices.insert(device, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::{Instance, ScriptOption, UNKNOWN_HOST};

    fn worker(name: &str, interface: &str) -> Node {
        Node {
            name: name.to_owned(),
            instance: "a".to_owned(),
            role: ClusterRole::Worker,
            port: None,
            scripts: Vec::new(),
            options: Vec::new(),
            interface: Some(interface.to_owned()),
            cpu_affinity: None,
            env: BTreeMap::new(),
            metrics_port: None,
        }
    }

    fn with_fanout_id(name: &str, interface: &str, id: &str) -> Node {
        let option = ScriptOption { name: "AF_Packet::fanout_id".to_owned(), value: id.to_owned() };
        Node { options: vec![option], ..worker(name, interface) }
    }

    /// The nodes that something is said of, with a manager beside them.
    fn doubted(nodes: Vec<Node>) -> Vec<String> {
        let manager = Node { role: ClusterRole::Manager, interface: None, ..worker("m", "") };
        let mut instances: Vec<&str> = nodes.iter().map(|node| node.instance.as_str()).chain(["a"]).collect();
        instances.sort_unstable();
        instances.dedup();
        let host = |name: &str| format!("192.0.2.{}", name.len()).parse().unwrap();
        let instances = instances
            .iter()
            .map(|name| Instance { name: (*name).to_owned(), host: host(name), listen_port: None })
            .collect();
        let nodes = nodes.into_iter().chain([manager]).collect();
        let config = Configuration { id: "c".to_owned(), instances, nodes, cluster_backend: None };
        advice(&config).iter().map(|problem| problem.subject.to_string()).collect()
    }

    #[test]
    fn a_fanout_id_is_for_one_interface_of_a_host() {
        let (one, two) = ("af_packet::eth0", "af_packet::eth1");
        assert_eq!(doubted(vec![worker("w1", one), worker("w2", two), worker("w3", two)]), ["node w2"]);
        assert_eq!(doubted(vec![with_fanout_id("w1", one, "1"), with_fanout_id("w2", two, " 1")]), ["node w2"]);
        assert_eq!(doubted(vec![worker("w1", one), with_fanout_id("w2", two, "23")]), ["node w2"]);
        assert!(doubted(vec![worker("w1", one), worker("w2", one)]).is_empty());
        assert!(doubted(vec![worker("w1", one), with_fanout_id("w2", two, "24")]).is_empty());
        let elsewhere = Node { instance: "bb".to_owned(), ..worker("w2", two) };
        assert!(doubted(vec![worker("w1", one), elsewhere]).is_empty());
        let off = ScriptOption { name: "AF_Packet::enable_fanout".to_owned(), value: "F".to_owned() };
        assert!(doubted(vec![worker("w1", one), Node { options: vec![off], ..worker("w2", two) }]).is_empty());
    }

    #[test]
    fn a_plain_interface_is_for_one_worker() {
        assert_eq!(doubted(vec![worker("w1", "eth0"), worker("w2", "eth0"), worker("w3", "eth1")]), ["node w2"]);
        let elsewhere = Node { instance: "bb".to_owned(), ..worker("w2", "eth0") };
        assert!(doubted(vec![worker("w1", "eth0"), elsewhere]).is_empty());
        let shares = |name: &str| {
            let env = BTreeMap::from([("PCAP_PF_RING_CLUSTER_ID".to_owned(), "21".to_owned())]);
            Node { env, ..worker(name, "eth0") }
        };
        assert!(doubted(vec![shares("w1"), shares("w2")]).is_empty());
    }

    #[test]
    fn a_comment_behind_an_interface_is_noticed() {
        for interface in ["eth0 # c", "eth0;", "eth 0"] {
            assert_eq!(doubted(vec![worker("w1", interface)]), ["node w1"], "{interface}");
        }
    }

    #[test]
    fn workers_need_a_manager_and_hosts_an_address() {
        let config = |host| Configuration {
            id: "c".to_owned(),
            instances: vec![
                Instance { name: "a".to_owned(), host, listen_port: None },
                Instance { name: "b".to_owned(), host: "192.0.2.2".parse().unwrap(), listen_port: None },
            ],
            nodes: vec![worker("w1", "eth0"), Node { instance: "b".to_owned(), ..worker("w2", "eth0") }],
            cluster_backend: None,
        };
        let said =
            |config: &Configuration| advice(config).iter().map(|one| one.subject.to_string()).collect::<Vec<_>>();
        assert_eq!(said(&config("192.0.2.1".parse().unwrap())), ["configuration"]);
        assert_eq!(said(&config(UNKNOWN_HOST)), ["configuration", "instance a"]);
        assert!(advice(&Configuration::default()).is_empty());
    }
}

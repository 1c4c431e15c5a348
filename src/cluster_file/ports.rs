//! The ports of nodes that name none: a pure function of the configuration.
//!
//! Zeek's controller does it so (`config_assign_broker_ports` and `config_assign_metrics_ports` in
//! `scripts/policy/frameworks/management/controller/main.zeek`), and existing users keep their ports: nodes in the
//! order of their instance, then manager, loggers, proxies (and workers), then name.
//! - Broker ports go to managers, loggers and proxies: from 2200 across all hosts, skipping every port named anywhere in
//!   the configuration. (Zeek's controller does not skip named metrics ports, and then rejects the outcome.)
//! - Metrics ports go to them and to workers: from 9000 on each host, skipping what agents and nodes of that host use.
//!
//! Instances with the same address are one host, those whose address is not known (0.0.0.0) included: more ports than
//! needed do no harm, and they may well turn out to be one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::api::configuration::{ClusterRole, Configuration, Node, Port};

/// The first port given out for Broker.
pub const BROKER_START: u16 = 2200;
/// The first port given out for metrics, on each host.
pub const METRICS_START: u16 = 9000;

/// All ports up to 65535 are taken when it is `node`'s turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no port is left for node {node}: name fewer ports in the configuration")]
pub struct NoneLeft {
    /// The first node that got none.
    pub node: String,
}

/// Gives a port to every node that needs one and names none, then a metrics port to every node that can have one.
pub fn assign(config: &mut Configuration) -> Result<(), NoneLeft> {
    let mut order: Vec<usize> = (0..config.nodes.len()).collect();
    order.sort_by_key(|index| config.nodes.get(*index).map(|n| (n.instance.clone(), rank(n.role), n.name.clone())));
    assign_broker_ports(config, &order)?;
    assign_metrics_ports(config, &order)
}

/// The place of a role in the order, or none: such nodes get no port at all.
fn rank(role: ClusterRole) -> Option<u8> {
    match role {
        ClusterRole::Manager => Some(0),
        ClusterRole::Logger => Some(1),
        ClusterRole::Proxy => Some(2),
        ClusterRole::Worker => Some(3),
        ClusterRole::None => None,
    }
}

fn listens(node: &Node) -> bool {
    match node.role {
        ClusterRole::Manager | ClusterRole::Logger | ClusterRole::Proxy => true,
        ClusterRole::Worker | ClusterRole::None => false,
    }
}

/// Ports from `next` on, without those already taken.
struct Free {
    next: Option<u16>,
    taken: BTreeSet<u16>,
}

impl Free {
    fn from(start: u16) -> Self {
        Self { next: Some(start), taken: BTreeSet::new() }
    }

    fn take(&mut self, node: &Node) -> Result<Port, NoneLeft> {
        while let Some(port) = self.next {
            self.next = port.checked_add(1);
            if self.taken.insert(port) {
                return Ok(Port::tcp(port));
            }
        }
        Err(NoneLeft { node: node.name.clone() })
    }
}

fn assign_broker_ports(config: &mut Configuration, order: &[usize]) -> Result<(), NoneLeft> {
    let mut free = Free::from(BROKER_START);
    let instances = config.instances.iter().map(|instance| instance.listen_port);
    let nodes = config.nodes.iter().flat_map(|node| [node.port, node.metrics_port]);
    free.taken.extend(instances.chain(nodes).flatten().map(|port| port.number));
    for index in order {
        let Some(node) = config.nodes.get_mut(*index) else { continue };
        if listens(node) && node.port.is_none() {
            node.port = Some(free.take(node)?);
        }
    }
    Ok(())
}

fn assign_metrics_ports(config: &mut Configuration, order: &[usize]) -> Result<(), NoneLeft> {
    let mut hosts: BTreeMap<&str, IpAddr> = BTreeMap::new();
    for instance in &config.instances {
        hosts.entry(&instance.name).or_insert(instance.host.to_canonical());
    }
    // A node of an instance that is not listed (an error, found later) counts on a host of its own.
    let host = |instance: &str| hosts.get(instance).copied().ok_or_else(|| instance.to_owned());

    let mut free: BTreeMap<Result<IpAddr, String>, Free> = BTreeMap::new();
    let agents = config.instances.iter().map(|instance| (instance.name.as_str(), [instance.listen_port, None]));
    let nodes = config.nodes.iter().map(|node| (node.instance.as_str(), [node.port, node.metrics_port]));
    for (instance, ports) in agents.chain(nodes) {
        let free = free.entry(host(instance)).or_insert_with(|| Free::from(METRICS_START));
        free.taken.extend(ports.into_iter().flatten().map(|port| port.number));
    }
    for index in order {
        let Some(node) = config.nodes.get_mut(*index) else { continue };
        if rank(node.role).is_some() && node.metrics_port.is_none() {
            let free = free.entry(host(&node.instance)).or_insert_with(|| Free::from(METRICS_START));
            node.metrics_port = Some(free.take(node)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::Instance;

    fn node(name: &str, instance: &str, role: ClusterRole) -> Node {
        Node {
            name: name.to_owned(),
            instance: instance.to_owned(),
            role,
            port: None,
            scripts: Vec::new(),
            options: Vec::new(),
            interface: None,
            cpu_affinity: None,
            env: BTreeMap::new(),
            metrics_port: None,
        }
    }

    fn instance(name: &str, host: &str, listen_port: Option<u16>) -> Instance {
        Instance { name: name.to_owned(), host: host.parse().unwrap(), listen_port: listen_port.map(Port::tcp) }
    }

    fn assigned(instances: Vec<Instance>, nodes: Vec<Node>) -> Vec<(String, Option<u16>, Option<u16>)> {
        let mut config = Configuration { instances, nodes, ..Configuration::default() }.canonical();
        assign(&mut config).unwrap();
        let number = |port: Option<Port>| port.map(|port| port.number);
        config.nodes.iter().map(|n| (n.name.clone(), number(n.port), number(n.metrics_port))).collect()
    }

    #[test]
    fn roles_then_names_in_order_and_workers_have_metrics_only() {
        use ClusterRole::{Logger, Manager, None as NoRole, Proxy, Worker};
        let nodes = vec![
            node("a-worker", "i", Worker),
            node("b-proxy", "i", Proxy),
            node("a-proxy", "i", Proxy),
            node("z-manager", "i", Manager),
            node("logger", "i", Logger),
            node("odd", "i", NoRole),
        ];
        let expected = [
            ("a-proxy", Some(2202), Some(9002)),
            ("a-worker", None, Some(9004)),
            ("b-proxy", Some(2203), Some(9003)),
            ("logger", Some(2201), Some(9001)),
            ("odd", None, None),
            ("z-manager", Some(2200), Some(9000)),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(n, p, m)| (n.to_owned(), p, m)).collect();
        assert_eq!(assigned(vec![instance("i", "0.0.0.0", None)], nodes), expected);
    }

    #[test]
    fn named_ports_are_skipped_and_metrics_count_on_each_host() {
        use ClusterRole::{Logger, Manager, Proxy, Worker};
        let mut manager = node("manager", "a", Manager);
        manager.port = Some(Port::tcp(2201));
        manager.metrics_port = Some(Port::tcp(2203));
        let mut worker = node("w2", "b", Worker);
        worker.metrics_port = Some(Port::tcp(9001));
        let nodes = vec![
            manager,
            node("l1", "a", Logger),
            node("p1", "b", Proxy),
            node("p2", "c", Proxy),
            node("w1", "b", Worker),
            worker,
        ];
        let instances = vec![
            instance("a", "192.0.2.1", Some(2200)),
            instance("b", "192.0.2.2", Some(9000)),
            instance("c", "::ffff:192.0.2.2", None),
        ];
        let expected = [
            ("l1", Some(2202), Some(9000)),
            ("manager", Some(2201), Some(2203)),
            ("p1", Some(2204), Some(9002)),
            ("p2", Some(2205), Some(9004)),
            ("w1", None, Some(9003)),
            ("w2", None, Some(9001)),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(n, p, m)| (n.to_owned(), p, m)).collect();
        assert_eq!(assigned(instances, nodes), expected);
    }

    #[test]
    fn when_no_port_is_left_the_node_is_named() {
        let mut free = Free { next: Some(65535), taken: BTreeSet::new() };
        let node = node("p1", "i", ClusterRole::Proxy);
        assert_eq!(free.take(&node).unwrap(), Port::tcp(65535));
        assert_eq!(free.take(&node).unwrap_err().node, "p1");
    }
}

//! What zeekctl makes of a worker with `lb_procs`: that many workers, each with its share of interfaces, variables, options
//! and CPUs.
//!
//! Source: zeekctl 2.6, `_check_node` in `ZeekControl/config.py`, and `ZeekControl/plugins/` (`zzz_af_packet.py`,
//! `lb_pf_ring.py`, `lb_myricom.py`, `lb_custom.py`).

use std::collections::BTreeMap;

use super::super::draft::DraftNode;
use super::super::findings::{Findings, quoted};
use super::super::ini::{DEFAULT, read_number};
use super::{Host, Keys, Value};
use crate::api::configuration::{ClusterRole, ScriptOption};

/// The node keys of zeekctl's AF_PACKET plugin. Each redefines the variable of its name in Zeek's module `AF_Packet`.
const AF_PACKET_KEYS: [&str; 10] = [
    "block_size",
    "block_timeout",
    "buffer_size",
    "checksum_validation_mode",
    "enable_defrag",
    "enable_fanout",
    "enable_hw_timestamping",
    "fanout_id",
    "fanout_mode",
    "link_type",
];

/// PFRINGClusterID of a zeekctl.cfg that sets none.
const PF_RING_CLUSTER_ID: usize = 21;

/// The variable of Zeek that a node's key stands for, if it is one of the AF_PACKET plugin.
pub fn af_packet_option(key: &str) -> Option<String> {
    let name = key.strip_prefix("af_packet_")?;
    AF_PACKET_KEYS.contains(&name).then(|| format!("AF_Packet::{name}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    AfPacket,
    PfRing,
    Myricom,
    Custom,
    Interfaces,
}

/// What later sections have to know of earlier ones: how many processes each PF_RING interface of a host has.
#[derive(Default)]
pub struct Balance {
    pf_ring: BTreeMap<Host, Vec<(String, usize)>>,
}

impl Balance {
    /// The nodes that `node`'s section stands for: `node` itself, or `node-1` and so on.
    pub fn expand(
        &mut self,
        keys: &Keys,
        node: DraftNode,
        host: &Host,
        findings: &mut Findings,
    ) -> Option<Vec<DraftNode>> {
        let cpus = read_cpus(keys, findings);
        let Some(procs) = keys.single("lb_procs", findings) else {
            if let Some(value) = keys.single("lb_method", findings) {
                let advice = "say how many processes there are, or remove it";
                value.error("is given without lb_procs".to_owned(), advice, findings);
            }
            let own = keys.values.iter().filter(|(_, value)| value.section != DEFAULT).map(|(key, _)| key);
            for key in own.filter(|key| af_packet_option(key).is_some()) {
                if let Some(value) = keys.single(key, findings) {
                    value.warning("has no effect without lb_procs".to_owned(), "it is left out", findings);
                }
            }
            let mut node = node;
            node.cpu_affinity = cpus.first().copied();
            return Some(vec![node]);
        };
        let count = read_number(&procs.text).and_then(|number| usize::try_from(number).ok()).filter(|n| *n > 0);
        if count.is_none() {
            let problem = format!("{} is not a number of processes", quoted(&procs.text));
            procs.error(problem, "give a whole number from 1", findings);
        }
        if node.role != ClusterRole::Worker {
            procs.error("is for workers only".to_owned(), "remove it", findings);
            return None;
        }
        let method = read_method(keys, findings);
        let (count, method) = (count?, method?);
        let interfaces = read_interfaces(keys, &node, method, count, findings)?;
        let options = read_options(keys, findings);
        let mut nodes = Vec::with_capacity(count);
        for (index, interface) in interfaces.into_iter().enumerate() {
            let mut process = node.clone();
            process.name = format!("{}-{}", node.name, index + 1);
            process.options.clone_from(&options);
            process.interface = interface;
            process.cpu_affinity = cpus.get(index % cpus.len().max(1)).copied();
            self.share(&mut process, host, method, &procs.text);
            nodes.push(process);
        }
        Some(nodes)
    }

    /// Gives one of `count` processes (as the file writes it) its part of the interface's packets. The node's own variables
    /// come first.
    fn share(&mut self, node: &mut DraftNode, host: &Host, method: Method, count: &str) {
        let mut set = |name: &str, value: String| {
            node.env.entry(name.to_owned()).or_insert(value);
        };
        match method {
            Method::AfPacket => node.interface = node.interface.as_ref().map(|name| format!("af_packet::{name}")),
            Method::Myricom => {
                set("SNF_NUM_RINGS", count.to_owned());
                set("SNF_FLAGS", "0x101".to_owned());
            }
            Method::PfRing => {
                let Some(name) = node.interface.clone() else { return };
                let (cluster, process) = self.pf_ring_process(host, &name);
                set("PCAP_PF_RING_USE_CLUSTER_PER_FLOW_4_TUPLE", "1".to_owned());
                let zero_copy = name.starts_with("zc:") || name.starts_with("pf_ring::zc:");
                let own_ring = zero_copy || name.starts_with("dna");
                let name = if own_ring { format!("{name}@{process}") } else { name };
                if zero_copy {
                    set("PCAP_PF_RING_ZC_RSS", "1".to_owned());
                } else if !own_ring {
                    set("PCAP_PF_RING_CLUSTER_ID", cluster.to_string());
                } else if !name.starts_with("dnacl") {
                    set("PCAP_PF_RING_DNA_RSS", "1".to_owned());
                }
                set("PCAP_PF_RING_APPNAME", format!("zeek-{name}"));
                node.interface = Some(name);
            }
            Method::Custom | Method::Interfaces => {}
        }
    }

    /// The cluster id of a host's interface, and which of its processes this one is, from 0.
    fn pf_ring_process(&mut self, host: &Host, interface: &str) -> (usize, usize) {
        let interfaces = self.pf_ring.entry(host.clone()).or_default();
        if let Some((index, (_, next))) = interfaces.iter_mut().enumerate().find(|(_, (name, _))| name == interface) {
            *next += 1;
            return (PF_RING_CLUSTER_ID + index, *next - 1);
        }
        interfaces.push((interface.to_owned(), 1));
        (PF_RING_CLUSTER_ID + interfaces.len() - 1, 0)
    }
}

/// The CPUs of `pin_cpus`, dealt out to the processes in turn.
fn read_cpus(keys: &Keys, findings: &mut Findings) -> Vec<i64> {
    let Some(value) = keys.single("pin_cpus", findings) else { return Vec::new() };
    let cpus: Option<Vec<i64>> =
        value.text.split(',').map(|cpu| read_number(cpu).filter(|number| *number >= 0)).collect();
    cpus.unwrap_or_else(|| {
        let problem = format!("{} is not a list of CPUs", quoted(&value.text));
        value.error(problem, "give numbers from 0 with commas between them", findings);
        Vec::new()
    })
}

fn read_method(keys: &Keys, findings: &mut Findings) -> Option<Method> {
    const METHODS: &str = "give af_packet, pf_ring, myricom, custom or interfaces";
    let Some(value) = keys.single("lb_method", findings) else {
        let problem = "has lb_procs and no lb_method".to_owned();
        findings.error(Some(keys.section.line), &keys.here(), problem, METHODS);
        return None;
    };
    match &*value.text {
        "af_packet" => Some(Method::AfPacket),
        "pf_ring" => {
            let problem = "is taken with zeekctl's own PFRINGClusterID 21 and PFRINGClusterType 4-tuple".to_owned();
            let advice = "if zeekctl.cfg has others, correct the PCAP_PF_RING variables of these nodes";
            value.warning(problem, advice, findings);
            Some(Method::PfRing)
        }
        "myricom" => Some(Method::Myricom),
        "custom" => {
            let advice = "if zeekctl.cfg has lb_custom.InterfacePrefix or InterfaceSuffix, add them to the interfaces";
            value.warning("takes the interface as it stands".to_owned(), advice, findings);
            Some(Method::Custom)
        }
        "interfaces" => Some(Method::Interfaces),
        other => {
            value.error(format!("{} is not a method of load balancing", quoted(other)), METHODS, findings);
            None
        }
    }
}

/// The interface of each process.
fn read_interfaces(
    keys: &Keys,
    node: &DraftNode,
    method: Method,
    count: usize,
    findings: &mut Findings,
) -> Option<Vec<Option<String>>> {
    let listed = keys.single("lb_interfaces", findings);
    if method == Method::Interfaces {
        let Some(value) = listed else {
            let problem = "has lb_method=interfaces and no lb_interfaces".to_owned();
            findings.error(Some(keys.section.line), &keys.here(), problem, "name them with commas between them");
            return None;
        };
        // From the end, as zeekctl deals them out: a node keeps the interface that it had.
        let names: Vec<_> = value.text.split(',').rev().map(|name| Some(name.trim().to_owned())).collect();
        if names.len() != count {
            let problem = format!("is a list of {} for {count} processes", names.len());
            value.error(problem, "give each process one", findings);
            return None;
        }
        return Some(names);
    }
    if let Some(value) = listed {
        let advice = "remove it, or make the method interfaces";
        value.warning("is not used with this lb_method".to_owned(), advice, findings);
    }
    let section = Value { text: "".into(), line: node.line, place: node.place.clone() };
    match node.interface.as_deref() {
        None => section.error("has no interface to share".to_owned(), "give interface", findings),
        Some(name) if method == Method::AfPacket && name.starts_with("af_packet::") => {
            section.error("has af_packet:: in its interface already".to_owned(), "remove it there", findings);
        }
        Some(_) => return Some(vec![node.interface.clone(); count]),
    }
    None
}

fn read_options(keys: &Keys, findings: &mut Findings) -> Vec<ScriptOption> {
    let mut options = Vec::new();
    for key in AF_PACKET_KEYS {
        let key = format!("af_packet_{key}");
        if let (Some(name), Some(value)) = (af_packet_option(&key), keys.single(&key, findings)) {
            options.push(ScriptOption { name, value: value.text.into_owned() });
        }
    }
    options
}

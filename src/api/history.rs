//! Configurations that were to run on a host (`config history`, `config show`), and what two of them differ in (`config diff`).
//! The JSON forms are contracts: fields are added, never renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::configuration::{Configuration, Instance, Node};
use super::event::Source;

/// A configuration of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastReport {
    /// 0: it runs; 1: the newest before it that reached ready (`@-1`), and so on. `None`: it did not reach ready.
    pub back: Option<u32>,
    /// The configuration's id.
    pub id: String,
    /// When it was to run, RFC 3339 in UTC; `None`: an earlier release did not record it.
    pub set_at: Option<String>,
    /// When all of its nodes on this host were ready.
    pub ready_at: Option<String>,
    /// When another took its place, or none.
    pub ended_at: Option<String>,
    /// The number of the request that brought it.
    pub request: u64,
    /// That request's reqid; empty if it had none or is not known.
    pub reqid: String,
    /// Who sent that request; empty if that is not known.
    pub source: Source,
    /// How many of its nodes this host has.
    pub nodes: u64,
    /// How many of them were new.
    pub started: u64,
    /// How many got another process.
    pub replaced: u64,
    /// How many it removed.
    pub removed: u64,
}

/// Which configuration of the history is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `@0`, `@-1`, …
    Back(u32),
    /// The newest with this id.
    Id(String),
}

impl Which {
    /// `@-1` and the like; `None` for everything else.
    pub fn parse_back(text: &str) -> Option<u32> {
        match text.strip_prefix('@')? {
            "0" | "-0" => Some(0),
            back => back.strip_prefix('-').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse().ok(),
        }
    }

    /// `@-1` and the like, or an id.
    pub fn parse(text: &str) -> Self {
        Self::parse_back(text).map_or_else(|| Self::Id(text.to_owned()), Self::Back)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back(0) => f.write_str("@0"),
            Self::Back(back) => write!(f, "@-{back}"),
            Self::Id(id) => write!(f, "{id:?}"),
        }
    }
}

/// One value that two configurations do not share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `node NAME`, `instance NAME`, or `cluster`.
    pub of: String,
    /// Which value; `None`: the whole node or instance is new or gone.
    pub field: Option<String>,
    /// The value before; `None`: there was none, or it is an environment variable, whose values are not shown.
    pub old: Option<String>,
    /// The value after; the same.
    pub new: Option<String>,
}

/// What `new` has otherwise than `old`, apart from the id: the cluster first, then instances and nodes, by name.
pub fn differences(old: &Configuration, new: &Configuration) -> Vec<Difference> {
    let mut found = Vec::new();
    of_fields(&mut found, "cluster", &of_cluster(old), &of_cluster(new));
    let instances = |config: &Configuration| -> BTreeMap<String, Instance> {
        config.instances.iter().map(|one| (one.name.clone(), one.clone())).collect()
    };
    compare(&mut found, "instance", &instances(old), &instances(new), of_instance);
    let nodes = |config: &Configuration| -> BTreeMap<String, Node> {
        config.nodes.iter().map(|one| (one.name.clone(), one.clone())).collect()
    };
    compare(&mut found, "node", &nodes(old), &nodes(new), of_node);
    found
}

/// Values by the name of their field.
type Fields = BTreeMap<String, String>;

fn compare<T>(
    found: &mut Vec<Difference>,
    kind: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    fields: fn(&T) -> Fields,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let of = format!("{kind} {name}");
        let whole = |old: Option<&str>, new: Option<&str>| Difference {
            of: of.clone(),
            field: None,
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) => of_fields(found, &of, &fields(old), &fields(new)),
            (Some(_), None) => found.push(whole(Some("there"), None)),
            (None, Some(_)) => found.push(whole(None, Some("there"))),
            (None, None) => {}
        }
    }
}

fn of_fields(found: &mut Vec<Difference>, of: &str, old: &Fields, new: &Fields) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (old, new) = (old.get(name).cloned(), new.get(name).cloned());
        if old == new {
            continue;
        }
        let is_secret = name.starts_with(ENVIRONMENT);
        let shown = |value: Option<String>| value.filter(|_| !is_secret);
        found.push(Difference { of: of.to_owned(), field: Some(name.clone()), old: shown(old), new: shown(new) });
    }
}

/// Before the names of environment variables, whose values may be secrets.
const ENVIRONMENT: &str = "environment ";

fn of_cluster(config: &Configuration) -> Fields {
    let Configuration { id: _, instances: _, nodes: _, cluster_backend } = config;
    cluster_backend.iter().map(|backend| ("cluster_backend".to_owned(), backend.to_string())).collect()
}

fn of_instance(instance: &Instance) -> Fields {
    let Instance { name: _, host, listen_port } = instance;
    let port = listen_port.map(|port| ("listen_port".to_owned(), port.to_string()));
    std::iter::once(("host".to_owned(), host.to_string())).chain(port).collect()
}

fn of_node(node: &Node) -> Fields {
    let Node { name: _, instance, role, port, scripts, options, interface, cpu_affinity, env, metrics_port } = node;
    let mut fields = Fields::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    add("instance", Some(instance.clone()));
    add("role", Some(role.to_string()));
    add("port", port.map(|port| port.to_string()));
    add("metrics_port", metrics_port.map(|port| port.to_string()));
    add("scripts", (!scripts.is_empty()).then(|| scripts.join(", ")));
    add("interface", interface.clone());
    add("cpu_affinity", cpu_affinity.map(|cpu| cpu.to_string()));
    for option in options {
        add(&format!("option {}", option.name), Some(option.value.clone()));
    }
    for (name, value) in env {
        add(&format!("{ENVIRONMENT}{name}"), Some(value.clone()));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::configuration::{ClusterBackend, ClusterRole, Port, ScriptOption};

    fn node(name: &str) -> Node {
        Node {
            name: name.to_owned(),
            instance: "a1".to_owned(),
            role: ClusterRole::Worker,
            port: None,
            scripts: vec!["a".to_owned()],
            options: vec![ScriptOption { name: "X::y".to_owned(), value: "1".to_owned() }],
            interface: Some("eth0".to_owned()),
            cpu_affinity: None,
            env: BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]),
            metrics_port: None,
        }
    }

    #[test]
    fn every_value_is_compared_and_the_environment_stays_unsaid() {
        let old = Configuration {
            id: "o".into(),
            instances: Vec::new(),
            nodes: vec![node("w1"), node("w2")],
            cluster_backend: None,
        };
        let mut other = node("w1");
        other.interface = Some("eth1".to_owned());
        other.scripts.push("b".to_owned());
        other.options.clear();
        other.port = Some(Port::tcp(7));
        other.env.insert("TOKEN".to_owned(), "another".to_owned());
        let nodes = vec![other, node("w3")];
        let new = Configuration {
            id: "n".into(),
            instances: Vec::new(),
            nodes,
            cluster_backend: Some(ClusterBackend::ZeroMq),
        };
        let told = differences(&old, &new).into_iter().map(|one| {
            let (old, new) = (one.old.unwrap_or_default(), one.new.unwrap_or_default());
            format!("{} {}: {old} -> {new}", one.of, one.field.unwrap_or_default())
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "cluster cluster_backend:  -> zeromq",
                "node w1 environment TOKEN:  -> ",
                "node w1 interface: eth0 -> eth1",
                "node w1 option X::y: 1 -> ",
                "node w1 port:  -> 7/tcp",
                "node w1 scripts: a -> a, b",
                "node w2 : there -> ",
                "node w3 :  -> there",
            ]
        );
        assert_eq!(differences(&old, &old), []);
    }

    #[test]
    fn only_what_looks_like_a_place_is_one() {
        let back = Which::parse_back;
        assert_eq!((back("@0"), back("@-1"), back("@-16")), (Some(0), Some(1), Some(16)));
        for text in ["", "@", "@-", "@1", "@--1", "@-+1", "-1", "@-1x", "@-99999999999"] {
            assert_eq!(back(text), None, "{text}");
            assert_eq!(Which::parse(text), Which::Id(text.to_owned()));
        }
    }
}

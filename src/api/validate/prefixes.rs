//! Names of instances that begin with those of others. Broker's topics are prefixes: whoever subscribes to the topic of
//! agent `a1` receives what is meant for agent `a10`, too. This agent compares topics in full; others may not.

use std::collections::BTreeSet;

use crate::api::configuration::Configuration;

/// Each name with the longest other one that it begins with.
pub(super) fn pairs(config: &Configuration) -> Vec<(&str, &str)> {
    let names: BTreeSet<&str> = config.instances.iter().map(|instance| instance.name.as_str()).collect();
    let mut pairs = Vec::new();
    // The names before this one that it begins with, each a beginning of the next.
    let mut beginnings: Vec<&str> = Vec::new();
    for name in names {
        while beginnings.last().is_some_and(|beginning| !name.starts_with(beginning)) {
            beginnings.pop();
        }
        pairs.extend(beginnings.last().map(|beginning| (name, *beginning)));
        beginnings.push(name);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::api::configuration::Instance;

    #[test]
    fn beginnings_are_found_wherever_they_are_listed() {
        let names = ["a10", "b", "a1", "a100", "a2", "ab", "a"];
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let instances = names.map(|name| Instance { name: name.to_owned(), host, listen_port: None }).to_vec();
        let config = Configuration { id: "c".to_owned(), instances, nodes: Vec::new(), cluster_backend: None };
        assert_eq!(pairs(&config), [("a1", "a"), ("a10", "a1"), ("a100", "a10"), ("a2", "a"), ("ab", "a")]);
    }
}

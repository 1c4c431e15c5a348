//! Which ports the agent itself takes, seen from its nodes.

use std::net::IpAddr;

use super::{Address, Settings};

impl Settings {
    /// The ports that no node of this host can have: the agent listens there, at an address that nodes listen at, too.
    pub fn agent_ports(&self) -> Vec<u16> {
        let nodes = self.zeek_listen_address.0;
        let listeners = [&self.listen.value, &self.websocket.value, &self.metrics.value].into_iter();
        let ports = listeners.filter_map(|address| match address {
            Address::Off => None,
            // 0 is whichever port is free when the agent starts.
            Address::At { port: 0, .. } => None,
            Address::At { host, port } => in_the_way(host, nodes).then_some(*port),
        });
        ports.collect()
    }
}

/// Whether what listens at `host` keeps nodes from listening at `nodes` (everywhere, if there is no such address). A name may
/// stand for any address.
fn in_the_way(host: &str, nodes: Option<IpAddr>) -> bool {
    let (Some(nodes), Ok(host)) = (nodes, host.parse::<IpAddr>()) else { return true };
    host.is_unspecified() || nodes.is_unspecified() || host.to_canonical() == nodes.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_in_the_way_at_the_address_of_nodes() {
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(in_the_way("127.0.0.1", None));
        assert!(in_the_way("0.0.0.0", at("192.0.2.1")));
        assert!(in_the_way("127.0.0.1", at("::")));
        assert!(in_the_way("192.0.2.1", at("::ffff:192.0.2.1")));
        assert!(in_the_way("localhost", at("192.0.2.1")));
        assert!(!in_the_way("127.0.0.1", at("192.0.2.1")));
    }
}

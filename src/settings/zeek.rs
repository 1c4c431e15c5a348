//! Addresses in the variables of Zeek's management framework: a host in one, a port in the other.
//!
//! Source: `policy/frameworks/management/agent/config.zeek` and `controller/config.zeek`, Zeek 5.0 to 9.0.

use std::net::IpAddr;

use super::Surroundings;

/// The two variables of one address. Either may be missing; if both are, nothing is said.
pub struct Pair {
    /// Both, the host's first.
    pub variables: &'static [&'static str; 2],
    /// What is said of a value that comes from both.
    both: &'static str,
    default_port: u16,
    /// Whether the address is listened at; else it is dialled.
    is_own: bool,
}

/// Where the agent listens.
pub const AGENT: Pair = Pair {
    variables: &["ZEEK_AGENT_ADDR", "ZEEK_AGENT_PORT"],
    both: "ZEEK_AGENT_ADDR and ZEEK_AGENT_PORT",
    default_port: 2151,
    is_own: true,
};

/// Where the controller listens.
pub const CONTROLLER: Pair = Pair {
    variables: &["ZEEK_CONTROLLER_ADDR", "ZEEK_CONTROLLER_PORT"],
    both: "ZEEK_CONTROLLER_ADDR and ZEEK_CONTROLLER_PORT",
    default_port: 2150,
    is_own: false,
};

/// What agents tell their nodes, and no agent reads.
pub const NODE_VARIABLES: [&str; 5] = [NODE, "ZCA_LOG_QUEUE", "ZCA_PROGRAM", "ZCA_CHANNEL", "ZCA_DOORBELL"];
const NODE: &str = "ZCA_NODE";

const LOOPBACK: &str = "127.0.0.1";

impl Surroundings {
    /// The node in whose environment this process is, if it is in one: what it says of an agent is said to that node.
    pub(super) fn node(&self) -> Option<&str> {
        self.variable(NODE)
    }
}

impl Pair {
    /// The address as a setting's text, or what is wrong with it, and where it comes from.
    pub fn read(&self, surroundings: &Surroundings) -> Option<(Result<String, String>, &'static str)> {
        if self.is_own && surroundings.node().is_some() {
            return None;
        }
        let [host_variable, port_variable] = *self.variables;
        let (host, port) = (surroundings.variable(host_variable), surroundings.variable(port_variable));
        let origin = match (host, port) {
            (None, None) => return None,
            (Some(_), None) => host_variable,
            (None, Some(_)) => port_variable,
            (Some(_), Some(_)) => self.both,
        };
        let host = host.map_or(LOOPBACK, |host| self.reachable(host));
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = port.map_or(Ok(self.default_port), number);
        Some((port.map(|port| format!("{host}:{port}")), origin))
    }

    /// What listens at every address of its host is found, as by Zeek's agent, on this one.
    fn reachable<'a>(&self, host: &'a str) -> &'a str {
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if !self.is_own && address.is_unspecified() => LOOPBACK,
            Ok(IpAddr::V6(address)) if !self.is_own && address.is_unspecified() => "::1",
            Ok(_) | Err(_) => host,
        }
    }
}

/// Zeek writes `2151/tcp`; a bare number is no port to it, and can mean nothing else here.
fn number(text: &str) -> Result<u16, String> {
    let digits = text.strip_suffix("/tcp").unwrap_or(text);
    match digits.parse() {
        Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        Ok(_) | Err(_) => Err(format!("has the port {text:?}, expected one such as 2151/tcp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pair: &Pair, variables: &[(&str, &str)]) -> Option<(Result<String, String>, &'static str)> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        pair.read(&Surroundings { environment, ..Surroundings::default() })
    }

    #[test]
    fn either_half_will_do_and_the_other_is_a_default() {
        let text =
            |pair: &Pair, variables: &[(&str, &str)]| read(pair, variables).map(|(text, from)| (text.unwrap(), from));
        let (addr, port) = ("ZEEK_AGENT_ADDR", "ZEEK_AGENT_PORT");
        for (variables, expected) in [
            (&[][..], None),
            (&[(addr, ""), (port, "")], None),
            (&[(addr, "192.0.2.1")], Some(("192.0.2.1:2151", addr))),
            (&[(port, "4000/tcp")], Some(("127.0.0.1:4000", port))),
            (&[(addr, ""), (port, "4000")], Some(("127.0.0.1:4000", port))),
            (&[(addr, "::"), (port, "4000/tcp")], Some(("[::]:4000", AGENT.both))),
            (&[(addr, "0.0.0.0"), (port, "4000/tcp"), ("ZCA_NODE", "w1")], None),
        ] {
            let expected = expected.map(|(text, from)| (text.to_owned(), from));
            assert_eq!(text(&AGENT, variables), expected, "{variables:?}");
        }
        let (addr, port) = ("ZEEK_CONTROLLER_ADDR", "ZEEK_CONTROLLER_PORT");
        for (variables, expected) in [
            (&[(addr, "controller.example.org")][..], "controller.example.org:2150"),
            (&[(addr, "0.0.0.0")], "127.0.0.1:2150"),
            (&[(addr, "::"), (port, "1/tcp")], "[::1]:1"),
            (&[(port, "3000/tcp"), ("ZCA_NODE", "w1")], "127.0.0.1:3000"),
        ] {
            assert_eq!(text(&CONTROLLER, variables).unwrap().0, expected, "{variables:?}");
        }
    }

    #[test]
    fn a_port_is_one_as_zeek_writes_it() {
        for wrong in ["2151/udp", "x/tcp", "/tcp", "0/tcp", "65536/tcp", "+1", " 1", "2151/tcp/tcp"] {
            let (problem, from) = read(&AGENT, &[("ZEEK_AGENT_PORT", wrong)]).unwrap();
            assert_eq!((problem.is_err(), from), (true, "ZEEK_AGENT_PORT"), "{wrong}");
        }
    }
}

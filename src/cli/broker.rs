//! The settings of native Broker become the transport's options.

use std::net::{SocketAddr, ToSocketAddrs};

use super::outcome::{Exit, Failure};
use crate::peers::{Options, Timeouts};
use crate::settings::{Address, Set, Setting, Settings};
use crate::tls::{BrokerOptions, Passphrase};

/// `None`: the agent neither accepts Broker peers nor dials a controller.
pub fn options(settings: &Settings) -> Result<Option<Options>, Failure> {
    let controller = match &settings.controller.value {
        Address::Off => None,
        Address::At { port: 0, .. } => return Err(wrong(&settings.controller, "controller", "which has port 0")),
        Address::At { host, port } => Some((host.clone(), *port)),
    };
    let listen = match &settings.listen.value {
        Address::Off => Vec::new(),
        Address::At { host, port } => addresses(&settings.listen, host, *port)?,
    };
    if listen.is_empty() && controller.is_none() {
        return Ok(None);
    }
    let tls = BrokerOptions {
        certificate: settings.broker_certificate.0.clone(),
        key: settings.broker_key.0.clone(),
        passphrase: settings.broker_passphrase.0.clone().map(Passphrase),
        cafile: settings.broker_cafile.0.clone(),
        capath: settings.broker_capath.0.clone(),
        disable_ssl: *settings.disable_ssl,
    };
    let notify = settings.notify_dialects.value.0.clone();
    let insecure = *settings.broker_insecure;
    Ok(Some(Options { listen, controller, tls, insecure, notify, timeouts: Timeouts::default() }))
}

fn wrong(address: &Set<Address>, key: &str, problem: &str) -> Failure {
    Failure::new(Exit::Configuration, format!("{}: `{key}` is {}, {problem}", address.origin, address.show()))
}

fn addresses(setting: &Set<Address>, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = (host, port).to_socket_addrs();
    let found: Vec<SocketAddr> =
        found.map_err(|error| wrong(setting, "listen", &format!("which is not an address: {error}")))?.collect();
    match found.is_empty() {
        true => Err(wrong(setting, "listen", "which is not an address")),
        false => Ok(found),
    }
}

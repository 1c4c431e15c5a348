//! The settings of native Broker become the transport's options, and what is to be warned of.

use std::net::{SocketAddr, ToSocketAddrs};

use super::outcome::{Exit, Failure};
use crate::peers::{Options, Patience};
use crate::settings::{Address, Set, Setting, Settings};
use crate::tls::{BrokerMode, BrokerOptions, Passphrase};

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
    Ok(Some(Options { listen, controller, tls, notify, patience: Patience::default() }))
}

fn wrong(address: &Set<Address>, key: &str, problem: &str) -> Failure {
    Failure::new(Exit::Configuration, format!("{}: `{key}` is {}, {problem}", address.origin, address.show()))
}

fn addresses(setting: &Set<Address>, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = (host, port).to_socket_addrs();
    let found: Vec<SocketAddr> =
        found.map_err(|error| wrong(setting, "listen", &format!("which is no address: {error}")))?.collect();
    match found.is_empty() {
        true => Err(wrong(setting, "listen", "which is no address")),
        false => Ok(found),
    }
}

/// Without certificates nobody is asked who they are.
pub fn warnings(options: &Options, nodes_run_as_root: bool) -> Vec<String> {
    if options.listen.is_empty() || options.tls.mode() == BrokerMode::Certificates {
        return Vec::new();
    }
    if !options.listen.iter().all(|address| address.ip().is_loopback()) {
        let what = match options.tls.mode() {
            BrokerMode::Plain => "does not even encrypt",
            BrokerMode::Anonymous | BrokerMode::Certificates => "encrypts, but authenticates nobody",
        };
        return vec![format!(
            "the Broker listener {what}: everybody who reaches it can deploy, and so run programs on this host; set \
             broker_certificate, broker_key and broker_cafile, or listen on 127.0.0.1"
        )];
    }
    match nodes_run_as_root {
        true => vec![
            "the Broker listener authenticates nobody: every user of this host can deploy through it, and nodes run as \
             root; set broker_certificate, broker_key and broker_cafile, or --listen off"
                .to_owned(),
        ],
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(listen: &str, certificate: bool) -> Options {
        let certificate = certificate.then(|| "/cert.pem".into());
        let tls = BrokerOptions { certificate, ..BrokerOptions::default() };
        Options {
            listen: vec![listen.parse().unwrap()],
            controller: None,
            tls,
            notify: Vec::new(),
            patience: Patience::default(),
        }
    }

    #[test]
    fn who_is_let_in_is_told() {
        assert_eq!(warnings(&options("127.0.0.1:2151", false), false), Vec::<String>::new());
        assert!(warnings(&options("127.0.0.1:2151", false), true)[0].contains("every user of this host"));
        assert!(warnings(&options("0.0.0.0:2151", false), false)[0].contains("authenticates nobody"));
        assert_eq!(warnings(&options("0.0.0.0:2151", true), true), Vec::<String>::new());
        let mut plain = options("[::]:2151", false);
        plain.tls.disable_ssl = true;
        assert!(warnings(&plain, false)[0].contains("does not even encrypt"));
        plain.listen = Vec::new();
        assert_eq!(warnings(&plain, true), Vec::<String>::new());
    }
}

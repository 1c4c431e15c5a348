//! Where the metrics page is served, from the settings.

use std::net::{SocketAddr, ToSocketAddrs};

use super::outcome::{Exit, Failure};
use crate::api::report::chain;
use crate::metrics;
use crate::settings::{Address, Setting, Settings};
use crate::tls;

/// `None`: it is off. Anywhere but at loopback addresses it is for clients with certificates alone.
pub fn options(settings: &Settings) -> Result<Option<metrics::Options>, Failure> {
    let tls = tls(settings)?;
    let Address::At { host, port } = &settings.metrics.value else { return Ok(None) };
    let wrong = |problem: String| {
        let place = &settings.metrics.origin;
        Failure::new(Exit::Configuration, format!("{place}: `metrics` is {}, {problem}", settings.metrics.show()))
    };
    let addresses = (host.as_str(), *port).to_socket_addrs();
    let addresses: Vec<SocketAddr> =
        addresses.map_err(|error| wrong(format!("which is not an address: {error}")))?.collect();
    if addresses.is_empty() {
        return Err(wrong("which is not an address".to_owned()));
    }
    let is_local = addresses.iter().all(|address| address.ip().is_loopback());
    if !is_local && settings.metrics_client_ca.0.is_none() {
        return Err(wrong(
            "not a loopback address, and everybody who reaches it could read which nodes there are and how they do; set \
             metrics_certificate and metrics_client_ca, or give 127.0.0.1 or [::1]"
                .to_owned(),
        ));
    }
    Ok(Some(metrics::Options { addresses, tls }))
}

/// What clients are shown, if they are shown anything.
fn tls(settings: &Settings) -> Result<Option<tls::Context>, Failure> {
    let wrong =
        |origin, key: &str, problem: &str| Failure::new(Exit::Configuration, format!("{origin}: `{key}`: {problem}"));
    let Some(certificate) = &settings.metrics_certificate.0 else {
        let needing = [("metrics_key", &settings.metrics_key), ("metrics_client_ca", &settings.metrics_client_ca)];
        return match needing.into_iter().find(|(_, path)| path.0.is_some()) {
            Some((key, path)) => {
                Err(wrong(&path.origin, key, "is of no use without metrics_certificate; set that, too"))
            }
            None => Ok(None),
        };
    };
    let options = tls::ServerOptions {
        certificate: certificate.clone(),
        key: settings.metrics_key.0.as_ref().unwrap_or(certificate).clone(),
        client_ca: settings.metrics_client_ca.0.clone(),
    };
    tls::server(&options)
        .map(Some)
        .map_err(|error| wrong(&settings.metrics_certificate.origin, "metrics_certificate", &chain(&error)))
}

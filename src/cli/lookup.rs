//! Looks up the host names of a file, so that what leaves the command line holds addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster_file::hosts::Addresses;

/// How long all names together may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many are asked for at a time.
const AT_ONCE: usize = 8;

/// What the name service of this machine (nsswitch.conf(5)) says of each name.
pub fn addresses(names: &BTreeSet<String>) -> Addresses {
    let waiting = Arc::new(Mutex::new(names.iter().cloned().collect::<Vec<_>>()));
    let (results, found) = mpsc::sync_channel(names.len());
    for _ in 0..AT_ONCE.min(names.len()) {
        let (waiting, results) = (Arc::clone(&waiting), results.clone());
        // getaddrinfo(3) cannot be interrupted. A thread that is stuck in it ends with the command.
        std::thread::spawn(move || {
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(name) = next else { break };
                let result = address(&name);
                if results.send((name, result)).is_err() {
                    break;
                }
            }
        });
    }
    drop(results);
    let deadline = Instant::now() + TIMEOUT;
    let mut addresses = Addresses::new();
    loop {
        match found.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((name, result)) => drop(addresses.insert(name, result)),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                for name in names {
                    let why = || Err(format!("the name service did not answer within {} s", TIMEOUT.as_secs()));
                    addresses.entry(name.clone()).or_insert_with(why);
                }
                break;
            }
        }
    }
    addresses
}

/// The first IPv4 address, else the first one, as zeekctl has it.
fn address(name: &str) -> Result<IpAddr, String> {
    let found: Vec<IpAddr> = match (name, 0).to_socket_addrs() {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            let text = error.to_string();
            return Err(text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned());
        }
    };
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "the name service knows it, and no address of it".to_owned())
}

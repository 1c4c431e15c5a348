//! What all connections to peers share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::frames::Frames;
use crate::api::ids::NodeName;
use crate::api::report::ControllerReport;
use crate::broker::handshake::{ConnectionId, DEADLINE, Registry};
use crate::broker::peering;
use crate::broker::wire::{EndpointId, Filter};
use crate::hub::{self, Hub};
use crate::tls;
use crate::transport::admission::Admission;

/// Timeouts of peers. Tests shorten them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a TCP connection to one of the controller's addresses.
    pub connect: Duration,
    /// From accepting or connecting to the end of the TLS and Broker handshakes.
    pub handshake: Duration,
    /// From the first byte of a frame to its last.
    pub frame: Duration,
    /// How long the socket may take none of the bytes to write.
    pub write: Duration,
    pub peering: peering::Options,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: DEADLINE,
            frame: Duration::from_secs(30),
            write: Duration::from_secs(30),
            peering: peering::Options::default(),
        }
    }
}

/// What is known of a connection after its handshake.
pub(super) struct Peered {
    pub remote: EndpointId,
    pub direction: hub::Direction,
    pub address: SocketAddr,
    pub uid: Option<u32>,
    pub may_ask: bool,
    pub tls: String,
    pub since: Instant,
    /// Makes its task ask whether the peer is still alive.
    pub probe: Arc<Notify>,
    /// The node that it claims to be.
    pub node: Option<NodeName>,
}

/// What all connections share.
pub(super) struct PeersState {
    pub hub: Hub<Frames>,
    pub local: EndpointId,
    pub filter: Filter,
    pub tls: Option<tls::Context>,
    pub admission: Admission,
    pub timeouts: Timeouts,
    pub budget: Arc<Semaphore>,
    /// Whether the port of the listener is open; also false without a listener.
    pub is_listening: AtomicBool,
    /// Time zero of the state machines.
    pub began: Instant,
    pub registry: Mutex<Registry>,
    /// Changes with the registry: a connection that waits for another handshake checks again.
    pub settled: watch::Sender<u64>,
    pub peered: Mutex<BTreeMap<u64, Peered>>,
    pub controller: Mutex<Option<ControllerReport>>,
    /// Problems with peers, by address, so that each is logged once.
    pub troubles: Mutex<BTreeMap<IpAddr, BTreeSet<String>>>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder makes one change at a time, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PeersState {
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn at(&self, at: Duration) -> Instant {
        self.began + at
    }

    /// Releases the connection's claim on its remote endpoint, if it has one.
    pub fn release(&self, connection: ConnectionId) {
        locked(&self.registry).release(connection);
        self.settled.send_modify(|changes| *changes += 1);
    }

    /// Asks the peer at this endpoint whether it is still alive: the peering may be dead without our having noticed.
    pub fn probe_liveness(&self, remote: EndpointId) {
        for peered in locked(&self.peered).values().filter(|peered| peered.remote == remote) {
            peered.probe.notify_one();
        }
    }

    /// Whether this problem with an address is new since there last was a peer at it: each is logged once.
    pub fn is_new_trouble(&self, address: SocketAddr, trouble: &str) -> bool {
        /// Remembered addresses, and remembered problems of each. Anything beyond is not logged.
        const REMEMBERED: usize = 256;
        const OF_EACH: usize = 8;
        let mut troubles = locked(&self.troubles);
        if troubles.len() >= REMEMBERED && !troubles.contains_key(&address.ip()) {
            return false;
        }
        let told = troubles.entry(address.ip()).or_default();
        told.len() < OF_EACH && told.insert(trouble.to_owned())
    }
}

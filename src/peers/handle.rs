//! How the agent's effects reach peers, and what the agent can learn of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frames::Frames;
use super::nodes;
use super::state::{Peered, PeersState, locked};
use crate::api::ids::{NodeName, Seq};
use crate::api::report::{ControllerReport, PeerReport};
use crate::dialect::node::{self, NodeEvent};
use crate::hub::{self, Hub};

/// How the agent's effects reach peers.
#[derive(Clone)]
pub struct Handle {
    pub(super) state: Arc<PeersState>,
    /// Where the listener is bound, or will be once its port is opened again.
    pub(super) address: Option<SocketAddr>,
}

impl Handle {
    pub fn hub(&self) -> &Hub<Frames> {
        &self.state.hub
    }

    /// The address of the listener, whether its port is open or closed for now.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether the listener's port is open.
    pub fn is_listening(&self) -> bool {
        self.state.is_listening.load(Ordering::Acquire)
    }

    /// Asks the node at the other end of a connection, on behalf of request `of`.
    pub fn dispatch(&self, connection: u64, of: Seq, node: &NodeName, action: &[String]) {
        let request = NodeEvent::DispatchRequest {
            reqid: nodes::reqid(self.state.local, of),
            action: action.to_vec(),
            nodes: [node.to_string()].into(),
        };
        let frame = Frames { local: self.state.local }.frame(node::TOPIC, &node::encode(&request).into_data());
        match frame {
            // Gone, or it does not read: the core hears of that, and asks again over the node's next peering.
            Ok(frame) => _ = self.state.hub.send(connection, &frame),
            Err(error) => tracing::error!(error, %node, "a dispatch cannot be sent"),
        }
    }

    /// The node that each connection claims to be.
    pub fn nodes(&self) -> BTreeMap<u64, NodeName> {
        let peered = locked(&self.state.peered);
        peered.iter().filter_map(|(id, peered)| Some((*id, peered.node.clone()?))).collect()
    }

    /// What `status` shows. The caller decides which claims of nodes are believed.
    pub fn peers(&self) -> Vec<(u64, PeerReport)> {
        let peered = locked(&self.state.peered);
        let report = |(id, peered): (&u64, &Peered)| {
            let report = PeerReport {
                direction: match peered.direction {
                    hub::Direction::Accepted => "accepted",
                    hub::Direction::Dialled => "dialled",
                }
                .to_owned(),
                address: peered.address.to_string(),
                uid: peered.uid,
                may_ask: peered.may_ask,
                tls: peered.tls.clone(),
                endpoint: peered.remote.to_string(),
                subscribed: self.state.hub.hears(*id).iter().map(|dialect| dialect.as_str().to_owned()).collect(),
                node: peered.node.as_ref().map(ToString::to_string),
                since_ms: u64::try_from(peered.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            (*id, report)
        };
        peered.iter().map(report).collect()
    }

    pub fn controller(&self) -> Option<ControllerReport> {
        locked(&self.state.controller).clone()
    }
}

/// The address at which processes of this host reach a listener at `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

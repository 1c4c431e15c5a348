//! How a connection to a peer ends.

use std::io;

use crate::api::report::chain;
use crate::broker::wire::{EndpointId, FrameError};
use crate::tls;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// There was a peering, and this is why it is over.
    Peering(String),
    /// There is a peering with this endpoint over another connection already.
    Redundant(EndpointId),
    /// No peering was established. `malformed`: because of what the peer sent.
    Handshake { reason: String, malformed: bool },
    /// The peer may not send requests, for this reason, and cannot be a node either.
    Refused(String),
    /// The agent is shutting down.
    Stopped,
}

impl Ending {
    pub fn handshake(reason: impl Into<String>) -> Self {
        Self::Handshake { reason: reason.into(), malformed: false }
    }
}

/// The stream is not the Broker protocol.
pub(super) fn unreadable(error: &FrameError) -> Ending {
    let malformed = match error {
        FrameError::PeerSpeaksTls => false,
        FrameError::NotBroker(_) | FrameError::TooLong { .. } | FrameError::Empty | FrameError::Impossible(_) => true,
    };
    Ending::Handshake { reason: error.to_string(), malformed }
}

pub(super) fn lost(error: &io::Error) -> String {
    match tls::explain(error) {
        Some(explained) => chain(&explained),
        None => format!("the connection was lost: {error}"),
    }
}

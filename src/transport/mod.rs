//! What the control socket, WebSocket and Broker have in common, apart from their protocols.
//!
//! [`accept`] is the loop that accepts connections up to a limit. [`admission`] identifies the other end of a TCP
//! connection and decides whether it may send requests. [`outgoing`] is the bounded queue of outgoing messages of one
//! connection. [`agent`] is what a transport needs from the agent, and how a request is refused.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod agent;
pub(crate) mod outgoing;
pub(crate) mod request;
pub(crate) mod tcp;

pub use agent::{Agent, Refusal};

//! The agent as a Broker endpoint: it accepts peers, dials its controller, and exchanges events of agents and nodes
//! with them.
//!
//! Responsible for sockets, TLS, queues and retries around the state machines of [`broker`](crate::broker). Each
//! connection is one task ([`session`]), which reads and writes at the same time, so that pings are answered however
//! much is queued. The [`hub`](crate::hub) decides what is sent to whom and what a request leads to. Nothing is
//! forwarded.
//!
//! Promises: a peer's mistake costs at most its own connection; memory is bounded by the number of connections, by each
//! queue's bytes, and by one budget for all long frames that are being received; a clean shutdown sends BYE to all
//! peers at once and takes three seconds at most.
//!
//! A peer that may not send requests ([`identify`](crate::identify)) gets no peering, unless it runs as a user of
//! nodes: then it is treated as a node, receives nothing that the agent publishes, and its requests are refused.
//!
//! Left to others: each connection's claim is passed to the core, which decides which node is believed, and which of
//! several peerings that claim its name is used.

mod agent;
mod connection;
mod dial;
mod ending;
mod frames;
mod handle;
mod nodes;
mod opening;
mod outbox;
mod port_owner;
mod receiving;
mod server;
mod session;
mod state;

pub use agent::PeersAgent;
pub use handle::{Handle, reachable};
pub use server::{BindError, Options, Server};
pub use state::Timeouts;

//! The agent as a Broker endpoint: it accepts peers, dials its controller, and speaks with both of agents' and nodes' events.
//!
//! Answers for sockets, TLS, queues and retries, around the state machines of [`broker`](crate::broker). Each connection is
//! one task ([`session`]), which reads and writes at the same time, so that pings are answered however much waits to be
//! sent. What is sent to whom, and what a request leads to, is the [`hub`](crate::hub)'s affair. Nothing is forwarded.
//!
//! Promises: a peer's mistake costs its own connection at most; memory is bounded by the number of connections, by each
//! queue's bytes, and by one budget for all long frames that are being received; a clean end says BYE to all peers together
//! and takes three seconds at most.
//!
//! Who may not ask ([`identify`](crate::identify)) gets no peering, unless it runs as nodes do: then it is heard as a node,
//! hears nothing of what the agent publishes, and what it asks is refused.
//!
//! Left to others: which node is believed, and which of several peerings that claim its name is taken for it, is decided
//! by the core, which is told what each connection said.

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

//! Zeek's WebSocket API (`/v1/messages/json`), both sides: the agent's server and the command line's client.
//!
//! Responsible for connections, their limits and their topics. Left to others: the JSON (`broker::json`), the events
//! (`dialect`), and what a request leads to.

pub(crate) mod client;
mod connection;
mod limits;
mod metered;
mod server;
mod state;
mod wire;

pub use limits::MESSAGE_LIMIT;
pub(crate) use server::{BindError, Options, Server};
pub(crate) use state::{Handle, Timeouts};

/// The path of the API.
pub const PATH: &str = "/v1/messages/json";

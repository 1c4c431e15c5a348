//! The control socket: how the command line, a test or a tool talks to the agent on its own host.
//!
//! [`message`] has the frames, [`server`] the agent's end, [`client`] the other one. What is asked here, the agent answers
//! through [`server::Agent`]; this module decides nothing about requests.
//!
//! A client sends `Hello` first and gets `Welcome`. Then it may ask, several calls at a time; each carries a number of the
//! client's choice, which comes back in the answer. `Subscribe` turns the connection into a peer of the agent's topics
//! too: it receives every response and notification that is published under one of the prefixes it named.

mod address;
pub mod client;
pub mod logs;
pub mod message;
pub mod server;
mod socket;

pub use server::{Handle, Refusal};
pub use socket::BindError;

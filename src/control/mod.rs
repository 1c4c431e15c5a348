//! The control socket: how the command line, a test or a tool talks to the agent on its own host.
//!
//! [`message`] has the frames, [`Server`] is the agent's end, [`client`] the other one. What is asked here, the agent answers
//! through [`ControlAgent`]; this module decides nothing about requests.
//!
//! A client sends `Hello` first and gets `Welcome`. Then it may ask, several calls at a time; each carries a number of the
//! client's choice, which comes back in the answer. `Subscribe` turns the connection into a peer of the agent's topics
//! too: it receives every response and notification that is published under one of the prefixes it named.

mod address;
mod agent;
pub mod client;
mod connection;
mod connections;
mod frame;
pub mod logs;
pub mod message;
mod server;
mod socket;

pub use agent::{ControlAgent, Credentials};
pub use connections::{Handle, Timeouts};
pub use server::{Options, Server};
pub use socket::BindError;

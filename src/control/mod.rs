//! The control socket: how the command line, a test or a tool talks to the agent on its own host.
//!
//! [`message`] has the frames, [`Server`] is the agent's side, [`client`] the other. The agent answers calls through
//! [`ControlAgent`]; this module decides nothing about requests.
//!
//! A client sends `Hello` first and gets `Welcome`. Then it may make calls, several at a time; each carries a number of
//! the client's choice that the answer repeats. `Subscribe` also makes the connection a subscriber of the agent's
//! topics: it receives every response and notification that is published under one of its prefixes.

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

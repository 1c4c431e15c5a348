//! Broker, knowing nothing of agents: its data model, its two encodings and its peer-to-peer protocol (version 1).
//!
//! Everything here is pure: no socket, clock, randomness or task. Bytes and points in time come in as arguments, bytes
//! to send and facts about the peer come out as values, so that every state can be driven by a test. Whoever owns the
//! sockets feeds [`wire::FrameReader`], [`handshake::Handshake`] and [`peering::Peering`], in this order.
//!
//! Promises: bytes of a peer lead to errors, never to a panic; what is allocated is proportional to what was received;
//! equal values encode to equal bytes. Left to others: TLS, retries, queues, and what a topic or an event means.

pub mod binary;
pub mod data;
pub mod handshake;
pub mod json;
pub mod peering;
mod time_text;
pub mod wire;

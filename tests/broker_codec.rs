//! Broker's codecs, handshake and peering and both dialects of the event API, against bytes recorded from Broker 2.8.0
//! and Zeek 8.0.10, against random values, and against hostile input.

// Clippy's exemption for tests ends at functions that only help them.
#![allow(clippy::unwrap_used)]

#[path = "broker_codec/generators.rs"]
mod generators;
#[path = "broker_codec/hostile.rs"]
mod hostile;
#[path = "broker_codec/properties.rs"]
mod properties;
#[path = "broker_codec/recorded.rs"]
mod recorded;
#[path = "broker_codec/records.rs"]
mod records;

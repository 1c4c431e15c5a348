//! Tests through the real binary, and of the repository's own rules.

mod adoption;
mod architecture;
mod crash;
mod order;
mod support;
mod websocket;

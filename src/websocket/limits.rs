//! Limits for what a client may send.

/// Bytes of one message, and of one frame of it. A request of 4 MiB in canonical form is larger in JSON.
pub const MESSAGE_LIMIT: usize = 8 << 20;
/// A message longer than this waits for room.
pub(super) const LARGE_MESSAGE: usize = 64 << 10;
/// Bytes of large messages that all connections together may be receiving.
pub(super) const RECEIVE_BYTES: usize = 64 << 20;
/// The largest HTTP request head.
pub(super) const HEAD_LIMIT: usize = 16 << 10;
/// The most prefixes in one subscription, and the most bytes in each.
pub(super) const TOPICS_LIMIT: usize = 64;
pub(super) const TOPIC_LIMIT: usize = 512;
/// More than the controllers and tools of one agent; each costs a task and two small buffers.
pub(super) const CONNECTIONS_LIMIT: usize = 256;

//! What a client may send at most.

/// Bytes of one message, and of one frame of it. A request of 4 MiB in canonical form has more in JSON.
pub const MESSAGE_LIMIT: usize = 8 << 20;
/// A message longer than this waits for room.
pub(super) const LARGE_MESSAGE: usize = 64 << 10;
/// Bytes of large messages being received by all connections.
pub(super) const RECEIVE_BYTES: usize = 64 << 20;
/// The most that the head of the HTTP request may have.
pub(super) const HEAD_LIMIT: usize = 16 << 10;
/// The prefixes of one subscription, and the bytes of each.
pub(super) const TOPICS_LIMIT: usize = 64;
pub(super) const TOPIC_LIMIT: usize = 512;
/// More than the controllers and tools of one agent; each costs a task and two small buffers.
pub(super) const CONNECTIONS_LIMIT: usize = 256;

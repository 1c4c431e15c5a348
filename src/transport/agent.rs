//! What every transport needs from the agent.

use std::future::{Future, ready};

use crate::api::event::{Incoming, Route, Source};

/// Why a request is not accepted: busy, stopping, no space. It is not journaled and does not use up its reqid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the requester: why, and what to do.
    pub reason: String,
}

/// The agent, as a transport sees it. Methods that are not futures never wait.
pub trait Agent: Send + Sync + 'static {
    /// Accepts a request that is canonical and within its limits. The response is sent later, by an effect with its
    /// route.
    fn request(&self, incoming: Incoming) -> Result<(), Refusal>;
    /// Waits a while for room for a message of this size that the connection has read; meanwhile the connection
    /// reads nothing more. [`Agent::room_over`] follows once the message was handled, whatever it was.
    fn room(&self, _connection: u64, _source: &Source, _bytes: usize) -> impl Future<Output = ()> + Send {
        ready(())
    }
    /// The message that [`Agent::room`] made room for has been handled.
    fn room_over(&self, _connection: u64) {}
    /// Input that is not a request, to be journaled as rejected; its sender has been told. `event` is empty if unknown.
    fn malformed(&self, source: Source, event: String, error: String);
    /// The kernel has the complete response for this route.
    fn delivered(&self, route: Route);
    /// The connection is gone: nothing sent to it arrives any more.
    fn disconnected(&self, connection: u64);
    /// A connection may have started or stopped receiving what is published on the agent's topics.
    fn subscribed(&self);
}

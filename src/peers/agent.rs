//! What Broker needs from the agent, in addition to what every transport does.

use std::future::Future;

use crate::api::ids::Seq;
use crate::transport::Agent;

/// What this transport needs from the agent, in addition to what all do.
pub trait PeersAgent: Agent {
    /// The answer of the node at the other end to the dispatch for request `of`: the value, or why there is none.
    fn answered(
        &self,
        of: Seq,
        connection: u64,
        answer: Result<Option<String>, String>,
    ) -> impl Future<Output = ()> + Send;
}

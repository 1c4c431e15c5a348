//! What Broker asks of the agent, beside what every transport does.

use std::future::Future;

use crate::api::ids::Seq;
use crate::transport::Agent;

/// What this transport asks of the agent, beside what all do.
pub trait PeersAgent: Agent {
    /// What the node at the other end of a connection said to a dispatch of request `of`: the value, or why there is none.
    fn answered(
        &self,
        of: Seq,
        connection: u64,
        answer: Result<Option<String>, String>,
    ) -> impl Future<Output = ()> + Send;
}

//! All that the core may ask for. Effects may happen twice and are worded to be harmless then.

use std::sync::Arc;

use crate::api::event::{Dialect, Notification, Response, Route};
use crate::api::ids::{NodeName, Seq};
use crate::api::supervision::NodeOrder;
use crate::api::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer on this connection.
    Respond {
        route: Route,
        dialect: Dialect,
        response: Arc<Response>,
        /// When it was decided, if that was before this was asked.
        stored_at: Option<Timestamp>,
    },
    /// Say on this connection that the request was not taken, and why. It is not journaled and its reqid not used up.
    Refuse {
        route: Route,
        reason: String,
    },
    /// Send the response to the subscribers of the agent's topic: nobody waits for it on a connection any more.
    Publish {
        dialect: Dialect,
        response: Arc<Response>,
    },
    Notify(Notification),
    /// Tell subscribers and the log which entry is the newest durable one, and its hash. Who keeps that elsewhere can prove
    /// later that the journal of then was not rewritten.
    TellHead {
        instance: String,
    },
    /// Ask this node, over its peering, on behalf of the request `of`.
    Dispatch {
        of: Seq,
        node: NodeName,
        connection: u64,
        action: Vec<String>,
    },
    Order {
        node: NodeName,
        order: NodeOrder,
    },
    /// Make this state directory one of its own, in which these nodes have no processes; see
    /// [`Input::StateAdopted`](super::Input::StateAdopted).
    AdoptState {
        of: Seq,
        nodes: Vec<NodeName>,
    },
    /// End the agent.
    Exit {
        reason: String,
    },
}

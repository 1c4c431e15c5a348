//! All that the core may ask for. Effects may happen twice and are worded to be harmless then.

use std::sync::Arc;

use crate::api::event::{Dialect, Notification, Response, Route};
use crate::api::ids::{NodeName, Seq};
use crate::api::supervision::NodeOrder;
use crate::api::time::Timestamp;

/// What the outside can notice of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer on this connection.
    Respond {
        /// The connection, and the call on it.
        route: Route,
        /// The form in which it was asked.
        dialect: Dialect,
        /// As it is stored.
        response: Arc<Response>,
        /// When it was decided, if that was before this was asked.
        stored_at: Option<Timestamp>,
    },
    /// Say on this connection that the request was not taken, and why. It is not journaled and its reqid not used up.
    Refuse {
        /// The connection, and the call on it.
        route: Route,
        /// Why, and what to do.
        reason: String,
    },
    /// Send the response to the subscribers of the agent's topic: nobody waits for it on a connection any more.
    Publish {
        /// The form in which it was asked.
        dialect: Dialect,
        /// As it is stored.
        response: Arc<Response>,
    },
    /// Tell whoever is subscribed to the agent's topics something unasked.
    Notify(Notification),
    /// Tell subscribers and the log which entry is the newest durable one, and its hash. Who keeps that elsewhere can prove
    /// later that the journal of then was not rewritten.
    TellHead {
        /// The agent's name.
        instance: String,
    },
    /// Ask this node, over its peering, on behalf of the request `of`.
    Dispatch {
        /// The request's number.
        of: Seq,
        /// Whom to ask.
        node: NodeName,
        /// The one over which the node said hello.
        connection: u64,
        /// `get_id_value` and the identifier.
        action: Vec<String>,
    },
    /// Have the supervisor do something about this node.
    Order {
        /// The node's name.
        node: NodeName,
        /// What to do.
        order: NodeOrder,
    },
    /// Make this state directory one of its own, in which these nodes have no processes; see
    /// [`Input::StateAdopted`](super::Input::StateAdopted).
    AdoptState {
        /// The request's number.
        of: Seq,
        /// Nodes whose recorded processes are the original directory's.
        nodes: Vec<NodeName>,
    },
    /// End the agent.
    Exit {
        /// Why, for the log.
        reason: String,
    },
}

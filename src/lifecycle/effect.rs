//! All effects that the core can request. Effects may happen twice and are worded so that this is harmless.

use std::sync::Arc;

use crate::api::alert::Alert;
use crate::api::event::{Dialect, Notification, Response, Route};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::launch::Channel;
use crate::api::preflight::Preflight;
use crate::api::supervision::NodeOrder;
use crate::api::time::Timestamp;

/// A part of a decision that the outside can notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer on this connection.
    Respond {
        /// The connection, and the call on it.
        route: Route,
        /// The dialect of the request.
        dialect: Dialect,
        /// As it is stored.
        response: Arc<Response>,
        /// When it was decided, if that was before this request arrived.
        stored_at: Option<Timestamp>,
    },
    /// Say on this connection that the request was not accepted, and why. It is not journaled and its reqid stays
    /// unused.
    Refuse {
        /// The connection, and the call on it.
        route: Route,
        /// Why, and what to do.
        reason: String,
    },
    /// Send the response to the subscribers of the agent's topic: nobody waits for it on a connection any more.
    Publish {
        /// The dialect of the request.
        dialect: Dialect,
        /// As it is stored.
        response: Arc<Response>,
    },
    /// Send an unsolicited notification to all subscribers of the agent's topics.
    Notify(Notification),
    /// Report the newest durable entry and its hash to subscribers and to the log. Anyone who stores them elsewhere can
    /// later prove that the journal up to that entry was not rewritten.
    TellHead {
        /// The agent's name.
        instance: String,
    },
    /// Ask this node, over its peering, on behalf of the request `of`.
    Dispatch {
        /// The request's number.
        of: Seq,
        /// The node to ask.
        node: NodeName,
        /// The one over which the node said hello.
        connection: u64,
        /// `get_id_value` and the identifier.
        action: Vec<String>,
    },
    /// Ask this node, through its directory for questions, on behalf of the request `of`.
    Ask {
        /// The request's number.
        of: Seq,
        /// The node to ask.
        node: NodeName,
        /// Its process; the reply names it again.
        incarnation: Incarnation,
        /// Its process id, for words.
        pid: Option<u32>,
        /// How it is asked.
        channel: Channel,
        /// The verb, and its argument if it has one.
        action: Vec<String>,
    },
    /// Give the supervisor an order for this node.
    Order {
        /// The node's name.
        node: NodeName,
        /// What to do.
        order: NodeOrder,
    },
    /// Find out whether the nodes of a change can run; see [`Input::PreflightEnded`](super::Input::PreflightEnded). Takes the
    /// place of any other check.
    Preflight {
        /// The request's number.
        of: Seq,
        /// What to look at.
        order: Box<Preflight>,
    },
    /// Nobody waits for that any more.
    EndPreflight {
        /// The request's number.
        of: Seq,
    },
    /// Make this an independent state directory in which these nodes have no processes; see
    /// [`Input::StateAdopted`](super::Input::StateAdopted).
    AdoptState {
        /// The request's number.
        of: Seq,
        /// Nodes whose recorded processes belong to the original directory.
        nodes: Vec<NodeName>,
    },
    /// Run `event_command` for this, and report its end with [`Input::Told`](super::Input::Told).
    Tell {
        /// What to tell.
        alert: Box<Alert>,
        /// How many others had no place since the last that was told.
        lost: u64,
    },
    /// End the agent.
    Exit {
        /// Why, for the log.
        reason: String,
    },
}

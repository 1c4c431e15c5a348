//! Hands each effect to the component that performs it. Nothing here waits: connections have bounded queues and are cut
//! when those overflow; newer orders to a node replace older ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use crate::api::event::{Dialect, Notification, Response, Route};
use crate::api::head::Head;
use crate::api::ids::InstanceName;
use crate::api::time::Timestamp;
use crate::channel::{self, Question};
use crate::control;
use crate::control::message::Publication;
use crate::crash_point;
use crate::lifecycle::{Effect, Input};
use crate::peers;
use crate::supervisor;
use crate::websocket;

use super::copied::OpensBroker;
use super::hook::Told;
use super::place::Place;
use super::preflight::Preflights;

/// The connection number of the agent's own request, when it was started to stop the nodes.
pub(super) const OWN_CONNECTION: u64 = 0;

/// The topics on which this agent publishes and receives, one for each dialect.
#[derive(Debug, Clone)]
pub struct Topics {
    pub cluster_agent: String,
    pub management: String,
}

impl Topics {
    pub fn of(instance: &InstanceName) -> Self {
        Self {
            cluster_agent: format!("zeek/cluster-control/agent/{instance}"),
            management: format!("zeek/management/agent/{instance}"),
        }
    }

    fn for_dialect(&self, dialect: Dialect) -> &str {
        match dialect {
            Dialect::ClusterAgent => &self.cluster_agent,
            Dialect::Management | Dialect::Operator => &self.management,
        }
    }
}

pub(super) struct Performer {
    pub topics: Topics,
    /// `None` when the agent runs only to stop its nodes.
    pub control: Option<control::Handle>,
    pub websocket: Option<websocket::Handle>,
    pub peers: Option<peers::Handle>,
    pub supervisor: supervisor::Handle,
    pub preflights: Preflights,
    /// Asks nodes through their directories.
    pub questions: channel::Handle,
    pub exit: watch::Sender<Option<String>>,
    /// Runs `event_command`, if there is one.
    pub hook: Option<mpsc::Sender<Told>>,
    /// How many requests were refused, by any component.
    pub refused: Arc<AtomicU64>,
    pub place: Mutex<Place>,
    /// Opens Broker's listener and dialler once a copy is adopted.
    pub broker: OpensBroker,
    /// The receiver of the answer to the agent's own request.
    pub own: Mutex<Option<oneshot::Sender<Response>>>,
}

impl Performer {
    /// Performs an effect; `head` is the newest durable entry. Returns what was learned by it: that its connection is
    /// gone.
    #[expect(clippy::too_many_lines, reason = "one short arm for each kind of effect")]
    pub fn perform(&self, effect: Effect, head: Head) -> Option<Input> {
        match effect {
            Effect::Respond { route, dialect, response, stored_at } => {
                crash_point!("before_response_sent");
                let taken = self.respond(route, dialect, &response, stored_at);
                crash_point!("after_response_sent");
                match taken {
                    true if route.connection == OWN_CONNECTION => Some(Input::Delivered { route }),
                    true => None,
                    false => Some(Input::Disconnected { connection: route.connection }),
                }
            }
            Effect::Refuse { route, reason } => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("request refused: {reason}");
                match (self.websocket_of(route), self.peers_of(route), &self.control) {
                    (Some(websocket), _, _) => websocket.refuse(route, &reason),
                    (None, Some(peers), _) => peers.hub().refuse(route, &reason),
                    (None, None, Some(control)) => control.refuse(route, &reason),
                    (None, None, None) => false,
                };
                None
            }
            Effect::Publish { dialect, response } => {
                let topic = self.topics.for_dialect(dialect);
                self.publish(topic, Publication::Response((*response).clone()));
                if let Some(websocket) = &self.websocket {
                    websocket.publish(dialect, &response);
                }
                if let Some(peers) = &self.peers {
                    peers.hub().publish(dialect, &response);
                }
                None
            }
            Effect::Notify(notification) => {
                self.notify(notification);
                None
            }
            Effect::TellHead { instance } => {
                let msg = format!("the journal's head is {head}");
                self.notify(Notification::NotifyLog { instance, msg, node: String::new() });
                None
            }
            Effect::Dispatch { of, node, connection, action } => {
                crash_point!("before_dispatch_sent");
                if let Some(peers) = &self.peers {
                    peers.dispatch(connection, of, &node, &action);
                }
                crash_point!("after_dispatch_sent");
                None
            }
            Effect::Ask { of, node, incarnation, pid, channel, action } => {
                crash_point!("before_dispatch_sent");
                let question = Question { of, incarnation, pid, channel, action };
                let refused = self.questions.ask(&node, question);
                crash_point!("after_dispatch_sent");
                refused.map(|reason| Input::NodeReplied { of, node, incarnation, answer: Err(reason) })
            }
            Effect::Order { node, order } => {
                self.supervisor.order(&node, order);
                None
            }
            Effect::Preflight { of, order } => {
                crash_point!("before_preflight_started");
                self.preflights.begin(of, *order);
                None
            }
            Effect::EndPreflight { of } => {
                self.preflights.end(of);
                None
            }
            Effect::AdoptState { of, nodes } => {
                let mut place = self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let outcome = place.adopt(&self.supervisor, &nodes);
                if outcome.is_ok() {
                    self.broker.open();
                }
                crash_point!("after_state_adopted");
                Some(Input::StateAdopted { of, outcome })
            }
            Effect::Tell { alert, lost } => {
                self.tell(Told { alert: *alert, lost });
                None
            }
            Effect::Exit { reason } => {
                tracing::info!("the agent ends: {reason}");
                self.exit.send_replace(Some(reason));
                None
            }
        }
    }

    /// There is one at a time, and room for one: full or closed, the agent is shutting down.
    fn tell(&self, told: Told) {
        if let Some(Err(error)) = self.hook.as_ref().map(|hook| hook.try_send(told)) {
            tracing::debug!(%error, "an alert was not told");
        }
    }

    fn notify(&self, notification: Notification) {
        log(&notification);
        if let Some(websocket) = &self.websocket {
            websocket.notify(&notification);
        }
        if let Some(peers) = &self.peers {
            peers.hub().notify(&notification);
        }
        self.publish(&self.topics.management, Publication::Notification(notification));
    }

    /// Only the control socket can say that an answer is a stored one.
    fn respond(&self, route: Route, dialect: Dialect, response: &Response, stored_at: Option<Timestamp>) -> bool {
        if route.connection == OWN_CONNECTION {
            let own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            return own.is_some_and(|own| own.send(response.clone()).is_ok());
        }
        if let Some(websocket) = self.websocket_of(route) {
            return websocket.respond(route, dialect, response);
        }
        if let Some(peers) = self.peers_of(route) {
            return peers.hub().respond(route, dialect, response);
        }
        self.control.as_ref().is_some_and(|control| control.respond(route, response, stored_at))
    }

    /// The WebSocket server, if this route is one of its connections.
    fn websocket_of(&self, route: Route) -> Option<&websocket::Handle> {
        self.websocket.as_ref().filter(|websocket| websocket.owns(route.connection))
    }

    /// The Broker peers, if this route is one of them.
    fn peers_of(&self, route: Route) -> Option<&peers::Handle> {
        self.peers.as_ref().filter(|peers| peers.hub().owns(route.connection))
    }

    fn publish(&self, topic: &str, what: Publication) {
        if let Some(control) = &self.control {
            control.publish(topic, &what);
        }
    }
}

/// Logs the notifications on this host as well: there may be no controller.
fn log(notification: &Notification) {
    match notification {
        Notification::NotifyAgentHello { .. } => tracing::debug!("hello sent to subscribers"),
        Notification::NotifyChange { node, old, new, .. } => {
            tracing::info!(node = %node.name, "{}: {old} -> {new}", node.name);
        }
        Notification::NotifyError { msg, node, .. } if node.is_empty() => tracing::error!("{msg}"),
        Notification::NotifyError { msg, node, .. } => tracing::error!(%node, "{msg}"),
        Notification::NotifyLog { msg, node, .. } if node.is_empty() => tracing::info!("{msg}"),
        Notification::NotifyLog { msg, node, .. } => tracing::info!(%node, "{msg}"),
    }
}

//! Requests that ask nodes something (`get_id_value`): through their directories for questions, or over their own peerings.
//!
//! A dispatch makes no durable change: it stays accepted until it has its outcome, and is asked again after a restart.
//! Which nodes are asked, over which connection, and what they answered is known to this run only. It is
//! level-triggered like everything else: a node that has no peering yet is asked once it has one, and asked again over
//! the next one if the peering is lost.
//!
//! A node is identified by its name while its process runs; stronger proof is left to TLS and to the users of the host.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::event::{Request, Response, Result, ResultData};
use crate::api::ids::{Incarnation, NodeName, Seq};
use crate::api::status::NodeState;
use crate::api::time::Now;
use crate::journal::entry::{Life, Outcome, Received};

use super::decision::{Decision, Note};
use super::effect::Effect;
use super::input::Peers;
use super::questions::Questioned;
use super::wake::Wake;
use super::{Lifecycle, answer};

/// The most bytes of values in one answer; with 4096 Results around them a stored response stays near 1 MiB.
const VALUES_BYTES: usize = 640 << 10;

impl Lifecycle {
    /// The connection over which a node can be asked: the first one over which its process said hello.
    pub fn channel(&self, node: &NodeName) -> Option<u64> {
        self.seen.nodes.get(node)?.hellos.first().copied()
    }

    /// A hello is trusted while its node runs, and forgotten when the connection closes.
    pub(super) fn observe_hellos(&mut self, before: &Peers) {
        let now = std::mem::take(&mut self.seen.peers.nodes);
        let gone = before.nodes.iter().filter(|(connection, node)| now.get(connection) != Some(node));
        for (connection, name) in gone {
            if self.seen.nodes.get(name).is_some_and(|node| node.hellos.contains(connection)) {
                self.seen.node(name).hellos.retain(|one| one != connection);
            }
        }
        let new = now.iter().filter(|(connection, node)| before.nodes.get(connection) != Some(node));
        for (connection, name) in new {
            let runs = self.durable.nodes.get(name).is_some_and(|record| record.life != Life::Down);
            if runs {
                let node = self.seen.node(name);
                node.hellos.push(*connection);
                // The node becomes ready as soon as its start is known.
                node.checked_in = true;
            }
        }
        self.seen.peers.nodes = now;
    }

    pub(super) fn observe_answer(
        &mut self,
        of: Seq,
        connection: u64,
        said: &std::result::Result<Option<String>, String>,
    ) {
        // Answers from nodes that were not asked, or that are now asked over another connection, are ignored.
        let asked = self.seen.dispatches.get(&of).and_then(|dispatch| dispatch.asked_over(connection));
        let Some(node) = asked.cloned() else { return };
        self.answered_by(of, &node, said);
    }

    /// A reply of another process than the one that is asked now is ignored.
    pub(super) fn observe_reply(
        &mut self,
        of: Seq,
        node: &NodeName,
        incarnation: Incarnation,
        said: &std::result::Result<Option<String>, String>,
    ) {
        let asked = self.seen.dispatches.get(&of).and_then(|dispatch| dispatch.nodes.get(node));
        if asked == Some(&Questioned::AskedInFiles { incarnation }) {
            self.answered_by(of, node, said);
        }
    }

    fn answered_by(&mut self, of: Seq, node: &NodeName, said: &std::result::Result<Option<String>, String>) {
        let said = match said {
            Ok(Some(value)) if value.len() > VALUES_BYTES => Err(no_room(value.len())),
            Ok(_) | Err(_) => said.clone(),
        };
        self.seen.questioned(of, node, Questioned::Answered(said));
        self.agenda.requests.insert(of);
    }

    /// The answer to a dispatch for which no node has to be asked.
    pub(super) fn dispatch_at_once(&self, received: &Received) -> Option<Response> {
        let Request::NodeDispatch { action, nodes } = &received.request else { return None };
        let questioned = self.questions(action, nodes);
        let at_once = questioned.values().all(Questioned::is_answered);
        at_once.then(|| self.dispatch_response(received, &questioned))
    }

    pub(super) fn plan_dispatch(&self, received: &Received, action: &[String], nodes: &BTreeSet<String>) -> Decision {
        match self.dispatch_at_once(received) {
            Some(response) => self.complete(received, Outcome::Completed, response),
            None => {
                Decision::default().note(Note::Dispatching { of: received.seq, nodes: self.questions(action, nodes) })
            }
        }
    }

    /// Which nodes to ask, and in Zeek's words why the others are not asked.
    fn questions(&self, action: &[String], nodes: &BTreeSet<String>) -> BTreeMap<NodeName, Questioned> {
        let wrong = match action {
            [] => Some("no dispatch arguments provided".to_owned()),
            [what] if what == "get_net_stats" => None,
            [what, ..] if what == "get_net_stats" => Some("get_net_stats expects nothing more".to_owned()),
            [what, ..] if what != "get_id_value" => Some(format!("dispatch {what} unknown")),
            [_, _] => None,
            [_, ..] => Some("get_id_value expects name of global identifier".to_owned()),
        };
        let question = |name: NodeName| {
            let questioned = match &wrong {
                Some(wrong) => Questioned::Answered(Err(wrong.clone())),
                None if self.node_state(&name) == NodeState::Running => Questioned::NotYet,
                None => Questioned::Answered(Err(format!("cluster node {name} not in running state"))),
            };
            (name, questioned)
        };
        self.selected(nodes).into_iter().map(question).collect()
    }

    /// Asks the nodes that can be asked and have not been.
    pub(super) fn question(&mut self) -> Option<Decision> {
        while let Some((of, node)) = self.agenda.questions.first().cloned() {
            self.agenda.look();
            let decision = self.question_node(of, &node);
            if decision.is_some() {
                return decision;
            }
            self.agenda.questions.remove(&(of, node));
        }
        None
    }

    fn question_node(&self, of: Seq, node: &NodeName) -> Option<Decision> {
        let questioned = self.seen.dispatches.get(&of)?.nodes.get(node)?;
        let Request::NodeDispatch { action, .. } = &self.durable.unfinished.get(&of)?.received.request else {
            return None;
        };
        if questioned.is_answered() {
            return None;
        }
        if self.node_state(node) != NodeState::Running {
            let error = format!("cluster node {node} not in running state any more");
            return Some(Decision::default().note(Note::Unasked { of, node: node.clone(), error }));
        }
        let (asked, ask) = match self.ask_in_files(of, node, action) {
            Some(asking) => asking,
            None => {
                let connection = self.channel(node)?;
                let ask = Effect::Dispatch { of, node: node.clone(), connection, action: action.clone() };
                (Questioned::Asked { connection }, ask)
            }
        };
        if *questioned == asked {
            return None;
        }
        Some(Decision::default().effect(ask).note(Note::Asked { of, node: node.clone(), asked }))
    }

    /// How to ask a node that was launched with a directory for questions.
    fn ask_in_files(&self, of: Seq, node: &NodeName, action: &[String]) -> Option<(Questioned, Effect)> {
        let record = self.durable.nodes.get(node)?;
        let channel = record.spec.0.channel()?;
        let incarnation = record.incarnation;
        let pid = match &record.life {
            Life::Up { process, .. } => Some(process.pid),
            Life::Down | Life::Intended => None,
        };
        let ask = Effect::Ask { of, node: node.clone(), incarnation, pid, channel, action: action.to_vec() };
        Some((Questioned::AskedInFiles { incarnation }, ask))
    }

    /// Answers a dispatch when all nodes have answered, or its deadline has come.
    pub(super) fn finish_dispatch(&self, now: Now, wake: &Wake, of: Seq) -> Option<Decision> {
        let dispatch = self.seen.dispatches.get(&of)?;
        let one = self.durable.unfinished.get(&of)?;
        let settle_by = self.seen.waiting.get(&of).and_then(|waiting| waiting.settle_by).unwrap_or(now.boot);
        if dispatch.is_answered() || wake.due(settle_by) {
            let response = self.dispatch_response(&one.received, &dispatch.nodes);
            return Some(self.complete(&one.received, Outcome::Completed, response));
        }
        None
    }

    fn dispatch_response(&self, received: &Received, nodes: &BTreeMap<NodeName, Questioned>) -> Response {
        let mut left = VALUES_BYTES;
        let results = nodes.iter().map(|(node, questioned)| match questioned {
            Questioned::Answered(Ok(value)) => {
                let size = value.as_ref().map_or(0, String::len);
                match left.checked_sub(size) {
                    Some(rest) => {
                        left = rest;
                        let mut one = self.of_node(received, node, None);
                        one.data = value.clone().map(ResultData::Text);
                        one
                    }
                    None => self.of_node(received, node, Some(no_room(size))),
                }
            }
            Questioned::Answered(Err(error)) => self.of_node(received, node, Some(error.clone())),
            Questioned::Asked { .. } | Questioned::AskedInFiles { .. } => {
                self.of_node(received, node, Some(format!("request timed out: {node} did not answer")))
            }
            Questioned::NotYet => {
                let error = format!("request timed out: {node} runs, but has no peering with this agent");
                self.of_node(received, node, Some(error))
            }
        });
        let results = results.chain(self.unknown_nodes(received)).collect();
        answer::response(&received.reqid, &received.request, results)
    }

    fn of_node(&self, received: &Received, node: &NodeName, error: Option<String>) -> Result {
        answer::of_node(&self.options.instance, &received.reqid, node, error)
    }
}

fn no_room(size: usize) -> String {
    format!("the value has {size} bytes, more than a stored response can hold")
}

//! Who is at the other end of a connection, and whether that peer may send requests: one rule for all transports.
//!
//! On this host a peer is identified by its uid: SO_PEERCRED for the control socket, and for TCP what the kernel knows
//! of the socket at the other end ([`lookup`]), believed under the conditions of [`owner`]. A peer of another host is
//! identified by a verified certificate or not at all. The settings name the users, and a group ([`groups`]), that may
//! ask.
//!
//! Promises: nobody is admitted without being identified, unless the settings open a transport to everybody; if
//! identity cannot be established, or not in time, the peer is refused; `/proc` is not read for a connection; many
//! strangers fill neither log nor journal ([`refusals`]). A peer that may not ask, but runs as a user of nodes, may
//! check in and answer.
//!
//! Leaves to others: what a transport does with a refused peer, and what protects the connection itself. The uid is
//! that of the process that created the socket: a process that the socket was passed to, or a client of that user's
//! proxy, is not seen.

pub mod diag;
mod groups;
mod lookup;
mod owner;
mod refusals;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

pub use groups::GroupsOf;
pub(crate) use lookup::{ends, overflow_uid, works};
pub(crate) use owner::{Ends, Owner, Unidentified};

use groups::Members;
use lookup::LookUps;
use refusals::{Refusals, Who};

/// A node that was taken over deploys nothing.
const NODES_ASK_NOTHING: &str = "nodes check in and answer, and may not ask for anything";

/// Who may send requests.
#[derive(Debug, Clone)]
pub struct Options {
    /// The uids that may ask, whatever their groups.
    pub users: BTreeSet<u32>,
    /// Members of this group may ask as well.
    pub group: Option<u32>,
    /// All of these as text, for refusals and for the log.
    pub words: String,
    /// The users whose connections may be those of nodes.
    pub nodes: BTreeSet<u32>,
    /// How to query the name service.
    pub groups_of: GroupsOf,
    /// The uid that stands for all unmapped ones.
    pub overflow_uid: u32,
}

impl Options {
    /// Only one user.
    pub fn only(uid: u32) -> Self {
        Self {
            users: [uid].into(),
            group: None,
            words: format!("uid {uid}"),
            nodes: BTreeSet::new(),
            groups_of: |_| Ok(None),
            overflow_uid: overflow_uid(),
        }
    }
}

/// A connection whose other end asks to be admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub ends: Ends,
    /// The subject of its certificate, if that was verified.
    pub subject: Option<&'a str>,
    /// The settings open this transport to everybody.
    pub is_open: bool,
    /// How a peer of another host could be identified.
    pub advice: &'static str,
}

/// What is known of the other end of a connection, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub uid: Option<u32>,
    /// As the journal records it.
    pub peer: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    MayAsk,
    /// It may not ask, for this reason, but runs as a user of nodes, so it may check in and answer.
    OnlyAsNode(String),
    Refused(String),
}

/// Admits those who may ask. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.0.words)
    }
}

struct Inner {
    users: BTreeSet<u32>,
    members: Option<Members>,
    words: String,
    nodes: RwLock<BTreeSet<u32>>,
    /// Whether a cgroup is that of a node.
    is_node: OnceLock<Box<dyn Fn(u64) -> bool + Send + Sync>>,
    look_ups: LookUps,
    refusals: Refusals,
}

impl Gate {
    /// A gate for these rules. Cheap: nothing is looked up yet.
    pub fn new(options: Options) -> Self {
        let Options { users, group, words, nodes, groups_of, overflow_uid } = options;
        Self(Arc::new(Inner {
            users,
            members: group.map(|gid| Members::new(gid, groups_of)),
            words,
            nodes: RwLock::new(nodes),
            is_node: OnceLock::new(),
            look_ups: LookUps::new(overflow_uid),
            refusals: Refusals::default(),
        }))
    }

    /// Nodes of these users were found running.
    pub fn add_nodes(&self, uids: impl IntoIterator<Item = u32>) {
        self.0.nodes.write().unwrap_or_else(PoisonError::into_inner).extend(uids);
    }

    /// From now on the processes of nodes are known by their cgroups: they may not ask, whoever they run as. Only the first
    /// call counts.
    pub fn know_nodes(&self, is_node: impl Fn(u64) -> bool + Send + Sync + 'static) {
        let _ = self.0.is_node.set(Box::new(is_node));
    }

    /// Finds out, within a few seconds, who is at the other end of a TCP connection and what it may do.
    pub(crate) async fn admit(&self, caller: Caller<'_>) -> Admitted {
        let Caller { ends, subject, is_open, advice } = caller;
        let is_here = ends.are_of_this_host();
        let (uid, verdict) = if subject.is_some() || is_open {
            // Already admitted: the uid is for the journal only.
            let owner = if is_here { self.0.look_ups.once(ends).await.ok() } else { None };
            (owner.map(|owner| owner.uid), Verdict::MayAsk)
        } else if is_here {
            match self.0.look_ups.owner(ends).await {
                Ok(Owner { uid, cgroup: Some(cgroup) }) if self.is_node(cgroup) => (
                    Some(uid),
                    Verdict::OnlyAsNode(format!(
                        "uid {uid}, in the cgroup of a node of this agent: {NODES_ASK_NOTHING}"
                    )),
                ),
                Ok(Owner { uid, cgroup: _ }) => (Some(uid), self.of_uid(uid).await),
                Err(Unidentified::Overflow(uid)) => {
                    (Some(uid), Verdict::Refused(Unidentified::Overflow(uid).to_string()))
                }
                Err(unidentified) => (None, Verdict::Refused(unidentified.to_string())),
            }
        } else {
            let reason = format!("it is on another host, and shows no certificate by which to know it; {advice}");
            (None, Verdict::Refused(reason))
        };
        Admitted { uid, peer: peer(ends.remote, uid, subject), verdict }
    }

    fn is_node(&self, cgroup: u64) -> bool {
        self.0.is_node.get().is_some_and(|is_node| is_node(cgroup))
    }

    async fn of_uid(&self, uid: u32) -> Verdict {
        if self.0.users.contains(&uid) {
            return Verdict::MayAsk;
        }
        let membership = match &self.0.members {
            Some(members) => members.include(uid).await,
            None => Ok(false),
        };
        let reason = match membership {
            Ok(true) => return Verdict::MayAsk,
            Ok(false) => self.may_not(uid),
            Err(why) => format!("{}: whether it is a member cannot be known: {why}", self.may_not(uid)),
        };
        let nodes = self.0.nodes.read().unwrap_or_else(PoisonError::into_inner);
        if nodes.contains(&uid) { Verdict::OnlyAsNode(reason) } else { Verdict::Refused(reason) }
    }

    fn may_not(&self, uid: u32) -> String {
        format!("uid {uid} may not ask for anything; the setting request_users allows {}", self.0.words)
    }

    /// Whether a user that could connect to the control socket may ask. The kernel's check of the socket's owner or
    /// group counts as much as the name service's answer.
    pub fn admits_at_socket(&self, uid: u32) -> Result<(), String> {
        if self.0.users.contains(&uid) || self.0.members.is_some() { Ok(()) } else { Err(self.may_not(uid)) }
    }

    /// Records a refusal: logged once, and journaled up to a rate. Returns the text to journal, if this one is.
    pub fn refused(&self, transport: &str, address: SocketAddr, uid: Option<u32>, reason: &str) -> Option<String> {
        let who = uid.map_or_else(|| Who::Address(address.ip().to_canonical()), Who::Uid);
        let note = self.0.refusals.note(who, Instant::now());
        if note.is_first {
            tracing::warn!(
                %address,
                "refused a connection over {transport}: {reason}; from now on the journal alone tells of this one \
                 (`journal dump --failed`)"
            );
        } else {
            tracing::debug!(%address, "refused a connection over {transport}: {reason}");
        }
        Some(match note.journaled? {
            0 => format!("refused: {reason}"),
            more => format!("refused: {reason} ({more} more since the last were not told)"),
        })
    }
}

/// A peer, as the journal records it: where it is, who it is on this host, and what its certificate says.
pub(crate) fn peer(address: SocketAddr, uid: Option<u32>, subject: Option<&str>) -> String {
    let mut text = format!("{} port={}", address.ip().to_canonical(), address.port());
    if let Some(uid) = uid {
        text.push_str(&format!(" uid={uid}"));
    }
    if let Some(subject) = subject {
        text.push_str(&format!(" subject={subject}"));
    }
    text
}

#[cfg(test)]
mod tests;

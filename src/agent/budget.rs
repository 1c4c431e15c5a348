//! How many bytes of requests may wait, and how fast a peer may make the journal grow.
//!
//! What counts is the memory that a decoded request takes, from when it is accepted until it has its outcome: queued
//! for the driver, in a batch, or unfinished. The total is bounded, and so is the part of each owner (a uid, or whoever
//! a certificate or an address identifies). The control socket has a reserve, so that an operator still gets through
//! when others flood the agent. If there is no room, the request waits for a while, nothing more is read from its
//! connection, and then the request is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::configuration::{Instance, Node, ScriptOption};
use crate::api::event::{Request, Route, Source};
use crate::transport::request::size as request_size;

/// Limit for all waiting requests together.
pub(super) const ALL: usize = 64 << 20;
/// The part of [`ALL`] that only the control socket may use.
const RESERVE: usize = 8 << 20;
/// Limit for the waiting requests of one owner.
const OF_ONE: usize = ALL / 4;
/// What one owner's requests may add to the journal per minute; also the largest burst.
const GROWTH: u64 = 64 << 20;
const GROWTH_WITHIN: Duration = Duration::from_secs(60);
/// Requests up to this size may use the last [`LEFT_FOR_SMALL`] bytes of an owner's limit; larger ones may not. A user
/// who floods the agent can still send `shutdown`.
const SMALL: usize = 64 << 10;
const LEFT_FOR_SMALL: usize = 2 << 20;
/// How long a connection waits for room before its request is refused.
const PATIENCE: Duration = Duration::from_secs(5);
/// Owners that are remembered before idle ones are forgotten.
const OWNERS: usize = 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    owners: BTreeMap<String, Owner>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    waiting: usize,
    /// What it may still add to the journal, as of `at`.
    growth: u64,
    at: Instant,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("busy: requests of {} MiB wait for their outcome, which is the most; try again", ALL >> 20)]
    All,
    #[error("busy: requests of {} MiB from this user or peer wait for their outcome, which is the most; try again", OF_ONE >> 20)]
    Owner,
    #[error("busy: requests from this user or peer have filled {} MiB of the journal within a minute, which is the most; try again", GROWTH >> 20)]
    Growth,
}

/// Some waiting bytes, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    owner: String,
    pub bytes: usize,
}

/// Whose a request is, and whether it may use the control socket's reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asker {
    /// A user, else a certificate, else an address: the same for every transport, port and process.
    owner: String,
    has_reserve: bool,
}

impl Asker {
    pub fn of(source: &Source) -> Self {
        // The certificate's subject comes last, and may contain anything.
        let (known, subject) = source
            .peer
            .split_once(" subject=")
            .map_or((source.peer.as_str(), None), |(known, subject)| (known, Some(subject)));
        let uid = known.split_whitespace().find(|word| word.starts_with("uid="));
        let address = || known.split_whitespace().next().unwrap_or_default().to_owned();
        let owner = match (uid, subject) {
            (Some(uid), _) => uid.to_owned(),
            (None, Some(subject)) => format!("subject={subject}"),
            (None, None) => address(),
        };
        Self { owner, has_reserve: matches!(source.transport.as_str(), "control" | "offline") }
    }
}

/// Roughly how much memory a request takes.
pub(super) fn decoded_size(request: &Request) -> usize {
    let encoded = request_size(request);
    match request {
        Request::SetConfiguration { config } | Request::Deploy { config, .. } => {
            let of_node = |node: &Node| {
                size_of::<Node>()
                    + node.options.len() * size_of::<ScriptOption>()
                    + node.scripts.len() * size_of::<String>()
                    + node.env.len() * 2 * size_of::<String>()
            };
            encoded + config.instances.len() * size_of::<Instance>() + config.nodes.iter().map(of_node).sum::<usize>()
        }
        Request::Restart { nodes } | Request::StartNodes { nodes } | Request::StopNodes { nodes, .. } => {
            encoded + nodes.len() * size_of::<String>()
        }
        Request::NodeDispatch { action, nodes } => encoded + (action.len() + nodes.len()) * size_of::<String>(),
        Request::AgentWelcome {}
        | Request::AgentStandby {}
        | Request::GetNodes {}
        | Request::AdoptState {}
        | Request::ResumeWaiting { .. }
        | Request::DropWaiting { .. }
        | Request::Shutdown { .. } => encoded,
    }
}

impl State {
    fn owner(&mut self, name: &str, now: Instant) -> &mut Owner {
        if self.owners.len() >= OWNERS && !self.owners.contains_key(name) {
            // An owner with nothing waiting and its full allowance need not be remembered.
            let idle = |owner: &Owner| owner.waiting == 0 && now.duration_since(owner.at) >= GROWTH_WITHIN;
            self.owners.retain(|_, owner| !idle(owner));
        }
        let owner = self.owners.entry(name.to_owned()).or_insert(Owner { waiting: 0, growth: GROWTH, at: now });
        let passed = now.duration_since(owner.at).as_millis().min(GROWTH_WITHIN.as_millis());
        let more = GROWTH.saturating_mul(passed as u64) / GROWTH_WITHIN.as_millis() as u64;
        if more > 0 {
            owner.growth = owner.growth.saturating_add(more).min(GROWTH);
            owner.at = now;
        }
        owner
    }

    /// The limits on waiting bytes do not apply to a request that would wait alone: it is far smaller than they are.
    fn take(&mut self, asker: &Asker, bytes: usize, now: Instant) -> Result<(), Full> {
        let limit = if asker.has_reserve { ALL } else { ALL - RESERVE };
        let left = if bytes <= SMALL { 0 } else { LEFT_FOR_SMALL };
        let all = self.all;
        let owner = self.owner(&asker.owner, now);
        if owner.waiting > 0 && owner.waiting + bytes + left > OF_ONE {
            return Err(Full::Owner);
        }
        if all > 0 && all + bytes + left > limit {
            return Err(Full::All);
        }
        if owner.growth < (bytes + left) as u64 {
            return Err(Full::Growth);
        }
        owner.growth -= bytes as u64;
        owner.waiting += bytes;
        self.all += bytes;
        Ok(())
    }
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two operations.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, asker: &Asker, bytes: usize) -> Share {
        Share { budget: self.clone(), owner: asker.owner.clone(), bytes }
    }

    pub fn try_take(&self, asker: &Asker, bytes: usize) -> Result<Share, Full> {
        self.state().take(asker, bytes, Instant::now())?;
        Ok(self.share(asker, bytes))
    }

    /// Like [`Budget::try_take`], but waits a while for room.
    pub async fn take(&self, asker: &Asker, bytes: usize) -> Result<Share, Full> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // From here on no wakeup is missed.
            freed.as_mut().enable();
            let full = match self.try_take(asker, bytes) {
                Ok(share) => return Ok(share),
                Err(full) => full,
            };
            let again = match full {
                // Only time brings this back.
                Full::Growth => tokio::time::Instant::now() + Duration::from_millis(250),
                Full::All | Full::Owner => deadline,
            };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(again.min(deadline)) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                return self.try_take(asker, bytes);
            }
        }
    }

    /// Requests that an earlier run accepted count even if there is no room.
    pub fn force(&self, asker: &Asker, bytes: usize) -> Share {
        let mut state = self.state();
        state.owner(&asker.owner, Instant::now()).waiting += bytes;
        state.all += bytes;
        drop(state);
        self.share(asker, bytes)
    }
}

impl Share {
    /// Corrects the size that was assumed when the share was taken.
    pub fn resize(&mut self, bytes: usize) {
        let mut state = self.budget.state();
        state.all = (state.all + bytes).saturating_sub(self.bytes);
        if let Some(owner) = state.owners.get_mut(&self.owner) {
            owner.waiting = (owner.waiting + bytes).saturating_sub(self.bytes);
            owner.growth = owner.growth.saturating_sub(bytes.saturating_sub(self.bytes) as u64);
        }
        drop(state);
        self.bytes = bytes;
    }
}

/// Shares in transit: for what a connection is about to ask, and for what it has asked, until the driver takes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<Mutex<OnTheWay>>);

#[derive(Debug, Default)]
struct OnTheWay {
    by_connection: BTreeMap<u64, Share>,
    by_route: BTreeMap<Route, Share>,
}

impl Shares {
    fn on_the_way(&self) -> MutexGuard<'_, OnTheWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds room for what the connection reads next.
    pub fn reserve(&self, connection: u64, share: Share) {
        let before = self.on_the_way().by_connection.insert(connection, share);
        drop(before);
    }

    pub fn take_reserved(&self, connection: u64) -> Option<Share> {
        self.on_the_way().by_connection.remove(&connection)
    }

    pub fn put(&self, route: Route, share: Share) {
        self.on_the_way().by_route.insert(route, share);
    }

    pub fn take(&self, route: Route) -> Option<Share> {
        self.on_the_way().by_route.remove(&route)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut state = self.budget.state();
            state.all = state.all.saturating_sub(self.bytes);
            if let Some(owner) = state.owners.get_mut(&self.owner) {
                owner.waiting = owner.waiting.saturating_sub(self.bytes);
            }
        }
        self.budget.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Over this transport.
    fn asker(text: &str) -> Asker {
        let (transport, peer) = text.split_once(' ').unwrap();
        Asker::of(&Source { transport: transport.into(), peer: peer.into() })
    }

    fn all_of(budget: &Budget, text: &str, bytes: usize) -> (Vec<Share>, Full) {
        let mut shares = Vec::new();
        loop {
            match budget.try_take(&asker(text), bytes) {
                Ok(share) => shares.push(share),
                Err(full) => return (shares, full),
            }
        }
    }

    #[test]
    fn one_owner_gets_a_quarter_and_all_leave_a_reserve_to_the_control_socket() {
        let budget = Budget::default();
        let mut taken = Vec::new();
        for peer in ["broker uid=1", "broker uid=2", "websocket uid=3"] {
            let (shares, full) = all_of(&budget, peer, 2 * MIB);
            assert_eq!((shares.len(), full), (7, Full::Owner), "{peer}");
            taken.extend(shares);
        }
        // The same user over another transport.
        let (more, full) = all_of(&budget, "websocket uid=1", 2 * MIB);
        assert_eq!((more.len(), full), (0, Full::Owner));
        let (shares, full) = all_of(&budget, "websocket uid=4", 2 * MIB);
        assert_eq!((shares.len(), full), (6, Full::All));
        taken.extend(shares);
        let (reserved, full) = all_of(&budget, "control uid=0", 2 * MIB);
        assert_eq!((reserved.len(), full), (4, Full::All));
        assert!(budget.try_take(&asker("control uid=0"), 100).is_ok(), "small ones have what is left");
        drop(taken);
        assert!(budget.try_take(&asker("broker uid=5"), 2 * MIB).is_ok());
        drop(reserved);
        assert_eq!(budget.state().all, 0);
    }

    #[test]
    fn growth_is_bounded_by_the_minute_and_for_each_owner() {
        let budget = Budget::default();
        let begun = Instant::now();
        let fill = |at: Duration| {
            let mut taken = 0;
            while budget.state().take(&asker("broker uid=1"), MIB, begun + at).is_ok() {
                taken += 1;
                let mut state = budget.state();
                state.all -= MIB;
                state.owner("uid=1", begun + at).waiting -= MIB;
            }
            taken
        };
        assert_eq!(fill(Duration::ZERO), 62);
        assert_eq!(fill(Duration::from_secs(15)), 16);
        assert_eq!(fill(Duration::from_secs(600)), 62);
        assert!(budget.state().take(&asker("broker uid=1"), 100, begun + Duration::from_secs(600)).is_ok());
        assert!(budget.try_take(&asker("broker uid=2"), MIB).is_ok());
    }

    #[test]
    fn an_owner_is_a_user_or_a_certificate_whatever_port_it_has() {
        let of = |peer: &str| Asker::of(&Source { transport: "broker".into(), peer: peer.into() });
        assert_eq!(of("127.0.0.1 port=1 uid=7"), of("127.0.0.1 port=2 uid=7"));
        assert_eq!(of("192.0.2.1 port=1 subject=CN=a b"), of("192.0.2.2 port=2 subject=CN=a b"));
        assert_ne!(of("192.0.2.1 port=1 subject=CN=a b"), of("192.0.2.1 port=1 subject=CN=a c"));
        assert_ne!(of("127.0.0.1 port=1 uid=7"), of("127.0.0.1 port=1 uid=8"));
        assert_eq!(of("127.0.0.1 port=1 uid=7 subject=CN=a"), of("127.0.0.1 port=1 uid=7 subject=CN=b"));
        assert_ne!(of("192.0.2.1 port=1 subject=CN=a uid=7"), of("127.0.0.1 port=1 uid=7"));
        let over_control = asker("control uid=7 pid=1");
        assert_eq!(over_control, asker("control uid=7 pid=2"));
        assert_eq!(over_control.owner, of("127.0.0.1 port=1 uid=7").owner);
        assert!(over_control.has_reserve && !of("127.0.0.1 port=1 uid=7").has_reserve);
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_freed() {
        let budget = Budget::default();
        let (mut shares, _) = all_of(&budget, "broker uid=1", 2 * MIB);
        let asker = asker("broker uid=1");
        let waiting = budget.take(&asker, 2 * MIB);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        shares.pop();
        assert!(waiting.await.is_ok());
    }
}

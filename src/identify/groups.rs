//! Who is a member of the group whose members may send requests, according to the host's name service.
//!
//! That service may be a separate program, or a server on the network, and may hang. So it is called on the runtime's
//! blocking threads, a few at a time, with a deadline, and answers are cached for a minute. No answer means no
//! membership.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Cached users. A host where more come and go within a minute asks more often.
const REMEMBERED: usize = 4096;
/// Concurrent calls: the most threads that a hanging name service can block.
const AT_ONCE: usize = 2;

/// The groups of a user, including the primary one; `None` if there is no such user. May block.
pub type GroupsOf = fn(uid: u32) -> io::Result<Option<Vec<u32>>>;

#[derive(Debug)]
pub struct Members {
    gid: u32,
    groups_of: GroupsOf,
    time_limit: Duration,
    at_once: Arc<Semaphore>,
    known: Mutex<BTreeMap<u32, (Instant, bool)>>,
}

impl Members {
    pub fn new(gid: u32, groups_of: GroupsOf) -> Self {
        Self::with_timeout(gid, groups_of, LOOKUP_TIMEOUT)
    }

    fn with_timeout(gid: u32, groups_of: GroupsOf, time_limit: Duration) -> Self {
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        Self { gid, groups_of, time_limit, at_once, known: Mutex::new(BTreeMap::new()) }
    }

    /// Whether this user is a member, or why that cannot be determined.
    pub async fn include(&self, uid: u32) -> Result<bool, String> {
        if let Some(is_member) = self.remembered(uid, Instant::now()) {
            return Ok(is_member);
        }
        let found = timeout(self.time_limit, self.ask(uid)).await;
        let groups = found.map_err(|_| format!("the name service did not answer within {:?}", self.time_limit))??;
        let is_member = groups.is_some_and(|groups| groups.contains(&self.gid));
        self.remember(uid, is_member, Instant::now());
        Ok(is_member)
    }

    async fn ask(&self, uid: u32) -> Result<Option<Vec<u32>>, String> {
        let failed = |error: &dyn std::error::Error| format!("the name service failed: {error}");
        let permit = Arc::clone(&self.at_once).acquire_owned().await.map_err(|error| failed(&error))?;
        let groups_of = self.groups_of;
        let asked = tokio::task::spawn_blocking(move || {
            // Held to the end of the call, even if the caller has stopped waiting.
            let _permit = permit;
            groups_of(uid)
        });
        asked.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, (Instant, bool)>> {
        // The map is consistent between any two operations, so a panic elsewhere leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, uid: u32, now: Instant) -> Option<bool> {
        let (at, is_member) = self.known().get(&uid).copied()?;
        (now.duration_since(at) < REMEMBERED_FOR).then_some(is_member)
    }

    fn remember(&self, uid: u32, is_member: bool, now: Instant) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(uid, (now, is_member));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_member_is_asked_for_once_a_minute() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let members = Members::new(60, |uid| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            Ok(match uid {
                5 => Some(vec![5, 60]),
                6 => Some(vec![6]),
                _ => None,
            })
        });
        for _ in 0..10 {
            assert_eq!(members.include(5).await, Ok(true));
            assert_eq!(members.include(6).await, Ok(false));
            assert_eq!(members.include(7).await, Ok(false));
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), 3);
        let now = Instant::now();
        assert_eq!(members.remembered(5, now + REMEMBERED_FOR), None, "and then anew");
    }

    #[tokio::test]
    async fn a_name_service_that_fails_makes_nobody_a_member_and_is_asked_again() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let members = Members::new(60, |_| match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::other("no route to the directory")),
            _ => Ok(Some(vec![60])),
        });
        let failed = members.include(5).await.unwrap_err();
        assert!(failed.contains("no route to the directory"), "{failed}");
        assert_eq!(members.include(5).await, Ok(true));
    }

    #[tokio::test]
    async fn a_name_service_that_hangs_takes_two_threads_and_nobodys_time() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let hangs: GroupsOf = |_| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            while !GO_ON.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(None)
        };
        let members = Arc::new(Members::with_timeout(60, hangs, Duration::from_millis(50)));
        let asking: Vec<_> = (0..50)
            .map(|uid| {
                let members = Arc::clone(&members);
                tokio::spawn(async move { members.include(uid).await })
            })
            .collect();
        for one in asking {
            assert!(one.await.unwrap().unwrap_err().contains("did not answer within 50ms"));
        }
        assert!(ASKED.load(Ordering::Relaxed) <= AT_ONCE);
        GO_ON.store(true, Ordering::Release);
    }
}

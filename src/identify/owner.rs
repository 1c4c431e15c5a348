//! When to believe what the kernel says about the other end of a connection.
//!
//! A socket that no process has open any more is shown with uid 0, which is root's; a query about a connection that is
//! gone is answered with the listener at that port; a connection that waits to be accepted has no owner yet; and a uid
//! that is not mapped in a user namespace is shown as the overflow uid. So an answer counts only for a connection that
//! was established before the query and still is after it, and only if a process has its other end open.
//!
//! Pure. [`super::lookup`] does the asking.

use std::net::SocketAddr;

use super::diag::{self, ESTABLISHED, Reply, Socket};

/// A connection of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The inode of our own end's socket, which no other socket has while ours is open.
    pub inode: u32,
}

impl Ends {
    /// The other end is on this host: at a loopback address, or at the very address at which it reached us, as when a
    /// node connects to an agent that listens at a network address.
    pub fn are_of_this_host(&self) -> bool {
        let (local, remote) = (diag::canonical(self.local).ip(), diag::canonical(self.remote).ip());
        remote.is_loopback() || remote == local
    }
}

/// Why the owner of the other end is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    #[error("the connection was closed before the kernel could be asked whose it is")]
    Gone,
    #[error("nobody has accepted the connection: whose the port is cannot be known")]
    NotAccepted,
    #[error(
        "it is the connection of uid {0}, which the kernel shows for every user that it cannot name and which is therefore \
         never believed"
    )]
    Overflow(u32),
    #[error("the kernel could not be asked whose the connection is: {0}")]
    Unasked(String),
}

/// Who has the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user who created its socket.
    pub uid: u32,
    /// The cgroup in which that was done, if the kernel says so.
    pub cgroup: Option<u64>,
}

/// What two answers mean, in the order of the queries: about the other end, and then about our own.
pub fn judge(ends: &Ends, other: &Reply, own: &Reply, overflow_uid: u32) -> Result<Owner, Unidentified> {
    let (local, remote) = (diag::canonical(ends.local), diag::canonical(ends.remote));
    let other = established(other, remote, local)?;
    let own = established(own, local, remote)?;
    if own.inode != ends.inode {
        return Err(Unidentified::Gone);
    }
    if other.inode == 0 {
        return Err(Unidentified::NotAccepted);
    }
    if other.uid == overflow_uid {
        return Err(Unidentified::Overflow(overflow_uid));
    }
    Ok(Owner { uid: other.uid, cgroup: other.cgroup })
}

fn established(reply: &Reply, local: SocketAddr, remote: SocketAddr) -> Result<Socket, Unidentified> {
    match reply {
        Reply::Found(socket) if socket.state == ESTABLISHED && socket.local == local && socket.remote == remote => {
            Ok(*socket)
        }
        // A listener's answer, a closing connection, or another one.
        Reply::Found(_) | Reply::Nothing => Err(Unidentified::Gone),
        Reply::Failed(errno) => Err(Unidentified::Unasked(std::io::Error::from_raw_os_error(*errno).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERFLOW: u32 = 65534;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ends() -> Ends {
        Ends { local: end("127.0.0.1:2151"), remote: end("127.0.0.1:40000"), inode: 7 }
    }

    fn socket(local: &str, remote: &str, uid: u32, inode: u32) -> Socket {
        Socket { local: end(local), remote: end(remote), state: ESTABLISHED, uid, inode, cgroup: Some(77) }
    }

    fn other() -> Socket {
        socket("127.0.0.1:40000", "127.0.0.1:2151", 995, 8)
    }

    fn own() -> Socket {
        socket("127.0.0.1:2151", "127.0.0.1:40000", 0, 7)
    }

    fn judged(other: Socket, own: Socket) -> Result<u32, Unidentified> {
        uid(judge(&ends(), &Reply::Found(other), &Reply::Found(own), OVERFLOW))
    }

    fn uid(judged: Result<Owner, Unidentified>) -> Result<u32, Unidentified> {
        judged.map(|owner| {
            assert_eq!(owner.cgroup, Some(77));
            owner.uid
        })
    }

    #[test]
    fn the_owner_of_a_connection_that_is_up_before_and_after_is_believed() {
        assert_eq!(judged(other(), own()), Ok(995));
        assert_eq!(judged(Socket { uid: 0, ..other() }, own()), Ok(0));
        let mapped = Ends { local: end("[::ffff:127.0.0.1]:2151"), remote: end("[::ffff:127.0.0.1]:40000"), inode: 7 };
        assert_eq!(uid(judge(&mapped, &Reply::Found(other()), &Reply::Found(own()), OVERFLOW)), Ok(995));
    }

    #[test]
    fn nothing_else_is() {
        let listener = Socket { remote: end("0.0.0.0:0"), state: 10, uid: 0, ..other() };
        let wrong = [
            // The listener at the port of a client that is gone.
            (listener, own()),
            // Only one state counts, even if all else matches: FIN_WAIT1, FIN_WAIT2 and TIME_WAIT have no owner.
            (Socket { state: 4, uid: 0, inode: 0, ..other() }, own()),
            (Socket { state: 5, ..other() }, own()),
            (Socket { state: 6, uid: 0, inode: 0, ..other() }, own()),
            (Socket { state: 8, ..other() }, own()),
            // Another connection.
            (Socket { local: end("127.0.0.1:40001"), ..other() }, own()),
            (Socket { local: end("127.0.0.2:40000"), ..other() }, own()),
            (Socket { remote: end("127.0.0.1:2152"), ..other() }, own()),
            // Ours was closed by the other side, or is not the one that was accepted.
            (other(), Socket { state: 8, ..own() }),
            (other(), Socket { state: 7, ..own() }),
            (other(), Socket { inode: 9, ..own() }),
            (other(), Socket { remote: end("127.0.0.1:40001"), ..own() }),
        ];
        for (other, own) in wrong {
            assert_eq!(judged(other, own), Err(Unidentified::Gone), "{other:?} {own:?}");
        }
        assert_eq!(judge(&ends(), &Reply::Nothing, &Reply::Found(own()), OVERFLOW), Err(Unidentified::Gone));
        assert_eq!(judge(&ends(), &Reply::Found(other()), &Reply::Nothing, OVERFLOW), Err(Unidentified::Gone));
        assert_eq!(judged(Socket { inode: 0, uid: 0, ..other() }, own()), Err(Unidentified::NotAccepted));
        assert_eq!(judged(Socket { uid: OVERFLOW, ..other() }, own()), Err(Unidentified::Overflow(OVERFLOW)));
        let failed = judge(&ends(), &Reply::Failed(1), &Reply::Found(own()), OVERFLOW).unwrap_err();
        assert!(matches!(failed, Unidentified::Unasked(why) if why.contains("not permitted")));
    }

    #[test]
    fn of_this_host_is_who_comes_from_loopback_or_the_address_that_was_reached() {
        let of =
            |local: &str, remote: &str| Ends { local: end(local), remote: end(remote), inode: 1 }.are_of_this_host();
        assert!(of("127.0.0.1:2151", "127.0.0.1:40000"));
        assert!(of("127.0.0.1:2151", "127.9.8.7:40000"));
        assert!(of("[::1]:2151", "[::1]:40000"));
        assert!(of("[::ffff:127.0.0.1]:2151", "[::ffff:127.0.0.1]:40000"));
        assert!(of("192.0.2.10:2151", "192.0.2.10:40000"));
        assert!(!of("192.0.2.10:2151", "192.0.2.11:40000"));
        assert!(!of("[2001:db8::1]:2151", "[2001:db8::2]:40000"));
        assert!(!of("[::ffff:192.0.2.10]:2151", "[::ffff:192.0.2.11]:40000"));
    }
}

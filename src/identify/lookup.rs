//! Asks the kernel who owns the other end of a connection: two queries over a netlink socket, without reading `/proc`.
//!
//! The kernel answers within the call, but may block it while another process lists all sockets; so the call is made on
//! the runtime's blocking threads, a few at a time.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::diag::{self, Reply};
use super::owner::{Ends, Owner, Unidentified, judge};

/// The most time for finding out who owns a connection.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between queries about a connection that nobody has accepted yet: they double from the minimum to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Concurrent queries.
const AT_ONCE: usize = 4;
/// Larger than any answer of the kernel about a socket.
const ANSWER: usize = 4096;
/// The most messages read in search of the answer. Only the kernel could send another.
const MESSAGES: usize = 4;

/// Shown instead of a uid that is not mapped in the agent's user namespace, unless the host has another setting.
const OVERFLOW_UID: u32 = 65534;

/// The uid that stands for all unmapped ones.
pub fn overflow_uid() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW_UID)
}

/// The ends of a connection; `remote` as the kernel gave it when the connection was made.
pub fn ends(socket: &impl AsFd, local: SocketAddr, remote: SocketAddr) -> io::Result<Ends> {
    let inode = rustix::fs::fstat(socket)?.st_ino;
    // The kernel's answers have 32 bits for it, and its inode numbers of sockets are no longer.
    Ok(Ends { local, remote, inode: u32::try_from(inode).unwrap_or(0) })
}

/// Sends the queries to the kernel.
#[derive(Debug)]
pub struct LookUps {
    overflow_uid: u32,
    at_once: Arc<Semaphore>,
}

impl LookUps {
    pub fn new(overflow_uid: u32) -> Self {
        Self { overflow_uid, at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Who owns the other end. Waits, within limits, until that end is accepted.
    pub async fn owner(&self, ends: Ends) -> Result<Owner, Unidentified> {
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let mut pause = PAUSE_MIN;
        loop {
            let answer = timeout(LOOKUP_TIMEOUT, self.once(ends)).await;
            let answer = answer.unwrap_or_else(|_| Err(Unidentified::Unasked("it did not answer in time".to_owned())));
            if answer != Err(Unidentified::NotAccepted) || Instant::now() + pause > deadline {
                return answer;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The same without waiting.
    pub async fn once(&self, ends: Ends) -> Result<Owner, Unidentified> {
        let unasked = |error: &dyn std::error::Error| Unidentified::Unasked(error.to_string());
        let permit = Arc::clone(&self.at_once).acquire_owned().await.map_err(|error| unasked(&error))?;
        let overflow_uid = self.overflow_uid;
        let asked = tokio::task::spawn_blocking(move || {
            // Held to the end of the call, even if the caller has stopped waiting.
            let _permit = permit;
            ask(&ends, overflow_uid)
        });
        asked.await.map_err(|error| unasked(&error))?
    }
}

/// Asks about the other end, and then about ours.
fn ask(ends: &Ends, overflow_uid: u32) -> Result<Owner, Unidentified> {
    let unasked = |error: io::Error| Unidentified::Unasked(error.to_string());
    let kernel = Kernel::open().map_err(unasked)?;
    let other = kernel.socket(ends.remote, ends.local, 1).map_err(unasked)?;
    let own = kernel.socket(ends.local, ends.remote, 2).map_err(unasked)?;
    judge(ends, &other, &own, overflow_uid)
}

/// Each connection gets its own netlink socket, so that no answer can be taken for another.
struct Kernel(OwnedFd);

impl Kernel {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?))
    }

    /// What the kernel knows of the socket whose own end is `local`.
    fn socket(&self, local: SocketAddr, remote: SocketAddr, number: u32) -> io::Result<Reply> {
        let question = diag::question(local, remote, number)
            .ok_or_else(|| io::Error::other("the ends of the connection are of two families"))?;
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| rustix::net::sendto(&self.0, &question, SendFlags::empty(), &kernel))?;
        let mut answer = [0; ANSWER];
        for _ in 0..MESSAGES {
            let (count, _, from) = rustix::io::retry_on_intr(|| {
                rustix::net::recvfrom(&self.0, answer.as_mut_slice(), RecvFlags::empty())
            })?;
            let from = from.map(SocketAddrNetlink::try_from).transpose()?;
            if from.is_some_and(|from| from.pid() == 0) {
                let answer = answer.get(..count).unwrap_or_default();
                return diag::reply(answer, number).map_err(io::Error::other);
            }
        }
        Err(io::Error::other("its answer did not come"))
    }
}

/// Whether this kernel answers at all: it has to say that our own connection is ours. `None` if there is no loopback to
/// test with.
pub fn works() -> Option<Result<(), Unidentified>> {
    let listener = TcpListener::bind("127.0.0.1:0").ok()?;
    let client = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (server, remote) = listener.accept().ok()?;
    let ends = ends(&server, server.local_addr().ok()?, remote).ok()?;
    // Only whether there is an answer matters. A uid that is not believed is not the kernel's fault.
    let answer = match ask(&ends, OVERFLOW_UID) {
        Ok(_) | Err(Unidentified::Overflow(_)) => Ok(()),
        Err(error) => Err(error),
    };
    drop(client);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    /// No real host has this uid.
    const NOBODYS: u32 = u32::MAX;

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn uid(ends: &Ends, overflow_uid: u32) -> Result<u32, Unidentified> {
        ask(ends, overflow_uid).map(|owner| owner.uid)
    }

    fn pair(listen: &str) -> (TcpStream, TcpStream, Ends) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, remote) = listener.accept().unwrap();
        let ends = ends(&server, server.local_addr().unwrap(), remote).unwrap();
        (client, server, ends)
    }

    #[test]
    fn a_connection_of_ours_is_ours_over_every_form_of_loopback() {
        for listen in ["127.0.0.1:0", "127.3.2.1:0", "[::1]:0"] {
            let (_client, _server, ends) = pair(listen);
            assert_eq!(uid(&ends, NOBODYS), Ok(own_uid()), "{listen}");
            assert_eq!(uid(&ends, own_uid()), Err(Unidentified::Overflow(own_uid())), "{listen}");
        }
        // A listener for both families shows an IPv4 client as IPv4-mapped; the client's socket may have either form.
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for target in [format!("127.0.0.1:{port}"), format!("[::ffff:127.0.0.1]:{port}"), format!("[::1]:{port}")] {
            let _client = TcpStream::connect(&target).unwrap();
            let (server, remote) = listener.accept().unwrap();
            let ends = ends(&server, server.local_addr().unwrap(), remote).unwrap();
            assert_eq!(uid(&ends, NOBODYS), Ok(own_uid()), "{target}");
        }
        assert_eq!(works(), Some(Ok(())));
    }

    #[test]
    fn a_client_that_is_gone_is_nobodys_although_somebody_listens_at_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&client, true).unwrap();
        rustix::net::bind(&client, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::connect(&client, &listener.local_addr().unwrap()).unwrap();
        let (server, remote) = listener.accept().unwrap();
        let ends = ends(&server, server.local_addr().unwrap(), remote).unwrap();
        assert_eq!(uid(&ends, NOBODYS), Ok(own_uid()));

        let squatter = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&squatter, true).unwrap();
        rustix::net::bind(&squatter, &remote).unwrap();
        rustix::net::listen(&squatter, 1).unwrap();
        // Reset, so that not even a closing connection is left.
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        let kernel = Kernel::open().unwrap();
        let Reply::Found(found) = kernel.socket(ends.remote, ends.local, 1).unwrap() else { panic!("nothing") };
        assert_eq!((found.state, found.local.port()), (10, remote.port()), "a listener: {found:?}");
        assert_eq!(uid(&ends, NOBODYS), Err(Unidentified::Gone));
    }

    #[test]
    fn a_client_that_closed_in_order_is_nobodys() {
        let (client, _server, ends) = pair("127.0.0.1:0");
        drop(client);
        assert_eq!(uid(&ends, NOBODYS), Err(Unidentified::Gone));
    }

    #[tokio::test]
    async fn a_server_that_has_not_accepted_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = ends(&client, client.local_addr().unwrap(), client.peer_addr().unwrap()).unwrap();
        let look_ups = LookUps::new(NOBODYS);
        assert_eq!(look_ups.once(ends).await, Err(Unidentified::NotAccepted));
        let waiting = tokio::spawn(async move { look_ups.owner(ends).await });
        let _server = tokio::task::spawn_blocking(move || listener.accept().unwrap()).await.unwrap();
        assert_eq!(waiting.await.unwrap().map(|owner| owner.uid), Ok(own_uid()));
    }
}

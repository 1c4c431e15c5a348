//! The node's NOTIFY_SOCKET, as systemd defined it: datagrams of `NAME=value` lines.
//!
//! The address is abstract, so that nothing is left on disk and no path is too long; the kernel chooses the name, so
//! nobody can occupy it in advance. Any process on the host can write to such a socket: only datagrams of the node's
//! own user and root are accepted. READY=1, STATUS=… and BARRIER=1 (whose descriptor is closed, which is the answer)
//! are handled; all others are ignored.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::sys;

/// The longest STATUS that is passed on, in bytes.
const STATUS_LIMIT: usize = 256;

pub struct NotifySocket {
    socket: OwnedFd,
    /// With `@` for the zero byte, as in the environment.
    address: Vec<u8>,
    /// Besides root, these may send.
    uids: [u32; 2],
}

/// The content of one datagram.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notification {
    pub is_ready: bool,
    pub status: Option<String>,
}

impl NotifySocket {
    /// A socket for a node that runs as user `uid`, or as this process's user.
    pub fn bind(uid: Option<u32>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        // Without a name the kernel assigns a free one.
        rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
        let address = SocketAddrUnix::try_from(rustix::net::getsockname(&socket)?)?;
        let name = address.abstract_name().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let address = [b"@", name].concat();
        let own = rustix::process::geteuid().as_raw();
        Ok(Self { socket, address, uids: [own, uid.unwrap_or(own)] })
    }

    pub fn address(&self) -> &[u8] {
        &self.address
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next datagram; `None` if none is waiting. A datagram from an unauthorised sender has no content.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Notification>> {
        loop {
            match sys::receive_with_credentials(self.socket.as_fd(), buffer) {
                Ok(datagram)
                    if datagram.is_cut
                        || !matches!(datagram.uid, Some(uid) if uid == 0 || self.uids.contains(&uid)) =>
                {
                    return Ok(Some(Notification::default()));
                }
                Ok(datagram) => return Ok(Some(parse(buffer.get(..datagram.length).unwrap_or_default()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn parse(datagram: &[u8]) -> Notification {
    let mut notification = Notification::default();
    for line in datagram.split(|byte| *byte == b'\n') {
        if line == b"READY=1" {
            notification.is_ready = true;
        } else if let Some(status) = line.strip_prefix(b"STATUS=") {
            let status = status.get(..STATUS_LIMIT).unwrap_or(status);
            notification.status = Some(status.escape_ascii().to_string());
        }
    }
    notification
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn ready_and_status_are_heard_and_the_rest_is_not() {
        assert_eq!(parse(b"READY=1"), Notification { is_ready: true, status: None });
        assert_eq!(
            parse(b"STATUS=up\x1b[\nREADY=1\n"),
            Notification { is_ready: true, status: Some("up\\x1b[".into()) }
        );
        for other in [b"READY=0".as_slice(), b"READY=11", b"MAINPID=1", b"STOPPING=1", b"", b"\xff\0", b"XREADY=1"] {
            assert_eq!(parse(other), Notification::default());
        }
    }

    #[test]
    fn a_datagram_of_our_own_user_is_received() {
        let socket = NotifySocket::bind(None).unwrap();
        assert!(socket.receive(&mut [0; 4096]).unwrap().is_none());
        let address = SocketAddr::from_abstract_name(&socket.address()[1..]).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to_addr(&[b'x'; 5000], &address).unwrap();
        sender.send_to_addr(b"READY=1", &address).unwrap();
        let too_long = socket.receive(&mut [0; 4096]).unwrap();
        assert_eq!(too_long, Some(Notification::default()));
        assert!(socket.receive(&mut [0; 4096]).unwrap().unwrap().is_ready);
    }
}

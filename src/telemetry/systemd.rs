//! Reports the agent's state to a service manager: datagrams to the socket that NOTIFY_SOCKET names (sd_notify(3)).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long to wait for a manager that does not take a datagram.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
}

impl Notifier {
    /// For the value of NOTIFY_SOCKET: a path, or `@` and an abstract name.
    pub fn to(socket: &str) -> io::Result<Self> {
        let manager = match socket.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(socket)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket, manager })
    }

    /// Ready to serve; `status` is one line of details.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}\n", one_line(status)))
    }

    pub fn stopping(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STOPPING=1\nSTATUS={}\n", one_line(status)))
    }

    fn send(&self, state: &str) -> io::Result<()> {
        self.socket.send_to_addr(state.as_bytes(), &self.manager).map(|_| ())
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = [0; 1000];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.to_str().unwrap()).unwrap();
        notifier.ready("4 nodes\nMAINPID=1").unwrap();
        assert_eq!(received(&manager), "READY=1\nSTATUS=4 nodes MAINPID=1\n");

        let name = format!("zca-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::to(&format!("@{name}")).unwrap();
        notifier.stopping("bye").unwrap();
        assert_eq!(received(&manager), "STOPPING=1\nSTATUS=bye\n");
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error() {
        assert!(Notifier::to("/nonexistent/notify").unwrap().stopping("x").is_err());
    }
}

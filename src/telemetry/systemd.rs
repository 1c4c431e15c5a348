//! What a service manager gives a process, and is told by it: reports as datagrams to the socket that NOTIFY_SOCKET names
//! (sd_notify(3)), the time after which it takes the process for hung (sd_watchdog_enabled(3)), and whether standard
//! error leads to the system journal (JOURNAL_STREAM, systemd.exec(5)).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::terminal;

/// Set for processes of a unit of systemd (systemd.exec(5)).
pub const UNIT_VARIABLE: &str = "INVOCATION_ID";
/// Names the manager's socket.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// The time without a sign of life after which the manager ends this process, from the values of WATCHDOG_USEC and
/// WATCHDOG_PID; `None` if it does not watch it.
pub fn watchdog(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let usec = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

/// Whether a file with these numbers is the one of JOURNAL_STREAM: `DEVICE:INODE`, in decimal.
pub fn is_journal_stream(variable: &str, device: u64, inode: u64) -> bool {
    let numbers = variable.split_once(':').map(|(device, inode)| (device.parse::<u64>(), inode.parse::<u64>()));
    matches!(numbers, Some((Ok(stream_device), Ok(stream_inode))) if (stream_device, stream_inode) == (device, inode))
}

/// Whether standard error leads to the system journal.
pub fn logs_to_journal() -> bool {
    let Some(variable) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let found = terminal::standard_error_file();
    found.is_some_and(|(device, inode)| is_journal_stream(&variable.to_string_lossy(), device, inode))
}

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

    /// How it is, in one line.
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}\n", one_line(status)))
    }

    /// A sign of life, for a manager that watches ([`watchdog`]).
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1\n")
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
    fn the_watchdog_is_for_this_process_or_none() {
        assert_eq!(watchdog(Some("45000000"), None, 7), Some(Duration::from_secs(45)));
        assert_eq!(watchdog(Some("45000000"), Some("7"), 7), Some(Duration::from_secs(45)));
        assert_eq!(watchdog(Some("45000000"), Some("8"), 7), None);
        for none in ["", "0", "-1", "x", "99999999999999999999999"] {
            assert_eq!(watchdog(Some(none), None, 7), None, "{none}");
        }
        assert_eq!(watchdog(None, Some("7"), 7), None);
    }

    #[test]
    fn a_journal_stream_is_known_by_both_numbers() {
        assert!(is_journal_stream("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "84711", "", ":", "8:", "8:4711x"] {
            assert!(!is_journal_stream(other, 8, 4711), "{other}");
        }
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error() {
        assert!(Notifier::to("/nonexistent/notify").unwrap().stopping("x").is_err());
    }
}

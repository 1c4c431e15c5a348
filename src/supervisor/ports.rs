//! Finds who listens on the TCP ports that a node is about to need.
//!
//! A node whose port is taken ends immediately with code 1 and a terse message; checking first tells the operator who
//! has the port. The check is no reservation: if the port is taken afterwards, the node still ends.
//!
//! Source: `/proc/net/tcp` and `tcp6` (proc_pid_net(5)), where the kernel lists listening sockets before all others,
//! and the links in `/proc/PID/fd`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    uid: u32,
    inode: u64,
}

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Which of `ports` cannot be listened on at `address` (`None`: any) because another process does; in words that name
/// the process. `Ok(None)`: all are free.
pub fn taken(ports: &[u16], address: Option<IpAddr>) -> io::Result<Option<String>> {
    if ports.is_empty() {
        return Ok(None);
    }
    let mut listeners = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(file) {
            Ok(file) => read_listeners(BufReader::new(file), &mut listeners)?,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut words: Vec<String> = Vec::new();
    for listener in listeners.iter().filter(|one| ports.contains(&one.port) && in_the_way(one.address, address)) {
        let text = format!("port {}/tcp is taken by {}", listener.port, port_owner(listener));
        if !words.contains(&text) {
            words.push(text);
        }
    }
    Ok((!words.is_empty()).then(|| words.join("; ")))
}

/// Whether a socket that listens at `theirs` prevents another from listening at `ours`.
fn in_the_way(theirs: IpAddr, ours: Option<IpAddr>) -> bool {
    match ours {
        None => true,
        Some(ours) => theirs.is_unspecified() || ours.is_unspecified() || theirs.to_canonical() == ours.to_canonical(),
    }
}

/// Reads up to the end of the listening sockets.
fn read_listeners(lines: impl BufRead, listeners: &mut Vec<Listener>) -> io::Result<()> {
    for line in lines.lines().skip(1) {
        let line = line?;
        match parse(&line) {
            Some((listener, LISTEN)) => listeners.push(listener),
            Some(_) => break,
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/net/tcp has a line of another form")),
        }
    }
    Ok(())
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode`.
fn parse(line: &str) -> Option<(Listener, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Listener { address: parse_address(address)?, port, uid, inode }, state))
}

/// Words of 32 bits in this host's byte order, which are network order in memory.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |nth: usize| Some(u32::from_str_radix(text.get(nth * 8..nth * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (nth, place) in octets.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(nth)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The process that has the socket, in words.
fn port_owner(listener: &Listener) -> String {
    let socket = format!("socket:[{}]", listener.inode);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
        if links.any(|link| link.as_os_str() == socket.as_str()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().escape_debug().to_string();
            let uid = entry.metadata().map_or(listener.uid, |metadata| metadata.uid());
            return format!("{name} (pid {pid}, uid {uid})");
        }
    }
    format!("a process of uid {} that this agent cannot see", listener.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn lines_of_both_files_are_read_until_the_listening_ones_are_over() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                  0: 0100007F:0898 00000000:0000 0A 00000000:00000000 00:00000000 00000000   990        0 4711 1 0 100 0\n   \
                  1: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0\n   \
                  2: garbage\n";
        let mut listeners = Vec::new();
        read_listeners(v4.as_bytes(), &mut listeners).unwrap();
        let only = Listener { address: Ipv4Addr::LOCALHOST.into(), port: 2200, uid: 990, inode: 4711 };
        // The words are in this host's byte order, and the line is from a little-endian host.
        #[cfg(target_endian = "little")]
        assert_eq!(listeners, [only]);
        let v6 = "   0: 00000000000000000000000001000000:2328 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000     0        0 99 1 0 100 0";
        #[cfg(target_endian = "little")]
        assert_eq!(parse(v6).unwrap().0.address, Ipv6Addr::LOCALHOST);
        for other in ["", "0: 01:02", "0: 0100007F:0898 0:0 0A x x x nobody 0 1", "0: 01:0898 0:0 0A x x x 0 0 1"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn addresses_meet_where_one_is_any_or_both_are_the_same() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(in_the_way(address("192.0.2.1"), None));
        assert!(in_the_way(address("::"), Some(address("192.0.2.1"))));
        assert!(in_the_way(address("192.0.2.1"), Some(address("0.0.0.0"))));
        assert!(in_the_way(address("::ffff:192.0.2.1"), Some(address("192.0.2.1"))));
        assert!(!in_the_way(address("192.0.2.1"), Some(address("192.0.2.2"))));
    }

    #[test]
    fn whoever_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let words = taken(&[port], None).unwrap().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let own = format!("(pid {}, uid {uid})", std::process::id());
        assert!(words.starts_with(&format!("port {port}/tcp is taken by ")) && words.ends_with(&own), "{words}");
        assert!(taken(&[port], Some(Ipv4Addr::new(127, 0, 0, 2).into())).unwrap().is_none());
        drop(listener);
        assert_eq!(taken(&[port], None).unwrap(), None);
        assert_eq!(taken(&[], None).unwrap(), None);
    }
}

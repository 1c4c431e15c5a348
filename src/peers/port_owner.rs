//! Who listens at a port that we could not bind, as far as /proc shows (proc(5): `/proc/net/tcp`, `/proc/PID/fd`).

use std::fs;
use std::net::SocketAddr;

/// For example `, where zeek (pid 4711) listens`; empty if unknown.
pub(super) fn describe(address: SocketAddr) -> String {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listeners(&table, address.port()))
        .collect();
    if sockets.is_empty() {
        return String::new();
    }
    match process_with(&sockets) {
        Some((pid, name)) => format!(", where {name} (pid {pid}) listens"),
        None => ", where another process listens (as root, this would name it)".to_owned(),
    }
}

/// The link targets that a port's listening sockets have among a process's descriptors.
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn process_with(sockets: &[String]) -> Option<(u32, String)> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Other users' descriptors are not visible to us.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let text = describe(address);
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }

    #[test]
    fn only_listeners_at_the_port_count() {
        let table = "  sl  local_address rem_address   st tx rx tr tm uid timeout inode\n\
                       0: 0100007F:0867 00000000:0000 0A 0 0 0 0 0 4242 1 0 100 0 0 10 0\n\
                       1: 0100007F:0867 0100007F:9999 01 0 0 0 0 0 4243 1 0 100 0 0 10 0\n";
        assert_eq!(listeners(table, 2151).len(), 1);
        assert_eq!(listeners(table, 2150).len(), 0);
        assert_eq!(listeners("garbage\n: x", 2151).len(), 0);
    }
}

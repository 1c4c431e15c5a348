use std::net::{IpAddr, SocketAddr};

use zeek_cluster_agent::identify::diag::{self, Reply, Socket};

/// Any bytes are an answer or an error, and what lies behind a message changes nothing; and a socket's answer, as the kernel
/// builds it around the ends that it was asked for, names these ends.
pub fn holds(data: &[u8]) {
    let read = diag::reply(data, 1);
    if let Ok(reply) = &read {
        let mut longer = data.to_vec();
        longer.extend([0xff; 3]);
        assert_eq!(diag::reply(&longer, 1).as_ref(), Ok(reply));
        if let Reply::Found(socket) = reply {
            assert_eq!(socket.local, diag::canonical(socket.local));
            assert_eq!(socket.remote, diag::canonical(socket.remote));
        }
    }
    echoes(data);
}

fn echoes(data: &[u8]) {
    let Some((facts, _)) = data.split_first_chunk::<46>() else { return };
    let word = |at: usize| u32::from_ne_bytes([facts[at], facts[at + 1], facts[at + 2], facts[at + 3]]);
    let port = |at: usize| u16::from_be_bytes([facts[at], facts[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let bytes: [u8; 16] = facts[at..at + 16].try_into().unwrap();
        let [a, b, c, d, ..] = bytes;
        if facts[45] & 1 == 0 { [a, b, c, d].into() } else { bytes.into() }
    };
    let (local, remote) = (SocketAddr::new(address(0), port(32)), SocketAddr::new(address(16), port(34)));
    let (uid, inode, state) = (word(36), word(40), facts[44]);
    let number = 7;
    let Some(question) = diag::question(local, remote, number) else { return };
    // The header with another length; family and state; the ends as they were asked for; a timer and two queues; and who.
    let mut answer = question[..16].to_vec();
    answer[..4].copy_from_slice(&88_u32.to_ne_bytes());
    answer.extend([question[16], state, 0, 0]);
    answer.extend(&question[24..72]);
    answer.extend([0; 12]);
    answer.extend(uid.to_ne_bytes());
    answer.extend(inode.to_ne_bytes());
    let (local, remote) = (diag::canonical(local), diag::canonical(remote));
    let socket = Socket { local, remote, state, uid, inode, cgroup: None };
    assert_eq!(diag::reply(&answer, number), Ok(Reply::Found(socket)));
    // With an attribute behind it: the number of its cgroup.
    let cgroup = u64::from(uid) << 32 | u64::from(inode);
    answer[..4].copy_from_slice(&100_u32.to_ne_bytes());
    answer.extend([12_u16.to_ne_bytes(), 21_u16.to_ne_bytes()].concat());
    answer.extend(cgroup.to_ne_bytes());
    assert_eq!(diag::reply(&answer, number), Ok(Reply::Found(Socket { cgroup: Some(cgroup), ..socket })));
    assert!(diag::reply(&answer, number + 1).is_err());
}

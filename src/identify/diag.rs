//! Encoding of a query to the kernel about one TCP socket, and decoding of its answer (sock_diag(7)).
//!
//! The query is exact: it names both ends of a connection, and the kernel looks for the socket whose local end is the
//! first of them. It falls back to a socket that *listens* at that end, and it finds sockets that no process has open
//! any more, so an answer means something only together with its state and its ends: see [`super::owner`].
//!
//! Pure. An answer is untrusted like any other input: whatever the bytes, the worst is a [`DecodeError`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `struct nlmsghdr`: length, type, flags, number, port.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and the socket's [`ID`].
const REQUEST_BODY: usize = 56;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `struct inet_diag_msg`: four bytes, the socket's [`ID`], and five words.
const REPLY_BODY: usize = 72;

/// The bytes of a query.
pub const QUESTION: usize = HEADER + REQUEST_BODY;

/// `struct nlattr`: length and type.
const ATTRIBUTE: usize = 4;
const INET_DIAG_CGROUP_ID: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// The loopback interface has this number in every network namespace. Sockets not bound to an interface are found under
/// any number, bound ones only under that of their interface.
const LOOPBACK: u32 = 1;
const ENOENT: i32 = 2;

/// A state in which both ends can still send.
pub const ESTABLISHED: u8 = 1;

/// What the kernel knows of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The socket's own end. An IPv4-mapped IPv6 address is shown as IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// As the kernel counts them; [`ESTABLISHED`] is 1.
    pub state: u8,
    /// The user who created it; 0 also if no process has it open.
    pub uid: u32,
    /// 0 if no process has it open (any more, or yet).
    pub inode: u32,
    /// The number of the cgroup (v2) that it was created in, if the kernel says so.
    pub cgroup: Option<u64>,
}

/// What the kernel answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// There is such a socket, or a listener at its port: the state shows which.
    Found(Socket),
    /// There is no such socket, and no listener either.
    Nothing,
    /// The kernel will not say, for this reason (errno).
    Failed(i32),
}

/// The bytes are not an answer, or not to this query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends before its header does. Holds its length.
    #[error("an answer of {0} bytes, which is too short")]
    Short(usize),
    /// Its header gives a length other than its own.
    #[error("an answer that claims {claimed} of {length} bytes")]
    Length {
        /// The length in the header.
        claimed: u32,
        /// The actual number of bytes.
        length: usize,
    },
    /// It carries another query's number.
    #[error("an answer to question {0}")]
    Number(u32),
    /// It is neither a socket nor an error.
    #[error("a message of type {0}")]
    Type(u16),
    /// The socket is neither IPv4 nor IPv6.
    #[error("a socket of address family {0}")]
    Family(u8),
}

/// The query for the socket whose own end is `local`. Ends of different families cannot be of one connection.
pub fn question(local: SocketAddr, remote: SocketAddr, number: u32) -> Option<[u8; QUESTION]> {
    let interface = [local, remote].iter().find_map(scope).unwrap_or(LOOPBACK);
    let (local, remote) = (canonical(local), canonical(remote));
    let family = match (local, remote) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => AF_INET6,
        (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => return None,
    };
    let mut bytes = [0; QUESTION];
    let mut rest = bytes.as_mut_slice();
    let mut put = |part: &[u8]| {
        let (here, after) = std::mem::take(&mut rest).split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    };
    put(&(QUESTION as u32).to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&number.to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    put(&[family, IPPROTO_TCP, 0, 0]);
    // Any state: the kernel ignores this in an exact query, and the answer contains the state.
    put(&u32::MAX.to_ne_bytes());
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    put(&words(local.ip()));
    put(&words(remote.ip()));
    put(&interface.to_ne_bytes());
    // No cookie: it is not known which socket this is.
    put(&[0xff; 8]);
    Some(bytes)
}

/// Decodes the answer to query `number`.
pub fn reply(bytes: &[u8], number: u32) -> Result<Reply, DecodeError> {
    let short = || DecodeError::Short(bytes.len());
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
    let claimed = word(header, 0).ok_or_else(short)?;
    let body = usize::try_from(claimed)
        .ok()
        .and_then(|claimed| body.get(..claimed.checked_sub(HEADER)?))
        .ok_or(DecodeError::Length { claimed, length: bytes.len() })?;
    let kind = header.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)?;
    let answers = word(header, 8).ok_or_else(short)?;
    if answers != number {
        return Err(DecodeError::Number(answers));
    }
    match kind {
        NLMSG_ERROR => {
            let code = word(body, 0).ok_or_else(short)?.cast_signed();
            // An errno, negated; 0 would be an acknowledgement that was not asked for.
            Ok(if code == -ENOENT { Reply::Nothing } else { Reply::Failed(code.saturating_neg()) })
        }
        SOCK_DIAG_BY_FAMILY => {
            let (socket_body, attributes) = body.split_at_checked(REPLY_BODY).ok_or_else(short)?;
            socket(socket_body, cgroup(attributes)).map(Reply::Found)
        }
        other => Err(DecodeError::Type(other)),
    }
}

/// The attribute with the number of the socket's cgroup, among those behind the socket. What is no attribute ends the
/// search: nothing else depends on it.
fn cgroup(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..ATTRIBUTE)?.try_into().ok()?);
        let value = attributes.get(ATTRIBUTE..length)?;
        if kind == INET_DIAG_CGROUP_ID {
            return value.try_into().ok().map(u64::from_ne_bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn socket(body: &[u8], cgroup: Option<u64>) -> Result<Socket, DecodeError> {
    let short = || DecodeError::Short(HEADER + body.len());
    let (&family, &state) = (body.first().ok_or_else(short)?, body.get(1).ok_or_else(short)?);
    let id = body.get(4..4 + ID).ok_or_else(short)?;
    let port = |at: usize| id.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let address = |at: usize| -> Option<[u8; 16]> { id.get(at..at + 16)?.try_into().ok() };
    let end = |port_at, address_at| -> Option<(u16, [u8; 16])> { Some((port(port_at)?, address(address_at)?)) };
    let local = end(0, 4).ok_or_else(short)?;
    let remote = end(2, 20).ok_or_else(short)?;
    let end = |(port, address): (u16, [u8; 16])| match family {
        AF_INET => {
            let [a, b, c, d, ..] = address;
            Ok(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
        }
        AF_INET6 => Ok(canonical(SocketAddr::new(Ipv6Addr::from(address).into(), port))),
        other => Err(DecodeError::Family(other)),
    };
    let (uid, inode) = (word(body, 64).ok_or_else(short)?, word(body, 68).ok_or_else(short)?);
    Ok(Socket { local: end(local)?, remote: end(remote)?, state, uid, inode, cgroup })
}

/// An address without its scope, and with an IPv4-mapped IPv6 address as IPv4.
pub fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// The interface of a link-local address; a socket with one is bound to it.
fn scope(end: &SocketAddr) -> Option<u32> {
    match end {
        SocketAddr::V4(_) => None,
        SocketAddr::V6(end) => Some(end.scope_id()).filter(|scope| *scope != 0),
    }
}

/// Four words in network order; an IPv4 address uses the first.
fn words(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_question_has_the_kernels_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let asked = question(end("127.0.0.1:40000"), end("127.0.0.1:2151"), 7).unwrap();
        assert_eq!(
            hex(&asked),
            "48000000140001000700000000000000\
             02060000ffffffff\
             9c4008677f0000010000000000000000000000007f00000100000000000000000000000001000000ffffffffffffffff"
        );
        let asked = question(end("[::1]:1"), end("[::1]:2"), 7).unwrap();
        assert_eq!(hex(&asked[16..18]), "0a06");
        assert_eq!(hex(&asked[28..44]), "00000000000000000000000000000001");
    }

    /// Answers of Linux 6.18, in hexadecimal. Of the attributes after the socket only the cgroup matters.
    #[cfg(target_endian = "little")]
    fn answered(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[cfg(target_endian = "little")]
    const CLIENT: &str = "7c00000014000000070000003e530000\
        02010000 9c400867 7f000001000000000000000000000000 7f000001000000000000000000000000 000000000100000000000000\
        00000000 00000000 00000000 00000000 74080400\
        050008000000000008000f00000000000c00150001000000000000000600160052000000";

    #[cfg(target_endian = "little")]
    #[test]
    fn answers_of_a_kernel_are_read() {
        let socket = |local: &str, remote: &str, state, inode| {
            Ok(Reply::Found(Socket { local: end(local), remote: end(remote), state, uid: 0, inode, cgroup: Some(1) }))
        };
        let client = answered(CLIENT);
        assert_eq!(reply(&client, 7), socket("127.0.0.1:40000", "127.0.0.1:2151", ESTABLISHED, 264_308));
        // The query names no connection: the listener at the port answers.
        let listener = answered(
            "7c00000014000000070000003e530000\
             020a0000 08670000 7f000001000000000000000000000000 00000000000000000000000000000000 000000000200000000000000\
             00000000 00000000 80000000 00000000 73080400\
             050008000000000008000f00000000000c00150001000000000000000600160052000000",
        );
        assert_eq!(reply(&listener, 7), socket("127.0.0.1:2151", "0.0.0.0:0", 10, 264_307));
        // An IPv6 socket that is connected to an IPv4 address, queried as IPv4.
        let mapped = answered(
            "7c00000014000000070000003e530000\
             0a010000 bf2e9659 00000000000000000000ffff7f000001 00000000000000000000ffff7f000001 000000000300000000000000\
             00000000 00000000 00000000 00000000 7a080400\
             050008000000000008000f00000000000c00150001000000000000000600160012000000",
        );
        assert_eq!(reply(&mapped, 7), socket("127.0.0.1:48942", "127.0.0.1:38489", ESTABLISHED, 264_314));
        let nothing = answered("5c00000002000000070000003e530000 feffffff 48000000140001000700000000000000");
        let nothing = [nothing, vec![0; 56]].concat();
        assert_eq!(reply(&nothing, 7), Ok(Reply::Nothing));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let client = answered(CLIENT);
        for length in 0..HEADER + REPLY_BODY {
            let mut cut = client[..length].to_vec();
            assert!(reply(&cut, 7).is_err(), "{length}");
            if length >= HEADER {
                cut[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                assert!(reply(&cut, 7).is_err(), "{length}, and says so");
            }
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = client.clone();
            bytes[at] = byte;
            reply(&bytes, 7)
        };
        assert_eq!(reply(&client, 8), Err(DecodeError::Number(7)));
        assert_eq!(with(0, 0xff), Err(DecodeError::Length { claimed: 255, length: 124 }));
        assert_eq!(with(0, 3), Err(DecodeError::Length { claimed: 3, length: 124 }));
        assert_eq!(with(4, 3), Err(DecodeError::Type(3)));
        assert_eq!(with(16, 1), Err(DecodeError::Family(1)));
        // An error number that is not an error, and one that cannot be negated.
        let error = |code: i32| {
            let mut bytes = client.clone();
            bytes[4] = 2;
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            reply(&bytes, 7)
        };
        assert_eq!(error(0), Ok(Reply::Failed(0)));
        assert_eq!(error(-1), Ok(Reply::Failed(1)));
        assert_eq!(error(i32::MIN), Ok(Reply::Failed(i32::MAX)));
    }

    #[test]
    fn the_cgroup_is_found_among_other_attributes() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let number = attribute(21, &7_u64.to_ne_bytes());
        assert_eq!(cgroup(&[attribute(8, &[1]), attribute(15, &[0; 4]), number.clone()].concat()), Some(7));
        assert_eq!(cgroup(&number), Some(7));
        for other in [vec![], attribute(8, &[1]), attribute(21, &[0; 4]), vec![0; 12], vec![3, 0, 21, 0], vec![0xff; 9]]
        {
            assert_eq!(cgroup(&other), None, "{other:?}");
        }
    }

    #[test]
    fn ends_of_two_families_are_no_connection() {
        assert_eq!(question(end("127.0.0.1:1"), end("[::1]:2"), 1), None);
        assert!(question(end("127.0.0.1:1"), end("[::ffff:127.0.0.1]:2"), 1).is_some());
    }
}

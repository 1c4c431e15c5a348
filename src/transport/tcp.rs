//! TCP sockets of the transports: listening, and closing without losing the last message.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// Bytes per read when draining.
const DRAIN_BUFFER: usize = 8 << 10;

/// Listens at the first of these addresses that can be bound.
pub fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addresses)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The addresses, for an error that none of them could be bound.
pub fn one_of(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" or ")
}

/// Disables Nagle's algorithm: responses are small and somebody waits for each.
pub fn set_nodelay(stream: &TcpStream, connection: u64) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(connection, %error, "TCP_NODELAY cannot be set");
    }
}

/// Reads and drops what the peer still sends, until it closes; the caller sets the deadline. Used after the last
/// message: unread data would make the kernel reset the connection, and the peer might never see that message.
pub async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut dropped = vec![0; DRAIN_BUFFER];
    while stream.read(&mut dropped).await.is_ok_and(|count| count > 0) {}
}

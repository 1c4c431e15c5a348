//! The doorbell: a request for metrics, upon which Zeek calls the hook in which our script looks for questions.
//!
//! The metrics themselves are read and dropped. A 200 proves nothing: with a busy main loop Zeek answers after 5 s, from
//! what it knew before.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a port of this host may take to accept.
const CONNECT: Duration = Duration::from_secs(1);
/// Longer bodies are cut off: by then the node has been rung at.
const BODY_LIMIT: usize = 64 << 20;

/// How ringing went so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bell {
    /// Nobody accepted the connection.
    Dead,
    /// The connection was accepted, and not a byte came.
    Silent,
    /// The node's metrics server answered.
    Answered,
}

/// Rings once; `heard` is kept up to date in case the caller gives up waiting.
pub async fn ring(at: SocketAddr, heard: &mut Bell) {
    let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(at)).await else { return };
    *heard = Bell::Silent;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return;
    }
    let mut buffer = [0_u8; 16 << 10];
    let mut total = 0_usize;
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 || total > BODY_LIMIT {
            return;
        }
        *heard = Bell::Answered;
        total += count;
    }
}

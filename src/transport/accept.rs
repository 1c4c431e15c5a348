//! The loop that accepts connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::telemetry::LogThrottle;

/// The shortest interval between log lines about connections that are turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);
/// The pause after accepting failed.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub trait Listener {
    type Connection;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Connection = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// What became of a connection that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    Served,
    /// It ended, or could not be identified, before it was served.
    Lost,
    /// The limit of open connections is reached.
    TurnedAway {
        address: Option<SocketAddr>,
    },
}

/// Accepts connections until `stop` and hands each to `serve`, which must not wait. `kind` names one of them in the
/// log, and `limit` is the most that `serve` admits.
pub async fn accept<L: Listener>(
    listener: L,
    kind: &'static str,
    limit: usize,
    stop: &CancellationToken,
    mut serve: impl FnMut(L::Connection) -> Accepted,
) {
    let mut turned_away = LogThrottle::new(TURNED_AWAY_EVERY);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            () = turned_away.due() => {
                log_count(kind, limit, &mut turned_away);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted.map(&mut serve) {
            Ok(Accepted::Served | Accepted::Lost) => {}
            Ok(Accepted::TurnedAway { address }) => {
                if turned_away.should_log(Instant::now()) {
                    let address = address.map(tracing::field::display);
                    tracing::warn!(address, "{kind} turned away: {limit} are open, which is the most");
                }
            }
            Err(error) => {
                // Out of descriptors or memory. The connection stays pending, so pause instead of spinning.
                tracing::error!(%error, "cannot accept a {kind}; trying again in {} ms", RETRY_AFTER.as_millis());
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        }
    }
    log_count(kind, limit, &mut turned_away);
}

fn log_count(kind: &str, limit: usize, turned_away: &mut LogThrottle) {
    if let Some(more) = turned_away.take_suppressed(Instant::now()) {
        tracing::warn!("{more} more {kind}s were turned away: the most that may be open is {limit}");
    }
}

/// Sends a short answer to a connection that is not served. A new socket's buffer takes it at once; a peer that is
/// already gone misses nothing. Bypasses the runtime, which would first wait for the kernel to report the socket as
/// writable.
pub fn send_at_once(socket: impl AsFd, answer: &[u8]) {
    let _ = rustix::net::send(socket, answer, SendFlags::NOSIGNAL);
}

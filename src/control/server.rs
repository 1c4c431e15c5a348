//! The agent's side of the control socket.
//!
//! Each connection is one task that reads and one that writes, with a bounded queue between them. A peer's mistake
//! costs its own connection: it gets an error frame if one can be sent, and is cut. A peer that does not read is cut
//! when its queue is full, so the agent, which sends through [`Handle`], never waits for a connection.
//!
//! Memory is bounded: by the number of connections, by each queue's bytes, and by one budget for large frames that are
//! being received by all connections together.
//!
//! The [`ControlAgent`] decides what the frames lead to.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::ControlAgent;
use super::connection::Connection;
use super::connections::{Connections, Handle, Timeouts, encode};
use super::message::{ErrorCode, ServerFrame, Welcome};
use super::socket::{BindError, SocketFile};
use crate::identify::Gate;
use crate::transport::accept::{Accepted, accept, send_at_once};

/// More than the people and tools of one host need; each costs two tasks.
const CONNECTIONS_LIMIT: usize = 256;
/// Bytes of large frames that all connections together may be receiving, in KiB. A frame waits for its share.
const RECEIVE_KIB: usize = 32 * 1024;

/// Where to listen, and who may connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// The socket's path.
    pub path: PathBuf,
    /// The group that may connect in addition to the owner.
    pub group: Option<u32>,
    /// How long a peer may take for each step.
    pub timeouts: Timeouts,
}

/// A bound control socket; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
    connections: Arc<Connections>,
}

impl Server {
    /// Binds the socket in the file system, replacing a stale one. `ids` numbers connections over all transports.
    pub fn bind(
        options: &Options,
        ids: Arc<AtomicU64>,
        welcome: Welcome,
        gate: Gate,
    ) -> Result<(Self, Handle), BindError> {
        let (listener, file) = SocketFile::bind(&options.path, options.group)?;
        let receiving = Semaphore::new(RECEIVE_KIB);
        let connections = Arc::new(Connections::new(ids, receiving, options.timeouts, welcome, gate));
        Ok((Self { listener, file, connections: Arc::clone(&connections) }, Handle { connections }))
    }

    /// Serves until `stop`; then accepts no more, sends peers what is queued for them, and returns when the last is
    /// gone.
    pub async fn run<A: ControlAgent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, file, connections } = self;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let tracker = TaskTracker::new();
        accept(listener, "control connection", CONNECTIONS_LIMIT, &stop, |stream| {
            if connections.entries().len() >= CONNECTIONS_LIMIT {
                let message =
                    format!("{CONNECTIONS_LIMIT} control connections are open, which is the most; try again later");
                if let Some(frame) = encode(&ServerFrame::Error { call: None, code: ErrorCode::Busy, message }) {
                    send_at_once(&stream, &frame);
                }
                return Accepted::TurnedAway { address: None };
            }
            match Connection::register(&connections, &agent, stream, &stop) {
                Some(connection) => {
                    tracker.spawn(connection.serve());
                    Accepted::Served
                }
                None => Accepted::Lost,
            }
        })
        .await;
        drop(file);
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

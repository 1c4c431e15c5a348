//! The agent's end of the connection to one shim.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::launch::RunDir;
use super::protocol::{self, Decoder, FrameError, ToAgent, ToShim};

/// A shim that has owed an answer for this long is silent. It is never killed for that.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);
/// The most bytes queued for a shim that does not read. Orders are coalesced, so a longer queue means a broken shim.
const BACKLOG_LIMIT: usize = 64 << 10;

#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    decoder: Decoder,
    backlog: Vec<u8>,
    /// How long an answer has been owed. A new link owes its `Hello`.
    owed_since: Option<Instant>,
    is_silent: bool,
}

/// What the other end did.
#[derive(Debug)]
pub enum Heard {
    Message(ToAgent),
    /// The connection is closed; with the error, if it was not a plain close.
    Closed(Option<io::Error>),
    /// It has owed an answer for [`SILENT_AFTER`]; reported once.
    Silent,
}

impl Link {
    /// Connects to the shim that listens in `directory`. Succeeds as long as the shim exists, even if it is stopped.
    pub async fn connect(directory: &RunDir) -> io::Result<Self> {
        let stream = UnixStream::connect(directory.socket()).await?;
        let owed_since = Some(Instant::now());
        Ok(Self { stream, decoder: Decoder::default(), backlog: Vec::new(), owed_since, is_silent: false })
    }

    /// Sends a message that the shim must answer. [`hear`](Self::hear) reports a broken connection.
    pub fn ask(&mut self, message: &ToShim) {
        if self.backlog.len() < BACKLOG_LIMIT {
            self.backlog.extend_from_slice(&protocol::encode(message));
        }
        self.owed_since.get_or_insert_with(Instant::now);
        let _ = self.flush();
    }

    /// Whether the shim owes no answer.
    pub fn is_quiet(&self) -> bool {
        self.owed_since.is_none()
    }

    /// Clears the owed answer; returns whether the shim had been reported silent.
    pub fn settle(&mut self) -> bool {
        self.owed_since = None;
        std::mem::take(&mut self.is_silent)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.try_write(&self.backlog) {
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message of the shim, or its failure to answer. Safe to drop and call again.
    pub async fn hear(&mut self) -> Heard {
        loop {
            match self.decoder.next(protocol::TO_AGENT_LIMIT) {
                Ok(Some(message)) => return Heard::Message(message),
                Ok(None) => {}
                Err(FrameError::Unknown(error)) => {
                    tracing::debug!(%error, "skipped a message of a shim");
                    continue;
                }
                Err(error @ FrameError::TooLong { .. }) => return Heard::Closed(Some(error.into())),
            }
            let interest =
                if self.backlog.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let silent_at = self.owed_since.filter(|_| !self.is_silent).map(|since| since + SILENT_AFTER);
            let ready = tokio::select! {
                ready = self.stream.ready(interest) => ready,
                () = sleep_until(silent_at) => {
                    self.is_silent = true;
                    return Heard::Silent;
                }
            };
            if let Err(error) = ready.and_then(|_| self.flush()) {
                // A reset: earlier messages may still be there to read, and matter more.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    return Heard::Closed(Some(error));
                }
                self.backlog.clear();
            }
            let mut buffer = [0; 4096];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Heard::Closed(None),
                Ok(count) => self.decoder.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Heard::Closed(Some(error)),
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

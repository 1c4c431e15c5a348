//! The signals that end the agent, and the one that does not.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// Installed at the very start.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self, Error> {
        let signal = |kind| signal(kind).map_err(|source| Error::System { what: "listening for signals", source });
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves when a signal asks the agent to end; returns the signal's name.
    pub async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => tracing::info!("SIGHUP is ignored: settings are read at start"),
            }
        }
    }
}

//! Keeps Broker closed while the state directory is a copy, until `state adopt` makes it independent: Broker peers know
//! an agent by its name, and a copy has the original's name.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whether Broker's listener and dialler may run.
#[derive(Debug, Clone)]
pub(super) struct BrokerOpen(watch::Receiver<bool>);

/// The sending end, for the code that adopts the directory.
#[derive(Debug)]
pub(super) struct OpensBroker(watch::Sender<bool>);

impl BrokerOpen {
    pub fn new(is_open: bool) -> (OpensBroker, Self) {
        let (opens, open) = watch::channel(is_open);
        (OpensBroker(opens), Self(open))
    }

    /// Waits until they may run. `false`: they never will, since the agent is shutting down.
    pub async fn until_open(&self, stop: &CancellationToken) -> bool {
        let mut open = self.0.clone();
        tokio::select! {
            () = stop.cancelled() => false,
            opened = open.wait_for(|is_open| *is_open) => opened.is_ok(),
        }
    }
}

impl OpensBroker {
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

//! What a state directory that is a copy of another keeps closed until it is one of its own (`state adopt`): over Broker, peers
//! know an agent by its name, and the name of this one is the original's.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whether Broker's listener and dialler may work.
#[derive(Debug, Clone)]
pub(super) struct BrokerOpen(watch::Receiver<bool>);

/// The other end: whoever adopts the directory.
#[derive(Debug)]
pub(super) struct OpensBroker(watch::Sender<bool>);

impl BrokerOpen {
    pub fn new(is_open: bool) -> (OpensBroker, Self) {
        let (opens, open) = watch::channel(is_open);
        (OpensBroker(opens), Self(open))
    }

    /// Waits until they may. `false`: they never may, since the agent ends.
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

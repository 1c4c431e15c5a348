//! Dials the controller: repeatedly, with growing pauses, and without filling the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::agent::PeersAgent;
use super::connection::Connection;
use super::ending::Ending;
use super::session;
use super::state::{PeersState, locked};
use crate::api::report::ControllerReport;
use crate::broker::handshake::Stage;
use crate::broker::wire::EndpointId;
use crate::hub::Direction;

/// Broker itself tries each second.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Dialler<A> {
    host: String,
    port: u16,
    state: Arc<PeersState>,
    agent: Arc<A>,
    failures: u32,
}

impl<A: PeersAgent> Dialler<A> {
    pub fn new(host: String, port: u16, state: Arc<PeersState>, agent: Arc<A>) -> Self {
        let dialler = Self { host, port, state, agent, failures: 0 };
        dialler.report("connecting", None);
        dialler
    }

    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn report(&self, state: &str, problem: Option<String>) {
        let report = ControllerReport { address: self.address(), state: state.to_owned(), problem };
        *locked(&self.state.controller) = Some(report);
    }

    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ending = tokio::select! {
                () = stop.cancelled() => return,
                ending = self.attempt(&stop) => ending,
            };
            match ending {
                Ok(Ending::Stopped) => return,
                Ok(Ending::Peering(reason)) => {
                    self.failures = 0;
                    tracing::warn!(
                        "the peering with the controller at {} ended: {reason}; dialling again",
                        self.address()
                    );
                    self.report("connecting", Some(reason));
                }
                Ok(Ending::Redundant(remote)) => {
                    self.failures = 0;
                    self.report("connected", None);
                    tracing::info!("the controller at {} is a peer already, as {remote}", self.address());
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.gone(remote) => {}
                    }
                    self.report("connecting", None);
                }
                Ok(Ending::Handshake { reason, malformed: _ } | Ending::Refused(reason)) | Err(reason) => {
                    self.failed(reason)
                }
            }
            let pause = pause(self.failures, uuid::Uuid::new_v4().as_u64_pair().1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Logs a failure once, and again when the reason changes.
    fn failed(&mut self, reason: String) {
        let known = locked(&self.state.controller).as_ref().and_then(|report| report.problem.clone());
        let address = self.address();
        if self.failures == 0 || known.as_ref() != Some(&reason) {
            let most = PAUSE_MAX.as_secs();
            tracing::warn!(
                "no peering with the controller at {address}: {reason}; trying again, at least every {most} s"
            );
        } else {
            tracing::debug!("no peering with the controller at {address}: {reason}");
        }
        self.failures = self.failures.saturating_add(1);
        self.report("connecting", Some(reason));
    }

    /// One connection, from beginning to end.
    async fn attempt(&self, stop: &CancellationToken) -> Result<Ending, String> {
        let (tcp, address) = self.connect().await?;
        let connection = Connection::register(&self.state, &self.agent, &tcp, Direction::Dialled, address);
        let Ok(connection) = connection else { return Err("the connection was lost at once".to_owned()) };
        let connected = |remote: EndpointId| {
            self.report("connected", None);
            tracing::info!("peering with the controller at {}, which is {remote}", self.address());
        };
        Ok(session::run(connection, tcp, stop.clone(), connected).await)
    }

    async fn connect(&self) -> Result<(TcpStream, SocketAddr), String> {
        let limit = self.state.timeouts.connect;
        let found = timeout(limit, lookup_host((self.host.as_str(), self.port))).await;
        let found = found.map_err(|_| format!("{} was not resolved within {limit:?}", self.host))?;
        let found = found.map_err(|error| format!("{} cannot be resolved: {error}", self.host))?;
        let mut problem = format!("{} has no address", self.host);
        for address in found {
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok((tcp, address)),
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("no connection within {limit:?}"),
            }
        }
        Err(problem)
    }

    /// Resolves when there is no longer a peering with this endpoint.
    async fn gone(&self, remote: EndpointId) {
        let mut settled = self.state.settled.subscribe();
        loop {
            let there = locked(&self.state.registry).get(remote);
            if !matches!(there, Some((_, Stage::Peered | Stage::Connecting))) || settled.changed().await.is_err() {
                return;
            }
        }
    }
}

/// How long to wait after this many failures in a row: doubling, minus up to a quarter at random, so that the agents of
/// a cluster do not all return at once to a controller that was away.
fn pause(failures: u32, dice: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX);
    full.mul_f64(1.0 - (dice % 1000) as f64 / 4000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_one_second_to_thirty_and_are_spread() {
        let seconds: Vec<u64> = (0..8).map(|failures| pause(failures, 0).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(u32::MAX, 0), PAUSE_MAX);
        let spread = (0..1000).map(|dice| pause(6, dice));
        assert!(spread.clone().all(|pause| (22..=30).contains(&pause.as_secs())));
        assert!(spread.min().unwrap() < Duration::from_secs(23));
    }
}

//! A client of an agent, over any transport, and how it is kept busy.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use zeek_cluster_agent::api::event::{Dialect, Response};
use zeek_cluster_agent::broker::data::Data;
use zeek_cluster_agent::dialect::event::unpack;
use zeek_cluster_agent::dialect::{self, Decoded};

pub const DIALECT: Dialect = Dialect::Management;
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One client's connection, with several requests in flight.
pub trait Caller: Send {
    fn send(&mut self, reqid: String) -> Result<()>;
    /// Waits for the response to the oldest request in flight, which has to be a success.
    fn receive(&mut self) -> Result<()>;
    /// All messages that came so far, also those that others had asked for.
    fn received(&self) -> usize;
}

/// Keeps `window` requests in flight for a while, then waits for the last; how long each took.
pub fn flood(
    caller: &mut dyn Caller,
    mut reqid: impl FnMut() -> String,
    window: usize,
    lasting: Duration,
) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut flying = VecDeque::new();
    let mut took = Vec::new();
    loop {
        while flying.len() < window && begun.elapsed() < lasting {
            flying.push_back(Instant::now());
            caller.send(reqid())?;
        }
        let Some(sent) = flying.pop_front() else { return Ok(took) };
        caller.receive()?;
        took.push(sent.elapsed());
    }
}

pub fn response(data: Data) -> Result<Response> {
    let event = unpack(data).events.into_iter().next().context("no event")?;
    let event = event.map_err(|error| anyhow::anyhow!("an event cannot be read: {error:?}"))?;
    match dialect::decode(&event) {
        Ok(Decoded::Response { response, .. }) => Ok(response),
        other => bail!("no response: {other:?}"),
    }
}

pub fn succeeded(response: &Response) -> Result<()> {
    ensure!(response.success(), "a welcome request failed: {response:?}");
    Ok(())
}

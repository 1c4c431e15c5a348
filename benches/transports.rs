//! `cargo bench --bench transports`: what a request costs over native Broker and over WebSocket, beside the control socket.
//!
//! The same welcome requests to the same agent, the real binary, in the same rounds. Each client is a thread with a
//! blocking connection, without TLS, and clients and agent share this machine's CPUs. Over Broker and WebSocket a
//! response goes to every subscriber of the agent's topic, as the protocols have it: with 64 clients, each of them reads
//! 64 times what it asked for. The control socket answers its requester alone. What came in all is printed, too.

#[allow(dead_code, reason = "shared by the benchmarks, of which each needs a part")]
mod support;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::broker::json::{self, Limits};
use zeek_cluster_agent::control::client::{Answer, Client, within_ms};
use zeek_cluster_agent::dialect;
use zeek_cluster_agent::websocket::PATH;

use crate::support::agent::{self, Agent, NAME};
use crate::support::caller::{self, Caller, DIALECT, PATIENCE, response, succeeded};
use crate::support::figures::{Sample, median};
use crate::support::over_broker::OverBroker;

/// Rounds of everything; results are medians.
const ROUNDS: usize = 5;
/// How long each measurement of a round takes.
const SLICE: Duration = Duration::from_millis(800);
/// Clients, and what each has in flight. The last is one transport's own cost without its subscribers'.
const SHAPES: [(usize, usize); 3] = [(1, 1), (64, 1), (1, 64)];

fn main() -> ExitCode {
    support::main("transports", || support::in_scratch(run))
}

fn run(dir: &Path) -> Result<()> {
    let mut command = agent::command(dir, agent::BINARY);
    command.env("ZCA_WEBSOCKET", "127.0.0.1:0").env("ZCA_LISTEN", "127.0.0.1:0").env("ZCA_DISABLE_SSL", "true");
    let agent = Agent::start_with(dir, command)?;
    let websocket = agent.address_in_log("are served at ws://")?;
    let broker = agent.address_in_log("Broker peers are accepted at ")?;
    let bench = Bench { agent: &agent, websocket, broker, reqids: AtomicU64::new(0) };

    let transports = [Transport::Control, Transport::WebSocket, Transport::Broker];
    let mut samples: Vec<Vec<(Sample, f64)>> = vec![Vec::new(); SHAPES.len() * transports.len()];
    for _ in 0..ROUNDS {
        let mut slots = samples.iter_mut();
        for (clients, window) in SHAPES {
            for transport in transports {
                let slot = slots.next().context("no place for a sample")?;
                slot.push(bench.measure(transport, clients, window)?);
            }
        }
    }
    println!(
        "\nwelcome requests, each journaled before its response (median of {ROUNDS} interleaved rounds of {SLICE:?})"
    );
    println!(
        "{:>7}  {:>14}  {:<14} {:>10} {:>9} {:>9} {:>14}",
        "clients", "in flight each", "", "requests/s", "p50 ms", "p99 ms", "messages/s in"
    );
    let mut rows = samples.iter();
    for (clients, window) in SHAPES {
        for transport in transports {
            let all = rows.next().context("a sample is missing")?;
            let pick = |part: fn(&(Sample, f64)) -> f64| median(all.iter().map(part).collect());
            println!(
                "{clients:>7}  {window:>14}  {:<14} {:>10.0} {:>9.3} {:>9.3} {:>14.0}",
                transport.name(),
                pick(|(sample, _)| sample.per_second),
                pick(|(sample, _)| sample.p50_ms),
                pick(|(sample, _)| sample.p99_ms),
                pick(|(_, messages)| *messages),
            );
        }
    }
    agent.end()
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Control,
    WebSocket,
    Broker,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control socket",
            Self::WebSocket => "WebSocket",
            Self::Broker => "Broker",
        }
    }
}

struct Bench<'a> {
    agent: &'a Agent,
    websocket: SocketAddr,
    broker: SocketAddr,
    reqids: AtomicU64,
}

impl Bench<'_> {
    /// Requests of that many clients at once, and how many messages reached them in a second.
    fn measure(&self, transport: Transport, clients: usize, window: usize) -> Result<(Sample, f64)> {
        let mut callers = Vec::new();
        for _ in 0..clients {
            let mut caller: Box<dyn Caller> = match transport {
                Transport::Control => {
                    Box::new(OverControl { client: self.agent.client()?, flying: VecDeque::new(), received: 0 })
                }
                Transport::WebSocket => Box::new(OverWebSocket::connect(self.websocket)?),
                Transport::Broker => Box::new(OverBroker::connect(self.broker, NAME)?),
            };
            // The connection is up on both sides before anything is measured.
            caller.send(self.reqid())?;
            caller.receive()?;
            callers.push(caller);
        }
        let before: usize = callers.iter().map(|caller| caller.received()).sum();
        let begun = Instant::now();
        let took = thread::scope(|scope| {
            let threads: Vec<_> = callers
                .iter_mut()
                .map(|caller| scope.spawn(|| caller::flood(caller.as_mut(), || self.reqid(), window, SLICE)))
                .collect();
            let mut took = Vec::new();
            for thread in threads {
                took.extend(thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
            }
            anyhow::Ok(took)
        })?;
        let elapsed = begun.elapsed();
        let received = callers.iter().map(|caller| caller.received()).sum::<usize>() - before;
        Ok((Sample::of(took, elapsed)?, received as f64 / elapsed.as_secs_f64()))
    }

    /// Never used before.
    fn reqid(&self) -> String {
        format!("bench-{}", self.reqids.fetch_add(1, Ordering::Relaxed))
    }
}

struct OverControl {
    client: Client,
    flying: VecDeque<u64>,
    received: usize,
}

impl Caller for OverControl {
    fn send(&mut self, reqid: String) -> Result<()> {
        self.flying.push_back(self.client.submit(&reqid, Request::AgentWelcome {}, DIALECT, None)?);
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let call = self.flying.pop_front().context("nothing is in flight")?;
        match self.client.answer(call, within_ms(30_000))? {
            Answer::Response(response) => succeeded(&response)?,
            Answer::Refused(reason) => bail!("a welcome request was refused: {reason}"),
        }
        self.received += 1;
        Ok(())
    }

    fn received(&self) -> usize {
        self.received
    }
}

struct OverWebSocket {
    socket: WebSocket<TcpStream>,
    topic: String,
    flying: VecDeque<String>,
    received: usize,
}

impl OverWebSocket {
    fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (socket, _) = client(format!("ws://{address}{PATH}"), stream)
            .map_err(|error| anyhow::anyhow!("no WebSocket connection: {error}"))?;
        let topic = dialect::agent_topic(DIALECT, "bench").context("the dialect has no topic")?;
        let mut caller = Self { socket, topic, flying: VecDeque::new(), received: 0 };
        caller.socket.send(Message::text(json::write_subscriptions(&[&caller.topic])))?;
        Ok(caller)
    }
}

impl Caller for OverWebSocket {
    fn send(&mut self, reqid: String) -> Result<()> {
        let event = dialect::request(DIALECT, &ReqId::new(&reqid)?, &Request::AgentWelcome {})?;
        self.socket.send(Message::text(json::write_data_message(&self.topic, &event.into_data())?))?;
        self.flying.push_back(format!("\"{reqid}\""));
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let wanted = self.flying.pop_front().context("nothing is in flight")?;
        loop {
            let text = match self.socket.read()? {
                Message::Text(text) => text,
                Message::Ping(_) | Message::Pong(_) => continue,
                other => bail!("the agent sent {other:?}"),
            };
            self.received += 1;
            // What others asked is not looked at any closer.
            if text.as_str().contains(&wanted) {
                match json::read_message(text.as_bytes(), &Limits::default())? {
                    json::Message::Data { data, .. } => return succeeded(&response(data)?),
                    other => bail!("the agent sent {other:?}"),
                }
            }
        }
    }

    fn received(&self) -> usize {
        self.received
    }
}

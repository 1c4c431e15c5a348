//! A simulated node's peering with its agent, over one blocking stream in its own thread: it dials, says hello, and
//! answers dispatches, as Zeek's `management/node/main.zeek` does (Zeek 8.0). When the peering ends it dials again.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;

use super::Behaviour;
use crate::api::event::{Result as ApiResult, ResultData};
use crate::api::ids::ReqId;
use crate::api::report::chain;
use crate::broker::handshake::{
    ConnectionId, DEADLINE, Established, Handshake, HandshakeError, HandshakeStep, Outcome, Registry,
};
use crate::broker::peering::{self, Due, Message, Peering, Received};
use crate::broker::wire::{EncodeError, EndpointId, FRAME_LIMIT, Filter, Frame, FrameError, FrameReader};
use crate::dialect::event::unpack;
use crate::dialect::node::{self, NodeEvent};
use crate::dialect::{self, Decoded};
use crate::tls::{self, BrokerOptions};

/// Broker's pause between two attempts.
const REDIAL: Duration = Duration::from_secs(1);
/// The only connection of each attempt.
const CONNECTION: ConnectionId = ConnectionId(1);

/// What a node needs to dial, and its behaviour after that.
pub(super) struct Peer {
    agent: SocketAddr,
    tls: Option<tls::Context>,
    node: String,
    local: EndpointId,
    began: Instant,
    hello: Option<String>,
    answers: bool,
    value_bytes: Option<usize>,
    /// The duration of each peering.
    lasts: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection was lost")]
    Io(#[from] io::Error),
    #[error("TLS")]
    Tls(#[from] tls::HandshakeError),
    #[error("the stream is not Broker's")]
    Frame(#[from] FrameError),
    #[error("the handshake failed")]
    Handshake(#[from] HandshakeError),
    #[error("there is a peering with {0} already")]
    Redundant(EndpointId),
    #[error("a message cannot be encoded")]
    Encode(#[from] EncodeError),
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
}

impl Peer {
    /// `None`: this node was not told its agent's address, or how to speak to it.
    pub fn of(node: &str, behaviour: &Behaviour) -> io::Result<Option<Self>> {
        let (Ok(address), Ok(port), Ok(mode)) =
            (env::var("ZEEK_AGENT_ADDR"), env::var("ZEEK_AGENT_PORT"), env::var(super::TLS_VARIABLE))
        else {
            return Ok(None);
        };
        if behaviour.is_set("SIM_NO_PEERING") {
            return Ok(None);
        }
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let ip = address.parse::<IpAddr>().map_err(|_| wrong(format!("ZEEK_AGENT_ADDR={address} is no IP address")))?;
        let number = port.strip_suffix("/tcp").and_then(|number| number.parse().ok());
        let port = number.ok_or_else(|| wrong(format!("ZEEK_AGENT_PORT={port} is not of the form 2151/tcp")))?;
        let options = BrokerOptions { disable_ssl: mode == super::TLS_OFF, ..BrokerOptions::default() };
        let hello = behaviour.text("SIM_HELLO_AS").unwrap_or_else(|| node.to_owned());
        Ok(Some(Self {
            agent: SocketAddr::new(ip, port),
            tls: tls::broker(&options).map_err(io::Error::other)?,
            node: node.to_owned(),
            local: EndpointId(uuid::Uuid::new_v4().into_bytes()),
            began: Instant::now(),
            hello: (!behaviour.is_set("SIM_NO_HELLO")).then_some(hello),
            answers: !behaviour.is_set("SIM_NO_ANSWER"),
            value_bytes: behaviour.number("SIM_VALUE_BYTES").and_then(|bytes| usize::try_from(bytes).ok()),
            lasts: behaviour.number("SIM_DROP_PEERING_MS").map(Duration::from_millis),
        }))
    }

    /// Dials repeatedly as long as the process lives.
    pub fn run(self) {
        let mut known = None;
        loop {
            let trouble = self.connection().err().map(|lost| chain(&lost));
            if let Some(trouble) = trouble
                && known.as_ref() != Some(&trouble)
            {
                // A failed write only loses this message.
                let _ = writeln!(
                    io::stderr(),
                    "no peering with the agent at {}: {trouble}; dialling again each second",
                    self.agent
                );
                known = Some(trouble);
            }
            thread::sleep(REDIAL);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// One connection, to its end.
    fn connection(&self) -> Result<(), Lost> {
        let tcp = TcpStream::connect_timeout(&self.agent, DEADLINE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        match &self.tls {
            None => self.speak(tcp),
            Some(context) => self.speak(context.connect_blocking(tcp)?),
        }
    }

    fn speak(&self, mut stream: impl Stream) -> Result<(), Lost> {
        let mut reader = FrameReader::default();
        let established = self.shake_hands(&mut stream, &mut reader)?;
        reader.established(FRAME_LIMIT);
        let (mut peering, update) = Peering::new(established, filter(), peering::Options::default(), self.now());
        stream.write_all(&update.unwrap_or_default())?;
        if let Some(node) = &self.hello {
            self.publish(&mut stream, &peering, &NodeEvent::Hello { node: node.clone() })?;
        }
        let ends = self.lasts.map(|lasts| self.now().saturating_add(lasts));
        loop {
            while let Some(frame) = reader.take()? {
                // An oversized frame only shows that the agent is alive.
                let Frame::Payload(payload) = frame else {
                    peering.heard(self.now());
                    continue;
                };
                match peering.handle_frame(&payload, self.now()) {
                    Received::Message(message) => self.answer(&mut stream, &peering, message)?,
                    Received::Reply { frame, bye: _ } => stream.write_all(&frame)?,
                    Received::Left => return Ok(()),
                    Received::Filter | Received::Alive | Received::Ignored(_) | Received::Skipped(_) => {}
                }
            }
            let due = ends.map_or(peering.next_timeout(), |ends| ends.min(peering.next_timeout()));
            if self.read(&mut stream, &mut reader, due)? {
                continue;
            }
            if ends.is_some_and(|ends| ends <= self.now()) {
                return Ok(());
            }
            match peering.handle_timeout(self.now()) {
                Due::Nothing => {}
                Due::Ping(ping) => stream.write_all(&ping)?,
                Due::Dead { silent } => return Err(Lost::Silent(silent)),
                Due::Left => return Ok(()),
            }
        }
    }

    fn shake_hands(&self, stream: &mut impl Stream, reader: &mut FrameReader) -> Result<Established, Lost> {
        let mut registry = Registry::default();
        let (mut handshake, hello) = Handshake::dial(CONNECTION, self.local, filter(), self.now());
        stream.write_all(&hello)?;
        loop {
            let step = match reader.take()? {
                Some(Frame::Payload(payload)) => handshake.handle_frame(&payload, &mut registry),
                // Not expected during a handshake.
                Some(Frame::Oversized { .. }) => continue,
                None if self.read(stream, reader, handshake.deadline())? => continue,
                None => handshake.handle_timeout(self.now(), &mut registry),
            };
            let HandshakeStep { send, outcome } = step;
            stream.write_all(&send)?;
            match outcome {
                Outcome::Wait => {}
                Outcome::Established(established) => return Ok(established),
                Outcome::Redundant(remote) => return Err(Lost::Redundant(remote)),
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for bytes until `due`. `false`: none came.
    fn read(&self, stream: &mut impl Stream, reader: &mut FrameReader, due: Duration) -> Result<bool, Lost> {
        let mut buffer = [0; 4096];
        let left = due.saturating_sub(self.now());
        if left.is_zero() {
            return Ok(false);
        }
        stream.tcp().set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => {
                reader.feed(buffer.get(..count).unwrap_or_default());
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(false),
                // It was stopped and has continued.
                io::ErrorKind::Interrupted => Ok(true),
                _ => Err(error.into()),
            },
        }
    }

    fn publish(&self, stream: &mut impl Stream, peering: &Peering, event: &NodeEvent) -> Result<(), Lost> {
        // Nothing is sent to an agent that is not subscribed to nodes.
        let frame = peering.publish(node::TOPIC, &node::encode(event).into_data())?;
        Ok(stream.write_all(&frame.unwrap_or_default())?)
    }

    fn answer(&self, stream: &mut impl Stream, peering: &Peering, message: Message) -> Result<(), Lost> {
        for event in unpack(message.data).events.into_iter().flatten() {
            let Ok(Decoded::Node(NodeEvent::DispatchRequest { reqid, action, nodes })) = dialect::decode(&event) else {
                continue;
            };
            if self.answers && self.is_meant(&nodes) {
                let result = self.result(reqid.clone(), &action);
                self.publish(stream, peering, &NodeEvent::DispatchResponse { reqid, result })?;
            }
        }
        Ok(())
    }

    fn is_meant(&self, nodes: &BTreeSet<String>) -> bool {
        nodes.is_empty() || nodes.contains(&self.node)
    }

    fn result(&self, reqid: ReqId, action: &[String]) -> ApiResult {
        let value = match self.value_bytes {
            Some(bytes) => Ok(format!("\"{}\"", "x".repeat(bytes.saturating_sub(2)))),
            None => value(&self.node, action),
        };
        let (data, error) = match value {
            Ok(value) => (Some(ResultData::Text(value)), None),
            Err(error) => (None, Some(error)),
        };
        ApiResult { reqid, success: error.is_none(), instance: None, data, error, node: Some(self.node.clone()) }
    }
}

fn filter() -> Filter {
    Filter::new([node::TOPIC])
}

/// The answer of a Zeek node, in its words; this node only knows its name.
fn value(node: &str, action: &[String]) -> Result<String, String> {
    match action {
        [what, id] if what == "get_id_value" => match id.as_str() {
            "Cluster::node" | "peer_description" => Ok(format!("\"{node}\"")),
            _ => Err("unknown id".to_owned()),
        },
        [what, ..] if what == "get_id_value" => Err("get_id_value expects name of global identifier".to_owned()),
        [what, ..] => Err(format!("dispatch {what} unknown")),
        [] => Err("no dispatch arguments provided".to_owned()),
    }
}

trait Stream: Read + Write {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for SslStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_zeek_would() {
        let ask = |action: &[&str]| {
            let action: Vec<String> = action.iter().map(|part| (*part).to_owned()).collect();
            value("w1", &action)
        };
        assert_eq!(ask(&["get_id_value", "Cluster::node"]), Ok("\"w1\"".to_owned()));
        assert_eq!(ask(&["get_id_value", "nothing"]), Err("unknown id".to_owned()));
        assert_eq!(ask(&["get_id_value"]), Err("get_id_value expects name of global identifier".to_owned()));
        assert_eq!(ask(&["dance", "x"]), Err("dispatch dance unknown".to_owned()));
        assert_eq!(ask(&[]), Err("no dispatch arguments provided".to_owned()));
    }
}

//! A client over native Broker, without TLS.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use zeek_cluster_agent::api::event::Request;
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::broker::binary::{self, Limits};
use zeek_cluster_agent::broker::handshake::{ConnectionId, Established, Handshake, Outcome, Registry};
use zeek_cluster_agent::broker::wire::{self, EndpointId, Envelope, Filter, Frame, FrameReader, Kind};
use zeek_cluster_agent::dialect;

use super::caller::{Caller, DIALECT, PATIENCE, response, succeeded};

const FRAME_LIMIT: usize = 8 << 20;

pub struct OverBroker {
    stream: TcpStream,
    reader: FrameReader,
    local: EndpointId,
    topic: String,
    flying: VecDeque<String>,
    received: usize,
}

impl OverBroker {
    /// To the agent of this name.
    pub fn connect(address: SocketAddr, name: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let topic = dialect::agent_topic(DIALECT, name).context("the dialect has no topic")?;
        let local = EndpointId(uuid::Uuid::new_v4().into_bytes());
        let reader = FrameReader::new(FRAME_LIMIT);
        let mut caller = Self { stream, reader, local, topic, flying: VecDeque::new(), received: 0 };
        caller.shake_hands()?;
        Ok(caller)
    }

    fn shake_hands(&mut self) -> Result<Established> {
        let filter = Filter::new([self.topic.as_str()]);
        let (mut handshake, hello) = Handshake::dial(ConnectionId(1), self.local, filter, Duration::ZERO);
        let mut registry = Registry::default();
        self.stream.write_all(&hello)?;
        loop {
            let step = handshake.handle_frame(&self.frame()?, &mut registry);
            self.stream.write_all(&step.send)?;
            match step.outcome {
                Outcome::Wait => {}
                Outcome::Established(established) => {
                    self.reader.established(FRAME_LIMIT);
                    return Ok(established);
                }
                Outcome::Redundant(_) | Outcome::Failed(_) => bail!("no peering: {:?}", step.outcome),
            }
        }
    }

    fn frame(&mut self) -> Result<Vec<u8>> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.reader.take()? {
                Some(Frame::Payload(payload)) => return Ok(payload),
                Some(Frame::Oversized { length }) => bail!("the agent sent a frame of {length} bytes"),
                None => {}
            }
            match self.stream.read(&mut buffer)? {
                0 => bail!("the agent closed the connection"),
                count => self.reader.feed(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

impl Caller for OverBroker {
    fn send(&mut self, reqid: String) -> Result<()> {
        let event = dialect::request(DIALECT, &ReqId::new(&reqid)?, &Request::AgentWelcome {})?;
        self.stream.write_all(&wire::data_frame(self.local, EndpointId::NIL, &self.topic, &event.into_data())?)?;
        self.flying.push_back(reqid);
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let reqid = self.flying.pop_front().context("nothing is in flight")?;
        // As it is encoded: its length in front.
        let wanted = [&[5, u8::try_from(reqid.len())?], reqid.as_bytes()].concat();
        loop {
            let frame = self.frame()?;
            let envelope = Envelope::decode(&frame)?;
            if envelope.kind != Kind::Data {
                continue;
            }
            self.received += 1;
            // What others asked is not looked at any closer, nor is a hello.
            if envelope.payload.windows(wanted.len()).any(|part| part == wanted) {
                let data = binary::decode(envelope.payload, &Limits::default())?;
                return succeeded(&response(data)?);
            }
        }
    }

    fn received(&self) -> usize {
        self.received
    }
}

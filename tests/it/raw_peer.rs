//! A peer over native Broker that is made of this repository's own codec: for what has to be fast, and for answers that have to be
//! seen as they were sent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use zeek_cluster_agent::api::event::{Dialect, Request, Response};
use zeek_cluster_agent::api::ids::ReqId;
use zeek_cluster_agent::broker::binary::{self, Limits};
use zeek_cluster_agent::broker::handshake::{ConnectionId, Handshake, Outcome, Registry};
use zeek_cluster_agent::broker::wire::{self, EndpointId, Envelope, Filter, Frame, FrameReader, Kind};
use zeek_cluster_agent::dialect::event::unpack;
use zeek_cluster_agent::dialect::{self, Decoded};

use crate::support::{AGENT, PATIENCE};

const FRAME_LIMIT: usize = 8 << 20;
const DIALECT: Dialect = Dialect::Management;

pub struct RawPeer {
    stream: TcpStream,
    reader: FrameReader,
    local: EndpointId,
    topic: String,
}

impl RawPeer {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        stream.set_write_timeout(Some(2 * PATIENCE)).unwrap();
        let topic = dialect::agent_topic(DIALECT, AGENT).unwrap();
        let local = EndpointId(uuid::Uuid::new_v4().into_bytes());
        let mut peer = Self { stream, reader: FrameReader::new(FRAME_LIMIT), local, topic };
        peer.shake_hands();
        peer
    }

    fn shake_hands(&mut self) {
        let filter = Filter::new([self.topic.as_str()]);
        let (mut handshake, hello) = Handshake::dial(ConnectionId(1), self.local, filter, Duration::ZERO);
        let mut registry = Registry::default();
        self.stream.write_all(&hello).unwrap();
        loop {
            let step = handshake.handle_frame(&self.frame(), &mut registry);
            self.stream.write_all(&step.send).unwrap();
            match step.outcome {
                Outcome::Wait => {}
                Outcome::Established(_) => return self.reader.established(FRAME_LIMIT),
                outcome @ (Outcome::Redundant(_) | Outcome::Failed(_)) => panic!("no peering: {outcome:?}"),
            }
        }
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.reader.take().unwrap() {
                Some(Frame::Payload(payload)) => return payload,
                Some(Frame::Oversized { length }) => panic!("the agent sent a frame of {length} bytes"),
                None => {}
            }
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the agent closed the connection");
            self.reader.feed(&buffer[..count]);
        }
    }

    pub fn ask(&mut self, reqid: &str, request: &Request) {
        let event = dialect::request(DIALECT, &ReqId::new(reqid).unwrap(), request).unwrap();
        let frame = wire::data_frame(self.local, EndpointId::NIL, &self.topic, &event.into_data()).unwrap();
        self.stream.write_all(&frame).unwrap();
    }

    /// The response to a request: its event as the bytes that came, and as it is understood.
    pub fn response(&mut self, reqid: &str) -> (Vec<u8>, Response) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < 2 * PATIENCE, "waited in vain for the response to {reqid}");
            let frame = self.frame();
            let envelope = Envelope::decode(&frame).unwrap();
            if envelope.kind != Kind::Data {
                continue;
            }
            for event in unpack(binary::decode(envelope.payload, &Limits::default()).unwrap()).events {
                match dialect::decode(&event.unwrap()).unwrap() {
                    Decoded::Response { response, .. } if response.reqid.as_str() == reqid => {
                        return (envelope.payload.to_vec(), response);
                    }
                    Decoded::Response { .. }
                    | Decoded::Request { .. }
                    | Decoded::Notification { .. }
                    | Decoded::Node(_) => {}
                }
            }
        }
    }
}

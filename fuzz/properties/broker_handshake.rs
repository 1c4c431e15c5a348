use std::time::Duration;

use zeek_cluster_agent::broker::handshake::{ConnectionId, Handshake, Outcome, Registry};
use zeek_cluster_agent::broker::wire::{EndpointId, Filter, Frame, FrameReader, HandshakeMessage};

/// What decodes encodes to an equal message, and a stream of frames leads a handshake to an end and never further.
pub fn holds(data: &[u8]) {
    if let Ok(message) = HandshakeMessage::decode(data) {
        let again = message.encode().expect("what was received can be sent");
        assert_eq!(HandshakeMessage::decode(&again[4..]).as_ref(), Ok(&message));
    }
    let Some((shape, stream)) = data.split_first() else { return };
    let mut registry = Registry::default();
    let (local, filter) = (EndpointId([0x80; 16]), Filter::new(["zeek/management/node"]));
    let start = if shape & 1 == 0 { Handshake::dial } else { Handshake::accept };
    let (mut handshake, _) = start(ConnectionId(1), local, filter, Duration::ZERO);
    let mut reader = FrameReader::default();
    reader.feed(stream);
    let mut over = false;
    while let Ok(Some(Frame::Payload(payload))) = reader.take() {
        let step = handshake.handle_frame(&payload, &mut registry);
        match step.outcome {
            Outcome::Wait | Outcome::Established(_) | Outcome::Redundant(_) if over => {
                panic!("it went on after its end")
            }
            Outcome::Wait => {}
            Outcome::Established(established) => {
                assert_eq!(registry.get(established.remote).map(|(holder, _)| holder), Some(ConnectionId(1)));
                over = true;
            }
            Outcome::Redundant(_) | Outcome::Failed(_) => over = true,
        }
    }
}

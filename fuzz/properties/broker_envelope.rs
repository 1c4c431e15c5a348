use std::time::Duration;

use zeek_cluster_agent::broker::handshake::{Established, Role};
use zeek_cluster_agent::broker::peering::{Options, Peering, Received};
use zeek_cluster_agent::broker::wire::{self, EndpointId, Envelope, Filter};

/// What decodes encodes to the same bytes; a peering takes any frame and answers pings with pongs.
pub fn holds(data: &[u8]) {
    if let Ok(envelope) = Envelope::decode(data) {
        assert_eq!(&envelope.encode().expect("what was received can be sent")[4..], data);
        if let Ok(topics) = wire::decode_filter(envelope.payload) {
            assert_eq!(wire::decode_filter(&wire::encode_filter(&topics)), Ok(topics));
        }
    }
    let filter = Filter::new([""]);
    let established = Established {
        local: EndpointId([0x80; 16]),
        remote: EndpointId([0x11; 16]),
        role: Role::Responder,
        remote_filter: Filter::default(),
        local_filter: filter.clone(),
    };
    let (mut peering, update) = Peering::new(established, filter, Options::default(), Duration::ZERO);
    assert_eq!(update, None);
    if let Received::Reply { frame, .. } = peering.handle_frame(data, Duration::ZERO) {
        assert_eq!(frame.len(), 4 + 40 + data.len() - Envelope::decode(data).map_or(0, |ping| 37 + ping.topic.len()));
    }
}

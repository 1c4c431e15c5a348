//! Zeek's events as Broker's frames.

use std::sync::Arc;

use crate::broker::data::Data;
use crate::broker::json::ErrorCode;
use crate::broker::wire::{self, EndpointId};
use crate::dialect::event::Event;
use crate::hub;

/// Broker's binary format.
pub struct Frames {
    pub(super) local: EndpointId,
}

impl Frames {
    pub(super) fn frame(&self, topic: &str, data: &Data) -> Result<Arc<[u8]>, String> {
        let frame = wire::data_frame(self.local, EndpointId::NIL, topic, data);
        frame.map(Arc::from).map_err(|error| error.to_string())
    }
}

impl hub::Wire for Frames {
    const NAME: &'static str = "Broker";
    const OTHER: &'static str = "peer";
    type Message = Arc<[u8]>;

    fn event(&self, topic: &str, event: Event) -> Result<Arc<[u8]>, String> {
        self.frame(topic, &event.into_data())
    }

    /// Broker has no error messages: Zeek drops what it does not understand.
    fn error(&self, _: ErrorCode, _: &str) -> Option<Arc<[u8]>> {
        None
    }

    fn size(message: &Arc<[u8]>) -> usize {
        message.len()
    }
}

//! The form that Zeek gives to its messages inside Broker's data: events, and what travels beside them.

use crate::broker::data::Data;

/// The version of this form.
const VERSION: u64 = 1;
const EVENT: u64 = 1;
const LOG_CREATE: u64 = 2;
const LOG_WRITE: u64 = 3;
const IDENTIFIER_UPDATE: u64 = 4;
const BATCH_MESSAGE: u64 = 5;

/// A Zeek event: its name with the module, and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's name with its module, for example `Management::Agent::API::deploy_request`.
    pub name: String,
    /// In the order of the event's declaration.
    pub args: Vec<Data>,
}

/// Why data is no message of Zeek's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// It is not a vector of at least three, with a version and a type in front. Holds the type of what it is.
    #[error("a Zeek message is a vector of version, type and content; this is {0}")]
    NoMessage(&'static str),
    /// A version of the form that is not known.
    #[error("a Zeek message of version {0}, only {VERSION} is known")]
    Version(u64),
    /// A type of message that is not known.
    #[error("a Zeek message of unknown type {0}")]
    Type(u64),
    /// The content of an event is not a name and arguments, or the name is not UTF-8.
    #[error("an event is a vector of its name and the vector of its arguments")]
    Event,
    /// The content of a batch is no vector.
    #[error("a batch is a vector of messages")]
    Batch,
}

/// What a message held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// In order; each message of a batch by itself.
    pub events: Vec<Result<Event, ShapeError>>,
    /// Log records and identifier updates, which are none of ours.
    pub ignored: usize,
}

impl Event {
    /// The event `name`, which includes the module.
    pub fn new(name: impl Into<String>, args: Vec<Data>) -> Self {
        Self { name: name.into(), args }
    }

    /// The message to publish. Without metadata, which every version accepts.
    pub fn into_data(self) -> Data {
        let content = Data::Vector(vec![Data::string(self.name), Data::Vector(self.args)]);
        Data::Vector(vec![Data::Count(VERSION), Data::Count(EVENT), content])
    }
}

/// Takes a message apart. Metadata of events may be there, empty or missing; it is not looked at.
pub fn unpack(message: Data) -> Unpacked {
    let mut unpacked = Unpacked::default();
    collect(message, &mut unpacked);
    unpacked
}

/// Recursion is bounded by the depth to which values are read.
fn collect(message: Data, unpacked: &mut Unpacked) {
    match content(message) {
        Ok((EVENT, content)) => unpacked.events.push(event(content)),
        Ok((LOG_CREATE | LOG_WRITE | IDENTIFIER_UPDATE, _)) => unpacked.ignored += 1,
        Ok((BATCH_MESSAGE, Data::Vector(messages))) => {
            messages.into_iter().for_each(|message| collect(message, unpacked))
        }
        Ok((BATCH_MESSAGE, _)) => unpacked.events.push(Err(ShapeError::Batch)),
        Ok((other, _)) => unpacked.events.push(Err(ShapeError::Type(other))),
        Err(error) => unpacked.events.push(Err(error)),
    }
}

fn content(message: Data) -> Result<(u64, Data), ShapeError> {
    let no_message = ShapeError::NoMessage(message.type_name());
    let Data::Vector(elements) = message else {
        return Err(no_message);
    };
    let mut elements = elements.into_iter();
    match (elements.next(), elements.next(), elements.next()) {
        (Some(Data::Count(VERSION)), Some(Data::Count(kind)), Some(content)) => Ok((kind, content)),
        (Some(Data::Count(version)), Some(Data::Count(_)), Some(_)) => Err(ShapeError::Version(version)),
        _ => Err(no_message),
    }
}

fn event(content: Data) -> Result<Event, ShapeError> {
    let Data::Vector(elements) = content else {
        return Err(ShapeError::Event);
    };
    let mut elements = elements.into_iter();
    match (elements.next(), elements.next()) {
        (Some(Data::String(name)), Some(Data::Vector(args))) => {
            let name = String::from_utf8(name).map_err(|_| ShapeError::Event)?;
            Ok(Event { name, args })
        }
        _ => Err(ShapeError::Event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u64, content: Vec<Data>) -> Data {
        Data::Vector(vec![Data::Count(1), Data::Count(kind), Data::Vector(content)])
    }

    #[test]
    fn events_come_with_metadata_or_without() {
        let event = Event::new("ping", vec![Data::string("hi"), Data::Count(7)]);
        assert_eq!(unpack(event.clone().into_data()).events, [Ok(event.clone())]);
        let stamp = Data::Vector(vec![Data::Count(1), Data::Timestamp(0)]);
        for metadata in [Data::Vector(vec![]), Data::Vector(vec![stamp]), Data::None] {
            let content = vec![Data::string("ping"), Data::Vector(event.args.clone()), metadata];
            assert_eq!(unpack(message(EVENT, content)).events, [Ok(event.clone())]);
        }
    }

    #[test]
    fn batches_are_unpacked_and_logs_ignored() {
        let [one, two, three] = ["one", "two", "three"].map(|name| Event::new(name, vec![]));
        let inner = message(BATCH_MESSAGE, vec![two.clone().into_data(), message(LOG_CREATE, vec![])]);
        let batch = message(BATCH_MESSAGE, vec![one.clone().into_data(), inner, Data::None, three.clone().into_data()]);
        let unpacked = unpack(batch);
        assert_eq!(unpacked.events, [Ok(one), Ok(two), Err(ShapeError::NoMessage("none")), Ok(three)]);
        assert_eq!(unpacked.ignored, 1);
        for kind in [LOG_CREATE, LOG_WRITE, IDENTIFIER_UPDATE] {
            assert_eq!(unpack(message(kind, vec![])), Unpacked { events: vec![], ignored: 1 });
        }
    }

    #[test]
    fn what_is_no_message_says_why() {
        let error = |data| unpack(data).events.pop().unwrap().unwrap_err();
        assert_eq!(error(Data::Count(1)), ShapeError::NoMessage("count"));
        assert_eq!(error(Data::Vector(vec![Data::Count(1)])), ShapeError::NoMessage("vector"));
        assert_eq!(error(message(6, vec![])), ShapeError::Type(6));
        assert_eq!(error(message(EVENT, vec![Data::string("x")])), ShapeError::Event);
        let future = Data::Vector(vec![Data::Count(2), Data::Count(1), Data::None]);
        assert_eq!(error(future), ShapeError::Version(2));
        let batch = Data::Vector(vec![Data::Count(1), Data::Count(BATCH_MESSAGE), Data::None]);
        assert_eq!(error(batch), ShapeError::Batch);
    }
}

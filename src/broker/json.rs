//! The messages of Zeek's WebSocket API (`/v1/messages/json`) and Broker's JSON encoding of values, both ways.
//!
//! Reading is lenient, since both existing servers write what is no JSON: raw control characters, `\v` and bytes that are
//! not UTF-8 in strings, `inf` and `nan` for reals; keys come in any order. Writing is strict: only what every Zeek
//! server and zeek-client read. In particular a real has a `.` or an exponent, a port its protocol, a slash no backslash,
//! and there is no blank outside strings.
//!
//! A text is cut into tokens in one pass over it, each of which knows where its value ends; the values are then built in
//! a second one. So no order of keys makes reading slow, and memory is bounded by the length of the text.

mod error;
mod read;
mod tape;
mod write;

use super::data::Data;

pub use error::{Limits, Problem, ReadError};
pub use write::{WriteError, write_value};

use read::Values;
use tape::Tape;
use write::{put_members, put_string, separate};

/// The codes of error messages, as Zeek's servers name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The text could not be read.
    DeserializationFailed,
    /// The message was read and not taken in, for example since nobody listens on its topic.
    BrokerError,
    /// Followed by close code 1008.
    InvalidUri,
    /// Followed by close code 1008.
    InvalidApplicationName,
}

impl ErrorCode {
    /// The word in the message's `code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeserializationFailed => "deserialization_failed",
            Self::BrokerError => "broker_error",
            Self::InvalidUri => "invalid_uri",
            Self::InvalidApplicationName => "invalid_application_name",
        }
    }
}

/// A message after the subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Either way.
    Data {
        /// The topic under which it is published.
        topic: String,
        /// A Zeek message: see [`unpack`](crate::dialect::event::unpack).
        data: Data,
    },
    /// From the server, first.
    Ack {
        /// The id of the server's endpoint.
        endpoint: String,
        /// The server's release.
        version: String,
    },
    /// From the server.
    Error {
        /// One of [`ErrorCode`]'s words, or another.
        code: String,
        /// What went wrong, in the server's words.
        context: String,
    },
}

/// Why a client's first message is not its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The message is not a JSON array.
    #[error("subscriptions not an array")]
    NotAnArray(#[source] ReadError),
    /// An element of the array is no string.
    #[error("individual subscription not a string")]
    NotAString(#[source] ReadError),
}

/// Reads a client's first message: the prefixes of the topics it wants. Duplicates are fine, none is too.
pub fn read_subscriptions(text: &[u8], limits: &Limits) -> Result<Vec<String>, SubscriptionError> {
    let tape = Tape::read(text, limits).map_err(SubscriptionError::NotAnArray)?;
    let elements =
        tape.array(0).map_err(|_| SubscriptionError::NotAnArray(tape.error(0, Problem::Expected("an array"))))?;
    let mut topics = Vec::new();
    for element in elements {
        topics.push(tape.text(element).map_err(SubscriptionError::NotAString)?);
    }
    Ok(topics)
}

/// Reads any other message. One without `type` is taken for a data message, as Zeek does.
pub fn read_message(text: &[u8], limits: &Limits) -> Result<Message, ReadError> {
    let tape = Tape::read(text, limits)?;
    let [kind, topic, data_type, data, endpoint, version, code, context] =
        tape.members(0, ["type", "topic", "@data-type", "data", "endpoint", "version", "code", "context"])?;
    let text = |member: Option<usize>, key| match member {
        Some(token) => tape.text(token),
        None => Err(tape.error(0, Problem::Missing(key))),
    };
    let kind = kind.map(|token| tape.text(token)).transpose()?;
    match kind.as_deref() {
        None | Some("data-message") => {
            let topic = topic.ok_or_else(|| tape.error(0, Problem::NoTopic))?;
            let topic = tape.text(topic)?;
            Ok(Message::Data { topic, data: Values::new(&tape, limits).value(0, data_type, data, 0)? })
        }
        Some("ack") => Ok(Message::Ack { endpoint: text(endpoint, "endpoint")?, version: text(version, "version")? }),
        Some("error") => Ok(Message::Error { code: text(code, "code")?, context: text(context, "context")? }),
        Some(other) => Err(tape.error(0, Problem::MessageType(other.chars().take(64).collect()))),
    }
}

/// Reads a value by itself.
pub fn read_value(text: &[u8], limits: &Limits) -> Result<Data, ReadError> {
    let tape = Tape::read(text, limits)?;
    Values::new(&tape, limits).data(0, 0)
}

/// The first message of a client.
pub fn write_subscriptions<T: AsRef<str>>(topics: &[T]) -> String {
    let mut out = String::from("[");
    for topic in topics {
        separate(&mut out, '[');
        put_string(&mut out, topic.as_ref());
    }
    out.push(']');
    out
}

/// The server's answer to it.
pub fn write_ack(endpoint: &str, version: &str) -> String {
    let mut out = String::from("{\"type\":\"ack\",\"endpoint\":");
    put_string(&mut out, endpoint);
    out.push_str(",\"version\":");
    put_string(&mut out, version);
    out.push('}');
    out
}

/// The message that tells the other side what went wrong.
pub fn write_error(code: ErrorCode, context: &str) -> String {
    let mut out = String::from("{\"type\":\"error\",\"code\":");
    put_string(&mut out, code.as_str());
    out.push_str(",\"context\":");
    put_string(&mut out, context);
    out.push('}');
    out
}

/// The message that publishes `data` under `topic`.
pub fn write_data_message(topic: &str, data: &Data) -> Result<String, WriteError> {
    let mut out = String::from("{\"type\":\"data-message\",\"topic\":");
    put_string(&mut out, topic);
    out.push(',');
    put_members(&mut out, data)?;
    out.push('}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Data, ReadError> {
        read_value(text.as_bytes(), &Limits::default())
    }

    fn typed(kind: &str, data: &str) -> Result<Data, ReadError> {
        read(&format!("{{\"data\":{data},\"@data-type\":\"{kind}\"}}"))
    }

    #[test]
    fn scalars_are_read_as_their_types_ask() {
        for (kind, data, value) in [
            ("none", "null", Data::None),
            ("boolean", "true", Data::Boolean(true)),
            ("count", "18446744073709551615", Data::Count(u64::MAX)),
            ("integer", "-9223372036854775808", Data::Integer(i64::MIN)),
            ("real", "1e3", Data::real(1000.0)),
            ("real", "1", Data::real(1.0)),
            ("real", "-inf", Data::real(f64::NEG_INFINITY)),
            ("real", "inf", Data::real(f64::INFINITY)),
            ("real", "-nan", Data::real(f64::NAN)),
            ("real", "NaN", Data::real(f64::NAN)),
            ("string", r#""a\u00e9\/\v\ud83d\ude00""#, Data::string("aé/\u{b}😀")),
            ("string", "\"a\u{1}\u{7f}\n\"", Data::string("a\u{1}\u{7f}\n")),
            ("address", "\"::ffff:10.0.0.1\"", Data::Address("10.0.0.1".parse().unwrap())),
            ("subnet", "\"10.1.2.3/8\"", Data::Subnet("10.0.0.0/8".parse().unwrap())),
            ("port", "\"80\"", Data::Port("80/tcp".parse().unwrap())),
            ("timespan", "\"1.5s\"", Data::Timespan(1_500_000_000)),
            ("enum-value", "\"A::B\"", Data::enum_value("A::B")),
            ("vector", "[]", Data::Vector(vec![])),
        ] {
            assert_eq!(typed(kind, data), Ok(value), "{kind} {data}");
        }
        for (kind, data) in [
            ("boolean", "1"),
            ("count", "-1"),
            ("count", "1.0"),
            ("count", "\"1\""),
            ("count", "18446744073709551616"),
            ("integer", "9223372036854775808"),
            ("string", "1"),
            ("string", "\"\\q\""),
            ("string", "\"\\u12\""),
            ("address", "\"10.0.0\""),
            ("port", "80"),
            ("timestamp", "\"today\""),
            ("vector", "{}"),
            ("set", "[{\"@data-type\":\"none\"},{\"@data-type\":\"none\"}]"),
            ("table", "[{\"key\":{\"@data-type\":\"none\"}}]"),
            ("strange", "1"),
        ] {
            assert!(typed(kind, data).is_err(), "{kind} {data}");
        }
    }

    #[test]
    fn half_surrogates_do_not_hurt() {
        assert_eq!(typed("string", r#""\ud83d""#), Ok(Data::string("\u{fffd}")));
        assert_eq!(typed("string", r#""\ude00\ud83dx""#), Ok(Data::string("\u{fffd}\u{fffd}x")));
        assert_eq!(typed("string", r#""\ud83d\u0041""#), Ok(Data::string("\u{fffd}A")));
    }

    #[test]
    fn bytes_that_are_not_text_stay() {
        let text = b"{\"@data-type\":\"string\",\"data\":\"\xff\xc3\"}";
        let data = read_value(text, &Limits::default()).unwrap();
        assert_eq!(data, Data::String(vec![0xff, 0xc3]));
        // Found by fuzzing: written with replacements, two elements of a set became one and the set could not be read.
        assert_eq!(write_value(&data), Err(WriteError::String));
    }

    #[test]
    fn what_is_written_every_server_reads() {
        for (data, text) in [
            (Data::real(1.0), "1.0"),
            (Data::real(1e300), "1e300"),
            (Data::real(-1e-9), "-1e-9"),
            (Data::string("a/b\"\\\n\r\t\u{8}\u{b}\u{0}é"), r#""a/b\"\\\n\r\t\u0008\u000b\u0000é""#),
            (Data::Port("80/tcp".parse().unwrap()), "\"80/tcp\""),
            (Data::None, "{}"),
            (Data::Timespan(1_500), "\"1500ns\""),
        ] {
            let expected = format!("{{\"@data-type\":\"{}\",\"data\":{text}}}", data.type_name());
            assert_eq!(write_value(&data).unwrap(), expected);
            assert_eq!(read(&expected), Ok(data));
        }
        assert_eq!(write_value(&Data::Vector(vec![Data::real(f64::NAN)])), Err(WriteError::Real));
    }

    #[test]
    fn messages_go_both_ways() {
        let limits = Limits::default();
        let data = Data::Vector(vec![Data::Count(1), Data::string("x")]);
        let text = write_data_message("a/\"b\"", &data).unwrap();
        let message = read_message(text.as_bytes(), &limits).unwrap();
        assert_eq!(message, Message::Data { topic: "a/\"b\"".into(), data });
        let text = write_ack("e-1", "0.1");
        assert_eq!(text, r#"{"type":"ack","endpoint":"e-1","version":"0.1"}"#);
        let ack = Message::Ack { endpoint: "e-1".into(), version: "0.1".into() };
        assert_eq!(read_message(text.as_bytes(), &limits), Ok(ack));
        let text = write_error(ErrorCode::DeserializationFailed, "why");
        let error = Message::Error { code: "deserialization_failed".into(), context: "why".into() };
        assert_eq!(read_message(text.as_bytes(), &limits), Ok(error));
        for topics in [&[][..], &["a", "a", ""]] {
            assert_eq!(read_subscriptions(write_subscriptions(topics).as_bytes(), &limits).unwrap(), topics);
        }
    }

    #[test]
    fn refusals_use_zeeks_words() {
        let limits = Limits::default();
        let message = |text: &str| read_message(text.as_bytes(), &limits).unwrap_err().context();
        assert_eq!(message("{\"@data-type\":\"none\"}"), "no topic in top-level JSON object");
        assert!(message("[]").starts_with("failed to decode JSON object: byte 0"));
        assert!(message("{\"topic\":\"a\"}").contains("@data-type"));
        assert!(message("{\"type\":\"x\"}").contains("type \"x\""));
        let subscriptions = |text: &str| read_subscriptions(text.as_bytes(), &limits).unwrap_err().to_string();
        assert_eq!(subscriptions("{}"), "subscriptions not an array");
        assert_eq!(subscriptions("nope"), "subscriptions not an array");
        assert_eq!(subscriptions("[1]"), "individual subscription not a string");
    }

    #[test]
    fn malformed_texts_are_errors_that_name_the_place() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("{\"a\"", 4),
            ("{\"a\"}", 4),
            ("{\"a\":}", 5),
            ("{\"a\":1,}", 7),
            ("{,}", 1),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("[1}", 2),
            ("{\"a\":1]", 6),
            ("{} x", 2),
            ("{}]", 2),
            ("]", 0),
            ("\"abc", 4),
            ("\"abc\\", 6),
            ("truth", 0),
            ("--1", 0),
            ("1e", 0),
            ("{\"data\":1,\"data\":2}", 11),
        ] {
            assert_eq!(read(text).unwrap_err().at, at, "{text}");
        }
    }

    #[test]
    fn nesting_size_and_number_are_limited() {
        let nested = |depth: usize| {
            let open = "{\"data\":[".repeat(depth);
            let close = "],\"@data-type\":\"vector\"}".repeat(depth);
            format!("{open}{close}")
        };
        assert!(read(&nested(64)).is_ok());
        assert!(matches!(read(&nested(65)).unwrap_err().problem, Problem::Depth { .. }));
        assert!(matches!(read(&nested(10_000)).unwrap_err().problem, Problem::Depth { .. }));
        assert!(matches!(read(&"[".repeat(1_000_000)).unwrap_err().problem, Problem::Depth { .. }));
        assert!(matches!(read(&format!("[{}0]", "0,".repeat(1_000))).unwrap_err().problem, Problem::Tokens));
        let limits = Limits { bytes: 100, depth: 2, values: 2 };
        let at_limits = |text: &str| read_value(text.as_bytes(), &limits).map_err(|error| error.problem);
        let none = "{\"@data-type\":\"none\"}";
        assert!(at_limits(&format!("{{\"@data-type\":\"vector\",\"data\":[{none}]}}")).is_ok());
        let problem = at_limits(&format!("{{\"@data-type\":\"vector\",\"data\":[{none},{none}]}}"));
        assert_eq!(problem, Err(Problem::Values { limit: 2 }));
        assert_eq!(at_limits(&" ".repeat(101)), Err(Problem::TooLong { length: 101, limit: 100 }));
    }
}

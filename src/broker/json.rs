//! The messages of Zeek's WebSocket API (`/v1/messages/json`) and Broker's JSON encoding of values, both ways.
//!
//! Reading is lenient, since both existing servers write what is no JSON: raw control characters, `\v` and bytes that are
//! not UTF-8 in strings, `inf` and `nan` for reals; keys come in any order. Writing is strict: only what every Zeek
//! server and zeek-client read. In particular a real has a `.` or an exponent, a port its protocol, a slash no backslash,
//! and there is no blank outside strings.
//!
//! A text is cut into tokens in one pass over it, each of which knows where its value ends; the values are then built in
//! a second one. So no order of keys makes reading slow, and memory is bounded by the length of the text.

use std::borrow::Cow;
use std::fmt::Write;

use super::data::{Data, Set, Table};
use super::time_text::{format_timespan, format_timestamp, parse_timespan, parse_timestamp};

/// What a text may cost its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest text.
    pub bytes: usize,
    /// Containers inside each other. Zeek's own servers stop at about 60.
    pub depth: usize,
    /// Values altogether.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 * 1024 * 1024, depth: 64, values: 1 << 18 }
    }
}

/// Where and why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {problem}")]
pub struct ReadError {
    /// Offset in the text that was given.
    pub at: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a text that is to be a message or a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is longer than [`Limits::bytes`] allows.
    #[error("the message has {length} bytes, {limit} is the most")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// The text ends in the middle of a value.
    #[error("the text ends early")]
    Incomplete,
    /// Something else stands here. Holds what should.
    #[error("{0} is expected here")]
    Expected(&'static str),
    /// A word that is no literal and no number. Holds its beginning.
    #[error("{0:?} is no JSON")]
    Word(String),
    /// A backslash before a character that is not escaped so, or an incomplete `\u`.
    #[error("an escape in a string is not known")]
    Escape,
    /// It is nested deeper than [`Limits::depth`] allows.
    #[error("nested too deeply, {limit} levels are the most")]
    Depth {
        /// The most containers inside each other.
        limit: usize,
    },
    /// It holds more values than [`Limits::values`] allows.
    #[error("more than {limit} values")]
    Values {
        /// The most values altogether.
        limit: usize,
    },
    /// It has more tokens than any message of this length needs: only an attack looks like that.
    #[error("too many tokens for the length of the text")]
    Tokens,
    /// The value ends before the text does.
    #[error("something follows the end")]
    Trailing,
    /// A data message without `topic`; the words are those of Zeek's server.
    #[error("no topic in top-level JSON object")]
    NoTopic,
    /// The `type` of a message is not known. Holds its first 64 characters.
    #[error("there is no message of type {0:?}")]
    MessageType(String),
    /// An object lacks this key.
    #[error("the key {0:?} is missing")]
    Missing(&'static str),
    /// An object has this key more than once.
    #[error("the key {0:?} occurs twice")]
    Twice(&'static str),
    /// The `@data-type` of a value is not known. Holds its beginning.
    #[error("there is no data type {0:?}")]
    DataType(String),
    /// The `data` of a value does not fit its `@data-type`, which it holds.
    #[error("the data is no {0}")]
    Data(&'static str),
    /// Broker refuses such a set or table, too.
    #[error("a set element or table key occurs twice")]
    Duplicate,
}

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

impl ReadError {
    /// The context of the error message that answers such a text: Zeek's words, then ours.
    pub fn context(&self) -> String {
        match &self.problem {
            Problem::NoTopic => self.problem.to_string(),
            _ => format!("failed to decode JSON object: {self}"),
        }
    }
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
            let mut values = limits.values;
            Ok(Message::Data {
                topic: tape.text(topic)?,
                data: tape.value(0, data_type, data, limits, 0, &mut values)?,
            })
        }
        Some("ack") => Ok(Message::Ack { endpoint: text(endpoint, "endpoint")?, version: text(version, "version")? }),
        Some("error") => Ok(Message::Error { code: text(code, "code")?, context: text(context, "context")? }),
        Some(other) => Err(tape.error(0, Problem::MessageType(other.chars().take(64).collect()))),
    }
}

/// Reads a value by itself.
pub fn read_value(text: &[u8], limits: &Limits) -> Result<Data, ReadError> {
    let tape = Tape::read(text, limits)?;
    let mut values = limits.values;
    tape.data(0, limits, 0, &mut values)
}

/// A value that JSON cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// JSON has neither infinity nor NaN, and Zeek's readers refuse both.
    #[error("JSON has no form for a real that is infinite or not a number")]
    Real,
    /// Replacing what is no text could make two elements of a set the same.
    #[error("JSON has no form for a string that is not UTF-8")]
    String,
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

/// The value by itself, as an object of `@data-type` and `data`.
pub fn write_value(data: &Data) -> Result<String, WriteError> {
    let mut out = String::new();
    put_value(&mut out, data)?;
    Ok(out)
}

fn put_value(out: &mut String, data: &Data) -> Result<(), WriteError> {
    out.push('{');
    put_members(out, data)?;
    out.push('}');
    Ok(())
}

fn put_members(out: &mut String, data: &Data) -> Result<(), WriteError> {
    // Nothing that is written here can fail: the target is a String.
    let put = |out: &mut String, text: std::fmt::Arguments<'_>| _ = out.write_fmt(text);
    put(out, format_args!("\"@data-type\":\"{}\",\"data\":", data.type_name()));
    match data {
        Data::None => out.push_str("{}"),
        Data::Boolean(value) => put(out, format_args!("{value}")),
        Data::Count(value) => put(out, format_args!("{value}")),
        Data::Integer(value) => put(out, format_args!("{value}")),
        // Debug prints a point or an exponent always, and all the digits.
        Data::Real(value) if value.0.is_finite() => put(out, format_args!("{:?}", value.0)),
        Data::Real(_) => return Err(WriteError::Real),
        Data::String(bytes) => put_string(out, str::from_utf8(bytes).map_err(|_| WriteError::String)?),
        Data::Address(address) => put(out, format_args!("\"{address}\"")),
        Data::Subnet(subnet) => put(out, format_args!("\"{subnet}\"")),
        Data::Port(port) => put(out, format_args!("\"{port}\"")),
        Data::Timestamp(ns) => put(out, format_args!("\"{}\"", format_timestamp(*ns))),
        Data::Timespan(ns) => put(out, format_args!("\"{}\"", format_timespan(*ns))),
        Data::Enum(name) => put_string(out, name),
        Data::Set(set) => put_array(out, set.as_slice())?,
        Data::Vector(elements) => put_array(out, elements)?,
        Data::Table(table) => {
            out.push('[');
            for (key, value) in table.as_slice() {
                separate(out, '[');
                out.push_str("{\"key\":");
                put_value(out, key)?;
                out.push_str(",\"value\":");
                put_value(out, value)?;
                out.push('}');
            }
            out.push(']');
        }
    }
    Ok(())
}

fn put_array(out: &mut String, elements: &[Data]) -> Result<(), WriteError> {
    out.push('[');
    for element in elements {
        separate(out, '[');
        put_value(out, element)?;
    }
    out.push(']');
    Ok(())
}

/// A comma, unless the array has just been opened.
fn separate(out: &mut String, open: char) {
    if !out.ends_with(open) {
        out.push(',');
    }
}

fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    /// The bytes between the quotes; `Escaped` if a backslash is among them.
    Plain,
    Escaped,
    True,
    False,
    Null,
    Number,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    /// The bytes of a scalar, in the text.
    start: u32,
    end: u32,
    /// The token after this value.
    next: u32,
}

/// The tokens of a text. A container's members follow it: keys and values in turn, or elements.
struct Tape<'a> {
    text: &'a [u8],
    tokens: Vec<Token>,
}

/// What may come next while a text is cut into tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    FirstElementOrEnd,
    FirstKeyOrEnd,
    Key,
    CommaOrEnd,
}

impl<'a> Tape<'a> {
    fn read(text: &'a [u8], limits: &Limits) -> Result<Self, ReadError> {
        let length = text.len();
        // Positions are kept in 32 bits.
        let limit = limits.bytes.min(u32::MAX as usize - 1);
        if length > limit {
            return Err(ReadError { at: 0, problem: Problem::TooLong { length, limit } });
        }
        let mut tape = Self { text, tokens: Vec::new() };
        tape.cut(limits)?;
        Ok(tape)
    }

    fn cut(&mut self, limits: &Limits) -> Result<(), ReadError> {
        // A value takes an object in an array, an entry of a table one more; the rest is for keys we do not know.
        let depth_limit = limits.depth.saturating_mul(3).saturating_add(8);
        // A value of ours has more than six bytes a token; this only keeps nonsense from filling memory.
        let token_limit = self.text.len() / 3 + 64;
        let mut open: Vec<usize> = Vec::new();
        let mut expect = Expect::Value;
        let mut at = 0;
        loop {
            while matches!(self.text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
                at += 1;
            }
            let error = |problem| ReadError { at, problem };
            let Some(&byte) = self.text.get(at) else {
                return Err(error(Problem::Incomplete));
            };
            if self.tokens.len() >= token_limit {
                return Err(error(Problem::Tokens));
            }
            let inside = open.last().and_then(|token| self.tokens.get(*token)).map(|token| token.kind);
            let mut ended = false;
            match (expect, byte) {
                (Expect::Value | Expect::FirstElementOrEnd, b'{' | b'[') => {
                    if open.len() >= depth_limit {
                        return Err(error(Problem::Depth { limit: depth_limit }));
                    }
                    open.push(self.tokens.len());
                    let (kind, then) = match byte {
                        b'{' => (Kind::Object, Expect::FirstKeyOrEnd),
                        _ => (Kind::Array, Expect::FirstElementOrEnd),
                    };
                    self.push(kind, at, at);
                    expect = then;
                    at += 1;
                }
                (Expect::Value | Expect::FirstElementOrEnd, b'"') => {
                    at = self.string(at)?;
                    ended = true;
                }
                (Expect::FirstElementOrEnd, b']') => ended = true,
                (Expect::Value | Expect::FirstElementOrEnd, _) => {
                    at = self.word(at)?;
                    ended = true;
                }
                (Expect::FirstKeyOrEnd | Expect::Key, b'"') => {
                    at = self.string(at)?;
                    while matches!(self.text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
                        at += 1;
                    }
                    match self.text.get(at) {
                        Some(b':') => at += 1,
                        Some(_) => return Err(ReadError { at, problem: Problem::Expected("a colon") }),
                        None => return Err(ReadError { at, problem: Problem::Incomplete }),
                    }
                    expect = Expect::Value;
                }
                (Expect::FirstKeyOrEnd, b'}') => ended = true,
                (Expect::FirstKeyOrEnd, _) => return Err(error(Problem::Expected("a key or }"))),
                (Expect::Key, _) => return Err(error(Problem::Expected("a key"))),
                (Expect::CommaOrEnd, b',') => {
                    expect = match inside {
                        Some(Kind::Object) => Expect::Key,
                        _ => Expect::Value,
                    };
                    at += 1;
                }
                (Expect::CommaOrEnd, b'}') if inside == Some(Kind::Object) => ended = true,
                (Expect::CommaOrEnd, b']') if inside == Some(Kind::Array) => ended = true,
                (Expect::CommaOrEnd, _) => return Err(error(Problem::Expected("a comma or the end of the container"))),
            }
            if !ended {
                continue;
            }
            // A scalar has ended, or the innermost container if its bracket is what stands here.
            if matches!(expect, Expect::FirstKeyOrEnd | Expect::CommaOrEnd)
                || (expect == Expect::FirstElementOrEnd && byte == b']')
            {
                let next = self.tokens.len() as u32;
                if let Some(token) = open.pop().and_then(|token| self.tokens.get_mut(token)) {
                    token.next = next;
                }
                at += 1;
            }
            if open.is_empty() {
                return match self.text.get(at..).unwrap_or_default().iter().all(|b| b" \t\n\r".contains(b)) {
                    true => Ok(()),
                    false => Err(ReadError { at, problem: Problem::Trailing }),
                };
            }
            expect = Expect::CommaOrEnd;
        }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.tokens.len() as u32 + 1;
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next });
    }

    /// Takes a string whose quote is at `at`; returns where the text goes on.
    fn string(&mut self, at: usize) -> Result<usize, ReadError> {
        let start = at + 1;
        let mut escaped = false;
        let mut position = start;
        loop {
            match self.text.get(position) {
                None => return Err(ReadError { at: position, problem: Problem::Incomplete }),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    position += 2;
                }
                Some(_) => position += 1,
            }
        }
        self.push(if escaped { Kind::Escaped } else { Kind::Plain }, start, position);
        Ok(position + 1)
    }

    /// Takes a number, `true` and the like; returns where the text goes on.
    fn word(&mut self, at: usize) -> Result<usize, ReadError> {
        let rest = self.text.get(at..).unwrap_or_default();
        let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-._".contains(*byte);
        let word = rest.get(..rest.iter().take_while(is_part).count()).unwrap_or_default();
        let kind = match word {
            b"" => return Err(ReadError { at, problem: Problem::Expected("a value") }),
            b"true" => Kind::True,
            b"false" => Kind::False,
            b"null" => Kind::Null,
            _ if str::from_utf8(word).is_ok_and(|word| word.parse::<f64>().is_ok()) => Kind::Number,
            _ => {
                let word = String::from_utf8_lossy(word).chars().take(32).collect();
                return Err(ReadError { at, problem: Problem::Word(word) });
            }
        };
        self.push(kind, at, at + word.len());
        Ok(at + word.len())
    }

    fn error(&self, token: usize, problem: Problem) -> ReadError {
        let at = self.tokens.get(token).map_or(self.text.len(), |token| token.start as usize);
        ReadError { at, problem }
    }

    fn bytes(&self, token: Token) -> &'a [u8] {
        self.text.get(token.start as usize..token.end as usize).unwrap_or_default()
    }

    /// The tokens at which the elements of an array begin.
    fn array(&self, token: usize) -> Result<Elements<'_>, ReadError> {
        self.elements(token, Kind::Array, "an array")
    }

    fn elements(&self, token: usize, kind: Kind, what: &'static str) -> Result<Elements<'_>, ReadError> {
        match self.tokens.get(token) {
            Some(container) if container.kind == kind => {
                Ok(Elements { tokens: &self.tokens, at: token + 1, end: container.next as usize })
            }
            _ => Err(self.error(token, Problem::Expected(what))),
        }
    }

    /// Where the values of some keys of an object begin. Other keys are skipped.
    fn members<const N: usize>(&self, token: usize, keys: [&'static str; N]) -> Result<[Option<usize>; N], ReadError> {
        let mut found = [None; N];
        let mut elements = self.elements(token, Kind::Object, "an object")?;
        while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
            let name = self.string_bytes(key)?;
            let known = found.iter_mut().zip(keys).find(|(_, wanted)| wanted.as_bytes() == &*name);
            if let Some((slot, wanted)) = known
                && slot.replace(value).is_some()
            {
                return Err(self.error(key, Problem::Twice(wanted)));
            }
        }
        Ok(found)
    }

    /// A string's bytes with its escapes undone. Bytes that are not UTF-8 stay as they are.
    fn string_bytes(&self, token: usize) -> Result<Cow<'a, [u8]>, ReadError> {
        match self.tokens.get(token) {
            Some(string) if string.kind == Kind::Plain => Ok(Cow::Borrowed(self.bytes(*string))),
            Some(string) if string.kind == Kind::Escaped => match unescape(self.bytes(*string)) {
                Some(bytes) => Ok(Cow::Owned(bytes)),
                None => Err(self.error(token, Problem::Escape)),
            },
            _ => Err(self.error(token, Problem::Expected("a string"))),
        }
    }

    /// A string that has to be text: what is not UTF-8 in it is replaced.
    fn text(&self, token: usize) -> Result<String, ReadError> {
        Ok(String::from_utf8_lossy(&self.string_bytes(token)?).into_owned())
    }

    fn data(&self, token: usize, limits: &Limits, depth: usize, values: &mut usize) -> Result<Data, ReadError> {
        let [data_type, data] = self.members(token, ["@data-type", "data"])?;
        self.value(token, data_type, data, limits, depth, values)
    }

    fn value(
        &self,
        object: usize,
        data_type: Option<usize>,
        data: Option<usize>,
        limits: &Limits,
        depth: usize,
        values: &mut usize,
    ) -> Result<Data, ReadError> {
        *values = values.checked_sub(1).ok_or_else(|| self.error(object, Problem::Values { limit: limits.values }))?;
        let data_type = data_type.ok_or_else(|| self.error(object, Problem::Missing("@data-type")))?;
        let name = self.string_bytes(data_type)?;
        if &*name == b"none" {
            return Ok(Data::None);
        }
        let token = data.ok_or_else(|| self.error(object, Problem::Missing("data")))?;
        Ok(match &*name {
            b"boolean" => match self.tokens.get(token).map(|token| token.kind) {
                Some(Kind::True) => Data::Boolean(true),
                Some(Kind::False) => Data::Boolean(false),
                _ => return Err(self.error(token, Problem::Data("boolean"))),
            },
            b"count" => Data::Count(self.number(token, "count")?),
            b"integer" => Data::Integer(self.number(token, "integer")?),
            b"real" => Data::real(self.number(token, "real")?),
            b"string" => Data::String(self.string_bytes(token)?.into_owned()),
            b"address" => Data::Address(self.parsed(token, "address", |text| text.parse().ok())?),
            b"subnet" => Data::Subnet(self.parsed(token, "subnet", |text| text.parse().ok())?),
            b"port" => Data::Port(self.parsed(token, "port", |text| text.parse().ok())?),
            b"timestamp" => Data::Timestamp(self.parsed(token, "timestamp", parse_timestamp)?),
            b"timespan" => Data::Timespan(self.parsed(token, "timespan", parse_timespan)?),
            b"enum-value" => Data::Enum(self.parsed(token, "enum-value", |text| Some(text.to_owned()))?),
            b"vector" => Data::Vector(self.container(token, limits, depth, values)?),
            b"set" => {
                let elements = self.container(token, limits, depth, values)?;
                Data::Set(Set::new(elements).map_err(|_| self.error(token, Problem::Duplicate))?)
            }
            b"table" => {
                let depth = self.deeper(token, limits, depth)?;
                let mut entries = Vec::new();
                for entry in self.array(token)? {
                    let [key, value] = self.members(entry, ["key", "value"])?;
                    let key = key.ok_or_else(|| self.error(entry, Problem::Missing("key")))?;
                    let value = value.ok_or_else(|| self.error(entry, Problem::Missing("value")))?;
                    entries.push((self.data(key, limits, depth, values)?, self.data(value, limits, depth, values)?));
                }
                Data::Table(Table::new(entries).map_err(|_| self.error(token, Problem::Duplicate))?)
            }
            other => {
                let other = String::from_utf8_lossy(other).chars().take(32).collect();
                return Err(self.error(data_type, Problem::DataType(other)));
            }
        })
    }

    fn container(
        &self,
        token: usize,
        limits: &Limits,
        depth: usize,
        values: &mut usize,
    ) -> Result<Vec<Data>, ReadError> {
        let depth = self.deeper(token, limits, depth)?;
        self.array(token)?.map(|element| self.data(element, limits, depth, values)).collect()
    }

    fn deeper(&self, token: usize, limits: &Limits, depth: usize) -> Result<usize, ReadError> {
        match depth < limits.depth {
            true => Ok(depth + 1),
            false => Err(self.error(token, Problem::Depth { limit: limits.depth })),
        }
    }

    fn number<T: std::str::FromStr>(&self, token: usize, what: &'static str) -> Result<T, ReadError> {
        let number = self.tokens.get(token).filter(|token| token.kind == Kind::Number);
        number
            .and_then(|token| str::from_utf8(self.bytes(*token)).ok()?.parse().ok())
            .ok_or_else(|| self.error(token, Problem::Data(what)))
    }

    fn parsed<T>(
        &self,
        token: usize,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ReadError> {
        let text = self.string_bytes(token)?;
        str::from_utf8(&text).ok().and_then(parse).ok_or_else(|| self.error(token, Problem::Data(what)))
    }
}

/// Steps over the values directly inside a container.
struct Elements<'a> {
    tokens: &'a [Token],
    at: usize,
    end: usize,
}

impl Iterator for Elements<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.at >= self.end {
            return None;
        }
        let element = self.at;
        self.at = self.tokens.get(element)?.next as usize;
        Some(element)
    }
}

/// Undoes the escapes of JSON and `\v`. Half a surrogate pair becomes U+FFFD.
fn unescape(raw: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            byte @ (b'"' | b'\\' | b'/') => out.push(byte),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'u' => {
                let mut unit = hex4(&mut bytes)?;
                if (0xd800..0xdc00).contains(&unit) {
                    let mut ahead = bytes.clone();
                    if ahead.next() == Some(b'\\') && ahead.next() == Some(b'u') {
                        let low = hex4(&mut ahead)?;
                        if (0xdc00..0xe000).contains(&low) {
                            unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                            bytes = ahead;
                        }
                    }
                }
                let c = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(out)
}

fn hex4(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit << 4 | char::from(bytes.next()?).to_digit(16)?))
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

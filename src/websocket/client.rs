//! The client side: blocking, with a deadline for every wait. It talks to one agent, as a controller would.
//!
//! The agent names itself: its hello is the first thing that a subscriber receives.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, client::client_with_config};

use super::PATH;
use crate::api::event::{Dialect, Notification, Request, Response};
use crate::api::ids::ReqId;
use crate::broker::json::{self, Limits};
use crate::dialect::event::unpack;
use crate::dialect::{self, Decoded};
use crate::tls;

/// For connecting, for the ack and for the agent's hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest wait: a socket accepts no timeout of zero.
const LEAST: Duration = Duration::from_millis(1);
/// Responses are larger in JSON than the megabyte that is stored of them.
const ANSWER_LIMIT: usize = 32 << 20;
/// Characters of a server's reason that are shown.
const REASON_LIMIT: usize = 1024;
/// The topic prefixes of all agents.
const TOPICS: [&str; 2] = ["zeek/management/agent/", "zeek/cluster-control/agent/"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url:?} is not the address of a WebSocket listener: {problem}; give ws://HOST:PORT or wss://HOST:PORT")]
    Url { url: String, problem: &'static str },
    #[error("nobody answers at {url}; the agent's setting `websocket` says where it serves, if it does")]
    Unreachable { url: String, source: io::Error },
    #[error("no TLS connection to {url} could be made")]
    Handshake { url: String, source: tls::HandshakeError },
    #[error(
        "{url} takes no client without a certificate, or not with this one ({said}); give one that its websocket_client_ca has \
         signed, with --certificate and --key"
    )]
    Certificate { url: String, said: String },
    #[error("TLS cannot be used")]
    Tls(#[from] tls::Error),
    #[error(
        "{url} is not a WebSocket listener of an agent, or one that wants TLS (wss://); its setting `websocket` says which"
    )]
    Upgrade { url: String, source: Box<tungstenite::Error> },
    #[error("the agent at {url} refuses the connection: {reason}")]
    Refused { url: String, reason: String },
    #[error("no answer came in time")]
    TimedOut,
    #[error("the agent closed the connection{0}")]
    Closed(String),
    #[error("the connection to the agent failed; ask again")]
    Connection(#[source] Box<tungstenite::Error>),
    #[error("the agent says: {code}: {context}")]
    Agent { code: String, context: String },
    #[error("the agent's message cannot be read")]
    Read(#[from] json::ReadError),
    #[error(transparent)]
    Encode(#[from] dialect::EncodeError),
    #[error("the request cannot be written")]
    Write(#[from] json::WriteError),
}

/// The stream that the connection uses.
enum Wire {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

pub struct Client {
    socket: WebSocket<Wire>,
    agent: String,
}

/// What a server said of our certificate instead of an answer. In TLS 1.3 that comes after our side of the handshake,
/// and may be nothing but the end of the connection.
fn certificate_wanted(error: &tungstenite::Error) -> Option<String> {
    const ENDED: &str = "it closed the connection right after the TLS handshake";
    let error = match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => return Some(ENDED.to_owned()),
        _other => return None,
    };
    if let Some(tls::HandshakeError::Refused(said)) = tls::explain(error) {
        return Some(said);
    }
    let has_ended = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    has_ended.contains(&error.kind()).then(|| ENDED.to_owned())
}

impl Client {
    /// Connects, subscribes to the topics of agents, and waits for the hello of the agent that is there. `tls` is for
    /// `wss://`; `deadline` may shorten the wait.
    pub fn connect(url: &str, tls: &tls::ClientOptions, deadline: Option<Instant>) -> Result<Self, Error> {
        let longest = Instant::now() + CONNECT_TIMEOUT;
        let deadline = deadline.map_or(longest, |deadline| deadline.min(longest));
        // A socket's timeout of 0 means none.
        let timeout = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let Url { is_tls, authority, host, path } = parse(url)?;
        let tls = if is_tls { Some(tls::client(tls)?) } else { None };
        let unreachable = |source| Error::Unreachable { url: url.to_owned(), source };
        let stream = open(authority, deadline).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        stream.set_write_timeout(Some(timeout)).map_err(unreachable)?;
        stream.set_read_timeout(Some(timeout)).map_err(unreachable)?;
        let upgrade = |source| match certificate_wanted(&source).filter(|_| is_tls) {
            Some(said) => Error::Certificate { url: url.to_owned(), said },
            None => Error::Upgrade { url: url.to_owned(), source: Box::new(source) },
        };
        let stream = match tls {
            None => Wire::Plain(stream),
            Some(tls) => {
                let failed = |source| match source {
                    tls::HandshakeError::Refused(said) => Error::Certificate { url: url.to_owned(), said },
                    source => Error::Handshake { url: url.to_owned(), source },
                };
                Wire::Tls(Box::new(tls.connect(host, stream).map_err(failed)?))
            }
        };
        let head = format!("ws://{authority}{path}").into_client_request().map_err(upgrade)?;
        let config = WebSocketConfig::default().max_message_size(Some(ANSWER_LIMIT)).max_frame_size(Some(ANSWER_LIMIT));
        let (socket, _) = client_with_config(head, stream, Some(config)).map_err(|error| match error {
            tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))
                if response.status() == StatusCode::FORBIDDEN =>
            {
                Error::Refused { url: url.to_owned(), reason: reason(response.body().as_deref().unwrap_or_default()) }
            }
            tungstenite::HandshakeError::Failure(error) => upgrade(error),
            tungstenite::HandshakeError::Interrupted(_) => Error::TimedOut,
        })?;
        let mut client = Self { socket, agent: String::new() };
        client.send(json::write_subscriptions(&TOPICS))?;
        client.agent = loop {
            if let Decoded::Notification { notification: Notification::NotifyAgentHello { instance, .. }, .. } =
                client.receive(Some(deadline))?
            {
                break instance;
            }
        };
        Ok(client)
    }

    /// The agent's name.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// Sends a request and waits for the response with its reqid.
    pub fn request(
        &mut self,
        dialect: Dialect,
        reqid: &ReqId,
        request: &Request,
        deadline: Option<Instant>,
    ) -> Result<Response, Error> {
        let event = dialect::request(dialect, reqid, request)?;
        let topic = dialect::agent_topic(dialect, &self.agent)
            .ok_or_else(|| dialect::EncodeError::NotInDialect { dialect, event: request.event().to_owned() })?;
        let text = json::write_data_message(&topic, &event.into_data())?;
        self.send(text)?;
        loop {
            if let Decoded::Response { dialect: of, response } = self.receive(deadline)?
                && of == dialect
                && response.reqid == *reqid
                && response.event == request.response_event()
            {
                return Ok(response);
            }
        }
    }

    /// Whether the dialect can express everything in this request. Zeek 4.2 has no metrics ports, for example.
    pub fn carries(dialect: Dialect, reqid: &ReqId, request: &Request) -> Result<bool, Error> {
        let event = dialect::request(dialect, reqid, request)?;
        let carried = dialect::decode(&event);
        Ok(matches!(carried, Ok(Decoded::Request { request: carried, .. }) if carried == request.clone().canonical()))
    }

    fn send(&mut self, text: String) -> Result<(), Error> {
        self.socket.send(Message::Text(text.into())).map_err(failed)
    }

    /// The next event that is understood.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Decoded, Error> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::TimedOut);
            }
            let stream = self.socket.get_ref().tcp();
            stream
                .set_read_timeout(left.map(|left| left.max(LEAST)))
                .map_err(|error| Error::Connection(Box::new(error.into())))?;
            match self.socket.read().map_err(failed)? {
                Message::Text(text) => {
                    if let Some(event) = understand(text.as_str())? {
                        return Ok(event);
                    }
                }
                Message::Close(Some(frame)) => {
                    return Err(Error::Closed(format!(" ({} {})", frame.code, frame.reason)));
                }
                Message::Close(None) => return Err(Error::Closed(String::new())),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

/// A server's reason for a refusal, on one line.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.chars().take(REASON_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.trim() {
        "" => "it gives no reason".to_owned(),
        line => line.to_owned(),
    }
}

/// An event for us, or `None` for acks and messages of other dialects and releases.
fn understand(text: &str) -> Result<Option<Decoded>, Error> {
    let limits = Limits { bytes: ANSWER_LIMIT, values: 1 << 20, ..Limits::default() };
    match json::read_message(text.as_bytes(), &limits)? {
        json::Message::Data { data, .. } => {
            let event = unpack(data).events.into_iter().flatten().next();
            Ok(event.and_then(|event| dialect::decode(&event).ok()))
        }
        json::Message::Ack { .. } => Ok(None),
        json::Message::Error { code, context } => Err(Error::Agent { code, context }),
    }
}

fn failed(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Error::Closed(String::new()),
        tungstenite::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            Error::TimedOut
        }
        other => Error::Connection(Box::new(other)),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    is_tls: bool,
    /// Host and port.
    authority: &'a str,
    host: &'a str,
    path: &'a str,
}

fn parse(url: &str) -> Result<Url<'_>, Error> {
    let wrong = |problem| Error::Url { url: url.to_owned(), problem };
    let (is_tls, rest) = match url.split_once("://") {
        Some(("ws", rest)) => (false, rest),
        Some(("wss", rest)) => (true, rest),
        Some(_) | None => return Err(wrong("it does not begin with ws:// or wss://")),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, PATH),
    };
    let path = if path == "/" { PATH } else { path };
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Url { is_tls, authority, host, path })
        }
        Some(_) | None => Err(wrong("it has no port")),
    }
}

fn open(authority: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in authority.to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, deadline.saturating_duration_since(Instant::now()).max(LEAST));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_and_short() {
        assert_eq!(reason(b"uid 8 may not ask"), "uid 8 may not ask");
        assert_eq!(reason(b"a\x1b[2J\r\nb"), "a [2J  b");
        assert_eq!(reason(&[b'x'; 5000]).len(), REASON_LIMIT);
        assert_eq!(reason(b" \n"), "it gives no reason");
    }

    #[test]
    fn urls_are_taken_with_or_without_a_path() {
        let parsed = |url| {
            let Url { is_tls, authority, host, path } = parse(url).unwrap();
            (is_tls, authority, host, path)
        };
        assert_eq!(parsed("ws://127.0.0.1:1234"), (false, "127.0.0.1:1234", "127.0.0.1", PATH));
        assert_eq!(parsed("ws://[::1]:1234/"), (false, "[::1]:1234", "[::1]", PATH));
        assert_eq!(parsed("wss://host:1/other"), (true, "host:1", "host", "/other"));
        for wrong in ["", "127.0.0.1:1234", "http://h:1", "wss://h", "ws://h", "ws://:1", "ws://h:port"] {
            assert!(matches!(parse(wrong), Err(Error::Url { .. })), "{wrong}");
        }
    }
}

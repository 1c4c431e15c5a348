//! One connection of the server: upgrade, subscription, messages, end.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request as Head, Response as Upgrade,
};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tokio_util::sync::CancellationToken;

use super::PATH;
use super::limits::{LARGE_MESSAGE, MESSAGE_LIMIT, TOPIC_LIMIT, TOPICS_LIMIT};
use super::metered::Metered;
use super::state::ServerState;
use super::wire::Wire;
use crate::api::report::chain;
use crate::broker::json::{self, ErrorCode, Limits};
use crate::broker::wire::Filter;
use crate::hub::Registration;
use crate::hub::intake::Publisher;
use crate::tls;
use crate::transport::admission::{NodePolicy, Remote};
use crate::transport::outgoing::Queued;
use crate::transport::{Agent, tcp};

/// Initial buffer sizes of a connection.
const BUFFER: usize = 8 << 10;

/// Why we end a connection, as the client is told.
struct Ending {
    /// Sent before the close frame.
    error: Option<(ErrorCode, String)>,
    code: CloseCode,
    reason: &'static str,
}

/// What is wrong with the upgrade but reported only after it, as Zeek does.
type Objection = Option<(ErrorCode, String)>;

/// One connection.
pub(super) struct Connection<A: Agent> {
    id: u64,
    state: Arc<ServerState>,
    agent: Arc<A>,
    remote: Remote,
    queue: mpsc::Receiver<Queued<Utf8Bytes>>,
    cut: CancellationToken,
    /// The agent knows of this connection.
    is_subscribed: bool,
}

type Socket = WebSocketStream<Metered>;

impl<A: Agent> Connection<A> {
    pub fn new(
        state: &Arc<ServerState>,
        agent: &Arc<A>,
        remote: Remote,
        registration: Registration<Utf8Bytes>,
    ) -> Self {
        let Registration { id, queue, cut } = registration;
        let (state, agent) = (Arc::clone(state), Arc::clone(agent));
        Self { id, state, agent, remote, queue, cut, is_subscribed: false }
    }

    pub async fn serve(mut self, stream: TcpStream, stop: CancellationToken) {
        tracing::debug!(connection = self.id, peer = self.remote.source.peer, "WebSocket connection");
        let cut = self.cut.clone();
        tokio::select! {
            () = self.live(stream, &stop) => {}
            () = cut.cancelled() => {}
        }
        self.state.hub.forget(self.id);
        // A client that never subscribed never asked for anything, so the agent is not bothered with it.
        if self.is_subscribed {
            self.agent.disconnected(self.id);
        }
    }

    async fn live(&mut self, stream: TcpStream, stop: &CancellationToken) {
        tcp::set_nodelay(&stream, self.id);
        let begun = tokio::select! {
            () = stop.cancelled() => return,
            begun = timeout(self.state.timeouts.hello, self.begin(stream)) => begun,
        };
        let Ok(Some((mut socket, ending))) = begun else { return };
        let ending = match ending {
            Some(ending) => Some(ending),
            None => {
                let ending = tokio::select! {
                    ending = self.talk(&mut socket) => ending,
                    () = stop.cancelled() => {
                        self.flush(&mut socket).await;
                        Some(Ending { error: None, code: CloseCode::Away, reason: "Terminating" })
                    }
                };
                self.state.hub.forget(self.id);
                ending
            }
        };
        if let Some(ending) = ending {
            self.end(socket, ending).await;
        }
    }

    /// The upgrade and the subscription. `None`: the connection is over.
    async fn begin(&mut self, stream: TcpStream) -> Option<(Socket, Option<Ending>)> {
        let (wire, subject) = self.secure(stream).await?;
        // Nodes do not check in over WebSocket.
        let admission = &self.state.admission;
        let admitted = admission.check(&mut self.remote, subject.as_deref(), NodePolicy::Refuse, &*self.agent).await;
        let refusal = admitted.err();
        let is_refused = refusal.is_some();
        let metered = Metered::new(wire, Arc::clone(&self.state.budget), self.state.timeouts.message);
        let mut objection = None;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        let upgrade = Upgrading { refusal, objection: &mut objection };
        let mut socket = match accept_hdr_async_with_config(metered, upgrade, Some(config)).await {
            Ok(socket) => socket,
            // The client has been told, and the refusal has been recorded.
            Err(_) if is_refused => return None,
            Err(error) => {
                tracing::debug!(connection = self.id, %error, "no WebSocket connection came of it");
                self.agent.malformed(
                    self.remote.source.clone(),
                    String::new(),
                    format!("no WebSocket upgrade: {error}"),
                );
                return None;
            }
        };
        socket.get_mut().settle();
        if let Some((code, context)) = objection {
            self.reject(context.clone());
            let error = Some((code, context));
            return Some((socket, Some(Ending { error, code: CloseCode::Policy, reason: code.as_str() })));
        }
        let text = loop {
            match self.next(&mut socket).await {
                Ok(Some(Message::Text(text))) => break text,
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(ending) => return Some((socket, Some(ending))),
            }
        };
        let topics = match json::read_subscriptions(text.as_str().as_bytes(), &limits()) {
            Ok(topics) if topics.len() <= TOPICS_LIMIT && topics.iter().all(|topic| topic.len() <= TOPIC_LIMIT) => {
                topics
            }
            Ok(_) => {
                let context =
                    format!("at most {TOPICS_LIMIT} subscriptions of at most {TOPIC_LIMIT} bytes are possible");
                return Some((socket, Some(self.no_subscription(context))));
            }
            Err(error) => return Some((socket, Some(self.no_subscription(error.to_string())))),
        };
        drop(text);
        // Messages from here on are queued behind the ack: a client that has the ack misses nothing.
        self.state.hub.subscribe(self.id, Filter::new(topics));
        self.is_subscribed = true;
        self.agent.subscribed();
        let ack = json::write_ack(&self.state.hub.options().endpoint, env!("CARGO_PKG_VERSION"));
        if !self.send(&mut socket, ack.into()).await {
            return None;
        }
        Some((socket, None))
    }

    /// The TLS handshake, if TLS is configured, and the subject of the client's certificate, if it was verified.
    async fn secure(&mut self, stream: TcpStream) -> Option<(Wire, Option<String>)> {
        let Some(context) = &self.state.tls else {
            // Only peeked at: the upgrade reads it again.
            let mut first = [0; 1];
            if stream.peek(&mut first).await.is_ok_and(|read| read > 0) && tls::speaks_tls(&first) {
                self.reject("the client speaks TLS, and this listener has no certificate; ask at ws://".to_owned());
                return None;
            }
            return Some((Wire::Plain(stream), None));
        };
        match context.accept(stream, self.state.timeouts.hello).await {
            Ok(stream) => {
                let subject = tls::subject(stream.ssl());
                Some((Wire::Tls(Box::new(stream)), subject))
            }
            Err(error) => {
                self.reject(format!("no TLS connection: {}", chain(&error)));
                None
            }
        }
    }

    fn no_subscription(&self, context: String) -> Ending {
        self.reject(context.clone());
        let error = Some((ErrorCode::DeserializationFailed, context));
        Ending { error, code: CloseCode::Policy, reason: "no subscription" }
    }

    /// Receives and sends until one side ends it. `None`: there is nobody left to tell.
    async fn talk(&mut self, socket: &mut Socket) -> Option<Ending> {
        let mut pings = interval(self.state.timeouts.ping);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.tick().await;
        let mut heard = true;
        loop {
            tokio::select! {
                message = next_message(socket) => match self.judge(socket, message) {
                    Ok(Some(message)) => {
                        heard = true;
                        if let Message::Text(text) = message
                            && !self.answer(socket, text).await
                        {
                            return None;
                        }
                    }
                    Ok(None) => return None,
                    Err(ending) => return Some(ending),
                },
                Some(queued) = self.queue.recv() => {
                    if !self.deliver(socket, queued).await {
                        return None;
                    }
                }
                _ = pings.tick() => {
                    if !heard {
                        return Some(Ending { error: None, code: CloseCode::Error, reason: "Ping timeout" });
                    }
                    heard = false;
                    if timeout(self.state.timeouts.write, socket.send(Message::Ping(Vec::new().into()))).await.is_err() {
                        return None;
                    }
                }
            }
        }
    }

    /// Handles a message, once there is room for it, and sends the immediate answers. `false`: the connection is over.
    async fn answer(&mut self, socket: &mut Socket, text: Utf8Bytes) -> bool {
        let is_large = text.len() > LARGE_MESSAGE;
        if is_large && !self.wait_for_room(socket, text.len()).await {
            return false;
        }
        let answers = self.handle(text.as_str());
        drop(text);
        if is_large {
            self.agent.room_over(self.id);
        }
        for answer in answers {
            if !self.send(socket, answer).await {
                return false;
            }
        }
        true
    }

    /// Waits until there is room for what was read, without reading more; answers are sent meanwhile. `false`: the
    /// connection is over.
    async fn wait_for_room(&mut self, socket: &mut Socket, bytes: usize) -> bool {
        let (agent, source, id) = (Arc::clone(&self.agent), self.remote.source.clone(), self.id);
        let room = agent.room(id, &source, bytes);
        tokio::pin!(room);
        loop {
            tokio::select! {
                () = &mut room => return true,
                Some(queued) = self.queue.recv() => {
                    if !self.deliver(socket, queued).await {
                        return false;
                    }
                }
            }
        }
    }

    async fn next(&self, socket: &mut Socket) -> Result<Option<Message>, Ending> {
        let message = next_message(socket).await;
        self.judge(socket, message)
    }

    /// Sorts what was received: a message, the end (`None`), or a reason to end the connection.
    fn judge(&self, socket: &mut Socket, message: Option<Result<Message, WsError>>) -> Result<Option<Message>, Ending> {
        let (code, reason, error) = match message {
            None => return Ok(None),
            Some(Ok(message @ Message::Text(_))) => {
                socket.get_mut().settle();
                return Ok(Some(message));
            }
            Some(Ok(message @ (Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)))) => {
                socket.get_mut().settle_control(message.len());
                return Ok(Some(message));
            }
            Some(Ok(Message::Binary(_))) => {
                (CloseCode::Unsupported, "text frames only", "a binary frame, where only text is understood".to_owned())
            }
            Some(Err(error @ WsError::Capacity(_))) => (CloseCode::Size, "message too long", error.to_string()),
            Some(Err(error @ WsError::Utf8(_))) => (CloseCode::Invalid, "text is not UTF-8", error.to_string()),
            Some(Err(WsError::Io(error))) if error.kind() == io::ErrorKind::TimedOut => {
                (CloseCode::Policy, "message too slow", "a whole message did not come in time".to_owned())
            }
            // The client is gone: not an error, and nobody to tell.
            Some(Err(
                WsError::Io(_)
                | WsError::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake),
            )) => return Ok(None),
            Some(Err(error)) => (CloseCode::Protocol, "protocol error", error.to_string()),
        };
        self.reject(error);
        Err(Ending { error: None, code, reason })
    }

    fn publisher(&self) -> Publisher<'_, A> {
        Publisher { id: self.id, source: &self.remote.source, agent: &self.agent }
    }

    fn reject(&self, error: String) {
        self.state.hub.reject(&self.publisher(), String::new(), error);
    }

    /// Handles what the client published. Returns the immediate answers.
    fn handle(&self, text: &str) -> Vec<Utf8Bytes> {
        let (topic, data) = match json::read_message(text.as_bytes(), &limits()) {
            Ok(json::Message::Data { topic, data }) => (topic, data),
            Ok(json::Message::Ack { .. } | json::Message::Error { .. }) => {
                return vec![self.error(ErrorCode::DeserializationFailed, "no data message".to_owned())];
            }
            Err(error) => {
                return vec![self.error(ErrorCode::DeserializationFailed, error.context())];
            }
        };
        let Some(dialect) = self.state.hub.dialect_of(&topic) else {
            let agent = &self.state.hub.options().instance;
            let context = format!("nobody listens on {:?} here; this is the agent of {agent}", clip(&topic));
            return vec![self.error(ErrorCode::BrokerError, context)];
        };
        self.state.hub.take(&self.publisher(), dialect, data)
    }

    fn error(&self, code: ErrorCode, context: String) -> Utf8Bytes {
        let text = json::write_error(code, &context).into();
        self.reject(context);
        text
    }

    async fn deliver(&self, socket: &mut Socket, queued: Queued<Utf8Bytes>) -> bool {
        let Queued { message, share, route } = queued;
        let sent = self.send(socket, message).await;
        drop(share);
        if let (true, Some(route)) = (sent, route) {
            self.agent.delivered(route);
        }
        sent
    }

    /// Sends, and waits until the kernel has it. `false`: the connection is over.
    async fn send(&self, socket: &mut Socket, text: Utf8Bytes) -> bool {
        match timeout(self.state.timeouts.write, socket.send(Message::Text(text))).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(connection = self.id, %error, "WebSocket connection lost");
                false
            }
            Err(_) => {
                tracing::warn!(connection = self.id, "WebSocket connection cut: its client does not read");
                false
            }
        }
    }

    /// Sends the client what is queued for it, within the time limit.
    async fn flush(&mut self, socket: &mut Socket) {
        let limit = self.state.timeouts.flush;
        let all = async {
            while let Ok(queued) = self.queue.try_recv() {
                if !self.deliver(socket, queued).await {
                    break;
                }
            }
        };
        // What was not sent in time is sent again after the next start.
        let _ = timeout(limit, all).await;
    }

    /// Tells the client why, and drains what it still sends until it has seen that: unread data would make the kernel
    /// reset the connection and discard our last message.
    async fn end(&self, mut socket: Socket, ending: Ending) {
        tracing::debug!(connection = self.id, reason = ending.reason, "WebSocket connection ended");
        let farewell = async {
            if let Some((code, context)) = &ending.error {
                socket.send(Message::Text(json::write_error(*code, context).into())).await?;
            }
            socket.close(Some(CloseFrame { code: ending.code, reason: ending.reason.into() })).await
        };
        if let Ok(Ok(())) = timeout(self.state.timeouts.flush, farewell).await {
            // A client that goes on sending is cut off.
            let _ = timeout(self.state.timeouts.flush, tcp::drain(socket.get_mut().wire())).await;
        }
    }
}

async fn next_message(socket: &mut Socket) -> Option<Result<Message, WsError>> {
    socket.next().await
}

fn limits() -> Limits {
    Limits { bytes: MESSAGE_LIMIT, ..Limits::default() }
}

/// A peer's text, shortened for a message.
fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Checks the upgrade request. Clients that may not send requests are refused with `refusal`, and so are browsers: any
/// page that a browser shows could otherwise control the agent.
struct Upgrading<'a> {
    refusal: Option<String>,
    objection: &'a mut Objection,
}

impl Callback for Upgrading<'_> {
    fn on_request(self, head: &Head, response: Upgrade) -> Result<Upgrade, ErrorResponse> {
        if let Some(problem) = self.refusal.or_else(|| check_origin(head.headers()).err()) {
            let length = HeaderValue::from(problem.len());
            let mut refusal = ErrorResponse::new(Some(problem));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            let headers = refusal.headers_mut();
            headers.insert("Connection", HeaderValue::from_static("close"));
            headers.insert("Content-Type", HeaderValue::from_static("text/plain; charset=utf-8"));
            headers.insert("Content-Length", length);
            return Err(refusal);
        }
        let path = head.uri().path();
        let name = head.headers().get("X-Application-Name");
        if path != PATH {
            *self.objection =
                Some((ErrorCode::InvalidUri, format!("nothing at {:?}; the API is at {PATH}", clip(path))));
        } else if name.is_some_and(|name| !is_application_name(name.as_bytes())) {
            let context = "X-Application-Name is not made of letters, digits and -/_.=:*@".to_owned();
            *self.objection = Some((ErrorCode::InvalidApplicationName, context));
        }
        Ok(response)
    }
}

fn is_application_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-/_.=:*@".contains(byte))
}

/// Programs send no `Origin`, or the address they connect to. A browser sends the site of the page that connects.
fn check_origin(headers: &HeaderMap) -> Result<(), String> {
    let Some(origin) = headers.get("Origin") else { return Ok(()) };
    let text = |value: &[u8]| String::from_utf8_lossy(value).to_ascii_lowercase();
    let origin = text(origin.as_bytes());
    let site = origin.split_once("://").map_or("", |(_, site)| site);
    let host = headers.get("Host").map(|host| text(host.as_bytes())).unwrap_or_default();
    // The owner of a name could make it resolve to this host.
    let name = site.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(site, |(name, _)| name);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if site == host && (is_address || name == "localhost") {
        return Ok(());
    }
    Err(format!("connections from web pages ({}) are not accepted", clip(&origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(origin: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("Host", host.parse().unwrap());
        headers.insert("Origin", origin.parse().unwrap());
        check_origin(&headers).is_ok()
    }

    #[test]
    fn web_pages_are_turned_away_and_programs_are_not() {
        assert!(check_origin(&HeaderMap::new()).is_ok());
        assert!(origin("http://127.0.0.1:2151", "127.0.0.1:2151"));
        assert!(origin("http://[::1]:2151", "[::1]:2151"));
        assert!(origin("http://localhost:2151", "localhost:2151"));
        for (site, host) in [
            ("https://evil.example", "127.0.0.1:2151"),
            ("http://evil.example:2151", "evil.example:2151"),
            ("http://127.0.0.1:80", "127.0.0.1:2151"),
            ("null", "127.0.0.1:2151"),
            ("null", ""),
        ] {
            assert!(!origin(site, host), "{site}");
        }
    }

    #[test]
    fn application_names_are_zeeks() {
        assert!(is_application_name(b"my-app/1.0_x=y:z*@host"));
        for bad in [&b""[..], b"a b", b"a;b", "ä".as_bytes()] {
            assert!(!is_application_name(bad));
        }
    }
}

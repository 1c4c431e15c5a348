//! Handshakes, each with a deadline, and the peer's identity afterwards.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use openssl::ssl::{self, ErrorCode, Ssl, SslRef};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509NameRef, X509VerifyResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::explain::{HandshakeError, failed};
use super::{Client, Context};

/// A connection after its handshake.
pub type Stream<S> = SslStream<S>;

/// Longer subjects are cut: the subject goes into every entry that the peer causes.
const SUBJECT_LIMIT: usize = 256;

impl Context {
    /// The server's side of the handshake.
    pub async fn accept<S>(&self, stream: S, limit: Duration) -> Result<Stream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = SslStream::new(Ssl::new(&self.ssl)?, stream)?;
        let outcome = timeout(limit, Pin::new(&mut stream).accept()).await;
        finish(outcome.map_err(|_| HandshakeError::TimedOut(limit))?, stream.ssl())?;
        Ok(stream)
    }

    /// The client's side of the handshake, without checking the server's name.
    pub async fn connect<S>(&self, stream: S, limit: Duration) -> Result<Stream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = SslStream::new(Ssl::new(&self.ssl)?, stream)?;
        let outcome = timeout(limit, Pin::new(&mut stream).connect()).await;
        finish(outcome.map_err(|_| HandshakeError::TimedOut(limit))?, stream.ssl())?;
        Ok(stream)
    }
}

impl Context {
    /// The same over a blocking stream. The stream's read and write timeouts are the deadline.
    pub fn connect_blocking<S: Read + Write>(&self, stream: S) -> Result<ssl::SslStream<S>, HandshakeError> {
        let mut stream = ssl::SslStream::new(Ssl::new(&self.ssl)?, stream)?;
        let outcome = stream.connect();
        finish(outcome, stream.ssl())?;
        Ok(stream)
    }
}

impl Client {
    /// Connects to the server with this name or address; blocks. The stream's read and write timeouts are the deadline.
    pub fn connect<S: Read + Write>(&self, host: &str, stream: S) -> Result<ssl::SslStream<S>, HandshakeError> {
        let mut stream = ssl::SslStream::new(self.prepare(host)?, stream)?;
        let outcome = stream.connect();
        finish(outcome, stream.ssl())?;
        Ok(stream)
    }

    fn prepare(&self, host: &str) -> Result<Ssl, HandshakeError> {
        let mut ssl = Ssl::new(&self.ssl)?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if address.is_err() {
            ssl.set_hostname(host)?;
        }
        let expected = ssl.param_mut();
        expected.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        match address {
            Ok(address) => expected.set_ip(address)?,
            Err(_) => expected.set_host(host)?,
        }
        Ok(ssl)
    }
}

fn finish(outcome: Result<(), ssl::Error>, ssl: &SslRef) -> Result<(), HandshakeError> {
    let Err(error) = outcome else { return Ok(()) };
    let verdict = ssl.verify_result();
    let verdict = (verdict != X509VerifyResult::OK).then(|| verdict.error_string());
    if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) {
        return Err(HandshakeError::Stalled);
    }
    Err(failed(error, verdict))
}

/// The subject of the peer's certificate, as `CN=…,O=…`; `None` unless the certificate was verified.
pub fn subject(ssl: &SslRef) -> Option<String> {
    if !ssl.verify_mode().contains(ssl::SslVerifyMode::PEER) || ssl.verify_result() != X509VerifyResult::OK {
        return None;
    }
    ssl.peer_certificate().map(|certificate| write_name(certificate.subject_name()))
}

/// A name on one line. What would look like another part of the name, or of a log line, is escaped (RFC 4514, section
/// 2.4).
fn write_name(name: &X509NameRef) -> String {
    let mut text = String::new();
    for part in name.entries() {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(part.object().nid().short_name().unwrap_or("?"));
        text.push('=');
        let value = part.data().to_string().unwrap_or_default();
        for character in value.chars() {
            match character {
                ',' | '=' | '+' | '"' | '\\' | '<' | '>' | ';' => text.extend(['\\', character]),
                ' ' => text.push(' '),
                other if other.is_control() || other.is_whitespace() => text.extend(other.escape_unicode()),
                other => text.push(other),
            }
        }
        if text.len() > SUBJECT_LIMIT {
            break;
        }
    }
    if text.len() > SUBJECT_LIMIT {
        let end = (0..=SUBJECT_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

//! Explains TLS errors: OpenSSL's own messages say little to whoever runs the hosts.

use std::io;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{self, ErrorCode};

/// Why a connection could not be established, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the TLS handshake was not done within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("the TLS handshake was not done in time")]
    Stalled,
    #[error("the peer does not speak TLS")]
    PlainPeer,
    #[error("the peer is an HTTP client that does not speak TLS")]
    PlainHttp,
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    #[error("the peer's certificate is not accepted here: {0}")]
    Untrusted(String),
    #[error("the peer shows no certificate, and one is required here")]
    NoCertificate,
    #[error("the peer does not accept our certificate, or misses one: it says {0:?}")]
    Refused(String),
    #[error("no cipher or TLS version in common: probably one side has certificates and the other has none")]
    NothingInCommon,
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    #[error("TLS failed")]
    Library(#[from] ErrorStack),
}

/// Whether a peer's first bytes, on plain TCP, are TLS: a handshake, or an alert about what we sent.
pub fn speaks_tls(first: &[u8]) -> bool {
    matches!(first, [0x15 | 0x16, 3, ..] | [0x15 | 0x16])
}

/// What it means if the stream ends right after our handshake as a client: a TLS 1.3 server that does not accept our
/// certificate can only close the connection then.
pub fn closed_after_handshake() -> &'static str {
    "the peer closed the connection right after the TLS handshake: probably it does not accept our certificate, or we show none"
}

/// The TLS error behind a read or write error, if there is one.
pub fn explain(error: &io::Error) -> Option<HandshakeError> {
    let stack = error.get_ref()?.downcast_ref::<ssl::Error>()?.ssl_error()?;
    Some(judge(stack, None).unwrap_or_else(|| HandshakeError::Library(stack.clone())))
}

/// What a failed handshake means. `verdict` is the problem found with the peer's certificate.
pub(super) fn failed(error: ssl::Error, verdict: Option<&str>) -> HandshakeError {
    if let Some(known) = error.ssl_error().and_then(|stack| judge(stack, verdict)) {
        return known;
    }
    match error.code() {
        ErrorCode::ZERO_RETURN => HandshakeError::Closed,
        _ => match error.into_io_error() {
            Ok(error) if error.kind() == io::ErrorKind::UnexpectedEof => HandshakeError::Closed,
            Ok(error) => HandshakeError::Lost(error),
            Err(error) => match error.ssl_error() {
                Some(stack) => HandshakeError::Library(stack.clone()),
                // Neither a system error nor a TLS error: the end of the stream.
                None => HandshakeError::Closed,
            },
        },
    }
}

/// The number of OpenSSL's library for TLS (`ERR_LIB_SSL`, `openssl/err.h`).
const LIBRARY_TLS: i32 = 20;

/// Reason codes of that library (`openssl/sslerr.h`, the same in every release since 1.1.0).
mod reason {
    pub const CERTIFICATE_VERIFY_FAILED: i32 = 134;
    pub const HTTPS_PROXY_REQUEST: i32 = 155;
    pub const HTTP_REQUEST: i32 = 156;
    pub const NO_PROTOCOLS_AVAILABLE: i32 = 191;
    pub const NO_SHARED_CIPHER: i32 = 193;
    pub const PACKET_LENGTH_TOO_LONG: i32 = 198;
    pub const PEER_DID_NOT_RETURN_A_CERTIFICATE: i32 = 199;
    pub const UNSUPPORTED_PROTOCOL: i32 = 258;
    pub const WRONG_VERSION_NUMBER: i32 = 267;
    pub const UNEXPECTED_EOF_WHILE_READING: i32 = 294;
    /// A peer's alert has its own number (RFC 8446, section 6) plus this.
    pub const ALERT: i32 = 1000;
    pub const ALERT_HANDSHAKE_FAILURE: i32 = ALERT + 40;
    pub const ALERT_PROTOCOL_VERSION: i32 = ALERT + 70;
    pub const ALERT_INSUFFICIENT_SECURITY: i32 = ALERT + 71;
    /// `bad_certificate` to `access_denied`.
    pub const ALERT_CERTIFICATE: std::ops::RangeInclusive<i32> = ALERT + 42..=ALERT + 49;
    pub const ALERT_CERTIFICATE_REQUIRED: i32 = ALERT + 116;
}

/// The first OpenSSL error that has a meaning for us.
fn judge(stack: &ErrorStack, verdict: Option<&str>) -> Option<HandshakeError> {
    stack.errors().iter().filter(|error| error.library_code() == LIBRARY_TLS).find_map(|error| {
        Some(match error.reason_code() {
            reason::CERTIFICATE_VERIFY_FAILED => {
                HandshakeError::Untrusted(verdict.unwrap_or("no reason given").to_owned())
            }
            reason::PEER_DID_NOT_RETURN_A_CERTIFICATE => HandshakeError::NoCertificate,
            reason::HTTP_REQUEST | reason::HTTPS_PROXY_REQUEST => HandshakeError::PlainHttp,
            reason::WRONG_VERSION_NUMBER | reason::PACKET_LENGTH_TOO_LONG => HandshakeError::PlainPeer,
            reason::NO_SHARED_CIPHER
            | reason::UNSUPPORTED_PROTOCOL
            | reason::NO_PROTOCOLS_AVAILABLE
            | reason::ALERT_HANDSHAKE_FAILURE
            | reason::ALERT_PROTOCOL_VERSION
            | reason::ALERT_INSUFFICIENT_SECURITY => HandshakeError::NothingInCommon,
            reason::UNEXPECTED_EOF_WHILE_READING => HandshakeError::Closed,
            alert if reason::ALERT_CERTIFICATE.contains(&alert) || alert == reason::ALERT_CERTIFICATE_REQUIRED => {
                HandshakeError::Refused(error.reason().unwrap_or("no reason given").to_owned())
            }
            _ => return None,
        })
    })
}

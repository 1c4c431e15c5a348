//! TLS for every transport, through OpenSSL: contexts from files, handshakes with a deadline, and plain explanations of
//! errors.
//!
//! OpenSSL, because no other library that we could use supports what Broker does by default (anonymous ECDH); one TLS
//! library for everything is then enough. The system's OpenSSL is used, so that its updates reach the agent.
//!
//! Responsible for: which peers are accepted, and errors that name the file or the side to look at. Left to others:
//! what a transport does with a peer. Sessions are not resumed, so nothing is kept of a peer that is gone, and a client
//! cannot renegotiate on an open connection.

mod context;
mod explain;
mod files;
mod handshake;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub use context::{Client, Context, broker, client, server};
pub use explain::{HandshakeError, closed_after_handshake, explain, speaks_tls};
pub use files::Error;
pub use handshake::{Stream, subject};

/// The passphrase of a private key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(pub String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Broker's options, as in Zeek's `Broker::ssl_*` and `Broker::disable_ssl` (Zeek 8.0, `src/broker/Manager.cc`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerOptions {
    /// PEM: our own first, then the intermediate authorities.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
    pub passphrase: Option<Passphrase>,
    /// PEM, any number of authorities.
    pub cafile: Option<PathBuf>,
    /// A directory as prepared by `openssl rehash`.
    pub capath: Option<PathBuf>,
    pub disable_ssl: bool,
}

/// The mode that Broker derives from its options. Only peers in the same mode understand each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerMode {
    /// No TLS at all.
    Plain,
    /// Encrypted, but neither side is authenticated.
    Anonymous,
    /// Both sides are authenticated.
    Certificates,
}

impl BrokerOptions {
    pub fn mode(&self) -> BrokerMode {
        let Self { certificate, key, passphrase, cafile, capath, disable_ssl } = self;
        let given = certificate.is_some() || key.is_some() || passphrase.is_some();
        match (disable_ssl, given || cafile.is_some() || capath.is_some()) {
            (true, _) => BrokerMode::Plain,
            (false, false) => BrokerMode::Anonymous,
            (false, true) => BrokerMode::Certificates,
        }
    }
}

/// A server that clients know by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// PEM: our own first, then the intermediate authorities.
    pub certificate: PathBuf,
    /// PEM, without passphrase.
    pub key: PathBuf,
    /// PEM. If set, a client needs a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// A client of such a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientOptions {
    /// PEM: the only trusted authorities. Unset: the system's.
    pub ca: Option<PathBuf>,
    /// PEM, for servers that require a client certificate.
    pub certificate: Option<PathBuf>,
    /// PEM, without passphrase. Unset: the key is in the certificate's file.
    pub key: Option<PathBuf>,
}

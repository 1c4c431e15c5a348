//! TLS for every transport, through OpenSSL: contexts from files, handshakes with a deadline, and in words what went wrong.
//!
//! OpenSSL, because what Broker does by default (anonymous ECDH) is in no other library that we could use; one TLS library
//! for all is then enough. It is the system's, so that the system's updates reach us.
//!
//! Answers for: which peers are let through, and that whoever reads an error knows which file or which side to look at.
//! Leaves to others: what a transport does with a peer. Sessions are not resumed, so nothing is kept of a peer that is
//! gone, and a client cannot have the handshake repeated on an open connection.

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

/// What protects a private key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(pub String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Broker's options, as Zeek's `Broker::ssl_*` and `Broker::disable_ssl` have them (Zeek 8.0, `src/broker/Manager.cc`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerOptions {
    /// PEM, our own first, then the authorities between it and the root.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
    pub passphrase: Option<Passphrase>,
    /// PEM, any number of authorities.
    pub cafile: Option<PathBuf>,
    /// A directory as `openssl rehash` makes it.
    pub capath: Option<PathBuf>,
    pub disable_ssl: bool,
}

/// What Broker makes of its options. Only peers in the same mode understand each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerMode {
    /// No TLS at all.
    Plain,
    /// Encrypted, and nobody knows who the other is.
    Anonymous,
    /// Both sides prove who they are.
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
    /// PEM, our own first, then the authorities between it and the root.
    pub certificate: PathBuf,
    /// PEM, without passphrase.
    pub key: PathBuf,
    /// PEM. Set: a client needs a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// A client of such a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientOptions {
    /// PEM: the only authorities that are believed. Unset: the system's.
    pub ca: Option<PathBuf>,
    /// PEM, for servers that want to know who we are.
    pub certificate: Option<PathBuf>,
    /// PEM, without passphrase. Unset: in the certificate's file.
    pub key: Option<PathBuf>,
}

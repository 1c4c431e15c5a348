//! The TLS settings of each transport.

use std::path::Path;

use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::stack::Stack;
use openssl::x509::X509Name;

use super::files::{self, Error};
use super::{BrokerMode, BrokerOptions, ClientOptions, ServerOptions};

/// For both roles, or for a server.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) ssl: SslContext,
}

/// For clients that know the name of their server.
#[derive(Clone)]
pub struct Client {
    pub(super) ssl: SslContext,
}

fn builder() -> Result<SslContextBuilder, Error> {
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // Deployed peers close without close_notify; frames have lengths, so truncation is noticed there.
    builder.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // The middle two are for asynchronous writes, which may be retried from another buffer; the last is for idle
    // connections.
    builder.set_mode(
        SslMode::AUTO_RETRY
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::RELEASE_BUFFERS,
    );
    Ok(builder)
}

/// Configured as in Broker 2.3 to 2.8 (`internal/connector.cc`, `ssl_context_from_cfg`); `None` for plain TCP.
///
/// Neither mode uses names: no SNI is sent, and only a certificate's chain is verified. System authorities are not
/// trusted.
pub fn broker(options: &BrokerOptions) -> Result<Option<Context>, Error> {
    let mut builder = match options.mode() {
        BrokerMode::Plain => return Ok(None),
        BrokerMode::Anonymous => {
            let mut builder = builder()?;
            // Anonymous suites need the lowest security level.
            builder.set_cipher_list("AECDH-AES256-SHA@SECLEVEL=0")?;
            builder.set_groups_list("P-384")?;
            builder.set_verify(SslVerifyMode::NONE);
            return Ok(Some(Context { ssl: builder.build() }));
        }
        BrokerMode::Certificates => builder()?,
    };
    let incomplete = |given, missing, why| Error::Incomplete { given, missing, why };
    let both = "Broker has either no certificates or certificates on both sides";
    let Some(certificate) = &options.certificate else {
        let given = match options {
            BrokerOptions { key: Some(_), .. } => "private key",
            BrokerOptions { passphrase: Some(_), .. } => "passphrase",
            BrokerOptions { cafile: Some(_), .. } => "CA file",
            _ => "CA directory",
        };
        return Err(incomplete(given, "certificate", both));
    };
    let Some(key) = &options.key else {
        return Err(incomplete("certificate", "private key", both));
    };
    if options.cafile.is_none() && options.capath.is_none() {
        let why = "without authorities no peer's certificate would be believed";
        return Err(incomplete("certificate", "CA file or directory", why));
    }
    builder.set_cipher_list("HIGH:!aNULL:!MD5")?;
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    files::show(&mut builder, certificate, key, options.passphrase.as_ref())?;
    builder.set_cert_store(files::trust(options.cafile.as_deref(), options.capath.as_deref())?);
    Ok(Some(Context { ssl: builder.build() }))
}

/// Cipher suites that current clients accept, and nothing older.
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL";

pub fn server(options: &ServerOptions) -> Result<Context, Error> {
    let mut builder = builder()?;
    builder.set_cipher_list(CIPHERS)?;
    builder.set_verify(SslVerifyMode::NONE);
    files::show(&mut builder, &options.certificate, &options.key, None)?;
    if let Some(authorities) = &options.client_ca {
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        builder.set_cert_store(files::trust(Some(authorities), None)?);
        builder.set_client_ca_list(names(authorities)?);
    }
    Ok(Context { ssl: builder.build() })
}

/// The subjects of the authorities in a file: clients with several certificates choose by them.
fn names(authorities: &Path) -> Result<Stack<X509Name>, Error> {
    Ok(X509Name::load_client_ca_file(authorities)?)
}

pub fn client(options: &ClientOptions) -> Result<Client, Error> {
    let mut builder = builder()?;
    builder.set_cipher_list(CIPHERS)?;
    builder.set_verify(SslVerifyMode::PEER);
    match &options.ca {
        Some(authorities) => builder.set_cert_store(files::trust(Some(authorities), None)?),
        None => builder.set_default_verify_paths()?,
    }
    match (&options.certificate, &options.key) {
        (Some(certificate), key) => {
            files::show(&mut builder, certificate, key.as_ref().unwrap_or(certificate), None)?;
        }
        (None, Some(_)) => {
            let why = "name the certificate that belongs to it";
            return Err(Error::Incomplete { given: "private key", missing: "certificate", why });
        }
        (None, None) => {}
    }
    Ok(Client { ssl: builder.build() })
}

//! Loads certificates, keys and authorities from files.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContextBuilder, SslFiletype};
use openssl::x509::X509;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};

use super::Passphrase;

/// Why TLS cannot be set up. Each variant names what has to be fixed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the {what} {}", path.display())]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM form (\"-----BEGIN …\")", path.display())]
    NotPem { what: &'static str, path: PathBuf },
    #[error("the {what} {} cannot be decoded; is it damaged, or cut off?", path.display())]
    Decode { what: &'static str, path: PathBuf, source: ErrorStack },
    #[error("the private key {} is encrypted, and no passphrase is configured for it; set one, or decrypt the key", path.display())]
    Encrypted { path: PathBuf },
    #[error("the passphrase does not open the private key {}; correct it", path.display())]
    WrongPassphrase { path: PathBuf },
    #[error(
        "the private key {} does not belong to the (first) certificate in {}; give the two that were made together",
        key.display(), certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("a {given} is configured, and no {missing}; {why}")]
    Incomplete { given: &'static str, missing: &'static str, why: &'static str },
    #[error("OpenSSL refuses the certificate {}", path.display())]
    Refused { path: PathBuf, source: ErrorStack },
    #[error("OpenSSL does not offer what this needs")]
    Library(#[from] ErrorStack),
}

/// Far larger than any bundle of authorities.
const FILE_LIMIT: u64 = 16 << 20;

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { what, path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_LIMIT {
        return Err(failed(io::Error::other(format!("it has {size} bytes"))));
    }
    fs::read(path).map_err(failed)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<X509>, Error> {
    let pem = read(what, path)?;
    let found = X509::stack_from_pem(&pem).map_err(|source| Error::Decode { what, path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(Error::NotPem { what, path: path.to_owned() });
    }
    Ok(found)
}

fn private_key(path: &Path, passphrase: Option<&Passphrase>) -> Result<PKey<Private>, Error> {
    let pem = read("private key", path)?;
    let path = path.to_owned();
    if !pem.windows(12).any(|part| part == b"PRIVATE KEY-") {
        return Err(Error::NotPem { what: "private key", path });
    }
    let asked = Cell::new(false);
    // Without a callback OpenSSL would ask on the terminal.
    let key = PKey::private_key_from_pem_callback(&pem, |room| {
        asked.set(true);
        let given = passphrase.map_or("", |passphrase| passphrase.0.as_str()).as_bytes();
        room.get_mut(..given.len()).ok_or_else(ErrorStack::get)?.copy_from_slice(given);
        Ok(given.len())
    });
    key.map_err(|source| match (asked.get(), passphrase) {
        (true, None) => Error::Encrypted { path },
        (true, Some(_)) => Error::WrongPassphrase { path },
        (false, _) => Error::Decode { what: "private key", path, source },
    })
}

/// Makes `builder` present the certificate, with all that follow it in its file.
pub(super) fn show(
    builder: &mut SslContextBuilder,
    certificate: &Path,
    key: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<(), Error> {
    let mut chain = certificates("certificate", certificate)?.into_iter();
    let private = private_key(key, passphrase)?;
    let refused = |source| Error::Refused { path: certificate.to_owned(), source };
    if let Some(own) = chain.next() {
        let public = own.public_key().map_err(refused)?;
        if !public.public_eq(&private) {
            return Err(Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() });
        }
        builder.set_certificate(&own).map_err(refused)?;
    }
    for between in chain {
        builder.add_extra_chain_cert(between).map_err(refused)?;
    }
    builder.set_private_key(&private).map_err(refused)
}

/// The trusted authorities: those of the file and of the directory, and no others.
pub(super) fn trust(file: Option<&Path>, dir: Option<&Path>) -> Result<X509Store, Error> {
    let mut store = X509StoreBuilder::new()?;
    if let Some(path) = file {
        for authority in certificates("CA file", path)? {
            store.add_cert(authority).map_err(|source| Error::Refused { path: path.to_owned(), source })?;
        }
    }
    if let Some(path) = dir {
        let failed = |source| Error::Read { what: "CA directory", path: path.to_owned(), source };
        fs::read_dir(path).map_err(failed)?;
        let name = path.to_str().ok_or_else(|| failed(io::Error::other("its name is not UTF-8")))?;
        store.add_lookup(X509Lookup::hash_dir())?.add_dir(name, SslFiletype::PEM)?;
    }
    Ok(store.build())
}

//! Pairs of CURVE keys for clusters on ZeroMQ: making them, and checking those of a directory.
//!
//! All nodes of a cluster have the same client pair; whoever accepts connections (the manager and the loggers) has the
//! server pair, and the others its public half. Each key is a file of its own, which only its owner can read. Nothing here
//! says what a key is.
//!
//! Source: zmq_curve(7), and `ZEEK_CLUSTER_BACKEND_ZEROMQ_CURVE_*` in `policy/frameworks/cluster/backend/zeromq` of Zeek 8.2.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey};

use crate::api::curve::{self, Malformed};
use crate::regular_file;

/// The files of a directory of keys.
pub const SERVER_PUBLIC: &str = "server.public";
pub const SERVER_SECRET: &str = "server.secret";
pub const CLIENT_PUBLIC: &str = "client.public";
pub const CLIENT_SECRET: &str = "client.secret";

/// Far more than a key has.
const FILE_LIMIT: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the key {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the key {} cannot be used: {problem}; make new ones with `zeek-cluster-agent zeek keys DIR`", path.display())]
    Malformed { path: PathBuf, problem: Malformed },
    #[error("the key {} can be read by others (mode {mode:04o}); make it its owner's alone (chmod 600)", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the keys {} and {} are not a pair; take both from the same run of `zeek-cluster-agent zeek keys DIR`",
        public.display(), secret.display())]
    NoPair { public: PathBuf, secret: PathBuf },
    #[error("{} is there already; name another directory, or remove it first", path.display())]
    There { path: PathBuf },
    #[error("cannot write the key {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("OpenSSL does not offer what this needs")]
    Library(#[from] ErrorStack),
}

/// Makes both pairs, in a directory that is made if it is not there. Overwrites nothing.
pub fn make(directory: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    let pairs = [(SERVER_PUBLIC, SERVER_SECRET), (CLIENT_PUBLIC, CLIENT_SECRET)];
    for name in pairs.iter().flat_map(|(public, secret)| [public, secret]) {
        let path = directory.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Error::There { path });
        }
    }
    for (public, secret) in pairs {
        let pair = PKey::generate_x25519()?;
        for (name, key) in [(secret, pair.raw_private_key()?), (public, pair.raw_public_key()?)] {
            let path = directory.join(name);
            let key: [u8; 32] = key.try_into().map_err(|_| ErrorStack::get())?;
            let written =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut file| {
                    file.write_all(format!("{}\n", curve::encode(&key)).as_bytes())?;
                    file.sync_all()
                });
            written.map_err(failed(&path))?;
        }
    }
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed(directory))
}

/// Checks the keys of a directory. The server's secret key is needed only where the manager or a logger runs, so it may be
/// missing; whether it is there is returned.
pub fn check(directory: &Path) -> Result<bool, Error> {
    pair(&directory.join(CLIENT_PUBLIC), &directory.join(CLIENT_SECRET))?;
    let (public, secret) = (directory.join(SERVER_PUBLIC), directory.join(SERVER_SECRET));
    match fs::symlink_metadata(&secret) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => read(&public).map(|_| false),
        Ok(_) | Err(_) => pair(&public, &secret).map(|()| true),
    }
}

fn pair(public: &Path, secret: &Path) -> Result<(), Error> {
    let (given, private) = (read(public)?, read(secret)?);
    let made = PKey::private_key_from_raw_bytes(&private, Id::X25519)?.raw_public_key()?;
    if made == given {
        return Ok(());
    }
    Err(Error::NoPair { public: public.to_owned(), secret: secret.to_owned() })
}

/// A key's bytes.
fn read(path: &Path) -> Result<[u8; 32], Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = regular_file::read(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Open { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text).map_err(failed)?;
    curve::decode(&text).map_err(|problem| Error::Malformed { path: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_for_their_owner_alone_and_fit() {
        let scratch = tempfile::tempdir().unwrap();
        let (first, second) = (scratch.path().join("a/first"), scratch.path().join("second"));
        make(&first).unwrap();
        make(&second).unwrap();
        assert!(check(&first).unwrap());
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o700);
        for name in [SERVER_PUBLIC, SERVER_SECRET, CLIENT_PUBLIC, CLIENT_SECRET] {
            assert_eq!(fs::metadata(first.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
            assert_ne!(fs::read(first.join(name)).unwrap(), fs::read(second.join(name)).unwrap());
        }
        assert!(matches!(make(&first), Err(Error::There { .. })));

        fs::remove_file(first.join(SERVER_SECRET)).unwrap();
        assert!(!check(&first).unwrap(), "a host of workers");
        fs::copy(second.join(SERVER_SECRET), first.join(SERVER_SECRET)).unwrap();
        assert!(matches!(check(&first), Err(Error::NoPair { .. })));
    }

    /// libzmq's own pair, of zmq_curve(7).
    #[test]
    fn pairs_of_libzmq_fit() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for (public, secret) in [(CLIENT_PUBLIC, CLIENT_SECRET), (SERVER_PUBLIC, SERVER_SECRET)] {
            for (name, key) in [
                (public, "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"),
                (secret, "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"),
            ] {
                fs::write(path(name), format!("{key}\n")).unwrap();
                fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
        assert!(check(scratch.path()).unwrap());
        fs::set_permissions(path(CLIENT_SECRET), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(check(scratch.path()).unwrap_err().to_string().contains("(mode 0640)"));
        fs::set_permissions(path(CLIENT_SECRET), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path(CLIENT_SECRET), "short").unwrap();
        let error = check(scratch.path()).unwrap_err().to_string();
        assert!(error.contains("it has 5 characters, and a CURVE key has 40") && !error.contains("short"), "{error}");
        fs::remove_file(path(CLIENT_SECRET)).unwrap();
        assert!(matches!(check(scratch.path()), Err(Error::Read { .. })));
    }
}

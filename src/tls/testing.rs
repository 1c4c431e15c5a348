//! Certificates for tests, newly created each time.

use std::fs;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder, X509NameRef};

/// An authority that signs whatever it is asked to.
pub struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

/// A certificate with its key, in files.
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn key() -> PKey<Private> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap()
}

fn name(common: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common).unwrap();
    name.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Example, Inc.").unwrap();
    name.build()
}

fn begin(subject: &X509Name, issuer: &X509NameRef, key: &PKey<Private>) -> X509Builder {
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder
}

impl Authority {
    pub fn new(common: &str) -> Self {
        let (key, name) = (key(), name(common));
        let mut builder = begin(&name, &name, &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: builder.build() }
    }

    /// Writes the authority's own certificate to a file in this directory.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        fs::write(&path, self.certificate.to_pem().unwrap()).unwrap();
        path
    }

    /// A certificate for this common name, valid for 127.0.0.1 and localhost, in files in this directory. With a
    /// passphrase, its key is encrypted.
    pub fn issue(&self, dir: &Path, common: &str, passphrase: Option<&str>) -> Issued {
        let key = key();
        let mut builder = begin(&name(common), self.certificate.subject_name(), &key);
        let hosts = SubjectAlternativeName::new()
            .ip("127.0.0.1")
            .dns("localhost")
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(hosts).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let pem = match passphrase {
            Some(passphrase) => {
                key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), passphrase.as_bytes()).unwrap()
            }
            None => key.private_key_to_pem_pkcs8().unwrap(),
        };
        let stem: String = common.chars().filter(|character| character.is_ascii_alphanumeric()).collect();
        let issued = Issued { certificate: dir.join(format!("{stem}.pem")), key: dir.join(format!("{stem}.key.pem")) };
        fs::write(&issued.certificate, builder.build().to_pem().unwrap()).unwrap();
        fs::write(&issued.key, pem).unwrap();
        issued
    }
}

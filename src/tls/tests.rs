//! Two sides of a handshake over memory, in every combination that meets in the field.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::testing::{Authority, Issued};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

type Outcome = Result<Stream<DuplexStream>, HandshakeError>;

/// Connects two contexts: what the acceptor and what the connector made of it.
async fn meet(acceptor: &Context, connector: &Context) -> (Outcome, Outcome) {
    let (a, b) = duplex(1 << 16);
    tokio::join!(acceptor.accept(a, PATIENCE), connector.connect(b, PATIENCE))
}

/// What the acceptor says is heard at the other end.
async fn carries(mut acceptor: Stream<DuplexStream>, mut connector: Stream<DuplexStream>) {
    acceptor.write_all(b"probe").await.unwrap();
    let mut heard = [0; 5];
    connector.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"probe");
}

fn certified(issued: &Issued, ca: &Path) -> BrokerOptions {
    BrokerOptions {
        certificate: Some(issued.certificate.clone()),
        key: Some(issued.key.clone()),
        cafile: Some(ca.to_owned()),
        ..BrokerOptions::default()
    }
}

fn context(options: &BrokerOptions) -> Context {
    broker(options).unwrap().expect("this mode has TLS")
}

#[test]
fn any_certificate_option_makes_certificates_the_mode_and_disable_ssl_wins() {
    assert_eq!(BrokerOptions::default().mode(), BrokerMode::Anonymous);
    let some = || Some(PathBuf::from("x"));
    for options in [
        BrokerOptions { certificate: some(), ..Default::default() },
        BrokerOptions { key: some(), ..Default::default() },
        BrokerOptions { passphrase: Some(Passphrase("x".into())), ..Default::default() },
        BrokerOptions { cafile: some(), ..Default::default() },
        BrokerOptions { capath: some(), ..Default::default() },
    ] {
        assert_eq!(options.mode(), BrokerMode::Certificates);
        assert!(matches!(broker(&options), Err(Error::Incomplete { .. })), "{options:?}");
        assert_eq!(BrokerOptions { disable_ssl: true, ..options }.mode(), BrokerMode::Plain);
    }
    assert!(broker(&BrokerOptions { disable_ssl: true, ..Default::default() }).unwrap().is_none());
}

#[test]
fn by_default_brokers_meet_anonymously() {
    block_on(async {
        let context = context(&BrokerOptions::default());
        let (acceptor, connector) = meet(&context, &context).await;
        let (acceptor, connector) = (acceptor.unwrap(), connector.unwrap());
        let cipher = connector.ssl().current_cipher().unwrap();
        assert_eq!((cipher.name(), connector.ssl().version_str()), ("AECDH-AES256-SHA", "TLSv1.2"));
        assert_eq!(subject(acceptor.ssl()), None);
        carries(acceptor, connector).await;
    });
}

#[test]
fn with_certificates_both_sides_prove_themselves_whatever_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("field");
    let ca = authority.write(dir.path());
    let controller = authority.issue(dir.path(), "controller", None);
    let agent = authority.issue(dir.path(), "agent", Some("open, sesame"));
    let agent = BrokerOptions { passphrase: Some(Passphrase("open, sesame".into())), ..certified(&agent, &ca) };
    block_on(async {
        let (acceptor, connector) = meet(&context(&agent), &context(&certified(&controller, &ca))).await;
        let (acceptor, connector) = (acceptor.unwrap(), connector.unwrap());
        assert_eq!(connector.ssl().version_str(), "TLSv1.3");
        assert_eq!(connector.ssl().servername(openssl::ssl::NameType::HOST_NAME), None);
        assert_eq!(subject(acceptor.ssl()).unwrap(), r"CN=controller,O=Example\, Inc.");
        assert_eq!(subject(connector.ssl()).unwrap(), r"CN=agent,O=Example\, Inc.");
        carries(acceptor, connector).await;
    });
}

#[test]
fn authorities_may_be_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("field");
    let ca = authority.write(dir.path());
    let agent = authority.issue(dir.path(), "agent", None);
    // As `openssl rehash` names it.
    let hash = openssl::x509::X509::from_pem(&fs::read(&ca).unwrap()).unwrap().subject_name_hash();
    let capath = dir.path().join("authorities");
    fs::create_dir(&capath).unwrap();
    fs::copy(&ca, capath.join(format!("{hash:08x}.0"))).unwrap();
    let options = BrokerOptions { cafile: None, capath: Some(capath), ..certified(&agent, &ca) };
    block_on(async {
        let (acceptor, connector) = meet(&context(&options), &context(&options)).await;
        carries(acceptor.unwrap(), connector.unwrap()).await;
    });
}

#[test]
fn a_stranger_is_told_from_a_friend_on_either_side() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let our_ca = ours.write(dir.path());
    let agent = ours.issue(dir.path(), "agent", None);
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let stranger = theirs.issue(&elsewhere, "stranger", None);
    block_on(async {
        // It believes us, we do not believe it. In TLS 1.3 it learns of it after its own handshake.
        let (acceptor, connector) =
            meet(&context(&certified(&agent, &our_ca)), &context(&certified(&stranger, &our_ca))).await;
        let error = acceptor.unwrap_err();
        assert!(matches!(&error, HandshakeError::Untrusted(why) if why.contains("issuer")), "{error}");
        let mut connector = connector.unwrap();
        let error = connector.read_u8().await.unwrap_err();
        assert!(matches!(explain(&error), Some(HandshakeError::Refused(_))), "{error}");

        // The other way round.
        let (acceptor, connector) =
            meet(&context(&certified(&stranger, &our_ca)), &context(&certified(&agent, &our_ca))).await;
        assert!(matches!(connector.unwrap_err(), HandshakeError::Untrusted(_)));
        assert!(matches!(acceptor.unwrap_err(), HandshakeError::Refused(_)));
    });
}

#[test]
fn who_has_certificates_and_who_has_none_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("field");
    let agent = context(&certified(&authority.issue(dir.path(), "agent", None), &authority.write(dir.path())));
    let anonymous = context(&BrokerOptions::default());
    block_on(async {
        // They agree on TLS 1.3, in which a connector verifies nothing if told so, and learns the rest afterwards.
        let (acceptor, connector) = meet(&agent, &anonymous).await;
        let error = acceptor.unwrap_err();
        assert!(matches!(error, HandshakeError::NoCertificate), "{error:?}");
        let error = connector.unwrap().read_u8().await.unwrap_err();
        assert!(matches!(explain(&error), Some(HandshakeError::Refused(_))), "{error:?}");

        let (acceptor, connector) = meet(&anonymous, &agent).await;
        for error in [acceptor.unwrap_err(), connector.unwrap_err()] {
            assert!(matches!(error, HandshakeError::NothingInCommon), "{error:?}");
        }
    });
}

#[test]
fn who_speaks_plain_is_recognised_and_so_is_who_speaks_tls() {
    let context = context(&BrokerOptions::default());
    block_on(async {
        // A plain Broker acceptor's probe, for a connector that speaks TLS.
        let (a, mut b) = duplex(1 << 16);
        b.write_all(b"\0\0\0\x05\x07ZEEK").await.unwrap();
        assert!(matches!(context.connect(a, PATIENCE).await.unwrap_err(), HandshakeError::PlainPeer));
        let mut hello = [0; 3];
        b.read_exact(&mut hello).await.unwrap();
        assert!(speaks_tls(&hello));

        // A plain Broker connector's hello, for an acceptor that speaks TLS; what comes back is an alert or nothing.
        let (a, mut b) = duplex(1 << 16);
        b.write_all(b"\0\0\0\x17\x06ZEEK0123456789abcdef\x01\x01").await.unwrap();
        assert!(matches!(context.accept(a, PATIENCE).await.unwrap_err(), HandshakeError::PlainPeer));
        let mut rest = Vec::new();
        b.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty() || speaks_tls(&rest), "{rest:?}");

        let (a, mut b) = duplex(1 << 16);
        b.write_all(b"GET /v1/messages/json HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(context.accept(a, PATIENCE).await.unwrap_err(), HandshakeError::PlainHttp));
    });
    assert!(!speaks_tls(b"\0\0\0\x05") && !speaks_tls(b"GET ") && !speaks_tls(b""));
}

#[test]
fn silence_and_hanging_up_end_a_handshake() {
    let context = context(&BrokerOptions::default());
    block_on(async {
        let (a, b) = duplex(1 << 16);
        let error = context.accept(a, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, HandshakeError::TimedOut(_)));
        drop(b);
        let (a, b) = duplex(1 << 16);
        drop(b);
        let error = context.accept(a, PATIENCE).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Closed), "{error:?}");
        let (a, mut b) = duplex(1 << 16);
        let hang_up = async {
            let mut hello = [0; 16];
            b.read_exact(&mut hello).await.unwrap();
            drop(b);
        };
        let (outcome, ()) = tokio::join!(context.connect(a, PATIENCE), hang_up);
        let error = outcome.unwrap_err();
        assert!(matches!(&error, HandshakeError::Closed | HandshakeError::Lost(_)), "{error:?}");
    });
}

/// A server and a client of it over TCP, for the client blocks.
fn serve_once(
    server: &Context,
    client: &Client,
    host: &str,
) -> (Result<Option<String>, HandshakeError>, Result<(), HandshakeError>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (tcp, _) = listener.accept().unwrap();
            block_on(async {
                tcp.set_nonblocking(true).unwrap();
                let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
                let mut stream = server.accept(tcp, PATIENCE).await?;
                let who = subject(stream.ssl());
                stream.write_all(b"!").await.map_err(HandshakeError::Lost)?;
                Ok(who)
            })
        });
        let tcp = std::net::TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let connected = client.connect(host, tcp).and_then(|mut stream| {
            let mut byte = [0];
            let read = io::Read::read_exact(&mut stream, &mut byte);
            read.map_err(|error| explain(&error).unwrap_or(HandshakeError::Lost(error)))
        });
        (served.join().unwrap(), connected)
    })
}

#[test]
fn servers_are_known_by_their_name_and_clients_by_their_subject() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("field");
    let ca = authority.write(dir.path());
    let issued = authority.issue(dir.path(), "sensor-1", None);
    let Issued { certificate, key } = authority.issue(dir.path(), "ops\nforged=1", None);
    let options = ServerOptions { certificate: issued.certificate, key: issued.key, client_ca: None };
    let open = server(&options).unwrap();
    let closed = server(&ServerOptions { client_ca: Some(ca.clone()), ..options }).unwrap();
    let nameless = client(&ClientOptions { ca: Some(ca.clone()), ..Default::default() }).unwrap();
    let named = client(&ClientOptions { ca: Some(ca), certificate: Some(certificate), key: Some(key) }).unwrap();
    let system = client(&ClientOptions::default()).unwrap();

    let (who, connected) = serve_once(&open, &nameless, "localhost");
    connected.unwrap();
    assert_eq!(who.unwrap(), None);
    let (who, connected) = serve_once(&closed, &named, "127.0.0.1");
    connected.unwrap();
    assert_eq!(who.unwrap().unwrap(), r"CN=ops\u{a}forged\=1,O=Example\, Inc.");

    // Another host's certificate, an unknown authority, no certificate.
    let (_, connected) = serve_once(&open, &nameless, "sensor-1.example");
    assert!(matches!(connected.unwrap_err(), HandshakeError::Untrusted(why) if why.contains("hostname mismatch")));
    let (served, connected) = serve_once(&open, &system, "localhost");
    assert!(matches!(connected.unwrap_err(), HandshakeError::Untrusted(_)));
    assert!(matches!(served.unwrap_err(), HandshakeError::Refused(_)));
    let (served, connected) = serve_once(&closed, &nameless, "localhost");
    assert!(matches!(served.unwrap_err(), HandshakeError::NoCertificate));
    assert!(matches!(connected.unwrap_err(), HandshakeError::Refused(_)));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("field");
    let ca = authority.write(dir.path());
    let one = authority.issue(dir.path(), "one", None);
    let other = authority.issue(dir.path(), "other", Some("secret"));
    let empty = dir.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let cut = dir.path().join("cut.pem");
    let whole = fs::read(&one.certificate).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let good = certified(&one, &ca);
    let passphrase = |text: &str| Some(Passphrase(text.to_owned()));
    let missing = dir.path().join("missing.pem");
    let cases = [
        (
            BrokerOptions { certificate: Some(missing.clone()), ..good.clone() },
            "cannot read the certificate",
            "missing.pem",
        ),
        (BrokerOptions { key: Some(missing.clone()), ..good.clone() }, "cannot read the private key", "missing.pem"),
        (BrokerOptions { cafile: Some(missing.clone()), ..good.clone() }, "cannot read the CA file", "missing.pem"),
        (BrokerOptions { capath: Some(missing), ..good.clone() }, "cannot read the CA directory", "missing.pem"),
        (BrokerOptions { certificate: Some(empty.clone()), ..good.clone() }, "holds no certificate", "empty.pem"),
        (BrokerOptions { certificate: Some(cut), ..good.clone() }, "certificate", "cut.pem"),
        (BrokerOptions { key: Some(one.certificate.clone()), ..good.clone() }, "holds no private key", "one.pem"),
        (BrokerOptions { key: Some(other.key.clone()), ..good.clone() }, "no passphrase", "other.key.pem"),
        (
            BrokerOptions { key: Some(other.key.clone()), passphrase: passphrase("wrong"), ..good.clone() },
            "passphrase does not open",
            "other.key.pem",
        ),
        (
            BrokerOptions { key: Some(other.key), passphrase: passphrase("secret"), ..good.clone() },
            "does not belong to",
            "other.key.pem",
        ),
        (BrokerOptions { key: None, ..good.clone() }, "no private key", ""),
        (BrokerOptions { cafile: None, ..good }, "no CA file or directory", ""),
    ];
    for (options, says, file) in cases {
        let said = match broker(&options) {
            Ok(_) => panic!("{options:?} passed"),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(says) && said.contains(file), "{said}");
        assert!(!format!("{options:?}").contains("secret"));
    }
}

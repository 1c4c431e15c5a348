//! WebSocket clients over TLS: who is let in, who is not, what each is told, and that the others are served.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use zeek_cluster_agent::api::audit::{Kind, Row};

use crate::support::{AGENT, Host, Said, eventually};

#[path = "../../src/tls/testing.rs"]
pub mod certificates;

use certificates::{Authority, Issued};

fn address(host: &Host, scheme: &str) -> SocketAddr {
    let mark = format!("are served at {scheme}://");
    eventually("the WebSocket listener", || {
        let log = host.read_log();
        let (_, place) = log.lines().find_map(|line| line.split_once(mark.as_str()))?;
        place.split('/').next()?.parse().ok()
    })
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// A host whose listener shows a certificate, and asks for one if `asks` is set; with the authority's file and a client's.
fn host(asks: bool) -> (Host, String, Issued, Authority) {
    let mut host = Host::new();
    let dir = host.dir.path().to_owned();
    let authority = Authority::new("Test authority");
    let (ca, agent) = (authority.write(&dir), authority.issue(&dir, "agent", None));
    let client = authority.issue(&dir, "controller", None);
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0");
    host.set("ZCA_WEBSOCKET_CERTIFICATE", path(&agent.certificate)).set("ZCA_WEBSOCKET_KEY", path(&agent.key));
    if asks {
        host.set("ZCA_WEBSOCKET_CLIENT_CA", path(&ca));
    }
    (host, path(&ca).to_owned(), client, authority)
}

fn welcome(host: &Host, url: &str, more: &[&str]) -> Said {
    let args = ["request", "welcome", "--reqid", "w", "--json", "--via", url];
    host.run(&args.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

fn rejected(host: &Host) -> Vec<String> {
    let rows = host.rows(Kind::Request).into_iter().filter_map(|row| match row {
        Row::Request(row) => row.error,
        Row::Event(_) | Row::Unreadable(_) => None,
    });
    rows.collect()
}

#[test]
fn a_clients_certificate_lets_it_in_and_names_it_in_the_journal() {
    let (host, ca, client, _) = host(true);
    let _agent = host.start();
    let url = format!("wss://{}", address(&host, "wss"));
    let own = ["--ca", &ca, "--certificate", path(&client.certificate), "--key", path(&client.key)];
    let first = welcome(&host, &url, &own);
    assert_eq!(first.code, 0, "{first:?}");
    let rows = host.requests("w");
    assert!(rows[0].source.peer.contains("subject=CN=controller,O=Example\\, Inc."), "{:?}", rows[0].source);
    assert!(!host.run(&["status"]).stdout.contains("authenticates nobody"));

    // Each of these is told why, and costs nobody else anything.
    let other = Authority::new("Somebody else");
    let elsewhere = host.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let (stranger, strange_ca) = (other.issue(&elsewhere, "stranger", None), other.write(&elsewhere));
    let without = welcome(&host, &url, &["--ca", &ca]);
    assert_eq!(without.code, 3, "{without:?}");
    let expected = format!("zeek-cluster-agent: {url} takes no client without a certificate, or not with this one (");
    assert!(without.stderr.starts_with(&expected), "{without:?}");
    assert!(
        without
            .stderr
            .trim_end()
            .ends_with("; give one that its websocket_client_ca has signed, with --certificate and --key")
    );
    let of_other = ["--ca", &ca, "--certificate", path(&stranger.certificate), "--key", path(&stranger.key)];
    assert_eq!(welcome(&host, &url, &of_other).code, 3);
    let unbelieved = welcome(&host, &url, &["--ca", path(&strange_ca)]);
    assert_eq!(unbelieved.code, 3, "{unbelieved:?}");
    assert!(unbelieved.stderr.contains("certificate is not accepted here"), "{unbelieved:?}");
    let plain = welcome(&host, &url.replace("wss:", "ws:"), &[]);
    assert_eq!(plain.code, 3, "{plain:?}");
    assert!(plain.stderr.contains("wss://"), "{plain:?}");
    eventually("what was wrong with each, in the journal", || {
        let rejected = rejected(&host);
        let all = ["shows no certificate", "not accepted here", "an HTTP client that does not speak TLS"];
        all.iter().all(|what| rejected.iter().any(|error| error.contains(what))).then_some(())
    });

    let again = welcome(&host, &url, &own);
    assert_eq!((again.code, again.stdout), (0, first.stdout));
}

#[test]
fn a_certificate_may_have_its_key_in_the_same_file_and_ask_for_none() {
    let (mut host, ca, _, authority) = host(false);
    let both = authority.issue(host.dir.path(), "both", None);
    let joined = std::fs::read_to_string(&both.certificate).unwrap() + &std::fs::read_to_string(&both.key).unwrap();
    let joined = host.file("joined.pem", &joined);
    host.set("ZCA_WEBSOCKET_CERTIFICATE", &joined).set("ZCA_WEBSOCKET_KEY", "");
    let _agent = host.start();
    let url = format!("wss://{}", address(&host, "wss"));
    assert_eq!(welcome(&host, &url, &["--ca", &ca]).code, 0);
    // Without a certificate a client of this host is known by its user.
    let uid = format!(" uid={}", rustix::process::geteuid().as_raw());
    let source = host.requests("w")[0].source.clone();
    assert!(source.peer.ends_with(&uid), "{source:?}");
    assert!(!host.run(&["status"]).stdout.contains("authenticates nobody"));
}

#[test]
fn a_tls_client_at_a_plain_listener_is_told_apart() {
    let mut host = Host::new();
    host.set("ZCA_WEBSOCKET", "127.0.0.1:0");
    let _agent = host.start();
    let address = address(&host, "ws");
    let said = welcome(&host, &format!("wss://{address}"), &[]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains("during the TLS handshake") || said.stderr.contains("lost"), "{said:?}");
    eventually("the reason, in the journal", || {
        rejected(&host).iter().any(|error| error.contains("speaks TLS, and this listener")).then_some(())
    });
    assert_eq!(welcome(&host, &format!("ws://{address}"), &[]).code, 0);
}

#[test]
fn clients_that_stall_in_the_handshake_delay_nobody() {
    let (host, ca, _, _) = host(false);
    let _agent = host.start();
    let address = address(&host, "wss");
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        // The beginning of a record that never ends.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        stalled.push(stream);
    }
    let begun = std::time::Instant::now();
    let said = welcome(&host, &format!("wss://{address}"), &["--ca", &ca]);
    println!("answered beside {} stalled handshakes after {:?}", stalled.len(), begun.elapsed());
    assert_eq!(said.code, 0, "{said:?}");
}

/// Programs of others, from the Python package index, at the versions in tests/clients/requirements.txt.
#[test]
fn clients_of_others_come_over_tls() {
    let Some(python) = std::env::var_os("ZCA_TEST_PYTHON") else {
        println!("not run: ZCA_TEST_PYTHON names no Python with tests/clients/requirements.txt; scripts/test sets it");
        return;
    };
    let run = |program: &str, args: &[&str], ca: &str| {
        let program = format!("{}/tests/clients/{program}", env!("CARGO_MANIFEST_DIR"));
        // What Python's ssl module, and with it zeekpy, takes for the authorities of this host.
        let command = Command::new(&python).arg(program).args(args).env("SSL_CERT_FILE", ca).output().unwrap();
        assert!(command.status.success(), "{}", String::from_utf8_lossy(&command.stderr));
        String::from_utf8(command.stdout).unwrap()
    };
    let (host_without, ca, _, _) = host(false);
    let _agent = host_without.start();
    let url = format!("wss://{}", address(&host_without, "wss"));
    let first = run("drive.py", &[&url, AGENT], &ca);
    assert_eq!(first.lines().count(), 9, "{first}");
    assert_eq!(run("drive.py", &[&url, AGENT], &ca), first);

    let (host, ca, client, _) = host(true);
    let _agent = host.start();
    let url = format!("wss://{}", address(&host, "wss"));
    let own = [&url, AGENT, &ca, path(&client.certificate), path(&client.key)];
    let answer = run("certificate.py", &own, &ca);
    assert!(answer.contains("agent_welcome_response"), "{answer}");
    assert_eq!(run("certificate.py", &own, &ca), answer);
    assert!(host.requests("by certificate")[0].source.peer.contains("subject=CN=controller"));
    assert!(run("certificate.py", &own[..3], &ca).starts_with("no connection: "));
}

#[test]
fn what_cannot_be_used_is_named_before_anything_is_touched() {
    let (mut host, ca, client, _) = host(true);
    let run = |host: &Host| {
        let said = host.run(&["run", "--simulate-nodes", "--name", AGENT]);
        assert_eq!(said.code, 78, "{said:?}");
        assert!(!host.state_dir().exists());
        said.stderr
    };
    host.set("ZCA_WEBSOCKET_KEY", path(&client.key));
    let said = run(&host);
    assert!(said.contains("ZCA_WEBSOCKET_CERTIFICATE") && said.contains("does not belong to"), "{said}");
    host.set("ZCA_WEBSOCKET_KEY", "/nowhere/key.pem");
    let said = run(&host);
    assert!(said.contains("/nowhere/key.pem") && said.contains("No such file"), "{said}");
    host.set("ZCA_WEBSOCKET_CERTIFICATE", "");
    let said = run(&host);
    assert!(said.contains("websocket_key") && said.contains("without websocket_certificate"), "{said}");
    let said = host.run(&["request", "welcome", "--via", "wss://127.0.0.1:1", "--ca", "/nowhere/ca.pem"]);
    assert!(said.code == 2 && said.stderr.contains("/nowhere/ca.pem"), "{said:?}");
    assert_eq!(host.run(&["request", "welcome", "--ca", &ca]).code, 2);
}

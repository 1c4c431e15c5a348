//! Broker with certificates: both sides show one, in both directions; who is turned away is told why, in the log and in the
//! journal; what is open to others is warned of.

use std::path::Path;

use serde_json::{Value, json};

use crate::broker::{CONTROLLER, HIGH, LOW, every_request, host, port};
use crate::peers::Peers;
use crate::support::{AGENT, Host, eventually};
use crate::tls::certificates::{Authority, Issued};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A host with a certificate, its authority's file, and what a peer shows.
fn certified() -> (Host, Authority, Value) {
    let mut host = host();
    let dir = host.dir.path().to_owned();
    let authority = Authority::new("Cluster authority");
    let ca = authority.write(&dir);
    let agent = authority.issue(&dir, "agent", Some("open sesame"));
    host.set("ZCA_DISABLE_SSL", "false").set("ZCA_BROKER_CAFILE", path(&ca));
    host.set("ZCA_BROKER_CERTIFICATE", path(&agent.certificate)).set("ZCA_BROKER_KEY", path(&agent.key));
    host.set("ZCA_BROKER_PASSPHRASE", "open sesame");
    let peer = shown(&authority.issue(&dir, "whatever", None), &ca);
    (host, authority, peer)
}

fn shown(issued: &Issued, ca: &Path) -> Value {
    json!({"cafile": path(ca), "certificate": path(&issued.certificate), "key": path(&issued.key)})
}

#[test]
fn peers_with_a_certificate_of_the_authority_are_let_in_and_named() {
    let (host, _, tls) = certified();
    let _agent = host.start();
    let port = port(&host);
    let mut peers = Peers::start();
    for (role, id) in [("originator", LOW), ("responder", HIGH)] {
        peers.ok("endpoint", json!({"name": role, "filter": CONTROLLER, "id": id}));
        let about = peers.ok("dial", json!({"endpoint": role, "name": role, "port": port, "tls": tls}));
        assert_eq!((&about["role"], &about["cipher"][0]), (&json!(role), &json!("TLSv1.3")), "{about}");
        every_request(&mut peers, role, role);
        peers.is_content(role);
    }
    assert_eq!(peers.ask("originator", "management", "agent_welcome", "w", json!({}))[0]["success"], true);
    let subject = "subject=CN=whatever";
    let source = host.requests("w")[0].source.clone();
    assert!(source.peer.contains(subject), "{source:?}");
    let status = host.status();
    assert!(status.peers[0].tls.contains("CN=whatever"), "{:?}", status.peers);
    assert!(!status.warnings.iter().any(|warning| warning.contains("Broker")), "{:?}", status.warnings);
    // Nothing of the secret is shown anywhere.
    let settings = host.run(&["settings"]).stdout;
    assert!(
        settings.contains("broker_passphrase") && !settings.contains("sesame") && !host.read_log().contains("sesame")
    );
}

#[test]
fn who_is_turned_away_hears_why_and_costs_nobody_else_anything() {
    let (host, _, tls) = certified();
    let _agent = host.start();
    let port = port(&host);
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    let elsewhere = host.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let other = Authority::new("Somebody else");
    let ca = tls["cafile"].as_str().unwrap();
    let stranger = shown(&other.issue(&elsewhere, "stranger", None), Path::new(ca));
    let reasons = [
        (json!({"cafile": ca}), "shows no certificate"),
        (stranger, "not accepted here"),
        (json!({}), "shows no certificate"),
        (Value::Null, "does not speak TLS"),
    ];
    for (shown, _) in &reasons {
        let dialled = peers.order("dial", json!({"endpoint": "c", "name": "x", "port": port, "tls": shown}));
        assert!(dialled.is_err(), "{shown}: {dialled:?}");
    }
    peers.ok("dial", json!({"endpoint": "c", "name": "c", "port": port, "tls": tls}));
    assert_eq!(peers.ask("c", "management", "agent_welcome", "w", json!({}))[0]["success"], true);
    eventually("the reasons in the log", || {
        let log = host.read_log();
        reasons.iter().all(|(_, why)| log.contains(why)).then_some(())
    });
}

#[test]
fn an_agent_shows_its_certificate_to_the_controller_that_it_dials() {
    let (mut host, _, tls) = certified();
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
    let at = peers.ok("listen", json!({"endpoint": "c", "tls": tls}));
    host.set("ZCA_CONTROLLER", &format!("localhost:{at}")).set("ZCA_LISTEN", "off");
    let _agent = host.start();
    peers.ok("accepted", json!({"endpoint": "c", "name": "c"}));
    assert_eq!(peers.ask("c", "management", "agent_welcome", "w", json!({}))[0]["success"], true);
}

#[test]
fn an_agent_says_what_is_wrong_between_it_and_its_controller() {
    for (disable_ssl, tls, expected) in [("true", json!({}), "TLS"), ("false", Value::Null, "TLS")] {
        let mut host = host();
        let mut peers = Peers::start();
        peers.ok("endpoint", json!({"name": "c", "filter": CONTROLLER}));
        let at = peers.ok("listen", json!({"endpoint": "c", "tls": tls}));
        host.set("ZCA_CONTROLLER", &format!("127.0.0.1:{at}")).set("ZCA_LISTEN", "off");
        host.set("ZCA_DISABLE_SSL", disable_ssl);
        let _agent = host.start();
        let problem = eventually("the problem to be shown", || host.status().controller.unwrap().problem);
        println!("{problem}");
        assert!(problem.contains(expected), "{problem}");
        let shown = host.run(&["status"]).stdout;
        assert!(shown.contains(problem.as_str()), "{shown}");
    }
}

#[test]
fn what_is_open_to_others_is_warned_of_and_what_cannot_be_used_ends_the_start() {
    let mut host = host();
    host.set("ZCA_LISTEN", "0.0.0.0:0").set("ZCA_DISABLE_SSL", "false");
    let agent = host.start();
    assert!(host.status().warnings.iter().any(|warning| warning.contains("authenticates nobody")));
    assert!(host.read_log().contains("authenticates nobody"));
    agent.kill();
    let (mut host, ..) = certified();
    host.set("ZCA_BROKER_CERTIFICATE", "/nowhere/agent.pem");
    let said = host.run(&["run", "--simulate-nodes", "--name", AGENT]);
    assert!(said.code == 78 && said.stderr.contains("/nowhere/agent.pem"), "{said:?}");
}

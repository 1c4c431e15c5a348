//! Broker peers for tests: `tests/clients/broker`, written in Python from descriptions of the protocol and sharing nothing with
//! `src`. One process plays any number of endpoints, by orders over its standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// The Python that runs it: any of 3.10 or later, its standard library is enough.
pub fn python(args: &[&str]) -> Command {
    let program = std::env::var_os("ZCA_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(program);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").args(args);
    command
}

/// The process that plays them. Ends when dropped.
pub struct Peers {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Peers {
    pub fn start() -> Self {
        let mut command = python(&["-m", "broker"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{command:?}: {error}; these tests need Python 3.10 or later (scripts/test installs it)")
        });
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, answers }
    }

    /// Carries out an order of `tests/clients/broker/__main__.py`.
    pub fn order(&mut self, what: &str, mut order: Value) -> Result<Value, String> {
        order["do"] = what.into();
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: the peers said {line:?} to {order}"));
        match answer["error"].take() {
            Value::String(error) => Err(error),
            _ => Ok(answer["ok"].take()),
        }
    }

    /// The same, which has to succeed.
    pub fn ok(&mut self, what: &str, order: Value) -> Value {
        self.order(what, order.clone()).unwrap_or_else(|error| panic!("{what} {order}: {error}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The end of its orders ends it; a test that failed may have left it in the middle of one.
        self.orders = None;
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Their codec against recorded bytes, and two of them with each other.
#[test]
fn they_understand_broker_and_each_other() {
    let output = python(&["-m", "unittest", "broker.test_vectors", "broker.test_peer"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Ran 10 tests") && !said.contains("skipped"), "{said}");
}

#[test]
fn they_take_orders() {
    let mut peers = Peers::start();
    peers.ok("endpoint", json!({"name": "c", "filter": ["zeek/management/agent"]}));
    peers.ok("endpoint", json!({"name": "a", "filter": ["zeek/management/agent/a1"]}));
    let port = peers.ok("listen", json!({"endpoint": "c", "tls": {}}));
    let dialled = peers.ok("dial", json!({"endpoint": "a", "name": "ac", "port": port, "tls": {}}));
    let accepted = peers.ok("accepted", json!({"endpoint": "c", "name": "ca"}));
    assert_eq!(dialled["filter"], json!(["zeek/management/agent"]));
    assert_eq!(accepted["cipher"], json!(["TLSv1.2", "AECDH-AES256-SHA"]));
    let request = json!({"peering": "ca", "dialect": "management", "agent": "a1", "request": "restart", "reqid": "r", "nodes": ["w1"]});
    peers.ok("request", request);
    assert_eq!(peers.ok("ping", json!({"peering": "ca", "hex": "00"})), true);
    let events = peers.ok("events", json!({"peering": "ac"}));
    assert_eq!(events[0]["args"], json!(["r", {"set": ["w1"]}]));
    assert!(peers.order("dial", json!({"endpoint": "a", "name": "x", "port": 1})).unwrap_err().contains("refused"));
}

//! The server by itself, with an agent that answers nothing and short timeouts.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio_tungstenite::tungstenite::{Message, WebSocket, client};
use tokio_util::sync::CancellationToken;

use super::{Options, PATH, Server, Timeouts};
use crate::api::event::{Dialect, Incoming, Route, Source};
use crate::api::ids::InstanceName;
use crate::broker::json;
use crate::identify::{self, Gate};
use crate::transport::{Agent, Refusal};

struct Fake;

impl Agent for Fake {
    fn request(&self, _: Incoming) -> Result<(), Refusal> {
        Err(Refusal { reason: "nobody is here".to_owned() })
    }

    fn malformed(&self, _: Source, _: String, _: String) {}

    fn delivered(&self, _: Route) {}

    fn disconnected(&self, _: u64) {}

    fn subscribed(&self) {}
}

/// Runs a server as long as `client` needs.
fn serve(timeouts: Timeouts, client: impl FnOnce(SocketAddr)) {
    let options = Options {
        addresses: vec!["127.0.0.1:0".parse().unwrap()],
        notify: vec![Dialect::Management],
        connecting: false,
        timeouts,
        tls: None,
        insecure: false,
    };
    let gate = Gate::new(identify::Options::only(rustix::process::geteuid().as_raw()));
    let instance = InstanceName::new("a1").unwrap();
    let (server, _handle) =
        Server::bind(&options, Arc::new(AtomicU64::new(1)), &instance, "endpoint".to_owned(), gate).unwrap();
    let address = server.listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let running = runtime.spawn(server.run(Arc::new(Fake), stop.clone()));
    client(address);
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
}

fn subscribed(address: SocketAddr) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut socket, _) = client(format!("ws://{address}{PATH}"), stream).unwrap();
    socket.send(Message::text(json::write_subscriptions(&["elsewhere"]))).unwrap();
    assert!(matches!(socket.read().unwrap(), Message::Text(_)));
    socket
}

#[test]
fn a_client_that_leaves_pings_unanswered_is_told_so_and_one_that_answers_stays() {
    let timeouts =
        Timeouts { ping: Duration::from_millis(500), flush: Duration::from_millis(100), ..Timeouts::default() };
    serve(timeouts, |address| {
        let (mut silent, mut alive) = (subscribed(address), subscribed(address));
        let alive = std::thread::spawn(move || {
            // It answers as it reads.
            for _ in 0..4 {
                assert_eq!(alive.read().unwrap(), Message::Ping(Vec::new().into()));
            }
        });
        // Read below the protocol: nobody answers.
        let mut came = Vec::new();
        silent.get_mut().read_to_end(&mut came).unwrap();
        let (ping, farewell) = ([0x89, 0], [&[0x88, 14, 0x03, 0xf3][..], b"Ping timeout"].concat());
        assert_eq!(came, [&ping[..], &farewell].concat());
        alive.join().unwrap();
    });
}

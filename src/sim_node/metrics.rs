//! A simulated node's metrics port: the few samples of a Zeek node's page that the agent reads.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// For the request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens on 127.0.0.1 and answers from a thread. `hangs`: connections are accepted and never answered.
pub(super) fn serve(port: u16, hangs: bool) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let started = Instant::now();
    thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            if hangs {
                kept.push(stream);
                // As many as a test needs; the oldest are closed.
                kept.drain(..kept.len().saturating_sub(64));
            } else {
                // Whoever asked has gone.
                let _ = answer(stream, started);
            }
        }
    })?;
    Ok(())
}

fn answer(mut stream: TcpStream, started: Instant) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = [0; 4096];
    let mut length = 0;
    while !request[..length].windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut request[length..])? {
            0 => return Ok(()),
            more => length += more,
        }
    }
    // A thousand packets a second, one in a hundred dropped.
    let received = started.elapsed().as_millis();
    let page = format!(
        "# TYPE zeek_net_received_packets_total counter\nzeek_net_received_packets_total {received}\n\
         # TYPE zeek_net_dropped_packets_total counter\nzeek_net_dropped_packets_total {}\n\
         # TYPE zeek_net_packet_lag_seconds gauge\nzeek_net_packet_lag_seconds 0.25\n",
        received / 100
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(page.as_bytes())
}

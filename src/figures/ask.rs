//! Asks nodes' metrics ports, many at once, each for a limited time and a limited number of bytes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::scraped;
use crate::api::figures::Captured;

/// A node that does not answer within this is named.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How many are asked at the same time.
const AT_ONCE: usize = 64;
/// The longest page that is read; a Zeek node's has some ten KiB.
const PAGE_LIMIT: u64 = 4 << 20;
/// HTTP 1.0: the answer ends with the connection, and has no chunks.
const REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n";

/// Asks every one of these; the answers come in the same order.
pub async fn ask_all(addresses: Vec<Option<SocketAddr>>) -> Vec<Option<Result<Captured, String>>> {
    let answers = addresses.into_iter().map(|address| async move {
        match address {
            Some(address) => Some(ask(address).await),
            None => None,
        }
    });
    stream::iter(answers).buffered(AT_ONCE).collect().await
}

async fn ask(address: SocketAddr) -> Result<Captured, String> {
    match timeout(ANSWER_TIMEOUT, get(address)).await {
        Ok(Ok(answer)) => {
            scraped::answer(&answer).ok_or_else(|| format!("its metrics port {address} did not answer as one does"))
        }
        Ok(Err(error)) => Err(format!("its metrics port {address} does not answer: {error}")),
        Err(_) => Err(format!("its metrics port {address} has not answered within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

async fn get(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut page = Vec::new();
    stream.take(PAGE_LIMIT).read_to_end(&mut page).await?;
    Ok(page)
}

//! The HTTP server of the metrics page.
//!
//! Untrusted clients: GET alone, no body is read, heads are limited in bytes and lines, every connection has one answer and
//! a deadline, and there are few of them. Without TLS it listens at loopback addresses only, which settings see to.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Snapshot, targets, text};
use crate::tls;
use crate::transport::accept::{Accepted, accept, send_at_once};
use crate::transport::tcp;

/// Open connections.
const CONNECTIONS: usize = 8;
/// For the TLS handshake, and again for everything from the first byte of the request to the last of the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// For the client's close after the answer.
const LEAVE: Duration = Duration::from_secs(1);
/// A longer head of a request is refused. The least that the library takes.
const HEAD_BYTES: usize = 8192;
const HEAD_LINES: usize = 64;
/// The answer to a client that is not served.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the page needs from the agent.
pub trait MetricsAgent: Send + Sync + 'static {
    /// How the agent and its nodes are now; why that is not known otherwise.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, String>> + Send;
}

/// Where and how it is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first one that can be bound is used.
    pub addresses: Vec<SocketAddr>,
    /// `None`: plain HTTP.
    pub tls: Option<tls::Context>,
}

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}; free the port, or set another with `metrics`")]
pub struct BindError {
    /// As it was to be bound.
    pub address: String,
    /// Why not.
    pub source: io::Error,
}

/// A bound listener; nobody is served until [`Server::run`].
pub struct Server {
    listener: std::net::TcpListener,
    tls: Option<tls::Context>,
}

impl Server {
    /// Binds the first address that can be bound.
    pub fn bind(options: &Options) -> Result<Self, BindError> {
        let listener = tcp::listen(&options.addresses)
            .map_err(|source| BindError { address: tcp::one_of(&options.addresses), source })?;
        Ok(Self { listener, tls: options.tls.clone() })
    }

    /// Serves until `stop`, and returns when the last connection has ended.
    pub async fn run<A: MetricsAgent>(self, agent: Arc<A>, stop: CancellationToken) -> io::Result<()> {
        let Self { listener, tls } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!("metrics are served at {scheme}://{}/metrics", listener.local_addr()?);
        let tracker = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        accept(listener, "metrics connection", CONNECTIONS, &stop, |(tcp, address)| {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                if tls.is_none() {
                    send_at_once(&tcp, TURNED_AWAY);
                }
                return Accepted::TurnedAway { address: Some(address) };
            };
            let serving = serve(tcp, address, tls.clone(), Arc::clone(&agent), place);
            let stop = stop.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = serving => {}
                }
            });
            Accepted::Served
        })
        .await;
        tracker.close();
        tracker.wait().await;
        Ok(())
    }
}

async fn serve<A: MetricsAgent>(
    tcp: TcpStream,
    address: SocketAddr,
    tls: Option<tls::Context>,
    agent: Arc<A>,
    _place: OwnedSemaphorePermit,
) {
    let reached = match tcp.local_addr() {
        Ok(reached) => reached,
        Err(error) => return tracing::debug!(%address, %error, "metrics connection lost at once"),
    };
    match tls {
        None => exchange(tcp, address, reached, agent).await,
        Some(tls) => match tls.accept(tcp, DEADLINE).await {
            Ok(stream) => exchange(stream, address, reached, agent).await,
            Err(error) => tracing::debug!(%address, %error, "metrics connection without a handshake"),
        },
    }
}

/// One request and its answer.
async fn exchange<S, A>(stream: S, address: SocketAddr, reached: SocketAddr, agent: Arc<A>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: MetricsAgent,
{
    let service = service_fn(|request: Request<Incoming>| {
        let agent = Arc::clone(&agent);
        async move { Ok::<_, Infallible>(answer(&request, reached, &*agent).await) }
    });
    let mut http = http1::Builder::new();
    // A client that keeps its connection would keep one of few places.
    http.keep_alive(false).half_close(true).max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES).header_read_timeout(None);
    let connection = http.serve_connection(TokioIo::new(stream), service).without_shutdown();
    match timeout(DEADLINE, connection).await {
        Ok(Ok(parts)) => {
            // Unread bytes of the client would make the kernel reset the connection, and the answer be lost.
            let mut stream = parts.io.into_inner();
            let _ = timeout(LEAVE, async {
                if stream.shutdown().await.is_ok() {
                    tcp::drain(&mut stream).await;
                }
            })
            .await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "metrics connection ended"),
        Err(_) => tracing::debug!(%address, "metrics connection cut: it took more than {} s", DEADLINE.as_secs()),
    }
}

async fn answer<A: MetricsAgent>(request: &Request<Incoming>, reached: SocketAddr, agent: &A) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    let is_page = match request.uri().path() {
        "/metrics" => true,
        "/services.json" => false,
        _other => return plain(StatusCode::NOT_FOUND, "there are /metrics and /services.json\n"),
    };
    let snapshot = match agent.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(reason) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    let written = match is_page {
        true => text::write(&snapshot).map(|page| (OPENMETRICS, page)).map_err(|error| error.to_string()),
        false => serde_json::to_string(&targets::targets(&snapshot, reached))
            .map(|list| ("application/json", list))
            .map_err(|error| error.to_string()),
    };
    match written {
        Ok((kind, body)) => {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

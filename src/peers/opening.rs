//! The beginning of a connection: TLS, admission and Broker's handshake, all within one deadline.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::agent::PeersAgent;
use super::ending::{Ending, lost, unreadable};
use super::state::{PeersState, locked};
use crate::api::report::chain;
use crate::broker::handshake::{self, ConnectionId, Established, Handshake, HandshakeError, HandshakeStep, Outcome};
use crate::broker::wire::{Frame, FrameReader};
use crate::hub::Direction;
use crate::tls;
use crate::transport::admission::{Admitted, NodePolicy, Remote};
use crate::transport::tcp;

/// Bytes per read.
const BUFFER: usize = 16 << 10;
/// Time allowed for the last bytes of a connection.
pub(super) const FAREWELL: Duration = Duration::from_millis(500);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type Socket = Box<dyn Stream>;

/// A connection that has become a peering.
pub(super) struct Opened {
    pub socket: Socket,
    pub reader: FrameReader,
    pub established: Established,
    pub admitted: Admitted,
    /// How it is protected, for `status`.
    pub tls: String,
}

/// A connection that is being opened.
pub(super) struct Opening<'a, A> {
    pub id: ConnectionId,
    pub state: &'a PeersState,
    pub agent: &'a A,
    pub direction: Direction,
    pub remote: &'a mut Remote,
}

/// A connection, with or without TLS.
struct Secured {
    socket: Socket,
    /// The subject of the other end's certificate, if it was verified.
    subject: Option<String>,
    tls: String,
}

impl<A: PeersAgent> Opening<'_, A> {
    pub async fn run(mut self, stream: TcpStream) -> Result<Opened, Ending> {
        let begun = self.state.now();
        let Secured { mut socket, subject, tls } = self.secure(stream).await?;
        let admitted = match self.admit(subject.as_deref()).await {
            Ok(admitted) => admitted,
            Err(reason) => {
                if self.direction == Direction::Accepted {
                    let refusal = handshake::refusal(self.state.local, &reason);
                    let deadline = self.state.at(begun.saturating_add(self.state.timeouts.handshake));
                    if write(&mut socket, &refusal, deadline).await.is_ok() {
                        linger(&mut socket).await;
                    }
                }
                return Err(Ending::Refused(reason));
            }
        };
        let (socket, reader, established) = self.shake_hands(socket, begun).await?;
        Ok(Opened { socket, reader, established, admitted, tls })
    }

    async fn secure(&self, stream: TcpStream) -> Result<Secured, Ending> {
        let Some(context) = &self.state.tls else {
            return Ok(Secured { socket: Box::new(stream), subject: None, tls: "none".to_owned() });
        };
        let time_limit = self.state.timeouts.handshake;
        let done = match self.direction {
            Direction::Accepted => context.accept(stream, time_limit).await,
            Direction::Dialled => context.connect(stream, time_limit).await,
        };
        let stream = done.map_err(|error| {
            let hint = match error {
                tls::HandshakeError::PlainPeer | tls::HandshakeError::PlainHttp => {
                    " and this side does; make both the same (disable_ssl, Broker::disable_ssl)"
                }
                _ => "",
            };
            Ending::handshake(format!("{}{hint}", chain(&error)))
        })?;
        let subject = tls::subject(stream.ssl());
        let tls = format!("{}, {}", stream.ssl().version_str(), subject.as_deref().unwrap_or("anonymous"));
        Ok(Secured { socket: Box::new(stream), subject, tls })
    }

    /// The controller that we dial has to be one that may send requests; a peer that dials us may be a node.
    async fn admit(&mut self, subject: Option<&str>) -> Result<Admitted, String> {
        let nodes = match self.direction {
            Direction::Accepted => NodePolicy::Admit,
            Direction::Dialled => NodePolicy::Refuse,
        };
        self.state.admission.check(self.remote, subject, nodes, self.agent).await
    }

    async fn shake_hands(
        &self,
        mut socket: Socket,
        begun: Duration,
    ) -> Result<(Socket, FrameReader, Established), Ending> {
        let (local, filter) = (self.state.local, self.state.filter.clone());
        let (mut handshake, first) = match self.direction {
            Direction::Accepted => Handshake::accept(self.id, local, filter, begun),
            Direction::Dialled => Handshake::dial(self.id, local, filter, begun),
        };
        let deadline = self.state.at(handshake.deadline().min(begun.saturating_add(self.state.timeouts.handshake)));
        let mut settled = self.state.settled.subscribe();
        let mut reader = FrameReader::default();
        let mut buffer = vec![0; BUFFER];
        let mut heard = false;
        write(&mut socket, &first, deadline).await?;
        loop {
            while let Some(frame) = reader.take().map_err(|error| unreadable(&error))? {
                let payload = match frame {
                    Frame::Payload(payload) => payload,
                    // Does not occur during a handshake.
                    Frame::Oversized { .. } => continue,
                };
                let step = handshake.handle_frame(&payload, &mut locked(&self.state.registry));
                if let Some(established) = self.follow(&mut socket, step, deadline).await? {
                    return Ok((socket, reader, established));
                }
            }
            let step = tokio::select! {
                read = socket.read(&mut buffer) => {
                    match read {
                        Ok(0) => return Err(self.closed(heard)),
                        Ok(count) => reader.feed(buffer.get(..count).unwrap_or_default()),
                        // Closed while something of ours was unread.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(self.closed(heard)),
                        Err(error) => return Err(Ending::handshake(lost(&error))),
                    }
                    heard = true;
                    continue;
                }
                Ok(()) = settled.changed(), if handshake.is_parked() => {
                    handshake.resume(&mut locked(&self.state.registry))
                }
                () = sleep_until(deadline) => {
                    let late = handshake.deadline();
                    handshake.handle_timeout(late, &mut locked(&self.state.registry))
                }
            };
            if let Some(established) = self.follow(&mut socket, step, deadline).await? {
                return Ok((socket, reader, established));
            }
        }
    }

    /// Carries out what the handshake says.
    async fn follow(
        &self,
        socket: &mut Socket,
        step: HandshakeStep,
        deadline: Instant,
    ) -> Result<Option<Established>, Ending> {
        let HandshakeStep { send, outcome } = step;
        let ending = match outcome {
            Outcome::Wait => {
                write(socket, &send, deadline).await?;
                return Ok(None);
            }
            Outcome::Established(established) => {
                write(socket, &send, deadline).await?;
                self.state.settled.send_modify(|changes| *changes += 1);
                return Ok(Some(established));
            }
            Outcome::Redundant(remote) => Ending::Redundant(remote),
            Outcome::Failed(error) => {
                if let HandshakeError::Redundant(remote) = &error {
                    self.state.probe_liveness(*remote);
                }
                let malformed = matches!(
                    error,
                    HandshakeError::Malformed(_)
                        | HandshakeError::Unexpected { .. }
                        | HandshakeError::InvalidId
                        | HandshakeError::Version { .. }
                );
                Ending::Handshake { reason: chain(&error), malformed }
            }
        };
        // A handshake that waits for this one need not wait for the end of this connection.
        self.state.release(self.id);
        if !send.is_empty() && write(socket, &send, deadline).await.is_ok() {
            linger(socket).await;
        }
        Err(ending)
    }

    /// The stream ended during the handshake.
    fn closed(&self, heard: bool) -> Ending {
        Ending::handshake(match (&self.state.tls, self.direction, heard) {
            (Some(_), Direction::Dialled, false) => tls::closed_after_handshake(),
            (None, _, false) => {
                "the peer closed the connection without a word: perhaps it speaks TLS and this side does not"
            }
            (Some(_), Direction::Accepted, false) | (_, _, true) => {
                "the peer closed the connection during the handshake"
            }
        })
    }
}

async fn write(socket: &mut Socket, bytes: &[u8], deadline: Instant) -> Result<(), Ending> {
    let written = timeout_at(deadline, async {
        socket.write_all(bytes).await?;
        socket.flush().await
    });
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Ending::handshake(lost(&error))),
        Err(_) => Err(Ending::handshake("the peer does not read what it is sent")),
    }
}

/// Closes the connection once the peer has had time to read the last message.
async fn linger(socket: &mut Socket) {
    let closing = async {
        let _ = socket.shutdown().await;
        tcp::drain(socket).await;
    };
    // A peer that goes on sending is cut off.
    let _ = timeout(FAREWELL, closing).await;
}

//! The life of one connection: opening, the peering from its first frame to its last, and its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::agent::PeersAgent;
use super::connection::Connection;
use super::ending::{Ending, lost};
use super::opening::{FAREWELL, Opened, Opening, Socket};
use super::outbox::Outbox;
use super::receiving::Receiving;
use super::state::locked;
use crate::api::report::chain;
use crate::broker::peering::{Due, Peering, Received};
use crate::broker::wire::{EndpointId, Frame, FrameReader};
use crate::hub::Direction;
use crate::transport::admission::Admitted;
use crate::transport::tcp;

/// Larger frames are skipped: a request of 4 MiB in canonical form is hardly larger in Broker's.
const FRAME_LIMIT: usize = 8 << 20;
/// Bytes per read.
const BUFFER: usize = 16 << 10;
/// A message longer than this waits for room.
const LARGE_MESSAGE: usize = 64 << 10;
/// The longest ping that is answered: the pong is just as long.
const PING_LIMIT: usize = 4 << 10;

/// Serves a connection to its end. `peered` is called once there is a peering.
pub(super) async fn run<A: PeersAgent>(
    mut connection: Connection<A>,
    stream: TcpStream,
    stop: CancellationToken,
    peered: impl FnOnce(EndpointId),
) -> Ending {
    let cut = connection.cut.clone();
    let ended = tokio::select! {
        ending = live(&mut connection, stream, &stop, peered) => Some(ending),
        () = cut.cancelled() => None,
    };
    match ended {
        Some(ending) => ending,
        None if connection.is_peered => Ending::Peering("it does not read what it is sent".to_owned()),
        None => Ending::handshake("newer connections took its place before it was a peer"),
    }
}

async fn live<A: PeersAgent>(
    connection: &mut Connection<A>,
    stream: TcpStream,
    stop: &CancellationToken,
    peered: impl FnOnce(EndpointId),
) -> Ending {
    tcp::set_nodelay(&stream, connection.id.0);
    let state = Arc::clone(&connection.state);
    let direction = connection.direction;
    let opening = Opening {
        id: connection.id,
        state: &state,
        agent: &*connection.agent,
        direction,
        remote: &mut connection.remote,
    };
    let opened = tokio::select! {
        () = stop.cancelled() => return Ending::Stopped,
        opened = opening.run(stream) => opened,
    };
    let Opened { socket, reader, established, admitted, tls } = match opened {
        Ok(opened) => opened,
        Err(ending) => {
            // A peer that dials us despite a peering may know better than we do whether that one is still alive.
            if let (Ending::Redundant(remote), Direction::Accepted) = (&ending, direction) {
                state.probe_liveness(*remote);
            }
            return ending;
        }
    };
    connection.tls = tls;
    connection.only_as_node = match admitted {
        Admitted::ToAsk => None,
        Admitted::AsNode(reason) => Some(reason),
    };
    let address = connection.remote.address;
    locked(&state.troubles).remove(&address.ip());
    let remote = established.remote;
    peered(remote);
    let probe = connection.announce(remote);
    let (peering, update) =
        Peering::new(established, state.filter.clone(), state.timeouts.peering.clone(), state.now());
    let receiving = Receiving::new(&state.budget);
    let mut session = Session { connection, reader, peering, outbox: Outbox::default(), receiving, is_leaving: false };
    let ending = session.talk(socket, update, &probe, stop).await;
    if let Ending::Peering(reason) = &ending {
        tracing::debug!(connection = session.connection.id.0, %address, %remote, "peering ended: {reason}");
    }
    ending
}

/// An established peering.
struct Session<'a, A: PeersAgent> {
    connection: &'a mut Connection<A>,
    reader: FrameReader,
    peering: Peering,
    outbox: Outbox,
    receiving: Receiving,
    /// BYE was sent, and its answer has not arrived yet.
    is_leaving: bool,
}

impl<A: PeersAgent> Session<'_, A> {
    /// From the first frame to the last. `update` is sent first.
    async fn talk(
        &mut self,
        socket: Socket,
        update: Option<Vec<u8>>,
        probe: &Notify,
        stop: &CancellationToken,
    ) -> Ending {
        self.reader.established(FRAME_LIMIT);
        if let Some(update) = update {
            self.outbox.push(&update, self.now());
        }
        self.connection.subscribe(self.peering.remote_filter());
        let (read, mut write) = tokio::io::split(socket);
        let ending = self.exchange(read, &mut write, probe, stop).await;
        // TLS sends close_notify, too; a peer that does not read it misses nothing.
        let _ = timeout(FAREWELL, write.shutdown()).await;
        if self.is_leaving { Ending::Stopped } else { ending }
    }

    /// Reads and writes at the same time, so that pings are answered however much is queued.
    async fn exchange(
        &mut self,
        mut read: ReadHalf<Socket>,
        write: &mut WriteHalf<Socket>,
        probe: &Notify,
        stop: &CancellationToken,
    ) -> Ending {
        let mut buffer = vec![0; BUFFER];
        loop {
            if let Some(ending) = self.take_frames().await {
                return ending;
            }
            let may_read = !self.outbox.is_full();
            let needs_share = self.receiving.needs_share(&self.reader);
            let due = self.connection.state.at(self.next_timeout());
            tokio::select! {
                () = self.receiving.take_share(), if may_read && needs_share => {}
                count = read.read(&mut buffer), if may_read && !needs_share => match count {
                    Ok(0) => return Ending::Peering("the peer closed the connection".to_owned()),
                    Ok(count) => self.reader.feed(buffer.get(..count).unwrap_or_default()),
                    Err(error) => return Ending::Peering(lost(&error)),
                },
                count = write.write(self.outbox.waiting()), if !self.outbox.is_empty() => match count {
                    Ok(count) => {
                        for route in self.outbox.took(count, self.now()) {
                            self.connection.agent.delivered(route);
                        }
                    }
                    Err(error) => return Ending::Peering(lost(&error)),
                },
                Some(queued) = self.connection.queue.recv(), if !self.is_leaving && !self.outbox.is_full() => {
                    self.outbox.push_queued(queued, self.now());
                }
                () = probe.notified() => {
                    if let Some(ping) = self.peering.probe_liveness(self.now()) {
                        self.outbox.push(&ping, self.now());
                    }
                }
                () = stop.cancelled(), if !self.is_leaving => self.leave(),
                () = sleep_until(due) => {
                    if let Some(ending) = self.handle_timeout() {
                        return ending;
                    }
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.connection.state.now()
    }

    fn next_timeout(&self) -> Duration {
        let stalls = self.outbox.stalls(self.connection.state.timeouts.write);
        [stalls, self.receiving.deadline].into_iter().flatten().fold(self.peering.next_timeout(), Duration::min)
    }

    /// Sends BYE, after everything that is queued.
    fn leave(&mut self) {
        self.is_leaving = true;
        let id = self.connection.id.0;
        self.connection.state.hub.forget(id);
        while let Ok(queued) = self.connection.queue.try_recv() {
            self.outbox.push_queued(queued, self.now());
        }
        self.outbox.push(&self.peering.leave(id, self.now()), self.now());
    }

    /// A deadline may have passed. `Some`: the connection is over.
    fn handle_timeout(&mut self) -> Option<Ending> {
        let now = self.now();
        if self.outbox.stalls(self.connection.state.timeouts.write).is_some_and(|at| at <= now) {
            return Some(Ending::Peering("it does not read what it is sent".to_owned()));
        }
        if self.receiving.deadline.is_some_and(|at| at <= now) {
            let error = "a whole frame did not come in time".to_owned();
            self.connection.reject(String::new(), error.clone());
            return Some(Ending::Peering(error));
        }
        match self.peering.handle_timeout(now) {
            Due::Nothing => None,
            Due::Ping(ping) => {
                self.outbox.push(&ping, now);
                None
            }
            Due::Dead { silent } => {
                Some(Ending::Peering(format!("nothing was heard of it for {} s", silent.as_secs())))
            }
            Due::Left => Some(Ending::Stopped),
        }
    }

    /// Handles every complete frame. `Some`: the connection is over.
    async fn take_frames(&mut self) -> Option<Ending> {
        let mut any = false;
        loop {
            match self.reader.take() {
                Ok(Some(frame)) => {
                    any = true;
                    if let Some(ending) = self.take_frame(frame).await {
                        return Some(ending);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.connection.reject(String::new(), error.to_string());
                    return Some(Ending::Peering(error.to_string()));
                }
            }
        }
        let deadline = self.now().saturating_add(self.connection.state.timeouts.frame);
        self.receiving.taken(&self.reader, any, deadline);
        None
    }

    async fn take_frame(&mut self, frame: Frame) -> Option<Ending> {
        let payload = match frame {
            Frame::Payload(payload) => payload,
            Frame::Oversized { length } => {
                self.peering.heard(self.now());
                let error = format!("a frame of {length} bytes was skipped, {FRAME_LIMIT} is the most");
                self.connection.reject(String::new(), error);
                return None;
            }
        };
        if payload.len() <= LARGE_MESSAGE {
            return self.receive(payload).await;
        }
        let (agent, id) = (Arc::clone(&self.connection.agent), self.connection.id.0);
        agent.room(id, &self.connection.remote.source, payload.len()).await;
        let ending = self.receive(payload).await;
        agent.room_over(id);
        ending
    }

    async fn receive(&mut self, payload: Vec<u8>) -> Option<Ending> {
        let now = self.now();
        let received = self.peering.handle_frame(&payload, now);
        drop(payload);
        let connection = &mut *self.connection;
        match received {
            Received::Message(message) => connection.message(message, &mut self.outbox).await,
            Received::Filter => connection.subscribe(self.peering.remote_filter()),
            Received::Reply { frame, .. } if frame.len() > PING_LIMIT => {
                let error = format!("a ping of about {} bytes, {PING_LIMIT} is the most", frame.len());
                connection.reject(String::new(), error);
            }
            Received::Reply { frame, bye } => {
                self.outbox.push(&frame, now);
                if bye {
                    tracing::debug!(connection = connection.id.0, "the peer says BYE");
                }
            }
            Received::Left => return Some(Ending::Stopped),
            Received::Alive => {}
            Received::Ignored(why) => {
                tracing::trace!(connection = connection.id.0, ?why, "a message that is not for us");
            }
            Received::Skipped(why) => connection.reject(String::new(), chain(&why)),
        }
        None
    }
}

//! The agent's connection to the shim: the hello, reports to the agent, orders from it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::super::files::{self, SOCKET, STATUS};
use super::super::protocol::{self, Decoder, FrameError, Hello, ToAgent, ToShim};
use super::start::{Exec, Running};
use super::{HERE, Next, Phase, Shim};
use crate::api::report::chain;
use crate::crash_point;

/// The most bytes queued for an agent that does not read; beyond that it counts as dead.
const BACKLOG_LIMIT: usize = 1 << 20;
/// The pause after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The agent's connection; a newer one replaces it.
pub(super) struct Agent {
    pub(super) stream: UnixStream,
    decoder: Decoder,
    /// Bytes that its socket has not accepted yet.
    pub(super) backlog: Vec<u8>,
}

impl Shim {
    pub(super) fn accept(&mut self) -> Next {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nonblocking(true) {
                        self.log.line(format_args!("cannot use an agent's connection: {error}"));
                        continue;
                    }
                    self.agent = Some(Agent { stream, decoder: Decoder::default(), backlog: Vec::new() });
                    let (process, exit, left) = match &self.phase {
                        Phase::Running(Running { exec: Exec::Done, process, .. }) => {
                            (Some(process.clone()), None, None)
                        }
                        Phase::Waiting(_) | Phase::Running(_) => (None, None, None),
                        Phase::Clearing(clearing) => (clearing.process.clone(), None, clearing.told.clone()),
                        Phase::Exited { process, exit } => (process.clone(), Some(exit.clone()), None),
                    };
                    self.tell(&ToAgent::Hello(Box::new(Hello {
                        version: protocol::VERSION,
                        node: self.node.clone(),
                        incarnation: self.incarnation,
                        process,
                        ready: self.ready,
                        exit,
                        dropped: self.streams.dropped().0,
                        left: left.unwrap_or_default(),
                        subreaper: self.signals.is_some(),
                        release: Some(env!("CARGO_PKG_VERSION").to_owned()),
                        scope: self.cgroup.as_ref().map(|cgroup| cgroup.scope.clone()),
                        waits: matches!(self.phase, Phase::Waiting(_)),
                    })));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.log.line(format_args!("cannot accept an agent's connection: {error}"));
                    // Out of descriptors or memory, and the connection still waits: do not spin until that is over.
                    std::thread::sleep(ACCEPT_AGAIN);
                    return Next::Wait;
                }
            }
        }
    }

    /// Sends a message, if an agent is connected; `Hello` reports it to a later one.
    pub(super) fn tell(&mut self, message: &ToAgent) {
        let Some(agent) = &mut self.agent else { return };
        agent.backlog.extend_from_slice(&protocol::encode(message));
        if agent.flush().is_err() || agent.backlog.len() > BACKLOG_LIMIT {
            self.agent = None;
        }
    }

    pub(super) fn serve_agent(&mut self, buffer: &mut [u8]) -> Next {
        let Some(agent) = &mut self.agent else { return Next::Wait };
        let is_open = match agent.flush().and_then(|()| agent.stream.read(buffer)) {
            Ok(0) => false,
            Ok(count) => {
                agent.decoder.push(buffer.get(..count).unwrap_or_default());
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        // Messages received before the end still count.
        while let Some(agent) = &mut self.agent {
            match agent.decoder.next(protocol::TO_SHIM_LIMIT) {
                Ok(Some(message)) => match self.execute(&message) {
                    Next::Wait => {}
                    Next::Leave => return Next::Leave,
                },
                Ok(None) => break,
                Err(FrameError::Unknown(error)) => self.log.line(format_args!("skipped an agent's message: {error}")),
                Err(error @ FrameError::TooLong { .. }) => {
                    self.log.line(format_args!("dropped an agent's connection: {error}"));
                    self.agent = None;
                }
            }
        }
        if !is_open {
            self.agent = None;
        }
        Next::Wait
    }

    fn execute(&mut self, message: &ToShim) -> Next {
        match message {
            ToShim::Stop { incarnation, timeout_ms } if *incarnation == self.incarnation => self.stop(*timeout_ms),
            ToShim::Acknowledge { incarnation } if *incarnation == self.incarnation => {
                if let Phase::Exited { .. } = self.phase {
                    return self.leave();
                }
                self.log.line("an exit was acknowledged that has not happened");
            }
            ToShim::Go { incarnation } if *incarnation == self.incarnation => self.begin(),
            ToShim::Stop { incarnation, .. } | ToShim::Acknowledge { incarnation } | ToShim::Go { incarnation } => {
                self.log.line(format_args!("ignored an order for incarnation {incarnation}"));
            }
            ToShim::Ping { token } => {
                if self.streams.dropped().0 != self.told_dropped {
                    self.tell_dropped();
                }
                self.tell(&ToAgent::Pong { token: *token });
            }
        }
        Next::Wait
    }

    /// The agent has made the exit durable, so the shim need not keep it.
    fn leave(&mut self) -> Next {
        crash_point!("shim_before_ack", self.node.as_str());
        for name in [STATUS, SOCKET] {
            if let Err(error) = files::remove(&Path::new(HERE).join(name)) {
                self.log.line(chain(&error));
            }
        }
        crash_point!("shim_after_ack", self.node.as_str());
        self.log.line("acknowledged, leaving");
        Next::Leave
    }
}

impl Agent {
    fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.write(&self.backlog) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

//! The node's streams to the shim: its output and its NOTIFY_SOCKET.

use std::fs::File;
use std::io::{self, Read};

use super::super::notify::NotifySocket;
use super::super::output::Output;
use super::log::Log;

/// The most that is read from a pipe after the node's end: the maximum capacity of a pipe. A leftover process that
/// keeps writing must not delay the report.
const DRAIN_LIMIT: usize = 1 << 20;

/// The node's streams to the shim.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) stdout: Option<Stream>,
    pub(super) stderr: Option<Stream>,
    pub(super) notify: Option<NotifySocket>,
}

impl Streams {
    /// The number of bytes that could not be written, and the reason if this still happens.
    pub(super) fn dropped(&self) -> (u64, Option<&str>) {
        let streams = || [&self.stdout, &self.stderr].into_iter().flatten();
        (streams().map(|stream| stream.output.dropped).sum(), streams().find_map(|stream| stream.dropping.as_deref()))
    }
}

pub(super) struct Stream {
    /// `None` after its end.
    pub(super) pipe: Option<File>,
    pub(super) output: Output,
    /// Why bytes are being dropped; already logged.
    pub(super) dropping: Option<String>,
}

impl Stream {
    pub(super) fn read(&mut self, buffer: &mut [u8], log: &mut Log) -> usize {
        let Some(pipe) = &mut self.pipe else { return 0 };
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(count) => {
                let result = self.output.write(buffer.get(..count).unwrap_or_default());
                match (result, self.dropping.is_some()) {
                    (Ok(()), false) | (Err(_), true) => {}
                    (Ok(()), true) => {
                        self.dropping = None;
                        log.line(format_args!(
                            "output is written again; {} bytes were dropped so far",
                            self.output.dropped
                        ));
                    }
                    (Err(error), false) => {
                        log.line(format_args!("output is being dropped: {error}"));
                        self.dropping = Some(error.to_string());
                    }
                }
                count
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    pub(super) fn drain(&mut self, buffer: &mut [u8], log: &mut Log) {
        let mut total = 0;
        while total < DRAIN_LIMIT {
            match self.read(buffer, log) {
                0 => break,
                count => total += count,
            }
        }
    }
}

//! Where the node's words come in: its output and its NOTIFY_SOCKET.

use std::fs::File;
use std::io::{self, Read};

use super::super::notify::NotifySocket;
use super::super::output::Output;
use super::log::Log;

/// The most read from a pipe after the node's end: what a pipe can hold at most. A stray that goes on writing must not
/// hold up the report.
const DRAIN_LIMIT: usize = 1 << 20;

/// Where the node's words come in.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) stdout: Option<Stream>,
    pub(super) stderr: Option<Stream>,
    pub(super) notify: Option<NotifySocket>,
}

pub(super) struct Stream {
    /// `None` after its end.
    pub(super) pipe: Option<File>,
    pub(super) output: Output,
    /// Bytes are being dropped, which has been logged.
    pub(super) is_dropping: bool,
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
                match (result, self.is_dropping) {
                    (Ok(()), false) | (Err(_), true) => {}
                    (Ok(()), true) => {
                        self.is_dropping = false;
                        log.line(format_args!(
                            "output is written again; {} bytes were dropped so far",
                            self.output.dropped
                        ));
                    }
                    (Err(error), false) => {
                        self.is_dropping = true;
                        log.line(format_args!("output is being dropped: {error}"));
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

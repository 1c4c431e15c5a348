//! Reads one frame, within its deadline and within the budget for large frames.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::message::{self, CLIENT_FRAME_LIMIT, DecodeError, HEADER};
use crate::transport::outgoing::kib;

/// Frames up to this size need no share of the budget.
pub(super) const SMALL_FRAME: usize = 64 << 10;

/// Why no frame was read.
pub(super) enum ReadError {
    /// The peer closed between two frames, or is gone.
    Closed,
    CutShort,
    TooSlow,
    Decode(DecodeError),
}

/// Reads one frame's body, with its share of the budget for large frames.
pub(super) async fn read_frame<'a>(
    stream: &mut BufReader<OwnedReadHalf>,
    receiving: &'a Semaphore,
    time_limit: Duration,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'a>>), ReadError> {
    let first = stream.read_u8().await.map_err(|_| ReadError::Closed)?;
    let rest = async {
        let mut others = [0; HEADER - 1];
        stream.read_exact(&mut others).await.map_err(cut_short)?;
        let [second, third, fourth] = others;
        let length =
            message::body_length([first, second, third, fourth], CLIENT_FRAME_LIMIT).map_err(ReadError::Decode)?;
        let share = if length > SMALL_FRAME {
            Some(receiving.acquire_many(kib(length)).await.map_err(|_| ReadError::Closed)?)
        } else {
            None
        };
        // Grows with the bytes received, not with the length claimed.
        let mut body = Vec::new();
        stream.take(length as u64).read_to_end(&mut body).await.map_err(cut_short)?;
        if body.len() < length {
            return Err(ReadError::CutShort);
        }
        Ok((body, share))
    };
    timeout(time_limit, rest).await.unwrap_or(Err(ReadError::TooSlow))
}

fn cut_short(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::CutShort } else { ReadError::Closed }
}

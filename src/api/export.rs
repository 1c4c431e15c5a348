//! A journal on its way out: a stretch of the stream, and where the next begins.

use serde::{Deserialize, Serialize};

use super::head::Head;
use super::ids::Seq;

/// Where a stream continues: all that its next part depends on, so that the writer keeps no state in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportCursor {
    /// The entry that is next.
    pub next: Seq,
    /// How many bytes of its frame have been written, and the frame's checksum if it is begun.
    pub offset: u64,
    /// The checksum of a frame that is partly written; `None` between frames.
    pub begun: Option<[u8; 16]>,
    /// That of the frame before.
    pub checksum: [u8; 16],
    /// Entries written, and where they began.
    pub entries: u64,
    /// The first entry of the stream.
    pub first: Seq,
    /// The newest of them, and its hash.
    pub last: Seq,
    /// The hash of `last`.
    pub hash: [u8; 32],
}

impl ExportCursor {
    /// The newest entry written, to be noted elsewhere.
    pub fn head(&self) -> Head {
        Head { seq: self.last, hash: self.hash }
    }
}

/// A stretch of the stream, of bounded length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportChunk {
    /// What to append to the file.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Where the next chunk begins.
    pub cursor: ExportCursor,
    /// The stream is complete.
    pub end: bool,
    /// The newest entry there is, to show progress.
    pub newest: Seq,
}

//! What holds for any bytes in the place of an exported journal: they are taken apart the same however they come, entries
//! ascend, and nothing but all of a stream is whole.

use zeek_cluster_agent::journal::export::{Frame, UnpackError, Unpacker};

/// The frames, and how it ended, when the bytes come in pieces of this length.
fn unpack(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<(), UnpackError>) {
    let mut unpacker = Unpacker::default();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        unpacker.push(part);
        loop {
            match unpacker.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, unpacker.finish())
}

pub fn holds(bytes: &[u8]) {
    let (frames, end) = unpack(bytes, bytes.len());
    for piece in [1, 7, 4096] {
        assert_eq!(unpack(bytes, piece), (frames.clone(), end.clone()), "in pieces of {piece}");
    }
    let numbers: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Entry { seq, .. } => Some(*seq),
            Frame::Header(_) | Frame::End(_) => None,
        })
        .collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    if end.is_ok() {
        assert!(matches!(frames.first(), Some(Frame::Header(_))) && matches!(frames.last(), Some(Frame::End(_))));
        // A whole stream is whole nowhere before its end, and with anything after it no more.
        for cut in [bytes.len() - 1, bytes.len() / 2, 0] {
            assert!(unpack(&bytes[..cut], 4096).1.is_err(), "cut at {cut}");
        }
        let longer = [bytes, b"x"].concat();
        assert!(unpack(&longer, 4096).1.is_err());
    }
}

use zeek_cluster_agent::broker::wire::{Frame, FrameReader};

/// However a stream is cut, the same frames come out, and no more is held than was fed.
pub fn holds(data: &[u8]) {
    let Some((shape, stream)) = data.split_first() else { return };
    let frames = |size: usize| {
        let mut reader = FrameReader::new(64);
        if shape & 0x80 != 0 {
            reader.established(16);
        }
        let (mut frames, mut fed) = (Vec::new(), 0);
        for piece in stream.chunks(size.max(1)) {
            reader.feed(piece);
            fed += piece.len();
            loop {
                match reader.take() {
                    Ok(Some(Frame::Payload(payload))) => {
                        assert!(!payload.is_empty() && payload.len() <= 64);
                        frames.push(Ok(Frame::Payload(payload)));
                    }
                    Ok(Some(oversized)) => frames.push(Ok(oversized)),
                    Ok(None) => break,
                    Err(error) => {
                        frames.push(Err(error));
                        return frames;
                    }
                }
            }
            assert!(reader.pending() <= fed.min(68));
        }
        frames
    };
    assert_eq!(frames(stream.len()), frames(usize::from(shape & 0x7f)));
}

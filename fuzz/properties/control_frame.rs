//! What holds for any bytes on the control socket; asserted by the fuzz target and by the test that replays its corpus.

use zeek_cluster_agent::control::message::{
    self, CLIENT_FRAME_LIMIT, DecodeError, EncodeError, HEADER, SERVER_FRAME_LIMIT,
};

/// Decoding never panics, errors are bounded texts, and what decodes is written in one form that decodes to itself.
pub fn holds(body: &[u8]) {
    if let Some(header) = body.first_chunk::<HEADER>() {
        for limit in [CLIENT_FRAME_LIMIT, SERVER_FRAME_LIMIT] {
            if let Ok(length) = message::body_length(*header, limit) {
                assert!((1..=limit).contains(&length));
            }
        }
    }
    settles(body, message::decode_client, message::encode_client);
    settles(body, message::decode_server, message::encode_server);
}

fn settles<T>(
    body: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Result<Vec<u8>, EncodeError>,
) {
    let frame = match decode(body) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(error.to_string().len() < 2048, "{error}");
            return;
        }
    };
    // Arrays stand for maps with names when decoding, so that the one form may be longer than what came.
    let Ok(written) = encode(&frame) else { return };
    let again = decode(written.get(HEADER..).expect("a frame has a header")).expect("what we write, we read");
    assert_eq!(encode(&again).expect("it fitted before"), written);
}

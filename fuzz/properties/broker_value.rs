use zeek_cluster_agent::broker::binary::{Limits, decode, encode};

/// What decodes encodes to an equal value, canonically: encoding that again changes nothing.
pub fn holds(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(value) = decode(data, &limits) {
        let canonical = encode(&value);
        let again = decode(&canonical, &limits).expect("our own encoding");
        assert_eq!(again, value);
        assert_eq!(encode(&again), canonical);
    }
}

use zeek_cluster_agent::api::{channel, curve};

/// Any bytes are a value or a reason, no longer than they are; a question is one line or none; what is read as a key is
/// written as it was.
pub fn holds(data: &[u8]) {
    match channel::reply(data) {
        Ok(value) => assert!(value.unwrap_or_default().len() < data.len()),
        Err(reason) => assert!(reason.len() <= 4096),
    }
    let argument = String::from_utf8_lossy(data).into_owned();
    if let Ok(line) = channel::question(&["get_id_value".to_owned(), argument.clone()]) {
        assert_eq!(line, format!("get_id_value\t{argument}"));
        assert!(!line.contains('\n') && line.matches('\t').count() == 1);
    }
    if let Ok(key) = curve::decode(data) {
        assert_eq!(curve::encode(&key).as_bytes(), data.trim_ascii_end());
    }
}

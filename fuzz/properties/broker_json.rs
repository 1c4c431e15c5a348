use zeek_cluster_agent::broker::json::{
    Limits, Message, read_message, read_subscriptions, read_value, write_data_message, write_subscriptions, write_value,
};

/// What is read and can be written is JSON to others, and reads the same again.
pub fn holds(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(value) = read_value(data, &limits)
        && let Ok(written) = write_value(&value)
    {
        serde_json::from_str::<serde::de::IgnoredAny>(&written).expect("what we write is JSON");
        let again = read_value(written.as_bytes(), &limits).expect("our own writing");
        assert_eq!(again, value);
    }
    if let Ok(Message::Data { topic, data }) = read_message(data, &limits)
        && let Ok(written) = write_data_message(&topic, &data)
    {
        assert!(read_message(written.as_bytes(), &limits).is_ok());
    }
    if let Ok(topics) = read_subscriptions(data, &limits) {
        assert_eq!(read_subscriptions(write_subscriptions(&topics).as_bytes(), &limits).as_ref(), Ok(&topics));
    }
}

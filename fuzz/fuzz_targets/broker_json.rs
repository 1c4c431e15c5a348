//! Any bytes as a message of the WebSocket API.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/broker_json.rs"]
mod broker_json;

fuzz_target!(|bytes: &[u8]| broker_json::holds(bytes));

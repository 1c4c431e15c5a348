//! Any bytes as a handshake message, and as a conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/broker_handshake.rs"]
mod broker_handshake;

fuzz_target!(|bytes: &[u8]| broker_handshake::holds(bytes));

//! Any bytes as a node's reply to a question, and as a key.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/node_reply.rs"]
mod node_reply;

fuzz_target!(|bytes: &[u8]| node_reply::holds(bytes));

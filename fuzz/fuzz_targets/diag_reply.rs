//! Any bytes as the kernel's answer about a socket.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/diag_reply.rs"]
mod diag_reply;

fuzz_target!(|bytes: &[u8]| diag_reply::holds(bytes));

//! Any bytes as an envelope, and as what a peer says.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/broker_envelope.rs"]
mod broker_envelope;

fuzz_target!(|bytes: &[u8]| broker_envelope::holds(bytes));

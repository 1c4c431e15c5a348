//! Any bytes as a stream of frames, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/broker_frame.rs"]
mod broker_frame;

fuzz_target!(|bytes: &[u8]| broker_frame::holds(bytes));

//! Any bytes as the body of a control frame, from either end.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/control_frame.rs"]
mod control_frame;

fuzz_target!(|body: &[u8]| control_frame::holds(body));

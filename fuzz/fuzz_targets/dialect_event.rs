//! Any bytes as an event, in either encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/dialect_event.rs"]
mod dialect_event;

fuzz_target!(|bytes: &[u8]| dialect_event::holds(bytes));

//! Any bytes as a Broker value.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/broker_value.rs"]
mod broker_value;

fuzz_target!(|bytes: &[u8]| broker_value::holds(bytes));

#![no_main]

#[path = "../bodies/dialect_event.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));

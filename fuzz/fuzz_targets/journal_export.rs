//! Any bytes in the place of an exported journal.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/journal_export.rs"]
mod journal_export;

fuzz_target!(|bytes: &[u8]| journal_export::holds(bytes));

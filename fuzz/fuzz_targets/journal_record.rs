//! Any bytes in the place of a value of the journal.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/journal_record.rs"]
mod journal_record;

fuzz_target!(|bytes: &[u8]| journal_record::holds(bytes));

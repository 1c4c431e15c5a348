//! Any bytes as an INI cluster file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zeek_cluster_agent::cluster_file::Format;

#[path = "../properties/cluster_file.rs"]
mod cluster_file;

fuzz_target!(|text: &[u8]| cluster_file::holds(text, Format::Ini));

//! Any bytes as a `zeek.conf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zeek_cluster_agent::cluster_file::Foreign;

#[path = "../properties/cluster_file.rs"]
mod cluster_file;

fuzz_target!(|text: &[u8]| cluster_file::foreign_holds(text, Foreign::ZeekConf));

//! Any bytes as a node's answer at its metrics port.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/node_metrics.rs"]
mod node_metrics;

fuzz_target!(|bytes: &[u8]| node_metrics::holds(bytes));

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;
use zeek_cluster_agent::{cli, sim_node, supervisor};

/// Made for threads, unlike glibc's, whose lock is what requests wait for most.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // Before anything else: a shim is no place for threads, allocations or parsed arguments.
    let hidden = supervisor::hidden_mode(std::env::args_os()).or_else(|| sim_node::hidden_mode(std::env::args_os()));
    match hidden {
        Some(code) => code,
        None => cli::main(std::env::args_os()),
    }
}

use std::process::ExitCode;

use zeek_cluster_agent::{cli, supervisor};

fn main() -> ExitCode {
    // Before anything else: a shim is no place for threads, allocations or parsed arguments.
    match supervisor::hidden_mode(std::env::args_os()) {
        Some(code) => code,
        None => cli::main(std::env::args_os()),
    }
}

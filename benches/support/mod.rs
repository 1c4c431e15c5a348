//! What several benchmarks have in common: how they run, their figures, and an agent to measure.

pub mod agent;
pub mod caller;
pub mod figures;
pub mod over_broker;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

/// The `main` of a benchmark: measures when `cargo bench` calls, and says why it could not.
pub fn main(name: &str, run: impl FnOnce() -> Result<()>) -> ExitCode {
    // Without this flag it is a test runner that calls, and measuring is not testing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    outcome(name, run())
}

/// The exit code of what was done, and the reason on standard error where it failed.
pub fn outcome(name: &str, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name} benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures in a directory that is removed afterwards, and prints the machine before, and how long it took.
pub fn in_scratch(run: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .context("cannot make a scratch directory")?;
    figures::print_machine(scratch.path())?;
    run(scratch.path())?;
    println!("\ntook {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

//! `cargo bench --bench journal`: what durability costs here, beside other ways to get it, and what a long history costs.
//!
//! First, in the same rounds on the same disk: a plain file, SQLite, redb, our journal alone, the whole agent. Then, for
//! histories of several lengths: opening, the first answer, memory, `journal dump` and `journal verify`, the dump beside
//! `sqlite3 -json` over the same rows. And what the files come to when far more is written than kept. It prints what it measured and what that is compared with; what it prints is about
//! this machine at this moment. Options, behind `--`: `--million` adds a history of a million requests; `--requests`,
//! `--history` and `--growth` do one part alone.

mod agent;
mod commits;
mod figures;
mod growth;
mod history;
mod stores;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = if let Some(at) = arguments.iter().position(|argument| argument == commits::COUNTED) {
        // This program again, under strace.
        commits::counted(&arguments[at + 1..])
    } else if arguments.iter().any(|argument| argument == "--bench") {
        run(&arguments)
    } else {
        // Without that flag it is a test runner that calls, and measuring is not testing.
        Ok(())
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("journal benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let begun = Instant::now();
    let scratch = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .context("cannot make a scratch directory")?;
    figures::print_machine(scratch.path())?;
    let parts = ["--requests", "--history", "--growth"];
    let wants = |part: &str| has(part) || !parts.iter().any(|other| has(other));
    if wants("--requests") {
        commits::run(scratch.path())?;
    }
    if wants("--history") {
        history::run(scratch.path(), has("--million"))?;
    }
    if wants("--growth") {
        growth::run(scratch.path())?;
    }
    println!("\ntook {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

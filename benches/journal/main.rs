//! `cargo bench --bench journal`: what durability costs here, beside other ways to get it, and what a long history costs.
//!
//! First, in the same rounds on the same disk: a plain file, SQLite, redb, our journal alone, the whole agent. Then, for
//! histories of several lengths: opening, the first answer, memory, `journal dump` and `journal verify`, the dump beside
//! `sqlite3 -json` over the same rows. And what the files come to when far more is written than kept. It prints what it measured and what that is compared with; what it prints is about
//! this machine at this moment. Options, behind `--`: `--million` adds a history of a million requests; `--requests`,
//! `--history` and `--growth` do one part alone.

mod commits;
mod growth;
mod history;
mod stores;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared by the benchmarks, of which each needs a part")]
mod support;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == commits::COUNTED) {
        // This program again, under strace.
        return support::outcome("journal", commits::counted(&arguments[at + 1..]));
    }
    support::main("journal", || support::in_scratch(|scratch| run(scratch, &arguments)))
}

fn run(scratch: &Path, arguments: &[String]) -> Result<()> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let parts = ["--requests", "--history", "--growth"];
    let wants = |part: &str| has(part) || !parts.iter().any(|other| has(other));
    if wants("--requests") {
        commits::run(scratch)?;
    }
    if wants("--history") {
        history::run(scratch, has("--million"))?;
    }
    if wants("--growth") {
        growth::run(scratch)?;
    }
    Ok(())
}

//! The shim as a program of its own. A host has as many shims as nodes, and each has only what it needs in memory: no TLS,
//! no database, no runtime.
//!
//! What it does is described in `src/supervisor/shim/`. These are the same files as in the library, compiled into this
//! program without the rest of it, so that nothing else can get in.

#![allow(dead_code, unused_imports, reason = "the library uses the rest of these files")]
#![allow(clippy::enum_variant_names, reason = "in the library these are public, and named as Zeek names them")]

#[path = "../../api/mod.rs"]
mod api;
#[path = "../../crash_points.rs"]
mod crash_points;
#[path = "../../regular_file.rs"]
mod regular_file;
mod supervisor;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|first| first.to_str()) {
        Some("--version" | "-V") => {
            println!("zca-shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        // No name of a node begins with a dash.
        Some(first) if first.is_empty() || first.starts_with('-') => by_hand(),
        Some(_) => supervisor::shim::main(args),
        None => by_hand(),
    }
}

fn by_hand() -> ExitCode {
    eprintln!("zca-shim: this program is started by zeek-cluster-agent, once per node; see zeek-cluster-agent(1)");
    ExitCode::from(2)
}
